//! The options of `blaster tcp`.

use std::time::Duration;

use clap::Args;

use super::common::CommonOptions;
use super::contradiction::Contradiction;
use super::rates::RateOptions;
use crate::model::quantity::{self, Sizes};
use crate::tcp::plan::{Mode, SHUTDOWN_LONGEST};

/// `blaster tcp`.
#[derive(Clone, Debug, Args)]
pub(crate) struct TcpOptions {
    /// What each connection does [default: open with a schedule, as of --rate; else ping-pong]
    #[arg(long, value_enum, help_heading = "Load", conflicts_with = "each_once")]
    pub(crate) mode: Option<Mode>,

    /// Connections at a time [default: 16; with --each-once at most 1,024]
    #[arg(long, short, value_name = "N", value_parser = quantity::positive, help_heading = "Load")]
    pub(crate) connections: Option<u32>,

    #[command(flatten)]
    pub(crate) rates: RateOptions,

    #[command(flatten)]
    pub(crate) common: CommonOptions,
}

impl TcpOptions {
    /// Checks that the options go together.
    pub(crate) fn check(&self) -> Result<(), Contradiction> {
        self.common.check()?;
        match (self.mode(), self.rates.made_by(&self.common)) {
            (Mode::Open, None) => return Err(Contradiction::OpenWithoutRate),
            (Mode::PingPong, Some(option)) if self.mode.is_some() => {
                return Err(Contradiction::ScheduleWithoutOpen(option, "ping-pong"));
            }
            (Mode::Stream, Some(option)) => {
                return Err(Contradiction::ScheduleWithoutOpen(option, "stream"));
            }
            _ => {}
        }
        self.rates.check(&self.common, 1, self.longest_search_run())
    }

    /// The longest that a run of a search takes: connections begin before it, and end after it.
    pub(crate) fn longest_search_run(&self) -> Duration {
        self.common.longest_search_run() + self.common.timeout + SHUTDOWN_LONGEST
    }

    /// The sizes of `--size`, or the implied ones.
    pub(crate) fn sizes(&self) -> Sizes {
        let implied = if self.mode() == Mode::Stream { 16_384 } else { 64 };
        let recorded = self.rates.recorded_sizes(self.connections(None), &self.common);
        recorded.or_else(|| self.common.size.clone()).unwrap_or(Sizes::Fixed(implied))
    }

    /// The mode of `--mode`, or the implied one.
    pub(crate) fn mode(&self) -> Mode {
        let implied = if self.rates.is_scheduled(&self.common) { Mode::Open } else { Mode::PingPong };
        if self.common.each_once.is_some() { Mode::Connect } else { self.mode.unwrap_or(implied) }
    }

    /// The connections of `--connections`, or the implied ones. With --each-once, so many visits are made.
    pub(crate) fn connections(&self, visits: Option<u64>) -> u32 {
        const DEFAULT: u32 = 16;
        const EACH_ONCE_DEFAULT: u64 = 1_024;
        let implied = visits.map_or(DEFAULT, |visits| visits.min(EACH_ONCE_DEFAULT) as u32);
        self.connections.unwrap_or(implied)
    }
}
