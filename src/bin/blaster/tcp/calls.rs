//! The places of connections that are made while the clock runs, and what they wait for. No socket, no clock.

use std::collections::VecDeque;

/// Places of connections, in the order in which they come to their turn.
pub(super) type Queue = VecDeque<u32>;

/// What calls wait for. All waits in a queue are equally long, so the first one ends first.
pub(super) struct Calls {
    /// Places without a connection, for calls by the schedule.
    pub(super) free: Queue,
    /// Since when there is such a place.
    pub(super) room_since_ns: u64,
    pub(super) connecting: VecDeque<Deadline>,
    pub(super) echoing: VecDeque<Deadline>,
    /// Places after a failed connection.
    pub(super) resting: VecDeque<Deadline>,
}

/// The end of a wait of one connection.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    pub(super) at_ns: u64,
    pub(super) place: u32,
    /// Which of the connections of the place.
    pub(super) life: u32,
}

impl Calls {
    pub(super) fn new(places: usize) -> Self {
        Self {
            free: (0..places as u32).collect(),
            room_since_ns: 0,
            connecting: VecDeque::new(),
            echoing: VecDeque::new(),
            resting: VecDeque::new(),
        }
    }

    pub(super) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// When the next wait ends.
    pub(super) fn next_ns(&self) -> Option<u64> {
        let waits = [&self.connecting, &self.echoing, &self.resting];
        waits.into_iter().filter_map(|waits| waits.front()).map(|deadline| deadline.at_ns).min()
    }
}

/// The first deadline, if it is over.
pub(super) fn take_over(waits: &mut VecDeque<Deadline>, now_ns: u64) -> Option<Deadline> {
    waits.pop_front_if(|deadline| deadline.at_ns <= now_ns)
}
