//! Tests of the table of reply sockets, with real sockets.

use std::net::UdpSocket;
use std::os::fd::AsFd;

use super::*;
use crate::kernel::ring::{FileTable, RingConfig};
use crate::kernel::sys::{self, IntOption};

const IDLE: Duration = Duration::from_mins(1);
/// The options of sockets that inherit none.
const OPTIONS: OptionsId = OptionsId(0);

fn sockets(count: usize) -> (Ring, ReplySockets, Arc<Pairs>) {
    let ring = Ring::new(RingConfig {
        submission_entries: 8,
        completion_entries: 16,
        files: 16,
        file_table: FileTable::Registered,
        busy_poll: Duration::ZERO,
    })
    .unwrap();
    let pairs = Arc::new(Pairs::new(16));
    let limits = ReplySocketLimits { count, per_second: 10_000, idle_timeout: IDLE };
    let except = Arc::new("20051,20060-20069".parse().unwrap());
    let mut sockets = ReplySockets::new(4, limits, except, Arc::clone(&pairs));
    assert_eq!(sockets.intern(InheritedOptions::default()), OPTIONS);
    (ring, sockets, pairs)
}

/// A pair of this test process alone: its address has the process id in it.
fn pair(number: u16) -> SocketAddr {
    let [high, low] = (std::process::id() as u16).to_be_bytes();
    SocketAddr::from(([127, high | 1, low, 1], 20_000 + number))
}

#[test]
fn a_pair_has_one_socket_and_the_longest_unused_goes_first() {
    let (mut ring, mut sockets, pairs) = sockets(2);
    let now = Instant::now();
    let first = sockets.get_or_open(pair(1), OPTIONS, &mut ring, 1, now, |_| false).unwrap();
    let second = sockets.get_or_open(pair(2), OPTIONS, &mut ring, 1, now, |_| false).unwrap();
    assert_ne!(first, second);
    assert_eq!(sockets.get_or_open(pair(1), OPTIONS, &mut ring, 2, now, |_| false), Ok(first));
    assert_eq!(
        sockets.get_or_open(pair(3), OPTIONS, &mut ring, 3, now, |_| false),
        Ok(second),
        "the place of the second"
    );
    assert!(pairs.contains(pair(1)) && !pairs.contains(pair(2)) && pairs.contains(pair(3)));
    assert_eq!(sockets.get(pair(2), OPTIONS, 3), None);
}

#[test]
fn an_idle_socket_frees_its_port() {
    let (mut ring, mut sockets, pairs) = sockets(2);
    let now = Instant::now();
    sockets.get_or_open(pair(11), OPTIONS, &mut ring, 1, now, |_| false).unwrap();
    assert!(UdpSocket::bind(pair(11)).is_err(), "it is bound");
    (0..TICKS).for_each(|_| sockets.ticked(&mut ring, |_| false));
    assert!(sockets.get(pair(11), OPTIONS, 2).is_some(), "and is used once more");
    (0..TICKS).for_each(|_| sockets.ticked(&mut ring, |_| false));
    assert!(!sockets.is_empty());
    sockets.ticked(&mut ring, |_| false);
    assert!(sockets.is_empty() && !pairs.contains(pair(11)));
    UdpSocket::bind(pair(11)).expect("the port is free again");
}

#[test]
fn a_socket_that_something_waits_for_stays() {
    let (mut ring, mut sockets, _) = sockets(2);
    let now = Instant::now();
    let first = sockets.get_or_open(pair(41), OPTIONS, &mut ring, 1, now, |_| false).unwrap();
    let second = sockets.get_or_open(pair(42), OPTIONS, &mut ring, 1, now, |_| false).unwrap();
    let third = sockets.get_or_open(pair(43), OPTIONS, &mut ring, 2, now, |file| file == first);
    assert_eq!(third, Ok(second), "the place of the only one that may go");
    assert_eq!(
        sockets.get_or_open(pair(44), OPTIONS, &mut ring, 2, now, |_| true),
        Err(BindRefusal::Limited)
    );
    (0..=TICKS).for_each(|_| sockets.ticked(&mut ring, |file| file == first));
    assert_eq!((sockets.get(pair(41), OPTIONS, 3), sockets.get(pair(43), OPTIONS, 3)), (Some(first), None));
}

#[test]
fn a_pair_that_can_not_be_bound_says_why_and_leaves_nothing_behind() {
    let (mut ring, mut sockets, pairs) = sockets(2);
    let now = Instant::now();
    let _holder = UdpSocket::bind(pair(21)).unwrap();
    assert_eq!(sockets.get_or_open(pair(21), OPTIONS, &mut ring, 1, now, |_| false), Err(BindRefusal::Taken));
    let foreign = "192.0.2.1:5000".parse().unwrap();
    assert_eq!(
        sockets.get_or_open(foreign, OPTIONS, &mut ring, 1, now, |_| false),
        Err(BindRefusal::NoAddress)
    );
    for port in [51, 60, 69] {
        assert_eq!(
            sockets.get_or_open(pair(port), OPTIONS, &mut ring, 1, now, |_| false),
            Err(BindRefusal::Excepted)
        );
    }
    assert!(sockets.is_empty() && !pairs.contains(pair(21)) && !pairs.contains(foreign));
}

#[test]
fn reply_sockets_inherit_the_options_of_their_listening_socket() {
    let (mut ring, mut sockets, _) = sockets(2);
    let now = Instant::now();
    let plain = UdpSocket::bind(pair(71)).unwrap();
    assert_eq!(
        InheritedOptions::of(plain.as_fd(), pair(71)),
        InheritedOptions::default(),
        "nothing is different"
    );
    let own = UdpSocket::bind(pair(72)).unwrap();
    sys::set_option(own.as_fd(), IntOption::PRIORITY, 5).unwrap();
    sys::set_option(own.as_fd(), IntOption::HOPS_V4, 9).unwrap();
    sys::set_option(own.as_fd(), IntOption::BOUND_INTERFACE, 1).unwrap();
    let inherited = InheritedOptions::of(own.as_fd(), pair(72));
    let options = sockets.intern(inherited.clone());
    assert_ne!(options, OPTIONS);
    assert_eq!(sockets.intern(inherited.clone()), options, "others like it have the same");
    assert!(!sockets.share_route(options, OPTIONS));
    let reply = bind(pair(73), &inherited).unwrap();
    for (option, value) in
        [(IntOption::PRIORITY, 5), (IntOption::HOPS_V4, 9), (IntOption::BOUND_INTERFACE, 1)]
    {
        assert_eq!(sys::option(reply.as_fd(), option).unwrap(), value);
    }
    let first = sockets.get_or_open(pair(74), OPTIONS, &mut ring, 1, now, |_| false).unwrap();
    let second = sockets.get_or_open(pair(74), options, &mut ring, 1, now, |_| false).unwrap();
    assert_ne!(first, second, "one socket for each way out");
    assert_eq!(sockets.get(pair(74), OPTIONS, 1), Some(first));
}

#[test]
fn so_many_are_opened_at_once_and_the_next_ones_at_their_rate() {
    let (mut ring, ..) = sockets(0);
    let limits = ReplySocketLimits { count: 8, per_second: 20, idle_timeout: IDLE };
    let mut sockets = ReplySockets::new(4, limits, Arc::default(), Arc::new(Pairs::new(16)));
    sockets.intern(InheritedOptions::default());
    let start = Instant::now();
    let mut open = |number, after_ms| {
        let now = start + Duration::from_millis(after_ms);
        sockets.get_or_open(pair(number), OPTIONS, &mut ring, 1, now, |_| false).is_ok()
    };
    assert_eq!([open(81, 0), open(82, 0), open(83, 0)], [true, true, false], "those of 100 ms");
    assert_eq!([open(83, 50), open(84, 50)], [true, false]);
    assert_eq!(
        [open(84, 900), open(85, 900), open(86, 900)],
        [true, true, false],
        "nothing more is saved up"
    );
}
