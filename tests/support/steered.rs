//! A server to which all ports of two prefixes are steered.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use tubular_echo::kernel::sys::Protocol;

use super::random::Random;
use super::registry::register_pid;
use super::server::End;
use super::steer::{Binding, Dispatcher};
use super::{Launch, Server, netns};

/// The addresses that the server listens on.
pub const LISTENING: [&str; 2] = ["127.0.0.1:1234", "[::1]:1234"];
/// Its port.
pub const PORT: u16 = 1234;
/// The local prefixes that are steered, for all ports.
pub const PREFIXES: [&str; 2] = ["127.128.0.0/9", "2001:db8::/64"];
/// Ports that need no capability.
pub const FREE_PORTS: RangeInclusive<u16> = 1024..=65_535;

/// An address family, and its steered prefix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Family {
    V4,
    V6,
}
use Family::{V4, V6};

impl Family {
    /// Any address of the steered prefix.
    pub fn ip(self, random: &mut Random) -> IpAddr {
        let host = random.next();
        match self {
            V4 => Ipv4Addr::from(0x7f80_0000 | host as u32 >> 9).into(),
            V6 => Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(host)).into(),
        }
    }

    /// Any address of the steered prefix with any of these ports.
    pub fn pair(self, random: &mut Random, ports: RangeInclusive<u16>) -> SocketAddr {
        let port = random.between((*ports.start()).into(), (*ports.end()).into());
        SocketAddr::new(self.ip(random), port as u16)
    }

    /// The clients' address, which is not steered.
    pub fn loopback(self) -> IpAddr {
        match self {
            V4 => Ipv4Addr::LOCALHOST.into(),
            V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }

    /// This many addresses, none with the port that the server listens on.
    pub fn pairs(self, seed: u64, count: usize) -> Vec<SocketAddr> {
        let mut random = Random::new(seed);
        let pairs = std::iter::repeat_with(|| self.pair(&mut random, FREE_PORTS));
        pairs.filter(|pair| pair.port() != PORT).take(count).collect()
    }
}

/// The user that the server runs as.
#[derive(Clone, Copy, PartialEq)]
pub enum User {
    Root,
    Nobody,
}

/// A server to which all ports of both prefixes are steered.
pub struct Steered {
    /// The server itself.
    pub server: Server,
    /// Dropping it ends the steering.
    pub dispatcher: Dispatcher,
}

impl Steered {
    /// Starts the server and the steering in the calling thread's network, a private one.
    pub fn start(user: User, arguments: &[&str]) -> Self {
        netns::setting("ipv4/ip_unprivileged_port_start", "1024");
        netns::ip(&format!("-6 route replace local {} dev lo", PREFIXES[1]));
        let listen = LISTENING.map(|address| format!("--udp={address}"));
        let launch = Launch::new(&[&listen.each_ref().map(String::as_str), arguments].concat());
        let server = if user == User::Root { launch } else { launch.unprivileged() }.ready();
        let dispatcher = Dispatcher::attach(&PREFIXES.map(|prefix| Binding::new(Protocol::Udp, prefix, 0)));
        let dispatcher = dispatcher.expect("attach to a network namespace, which needs root");
        for address in LISTENING {
            register_pid(&dispatcher.sockets, server.pid(), Protocol::Udp, address.parse().unwrap())
                .unwrap_or_else(|failure| panic!("register-pid udp {address}: {failure}"));
        }
        Self { server, dispatcher }
    }

    /// Ends the server. It must have answered every datagram, or counted it by one of these counters.
    pub fn stop(self, dropped: &[&str]) -> End {
        let end = self.server.stop();
        let accounted: u64 = dropped.iter().map(|name| end.counter(name)).sum();
        assert_eq!(end.counter("udp_datagrams_in"), end.counter("udp_datagrams_out") + accounted);
        end
    }
}
