//! Order and exact bytes, however the path cuts a stream, and however its sender does.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use crate::exchange::{Sender, exchange, expect, stop_spliced};
use crate::support::netns::{Netns, ip, set_offloads, setting};
use crate::support::random::{Random, payload};
use crate::support::tcp::{Conversation, connect, converse, expect_end};
use crate::support::{Launch, Server, bounded, private_network};

/// Bytes of each message.
const BYTES: usize = 6 << 20;

const ON_LOOPBACK: [&str; 3] = ["--tcp=127.0.0.1:0", "--tcp=[::1]:0", "--workers=1"];

fn on_loopback() -> Server {
    Server::start(&ON_LOOPBACK)
}

/// Exchanges a message by each sender over a connection of its own.
fn exchange_by_all(target: SocketAddr, connect: impl Fn(SocketAddr) -> TcpStream) {
    for (number, sender) in Sender::ALL.into_iter().enumerate() {
        let mut stream = connect(target);
        exchange(&stream, &payload(number, BYTES), sender);
        stream.shutdown(std::net::Shutdown::Write).expect("send a FIN");
        expect_end(&mut stream);
    }
}

#[test]
fn over_loopback() {
    bounded(|| {
        let server = on_loopback();
        for &(_, target) in server.addresses() {
            exchange_by_all(target, connect);
        }
        stop_spliced(server, "loopback", 0.5);
    });
}

/// The smallest MTU of IPv6, Ethernet's, and that of jumbo frames; large segments are cut and put together by the device,
/// or not.
fn over_a_cable(mtu: u32) {
    private_network(move || {
        let clients = Netns::new();
        Netns::cable("near", "far", &clients);
        let up = |device: &str, addresses: [&str; 2]| {
            setting(&format!("ipv6/conf/{device}/accept_dad"), "0");
            for address in addresses {
                ip(&format!("address add {address} dev {device}"));
            }
            ip(&format!("link set {device} mtu {mtu} up"));
        };
        up("near", ["192.0.2.1/24", "2001:db8::1/64"]);
        clients.run(|| up("far", ["192.0.2.2/24", "2001:db8::2/64"]));
        for offloads in [true, false] {
            set_offloads("near", offloads);
            clients.run(|| set_offloads("far", offloads));
            let server = Server::start(&["--tcp=192.0.2.1:0", "--tcp=[2001:db8::1]:0", "--workers=1"]);
            for &(_, target) in server.addresses() {
                exchange_by_all(target, |target| clients.run(|| connect(target)));
            }
            stop_spliced(server, &format!("MTU {mtu}, offloads {offloads}"), 0.5);
        }
    });
}

#[test]
#[ignore = "needs root"]
fn over_a_cable_with_the_smallest_mtu() {
    over_a_cable(1280);
}

#[test]
#[ignore = "needs root"]
fn over_a_cable_with_the_usual_mtu() {
    over_a_cable(1500);
}

#[test]
#[ignore = "needs root"]
fn over_a_cable_with_a_large_mtu() {
    over_a_cable(9000);
}

/// A connection is received from in another way once its messages are small, and again once they are large.
fn large_and_small_in_turn(start: fn() -> Server, what: &'static str) {
    bounded(move || {
        let server = start();
        for &(_, target) in server.addresses() {
            let mut stream = connect(target);
            let mut random = Random::new(3);
            for round in 0..60 {
                let large = random.between(1, 400_000);
                exchange(&stream, &random.bytes(large), Sender::Whole);
                // in half of the rounds as many as it takes, in the others too few
                for _ in 0..round % 2 * 20 + random.between(0, 8) {
                    let small = random.between(1, 3000);
                    let small = random.bytes(small);
                    stream.write_all(&small).expect("send");
                    expect(&stream, &small);
                }
            }
        }
        stop_spliced(server, what, 0.1);
    });
}

#[test]
fn large_and_small_messages_in_turn() {
    large_and_small_in_turn(on_loopback, "large and small");
}

/// As before Linux 6.13, where connections are not the ring's own.
#[test]
fn large_and_small_messages_in_turn_where_connections_are_ordinary_descriptors() {
    const REGISTER_FILES2: u32 = 13;
    let start = || Launch::new(&ON_LOOPBACK).deny_register(REGISTER_FILES2, libc::EINVAL).ready();
    large_and_small_in_turn(start, "large and small, ordinary descriptors");
}

/// One pipe serves all connections of a worker.
#[test]
fn bytes_of_one_connection_are_no_other_s() {
    bounded(|| {
        let server = on_loopback();
        let mut random = Random::new(4);
        let mut conversations: Vec<_> = (0..64)
            .map(|seed| {
                let (_, target) = server.addresses()[seed % 2];
                let piece_bytes_max = random.between(1_000, 200_000);
                Conversation::open(target, seed as u64, 3 << 20, piece_bytes_max)
            })
            .collect();
        converse(&mut conversations);
        conversations.into_iter().for_each(Conversation::close);
        let end = stop_spliced(server, "64 connections", 0.4);
        assert_eq!((end.counter("tcp_closed_finished"), end.counter("tcp_open")), (64, 0));
    });
}
