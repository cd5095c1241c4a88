//! Counts what the kernel drops at the listening sockets.
//!
//! The kernel's counts are read once a second, but only after something was received: the kernel drops datagrams when a
//! receive buffer is full, so others come out of the buffer afterwards. A server that has nothing to do is not woken.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::echo::idle::{IdleClock, TICKS};
use crate::kernel::ring::{Ring, Token};
use crate::kernel::sys;
use crate::values::counter::Counter;

const INTERVAL: Duration = Duration::from_secs(1);

/// When the counts are read.
#[derive(Debug)]
pub(super) struct DropPoll {
    clock: IdleClock,
    wanted: bool,
}

impl DropPoll {
    pub(super) fn new() -> Self {
        Self { clock: IdleClock::new(INTERVAL * TICKS), wanted: false }
    }

    /// Something was received: the counts are to be read.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    /// Starts the clock if something was received. Its tick ends in [`Self::ticked`].
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

    /// How long a turn may sleep; `None`: for ever. It is limited only while the clock could not be set.
    pub(super) fn sleep(&self) -> Option<Duration> {
        self.clock.sleep().filter(|_| self.wanted)
    }
}

/// The kernel's count at one socket, as it was read last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drops(u32);

impl Drops {
    /// Counts from now on: an adopted socket belonged to another process before. `None` if the count can't be read.
    pub(super) fn new(socket: BorrowedFd<'_>) -> Option<Self> {
        sys::socket_drops(socket).ok().map(Self)
    }

    /// Adds what was dropped since the last time. The kernel's count wraps.
    pub(super) fn count(&mut self, socket: BorrowedFd<'_>, counter: &Counter) {
        if let Ok(now) = sys::socket_drops(socket) {
            counter.add(now.wrapping_sub(std::mem::replace(&mut self.0, now)).into());
        }
    }
}
