//! How many connections and replies one source may have, counted in fixed memory.
//!
//! A source is a prefix, because one host has many addresses: an IPv6 subscriber has a /64, and often a /56.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::kernel::sys;
use crate::policy::flow::HashKey;
use crate::policy::rate::{Ahead, Rate};

/// The network of `ip`: its first `v4_bits` or `v6_bits`.
fn network(ip: IpAddr, v4_bits: u32, v6_bits: u32) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & !u32::MAX.unbounded_shr(v4_bits)).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::MAX.unbounded_shr(v6_bits)).into(),
    }
}

/// The prefix for which connections are counted: an IPv4 address, which many hosts may share, or an IPv6 /64, the
/// smallest network.
const CONNECTION_BITS: (u32, u32) = (32, 64);

/// How many connections each source has. All workers share it, and change it under a lock when a connection comes or
/// goes. It holds at most one entry for each open connection, in a map whose hash is keyed.
#[derive(Debug)]
pub struct ConnectionsPerPrefix {
    limit: usize,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

impl ConnectionsPerPrefix {
    /// At most `limit` connections for each source.
    pub fn new(limit: usize) -> Self {
        Self { limit, counts: Mutex::default() }
    }

    /// Counts one more connection of the source of `ip`. Returns the source, for [`Self::leave`]; `None` if it has as
    /// many as it may have.
    pub fn admit(&self, ip: IpAddr) -> Option<IpAddr> {
        let (v4_bits, v6_bits) = CONNECTION_BITS;
        let prefix = network(ip, v4_bits, v6_bits);
        let mut counts = self.counts();
        let count = counts.entry(prefix).or_default();
        let admitted = *count < self.limit;
        *count += usize::from(admitted);
        admitted.then_some(prefix)
    }

    /// A connection of this source was closed.
    pub fn leave(&self, prefix: IpAddr) {
        let mut counts = self.counts();
        if let Some(count) = counts.get_mut(&prefix) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&prefix);
            }
        }
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // nothing panics under the lock, so nothing in it is half done
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Datagrams that one worker answers per second. `None`: any number.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// Of each source.
    pub per_prefix: Option<NonZeroU32>,
    /// Of all sources together.
    pub replies: Option<NonZeroU32>,
}

/// Which rate a datagram exceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exceeded {
    /// That of its source.
    PerPrefix,
    /// That of all sources together.
    Replies,
}

/// The prefix for which datagrams are counted: one victim of forged sources, or one user with a handful of machines.
/// Limits on the replies of DNS servers use the same prefixes.
const RATE_BITS: (u32, u32) = (24, 56);

/// That prefix as a number of its own, never 0.
fn rate_prefix(ip: IpAddr) -> u64 {
    const V4: u64 = 1 << 56;
    const V6: u64 = 1 << 57;
    let (v4_bits, v6_bits) = RATE_BITS;
    match ip {
        IpAddr::V4(ip) => V4 | u64::from(ip.to_bits() >> (u32::BITS - v4_bits)),
        IpAddr::V6(ip) => V6 | (ip.to_bits() >> (u128::BITS - v6_bits)) as u64,
    }
}

/// A source that was silent before may have the replies of this time at once.
const PREFIX_BURST: Duration = Duration::from_secs(1);
/// The same for all sources together.
const REPLIES_BURST: Duration = Duration::from_millis(100);

/// Rate limits of one worker.
#[derive(Debug)]
pub struct RateLimits {
    per_prefix: Option<PrefixRates>,
    replies: Option<(Rate, Ahead)>,
    start: Instant,
    /// Nanoseconds from the start to the first datagram of this turn: the clock is read once a turn.
    now_ns: Option<u64>,
}

impl RateLimits {
    /// Limits for these rates, `None` if there are none to keep.
    pub fn new(rates: Rates) -> Option<Self> {
        let per_prefix = rates.per_prefix.map(|rate| PrefixRates::new(Rate::new(rate, PREFIX_BURST)));
        let replies = rates.replies.map(|rate| (Rate::new(rate, REPLIES_BURST), Ahead::default()));
        let any = per_prefix.is_some() || replies.is_some();
        any.then(|| Self { per_prefix, replies, start: sys::now(), now_ns: None })
    }

    /// Counts `datagrams` from `peer`. Returns the rate that they exceed, if there is one; then they are not counted
    /// for it.
    pub fn exceeded(&mut self, peer: IpAddr, datagrams: u32) -> Option<Exceeded> {
        let now_ns = *self.now_ns.get_or_insert_with(|| (sys::now() - self.start).as_nanos() as u64);
        if let Some(prefixes) = &mut self.per_prefix
            && !prefixes.take(peer, datagrams, now_ns)
        {
            return Some(Exceeded::PerPrefix);
        }
        if let Some((rate, ahead)) = &mut self.replies
            && !rate.take(ahead, datagrams, now_ns)
        {
            return Some(Exceeded::Replies);
        }
        None
    }

    /// The turn ends: the next datagram has a time of its own.
    pub fn end_turn(&mut self) {
        self.now_ns = None;
    }
}

/// Sources in one set, which is one cache line.
const WAYS: usize = 4;
/// Sets: 1 MiB, for 65,536 sources that are active at a time.
const SETS: usize = 16_384;

/// A source: its prefix, or 0 if the place is free, and the time that it has taken ahead.
#[derive(Clone, Copy, Debug, Default)]
struct Source {
    prefix: u64,
    ahead: Ahead,
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
struct Set([Source; WAYS]);

/// A rate for each source, in a table of fixed size.
///
/// A source that is not in the table takes the place of the one in its set that has taken the least time ahead, and
/// takes over that time. So an attacker who sprays sources, or waits to be forgotten, gains nothing. Sources of one set
/// are told apart by their prefixes. A secret decides which sources share a set, so nobody can aim at another's place.
#[derive(Debug)]
struct PrefixRates {
    rate: Rate,
    sets: Box<[Set]>,
    key: HashKey,
}

impl PrefixRates {
    fn new(rate: Rate) -> Self {
        Self { rate, sets: vec![Set::default(); SETS].into(), key: HashKey::draw() }
    }

    fn take(&mut self, peer: IpAddr, datagrams: u32, now_ns: u64) -> bool {
        let prefix = rate_prefix(peer);
        let Set(sources) = &mut self.sets[self.key.of_word(prefix) as usize % SETS];
        let known = sources.iter().position(|source| source.prefix == prefix);
        let place = known.unwrap_or_else(|| {
            let least = (0..WAYS).min_by_key(|&place| sources[place].ahead);
            least.expect("a set has places")
        });
        sources[place].prefix = prefix;
        self.rate.take(&mut sources[place].ahead, datagrams, now_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_is_the_first_bits() {
        for (text, v4_bits, v6_bits, wanted) in [
            ("192.0.2.77", 24, 56, "192.0.2.0"),
            ("192.0.2.77", 32, 64, "192.0.2.77"),
            ("192.0.2.77", 0, 0, "0.0.0.0"),
            ("2001:db8:1:2345::9", 24, 56, "2001:db8:1:2300::"),
            ("2001:db8:1:2345::9", 32, 64, "2001:db8:1:2345::"),
            ("2001:db8:1:2345::9", 32, 128, "2001:db8:1:2345::9"),
            ("2001:db8:1:2345::9", 0, 0, "::"),
        ] {
            assert_eq!(network(ip(text), v4_bits, v6_bits), ip(wanted));
        }
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

    const SECOND_NS: u64 = 1_000_000_000;

    fn rate(per_second: u32, burst: Duration) -> Rate {
        Rate::new(NonZeroU32::new(per_second).unwrap(), burst)
    }

    /// How many of 1,000 datagrams at that time are answered.
    fn answered(mut take: impl FnMut() -> bool) -> usize {
        (0..1000).filter(|_| take()).count()
    }

    #[test]
    fn each_source_has_a_rate_of_its_own() {
        let mut prefixes = PrefixRates::new(rate(100, PREFIX_BURST));
        let mut of = |text| answered(|| prefixes.take(ip(text), 1, SECOND_NS));
        assert_eq!((of("192.0.2.1"), of("192.0.2.200"), of("192.0.3.1")), (100, 0, 100));
        assert_eq!((of("2001:db8::1"), of("2001:db8:0:ff::1"), of("2001:db8:0:100::1")), (100, 0, 100));
    }

    /// An IPv4 and an IPv6 network that a hash can't tell apart that folds them before it mixes its key in.
    #[test]
    fn sources_alike_have_a_rate_each() {
        let mut prefixes = PrefixRates::new(rate(100, PREFIX_BURST));
        for victim in (1..=1000).map(|number| Ipv4Addr::from_bits(number << 8)) {
            let alike = crate::policy::flow::tests::network_alike(victim).into();
            assert_eq!(network(alike, RATE_BITS.0, RATE_BITS.1), alike, "it is a /56");
            assert!(prefixes.take(alike, 100, SECOND_NS));
            assert_eq!(answered(|| prefixes.take(victim.into(), 1, SECOND_NS)), 100, "{victim}");
        }
    }

    /// Sources that have a set to themselves and more than it has places: one more than [`WAYS`].
    fn sources_of_one_set(prefixes: &PrefixRates) -> Vec<IpAddr> {
        let set = |ip: IpAddr| prefixes.key.of_word(rate_prefix(ip)) as usize % SETS;
        let all = (0..1_000_000).map(|number: u32| IpAddr::from(Ipv4Addr::from_bits((number + 1) << 8)));
        let wanted = set(ip("192.0.2.1"));
        all.filter(|&ip| set(ip) == wanted).take(WAYS + 1).collect()
    }

    #[test]
    fn a_newcomer_takes_the_place_of_who_has_the_least_ahead_and_what_that_has() {
        let mut prefixes = PrefixRates::new(rate(100, PREFIX_BURST));
        let sources = sources_of_one_set(&prefixes);
        let newcomer = sources[WAYS];
        // a tenth, a fifth, …: the second has the least
        for (place, taken) in [(0, 100), (1, 10), (2, 80), (3, 50)] {
            assert!(prefixes.take(sources[place], taken, SECOND_NS));
        }
        assert_eq!(answered(|| prefixes.take(newcomer, 1, SECOND_NS)), 90, "it has what the second had");
        for (place, left) in [(0, 0), (2, 20), (3, 50)] {
            assert_eq!(
                answered(|| prefixes.take(sources[place], 1, SECOND_NS)),
                left,
                "{place} was not forgotten"
            );
        }
    }

    #[test]
    fn sources_that_fit_know_nothing_of_each_other() {
        const SOURCES: u32 = 5000;
        let mut prefixes = PrefixRates::new(rate(100, PREFIX_BURST));
        let each = |round: &mut dyn FnMut(IpAddr) -> bool| {
            let all = (0..SOURCES).map(|number| IpAddr::from(Ipv4Addr::from_bits((number + 1) << 8)));
            all.filter(|&ip| round(ip)).count()
        };
        // of 5,000 in 16,384 sets of 4 next to none share a full one
        let first = each(&mut |ip| prefixes.take(ip, 100, SECOND_NS));
        assert!(first > SOURCES as usize * 99 / 100, "{first} were answered");
        let second = each(&mut |ip| prefixes.take(ip, 1, SECOND_NS));
        assert!(second < SOURCES as usize / 100, "{second} had more than their share");
    }

    #[test]
    fn a_spray_of_sources_makes_no_room_for_one() {
        let mut prefixes = PrefixRates::new(rate(100, PREFIX_BURST));
        let victim = ip("192.0.2.1");
        assert_eq!(answered(|| prefixes.take(victim, 1, SECOND_NS)), 100);
        // every place is taken by somebody else many times over
        for number in 0..20 * (SETS * WAYS) as u32 {
            prefixes.take(Ipv4Addr::from_bits(number << 8).into(), 100, SECOND_NS);
        }
        assert_eq!(answered(|| prefixes.take(victim, 1, SECOND_NS)), 0, "a newcomer starts with nothing");
        assert_eq!(
            answered(|| prefixes.take(victim, 1, 2 * SECOND_NS)),
            100,
            "a second later it is answered"
        );
    }

    #[test]
    fn all_together_have_a_rate_too_and_the_clock_is_read_once_a_turn() {
        assert!(RateLimits::new(Rates::default()).is_none());
        let rates = Rates { per_prefix: NonZeroU32::new(20), replies: NonZeroU32::new(500) };
        let mut limits = RateLimits::new(rates).unwrap();
        let of = |limits: &mut RateLimits, ip: u8| {
            (0..100).map(|_| limits.exceeded(IpAddr::from([192, 0, ip, 1]), 1)).collect::<Vec<_>>()
        };
        let first = of(&mut limits, 1);
        assert!(first[..20].iter().all(Option::is_none));
        assert!(first[20..].iter().all(|exceeded| *exceeded == Some(Exceeded::PerPrefix)));
        of(&mut limits, 2);
        let third = of(&mut limits, 3);
        assert_eq!(third[10], Some(Exceeded::Replies), "50 at once");
        let now_ns = limits.now_ns;
        assert!(now_ns.is_some());
        limits.end_turn();
        of(&mut limits, 4);
        assert!(limits.now_ns > now_ns);
    }
}
