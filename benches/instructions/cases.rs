//! What is counted: each case makes so many calls, with inputs that the compiler can't see through.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tubular_echo::echo::udp::reply_sockets::{InheritedOptions, ReplySocketLimits, ReplySockets};
use tubular_echo::kernel::addr::{self, RawAddr};
use tubular_echo::kernel::cmsg::{self, Control};
use tubular_echo::kernel::ring::{DATAGRAM_HEADER_BYTES, Datagram, FileTable, Ring, RingConfig, Token};
use tubular_echo::policy::flow::{Flow, HashKey};
use tubular_echo::policy::gso_refusals::GsoRefusals;
use tubular_echo::policy::pairs::Pairs;
use tubular_echo::policy::refuse::Rules;

use crate::group::{Arrival, Group};
use crate::model::pacer::Pacer;
use crate::model::payload::{Bodies, HEADER_BYTES, Header};
use crate::model::quantity::Rate;
use crate::model::targets::Targets;
use crate::model::timetable::{Gaps, Timetable};

/// Makes so many calls.
type Case = fn(u32);

/// All cases, by name.
pub(crate) const CASES: [(&str, Case); 20] = [
    ("cmsg decode v4", |calls| cmsg_decode("192.0.2.1:1234", calls)),
    ("cmsg decode v6", |calls| cmsg_decode("[2001:db8::1]:1234", calls)),
    ("cmsg encode v4", |calls| cmsg_encode("192.0.2.1:1234", calls)),
    ("cmsg encode v6", |calls| cmsg_encode("[2001:db8::1]:1234", calls)),
    ("address decode", address_decode),
    ("datagram parse", datagram_parse),
    ("flow hash v4", |calls| flow_hash("192.0.2.1", calls)),
    ("flow hash v6", |calls| flow_hash("2001:db8::1", calls)),
    ("refused trains", refused_trains),
    ("group join", group_join),
    ("refuse", refuse),
    ("reply socket", reply_socket),
    ("token", token),
    ("payload write and judge 64", |calls| payload(64, calls)),
    ("payload write and judge 1400", |calls| payload(1400, calls)),
    ("pacer", pacer),
    ("send times, even", |calls| send_times("123456", Gaps::Even, calls)),
    ("send times, random", |calls| send_times("123456", Gaps::Exponential { seed: 1 }, calls)),
    ("send times, ramp", |calls| send_times("10k..200k:1h", Gaps::Even, calls)),
    ("target of a datagram", target),
];

fn control(origdst: SocketAddr) -> Vec<u8> {
    let mut control = Vec::new();
    let mut push = |level: i32, kind: i32, data: &[u8]| {
        control.extend((16 + data.len()).to_ne_bytes());
        control.extend(level.to_ne_bytes());
        control.extend(kind.to_ne_bytes());
        control.extend(data);
        control.resize(control.len().next_multiple_of(8), 0);
    };
    push(libc::SOL_UDP, libc::UDP_GRO, &1200_i32.to_ne_bytes());
    if origdst.is_ipv4() {
        push(libc::SOL_IP, libc::IP_TOS, &[0]);
    } else {
        push(libc::SOL_IPV6, libc::IPV6_TCLASS, &0_i32.to_ne_bytes());
    }
    let (level, kind) = if origdst.is_ipv4() {
        (libc::SOL_IP, libc::IP_ORIGDSTADDR)
    } else {
        (libc::SOL_IPV6, libc::IPV6_ORIGDSTADDR)
    };
    push(level, kind, RawAddr::from(origdst).as_bytes());
    control
}

fn parse(addr: &str) -> SocketAddr {
    addr.parse().expect("an address")
}

fn cmsg_decode(origdst: &str, calls: u32) {
    let control = control(parse(origdst));
    for _ in 0..calls {
        black_box(cmsg::decode(black_box(&control)));
    }
}

fn cmsg_encode(source: &str, calls: u32) {
    let source = parse(source).ip();
    let mut control = Control::EMPTY;
    for _ in 0..calls {
        control.encode(black_box(Some(source)), 0, black_box(Some(1200)));
        black_box(&control);
    }
}

fn address_decode(calls: u32) {
    let raw = RawAddr::from(parse("192.0.2.1:1234"));
    for _ in 0..calls {
        black_box(addr::decode(black_box(raw.as_bytes())));
    }
}

fn datagram_parse(calls: u32) {
    let mut part = [28_u32, 64, 100, 0].map(u32::to_ne_bytes).concat();
    part.resize(DATAGRAM_HEADER_BYTES + 100, 0);
    for _ in 0..calls {
        let _ = black_box(Datagram::parse(black_box(&part)));
    }
}

fn flow_hash(ip: &str, calls: u32) {
    let origdst = SocketAddr::new(ip.parse().expect("an address"), 1234);
    let flow = Flow { peer: SocketAddr::new(origdst.ip(), 40_000), origdst };
    let key = HashKey::draw();
    for _ in 0..calls {
        black_box(black_box(&flow).hash(&key));
    }
}

fn refused_trains(calls: u32) {
    let (peer, other, now) = (parse("192.0.2.1:1").ip(), parse("192.0.2.2:1").ip(), Instant::now());
    let mut refusals = GsoRefusals::new(HashKey::draw());
    refusals.remember(other, now);
    for _ in 0..calls {
        black_box(refusals.contains(black_box(peer), || now));
    }
}

fn group_join(calls: u32) {
    let flow = Flow { peer: parse("192.0.2.1:40000"), origdst: parse("192.0.2.2:1234") };
    let arrival = |bytes| Arrival::new(black_box(bytes), black_box(None), black_box(0));
    let mut group = Group::new(flow, arrival(64), 0);
    for call in 0..calls {
        if call % 8 == 0 {
            group = Group::new(black_box(flow), arrival(64), 0);
        } else {
            black_box(group.join(arrival(64)));
        }
    }
}

fn refuse(calls: u32) {
    let listening = [parse("127.0.0.1:1234"), parse("[::1]:1234")];
    let rules = Rules::new(&listening, 32_768..=60_999, Arc::new(Pairs::new(1000)));
    let flow = Flow { peer: parse("192.0.2.1:40000"), origdst: parse("127.0.0.1:1234") };
    for _ in 0..calls {
        black_box(rules.refuse(black_box(&flow)));
    }
}

fn reply_socket(calls: u32) {
    const COUNT: u16 = 64;
    let config = RingConfig {
        submission_entries: 8,
        completion_entries: 16,
        files: COUNT.into(),
        file_table: FileTable::Registered,
        busy_poll: Duration::ZERO,
    };
    let mut ring = Ring::new(config).expect("a ring");
    let limits = ReplySocketLimits {
        count: COUNT.into(),
        per_second: 1_000_000,
        idle_timeout: Duration::from_mins(1),
    };
    let mut sockets = ReplySockets::new(0, limits, Arc::default(), Arc::new(Pairs::new(COUNT.into())));
    let options = sockets.intern(InheritedOptions::default());
    let now = Instant::now();
    // pairs of a range that nobody else binds
    let pair = |number: u16| SocketAddr::from(([127, 200, 100, 50], 20_000 + number % COUNT));
    for number in 0..COUNT {
        sockets.get_or_open(pair(number), options, &mut ring, 0, now, |_| false).expect("a free port");
    }
    for call in 0..calls {
        black_box(sockets.get(black_box(pair(call as u16)), options, call.into()));
    }
}

fn token(calls: u32) {
    for call in 0..calls {
        let token = black_box(Token::new(black_box(3), call, call));
        black_box((token.operation(), token.generation(), token.index()));
    }
}

fn payload(bytes: usize, calls: u32) {
    let bodies = Bodies::new();
    let mut message = vec![0; bytes];
    assert!(bytes >= HEADER_BYTES);
    for call in 0..calls {
        let header = Header { run_id: 1, flow: 2, sequence: call.into(), intended_ns: 3 };
        bodies.write(black_box(&header), &mut message);
        black_box(bodies.judge(&header, bytes, black_box(&message)));
    }
}

fn pacer(calls: u32) {
    let mut pacer = Pacer::new(Rate { per_1000_s: 123_456_789 }, 1, 0, 1);
    for _ in 0..calls {
        black_box(pacer.take(black_box(u64::MAX)));
    }
}

fn send_times(rate: &str, gaps: Gaps, calls: u32) {
    let timetable = Timetable::Rate { curve: rate.parse().expect("a rate"), gaps, burst: 1 };
    let mut times = timetable.send_times(1, 0, 1);
    for _ in 0..calls {
        black_box(times.take(black_box(u64::MAX)));
    }
}

fn target(calls: u32) {
    let all = ["192.0.2.0/24:any", "127.0.0.0/8:5000-5999"].map(|target| target.parse().expect("a target"));
    let targets = Targets::new(all.into(), 1, true).expect("one family");
    for call in 0..calls {
        black_box(targets.of_datagram(black_box(7), call.into(), 0));
    }
}
