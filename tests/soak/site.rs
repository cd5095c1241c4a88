//! Two hosts and a cable. On the server's host a dispatcher steers two whole prefixes to it; the clients are on the
//! other one. The faults of the network are here too.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use tubular_echo::kernel::sys::Protocol;

use crate::support::netns::{self, Netns, ip};
use crate::support::random::Random;
use crate::support::steer::{Binding, Dispatcher};

/// The addresses of the server.
pub const LISTENING: [&str; 2] = ["192.0.2.1:1234", "[2001:db8:1::1]:1234"];
/// The port that it listens on.
pub const PORT: u16 = 1234;
/// The prefixes that are steered to the server, with all ports.
pub const STEERED: [&str; 2] = ["198.51.100.0/24", "2001:db8:2::/64"];
/// The clients' addresses.
pub const CLIENTS: [&str; 2] = ["192.0.2.2", "2001:db8:1::2"];

/// The devices of the cable: the server's and the clients'.
const DEVICES: [&str; 2] = ["served", "asking"];
/// The served addresses, as the device gets them. The detection of duplicate addresses is off, because it takes time.
const ADDRESSES: [&str; 2] = ["192.0.2.1/24", "2001:db8:1::1/64 nodad"];

/// The two hosts.
pub struct Site {
    /// The server's host, in which the calling thread is.
    pub server: Netns,
    /// The clients' host.
    pub clients: Netns,
    /// Steers TCP and UDP of both prefixes.
    pub dispatcher: Dispatcher,
}

impl Site {
    /// Builds the hosts, and moves the calling thread to the server's.
    pub fn build() -> Self {
        let server = Netns::unshare();
        let clients = Netns::new();
        Netns::cable(DEVICES[0], DEVICES[1], &clients);
        prepare(DEVICES[0]);
        for address in ADDRESSES {
            ip(&format!("address add {address} dev {}", DEVICES[0]));
        }
        ip(&format!("link set {} up", DEVICES[0]));
        for prefix in STEERED {
            ip(&format!("route add local {prefix} dev lo"));
        }
        let bindings: Vec<_> = [Protocol::Tcp, Protocol::Udp]
            .into_iter()
            .flat_map(|protocol| STEERED.map(|prefix| Binding::new(protocol, prefix, 0)))
            .collect();
        let dispatcher = Dispatcher::attach(&bindings).expect("attach to a network namespace");
        let site = Self { server, clients, dispatcher };
        site.clients.run(|| {
            prepare(DEVICES[1]);
            ip(&format!("address add {}/24 dev {}", CLIENTS[0], DEVICES[1]));
            ip(&format!("address add {}/64 dev {} nodad", CLIENTS[1], DEVICES[1]));
            ip(&format!("link set {} up", DEVICES[1]));
            clients_routes();
        });
        site
    }

    /// Takes the device of one host down for this time.
    pub fn link_down(&self, clients_side: bool, pause: Duration) {
        let toggle = |device: &str| {
            ip(&format!("link set {device} down"));
            thread::sleep(pause);
            ip(&format!("link set {device} up"));
        };
        if clients_side {
            self.clients.run(|| {
                toggle(DEVICES[1]);
                clients_routes();
            });
        } else {
            toggle(DEVICES[0]);
        }
    }

    /// Removes an address of the server from its host for this time. 0 means IPv4, 1 means IPv6.
    pub fn address_gone(family: usize, pause: Duration) {
        ip(&format!("address del {} dev {}", ADDRESSES[family].trim_end_matches(" nodad"), DEVICES[0]));
        thread::sleep(pause);
        ip(&format!("address add {} dev {}", ADDRESSES[family], DEVICES[0]));
    }

    /// Number of used sockets of the server's host, by protocol (/proc/net/sockstat).
    pub fn sockets_in_use() -> [u64; 2] {
        let text = fs::read_to_string("/proc/thread-self/net/sockstat").expect("the sockets' statistics")
            + &fs::read_to_string("/proc/thread-self/net/sockstat6").expect("the sockets' statistics");
        ["TCP", "UDP"].map(|protocol| {
            let is_of = |line: &&str| {
                line.starts_with(&format!("{protocol}: ")) || line.starts_with(&format!("{protocol}6: "))
            };
            let in_use = |line: &str| line.split_whitespace().nth(2).expect("sockets in use").parse::<u64>();
            text.lines().filter(is_of).map(|line| in_use(line).expect("a number")).sum()
        })
    }
}

/// Switches off the detection of duplicate addresses, and keeps IPv6 addresses when the link goes down.
fn prepare(device: &str) {
    netns::setting(&format!("ipv6/conf/{device}/accept_dad"), "0");
    netns::setting(&format!("ipv6/conf/{device}/keep_addr_on_down"), "1");
}

/// Adds the routes, which vanish when their device goes down.
fn clients_routes() {
    for (prefix, address) in STEERED.iter().zip(LISTENING) {
        let gateway = address.parse::<SocketAddr>().expect("an address").ip();
        ip(&format!("route replace {prefix} via {gateway}"));
    }
}

/// A target for a client: the listening address of a family, or any address and port of its prefix.
pub fn target(random: &mut Random) -> SocketAddr {
    let family = random.between(0, 1);
    if random.between(0, 1) == 0 {
        return LISTENING[family].parse().expect("an address");
    }
    let prefix: ipnet::IpNet = STEERED[family].parse().expect("a prefix");
    let ip: IpAddr = match prefix.network() {
        IpAddr::V4(network) => (u32::from(network) | random.between(1, 254) as u32).to_be_bytes().into(),
        IpAddr::V6(network) => (u128::from(network) | u128::from(random.next())).to_be_bytes().into(),
    };
    SocketAddr::new(ip, random.between(1024, 65_535) as u16)
}
