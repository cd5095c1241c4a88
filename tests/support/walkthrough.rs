//! The walk-through of docs/behind-tubular.md: which addresses are steered, and one exchange with any of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};

use tubular_echo::kernel::sys::Protocol;

use super::random::{Random, payload};
use super::steer::{Binding, Dispatcher};
use super::udp::UdpClient;
use super::{netns, tcp};

/// The steered UDP port. For TCP all ports are steered.
pub const UDP_PORT: u16 = 1234;

/// The sockets that the walk-through registers: protocol and address, the port is the server's.
pub const DESTINATIONS: [(Protocol, IpAddr); 4] = [
    (Protocol::Tcp, IpAddr::V4(Ipv4Addr::LOCALHOST)),
    (Protocol::Udp, IpAddr::V4(Ipv4Addr::LOCALHOST)),
    (Protocol::Tcp, IpAddr::V6(Ipv6Addr::LOCALHOST)),
    (Protocol::Udp, IpAddr::V6(Ipv6Addr::LOCALHOST)),
];

/// Steers the walk-through's prefixes in this network, which needs an AnyIP route for the IPv6 one.
pub fn dispatcher() -> Dispatcher {
    netns::ip("-6 route add local 2001:db8::/64 dev lo");
    Dispatcher::attach(&[
        Binding::new(Protocol::Tcp, "127.0.0.128/25", 0),
        Binding::new(Protocol::Udp, "127.0.0.128/25", UDP_PORT),
        Binding::new(Protocol::Tcp, "2001:db8::/64", 0),
        Binding::new(Protocol::Udp, "2001:db8::/64", UDP_PORT),
    ])
    .expect("attach to a network namespace, which needs root")
}

/// An address of the steered prefix of this family, and a port that is steered there.
pub fn steered(random: &mut Random, protocol: Protocol, like: IpAddr) -> SocketAddr {
    let ip: IpAddr = match like {
        IpAddr::V4(_) => Ipv4Addr::new(127, 0, 0, random.between(128, 254) as u8).into(),
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

/// One exchange with a check of the reply's content and source. A connection needs no check of the source: the kernel
/// accepts only segments from the address that it was opened to.
pub fn exchange(number: usize, protocol: Protocol, target: SocketAddr) {
    let bytes = payload(number, 1 + number * 61 % 1400);
    match protocol {
        Protocol::Tcp => {
            let mut stream = tcp::connect(target);
            assert_eq!(stream.peer_addr().unwrap(), target);
            tcp::echo(&mut stream, &bytes);
            stream.shutdown(Shutdown::Write).expect("send a FIN");
            tcp::expect_end(&mut stream);
        }
        Protocol::Udp => {
            let client = UdpClient::beside(target);
            client.send(target, &bytes);
            client.expect(target, &bytes);
        }
    }
}

/// `rounds` exchanges with each of the four destinations, at addresses that `seed` decides.
pub fn walk_through(seed: u64, rounds: usize) {
    let mut random = Random::new(seed);
    for number in 0..rounds {
        for (protocol, like) in DESTINATIONS {
            exchange(number, protocol, steered(&mut random, protocol, like));
        }
    }
}
