//! A connection of the TCP datapath: what it does in both directions, and what it does next.
//!
//! Each direction is a small state machine of its own, and [`Phase`] tells how far the connection as a whole is. All of
//! them change here, by what a completion says. Nothing here touches the ring: [`super::Tcp`] asks what comes next, and
//! submits it.

use std::net::IpAddr;

use super::cause::Cause;
use super::phase::Phase;
use super::unsent::Unsent;
use crate::kernel::addr::Domain;
use crate::kernel::pause::Failures;
use crate::kernel::ring::Errno;
use crate::policy::counters::Traffic;
use crate::policy::errno_policy::{self, StreamReceive, StreamSend};

/// A receive of more bytes shows a peer that streams.
const STREAMING_BYTES: u32 = 16 << 10;

/// How far receiving on a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiving {
    /// Nothing is in flight. There may be bytes.
    Off,
    /// Nothing is in flight. The last receive found no bytes.
    WouldBlock,
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
        matches!(self, Self::Off | Self::WouldBlock)
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

/// What the end of a receive has come to.
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
    /// Its peer sends much at a time. Then there is one receive for each send: a peer that does not read makes us keep
    /// no more than one receive brings.
    streams: bool,
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
            streams: false,
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
                self.streams |= bytes > STREAMING_BYTES;
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
            (Phase::Open, Receiving::Multishot) => self.streams || self.unsent.is_spilled(),
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
            Phase::Open if !self.streams => Some(Receive::Multishot),
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
        self.sending.is_in_flight() || !self.receiving.is_idle() || self.is_room_polled()
    }

    fn is_room_polled(&self) -> bool {
        matches!(self.room_poll, RoomPoll::Armed | RoomPoll::Cancelling)
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{self, AssertUnwindSafe};

    use super::*;
    use crate::echo::tcp::phase::EndedBy;
    use crate::kernel::pause::FAILURES_MAX;

    const RECEIVING: [Receiving; 6] = [
        Receiving::Off,
        Receiving::WouldBlock,
        Receiving::Multishot,
        Receiving::Once,
        Receiving::Polling,
        Receiving::Cancelling,
    ];
    const SENDING: [Sending; 5] =
        [Sending::Idle, Sending::Send, Sending::Shutdown, Sending::Blocked, Sending::Paused];
    const ROOM_POLL: [RoomPoll; 4] = [RoomPoll::Off, RoomPoll::Armed, RoomPoll::Cancelling, RoomPoll::Failed];

    const FINAL_READ: Phase = Phase::FinalRead { bytes_left: 100 };

    fn in_phase(phase: Phase) -> Connection {
        Connection { phase, ..Connection::free(1, Domain::Ipv4) }
    }

    fn open() -> Connection {
        in_phase(Phase::Open)
    }

    fn errno(number: i32) -> Result<u32, Errno> {
        Err(Errno(number))
    }

    /// True if an assertion refuses it.
    fn is_refused<T>(transition: impl FnOnce() -> T) -> bool {
        panic::catch_unwind(AssertUnwindSafe(transition)).is_err()
    }

    /// The unsent bytes of a connection, as far as these decisions look at them. `spilled` of them are in chunks.
    fn unsent(spilled: bool) -> Unsent {
        use crate::kernel::ring::Arena;
        let mut unsent = crate::echo::tcp::unsent::tests::received(&[1; 20]);
        if spilled {
            let chunk = Arena::new(1, 16).unwrap().keep(&[1; 16]).unwrap();
            assert!(unsent.spilled(chunk, 1).is_none());
        }
        unsent
    }

    // Receiving.

    #[test]
    fn a_receive_completes_only_if_it_is_in_flight() {
        for receiving in RECEIVING {
            let in_flight =
                [Receiving::Multishot, Receiving::Once, Receiving::Cancelling].contains(&receiving);
            for more in [false, true] {
                let mut connection = Connection { receiving, ..open() };
                let counters = Traffic::default();
                let refused = is_refused(|| connection.received(Ok(1), more, &counters));
                assert_eq!(refused, !in_flight, "{receiving:?}");
                if in_flight {
                    let wanted = if more { receiving } else { Receiving::Off };
                    assert_eq!(connection.receiving, wanted);
                    assert_eq!(counters.tcp_bytes_in.get(), 1);
                }
            }
        }
    }

    #[test]
    fn a_poll_for_bytes_completes_only_if_it_is_in_flight() {
        for receiving in RECEIVING {
            let mut connection = Connection { receiving, ..open() };
            let polled = [Receiving::Polling, Receiving::Cancelling].contains(&receiving);
            assert_eq!(is_refused(|| connection.readable()), !polled, "{receiving:?}");
            assert!(!polled || connection.receiving == Receiving::Off);
        }
    }

    #[test]
    fn one_receive_is_in_flight_at_a_time() {
        for receiving in RECEIVING {
            for (receive, wanted) in [
                (Receive::Multishot, Receiving::Multishot),
                (Receive::Once, Receiving::Once),
                (Receive::Poll, Receiving::Polling),
            ] {
                let mut connection = Connection { receiving, ..open() };
                let refused = is_refused(|| connection.begin_receive(receive));
                assert_eq!(refused, !receiving.is_idle(), "{receiving:?}");
                assert!(refused || connection.receiving == wanted);
                assert_eq!(
                    Connection { receiving, ..open() }.receives_next().is_some(),
                    !refused,
                    "nothing comes next that would be refused"
                );
            }
        }
    }

    #[test]
    fn a_peer_that_sends_much_at_a_time_is_received_from_once_for_each_send() {
        let counters = Traffic::default();
        let mut connection = open();
        assert_eq!(connection.receives_next(), Some(Receive::Multishot));
        connection.begin_receive(Receive::Multishot);
        connection.received(Ok(STREAMING_BYTES), true, &counters);
        assert_eq!(connection.begin_stop_receiving(), None);
        connection.received(Ok(STREAMING_BYTES + 1), true, &counters);
        assert_eq!(connection.begin_stop_receiving(), Some(Stop::Multishot));
        assert_eq!(connection.begin_stop_receiving(), None, "it is cancelled once");
        connection.received(errno(libc::ECANCELED), false, &counters);
        assert_eq!(connection.failures.clone().add(), Failures::default().add(), "that is no failure");
        assert_eq!(connection.receives_next(), Some(Receive::Once));
        connection.begin_receive(Receive::Once);
        connection.received(errno(libc::EAGAIN), false, &counters);
        assert_eq!(connection.receives_next(), Some(Receive::Poll), "nothing is there");
        connection.begin_receive(Receive::Poll);
        assert_eq!((connection.receives_next(), connection.begin_stop_receiving()), (None, None));
        connection.readable();
        assert_eq!(connection.receives_next(), Some(Receive::Once));
        connection.unsent = unsent(false);
        assert_eq!(connection.receives_next(), None, "the echo is to be sent first");
    }

    #[test]
    fn each_phase_receives_in_its_way() {
        let counters = Traffic::default();
        for (phase, wanted, after_nothing) in [
            (Phase::Free, None, None),
            (Phase::Parked, None, None),
            (Phase::Open, Some(Receive::Multishot), Some(Receive::Multishot)),
            (FINAL_READ, Some(Receive::Once), Some(Receive::Once)),
            (Phase::Finishing(EndedBy::Peer), None, None),
            (Phase::Finishing(EndedBy::Server), None, None),
            (Phase::Lingering, Some(Receive::Once), Some(Receive::Poll)),
            (Phase::Closing(Cause::Idle), None, None),
        ] {
            assert_eq!(in_phase(phase).receives_next(), wanted, "{phase:?}");
            let connection = Connection { receiving: Receiving::WouldBlock, ..in_phase(phase) };
            assert_eq!(connection.receives_next(), after_nothing, "{phase:?}");
        }
        let connection = Connection { sending: Sending::Shutdown, ..in_phase(Phase::Lingering) };
        assert_eq!(connection.receives_next(), None, "our FIN is first");
        // the final read ends when nothing is there
        let mut connection = in_phase(FINAL_READ);
        connection.begin_receive(Receive::Once);
        connection.received(errno(libc::EAGAIN), false, &counters);
        assert_eq!(connection.phase, Phase::Finishing(EndedBy::Server));
    }

    #[test]
    fn what_waits_in_the_kernel_for_bytes_ends_with_the_echo() {
        let ends = [
            FINAL_READ,
            Phase::Finishing(EndedBy::Peer),
            Phase::Finishing(EndedBy::Server),
            Phase::Closing(Cause::Idle),
        ];
        for phase in [Phase::Open, Phase::Lingering].into_iter().chain(ends) {
            for receiving in RECEIVING {
                let mut connection = Connection { receiving, ..in_phase(phase) };
                let stop = match receiving {
                    Receiving::Multishot => Some(Stop::Multishot),
                    Receiving::Polling => Some(Stop::Poll),
                    _ => None,
                };
                let stop = stop.filter(|_| ends.contains(&phase));
                assert_eq!(connection.begin_stop_receiving(), stop, "{phase:?} {receiving:?}");
                let wanted = if stop.is_some() { Receiving::Cancelling } else { receiving };
                assert_eq!(connection.receiving, wanted);
            }
        }
    }

    #[test]
    fn a_peer_that_does_not_read_is_not_received_from() {
        for (spilled, stop) in [(false, None), (true, Some(Stop::Multishot))] {
            let mut connection =
                Connection { receiving: Receiving::Multishot, unsent: unsent(spilled), ..open() };
            assert_eq!(connection.begin_stop_receiving(), stop);
        }
    }

    #[test]
    fn receives_that_fail_again_and_again_close_the_connection() {
        let counters = Traffic::default();
        let mut connection = open();
        for failures in 0..=FAILURES_MAX {
            assert_eq!(connection.phase, Phase::Open, "{failures} in a row");
            connection.begin_receive(Receive::Multishot);
            assert_eq!(connection.received(errno(libc::EINTR), false, &counters), Received::Done);
        }
        assert_eq!(connection.phase, Phase::Closing(Cause::Error));
    }

    #[test]
    fn bytes_make_earlier_failures_forgotten() {
        let counters = Traffic::default();
        let mut connection = open();
        for _ in 0..2 {
            for _ in 0..FAILURES_MAX {
                connection.begin_receive(Receive::Multishot);
                connection.received(errno(libc::EINTR), false, &counters);
            }
            connection.begin_receive(Receive::Multishot);
            connection.received(Ok(1), false, &counters);
        }
        assert_eq!(connection.phase, Phase::Open);
    }

    #[test]
    fn a_receive_without_a_buffer_is_no_failure() {
        let counters = Traffic::default();
        let mut connection = open();
        for _ in 0..1000 {
            connection.begin_receive(Receive::Multishot);
            assert_eq!(connection.received(errno(libc::ENOBUFS), false, &counters), Received::NoBuffer);
        }
        assert_eq!((connection.phase, counters.tcp_no_buffers.get()), (Phase::Open, 1000));
    }

    #[test]
    fn what_comes_behind_our_fin_is_not_counted() {
        let counters = Traffic::default();
        let mut connection = in_phase(Phase::Lingering);
        connection.begin_receive(Receive::Once);
        connection.received(Ok(10), false, &counters);
        assert_eq!(counters.tcp_bytes_in.get(), 0);
        connection.begin_receive(Receive::Once);
        connection.received(Ok(0), false, &counters);
        assert_eq!(connection.closes_next(), Some(Cause::Drained));
    }

    // Sending.

    #[test]
    fn one_send_is_in_flight_at_a_time() {
        for sending in SENDING {
            let unsent = unsent(false);
            let mut connection = Connection { sending, unsent, ..open() };
            assert_eq!(connection.sends_next(), sending == Sending::Idle, "{sending:?}");
            let refused = is_refused(|| connection.begin_send());
            assert_eq!(refused, sending != Sending::Idle, "{sending:?}");
        }
        for phase in [Phase::Lingering, Phase::Closing(Cause::Idle), Phase::Parked, Phase::Free] {
            assert!(!Connection { unsent: unsent(false), ..in_phase(phase) }.sends_next(), "{phase:?}");
        }
        assert!(!open().sends_next(), "there is nothing to send");
    }

    #[test]
    fn a_send_completes_only_if_it_is_in_flight() {
        for (result, wanted, says) in [
            (Ok(5), Sending::Idle, Ok(5)),
            (errno(libc::EAGAIN), Sending::Blocked, Err(StreamSend::Stalled)),
            (errno(libc::ENOMEM), Sending::Paused, Err(StreamSend::Again)),
            (errno(libc::EPIPE), Sending::Idle, Err(StreamSend::Reset)),
        ] {
            for sending in SENDING {
                let mut connection = Connection { sending, ..open() };
                let mut said = None;
                let refused = is_refused(|| said = Some(connection.sent(result)));
                assert_eq!(refused, sending != Sending::Send, "{sending:?}");
                assert!(refused || (connection.sending, said) == (wanted, Some(says)), "{connection:?}");
            }
        }
        let mut connection = Connection { sending: Sending::Send, ..in_phase(Phase::Closing(Cause::Idle)) };
        assert_eq!(connection.sent(errno(libc::ECANCELED)), Err(StreamSend::Reset));
        assert_eq!(connection.phase, Phase::Closing(Cause::Idle), "it has its cause already");
    }

    #[test]
    fn a_shutdown_completes_only_if_it_is_in_flight() {
        for sending in SENDING {
            for (failed, phase) in [(false, Phase::Lingering), (true, Phase::Closing(Cause::Drained))] {
                let mut connection = Connection { sending, ..in_phase(Phase::Lingering) };
                let refused = is_refused(|| connection.shut_down(failed));
                assert_eq!(refused, sending != Sending::Shutdown, "{sending:?}");
                assert!(refused || (connection.sending, connection.phase) == (Sending::Idle, phase));
            }
        }
    }

    #[test]
    fn bytes_that_wait_for_room_to_spill_wait_with_the_send() {
        for (awaits_spill, spilled, sends) in
            [(false, false, true), (false, true, true), (true, false, false), (true, true, true)]
        {
            let in_lists = InLists { awaits_spill, ..InLists::default() };
            let connection = Connection { in_lists, unsent: unsent(spilled), ..open() };
            assert_eq!(connection.sends_next(), sends, "{awaits_spill} {spilled}");
        }
    }

    #[test]
    fn room_ends_a_blocked_send_and_nothing_else() {
        for sending in SENDING {
            let mut connection = Connection { sending, ..open() };
            connection.has_room();
            let wanted = if sending == Sending::Blocked { Sending::Idle } else { sending };
            assert_eq!(connection.sending, wanted);
        }
    }

    // The poll for room.

    #[test]
    fn room_is_polled_for_once_and_only_for_a_blocked_send() {
        for room_poll in ROOM_POLL {
            for sending in SENDING {
                let mut connection = Connection { sending, room_poll, ..open() };
                let wanted = sending == Sending::Blocked && room_poll == RoomPoll::Off;
                assert_eq!(connection.polls_for_room_next(), wanted, "{room_poll:?} {sending:?}");
                let refused = is_refused(|| connection.begin_room_poll());
                assert_eq!(refused, room_poll != RoomPoll::Off);
                assert!(refused || connection.room_poll == RoomPoll::Armed);
            }
        }
        let blocked = Connection { sending: Sending::Blocked, ..in_phase(Phase::Closing(Cause::Idle)) };
        assert!(!blocked.polls_for_room_next());
    }

    #[test]
    fn a_poll_for_room_that_ends_by_itself_has_failed() {
        for room_poll in ROOM_POLL {
            for failed in [false, true] {
                let mut connection = Connection { room_poll, ..open() };
                let mut says = false;
                let refused = is_refused(|| says = connection.room_poll_ended(failed));
                assert_eq!(refused, [RoomPoll::Off, RoomPoll::Failed].contains(&room_poll), "{room_poll:?}");
                if !refused {
                    let failed = failed && room_poll == RoomPoll::Armed;
                    let wanted = if failed { RoomPoll::Failed } else { RoomPoll::Off };
                    assert_eq!((says, connection.room_poll), (failed, wanted));
                }
            }
        }
    }

    #[test]
    fn the_poll_for_room_is_cancelled_with_the_connection() {
        for room_poll in ROOM_POLL {
            for phase in [Phase::Open, Phase::Lingering, Phase::Closing(Cause::Idle)] {
                let mut connection = Connection { room_poll, ..in_phase(phase) };
                let stops = phase.is_closing() && room_poll == RoomPoll::Armed;
                assert_eq!(connection.begin_stop_room_poll(), stops);
                assert_eq!(connection.room_poll, if stops { RoomPoll::Cancelling } else { room_poll });
            }
        }
    }

    #[test]
    fn after_a_pause_what_failed_is_tried_again() {
        for (sending, room_poll, wanted, says) in [
            (Sending::Paused, RoomPoll::Off, Sending::Idle, true),
            (Sending::Paused, RoomPoll::Armed, Sending::Idle, true),
            (Sending::Blocked, RoomPoll::Failed, Sending::Idle, true),
            (Sending::Blocked, RoomPoll::Armed, Sending::Blocked, false),
            (Sending::Send, RoomPoll::Failed, Sending::Send, true),
            (Sending::Idle, RoomPoll::Off, Sending::Idle, false),
        ] {
            let mut connection = Connection { sending, room_poll, ..open() };
            assert_eq!(connection.retry(), says, "{sending:?} {room_poll:?}");
            assert_eq!(connection.sending, wanted, "{sending:?} {room_poll:?}");
            assert_ne!(connection.room_poll, RoomPoll::Failed);
        }
        let mut connection = Connection { sending: Sending::Paused, ..in_phase(Phase::Closing(Cause::Idle)) };
        assert!(!connection.retry(), "it is over");
    }

    // The end.

    #[test]
    fn an_echo_is_complete_when_all_is_sent_and_nothing_is_in_flight() {
        let ends = [(EndedBy::Peer, false), (EndedBy::Server, true)];
        for (by, sends_fin) in ends {
            let phase = Phase::Finishing(by);
            for receiving in RECEIVING {
                for sending in SENDING {
                    let mut connection = Connection { receiving, sending, ..in_phase(phase) };
                    let is_through = receiving.is_idle() && !sending.is_in_flight();
                    assert_eq!(
                        connection.begin_shutdown(),
                        is_through && sends_fin,
                        "{receiving:?} {sending:?}"
                    );
                    assert_eq!(connection.phase == phase, !is_through);
                    assert!(!(is_through && sends_fin) || connection.sending == Sending::Shutdown);
                }
            }
            let mut connection = Connection { unsent: unsent(true), ..in_phase(phase) };
            assert!(!connection.begin_shutdown() && connection.phase == phase, "bytes are left");
        }
        for phase in [Phase::Open, FINAL_READ, Phase::Lingering] {
            assert!(!in_phase(phase).begin_shutdown(), "{phase:?}");
        }
    }

    #[test]
    fn a_connection_is_closed_when_nothing_is_in_flight_on_it() {
        let cause = Cause::Stalled;
        for receiving in RECEIVING {
            for sending in SENDING {
                for room_poll in ROOM_POLL {
                    let phase = Phase::Closing(cause);
                    let connection = Connection { receiving, sending, room_poll, ..in_phase(phase) };
                    let polls = matches!(room_poll, RoomPoll::Armed | RoomPoll::Cancelling);
                    let busy = !receiving.is_idle() || sending.is_in_flight() || polls;
                    assert_eq!(connection.closes_next(), (!busy).then_some(cause), "{connection:?}");
                }
            }
        }
        assert_eq!(open().closes_next(), None);
    }

    #[test]
    fn a_place_is_taken_once_and_by_another_generation_each_time() {
        let mut connection = Connection::free(u32::MAX, Domain::Ipv4);
        connection.accept(Domain::Ipv6, Some([192, 0, 2, 1].into()));
        assert_eq!(
            (connection.generation, connection.domain, connection.phase),
            (0, Domain::Ipv6, Phase::Parked)
        );
        assert!(
            is_refused(|| connection.accept(Domain::Ipv4, None))
                && is_refused(|| connection.turn_away(Domain::Ipv4))
        );
        connection.serve(None);
        assert!(connection.begin_drain(100) && !connection.begin_drain(100));
        let mut connection = Connection::free(1, Domain::Ipv4);
        connection.turn_away(Domain::Ipv4);
        assert_eq!((connection.generation, connection.closes_next()), (2, Some(Cause::PrefixLimit)));
    }
}
