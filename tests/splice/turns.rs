//! A worker's time is shared: a stream takes no more than one pipe's bytes at a time. And its descriptors are behind all that
//! tubectl looks at.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tubular_echo::kernel::ring::FileTable;
use tubular_echo::kernel::sys::Protocol;

use crate::exchange::{Sender, begin_splicing, exchange, stop_spliced};
use crate::support::random::payload;
use crate::support::registry::register_pid;
use crate::support::tcp::{connect, echo};
use crate::support::walkthrough::dispatcher;
use crate::support::{Launch, Server, bounded, private_network, until};

/// Sends 64 bytes and waits for them, again and again for this long, beside streams that never pause. Returns the median and
/// the 99th percentile.
fn small_beside_streams(server: &Server, streams: usize, time: Duration) -> [Duration; 2] {
    let bytes = payload(1, 1 << 20);
    let is_over = AtomicBool::new(false);
    let mut small = connect(server.tcp());
    small.set_nodelay(true).expect("TCP_NODELAY");
    let mut took: Vec<Duration> = thread::scope(|scope| {
        for _ in 0..streams {
            scope.spawn(|| {
                let stream = connect(server.tcp());
                while !is_over.load(Ordering::Relaxed) {
                    exchange(&stream, &bytes, Sender::Whole);
                }
            });
        }
        let begun = Instant::now();
        let mut took = Vec::new();
        while begun.elapsed() < time {
            let sent = Instant::now();
            echo(&mut small, &bytes[..64]);
            took.push(sent.elapsed());
        }
        is_over.store(true, Ordering::Relaxed);
        took
    });
    took.sort();
    assert!(took.len() >= 20, "only {} small messages in {time:?}", took.len());
    [took[took.len() / 2], took[took.len() * 99 / 100]]
}

/// Small messages wait no longer beside streams that are spliced than beside streams that are copied.
#[test]
fn small_messages_beside_streams_wait_no_longer() {
    const STREAMS: usize = 8;
    bounded(|| {
        let launch = || Launch::new(&["--tcp=127.0.0.1:0", "--workers=1"]);
        let (spliced, copied) = (launch().ready(), launch().deny(libc::SYS_splice, libc::ENOSYS).ready());
        // alternately, so that both meet the same machine
        let rounds = [&spliced, &copied].repeat(4);
        let took: Vec<_> = rounds
            .iter()
            .map(|server| small_beside_streams(server, STREAMS, Duration::from_secs(1)))
            .collect();
        let best = |first: usize, which: usize| {
            took.iter().skip(first).step_by(2).map(|took| took[which]).min().expect("rounds")
        };
        for (which, name) in ["median", "99th percentile"].into_iter().enumerate() {
            let [ours, theirs] = [best(0, which), best(1, which)];
            println!("{name} of 64 bytes beside {STREAMS} streams: {ours:?} spliced, {theirs:?} copied");
            assert!(ours < theirs * 2 + Duration::from_millis(2), "{name}: {ours:?} instead of {theirs:?}");
        }
        stop_spliced(spliced, "beside small messages", 0.2);
        assert_eq!(copied.stop().counter("tcp_bytes_spliced"), 0);
    });
}

/// Descriptors of a process.
fn descriptors_of(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("the server's descriptors").count()
}

#[test]
#[ignore = "needs root"]
fn streams_do_not_lengthen_the_walk_of_register_pid() {
    const STREAMS: usize = 5_000;
    private_network(|| {
        let dispatcher = dispatcher();
        let server = Server::start(&["--listen=127.0.0.1:1234", "--listen=[::1]:1234", "--workers=2"]);
        let addresses = ["127.0.0.1:1234", "[::1]:1234"].map(|at| at.parse().unwrap());
        let register = || {
            let each = addresses.into_iter().flat_map(|address| {
                [Protocol::Tcp, Protocol::Udp].map(|protocol| {
                    register_pid(&dispatcher.sockets, server.pid(), protocol, address)
                        .unwrap_or_else(|failure| panic!("register-pid {protocol} {address}: {failure}"))
                        .calls
                })
            });
            each.collect::<Vec<_>>()
        };
        let (calls, before) = (register(), descriptors_of(&server));
        let streams: Vec<TcpStream> = (0..STREAMS)
            .map(|number| {
                let stream = connect(addresses[number % 2]);
                exchange(&stream, &payload(number, 200_000), Sender::Whole);
                stream
            })
            .collect();
        // before Linux 6.13, each connection has a descriptor anyway
        let more = descriptors_of(&server) - before;
        assert!((STREAMS * 9 / 10..=STREAMS).contains(&more), "{more} descriptors of {STREAMS} streams");
        assert_eq!(register(), calls);
        for (number, stream) in streams.iter().enumerate() {
            exchange(stream, &payload(number, 1000), Sender::Whole);
        }
        println!("walks of {calls:?} steps, without and with {more} descriptors of {STREAMS} streams");
        drop(streams);
        until("their descriptors are closed", || descriptors_of(&server) == before);
        assert_eq!(register(), calls);
        stop_spliced(server, "5,000 streams", 0.01);
    });
}

/// A connection gets a descriptor only for large messages, and no other connection gets the same one while it is open.
#[test]
fn only_connections_with_large_messages_have_descriptors() {
    bounded(|| {
        const EACH: usize = 50;
        let server = Server::start(&["--tcp=127.0.0.1:0", "--workers=1"]);
        let before = descriptors_of(&server);
        for round in 1..4 {
            let mut small: Vec<_> = (0..EACH).map(|_| connect(server.tcp())).collect();
            for (number, stream) in small.iter_mut().enumerate() {
                echo(stream, &payload(number, 10_000));
            }
            let large: Vec<_> = (0..EACH).map(|_| connect(server.tcp())).collect();
            for stream in &large {
                begin_splicing(&server, stream);
            }
            let everyone = FileTable::best() == FileTable::Ordinary;
            let more = if everyone { 2 * EACH } else { EACH };
            assert_eq!(descriptors_of(&server), before + more, "round {round}");
            drop((small, large));
            until("all are closed", || descriptors_of(&server) == before);
        }
        stop_spliced(server, "descriptors", 0.05);
    });
}
