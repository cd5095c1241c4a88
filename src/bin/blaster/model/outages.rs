//! Destinations whose latest message had no right reply in time, and since when: for a run that lasts, where the sum of all
//! rounds hides what is wrong now. The threads of a run share one table, since each round of `--each-once` may visit a
//! destination from another thread.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::model::counts::{Class, Fault};

/// The table. Times are intended send times in nanoseconds since the start of the run.
#[derive(Debug)]
pub(crate) struct Outages {
    places: Box<[Latest]>,
}

/// The latest messages to one destination. A time of 0: none; the others are one more than they were, so that none is 0.
#[derive(Debug, Default)]
struct Latest {
    /// Of the last message that had a right reply in time.
    right_ns: AtomicU64,
    /// Of the last one that had none.
    wrong_ns: AtomicU64,
    /// Of the first one that had none, if no right reply ever came.
    first_wrong_ns: AtomicU64,
    /// The place of its fault in [`Fault::ALL`].
    fault: AtomicU8,
}

/// A destination whose latest message had no right reply in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outage {
    /// Its place in the table.
    pub(crate) place: usize,
    pub(crate) fault: Fault,
    /// When the last message was due that had a right reply in time; without one, when the first message was due.
    pub(crate) since_ns: u64,
}

/// The number of destinations for each of [`Fault::ALL`], and of those without a fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OutageCounts {
    pub(crate) by_fault: [u64; Fault::ALL.len()],
    pub(crate) right: u64,
}

impl Outages {
    /// A table for this many destinations.
    pub(crate) fn new(places: usize) -> Self {
        Self { places: std::iter::repeat_with(Latest::default).take(places).collect() }
    }

    /// Notes the outcome of a message.
    pub(crate) fn note(&self, place: usize, class: Class, intended_ns: u64) {
        let fault = match class {
            Class::Ok => return self.note_right(place, intended_ns),
            Class::Corrupted | Class::Truncated => Fault::Corrupted,
            Class::Misdirected => Fault::Misdirected,
            Class::Late => Fault::Late,
            Class::Lost | Class::Unreachable => Fault::Silent,
        };
        self.note_fault(place, fault, intended_ns);
    }

    fn note_right(&self, place: usize, intended_ns: u64) {
        if let Some(latest) = self.places.get(place) {
            // threads may disagree for a moment; the next message decides
            if latest.right_ns.load(Ordering::Relaxed) < intended_ns + 1 {
                latest.right_ns.store(intended_ns + 1, Ordering::Relaxed);
            }
        }
    }

    /// Notes a message without a right reply in time.
    pub(crate) fn note_fault(&self, place: usize, fault: Fault, intended_ns: u64) {
        let Some(latest) = self.places.get(place) else { return };
        if latest.wrong_ns.fetch_max(intended_ns + 1, Ordering::Relaxed) <= intended_ns + 1 {
            let nth = Fault::ALL.iter().position(|other| *other == fault).unwrap_or(0);
            latest.fault.store(nth as u8, Ordering::Relaxed);
        }
        if latest.right_ns.load(Ordering::Relaxed) == 0 {
            let none = latest.first_wrong_ns.load(Ordering::Relaxed) == 0;
            if none {
                latest.first_wrong_ns.store(intended_ns + 1, Ordering::Relaxed);
            }
        }
    }

    /// The outages at this moment.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Outage> {
        self.places.iter().enumerate().filter_map(|(place, latest)| latest.outage(place))
    }

    /// The number of destinations that something is known of, by fault.
    pub(crate) fn counts(&self) -> OutageCounts {
        let mut counts = OutageCounts::default();
        for (place, latest) in self.places.iter().enumerate() {
            match latest.outage(place) {
                Some(outage) => {
                    counts.by_fault[latest.fault.load(Ordering::Relaxed) as usize % Fault::ALL.len()] += 1;
                    debug_assert!(outage.place == place, "of this destination");
                }
                None => counts.right += u64::from(latest.right_ns.load(Ordering::Relaxed) > 0),
            }
        }
        counts
    }
}

impl Latest {
    fn outage(&self, place: usize) -> Option<Outage> {
        let [right_ns, wrong_ns, first_ns] =
            [&self.right_ns, &self.wrong_ns, &self.first_wrong_ns].map(|at| at.load(Ordering::Relaxed));
        let since_ns = if right_ns > 0 { right_ns } else { first_ns };
        (wrong_ns > right_ns).then(|| Outage {
            place,
            fault: Fault::ALL[self.fault.load(Ordering::Relaxed) as usize % Fault::ALL.len()],
            since_ns: since_ns.saturating_sub(1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_message_decides_and_the_last_right_one_is_the_beginning() {
        let outages = Outages::new(3);
        assert_eq!(outages.iter().next(), None);
        outages.note(0, Class::Ok, 0);
        outages.note(0, Class::Lost, 10);
        outages.note(0, Class::Misdirected, 20);
        // its reply came first, but it is the older one
        outages.note(0, Class::Lost, 15);
        outages.note(2, Class::Lost, 7);
        outages.note(2, Class::Lost, 17);
        let silent = Outage { place: 2, fault: Fault::Silent, since_ns: 7 };
        let misdirected = Outage { place: 0, fault: Fault::Misdirected, since_ns: 0 };
        assert_eq!(outages.iter().collect::<Vec<_>>(), [misdirected, silent]);
        // a reply to a datagram before the lost one says nothing of the destination as it is now
        outages.note(0, Class::Ok, 5);
        assert_eq!(outages.iter().next(), Some(Outage { since_ns: 5, ..misdirected }));
        outages.note(0, Class::Ok, 30);
        // given up long after a later one had its reply
        outages.note(0, Class::Lost, 29);
        assert_eq!(outages.iter().collect::<Vec<_>>(), [silent]);
        let counts = outages.counts();
        assert_eq!((counts.right, counts.by_fault.iter().sum::<u64>()), (1, 1));
        outages.note(9, Class::Lost, 1);
    }
}
