//! What the kernel drops at the listening sockets, so that it is counted like everything else.
//!
//! Looked at once a second, but only after something was received: a drop takes a full receive buffer, so
//! datagrams come out of it afterwards. A server that has nothing to do sleeps undisturbed.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::echo::idle::{IdleClock, TICKS};
use crate::kernel::ring::{Ring, Token};
use crate::kernel::sys;
use crate::values::counter::Counter;

const INTERVAL: Duration = Duration::from_secs(1);

/// When it is time to look.
#[derive(Debug)]
pub(super) struct Look {
    clock: IdleClock,
    wanted: bool,
}

impl Look {
    pub(super) fn new() -> Self {
        Self { clock: IdleClock::new(INTERVAL * TICKS), wanted: false }
    }

    /// Something was received.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    /// Has the clock tick, which ends in [`Self::ticked`], if there may be anything to see.
    pub(super) fn run(&mut self, ring: &mut Ring, token: Token) {
        if self.wanted {
            self.clock.run(ring, token);
        }
    }

    pub(super) fn ticked(&mut self) {
        self.clock.ticked();
        self.wanted = false;
    }

    pub(super) fn failed(&mut self) {
        self.clock.failed();
    }

    /// How long a turn may sleep; any time, unless the clock could not be set.
    pub(super) fn sleep(&self) -> Option<Duration> {
        self.clock.sleep().filter(|_| self.wanted)
    }
}

/// The kernel's count at one socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drops(u32);

impl Drops {
    /// The count from now on: an adopted socket has been somebody else's. `None` if it can't be read.
    pub(super) fn new(socket: BorrowedFd<'_>) -> Option<Self> {
        sys::socket_drops(socket).ok().map(Self)
    }

    /// Adds what has come since the last time; the kernel's count wraps.
    pub(super) fn count(&mut self, socket: BorrowedFd<'_>, counter: &Counter) {
        if let Ok(now) = sys::socket_drops(socket) {
            counter.add(now.wrapping_sub(std::mem::replace(&mut self.0, now)).into());
        }
    }
}
