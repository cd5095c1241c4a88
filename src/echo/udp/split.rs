//! Trains that a path refused, on their way to be sent as the datagrams that they consist of, each in a message slot of
//! its own.

use std::collections::VecDeque;

use super::operation::GroupId;
use crate::kernel::ring::{Message, Messages, PinnedBytes, Transmit};

/// The slots, and the groups that wait for them.
pub(super) struct SplitTrains {
    messages: Messages<1>,
    free: Vec<u16>,
    /// The group that the datagram in a slot belongs to.
    group_of_slot: Vec<GroupId>,
    /// Groups that wait for slots, in the order in which they have to leave.
    waiting: VecDeque<GroupId>,
}

impl SplitTrains {
    /// With so many message slots: a train that has more datagrams can't be split.
    pub(super) fn new(slots: u16) -> Self {
        Self {
            messages: Messages::new(slots.into()),
            free: (0..slots).collect(),
            group_of_slot: vec![GroupId { socket: 0, first: 0 }; slots.into()],
            waiting: VecDeque::new(),
        }
    }

    /// Whether a group of so many datagrams finds room, once all slots are free.
    pub(super) fn fits(&self, datagrams: u32) -> bool {
        datagrams as usize <= self.group_of_slot.len()
    }

    /// Whether a group of so many datagrams finds room now.
    pub(super) fn has_room(&self, datagrams: u32) -> bool {
        datagrams as usize <= self.free.len()
    }

    pub(super) fn push(&mut self, id: GroupId) {
        debug_assert!(!self.waiting.contains(&id), "{id:?} waits once");
        self.waiting.push_back(id);
    }

    /// The group that has waited longest.
    pub(super) fn first(&self) -> Option<GroupId> {
        self.waiting.front().copied()
    }

    /// The group that has waited longest waits no longer.
    pub(super) fn pop(&mut self) {
        self.waiting.pop_front();
    }

    pub(super) fn waiting(&self) -> impl Iterator<Item = GroupId> {
        self.waiting.iter().copied()
    }

    /// Takes a slot for a datagram of a group: its number, and the message in it. There is room.
    pub(super) fn fill(&mut self, id: GroupId, datagram: PinnedBytes, transmit: &Transmit) -> (u16, Message) {
        let slot = self.free.pop().expect("there is room for each datagram of the group");
        self.group_of_slot[usize::from(slot)] = id;
        self.messages.clear(slot.into());
        self.messages.push(slot.into(), datagram);
        (slot, self.messages.finish(slot.into(), transmit))
    }

    /// The message in a slot, to send it once more.
    pub(super) fn again(&self, slot: u16) -> Message {
        self.messages.again(slot.into())
    }

    /// The group that the datagram in a slot belongs to.
    pub(super) fn group_of(&self, slot: u16) -> GroupId {
        self.group_of_slot[usize::from(slot)]
    }

    /// The datagram in a slot is through.
    pub(super) fn release(&mut self, slot: u16) {
        debug_assert!(!self.free.contains(&slot), "slot {slot} is released once");
        self.free.push(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: GroupId = GroupId { socket: 1, first: 7 };

    #[test]
    fn groups_wait_in_their_order_and_slots_go_round() {
        let mut split = SplitTrains::new(3);
        assert!(split.fits(3) && !split.fits(4) && split.has_room(3) && !split.has_room(4));
        let other = GroupId { socket: 0, first: 7 };
        split.push(ID);
        split.push(other);
        assert_eq!(split.waiting().collect::<Vec<_>>(), [ID, other]);
        split.pop();
        assert_eq!(split.first(), Some(other));
        split.pop();
        assert_eq!(split.first(), None);
    }

    #[test]
    #[should_panic(expected = "waits once")]
    fn a_group_waits_once() {
        let mut split = SplitTrains::new(3);
        split.push(ID);
        split.push(ID);
    }

    #[test]
    #[should_panic(expected = "is released once")]
    fn a_slot_is_released_once() {
        SplitTrains::new(3).release(0);
    }
}
