//! Behind a dispatcher: the sockets of the running server, taken as `tubectl register-pid` takes them, and
//! traffic to addresses and ports where nothing listens.

mod support;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};

use support::random::{Random, payload};
use support::registry::register_pid;
use support::steer::{Binding, Dispatcher};
use support::udp::UdpClient;
use support::{PATIENCE, Server, netns, private_network, tcp};
use tubular_echo::sys::Protocol;

/// The port that the walk-through steers for UDP; for TCP it steers all.
const UDP_PORT: u16 = 1234;

const DESTINATIONS: [(Protocol, IpAddr); 4] = [
    (Protocol::Tcp, IpAddr::V4(Ipv4Addr::LOCALHOST)),
    (Protocol::Udp, IpAddr::V4(Ipv4Addr::LOCALHOST)),
    (Protocol::Tcp, IpAddr::V6(Ipv6Addr::LOCALHOST)),
    (Protocol::Udp, IpAddr::V6(Ipv6Addr::LOCALHOST)),
];

/// The bindings of the walk-through, and the AnyIP route that makes the IPv6 prefix local.
fn dispatcher() -> Dispatcher {
    netns::ip("-6 route add local 2001:db8::/64 dev lo");
    Dispatcher::attach(&[
        Binding::new(Protocol::Tcp, "127.0.0.128/25", 0),
        Binding::new(Protocol::Udp, "127.0.0.128/25", UDP_PORT),
        Binding::new(Protocol::Tcp, "2001:db8::/64", 0),
        Binding::new(Protocol::Udp, "2001:db8::/64", UDP_PORT),
    ])
    .expect("attach to a network namespace, which needs root")
}

/// A server on the four sockets of the walk-through.
fn server(port: u16, workers: u32) -> Server {
    let (v4, v6) = (format!("127.0.0.1:{port}"), format!("[::1]:{port}"));
    Server::start(&["--listen", &v4, "--listen", &v6, "--workers", &workers.to_string()])
}

/// Registers the server's four sockets; the number of `pidfd_getfd(2)` calls of each walk.
fn register_four(dispatcher: &Dispatcher, server: &Server, port: u16) -> [u32; 4] {
    DESTINATIONS.map(|(protocol, ip)| {
        let address = SocketAddr::new(ip, port);
        register_pid(&dispatcher.sockets, server.pid(), protocol, address)
            .unwrap_or_else(|failure| panic!("register-pid {protocol} {address}: {failure}"))
            .calls
    })
}

/// An address of the steered prefix of this family, and a port that is steered there.
fn steered(random: &mut Random, protocol: Protocol, like: IpAddr) -> SocketAddr {
    let ip: IpAddr = match like {
        IpAddr::V4(_) => Ipv4Addr::new(127, 0, 0, random.between(129, 254) as u8).into(),
        IpAddr::V6(_) => {
            let host = random.next();
            let part = |shift: u32| (host >> shift) as u16;
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, part(48), part(32), part(16), part(0)).into()
        }
    };
    let port = match protocol {
        Protocol::Tcp => random.between(1, 65_535) as u16,
        Protocol::Udp => UDP_PORT,
    };
    SocketAddr::new(ip, port)
}

/// One exchange: content and source of the reply are checked. A connection's source is the address that it
/// was opened to, or the kernel would not have matched the segments.
fn exchange(number: usize, protocol: Protocol, target: SocketAddr) {
    let bytes = payload(number, 1 + number * 61 % 1400);
    match protocol {
        Protocol::Tcp => {
            let mut stream = tcp::connect(target);
            assert_eq!(stream.peer_addr().unwrap(), target);
            tcp::echo(&mut stream, &bytes);
            stream.shutdown(std::net::Shutdown::Write).expect("send a FIN");
            tcp::expect_end(&mut stream);
        }
        Protocol::Udp => {
            let client = UdpClient::beside(target);
            client.send(target, &bytes);
            client.expect(target, &bytes);
        }
    }
}

/// 20 exchanges of each kind.
fn walk_through(seed: u64) {
    let mut random = Random::new(seed);
    for number in 0..20 {
        for (protocol, like) in DESTINATIONS {
            exchange(number, protocol, steered(&mut random, protocol, like));
        }
    }
}

fn walk_through_with(workers: u32) {
    private_network(move || {
        let dispatcher = dispatcher();
        let server = server(1234, workers);
        register_four(&dispatcher, &server, 1234);
        walk_through(workers.into());
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
        let server = server(1234, 4);
        register_four(&dispatcher, &server, 1234);
        let mut random = Random::new(4);
        for number in 0..200 {
            exchange(number, Protocol::Udp, steered(&mut random, Protocol::Udp, Ipv4Addr::LOCALHOST.into()));
        }
        server.stop();
    });
}

#[test]
#[ignore = "needs root"]
fn open_connections_do_not_lengthen_the_walk() {
    const CONNECTIONS: usize = 5_000;
    private_network(|| {
        let dispatcher = dispatcher();
        let server = server(1234, 2);
        let calls = register_four(&dispatcher, &server, 1234);
        let mut random = Random::new(5);
        let mut open: Vec<TcpStream> = (0..CONNECTIONS)
            .map(|number| {
                let like = DESTINATIONS[number % 2 * 2].1;
                let mut stream = tcp::connect(steered(&mut random, Protocol::Tcp, like));
                tcp::echo(&mut stream, &payload(number, 16));
                stream
            })
            .collect();
        assert_eq!(register_four(&dispatcher, &server, 1234), calls);
        walk_through(5);
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
        let first = server(1234, 2);
        register_four(&dispatcher, &first, 1234);
        walk_through(1);
        let target = "127.0.0.200:80".parse().unwrap();
        let mut old = tcp::connect(target);
        tcp::echo(&mut old, b"before");

        let second = server(5678, 2);
        register_four(&dispatcher, &second, 5678);
        // Whatever still went to the first server would now stay without an answer.
        first.pause();
        walk_through(2);
        first.resume();
        tcp::echo(&mut old, b"after");

        drop(old);
        first.stop();
        walk_through(3);
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

        let server = server(1234, 1);
        register_four(&dispatcher, &server, 1234);
        exchange(1, Protocol::Tcp, "127.0.0.128:4321".parse().unwrap());
        assert!(DESTINATIONS.iter().all(|(protocol, ip)| dispatcher.sockets.has(*protocol, *ip)));
        server.stop();

        // The entries went with the last holder of the sockets; traffic is dropped, not misled.
        assert!(!DESTINATIONS.iter().any(|(protocol, ip)| dispatcher.sockets.has(*protocol, *ip)));
        assert_eq!(refused("127.0.0.128:4321"), Err(ErrorKind::ConnectionRefused));
        drop(listening);
    });
}
