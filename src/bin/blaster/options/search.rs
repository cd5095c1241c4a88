//! The options of `--find-max`.

use std::time::Duration;

use clap::Args;

use crate::judge::budget::Budget;
use crate::judge::search::Plan;
use crate::model::quantity::{self, Percent, Rate};
use crate::report::schema::Objective;

/// What a search looks for, how exactly, and what it may take.
#[derive(Clone, Debug, Args)]
pub(crate) struct SearchOptions {
    /// The largest share of datagrams (TCP: of messages, or of connections) without a right reply in time
    #[arg(
        long,
        value_name = "PERCENT",
        default_value = "0.1%",
        help_heading = "Search",
        requires = "find_max"
    )]
    pub(crate) loss: Percent,

    /// The longest time that 99 of 100 right replies may take, from the intended send time [default: any]
    #[arg(long, value_name = "TIME", value_parser = quantity::duration, help_heading = "Search", requires = "find_max")]
    pub(crate) p99: Option<Duration>,

    /// How much higher the rate that fails may be than the rate that passes
    #[arg(long, value_name = "PERCENT", default_value = "5%", value_parser = quantity::percent_above_zero, help_heading = "Search", requires = "find_max")]
    pub(crate) precision: Percent,

    /// How often to run each of the two rates again; these runs tell how sure the answer is. If they differ, a rate has up
    /// to three times as many. At most 100
    #[arg(long, value_name = "N", default_value = "5", value_parser = quantity::repetitions, help_heading = "Search", requires = "find_max")]
    pub(crate) repeat: u32,

    /// The most runs of the search. When they end before the answer is confirmed, the exit status is 5 [default: 48, and
    /// more with a larger --repeat or a finer --precision]
    #[arg(long, value_name = "N", value_parser = quantity::positive, help_heading = "Search", requires = "find_max")]
    pub(crate) search_runs: Option<u32>,

    /// The most time of the search. No run begins that could end later [default: that of --search-runs, each with its
    /// --warmup, --duration and --linger, and a quarter of a second]
    #[arg(long, value_name = "TIME", value_parser = quantity::duration, help_heading = "Search", requires = "find_max")]
    pub(crate) search_time: Option<Duration>,
}

impl SearchOptions {
    pub(crate) fn objective(&self) -> Objective {
        Objective { loss_percent: self.loss.0, p99_ns: self.p99.map(|longest| longest.as_nanos() as u64) }
    }

    /// The plan of a search that begins with this rate.
    pub(crate) fn plan(&self, first: Rate) -> Plan {
        Plan {
            first_per_s: (first.per_s() as u64).max(1),
            precision: self.precision.0 / 100.0,
            repeat: self.repeat,
        }
    }

    /// What the search may take; a run takes at most `longest`.
    pub(crate) fn budget(&self, plan: &Plan, longest: Duration) -> Result<Budget, SearchTooShort> {
        if let Some(time_max) = self.search_time.filter(|time_max| *time_max < longest) {
            return Err(SearchTooShort { time_max, longest });
        }
        Ok(Budget::new(self.search_runs.unwrap_or(plan.runs_max()), self.search_time, longest))
    }
}

/// A search that has no time for a single run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("--search-time {short} is less than one run may take: say {needed} or more", short = words(*time_max), needed = words(*longest))]
pub(crate) struct SearchTooShort {
    time_max: Duration,
    longest: Duration,
}

/// A duration as the command line takes it.
fn words(duration: Duration) -> String {
    humantime::format_duration(duration).to_string().replace(' ', "")
}
