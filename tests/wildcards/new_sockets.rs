//! Reply sockets are made at a rate, delay nobody else, and go when they are idle.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tubular_echo::kernel::sys::{self as server_sys};

use crate::support::random::{Random, payload};
use crate::support::steered::Family::{self, V4, V6};
use crate::support::steered::{FREE_PORTS, PORT, Steered, User};
use crate::support::udp::UdpClient;
use crate::support::{netns, private_network, until};

use crate::{bind, bytes, ping_pong};

/// Sprays random addresses with one of these ports until it is told to stop. Returns the number of datagrams. Now and
/// then it waits for a reply, so that its queued datagrams always fit the socket's buffer.
fn spray(family: Family, ports: RangeInclusive<u16>, stop: &AtomicBool) -> u64 {
    const PER_SECOND: f64 = 40_000.0;
    const QUEUED_MAX: u64 = 200;
    let mut random = Random::new(11);
    let (client, bound) = (UdpClient::at(family.loopback()), SocketAddr::new(family.ip(&mut random), PORT));
    server_sys::drop_incoming(client.socket.as_fd()).expect("SO_ATTACH_FILTER");
    let begun = Instant::now();
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        if (sent as f64) > begun.elapsed().as_secs_f64() * PER_SECOND {
            thread::sleep(Duration::from_micros(100));
            continue;
        }
        client.send(family.pair(&mut random, ports.clone()), b"spray");
        sent += 1;
        if sent % QUEUED_MAX == 0 {
            ping_pong(bound, 1);
        }
    }
    sent
}

#[test]
#[ignore = "needs root"]
fn a_spray_of_random_ports_makes_sockets_at_their_rate_and_loses_nothing_on_the_bound_port() {
    const PINGS: usize = 5_000;
    const RATE: f64 = 1_000.0;
    private_network(|| {
        let begun = Instant::now();
        let steered = Steered::start(User::Root, &["--reply-socket-rate=1000"]);
        for family in [V4, V6] {
            let target = SocketAddr::new(family.ip(&mut Random::new(12)), PORT);
            let print = |when: &str, times: &[Duration]| {
                println!("{family:?}, {when}: p50 {:?}, p99 {:?}", times[PINGS / 2], times[PINGS * 99 / 100]);
            };
            print("no spray", &ping_pong(target, PINGS));
            // the first load uses the bound port, which shows the cost of a spray that opens no sockets
            for ports in [PORT..=PORT, FREE_PORTS] {
                let stop = AtomicBool::new(false);
                let (sprayed, times) = thread::scope(|scope| {
                    let sprayer = scope.spawn(|| spray(family, ports.clone(), &stop));
                    let times = ping_pong(target, PINGS);
                    stop.store(true, Ordering::Relaxed);
                    (sprayer.join().expect("the sprayer"), times)
                });
                print(&format!("{sprayed} datagrams sprayed to {ports:?}"), &times);
            }
        }
        let end = steered.stop(&["udp_reply_sockets_limited"]);
        let (made, limited) =
            (end.counter("udp_reply_sockets_made"), end.counter("udp_reply_sockets_limited"));
        // the server may open the sockets of 100 ms at once
        let most = RATE * (begun.elapsed().as_secs_f64() + 0.1);
        println!("{made} reply sockets made, at most {most:.0}, {limited} datagrams dropped");
        assert!(limited > 0, "the spray was too slow to meet the limit");
        assert!(made as f64 <= most, "{made} sockets made, {most:.0} allowed");
    });
}

/// In each turn, datagrams to the bound port are answered first, and those that need a new socket wait until it is
/// open. The server finds all of them at once, with the bound port last. A turn may end among them: the kernel delivers
/// 32 at a time.
#[test]
#[ignore = "needs root"]
fn a_flow_on_the_bound_port_does_not_wait_for_new_sockets() {
    const NEW: usize = 30;
    const ROUNDS: usize = 5;
    private_network(|| {
        let steered = Steered::start(User::Root, &["--workers=1"]);
        for (family, seed) in [(V4, 20), (V6, 21)] {
            let client = UdpClient::at(family.loopback());
            let mut answered_before = 0;
            for round in 0..ROUNDS {
                let mut pairs = family.pairs(seed + 10 * round as u64, NEW);
                let bound = SocketAddr::new(pairs[0].ip(), PORT);
                pairs.push(bound);
                steered.server.pause();
                pairs.iter().enumerate().for_each(|(number, pair)| client.send(*pair, &bytes(number)));
                steered.server.resume();
                let order: Vec<_> = pairs
                    .iter()
                    .map(|_| {
                        let arrival = client.receive();
                        let number = pairs.iter().position(|pair| *pair == arrival.from);
                        let number = number.unwrap_or_else(|| panic!("nobody asked {}", arrival.from));
                        assert_eq!(arrival.payload, bytes(number));
                        number
                    })
                    .collect();
                answered_before += order.iter().position(|number| *number == NEW).expect("the bound port's");
            }
            println!("{family:?}: of {} new ports {answered_before} were answered before", ROUNDS * NEW);
            assert!(answered_before < ROUNDS * NEW / 2, "{family:?}: {answered_before} were answered before");
        }
        let end = steered.stop(&[]);
        assert_eq!(end.counter("udp_reply_sockets_made"), (2 * ROUNDS * NEW) as u64);
    });
}

/// After a pause the server finds all queued datagrams at once. It must not open sockets faster than before.
#[test]
#[ignore = "needs root"]
fn new_ports_that_were_asked_during_a_pause_are_all_answered() {
    const PORTS: usize = 400;
    private_network(|| {
        let steered = Steered::start(User::Root, &[]);
        for family in [V4, V6] {
            let pairs = family.pairs(18, PORTS);
            let client = UdpClient::beside(pairs[0]);
            steered.server.pause();
            pairs.iter().zip(0..).for_each(|(pair, number)| client.send(*pair, &payload(number, 64)));
            steered.server.resume();
            pairs.iter().zip(0..).for_each(|(pair, number)| client.expect(*pair, &payload(number, 64)));
        }
        let end = steered.stop(&[]);
        assert_eq!(end.counter("udp_reply_sockets_made"), 2 * PORTS as u64);
    });
}

#[test]
#[ignore = "needs root"]
fn a_socket_for_a_peer_that_is_sent_no_trains_goes_when_it_is_idle() {
    private_network(|| {
        let steered = Steered::start(User::Root, &["--reply-socket-idle=200ms"]);
        // the kernel refuses trains of datagrams of 1,400 on this way
        netns::ip("route replace local 127.0.0.77 dev lo mtu 1280");
        let client = UdpClient::at([127, 0, 0, 77]);
        for pair in V4.pairs(17, 2) {
            // the kernel refuses the first pair's train; the second one's is not tried, because no socket is left for
            // it
            let train = payload(0, 1400 * 5);
            client.send_train(pair, &train, 1400);
            train.chunks(1400).for_each(|datagram| client.expect(pair, datagram));
            assert!(bind(pair).is_err(), "a reply socket is bound to it");
            until("the port is free", || bind(pair).is_ok());
        }
        let end = steered.stop(&[]);
        assert_eq!(end.counter("udp_trains_refused"), 1);
        assert_eq!(end.counter("udp_reply_sockets_made"), 2);
    });
}
