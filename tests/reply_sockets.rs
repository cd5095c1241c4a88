//! Reply sockets, which answer from other ports than the bound one: the ports that they leave to others, the options that
//! they copy from the listening socket, and the warnings if one can't be opened.

mod support;

use std::ffi::CString;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use support::lines::Stored;
use support::netns::{Netns, ip, setting};
use support::random::Random;
use support::registry::register_pid;
use support::server::End;
use support::steer::{Binding, Dispatcher};
use support::steered::Family::{V4, V6};
use support::steered::{PORT, PREFIXES, Steered, User};
use support::sys::{set_option_bytes, set_soft_limit};
use support::udp::UdpClient;
use support::{Launch, PATIENCE, Server, private_network, until};
use tubular_echo::kernel::sys::{self as server_sys, IntOption, Protocol};

fn times_told(end: &End, text: &str) -> usize {
    end.stderr.iter().filter(|line| line.contains(text) && !line.contains("counters:")).count()
}

fn until_told(server: &Server, text: &str) {
    let is_told = |line: &String| line.contains(text) && !line.contains("counters:");
    assert!(server.log.wait_for(PATIENCE, |lines| lines.iter().any(is_told)), "never told: {text}");
}

// Ports of other programs ----------------------------------------------------------------------------

#[test]
#[ignore = "needs root"]
fn ports_that_others_count_on_are_left_to_them() {
    private_network(|| {
        // the listening port is often reserved, so that no client gets it; the server answers from it all the same
        setting("ipv4/ip_local_reserved_ports", &format!("{PORT},5353,7000-7009"));
        let steered = Steered::start(User::Root, &["--reply-ports-except=reserved,8000-8009"]);
        let mut asked = 0;
        for family in [V4, V6] {
            let of = |port| SocketAddr::new(family.ip(&mut Random::new(1)), port);
            let client = UdpClient::beside(of(PORT));
            for port in [5353, 7000, 7009, 8000, 8009] {
                client.send(of(port), b"may I have it?");
                asked += 1;
            }
            for port in [PORT, 5352, 5354, 6999, 7010, 7999, 8010] {
                client.echo(of(port), &[64; 3], 1);
            }
            // while the server runs, another program can bind such a port, for all addresses
            for port in [5353, 7000, 8009] {
                UdpSocket::bind((unspecified(of(port)), port)).expect("nobody has the port");
            }
        }
        until_told(&steered.server, "udp_reply_port_excepted");
        let end = steered.stop(&["udp_reply_port_excepted"]);
        assert_eq!(end.counter("udp_reply_port_excepted"), asked);
        assert_eq!(times_told(&end, "udp_reply_port_excepted"), 1);
    });
}

fn unspecified(like: SocketAddr) -> IpAddr {
    if like.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() }
}

#[test]
#[ignore = "needs root"]
fn reserved_ports_are_answered_from_where_that_is_wanted_and_are_free_within_seconds() {
    private_network(|| {
        setting("ipv4/ip_local_reserved_ports", "5353");
        let steered = Steered::start(User::Root, &["--reply-ports-except=none"]);
        for family in [V4, V6] {
            let target = SocketAddr::new(family.ip(&mut Random::new(2)), 5353);
            UdpClient::beside(target).echo(target, &[64; 3], 1);
            let answered = Instant::now();
            let bind = || UdpSocket::bind((unspecified(target), 5353));
            assert!(bind().is_err(), "a reply socket has it");
            until("the port is free", || bind().is_ok());
            println!("{family:?}: free after {:?}", answered.elapsed());
            // two seconds by default; the test may also wait for a processor
            assert!(answered.elapsed() < Duration::from_secs(4));
        }
        let end = steered.stop(&[]);
        assert_eq!(end.counter("udp_reply_sockets_made"), 2);
    });
}

// Reply sockets that can't be opened -----------------------------------------------------------------

#[test]
#[ignore = "needs root"]
fn without_open_files_it_says_so_and_recovers() {
    private_network(|| {
        let steered = Steered::start(User::Root, &[]);
        let target = V4.pairs(3, 2);
        let client = UdpClient::beside(target[0]);
        client.echo(target[0], &[64; 3], 1);
        let before = set_soft_limit(steered.server.pid(), libc::RLIMIT_NOFILE, 3);
        (0..5).for_each(|_| client.send(target[1], b"a file, please"));
        until_told(&steered.server, "udp_reply_socket_no_files");
        set_soft_limit(steered.server.pid(), libc::RLIMIT_NOFILE, before);
        client.echo(target[1], &[64; 3], 1);
        let end = steered.stop(&["udp_reply_socket_no_files"]);
        assert_eq!(end.counter("udp_reply_socket_no_files"), 5);
        assert_eq!(times_told(&end, "RLIMIT_NOFILE"), 1);
    });
}

/// A server with these sockets from a .socket unit, and all ports of `prefix` steered to them.
fn steered_to(passed: Vec<OwnedFd>, prefix: &str, launch: Launch) -> (Server, Dispatcher) {
    let address = server_sys::local_addr(passed[0].as_fd()).expect("getsockname");
    let passed: Vec<_> =
        passed.into_iter().map(|descriptor| Stored { name: "echo.socket".into(), descriptor }).collect();
    let server = launch.passing(&passed).ready();
    let dispatcher = Dispatcher::attach(&[Binding::new(Protocol::Udp, prefix, 0)]).expect("attach");
    register_pid(&dispatcher.sockets, server.pid(), Protocol::Udp, address)
        .unwrap_or_else(|failure| panic!("register-pid {address}: {failure}"));
    (server, dispatcher)
}

#[test]
#[ignore = "needs root"]
fn a_filter_that_forbids_it_is_named() {
    private_network(|| {
        let socket = UdpSocket::bind(("127.0.0.1", PORT)).expect("bind");
        // like SocketBindDeny= of a unit
        let launch = Launch::new(&[] as &[&str]).deny(libc::SYS_bind, libc::EPERM);
        let (server, _dispatcher) = steered_to(vec![socket.into()], PREFIXES[0], launch);
        let client = UdpClient::at([127, 0, 0, 1]);
        client.send("127.128.0.9:5000".parse().unwrap(), b"who forbids it?");
        client.echo("127.128.0.9:1234".parse().unwrap(), &[64; 3], 1);
        until_told(&server, "SocketBindDeny=");
        let end = server.stop();
        assert_eq!(end.counter("udp_reply_socket_forbidden"), 1);
        assert_eq!(times_told(&end, "udp_reply_socket_forbidden"), 1);
    });
}

// Inherited options ----------------------------------------------------------------------------------

/// Binds a socket to a device, as `BindToDevice=` of a .socket unit does.
fn bind_to_device(address: &str, device: &str) -> OwnedFd {
    let address: SocketAddr = address.parse().unwrap();
    let socket = server_sys::socket(Protocol::Udp, address).expect("socket");
    if address.is_ipv6() {
        server_sys::set_option(socket.as_fd(), IntOption::ONLY_V6, 1).expect("IPV6_V6ONLY");
    }
    let device = CString::new(device).unwrap();
    set_option_bytes(&socket, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, device.as_bytes_with_nul())
        .expect("SO_BINDTODEVICE");
    server_sys::bind(socket.as_fd(), address).expect("bind");
    socket
}

#[test]
#[ignore = "needs root"]
fn the_device_of_a_passed_socket_holds_for_its_reply_sockets() {
    private_network(|| {
        let there = Netns::new();
        Netns::cable("near", "far", &there);
        let up = |device: &str, addresses: [&str; 2]| {
            setting(&format!("ipv6/conf/{device}/accept_dad"), "0");
            for address in addresses {
                let nodad = if address.contains(':') { "nodad" } else { "" };
                ip(&format!("address add {address} dev {device} {nodad}"));
            }
            ip(&format!("link set {device} up"));
        };
        up("near", ["192.0.2.1/24", "2001:db8:1::1/64"]);
        setting("ipv4/conf/all/rp_filter", "0");
        setting("ipv4/conf/near/rp_filter", "0");
        there.run(|| {
            up("far", ["192.0.2.2/24", "2001:db8:1::2/64"]);
            ip("route add 198.51.100.0/24 via 192.0.2.1");
            ip("route add 2001:db8:9::/64 via 2001:db8:1::1");
        });
        ip("route add local 198.51.100.0/24 dev lo");
        ip("-6 route add local 2001:db8:9::/64 dev lo");
        // a socket without a device would look for the client behind the other device
        let elsewhere = Netns::new();
        Netns::cable("nowhere", "end", &elsewhere);
        elsewhere.run(|| ip("link set end up"));
        ip("link set nowhere up");
        ip("route add 192.0.2.2/32 dev nowhere");
        ip("-6 route add 2001:db8:1::2/128 dev nowhere");
        for (bound, prefix, asking) in [
            ("192.0.2.1:1234", "198.51.100.0/24", "198.51.100.7:5000"),
            ("[2001:db8:1::1]:1234", "2001:db8:9::/64", "[2001:db8:9::7]:5000"),
        ] {
            let launch = Launch::new(&[] as &[&str]);
            let (server, _dispatcher) = steered_to(vec![bind_to_device(bound, "near")], prefix, launch);
            let target: SocketAddr = asking.parse().unwrap();
            let own: IpAddr = if target.is_ipv4() { "192.0.2.2" } else { "2001:db8:1::2" }.parse().unwrap();
            let client = there.run(|| UdpClient::at(own));
            client.echo(SocketAddr::new(target.ip(), PORT), &[64; 3], 1);
            client.echo(target, &[64; 3], 1);
            let end = server.stop();
            assert_eq!(end.counter("udp_reply_sockets_made"), 1);
        }
    });
}
