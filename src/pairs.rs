//! The (address, port) pairs that this process answers from, known to all its workers.
//!
//! A datagram that claims to come from one of them would be answered to ourselves, and that answer
//! again. Every worker asks for every datagram, so asking takes no lock: a fixed table of fingerprints,
//! eight to a cache line. Pairs come and go on the cold path, under a lock.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::flow;

/// Fingerprints in one cache line.
const WAYS: usize = 8;
/// Places for each pair: half a pair in a bucket on average, and once in 16 million times nine.
const SPARE: usize = 16;
/// An empty place; no pair has this fingerprint.
const EMPTY: u64 = 0;

#[derive(Debug, Default)]
#[repr(align(64))]
struct Bucket([AtomicU64; WAYS]);

/// A set of pairs; each stays in it until the last worker that uses it has taken it out.
#[derive(Debug)]
pub struct Pairs {
    buckets: Box<[Bucket]>,
    /// Drawn at the start.
    key: u64,
    /// How many use a pair, by its fingerprint: however many they are, it has one place.
    users: Mutex<HashMap<u64, usize>>,
}

impl Pairs {
    /// Room for `count` different pairs.
    pub fn new(count: usize) -> Self {
        let buckets = (count * SPARE).div_ceil(WAYS).next_power_of_two();
        Self {
            buckets: (0..buckets).map(|_| Bucket::default()).collect(),
            key: RandomState::new().hash_one(0),
            users: Mutex::default(),
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

    /// Adds a user of a pair. False if there is no room: then it must not be used.
    pub fn insert(&self, pair: SocketAddr) -> bool {
        let fingerprint = self.fingerprint(pair);
        let mut users = self.users();
        let known = users.contains_key(&fingerprint);
        let fits = known || self.replace(fingerprint, EMPTY, fingerprint);
        if fits {
            *users.entry(fingerprint).or_default() += 1;
        }
        fits
    }

    /// Takes a user of a pair away; with the last one the pair goes.
    pub fn remove(&self, pair: SocketAddr) {
        let fingerprint = self.fingerprint(pair);
        let mut users = self.users();
        if let Some(count) = users.get_mut(&fingerprint) {
            *count -= 1;
            if *count == 0 {
                users.remove(&fingerprint);
                self.replace(fingerprint, fingerprint, EMPTY);
            }
        }
    }

    fn users(&self) -> MutexGuard<'_, HashMap<u64, usize>> {
        // nobody panics while holding it: there is nothing half done to see
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes to a place of the fingerprint's bucket that holds `from`, if there is one; for whoever holds
    /// the lock.
    fn replace(&self, fingerprint: u64, from: u64, to: u64) -> bool {
        let bucket = self.bucket(fingerprint);
        let place = bucket.0.iter().find(|place| place.load(Ordering::Relaxed) == from);
        if let Some(place) = place {
            place.store(to, Ordering::Relaxed);
        }
        place.is_some()
    }
}

/// Places of a [`Lately`].
const LATELY: usize = 1024;

/// Pairs that were met lately. Each has one place, where the next one may push it out: to catch the
/// answer to an answer it takes no long memory.
#[derive(Debug)]
pub struct Lately {
    places: Box<[AtomicU64]>,
    /// Drawn at the start.
    key: u64,
}

impl Default for Lately {
    fn default() -> Self {
        let places = (0..LATELY).map(|_| AtomicU64::default()).collect();
        Self { places, key: RandomState::new().hash_one(0) }
    }
}

impl Lately {
    fn place(&self, pair: SocketAddr) -> (&AtomicU64, u64) {
        let fingerprint = flow::keyed_hash(pair, self.key).max(1);
        (&self.places[(fingerprint >> 32) as usize % LATELY], fingerprint)
    }

    /// Whether the pair was met lately; the scope of a link-local address does not count.
    pub fn contains(&self, pair: SocketAddr) -> bool {
        let (place, fingerprint) = self.place(pair);
        place.load(Ordering::Relaxed) == fingerprint
    }

    /// Remembers a pair for a while.
    pub fn insert(&self, pair: SocketAddr) {
        let (place, fingerprint) = self.place(pair);
        // workers share the place's cache line: write to it only what is new
        if place.load(Ordering::Relaxed) != fingerprint {
            place.store(fingerprint, Ordering::Relaxed);
        }
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
        let pair = |port| SocketAddr::from(([192, 0, 2, 1], port));
        for key in 0..100 {
            let pairs = Pairs { key, ..Pairs::new(1000) };
            assert!((1..=1000).all(|port| pairs.insert(pair(port))), "with key {key}");
            assert!((1..=1000).all(|port| pairs.contains(pair(port))));
            assert!(!(1001..=9000).any(|port| pairs.contains(pair(port))));
        }
    }

    #[test]
    fn any_number_of_workers_may_use_a_pair() {
        let pairs = Pairs::new(1);
        let pair: SocketAddr = "127.0.0.1:9".parse().unwrap();
        assert!((0..500).all(|_| pairs.insert(pair)));
        (0..499).for_each(|_| pairs.remove(pair));
        assert!(pairs.contains(pair));
        pairs.remove(pair);
        assert!(!pairs.contains(pair));
    }

    #[test]
    fn a_scope_makes_no_other_pair() {
        let pairs = Pairs::new(1);
        pairs.insert("[fe80::1]:9".parse().unwrap());
        assert!(pairs.contains("[fe80::1%3]:9".parse().unwrap()));
    }
}
