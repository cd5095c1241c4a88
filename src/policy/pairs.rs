//! The (address, port) pairs that this process answers from, known to all its workers.
//!
//! A datagram that claims to come from one of them would be answered to ourselves, and that answer
//! again. Every worker asks for every datagram, so asking takes no lock: a fixed table of places, eight to
//! a cache line, each with a part of a pair's hash and the number of the entry that holds the pair itself.
//! What decides is the pair: a stranger whose address has the hash of a client's can't have that client
//! refused. Pairs come and go on the cold path, under a lock.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{array, iter};

use crate::policy::flow::{Address, HashKey};

/// Places in one cache line.
const WAYS: usize = 8;
/// Places for each pair: half a pair in a bucket on average, and once in 16 million times nine.
const SPARE: usize = 16;
/// The number of an empty place: entry 0 holds no pair.
const EMPTY: u32 = 0;

#[derive(Debug, Default)]
#[repr(align(64))]
struct Bucket {
    /// A part of the pair's hash, for each place.
    tags: [AtomicU32; WAYS],
    /// Which entry holds the pair.
    numbers: [AtomicU32; WAYS],
}

/// The part of a hash that a place keeps.
fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// A pair that other threads may read while it is written: then they see parts of two.
#[derive(Debug)]
struct SharedAddress([AtomicU64; 3]);

impl SharedAddress {
    /// No address: there are no such family and port.
    const NONE: Address = Address { high: 0, low: 0, port_and_family: u64::MAX };

    fn none() -> Self {
        let this = Self(array::from_fn(|_| AtomicU64::default()));
        this.store(&Self::NONE);
        this
    }

    fn store(&self, addr: &Address) {
        let Address { high, low, port_and_family } = *addr;
        for (word, value) in iter::zip(&self.0, [high, low, port_and_family]) {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn is(&self, addr: &Address) -> bool {
        let Address { high, low, port_and_family } = *addr;
        iter::zip(&self.0, [high, low, port_and_family])
            .all(|(word, value)| word.load(Ordering::Relaxed) == value)
    }
}

/// Who uses a pair.
#[derive(Debug)]
struct Usage {
    count: usize,
    /// The number of its entry.
    number: u32,
}

/// All pairs, for whoever changes them.
#[derive(Debug, Default)]
struct Users {
    /// However many use a pair, it has one place.
    by_pair: HashMap<Address, Usage>,
    /// Entries that nobody uses any more; beside them there are those that nobody has used yet.
    free: Vec<u32>,
    used: u32,
}

/// A set of pairs; each stays in it until the last worker that uses it has taken it out.
#[derive(Debug)]
pub struct Pairs {
    buckets: Box<[Bucket]>,
    /// The pairs themselves, from number 1 on.
    entries: Box<[SharedAddress]>,
    key: HashKey,
    users: Mutex<Users>,
}

impl Pairs {
    /// Room for `count` different pairs.
    pub fn new(count: usize) -> Self {
        let buckets = (count * SPARE).div_ceil(WAYS).next_power_of_two();
        Self {
            buckets: iter::repeat_with(Bucket::default).take(buckets).collect(),
            entries: iter::repeat_with(SharedAddress::none).take(1 + count).collect(),
            key: HashKey::draw(),
            users: Mutex::default(),
        }
    }

    fn bucket(&self, hash: u64) -> &Bucket {
        // not the bits that a place keeps
        &self.buckets[hash as u32 as usize & (self.buckets.len() - 1)]
    }

    /// Whether `addr` is one of them; the scope of a link-local address does not count.
    pub fn contains(&self, addr: impl Into<Address>) -> bool {
        let addr = addr.into();
        let hash = self.key.of(&addr);
        let Bucket { tags, numbers } = self.bucket(hash);
        iter::zip(tags, numbers).any(|(seen, number)| {
            seen.load(Ordering::Relaxed) == tag(hash) && {
                // what the entry was before its place said so is not looked at
                fence(Ordering::Acquire);
                self.entries[number.load(Ordering::Relaxed) as usize].is(&addr)
            }
        })
    }

    /// Adds a user of a pair. False if there is no room: then it must not be used.
    pub fn insert(&self, pair: impl Into<Address>) -> bool {
        let pair = pair.into();
        let mut users = self.users();
        let Users { by_pair, free, used } = &mut *users;
        if let Some(usage) = by_pair.get_mut(&pair) {
            usage.count += 1;
            return true;
        }
        let hash = self.key.of(&pair);
        let Some((seen, place)) = self.place(hash, EMPTY) else { return false };
        let number = free.pop().unwrap_or(*used + 1);
        let Some(entry) = self.entries.get(number as usize) else { return false };
        *used = number.max(*used);
        entry.store(&pair);
        place.store(number, Ordering::Relaxed);
        seen.store(tag(hash), Ordering::Release);
        by_pair.insert(pair, Usage { count: 1, number });
        true
    }

    /// Takes a user of a pair away; with the last one the pair goes.
    pub fn remove(&self, pair: impl Into<Address>) {
        let pair = pair.into();
        let mut users = self.users();
        let Some(usage) = users.by_pair.get_mut(&pair) else { return };
        usage.count -= 1;
        if usage.count == 0 {
            let number = usage.number;
            if let Some((seen, place)) = self.place(self.key.of(&pair), number) {
                seen.store(0, Ordering::Relaxed);
                place.store(EMPTY, Ordering::Relaxed);
            }
            users.by_pair.remove(&pair);
            users.free.push(number);
        }
    }

    fn users(&self) -> MutexGuard<'_, Users> {
        // nobody panics while holding it: there is nothing half done to see
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tag and number of a place of the hash's bucket that has this number, if there is one; for whoever holds the lock.
    fn place(&self, hash: u64, number: u32) -> Option<(&AtomicU32, &AtomicU32)> {
        let Bucket { tags, numbers } = self.bucket(hash);
        iter::zip(tags, numbers).find(|(_, place)| place.load(Ordering::Relaxed) == number)
    }
}

/// Places of a [`Lately`].
const LATELY: usize = 1024;

/// A pair that was met, and its hash.
#[derive(Debug)]
struct Met {
    hash: AtomicU64,
    pair: SharedAddress,
}

/// Pairs that were met lately. Each has one place, where the next one may push it out: to catch the
/// answer to an answer it takes no long memory.
#[derive(Debug)]
pub struct Lately {
    places: Box<[Met]>,
    key: HashKey,
}

impl Default for Lately {
    fn default() -> Self {
        let nobody = || Met { hash: AtomicU64::default(), pair: SharedAddress::none() };
        Self { places: iter::repeat_with(nobody).take(LATELY).collect(), key: HashKey::draw() }
    }
}

impl Lately {
    fn place(&self, pair: &Address) -> (&Met, u64) {
        let hash = self.key.of(pair);
        (&self.places[hash as usize % LATELY], hash)
    }

    /// Whether the pair was met lately; the scope of a link-local address does not count.
    pub fn contains(&self, pair: impl Into<Address>) -> bool {
        let pair = pair.into();
        let (met, hash) = self.place(&pair);
        // two workers may have written at once: parts of two pairs pass for a third only if it has the hash of one
        met.hash.load(Ordering::Relaxed) == hash && met.pair.is(&pair)
    }

    /// Remembers a pair for a while.
    pub fn insert(&self, pair: impl Into<Address>) {
        let pair = pair.into();
        let (met, hash) = self.place(&pair);
        // workers share the place's cache line: write to it only what is new
        if met.hash.load(Ordering::Relaxed) != hash || !met.pair.is(&pair) {
            met.hash.store(hash, Ordering::Relaxed);
            met.pair.store(&pair);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::policy::flow::tests::alike;

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
        for number in 0..100 {
            let pairs = Pairs { key: HashKey::numbered(number), ..Pairs::new(1000) };
            assert!((1..=1000).all(|port| pairs.insert(pair(port))), "with key {number}");
            assert!((1..=1000).all(|port| pairs.contains(pair(port))));
            assert!(!(1001..=9000).any(|port| pairs.contains(pair(port))));
            assert!(!pairs.insert(pair(1001)), "and no more");
        }
    }

    #[test]
    fn what_goes_makes_room() {
        let pairs = Pairs::new(8);
        for round in 0..100 {
            let pair = |port| SocketAddr::from(([192, 0, 2, round], port));
            assert!((1..=8).all(|port| pairs.insert(pair(port))));
            assert!((1..=8).all(|port| pairs.contains(pair(port))));
            (1..=8).for_each(|port| pairs.remove(pair(port)));
            assert!(!(1..=8).any(|port| pairs.contains(pair(port))));
        }
    }

    #[test]
    fn a_pair_that_goes_leaves_its_place_to_the_next() {
        let pair = |port| SocketAddr::from(([192, 0, 2, 1], port));
        let pairs = Pairs::new(4);
        for port in 1..=1000 {
            assert!(pairs.insert(pair(port)), "no room for {port}");
            assert!(pairs.contains(pair(port)));
            pairs.remove(pair(port));
            assert!(!pairs.contains(pair(port)), "{port} is left");
        }
        assert!(pairs.users().by_pair.is_empty());
    }

    #[test]
    fn what_finds_no_place_is_not_in() {
        let pair = |port| SocketAddr::from(([192, 0, 2, 1], port));
        let pairs = Pairs::new(4);
        let inserted: Vec<_> = (1..=100).filter(|&port| pairs.insert(pair(port))).collect();
        assert_eq!(inserted, [1, 2, 3, 4], "as many as announced");
        assert!(!(5..=100).any(|port| pairs.contains(pair(port))));
        pairs.remove(pair(5));
        assert!((1..=4).all(|port| pairs.contains(pair(port))), "who was refused has nothing to take away");
    }

    #[test]
    fn lately_are_the_last_ones_and_a_newer_one_takes_the_place() {
        let pair = |number: u32| SocketAddr::from((number.to_be_bytes(), 40_000));
        let lately = Lately::default();
        assert!(!lately.contains(pair(1)));
        (1..=100).for_each(|number| lately.insert(pair(number)));
        let kept = (1..=100).filter(|&number| lately.contains(pair(number))).count();
        assert!(kept > 80, "{kept} of 100 in {LATELY} places");
        assert!(!(101..=10_000).any(|number| lately.contains(pair(number))), "nobody else is");
        (101..=100_000).for_each(|number| lately.insert(pair(number)));
        assert!(lately.contains(pair(100_000)), "the last one always is");
        assert!(!(1..=100).any(|number| lately.contains(pair(number))), "100,000 pushed all out");
        assert!(!lately.contains(SocketAddr::new(pair(100_000).ip(), 40_001)), "the port counts");
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
        pairs.insert("[fe80::1]:9".parse::<SocketAddr>().unwrap());
        assert!(pairs.contains("[fe80::1%3]:9".parse::<SocketAddr>().unwrap()));
    }

    #[test]
    fn a_pair_alike_is_another_one() {
        let victim = SocketAddr::from(([127, 0, 0, 1], 5000));
        let (pairs, lately) = (Pairs::new(1000), Lately::default());
        for ip in alike(victim.ip(), 1000) {
            let pair = SocketAddr::new(ip, victim.port());
            assert!(pairs.insert(pair) && pairs.contains(pair) && !pairs.contains(victim));
            lately.insert(pair);
            assert!(lately.contains(pair) && !lately.contains(victim));
        }
        pairs.remove(victim);
        assert!(alike(victim.ip(), 1000).all(|ip| pairs.contains(SocketAddr::new(ip, victim.port()))));
    }

    /// A hash is not trusted even where two are equal: as if everything collided.
    #[test]
    fn what_has_the_same_hash_is_told_apart_all_the_same() {
        let key = HashKey::blind();
        let (pairs, lately) = (Pairs { key, ..Pairs::new(WAYS) }, Lately { key, ..Lately::default() });
        let pair = |number: u16| SocketAddr::from(([192, 0, 2, 1], number));
        for number in 1..=WAYS as u16 {
            assert!(!pairs.contains(pair(number)) && pairs.insert(pair(number)));
            assert!(!lately.contains(pair(number)));
            lately.insert(pair(number));
            assert!(lately.contains(pair(number)));
        }
        assert!((1..=WAYS as u16).all(|number| pairs.contains(pair(number))));
        assert!(!pairs.contains(pair(99)) && !pairs.insert(pair(99)), "its bucket is full");
        pairs.remove(pair(3));
        assert!(!pairs.contains(pair(3)) && pairs.contains(pair(4)) && pairs.insert(pair(99)));
    }

    #[test]
    fn who_asks_while_pairs_come_and_go_is_told_of_those_that_stay() {
        let pairs = Pairs { key: HashKey::blind(), ..Pairs::new(4) };
        let pair = |number: u16| SocketAddr::from(([192, 0, 2, 1], number));
        pairs.insert(pair(1));
        std::thread::scope(|scope| {
            let asks = || (0..100_000).all(|_| pairs.contains(pair(1)) && !pairs.contains(pair(2)));
            let asker = scope.spawn(asks);
            for number in (3..1000).cycle().take(50_000) {
                pairs.insert(pair(number));
                pairs.remove(pair(number));
            }
            assert!(asker.join().unwrap());
        });
    }
}
