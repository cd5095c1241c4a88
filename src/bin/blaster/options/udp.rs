//! The options of `blaster udp`.

use clap::{Args, ValueEnum};

use super::common::CommonOptions;
use super::contradiction::Contradiction;
use super::rates::RateOptions;
use crate::model::quantity::{self, Sizes};
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

    #[command(flatten)]
    pub(crate) rates: RateOptions,

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

    #[command(flatten)]
    pub(crate) common: CommonOptions,
}

impl UdpOptions {
    /// The mode of `--mode`, or the implied one.
    pub(crate) fn mode(&self) -> UdpMode {
        let implied = if self.rates.is_scheduled(&self.common) { UdpMode::Open } else { UdpMode::Closed };
        self.mode.unwrap_or(implied)
    }

    /// The flows of `--flows`, or the implied ones. With --each-once, the run uses this many sources.
    pub(crate) fn flows(&self, sources: usize) -> u32 {
        const DEFAULT: u32 = 64;
        let implied = if sources > 1 { sources as u32 } else { DEFAULT };
        let flows = self.flows.unwrap_or(implied);
        // a flow can't send to its own port, so that each thread needs another one
        if self.common.each_once.is_some() { flows.max(self.common.threads.saturating_mul(2)) } else { flows }
    }

    /// The receive time of `--receive-time`, or the implied one.
    pub(crate) fn receive_time(&self) -> ReceiveTime {
        self.receive_time.unwrap_or(ReceiveTime::Kernel)
    }

    /// The sizes of `--size`, or the implied ones.
    pub(crate) fn sizes(&self) -> Sizes {
        let recorded = self.rates.recorded_sizes(self.flows(0), &self.common);
        recorded.or_else(|| self.common.size.clone()).unwrap_or(Sizes::Fixed(64))
    }

    /// Checks that the mode has a schedule, or needs none.
    fn check_mode(&self) -> Result<(), Contradiction> {
        let made_by = self.rates.made_by(&self.common);
        match (self.mode(), made_by, self.in_flight) {
            (UdpMode::Open, None, _) => Err(Contradiction::OpenWithoutRate),
            (UdpMode::Closed, Some(option), _) if self.mode.is_some() => {
                Err(Contradiction::ScheduleWithoutOpen(option, "closed"))
            }
            (UdpMode::Flood, Some(option), _) => Err(Contradiction::ScheduleWithoutOpen(option, "flood")),
            (UdpMode::Open, Some(option), Some(_)) => Err(Contradiction::InFlightWithoutClosed(option)),
            (UdpMode::Flood, None, Some(_)) => Err(Contradiction::InFlightWithoutClosed("--mode flood")),
            _ => Ok(()),
        }
    }

    /// Checks that the options go together.
    pub(crate) fn check(&self) -> Result<(), Contradiction> {
        /// The most datagrams of one call (`UDP_MAX_SEGMENTS`, Linux 6.9).
        const SEGMENTS_MAX: u32 = 128;
        self.common.check()?;
        self.check_mode()?;
        self.rates.check(&self.common, self.gso, self.common.longest_search_run())?;
        let in_flight = u64::from(self.in_flight.unwrap_or(1)) * u64::from(self.gso);
        if in_flight > u64::from(udp::plan::IN_FLIGHT_MAX) {
            return Err(Contradiction::TooManyInFlight(in_flight));
        }
        let size = self.sizes().max_bytes();
        let most = if self.common.destination.targets().any(Target::is_ipv4) { 65_507 } else { 65_527 };
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
