//! What the workers of a run have shown so far, added up: the source of `--jsonl`, `--csv` and `--metrics`. The sums never
//! fall, whatever a worker corrects later.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::model::counts::{Counts, Fault};
use crate::model::outages::OutageCounts;
use crate::model::watchlist::Watchlist;
use crate::workers::live::{BucketCounts, DurationTotals, Live};

/// So many outages are kept, the longest.
pub(crate) const OUTAGES_MAX: usize = 20;

/// All that is known at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    /// `udp` or `tcp`.
    pub(crate) protocol: &'static str,
    /// Since the start of the run.
    pub(crate) at_ns: u64,
    /// Of all runs of the call.
    pub(crate) totals: ObservedTotals,
    /// Messages of this run that have no outcome yet.
    pub(crate) waiting: u64,
    pub(crate) outages: OutagesNow,
    /// Rounds of `--each-once` that are done.
    pub(crate) rounds: u64,
}

/// Sums since the first run began, with the warmup.
#[derive(Clone, Debug, Default)]
pub(crate) struct ObservedTotals {
    pub(crate) counts: Counts,
    /// Of right replies in time.
    pub(crate) round_trips: DurationTotals,
    /// Open loop only.
    pub(crate) slip: DurationTotals,
}

/// The destinations whose latest message had no right reply in time.
#[derive(Clone, Debug, Default)]
pub(crate) struct OutagesNow {
    pub(crate) counts: OutageCounts,
    /// The longest first.
    pub(crate) longest: Vec<NamedOutage>,
}

#[derive(Clone, Debug)]
pub(crate) struct NamedOutage {
    pub(crate) destination: SocketAddr,
    pub(crate) fault: Fault,
    pub(crate) lasts_ns: u64,
}

/// Adds up what workers show.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    /// Of this run, when it was last observed.
    counts: Counts,
    round_trips: BucketCounts,
    slip: BucketCounts,
    pub(crate) observed: Observed,
}

impl Observer {
    /// A run begins: its workers count from 0 on.
    pub(crate) fn begin(&mut self, protocol: &'static str) {
        let totals = std::mem::take(&mut self.observed.totals);
        *self = Self { observed: Observed { protocol, totals, ..Observed::default() }, ..Self::default() };
    }

    /// Whether all workers have shown their counts as of `due_ns`.
    pub(crate) fn is_shown(lives: &[Arc<Live>], due_ns: u64) -> bool {
        lives.iter().all(|live| live.snapshot().at_ns >= due_ns)
    }

    /// Reads what the workers show.
    pub(crate) fn observe(&mut self, lives: &[Arc<Live>], watchlist: &Watchlist) {
        let mut counts = Counts::default();
        let (mut round_trips, mut slip) = (BucketCounts::default(), BucketCounts::default());
        let mut at_ns = 0;
        for live in lives {
            let snapshot = live.snapshot();
            counts += &snapshot.counts;
            at_ns = at_ns.max(snapshot.at_ns);
            round_trips += live.round_trips.read();
            slip += live.slip.read();
        }
        self.add(counts, at_ns, watchlist);
        self.observed.totals.round_trips.add(&round_trips.since(&self.round_trips));
        self.observed.totals.slip.add(&slip.since(&self.slip));
        (self.round_trips, self.slip) = (round_trips, slip);
    }

    /// Adds the counts of the whole run so far.
    pub(crate) fn add(&mut self, counts: Counts, at_ns: u64, watchlist: &Watchlist) {
        let grown = counts.grown_from(&self.counts);
        self.observed.totals.counts += &grown;
        self.counts += &grown;
        let decided: u64 = self.counts.classes().map(|(_, count)| count).sum();
        self.observed.waiting = self.counts.sent.saturating_sub(decided);
        self.observed.at_ns = at_ns;
        self.observed.outages = OutagesNow::of(watchlist, at_ns, OUTAGES_MAX);
        let places = if watchlist.has_rounds { watchlist.destinations.len() as u64 } else { 0 };
        self.observed.rounds = self.counts.tried().checked_div(places).unwrap_or(0);
    }
}

impl OutagesNow {
    /// With the `most` longest ones.
    pub(crate) fn of(watchlist: &Watchlist, now_ns: u64, most: usize) -> Self {
        let mut longest: Vec<_> = watchlist.outages.iter().collect();
        let order = |outage: &crate::model::outages::Outage| (outage.since_ns, outage.place);
        if longest.len() > most {
            longest.select_nth_unstable_by_key(most, order);
            longest.truncate(most);
        }
        longest.sort_unstable_by_key(order);
        let named = |outage: &crate::model::outages::Outage| NamedOutage {
            destination: watchlist.destinations[outage.place],
            fault: outage.fault,
            lasts_ns: now_ns.saturating_sub(outage.since_ns),
        };
        Self { counts: watchlist.outages.counts(), longest: longest.iter().map(named).collect() }
    }

    /// How long the longest lasts; 0: there is none.
    pub(crate) fn longest_ns(&self) -> u64 {
        self.longest.first().map_or(0, |outage| outage.lasts_ns)
    }

    pub(crate) fn of_fault(&self, fault: Fault) -> u64 {
        Fault::ALL.iter().zip(self.counts.by_fault).find(|(other, _)| **other == fault).map_or(0, |(_, n)| n)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::counts::Class;
    use crate::workers::live::Snapshot;

    fn watchlist(destinations: usize) -> Watchlist {
        let destinations = (0..destinations).map(|nth| ([127, 0, 0, 1], nth as u16).into());
        Watchlist::new(&[], Duration::ZERO, destinations.collect(), true)
    }

    #[test]
    fn sums_never_fall_and_go_on_with_the_next_run() {
        let (watchlist, live) = (watchlist(1), Arc::new(Live::default()));
        let lives = [Arc::clone(&live)];
        let mut observer = Observer::default();
        observer.begin("udp");
        let mut unreachable = 5;
        for (sent, ok) in [(10, 2), (20, 12)] {
            live.publish(Snapshot {
                at_ns: sent,
                counts: Counts { sent, ok, unreachable, ..Counts::default() },
            });
            observer.observe(&lives, &watchlist);
            // the answer to one that seemed unreachable
            unreachable -= 1;
        }
        live.round_trips.note(1_000);
        observer.observe(&lives, &watchlist);
        let Observed { totals, waiting, at_ns, .. } = &observer.observed;
        assert_eq!((totals.counts.sent, totals.counts.ok, totals.counts.unreachable), (20, 12, 5));
        assert_eq!((*waiting, *at_ns, totals.round_trips.count()), (3, 20, 1));
        observer.begin("udp");
        observer.add(Counts { sent: 1, ..Counts::default() }, 7, &watchlist);
        assert_eq!((observer.observed.totals.counts.sent, observer.observed.waiting), (21, 1));
        assert!(Observer::is_shown(&lives, 20) && !Observer::is_shown(&lives, 21));
    }

    #[test]
    fn the_longest_outages_are_named_and_all_are_counted() {
        let watchlist = watchlist(100);
        for place in 0..100 {
            let class = if place % 2 == 0 { Class::Lost } else { Class::Ok };
            watchlist.outages.note(place, class, 1_000 - place as u64);
        }
        let now = OutagesNow::of(&watchlist, 2_000, OUTAGES_MAX);
        assert_eq!((now.counts.right, now.of_fault(Fault::Silent), now.longest.len()), (50, 50, OUTAGES_MAX));
        assert_eq!((now.longest_ns(), now.longest[0].destination.port()), (1_098, 98));
        assert!(now.longest.windows(2).all(|pair| pair[0].lasts_ns >= pair[1].lasts_ns));
    }
}
