//! A reply leaves from the exact address that the client contacted, whatever other addresses the kernel reports.

mod support;

use std::ffi::c_int;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{OwnedFd, RawFd};
use support::netns::{Netns, ip};
use support::random::payload;
use support::server::Protocol;
use support::sys;
use support::udp::{UdpClient, datagrams};
use support::{Server, private_network};

/// The server's port in its private network.
const PORT: u16 = 7;

/// Addresses of 127/8, all of which are local on every Linux.
const V4: [[u8; 4]; 4] = [[127, 0, 0, 1], [127, 0, 0, 2], [127, 9, 8, 7], [127, 255, 255, 254]];

/// A prefix that a route makes local as a whole (AnyIP).
const V6_PREFIX: &str = "2001:db8:7::/64";

fn v6_targets() -> impl Iterator<Item = SocketAddr> {
    let ip = |low| Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, low);
    [1, 2, 0xffff].into_iter().map(move |low| SocketAddr::new(IpAddr::V6(ip(low)), PORT))
}

fn v4_targets() -> impl Iterator<Item = SocketAddr> {
    V4.into_iter().map(|ip| SocketAddr::new(IpAddr::from(ip), PORT))
}

/// A server on the wildcard addresses of a network with the prefix above.
fn on_wildcards() -> Server {
    ip(&format!("-6 route add local {V6_PREFIX} dev lo"));
    Server::start(&["--udp", "0.0.0.0:7", "--udp", "[::]:7"])
}

/// Sends datagrams and a train to every address, all in flight together. [`UdpClient::expect`] compares the source of
/// each reply.
fn every_address_answers() {
    for (client, targets) in [
        (UdpClient::at([127, 0, 0, 1]), v4_targets().collect::<Vec<_>>()),
        (UdpClient::at(Ipv6Addr::LOCALHOST), v6_targets().collect()),
    ] {
        for &target in &targets {
            client.echo(target, &[0, 1, 1200, 9000, 64, 64, 64, 0], 1);
            let train = payload(1, 5 * 700 + 13);
            client.send_train(target, &train, 700);
            datagrams(&train, 700).for_each(|datagram| client.expect(target, datagram));
        }
        // consecutive datagrams of one peer to different addresses must not be merged
        for round in 0..50 {
            for &target in &targets {
                client.send(target, &payload(round, 300));
            }
            for &target in &targets {
                client.expect(target, &payload(round, 300));
            }
        }
    }
}

#[test]
#[ignore = "needs root"]
fn from_every_address_asked() {
    private_network(|| {
        let server = on_wildcards();
        every_address_answers();
        let end = server.stop();
        assert_eq!(end.counter("udp_datagrams_in"), end.counter("udp_datagrams_out"));
        assert_eq!(end.counter("udp_truncated"), 0);
    });
}

#[test]
#[ignore = "needs root"]
fn from_an_address_asked_in_a_burst() {
    private_network(|| {
        let server = on_wildcards();
        let targets: Vec<_> = v4_targets().collect();
        let client = UdpClient::at([127, 0, 0, 1]);
        server.pause();
        for round in 0..100 {
            for &target in &targets {
                client.send(target, &payload(round, 200));
            }
        }
        server.resume();
        // replies of different sources come in any order, those of one source in order
        let mut rounds = vec![0; targets.len()];
        for _ in 0..100 * targets.len() {
            let arrival = client.receive();
            let index = targets.iter().position(|target| *target == arrival.from);
            let index = index.unwrap_or_else(|| panic!("nobody asked {}", arrival.from));
            assert!(arrival.payload == payload(rounds[index], 200), "round {} of {index}", rounds[index]);
            rounds[index] += 1;
        }
        assert!(rounds.iter().all(|&rounds| rounds == 100), "{rounds:?}");
        server.stop();
    });
}

/// Starts a server with a cable to another host, and clients with these two addresses there. Returns the scope of the
/// far end too.
fn beside_a_cable(addresses: [&str; 2]) -> (Server, [UdpClient; 2], u32) {
    let far = Netns::new();
    Netns::cable("near", "far", &far);
    ip("addr add fe80::1/64 dev near nodad");
    ip("addr add 2001:db8::1/64 dev near nodad");
    ip("link set near up");
    let (clients, scope) = far.run(|| {
        ip("addr add fe80::2/64 dev far nodad");
        ip("addr add 2001:db8::2/64 dev far nodad");
        ip("link set far up");
        let scope = sys::device_number(c"far").expect("the far device");
        let client = |address: &str| {
            let address: Ipv6Addr = address.parse().expect("an address");
            let scope = if address.is_unicast_link_local() { scope } else { 0 };
            UdpClient::bound_to(SocketAddrV6::new(address, 0, 0, scope).into())
        };
        (addresses.map(client), scope)
    });
    (Server::start(&["--udp", "[::]:7"]), clients, scope)
}

/// Sends single datagrams and a train from each client to each address.
#[test]
#[ignore = "needs root"]
fn to_and_from_link_local_and_global_addresses() {
    private_network(|| {
        let (server, clients, scope) = beside_a_cable(["fe80::2", "2001:db8::2"]);
        let link_local = SocketAddrV6::new("fe80::1".parse().expect("an address"), PORT, 0, scope);
        let global = SocketAddrV6::new("2001:db8::1".parse().expect("an address"), PORT, 0, 0);
        for client in &clients {
            for target in [link_local, global].map(SocketAddr::from) {
                client.echo(target, &[0, 1, 1200, 9000, 64, 64, 64], 2);
                let train = payload(1, 5 * 700 + 13);
                client.send_train(target, &train, 700);
                datagrams(&train, 700).for_each(|datagram| client.expect(target, datagram));
            }
        }
        server.stop();
    });
}

// constants of include/uapi/linux/in.h, in6.h and asm-generic/socket.h that libc lacks
const IP_CHECKSUM: c_int = 23;
const IP_RECVFRAGSIZE: c_int = 25;
const IPV6_2292PKTINFO: c_int = 2;
const IPV6_2292HOPOPTS: c_int = 3;
const IPV6_2292DSTOPTS: c_int = 4;
const IPV6_2292RTHDR: c_int = 5;
const IPV6_2292HOPLIMIT: c_int = 8;
const IPV6_FLOWINFO: c_int = 11;
const IPV6_RECVPATHMTU: c_int = 60;
const IPV6_RECVFRAGSIZE: c_int = 77;
const SO_TIMESTAMP_NEW: c_int = 63;
const SO_TIMESTAMPNS_NEW: c_int = 64;
const SO_TIMESTAMPING_NEW: c_int = 65;
const SO_RCVMARK: c_int = 75;
const SO_RCVPRIORITY: c_int = 82;

/// Options for the time of reception, by software and hardware, and for the receiving device.
const TIMESTAMPING: c_int = (libc::SOF_TIMESTAMPING_RX_SOFTWARE
    | libc::SOF_TIMESTAMPING_SOFTWARE
    | libc::SOF_TIMESTAMPING_RX_HARDWARE
    | libc::SOF_TIMESTAMPING_RAW_HARDWARE
    | libc::SOF_TIMESTAMPING_OPT_PKTINFO
    | libc::SOF_TIMESTAMPING_OPT_CMSG) as c_int;

/// A socket option that makes the kernel add a control message to a datagram.
struct Telling {
    name: &'static str,
    level: c_int,
    option: c_int,
    value: c_int,
}

macro_rules! telling {
    ($level:expr => $($option:expr),* $(,)?) => {
        [$(Telling { name: stringify!($option), level: $level, option: $option, value: 1 }),*]
    };
}

fn telling_of_ipv4() -> Vec<Telling> {
    telling!(libc::IPPROTO_IP =>
        libc::IP_PKTINFO, libc::IP_RECVTTL, libc::IP_RECVTOS, libc::IP_RECVOPTS, libc::IP_RETOPTS,
        libc::IP_RECVERR, libc::IP_PASSSEC, libc::IP_RECVORIGDSTADDR, IP_CHECKSUM, IP_RECVFRAGSIZE,
    )
    .into()
}

fn telling_of_ipv6() -> Vec<Telling> {
    telling!(libc::IPPROTO_IPV6 =>
        libc::IPV6_RECVPKTINFO, libc::IPV6_RECVHOPLIMIT, libc::IPV6_RECVTCLASS, libc::IPV6_RECVRTHDR,
        libc::IPV6_RECVHOPOPTS, libc::IPV6_RECVDSTOPTS, libc::IPV6_RECVERR, libc::IPV6_RECVORIGDSTADDR,
        IPV6_2292PKTINFO, IPV6_2292HOPLIMIT, IPV6_2292RTHDR, IPV6_2292HOPOPTS, IPV6_2292DSTOPTS,
        IPV6_FLOWINFO, IPV6_RECVPATHMTU, IPV6_RECVFRAGSIZE,
    )
    .into()
}

fn telling_of_any_socket() -> Vec<Telling> {
    let mut options = Vec::from(telling!(libc::SOL_SOCKET =>
        libc::SO_TIMESTAMP, libc::SO_TIMESTAMPNS, libc::SO_TIMESTAMPING, SO_TIMESTAMP_NEW,
        SO_TIMESTAMPNS_NEW, SO_TIMESTAMPING_NEW, libc::SO_RXQ_OVFL, SO_RCVMARK, SO_RCVPRIORITY,
    ));
    for option in &mut options {
        if [libc::SO_TIMESTAMPING, SO_TIMESTAMPING_NEW].contains(&option.option) {
            option.value = TIMESTAMPING;
        }
    }
    options
}

/// Duplicates of the server's two sockets, IPv4 first. An option set on a duplicate is set on the server's socket.
fn sockets_of(server: &Server) -> [OwnedFd; 2] {
    let mut addresses = server.addresses().iter();
    assert!(addresses.all(|(protocol, _)| *protocol == Protocol::Udp));
    // the listening sockets are the first descriptors after stdin, stdout and stderr
    let copies = [3 as RawFd, 4].map(|number| server.pidfd.copy_descriptor(number).expect("pidfd_getfd"));
    let [one, other] = copies;
    if sys::local_address(&one).expect("getsockname").is_ipv4() { [one, other] } else { [other, one] }
}

/// Switches an option. Older kernels lack some of them.
fn switch(socket: &OwnedFd, telling: &Telling, value: c_int) -> bool {
    match sys::set_option(socket, telling.level, telling.option, value) {
        Ok(()) => true,
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => false,
        Err(error) => panic!("{}: {error}", telling.name),
    }
}

#[test]
#[ignore = "needs root"]
fn with_each_other_control_message_beside() {
    private_network(|| {
        let server = on_wildcards();
        let [v4, v6] = sockets_of(&server);
        let families = [(&v4, telling_of_ipv4()), (&v6, telling_of_ipv6())];
        let mut switched = 0;
        for (socket, mut options) in families {
            options.extend(telling_of_any_socket());
            for telling in &options {
                if !switch(socket, telling, telling.value) {
                    continue;
                }
                switched += 1;
                println!("with {}", telling.name);
                every_address_answers();
                // the option that the server needs stays on
                if ![libc::IP_RECVORIGDSTADDR, libc::IPV6_RECVORIGDSTADDR].contains(&telling.option) {
                    switch(socket, telling, 0);
                }
            }
        }
        assert!(switched > 30, "only {switched} options are known here");
        let end = server.stop();
        assert_eq!(end.counter("udp_truncated"), 0);
    });
}

#[test]
#[ignore = "needs root"]
fn with_all_other_control_messages_at_once() {
    private_network(|| {
        let server = on_wildcards();
        let [v4, v6] = sockets_of(&server);
        for telling in telling_of_ipv4().iter().chain(&telling_of_any_socket()) {
            switch(&v4, telling, telling.value);
        }
        for telling in telling_of_ipv6().iter().chain(&telling_of_any_socket()) {
            switch(&v6, telling, telling.value);
        }
        every_address_answers();

        // the longest header options of IPv4: 40 bytes of NOP, reported by two options
        let client = UdpClient::at([127, 0, 0, 1]);
        let no_operations = [1; 40];
        sys::set_option_bytes(&client.socket, libc::IPPROTO_IP, libc::IP_OPTIONS, &no_operations)
            .expect("IP_OPTIONS");
        for target in v4_targets() {
            client.echo(target, &[0, 1, 1200], 1);
        }
        let end = server.stop();
        assert_eq!(end.counter("udp_truncated"), 0);
    });
}

#[test]
#[ignore = "needs root"]
fn without_knowing_the_address_no_reply() {
    private_network(|| {
        let server = on_wildcards();
        let [_, v6] = sockets_of(&server);
        sys::set_option(&v6, libc::IPPROTO_IPV6, libc::IPV6_RECVHOPOPTS, 1).expect("IPV6_RECVHOPOPTS");
        // the kernel reports a datagram's hop-by-hop options before its destination, and 1,024 bytes of them leave no
        // room for the destination. RFC 8200: next header, length in units of 8 bytes less one, options; 0x1e is an
        // experimental option (RFC 4727) that receivers without it skip, and PadN fills the rest
        let option = [&[0x1e, 253][..], &[0; 253]].concat();
        let options = [&[0, 127][..], &option.repeat(4), &[1, 0]].concat();
        assert_eq!(options.len(), 1024);
        let target = v6_targets().next().expect("an address");
        let wordy = UdpClient::at(Ipv6Addr::LOCALHOST);
        sys::set_option_bytes(&wordy.socket, libc::IPPROTO_IPV6, libc::IPV6_HOPOPTS, &options)
            .expect("IPV6_HOPOPTS");
        for _ in 0..10 {
            wordy.send(target, b"to whom?");
        }
        let plain = UdpClient::at(Ipv6Addr::LOCALHOST);
        plain.echo(target, &[100; 10], 1);
        wordy.expect_nothing_for(std::time::Duration::from_millis(50));
        let end = server.stop();
        assert_eq!(end.counter("udp_truncated"), 10);
    });
}
