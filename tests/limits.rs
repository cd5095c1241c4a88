//! Nobody takes more than a share: connections that stand still or whose peer has gone are closed, and counted.

mod support;

use std::fs;
use std::io::{ErrorKind, Write};
use std::thread;
use std::time::{Duration, Instant};

use support::netns::{Netns, ip};
use support::tcp::{Conversation, connect, echo, expect_end, send_until_full};
use support::{Server, bounded, private_network, sys};

// Connections that stand still ---------------------------------------------------------------------------

#[test]
fn a_connection_that_stands_still_is_closed_and_one_that_speaks_is_not() {
    const TIMEOUT: Duration = Duration::from_millis(200);
    bounded(|| {
        let server = Server::start(&["--tcp=127.0.0.1:0", "--idle-timeout=200ms"]);
        let mut speaking = connect(server.tcp());
        let mut never_spoke = connect(server.tcp());
        let mut silent = connect(server.tcp());
        echo(&mut speaking, b"one");
        let before = Instant::now();
        echo(&mut silent, b"one word, and no more");
        let watcher = thread::spawn(move || {
            expect_end(&mut silent);
            expect_end(&mut never_spoke);
            before.elapsed()
        });
        while !watcher.is_finished() {
            echo(&mut speaking, b"and again");
            thread::sleep(TIMEOUT / 20);
        }
        let closed_after = watcher.join().expect("the watcher");
        println!("closed after {closed_after:?}");
        assert!(closed_after >= TIMEOUT, "too soon");
        echo(&mut speaking, b"still there");
        drop(speaking);
        let end = server.stop();
        assert_eq!((end.counter("tcp_closed_idle"), end.counter("tcp_open")), (2, 0));
    });
}

#[test]
fn a_peer_that_never_reads_stands_still_in_the_end() {
    bounded(|| {
        let server = Server::start(&["--tcp=127.0.0.1:0", "--idle-timeout=300ms"]);
        let mut silent = [Conversation::open(server.tcp(), 1, 64 << 20, 1 << 16)];
        send_until_full(&mut silent, Duration::from_millis(100));
        let [Conversation { mut stream, .. }] = silent;
        stream.set_nonblocking(false).expect("a connection that blocks");
        // What it does not know is that it was closed; so it is told on the next attempt to send.
        support::until("it is closed", || {
            stream.write(&[0]).is_err_and(|e| e.kind() != ErrorKind::WouldBlock)
        });
        let end = server.stop();
        assert_eq!((end.counter("tcp_closed_idle"), end.counter("tcp_open")), (1, 0));
    });
}

/// How often the threads that serve have gone to sleep so far.
fn sleeps(server: &Server) -> u64 {
    let of = |thread: &u32| {
        let status =
            fs::read_to_string(format!("/proc/{}/task/{thread}/status", server.pid())).expect("status");
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        count.expect("a count").trim().parse::<u64>().expect("a number")
    };
    server.worker_threads().iter().map(of).sum()
}

#[test]
fn without_connections_nothing_wakes_the_server() {
    bounded(|| {
        // The clock of idle connections would tick every 5 ms.
        let server = Server::start(&["--tcp=127.0.0.1:0", "--idle-timeout=40ms"]);
        expect_end(&mut connect(server.tcp()));
        // The start may be tended for a second.
        support::until("it sleeps", || {
            let before = sleeps(&server);
            thread::sleep(Duration::from_millis(200));
            sleeps(&server) == before
        });
        echo(&mut connect(server.tcp()), b"it wakes");
        assert_eq!(server.stop().counter("tcp_closed_idle"), 1);
    });
}

// Peers that have gone -----------------------------------------------------------------------------------

#[test]
#[ignore = "needs root"]
fn a_peer_that_vanished_with_data_outstanding_is_given_up() {
    private_network(|| {
        let there = Netns::new();
        Netns::cable("near", "far", &there);
        ip("address add 192.0.2.1/24 dev near");
        ip("link set near up");
        let server =
            Server::start(&["--tcp=192.0.2.1:1234", "--tcp-user-timeout=500ms", "--stats-interval=20ms"]);
        let mut stream = there.run(|| {
            ip("address add 192.0.2.2/24 dev far");
            ip("link set far up");
            connect(server.tcp())
        });
        echo(&mut stream, b"before");
        // It is taken in, and when it is answered nobody is there any more.
        server.pause();
        stream.write_all(b"farewell").expect("send");
        support::until("the server's kernel has it", || sys::unacknowledged_bytes(&stream) == 0);
        there.run(|| ip("link set far down"));
        server.resume();
        let counted = |lines: &[String]| lines.iter().any(|line| line.contains("tcp_closed_vanished=1"));
        assert!(server.log.wait_for(support::PATIENCE, counted), "the connection is still held");
        let end = server.stop();
        assert_eq!(end.counter("tcp_open"), 0);
    });
}
