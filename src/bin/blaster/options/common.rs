//! The options of both protocols.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use tubular_echo::sockets::listen_addr::ListenAddr;

use super::contradiction::Contradiction;
use super::destination::DestinationOptions;
use super::outputs::OutputOptions;
use crate::judge::search::Plan;
use crate::model::metrics_url::MetricsUrl;
use crate::model::quantity::{self, Length, Sizes};
use crate::model::visits;

/// The rate of --each-once, unless --rate sets one.
pub(super) const EACH_ONCE_PER_S: u64 = 1_000;

/// The options of both protocols.
// one field for each option
#[derive(Clone, Debug, Args)]
pub(crate) struct CommonOptions {
    #[command(flatten)]
    pub(crate) destination: DestinationOptions,

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
    #[arg(long, value_name = "http://HOST:PORT/metrics", help_heading = "Report")]
    pub(crate) server_metrics: Option<MetricsUrl>,

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
    pub(crate) outputs: OutputOptions,
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

    /// Checks that the options go together.
    pub(crate) fn check(&self) -> Result<(), Contradiction> {
        self.destination.check()?;
        if self.each_once.is_some() && matches!(self.duration, Some(Length::For(_))) {
            return Err(Contradiction::RoundsForATime);
        }
        if let Some(times) = self.each_once.filter(|times| *times > visits::TIMES_MAX) {
            return Err(Contradiction::TooManyVisits(times));
        }
        if let Some(sample) = self.sample.filter(|sample| *sample > visits::DESTINATIONS_MAX) {
            return Err(Contradiction::SampleTooLarge(sample));
        }
        if self.count == Some(0) { Err(Contradiction::CountOfNothing) } else { Ok(()) }
    }
}
