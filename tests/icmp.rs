//! Forged ICMP errors for sockets that receive them (`IP_RECVERR`). They neither end the server nor make it spin, and it
//! switches the option off on sockets that a service manager passes.

mod support;

use std::ffi::c_int;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use support::lines::Stored;
use support::udp::UdpClient;
use support::{Launch, Server, forge, private_network, sys};
use tubular_echo::kernel::sys::{self as server_sys, IntOption};

/// ICMP types and the number of codes of each: destination unreachable, source quench, time exceeded, parameter problem
/// (IANA, ICMP parameters).
const ICMP: [(u8, u8); 4] = [(3, 16), (4, 1), (11, 2), (12, 3)];
/// The same for ICMPv6: destination unreachable, packet too big, time exceeded, parameter problem.
const ICMPV6: [(u8, u8); 4] = [(1, 9), (2, 1), (3, 2), (4, 4)];

/// The option that makes a socket receive such errors.
fn telling_of_errors(addr: SocketAddr) -> (c_int, c_int) {
    if addr.is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_RECVERR)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
    }
}

/// Sends every ICMP error, with an exchange after each. Returns the number of errors.
fn report_everything_to(addr: SocketAddr) -> u64 {
    let (types, peer): (_, SocketAddr) = if addr.is_ipv4() {
        (ICMP, (Ipv4Addr::LOCALHOST, 9).into())
    } else {
        (ICMPV6, (Ipv6Addr::LOCALHOST, 9).into())
    };
    let client = UdpClient::beside(addr);
    let mut count = 0;
    for (kind, code) in types.into_iter().flat_map(|(kind, codes)| (0..codes).map(move |code| (kind, code))) {
        println!("type {kind}, code {code} to {addr}");
        forge::forge_icmp(addr, peer, kind, code);
        client.echo(addr, &[100; 3], 1);
        count += 1;
    }
    count
}

#[test]
#[ignore = "needs root"]
fn none_ends_the_server() {
    private_network(|| {
        let server = Server::start(&["--udp", "127.0.0.1:0", "--udp", "[::1]:0"]);
        for socket in server.copy_sockets(2) {
            let (level, option) = telling_of_errors(sys::local_address(&socket).expect("getsockname"));
            sys::set_option(&socket, level, option, 1).expect("IP_RECVERR");
        }
        let forged: u64 = server.addresses().iter().map(|(_, addr)| report_everything_to(*addr)).sum();
        // an error in the error queue must not wake the server again and again
        let (begun, used) = (Instant::now(), sys::cpu_time_of(server.pid()));
        thread::sleep(Duration::from_millis(500));
        let used = sys::cpu_time_of(server.pid()).saturating_sub(used);
        let share = used.as_secs_f64() / begun.elapsed().as_secs_f64();
        assert!(share < 0.2, "{share:.3} of a processor with nothing to do");
        let end = server.stop();
        let errors = end.counter("udp_receive_errors");
        assert!(errors * 2 > forged, "{errors} of {forged} errors reached a receive");
        assert_eq!(end.counter("udp_datagrams_out"), 3 * forged);
    });
}

/// Unread errors would fill the receive buffer, so that a stranger could silence the server.
#[test]
#[ignore = "needs root"]
fn a_passed_socket_is_told_of_none() {
    private_network(|| {
        let udp = [
            UdpSocket::bind("127.0.0.1:0").expect("a UDP socket"),
            UdpSocket::bind("[::1]:0").expect("a UDP socket"),
        ];
        let addresses = udp.each_ref().map(|socket| socket.local_addr().expect("getsockname"));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let mut passed: Vec<OwnedFd> = udp.map(OwnedFd::from).into();
        passed.push(listener.into());
        let times = IntOption(libc::SOL_SOCKET, libc::SO_TIMESTAMPING);
        for socket in &passed {
            let (level, option) = telling_of_errors(sys::local_address(socket).expect("getsockname"));
            sys::set_option(socket, level, option, 1).expect("IP_RECVERR");
            let sending = libc::SOF_TIMESTAMPING_TX_SOFTWARE | libc::SOF_TIMESTAMPING_SOFTWARE;
            server_sys::set_option(socket.as_fd(), times, sending as i32).expect("SO_TIMESTAMPING");
        }
        // an error from before the server's start
        forge::forge_icmp(addresses[0], (Ipv4Addr::LOCALHOST, 9).into(), 3, 5);
        let passed: Vec<_> =
            passed.into_iter().map(|descriptor| Stored { name: "test".into(), descriptor }).collect();
        let server = Launch::new(&["--workers", "1"]).passing(&passed).ready();
        for Stored { descriptor, .. } in &passed {
            let (level, option) = telling_of_errors(sys::local_address(descriptor).expect("getsockname"));
            assert_eq!(sys::option(descriptor, level, option).expect("IP_RECVERR"), 0);
            assert_eq!(sys::option(descriptor, times.0, times.1).expect("SO_TIMESTAMPING"), 0);
        }
        for addr in addresses {
            report_everything_to(addr);
        }
        assert_eq!(server.stop().counter("udp_receive_errors"), 0);
    });
}
