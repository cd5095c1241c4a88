//! The server behind a dispatcher: the test takes its sockets as `tubectl register-pid` does, and steers traffic for
//! addresses and ports on which nothing listens.

mod support;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;

use support::random::{Random, payload};
use support::registry::register_pid;
use support::steer::{Binding, Dispatcher};
use support::walkthrough::{DESTINATIONS, dispatcher, exchange, steered, walk_through};
use support::{PATIENCE, Server, netns, private_network, tcp, until};
use tubular_echo::kernel::sys::Protocol;

/// The addresses of a server, in the order of [`DESTINATIONS`].
type Addresses = [&'static str; 4];

const FIRST: Addresses = ["127.0.0.1:1234", "127.0.0.1:1234", "[::1]:1234", "[::1]:1234"];

/// The same addresses with another port. UDP replies still leave from the port that the client contacted.
const SECOND: Addresses = ["127.0.0.1:5678", "127.0.0.1:5678", "[::1]:5678", "[::1]:5678"];

fn server(addresses: Addresses, workers: u32) -> Server {
    let mut arguments = vec![format!("--workers={workers}")];
    arguments
        .extend(DESTINATIONS.iter().zip(addresses).map(|((protocol, _), at)| format!("--{protocol}={at}")));
    Server::start(&arguments)
}

/// Registers the server's four sockets. Returns the number of `pidfd_getfd(2)` calls of each walk.
fn register_four(dispatcher: &Dispatcher, server: &Server, addresses: Addresses) -> Vec<u32> {
    let each = DESTINATIONS.iter().zip(addresses).map(|((protocol, _), address)| {
        register_pid(&dispatcher.sockets, server.pid(), *protocol, address.parse().unwrap())
            .unwrap_or_else(|failure| panic!("register-pid {protocol} {address}: {failure}"))
            .calls
    });
    each.collect()
}

fn walk_through_with(workers: u32) {
    private_network(move || {
        let dispatcher = dispatcher();
        let server = server(FIRST, workers);
        let mut check = Command::new(env!("CARGO_BIN_EXE_tubular-echo"));
        let check = check.args(["check", &server.pid().to_string()]).output();
        let check = check.expect("run tubular-echo check");
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));

        register_four(&dispatcher, &server, FIRST);
        walk_through(workers.into(), 20);
        assert_eq!(server.stop().counter("tcp_accepted"), 40);
    });
}

#[test]
#[ignore = "needs root"]
fn the_walk_through_with_one_worker() {
    walk_through_with(1);
}

#[test]
#[ignore = "needs root"]
fn the_walk_through_with_two_workers() {
    walk_through_with(2);
}

#[test]
#[ignore = "needs root"]
fn one_registration_spreads_over_all_workers() {
    private_network(|| {
        let dispatcher = dispatcher();
        let server = server(FIRST, 4);
        register_four(&dispatcher, &server, FIRST);
        let workers = server.worker_threads();
        assert_eq!(workers.len(), 4);
        let before: Vec<_> = workers.iter().map(|worker| times_slept(&server, *worker)).collect();
        let mut random = Random::new(4);
        for number in 0..200 {
            exchange(number, Protocol::Udp, steered(&mut random, Protocol::Udp, Ipv4Addr::LOCALHOST.into()));
        }
        // an idle worker goes on sleeping; one with a datagram wakes up for it
        let woken: Vec<_> = workers
            .iter()
            .zip(before)
            .map(|(worker, before)| times_slept(&server, *worker) - before)
            .collect();
        assert!(woken.iter().all(|times| *times >= 10), "{woken:?}");
        println!("200 datagrams woke the four workers {woken:?} times");
        server.stop();
    });
}

/// How often a thread of the server gave up its processor to wait.
fn times_slept(server: &Server, thread: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/task/{thread}/status", server.pid()));
    let status = status.expect("a thread of the server");
    let times = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    times.expect("a line of the status").trim().parse().expect("a number")
}

#[test]
#[ignore = "needs root"]
fn every_udp_port_answers_by_itself_and_the_walk_stays_as_short() {
    const ASKED: usize = 200;
    private_network(|| {
        netns::ip("-6 route add local 2001:db8::/64 dev lo");
        let everything = ["127.0.0.128/25", "2001:db8::/64"]
            .map(|prefix| [Protocol::Tcp, Protocol::Udp].map(|protocol| Binding::new(protocol, prefix, 0)));
        let dispatcher = Dispatcher::attach(&everything.concat()).unwrap();
        let server = server(FIRST, 2);
        let calls = register_four(&dispatcher, &server, FIRST);
        let mut random = Random::new(6);
        for number in 0..ASKED {
            let mut target = steered(&mut random, Protocol::Udp, DESTINATIONS[number % 2 * 2].1);
            target.set_port(random.between(1, 65_535) as u16);
            exchange(number, Protocol::Udp, target);
        }
        assert_eq!(register_four(&dispatcher, &server, FIRST), calls);
        server.stop();
    });
}

#[test]
#[ignore = "needs root"]
fn open_connections_do_not_lengthen_the_walk() {
    const CONNECTIONS: usize = 5_000;
    private_network(|| {
        let dispatcher = dispatcher();
        let server = server(FIRST, 2);
        let calls = register_four(&dispatcher, &server, FIRST);
        let mut random = Random::new(5);
        let mut open: Vec<TcpStream> = (0..CONNECTIONS)
            .map(|number| {
                let like = DESTINATIONS[number % 2 * 2].1;
                let mut stream = tcp::connect(steered(&mut random, Protocol::Tcp, like));
                tcp::echo(&mut stream, &payload(number, 16));
                stream
            })
            .collect();
        assert_eq!(register_four(&dispatcher, &server, FIRST), calls);
        walk_through(5, 20);
        println!("walk of {} pidfd_getfd calls, without and with {CONNECTIONS} open connections", calls[0]);
        for (number, stream) in open.iter_mut().enumerate() {
            tcp::echo(stream, &payload(number, 32));
        }
        drop(open);
        server.stop();
    });
}

#[test]
#[ignore = "needs root"]
fn a_second_server_takes_over_at_once_and_the_first_drains() {
    private_network(|| {
        let dispatcher = dispatcher();
        let first = server(FIRST, 2);
        register_four(&dispatcher, &first, FIRST);
        walk_through(1, 20);
        let target = "127.0.0.200:80".parse().unwrap();
        let mut old = tcp::connect(target);
        tcp::echo(&mut old, b"before");

        let second = server(SECOND, 2);
        register_four(&dispatcher, &second, SECOND);
        // traffic that still reached the first server would now get no answer
        first.pause();
        walk_through(2, 20);
        first.resume();
        tcp::echo(&mut old, b"after");

        drop(old);
        first.stop();
        walk_through(3, 20);
        assert_eq!(second.stop().counter("tcp_accepted"), 80);
    });
}

#[test]
#[ignore = "needs root"]
fn a_binding_without_a_socket_drops_even_where_somebody_listens() {
    private_network(|| {
        let dispatcher = dispatcher();
        let listening = TcpListener::bind("0.0.0.0:4321").unwrap();
        let refused = |target: &str| {
            let target = target.parse().unwrap();
            TcpStream::connect_timeout(&target, PATIENCE).map(drop).map_err(|error| error.kind())
        };
        assert_eq!(refused("127.0.0.127:4321"), Ok(()), "outside the prefix");
        assert_eq!(
            refused("127.0.0.128:4321"),
            Err(ErrorKind::ConnectionRefused),
            "the first address inside"
        );

        let server = server(FIRST, 1);
        register_four(&dispatcher, &server, FIRST);
        exchange(1, Protocol::Tcp, "127.0.0.128:4321".parse().unwrap());
        assert!(DESTINATIONS.iter().all(|(protocol, ip)| dispatcher.sockets.has(*protocol, *ip)));
        server.stop();

        // the map entries vanish with the last holder of the sockets, which may be a ring that the kernel still takes
        // down; then traffic is dropped, not misdirected
        until("the sockets are gone with the server", || {
            !DESTINATIONS.iter().any(|(protocol, ip)| dispatcher.sockets.has(*protocol, *ip))
        });
        assert_eq!(refused("127.0.0.128:4321"), Err(ErrorKind::ConnectionRefused));
        drop(listening);
    });
}
