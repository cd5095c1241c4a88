//! Resources that run out: descriptors, the accept queue, connections; and peers that do not read or never finish.
//! Memory stays bounded, connections wait instead of being refused, the counters show what happened, and all other peers
//! are served. The tests print their speed beside that of an undisturbed server.

mod support;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use support::blaster::{Blaster, Report};
use support::netns::{ip, setting};
use support::tcp::{connect, echo};
use support::{Launch, PATIENCE, Server, bounded, private_network, sys};

/// AddressSanitizer (ci/asan) needs memory of its own.
const UNDER_SANITIZER: u64 = if cfg!(ring_poison) { 16 } else { 1 };

/// A light load beside the heavy ones.
const EVERYBODY_ELSE: &str = "--rate 500 --flows 16 --duration 2s --timeout 8s";

fn start(more: &[&str]) -> Server {
    Server::start(&[&["--listen=127.0.0.1:0"], more].concat())
}

/// Resident memory of a process in KiB (proc(5)).
fn resident_kib(server: &Server) -> u64 {
    let path = format!("/proc/{}/smaps_rollup", server.pid());
    let text = fs::read_to_string(path).expect("the process's memory");
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).expect("resident memory");
    line.split_whitespace().next().expect("a number").parse().expect("a number")
}

/// The datagrams of all other peers: every one must come back. Returns the 99th percentile in microseconds.
fn everybody_else(server: &Server) -> f64 {
    let report = Report::of(&format!("udp {} {EVERYBODY_ELSE}", server.udp()));
    report.expect("everybody else", &[("ok", report.total("sent"))]);
    report.p99_us()
}

/// Opens this many connections without expecting an answer yet.
fn crowd(target: SocketAddr, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| connect(target)).collect()
}

/// The limit of descriptors allows only a few connections. The server serves that many; all others wait in the queue
/// and lose nothing.
#[test]
fn few_descriptors() {
    bounded(|| {
        let server = Launch::new(&["--listen=127.0.0.1:0", "--reply-sockets=0"])
            .limit(libc::RLIMIT_NOFILE, 64)
            .ready();
        let warned = server
            .log
            .all()
            .iter()
            .find_map(|line| line.split_once("serving up to ")?.1.split(' ').next()?.parse().ok());
        let served: usize = warned.expect("a warning with a number");
        assert!((10..64).contains(&served), "{served}");
        let mut waiting = crowd(server.tcp(), 5 * served);
        let calm = everybody_else(&server);
        while !waiting.is_empty() {
            // the queue is served in order: each connection that ends lets the next one in
            let mut leaving: Vec<_> = waiting.drain(..served).collect();
            for stream in &mut leaving {
                echo(stream, b"its turn");
            }
        }
        let end = server.stop();
        assert_eq!(end.counter("tcp_accepted"), 5 * served as u64);
        assert_eq!(end.counter("tcp_accept_errors"), 0);
        assert!(end.counter("tcp_limit_reached") > 0);
        println!(
            "{} of {} connections served at a time, datagrams beside them: p99 {calm:.0} µs",
            served,
            5 * served
        );
    });
}

/// More connections than the queue holds, while the server accepts none. The kernel makes the rest try again, and in
/// the end all are served.
#[test]
#[ignore = "needs root"]
fn a_full_accept_queue() {
    private_network(|| {
        const QUEUE: usize = 16;
        const CLIENTS: usize = 100;
        setting("core/somaxconn", &QUEUE.to_string());
        let server = start(&[]);
        let target = server.tcp();
        server.pause();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let client = move || echo(&mut connect(target), format!("client {number}").as_bytes());
                let own = fs::File::open("/proc/thread-self/ns/net").expect("the thread's network namespace");
                thread::spawn(move || {
                    sys::join_network(&own).expect("setns");
                    client();
                })
            })
            .collect();
        let overflows = || -> u64 {
            let text = fs::read_to_string("/proc/thread-self/net/netstat").expect("the network's counters");
            let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
            let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
            let place = names.split(' ').position(|name| name == "ListenOverflows").expect("a counter");
            values.split(' ').nth(place).expect("a value").parse().expect("a number")
        };
        support::until("the queue is full", || overflows() > 0);
        server.resume();
        let begun = Instant::now();
        for client in clients {
            client.join().expect("a client");
        }
        println!(
            "{CLIENTS} clients at a queue of {QUEUE}: all served {:.1} s later",
            begun.elapsed().as_secs_f32()
        );
        let end = server.stop();
        assert_eq!(end.counter("tcp_accepted"), CLIENTS as u64);
        assert_eq!(end.counter("tcp_accept_errors"), 0);
    });
}

/// 15,000 connections at once, from two processes.
#[test]
#[ignore = "needs root"]
fn fifteen_thousand_connections() {
    private_network(|| {
        const EACH: u64 = 7500;
        /// The server's own memory for each connection that has sent data.
        const BYTES_MAX: u64 = 512 * UNDER_SANITIZER;
        let server = start(&["--max-connections=15000", "--reply-sockets=100", "--stats-interval=20ms"]);
        let calm = everybody_else(&server);
        let before = resident_kib(&server);
        let begun = Instant::now();
        let load = format!("tcp {} --connections {EACH} --duration 60s --timeout 60s", server.tcp());
        let crowds = [Blaster::start(&load), Blaster::start(&load)];
        let all = format!(" tcp_open={} ", 2 * EACH);
        let is_open = |lines: &[String]| lines.last().is_some_and(|line| line.contains(&all));
        assert!(server.log.wait_for(PATIENCE, is_open), "they were never open all at once");
        let open_after = begun.elapsed();
        let disturbed = everybody_else(&server);
        crowds.iter().for_each(Blaster::end);
        let mut messages = 0;
        for report in crowds.map(Blaster::finish) {
            report.expect("a crowd", &[("ok", report.total("sent"))]);
            assert_eq!(report.established(), EACH);
            messages += report.total("sent");
        }
        let grown = (resident_kib(&server).saturating_sub(before)) * 1024 / (2 * EACH);
        println!(
            "15,000 connections open after {:.1} s, {messages} messages, {grown} bytes of the server's memory for each \
             connection; datagrams p99 {calm:.0} µs before, {disturbed:.0} µs beside 15,000 that never pause",
            open_after.as_secs_f32()
        );
        assert!(grown <= BYTES_MAX, "{grown} bytes for each connection");
        let end = server.stop();
        assert_eq!(end.counter("tcp_accepted"), 2 * EACH);
        assert_eq!(end.counter("tcp_closed_error") + end.counter("tcp_accept_errors"), 0);
    });
}

/// Peers that send and never read: each costs the bytes of one receive, and does not slow down other peers.
#[test]
#[ignore = "needs root"]
fn peers_that_never_read() {
    private_network(|| {
        const PEERS: usize = 300;
        ip("link set lo mtu 1500");
        setting("ipv4/tcp_rmem", "4096 16384 16384");
        setting("ipv4/tcp_wmem", "4096 16384 16384");
        let server = start(&[]);
        let calm = everybody_else(&server);
        let before = resident_kib(&server);
        let mut peers = crowd(server.tcp(), PEERS);
        for peer in &peers {
            peer.set_nonblocking(true).expect("a connection that does not block");
        }
        let mut taken = 0;
        loop {
            for peer in &mut peers {
                loop {
                    match peer.write(&[0; 1 << 14]) {
                        Ok(more) => taken += more,
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        Err(error) => panic!("a peer was cut off: {error}"),
                    }
                }
            }
            let mut entries: Vec<_> = peers.iter().map(|peer| sys::poll_entry(peer, libc::POLLOUT)).collect();
            if sys::poll(&mut entries, Duration::from_millis(300)) == 0 {
                break;
            }
        }
        let disturbed = everybody_else(&server);
        let grown = resident_kib(&server) - before;
        println!(
            "{PEERS} peers that do not read have sent {:.1} MB, for which the server keeps {:.1} MB; datagrams p99 \
             {calm:.0} µs before, {disturbed:.0} µs beside them",
            taken as f64 / 1e6,
            grown as f64 / 1e3
        );
        assert!(
            grown < ((64 << 10) + (4 << 10)) * UNDER_SANITIZER,
            "{grown} KiB, more than is set aside at the most"
        );
        drop(peers);
        if !cfg!(ring_poison) {
            support::until("what was set aside is given back", || resident_kib(&server) < before + grown / 2);
        }
        let end = server.stop();
        assert_eq!(end.counter("tcp_accepted"), PEERS as u64);
        assert!(end.counter("tcp_stalls") >= PEERS as u64);
    });
}

/// Peers that send a single byte now and then: each byte comes back, and other peers are not slowed down.
#[test]
fn peers_that_send_a_byte_now_and_then() {
    bounded(|| {
        const PEERS: usize = 2000;
        const BYTES: usize = 3;
        let server = start(&[]);
        let calm = everybody_else(&server);
        let before = resident_kib(&server);
        let mut peers = crowd(server.tcp(), PEERS);
        let address = server.udp();
        let others = thread::spawn(move || Report::of(&format!("udp {address} {EVERYBODY_ELSE}")));
        let begun = Instant::now();
        for byte in 0..BYTES {
            for (number, peer) in peers.iter_mut().enumerate() {
                peer.write_all(&[(number + byte) as u8]).expect("send");
                // each peer sends every 700 ms
                let due = Duration::from_micros(((byte * PEERS + number) * 350) as u64);
                thread::sleep(due.saturating_sub(begun.elapsed()));
            }
        }
        for (number, peer) in peers.iter_mut().enumerate() {
            let mut back = [0; BYTES];
            peer.read_exact(&mut back).expect("the bytes");
            assert_eq!(back, [0, 1, 2].map(|byte| (number + byte) as u8));
        }
        let report = others.join().expect("everybody else");
        report.expect("everybody else", &[("ok", report.total("sent"))]);
        let grown = resident_kib(&server).saturating_sub(before) * 1024 / PEERS as u64;
        println!(
            "{PEERS} peers with a byte every 700 ms each: {grown} bytes of the server's memory for each; datagrams p99 \
             {calm:.0} µs before, {:.0} µs beside them",
            report.p99_us()
        );
        assert!(grown <= 1024 * UNDER_SANITIZER, "{grown} bytes for each connection");
        assert!(begun.elapsed() < PATIENCE);
        drop(peers);
        let end = server.stop();
        assert_eq!(end.counter("tcp_bytes_in"), (PEERS * BYTES) as u64);
        assert_eq!(end.counter("tcp_bytes_out"), (PEERS * BYTES) as u64);
    });
}
