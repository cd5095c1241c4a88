//! UDP datagrams: every size, more at once than the server has buffers for, and fairness between sockets.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use support::random::{Random, payload};
use support::tcp::{connect, echo};
use support::udp::UdpClient;
use support::{PATIENCE, Server, bounded, private_network};

/// The largest payload of a datagram over IPv4: 65,535 bytes without the headers of IPv4 and UDP.
const V4_BYTES_MAX: usize = 65_507;
/// The largest payload over IPv6, whose length field does not count its own header.
const V6_BYTES_MAX: usize = 65_527;

/// More datagrams than any buffer ring of the server has buffers.
const BURST: usize = 2_000;

fn both_families() -> Server {
    Server::start(&["--udp", "127.0.0.1:0", "--udp", "[::1]:0"])
}

fn v4(server: &Server) -> SocketAddr {
    server.addresses().iter().find(|(_, address)| address.is_ipv4()).expect("an IPv4 address").1
}

fn v6(server: &Server) -> SocketAddr {
    server.addresses().iter().find(|(_, address)| address.is_ipv6()).expect("an IPv6 address").1
}

#[test]
fn sizes_from_nothing_to_the_largest() {
    bounded(|| {
        let server = both_families();
        for (target, bytes_max) in [(v4(&server), V4_BYTES_MAX), (v6(&server), V6_BYTES_MAX)] {
            let sizes = [0, 1, 1472, 1473, bytes_max, 0, bytes_max - 1, 1];
            let client = UdpClient::beside(target);
            client.echo(target, &sizes, 1);
            client.expect_nothing_for(Duration::from_millis(50));
        }
        let end = server.stop();
        assert_eq!((end.counter("udp_datagrams_in"), end.counter("udp_datagrams_out")), (16, 16));
        assert_eq!(end.counter("udp_truncated"), 0);
    });
}

#[test]
fn every_small_size_in_flight_together() {
    bounded(|| {
        let server = both_families();
        let sizes: Vec<_> = (0..=1600).collect();
        for target in [v4(&server), v6(&server)] {
            UdpClient::beside(target).echo(target, &sizes, 50);
        }
        server.stop();
    });
}

/// Queues all these datagrams while the server is stopped, then expects every echo in order.
fn burst(server: &Server, target: SocketAddr, sizes: &[usize]) {
    let client = UdpClient::beside(target);
    server.pause();
    for (number, &size) in sizes.iter().enumerate() {
        client.send(target, &payload(number, size));
    }
    server.resume();
    for (number, &size) in sizes.iter().enumerate() {
        client.expect(target, &payload(number, size));
    }
    client.expect_nothing_for(Duration::from_millis(50));
}

#[test]
#[ignore = "needs root"]
fn bursts_larger_than_the_buffer_ring() {
    bounded(|| {
        let server = both_families();
        let mut random = Random::new(7);
        for target in [v4(&server), v6(&server)] {
            burst(&server, target, &[64; BURST]);
            let sizes: Vec<_> = (0..BURST).map(|_| random.between(0, 1200)).collect();
            burst(&server, target, &sizes);
        }
        let end = server.stop();
        let sent = 4 * BURST as u64;
        assert_eq!((end.counter("udp_datagrams_in"), end.counter("udp_datagrams_out")), (sent, sent));
        // otherwise the burst was too small to show anything
        assert!(end.counter("udp_no_buffers") > 0, "the buffer ring never ran empty");
    });
}

#[test]
#[ignore = "needs root"]
fn a_burst_of_large_datagrams() {
    bounded(|| {
        let server = both_families();
        burst(&server, v4(&server), &[V4_BYTES_MAX; 40]);
        burst(&server, v6(&server), &[V6_BYTES_MAX; 40]);
        server.stop();
    });
}

#[test]
#[ignore = "needs root"]
fn a_burst_of_many_flows() {
    bounded(|| {
        let server = both_families();
        let clients: Vec<_> = (0..200)
            .map(|number| {
                let target = if number % 2 == 0 { v4(&server) } else { v6(&server) };
                (UdpClient::beside(target), target)
            })
            .collect();
        server.pause();
        for round in 0..10 {
            for (number, (client, target)) in clients.iter().enumerate() {
                client.send(*target, &payload(number * 10 + round, 100 + number));
            }
        }
        server.resume();
        for (number, (client, target)) in clients.iter().enumerate() {
            for round in 0..10 {
                client.expect(*target, &payload(number * 10 + round, 100 + number));
            }
        }
        server.stop();
    });
}

#[test]
#[ignore = "needs root"]
fn empty_datagrams_in_a_flood() {
    bounded(|| {
        let server = both_families();
        // each empty datagram ends the receive operation that delivers it
        let mixed: Vec<_> =
            (0..10_000).map(|number| if number % 3 == 0 { 0 } else { number % 100 }).collect();
        for target in [v4(&server), v6(&server)] {
            UdpClient::beside(target).echo(target, &mixed, 100);
            burst(&server, target, &[0; BURST]);
            burst(&server, target, &mixed[..BURST]);
        }
        server.stop();
    });
}

#[test]
#[ignore = "needs root"]
fn peers_that_vanish_disturb_nobody() {
    bounded(|| {
        let server = both_families();
        for target in [v4(&server), v6(&server)] {
            let stayed = UdpClient::beside(target);
            server.pause();
            for number in 0..200 {
                // its reply reaches a closed port, and an ICMP error comes back
                UdpClient::beside(target).send(target, b"and gone");
                stayed.send(target, &payload(number, 64));
            }
            server.resume();
            for number in 0..200 {
                stayed.expect(target, &payload(number, 64));
            }
        }
        server.stop();
    });
}

/// How many datagrams the kernel has dropped because the buffer of this IPv4 socket was full.
fn dropped_at(target: SocketAddr) -> u64 {
    let port = format!(":{:04X}", target.port());
    let table = fs::read_to_string("/proc/thread-self/net/udp").expect("the namespace's UDP sockets");
    let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = rows.find(|row| row[1].ends_with(&port)).expect("the server's socket");
    row.last().expect("the column of drops").parse().expect("a number of drops")
}

#[test]
#[ignore = "needs root"]
fn a_flood_on_one_socket_leaves_the_others_their_turn() {
    private_network(|| {
        const PROBES: usize = 200;
        let server = Server::start(&["--listen", "127.0.0.1:7", "--udp", "[::1]:7"]);
        let (flooded, quiet) = (v4(&server), v6(&server));
        let over = Arc::new(AtomicBool::new(false));
        let flooder = UdpClient::beside(flooded);
        let flooding = {
            let over = Arc::clone(&over);
            thread::spawn(move || {
                // for the sender, a train costs a fraction of what its answers cost the server
                let train = payload(0, 64 * 8);
                while !over.load(Ordering::Relaxed) {
                    flooder.send_train(flooded, &train, 8);
                }
            })
        };
        while dropped_at(flooded) == 0 {
            thread::sleep(Duration::from_millis(1));
        }
        let before = dropped_at(flooded);
        let udp = UdpClient::beside(quiet);
        let mut tcp = connect(flooded);
        for number in 0..PROBES {
            // both are in flight together: each waits for one or two turns of the server
            udp.send(quiet, &payload(number, 100));
            tcp.write_all(&payload(number, 100)).expect("send");
            udp.expect(quiet, &payload(number, 100));
            let mut back = [0; 100];
            tcp.read_exact(&mut back).expect("an echo");
            assert!(back[..] == payload(number, 100), "other bytes came back");
            if number % 10 == 0 {
                echo(&mut connect(flooded), b"and who comes only now");
            }
        }
        let after = dropped_at(flooded);
        over.store(true, Ordering::Relaxed);
        flooding.join().expect("the flood");
        // otherwise the server kept up, and the test showed nothing
        assert!(after > before, "the flood was not more than the server can do");
        let told = server.log.wait_for(PATIENCE, |lines| {
            lines.iter().any(|line| line.contains("WARN the kernel drops datagrams"))
        });
        assert!(told, "nobody was told of the drops");
        // root's buffers have the size that the server asks for
        let has_whole_buffers = !server.log.all().iter().any(|line| line.contains("UDP receive buffers are"));
        let advice = if has_whole_buffers {
            "ask for more --workers, and"
        } else {
            "raise net.core.rmem_max to 4194304"
        };
        let is_told = |lines: &[String]| {
            lines.iter().any(|line| line.contains("drops datagrams") && line.contains(advice))
        };
        assert!(server.log.wait_for(PATIENCE, is_told), "{:?}", server.log.all());
        let dropped = dropped_at(flooded);
        assert_eq!(server.stop().counter("udp_receive_buffer_drops"), dropped);
    });
}
