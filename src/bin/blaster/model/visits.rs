//! `--each-once`: the destinations, and the order in which they are visited. No socket, no clock.

use std::net::SocketAddr;

use rand::RngExt;

use crate::model::draw;
use crate::model::no_hosts::NoHostAddresses;
use crate::model::source::Source;
use crate::model::target::{Target, TargetError};
use crate::model::units::count;

/// The most destinations of a run. Their addresses and counts take 96 bytes each, 25 MB in all.
pub(crate) const DESTINATIONS_MAX: u32 = 1 << 18;
/// The destinations of a sample, if targets have more than [`DESTINATIONS_MAX`].
pub(crate) const SAMPLE: u32 = 1 << 16;
/// The most sources of a run.
pub(crate) const SOURCES_MAX: u32 = 4_096;
/// The most visits of each destination.
pub(crate) const TIMES_MAX: u32 = 10_000;

/// The flow numbers of draws that belong to no flow.
const DRAW_OF_SAMPLE: u32 = u32::MAX;

/// What is visited, and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) times: u32,
    /// Round after round, until a signal comes.
    pub(crate) is_endless: bool,
    /// Destinations of a sample. `None`: all, as long as they are not too many.
    pub(crate) sample: Option<u32>,
    /// Sources of a sample.
    pub(crate) sources: Option<u32>,
    pub(crate) seed: u64,
}

/// All visits of a run. Visit `v` goes to one destination, from one source.
#[derive(Clone, Debug)]
pub(crate) struct Visits {
    /// In order, each once.
    destinations: Vec<SocketAddr>,
    /// The local addresses, with port 0. Empty: the routing table chooses.
    sources: Vec<SocketAddr>,
    /// The number of visits.
    total: u64,
    offset: u64,
    stride: u64,
    sample: Option<Sample>,
}

/// A part of all destinations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// All destinations. `None`: more than 2^128.
    pub(crate) of: Option<u128>,
}

impl Sample {
    /// Which destinations it has.
    pub(crate) fn words(&self, visits: &Visits) -> String {
        let visited = count(visits.destinations.len() as u64);
        let all = self.of.map_or("more than 2^128".into(), |all| match u64::try_from(all) {
            Ok(all) => count(all),
            // the digits of larger numbers say little
            Err(_) => format!("about 2^{}", (all as f64).log2().round()),
        });
        format!("{visited} of {all} destinations, one drawn by --seed from each of as many equal parts")
    }
}

impl Visits {
    pub(crate) fn new(
        targets: &[Target],
        source: Option<&Source>,
        no_hosts: &NoHostAddresses,
        wish: Wish,
    ) -> Result<Self, TargetError> {
        let sizes: Vec<Option<u128>> = targets.iter().map(Target::size).collect();
        let all = sizes.iter().copied().try_fold(0_u128, |sum, size| sum.checked_add(size?));
        let most = u128::from(wish.sample.unwrap_or(DESTINATIONS_MAX));
        let sample = all.is_none_or(|all| all > most).then_some(Sample { of: all });
        let shares = match sample {
            None => sizes.iter().map(|size| size.unwrap_or(0) as u64).collect(),
            Some(_) => shares(&sizes, wish.sample.unwrap_or(SAMPLE).into()),
        };
        let mut destinations = Vec::new();
        for (target, share) in targets.iter().zip(shares) {
            draw_from(target, share, wish.seed, &mut destinations);
        }
        destinations.retain(|drawn| !no_hosts.has(drawn.ip()));
        destinations.sort_unstable();
        destinations.dedup();
        let Some(peer) = destinations.first().copied() else {
            return Err(TargetError::Broadcast { target: targets[0].to_string() });
        };
        let sources = source.map_or(Vec::new(), |source| {
            source.spread(wish.sources.unwrap_or(SOURCES_MAX), wish.seed, peer, no_hosts)
        });
        let rounds = u64::from(wish.times) * destinations.len() as u64;
        let size = destinations.len() as u64;
        Ok(Self {
            // every source is used, also if there are more of them than of destinations
            total: if wish.is_endless { u64::MAX } else { rounds.max(sources.len() as u64) },
            offset: draw::rng(wish.seed, DRAW_OF_SAMPLE, u64::MAX).random_range(0..size),
            stride: stride(size),
            destinations,
            sources,
            sample,
        })
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn destinations(&self) -> &[SocketAddr] {
        &self.destinations
    }

    pub(crate) fn sources(&self) -> &[SocketAddr] {
        &self.sources
    }

    pub(crate) fn sample(&self) -> Option<Sample> {
        self.sample
    }

    /// The destination of visit `nth`, by its place in [`Visits::destinations`]. Each run of visits is spread over all
    /// destinations; each round begins at another one, so that a destination meets another source.
    pub(crate) fn place(&self, nth: u64) -> usize {
        let size = self.destinations.len() as u64;
        let (round, step) = (nth / size, nth % size);
        ((self.offset + round % size + step * self.stride) % size) as usize
    }

    pub(crate) fn destination(&self, place: usize) -> SocketAddr {
        self.destinations[place]
    }
}

/// How many of a sample's destinations each target gets: the same number, or all that it has.
fn shares(sizes: &[Option<u128>], sample: u64) -> Vec<u64> {
    let mut by_size: Vec<usize> = (0..sizes.len()).collect();
    by_size.sort_by_key(|nth| sizes[*nth].unwrap_or(u128::MAX));
    let mut shares = vec![0; sizes.len()];
    let (mut left, mut targets) = (sample, sizes.len() as u64);
    for nth in by_size {
        let most = u64::try_from(sizes[nth].unwrap_or(u128::MAX)).unwrap_or(u64::MAX);
        shares[nth] = left.div_ceil(targets).min(most);
        left -= shares[nth];
        targets -= 1;
    }
    shares
}

/// Adds `share` destinations of a target: one of each part, of as many equal parts.
fn draw_from(target: &Target, share: u64, seed: u64, out: &mut Vec<SocketAddr>) {
    let ports = u128::from(target.ports());
    let share = u128::from(share);
    let whole = target.size();
    for nth in 0..share {
        let mut rng = draw::rng(seed, DRAW_OF_SAMPLE, nth as u64);
        let mut within = |all: u128| {
            // the same as nth * all / share, which may be too large
            let begin = |nth: u128| nth * (all / share) + nth * (all % share) / share;
            rng.random_range(begin(nth)..begin(nth + 1))
        };
        let (address, port) = match (whole, target.addresses()) {
            (Some(whole), Some(addresses)) if addresses < share => {
                let drawn = within(whole);
                (drawn / ports, (drawn % ports) as u32)
            }
            // a target of 2^128 addresses is refused long before
            (_, addresses) => (within(addresses.unwrap_or(u128::MAX)), rng.random_range(0..target.ports())),
        };
        out.push(target.nth(address, port));
    }
}

/// A step that visits each of `size` places once, and spreads any number of steps: the golden section of `size`, or the
/// next number without a common divisor.
fn stride(size: u64) -> u64 {
    const GOLDEN: f64 = 0.618_033_988_749_895;
    let mut stride = ((size as f64 * GOLDEN) as u64).max(1);
    while divisor(stride, size) != 1 {
        stride += 1;
    }
    stride
}

/// The greatest common divisor.
fn divisor(one: u64, other: u64) -> u64 {
    if other == 0 { one } else { divisor(other, one % other) }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::net::IpAddr;

    use super::*;

    fn visits_of(targets: &[&str], wish: Wish) -> Visits {
        let targets: Vec<Target> = targets.iter().map(|text| text.parse().unwrap()).collect();
        Visits::new(&targets, None, &NoHostAddresses::default(), wish).unwrap()
    }

    fn once() -> Wish {
        Wish { times: 1, is_endless: false, sample: None, sources: None, seed: 7 }
    }

    fn visited(visits: &Visits) -> BTreeMap<SocketAddr, u64> {
        let mut visited = BTreeMap::new();
        for nth in 0..visits.total() {
            *visited.entry(visits.destination(visits.place(nth))).or_default() += 1;
        }
        visited
    }

    #[test]
    fn each_destination_is_visited_as_often_as_asked() {
        for (targets, size) in [
            (&["127.0.0.1:7"][..], 1),
            (&["10.0.0.0/16:1234"], 65_536),
            (&["127.0.0.1:1-65535"], 65_535),
            (&["[2001:db8::/112]:5000-5002"], 3 * 65_536),
            (&["10.0.0.0/24:7", "10.0.0.128/25:7", "10.0.0.1:8"], 257),
        ] {
            for times in [1, 3] {
                let visits = visits_of(targets, Wish { times, ..once() });
                let visited = visited(&visits);
                assert_eq!(visited.len(), size, "{targets:?}");
                assert!(visited.values().all(|count| *count == u64::from(times)), "{targets:?}");
                assert_eq!(visits.sample(), None, "{targets:?}");
            }
        }
    }

    /// Of the first visits, each part of the prefix has its share.
    #[test]
    fn the_order_spreads_over_the_prefix() {
        for visits in [
            visits_of(&["10.0.0.0/16:7"], once()),
            visits_of(&["127.0.0.1:1-65535"], once()),
            visits_of(&["[2001:db8::/64]:any"], once()),
        ] {
            for first in [16, 100, 1_000] {
                let mut parts = [0; 16];
                let size = visits.destinations().len();
                for nth in 0..first {
                    parts[visits.place(nth) * 16 / size] += 1;
                }
                let fair = first as i64 / 16;
                let tolerance = 2.max(fair / 10);
                assert!(parts.iter().all(|part: &i64| (*part - fair).abs() <= tolerance), "{parts:?}");
            }
        }
    }

    #[test]
    fn a_sample_has_one_destination_of_each_part() {
        let visits = visits_of(&["[2001:db8:0:1::/64]:5000-5001"], once());
        assert_eq!(visits.sample(), Some(Sample { of: Some(2 << 64) }));
        let parts: BTreeSet<u64> = visits
            .destinations()
            .iter()
            .map(|drawn| if let IpAddr::V6(ip) = drawn.ip() { ip.to_bits() as u64 >> 48 } else { 0 })
            .collect();
        assert_eq!((visits.destinations().len(), parts.len()), (SAMPLE as usize, SAMPLE as usize));
        let ports: BTreeSet<u16> = visits.destinations().iter().map(SocketAddr::port).collect();
        assert_eq!(ports, [5_000, 5_001].into());
        let again = visits_of(&["[2001:db8:0:1::/64]:5000-5001"], once());
        assert_eq!(visits.destinations(), again.destinations(), "the same seed");
        let other = visits_of(&["[2001:db8:0:1::/64]:5000-5001"], Wish { seed: 8, ..once() });
        assert_ne!(visits.destinations(), other.destinations());
        // a few addresses with many ports; and a number that was asked for
        let wish = Wish { sample: Some(1_000), ..once() };
        let visits = visits_of(&["127.0.0.0/29:any"], wish);
        let addresses: BTreeSet<IpAddr> = visits.destinations().iter().map(SocketAddr::ip).collect();
        assert_eq!((visits.total(), addresses.len()), (1_000, 8));
        assert_eq!(visits.sample(), Some(Sample { of: Some(8 * 64_512) }));
    }

    #[test]
    fn a_small_target_beside_a_large_one_is_visited_too() {
        let visits = visits_of(&["[2001:db8::/32]:any", "127.0.0.1:7", "10.0.0.0/9:7"], once());
        let size = |is_wanted: fn(&IpAddr) -> bool| {
            visits.destinations().iter().filter(|drawn| is_wanted(&drawn.ip())).count()
        };
        assert_eq!(size(IpAddr::is_loopback), 1);
        assert_eq!(size(IpAddr::is_ipv6), 32_767);
        assert_eq!(visits.destinations().len(), SAMPLE as usize);
        // even the largest that is not refused
        assert_eq!(visits_of(&["[4000::/2]:any"], once()).sample(), Some(Sample { of: None }));
    }

    /// The stated bound of memory.
    #[test]
    fn no_run_has_more_destinations_than_the_bound() {
        for targets in [&["10.0.0.0/8:any"][..], &["10.0.0.0/14:7"], &["10.0.0.0/14:7", "127.0.0.1:7"]] {
            let visits = visits_of(targets, once());
            assert!(visits.destinations().len() <= DESTINATIONS_MAX as usize, "{targets:?}");
        }
        assert_eq!(visits_of(&["10.0.0.0/14:7"], once()).destinations().len(), DESTINATIONS_MAX as usize);
        let each = size_of::<SocketAddr>() + size_of::<crate::model::counts::Tally>();
        assert!(each <= 96, "{each} bytes");
    }

    #[test]
    fn addresses_of_no_host_are_left_out_and_all_sources_are_used() {
        let no_hosts = NoHostAddresses::of(["10.1.0.1/30".parse().unwrap()]);
        let targets = ["10.1.0.0/29:7".parse().unwrap()];
        let source: Source = "10.1.0.0/28".parse().unwrap();
        let visits = Visits::new(&targets, Some(&source), &no_hosts, once()).unwrap();
        assert_eq!((visits.destinations().len(), visits.sources().len()), (6, 14));
        assert_eq!(visits.total(), 14);
        let only = ["10.1.0.3/32:7".parse().unwrap()];
        assert!(matches!(Visits::new(&only, None, &no_hosts, once()), Err(TargetError::Broadcast { .. })));
    }
}
