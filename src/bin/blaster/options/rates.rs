//! When a load sends, and the runs of `--steps` and `--find-max`: the options of schedules, for both protocols.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::common::{CommonOptions, EACH_ONCE_PER_S};
use super::contradiction::Contradiction;
use super::schedule::{ScheduleContradiction, ScheduleOptions};
use super::search::SearchOptions;
use crate::model::quantity::{Rate, Sizes, Step};
use crate::model::rate_curve::RateCurve;
use crate::model::recording::RecordedSizes;
use crate::model::timetable::Timetable;

/// The schedule of an open loop, or of each of several runs.
#[derive(Clone, Debug, Args)]
pub(crate) struct RateOptions {
    /// Datagrams per second over all flows; TCP: messages over all connections, with --mode connect or --each-once new
    /// connections: 500, 200k, 1.5M. It may change: 10k..200k:60s is a ramp of a minute, and 1k:10s,50k:5s,1k has three
    /// rates, of which the last stays [default with --each-once: 1k]
    #[arg(long, short, value_name = "RATE[..RATE][:TIME],…", help_heading = "Load")]
    pub(crate) rate: Option<RateCurve>,

    #[command(flatten)]
    pub(crate) schedule: ScheduleOptions,

    /// Several rates, one run after the other, each for its time: 100k:10s,200k:10s
    #[arg(long, value_name = "RATE:TIME,…", value_delimiter = ',', help_heading = "Search",
          conflicts_with_all = ["rate", "duration", "count", "find_max", "each_once"])]
    pub(crate) steps: Vec<Step>,

    /// Search for the highest rate that meets --loss and --p99, in at most --search-runs and --search-time. The first run
    /// has --rate [default: 10k; new connections: 1k]; each run takes --duration [default: 2s]
    #[arg(long, help_heading = "Search", conflicts_with_all = ["count", "each_once"])]
    pub(crate) find_max: bool,

    #[command(flatten)]
    pub(crate) search: SearchOptions,
}

impl RateOptions {
    /// The rate of `--rate`, or the implied one.
    pub(crate) fn rate(&self, common: &CommonOptions) -> Option<RateCurve> {
        let implied = common.each_once.filter(|_| !self.schedule.is_complete());
        self.rate.clone().or(implied.map(|_| Rate::whole(EACH_ONCE_PER_S).into()))
    }

    /// Whether the call makes several runs, each with its own rate.
    pub(crate) fn has_steps(&self) -> bool {
        self.find_max || !self.steps.is_empty()
    }

    /// Whether each run has a schedule.
    pub(crate) fn is_scheduled(&self, common: &CommonOptions) -> bool {
        self.rate(common).is_some() || self.has_steps() || self.schedule.is_complete()
    }

    /// How long to measure. `None`: until the count is reached.
    pub(crate) fn duration(&self, common: &CommonOptions) -> Option<Duration> {
        let has_count = self.count(common).is_some() || common.each_once.is_some();
        let length = self.rate.as_ref().and_then(RateCurve::length).filter(|_| !has_count);
        match common.duration {
            Some(duration) => duration.time(),
            None => length.or(common.duration().filter(|_| !has_count)),
        }
    }

    /// How many datagrams or messages to measure: a recording is sent once, unless --duration or --count says more.
    pub(crate) fn count(&self, common: &CommonOptions) -> Option<u64> {
        let recording = self.schedule.replay.as_ref().filter(|_| common.duration.is_none());
        common.count.or(recording.map(|recording| recording.len()))
    }

    /// The sizes of `--replay`, for so many flows or connections.
    pub(crate) fn recorded_sizes(&self, flows: u32, common: &CommonOptions) -> Option<Sizes> {
        let recording = Arc::clone(self.schedule.replay.as_ref()?);
        Some(Sizes::Recorded(RecordedSizes::new(recording, flows, common.threads.min(flows))))
    }

    /// The option that sets the rate.
    fn rate_by(&self, common: &CommonOptions) -> Option<&'static str> {
        let by = [
            (self.rate.is_some(), "--rate"),
            (!self.steps.is_empty(), "--steps"),
            (self.find_max, "--find-max"),
            (self.rate(common).is_some(), "--each-once"),
        ];
        by.into_iter().find_map(|(is_set, name)| is_set.then_some(name))
    }

    /// The option that makes an open loop.
    pub(crate) fn made_by(&self, common: &CommonOptions) -> Option<&'static str> {
        self.rate_by(common).or(self.schedule.name())
    }

    /// Checks that the options go together, also with trains of so many datagrams; a run of a search takes at most
    /// `longest`.
    pub(crate) fn check(
        &self,
        common: &CommonOptions,
        train: u32,
        longest: Duration,
    ) -> Result<(), Contradiction> {
        if self.has_steps() && common.is_endless() {
            return Err(Contradiction::SearchForever);
        }
        self.schedule.check(self.rate_by(common), train)?;
        self.schedule.check_count(common.count)?;
        if !self.find_max {
            return Ok(());
        }
        if let Some(curve) = self.rate.as_ref().filter(|curve| curve.constant().is_none()) {
            return Err(ScheduleContradiction::SearchFromCurve(curve.to_string()).into());
        }
        self.search.budget(&self.search.plan(Rate::whole(1)), longest)?;
        Ok(())
    }

    /// The schedule of a run. `None`: there is none.
    pub(crate) fn timetable(&self, common: &CommonOptions, seed: u64) -> Option<Timetable> {
        self.schedule.timetable(self.rate(common), common.warmup, seed)
    }

    /// The same for a single run at this rate.
    pub(crate) fn at(&self, rate: Rate) -> Self {
        Self { rate: Some(rate.into()), steps: Vec::new(), find_max: false, ..self.clone() }
    }
}
