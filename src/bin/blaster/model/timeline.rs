//! Latency for each second. The few seconds whose replies still come are histograms; older ones are packed.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::serialization::{Deserializer, Serializer as _, V2Serializer};

use crate::model::latency::Latency;

/// The most seconds that are unpacked. Replies come for the present second and the one before; after a stall also for
/// some earlier ones.
const OPEN_MAX: usize = 4;

/// Durations by the second of their intended send time, from the end of the warmup on.
#[derive(Clone, Debug)]
pub(crate) struct Timeline {
    warmup_ns: u64,
    /// The one that was used last is the first; there is always one.
    open: Vec<OpenSecond>,
    /// Not deflated: that would take too long while datagrams are due.
    closed: BTreeMap<u64, Vec<u8>>,
}

#[derive(Clone, Debug)]
struct OpenSecond {
    second: u64,
    latency: Latency,
}

impl Timeline {
    /// An empty timeline of a run with this warmup.
    pub(crate) fn new(warmup: Duration) -> Self {
        let open = vec![OpenSecond { second: 0, latency: Latency::new() }];
        Self { warmup_ns: warmup.as_nanos() as u64, open, closed: BTreeMap::new() }
    }

    /// Records a duration for the intended send time `intended_ns`, which counts from the run's start.
    pub(crate) fn record(&mut self, intended_ns: u64, ns: u64) {
        let Some(measured_ns) = intended_ns.checked_sub(self.warmup_ns) else { return };
        self.latency_of(measured_ns / 1_000_000_000).record(ns);
    }

    fn latency_of(&mut self, second: u64) -> &mut Latency {
        if self.open[0].second != second {
            self.open_second(second);
        }
        &mut self.open[0].latency
    }

    #[cold]
    fn open_second(&mut self, second: u64) {
        match self.open.iter().position(|open| open.second == second) {
            Some(nth) => self.open[..=nth].rotate_right(1),
            None if self.open.len() < OPEN_MAX => {
                self.open.insert(0, OpenSecond { second, latency: Latency::new() });
            }
            None => {
                self.open.rotate_right(1);
                let open = &mut self.open[0];
                if !open.latency.is_empty() {
                    self.closed.insert(open.second, pack(&open.latency));
                    open.latency.reset();
                }
                open.second = second;
                if let Some(packed) = self.closed.remove(&second) {
                    open.latency.merge(&unpack(&packed));
                }
            }
        }
    }

    /// The durations of one second.
    pub(crate) fn second(&self, second: u64) -> Latency {
        match self.open.iter().find(|open| open.second == second) {
            Some(open) => open.latency.clone(),
            None => self.closed.get(&second).map_or_else(Latency::new, |packed| unpack(packed)),
        }
    }

    pub(crate) fn total(&self) -> Latency {
        let mut total = Latency::new();
        self.each(|_, latency| total.merge(latency));
        total
    }

    /// Adds the timeline of another worker.
    pub(crate) fn merge(&mut self, other: &Timeline) {
        other.each(|second, latency| self.latency_of(second).merge(latency));
    }

    fn each(&self, mut take: impl FnMut(u64, &Latency)) {
        for (second, packed) in &self.closed {
            take(*second, &unpack(packed));
        }
        for open in &self.open {
            take(open.second, &open.latency);
        }
    }
}

fn pack(latency: &Latency) -> Vec<u8> {
    let mut bytes = Vec::new();
    V2Serializer::new()
        .serialize(latency.histogram(), &mut bytes)
        .expect("every count fits the encoding, and memory takes what is written");
    bytes.shrink_to_fit();
    bytes
}

fn unpack(mut packed: &[u8]) -> Latency {
    let histogram = Deserializer::new().deserialize(&mut packed).expect("pack wrote it");
    Latency::from(histogram)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    #[test]
    fn each_second_keeps_its_own_whatever_the_order() {
        let mut timeline = Timeline::new(Duration::from_secs(2));
        timeline.record(2 * SECOND_NS - 1, 7); // warmup
        // twelve seconds in turns, three times: most come back after they were packed
        for round in 1..=3 {
            for second in 0..12 {
                timeline.record((2 + second) * SECOND_NS, 1_000 * (second + 1) + round);
            }
        }
        for second in 0..12 {
            let mut wanted = Latency::new();
            (1..=3).for_each(|round| wanted.record(1_000 * (second + 1) + round));
            assert_eq!(timeline.second(second), wanted, "second {second}");
        }
        assert!(timeline.second(12).is_empty());
        assert_eq!(timeline.total().summary().unwrap().count, 36);
        assert!(timeline.open.len() == OPEN_MAX && timeline.closed.len() == 12 - OPEN_MAX);
    }

    #[test]
    fn halves_add_up_to_the_whole() {
        let new = || Timeline::new(Duration::ZERO);
        let (mut whole, mut one, mut two) = (new(), new(), new());
        for nth in 0..1_000 {
            let (intended_ns, ns) = (nth * SECOND_NS / 100, nth * nth);
            whole.record(intended_ns, ns);
            if nth % 3 == 0 { one.record(intended_ns, ns) } else { two.record(intended_ns, ns) }
        }
        one.merge(&two);
        for second in 0..10 {
            assert_eq!(one.second(second), whole.second(second), "second {second}");
        }
        assert_eq!(one.total(), whole.total());
    }
}
