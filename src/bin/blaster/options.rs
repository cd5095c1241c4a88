//! The command line and its --help.

mod schedule;
mod search;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use tubular_echo::sockets::listen_addr::ListenAddr;

pub(crate) use self::search::{SearchOptions, SearchTooShort};
use crate::judge::fail_if::Conditions;
use crate::judge::search::Plan;
use crate::manual::MANUAL;
use crate::model::metrics_url::MetricsUrl;
use crate::model::packet_options::PacketOptions;
use crate::model::quantity::{self, Length, Rate, Sizes, Step};
use crate::model::rate_curve::RateCurve;
use crate::model::recording::RecordedSizes;
use crate::model::source::Source;
use crate::model::target::Target;
use crate::model::visits;
use crate::tcp;
use crate::udp;
use crate::udp::plan::ReceiveTime;

pub(crate) use self::schedule::{ScheduleContradiction, ScheduleOptions};

/// A load tester for UDP and TCP echo servers whose results can be trusted
///
/// It sends datagrams or messages, and checks every byte, the order, the timing and the source of each reply. Without
/// --allow-public it loads only addresses that the Internet does not reach (RFC 6890: loopback, private, link-local,
/// documentation and the like). It never loads multicast or broadcast addresses.
#[derive(Debug, Parser)]
#[command(name = "blaster", version, max_term_width = 100, after_long_help = MANUAL, disable_help_subcommand = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Load a UDP echo path with flows of datagrams
    #[command(after_long_help = MANUAL)]
    Udp(UdpOptions),
    /// Load a TCP echo path with connections
    #[command(after_long_help = MANUAL)]
    Tcp(TcpOptions),
    /// Show reports of --json: one, several side by side, or those of several machines as one
    #[command(after_long_help = MANUAL)]
    Report(ReportOptions),
}

#[derive(Clone, Debug)]
pub(crate) enum LoadOptions {
    Udp(UdpOptions),
    Tcp(TcpOptions),
}

impl LoadOptions {
    pub(crate) fn common(&self) -> &CommonOptions {
        match self {
            Self::Udp(udp) => &udp.common,
            Self::Tcp(tcp) => &tcp.common,
        }
    }

    /// How long to measure. `None`: until the count is reached.
    pub(crate) fn duration(&self) -> Option<Duration> {
        match self {
            Self::Udp(udp) => udp.duration(),
            Self::Tcp(tcp) => tcp.common.duration(),
        }
    }
}

/// `blaster report`.
#[derive(Debug, Args)]
pub(crate) struct ReportOptions {
    /// Reports of --json
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,

    /// Add them up: they come from machines that loaded the same targets at the same time. Counts, rates and histograms
    /// are added; percentiles are those of all replies together
    #[arg(long)]
    pub(crate) merge: bool,

    #[command(flatten)]
    pub(crate) outputs: OutputOptions,
}

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

/// The options of both protocols.
// one field for each option
#[derive(Clone, Debug, Args)]
pub(crate) struct CommonOptions {
    /// The destination: ADDR:PORT, PREFIX:PORT, PREFIX:LOW-HIGH or PREFIX:any
    #[arg(required = true, value_name = "TARGET")]
    pub(crate) targets: Vec<Target>,

    /// Visit each address and port of the targets once (or N times, as in --each-once=3), in an order that spreads over
    /// all of them, at --rate. The report names those that are silent or wrong. Of more than 262,144, a sample of 65,536
    /// is visited
    #[arg(
        long,
        value_name = "N",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "1",
        value_parser = quantity::positive,
        help_heading = "Load",
        conflicts_with_all = ["count", "warmup"]
    )]
    pub(crate) each_once: Option<u32>,

    /// Visit only N of all destinations, one from each of N equal parts
    #[arg(long, value_name = "N", value_parser = quantity::positive, help_heading = "Load", requires = "each_once")]
    pub(crate) sample: Option<u32>,

    /// The size of each datagram or message in bytes, at least 32: 64, 64-1400 (drawn from the range) or 64,512,1400
    /// (drawn from the list) [default: 64; TCP mode stream: 16384]
    #[arg(long, short, value_name = "BYTES", help_heading = "Load")]
    pub(crate) size: Option<Sizes>,

    /// Send from this local address. With a prefix, each flow or connection draws an address of it: a server or a
    /// firewall sees many clients. All addresses must belong to this host [default: by the routing table]
    #[arg(long, value_name = "ADDR[/LENGTH]", help_heading = "Load")]
    pub(crate) source: Option<Source>,

    /// How long to measure; forever: until a signal comes, with --each-once round after round [default: 10s; with --count:
    /// until it is reached]
    #[arg(long, short, value_name = "TIME|forever", help_heading = "Run")]
    pub(crate) duration: Option<Length>,

    /// How many datagrams or messages to measure
    #[arg(long, short = 'n', value_name = "N", value_parser = quantity::count, help_heading = "Run")]
    pub(crate) count: Option<u64>,

    /// How long to send before the measurement. The results do not contain the warmup
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = quantity::duration_or_zero, help_heading = "Run")]
    pub(crate) warmup: Duration,

    /// A reply after this time is late
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = quantity::duration, help_heading = "Run")]
    pub(crate) timeout: Duration,

    /// How long to wait for missing replies after the last send [default: twice the timeout]. A TCP run with --count
    /// and without --duration also ends when nothing has come back for this long
    #[arg(long, value_name = "TIME", value_parser = quantity::duration, help_heading = "Run")]
    pub(crate) linger: Option<Duration>,

    /// Threads that share the flows or connections
    #[arg(long, value_name = "N", default_value = "1", value_parser = quantity::positive, help_heading = "Run")]
    pub(crate) threads: u32,

    /// The seed of random choices; the same seed makes the same choices [default: random]
    #[arg(long, value_name = "N", help_heading = "Run")]
    pub(crate) seed: Option<u64>,

    /// Read the counters of the server, tubular-echo, before and after the run, from where its --metrics serves them. Then
    /// the report tells on which way datagrams were lost, what the server refused, and its CPU per echo
    #[arg(long, value_name = "http://ADDR:PORT/metrics", help_heading = "Report")]
    pub(crate) server_metrics: Option<MetricsUrl>,

    /// Load public addresses too. Do this only to hosts that are yours
    #[arg(long, help_heading = "Run")]
    pub(crate) allow_public: bool,

    /// Print a line on standard error at each interval of this length while it runs, for logs. With --jsonl or --csv, the
    /// lines go there [default with these: 1s]
    #[arg(long, value_name = "TIME", value_parser = quantity::duration, help_heading = "Report")]
    pub(crate) every: Option<Duration>,

    /// Add a line of JSON to FILE at each interval of --every; with - to standard output, and the table to standard error.
    /// A file that was moved away is made again
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub(crate) jsonl: Option<PathBuf>,

    /// The same as lines of CSV, with names in the first line
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub(crate) csv: Option<PathBuf>,

    /// Serve Prometheus metrics of the run at http://ADDR:PORT/metrics while it lasts, and /healthz
    #[arg(long, value_name = "ADDR:PORT", help_heading = "Report")]
    pub(crate) metrics: Option<ListenAddr>,

    #[command(flatten)]
    pub(crate) packets: PacketOptions,

    #[command(flatten)]
    pub(crate) outputs: OutputOptions,
}

/// The outputs of a report.
#[derive(Clone, Debug, Args)]
pub(crate) struct OutputOptions {
    /// Write the report as JSON to FILE; with - to standard output, and the table to standard error
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub(crate) json: Option<PathBuf>,

    /// Write the report as an HTML page with plots to FILE; the page loads nothing else
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub(crate) html: Option<PathBuf>,

    /// Write the latency of each second to FILE, in nanoseconds, as a log for HdrHistogram's tools
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub(crate) hdr: Option<PathBuf>,

    /// Exit with status 3 when one of these conditions holds: 'loss>0.01%,p99>1ms,misdirected>0'
    #[arg(long, value_name = "CONDITIONS", help_heading = "Report")]
    pub(crate) fail_if: Option<Conditions>,

    /// Show no progress and no table, only errors; files and the exit status stay
    #[arg(long, short, help_heading = "Report")]
    pub(crate) quiet: bool,
}

impl CommonOptions {
    /// The duration of each run of a search.
    pub(crate) fn search_duration(&self) -> Duration {
        self.duration.and_then(Length::time).unwrap_or(Plan::DURATION)
    }

    /// The longest that a run of a search takes.
    pub(crate) fn longest_search_run(&self) -> Duration {
        // with missing replies, the counters of the server are awaited as long as the replies
        let waits = if self.server_metrics.is_some() { 2 } else { 1 };
        self.warmup + self.search_duration() + self.linger() * waits
    }

    /// Whether only a signal ends the run.
    pub(crate) fn is_endless(&self) -> bool {
        self.duration == Some(Length::Forever) && self.count.is_none()
    }

    /// Whether standard output gets the lines of intervals.
    pub(crate) fn has_lines_on_stdout(&self) -> bool {
        [&self.jsonl, &self.csv].into_iter().flatten().any(|path| path.as_os_str() == "-")
    }

    pub(crate) fn linger(&self) -> Duration {
        self.linger.unwrap_or(self.timeout * 2)
    }

    /// `None`: until the count is reached.
    pub(crate) fn duration(&self) -> Option<Duration> {
        const DEFAULT: Duration = Duration::from_secs(10);
        let has_count = self.count.is_some() || self.each_once.is_some();
        match self.duration {
            Some(length) => length.time(),
            None => (!has_count).then_some(DEFAULT),
        }
    }
}

/// The most visits of each destination.
const EACH_ONCE_MAX: u32 = 10_000;
/// The rate of --each-once, unless --rate sets one.
const EACH_ONCE_PER_S: u64 = 1_000;

/// Options that don't go together, and values that are out of range together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Contradiction {
    #[error("--mode open needs a --rate")]
    OpenWithoutRate,
    #[error("{0} makes an open loop; --mode {1} has no schedule")]
    ScheduleWithoutOpen(&'static str, &'static str),
    #[error(transparent)]
    Schedule(#[from] ScheduleContradiction),
    #[error("--in-flight is for the closed loop; with {0} nothing waits for replies")]
    InFlightWithoutClosed(&'static str),
    #[error("a train of {datagrams} datagrams of {size} bytes is more than one call carries: {most} bytes")]
    TrainTooLong { datagrams: u32, size: u32, most: u32 },
    #[error("--gso {0} is more than one call may carry: 128 datagrams (before Linux 6.9: 64)")]
    TrainOfTooMany(u32),
    #[error("a datagram of {size} bytes is more than IPv4 carries: 65507")]
    TooLargeForV4 { size: u32 },
    #[error("{0} datagrams in flight for each flow are more than blaster remembers: {max}", max = udp::plan::IN_FLIGHT_MAX)]
    TooManyInFlight(u64),
    #[error("--source {0} can't reach {1}, which is of the other address family")]
    SourceOfOtherFamily(String, String),
    #[error("--each-once ends when each destination was visited; --duration can only be forever")]
    RoundsForATime,
    #[error("--find-max and --steps need an end; --duration can't be forever")]
    SearchForever,
    #[error("--count 0 measures nothing")]
    CountOfNothing,
    #[error("--each-once={0} is more than {EACH_ONCE_MAX} visits of each destination")]
    TooManyVisits(u32),
    #[error(transparent)]
    SearchTooShort(#[from] SearchTooShort),
    #[error("--sample {0} is more than blaster remembers: {max}", max = visits::DESTINATIONS_MAX)]
    SampleTooLarge(u32),
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

impl CommonOptions {
    /// Checks that the options go together.
    pub(crate) fn check(&self) -> Result<(), Contradiction> {
        if let Some(source) = &self.source
            && let Some(other) = self.targets.iter().find(|target| target.is_ipv4() != source.is_ipv4())
        {
            return Err(Contradiction::SourceOfOtherFamily(source.to_string(), other.to_string()));
        }
        if self.each_once.is_some() && matches!(self.duration, Some(Length::For(_))) {
            return Err(Contradiction::RoundsForATime);
        }
        if let Some(times) = self.each_once.filter(|times| *times > EACH_ONCE_MAX) {
            return Err(Contradiction::TooManyVisits(times));
        }
        if let Some(sample) = self.sample.filter(|sample| *sample > visits::DESTINATIONS_MAX) {
            return Err(Contradiction::SampleTooLarge(sample));
        }
        if self.count == Some(0) { Err(Contradiction::CountOfNothing) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }

    /// The letters that wrk, iperf3, hey, vegeta and fortio use for the same, where they agree.
    #[test]
    fn the_flags_that_are_typed_most_are_short() {
        let short = udp("-r 5k -d 2s -s 100 -n 7 -f 3 -q").unwrap();
        let long = udp("--rate 5k --duration 2s --size 100 --count 7 --flows 3 --quiet").unwrap();
        assert_eq!(format!("{short:?}"), format!("{long:?}"));
        udp("-c 5").expect_err("neither a count nor connections: -c means either elsewhere");
        let words = "blaster tcp 127.0.0.1:7 -c 5 -d 2s -s 100 -n 7".split_whitespace();
        let Command::Tcp(tcp) = Options::try_parse_from(words).unwrap().command else { unreachable!() };
        assert_eq!((tcp.connections, tcp.common.count), (Some(5), Some(7)));
    }

    fn udp(flags: &str) -> Result<UdpOptions, String> {
        let words = ["blaster", "udp", "127.0.0.1:7"].into_iter().chain(flags.split_whitespace());
        match Options::try_parse_from(words).map_err(|error| error.to_string())?.command {
            Command::Udp(udp) => udp.check().map(|()| udp).map_err(|error| error.to_string()),
            Command::Tcp(_) | Command::Report(_) => unreachable!("udp was asked for"),
        }
    }

    #[test]
    fn the_mode_follows_from_the_flags() {
        for (flags, mode) in [
            ("", UdpMode::Closed),
            ("--in-flight 8", UdpMode::Closed),
            ("--rate 1k", UdpMode::Open),
            ("--steps 1k:1s,2k:1s", UdpMode::Open),
            ("--find-max", UdpMode::Open),
            ("--find-max --rate 1k --p99 1ms --loss 0%", UdpMode::Open),
            ("--mode flood", UdpMode::Flood),
        ] {
            assert_eq!(udp(flags).unwrap().mode(), mode, "{flags:?}");
        }
    }

    #[test]
    fn flags_that_do_not_go_together() {
        for flags in [
            "--mode open",
            "--mode closed --rate 1k",
            "--mode flood --rate 1k",
            "--rate 1k --in-flight 2",
            "--mode flood --in-flight 2",
            "--gso 129",
            "--gso 64 --size 1400",
            "--size 65510",
            "--in-flight 5M",
            "--in-flight 200k --gso 32",
            "--in-flight 5M",
            "--in-flight 200k --gso 32 --size 64",
            "--count 0",
            "--each-once --duration 5s",
            "--find-max --duration forever",
            "--source ::1",
            "--find-max --search-time 3s",
            "--find-max --search-time 100ms --duration 50ms --linger 60ms",
        ] {
            assert!(!udp(flags).expect_err(flags).contains('\n'), "{flags:?}");
        }
        for flags in [
            "--size 31",
            "--rate 0",
            "--flows 0",
            "--duration soon",
            "--fail-if p98>1ms",
            "--gro maybe",
            "--nonsense",
            "--steps 1k",
            "--steps 1k:1s --rate 1k",
            "--source 127.0.0.1/8",
            "--source 127.0.0.1:7",
            "--steps 1k:1s --find-max",
            "--find-max --count 5",
            "--find-max --precision 0%",
            "--find-max --repeat 101",
            "--search-runs 5",
            "--search-time 1m",
            "--p99 1ms",
        ] {
            udp(flags).expect_err(flags);
        }
    }
}
