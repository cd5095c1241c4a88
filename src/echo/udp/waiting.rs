//! What waits for room in a send buffer, so that it leaves in the order in which it came.
//!
//! Replies are sent without waiting, all of a turn at once. One that finds the send buffer full is not lost,
//! and nothing of its flow may overtake it, so the file that it leaves by becomes a lane for a while:
//!
//! ```text
//!  replies ─► newer ─► older ─► under way, sent and not completed ─► out
//!                        ▲               │ no room
//!                        └───────────────┘
//! ```
//!
//! What is under way together is never of one flow, so that nobody overtakes whatever the kernel takes and
//! refuses. After a refusal the first of the lane is sent alone and patiently: it waits in the kernel until
//! there is room again, which is half the send buffer, and the others wait for it.
//!
//! A lane remains for a minute after the buffer was full for the last time. Only what was sent in the turn in
//! which it filled could have been overtaken, by others of that turn.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::kernel::ring::{File, Message, Patience, Ring, Token};
use crate::kernel::sys;
use crate::policy::flow::Flow;

/// How long a file is a lane after its send buffer was full.
const LANE_LIFE: Duration = Duration::from_mins(1);
/// Replies of a lane that are under way at a time.
const UNDER_WAY_MAX: usize = 16;

/// A finished reply, and what it is submitted as.
#[derive(Clone, Copy, Debug)]
pub(super) struct Departure {
    pub(super) token: Token,
    pub(super) message: Message,
    pub(super) flow: Flow,
}

/// A file whose send buffer was full lately.
#[derive(Debug)]
struct Lane {
    /// What has been under way, or found no room before this was a lane.
    older: VecDeque<Departure>,
    /// What came since.
    newer: VecDeque<Departure>,
    under_way: Vec<Departure>,
    /// Those of them that found no room or have more to send, until all are completed.
    returned: Vec<Departure>,
    /// How they were sent.
    patience: Patience,
    /// There was no room: the next one is sent patiently.
    full: bool,
    /// It is among those that have something to do.
    ready: bool,
    until: Instant,
}

/// The lanes of a worker.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    by_file: HashMap<u32, Lane>,
    /// Those that have something to do.
    ready: Vec<File>,
}

impl Lanes {
    /// No send buffer was full lately.
    pub(super) fn is_empty(&self) -> bool {
        self.by_file.is_empty()
    }

    /// The send buffer of this file was full lately. A lane that has had its time ends with this.
    pub(super) fn has(&mut self, file: File) -> bool {
        if self.is_empty() {
            return false;
        }
        let Some(lane) = self.by_file.get(&file.0) else { return false };
        let is_over = lane.is_idle() && sys::now() >= lane.until;
        if is_over {
            self.by_file.remove(&file.0);
        }
        !is_over
    }

    /// Ends the lanes that have had their time.
    pub(super) fn tidy(&mut self) {
        if !self.is_empty() {
            let now = sys::now();
            self.by_file.retain(|_, lane| !lane.is_idle() || now < lane.until);
        }
    }

    /// Something waits for this file, or is under way in its lane.
    pub(super) fn is_used(&self, file: File) -> bool {
        self.by_file.get(&file.0).is_some_and(|lane| !lane.is_idle())
    }

    /// Sends a reply, or lets it wait behind those that do.
    pub(super) fn send(&mut self, file: File, departure: Departure, ring: &mut Ring) {
        if self.has(file) {
            self.push(file, departure);
        } else {
            ring.send_message(file, departure.message, Patience::Inline, departure.token);
        }
    }

    /// Puts a reply at the end of a lane that is there.
    pub(super) fn push(&mut self, file: File, departure: Departure) {
        let lane = self.by_file.get_mut(&file.0).expect("a lane");
        lane.newer.push_back(departure);
        lane.make_ready(file, &mut self.ready);
    }

    /// A reply that was sent outside of a lane found no room: its file is one from now on.
    pub(super) fn open(&mut self, file: File, departure: Departure) {
        let until = sys::now() + LANE_LIFE;
        let lane = self.by_file.entry(file.0).or_insert_with(|| Lane::new(until));
        lane.full = true;
        lane.until = until;
        lane.older.push_back(departure);
        lane.make_ready(file, &mut self.ready);
    }

    /// A reply has completed: how it was sent, if that was in a lane. [`Self::settle`] follows.
    pub(super) fn ended(&mut self, file: File, token: Token) -> Option<Patience> {
        let lane = self.by_file.get_mut(&file.0)?;
        let place = lane.under_way.iter().position(|departure| departure.token == token)?;
        lane.under_way.remove(place);
        Some(lane.patience)
    }

    /// There is more to send of what has just ended in a lane; it comes before everybody else. `full`: it found
    /// no room.
    pub(super) fn put_back(&mut self, file: File, departure: Departure, full: bool) {
        let lane = self.by_file.get_mut(&file.0).expect("it was sent in a lane");
        lane.returned.push(departure);
        if full {
            lane.full = true;
            lane.until = sys::now() + LANE_LIFE;
        }
    }

    /// When all that was under way in a lane has ended, it is the turn of the next.
    pub(super) fn settle(&mut self, file: File) {
        if let Some(lane) = self.by_file.get_mut(&file.0)
            && lane.under_way.is_empty()
        {
            for departure in lane.returned.drain(..).rev() {
                lane.older.push_front(departure);
            }
            lane.make_ready(file, &mut self.ready);
        }
    }

    /// Sends what comes next in each lane.
    pub(super) fn send_on(&mut self, ring: &mut Ring) {
        for file in self.ready.drain(..) {
            if let Some(lane) = self.by_file.get_mut(&file.0) {
                lane.ready = false;
                lane.send_on(file, ring);
            }
        }
    }

    /// Everything that waits, and what is under way in lanes.
    pub(super) fn all(&self) -> impl Iterator<Item = Token> {
        self.by_file.values().flat_map(Lane::all).map(|departure| departure.token)
    }
}

impl Lane {
    fn new(until: Instant) -> Self {
        Self {
            older: VecDeque::new(),
            newer: VecDeque::new(),
            under_way: Vec::new(),
            returned: Vec::new(),
            patience: Patience::Inline,
            full: false,
            ready: false,
            until,
        }
    }

    fn all(&self) -> impl Iterator<Item = &Departure> {
        self.under_way.iter().chain(&self.returned).chain(&self.older).chain(&self.newer)
    }

    fn is_idle(&self) -> bool {
        self.all().next().is_none()
    }

    fn make_ready(&mut self, file: File, ready: &mut Vec<File>) {
        if !self.ready && self.under_way.is_empty() {
            self.ready = true;
            ready.push(file);
        }
    }

    fn send_on(&mut self, file: File, ring: &mut Ring) {
        let full = std::mem::take(&mut self.full);
        let (most, patience) = if full { (1, Patience::Wait) } else { (UNDER_WAY_MAX, Patience::Inline) };
        self.patience = patience;
        while self.under_way.len() < most
            && let Some(next) = self.older.front().or(self.newer.front())
            && self.under_way.iter().all(|departure| departure.flow != next.flow)
        {
            let queue = if self.older.is_empty() { &mut self.newer } else { &mut self.older };
            let departure = queue.pop_front().expect("seen above");
            ring.send_message(file, departure.message, patience, departure.token);
            self.under_way.push(departure);
        }
    }
}
