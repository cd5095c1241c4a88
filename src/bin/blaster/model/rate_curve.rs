//! A rate that changes with time: `10k`, `10k..200k:60s` or `1k:10s,1k..50k:20s,50k`.
//!
//! It is one sequence of phases. In each of them the rate is constant or grows (or falls) by the same amount in each moment.
//! The sum of the rate up to a time is the number of datagrams that are due by then: so the time at which a datagram is due
//! follows from its number alone, and no error adds up.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::model::quantity::{self, QuantityError, Rate};

/// One datagram, in units of a rate's `per_1000_s` × nanoseconds.
pub(crate) const DATAGRAM: u128 = 1_000_000_000_000;

/// The most phases. A longer schedule belongs in a file.
const PHASES_MAX: usize = 1_000;

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum RateCurveError {
    #[error(
        "{0:?} has no time: only the last of several rates lasts until the end (examples: 10k..200k:60s, 1k:10s,50k)"
    )]
    NoTime(String),
    #[error("{0:?} never sends anything")]
    Nothing(String),
    #[error("{0} rates are more than blaster remembers: {PHASES_MAX} (--replay has room for more)")]
    TooMany(usize),
    #[error(transparent)]
    Quantity(#[from] QuantityError),
}

/// A part of the curve. Rates are datagrams in 1000 seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Phase {
    from: u64,
    to: u64,
    ns: u64,
}

impl Phase {
    /// The datagrams of it, in units of half a [`DATAGRAM`].
    fn halves(self) -> u128 {
        (u128::from(self.from) + u128::from(self.to)) * u128::from(self.ns)
    }

    /// The datagrams of its first `ns` nanoseconds.
    fn datagrams_until(self, ns: u64) -> f64 {
        let (from, to, ns) = (self.from as f64, self.to as f64, ns as f64);
        let grown = if self.ns == 0 { 0.0 } else { (to - from) * ns / self.ns as f64 };
        (from + grown / 2.0) * ns / DATAGRAM as f64
    }

    /// The time, since its start, at which `done` of its datagrams are due; `done` is in units of a [`DATAGRAM`], and less
    /// than all. The error is less than a nanosecond in a phase of up to a month.
    fn ns_of(self, done: u128) -> u64 {
        if done == 0 {
            return 0;
        }
        let (from, to, done) = (self.from as f64, self.to as f64, done as f64);
        // the quadratic equation, without a difference of large numbers
        let root = (from * from + 2.0 * (to - from) * (done / self.ns as f64)).max(0.0).sqrt();
        (2.0 * done / (from + root)) as u64
    }
}

/// The rate of a run at each time. After the last phase, its last rate stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RateCurve {
    phases: Vec<Phase>,
    /// The rate after the phases.
    last: u64,
    /// Whether the command line sets no time for the last rate.
    is_endless: bool,
    /// As in the command line.
    text: String,
}

impl RateCurve {
    /// The rate, if it never changes.
    pub(crate) fn constant(&self) -> Option<Rate> {
        self.phases.is_empty().then_some(Rate { per_1000_s: self.last })
    }

    /// The time of all phases.
    pub(crate) fn changes(&self) -> Duration {
        Duration::from_nanos(self.phases.iter().map(|phase| phase.ns).fold(0, u64::saturating_add))
    }

    /// The time of all phases. `None`: the last rate has no end.
    pub(crate) fn length(&self) -> Option<Duration> {
        (!self.is_endless).then(|| self.changes())
    }

    /// The same curve after a warmup at its first rate.
    pub(crate) fn after_warmup(mut self, warmup: Duration) -> Self {
        if let Some(first) = self.phases.first().map(|phase| phase.from).filter(|_| !warmup.is_zero()) {
            self.phases.insert(0, Phase { from: first, to: first, ns: warmup.as_nanos() as u64 });
        }
        self
    }

    /// The datagrams of the first `ns` nanoseconds.
    pub(crate) fn datagrams_until(&self, ns: u64) -> f64 {
        let (mut left_ns, mut datagrams) = (ns, 0.0);
        for phase in &self.phases {
            datagrams += phase.datagrams_until(left_ns.min(phase.ns));
            left_ns -= left_ns.min(phase.ns);
        }
        datagrams + self.last as f64 * left_ns as f64 / DATAGRAM as f64
    }

    /// The highest rate, in datagrams per second.
    pub(crate) fn highest_per_s(&self) -> f64 {
        let highest = self.phases.iter().map(|phase| phase.from.max(phase.to)).fold(self.last, u64::max);
        Rate { per_1000_s: highest }.per_s()
    }
}

impl From<Rate> for RateCurve {
    fn from(rate: Rate) -> Self {
        let per_s = rate.per_s();
        Self { phases: Vec::new(), last: rate.per_1000_s, is_endless: true, text: per_s.to_string() }
    }
}

impl fmt::Display for RateCurve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Datagrams in 1000 seconds; it may be 0.
fn per_1000_s(text: &str) -> Result<u64, QuantityError> {
    let text = text.trim();
    match text.parse::<Rate>() {
        Ok(rate) => Ok(rate.per_1000_s),
        Err(QuantityError::OutOfRange(..)) if quantity::count(text.trim_end_matches("/s")) == Ok(0) => Ok(0),
        Err(error) => Err(error),
    }
}

impl FromStr for RateCurve {
    type Err = RateCurveError;

    fn from_str(text: &str) -> Result<Self, RateCurveError> {
        if !text.contains([',', ':']) && !text.contains("..") {
            return Ok(Self { text: text.into(), ..Self::from(text.parse::<Rate>()?) });
        }
        let parts: Vec<&str> = text.split(',').collect();
        if parts.len() > PHASES_MAX {
            return Err(RateCurveError::TooMany(parts.len()));
        }
        let (mut phases, mut last, mut is_endless) = (Vec::new(), 0, false);
        for (nth, part) in (1..).zip(&parts) {
            let (rates, time) =
                part.split_once(':').map_or((*part, None), |(rates, time)| (rates, Some(time)));
            let (from, to) = rates.split_once("..").unwrap_or((rates, rates));
            if to.starts_with('.') {
                return Err(QuantityError::NotANumber(to.into()).into());
            }
            let (from, to) = (per_1000_s(from)?, per_1000_s(to)?);
            match time {
                Some(time) => {
                    let ns = quantity::duration(time.trim())?.as_nanos() as u64;
                    phases.push(Phase { from, to, ns });
                }
                None if nth == parts.len() && from == to => is_endless = true,
                None => return Err(RateCurveError::NoTime((*part).into())),
            }
            last = to;
        }
        if last == 0 && phases.iter().all(|phase| phase.halves() == 0) {
            return Err(RateCurveError::Nothing(text.into()));
        }
        Ok(Self { phases, last, is_endless, text: text.into() })
    }
}

/// A place on a curve that moves forward only.
#[derive(Clone, Debug)]
pub(crate) struct CurveCursor {
    /// The phases that are left, in reverse order.
    left: Vec<Phase>,
    last: u64,
    /// When the current phase begins.
    begin_ns: u64,
    /// The datagrams before the current phase, in units of half a [`DATAGRAM`].
    before: u128,
}

impl CurveCursor {
    pub(crate) fn new(curve: &RateCurve) -> Self {
        let left = curve.phases.iter().rev().copied().collect();
        Self { left, last: curve.last, begin_ns: 0, before: 0 }
    }

    /// The time at which `done` datagrams, in units of a [`DATAGRAM`], are due. It moves forward: a later call must not ask
    /// for less. `u64::MAX`: never.
    pub(crate) fn ns_of(&mut self, done: u128) -> u64 {
        while let Some(phase) = self.left.last().copied() {
            if done * 2 < self.before + phase.halves() {
                let ns = phase.ns_of(done - self.before / 2).min(phase.ns);
                return self.begin_ns.saturating_add(ns);
            }
            self.before += phase.halves();
            self.begin_ns = self.begin_ns.saturating_add(phase.ns);
            self.left.pop();
        }
        if self.last == 0 {
            return u64::MAX;
        }
        let ns = (done - self.before / 2) / u128::from(self.last);
        u64::try_from(ns).unwrap_or(u64::MAX).saturating_add(self.begin_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(text: &str) -> RateCurve {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// When the datagrams before number `number` are due, for each of them.
    fn times(text: &str, numbers: impl Iterator<Item = u64>) -> Vec<u64> {
        let mut cursor = CurveCursor::new(&curve(text));
        numbers.map(|number| cursor.ns_of(u128::from(number) * DATAGRAM)).collect()
    }

    const S: u64 = 1_000_000_000;

    #[test]
    fn what_is_read() {
        for (text, constant, length_s) in [
            ("10k", true, None),
            ("10k/s", true, None),
            ("10k..200k:60s", false, Some(60)),
            ("0..10k:1m", false, Some(60)),
            ("10k..0:1m", false, Some(60)),
            ("1k:10s, 1k..50k:20s, 50k:5s", false, Some(35)),
            ("0:5s,10k", false, None),
            ("1k:10s,50k", false, None),
        ] {
            let curve = curve(text);
            assert_eq!(
                (curve.constant().is_some(), curve.length().map(|time| time.as_secs())),
                (constant, length_s)
            );
            assert_eq!(curve.to_string(), text);
        }
        for (text, wanted) in [
            ("0", "0 is out of range: more than zero is wanted"),
            ("10k..200k", "\"10k..200k\" has no time: only the last"),
            ("1k,2k:1s", "\"1k\" has no time: only the last"),
            ("1k:1s,1k..2k", "\"1k..2k\" has no time: only the last"),
            ("0:5s", "\"0:5s\" never sends anything"),
            ("0..0:5s,0", "\"0..0:5s,0\" never sends anything"),
            ("1k..:5s", "\"\" is not a number"),
            ("1k...2k:5s", "\".2k\" is not a number"),
            ("1k:5", "5 has no unit"),
            ("1k:0s", "0s is out of range"),
            ("2G..1k:5s", "2G is out of range"),
            ("", "\"\" is not a number"),
            (",", "\"\" is not a number"),
        ] {
            let error = text.parse::<RateCurve>().expect_err(text).to_string();
            assert!(error.starts_with(wanted), "{text}: {error}");
        }
        curve(&vec!["1k:1s"; PHASES_MAX].join(","));
        let many = vec!["1k:1s"; PHASES_MAX + 1].join(",").parse::<RateCurve>();
        assert_eq!(many, Err(RateCurveError::TooMany(PHASES_MAX + 1)));
    }

    #[test]
    fn phases_follow_each_other() {
        assert_eq!(
            times("2:1s,0:1s,4:1s,1", 0..9),
            [0, S / 2, 2 * S, 2 * S + S / 4, 2 * S + S / 2, 2 * S + 3 * S / 4, 3 * S, 4 * S, 5 * S]
        );
        assert_eq!(times("0:5s,10", 0..2), [5 * S, 5 * S + S / 10], "silence comes first");
        assert_eq!(times("2:1s,0", 0..3), [0, S / 2, u64::MAX], "silence until the end");
        // half of t² datagrams are due at t
        assert_eq!(
            times("0..10:10s", [0, 2, 8, 32, 50, 51].into_iter()),
            [0, 2 * S, 4 * S, 8 * S, 10 * S, 10 * S + S / 10]
        );
        let down = times("10..0:10s", [0, 18, 32, 42, 48, 49].into_iter());
        assert_eq!(down[..5], [0, 2 * S, 4 * S, 6 * S, 8 * S]);
        assert_eq!(times("10..0:10s", 50..51), [u64::MAX]);
    }

    /// Twice the datagrams of the first `ns` nanoseconds of a ramp, rounded down, and whether that is exact.
    fn exact_halves(from: u64, to: u64, ramp_ns: u64, ns: u64) -> (i128, bool) {
        let (from, to, ramp_ns, ns) = (i128::from(from), i128::from(to), i128::from(ramp_ns), i128::from(ns));
        let grown = (to - from) * ns;
        let (whole, rest) = (grown.div_euclid(ramp_ns), grown.rem_euclid(ramp_ns));
        let parts = rest * ns;
        (2 * from * ns + whole * ns + parts.div_euclid(ramp_ns), parts.rem_euclid(ramp_ns) == 0)
    }

    #[test]
    fn times_of_ramps_are_exact_to_a_nanosecond() {
        for (from, to, seconds) in [
            (10_000, 200_000, 60),
            (200_000, 10_000, 60),
            (0, 1_000_000, 3_600),
            (1, 3, 86_400),
            (70_000, 0, 77),
            (5, 5, 1_000),
        ] {
            let text = format!("{from}..{to}:{seconds}s");
            let mut cursor = CurveCursor::new(&curve(&text));
            let all = (from + to) * seconds / 2;
            let step = (all / 50_000).max(1) | 1;
            for number in (0..all).step_by(step as usize) {
                let done = i128::from(number) * 2 * DATAGRAM as i128;
                let ns = cursor.ns_of(u128::from(number) * DATAGRAM);
                let halves = |ns| exact_halves(from * 1_000, to * 1_000, seconds * S, ns);
                // at the end of a ramp to nothing, a nanosecond is less than the smallest part of a datagram
                let (before, _) = halves(ns.saturating_sub(1));
                let (after, _) = halves(ns + 2);
                assert!(before <= done && done <= after + 1, "{text}, datagram {number} at {ns} ns");
            }
        }
    }

    #[test]
    fn a_warmup_has_the_first_rate() {
        let warm = curve("1..3:10s").after_warmup(Duration::from_secs(4));
        assert_eq!((warm.datagrams_until(4 * S), warm.datagrams_until(14 * S)), (4.0, 24.0));
        assert_eq!(curve("5").after_warmup(Duration::from_secs(4)), curve("5"));
        let mut cursor = CurveCursor::new(&warm);
        assert_eq!(
            [0, 3, 4, 5].map(|number| cursor.ns_of(number * DATAGRAM) / 1_000_000),
            [0, 3_000, 4_000, 4_916]
        );
    }

    #[test]
    fn datagrams_of_a_time() {
        for (text, ns, wanted) in [
            ("10", S, 10.0),
            ("10..20:10s", 10 * S, 150.0),
            ("10..20:10s", 5 * S, 62.5),
            ("10..20:10s", 11 * S, 170.0),
        ] {
            assert!((curve(text).datagrams_until(ns) - wanted).abs() < 1e-9, "{text}");
        }
        assert!((curve("1k:1s,0..9k:2s,3k").highest_per_s() - 9_000.0).abs() < 1e-9);
    }
}
