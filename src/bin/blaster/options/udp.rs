//! The options of `blaster udp`.

use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::common::{CommonOptions, EACH_ONCE_PER_S};
use super::contradiction::Contradiction;
use super::schedule::{ScheduleContradiction, ScheduleOptions};
use super::search::SearchOptions;
use crate::model::quantity::{self, Rate, Sizes, Step};
use crate::model::rate_curve::RateCurve;
use crate::model::recording::RecordedSizes;
use crate::model::target::Target;
use crate::udp;
use crate::udp::plan::ReceiveTime;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum UdpMode {
    /// By the schedule of --rate
    Open,
    /// When a reply makes room in flight
    Closed,
    /// As fast as the kernel accepts
    Flood,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    On,
    Off,
}

/// `blaster udp`.
// one field for each option
#[derive(Clone, Debug, Args)]
pub(crate) struct UdpOptions {
    /// When flows send [default: open with --rate, else closed]
    #[arg(long, value_enum, help_heading = "Load", conflicts_with = "each_once")]
    pub(crate) mode: Option<UdpMode>,

    /// Datagrams per second over all flows: 500, 200k, 1.5M. It may change: 10k..200k:60s is a ramp of a minute, and
    /// 1k:10s,50k:5s,1k has three rates, of which the last stays [default with --each-once: 1k]
    #[arg(long, short, value_name = "RATE[..RATE][:TIME],…", help_heading = "Load")]
    pub(crate) rate: Option<RateCurve>,

    #[command(flatten)]
    pub(crate) schedule: ScheduleOptions,

    /// Datagrams (with --gso: trains) that each flow of a closed loop keeps in flight [default: 1]
    #[arg(long, value_name = "N", value_parser = quantity::positive, help_heading = "Load", conflicts_with = "each_once")]
    pub(crate) in_flight: Option<u32>,

    /// Flows; each is a socket with its own port [default: 64; with --each-once and a prefix of --source: one for each of
    /// its addresses, at most 4,096]
    #[arg(long, short, value_name = "N", value_parser = quantity::positive, help_heading = "Load")]
    pub(crate) flows: Option<u32>,

    /// Draw an address and a port for each datagram (with --gso: for each train), not for each flow
    #[arg(long, help_heading = "Load", conflicts_with = "each_once")]
    pub(crate) spray: bool,

    /// Send trains: N datagrams of one flow and one size in one call (UDP_SEGMENT). Then each flow draws one size
    #[arg(long, value_name = "N", default_value = "1", value_parser = quantity::positive, help_heading = "Load", conflicts_with = "each_once")]
    pub(crate) gso: u32,

    /// Receive trains in one piece (UDP_GRO). Where trains pass whole, as over loopback, this changes the cost of the
    /// server's replies. Switch it off to act like the many clients without it
    #[arg(long, value_enum, default_value = "on", help_heading = "Load")]
    pub(crate) gro: Switch,

    /// Whose receive time ends a latency. Blaster may read a reply much later than the kernel received it; the row
    /// "reading slip" shows that [default: kernel]
    #[arg(long, value_enum, value_name = "WHOSE", help_heading = "Load")]
    pub(crate) receive_time: Option<ReceiveTime>,

    /// Several rates, one run after the other, each for its time: 100k:10s,200k:10s
    #[arg(long, value_name = "RATE:TIME,…", value_delimiter = ',', help_heading = "Search",
          conflicts_with_all = ["mode", "rate", "duration", "count", "find_max", "each_once"])]
    pub(crate) steps: Vec<Step>,

    /// Search for the highest rate that meets --loss and --p99, in at most --search-runs and --search-time. The first run
    /// has --rate [default: 10k]; each run takes --duration [default: 2s]
    #[arg(long, help_heading = "Search", conflicts_with_all = ["mode", "count", "each_once"])]
    pub(crate) find_max: bool,

    #[command(flatten)]
    pub(crate) search: SearchOptions,

    #[command(flatten)]
    pub(crate) common: CommonOptions,
}

impl UdpOptions {
    /// The mode of `--mode`, or the implied one.
    pub(crate) fn mode(&self) -> UdpMode {
        let has_schedule = self.rate().is_some() || self.has_steps() || self.schedule.is_complete();
        self.mode.unwrap_or(if has_schedule { UdpMode::Open } else { UdpMode::Closed })
    }

    /// The rate of `--rate`, or the implied one.
    pub(crate) fn rate(&self) -> Option<RateCurve> {
        let implied = self.common.each_once.filter(|_| !self.schedule.is_complete());
        self.rate.clone().or(implied.map(|_| Rate::whole(EACH_ONCE_PER_S).into()))
    }

    /// How long to measure. `None`: until the count is reached.
    pub(crate) fn duration(&self) -> Option<Duration> {
        let has_count = self.count().is_some() || self.common.each_once.is_some();
        let length = self.rate.as_ref().and_then(RateCurve::length).filter(|_| !has_count);
        match self.common.duration {
            Some(duration) => duration.time(),
            None => length.or(self.common.duration().filter(|_| !has_count)),
        }
    }

    /// How many datagrams to measure: a recording is sent once, unless --duration or --count says more.
    pub(crate) fn count(&self) -> Option<u64> {
        let recording = self.schedule.replay.as_ref().filter(|_| self.common.duration.is_none());
        self.common.count.or(recording.map(|recording| recording.len()))
    }

    /// The flows of `--flows`, or the implied ones. With --each-once, the run uses this many sources.
    pub(crate) fn flows(&self, sources: usize) -> u32 {
        const DEFAULT: u32 = 64;
        let implied = if sources > 1 { sources as u32 } else { DEFAULT };
        let flows = self.flows.unwrap_or(implied);
        // a flow can't send to its own port, so that each thread needs another one
        if self.common.each_once.is_some() { flows.max(self.common.threads.saturating_mul(2)) } else { flows }
    }

    /// Whether the call makes several runs, each with its own rate.
    pub(crate) fn has_steps(&self) -> bool {
        self.find_max || !self.steps.is_empty()
    }

    /// The receive time of `--receive-time`, or the implied one.
    pub(crate) fn receive_time(&self) -> ReceiveTime {
        self.receive_time.unwrap_or(ReceiveTime::Kernel)
    }

    /// The sizes of `--size`, or the implied ones.
    pub(crate) fn sizes(&self) -> Sizes {
        let recorded = self.schedule.replay.as_ref().map(|recording| {
            let flows = self.flows(0);
            RecordedSizes::new(Arc::clone(recording), flows, self.common.threads.min(flows))
        });
        recorded.map_or_else(|| self.common.size.clone().unwrap_or(Sizes::Fixed(64)), Sizes::Recorded)
    }

    /// The option that sets the rate.
    fn rate_by(&self) -> Option<&'static str> {
        let by = [
            (self.rate.is_some(), "--rate"),
            (!self.steps.is_empty(), "--steps"),
            (self.find_max, "--find-max"),
            (self.rate().is_some(), "--each-once"),
        ];
        by.into_iter().find_map(|(is_set, name)| is_set.then_some(name))
    }

    /// Checks that the options make a schedule, or that none is needed.
    fn check_schedule(&self) -> Result<(), Contradiction> {
        let makes_one = self.rate_by().or(self.schedule.name());
        match (self.mode(), makes_one) {
            (UdpMode::Open, None) => return Err(Contradiction::OpenWithoutRate),
            (UdpMode::Closed, Some(option)) if self.mode.is_some() => {
                return Err(Contradiction::ScheduleWithoutOpen(option, "closed"));
            }
            (UdpMode::Flood, Some(option)) => {
                return Err(Contradiction::ScheduleWithoutOpen(option, "flood"));
            }
            _ => {}
        }
        self.schedule.check(self.rate_by(), self.gso)?;
        self.schedule.check_count(self.common.count)?;
        match &self.rate {
            Some(curve) if self.find_max && curve.constant().is_none() => {
                Err(ScheduleContradiction::SearchFromCurve(curve.to_string()).into())
            }
            _ => Ok(()),
        }
    }

    /// Checks that the options go together.
    pub(crate) fn check(&self) -> Result<(), Contradiction> {
        /// The most datagrams of one call (`UDP_MAX_SEGMENTS`, Linux 6.9).
        const SEGMENTS_MAX: u32 = 128;
        self.common.check()?;
        if self.has_steps() && self.common.is_endless() {
            return Err(Contradiction::SearchForever);
        }
        self.check_schedule()?;
        match (self.mode(), self.in_flight) {
            (UdpMode::Open, Some(_)) => {
                return Err(Contradiction::InFlightWithoutClosed(
                    self.rate_by().or(self.schedule.name()).unwrap_or("--mode open"),
                ));
            }
            (UdpMode::Flood, Some(_)) => return Err(Contradiction::InFlightWithoutClosed("--mode flood")),
            _ => {}
        }
        if self.find_max {
            self.search.budget(&self.search.plan(None), self.common.longest_search_run())?;
        }
        let in_flight = u64::from(self.in_flight.unwrap_or(1)) * u64::from(self.gso);
        if in_flight > u64::from(udp::plan::IN_FLIGHT_MAX) {
            return Err(Contradiction::TooManyInFlight(in_flight));
        }
        let size = self.sizes().max_bytes();
        let most = if self.common.targets.iter().any(Target::is_ipv4) { 65_507 } else { 65_527 };
        if size > most {
            return Err(Contradiction::TooLargeForV4 { size });
        }
        if self.gso > SEGMENTS_MAX {
            return Err(Contradiction::TrainOfTooMany(self.gso));
        }
        if self.gso * size > most {
            return Err(Contradiction::TrainTooLong { datagrams: self.gso, size, most });
        }
        Ok(())
    }
}
