//! The worker threads: the system calls that they make, and how they end.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use support::random::payload;
use support::strace::Strace;
use support::tcp::{connect, echo, expect_end};
use support::udp::UdpClient;
use support::{Launch, PATIENCE, Server, bounded, private_network, sys, until};

/// System calls that a worker never makes, because the ring does their work.
fn is_forbidden(call: &str) -> bool {
    [
        "read", "write", "recv", "send", "accept", "epoll", "pread", "pwrite", "poll", "ppoll", "select",
        "pselect",
    ]
    .iter()
    .any(|name| call.starts_with(name))
}

#[test]
#[ignore = "needs root"]
fn workers_ask_the_ring_and_nothing_else() {
    bounded(|| {
        const ECHOES: usize = 100_000;
        const CONNECTIONS: usize = 100;
        let server = Server::start(&["--listen", "127.0.0.1:0", "--listen", "[::1]:0", "--workers", "2"]);
        let workers: BTreeSet<_> = server.worker_threads().into_iter().collect();
        assert_eq!(workers.len(), 2);
        let tracer = Strace::attach(server.pid(), &["-f"]);
        let targets: BTreeSet<_> = server.addresses().iter().map(|&(_, address)| address).collect();
        for target in targets {
            // several flows, so that each worker gets some
            for _ in 0..10 {
                UdpClient::beside(target).echo(target, &vec![64; ECHOES / 20], 32);
            }
            for _ in 0..CONNECTIONS / 2 {
                echo(&mut connect(target), &payload(0, 5000));
            }
        }
        let mut calls: BTreeMap<_, BTreeMap<String, usize>> = BTreeMap::new();
        for (thread, call) in tracer.detach() {
            if workers.contains(&thread) {
                *calls.entry(thread).or_default().entry(call).or_default() += 1;
            }
        }
        println!("{calls:?}");
        assert_eq!(calls.len(), workers.len(), "workers that called the kernel at all");
        for counts in calls.values() {
            assert!(counts.contains_key("io_uring_enter"), "{counts:?}");
            let forbidden: Vec<_> = counts.keys().filter(|call| is_forbidden(call)).collect();
            assert!(forbidden.is_empty(), "a worker called {forbidden:?}");
        }
        let end = server.stop();
        assert_eq!(end.counter("udp_datagrams_out"), ECHOES as u64);
    });
}

#[test]
#[ignore = "needs root"]
fn turns_that_fail_in_passing_are_taken_up_again() {
    bounded(|| {
        // a signal, short memory, a full completion queue
        for error in ["EINTR", "EAGAIN", "EBUSY"] {
            let server = Server::start(&["--listen", "127.0.0.1:0"]);
            let inject = format!("inject=io_uring_enter:error={error}:when=2+2");
            let tracer = Strace::attach(server.pid(), &["-f", "-e", "trace=io_uring_enter", "-e", &inject]);
            UdpClient::beside(server.udp()).echo(server.udp(), &[64; 1000], 8);
            for _ in 0..30 {
                echo(&mut connect(server.tcp()), &payload(0, 5000));
            }
            // a tracer that detaches in the middle of such a call would leave ENOSYS behind
            server.stop();
            let calls = tracer.detach().len();
            assert!(calls > 100, "only {calls} calls were seen with {error}");
        }
    });
}

#[test]
#[ignore = "needs root"]
fn the_end_of_a_worker_is_the_end_of_the_process() {
    bounded(|| {
        let server = Server::start(&["--listen", "127.0.0.1:0", "--workers", "3"]);
        let target = server.udp();
        let worker = server.worker_threads()[1];
        let failing = ["-e", "trace=io_uring_enter", "-e", "inject=io_uring_enter:error=EBADF"];
        let tracer = Strace::attach(worker, &failing);
        let end_of_patience = Instant::now() + PATIENCE;
        // among many flows, some belong to that worker and wake it
        while !server.pidfd.ends_within(Duration::from_millis(1)) {
            UdpClient::beside(target).send(target, b"wake");
            assert!(Instant::now() < end_of_patience, "the process outlives its worker");
        }
        drop(tracer);
        let end = server.wait();
        assert_ne!(end.code, Some(0));
        assert!(end.stderr.iter().any(|line| line.contains("worker")), "{:?}", end.stderr);
        assert_eq!(end.ready_count, 1);
    });
}

/// Keeps some datagrams in flight until the server is gone. Returns the number of echoes.
fn keep_busy(client: &UdpClient, server: std::net::SocketAddr, gone: &AtomicBool, echoes: &AtomicU64) {
    client.socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a short patience");
    for number in 0.. {
        for _ in 0..16 {
            client.send(server, &payload(number, 100));
        }
        for _ in 0..16 {
            match sys::receive(&client.socket) {
                Ok(arrival) => {
                    assert_eq!(arrival.from, server);
                    echoes.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                    if gone.load(Ordering::Relaxed) {
                        return;
                    }
                }
            }
        }
    }
}

#[test]
fn stopped_under_load_it_answers_what_it_received() {
    bounded(|| {
        let server = Server::start(&["--listen", "127.0.0.1:0", "--workers", "2"]);
        let target = server.udp();
        let gone = Arc::new(AtomicBool::new(false));
        let echoes = Arc::new(AtomicU64::new(0));
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let (gone, echoes) = (Arc::clone(&gone), Arc::clone(&echoes));
                thread::spawn(move || keep_busy(&UdpClient::beside(target), target, &gone, &echoes))
            })
            .collect();
        while echoes.load(Ordering::Relaxed) < 5000 {
            assert!(!server.pidfd.ends_within(Duration::from_millis(1)), "the server ended by itself");
        }
        let end = server.stop();
        gone.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().expect("a client");
        }
        let received = end.counter("udp_datagrams_in");
        assert_eq!(received, end.counter("udp_datagrams_out"));
        assert_eq!(received, echoes.load(Ordering::Relaxed));
    });
}

#[test]
fn stopped_with_connections_it_ends_them_and_then_itself() {
    bounded(|| {
        // the peers answer the server's FIN with theirs, so the deadline does not matter
        let server = Server::start(&["--tcp", "127.0.0.1:0", "--drain-timeout", "1h"]);
        let peers: Vec<_> = (0..50)
            .map(|_| {
                let mut stream = connect(server.tcp());
                echo(&mut stream, b"before the end");
                thread::spawn(move || expect_end(&mut stream))
            })
            .collect();
        let end = server.stop();
        assert_eq!(end.counter("tcp_accepted"), 50);
        for peer in peers {
            peer.join().expect("a peer");
        }
    });
}

#[test]
fn stopped_with_peers_that_stay_it_ends_at_the_deadline() {
    bounded(|| {
        let server = Server::start(&["--tcp", "127.0.0.1:0", "--drain-timeout", "100ms"]);
        let mut streams: Vec<_> = (0..50).map(|_| connect(server.tcp())).collect();
        for stream in &mut streams {
            echo(stream, b"before the end");
        }
        server.stop();
        for stream in &mut streams {
            match stream.read(&mut [0; 1]) {
                Ok(0) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
                other => panic!("an end of the connection expected, not {other:?}"),
            }
        }
    });
}

#[test]
fn stopped_at_once_it_ends_well() {
    bounded(|| {
        for workers in ["1", "3"] {
            Server::start(&["--listen", "127.0.0.1:0", "--workers", workers]).stop();
        }
    });
}

#[test]
fn counters_are_printed_on_the_way() {
    bounded(|| {
        let server = Server::start(&["--udp", "127.0.0.1:0", "--stats-interval", "50ms"]);
        UdpClient::beside(server.udp()).echo(server.udp(), &[10; 7], 1);
        let counted = |lines: &[String]| lines.iter().any(|line| line.contains("udp_datagrams_in=7"));
        assert!(server.log.wait_for(PATIENCE, counted), "the counters never showed the datagrams");
        server.stop();
    });
}

#[test]
fn the_log_is_as_quiet_as_it_is_asked_to_be() {
    bounded(|| {
        let server = Launch::new(&["--udp", "127.0.0.1:0"]).env("RUST_LOG", "info").ready();
        let target = server.udp();
        let lines = server.log.all().len();
        UdpClient::beside(target).echo(target, &[10; 1000], 10);
        // the server logs nothing per datagram
        assert!(server.log.all().len() < lines + 10);
        let end = server.stop();
        // a file and the journal get no colors
        assert!(!end.stderr.iter().any(|line| line.contains('\u{1b}')), "{:?}", end.stderr);
    });
}

/// A full disk, or a closed reader of the log.
#[test]
#[ignore = "needs root"]
fn a_log_that_nobody_takes_stops_nothing() {
    private_network(|| {
        let start = |arguments: &[&str], stderr: Stdio| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_tubular-echo"));
            command.args(arguments).env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
            command.spawn().expect("start the server")
        };
        let full = || File::options().write(true).open("/dev/full").expect("/dev/full").into();
        let target = "127.0.0.1:7".parse().unwrap();
        let ends_well = |mut server: Child| {
            echo(&mut connect(target), b"unheard");
            UdpClient::beside(target).echo(target, &[100; 1000], 10);
            let pidfd = sys::Pidfd::open(server.id()).expect("pidfd_open");
            pidfd.signal(libc::SIGTERM).expect("a signal");
            assert!(pidfd.ends_within(PATIENCE), "the server did not end");
            assert_eq!(server.wait().expect("the end").code(), Some(0));
        };

        let server = start(&["--listen", "127.0.0.1:7", "--stats-interval", "10ms"], full());
        until("it serves", || TcpStream::connect(target).is_ok());
        ends_well(server);

        let mut server = start(&["--listen", "127.0.0.1:7", "--stats-interval", "10ms"], Stdio::piped());
        let mut log = BufReader::new(server.stderr.take().expect("the log")).lines();
        assert!(log.any(|line| line.expect("a line").contains("counters")));
        drop(log);
        ends_well(server);

        for (arguments, code) in [(["--listen", "198.51.100.7:7"], 1), (["--listen", "nowhere"], 2)] {
            assert_eq!(start(&arguments, full()).wait().expect("the end").code(), Some(code));
        }
    });
}

/// The error names the true cause instead of the kernel, and a new start serves.
#[test]
#[ignore = "needs root"]
fn a_listener_that_somebody_else_shuts_down_is_told_as_that() {
    bounded(|| {
        for domain in [libc::AF_INET, libc::AF_INET6] {
            let server = Server::start(&["--listen", "127.0.0.1:0", "--listen", "[::1]:0"]);
            let sockets = server.copy_sockets(4);
            let is_wanted = |socket: &&OwnedFd| {
                sys::option(socket, libc::SOL_SOCKET, libc::SO_DOMAIN).expect("SO_DOMAIN") == domain
                    && sys::option(socket, libc::SOL_SOCKET, libc::SO_ACCEPTCONN).expect("SO_ACCEPTCONN") == 1
            };
            let listener = sockets.iter().find(is_wanted).expect("a listener").try_clone().expect("a copy");
            // `ss -K` does the same
            TcpStream::from(listener).shutdown(Shutdown::Both).expect("shutdown(2)");
            let end = server.wait();
            let text = end.stderr.join("\n");
            assert_eq!(end.code, Some(1), "{text}");
            assert!(text.contains("does not listen any more: somebody has shut it down"), "{text}");
        }
    });
}
