//! Everything that is left to chance, drawn from one seed.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// The dice.
#[derive(Debug)]
pub(super) struct Chance(SmallRng);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(SmallRng::seed_from_u64(seed))
    }

    /// A number below `end`, which is not zero.
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0.random_range(0..end)
    }

    /// Both ends included.
    pub(super) fn between(&mut self, first: usize, last: usize) -> usize {
        self.0.random_range(first..=last)
    }

    /// Any number.
    pub(super) fn word(&mut self) -> u64 {
        self.0.random()
    }

    /// True `permille` times in a thousand.
    pub(super) fn happens(&mut self, permille: u32) -> bool {
        permille > 0 && self.0.random_range(0..1000) < permille
    }

    pub(super) fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// How often what goes wrong, in so many cases of a thousand. Most worlds have few faults, so that each is
/// also met where nothing else disturbs it.
// one field for each fault
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    /// io_uring_enter(2) fails in passing, before it does anything.
    pub(super) enter: u32,
    /// It submits only a part of what is queued.
    pub(super) partial: u32,
    /// It is interrupted, or its time is over, before anything completes.
    pub(super) interrupted: u32,
    /// The completion queue is found full.
    pub(super) overflow: u32,
    /// A receive of datagrams or an accept fails.
    pub(super) receive: u32,
    /// A received datagram has a flaw.
    pub(super) flaw: u32,
    /// A datagram finds no room in the receive buffer.
    pub(super) drop: u32,
    /// The send buffer of a UDP socket is full.
    pub(super) full: u32,
    /// A reply is refused for good.
    pub(super) refused: u32,
    /// A reply socket can't be had.
    pub(super) bind: u32,
    /// A stream takes fewer bytes than it has room for.
    pub(super) short: u32,
    /// A send or receive of a stream fails in passing.
    pub(super) passing: u32,
    /// A connection is reset.
    pub(super) reset: u32,
    pub(super) persistent: Persistent,
}

/// Until when what fails does so each time: a world in which nobody pauses spins then.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Persistent {
    /// A receive of datagrams.
    pub(super) receive: Duration,
    /// It is said to have been cancelled, or to have found no buffer.
    pub(super) end: Duration,
    pub(super) end_errno: i32,
    pub(super) accept: Duration,
    pub(super) accept_errno: i32,
    /// A receive of a stream.
    pub(super) stream: Duration,
    pub(super) stream_errno: i32,
    /// A send of a stream.
    pub(super) send: Duration,
    /// A poll for room to send, or of what wakes the worker.
    pub(super) poll: Duration,
    pub(super) timer: Duration,
    /// io_uring_enter(2).
    pub(super) enter: Duration,
}

impl Persistent {
    fn draw(chance: &mut Chance) -> Self {
        let worlds = chance.pick(&[0, 0, 1, 3]);
        let end_errno = chance.pick(&[libc::ECANCELED, libc::ENOBUFS]);
        let stream_errno = chance.pick(&[libc::ECANCELED, libc::EINTR, libc::ENOBUFS]);
        let accept_errno = chance.pick(&[libc::ECANCELED, libc::EPERM]);
        // the connections of the time end by that
        let of_streams = chance.one_in(2);
        let mut until = || {
            let lasts_ms = if chance.below(8) < worlds { chance.between(1, 3000) } else { 0 };
            Duration::from_millis(lasts_ms as u64)
        };
        Self {
            receive: until(),
            end: until(),
            end_errno,
            accept: until(),
            accept_errno,
            stream: if of_streams { until().max(until()).max(until()) } else { Duration::ZERO },
            stream_errno,
            send: until(),
            poll: until(),
            // what does without clocks seldom misses them
            timer: until().max(until()).max(until()),
            enter: until(),
        }
    }

    /// There is any.
    pub(super) fn lasts(&self) -> bool {
        let Self { receive, end, accept, stream, send, poll, timer, enter, .. } = *self;
        let all = [receive, end, accept, stream, send, poll, timer, enter];
        all.iter().any(|until| !until.is_zero())
    }
}

impl Faults {
    pub(super) fn draw(chance: &mut Chance) -> Self {
        let busy = chance.pick(&[0, 1, 2, 4]);
        let persistent = Persistent::draw(chance);
        let mut rate = || if chance.below(4) < busy { chance.pick(&[2, 20, 150, 400]) } else { 0 };
        // who is interrupted again and again can't pause
        let mut of_enter = || if persistent.lasts() { 0 } else { rate() };
        Self {
            enter: of_enter(),
            partial: of_enter(),
            interrupted: of_enter(),
            overflow: rate(),
            receive: rate(),
            flaw: rate(),
            drop: rate(),
            full: rate(),
            refused: rate(),
            bind: rate(),
            short: rate(),
            passing: rate(),
            reset: rate() / 10,
            persistent,
        }
    }
}
