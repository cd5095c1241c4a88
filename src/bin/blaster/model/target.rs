//! A target: one address and port, or a prefix and a range of ports to draw from.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rand::RngExt;
use rand::rngs::SmallRng;
use tubular_echo::policy::address_blocks::{self, Reach};
use tubular_echo::sockets::listen_addr::{self, Interface, ListenAddrError};

use crate::model::host_name::{HostName, HostNameError};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TargetError {
    #[error("target {0:?} is not ADDR:PORT, NAME:PORT, PREFIX:PORT, PREFIX:LOW-HIGH or PREFIX:any")]
    Shape(String),
    #[error("target {0:?}: IPv6 goes in brackets, as in [2001:db8::1]:1234 or [2001:db8::/64]:1234")]
    Brackets(String),
    #[error("target {0:?}: {1:?} is neither an IP address, nor a prefix, nor a name")]
    Address(String, String),
    #[error("target {0:?}: {1}")]
    Name(String, HostNameError),
    #[error("target {0:?}: the port is missing: say {1}:1234")]
    NameWithoutPort(String, HostName),
    #[error("target {0:?}: a name stands alone, without prefix, interface, brackets or quotes: say {1}")]
    BesideName(String, String),
    #[error("{host} is {ip}: {error}")]
    OfName { host: HostName, ip: IpAddr, error: Box<TargetError> },
    #[error("target {0:?}: {1}")]
    Misspelt(String, ListenAddrError),
    #[error(
        "target {0:?} has bits set behind its prefix: say {1} for the whole network, or leave the length out"
    )]
    HostBits(String, Box<Target>),
    #[error("target {0:?}: {1:?} is not a port (1-65535), a range LOW-HIGH or `any` (1024-65535)")]
    Port(String, String),
    #[error("target {0:?}: no interface is named {1:?}")]
    Zone(String, String),
    #[error(
        "target {target} is public: only addresses that the Internet does not reach (RFC 6890: loopback, private, \
         link-local, documentation and the like) are loaded without --allow-public; load only hosts that are yours"
    )]
    Public { target: String },
    #[error(
        "target {target} has only addresses that mean a whole network of this host, which are never loaded: \
         `ip address` shows the networks"
    )]
    Broadcast { target: String },
    #[error("target {target} covers {kind} addresses ({net}), which are never loaded")]
    Forbidden { target: String, kind: &'static str, net: String },
    #[error(
        "target {target}: with several targets, --spray and --each-once of UDP need targets of one address family; -4 or \
         -6 takes one family of a name"
    )]
    MixedSpray { target: String },
}

/// A prefix and a range of ports. A single address is a prefix of full length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    net: IpNet,
    scope_id: u32,
    ports: Ports,
}

/// A range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ports {
    min: u16,
    max: u16,
}

impl Ports {
    /// `None`: `text` is no port, no range and not `any`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let one = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
        if text == "any" {
            return Some(Self { min: 1024, max: 65_535 });
        }
        match text.split_once('-') {
            Some((low, high)) => {
                let (min, max) = (one(low)?, one(high)?);
                (min <= max).then_some(Self { min, max })
            }
            None => one(text).map(|port| Self { min: port, max: port }),
        }
    }

    pub(crate) fn is_single(self) -> bool {
        self.min == self.max
    }
}

/// With the colon before them.
impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.min, self.max) {
            (min, max) if min == max => write!(f, ":{min}"),
            (1024, 65_535) => write!(f, ":any"),
            (min, max) => write!(f, ":{min}-{max}"),
        }
    }
}

impl Target {
    /// These ports of the host with the address of `addr`.
    pub(crate) fn of_host(addr: SocketAddr, ports: Ports) -> Self {
        let scope_id = if let SocketAddr::V6(addr) = addr { addr.scope_id() } else { 0 };
        Self { net: addr.ip().into(), scope_id, ports }
    }

    /// Whether it is one address and one port.
    pub(crate) fn is_single(&self) -> bool {
        self.net.prefix_len() == self.net.max_prefix_len() && self.ports.is_single()
    }

    /// Its address and port, if it is one of each.
    pub(crate) fn single(&self) -> Option<SocketAddr> {
        self.is_single().then(|| self.at(self.net.addr(), self.ports.min))
    }

    pub(crate) fn is_ipv4(&self) -> bool {
        self.net.addr().is_ipv4()
    }

    /// All addresses of `net` with port 0, on the interface of `scope_id`.
    pub(crate) fn addresses_of(net: IpNet, scope_id: u32) -> Self {
        Self { net, scope_id, ports: Ports { min: 0, max: 0 } }
    }

    /// Whether it has link-local addresses, and no interface that they belong to.
    pub(crate) fn lacks_interface(&self) -> bool {
        matches!(self.net.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local()) && self.scope_id == 0
    }

    /// Link-local addresses that lack their interface get this one.
    pub(crate) fn put_on_interface(&mut self, index: u32) {
        if self.lacks_interface() {
            self.scope_id = index;
        }
    }

    pub(crate) fn net(&self) -> IpNet {
        self.net
    }

    pub(crate) fn has_port(&self, port: u16) -> bool {
        (self.ports.min..=self.ports.max).contains(&port)
    }

    /// Whether `port` is its only port.
    pub(crate) fn has_only_port(&self, port: u16) -> bool {
        self.ports.min == port && self.ports.max == port
    }

    /// Draws again while `is_unwanted`, at most a thousand times.
    pub(crate) fn draw_wanted(
        &self,
        rng: &mut SmallRng,
        is_unwanted: impl Fn(SocketAddr) -> bool,
    ) -> SocketAddr {
        const DRAWS_MAX: u32 = 1_000;
        let mut drawn = self.draw(rng);
        for _ in 1..DRAWS_MAX {
            if self.is_single() || !is_unwanted(drawn) {
                break;
            }
            drawn = self.draw(rng);
        }
        drawn
    }

    /// Draws an address and a port; all are equally likely.
    pub(crate) fn draw(&self, rng: &mut SmallRng) -> SocketAddr {
        if self.is_single() {
            return self.at(self.net.addr(), self.ports.min);
        }
        let port = rng.random_range(self.ports.min..=self.ports.max);
        let host_bits = u32::from(self.net.max_prefix_len() - self.net.prefix_len());
        let ip = match self.net.addr() {
            IpAddr::V4(base) => {
                let host = rng.random::<u32>() & 1_u32.checked_shl(host_bits).map_or(u32::MAX, |end| end - 1);
                IpAddr::V4(Ipv4Addr::from_bits(base.to_bits() | host))
            }
            IpAddr::V6(base) => {
                let host =
                    rng.random::<u128>() & 1_u128.checked_shl(host_bits).map_or(u128::MAX, |end| end - 1);
                IpAddr::V6(Ipv6Addr::from_bits(base.to_bits() | host))
            }
        };
        self.at(ip, port)
    }

    /// The number of its addresses. `None`: 2^128.
    pub(crate) fn addresses(&self) -> Option<u128> {
        1_u128.checked_shl(u32::from(self.net.max_prefix_len() - self.net.prefix_len()))
    }

    /// The number of its ports.
    pub(crate) fn ports(&self) -> u32 {
        u32::from(self.ports.max) - u32::from(self.ports.min) + 1
    }

    /// Its nth address with its nth port, both from 0.
    pub(crate) fn nth(&self, address: u128, port: u32) -> SocketAddr {
        let ip = match self.net.addr() {
            IpAddr::V4(base) => IpAddr::V4(Ipv4Addr::from_bits(base.to_bits() | address as u32)),
            IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from_bits(base.to_bits() | address)),
        };
        self.at(ip, self.ports.min + port as u16)
    }

    /// The number of its addresses and ports. `None`: more than 2^128.
    pub(crate) fn size(&self) -> Option<u128> {
        self.addresses()?.checked_mul(self.ports().into())
    }

    /// The number of `addr` among its addresses and ports, in the order of [`Target::nth`].
    pub(crate) fn position(&self, addr: SocketAddr) -> Option<u128> {
        let port = addr.port().checked_sub(self.ports.min).filter(|_| addr.port() <= self.ports.max)?;
        let address = match (self.net, addr.ip()) {
            (IpNet::V4(net), IpAddr::V4(ip)) if net.contains(&ip) => {
                u128::from(ip.to_bits() - net.network().to_bits())
            }
            (IpNet::V6(net), IpAddr::V6(ip)) if net.contains(&ip) => ip.to_bits() - net.network().to_bits(),
            _ => return None,
        };
        Some(address * u128::from(self.ports()) + u128::from(port))
    }

    fn at(&self, ip: IpAddr, port: u16) -> SocketAddr {
        match ip {
            IpAddr::V4(ip) => SocketAddrV4::new(ip, port).into(),
            // replies name the interface of link-local addresses only
            IpAddr::V6(ip) if !ip.is_unicast_link_local() => SocketAddrV6::new(ip, port, 0, 0).into(),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, self.scope_id).into(),
        }
    }

    /// Refuses multicast, broadcast and the like, and without `--allow-public` also public addresses.
    pub(crate) fn check_allowed(&self, allow_public: bool) -> Result<(), TargetError> {
        let (around, mut inside) = address_blocks::blocks_of(self.net.addr(), self.net.prefix_len());
        let mut is_public = around.is_none_or(|block| block.reach == Reach::Public);
        let no_host = around.into_iter().chain(&mut inside).find(|block| {
            is_public |= block.reach == Reach::Public;
            block.reach == Reach::NoHost
        });
        if let Some(block) = no_host {
            let net = format!("{}/{}", block.first, block.prefix_len);
            return Err(TargetError::Forbidden { target: self.to_string(), kind: block.name, net });
        }
        if is_public && !allow_public {
            return Err(TargetError::Public { target: self.to_string() });
        }
        Ok(())
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        Self::parse(text).map_err(|error| match (&error, listen_addr::parse(text)) {
            // it may be an address in another spelling
            (
                TargetError::Shape(_) | TargetError::Brackets(_) | TargetError::Address(..),
                Err(
                    advice @ (ListenAddrError::NoPort(_)
                    | ListenAddrError::Brackets(_)
                    | ListenAddrError::BracketsAroundV4(_)
                    | ListenAddrError::Decorated(_)),
                ),
            ) => TargetError::Misspelt(text.into(), advice),
            _ => error,
        })
    }
}

impl Target {
    fn parse(text: &str) -> Result<Self, TargetError> {
        let shape = || TargetError::Shape(text.into());
        let (address, port) = if let Some(rest) = text.strip_prefix('[') {
            rest.split_once("]:").ok_or_else(shape)?
        } else {
            let (address, port) = text.rsplit_once(':').ok_or_else(shape)?;
            if address.contains(':') {
                return Err(TargetError::Brackets(text.into()));
            }
            (address, port)
        };
        let bad_address = || TargetError::Address(text.into(), address.into());
        let (address, prefix_len) = match address.split_once('/') {
            Some((address, len)) => (address, Some(len.parse::<u8>().map_err(|_| bad_address())?)),
            None => (address, None),
        };
        let (address, zone) = match address.split_once('%') {
            Some((address, zone)) => (address, Some(zone)),
            None => (address, None),
        };
        let net = if text.starts_with('[') {
            let ip: Ipv6Addr = address.parse().map_err(|_| bad_address())?;
            IpNet::V6(Ipv6Net::new(ip, prefix_len.unwrap_or(128)).map_err(|_| bad_address())?)
        } else {
            let ip: Ipv4Addr = address.parse().map_err(|_| bad_address())?;
            IpNet::V4(Ipv4Net::new(ip, prefix_len.unwrap_or(32)).map_err(|_| bad_address())?)
        };
        let scope_id = match zone {
            None => 0,
            Some(zone) if net.addr().is_ipv4() => return Err(TargetError::Zone(text.into(), zone.into())),
            Some(zone) => zone_index(zone).ok_or_else(|| TargetError::Zone(text.into(), zone.into()))?,
        };
        let ports = Ports::parse(port).ok_or_else(|| TargetError::Port(text.into(), port.into()))?;
        let target = Self { net: net.trunc(), scope_id, ports };
        if target.net == net { Ok(target) } else { Err(TargetError::HostBits(text.into(), Box::new(target))) }
    }
}

/// The interface of a zone: a number, or a name that the kernel looks up in this network namespace.
fn zone_index(zone: &str) -> Option<u32> {
    zone.parse().ok().or_else(|| Interface::new(zone)?.index().ok())
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ip = self.net.addr();
        let zone = if self.scope_id == 0 { String::new() } else { format!("%{}", self.scope_id) };
        let len = if self.net.prefix_len() == self.net.max_prefix_len() {
            String::new()
        } else {
            format!("/{}", self.net.prefix_len())
        };
        if ip.is_ipv4() {
            write!(f, "{ip}{len}")?;
        } else {
            write!(f, "[{ip}{zone}{len}]")?;
        }
        self.ports.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Target {
        pub(crate) fn contains(&self, addr: SocketAddr) -> bool {
            self.net.contains(&addr.ip()) && (self.ports.min..=self.ports.max).contains(&addr.port())
        }
    }

    #[test]
    fn what_is_a_target() {
        for text in [
            "127.0.0.1:7",
            "192.0.2.0/24:1234",
            "192.0.2.0/24:any",
            "10.0.0.0/8:1-65535",
            "[::1]:7",
            "[2001:db8::/64]:1234",
            "[2001:db8::/64]:5000-5003",
            "[fe80::1%1]:7",
        ] {
            let target: Target = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(target.to_string(), text);
        }
        let lo: Target = "[fe80::1%lo]:7".parse().unwrap();
        assert_eq!(lo.to_string(), "[fe80::1%1]:7");
    }

    #[test]
    fn what_is_none() {
        for text in [
            "",
            ":",
            "127.0.0.1",
            "127.0.0.1:",
            "127.0.0.1:0",
            "127.0.0.1:65536",
            "127.0.0.1:9-8",
            "127.0.0.1:x",
            "127.0.0.1:-5",
            "localhost:7",
            "::1:7",
            "[::1]7",
            "[::1]",
            "[127.0.0.1]:7",
            "192.0.2.0/33:7",
            "192.0.2.1/24:7",
            "[2001:db8::1/64]:7",
            "127.0.0.1%lo:7",
            "[fe80::1%nosuch]:7",
            "[fe80::1%../x]:7",
        ] {
            let error = text.parse::<Target>().expect_err(text).to_string();
            assert!(!error.contains('\n'), "{text}: {error}");
        }
    }

    #[test]
    fn what_to_write_instead_is_told_to_the_letter() {
        for (text, meant) in [
            ("127.0.0.1", "127.0.0.1:1234"),
            ("::1:7", "[::1]:7"),
            ("[::1]", "[::1]:1234"),
            ("[127.0.0.1]:7", "127.0.0.1:7"),
            ("udp://127.0.0.1:7", "127.0.0.1:7"),
            ("192.0.2.1/24:7", "192.0.2.0/24:7"),
            ("[2001:db8::1/64]:7-9", "[2001:db8::/64]:7-9"),
        ] {
            let error = text.parse::<Target>().expect_err(text).to_string();
            let (_, advice) = error.split_once("say ").unwrap_or_else(|| panic!("{error}"));
            assert_eq!(advice.split(' ').next(), Some(meant), "{text}: {error}");
            assert!(meant.parse::<Target>().is_ok(), "{meant}");
        }
    }

    #[test]
    fn only_allowed_ranges_are_loaded_unasked() {
        let verdict = |text: &str, allow_public| text.parse::<Target>().unwrap().check_allowed(allow_public);
        for text in [
            "127.0.0.1:7",
            "127.0.0.0/8:any",
            "169.254.1.1:7",
            "10.1.2.3:7",
            "172.31.0.1:7",
            "192.168.0.0/16:7",
            "192.0.2.1:7",
            "198.51.100.1:7",
            "203.0.113.0/24:7",
            "198.18.0.0/15:7",
            "[::1]:7",
            "[fe80::1%1]:7",
            "[fd00::1]:7",
            "[2001:db8::/32]:any",
            "[3fff::1]:7",
            "[2001:2::1]:7",
            "100.64.0.0/10:7",
            "192.0.0.0/29:7",
            "240.0.0.1:7",
            "[64:ff9b:1::/48]:7",
        ] {
            verdict(text, false).unwrap_or_else(|error| panic!("{text}: {error}"));
        }
        for text in [
            "8.8.8.8:53",
            "172.32.0.1:7",
            "192.0.0.0/8:7",
            "198.20.0.1:7",
            "[2606:4700::1]:7",
            "[2000::/3]:7",
            "100.0.0.0/8:7",
            // two anycast addresses of it are public
            "192.0.0.0/24:7",
            "192.0.0.9:7",
            "[64:ff9b::10.0.0.1]:7",
            "[2001::/23]:7",
            "[2002:a00:1::1]:7",
        ] {
            assert!(matches!(verdict(text, false), Err(TargetError::Public { .. })), "{text}");
            verdict(text, true).unwrap_or_else(|error| panic!("{text}: {error}"));
        }
        for text in [
            "224.0.0.1:7",
            "239.255.0.0/16:7",
            "255.255.255.255:7",
            "240.0.0.0/4:7",
            "0.0.0.0:7",
            "0.0.0.0/0:7",
            "[ff02::1%1]:7",
            "[::]:7",
            "[::/0]:7",
            "[::ffff:127.0.0.1]:7",
        ] {
            assert!(matches!(verdict(text, true), Err(TargetError::Forbidden { .. })), "{text}");
        }
    }
}
