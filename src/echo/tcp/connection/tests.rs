//! Each transition of a connection, and each one that is refused.

use std::panic::{self, AssertUnwindSafe};

use super::super::manner::SPLICED_BYTES_MIN;
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
        assert!(unsent.spilled(chunk).is_none());
    }
    unsent
}

// Receiving.

#[test]
fn a_receive_completes_only_if_it_is_in_flight() {
    for receiving in RECEIVING {
        let in_flight = [Receiving::Multishot, Receiving::Once, Receiving::Cancelling].contains(&receiving);
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
    connection.received(Ok(SPLICED_BYTES_MIN - 1), true, &counters);
    assert_eq!(connection.begin_stop_receiving(), None);
    connection.received(Ok(SPLICED_BYTES_MIN), true, &counters);
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
                assert_eq!(connection.begin_shutdown(), is_through && sends_fin, "{receiving:?} {sending:?}");
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

#[test]
fn a_connection_is_not_closed_while_a_descriptor_is_made_of_it() {
    let counters = Traffic::default();
    let mut connection = open();
    connection.begin_receive(Receive::Once);
    connection.received(Ok(SPLICED_BYTES_MIN), false, &counters);
    assert!(connection.wants_descriptor());
    connection.manner.begin_install();
    connection.close(Cause::Idle);
    assert_eq!(connection.closes_next(), None);
    connection.manner.installed(true);
    assert_eq!(connection.closes_next(), Some(Cause::Idle));
}

/// One that is spliced, with nothing in flight.
fn spliced() -> Connection {
    let mut connection = open();
    connection.begin_receive(Receive::Once);
    connection.received(Ok(SPLICED_BYTES_MIN), false, &Traffic::default());
    connection.manner.installed(true);
    connection.manner.changed_to_nonblocking(true, true);
    connection
}

#[test]
fn what_a_splice_does_not_bring_is_received() {
    let counters = Traffic::default();
    let outcomes =
        [Ok(0), errno(libc::EAGAIN), errno(libc::EINTR), errno(libc::ENOMEM), errno(libc::ENOBUFS)];
    for outcome in outcomes {
        let mut connection = spliced();
        assert!(connection.splices_next());
        assert!(connection.spliced(Ok(SPLICED_BYTES_MIN), &counters), "its pages are sent");
        assert!(!connection.splices_next(), "others come first");
        assert_eq!(connection.receives_next(), Some(Receive::Poll));
        connection.begin_receive(Receive::Poll);
        assert!(!connection.splices_next());
        connection.readable();
        assert!(connection.splices_next());
        assert!(!connection.spliced(outcome, &counters));
        assert!(!connection.splices_next());
        assert_eq!(connection.receives_next(), Some(Receive::Once), "{outcome:?}");
        connection.begin_receive(Receive::Once);
        connection.received(errno(libc::EAGAIN), false, &counters);
        assert_eq!(connection.receives_next(), Some(Receive::Poll));
    }
    assert_eq!(
        counters.tcp_bytes_in.get(),
        u64::from(SPLICED_BYTES_MIN) * outcomes.len() as u64,
        "what the receives before brought is counted elsewhere"
    );
}

#[test]
fn an_error_that_a_splice_is_told_ends_the_connection() {
    for (number, cause) in
        [(libc::ECONNRESET, Cause::Reset), (libc::ETIMEDOUT, Cause::Vanished), (libc::EIO, Cause::Error)]
    {
        let mut connection = spliced();
        assert!(!connection.spliced(errno(number), &Traffic::default()));
        assert_eq!(connection.closes_next(), Some(cause));
    }
}

#[test]
fn nothing_is_spliced_before_what_was_received_is_sent_or_once_it_ends() {
    let mut connection = spliced();
    connection.unsent = unsent(false);
    assert!(!connection.splices_next());
    for drains in [true, false] {
        let mut connection = spliced();
        if drains {
            connection.begin_drain(100);
        } else {
            connection.close(Cause::Idle);
        }
        assert!(!connection.splices_next());
        assert_ne!(connection.receives_next(), Some(Receive::Multishot));
    }
}
