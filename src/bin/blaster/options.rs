//! The command line, and a --help that reads like a manual.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::quantity::{self, Rate, Sizes};
use crate::target::Target;
use crate::tcp;
use crate::udp;
use crate::verdict::Conditions;

const MANUAL: &str = "\
TARGETS
  ADDR:PORT         127.0.0.1:1234, [::1]:1234, [fe80::1%eth0]:1234
  PREFIX:PORT       192.0.2.0/24:1234, [2001:db8::/64]:1234
  PREFIX:LOW-HIGH   192.0.2.0/24:5000-5999
  PREFIX:any        192.0.2.0/24:any (ports 1024-65535)
  Several targets take turns. Each flow or connection draws its own address and
  port; with --spray each datagram does. What is drawn depends on --seed alone.
  Names are not looked up.

MODES OF UDP
  open     by a schedule that does not care for replies (--rate). Latency counts
           from the moment when a datagram was meant to be sent, so a stall of
           the server, or of blaster, can't hide itself.
  closed   each flow keeps --in-flight datagrams on their way and sends the next
           when one is answered, or is overdue after --timeout. Shows what a path
           carries; its latency flatters a server that stalls.
  flood    as fast as the kernel takes them. Shows what breaks first.
  TCP is always a closed loop: what a connection sends next waits for what it
  sent before.

THE BOOKS
  Each datagram (TCP: message) that was sent is in exactly one class:
    ok            every byte as sent, from the address and port that it was sent
                  to, in time
    corrupted     other bytes came back, or more of them
    truncated     a true beginning came back, and no more
    misdirected   the reply came from another address or port
    late          right, but after --timeout
    lost          nothing came
    unreachable   the network said so (ICMP), and nothing came
  Beside them: duplicated, reordered (overtaken by a later one of its flow),
  unattributed (came, but answers nothing of ours), send_failures (our own kernel
  refused), own_drops (our own sockets overflowed).

CONDITIONS for --fail-if, separated by commas
  COUNT>N or COUNT>P%   a name from the books, or sent; P% is of what was sent;
                        loss means lost
  LATENCY>DURATION      p50, p90, p99, p99.9, p99.99, max, from the intended send
                        time; with the prefix actual_ from the actual one, with
                        slip_ the generator's own delay
  rate<N                right replies per second
  Comparisons: > >= < <=. A latency that could not be measured fails its
  condition.

EXIT STATUS
  0  done
  1  could not run, or nothing at all came back
  2  bad command line
  3  a --fail-if holds

EXAMPLES
  blaster udp 127.0.0.1:1234 --rate 50k --duration 5s
  blaster udp 192.0.2.0/24:any --spray --flows 64 --in-flight 8 \\
      --fail-if 'loss>0.01%,p99>1ms,misdirected>0'
  blaster udp [::1]:1234 --mode flood --gso 32 --size 1200 --json report.json
  blaster tcp 127.0.0.1:1234 --connections 64 --size 16k
";

/// A load tester for UDP and TCP echo servers that can be believed
///
/// Sends datagrams or messages, and judges every byte, the order, the timing and the source of what comes
/// back. It goes easy on others: without --allow-public it loads loopback, link-local, private,
/// unique-local, documentation and benchmarking addresses only, and never multicast or broadcast.
#[derive(Debug, Parser)]
#[command(name = "blaster", version, max_term_width = 100, after_long_help = MANUAL, disable_help_subcommand = true)]
pub(crate) struct Options {
    /// What to send.
    #[command(subcommand)]
    pub(crate) load: Load,
}

/// The protocol.
#[derive(Debug, Subcommand)]
pub(crate) enum Load {
    /// Load a UDP echo path with flows of datagrams
    #[command(after_long_help = MANUAL)]
    Udp(Udp),
    /// Load a TCP echo path with connections: a closed loop, every byte verified
    #[command(after_long_help = MANUAL)]
    Tcp(Tcp),
}

impl Load {
    /// What both protocols have.
    pub(crate) fn common(&self) -> &Common {
        match self {
            Self::Udp(udp) => &udp.common,
            Self::Tcp(tcp) => &tcp.common,
        }
    }
}

/// How UDP flows decide when to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum UdpMode {
    /// By the schedule of --rate
    Open,
    /// When an answer makes room
    Closed,
    /// As fast as the kernel takes it
    Flood,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    /// Yes
    On,
    /// No
    Off,
}

/// `blaster udp`.
#[derive(Debug, Args)]
pub(crate) struct Udp {
    /// How flows decide when to send [default: open with --rate, else closed]
    #[arg(long, value_enum, help_heading = "Load")]
    pub(crate) mode: Option<UdpMode>,

    /// Datagrams per second over all flows: 500, 200k, 1.5M
    #[arg(long, value_name = "RATE", help_heading = "Load")]
    pub(crate) rate: Option<Rate>,

    /// Datagrams that each flow of a closed loop keeps on their way (with --gso: trains) [default: 1]
    #[arg(long, value_name = "N", value_parser = quantity::positive, help_heading = "Load")]
    pub(crate) in_flight: Option<u32>,

    /// Flows: sockets, each with a port of its own
    #[arg(long, value_name = "N", default_value = "64", value_parser = quantity::positive, help_heading = "Load")]
    pub(crate) flows: u32,

    /// Draw address and port for each datagram (with --gso: each train), not for each flow
    #[arg(long, help_heading = "Load")]
    pub(crate) spray: bool,

    /// Send trains: N datagrams of one flow and size in one call (UDP_SEGMENT); sizes are drawn per flow then
    #[arg(long, value_name = "N", default_value = "1", value_parser = quantity::positive, help_heading = "Load")]
    pub(crate) gso: u32,

    /// Receive trains in one piece (UDP_GRO). It decides what a server's replies cost when they pass whole,
    /// as over loopback: switch it off to be like the many clients that don't have it
    #[arg(long, value_enum, default_value = "on", help_heading = "Load")]
    pub(crate) gro: Switch,

    #[command(flatten)]
    pub(crate) common: Common,
}

/// `blaster tcp`.
#[derive(Debug, Args)]
pub(crate) struct Tcp {
    /// What each connection does
    #[arg(long, value_enum, default_value = "ping-pong", help_heading = "Load")]
    pub(crate) mode: tcp::Mode,

    /// Connections at a time
    #[arg(long, value_name = "N", default_value = "16", value_parser = quantity::positive, help_heading = "Load")]
    pub(crate) connections: u32,

    #[command(flatten)]
    pub(crate) common: Common,
}

/// What both protocols have.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Where to send: ADDR:PORT, PREFIX:PORT, PREFIX:LOW-HIGH or PREFIX:any
    #[arg(required = true, value_name = "TARGET")]
    pub(crate) targets: Vec<Target>,

    /// Bytes of each datagram or message, at least 32: 64, 64-1400 (any of the range) or 64,512,1400 (any
    /// of the list) [default: 64; streaming 16384]
    #[arg(long, value_name = "BYTES", help_heading = "Load")]
    pub(crate) size: Option<Sizes>,

    /// How long to measure [default: 10s, without --count]
    #[arg(long, value_name = "TIME", value_parser = quantity::duration, help_heading = "Run")]
    pub(crate) duration: Option<Duration>,

    /// How many datagrams or messages to measure
    #[arg(long, value_name = "N", value_parser = quantity::count, help_heading = "Run")]
    pub(crate) count: Option<u64>,

    /// Send for so long before measuring; what is sent then is not in the report
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = quantity::duration_or_zero, help_heading = "Run")]
    pub(crate) warmup: Duration,

    /// A reply that takes longer is late
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = quantity::duration, help_heading = "Run")]
    pub(crate) timeout: Duration,

    /// How long to listen after the last send while replies are missing [default: twice the timeout]
    #[arg(long, value_name = "TIME", value_parser = quantity::duration, help_heading = "Run")]
    pub(crate) linger: Option<Duration>,

    /// Threads that share the flows or connections
    #[arg(long, value_name = "N", default_value = "1", value_parser = quantity::positive, help_heading = "Run")]
    pub(crate) threads: u32,

    /// Where random choices begin; the same seed makes the same choices [default: any]
    #[arg(long, value_name = "N", help_heading = "Run")]
    pub(crate) seed: Option<u64>,

    /// Load public addresses too. Only do this to hosts that are yours
    #[arg(long, help_heading = "Run")]
    pub(crate) allow_public: bool,

    /// Write the report as JSON to FILE, or with - to standard output (and the table to standard error)
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub(crate) json: Option<PathBuf>,

    /// Exit with status 3 when one of these conditions holds: 'loss>0.01%,p99>1ms,misdirected>0'
    #[arg(long, value_name = "CONDITIONS", help_heading = "Report")]
    pub(crate) fail_if: Option<Conditions>,

    /// No progress and no table: only --json, errors and the exit status
    #[arg(long, short, help_heading = "Report")]
    pub(crate) quiet: bool,
}

impl Common {
    /// How long to listen after the last send.
    pub(crate) fn linger(&self) -> Duration {
        self.linger.unwrap_or(self.timeout * 2)
    }

    /// How long to measure. `None`: until the count is reached.
    pub(crate) fn duration(&self) -> Option<Duration> {
        const DEFAULT: Duration = Duration::from_secs(10);
        self.duration.or(self.count.is_none().then_some(DEFAULT))
    }
}

/// Flags that don't go together; clap reports it with its own exit status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Contradiction {
    #[error("--mode open needs a --rate")]
    OpenWithoutRate,
    #[error("--rate makes an open loop; --mode {0} has no schedule")]
    RateWithoutOpen(&'static str),
    #[error("--in-flight is for the closed loop; with {0} nothing waits for replies")]
    InFlightWithoutClosed(&'static str),
    #[error("a train of {datagrams} datagrams of {size} bytes is more than one call carries: {most} bytes")]
    TrainTooLong { datagrams: u32, size: u32, most: u32 },
    #[error("--gso {0} is more than the kernel cuts from one call: 128 (before Linux 6.9: 64)")]
    TrainOfTooMany(u32),
    #[error("a datagram of {size} bytes is more than IPv4 carries: 65507")]
    TooLargeForV4 { size: u32 },
    #[error("{0} datagrams in flight for each flow are more than blaster remembers: {max}", max = udp::IN_FLIGHT_MAX)]
    TooManyInFlight(u64),
    #[error("--count 0 measures nothing")]
    CountOfNothing,
}

impl Udp {
    /// The mode, asked for or implied.
    pub(crate) fn mode(&self) -> UdpMode {
        self.mode.unwrap_or(if self.rate.is_some() { UdpMode::Open } else { UdpMode::Closed })
    }

    /// The sizes, asked for or implied.
    pub(crate) fn sizes(&self) -> Sizes {
        self.common.size.clone().unwrap_or(Sizes::Fixed(64))
    }

    /// Whether the flags go together.
    pub(crate) fn check(&self) -> Result<(), Contradiction> {
        /// Datagrams that one call may be cut into (`UDP_MAX_SEGMENTS`, Linux 6.9).
        const SEGMENTS_MAX: u32 = 128;
        self.common.check()?;
        match (self.mode(), self.rate) {
            (UdpMode::Open, None) => return Err(Contradiction::OpenWithoutRate),
            (UdpMode::Closed, Some(_)) => return Err(Contradiction::RateWithoutOpen("closed")),
            (UdpMode::Flood, Some(_)) => return Err(Contradiction::RateWithoutOpen("flood")),
            _ => {}
        }
        match (self.mode(), self.in_flight) {
            (UdpMode::Open, Some(_)) => return Err(Contradiction::InFlightWithoutClosed("--rate")),
            (UdpMode::Flood, Some(_)) => return Err(Contradiction::InFlightWithoutClosed("--mode flood")),
            _ => {}
        }
        let in_flight = u64::from(self.in_flight.unwrap_or(1)) * u64::from(self.gso);
        if in_flight > u64::from(udp::IN_FLIGHT_MAX) {
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

impl Tcp {
    /// The sizes, asked for or implied.
    pub(crate) fn sizes(&self) -> Sizes {
        let implied = if self.mode == tcp::Mode::Stream { 16_384 } else { 64 };
        self.common.size.clone().unwrap_or(Sizes::Fixed(implied))
    }
}

impl Common {
    /// Whether the flags go together.
    pub(crate) fn check(&self) -> Result<(), Contradiction> {
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

    fn udp(flags: &str) -> Result<Udp, String> {
        let words = ["blaster", "udp", "127.0.0.1:7"].into_iter().chain(flags.split_whitespace());
        match Options::try_parse_from(words).map_err(|error| error.to_string())?.load {
            Load::Udp(udp) => udp.check().map(|()| udp).map_err(|error| error.to_string()),
            Load::Tcp(_) => unreachable!("udp was asked for"),
        }
    }

    #[test]
    fn the_mode_follows_from_the_flags() {
        for (flags, mode) in [
            ("", UdpMode::Closed),
            ("--in-flight 8", UdpMode::Closed),
            ("--rate 1k", UdpMode::Open),
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
        ] {
            udp(flags).expect_err(flags);
        }
    }
}
