//! The command line and its --help.

mod common;
mod contradiction;
mod outputs;
mod schedule; // --gaps, --burst, --replay
mod search;
mod tcp;
mod udp;

use std::time::Duration;

use clap::{Parser, Subcommand};

pub(crate) use self::common::CommonOptions;
pub(crate) use self::contradiction::Contradiction;
pub(crate) use self::outputs::{OutputOptions, ReportOptions};
pub(crate) use self::tcp::TcpOptions;
pub(crate) use self::udp::{Switch, UdpMode, UdpOptions};
use crate::manual::MANUAL;

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
