//! Datagrams that are not answered: each rule and each rate has a counter of its own, and all other clients notice
//! nothing.

mod support;

use std::net::{SocketAddr, UdpSocket};

use support::forge::forge;
use support::netns::ip;
use support::server::End;
use support::udp::UdpClient;
use support::{Server, private_network};

const BOUND: [&str; 2] = ["127.0.0.1:1234", "[::1]:1234"];

/// The rules' counters.
const RULES: [&str; 6] = [
    "udp_refused_system_port",
    "udp_refused_bad_source",
    "udp_refused_bad_destination",
    "udp_refused_own_pair",
    "udp_refused_own_port",
    "udp_refused_reflector_port",
];

/// Exchanges with each address while the rules refuse others. Returns how many were answered.
fn clients_notice_nothing(targets: &[SocketAddr]) -> u64 {
    const EXCHANGES: usize = 20;
    for &target in targets {
        UdpClient::beside(target).echo(target, &[64; EXCHANGES], 1);
    }
    (EXCHANGES * targets.len()) as u64
}

/// Sends one datagram to all hosts of this network at once.
fn broadcast(port: u16) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_broadcast(true).expect("SO_BROADCAST");
    socket.send_to(b"everybody", ("255.255.255.255", port)).expect("broadcast");
}

fn counted(end: &End, wanted: [u64; RULES.len()], answered: u64) {
    assert_eq!(RULES.map(|name| end.counter(name)), wanted, "{RULES:?}");
    assert_eq!(end.counter("udp_datagrams_out"), answered);
    assert_eq!(end.counter("udp_datagrams_in"), answered + wanted.iter().sum::<u64>());
}

/// Each rule gets a different number of datagrams, so that no rule can count in another one's place.
#[test]
#[ignore = "needs root"]
fn each_rule_counts_what_it_refuses_and_a_client_notices_nothing() {
    private_network(|| {
        ip("route add local 255.1.2.3/32 dev lo");
        ip("route add 255.255.255.255/32 dev lo");
        for public in [true, false] {
            let options: &[&str] = if public { &["--public"] } else { &[] };
            let listen = ["--udp=127.0.0.1:1234", "--udp=[::1]:1234", "--udp=0.0.0.0:1235"];
            let server = Server::start(&[&listen, options].concat());
            let [v4, v6] = BOUND.map(|addr| addr.parse::<SocketAddr>().expect("an address"));
            let from = |text: &str, to: SocketAddr, count: usize| {
                let from = text.parse().expect("an address");
                (0..count).for_each(|_| forge(from, to, b"is anybody there?"));
            };
            from("127.0.0.9:7", v4, 1);
            from("[::1]:1023", v6, 2);
            from("255.1.2.3:5000", v4, 5);
            (0..7).for_each(|_| broadcast(1235));
            from(BOUND[0], v4, 4);
            from(BOUND[1], v6, 5);
            from("127.0.0.9:1234", v4, 6);
            from("127.0.0.9:1235", v4, 5);
            from("127.0.0.9:1900", v4, 13);
            let exchanged = clients_notice_nothing(&[v4, v6]);
            let (refused, answered) = if public { (13, exchanged) } else { (0, exchanged + 13) };
            counted(&server.stop(), [3, 5, 7, 9, 11, refused], answered);
        }
    });
}

/// The datagrams above one rate count under its counter and under no other.
#[test]
#[ignore = "needs root"]
fn each_rate_counts_what_is_over_it() {
    const SENT: u64 = 50;
    private_network(|| {
        for (option, over, other) in [
            ("--udp-prefix-rate=1", "udp_refused_prefix_rate", "udp_refused_reply_rate"),
            ("--udp-reply-rate=1", "udp_refused_reply_rate", "udp_refused_prefix_rate"),
        ] {
            let server = Server::start(&["--udp=127.0.0.1:1234", option]);
            let client = UdpClient::at([127, 0, 0, 1]);
            (0..SENT).for_each(|_| client.send(server.udp(), b"more"));
            let end = server.stop();
            let answered = end.counter("udp_datagrams_out");
            assert!((1..SENT).contains(&answered), "{answered} answered");
            assert_eq!((end.counter(over), end.counter(other)), (SENT - answered, 0), "{option}");
            counted_nothing(&end);
        }
    });
}

fn counted_nothing(end: &End) {
    assert_eq!(RULES.map(|name| end.counter(name)), [0; RULES.len()], "{RULES:?}");
}
