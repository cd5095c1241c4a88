//! The bytes of a connection in both directions, and how receives and sends fare.

use super::{Books, Connection};
use crate::kernel::pause::FAILURES_MAX;
use crate::simulation::abi::Sqe;
use crate::simulation::content;
use crate::simulation::kernel::Kernel;

/// Bytes that a receive queue holds.
const WINDOW_BYTES: u64 = 256 << 10;
/// Who sends so much at a time is received from once for each send, until it has sent less so many times in a row.
const STREAMING_BYTES: u64 = 16 << 10;
const SMALL_PIECES_MAX: u32 = 8;
/// What it may bring when the process ends, until its receive is cancelled included.
const EMPTYING_BYTES_MAX: u64 = (320 + 64 + 256) << 10;
/// What a process may have received of a connection and not sent back: what its buffers hold.
const HELD_BYTES_MAX: u64 = 600 << 10;

impl Connection {
    /// Bytes that the peer may send at once.
    pub(in crate::simulation) fn window(&self) -> u64 {
        if self.broken || self.closed { 0 } else { WINDOW_BYTES - (self.sent - self.received) }
    }

    pub(in crate::simulation) fn is_finished(&self) -> bool {
        self.finished || self.closed
    }

    /// The peer sends as much as it can, and reads the echo.
    pub(in crate::simulation) fn flood(&mut self) {
        self.peer.flood();
        self.room = self.room.max(64 << 10);
    }

    /// The peer, or the network, breaks the connection.
    pub(in crate::simulation) fn break_with(&mut self, errno: i32) {
        self.broken = true;
        self.error = Some(errno);
    }

    /// Room for what is sent to the peer.
    fn room(&self) -> u64 {
        self.room - (self.echoed - self.read).min(self.room)
    }

    /// What has come to be since the poll for room told last.
    fn news(&mut self) -> i16 {
        let mut now = 0;
        if self.room() > 0 {
            now |= libc::POLLOUT;
        }
        if self.fin {
            now |= libc::POLLRDHUP;
        }
        if self.broken {
            now |= libc::POLLHUP;
        }
        let news = self.untold & now;
        self.untold &= !now;
        news
    }

    /// A receive fails as all of the time do: its result.
    pub(super) fn fail(&mut self, kernel: &mut Kernel) -> i32 {
        let errno = kernel.faults.persistent.stream_errno;
        if errno == libc::ENOBUFS {
            kernel.ledger.count("tcp_no_buffers", 1);
        } else {
            self.count_fruitless(kernel);
        }
        -errno
    }

    /// A receive ends without a byte. After so many in a row the process may give the connection up.
    pub(super) fn count_fruitless(&mut self, kernel: &mut Kernel) {
        self.fruitless += 1;
        let for_nothing = kernel.faults.passing > 0 || !kernel.faults.persistent.stream.is_zero();
        let too_many = for_nothing && self.fruitless > FAILURES_MAX.into();
        kernel.ledger.count("tcp_closed_error", too_many.into());
    }

    /// Goes on with the poll for room.
    pub(super) fn advance_writable(&mut self, kernel: &mut Kernel) {
        if let Some(poll) = self.writable {
            let events = self.news();
            self.full &= events & (libc::POLLOUT | libc::POLLHUP) == 0;
            let sqe = kernel.get(poll).sqe;
            let ended = if kernel.get(poll).cancelled {
                kernel.complete(&sqe, -libc::ECANCELED, 0);
                true
            } else {
                events != 0 && !kernel.complete_more(&sqe, events.into(), 0)
            };
            if ended {
                self.writable = None;
                kernel.end(poll);
            }
        }
    }

    /// What a receive gets, if it doesn't have to wait: result and flags.
    pub(super) fn take(&mut self, sqe: &Sqe, kernel: &mut Kernel) -> Option<(i32, u32)> {
        let bytes = self.sent - self.received;
        let group = kernel.group(sqe.buf_group);
        if bytes == 0 {
            if let Some(errno) = self.error.take() {
                self.told = true;
                kernel.ledger.count_told(errno);
                kernel.progress();
                return Some((-errno, 0));
            } else if self.fin || self.broken {
                if !self.ended && !self.told {
                    kernel.ledger.count("tcp_closed_finished", 1);
                }
                self.ended = true;
                self.told |= self.broken;
                kernel.progress();
                return Some((0, 0));
            }
            return None;
        } else if group.is_empty() {
            kernel.ledger.count("tcp_no_buffers", 1);
            return Some((-libc::ENOBUFS, 0));
        }
        let limit = if sqe.len() == 0 { u32::MAX } else { sqe.len() };
        let room = group.room().min(limit).min(content::PART_BYTES_MAX as u32);
        let most = bytes.min(room.into()) as usize;
        let bytes = self.bring(most, kernel);
        let flags = kernel.group(sqe.buf_group).fill(&bytes);
        Some((bytes.len() as i32, flags))
    }

    /// The process gets some of what the peer has sent, `most` at the most.
    pub(super) fn bring(&mut self, most: usize, kernel: &mut Kernel) -> Vec<u8> {
        let bytes = if kernel.chance.one_in(4) { kernel.chance.between(1, most) } else { most };
        let content = content::stream(self.salt, self.received, bytes).to_vec();
        self.received += bytes as u64;
        self.fruitless = 0;
        self.small_pieces = if bytes as u64 >= STREAMING_BYTES { 0 } else { self.small_pieces + 1 };
        self.streams |= bytes as u64 >= STREAMING_BYTES;
        self.streams &= self.small_pieces < SMALL_PIECES_MAX;
        self.has_streamed |= self.streams;
        let late = self.received_before.map_or(0, |before| self.received - before);
        assert!(
            late <= EMPTYING_BYTES_MAX || self.finished,
            "a peer that sends on keeps the process from its end"
        );
        kernel.ledger.count("tcp_bytes_in", bytes as u64);
        assert!(self.received - self.echoed <= HELD_BYTES_MAX || self.finished, "too much is kept");
        kernel.progress();
        content
    }

    /// The peer has not read so many bytes.
    pub(in crate::simulation) fn unread(&self) -> u64 {
        self.echoed - self.read
    }

    /// What a send comes to, if it doesn't have to wait.
    pub(super) fn give(&mut self, all: &[u8], kernel: &mut Kernel, books: &mut Books) -> Option<i32> {
        if self.broken {
            self.told = true;
            let errno = self.error.take().unwrap_or(libc::EPIPE);
            kernel.ledger.count_told(errno);
            return Some(-errno);
        }
        let passing = kernel.chance.happens(kernel.faults.passing);
        if passing || kernel.persists(|persistent| persistent.send) {
            return Some(-kernel.chance.pick(&[libc::ENOMEM, libc::ENOBUFS, libc::EINTR]));
        }
        let room = self.room();
        if room == 0 {
            return None;
        }
        let most = all.len().min(room as usize);
        let short = kernel.chance.happens(kernel.faults.short);
        let bytes = if short { kernel.chance.between(1, most) } else { most };
        let sent = &all[..bytes];
        let due = (self.received - self.echoed) as usize;
        assert!(all.len() <= due, "{} bytes are sent, but {due} are due", all.len());
        assert!(sent == content::stream(self.salt, self.echoed, bytes), "other bytes than were received");
        self.echoed += bytes as u64;
        books.echoed_bytes += bytes as u64;
        kernel.progress();
        Some(bytes as i32)
    }
}
