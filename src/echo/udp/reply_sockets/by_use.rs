//! The open reply sockets in the order in which they were used last, so that the least recently used one is found at once.

use std::net::SocketAddr;

use super::options::OptionsId;

/// No place.
const NONE: u32 = u32::MAX;

/// A reply socket, or a place that is free for one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) pair: SocketAddr,
    pub(super) options: OptionsId,
    pub(super) used_turn: u64,
    pub(super) used_tick: u32,
    /// Neighbours in the order of use.
    older: u32,
    newer: u32,
}

/// Places by number, which is also that of the socket's file. Free places are used again before new ones.
#[derive(Debug)]
pub(super) struct ByUse {
    entries: Vec<Entry>,
    free: Vec<u32>,
    oldest: u32,
    newest: u32,
}

impl ByUse {
    pub(super) fn new() -> Self {
        Self { entries: Vec::new(), free: Vec::new(), oldest: NONE, newest: NONE }
    }

    /// How many sockets are open.
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    pub(super) fn get(&self, place: u32) -> &Entry {
        &self.entries[place as usize]
    }

    /// The place that [`Self::insert`] takes next.
    pub(super) fn next_place(&self) -> u32 {
        self.free.last().copied().unwrap_or(self.entries.len() as u32)
    }

    /// A socket was opened, and is used now.
    pub(super) fn insert(&mut self, pair: SocketAddr, options: OptionsId, turn: u64, tick: u32) -> u32 {
        let entry = Entry { pair, options, used_turn: turn, used_tick: tick, older: NONE, newer: NONE };
        let place = self.next_place();
        if self.free.pop().is_some() {
            self.entries[place as usize] = entry;
        } else {
            self.entries.push(entry);
        }
        self.link_newest(place, turn, tick);
        place
    }

    /// A socket is used. Only its first use in a turn changes the order.
    pub(super) fn touch(&mut self, place: u32, turn: u64, tick: u32) {
        if self.entries[place as usize].used_turn != turn {
            self.unlink(place);
            self.link_newest(place, turn, tick);
        }
    }

    /// A socket was closed.
    pub(super) fn remove(&mut self, place: u32) {
        self.unlink(place);
        self.free.push(place);
    }

    /// The place that was used least recently.
    pub(super) fn oldest(&self) -> Option<u32> {
        (self.oldest != NONE).then_some(self.oldest)
    }

    /// The place that was used next after this one.
    pub(super) fn newer(&self, place: u32) -> Option<u32> {
        let newer = self.entries[place as usize].newer;
        (newer != NONE).then_some(newer)
    }

    fn unlink(&mut self, place: u32) {
        let Entry { older, newer, .. } = self.entries[place as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.entries[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.entries[newer as usize].older = older,
        }
    }

    fn link_newest(&mut self, place: u32, turn: u64, tick: u32) {
        let newest = std::mem::replace(&mut self.newest, place);
        let entry = &mut self.entries[place as usize];
        (entry.older, entry.newer, entry.used_turn, entry.used_tick) = (newest, NONE, turn, tick);
        match newest {
            NONE => self.oldest = place,
            newest => self.entries[newest as usize].newer = place,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(sockets: &ByUse) -> Vec<u32> {
        let mut places: Vec<_> = sockets.oldest().into_iter().collect();
        while let Some(place) = places.last().and_then(|&place| sockets.newer(place)) {
            places.push(place);
        }
        places
    }

    #[test]
    fn places_stand_in_the_order_of_use_and_are_used_again() {
        let mut sockets = ByUse::new();
        let insert = |sockets: &mut ByUse, turn| {
            let place = sockets.next_place();
            assert_eq!(sockets.insert(([127, 0, 0, 1], 5000).into(), OptionsId(0), turn, 0), place);
            place
        };
        assert_eq!((sockets.oldest(), sockets.len()), (None, 0));
        assert_eq!([1, 2, 3].map(|turn| insert(&mut sockets, turn)), [0, 1, 2]);
        assert_eq!(order(&sockets), [0, 1, 2]);
        sockets.touch(0, 4, 9);
        assert_eq!((sockets.get(0).used_turn, sockets.get(0).used_tick), (4, 9));
        assert_eq!(order(&sockets), [1, 2, 0]);
        sockets.touch(2, 5, 9);
        sockets.remove(0);
        assert_eq!((order(&sockets), sockets.len()), (vec![1, 2], 2));
        sockets.remove(1);
        sockets.remove(2);
        assert_eq!((sockets.oldest(), sockets.len()), (None, 0));
        assert_eq!((insert(&mut sockets, 6), order(&sockets)), (2, vec![2]), "the last one that was freed");
    }
}
