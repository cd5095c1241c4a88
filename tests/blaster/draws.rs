//! The addresses and ports that flows draw: no broadcast address, and no port at which a flow would meet itself.

use std::fs;

use crate::support::netns::ip;
use crate::support::{Launch, Server, private_network};
use crate::{blaster, counts, number, report, stderr};

/// The last sixteen addresses of loopback. All are served, and the last one is a broadcast address.
const LAST_OF_LOOPBACK: &str = "127.255.255.240/28";

fn server(address: &str) -> Server {
    Launch::new(&["--udp", address, "--tcp", address]).ready()
}

fn local_ports(range: &str) {
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", range).expect("our own network's setting");
}

/// With forty seeds, most runs drew a broadcast address, and nine runs did in a /24.
#[test]
#[ignore = "needs root"]
fn broadcast_addresses_are_not_drawn() {
    private_network(|| {
        let server = server("0.0.0.0:1234");
        let loads = [
            format!("udp {LAST_OF_LOOPBACK}:1234"),
            format!("udp {LAST_OF_LOOPBACK}:1234 --spray"),
            format!("udp 127.0.0.1:1234 --source {LAST_OF_LOOPBACK}"),
            format!("tcp {LAST_OF_LOOPBACK}:1234 --connections 64"),
        ];
        for seed in 0..40 {
            let load = &loads[seed % loads.len()];
            let found = report(&format!("{load} --seed {seed} --count 128"));
            assert_eq!(counts(&found), [("sent", 128), ("ok", 128)], "{load}, seed {seed}");
        }
        // broadcast addresses of its own networks too, also of networks that were set up without one
        ip("addr add 10.1.2.1/28 dev lo");
        for seed in 0..40 {
            let found = report(&format!("udp 10.1.2.0/28:1234 --seed {seed} --count 64"));
            assert_eq!(counts(&found), [("sent", 64), ("ok", 64)], "seed {seed}");
        }
        server.stop();
    });
}

/// If there is no other address to draw, the error says so, also if only the kernel knows.
#[test]
#[ignore = "needs root"]
fn a_target_that_is_nothing_but_broadcast_is_told() {
    private_network(|| {
        for protocol in ["udp", "tcp"] {
            let output = blaster(&format!("{protocol} 127.255.255.255:1234 --count 1"));
            let text = stderr(&output);
            assert!(output.status.code() == Some(2) && text.contains("mean a whole network"), "{text}");
        }
        let server = server("0.0.0.0:1234");
        ip("route add broadcast 127.0.0.4/32 dev lo table local");
        let output = blaster("udp 127.0.0.4/31:1234 --count 10");
        let text = stderr(&output);
        assert!(
            output.status.code() == Some(1) && text.contains("127.0.0.4:1234 is broadcast here"),
            "{text}"
        );
        // with --spray, the first draw is one of the two
        let sprays: Vec<_> = (0..16)
            .map(|seed| {
                let load = format!(
                    "udp 127.0.0.4/31:1234 --spray --flows 1 --count 40 --seed {seed} --quiet --json -"
                );
                let output = blaster(&load);
                String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output)
            })
            .collect();
        for words in ["127.0.0.4:1234 is broadcast here", "addresses that are broadcast here"] {
            assert!(sprays.iter().any(|text| text.contains(words)), "{words}: {}", sprays[0]);
        }
        // follow the advice
        let found = report("udp 127.0.0.5:1234 --count 10");
        assert_eq!(counts(&found), [("sent", 10), ("ok", 10)]);
        server.stop();
    });
}

/// The server takes a datagram from its own port number for one of another echo server.
#[test]
#[ignore = "needs root"]
fn no_flow_sends_from_the_port_that_it_sends_to() {
    private_network(|| {
        local_ports("50000 60000");
        let server = server("127.0.0.1:40010");
        local_ports("40000 40019");
        // the test needs all ports except the server's; each run has its own address, because a ring closes its sockets
        // some time after the process has ended
        let loads = ["udp 127.0.0.1:40010", "udp 127.0.0.1:40010 --spray", "udp 127.0.0.1:40010 --rate 1k"];
        for run in 0..15 {
            let load = loads[run % loads.len()];
            let found = report(&format!("{load} --source 127.0.1.{run} --flows 19 --count 190"));
            assert_eq!(counts(&found), [("sent", 190), ("ok", 190)], "{load}");
        }
        let end = server.stop();
        assert_eq!(end.counter("udp_refused_own_port"), 0);
    });
}

/// A datagram to its own sender comes back, and so does data on a connection to itself.
#[test]
#[ignore = "needs root"]
fn nobody_answers_himself() {
    private_network(|| {
        local_ports("40000 40019");
        let load =
            "udp 127.0.0.1:40000-40019 --spray --flows 10 --count 400 --timeout 100ms --json - --quiet";
        let output = blaster(load);
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a report");
        assert_eq!(number(&found["totals"]["ok"]), 0, "{}", found["totals"]);
        local_ports("40000 40003");
        for seed in 0..20 {
            for flags in ["--mode connect", "--source 127.0.0.1", ""] {
                let load = format!("tcp 127.0.0.1:40000 --connections 1 --count 1 --seed {seed} {flags}");
                let output = blaster(&load);
                let text = stderr(&output);
                assert!(
                    output.status.code() == Some(1) && text.contains("does the server listen"),
                    "{load}: {text}"
                );
            }
        }
    });
}
