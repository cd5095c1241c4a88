//! A connection of the TCP datapath: how far it is, and what it holds.

use std::collections::VecDeque;
use std::net::IpAddr;

use crate::kernel::addr::Domain;
use crate::kernel::pause::Failures;
use crate::kernel::ring::{Chunk, Errno, ReceivedPart};
use crate::policy::counters::Traffic;
use crate::values::counter::Counter;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No connection has this file.
    Free,
    /// Accepted above the limit: waits like in the accept queue.
    Parked,
    /// Echoing.
    Open,
    /// The end of the server: what the kernel has received so far is echoed, then it is finished. Counts
    /// the bytes, lest a peer that goes on sending keeps us here.
    Emptying(u32),
    /// Nothing more is received; what was received is sent, then the connection is closed.
    Finishing(Cause),
    /// Our FIN is out; the peer's remaining bytes are read and dropped, since closing on them would
    /// reset the connection and destroy what it has not read yet.
    Lingering,
    /// It is over; it is closed as soon as nothing is in flight on it.
    Closing(Cause),
}

impl Phase {
    /// What was received is sent.
    pub(super) fn echoes(self) -> bool {
        matches!(self, Self::Open | Self::Emptying(_) | Self::Finishing(_))
    }
}

/// Why a connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Finished,
    Reset,
    Error,
    /// Its peer gave no sign of life for too long.
    Vanished,
    Stalled,
    Idle,
    /// Its source has as many as it may have.
    PrefixLimit,
    Drained,
}

impl Cause {
    /// What an error of a connection's socket means.
    pub(super) fn of(errno: Errno) -> Self {
        match errno.0 {
            libc::ECONNRESET | libc::EPIPE => Self::Reset,
            // given up: where an ICMP message came last, the kernel says what that meant instead of ETIMEDOUT (tcp(7))
            libc::ETIMEDOUT | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EHOSTDOWN | libc::ENONET => {
                Self::Vanished
            }
            libc::ECONNREFUSED | libc::ENOPROTOOPT | libc::EACCES | libc::EPROTO => Self::Vanished,
            _ => Self::Error,
        }
    }

    pub(super) fn counter(self, counters: &Traffic) -> &Counter {
        match self {
            Self::Finished => &counters.tcp_closed_finished,
            Self::Reset => &counters.tcp_closed_reset,
            Self::Error => &counters.tcp_closed_error,
            Self::Vanished => &counters.tcp_closed_vanished,
            Self::Idle => &counters.tcp_closed_idle,
            Self::PrefixLimit => &counters.tcp_closed_prefix_limit,
            Self::Stalled => &counters.tcp_closed_stalled,
            Self::Drained => &counters.tcp_closed_drained,
        }
    }
}

/// How far receiving on a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiving {
    Off,
    Multishot,
    /// One receive that does not wait.
    Once,
    /// Nothing was there: a poll waits for more.
    Awaiting,
    Cancelling,
}

/// How far the poll is that says when a connection's peer has made room. It is armed when a send first finds
/// none, and stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writable {
    Off,
    Armed,
    Cancelling,
    /// It could not be armed, or has ended for nothing: what waits for room is tried again after a pause.
    Failed,
}

#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // they are independent of each other
pub(super) struct Connection {
    pub(super) generation: u32,
    pub(super) domain: Domain,
    pub(super) phase: Phase,
    pub(super) receiving: Receiving,
    /// The last receive found nothing.
    pub(super) dry: bool,
    /// A send or a shutdown is in flight.
    pub(super) sending: bool,
    /// The last send found no room.
    pub(super) blocked: bool,
    /// Its last send failed for another reason than room: it is tried again after a pause.
    pub(super) pausing: bool,
    pub(super) writable: Writable,
    /// Receives in a row that ended without a byte.
    pub(super) failures: Failures,
    /// It is in the list of connections to look after at the end of the turn.
    pub(super) listed: bool,
    /// It is in the list of those that wait for buffers.
    pub(super) starved: bool,
    /// It is in the list of those that wait for room to set bytes aside.
    pub(super) crowded: bool,
    /// Receives one by one, since its peer sends much at a time.
    pub(super) streaming: bool,
    /// Received and not yet sent, still in provided buffers.
    pub(super) parts: VecDeque<ReceivedPart>,
    /// Bytes of the first part that need not be sent any more.
    pub(super) part_bytes_done: u32,
    /// Received before the parts and not yet sent, set aside.
    pub(super) aside: VecDeque<Chunk>,
    /// Bytes of the first chunk that are out already.
    pub(super) chunk_bytes_done: u32,
    /// The turn in which its peer was found not to read.
    pub(super) stalled_turn: u64,
    /// The tick of the idle clock when something happened last.
    pub(super) active_tick: u32,
    /// Where it is counted, if sources are limited.
    pub(super) prefix: Option<IpAddr>,
}

impl Connection {
    pub(super) fn new(generation: u32, domain: Domain) -> Self {
        Self {
            generation,
            domain,
            phase: Phase::Free,
            receiving: Receiving::Off,
            dry: false,
            sending: false,
            blocked: false,
            pausing: false,
            writable: Writable::Off,
            failures: Failures::default(),
            listed: false,
            starved: false,
            crowded: false,
            streaming: false,
            parts: VecDeque::new(),
            part_bytes_done: 0,
            aside: VecDeque::new(),
            chunk_bytes_done: 0,
            stalled_turn: 0,
            active_tick: 0,
            prefix: None,
        }
    }

    pub(super) fn has_to_send(&self) -> bool {
        !self.parts.is_empty() || !self.aside.is_empty()
    }

    /// How it receives next, if it may.
    pub(super) fn next_receiving(&self) -> Option<Receiving> {
        match self.phase {
            Phase::Open | Phase::Emptying(_) if self.has_to_send() => None,
            Phase::Lingering if self.sending => None,
            Phase::Open if !self.streaming => Some(Receiving::Multishot),
            Phase::Open | Phase::Lingering if self.dry => Some(Receiving::Awaiting),
            Phase::Open | Phase::Lingering | Phase::Emptying(_) => Some(Receiving::Once),
            Phase::Free | Phase::Parked | Phase::Finishing(_) | Phase::Closing(_) => None,
        }
    }

    /// What waits in the kernel to receive has to end.
    pub(super) fn has_to_stop_receiving(&self) -> bool {
        match (self.phase, self.receiving) {
            // its peer does not read: it must not make us keep more
            (Phase::Open, Receiving::Multishot) => self.streaming || !self.aside.is_empty(),
            (phase, Receiving::Multishot | Receiving::Awaiting) => {
                matches!(phase, Phase::Emptying(_) | Phase::Finishing(_) | Phase::Closing(_))
            }
            _ => false,
        }
    }

    /// Something is in flight on it.
    pub(super) fn is_busy(&self) -> bool {
        let polled = matches!(self.writable, Writable::Armed | Writable::Cancelling);
        self.sending || self.receiving != Receiving::Off || polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_has_its_cause_and_its_counter() {
        for (errno, cause) in [
            (libc::ECONNRESET, Cause::Reset),
            (libc::EPIPE, Cause::Reset),
            (libc::ETIMEDOUT, Cause::Vanished),
            (libc::EIO, Cause::Error),
        ] {
            assert_eq!(Cause::of(Errno(errno)), cause, "{errno}");
        }
        for cause in [
            Cause::Finished,
            Cause::Reset,
            Cause::Error,
            Cause::Vanished,
            Cause::Stalled,
            Cause::Idle,
            Cause::PrefixLimit,
            Cause::Drained,
        ] {
            let counters = Traffic::default();
            cause.counter(&counters).add(3);
            let counted: Vec<_> = counters.entries().filter(|entry| entry.value > 0).collect();
            let name: String = format!("{cause:?}")
                .chars()
                .flat_map(|c| c.is_uppercase().then_some('_').into_iter().chain(c.to_lowercase()))
                .collect();
            assert_eq!((counted.len(), counted[0].name), (1, &*format!("tcp_closed{name}")));
        }
    }
}
