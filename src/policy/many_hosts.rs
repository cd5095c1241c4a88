//! Addresses of many hosts at once, multicast and broadcast: whoever listens on one gets datagrams, and no reply can
//! leave from there.

use std::net::{IpAddr, SocketAddr};

use crate::kernel::sys;

/// Why an address is not one host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManyHosts {
    /// By its number: 224.0.0.0/4, ff00::/8.
    Multicast,
    /// By its number, or because a network of this host has it as its last one.
    Broadcast,
}

impl std::fmt::Display for ManyHosts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
        })
    }
}

impl ManyHosts {
    /// What can be told of an address by its number alone.
    pub fn by_number(ip: IpAddr) -> Option<Self> {
        let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
        if ip.is_multicast() { Some(Self::Multicast) } else { is_broadcast.then_some(Self::Broadcast) }
    }

    /// The same, where the kernel's routes may tell more; it costs system calls.
    pub fn of(ip: IpAddr) -> Option<Self> {
        let by_route = || {
            let IpAddr::V4(ip) = ip else { return None };
            sys::is_broadcast(ip).is_ok_and(|is_it| is_it).then_some(Self::Broadcast)
        };
        Self::by_number(ip).or_else(by_route)
    }
}

/// Such an address was to be listened on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot listen on {addr}: it is a {kind} address, from which no answer can leave; name an address of this host \
     alone, as `ip address` lists them"
)]
pub struct ManyHostsError {
    addr: SocketAddr,
    kind: ManyHosts,
}

/// Refuses an address that could never be answered from.
pub fn check(addr: SocketAddr) -> Result<(), ManyHostsError> {
    match ManyHosts::of(addr.ip()) {
        Some(kind) => Err(ManyHostsError { addr, kind }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_one_hosts_is_told() {
        for (ip, kind) in [
            ("224.0.0.1", Some(ManyHosts::Multicast)),
            ("239.255.255.255", Some(ManyHosts::Multicast)),
            ("ff02::1", Some(ManyHosts::Multicast)),
            ("255.255.255.255", Some(ManyHosts::Broadcast)),
            ("127.255.255.255", Some(ManyHosts::Broadcast)),
            ("127.0.0.1", None),
            ("0.0.0.0", None),
            ("223.255.255.255", None),
            ("240.0.0.1", None),
            ("::1", None),
            ("::", None),
        ] {
            assert_eq!(ManyHosts::of(ip.parse().unwrap()), kind, "{ip}");
        }
    }
}
