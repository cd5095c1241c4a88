//! When a run sends: at a constant rate, at one that changes, in bursts, at random, or as recorded. It is arithmetic only;
//! the caller has the clock.
//!
//! A [`Timetable`] is one sequence of trains for the whole run; without trains, each train is one datagram. Its
//! [`SendTimes`] are the part of one worker: worker w of n takes the trains w, w + n, w + 2n, and so on. Together they keep
//! the sequence of one. No error adds up: an intended time follows from the number of the train, or from the sum of exact
//! gaps.
//!
//! A late worker catches up: [`SendTimes::take`] yields every train that is due, and none is left out. It is the caller who
//! gives up.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::model::pacer::Pacer;
use crate::model::quantity::Rate;
use crate::model::rate_curve::{CurveCursor, DATAGRAM, RateCurve};
use crate::model::recording::Recording;

/// The intended send times of a run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Timetable {
    /// By a rate.
    Rate {
        curve: RateCurve,
        gaps: Gaps,
        /// The datagrams that are due together.
        burst: u32,
    },
    /// So many datagrams together, again and again after this time.
    Bursts { datagrams: u32, every: Duration },
    /// As recorded; after the last datagram comes the first again.
    Recorded(Arc<Recording>),
}

/// The gaps between the trains (with bursts: between the bursts) of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gaps {
    /// All alike, as far as the rate is constant.
    Even,
    /// Exponentially distributed, as those of many independent senders; drawn with this seed.
    Exponential { seed: u64 },
}

impl Timetable {
    /// The intended times of worker `worker` of `workers`. Each train has `datagrams` datagrams; a burst has whole trains,
    /// and what was recorded has no trains.
    pub(crate) fn send_times(&self, datagrams: u32, worker: u32, workers: u32) -> SendTimes {
        let of_burst = |burst: u32| (burst / datagrams).max(1);
        match self {
            Self::Rate { curve, gaps, burst } => match of_burst(*burst) {
                1 => SendTimes::Single(Starts::new(curve, *gaps, datagrams, worker, workers)),
                trains => {
                    let starts = Starts::new(curve, *gaps, trains * datagrams, 0, 1);
                    SendTimes::Bursts(Bursts::new(starts, trains, worker, workers))
                }
            },
            Self::Bursts { datagrams, every } => {
                let starts = Starts::Even(Pacer::every(*every));
                SendTimes::Bursts(Bursts::new(starts, of_burst(*datagrams), worker, workers))
            }
            Self::Recorded(recording) => SendTimes::Recorded(Recorded {
                recording: Arc::clone(recording),
                next: worker.into(),
                next_ns: recording.time_ns(worker.into()),
                workers: workers.into(),
                last: None,
            }),
        }
    }

    /// The datagrams of the first `ns` nanoseconds: the expected number, if gaps are random.
    pub(crate) fn datagrams_until(&self, ns: u64) -> f64 {
        match self {
            Self::Rate { curve, .. } => curve.datagrams_until(ns),
            Self::Bursts { datagrams, every } => f64::from(*datagrams) * ns as f64 / every.as_nanos() as f64,
            Self::Recorded(recording) => recording.due_before(ns) as f64,
        }
    }

    /// The mean rate after the warmup, in datagrams per second. Without a duration, that of the changes of the rate, or of
    /// the recording. `None`: all datagrams have one time.
    pub(crate) fn mean_per_s(&self, warmup: Duration, duration: Option<Duration>) -> Option<f64> {
        let length = match self {
            Self::Rate { curve, .. } => match curve.constant() {
                Some(rate) => return Some(rate.per_s()),
                None => curve.changes().saturating_sub(warmup),
            },
            Self::Bursts { datagrams, every } => return Some(f64::from(*datagrams) / every.as_secs_f64()),
            Self::Recorded(recording) => Duration::from_nanos(recording.period_ns()?),
        };
        let (begin, length) = (warmup.as_nanos() as u64, duration.unwrap_or(length));
        let end = begin.saturating_add(length.as_nanos() as u64);
        Some((self.datagrams_until(end) - self.datagrams_until(begin)) / length.as_secs_f64())
    }

    /// The most datagrams of any time of this length. If gaps are random, more is very unlikely.
    pub(crate) fn most_within(&self, time: Duration) -> f64 {
        match self {
            Self::Rate { curve, gaps, burst } => {
                let burst = f64::from(*burst);
                let bursts = curve.highest_per_s() * time.as_secs_f64() / burst;
                let more = if *gaps == Gaps::Even { 0.0 } else { 6.0 * bursts.sqrt() };
                (bursts + more) * burst + if burst > 1.0 { burst } else { 0.0 }
            }
            Self::Bursts { datagrams, every } => {
                f64::from(*datagrams) * (1.0 + time.as_secs_f64() / every.as_secs_f64())
            }
            Self::Recorded(recording) => recording.most_within(time.as_nanos() as u64) as f64,
        }
    }
}

impl From<Rate> for Timetable {
    fn from(rate: Rate) -> Self {
        Self::Rate { curve: rate.into(), gaps: Gaps::Even, burst: 1 }
    }
}

/// The intended times of one worker, in nanoseconds since the run's start.
#[derive(Clone, Debug)]
pub(crate) enum SendTimes {
    Single(Starts),
    Bursts(Bursts),
    Recorded(Recorded),
}

impl SendTimes {
    /// The intended time of the next train. `u64::MAX`: there is none.
    pub(crate) fn next_ns(&self) -> u64 {
        match self {
            Self::Single(starts) => starts.next_ns(),
            Self::Bursts(bursts) => bursts.starts.next_ns(),
            Self::Recorded(recorded) => recorded.next_ns,
        }
    }

    /// Takes the next train, if it is due at `now_ns`, and returns its intended time.
    pub(crate) fn take(&mut self, now_ns: u64) -> Option<u64> {
        match self {
            Self::Single(starts) => starts.take(now_ns),
            Self::Bursts(bursts) => bursts.take(now_ns),
            Self::Recorded(recorded) => recorded.take(now_ns),
        }
    }

    /// The size of the datagram that was taken last. `None`: it was not recorded.
    pub(crate) fn recorded_bytes(&self) -> Option<u32> {
        match self {
            Self::Single(_) | Self::Bursts(_) => None,
            Self::Recorded(Recorded { recording, last, .. }) => last.map(|last| recording.size_bytes(last)),
        }
    }

    /// The time that the trains taken so far cover: up to the next train of the schedule, of any worker.
    pub(crate) fn covered_ns(&self) -> u64 {
        match self {
            Self::Single(starts) => starts.covered_ns(),
            Self::Bursts(bursts) => bursts.covered_ns,
            Self::Recorded(recorded) => {
                recorded.last.map_or(0, |last| recorded.recording.time_ns(last.saturating_add(1)))
            }
        }
    }

    /// How many trains are left before `end_ns`.
    pub(crate) fn left(&self, end_ns: u64) -> u64 {
        match self {
            Self::Single(starts) => starts.left(end_ns),
            Self::Bursts(bursts) => bursts.left(end_ns),
            Self::Recorded(Recorded { recording, next, workers, .. }) => {
                recording.due_before(end_ns).saturating_sub(*next).div_ceil(*workers)
            }
        }
    }
}

/// The times at which trains, or bursts, start.
#[derive(Clone, Debug)]
pub(crate) enum Starts {
    /// At a constant rate.
    Even(Pacer),
    /// At a rate that changes, or with random gaps.
    Varied(Box<Varied>),
}

impl Starts {
    fn new(curve: &RateCurve, gaps: Gaps, datagrams: u32, worker: u32, workers: u32) -> Self {
        match (curve.constant(), gaps) {
            (Some(rate), Gaps::Even) => Self::Even(Pacer::new(rate, datagrams, worker, workers)),
            _ => Self::Varied(Box::new(Varied::new(curve, gaps, datagrams, worker, workers))),
        }
    }

    fn next_ns(&self) -> u64 {
        match self {
            Self::Even(pacer) => pacer.next_ns(),
            Self::Varied(varied) => varied.next_ns,
        }
    }

    fn take(&mut self, now_ns: u64) -> Option<u64> {
        match self {
            Self::Even(pacer) => pacer.take(now_ns),
            Self::Varied(varied) => varied.take(now_ns),
        }
    }

    fn covered_ns(&self) -> u64 {
        match self {
            Self::Even(pacer) => pacer.covered_ns(),
            Self::Varied(varied) => varied.covered_ns(),
        }
    }

    fn left(&self, end_ns: u64) -> u64 {
        match self {
            Self::Even(pacer) => pacer.left(end_ns),
            Self::Varied(varied) => varied.left(end_ns),
        }
    }
}

/// Starts at a rate that changes, or with random gaps: a sum of gaps, in datagrams, and the curve that tells when so many
/// datagrams are due. With a constant gap, the times are even; with exponential ones they are a Poisson process whose rate
/// follows the curve.
#[derive(Clone, Debug)]
pub(crate) struct Varied {
    curve: RateCurve,
    cursor: CurveCursor,
    gaps: GapSource,
    workers: u32,
    /// The datagrams before the next start, in units of a [`DATAGRAM`].
    done: u128,
    /// The same for the start after the last one taken, of any worker.
    covered: u128,
    next_ns: u64,
    has_taken: bool,
}

/// The gaps, in datagrams.
#[derive(Clone, Debug)]
enum GapSource {
    Even(u64),
    /// With this mean. All workers draw the same gaps, so that their number changes no intended time.
    Exponential(SmallRng, f64),
}

impl GapSource {
    /// The next gap, in units of a [`DATAGRAM`].
    fn next(&mut self) -> u128 {
        match self {
            Self::Even(gap) => u128::from(*gap),
            // from 0 on, below 37 times the mean
            Self::Exponential(rng, mean) => ((1.0 - rng.random::<f64>()).ln() * -*mean) as u128,
        }
    }
}

impl Varied {
    fn new(curve: &RateCurve, gaps: Gaps, datagrams: u32, worker: u32, workers: u32) -> Self {
        /// Other random numbers than those of sizes and destinations.
        const OWN_SEED: u64 = 0x7f4a_7c15_9e37_79b9;
        let gap = u64::from(datagrams) * DATAGRAM as u64;
        let (mut gaps, before) = match gaps {
            Gaps::Even => (GapSource::Even(gap), worker),
            // a Poisson process has no event at its start
            Gaps::Exponential { seed } => {
                let rng = SmallRng::seed_from_u64(seed ^ OWN_SEED);
                (GapSource::Exponential(rng, gap as f64), worker + 1)
            }
        };
        let done = (0..before).map(|_| gaps.next()).sum();
        let mut cursor = CurveCursor::new(curve);
        let next_ns = cursor.ns_of(done);
        Self { curve: curve.clone(), cursor, gaps, workers, done, covered: 0, next_ns, has_taken: false }
    }

    fn take(&mut self, now_ns: u64) -> Option<u64> {
        if self.next_ns > now_ns || self.next_ns == u64::MAX {
            return None;
        }
        let intended_ns = self.next_ns;
        self.has_taken = true;
        self.done += self.gaps.next();
        self.covered = self.done;
        for _ in 1..self.workers {
            self.done += self.gaps.next();
        }
        // the curve's times are rounded, and must not go back
        self.next_ns = self.cursor.ns_of(self.done).max(intended_ns);
        Some(intended_ns)
    }

    fn covered_ns(&self) -> u64 {
        if self.has_taken { CurveCursor::new(&self.curve).ns_of(self.covered) } else { 0 }
    }

    /// Random gaps have to be drawn to be counted. Beyond several million, the mean is as good.
    fn left(&self, end_ns: u64) -> u64 {
        const COUNTED_MAX: u64 = 1 << 22;
        let mut ahead = self.clone();
        let counted =
            (0..COUNTED_MAX).take_while(|_| end_ns > 0 && ahead.take(end_ns - 1).is_some()).count() as u64;
        if counted < COUNTED_MAX {
            return counted;
        }
        let mean = match self.gaps {
            GapSource::Even(gap) => gap as f64,
            GapSource::Exponential(_, mean) => mean,
        };
        let datagrams = self.curve.datagrams_until(end_ns) - ahead.done as f64 / DATAGRAM as f64;
        let starts = datagrams * DATAGRAM as f64 / mean / f64::from(self.workers);
        counted + starts.max(0.0) as u64
    }
}

/// Several trains at each start.
#[derive(Clone, Debug)]
pub(crate) struct Bursts {
    /// Those of all workers.
    starts: Starts,
    /// The trains of a burst.
    trains: u32,
    /// The place of the next train in its burst.
    place: u32,
    workers: u32,
    /// The intended time of the train after the last one taken, of any worker.
    covered_ns: u64,
}

impl Bursts {
    fn new(starts: Starts, trains: u32, worker: u32, workers: u32) -> Self {
        let mut bursts = Self { starts, trains, place: 0, workers, covered_ns: 0 };
        bursts.skip(worker);
        bursts
    }

    /// Moves on by so many trains.
    fn skip(&mut self, trains: u32) {
        self.place += trains;
        while self.place >= self.trains {
            self.place -= self.trains;
            self.starts.take(u64::MAX);
        }
    }

    fn take(&mut self, now_ns: u64) -> Option<u64> {
        let intended_ns =
            Some(self.starts.next_ns()).filter(|next_ns| *next_ns <= now_ns && *next_ns < u64::MAX)?;
        self.skip(1);
        self.covered_ns = self.starts.next_ns();
        self.skip(self.workers - 1);
        Some(intended_ns)
    }

    fn left(&self, end_ns: u64) -> u64 {
        let trains = self.starts.left(end_ns).saturating_mul(self.trains.into());
        trains.saturating_sub(self.place.into()).div_ceil(self.workers.into())
    }
}

/// Datagrams as recorded.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    recording: Arc<Recording>,
    /// The number of the next datagram, and its intended time.
    next: u64,
    next_ns: u64,
    workers: u64,
    /// The number of the last one taken.
    last: Option<u64>,
}

impl Recorded {
    fn take(&mut self, now_ns: u64) -> Option<u64> {
        if self.next_ns > now_ns || self.next_ns == u64::MAX {
            return None;
        }
        let intended_ns = self.next_ns;
        self.last = Some(self.next);
        self.next += self.workers;
        self.next_ns = self.recording.time_ns(self.next);
        Some(intended_ns)
    }
}

#[cfg(test)]
mod tests;
