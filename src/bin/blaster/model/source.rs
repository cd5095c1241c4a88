//! `--source`: the local addresses of flows and connections.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;
use rand::RngExt;
use tubular_echo::policy::many_hosts::ManyHosts;

use crate::model::draw;
use crate::model::no_hosts::NoHostAddresses;
use crate::model::target::Target;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SourceError {
    #[error(
        "{0:?} is not a source: an IP address or a prefix is wanted, without a port (examples: 127.0.0.2, 2001:db8::/64)"
    )]
    Shape(String),
    #[error(
        "source {0:?} has bits set behind its prefix: say {1} for the whole network, or leave the length out"
    )]
    HostBits(String, IpNet),
    #[error(
        "source {0:?} stands for many hosts, and no reply goes there: name an address of this host, or a prefix of them"
    )]
    ManyHosts(String),
}

/// No socket can be bound to the address of `--source`.
#[derive(Debug, thiserror::Error)]
#[error(
    "--source {local}: {error}; is that an address of this host (`ip route add local PREFIX dev lo`{})?",
    if local.is_ipv6() { " and `sysctl net.ipv6.ip_nonlocal_bind=1`" } else { "" }
)]
pub(crate) struct SourceNotLocal {
    pub(crate) local: IpAddr,
    pub(crate) error: io::Error,
}

/// One address, or a prefix to draw from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    net: IpNet,
}

impl Source {
    pub(crate) fn net(&self) -> IpNet {
        self.net
    }

    pub(crate) fn is_ipv4(&self) -> bool {
        self.net.addr().is_ipv4()
    }

    /// The local address of `flow`, with port 0: the kernel chooses the port. The flow goes to `peer` first.
    pub(crate) fn of_flow(
        &self,
        seed: u64,
        flow: u32,
        peer: SocketAddr,
        no_hosts: &NoHostAddresses,
    ) -> SocketAddr {
        // a link-local address needs the interface to the peer
        let scope_id = if let SocketAddr::V6(peer) = peer { peer.scope_id() } else { 0 };
        let all = Target::addresses_of(self.net, scope_id);
        all.draw_wanted(&mut draw::rng(seed, flow, u64::MAX - 1), |drawn| no_hosts.has(drawn.ip()))
    }

    /// All local addresses, with port 0; if they are more than `most`, one of each part, of that many equal parts.
    pub(crate) fn spread(
        &self,
        most: u32,
        seed: u64,
        peer: SocketAddr,
        no_hosts: &NoHostAddresses,
    ) -> Vec<SocketAddr> {
        let scope_id = if let SocketAddr::V6(peer) = peer { peer.scope_id() } else { 0 };
        let all = Target::addresses_of(self.net, scope_id);
        let size = all.addresses().unwrap_or(u128::MAX);
        let share = size.min(most.into());
        let mut rng = draw::rng(seed, u32::MAX, u64::MAX - 1);
        let begin = |nth: u128| nth * (size / share) + nth * (size % share) / share;
        (0..share)
            .map(|nth| all.nth(rng.random_range(begin(nth)..begin(nth + 1)), 0))
            .filter(|drawn| !no_hosts.has(drawn.ip()))
            .collect()
    }
}

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        let net = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let net: IpNet = net.map_err(|_| SourceError::Shape(text.into()))?;
        if net.trunc() != net {
            Err(SourceError::HostBits(text.into(), net.trunc()))
        } else if ManyHosts::by_number(net.addr()).is_some() {
            Err(SourceError::ManyHosts(text.into()))
        } else {
            Ok(Self { net })
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.net.prefix_len() == self.net.max_prefix_len() {
            write!(f, "{}", self.net.addr())
        } else {
            write!(f, "{}", self.net)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, SocketAddrV6};

    use super::*;

    #[test]
    fn what_is_a_source() {
        for text in ["127.0.0.2", "127.0.0.0/8", "::1", "2001:db8::/64"] {
            let source: Source = text.parse().unwrap();
            assert_eq!(source.to_string(), text);
            let peer = if source.is_ipv4() { "127.0.0.1:7" } else { "[fe80::1%3]:7" };
            let peer =
                peer.parse().unwrap_or_else(|_| SocketAddrV6::new(Ipv6Addr::LOCALHOST, 7, 0, 3).into());
            let drawn = source.of_flow(5, 2, peer, &NoHostAddresses::default());
            assert!(source.net.contains(&drawn.ip()) && drawn.port() == 0, "{text}: {drawn}");
            assert_eq!(drawn, source.of_flow(5, 2, peer, &NoHostAddresses::default()));
        }
        for text in ["", "localhost", "127.0.0.1:7", "[::1]", "127.0.0.1/33", "127.0.0.1/8"] {
            assert!(text.parse::<Source>().is_err(), "{text}");
        }
    }
}
