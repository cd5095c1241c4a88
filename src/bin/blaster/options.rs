//! The command line and its --help.

mod common;
mod contradiction;
mod destination; // targets, --source, the guard
mod mtu;
mod outputs;
mod rates; // --rate, --steps, --find-max
mod schedule; // --gaps, --burst, --replay
mod search;
mod tcp;
mod udp;

use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tubular_echo::console::help;

pub(crate) use self::common::CommonOptions;
pub(crate) use self::contradiction::Contradiction;
pub(crate) use self::destination::DestinationOptions;
pub(crate) use self::mtu::MtuOptions;
pub(crate) use self::outputs::{OutputOptions, ReportOptions};
pub(crate) use self::rates::RateOptions;
pub(crate) use self::tcp::TcpOptions;
pub(crate) use self::udp::{Switch, UdpMode, UdpOptions};
use crate::manual::MANUAL;
use crate::model::quantity::{Length, Rate};
use crate::model::rate_curve::RateCurve;
use crate::tcp::plan::Mode;

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

/// The options that people type, and that -h shows.
const TYPED: [&str; 19] = [
    "mode",
    "rate",
    "in-flight",
    "flows",
    "connections",
    "spray",
    "each-once",
    "size",
    "source",
    "find-max",
    "duration",
    "count",
    "timeout",
    "threads",
    "allow-public",
    "json",
    "html",
    "fail-if",
    "quiet",
];

/// The definition of the command line.
pub(crate) fn command() -> clap::Command {
    ["udp", "tcp"].iter().fold(Options::command(), |command, name| {
        command.mut_subcommand(name, |load| help::shorten(load, &TYPED))
    })
}

impl Options {
    /// Reads the command line.
    pub(crate) fn read() -> Result<Self, clap::Error> {
        Self::from_arg_matches(&command().try_get_matches()?)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Load a UDP echo path with flows of datagrams
    #[command(after_long_help = MANUAL)]
    Udp(UdpOptions),
    /// Load a TCP echo path with connections
    #[command(after_long_help = MANUAL)]
    Tcp(TcpOptions),
    /// Find the path MTU to an echo server: the largest packet that gets there, and whose reply comes back, whole
    #[command(after_long_help = MANUAL)]
    Mtu(MtuOptions),
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

    pub(crate) fn rates(&self) -> &RateOptions {
        match self {
            Self::Udp(udp) => &udp.rates,
            Self::Tcp(tcp) => &tcp.rates,
        }
    }

    pub(crate) fn common_mut(&mut self) -> &mut CommonOptions {
        match self {
            Self::Udp(udp) => &mut udp.common,
            Self::Tcp(tcp) => &mut tcp.common,
        }
    }

    /// Checks that the options go together.
    pub(crate) fn check(&self) -> Result<(), Contradiction> {
        match self {
            Self::Udp(udp) => udp.check(),
            Self::Tcp(tcp) => tcp.check(),
        }
    }

    /// How long to measure. `None`: until the count is reached.
    pub(crate) fn duration(&self) -> Option<Duration> {
        self.rates().duration(self.common())
    }

    /// What a rate counts, as a noun.
    pub(crate) fn due_unit(&self) -> &'static str {
        match self {
            Self::Udp(_) => "datagram",
            Self::Tcp(tcp) if tcp.mode() == Mode::Connect => "connection",
            Self::Tcp(_) => "message",
        }
    }

    /// The rate of the first run of a search.
    pub(crate) fn first_rate(&self) -> Rate {
        /// Without `--rate`. A new connection takes a server more time than a message.
        const MESSAGES_PER_S: u64 = 10_000;
        const CONNECTIONS_PER_S: u64 = 1_000;
        let implied = if self.due_unit() == "connection" { CONNECTIONS_PER_S } else { MESSAGES_PER_S };
        self.rates().rate.as_ref().and_then(RateCurve::constant).unwrap_or(Rate::whole(implied))
    }

    /// The longest that a run of a search takes.
    pub(crate) fn longest_search_run(&self) -> Duration {
        match self {
            Self::Udp(udp) => udp.common.longest_search_run(),
            Self::Tcp(tcp) => tcp.longest_search_run(),
        }
    }

    /// The same load for a single run at this rate.
    pub(crate) fn step(&self, rate: Rate, duration: Duration) -> Self {
        let mut step = self.clone();
        let (rates, common) = match &mut step {
            Self::Udp(udp) => (&mut udp.rates, &mut udp.common),
            Self::Tcp(tcp) => (&mut tcp.rates, &mut tcp.common),
        };
        *rates = rates.at(rate);
        common.duration = Some(Length::For(duration));
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
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
            Command::Tcp(_) | Command::Mtu(_) | Command::Report(_) => unreachable!("udp was asked for"),
        }
    }

    fn tcp(flags: &str) -> Result<TcpOptions, String> {
        let words = ["blaster", "tcp", "127.0.0.1:7"].into_iter().chain(flags.split_whitespace());
        match Options::try_parse_from(words).map_err(|error| error.to_string())?.command {
            Command::Tcp(tcp) => tcp.check().map(|()| tcp).map_err(|error| error.to_string()),
            Command::Udp(_) | Command::Mtu(_) | Command::Report(_) => unreachable!("tcp was asked for"),
        }
    }

    #[test]
    fn a_schedule_makes_an_open_loop_of_tcp_unless_it_connects() {
        for (flags, mode) in [
            ("", Mode::PingPong),
            ("--rate 1k", Mode::Open),
            ("--rate 1k..2k:1s --gaps poisson --burst 5", Mode::Open),
            ("--burst 10/10ms", Mode::Open),
            ("--steps 1k:1s,2k:1s", Mode::Open),
            ("--steps 1k:1s --mode open", Mode::Open),
            ("--find-max --p99 1ms", Mode::Open),
            ("--mode connect", Mode::Connect),
            ("--mode connect --burst 10/10ms", Mode::Connect),
            ("--mode connect --find-max --rate 50 --gaps poisson", Mode::Connect),
            ("--mode connect --steps 1k:1s", Mode::Connect),
            ("--each-once --gaps poisson", Mode::Connect),
        ] {
            assert_eq!(tcp(flags).unwrap().mode(), mode, "{flags:?}");
        }
        for (flags, words) in [
            ("--mode open", "--mode open needs a --rate"),
            ("--gaps poisson", "--gaps poisson needs a --rate"),
            ("--mode connect --gaps poisson", "--gaps poisson needs a --rate"),
            ("--mode ping-pong --rate 1k", "--rate makes an open loop; --mode ping-pong has no schedule"),
            ("--mode stream --steps 1k:1s", "--steps makes an open loop; --mode stream has no schedule"),
            ("--mode stream --find-max", "--find-max makes an open loop; --mode stream has no schedule"),
            ("--mode ping-pong --burst 5/1s", "--burst makes an open loop; --mode ping-pong has"),
            ("--find-max --duration forever", "need an end"),
            ("--find-max --rate 1k..2k:1s", "--find-max starts with one rate"),
            ("--find-max --search-time 3s", "--search-time 3s is less than one run may take"),
            ("--burst 10/10ms --rate 1k", "leave out --rate"),
        ] {
            let text = tcp(flags).expect_err(flags);
            assert!(text.contains(words) && !text.contains('\n'), "{flags:?}: {text}");
        }
        tcp("--steps 1k:1s --find-max").expect_err("one or the other");
        tcp("--find-max --count 5").expect_err("a run of a search has a duration");
    }

    #[test]
    fn a_search_of_connections_begins_slowly() {
        for (load, per_s) in [
            (LoadOptions::Udp(udp("--find-max").unwrap()), 10_000.0),
            (LoadOptions::Tcp(tcp("--find-max").unwrap()), 10_000.0),
            (LoadOptions::Tcp(tcp("--find-max --mode connect").unwrap()), 1_000.0),
            (LoadOptions::Tcp(tcp("--find-max --mode connect --rate 7").unwrap()), 7.0),
        ] {
            assert_eq!(load.first_rate(), Rate { per_1000_s: (per_s * 1e3) as u64 }, "{load:?}");
            let step = load.step(Rate::whole(5), Duration::from_secs(3));
            assert!(!step.rates().has_steps() && step.duration() == Some(Duration::from_secs(3)));
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
            "--mode closed --steps 1k:1s",
            "--mode flood --find-max",
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
