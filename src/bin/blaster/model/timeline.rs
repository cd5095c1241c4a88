//! Latency for each interval of a run. The few seconds whose replies still come are histograms, and so is the last interval
//! of each longer length; what is older is packed, and old seconds are forgotten once they are in a longer interval.
//!
//! ```text
//! record ─► open seconds ─► 1 s, packed
//!                 └───────► 10 s, filling ─► 10 s, packed
//!                                   └──────► 1 min, filling ─► …
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::serialization::{Deserializer, Serializer as _, V2Serializer};

use crate::model::latency::Latency;
use crate::model::spans::{LENGTHS, Span, coarse_end};

/// The most seconds that are unpacked. Replies come for the present second and the one before; after a stall also for
/// some earlier ones.
const OPEN_MAX: usize = 4;

/// Durations by the second of their intended send time, from the end of the warmup on.
#[derive(Clone, Debug)]
pub(crate) struct Timeline {
    warmup_ns: u64,
    /// The one that was used last is the first; there is always one.
    open: Vec<OpenSpan>,
    /// For each of [`LENGTHS`].
    levels: [Level; LENGTHS.len()],
    newest: u64,
}

/// Durations that are in no packed interval yet.
#[derive(Clone, Debug)]
struct OpenSpan {
    begin: u64,
    latency: Latency,
}

/// The intervals of one length.
#[derive(Clone, Debug, Default)]
struct Level {
    /// The last interval; single seconds have none, because they are open.
    filling: Option<OpenSpan>,
    /// By their first seconds. Not deflated: that would take too long while datagrams are due.
    packed: BTreeMap<u64, Vec<u8>>,
}

impl Timeline {
    /// An empty timeline of a run with this warmup.
    pub(crate) fn new(warmup: Duration) -> Self {
        let open = vec![OpenSpan { begin: 0, latency: Latency::new() }];
        Self { warmup_ns: warmup.as_nanos() as u64, open, levels: Default::default(), newest: 0 }
    }

    /// Records a duration for the intended send time `intended_ns`, which counts from the run's start.
    pub(crate) fn record(&mut self, intended_ns: u64, ns: u64) {
        let Some(measured_ns) = intended_ns.checked_sub(self.warmup_ns) else { return };
        self.latency_of(measured_ns / 1_000_000_000).record(ns);
    }

    fn latency_of(&mut self, second: u64) -> &mut Latency {
        if self.open[0].begin != second {
            self.open_second(second);
        }
        &mut self.open[0].latency
    }

    #[cold]
    fn open_second(&mut self, second: u64) {
        match self.open.iter().position(|open| open.begin == second) {
            Some(nth) => self.open[..=nth].rotate_right(1),
            None if self.open.len() < OPEN_MAX => {
                self.open.insert(0, OpenSpan { begin: second, latency: Latency::new() });
            }
            None => {
                self.open.rotate_right(1);
                let Self { open, levels, .. } = self;
                let open = &mut open[0];
                if !open.latency.is_empty() {
                    close(levels, open);
                    open.latency.reset();
                }
                open.begin = second;
            }
        }
        if second > self.newest {
            self.newest = second;
            self.forget();
        }
    }

    /// Forgets intervals that are in longer ones.
    fn forget(&mut self) {
        for (nth, level) in self.levels.iter_mut().enumerate().take(LENGTHS.len() - 1) {
            let end = coarse_end(nth + 1, self.newest);
            while let Some(first) = level.packed.first_entry()
                && *first.key() < end
            {
                first.remove();
            }
        }
    }

    /// The durations of an interval, one of those that [`Span::all`] names.
    pub(crate) fn latency(&self, span: Span) -> Latency {
        let mut sum = Latency::new();
        let nth = LENGTHS.iter().position(|length| *length == span.seconds).unwrap_or(0);
        self.each_of(
            nth,
            |begin, latency| {
                if span.contains(begin) {
                    sum.merge(latency);
                }
            },
            |begin| begin == span.begin,
        );
        sum
    }

    pub(crate) fn total(&self) -> Latency {
        let mut total = Latency::new();
        self.each_of(LENGTHS.len() - 1, |_, latency| total.merge(latency), |_| true);
        total
    }

    /// Adds the timeline of another worker.
    pub(crate) fn merge(&mut self, other: &Timeline) {
        for (nth, length) in LENGTHS.iter().enumerate() {
            let packed = &mut self.levels[nth].packed;
            let add =
                |begin, latency: &Latency| add_packed(packed, Span::around(begin, *length).begin, latency);
            other.each_of(nth, add, |_| true);
        }
        self.newest = self.newest.max(other.newest);
        self.forget();
    }

    /// All durations of a length: those of its packed intervals that are `wanted`, and those that are in none of them yet.
    fn each_of(&self, nth: usize, mut take: impl FnMut(u64, &Latency), wanted: impl Fn(u64) -> bool) {
        for (begin, packed) in self.levels[nth].packed.iter().filter(|(begin, _)| wanted(**begin)) {
            take(*begin, &unpack(packed));
        }
        let filling = self.levels[..=nth].iter().filter_map(|level| level.filling.as_ref());
        for open in filling.chain(&self.open) {
            take(open.begin, &open.latency);
        }
    }
}

/// Adds a second that is no longer open to all levels. An interval that was filling goes on to the next level when one of
/// its own begins.
fn close(levels: &mut [Level], second: &OpenSpan) {
    add_packed(&mut levels[0].packed, second.begin, &second.latency);
    let mut closed = second.clone();
    for (level, length) in levels.iter_mut().zip(LENGTHS).skip(1) {
        let begin = Span::around(closed.begin, length).begin;
        match &mut level.filling {
            Some(filling) if filling.begin == begin => {
                filling.latency.merge(&closed.latency);
                return;
            }
            // it comes late: the interval is packed, and is in the next level already
            Some(filling) if filling.begin > begin => add_packed(&mut level.packed, begin, &closed.latency),
            filling => {
                let full = filling.replace(OpenSpan { begin, latency: closed.latency });
                let Some(full) = full else { return };
                add_packed(&mut level.packed, full.begin, &full.latency);
                closed = full;
            }
        }
    }
}

fn add_packed(packed: &mut BTreeMap<u64, Vec<u8>>, begin: u64, latency: &Latency) {
    let before = packed.get(&begin).map(|packed| unpack(packed));
    let sum = before.map(|mut sum| {
        sum.merge(latency);
        sum
    });
    packed.insert(begin, pack(sum.as_ref().unwrap_or(latency)));
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

    fn second(timeline: &Timeline, second: u64) -> Latency {
        timeline.latency(Span { begin: second, seconds: 1 })
    }

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
        for nth in 0..12 {
            let mut wanted = Latency::new();
            (1..=3).for_each(|round| wanted.record(1_000 * (nth + 1) + round));
            assert_eq!(second(&timeline, nth), wanted, "second {nth}");
        }
        assert!(second(&timeline, 12).is_empty());
        assert_eq!(timeline.total().summary().unwrap().count, 36);
        assert!(timeline.open.len() == OPEN_MAX && timeline.levels[0].packed.len() == 12);
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
        for nth in 0..10 {
            assert_eq!(second(&one, nth), second(&whole, nth), "second {nth}");
        }
        assert_eq!(one.total(), whole.total());
    }

    /// Each second has a duration of its own; each ninth brings one that comes late.
    fn record_long(timeline: &mut Timeline, seconds: u64, part: Option<u64>) {
        for nth in 0..seconds {
            if part.is_none_or(|part| nth % 2 == part) {
                timeline.record(nth * SECOND_NS, nth + 1);
                if nth % 9 == 0 {
                    timeline.record(nth.saturating_sub(nth % 400) * SECOND_NS, 1_000_000 + nth);
                }
            }
        }
    }

    fn assert_spans(timeline: &Timeline, seconds: u64) {
        let mut wanted: BTreeMap<Span, Latency> = BTreeMap::new();
        let mut total = Latency::new();
        let mut record = |second: u64, ns: u64| {
            let span = Span::of(second, seconds - 1);
            wanted.entry(span).or_insert_with(Latency::new).record(ns);
            total.record(ns);
        };
        for nth in 0..seconds {
            record(nth, nth + 1);
            if nth % 9 == 0 {
                record(nth.saturating_sub(nth % 400), 1_000_000 + nth);
            }
        }
        for span in Span::all(seconds - 1) {
            assert_eq!(timeline.latency(span), wanted[&span], "{span:?} of {seconds}");
        }
        assert_eq!(timeline.total(), total);
    }

    #[test]
    fn a_long_run_is_coarsened_and_loses_nothing() {
        for seconds in [299, 311, 7_000] {
            let mut timeline = Timeline::new(Duration::ZERO);
            record_long(&mut timeline, seconds, None);
            assert_spans(&timeline, seconds);
            let kept: usize = timeline.levels.iter().map(|level| level.packed.len()).sum();
            assert!(kept < 1_800, "{kept} histograms for {seconds} s");
        }
    }

    #[test]
    fn long_runs_of_workers_add_up() {
        let seconds = 4_000;
        for (one, other) in [(0, 1), (1, 0)] {
            let (mut here, mut there) = (Timeline::new(Duration::ZERO), Timeline::new(Duration::ZERO));
            record_long(&mut here, seconds, Some(one));
            record_long(&mut there, seconds, Some(other));
            here.merge(&there);
            assert_spans(&here, seconds);
        }
    }

    /// The server answers for a while and is silent for the rest of the run.
    #[test]
    fn a_run_may_go_on_without_replies() {
        let mut timeline = Timeline::new(Duration::ZERO);
        record_long(&mut timeline, 350, None);
        let found: u64 =
            Span::all(90_000).map(|span| timeline.latency(span).summary().map_or(0, |it| it.count)).sum();
        assert_eq!(found, timeline.total().summary().unwrap().count);
    }
}
