//! Tallies by address, in bounded memory: a table while a worker counts, names when it is done.
//!
//! If there are too many destinations for a table, only those with faults are counted, and of these the worst are kept:
//! when there are too many, each loses as much weight as the lighter half has, and those without weight are forgotten. So
//! each destination with more than 2 / [`WORST_MAX`] of all faults is kept, whatever comes in between.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use crate::model::counts::Tally;

/// The most destinations that have a place in the table of a worker, if each datagram draws its destination.
pub(crate) const TABLE_MAX: u32 = 1 << 16;
/// The most destinations with faults that a worker keeps, if there is no table.
pub(crate) const WORST_MAX: usize = 1 << 14;

/// Where the counts of a destination are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place<K> {
    Table(usize),
    /// It has no place in the table, and is counted only if it has faults.
    Named(K),
}

/// The tallies of destinations, or of sources.
#[derive(Clone, Debug)]
pub(crate) struct Tallies<K> {
    /// By place. A worker knows which place belongs to which address.
    table: Vec<Tally>,
    worst: HashMap<K, Weighed>,
    has_only_faults: bool,
    named: BTreeMap<K, Tally>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Weighed {
    tally: Tally,
    weight: u64,
}

impl<K> Default for Tallies<K> {
    fn default() -> Self {
        Self { table: Vec::new(), worst: HashMap::new(), has_only_faults: false, named: BTreeMap::new() }
    }
}

impl<K: Ord + Hash + Copy> Tallies<K> {
    /// Makes room for this many places. `None`: only destinations with faults are counted.
    pub(crate) fn reserve(&mut self, places: Option<usize>) {
        self.has_only_faults = places.is_none();
        self.table.resize(places.unwrap_or(0), Tally::default());
    }

    /// Adds to the counts of a place in the table.
    pub(crate) fn at(&mut self, place: usize) -> &mut Tally {
        &mut self.table[place]
    }

    /// Notes what was sent. Without a table it is not counted.
    pub(crate) fn note_sent(&mut self, place: Place<K>, datagrams: u64) {
        if let Place::Table(place) = place {
            self.table[place].sent += datagrams;
        }
    }

    /// Notes a fault by one of the counts.
    pub(crate) fn note_fault(&mut self, place: Place<K>, count: impl Fn(&mut Tally) -> &mut u64) {
        match place {
            Place::Table(place) => *count(&mut self.table[place]) += 1,
            Place::Named(name) => {
                let weighed = self.worst.entry(name).or_default();
                weighed.weight += 1;
                *count(&mut weighed.tally) += 1;
                if self.worst.len() > WORST_MAX {
                    self.forget_the_lightest();
                }
            }
        }
    }

    /// Takes back a fault: it was none.
    pub(crate) fn take_back(&mut self, place: Place<K>, count: impl Fn(&mut Tally) -> &mut u64) {
        let tally = match place {
            Place::Table(place) => Some(&mut self.table[place]),
            // it may be forgotten
            Place::Named(name) => self.worst.get_mut(&name).map(|weighed| &mut weighed.tally),
        };
        if let Some(count) = tally.map(count) {
            *count = count.saturating_sub(1);
        }
    }

    /// Forgets half of what is kept, or more.
    fn forget_the_lightest(&mut self) {
        let mut weights: Vec<u64> = self.worst.values().map(|weighed| weighed.weight).collect();
        let middle = weights.len() / 2;
        let (_, middle, _) = weights.select_nth_unstable(middle);
        let middle = *middle;
        self.worst.retain(|_, weighed| {
            weighed.weight = weighed.weight.saturating_sub(middle);
            weighed.weight > 0
        });
    }

    /// Gives each place with a count its name. Places of one name are added up.
    pub(crate) fn name(&mut self, name: impl Fn(usize) -> K) {
        for (place, tally) in std::mem::take(&mut self.table).iter().enumerate() {
            if tally.tried() > 0 {
                *self.named.entry(name(place)).or_default() += tally;
            }
        }
        for (name, weighed) in std::mem::take(&mut self.worst) {
            if weighed.tally.wrong() > 0 {
                *self.named.entry(name).or_default() += &weighed.tally;
            }
        }
    }

    /// Adds the named tallies of another worker.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.has_only_faults |= other.has_only_faults;
        for (name, tally) in &other.named {
            *self.named.entry(*name).or_default() += tally;
        }
    }

    /// What has a name, in the order of the names.
    pub(crate) fn named(&self) -> Vec<(K, Tally)> {
        self.named.iter().map(|(name, tally)| (*name, *tally)).collect()
    }

    /// Whether there are only destinations with faults.
    pub(crate) fn has_only_faults(&self) -> bool {
        self.has_only_faults
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_add_up_and_what_was_not_tried_has_none() {
        let mut one = Tallies::default();
        one.reserve(Some(3));
        one.note_sent(Place::Table(0), 1);
        one.at(2).failed += 2;
        one.name(|place| place / 2);
        let mut two = Tallies::default();
        two.reserve(Some(2));
        two.note_sent(Place::Table(0), 4);
        two.note_fault(Place::Table(1), |tally| &mut tally.refused);
        two.note_fault(Place::Table(0), |tally| &mut tally.lost);
        two.take_back(Place::Table(0), |tally| &mut tally.lost);
        two.name(|_| 1);
        one.merge(&two);
        let sent = Tally { sent: 1, ..Tally::default() };
        let other = Tally { sent: 4, failed: 2, refused: 1, ..Tally::default() };
        assert_eq!((one.named(), one.has_only_faults()), (vec![(0, sent), (1, other)], false));
    }

    /// The stated bound of memory: a million destinations with a fault each, and one that has a few hundred of them.
    #[test]
    fn a_flood_of_destinations_with_faults_takes_bounded_memory_and_hides_no_worse_one() {
        let mut tallies = Tallies::default();
        tallies.reserve(None);
        for nth in 0..1_000_000_u32 {
            tallies.note_sent(Place::Named(nth), 1);
            tallies.note_fault(Place::Named(nth), |tally| &mut tally.lost);
            assert!(tallies.worst.len() <= WORST_MAX);
            if nth % 4_000 == 0 {
                tallies.note_fault(Place::Named(u32::MAX), |tally| &mut tally.misdirected);
            }
        }
        let capacity = tallies.worst.capacity();
        assert!(capacity <= 4 * WORST_MAX, "{capacity}");
        assert!(size_of::<(std::net::SocketAddr, Weighed)>() <= 112);
        tallies.name(|_| 0);
        let worst = *tallies.named().last().expect("some are kept");
        assert_eq!(worst, (u32::MAX, Tally { misdirected: 250, ..Tally::default() }));
        assert!(tallies.has_only_faults());
        // one that is forgotten takes nothing back
        tallies.take_back(Place::Named(7), |tally| &mut tally.lost);
    }

    proptest! {
        /// No destination with more than its share of the faults is ever forgotten.
        #[test]
        fn the_worst_are_kept(order in prop::collection::vec(0..60_000_u32, 0..1_000), heavy in 5..500_u64) {
            let mut tallies = Tallies::default();
            tallies.reserve(None);
            let mut all = 0_u64;
            let mut note = |name| {
                tallies.note_fault(Place::Named(name), |tally| &mut tally.late);
                all += 1;
            };
            (0..heavy).for_each(|_| note(u32::MAX));
            for (nth, begin) in order.iter().enumerate() {
                (0..97).for_each(|step| note(begin.wrapping_mul(31).wrapping_add(step * 977) % 60_000));
                if nth % 100 == 0 {
                    note(u32::MAX);
                }
            }
            tallies.name(|_| 0);
            let found = tallies.named().into_iter().find(|(name, _)| *name == u32::MAX);
            prop_assert!(heavy <= all * 2 / WORST_MAX as u64 || found.is_some());
            prop_assert!(tallies.named().len() <= WORST_MAX);
        }
    }
}
