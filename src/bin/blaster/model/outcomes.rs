//! The books: every datagram that was sent is in exactly one class, second by second.
//!
//! sent = ok + corrupted + truncated + misdirected + late + lost + unreachable. Whatever is counted
//! beside that (duplicates, reordering, drops of our own) describes datagrams that are in a class too,
//! or that are none of ours.

use std::ops::AddAssign;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where a datagram ends up. The first that fits, in this order, is its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Answered from another address or port than the one addressed.
    Misdirected,
    /// Answered with a true beginning of it, and no more.
    Truncated,
    /// Answered with other bytes.
    Corrupted,
    /// Answered rightly, but after the timeout.
    Late,
    /// Answered rightly and in time.
    Ok,
    /// The network reported by ICMP that it could not be delivered.
    Unreachable,
    /// Nothing came.
    Lost,
}

impl Class {
    /// Its name, if it is that of replies that are not what was sent.
    pub(crate) fn wrong(self) -> Option<&'static str> {
        match self {
            Self::Misdirected => Some("misdirected"),
            Self::Truncated => Some("truncated"),
            Self::Corrupted => Some("corrupted"),
            Self::Late | Self::Ok | Self::Unreachable | Self::Lost => None,
        }
    }
}

/// Counts of datagrams (TCP: of messages). The names are those of the JSON report and of `--fail-if`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Handed to the kernel.
    pub(crate) sent: u64,
    /// Answered rightly and in time.
    pub(crate) ok: u64,
    /// Answered with other bytes.
    pub(crate) corrupted: u64,
    /// Answered with a true beginning of it, and no more.
    pub(crate) truncated: u64,
    /// Answered from another address or port than the one addressed.
    pub(crate) misdirected: u64,
    /// Answered rightly, but after the timeout.
    pub(crate) late: u64,
    /// Never answered.
    pub(crate) lost: u64,
    /// Reported undeliverable by ICMP, and not answered.
    pub(crate) unreachable: u64,
    /// Beside the classes: further answers to a datagram that had one.
    pub(crate) duplicated: u64,
    /// Beside: first answers that came after the answer to a later datagram of the same flow.
    pub(crate) reordered: u64,
    /// Beside: received, but no answer to anything that this run sent and remembers.
    pub(crate) unattributed: u64,
    /// Beside: sends that the local kernel refused.
    pub(crate) send_failures: u64,
    /// Payload bytes handed to the kernel.
    pub(crate) bytes_sent: u64,
    /// Payload bytes received, whatever they were.
    pub(crate) bytes_received: u64,
}

impl Counts {
    /// The count of a class.
    pub(crate) fn of(&mut self, class: Class) -> &mut u64 {
        match class {
            Class::Misdirected => &mut self.misdirected,
            Class::Truncated => &mut self.truncated,
            Class::Corrupted => &mut self.corrupted,
            Class::Late => &mut self.late,
            Class::Ok => &mut self.ok,
            Class::Unreachable => &mut self.unreachable,
            Class::Lost => &mut self.lost,
        }
    }

    /// Each datagram in one class, none in two.
    pub(crate) fn is_balanced(&self) -> bool {
        self.sent
            == self.ok
                + self.corrupted
                + self.truncated
                + self.misdirected
                + self.late
                + self.lost
                + self.unreachable
    }

    /// Datagrams to which something came back.
    pub(crate) fn answered(&self) -> u64 {
        self.ok + self.corrupted + self.truncated + self.misdirected + self.late
    }
}

impl AddAssign<&Counts> for Counts {
    fn add_assign(&mut self, other: &Counts) {
        // by name, so that a new field can't be forgotten
        let Counts {
            sent,
            ok,
            corrupted,
            truncated,
            misdirected,
            late,
            lost,
            unreachable,
            duplicated,
            reordered,
            unattributed,
            send_failures,
            bytes_sent,
            bytes_received,
        } = other;
        self.sent += sent;
        self.ok += ok;
        self.corrupted += corrupted;
        self.truncated += truncated;
        self.misdirected += misdirected;
        self.late += late;
        self.lost += lost;
        self.unreachable += unreachable;
        self.duplicated += duplicated;
        self.reordered += reordered;
        self.unattributed += unattributed;
        self.send_failures += send_failures;
        self.bytes_sent += bytes_sent;
        self.bytes_received += bytes_received;
    }
}

/// One second of a run: what became of the datagrams that were meant to be sent in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Second {
    /// The classes.
    pub(crate) counts: Counts,
    /// How far the reordered ones were overtaken: the sum of the distances.
    pub(crate) reorder_distance_sum: u64,
    /// The longest distance.
    pub(crate) reorder_distance_max: u64,
}

impl Second {
    /// Notes an overtaken datagram.
    pub(crate) fn reordered(&mut self, distance: u64) {
        self.counts.reordered += 1;
        self.reorder_distance_sum += distance;
        self.reorder_distance_max = self.reorder_distance_max.max(distance);
    }
}

impl AddAssign<&Second> for Second {
    fn add_assign(&mut self, other: &Second) {
        self.counts += &other.counts;
        self.reorder_distance_sum += other.reorder_distance_sum;
        self.reorder_distance_max = self.reorder_distance_max.max(other.reorder_distance_max);
    }
}

/// The books of a worker, and, added up, of a run. A datagram is booked in the second in which it was
/// meant to be sent, whenever its answer comes.
#[derive(Clone, Debug)]
pub(crate) struct Outcomes {
    warmup_ns: u64,
    warmup: Second,
    seconds: Vec<Second>,
}

impl Outcomes {
    /// Empty books of a run whose first `warmup` does not count.
    pub(crate) fn new(warmup: Duration) -> Self {
        Self { warmup_ns: warmup.as_nanos() as u64, warmup: Second::default(), seconds: Vec::new() }
    }

    /// Whether what was meant to be sent then is measured, and not warmup.
    pub(crate) fn is_measured(&self, intended_ns: u64) -> bool {
        intended_ns >= self.warmup_ns
    }

    /// The page for `intended_ns`, nanoseconds since the run's start.
    pub(crate) fn page(&mut self, intended_ns: u64) -> &mut Second {
        let Some(measured_ns) = intended_ns.checked_sub(self.warmup_ns) else {
            return &mut self.warmup;
        };
        let second = (measured_ns / 1_000_000_000) as usize;
        if second >= self.seconds.len() {
            self.seconds.resize_with(second + 1, Second::default);
        }
        &mut self.seconds[second]
    }

    /// What the warmup came to.
    pub(crate) fn warmup(&self) -> &Second {
        &self.warmup
    }

    /// Each second after the warmup.
    pub(crate) fn seconds(&self) -> &[Second] {
        &self.seconds
    }

    /// All seconds after the warmup together.
    pub(crate) fn total(&self) -> Second {
        let mut total = Second::default();
        for second in &self.seconds {
            total += second;
        }
        total
    }

    /// Adds another worker's books.
    pub(crate) fn merge(&mut self, other: &Outcomes) {
        self.warmup += &other.warmup;
        if self.seconds.len() < other.seconds.len() {
            self.seconds.resize_with(other.seconds.len(), Second::default);
        }
        for (ours, theirs) in self.seconds.iter_mut().zip(&other.seconds) {
            *ours += theirs;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASSES: [Class; 7] = [
        Class::Ok,
        Class::Corrupted,
        Class::Truncated,
        Class::Misdirected,
        Class::Late,
        Class::Lost,
        Class::Unreachable,
    ];

    #[test]
    fn each_class_balances_and_nothing_beside_them_does() {
        for class in CLASSES {
            let mut counts = Counts { sent: 1, ..Counts::default() };
            assert!(!counts.is_balanced());
            *counts.of(class) += 1;
            assert!(counts.is_balanced(), "{class:?}");
            *counts.of(class) += 1;
            assert!(!counts.is_balanced(), "{class:?} twice");
        }
        let beside =
            Counts { duplicated: 1, reordered: 2, unattributed: 3, send_failures: 4, ..Counts::default() };
        assert!(beside.is_balanced());
    }

    #[test]
    fn the_second_is_that_of_the_intended_time() {
        let mut outcomes = Outcomes::new(Duration::from_millis(500));
        for intended_ns in [0, 499_999_999, 500_000_000, 1_499_999_999, 1_500_000_000, 4_000_000_000] {
            outcomes.page(intended_ns).counts.sent += 1;
        }
        assert_eq!(outcomes.warmup().counts.sent, 2);
        let sent: Vec<u64> = outcomes.seconds().iter().map(|second| second.counts.sent).collect();
        assert_eq!(sent, [2, 1, 0, 1]);
        assert_eq!(outcomes.total().counts.sent, 4);
    }

    #[test]
    fn merged_books_are_the_sum() {
        let mut one = Outcomes::new(Duration::ZERO);
        one.page(0).reordered(2);
        let mut two = Outcomes::new(Duration::ZERO);
        two.page(1_000_000_000).counts.sent += 1;
        two.page(0).reordered(3);
        two.page(0).reordered(4);
        one.merge(&two);
        let total = one.total();
        assert_eq!(
            (total.counts.reordered, total.reorder_distance_sum, total.reorder_distance_max),
            (3, 9, 4)
        );
        assert_eq!(one.seconds().len(), 2);
    }
}
