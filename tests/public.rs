//! How much strangers can make the server send: limited for each source and in total. Without `--public`, a warning says
//! that strangers are served.

mod support;

use std::net::SocketAddr;
use std::time::Instant;

use support::forge::forge;
use support::netns::ip;
use support::server::End;
use support::udp::UdpClient;
use support::{PATIENCE, Server, bounded, private_network, until};

/// Waits until the server has received everything that was sent: on loopback the kernel delivers at once.
fn until_received(server: &Server, count: u64) {
    let counted = |lines: &[String]| {
        lines
            .iter()
            .rev()
            .find_map(|line| counter(line, "udp_datagrams_in"))
            .is_some_and(|seen| seen >= count)
    };
    assert!(server.log.wait_for(PATIENCE, counted), "{count} datagrams never arrived");
}

/// A counter in a line of the log.
fn counter(line: &str, name: &str) -> Option<u64> {
    let words = line.split_once("counters:")?.1.split_whitespace();
    words.filter_map(|word| word.split_once('=')).find(|(found, _)| *found == name)?.1.parse().ok()
}

/// The counter's last value in the log.
fn last(server: &Server, name: &str) -> u64 {
    server.log.all().iter().rev().find_map(|line| counter(line, name)).unwrap_or(0)
}

const OFTEN: &str = "--stats-interval=20ms";

// Rates ----------------------------------------------------------------------------------------------

#[test]
#[ignore = "needs root"]
fn a_source_is_answered_at_its_rate_and_no_other_pays_for_it() {
    const RATE: u64 = 50;
    const SENT: u64 = 1000;
    bounded(|| {
        let server = Server::start(&["--udp=127.0.0.1:0", "--udp-prefix-rate=50", OFTEN]);
        let target = server.udp();
        let begun = Instant::now();
        // two addresses of one /24
        let clients = [UdpClient::at([127, 1, 2, 3]), UdpClient::at([127, 1, 2, 250])];
        for number in 0..SENT as usize {
            clients[number % 2].send(target, b"more");
        }
        UdpClient::at([127, 1, 3, 3]).echo(target, &[64; RATE as usize], 1);
        until_received(&server, SENT + RATE);
        let elapsed = begun.elapsed();
        let end = server.stop();
        let answered = end.counter("udp_datagrams_out") - RATE;
        let most = RATE + (RATE as f64 * elapsed.as_secs_f64()).ceil() as u64;
        println!("{answered} of {SENT} answered in {elapsed:?}, {most} allowed");
        assert!((RATE..=most).contains(&answered));
        assert_eq!(end.counter("udp_refused_prefix_rate"), SENT - answered);
    });
}

#[test]
#[ignore = "needs root"]
fn an_ipv6_source_is_a_56() {
    private_network(|| {
        for address in ["fd00:0:0:100::1", "fd00:0:0:1ff::1", "fd00:0:0:200::1"] {
            ip(&format!("address add {address}/128 dev lo nodad"));
        }
        let server = Server::start(&["--udp=[::1]:1234", "--udp-prefix-rate=10", OFTEN]);
        let client = |address: &str| UdpClient::at(address.parse::<std::net::Ipv6Addr>().unwrap());
        client("fd00:0:0:100::1").echo(server.udp(), &[64; 10], 1);
        let same = client("fd00:0:0:1ff::1");
        let sent = (0..1000).take_while(|_| same.socket.send_to(b"more", server.udp()).is_ok()).count();
        until_received(&server, 10 + sent as u64);
        client("fd00:0:0:200::1").echo(server.udp(), &[64; 10], 1);
        let end = server.stop();
        assert!(end.counter("udp_refused_prefix_rate") > sent as u64 / 2);
    });
}

#[test]
#[ignore = "needs root"]
fn all_sources_together_are_answered_at_a_rate_too() {
    const RATE: u64 = 1000;
    const SENT: u64 = 2000;
    bounded(|| {
        // the workers share the rate evenly; here each client reaches only one of them
        let server = Server::start(&["--udp=127.0.0.1:0", "--udp-reply-rate=1000", OFTEN]);
        let begun = Instant::now();
        let clients: Vec<_> = (0..20).map(|number| UdpClient::at([127, 1, number, 1])).collect();
        for number in 0..SENT as usize {
            clients[number % clients.len()].send(server.udp(), b"more");
        }
        until_received(&server, SENT);
        let elapsed = begun.elapsed();
        let end = server.stop();
        let answered = end.counter("udp_datagrams_out");
        let most = RATE / 10 + (RATE as f64 * elapsed.as_secs_f64()).ceil() as u64;
        println!("{answered} of {SENT} answered in {elapsed:?}, {most} allowed");
        assert!((RATE / 10..=most).contains(&answered));
        assert_eq!(end.counter("udp_refused_reply_rate"), SENT - answered);
    });
}

// Loops that no rule can tell from a client ----------------------------------------------------------

/// Two servers on different ports of two hosts, as each of them sees it.
const STRANGERS: [&str; 2] = ["127.0.1.1:2001", "127.0.2.1:2002"];

fn two_strangers(options: &[&str]) -> [(Server, SocketAddr); 2] {
    STRANGERS.map(|address| {
        let server = Server::start(&[&["--udp", address, OFTEN], options].concat());
        (server, address.parse().unwrap())
    })
}

#[test]
#[ignore = "needs root"]
fn without_a_rate_two_servers_on_different_ports_answer_each_other_for_ever() {
    private_network(|| {
        let servers = two_strangers(&[]);
        let [(_, one), (_, other)] = &servers;
        forge(*one, *other, b"round and round");
        // docs/internet.md warns of this; it tests only that the next test shows anything
        for (server, _) in &servers {
            until_received(server, 10_000);
        }
    });
}

#[test]
#[ignore = "needs root"]
fn on_the_internet_two_servers_answer_each_other_at_the_rate_and_no_more() {
    const FORGED: u64 = 2000;
    const RATE: u64 = 200; // what --public sets
    const TRAIN: u64 = 64;
    private_network(|| {
        let servers = two_strangers(&["--public"]);
        let [(_, one), (_, other)] = &servers;
        let begun = Instant::now();
        for _ in 0..FORGED {
            forge(*one, *other, b"round and round");
        }
        // the loop is over when each server has received a datagram that it did not answer
        until("every datagram is refused in the end", || {
            let refused = |(server, _): &(Server, SocketAddr)| last(server, "udp_refused_prefix_rate");
            servers.iter().map(refused).sum::<u64>() == FORGED
        });
        let elapsed = begun.elapsed();
        println!("at rest after {elapsed:?}");
        for (server, address) in servers {
            let end = server.stop();
            let answered = end.counter("udp_datagrams_out");
            // a train passes as a whole, and the loop makes trains
            let most = RATE + (RATE as f64 * elapsed.as_secs_f64()).ceil() as u64 + TRAIN;
            println!("{address}: {answered} answered, {most} allowed");
            assert!((RATE..=most).contains(&answered));
        }
    });
}

#[test]
#[ignore = "needs root"]
fn services_that_are_known_to_reflect_are_not_answered_on_the_internet() {
    private_network(|| {
        let ports = [1900, 5353, 11_211, 27_015];
        for (public, refused) in [(&["--public"] as &[&str], true), (&[], false)] {
            let server = Server::start(&[&["--udp=127.0.0.1:1234"], public].concat());
            for port in ports {
                forge(SocketAddr::from(([127, 0, 0, 9], port)), server.udp(), b"from a reflector");
            }
            UdpClient::at([127, 0, 0, 1]).echo(server.udp(), &[64; 10], 1);
            let end = server.stop();
            let expected = if refused { ports.len() as u64 } else { 0 };
            assert_eq!(end.counter("udp_refused_reflector_port"), expected);
            assert_eq!(end.counter("udp_datagrams_out"), 10 + ports.len() as u64 - expected);
        }
    });
}

// Warnings -------------------------------------------------------------------------------------------

fn times_told(end: &End, text: &str) -> usize {
    end.stderr.iter().filter(|line| line.contains(text) && !line.contains("counters:")).count()
}

#[test]
#[ignore = "needs root"]
fn a_public_address_without_public_costs_one_warning() {
    private_network(|| {
        ip("address add 11.0.0.1/32 dev lo");
        ip("address add 2600::1/128 dev lo nodad");
        let addresses = ["--udp=11.0.0.1:1234", "--udp=[2600::1]:1234", "--udp=127.0.0.1:1234"];
        for (public, told) in [(&[] as &[&str], true), (&["--public"], false)] {
            let server = Server::start(&[&addresses, public].concat());
            for &(_, target) in server.addresses() {
                UdpClient::bound_to(SocketAddr::new(target.ip(), 0)).echo(target, &[64; 5], 1);
            }
            if told {
                let says = |lines: &[String]| lines.iter().any(|line| line.contains("--public"));
                assert!(server.log.wait_for(PATIENCE, says), "nobody was warned");
            }
            let end = server.stop();
            assert_eq!(end.counter("udp_exposed"), if told { 10 } else { 0 });
            assert_eq!(times_told(&end, "--public"), usize::from(told));
            assert_eq!(end.counter("udp_datagrams_out"), 15);
        }
    });
}
