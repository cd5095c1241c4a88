//! The other end of a connection: what it sends, when it reads, how it ends.

use std::net::SocketAddr;

use super::chance::Chance;
use super::kernel::{Kernel, Object};
use super::tcp::Tcp;

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
    pub(super) fn draw(chance: &mut Chance) -> Self {
        let left = match chance.below(4) {
            0 => chance.below(10),
            1 => chance.below(3000),
            2 => chance.below(100_000),
            _ => chance.below(1_000_000),
        };
        Self {
            left: left as u64,
            addr: SocketAddr::from(([192, 0, 2, chance.between(1, 3) as u8], 40_000)),
            chunk: chance.pick(&[1, 100, 5000, 100_000]).max(left / 100),
            polite: chance.one_in(3),
            stubborn: chance.one_in(6),
            reads: chance.pick(&[100, 10_000, 1_000_000]).max(left / 200),
            end: chance.pick(&[End::HalfClose, End::Fin, End::Fin, End::Stays, End::Never]),
        }
    }

    /// It becomes like everybody else.
    pub(super) fn soften(&mut self) {
        self.stubborn = false;
    }

    /// The server ends; it ends as well.
    pub(super) fn leave(&mut self) {
        if self.end == End::Never {
            self.end = End::Stays;
        }
    }
}

impl Tcp {
    /// The peer of a connection does something.
    pub(super) fn advance_peer(&mut self, connection: usize, kernel: &mut Kernel) {
        let this = &mut self.connections[connection];
        if this.broken {
            return;
        }
        let mut acted = false;
        let unread = this.echoed - this.read;
        if unread > 0 && !this.peer.stubborn {
            let most = unread.min(this.peer.reads as u64) as usize;
            this.read += kernel.chance.between(1, most) as u64;
            acted = true;
        }
        let waits = this.peer.polite && this.read < this.sent;
        let most = this.peer.left.min(this.window()).min(this.peer.chunk as u64) as usize;
        if most > 0 && !waits && !this.fin {
            let bytes = kernel.chance.between(1, most) as u64;
            this.sent += bytes;
            this.peer.left -= bytes;
            acted = true;
        }
        let gone = this.is_finished() && this.read == this.echoed;
        let through = match this.peer.end {
            End::HalfClose => this.peer.left == 0,
            End::Fin => this.peer.left == 0 && this.read == this.sent,
            End::Stays | End::Never => false,
        };
        if !this.fin && (through || gone && this.peer.end != End::Never) {
            this.fin = true;
            acted = true;
        }
        if !this.closed && kernel.chance.happens(kernel.faults.reset) {
            let errno = kernel.chance.pick(&[libc::ECONNRESET, libc::ECONNRESET, libc::ETIMEDOUT]);
            this.break_with(errno);
            acted = true;
        }
        if acted {
            kernel.progress();
            kernel.activate(Object::Connection(connection));
            kernel.activate(Object::Peer(connection));
        }
    }
}
