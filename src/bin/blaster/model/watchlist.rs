//! What is observed while a run lasts, beside the screen: for `--jsonl`, `--csv` and `--metrics`. Without them nobody asks,
//! and nothing of it costs anything.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::model::outages::Outages;

/// The wishes of the observer, and the table that the threads of the run share.
#[derive(Debug)]
pub(crate) struct Watchlist {
    /// Counts are wanted at each multiple of these times, from the start on.
    intervals_ns: Vec<u64>,
    /// A message without an answer is given up after this time.
    pub(crate) patience_ns: u64,
    /// The destinations, each once, by their places in `outages`; none if they are too many.
    pub(crate) destinations: Vec<SocketAddr>,
    /// For each flow or connection, the place of its destination. Empty: it has several.
    of_flow: Vec<u32>,
    /// Whether the destinations are visited round after round.
    pub(crate) has_rounds: bool,
    pub(crate) outages: Outages,
}

impl Watchlist {
    /// For a run with these destinations, each once, and rounds or not.
    pub(crate) fn new(
        intervals: &[Duration],
        patience: Duration,
        destinations: Vec<SocketAddr>,
        has_rounds: bool,
    ) -> Self {
        Self {
            intervals_ns: intervals.iter().map(|interval| interval.as_nanos() as u64).collect(),
            patience_ns: patience.as_nanos() as u64,
            of_flow: Vec::new(),
            has_rounds,
            outages: Outages::new(destinations.len()),
            destinations,
        }
    }

    /// For a run whose flows or connections have one destination each.
    pub(crate) fn of_flows(
        intervals: &[Duration],
        patience: Duration,
        flows: impl Iterator<Item = SocketAddr>,
    ) -> Self {
        let (mut places, mut destinations) = (HashMap::new(), Vec::new());
        let of_flow = flows.map(|destination| {
            *places.entry(destination).or_insert_with(|| {
                destinations.push(destination);
                destinations.len() as u32 - 1
            })
        });
        let of_flow = of_flow.collect();
        Self { of_flow, ..Self::new(intervals, patience, destinations, false) }
    }

    /// The place of the only destination of a flow or connection.
    pub(crate) fn of_flow(&self, flow: u32) -> Option<usize> {
        self.of_flow.get(flow as usize).map(|place| *place as usize)
    }

    /// When counts are wanted next, after `now_ns`.
    pub(crate) fn next_ns(&self, now_ns: u64) -> u64 {
        let next = |every_ns: &u64| (now_ns / every_ns + 1).saturating_mul(*every_ns);
        self.intervals_ns.iter().map(next).min().unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_wanted_at_each_multiple() {
        let every = [Duration::from_micros(2), Duration::from_micros(3)];
        let watchlist = Watchlist::new(&every, Duration::ZERO, Vec::new(), false);
        let mut found = vec![watchlist.next_ns(0)];
        while found.len() < 5 {
            found.push(watchlist.next_ns(*found.last().unwrap()));
        }
        assert_eq!(found, [2_000, 3_000, 4_000, 6_000, 8_000]);
    }

    #[test]
    fn flows_to_one_destination_share_its_place() {
        let flows = [7, 8, 7].map(|port| ([127, 0, 0, 1], port).into());
        let watchlist = Watchlist::of_flows(&[], Duration::ZERO, flows.into_iter());
        assert_eq!(watchlist.destinations, flows[..2]);
        assert_eq!([0, 1, 2, 3].map(|flow| watchlist.of_flow(flow)), [Some(0), Some(1), Some(0), None]);
    }
}
