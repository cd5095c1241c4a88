//! Flows: who asked, and whom.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// A UDP flow: a reply goes to `peer` and leaves from `origdst`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Who sent the datagram, scope included.
    pub peer: SocketAddr,
    /// The address and port that it was sent to.
    pub origdst: SocketAddr,
}

impl Flow {
    /// A number that spreads flows evenly over the low bits. Not for adversaries: a collision costs a
    /// missed chance to coalesce, nothing else.
    pub fn hash(&self) -> u32 {
        let ports = u64::from(self.peer.port()) << 16 | u64::from(self.origdst.port());
        (mix(fold(self.peer.ip()) ^ ports) ^ fold(self.origdst.ip())).wrapping_mul(MIX) as u32 >> 7
            ^ (mix(fold(self.peer.ip()).wrapping_add(ports)) >> 32) as u32
    }
}

const MIX: u64 = 0x9e37_79b9_7f4a_7c15; // 2^64 / golden ratio: the multiplier of Fibonacci hashing

fn mix(value: u64) -> u64 {
    let product = value.wrapping_mul(MIX);
    product ^ product >> 32
}

fn fold(ip: IpAddr) -> u64 {
    match ip {
        IpAddr::V4(ip) => u64::from(u32::from(ip)),
        IpAddr::V6(ip) => {
            let bits = u128::from(ip);
            mix((bits >> 64) as u64) ^ bits as u64
        }
    }
}

/// A hash of an address and port under a secret `key`, so that nobody outside can aim at a place in a
/// table. The scope does not count.
pub fn keyed_hash(addr: SocketAddr, key: u64) -> u64 {
    mix(mix(fold(addr.ip()) ^ key).wrapping_add(u64::from(addr.port()) ^ key.rotate_left(32)))
}

/// Entries of a [`Refusals`] table.
const REFUSALS: usize = 64;
/// How long a refusal is believed: paths change.
const REFUSAL_LIFE: Duration = Duration::from_mins(1);

/// Peers whose path refused a train a short while ago. One peer's small MTU must not take the trains
/// from everybody, so it is remembered by address; a fixed table, where a newcomer may push another
/// out, since forgetting costs one refused send.
#[derive(Debug, Default)]
pub struct Refusals {
    entries: Vec<Option<(IpAddr, Instant)>>,
}

impl Refusals {
    /// Remembers `peer` from `now` on.
    pub fn remember(&mut self, peer: IpAddr, now: Instant) {
        self.entries.resize(REFUSALS, None);
        self.entries[Self::place(peer)] = Some((peer, now + REFUSAL_LIFE));
    }

    /// Whether trains to `peer` were refused lately; `now` is asked only if anybody's were.
    pub fn contains(&mut self, peer: IpAddr, now: impl FnOnce() -> Instant) -> bool {
        let Some(entry) = self.entries.get_mut(Self::place(peer)) else { return false };
        match *entry {
            Some((known, until)) if known == peer => {
                let valid = now() < until;
                if !valid {
                    *entry = None;
                }
                valid
            }
            _ => false,
        }
    }

    fn place(peer: IpAddr) -> usize {
        (mix(fold(peer)) >> 20) as usize % REFUSALS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_spread_over_a_small_table() {
        for dst in ["127.0.0.1:1234", "[::1]:1234"] {
            let origdst: SocketAddr = dst.parse().unwrap();
            let mut used = std::collections::HashSet::new();
            for port in 0..256 {
                let peer = SocketAddr::new(origdst.ip(), 40_000 + port);
                used.insert(Flow { peer, origdst }.hash() % 256);
            }
            // 256 balls in 256 bins fill 162 of them when thrown at random
            assert!(used.len() > 130, "{} bins for {dst}", used.len());
        }
    }

    #[test]
    fn a_refusal_is_one_peers_and_ends() {
        let (peer, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let start = Instant::now();
        let mut refusals = Refusals::default();
        assert!(!refusals.contains(peer, || panic!("nobody was refused: the clock is not needed")));
        refusals.remember(peer, start);
        assert!(refusals.contains(peer, || start + REFUSAL_LIFE / 2));
        assert!(!refusals.contains(other, || start));
        assert!(!refusals.contains(peer, || start + REFUSAL_LIFE));
        assert!(!refusals.contains(peer, || start), "what has ended stays ended");
    }
}
