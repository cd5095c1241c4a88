//! Pairs of address and port that this process answered from lately. All workers share them.
//!
//! On a port that a client may have, too, a datagram from such a pair may be the reply to our own reply. That comes back
//! soon, so a small table is enough.

use std::iter;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::policy::flow::{Address, HashKey};
use crate::policy::shared_address::SharedAddress;

const PLACES: usize = 1024;

/// A pair, and its hash.
#[derive(Debug)]
struct Place {
    hash: AtomicU64,
    pair: SharedAddress,
}

/// The pairs that were inserted last. Each pair has one place, and another pair may push it out of there.
#[derive(Debug)]
pub struct RecentPairs {
    places: Box<[Place]>,
    key: HashKey,
}

impl Default for RecentPairs {
    fn default() -> Self {
        let nobody = || Place { hash: AtomicU64::default(), pair: SharedAddress::none() };
        Self { places: iter::repeat_with(nobody).take(PLACES).collect(), key: HashKey::draw() }
    }
}

impl RecentPairs {
    fn place(&self, pair: &Address) -> (&Place, u64) {
        let hash = self.key.of(pair);
        (&self.places[hash as usize % PLACES], hash)
    }

    /// Whether the pair was inserted lately. The scope of a link-local address does not count.
    pub fn contains(&self, pair: impl Into<Address>) -> bool {
        let pair = pair.into();
        let (place, hash) = self.place(&pair);
        // two workers may have written at once: parts of two pairs are taken for a third one only if it has the hash of one
        // of them
        place.hash.load(Ordering::Relaxed) == hash && place.pair.is(&pair)
    }

    /// Remembers a pair for a while.
    pub fn insert(&self, pair: impl Into<Address>) {
        let pair = pair.into();
        let (place, hash) = self.place(&pair);
        // workers share the place's cache line, so it is written to only if the pair is new
        if place.hash.load(Ordering::Relaxed) != hash || !place.pair.is(&pair) {
            place.hash.store(hash, Ordering::Relaxed);
            place.pair.store(&pair);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::policy::flow::tests::alike;

    #[test]
    fn the_last_pairs_are_kept_and_a_newer_one_takes_the_place() {
        let pair = |number: u32| SocketAddr::from((number.to_be_bytes(), 40_000));
        let recent = RecentPairs::default();
        assert!(!recent.contains(pair(1)));
        (1..=100).for_each(|number| recent.insert(pair(number)));
        let kept = (1..=100).filter(|&number| recent.contains(pair(number))).count();
        assert!(kept > 80, "{kept} of 100 in {PLACES} places");
        assert!(!(101..=10_000).any(|number| recent.contains(pair(number))), "nobody else is");
        (101..=100_000).for_each(|number| recent.insert(pair(number)));
        assert!(recent.contains(pair(100_000)), "the last one always is");
        assert!(!(1..=100).any(|number| recent.contains(pair(number))), "100,000 pushed all out");
        assert!(!recent.contains(SocketAddr::new(pair(100_000).ip(), 40_001)), "the port counts");
    }

    #[test]
    fn a_pair_alike_is_another_one() {
        let victim = SocketAddr::from(([127, 0, 0, 1], 5000));
        let recent = RecentPairs::default();
        for ip in alike(victim.ip(), 1000) {
            let pair = SocketAddr::new(ip, victim.port());
            recent.insert(pair);
            assert!(recent.contains(pair) && !recent.contains(victim));
        }
    }

    /// Equal hashes are not trusted: here all of them are equal.
    #[test]
    fn pairs_with_the_same_hash_are_told_apart() {
        let recent = RecentPairs { key: HashKey::blind(), ..RecentPairs::default() };
        for port in 1..=8 {
            let pair = SocketAddr::from(([192, 0, 2, 1], port));
            assert!(!recent.contains(pair));
            recent.insert(pair);
            assert!(recent.contains(pair));
        }
    }
}
