//! Addresses that belong to no host.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};

/// Addresses in the networks of this host that no host has: the network address and the broadcast address of each.
#[derive(Clone, Debug, Default)]
pub(crate) struct NoHostAddresses(Arc<[Ipv4Addr]>);

impl NoHostAddresses {
    /// The addresses for these networks. Networks of one or two addresses have none (RFC 3021).
    pub(crate) fn of(networks: impl IntoIterator<Item = Ipv4Net>) -> Self {
        let large = networks.into_iter().filter(|network| network.prefix_len() < 31);
        let mut all: Vec<_> = large.flat_map(|network| [network.network(), network.broadcast()]).collect();
        all.sort_unstable();
        all.dedup();
        Self(all.into())
    }

    pub(crate) fn has(&self, ip: IpAddr) -> bool {
        matches!(ip, IpAddr::V4(ip) if self.0.binary_search(&ip).is_ok())
    }

    /// Whether all addresses of `net` are such addresses.
    pub(crate) fn has_all_of(&self, net: IpNet) -> bool {
        let IpNet::V4(net) = net else { return false };
        let known = self.0.iter().filter(|ip| net.contains(*ip)).count() as u64;
        known == 1 << (32 - net.prefix_len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_networks_of_more_than_two_addresses_have_them() {
        let networks = ["10.1.0.1/30", "10.2.0.1/31", "10.3.0.1/32"].map(|net| net.parse().unwrap());
        let no_hosts = NoHostAddresses::of(networks);
        assert_eq!(*no_hosts.0, ["10.1.0.0", "10.1.0.3"].map(|ip| ip.parse::<Ipv4Addr>().unwrap()));
        assert!(no_hosts.has("10.1.0.3".parse().unwrap()) && !no_hosts.has("10.1.0.1".parse().unwrap()));
        assert!(!no_hosts.has("::1".parse().unwrap()));
        let has_all_of = |net: &str| no_hosts.has_all_of(net.parse().unwrap());
        assert!(has_all_of("10.1.0.0/32") && !has_all_of("10.1.0.0/30") && !has_all_of("::1/128"));
    }
}
