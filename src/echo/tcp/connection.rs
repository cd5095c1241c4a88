//! A connection of the TCP datapath: what it does in both directions, and what it does next.
//!
//! Each direction is a small state machine of its own, and [`Phase`] tells how far the connection as a whole is. All of
//! them change here, by what a completion says. Nothing here touches the ring: [`super::Tcp`] asks what comes next, and
//! submits it.

use std::net::IpAddr;

use super::cause::Cause;
use super::manner::Manner;
use super::phase::Phase;
use super::unsent::Unsent;
use crate::kernel::addr::Domain;
use crate::kernel::pause::Failures;
use crate::kernel::ring::Errno;
use crate::policy::counters::Traffic;
use crate::policy::errno_policy::{self, SpliceIn, StreamReceive, StreamSend};

/// How far receiving on a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiving {
    /// Nothing is in flight. There may be bytes.
    Off,
    /// Nothing is in flight. The last receive found no bytes, or a splice has taken what there was.
    WouldBlock,
    /// Nothing is in flight. A splice brought nothing. The next receive tells why: the end of the stream, or urgent data.
    Unexplained,
    /// A multishot receive is armed.
    Multishot,
    /// One receive that does not wait.
    Once,
    /// A poll waits for bytes.
    Polling,
    /// The multishot or the poll is being cancelled.
    Cancelling,
}

impl Receiving {
    /// Nothing is in flight.
    fn is_idle(self) -> bool {
        matches!(self, Self::Off | Self::WouldBlock | Self::Unexplained)
    }
}

/// How a connection receives next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receive {
    Multishot,
    Once,
    Poll,
}

/// How far sending on a connection is. One send is in flight at a time: two could overtake each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    /// Nothing is in flight, and there is no reason to wait.
    Idle,
    /// A send is in flight.
    Send,
    /// Our FIN is in flight. Nothing is sent behind it.
    Shutdown,
    /// The last send found no room. The next one waits until a poll reports some.
    Blocked,
    /// The last send failed for another reason. The next one waits for a pause.
    Paused,
}

impl Sending {
    fn is_in_flight(self) -> bool {
        matches!(self, Self::Send | Self::Shutdown)
    }
}

/// How far the poll for room is. It is armed when a send first finds none, and stays armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RoomPoll {
    Off,
    Armed,
    Cancelling,
    /// It could not be armed, or has ended without a reason. What waits for room is tried again after a pause.
    Failed,
}

/// The datapath's lists that a connection is in, so that it is in each of them once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct InLists {
    /// Something has happened to it in this turn.
    pub(super) dirty: bool,
    /// Its receive waits for a buffer.
    pub(super) starved: bool,
    /// Its unsent bytes hold provided buffers, because there is no room to spill them.
    pub(super) awaits_spill: bool,
}

/// The outcome of a receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    Done,
    /// There was no buffer for it.
    NoBuffer,
}

/// What has to be cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    Multishot,
    Poll,
}

#[derive(Debug)]
pub(super) struct Connection {
    /// Tells this connection from others that have had the same file.
    pub(super) generation: u32,
    pub(super) domain: Domain,
    phase: Phase,
    receiving: Receiving,
    sending: Sending,
    room_poll: RoomPoll,
    pub(super) manner: Manner,
    /// Receives in a row that ended without a byte.
    failures: Failures,
    pub(super) unsent: Unsent,
    pub(super) in_lists: InLists,
    /// The tick of the idle clock at which something happened last.
    pub(super) active_tick: u32,
    /// The source that it is counted for, if sources are limited.
    pub(super) prefix: Option<IpAddr>,
}

impl Connection {
    /// A place for one.
    pub(super) fn free(generation: u32, domain: Domain) -> Self {
        Self {
            generation,
            domain,
            phase: Phase::Free,
            receiving: Receiving::Off,
            sending: Sending::Idle,
            room_poll: RoomPoll::Off,
            manner: Manner::default(),
            failures: Failures::default(),
            unsent: Unsent::default(),
            in_lists: InLists::default(),
            active_tick: 0,
            prefix: None,
        }
    }

    /// A connection was accepted here, and waits for its place.
    pub(super) fn accept(&mut self, domain: Domain, prefix: Option<IpAddr>) {
        self.phase.park();
        self.renew(domain);
        self.prefix = prefix;
    }

    /// A connection was accepted here whose source has too many.
    pub(super) fn turn_away(&mut self, domain: Domain) {
        self.phase.turn_away();
        self.renew(domain);
    }

    fn renew(&mut self, domain: Domain) {
        let phase = self.phase;
        *self = Self { phase, ..Self::free(self.generation.wrapping_add(1), domain) };
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// There is a place for it. `final_bytes`: the server ends, and it may bring that many bytes.
    pub(super) fn serve(&mut self, final_bytes: Option<u32>) {
        self.phase.serve(final_bytes);
    }

    /// The server ends, and it may bring that many bytes. True if that changes anything.
    pub(super) fn begin_drain(&mut self, final_bytes: u32) -> bool {
        self.phase.begin_drain(final_bytes)
    }

    /// It is given up.
    pub(super) fn close(&mut self, cause: Cause) {
        self.phase.close(cause);
    }

    // What completions say.

    /// A receive has brought something, or has ended; `more`: it goes on.
    pub(super) fn received(
        &mut self,
        result: Result<u32, Errno>,
        more: bool,
        counters: &Traffic,
    ) -> Received {
        let was = self.receiving;
        let in_flight = matches!(was, Receiving::Multishot | Receiving::Once | Receiving::Cancelling);
        assert!(in_flight, "a receive completes although receiving is {was:?}");
        if !more {
            self.receiving = Receiving::Off;
        }
        match result {
            Ok(0) => self.phase.peer_finished(),
            Ok(bytes) => {
                if self.phase.echoes() {
                    counters.tcp_bytes_in.add(bytes.into());
                }
                self.manner.received(bytes);
                self.failures.forget();
                self.phase.received(bytes);
            }
            Err(errno) => return self.receive_failed(errno, was, counters),
        }
        Received::Done
    }

    fn receive_failed(&mut self, errno: Errno, was: Receiving, counters: &Traffic) -> Received {
        match errno_policy::of_stream(errno) {
            StreamReceive::Starved => {
                counters.tcp_no_buffers.add(1);
                return Received::NoBuffer;
            }
            StreamReceive::Cancelled if was == Receiving::Cancelling => {}
            StreamReceive::Reset => self.phase.broken(Cause::of(errno)),
            policy => {
                if policy == StreamReceive::WouldBlock {
                    if self.receiving == Receiving::Off {
                        self.receiving = Receiving::WouldBlock;
                    }
                    if was == Receiving::Once {
                        self.phase.found_nothing();
                    }
                }
                // nothing comes of it, and nothing says that it will
                if self.failures.add() {
                    self.phase.close(Cause::Error);
                }
            }
        }
        Received::Done
    }

    /// A descriptor has to be made for it.
    pub(super) fn wants_descriptor(&self) -> bool {
        self.phase == Phase::Open && self.manner.wants_descriptor()
    }

    /// A splice comes next: it takes what has been received.
    pub(super) fn splices_next(&self) -> bool {
        let is_open = self.phase == Phase::Open && self.manner.is_spliced();
        let is_idle = self.receiving == Receiving::Off && self.sending == Sending::Idle;
        is_open && is_idle && self.unsent.is_empty()
    }

    /// A splice has brought bytes, or nothing. True if they may stay in their pages.
    pub(super) fn spliced(&mut self, result: Result<u32, Errno>, counters: &Traffic) -> bool {
        assert!(self.receiving.is_idle(), "a receive in flight could be overtaken");
        self.receiving = Receiving::Unexplained;
        match result {
            // the end of the stream, or urgent data
            Ok(0) => false,
            Ok(bytes) => {
                self.receiving = Receiving::WouldBlock;
                counters.tcp_bytes_in.add(bytes.into());
                self.failures.forget();
                self.manner.spliced(bytes)
            }
            Err(errno) => {
                if errno_policy::of_splice_in(errno) == SpliceIn::Reset {
                    self.phase.broken(Cause::of(errno));
                }
                false
            }
        }
    }

    /// The poll for bytes has ended.
    pub(super) fn readable(&mut self) {
        let polled = matches!(self.receiving, Receiving::Polling | Receiving::Cancelling);
        assert!(polled, "a poll completes although receiving is {:?}", self.receiving);
        self.receiving = Receiving::Off;
    }

    /// A send has ended. Returns how many bytes it took, which [`Unsent`] has to know, or what to do about its failure.
    pub(super) fn sent(&mut self, result: Result<u32, Errno>) -> Result<u32, StreamSend> {
        assert_eq!(self.sending, Sending::Send, "a send completes that is not in flight");
        let outcome = result.map_err(|errno| (errno, errno_policy::of_stream_send(errno)));
        self.sending = match outcome {
            Ok(_) => Sending::Idle,
            Err((_, StreamSend::Stalled)) => Sending::Blocked,
            // a poll would report room at once: that is not what was short
            Err((_, StreamSend::Again)) => Sending::Paused,
            Err((errno, StreamSend::Reset)) => {
                // a send that was cancelled has its cause already
                self.phase.close(Cause::of(errno));
                Sending::Idle
            }
        };
        outcome.map_err(|(_, policy)| policy)
    }

    /// The shutdown has ended: our FIN is sent, unless it failed.
    pub(super) fn shut_down(&mut self, failed: bool) {
        assert_eq!(self.sending, Sending::Shutdown, "a shutdown completes that is not in flight");
        self.sending = Sending::Idle;
        if failed {
            self.phase.close(Cause::Drained);
        }
    }

    /// There is room for what is sent.
    pub(super) fn has_room(&mut self) {
        if self.sending == Sending::Blocked {
            self.sending = Sending::Idle;
        }
    }

    /// The poll for room has ended. True if it failed.
    pub(super) fn room_poll_ended(&mut self, failed: bool) -> bool {
        let was = self.room_poll;
        assert!(self.is_room_polled(), "a poll completes although it is {was:?}");
        let failed = failed && was != RoomPoll::Cancelling;
        self.room_poll = if failed { RoomPoll::Failed } else { RoomPoll::Off };
        failed
    }

    /// A pause is over: what failed is tried again. False if nothing waited for it.
    pub(super) fn retry(&mut self) -> bool {
        let mut waited = self.sending == Sending::Paused;
        if waited {
            self.sending = Sending::Idle;
        }
        if self.room_poll == RoomPoll::Failed {
            self.room_poll = RoomPoll::Off;
            self.has_room();
            waited = true;
        }
        waited && self.phase.echoes()
    }

    // What comes next.

    /// A send comes next. Bytes that wait for room would only be refused again.
    pub(super) fn sends_next(&self) -> bool {
        let waits = self.in_lists.awaits_spill && !self.unsent.is_spilled();
        self.sending == Sending::Idle && !waits && self.phase.echoes() && !self.unsent.is_empty()
    }

    /// A send is submitted.
    pub(super) fn begin_send(&mut self) {
        assert_eq!(self.sending, Sending::Idle, "two sends could overtake each other");
        self.sending = Sending::Send;
    }

    /// True if a poll for room comes next.
    pub(super) fn polls_for_room_next(&self) -> bool {
        self.sending == Sending::Blocked && self.phase.echoes() && self.room_poll == RoomPoll::Off
    }

    /// A poll for room is submitted.
    pub(super) fn begin_room_poll(&mut self) {
        assert_eq!(self.room_poll, RoomPoll::Off, "room is polled for already");
        self.room_poll = RoomPoll::Armed;
    }

    /// Notes that the poll for room has to end because the connection does. True: it is to be cancelled.
    pub(super) fn begin_stop_room_poll(&mut self) -> bool {
        let stops = self.phase.is_closing() && self.room_poll == RoomPoll::Armed;
        if stops {
            self.room_poll = RoomPoll::Cancelling;
        }
        stops
    }

    /// Notes that what waits in the kernel for bytes has to end. Returns what is to be cancelled.
    pub(super) fn begin_stop_receiving(&mut self) -> Option<Stop> {
        let stops = match (self.phase, self.receiving) {
            // its peer does not read: it must not make us keep more
            (Phase::Open, Receiving::Multishot) => !self.manner.is_multishot() || self.unsent.is_spilled(),
            (phase, Receiving::Multishot | Receiving::Polling) => {
                matches!(phase, Phase::FinalRead { .. } | Phase::Finishing(_) | Phase::Closing(_))
            }
            _ => false,
        };
        if !stops {
            return None;
        }
        let stop = if self.receiving == Receiving::Polling { Stop::Poll } else { Stop::Multishot };
        self.receiving = Receiving::Cancelling;
        Some(stop)
    }

    /// How it receives next, if it does.
    pub(super) fn receives_next(&self) -> Option<Receive> {
        if !self.receiving.is_idle() {
            return None;
        }
        match self.phase {
            Phase::Open | Phase::FinalRead { .. } if !self.unsent.is_empty() => None,
            Phase::Lingering if self.sending == Sending::Shutdown => None,
            Phase::Open if self.manner.is_multishot() => Some(Receive::Multishot),
            Phase::Open | Phase::Lingering if self.receiving == Receiving::WouldBlock => Some(Receive::Poll),
            Phase::Open | Phase::Lingering | Phase::FinalRead { .. } => Some(Receive::Once),
            Phase::Free | Phase::Parked | Phase::Finishing(_) | Phase::Closing(_) => None,
        }
    }

    /// A receive, or a poll for bytes, is submitted.
    pub(super) fn begin_receive(&mut self, receive: Receive) {
        assert!(self.receiving.is_idle(), "two receives could change places");
        self.receiving = match receive {
            Receive::Multishot => Receiving::Multishot,
            Receive::Once => Receiving::Once,
            Receive::Poll => Receiving::Polling,
        };
    }

    /// Notes that the echo is complete. True: our FIN is to be sent.
    pub(super) fn begin_shutdown(&mut self) -> bool {
        // what waits for room, too, has to be sent before
        let is_through = self.receiving.is_idle() && !self.sending.is_in_flight() && self.unsent.is_empty();
        if !matches!(self.phase, Phase::Finishing(_)) || !is_through {
            return false;
        }
        let sends_fin = self.phase.all_sent();
        if sends_fin {
            self.sending = Sending::Shutdown;
        }
        sends_fin
    }

    /// Why it is to be closed, once nothing is in flight on it.
    pub(super) fn closes_next(&self) -> Option<Cause> {
        match self.phase {
            Phase::Closing(cause) if !self.is_busy() => Some(cause),
            _ => None,
        }
    }

    /// What must hold between its fields once what comes next for it is decided.
    pub(super) fn assert_consistent(&self) {
        let Self { phase, receiving, sending, unsent, .. } = self;
        let waits_for_bytes = matches!(receiving, Receiving::Multishot | Receiving::Polling);
        match phase {
            Phase::Free | Phase::Parked => debug_assert!(!self.is_busy() && unsent.is_empty(), "{self:?}"),
            Phase::Open => {
                debug_assert!(*receiving != Receiving::Multishot || !unsent.is_spilled(), "{self:?}");
            }
            Phase::FinalRead { .. } | Phase::Finishing(_) => debug_assert!(!waits_for_bytes, "{self:?}"),
            Phase::Lingering => debug_assert!(unsent.is_empty(), "{self:?}"),
            Phase::Closing(_) => debug_assert!(self.is_busy() && !waits_for_bytes, "{self:?}"),
        }
        let fin_is_due = matches!(phase, Phase::Lingering | Phase::Closing(_));
        debug_assert!(*sending != Sending::Shutdown || fin_is_due, "{self:?}");
        let waits_to_send = matches!(sending, Sending::Send | Sending::Blocked | Sending::Paused);
        debug_assert!(!waits_to_send || !unsent.is_empty(), "{self:?}");
    }

    /// Something is in flight on it.
    fn is_busy(&self) -> bool {
        let is_installing = self.manner.is_installing();
        self.sending.is_in_flight() || !self.receiving.is_idle() || self.is_room_polled() || is_installing
    }

    fn is_room_polled(&self) -> bool {
        matches!(self.room_poll, RoomPoll::Armed | RoomPoll::Cancelling)
    }
}

#[cfg(test)]
mod tests;
