//! The limits for one source and for all: connections that stand still, or whose peer is gone, are closed and counted.

mod support;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use support::lines::Stored;
use support::netns::{Netns, ip, setting};
use support::tcp::{connect, echo, expect_end};
use support::{Launch, PATIENCE, Server, bounded, private_network, sys};
use tubular_echo::kernel::sys::{self as server_sys, IntOption, Protocol};

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
        let mut stream = connect(server.tcp());
        // once every buffer on the way is full, the connection stands still; the server closes it with unread bytes
        let error = loop {
            if let Err(error) = stream.write(&[0; 1 << 14]) {
                break error;
            }
        };
        assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
        let end = server.stop();
        assert_eq!((end.counter("tcp_closed_idle"), end.counter("tcp_open")), (1, 0));
    });
}

/// How often the worker threads have gone to sleep so far.
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
        // the clock of idle connections would tick every 5 ms
        let server = Server::start(&["--tcp=127.0.0.1:0", "--idle-timeout=40ms"]);
        expect_end(&mut connect(server.tcp()));
        // the work of the start may take a second
        support::until("it sleeps", || {
            let before = sleeps(&server);
            thread::sleep(Duration::from_millis(200));
            sleeps(&server) == before
        });
        echo(&mut connect(server.tcp()), b"it wakes");
        assert_eq!(server.stop().counter("tcp_closed_idle"), 1);
    });
}

// Sources that want too much -----------------------------------------------------------------------------

/// A connection from exactly this address.
fn connect_from(source: IpAddr, target: SocketAddr) -> TcpStream {
    let socket = server_sys::socket(Protocol::Tcp, target).expect("a socket");
    if source.is_ipv6() {
        server_sys::set_option(socket.as_fd(), IntOption::FREEBIND_V6, 1).expect("IPV6_FREEBIND");
    }
    server_sys::bind(socket.as_fd(), SocketAddr::new(source, 0)).expect("bind to the source");
    sys::connect(&socket, target).expect("connect");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).expect("set the patience");
    stream
}

/// Expects that the server closes the connection without a byte: by a FIN, or by a reset if it has not read our bytes.
fn expect_refusal(mut stream: TcpStream) {
    match stream.read(&mut [0; 1]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("the connection should have been closed: {other:?}"),
    }
}

#[test]
#[ignore = "needs root"]
fn a_source_has_its_share_of_connections_and_no_more() {
    private_network(|| {
        ip("-6 route add local 2001:db8::/32 dev lo");
        for workers in ["--workers=1", "--workers=2"] {
            let server = Server::start(&[
                workers,
                "--tcp=127.0.0.1:1234",
                "--tcp=[::1]:1234",
                "--max-connections-per-prefix=3",
            ]);
            // pairs of a source and another address that does or does not count as the same
            let mut refused = 0;
            for (source, same, another) in [
                ("127.0.0.5", "127.0.0.5", "127.0.0.6"),
                ("2001:db8:0:1::5", "2001:db8:0:1:ffff::6", "2001:db8:0:2::5"),
            ] {
                let [source, same, another] = [source, same, another].map(|ip| ip.parse::<IpAddr>().unwrap());
                let target =
                    server.addresses().iter().find(|(_, target)| target.is_ipv4() == source.is_ipv4());
                let target = target.expect("a target of the family").1;
                let mut admitted: Vec<_> = (0..3).map(|_| connect_from(source, target)).collect();
                for stream in &mut admitted {
                    echo(stream, b"within the share");
                }
                for _ in 0..10 {
                    expect_refusal(connect_from(same, target));
                    refused += 1;
                }
                echo(&mut connect_from(another, target), b"another source");
                // a connection that ends makes room as soon as the server has seen its FIN
                expect_finished(admitted.remove(0));
                admitted.push(connect_from(same, target));
                for stream in &mut admitted {
                    echo(stream, b"still, or at last");
                }
                drop(admitted);
            }
            let end = server.stop();
            assert_eq!(end.counter("tcp_closed_prefix_limit"), refused);
            assert_eq!(end.counter("tcp_accepted"), refused + 2 * 5);
            assert_eq!(end.counter("tcp_open"), 0);
        }
    });
}

/// Ends a connection, and waits until the server has ended it too.
fn expect_finished(mut stream: TcpStream) {
    stream.shutdown(Shutdown::Write).expect("send a FIN");
    expect_end(&mut stream);
}

#[test]
fn many_sources_at_once_are_all_accepted_one_by_one() {
    bounded(|| {
        let server = Server::start(&["--tcp=127.0.0.1:0", "--max-connections-per-prefix=20"]);
        let target = server.tcp();
        let mut streams: Vec<_> = (0..1000_u32)
            .map(|number| connect_from([127, 1, 0, (number / 20) as u8].into(), target))
            .collect();
        for stream in &mut streams {
            echo(stream, b"one of a thousand");
        }
        streams.into_iter().for_each(expect_finished);
        let end = server.stop();
        assert_eq!((end.counter("tcp_accepted"), end.counter("tcp_closed_finished")), (1000, 1000));
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
        // the server receives the bytes, but the peer is gone when it answers
        server.pause();
        stream.write_all(b"farewell").expect("send");
        support::until("the server's kernel has it", || sys::unacknowledged_bytes(&stream) == 0);
        there.run(|| ip("link set far down"));
        server.resume();
        let counted = |lines: &[String]| lines.iter().any(|line| line.contains("tcp_closed_vanished=1"));
        assert!(server.log.wait_for(PATIENCE, counted), "the connection is still held");
        let end = server.stop();
        assert_eq!(end.counter("tcp_open"), 0);
    });
}

/// A host with an address, behind a cable to this one. It has its own namespace, so that it can vanish.
fn host(number: u8) -> Netns {
    let there = Netns::new();
    Netns::cable(&format!("near{number}"), "far", &there);
    ip(&format!("address add 192.0.{number}.1/24 dev near{number}"));
    ip(&format!("link set near{number} up"));
    there.run(|| {
        ip(&format!("address add 192.0.{number}.2/24 dev far"));
        ip("link set far up");
    });
    there
}

/// A connection from that host that has exchanged data once.
fn idle_connection(there: &Netns, number: u8) -> TcpStream {
    let mut stream = there.run(|| connect(format!("192.0.{number}.1:1234").parse().unwrap()));
    echo(&mut stream, b"one word, and no more");
    stream
}

/// Waits until this many connections have vanished.
fn expect_vanished(server: &Server, count: u64) {
    let text = format!("tcp_closed_vanished={count} ");
    let counted = |lines: &[String]| lines.iter().any(|line| line.contains(&text));
    assert!(
        server.log.wait_for(PATIENCE, counted),
        "{count} connections of hosts that are gone are still held"
    );
}

const BY_KEEPALIVE: [&str; 4] =
    ["--tcp=0.0.0.0:1234", "--tcp-user-timeout=3s", "--tcp-keepalive=1s", "--stats-interval=20ms"];

/// Idle clients take all places, and then their host loses power without a word. Soon other clients are served all the
/// same. A live client keeps its place, however quiet it is.
#[test]
#[ignore = "needs root"]
fn idle_peers_that_vanished_leave_their_places_and_quiet_ones_keep_them() {
    private_network(|| {
        let (vanishing, quiet) = (host(2), host(3));
        let server = Server::start(&[&BY_KEEPALIVE[..], &["--max-connections=3"]].concat());
        let mut quiet = idle_connection(&quiet, 3);
        for round in 1..=2 {
            let _two = [idle_connection(&vanishing, 2), idle_connection(&vanishing, 2)];
            vanishing.run(|| ip("link set far down"));
            let waiting = Instant::now();
            let mut third = connect("192.0.3.1:1234".parse().unwrap());
            echo(&mut third, b"it waits for a place, and gets one");
            println!("served after {:?}", waiting.elapsed());
            drop(third);
            expect_vanished(&server, 2 * round);
            vanishing.run(|| ip("link set far up"));
        }
        echo(&mut quiet, b"still here, after more than twice the time");
        drop(quiet);
        let end = server.stop();
        assert_eq!((end.counter("tcp_closed_vanished"), end.counter("tcp_closed_finished")), (4, 3));
    });
}

/// The host vanishes, but the network stays: a router, or the kernel itself, reports the host unreachable.
#[test]
#[ignore = "needs root"]
fn a_peer_that_is_reported_unreachable_has_vanished_too() {
    private_network(|| {
        let there = host(2);
        let server = Server::start(&BY_KEEPALIVE);
        let idle = idle_connection(&there, 2);
        let mut talking = idle_connection(&there, 2);
        server.pause();
        talking.write_all(b"farewell").expect("send");
        support::until("the server's kernel has it", || sys::unacknowledged_bytes(&talking) == 0);
        // no host answers for the address any more, and the kernel notices that
        setting("ipv4/neigh/near2/retrans_time_ms", "50");
        there.run(|| ip("address del 192.0.2.2/24 dev far"));
        ip("neigh flush dev near2");
        server.resume();
        expect_vanished(&server, 2);
        drop((idle, talking));
        assert_eq!(server.stop().counter("tcp_closed_error"), 0);
    });
}

/// Keepalive options of a listener: on or off, seconds of silence, seconds between probes, number of probes.
fn keepalive_of(listener: &impl AsFd) -> (i32, [i32; 3]) {
    let numbers = [libc::TCP_KEEPIDLE, libc::TCP_KEEPINTVL, libc::TCP_KEEPCNT];
    let option = |level, name| sys::option(listener, level, name).expect("a number");
    (option(libc::SOL_SOCKET, libc::SO_KEEPALIVE), numbers.map(|name| option(libc::IPPROTO_TCP, name)))
}

/// Keepalive is on by default, with times that fit the user timeout. The server also sets it on passed sockets that
/// have other values.
#[test]
fn keepalive_is_what_the_options_say() {
    bounded(|| {
        for (options, wanted) in [
            (&[][..], (1, Some([60, 15, 4]))),
            (&["--tcp-user-timeout=20s"], (1, Some([10, 2, 4]))),
            (&["--tcp-user-timeout=0s"], (1, Some([60, 15, 4]))),
            (&["--tcp-keepalive=30s"], (1, Some([30, 22, 4]))),
            (&["--tcp-keepalive=0s"], (0, None)),
        ] {
            for name in ["echo.socket", "stored-by-an-earlier-process"] {
                let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
                let address = format!("--tcp={}", listener.local_addr().expect("its name"));
                sys::set_option(&listener, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1).expect("SO_KEEPALIVE");
                sys::set_option(&listener, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 7200)
                    .expect("TCP_KEEPIDLE");
                let passed = [Stored { name: name.into(), descriptor: listener.into() }];
                let arguments = [options, &[&address]].concat();
                let server = Launch::new(&arguments).passing(&passed).ready();
                let (is_on, numbers) = keepalive_of(&server.copy_sockets(1)[0]);
                assert_eq!(is_on, wanted.0, "{options:?}, {name}");
                assert!(wanted.1.is_none_or(|wanted| wanted == numbers), "{options:?}, {name}: {numbers:?}");
                server.stop();
            }
        }
    });
}
