//! The addresses that the server listens on, and the sharing of their ports with other processes.

mod support;

use std::io::Write;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use support::netns::{ip, setting};
use support::server::Protocol;
use support::tcp::{connect, echo};
use support::udp::UdpClient;
use support::{Launch, Server, bounded, private_network};

/// Sends one datagram to each address of the server and expects its echo.
fn all_answer(server: &Server) {
    for &(protocol, address) in server.addresses() {
        match protocol {
            Protocol::Tcp => echo(&mut connect(address), b"a stream"),
            Protocol::Udp => UdpClient::beside(address).echo(address, &[8], 1),
        }
    }
}

fn sorted(mut addresses: Vec<(Protocol, SocketAddr)>) -> Vec<(Protocol, SocketAddr)> {
    addresses.sort();
    addresses
}

#[test]
#[ignore = "needs root"]
fn without_arguments_both_protocols_on_both_loopback_addresses() {
    private_network(|| {
        let server = Server::start::<&str>(&[]);
        let v4 = "127.0.0.1:1234".parse().unwrap();
        let v6 = "[::1]:1234".parse().unwrap();
        let expected = [(Protocol::Tcp, v4), (Protocol::Tcp, v6), (Protocol::Udp, v4), (Protocol::Udp, v6)];
        assert_eq!(sorted(server.addresses().to_vec()), expected);
        all_answer(&server);
        server.stop();
    });
}

#[test]
#[ignore = "needs root"]
fn netcat_as_in_the_quickstart() {
    private_network(|| {
        let server = Server::start::<&str>(&[]);
        let netcat = |options: &str| {
            let mut command = Command::new("nc");
            command.args(options.split(' ')).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut nc =
                command.spawn().expect("run nc (Debian package netcat-openbsd; ci/setup installs it)");
            nc.stdin.take().expect("nc's input").write_all(b"hi").expect("write to nc");
            String::from_utf8(nc.wait_with_output().expect("nc's output").stdout).expect("text")
        };
        assert_eq!(netcat("-q 1 127.0.0.1 1234"), "hi");
        assert_eq!(netcat("-q 1 ::1 1234"), "hi");
        assert_eq!(netcat("-u -w 1 127.0.0.1 1234"), "hi");
        assert_eq!(netcat("-u -w 1 ::1 1234"), "hi");
        server.stop();
    });
}

#[test]
#[ignore = "needs root"]
fn without_ipv6_the_default_costs_one_warning() {
    private_network(|| {
        setting("ipv6/conf/all/disable_ipv6", "1");
        one_warning("[::1]:1234", "127.0.0.1:1234");
    });
}

#[test]
#[ignore = "needs root"]
fn without_ipv4_the_default_costs_one_warning() {
    private_network(|| {
        ip("addr del 127.0.0.1/8 dev lo");
        one_warning("127.0.0.1:1234", "[::1]:1234");
    });
}

/// The default address `absent` cannot be bound, and `present` can. Then the start fails if `absent` alone is named.
fn one_warning(absent: &str, present: &str) {
    let server = Server::start::<&str>(&[]);
    let present: SocketAddr = present.parse().unwrap();
    assert_eq!(sorted(server.addresses().to_vec()), [(Protocol::Tcp, present), (Protocol::Udp, present)]);
    all_answer(&server);
    let end = server.stop();
    let warnings: Vec<_> = end.stderr.iter().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains(absent), "{}", warnings[0]);

    let refusal = Launch::new(&["--listen", absent]).refused();
    assert_eq!(refusal.code, Some(1));
    assert!(refusal.stderr.iter().any(|line| line.starts_with("error:") && line.contains(absent)));
}

#[test]
fn port_zero_is_one_port_for_both_protocols_and_all_workers() {
    bounded(|| {
        for workers in ["1", "3"] {
            let server =
                Server::start(&["--listen", "127.0.0.1:0", "--listen", "[::1]:0", "--workers", workers]);
            let addresses = sorted(server.addresses().to_vec());
            let protocols: Vec<_> = addresses.iter().map(|(protocol, _)| *protocol).collect();
            assert_eq!(protocols, [Protocol::Tcp, Protocol::Tcp, Protocol::Udp, Protocol::Udp]);
            assert_eq!(addresses[0].1, addresses[2].1);
            assert_eq!(addresses[1].1, addresses[3].1);
            assert!(addresses.iter().all(|(_, address)| address.port() != 0));
            all_answer(&server);
            server.stop();
        }
    });
}

#[test]
fn each_protocol_by_itself_and_several_addresses() {
    bounded(|| {
        let server = Server::start(&[
            "--tcp",
            "127.0.0.1:0",
            "--tcp",
            "127.0.0.2:0",
            "--udp",
            "127.0.0.3:0",
            "--udp",
            "[::1]:0",
        ]);
        let found: Vec<_> =
            sorted(server.addresses().to_vec()).iter().map(|(p, a)| (*p, a.ip().to_string())).collect();
        let expected = [
            (Protocol::Tcp, "127.0.0.1"),
            (Protocol::Tcp, "127.0.0.2"),
            (Protocol::Udp, "127.0.0.3"),
            (Protocol::Udp, "::1"),
        ];
        assert_eq!(found, expected.map(|(protocol, ip)| (protocol, ip.to_owned())));
        all_answer(&server);
        server.stop();
    });
}

#[test]
#[ignore = "needs root"]
fn a_wildcard_of_one_family_leaves_the_other_alone() {
    private_network(|| {
        let server = Server::start(&["--listen", "[::]:7"]);
        TcpStream::connect("127.0.0.1:7").expect_err("IPv4 is not ours");
        UdpSocket::bind("0.0.0.0:7").expect("the IPv4 port is free");
        let loopback = "[::1]:7".parse().unwrap();
        echo(&mut connect(loopback), b"IPv6");
        UdpClient::beside(loopback).echo(loopback, &[4], 1);
        server.stop();
    });
}

#[test]
fn workers_share_the_load() {
    bounded(|| {
        let server = Server::start(&["--listen", "127.0.0.1:0", "--workers", "3", "--pin"]);
        assert_eq!(server.worker_threads().len(), 3);
        for _ in 0..100 {
            UdpClient::beside(server.udp()).echo(server.udp(), &[64; 8], 4);
            echo(&mut connect(server.tcp()), b"to whichever worker");
        }
        let end = server.stop();
        assert_eq!(end.counter("udp_datagrams_in"), 800);
        assert_eq!(end.counter("udp_datagrams_out"), 800);
        assert_eq!(end.counter("tcp_accepted"), 100);
        assert_eq!(end.counter("tcp_open"), 0);
    });
}

#[test]
fn a_second_instance_is_refused() {
    bounded(|| {
        let first = Server::start(&["--listen", "127.0.0.1:0", "--listen", "[::1]:0"]);
        for &(protocol, address) in first.addresses() {
            let protocol = if protocol == Protocol::Tcp { "--tcp" } else { "--udp" };
            let refusal = Launch::new(&[protocol, &address.to_string()]).refused();
            assert_eq!((refusal.code, refusal.ready_count), (Some(1), 0), "{:?}", refusal.stderr);
            let error = refusal.stderr.last().expect("a line");
            assert!(error.starts_with("error:"), "{error}");
            assert!(error.contains(&address.to_string()) && error.contains("ss -lnp"), "{error}");
        }
        all_answer(&first);
        first.stop();
    });
}

#[test]
fn instances_that_both_want_to_share_a_port() {
    bounded(|| {
        let first = Server::start(&["--join", "--listen", "127.0.0.1:0"]);
        let address = first.udp();
        let second = Server::start(&["--join", "--listen", &address.to_string()]);
        for _ in 0..100 {
            UdpClient::beside(address).echo(address, &[100], 1);
            echo(&mut connect(address), b"to either");
        }
        let (first, second) = (first.stop(), second.stop());
        for name in ["udp_datagrams_in", "tcp_accepted"] {
            let (one, other) = (first.counter(name), second.counter(name));
            assert_eq!(one + other, 100, "{name}");
            assert!(one > 0 && other > 0, "{name}: {one} and {other}");
        }
    });
}

#[test]
fn a_port_that_its_holder_has_just_left_is_taken_over() {
    bounded(|| {
        let start = |address: &str| Server::start(&["--listen", address, "--drain-timeout", "100ms"]);
        let mut server = start("127.0.0.1:0");
        let address = server.udp().to_string();
        for _ in 0..5 {
            // the connection's end at the server is the one in TIME_WAIT
            let mut connection = connect(server.tcp());
            echo(&mut connection, b"to be cut by the server's end");
            server.stop();
            server = start(&address);
            all_answer(&server);
        }
        server.stop();
    });
}

/// The kernel shortens a longer queue and reports nothing.
#[test]
#[ignore = "needs root"]
fn a_shorter_accept_queue_than_asked_for_is_told_with_its_cure() {
    private_network(|| {
        let warning = |server: &Server| {
            let lines = server.log.all();
            lines.iter().find(|line| line.contains("net.core.somaxconn")).cloned()
        };
        setting("core/somaxconn", "16");
        let server = Server::start(&["--listen", "127.0.0.1:0", "--workers", "2"]);
        let told = warning(&server).expect("a warning");
        assert!(told.contains("hold 16 connections instead of 4096"), "{told}");
        all_answer(&server);
        server.stop();
        // follow the advice
        setting("core/somaxconn", "4096");
        let server = Server::start(&["--listen", "127.0.0.1:0", "--workers", "2"]);
        assert_eq!(warning(&server), None);
        server.stop();
    });
}
