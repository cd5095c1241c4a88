//! A handmade reply for each class.

use std::time::Duration;

use tubular_echo::kernel::cmsg::ReceiveTimes;

use super::*;
use crate::model::counts::{Counts, Tally};
use crate::model::payload::Bodies;
use crate::model::plan::{Extent, Traffic};
use crate::model::quantity::Rate;
use crate::model::receive_clock::{Reading, ReceiveClock};
use crate::model::targets::Targets;
use crate::udp::plan::{Mode, ReceiveTime};

const TIMEOUT_NS: u64 = 1_000;

struct Bench {
    plan: Plan,
    flow: Flow,
    results: Results,
    out: Vec<u8>,
}

fn bench_with(target: &str, spray: bool, train: u32) -> Bench {
    let targets = Targets::new(vec![target.parse().unwrap()], 9, spray).unwrap();
    let traffic = Traffic::sample(targets, 9, TIMEOUT_NS);
    let extent = Extent {
        flows: 4,
        workers: 1,
        warmup: Duration::ZERO,
        duration: None,
        count: None,
        linger: Duration::ZERO,
    };
    let plan = Plan {
        traffic,
        extent,
        mode: Mode::Open(Rate::whole(1_000).into()),
        train,
        gro: false,
        receive_time: ReceiveTime::Own,
    };
    let flow = Flow::new(&plan, 3, 16);
    let results = results_after(Duration::ZERO, &plan);
    Bench { plan, flow, results, out: vec![0; 65_536] }
}

fn results_after(warmup: Duration, plan: &Plan) -> Results {
    let mut results = Results::new(warmup);
    results.destinations.reserve(plan.traffic.places(4));
    results
}

fn bench() -> Bench {
    bench_with("127.0.0.1:7", false, 1)
}

/// The arrival of a datagram whose receive time the kernel did not tell.
fn unstamped(read_ns: u64) -> Arrival {
    ReceiveClock::default().arrival(read_ns, ReceiveTimes::default())
}

/// The arrival of a datagram that the kernel received at `received_ns`.
fn stamped(received_ns: u64, read_ns: u64) -> Arrival {
    let mut clock = ReceiveClock::default();
    let reading = Reading { before_ns: read_ns, after_ns: read_ns, real_ns: read_ns as i64 };
    clock.follow(read_ns, || reading.real_ns, || reading);
    clock.arrival(read_ns, ReceiveTimes { software_ns: Some(received_ns as i64), hardware_ns: None })
}

impl Bench {
    /// Sends at `now_ns` and returns the payload of each datagram.
    fn send(&mut self, now_ns: u64) -> (Train, Vec<Vec<u8>>) {
        let train = self.plan.train;
        let train = self.flow.compose(&self.plan, now_ns, now_ns, train, &mut self.out, &mut self.results);
        self.flow.count_sent(&self.plan, &train, &mut self.results);
        (train, self.out[..train.bytes as usize].chunks(64).map(<[u8]>::to_vec).collect())
    }

    fn send_one(&mut self, now_ns: u64) -> (SocketAddr, Vec<u8>) {
        let (train, mut payloads) = self.send(now_ns);
        (train.peer, payloads.remove(0))
    }

    fn reply(&mut self, source: SocketAddr, reply: &[u8], now_ns: u64) -> bool {
        self.flow
            .judge(
                &self.plan,
                Some(source),
                reply,
                unstamped(now_ns),
                ReceivedHeaders::default(),
                &mut self.results,
            )
            .is_some()
    }

    fn close(mut self) -> Counts {
        self.flow.count_unanswered(&self.plan, &mut self.results);
        let counts = self.results.outcomes.total().counts;
        assert!(counts.is_balanced(), "{counts:?}");
        // the same, by destination
        self.results.destinations.name(|_| self.flow.home());
        let mut sum = Tally::default();
        for (_, tally) in self.results.destinations.named() {
            sum += &tally;
        }
        let wrong = counts.not_ok() + counts.send_failures;
        if !self.results.destinations.has_only_faults() {
            assert_eq!(sum.sent, counts.sent);
        }
        assert_eq!(sum.wrong(), wrong, "{sum:?}");
        Counts { bytes_sent: 0, bytes_received: 0, ..counts }
    }
}

/// A reply that came in time is in time, however late blaster reads it; the time until then is no latency.
#[test]
fn a_reply_that_is_read_late_is_not_late() {
    for is_overdue in [false, true] {
        let mut bench = bench();
        let (peer, payload) = bench.send_one(100_000);
        assert!(!is_overdue || bench.flow.expire(100_000));
        let arrival = stamped(100_000 + TIMEOUT_NS, 9_000_000);
        let judged = bench.flow.judge(
            &bench.plan,
            Some(peer),
            &payload,
            arrival,
            ReceivedHeaders::default(),
            &mut bench.results,
        );
        assert_eq!(judged, Some((Class::Ok, TIMEOUT_NS)));
        assert_eq!(bench.results.reading.slip.summary().unwrap().max_ns / 10_000, 890);
        assert_eq!((bench.results.reading.unstamped, bench.results.from_actual.at(1.0)), (0, TIMEOUT_NS));
        assert_eq!(bench.close(), Counts { sent: 1, ok: 1, ..Counts::default() });
    }
    let mut bench = bench();
    let (peer, payload) = bench.send_one(100_000);
    let arrival = stamped(100_001 + TIMEOUT_NS, 9_000_000);
    bench.flow.judge(
        &bench.plan,
        Some(peer),
        &payload,
        arrival,
        ReceivedHeaders::default(),
        &mut bench.results,
    );
    assert_eq!(bench.close(), Counts { sent: 1, late: 1, ..Counts::default() });
}

#[test]
fn a_right_reply_in_time() {
    let mut bench = bench();
    let (peer, payload) = bench.send_one(10);
    assert!(bench.reply(peer, &payload, 10 + TIMEOUT_NS));
    assert_eq!(bench.results.round_trips.total().summary().unwrap().max_ns, TIMEOUT_NS);
    assert_eq!(bench.close(), Counts { sent: 1, ok: 1, ..Counts::default() });
}

#[test]
fn late_is_after_the_timeout_and_stays_in_the_histogram() {
    let mut bench = bench();
    let (peer, payload) = bench.send_one(10);
    assert!(bench.reply(peer, &payload, 11 + TIMEOUT_NS));
    assert!(bench.results.from_actual.summary().is_some());
    assert_eq!(bench.close(), Counts { sent: 1, late: 1, ..Counts::default() });
}

#[test]
fn overdue_and_then_answered_is_late() {
    let mut bench = bench();
    let (peer, payload) = bench.send_one(10);
    assert!(bench.flow.expire(10));
    assert_eq!(bench.flow.waiting(), 0);
    assert!(bench.reply(peer, &payload, 20));
    assert_eq!(bench.close(), Counts { sent: 1, late: 1, ..Counts::default() });
}

#[test]
fn another_address_or_port_is_misdirected() {
    for source in ["127.0.0.2:7", "127.0.0.1:8", "[::1]:7"] {
        let mut bench = bench();
        let (_, payload) = bench.send_one(10);
        assert!(bench.reply(source.parse().unwrap(), &payload, 20));
        assert!(bench.results.from_actual.summary().is_none());
        assert_eq!(bench.close(), Counts { sent: 1, misdirected: 1, ..Counts::default() }, "{source}");
    }
}

#[test]
fn damage() {
    let mut bench = bench();
    for byte in 0..64 {
        let (peer, mut payload) = bench.send_one(10 + byte);
        payload[byte as usize] ^= 0x10;
        assert!(bench.reply(peer, &payload, 100), "byte {byte}");
    }
    let (peer, payload) = bench.send_one(200);
    assert!(bench.reply(peer, &payload[..40], 210));
    assert_eq!(bench.close(), Counts { sent: 65, corrupted: 64, truncated: 1, ..Counts::default() });
}

#[test]
fn a_damaged_sequence_number_is_not_taken_for_a_neighbour_in_the_train() {
    let mut bench = bench_with("127.0.0.1:7", false, 8);
    let (train, mut payloads) = bench.send(10);
    payloads[1][7] ^= 4; // claims to be the sixth
    for payload in &payloads {
        assert!(bench.reply(train.peer, payload, 20));
    }
    assert_eq!(bench.close(), Counts { sent: 8, ok: 7, corrupted: 1, ..Counts::default() });
}

#[test]
fn the_second_reply_is_a_duplicate() {
    let mut bench = bench();
    let (peer, payload) = bench.send_one(10);
    assert!(bench.reply(peer, &payload, 20));
    assert!(!bench.reply(peer, &payload, 21));
    assert!(!bench.reply("127.0.0.9:9".parse().unwrap(), &payload, 22));
    assert_eq!(bench.close(), Counts { sent: 1, ok: 1, duplicated: 2, ..Counts::default() });
}

#[test]
fn swapped_replies_are_reordered_once() {
    let mut bench = bench();
    let sent: Vec<_> = (0..4).map(|time| bench.send_one(time)).collect();
    for nth in [1, 0, 2, 3] {
        let (peer, payload) = &sent[nth];
        bench.reply(*peer, payload, 20);
    }
    assert_eq!(bench.results.outcomes.total().reorder_distance_max, 1);
    assert_eq!(bench.close(), Counts { sent: 4, ok: 4, reordered: 1, ..Counts::default() });
}

/// Replies that answer nothing.
fn foreign(payload: &[u8]) -> [Vec<u8>; 4] {
    let own: &[u8] = b"hello, who are you? I am not one of yours";
    [vec![], payload[..15].into(), vec![0xaa; 64], own.into()]
}

fn kinds(bench: &Bench) -> Vec<&str> {
    bench.results.examples.iter().map(|example| example.kind.as_str()).collect()
}

#[test]
fn foreign_datagrams_are_unattributed_while_several_datagrams_wait() {
    let mut bench = bench();
    let (peer, payload) = bench.send_one(10);
    bench.send_one(11);
    for foreign in foreign(&payload) {
        assert!(!bench.reply(peer, &foreign, 20));
    }
    assert_eq!(kinds(&bench), ["unattributed"; 3]);
    let example = &bench.results.examples[2];
    let waiting = example.in_flight.as_ref().expect("the oldest datagram in flight");
    assert_eq!((&example.came_first[..], &waiting.sent_first[..]), (&[0xaa; 16][..], &payload[..16]));
    assert_eq!((waiting.sequence, example.answers.as_ref()), (0, None));
    assert_eq!(bench.close(), Counts { sent: 2, lost: 2, unattributed: 4, ..Counts::default() });
}

#[test]
fn a_foreign_datagram_answers_the_only_one_in_flight() {
    let mut bench = bench();
    // an older one is lost, and another address answers nothing
    bench.send_one(10);
    let mut now_ns = 11 + TIMEOUT_NS;
    for foreign in foreign(&[7; 64]) {
        let (peer, _) = bench.send_one(now_ns);
        assert!(!bench.reply("127.0.0.9:7".parse().unwrap(), &foreign, now_ns + 1));
        assert!(bench.reply(peer, &foreign, now_ns + 2), "{foreign:?}");
        assert!(!bench.reply(peer, &foreign, now_ns + 3), "nothing is in flight");
        assert_eq!(bench.flow.waiting(), 0, "a closed loop goes on");
        let example = &bench.results.examples[1];
        assert_eq!((example.kind.as_str(), example.answers.as_ref().unwrap().sent_bytes), ("corrupted", 64));
        now_ns += 10;
    }
    let wanted = Counts { sent: 5, corrupted: 4, lost: 1, unattributed: 8, ..Counts::default() };
    assert_eq!(bench.close(), wanted);
}

#[test]
fn the_true_answer_corrects_it() {
    let mut bench = bench();
    let (peer, payload) = bench.send_one(10);
    assert!(bench.reply(peer, b"something else, first", 20));
    let (_, next) = bench.send_one(21);
    assert!(bench.reply(peer, &payload, 22) && bench.reply(peer, &next, 23));
    assert_eq!(kinds(&bench), ["unattributed"]);
    assert_eq!(bench.close(), Counts { sent: 2, ok: 2, unattributed: 1, ..Counts::default() });
}

#[test]
fn a_server_that_adds_a_beginning_corrupts_whatever_is_in_flight() {
    let mut bench = bench();
    let sent: Vec<_> = (0..4).map(|time| bench.send_one(time)).collect();
    for (peer, payload) in &sent {
        assert!(bench.reply(*peer, &[b"hi ", &payload[..]].concat(), 20));
    }
    let example = &bench.results.examples[0];
    let answers = example.answers.as_ref().unwrap();
    assert_eq!((answers.bytes_before, &example.came_first[..3]), (Some(3), &b"hi "[..]));
    // again: the first one has an answer
    assert!(!bench.reply(sent[0].0, &[b"hi ", &sent[0].1[..]].concat(), 21));
    assert_eq!(bench.close(), Counts { sent: 4, corrupted: 4, duplicated: 1, ..Counts::default() });
}

#[test]
fn a_server_that_changes_the_beginning_corrupts_whatever_is_in_flight() {
    for train in [1, 4] {
        let mut bench = bench_with("127.0.0.1:7", false, train);
        let sent: Vec<_> = (0..4 / train).flat_map(|time| bench.send(time.into()).1).collect();
        for payload in &sent {
            let reply = [&[0; 16], &payload[16..]].concat();
            assert!(bench.reply(bench.flow.home(), &reply, 20), "trains of {train}");
        }
        assert_eq!(bench.close(), Counts { sent: 4, corrupted: 4, ..Counts::default() });
    }
}

#[test]
fn the_bytes_of_another_flow_are_a_kind_of_their_own() {
    let mut bench = bench();
    let of = |run_id, flow| {
        let mut message = vec![0; 64];
        // the same number and time as the first datagram of this flow
        let header = Header { run_id, flow, sequence: 0, intended_ns: 10 };
        Bodies::new().write(&header, &mut message);
        message
    };
    let (peer, payload) = bench.send_one(10);
    let (_, next) = bench.send_one(11);
    assert!(!bench.reply(peer, &of(0xfeed, 1), 20));
    assert!(bench.reply(peer, &payload, 21));
    assert!(!bench.reply(peer, &of(0xbeef, 1), 22), "another run is no flow of this one");
    assert!(bench.reply(peer, &of(0xfeed, 2), 23), "it answers the only one in flight");
    assert!(bench.reply(peer, &next, 24), "until the true answer comes");
    assert_eq!(kinds(&bench), ["crossed", "unattributed", "crossed"]);
    let of_flows: Vec<_> = bench.results.examples.iter().map(|it| it.bytes_of.map(|it| it.flow)).collect();
    assert_eq!(of_flows, [Some(1), None, Some(2)]);
    assert_eq!(bench.close(), Counts { sent: 2, ok: 2, crossed: 2, unattributed: 1, ..Counts::default() });
}

/// A million datagrams wait. A search through all of them would take minutes.
#[test]
fn a_stray_datagram_costs_a_few_steps() {
    const WAITING: u64 = 1 << 20;
    let mut bench = bench();
    bench.flow = Flow::new(&bench.plan, 3, WAITING as usize);
    for time in 0..WAITING {
        bench.flow.compose(&bench.plan, time, TIMEOUT_NS * WAITING, 1, &mut bench.out, &mut bench.results);
    }
    let begun = std::time::Instant::now();
    for nth in 0..20_000 {
        let mut stray = vec![0; 64];
        let header = Header { run_id: 1, flow: 3, sequence: nth * 7, intended_ns: nth * 50 };
        Bodies::write(&bench.plan.traffic.bodies, &header, &mut stray);
        assert!(!bench.reply(bench.flow.home(), &stray, TIMEOUT_NS * WAITING));
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(bench.results.outcomes.total().counts.unattributed, 20_000);
}

#[test]
fn refused_sends_are_not_sent() {
    let mut bench = bench();
    let train = bench.flow.compose(&bench.plan, 5, 5, 1, &mut bench.out, &mut bench.results);
    bench.flow.count_refused(&bench.plan, &train, 11, &mut bench.results);
    assert_eq!(bench.results.local_errors[&11], 1);
    assert_eq!(bench.close(), Counts { send_failures: 1, ..Counts::default() });
}

#[test]
fn unreachable_by_quote_or_by_destination() {
    let mut bench = bench();
    let (peer, _) = bench.send_one(10);
    let (_, second) = bench.send_one(11);
    let (_, third) = bench.send_one(12);
    assert!(bench.flow.unreachable(&bench.plan, peer, &second, &mut bench.results));
    assert!(bench.flow.unreachable(&bench.plan, peer, &[], &mut bench.results));
    assert!(!bench.flow.unreachable(&bench.plan, "127.0.0.3:7".parse().unwrap(), &[], &mut bench.results));
    // an answer is the stronger fact
    assert!(bench.reply(peer, &second, 20));
    assert!(bench.reply(peer, &third, 20));
    assert_eq!(bench.close(), Counts { sent: 3, ok: 2, unreachable: 1, ..Counts::default() });
}

#[test]
fn what_is_forgotten_is_lost() {
    let mut bench = bench();
    let (peer, payload) = bench.send_one(0);
    for time in 1..=16 {
        bench.send_one(time);
    }
    assert!(!bench.reply(peer, &payload, 20));
    assert_eq!(bench.results.forgotten, 1);
    assert_eq!(bench.close(), Counts { sent: 17, lost: 17, unattributed: 1, ..Counts::default() });
}

#[test]
fn a_sprayed_train_has_one_destination_and_its_datagrams_are_told_apart() {
    let mut bench = bench_with("127.0.0.0/8:any", true, 4);
    let mut peers = std::collections::BTreeSet::new();
    for time in 0..3 {
        let (train, payloads) = bench.send(time);
        peers.insert(train.peer);
        assert_eq!(payloads.len(), 4);
        for payload in &payloads {
            assert!(bench.reply(train.peer, payload, 20));
        }
    }
    assert_eq!(peers.len(), 3);
    assert_eq!(bench.close(), Counts { sent: 12, ok: 12, ..Counts::default() });
}

#[test]
fn the_warmup_is_judged_but_not_measured() {
    let mut bench = bench();
    bench.results = results_after(Duration::from_nanos(100), &bench.plan);
    for time in [99, 100] {
        let (peer, payload) = bench.send_one(time);
        bench.reply(peer, &payload, time + 5);
    }
    assert_eq!(bench.results.outcomes.warmup().counts.ok, 1);
    assert_eq!(bench.results.round_trips.total().summary().unwrap().count, 1);
    assert_eq!(bench.close(), Counts { sent: 1, ok: 1, ..Counts::default() });
}
