//! The options of `blaster tcp`.

use clap::Args;

use super::common::{CommonOptions, EACH_ONCE_PER_S};
use super::contradiction::Contradiction;
use crate::model::quantity::{self, Rate, Sizes};
use crate::tcp;

/// `blaster tcp`.
#[derive(Clone, Debug, Args)]
pub(crate) struct TcpOptions {
    /// What each connection does [default: open with --rate, else ping-pong]
    #[arg(long, value_enum, help_heading = "Load", conflicts_with = "each_once")]
    pub(crate) mode: Option<tcp::plan::Mode>,

    /// Connections at a time [default: 16; with --each-once at most 1,024]
    #[arg(long, short, value_name = "N", value_parser = quantity::positive, help_heading = "Load")]
    pub(crate) connections: Option<u32>,

    /// Messages per second over all connections: 500, 200k, 1.5M. With --mode connect or --each-once: connections per
    /// second [default with --each-once: 1k]
    #[arg(long, short, value_name = "RATE", help_heading = "Load")]
    pub(crate) rate: Option<Rate>,

    #[command(flatten)]
    pub(crate) common: CommonOptions,
}

impl TcpOptions {
    /// Checks that the options go together.
    pub(crate) fn check(&self) -> Result<(), Contradiction> {
        use tcp::plan::Mode;
        self.common.check()?;
        match (self.mode(), self.rate()) {
            (Mode::Open, None) => Err(Contradiction::OpenWithoutRate),
            (Mode::PingPong, Some(_)) => Err(Contradiction::ScheduleWithoutOpen("--rate", "ping-pong")),
            (Mode::Stream, Some(_)) => Err(Contradiction::ScheduleWithoutOpen("--rate", "stream")),
            _ => Ok(()),
        }
    }

    /// The sizes of `--size`, or the implied ones.
    pub(crate) fn sizes(&self) -> Sizes {
        let implied = if self.mode() == tcp::plan::Mode::Stream { 16_384 } else { 64 };
        self.common.size.clone().unwrap_or(Sizes::Fixed(implied))
    }

    /// The mode of `--mode`, or the implied one.
    pub(crate) fn mode(&self) -> tcp::plan::Mode {
        use tcp::plan::Mode;
        let implied = if self.rate.is_some() { Mode::Open } else { Mode::PingPong };
        if self.common.each_once.is_some() { Mode::Connect } else { self.mode.unwrap_or(implied) }
    }

    /// The rate of `--rate`, or the implied one.
    pub(crate) fn rate(&self) -> Option<Rate> {
        self.rate.or(self.common.each_once.map(|_| Rate::whole(EACH_ONCE_PER_S)))
    }

    /// The connections of `--connections`, or the implied ones. With --each-once, so many visits are made.
    pub(crate) fn connections(&self, visits: Option<u64>) -> u32 {
        const DEFAULT: u32 = 16;
        const EACH_ONCE_DEFAULT: u64 = 1_024;
        let implied = visits.map_or(DEFAULT, |visits| visits.min(EACH_ONCE_DEFAULT) as u32);
        self.connections.unwrap_or(implied)
    }
}
