//! What the kernel's own echo withstands and keeps, ours does too: paths with a small MTU of which no router tells,
//! and the traffic class of what was asked.

mod support;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use support::lines::Stored;
use support::netns::{Netns, ip, setting};
use support::random::payload;
use support::registry::register_pid;
use support::steer::{Binding, Dispatcher};
use support::udp::{UdpClient, datagrams};
use support::{Launch, Server, private_network};
use tubular_echo::sys::Protocol;

/// Where the server listens, behind the router.
const SERVER: [&str; 2] = ["192.0.2.1:1234", "[2001:db8::1]:1234"];
/// A prefix of which all ports are steered to it.
const PREFIXES: [&str; 2] = ["203.0.113.0/24", "2001:db8:9::/64"];
/// Addresses and ports of that.
const STEERED: [&str; 2] = ["203.0.113.77:4321", "[2001:db8:9::77]:4321"];
/// Where the clients are.
const CLIENT: [&str; 2] = ["198.51.100.2", "2001:db8:1::2"];

/// What fits the way back, and what does not: all sizes around both MTUs, and some that are cut anyway.
fn sizes() -> impl Iterator<Item = usize> {
    (1..=1600).chain([2000, 2552, 3000, 4100, 9000, 65_507])
}

/// The server's host is the calling thread's namespace, the clients' one is returned. Between them is a router
/// whose way to the clients carries 1,280 bytes, the other one 1,500, and whose ICMP messages get lost.
fn behind_a_silent_router() -> (Netns, Netns) {
    let (router, clients) = (Netns::new(), Netns::new());
    let up = |device: &str, addresses: [&str; 2]| {
        // no time is spent on looking for others who have an address
        setting(&format!("ipv6/conf/{device}/accept_dad"), "0");
        let [v4, v6] = addresses;
        ip(&format!("address add {v4} dev {device}"));
        ip(&format!("address add {v6} dev {device} nodad"));
        ip(&format!("link set {device} up"));
    };
    Netns::cable("near", "inside", &router);
    up("near", ["192.0.2.1/24", "2001:db8::1/64"]);
    ip("route add default via 192.0.2.254");
    ip("route add default via 2001:db8::254");
    router.run(|| {
        Netns::cable("outside", "far", &clients);
        up("inside", ["192.0.2.254/24", "2001:db8::254/64"]);
        up("outside", ["198.51.100.254/24", "2001:db8:1::254/64"]);
        setting("ipv4/ip_forward", "1");
        setting("ipv6/conf/all/forwarding", "1");
        for (prefix, server) in PREFIXES.into_iter().zip(["192.0.2.1", "2001:db8::1"]) {
            ip(&format!("route add {prefix} via {server}"));
        }
        for client in CLIENT {
            ip(&format!("route add {client} dev outside mtu 1280"));
        }
        ip("rule add iif lo ipproto icmp blackhole");
        ip("-6 rule add iif lo ipproto ipv6-icmp blackhole");
    });
    clients.run(|| {
        up("far", ["198.51.100.2/24", "2001:db8:1::2/64"]);
        ip("route add default via 198.51.100.254");
        ip("route add default via 2001:db8:1::254");
    });
    (router, clients)
}

fn parsed(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

fn client(clients: &Netns, number: usize) -> UdpClient {
    clients.run(|| UdpClient::at(CLIENT[number].parse::<IpAddr>().unwrap()))
}

/// Every size comes back, singly, many at a time, and in trains of datagrams that are too large for the way back.
fn all_sizes_come_back(server: &Server, client: &UdpClient, target: SocketAddr) {
    let target_bytes_max = if target.is_ipv4() { 65_507 } else { 65_527 };
    let sizes: Vec<_> = sizes().chain([target_bytes_max]).collect();
    client.echo(target, &sizes, 1);
    // found by the server all at once: those of one size leave as one train
    for size in [100, 1200, 1252, 1253, 1400, 1452, 1472] {
        server.pause();
        let sent: Vec<_> = (0..20).map(|number| payload(number, size)).collect();
        sent.iter().for_each(|datagram| client.send(target, datagram));
        server.resume();
        sent.iter().for_each(|datagram| client.expect(target, datagram));
    }
    for segment_bytes in [1232, 1252, 1400, 1450] {
        let train = payload(3, usize::from(segment_bytes) * 20 + 77);
        client.send_train(target, &train, segment_bytes);
        datagrams(&train, segment_bytes).for_each(|datagram| client.expect(target, datagram));
    }
}

/// Has the server answer for all ports of the prefixes.
fn steer(server: &Server) -> Dispatcher {
    for (family, prefix) in ["", "-6"].into_iter().zip(PREFIXES) {
        ip(&format!("{family} route add local {prefix} dev lo"));
    }
    let dispatcher = Dispatcher::attach(&PREFIXES.map(|prefix| Binding::new(Protocol::Udp, prefix, 0)));
    let dispatcher = dispatcher.expect("attach to a network namespace, which needs root");
    for address in SERVER.map(parsed) {
        register_pid(&dispatcher.sockets, server.pid(), Protocol::Udp, address)
            .unwrap_or_else(|failure| panic!("register-pid udp {address}: {failure}"));
    }
    dispatcher
}

/// Single datagrams, trains, and replies from other ports than the one that is listened on: a router behind which the
/// way is narrower says nothing, and nothing is lost.
#[test]
#[ignore = "needs root"]
fn a_small_mtu_that_no_router_tells_of_loses_nothing() {
    private_network(|| {
        let (_router, clients) = behind_a_silent_router();
        let server = Server::start(&["--listen", SERVER[0], "--listen", SERVER[1]]);
        let _dispatcher = steer(&server);
        for target in [SERVER[0], STEERED[0]] {
            all_sizes_come_back(&server, &client(&clients, 0), parsed(target));
        }
        let end = server.stop();
        assert_eq!(end.counter("udp_datagrams_in"), end.counter("udp_datagrams_out"));
        assert_eq!(end.counter("udp_trains_refused"), 0, "the network cuts what is too large for it");
    });
}

/// IPv6 routers cut nothing: what is too large for the way gets lost, what fits every link does not, and once the
/// server's host knows the way's MTU nothing is lost any more.
#[test]
#[ignore = "needs root"]
fn over_ipv6_a_route_with_an_mtu_is_the_cure() {
    private_network(|| {
        let (_router, clients) = behind_a_silent_router();
        let server = Server::start(&["--listen", SERVER[0], "--listen", SERVER[1]]);
        let _dispatcher = steer(&server);
        for target in [SERVER[1], STEERED[1]].map(parsed) {
            let client = client(&clients, 1);
            client.send(target, &[0; 1233]);
            client.echo(target, &(0..=1232).collect::<Vec<_>>(), 8);
            client.expect_nothing_for(Duration::from_millis(50));
        }
        ip("-6 route change default via 2001:db8::254 mtu 1280");
        for target in [SERVER[1], STEERED[1]].map(parsed) {
            all_sizes_come_back(&server, &client(&clients, 1), target);
        }
        let end = server.stop();
        assert_eq!(end.counter("udp_datagrams_in"), end.counter("udp_datagrams_out"));
    });
}

/// Sockets of others, too: those that a .socket unit has made, and stored ones that an earlier process has set.
#[test]
#[ignore = "needs root"]
fn passed_sockets_answer_behind_a_small_mtu() {
    private_network(|| {
        let (_router, clients) = behind_a_silent_router();
        let (unit, stored) = ("echo.socket", "stored-by-an-earlier-process");
        for (name, arguments) in [(unit, &[][..]), (stored, &["--udp", SERVER[0]])] {
            let socket = UdpSocket::bind(SERVER[0]).expect("bind");
            let passed = [Stored { name: name.into(), descriptor: socket.into() }];
            let server = Launch::new(arguments).passing(&passed).ready();
            drop(passed);
            client(&clients, 0).echo(parsed(SERVER[0]), &[1252, 1253, 1400, 1472], 1);
            server.stop();
        }
    });
}
