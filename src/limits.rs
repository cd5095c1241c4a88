//! How much one source may have, in fixed memory.
//!
//! A source is a prefix, since one host has many addresses: an IPv6 subscriber a /64 and often a /56.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The network that an address belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Prefix {
    /// The address without its host bits.
    V4(u32),
    /// The same, of the upper half.
    V6(u64),
}

impl Prefix {
    /// The network of `ip`: the first `v4_bits` or `v6_bits` bits of it, at most 64 of the latter.
    pub fn of(ip: IpAddr, v4_bits: u32, v6_bits: u32) -> Self {
        match ip {
            IpAddr::V4(ip) => Self::V4(u32::from(ip) & !u32::MAX.checked_shr(v4_bits).unwrap_or(0)),
            IpAddr::V6(ip) => {
                let upper = (u128::from(ip) >> 64) as u64;
                Self::V6(upper & !u64::MAX.checked_shr(v6_bits).unwrap_or(0))
            }
        }
    }
}

/// The prefix of one user of connections: an IPv4 address, behind which there may be many, or an IPv6 /64, the
/// least that a network has.
const CONNECTION_BITS: (u32, u32) = (32, 64);

/// How many connections each source has, known to all workers: they change it for a connection that comes or
/// goes, under a lock. It holds no more sources than connections may be open.
#[derive(Debug)]
pub struct ConnectionsPerPrefix {
    limit: usize,
    counts: Mutex<HashMap<Prefix, usize>>,
}

impl ConnectionsPerPrefix {
    /// At most `limit` connections for each source.
    pub fn new(limit: usize) -> Self {
        Self { limit, counts: Mutex::default() }
    }

    /// Counts one more connection of `ip`'s source, for [`Self::leave`]; `None` if that has its share.
    pub fn admit(&self, ip: IpAddr) -> Option<Prefix> {
        let (v4_bits, v6_bits) = CONNECTION_BITS;
        let prefix = Prefix::of(ip, v4_bits, v6_bits);
        let mut counts = self.counts();
        let count = counts.entry(prefix).or_default();
        let admitted = *count < self.limit;
        *count += usize::from(admitted);
        admitted.then_some(prefix)
    }

    /// A connection of this source has gone.
    pub fn leave(&self, prefix: Prefix) {
        let mut counts = self.counts();
        if let Some(count) = counts.get_mut(&prefix) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&prefix);
            }
        }
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Prefix, usize>> {
        // nobody panics while holding it: there is nothing half done to see
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_prefix_is_the_first_bits() {
        let of = |text, v4_bits, v6_bits| Prefix::of(ip(text), v4_bits, v6_bits);
        assert_eq!(of("192.0.2.77", 24, 56), Prefix::V4(0xc000_0200));
        assert_eq!(of("192.0.2.77", 32, 64), Prefix::V4(0xc000_024d));
        assert_eq!(of("192.0.2.77", 0, 0), Prefix::V4(0));
        assert_eq!(of("2001:db8:1:2345::9", 24, 56), Prefix::V6(0x2001_0db8_0001_2300));
        assert_eq!(of("2001:db8:1:2345::9", 32, 64), Prefix::V6(0x2001_0db8_0001_2345));
        assert_eq!(of("2001:db8:1:2345::9", 0, 0), Prefix::V6(0));
    }

    #[test]
    fn each_source_has_its_share_and_what_goes_makes_room() {
        let connections = ConnectionsPerPrefix::new(2);
        let first = connections.admit(ip("2001:db8::1")).unwrap();
        assert_eq!(connections.admit(ip("2001:db8::2")), Some(first));
        assert_eq!(connections.admit(ip("2001:db8::3")), None);
        assert!(connections.admit(ip("2001:db8:0:1::3")).is_some());
        assert!(connections.admit(ip("192.0.2.1")).is_some() && connections.admit(ip("192.0.2.2")).is_some());
        connections.leave(first);
        assert_eq!(connections.admit(ip("2001:db8::3")), Some(first));
        connections.leave(first);
        connections.leave(first);
        assert_eq!(connections.counts().len(), 3, "who has nothing is forgotten");
    }
}
