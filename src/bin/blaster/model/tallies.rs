//! Tallies by address: a table while a worker counts, names when it is done.

use std::collections::BTreeMap;

use crate::model::counts::Tally;

/// The tallies of destinations, or of sources.
#[derive(Clone, Debug)]
pub(crate) struct Tallies<K> {
    /// By place. A worker knows which place belongs to which address.
    table: Vec<Tally>,
    named: BTreeMap<K, Tally>,
}

impl<K> Default for Tallies<K> {
    fn default() -> Self {
        Self { table: Vec::new(), named: BTreeMap::new() }
    }
}

impl<K: Ord + Copy> Tallies<K> {
    /// Makes room for this many places.
    pub(crate) fn reserve(&mut self, places: usize) {
        self.table.resize(places, Tally::default());
    }

    pub(crate) fn at(&mut self, place: usize) -> &mut Tally {
        &mut self.table[place]
    }

    /// Gives each place with a count its name. Places of one name are added up.
    pub(crate) fn name(&mut self, name: impl Fn(usize) -> K) {
        for (place, tally) in std::mem::take(&mut self.table).iter().enumerate() {
            if tally.tried() > 0 {
                *self.named.entry(name(place)).or_default() += tally;
            }
        }
    }

    /// Adds the named tallies of another worker.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (name, tally) in &other.named {
            *self.named.entry(*name).or_default() += tally;
        }
    }

    /// What has a name, in the order of the names.
    pub(crate) fn named(&self) -> Vec<(K, Tally)> {
        self.named.iter().map(|(name, tally)| (*name, *tally)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_add_up_and_what_was_not_tried_has_none() {
        let mut one = Tallies::default();
        one.reserve(3);
        one.at(0).sent += 1;
        one.at(2).failed += 2;
        one.name(|place| place / 2);
        let mut two = Tallies::default();
        two.reserve(2);
        two.at(0).sent += 4;
        two.at(1).refused += 1;
        two.name(|_| 1);
        one.merge(&two);
        let sent = Tally { sent: 1, ..Tally::default() };
        assert_eq!(
            one.named(),
            [(0, sent), (1, Tally { sent: 4, failed: 2, refused: 1, ..Tally::default() })]
        );
    }
}
