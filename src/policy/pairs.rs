//! The pairs of address and port that this process answers from. All workers share them.
//!
//! A datagram whose source is one of these pairs must not be answered: the reply would come to ourselves and be answered
//! again. Every worker checks every datagram, so checking takes no lock. The table has a fixed number of places, eight in a
//! cache line; each has a part of a pair's hash, and the number of the entry that holds the pair itself. The pairs are
//! compared, so a stranger whose address has the same hash as a client's can't have that client refused. Pairs are added
//! and removed rarely, under a lock.

use std::collections::HashMap;
use std::iter;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::policy::flow::{Address, HashKey};
use crate::policy::shared_address::SharedAddress;

/// Places in one cache line.
const WAYS: usize = 8;
/// Places for each pair. A bucket has half a pair on average, and nine, one too many, once in 16 million times.
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

/// How many workers use a pair, and where it is.
#[derive(Debug)]
struct Usage {
    count: usize,
    /// The number of its entry.
    number: u32,
}

/// All pairs, for adding and removing them.
#[derive(Debug, Default)]
struct Users {
    /// A pair has one place, however many workers use it.
    by_pair: HashMap<Address, Usage>,
    /// Entries that no worker uses any more.
    free: Vec<u32>,
    /// Entries with higher numbers were never used.
    used: u32,
}

/// The lock and what it guards change with every pair. Workers that look at the rest keep their cache lines: processors
/// fetch lines of 64 bytes in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct OwnLines<T>(T);

/// A set of pairs. A pair stays until the last worker that uses it has removed it.
#[derive(Debug)]
pub struct Pairs {
    buckets: Box<[Bucket]>,
    /// The pairs themselves, from number 1 on.
    entries: Box<[SharedAddress]>,
    key: HashKey,
    users: OwnLines<Mutex<Users>>,
}

impl Pairs {
    /// Room for `count` different pairs.
    pub fn new(count: usize) -> Self {
        let buckets = (count * SPARE).div_ceil(WAYS).next_power_of_two();
        Self {
            buckets: iter::repeat_with(Bucket::default).take(buckets).collect(),
            entries: iter::repeat_with(SharedAddress::none).take(1 + count).collect(),
            key: HashKey::draw(),
            users: OwnLines::default(),
        }
    }

    fn bucket(&self, hash: u64) -> &Bucket {
        // other bits than those that a place keeps
        &self.buckets[hash as u32 as usize & (self.buckets.len() - 1)]
    }

    /// Whether `addr` is one of the pairs. The scope of a link-local address does not count.
    pub fn contains(&self, addr: impl Into<Address>) -> bool {
        let addr = addr.into();
        let hash = self.key.of(&addr);
        let Bucket { tags, numbers } = self.bucket(hash);
        iter::zip(tags, numbers).any(|(seen, number)| {
            seen.load(Ordering::Relaxed) == tag(hash) && {
                // reads the entry only after the tag that was stored behind it
                fence(Ordering::Acquire);
                self.entries[number.load(Ordering::Relaxed) as usize].is(&addr)
            }
        })
    }

    /// Adds a user of a pair. False if there is no room: then the pair must not be used.
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

    /// Removes a user of a pair, and with the last one the pair.
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
        // no code panics while holding the lock, so nothing in it is half done
        self.users.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tag and number of the place with this number in the hash's bucket, if there is one. The caller holds the lock.
    fn place(&self, hash: u64, number: u32) -> Option<(&AtomicU32, &AtomicU32)> {
        let Bucket { tags, numbers } = self.bucket(hash);
        iter::zip(tags, numbers).find(|(_, place)| place.load(Ordering::Relaxed) == number)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::ops::RangeInclusive;
    use std::ptr;

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
    fn a_change_takes_no_cache_line_from_those_who_look() {
        fn lines<T>(of: &T) -> RangeInclusive<usize> {
            let first = ptr::from_ref(of).addr();
            first / 128..=(first + size_of::<T>() - 1) / 128
        }
        let pairs = Pairs::new(4);
        let lock = lines(&pairs.users);
        for read in [lines(&pairs.buckets), lines(&pairs.entries), lines(&pairs.key)] {
            assert!(read.end() < lock.start() || lock.end() < read.start(), "{read:?} and {lock:?}");
        }
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
    fn a_pair_that_is_removed_makes_room() {
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
    fn a_pair_without_a_place_is_not_in_the_set() {
        let pair = |port| SocketAddr::from(([192, 0, 2, 1], port));
        let pairs = Pairs::new(4);
        let inserted: Vec<_> = (1..=100).filter(|&port| pairs.insert(pair(port))).collect();
        assert_eq!(inserted, [1, 2, 3, 4], "as many as announced");
        assert!(!(5..=100).any(|port| pairs.contains(pair(port))));
        pairs.remove(pair(5));
        assert!((1..=4).all(|port| pairs.contains(pair(port))), "who was refused has nothing to take away");
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
        let pairs = Pairs::new(1000);
        for ip in alike(victim.ip(), 1000) {
            let pair = SocketAddr::new(ip, victim.port());
            assert!(pairs.insert(pair) && pairs.contains(pair) && !pairs.contains(victim));
        }
        pairs.remove(victim);
        assert!(alike(victim.ip(), 1000).all(|ip| pairs.contains(SocketAddr::new(ip, victim.port()))));
    }

    /// Equal hashes are not trusted: here all of them are equal.
    #[test]
    fn pairs_with_the_same_hash_are_told_apart() {
        let pairs = Pairs { key: HashKey::blind(), ..Pairs::new(WAYS) };
        let pair = |number: u16| SocketAddr::from(([192, 0, 2, 1], number));
        for number in 1..=WAYS as u16 {
            assert!(!pairs.contains(pair(number)) && pairs.insert(pair(number)));
        }
        assert!((1..=WAYS as u16).all(|number| pairs.contains(pair(number))));
        assert!(!pairs.contains(pair(99)) && !pairs.insert(pair(99)), "its bucket is full");
        pairs.remove(pair(3));
        assert!(!pairs.contains(pair(3)) && pairs.contains(pair(4)) && pairs.insert(pair(99)));
    }

    #[test]
    fn a_pair_that_stays_is_found_while_others_come_and_go() {
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
