//! The (address, port) pairs that this process answers from, known to all its workers.
//!
//! A datagram that claims to come from one of them would be answered to ourselves, and that answer
//! again. Every worker asks for every datagram, so asking takes no lock: a fixed table of fingerprints,
//! eight to a cache line. Pairs come and go on the cold path, under a lock.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::flow;

/// Fingerprints in one cache line.
const WAYS: usize = 8;
/// Places for each pair, so that a bucket is all but never full.
const SPARE: usize = 4;
/// An empty place; no pair has this fingerprint.
const EMPTY: u64 = 0;

#[derive(Debug, Default)]
#[repr(align(64))]
struct Bucket([AtomicU64; WAYS]);

/// A set of pairs; one may be in it several times, once for each worker that uses it.
#[derive(Debug)]
pub struct Pairs {
    buckets: Box<[Bucket]>,
    /// Drawn at the start.
    key: u64,
    writer: Mutex<()>,
}

impl Pairs {
    /// Room for `count` pairs.
    pub fn new(count: usize) -> Self {
        let buckets = (count * SPARE).div_ceil(WAYS).next_power_of_two();
        Self {
            buckets: (0..buckets).map(|_| Bucket::default()).collect(),
            key: RandomState::new().hash_one(0),
            writer: Mutex::new(()),
        }
    }

    fn fingerprint(&self, pair: SocketAddr) -> u64 {
        flow::keyed_hash(pair, self.key).max(1)
    }

    fn bucket(&self, fingerprint: u64) -> &Bucket {
        &self.buckets[(fingerprint >> 32) as usize % self.buckets.len()]
    }

    /// Whether `addr` is one of them; the scope of a link-local address does not count.
    pub fn contains(&self, addr: SocketAddr) -> bool {
        let fingerprint = self.fingerprint(addr);
        self.bucket(fingerprint).0.iter().any(|place| place.load(Ordering::Relaxed) == fingerprint)
    }

    /// Adds a pair. False if there is no room: then it must not be used.
    pub fn insert(&self, pair: SocketAddr) -> bool {
        self.replace(pair, EMPTY, self.fingerprint(pair))
    }

    /// Takes a pair out, once.
    pub fn remove(&self, pair: SocketAddr) {
        self.replace(pair, self.fingerprint(pair), EMPTY);
    }

    fn replace(&self, pair: SocketAddr, from: u64, to: u64) -> bool {
        // a poisoned lock guards nothing that could be half done
        let _writer = self.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let bucket = self.bucket(self.fingerprint(pair));
        let place = bucket.0.iter().find(|place| place.load(Ordering::Relaxed) == from);
        if let Some(place) = place {
            place.store(to, Ordering::Relaxed);
        }
        place.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_stays_until_its_last_user_has_gone() {
        let pairs = Pairs::new(4);
        let pair: SocketAddr = "127.0.0.1:9".parse().unwrap();
        assert!(!pairs.contains(pair));
        assert!(pairs.insert(pair) && pairs.insert(pair));
        pairs.remove(pair);
        assert!(pairs.contains(pair));
        pairs.remove(pair);
        assert!(!pairs.contains(pair));
        pairs.remove(pair);
    }

    #[test]
    fn as_many_as_announced_fit() {
        let pairs = Pairs::new(1000);
        let pair = |port| SocketAddr::from(([192, 0, 2, 1], port));
        assert!((1..=1000).all(|port| pairs.insert(pair(port))));
        assert!((1..=1000).all(|port| pairs.contains(pair(port))));
        assert!(!(1001..=9000).any(|port| pairs.contains(pair(port))));
    }

    #[test]
    fn a_scope_makes_no_other_pair() {
        let pairs = Pairs::new(1);
        pairs.insert("[fe80::1]:9".parse().unwrap());
        assert!(pairs.contains("[fe80::1%3]:9".parse().unwrap()));
    }
}
