//! The other end of a connection: what it sends, when it reads, how it ends.

use std::net::SocketAddr;

use super::chance::Chance;

/// How it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// A FIN behind what it sends, before it has read the echo.
    HalfClose,
    /// A FIN when it has everything back.
    Fin,
    /// Not before the server ends.
    Stays,
    /// It never closes.
    Never,
}

/// Its plan.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// Bytes that it still wants to send.
    pub(super) left: u64,
    pub(super) addr: SocketAddr,
    /// As much at a time, at the most.
    chunk: usize,
    /// It waits for the echo before it sends more.
    polite: bool,
    /// It does not read while it is left in peace.
    pub(super) stubborn: bool,
    /// It reads so much at a time.
    reads: usize,
    end: End,
}

impl Peer {
    /// One that ends before the server does, if it only `visits`.
    pub(super) fn draw(chance: &mut Chance, visits: bool) -> Self {
        let left = match chance.below(5) {
            0 => chance.below(10),
            1 => chance.below(3000),
            2 => chance.below(100_000),
            _ => chance.below(1_000_000),
        };
        let ends = [End::HalfClose, End::Fin, End::Fin, End::Stays, End::Never];
        Self {
            left: left as u64,
            addr: SocketAddr::from(([192, 0, 2, chance.between(1, 3) as u8], 40_000)),
            chunk: chance.pick(&[1, 100, 5000, 16 << 10, 64 << 10, 100_000, 100_000]).max(left / 100),
            polite: chance.one_in(3),
            stubborn: chance.one_in(6),
            reads: chance.pick(&[100, 10_000, 1_000_000]).max(left / 200),
            end: chance.pick(&ends[..if visits { 3 } else { 5 }]),
        }
    }

    /// It becomes like everybody else.
    pub(super) fn soften(&mut self) {
        self.stubborn = false;
    }

    /// It sends much, reads much, and does not wait for the echo.
    pub(super) fn flood(&mut self) {
        (self.left, self.chunk, self.reads, self.polite) = (2 << 20, 256 << 10, 1 << 20, false);
    }

    /// The server ends; it ends as well.
    pub(super) fn leave(&mut self) {
        if self.end == End::Never {
            self.end = End::Stays;
        }
    }
    /// The most that it reads now, of what it has not read yet.
    pub(super) fn reads_at_most(&self, unread: u64) -> usize {
        if self.stubborn { 0 } else { unread.min(self.reads as u64) as usize }
    }

    /// The most that it sends now, into this window.
    pub(super) fn sends_at_most(&self, is_answered: bool, window: u64) -> usize {
        let waits = self.polite && !is_answered;
        if waits { 0 } else { self.left.min(window).min(self.chunk as u64) as usize }
    }

    /// Whether it sends its FIN now.
    pub(super) fn ends(&self, is_answered: bool, is_left: bool) -> bool {
        let is_through = match self.end {
            End::HalfClose => self.left == 0,
            End::Fin => self.left == 0 && is_answered,
            End::Stays | End::Never => false,
        };
        is_through || is_left && self.end != End::Never
    }
}
