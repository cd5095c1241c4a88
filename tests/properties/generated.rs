//! Random inputs of shapes that pass the first checks.

use std::net::{IpAddr, SocketAddr};

use clap::Parser;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use tubular_echo::policy::flow::Address;
use tubular_echo::policy::pairs::Pairs;
use tubular_echo::policy::recent_pairs::RecentPairs;
use tubular_echo::sockets::endpoint::Endpoint;

use crate::options::Options;

/// Uses new inputs each time. A failing input is printed in its smallest form, and should be added to the corpus.
fn config() -> ProptestConfig {
    ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() }
}

/// A control message of a relevant kind or of any kind, with data of about the right size.
fn control_message() -> impl Strategy<Value = Vec<u8>> {
    let kinds = select(vec![
        (libc::SOL_IP, libc::IP_ORIGDSTADDR),
        (libc::SOL_IPV6, libc::IPV6_ORIGDSTADDR),
        (libc::SOL_UDP, libc::UDP_GRO),
        (libc::SOL_IP, libc::IP_RECVERR),
        (libc::SOL_IPV6, libc::IPV6_RECVERR),
        (libc::SOL_IP, libc::IP_TTL),
        (libc::SOL_IP, libc::IP_RECVFRAGSIZE),
        (libc::SOL_IPV6, libc::IPV6_RECVFRAGSIZE),
        (libc::SOL_SOCKET, libc::SO_TIMESTAMPING),
    ]);
    let families = select(vec![0, libc::AF_INET as u16, libc::AF_INET6 as u16]);
    let origin = select(vec![0_u8, 1, 2, 3]);
    (kinds, vec(any::<u8>(), 0..60), families, origin).prop_map(
        |((level, kind), mut data, family, origin)| {
            let address_at = if matches!(kind, libc::IP_RECVERR | libc::IPV6_RECVERR) { 16 } else { 0 };
            if let Some(place) = data.get_mut(address_at..address_at + 2) {
                place.copy_from_slice(&family.to_ne_bytes());
            }
            if address_at > 0 && data.len() > 4 {
                data[4] = origin;
            }
            let mut message = (16 + data.len()).to_ne_bytes().to_vec();
            message.extend(level.to_ne_bytes());
            message.extend(kind.to_ne_bytes());
            message.extend(data);
            message.resize(message.len().next_multiple_of(8), 0);
            message
        },
    )
}

/// Such messages, sometimes with a changed byte or a missing end.
fn control() -> impl Strategy<Value = Vec<u8>> {
    (vec(control_message(), 0..5), any::<Option<(Index, u8)>>(), any::<Option<Index>>()).prop_map(
        |(messages, change, cut)| {
            let mut control = messages.concat();
            if let (Some((at, byte)), false) = (change, control.is_empty()) {
                let at = at.index(control.len());
                control[at] = byte;
            }
            if let (Some(cut), false) = (cut, control.is_empty()) {
                control.truncate(cut.index(control.len()));
            }
            control
        },
    )
}

/// Lengths and flags near valid ones, then name and payload.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let near = |bytes: u32| prop_oneof![4 => 0..=bytes, 1 => any::<u32>()];
    let flags = prop_oneof![3 => Just(0), 1 => select(vec![0x08, 0x20, 0x28]), 1 => any::<u32>()];
    (near(40), near(600), near(64), flags, vec(any::<u8>(), 0..120)).prop_map(
        |(name, control, payload, flags, rest)| {
            let lengths = [name, control, payload, flags].map(u32::to_ne_bytes).concat();
            [lengths, rest].concat()
        },
    )
}

/// Sizes that often repeat, as in a flow.
fn arrivals() -> impl Strategy<Value = Vec<u8>> {
    let size = prop_oneof![3 => select(vec![0, 1, 100, 1452, 1472, 1473, 2000, 65_507]), 1 => any::<u16>()];
    let arrival = (size.clone(), 0_u16..20, prop_oneof![1 => Just(u16::MAX), 1 => size]).prop_map(
        |(bytes, times, size)| [bytes.saturating_mul(times.max(1)), size].map(u16::to_le_bytes).concat(),
    );
    (any::<u8>(), vec(arrival, 0..80))
        .prop_map(|(family, arrivals)| [vec![family], arrivals.concat()].concat())
}

fn target() -> impl Strategy<Value = String> {
    let v4 = ("(0|10|127|169.254|172.16|192.0.2|198.18|224|255|[0-9]{1,3})", "(\\.[0-9]{1,3}){1,3}");
    let v6 = "(::|fe80::|ff02::|2001:db8::|2001:2::|3fff::|fc00::|::ffff:)[0-9a-f]{0,4}(%[0-9]{1,3})?";
    let len = "(/[0-9]{1,3})?";
    let port = ":(any|[0-9]{1,5}|[0-9]{1,5}-[0-9]{1,5})";
    let v4 = (v4.0, v4.1, len, port).prop_map(|(head, tail, len, port)| format!("{head}{tail}{len}{port}"));
    let v6 = (v6, len, port).prop_map(|(ip, len, port)| format!("[{ip}{len}]{port}"));
    prop_oneof![v4, v6]
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn ancillary(control in control()) {
        crate::ancillary::check(&control);
    }

    #[test]
    fn datagrams(piece in piece()) {
        crate::datagram::check(&piece);
    }

    #[test]
    fn trains(arrivals in arrivals()) {
        crate::trains::check(&arrivals);
    }

    #[test]
    fn judgements(data in vec(any::<u8>(), 28..100)) {
        crate::judgement::check(&data);
    }

    #[test]
    fn schedules(data in vec(any::<u8>(), 0..300)) {
        crate::schedule::check(&data);
    }

    #[test]
    fn numbers(text in "[0-9_]{0,20}(\\.[0-9_]{0,13})?[kKmMG]?(/s)?|[1-9][0-9]{0,5}[-,][1-9][0-9]{0,5}") {
        crate::numbers::check(text.as_bytes());
    }

    #[test]
    fn times(text in "([0-9]{1,12} ?(ns|us|ms|s|m|min|h|d|day|days|w|month|M|y|years)? ?){1,3}|\\+?[0-9]{1,25}") {
        crate::durations::check(text.as_bytes());
        crate::numbers::check(text.as_bytes());
    }

    #[test]
    fn targets(text in target()) {
        crate::targets::check(text.as_bytes());
    }

    #[test]
    fn conditions(text in "((actual_|slip_)?(p50|p99.9|max|loss|sent|rate|mtu|p98)[<>]=? ?[0-9.]{1,6}(%|k|ms|us|s)?,?){1,3}") {
        crate::conditions::check(text.as_bytes());
    }

    #[test]
    fn any_text(text in ".*") {
        for check in [crate::numbers::check, crate::durations::check, crate::targets::check, crate::conditions::check] {
            check(text.as_bytes());
        }
    }
}

/// Addresses with few bits set, so that they are similar, and IPv4 addresses in the form of IPv6.
fn pair() -> impl Strategy<Value = SocketAddr> {
    let bits = vec(0_u32..128, 0..3).prop_map(|bits| bits.into_iter().fold(0_u128, |ip, bit| ip | 1 << bit));
    let prefix = select(vec![0, 0xffff << 32, 0x2001_0db8 << 96, 0xfe80 << 112]);
    let ip = (any::<bool>(), prefix, bits).prop_map(|(is_v4, prefix, bits)| {
        if is_v4 { IpAddr::from((bits as u32).to_be_bytes()) } else { (prefix | bits).to_be_bytes().into() }
    });
    (ip, prop_oneof![0_u16..3, select(vec![1 << 8, 1 << 15])]).prop_map(SocketAddr::from)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_two_pairs_are_taken_for_each_other(known in vec(pair(), 0..20), asked in vec(pair(), 0..20)) {
        let (pairs, recent) = (Pairs::new(20), RecentPairs::default());
        for pair in &known {
            prop_assert!(pairs.insert(*pair));
            recent.insert(*pair);
        }
        for pair in known.iter().chain(&asked) {
            prop_assert_eq!(pairs.contains(*pair), known.contains(pair));
            prop_assert!(!recent.contains(*pair) || known.contains(pair));
            for other in &known {
                prop_assert_eq!(Address::from(*pair) == Address::from(*other), pair == other);
            }
        }
        for pair in &known {
            pairs.remove(*pair);
        }
        prop_assert!(!known.iter().any(|pair| pairs.contains(*pair)));
    }
}

/// Few addresses, so that the same ones meet.
fn address() -> impl Strategy<Value = SocketAddr> {
    let ip = select(vec!["127.0.0.1", "0.0.0.0", "::1", "fe80::1"])
        .prop_map(|ip| ip.parse::<std::net::IpAddr>().unwrap());
    (ip, 0_u16..3).prop_map(SocketAddr::from)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..config() })] // clap takes its time

    #[test]
    fn each_protocol_is_served_where_it_was_asked_for_and_nothing_is_named_twice(
        asked in vec((select(vec!["--listen", "--tcp", "--udp"]), address()), 0..6),
    ) {
        let words = asked.iter().flat_map(|(flag, addr)| [(*flag).to_owned(), addr.to_string()]);
        let options = Options::try_parse_from(std::iter::once("tubular-echo".to_owned()).chain(words)).unwrap();
        let of = |protocol: &str| {
            let mut addrs: Vec<_> =
                asked.iter().filter(|(flag, _)| [protocol, "--listen"].contains(flag)).map(|(_, addr)| *addr).collect();
            addrs.sort();
            addrs
        };
        let (tcp, udp) = (of("--tcp"), of("--udp"));
        let twice = |addrs: &[SocketAddr]| addrs.windows(2).any(|two| two[0] == two[1]);
        match options.server() {
            Err(_) => prop_assert!(twice(&tcp) || twice(&udp)),
            Ok(config) => {
                prop_assert!(!twice(&tcp) && !twice(&udp));
                prop_assert_eq!(config.named, !asked.is_empty());
                let served = |wanted: fn(&Endpoint) -> bool| {
                    let mut addrs: Vec<_> =
                        config.endpoints.iter().filter(|endpoint| wanted(endpoint)).map(|endpoint| endpoint.addr.addr()).collect();
                    addrs.sort();
                    addrs
                };
                if config.named {
                    prop_assert_eq!(served(|endpoint| endpoint.tcp), tcp);
                    prop_assert_eq!(served(|endpoint| endpoint.udp), udp);
                }
            }
        }
    }

    #[test]
    fn no_words_are_too_odd(words in vec("(--[a-z-]{1,12}=?)?[!-~]{0,12}", 0..5)) {
        let words = std::iter::once("tubular-echo".to_owned()).chain(words);
        let _ = Options::try_parse_from(words).map(|options| options.command.is_some() || options.server().is_ok());
    }
}
