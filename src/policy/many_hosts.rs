//! Multicast and broadcast addresses, which stand for many hosts. A socket bound to one receives datagrams, but no reply
//! can leave from it.

use std::net::{IpAddr, SocketAddr};

use crate::kernel::sys;

/// Why an address stands for many hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManyHosts {
    /// It is in 224.0.0.0/4 or ff00::/8.
    Multicast,
    /// It is 255.255.255.255, or the last address of a network of this host.
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
    /// Decides by the address alone.
    pub fn by_number(ip: IpAddr) -> Option<Self> {
        let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
        if ip.is_multicast() { Some(Self::Multicast) } else { is_broadcast.then_some(Self::Broadcast) }
    }

    /// Decides by the address and the kernel's routes. This takes system calls.
    pub fn of(ip: IpAddr) -> Option<Self> {
        let by_route = || {
            let IpAddr::V4(ip) = ip else { return None };
            sys::is_broadcast(ip).is_ok_and(|is_it| is_it).then_some(Self::Broadcast)
        };
        Self::by_number(ip).or_else(by_route)
    }
}

/// The operator asked to listen on an address of many hosts.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot listen on {addr}: it is a {kind} address, from which no answer can leave; name an address of this host \
     alone, as `ip address` lists them"
)]
pub struct ManyHostsError {
    addr: SocketAddr,
    kind: ManyHosts,
}

/// Refuses an address that stands for many hosts.
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
