//! The options of a schedule beside `--rate`: `--gaps`, `--burst`, `--replay`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::model::quantity::{self, QuantityError};
use crate::model::rate_curve::RateCurve;
use crate::model::recording::{self, Recording};
use crate::model::timetable::{Gaps, Timetable};

/// The gaps between the datagrams, messages or connections (with --burst: the bursts) of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum GapsWish {
    /// Gaps of one length
    Even,
    /// Gaps of random, exponentially distributed length
    Poisson,
}

/// The largest burst: a flow remembers no more datagrams.
const BURST_MAX: u32 = 1 << 24;

/// `100` or `100/10ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Burst {
    pub(crate) datagrams: u32,
    /// `None`: as often as the rate needs.
    pub(crate) every: Option<Duration>,
}

impl FromStr for Burst {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (datagrams, every) =
            text.split_once('/').map_or((text, None), |(datagrams, every)| (datagrams, Some(every)));
        let every = every.map(|every| quantity::duration(every.trim())).transpose()?;
        let datagrams = quantity::positive(datagrams.trim())?;
        if datagrams > BURST_MAX {
            return Err(QuantityError::OutOfRange(text.into(), "16777216 is the largest burst"));
        }
        Ok(Self { datagrams, every })
    }
}

impl fmt::Display for Burst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.every {
            Some(every) => write!(f, "{}/{}", self.datagrams, humantime::format_duration(every)),
            None => write!(f, "{}", self.datagrams),
        }
    }
}

/// The options of a schedule beside the rate.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ScheduleOptions {
    /// The gaps between what --rate sends: even, or of random length (exponentially distributed), as those of many
    /// independent clients. --seed repeats them [default: even]
    #[arg(long, value_enum, value_name = "GAPS", help_heading = "Load")]
    pub(crate) gaps: Option<GapsWish>,

    /// Send N at once, then none until the next burst: as often as --rate needs (100), or after this time
    /// (100/10ms)
    #[arg(long, value_name = "N[/TIME]", help_heading = "Load")]
    pub(crate) burst: Option<Burst>,

    /// Send at the times and with the sizes of FILE: a time (in seconds, or with a unit) and a size in bytes on each line.
    /// It is sent once; with --duration or --count again and again
    #[arg(
        long,
        value_name = "FILE",
        value_parser = recording::parse,
        help_heading = "Load",
        conflicts_with_all = ["rate", "gaps", "burst", "steps", "find_max", "each_once", "size", "warmup"]
    )]
    pub(crate) replay: Option<Arc<Recording>>,
}

/// A schedule that can't be kept, or that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScheduleContradiction {
    #[error("--gaps {0} needs a --rate")]
    GapsWithoutRate(&'static str),
    #[error("--burst {0} needs a --rate, or a time: --burst {0}/10ms")]
    BurstWithoutRate(Burst),
    #[error("--burst {burst} has a rate of its own; leave out {other}, or say --burst {}", .burst.datagrams)]
    BurstWithRate { burst: Burst, other: &'static str },
    #[error("--burst {0} comes at even times; for random ones, say --burst {n} --rate RATE --gaps poisson", n = .0.datagrams)]
    BurstWithGaps(Burst),
    #[error("--burst {burst} is no whole number of trains of {train} datagrams (--gso)")]
    BurstOfBrokenTrains { burst: Burst, train: u32 },
    #[error(
        "--replay sends each datagram at its own time and with its own size; trains (--gso {0}) have one of each"
    )]
    ReplayOfTrains(u32),
    #[error(
        "--replay {file} has one time only, so that it can't be repeated: --count {count} is more than its {datagrams} lines"
    )]
    ReplayWithoutTime { file: String, count: u64, datagrams: u64 },
    #[error("--find-max starts with one rate; {0} changes")]
    SearchFromCurve(String),
}

impl ScheduleOptions {
    /// Whether they make a schedule without a rate.
    pub(crate) fn is_complete(&self) -> bool {
        self.replay.is_some() || self.burst.is_some_and(|burst| burst.every.is_some())
    }

    /// The option that makes an open loop.
    pub(crate) fn name(&self) -> Option<&'static str> {
        if self.replay.is_some() {
            Some("--replay")
        } else if self.burst.is_some() {
            Some("--burst")
        } else {
            self.gaps.map(|_| "--gaps")
        }
    }

    /// Checks that they go together with the option that sets a rate, and with trains of so many datagrams.
    pub(crate) fn check(
        &self,
        rate_by: Option<&'static str>,
        train: u32,
    ) -> Result<(), ScheduleContradiction> {
        let gaps = self.gaps.filter(|gaps| *gaps == GapsWish::Poisson);
        if let Some(burst) = self.burst {
            match (burst.every, rate_by) {
                (None, None) => return Err(ScheduleContradiction::BurstWithoutRate(burst)),
                (Some(_), Some(other)) => return Err(ScheduleContradiction::BurstWithRate { burst, other }),
                (Some(_), None) if gaps.is_some() => return Err(ScheduleContradiction::BurstWithGaps(burst)),
                _ => {}
            }
            if burst.datagrams % train != 0 {
                return Err(ScheduleContradiction::BurstOfBrokenTrains { burst, train });
            }
        } else if let Some(gaps) = self.gaps.filter(|_| rate_by.is_none()) {
            let name = if gaps == GapsWish::Even { "even" } else { "poisson" };
            return Err(ScheduleContradiction::GapsWithoutRate(name));
        }
        if self.replay.is_some() && train > 1 {
            return Err(ScheduleContradiction::ReplayOfTrains(train));
        }
        Ok(())
    }

    /// Checks that a recording is long enough for this count.
    pub(crate) fn check_count(&self, count: Option<u64>) -> Result<(), ScheduleContradiction> {
        match (&self.replay, count) {
            (Some(recording), Some(count)) if recording.period_ns().is_none() && count > recording.len() => {
                Err(ScheduleContradiction::ReplayWithoutTime {
                    file: recording.name().into(),
                    count,
                    datagrams: recording.len(),
                })
            }
            _ => Ok(()),
        }
    }

    /// The schedule, at this rate if they have none. `None`: there is no schedule.
    pub(crate) fn timetable(
        &self,
        rate: Option<RateCurve>,
        warmup: Duration,
        seed: u64,
    ) -> Option<Timetable> {
        match (&self.replay, self.burst, rate) {
            (Some(recording), ..) => Some(Timetable::Recorded(Arc::clone(recording))),
            (None, Some(Burst { datagrams, every: Some(every) }), _) => {
                Some(Timetable::Bursts { datagrams, every })
            }
            (None, _, Some(curve)) => Some(Timetable::Rate {
                curve: curve.after_warmup(warmup),
                gaps: match self.gaps {
                    Some(GapsWish::Poisson) => Gaps::Exponential { seed },
                    Some(GapsWish::Even) | None => Gaps::Even,
                },
                burst: self.burst.map_or(1, |burst| burst.datagrams),
            }),
            (None, _, None) => None,
        }
    }
}
