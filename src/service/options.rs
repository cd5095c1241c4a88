//! The server's command line.

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::num::{NonZeroU32, NonZeroUsize};
use std::process;
use std::time::Duration;

use clap::builder::{BoolishValueParser, NonEmptyStringValueParser};
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::check::CheckOptions;
use crate::console::help;
use crate::health::HealthOptions;
use crate::service::budget::WORKERS_MAX;
use crate::service::config::{ServerConfig, Steer, Workers};
use crate::sockets::endpoint::{self, Endpoint};
use crate::sockets::keepalive;
use crate::sockets::listen_addr::ListenAddr;
use crate::values::duration;
use crate::values::ports::PortsExcept;

const AFTER_HELP: &str = "\
Examples:
  tubular-echo                                    loopback, port 1234, TCP and UDP, IPv4 and IPv6
  tubular-echo --listen 192.0.2.1:7 --workers auto
  tubular-echo --listen 192.0.2.1:7 --public      on the open Internet
  tubular-echo check 4242                         can tubectl register process 4242, and how
  tubular-echo health                             does the server answer on all its addresses
  tubular-echo --udp 0.0.0.0:7 --udp '[::]:7' --stats-interval 10s
  systemd-run -p Type=notify -- tubular-echo      active once every socket is armed

Environment:
  TUBULAR_ECHO_…   sets an option: TUBULAR_ECHO_DRAIN_TIMEOUT=5s is --drain-timeout 5s,
                   TUBULAR_ECHO_PIN=true is --pin. Commas separate several addresses. The command line
                   wins over the variable, and the variable, unless it is empty, over the default
  RUST_LOG         level of the log on stderr: error, warn, info (default), debug
  NO_COLOR         any value switches colors on a terminal off, and so does TERM=dumb
  LISTEN_FDS       sockets passed by systemd; without --listen, --tcp and --udp they replace the default
  NOTIFY_SOCKET    socket of the service manager for READY=1 and STATUS= (set by systemd)
  WATCHDOG_USEC    time that systemd allows between two signs of life

Signals:
  SIGTERM, SIGINT, SIGHUP  drain and exit with status 0; a second SIGTERM or SIGINT ends the server at
                           once. A SIGHUP that is ignored at the start (nohup(1)) stays ignored

Exit status:
  0 ended by a signal   1 did not start, or a worker failed   2 wrong usage";

/// Defaults of the limits; zero for none.
struct LimitDefaults {
    udp_prefix_rate: u32,
    udp_reply_rate: u32,
    connections_per_prefix: usize,
    idle_timeout: Duration,
}

/// Without `--public` there are no limits: on a private network an echo server is there to be loaded.
const PRIVATE_DEFAULTS: LimitDefaults = LimitDefaults {
    udp_prefix_rate: 0,
    udp_reply_rate: 0,
    connections_per_prefix: 0,
    idle_timeout: Duration::ZERO,
};

/// With `--public`: enough for people who test, too little to harm the owner of a forged address. With full-sized
/// datagrams one victim gets at most 2.4 Mbit/s, all victims together 240 Mbit/s.
const PUBLIC_DEFAULTS: LimitDefaults = LimitDefaults {
    udp_prefix_rate: 200,
    udp_reply_rate: 20_000,
    connections_per_prefix: 100,
    idle_timeout: Duration::from_mins(1),
};

/// A TCP and UDP echo server on io_uring. It returns every TCP byte and UDP datagram unchanged, from the exact
/// address and port that the client contacted, anywhere in a prefix that tubular (BPF sk_lookup) steers to it.
#[derive(Parser, Debug)]
#[command(name = "tubular-echo", version, after_help = AFTER_HELP, max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true)]
#[allow(clippy::struct_excessive_bools)] // each is an independent switch
// one field for each option
pub struct Options {
    /// Run a command instead of the server
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Serve TCP and UDP on this address; repeatable. Default: port 1234 on loopback, IPv4 and IPv6. Port 0 takes
    /// one free port for both protocols. IPv6 addresses stand in brackets, link-local ones with their interface:
    /// [fe80::1%eth0]:1234. If the host lacks an address family, its loopback and wildcard addresses are left
    /// out with a warning. The server waits up to 5 seconds for an address that does not exist yet
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Vec<ListenAddr>,

    /// Serve TCP on this address; repeatable
    #[arg(long, value_name = "ADDR:PORT")]
    tcp: Vec<ListenAddr>,

    /// Serve UDP on this address; repeatable
    #[arg(long, value_name = "ADDR:PORT")]
    udp: Vec<ListenAddr>,

    /// Share the ports with other processes of this user that allow it (SO_REUSEPORT). Without this option a
    /// port in use is an error. The address of --metrics is not shared but taken over when its holder ends
    #[arg(long)]
    join: bool,

    /// Number of worker threads, each with its own ring and sockets, up to 4096. `auto` starts one for each
    /// processor that the process may run on, but no more than the quota of its control group allows
    #[arg(long, value_name = "N|auto", default_value = "1", value_parser = parse_workers)]
    workers: Workers,

    /// Pin each worker to a processor
    #[arg(long)]
    pin: bool,

    /// What chooses the worker: `hash`, the kernel's hash of both addresses and ports; or `cpu`, the processor on which
    /// the kernel receives the datagram or the SYN. `cpu` implies --pin. It saves the way to another processor, and
    /// needs as many busy NIC queues as workers. Processors without a worker of their own leave the choice to the hash
    #[arg(long, value_name = "HOW", default_value = "hash")]
    steer: Steer,

    /// Poll for this long, like 20us, before a worker sleeps. A client that waits for each reply gets several
    /// times as many echoes; the price is processor time. Polling stops by itself while it finds nothing, or
    /// while there is much to do. 0s: never poll
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = parse_busy_poll)]
    busy_poll: Duration,

    /// TCP connections served at a time, divided evenly among the workers. Further connections wait to be
    /// accepted. Default: 10000, or what the limit of open files allows
    #[arg(long, value_name = "N")]
    max_connections: Option<NonZeroUsize>,

    /// Serve the open Internet, where attackers forge source addresses. Sets these limits, unless they are given:
    /// --idle-timeout 1min, --max-connections-per-prefix 100, --udp-prefix-rate 200, --udp-reply-rate 20000.
    /// Datagrams from ports of services that reflect, such as DNS, get no answer
    #[arg(long)]
    public: bool,

    /// Datagrams per second that each worker answers for one source (an IPv4 /24 or an IPv6 /56). A source may
    /// send one second's worth at once. The rest is dropped and counted. 0: no limit
    #[arg(long, value_name = "N")]
    udp_prefix_rate: Option<u32>,

    /// Datagrams per second that the server answers, divided evenly among the workers. 0: no limit
    #[arg(long, value_name = "N")]
    udp_reply_rate: Option<u32>,

    /// TCP connections of one source (an IPv4 address or an IPv6 /64) at a time. Further ones are closed at once.
    /// 0: no limit
    #[arg(long, value_name = "N")]
    max_connections_per_prefix: Option<usize>,

    /// Close a TCP connection after this time without traffic, like 1min; it may take up to an eighth longer.
    /// 0s: never
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout)]
    idle_timeout: Option<Duration>,

    /// Close a TCP connection when its peer acknowledges or accepts no data for this long while echo data is
    /// waiting (TCP_USER_TIMEOUT). 0s: the system's default, about 15 minutes
    #[arg(long, value_name = "DURATION", default_value = "2min", value_parser = parse_timeout)]
    tcp_user_timeout: Duration,

    /// Probe the peer of a TCP connection after this time of silence, like 30s (keepalive). The system of a live
    /// peer answers the probe. If no answer comes, the connection ends at --tcp-user-timeout, or, where that
    /// is 0s, after the same time again. 0s: never. Default: half of --tcp-user-timeout, or 1min
    #[arg(long, value_name = "DURATION", value_parser = parse_keepalive)]
    tcp_keepalive: Option<Duration>,

    /// DSCP of UDP replies: `reflect` copies it from the datagram that is answered, as the kernel does for a ping;
    /// `none` sends the socket's own, which is 0. The ECN bits are always 0
    #[arg(long, value_name = "HOW", default_value = "reflect")]
    dscp: Dscp,

    /// Log all counters at this interval, like 10s or 1min. Default: only at the end
    #[arg(long, value_name = "DURATION", value_parser = parse_interval)]
    stats_interval: Option<Duration>,

    /// Serve Prometheus metrics at http://ADDR:PORT/metrics, and /healthz. That answers 200 while every worker
    /// runs, and 503 before the server is ready, while a worker is stuck and during the drain. Use a trusted
    /// network: there is no password
    #[arg(long, value_name = "ADDR:PORT")]
    metrics: Option<ListenAddr>,

    /// Label of these sockets in tubular's bindings. All metrics carry it, so that queries can join them with
    /// tubular's metrics
    #[arg(long, value_name = "LABEL", value_parser = NonEmptyStringValueParser::new())]
    label: Option<String>,

    /// Time limit of the drain, from SIGTERM on
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration::parse)]
    drain_timeout: Duration,

    /// Store the listening sockets at systemd for the next process (FileDescriptorStoreMax=), so that a restart
    /// loses nothing. Switched on automatically where systemd sets FDSTORE (254 and later)
    #[arg(long)]
    fd_store: bool,

    /// Reply sockets per worker: sockets that answer from the UDP port that the client contacted where it is not
    /// the bound port (a tubular binding of all ports). 0: such datagrams are dropped. Default: 1000, or what
    /// the limit of open files allows
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(..=30000))]
    reply_sockets: Option<u16>,

    /// Reply sockets that each worker opens per second, at most. Datagrams beyond that are dropped and counted
    #[arg(long, value_name = "N", default_value = "10000", value_parser = clap::value_parser!(u32).range(1..))]
    reply_socket_rate: u32,

    /// Close a reply socket after this time without a reply. Until then no other process can bind its port
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_interval)]
    reply_socket_idle: Duration,

    /// Ports that no reply socket binds, like reserved,5353,8000-8099. Datagrams to them are dropped and counted.
    /// `reserved` stands for net.ipv4.ip_local_reserved_ports as it is at the start; `none` allows all ports.
    /// Ports that the server listens on are not affected
    #[arg(long, value_name = "PORTS", default_value = "reserved")]
    reply_ports_except: PortsExcept,
}

/// DSCP of UDP replies.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Dscp {
    /// The DSCP of the datagram that is answered.
    Reflect,
    /// The socket's own.
    None,
}

/// Commands other than to serve.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Show whether `tubectl register-pid` can register a process, and the commands that do it
    Check(CheckOptions),
    /// Ask a running server whether it answers, as the HEALTHCHECK of a container does
    Health(HealthOptions),
}

/// The options contradict each other.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// An address that two options name for the same protocol.
    #[error("{0} is named twice for the same protocol; name each address once")]
    Twice(ListenAddr),
    /// The kernel counts the sockets of all processes that share a port, and none knows its own numbers.
    #[error(
        "--steer cpu and --join exclude each other: nobody knows which numbers the sockets of several processes have; \
         leave out one of them"
    )]
    SteerJoin,
    /// With these times the kernel would end a connection because of one lost segment.
    #[error(
        "--tcp-keepalive {} is not shorter than --tcp-user-timeout {}: one lost probe would end a connection; make it \
         shorter, or --tcp-user-timeout longer or 0s",
        humantime::format_duration(*.keepalive),
        humantime::format_duration(*.user_timeout)
    )]
    Keepalive {
        /// Silence before the first probe.
        keepalive: Duration,
        /// Time without an answer after which the kernel ends the connection.
        user_timeout: Duration,
    },
}

/// The prefix of each option's environment variable.
const VARIABLE_PREFIX: &str = "TUBULAR_ECHO_";

/// The variable that stands for an option, such as `TUBULAR_ECHO_FD_STORE` for `--fd-store`.
fn variable(long: &str) -> String {
    VARIABLE_PREFIX.to_owned() + &long.replace('-', "_").to_uppercase()
}

/// The definition of the command line, where each option may come from its variable in the environment.
pub fn command() -> clap::Command {
    let health = |health: clap::Command| health.mut_args(with_variable);
    let command = Options::command().mut_args(with_variable).mut_subcommand("health", health);
    help::shorten(command, &TYPED)
}

/// The options that people type, and that -h shows.
const TYPED: [&str; 13] = [
    "listen",
    "tcp",
    "udp",
    "workers",
    "pin",
    "busy-poll",
    "max-connections",
    "public",
    "stats-interval",
    "metrics",
    "label",
    "drain-timeout",
    "fd-store",
];

fn with_variable(arg: Arg) -> Arg {
    let Some(variable) = arg.get_long().map(variable) else { return arg };
    let arg = match arg.get_action() {
        ArgAction::SetTrue => arg.value_parser(BoolishValueParser::new()),
        ArgAction::Append => arg.value_delimiter(','),
        _ => arg,
    };
    let is_empty = env::var_os(&variable).is_some_and(|value| value.is_empty());
    // the help explains the rule once and hides the single names
    let name: &'static str = variable.leak();
    if is_empty { arg } else { arg.env(name).hide_env(true) }
}

impl Options {
    /// Reads the command line and the environment. Ends the process if they are wrong or ask for help.
    pub fn read() -> Self {
        let read = || Self::from_arg_matches(&command().try_get_matches()?);
        read().unwrap_or_else(|error| {
            // if the output is closed or full, only the exit status reports the error
            let _ = error.print();
            if let Some(variable) = culprit(&error, env::args_os()) {
                let _ = writeln!(io::stderr(), "The value is that of {variable} in the environment.");
            }
            process::exit(error.exit_code())
        })
    }

    /// The settings of the server.
    pub fn server(self) -> Result<ServerConfig, Contradiction> {
        let named =
            |addrs: Vec<ListenAddr>, tcp, udp| addrs.into_iter().map(move |addr| Endpoint { addr, tcp, udp });
        let endpoints: Vec<_> = named(self.listen, true, true)
            .chain(named(self.tcp, true, false))
            .chain(named(self.udp, false, true))
            .collect();
        let named = !endpoints.is_empty();
        let (keepalive, user_timeout) = (self.tcp_keepalive.unwrap_or_default(), self.tcp_user_timeout);
        if !user_timeout.is_zero() && keepalive >= user_timeout {
            return Err(Contradiction::Keepalive { keepalive, user_timeout });
        }
        if self.join && self.steer == Steer::Cpu {
            return Err(Contradiction::SteerJoin);
        }
        let limits = if self.public { PUBLIC_DEFAULTS } else { PRIVATE_DEFAULTS };
        let endpoints = if named { endpoints } else { endpoint::default_endpoints() };
        Ok(ServerConfig {
            endpoints: endpoint::merge(endpoints).map_err(Contradiction::Twice)?,
            named,
            join: self.join,
            fd_store: self.fd_store,
            workers: self.workers,
            pin: self.pin || self.steer == Steer::Cpu,
            steer: self.steer,
            max_connections: self.max_connections,
            public: self.public,
            udp_prefix_rate: NonZeroU32::new(self.udp_prefix_rate.unwrap_or(limits.udp_prefix_rate)),
            udp_reply_rate: NonZeroU32::new(self.udp_reply_rate.unwrap_or(limits.udp_reply_rate)),
            max_connections_per_prefix: NonZeroUsize::new(
                self.max_connections_per_prefix.unwrap_or(limits.connections_per_prefix),
            ),
            idle_timeout: self.idle_timeout.unwrap_or(limits.idle_timeout),
            tcp_user_timeout: self.tcp_user_timeout,
            tcp_keepalive: self.tcp_keepalive,
            reflect_dscp: self.dscp == Dscp::Reflect,
            stats_interval: self.stats_interval,
            busy_poll: self.busy_poll,
            drain_timeout: self.drain_timeout,
            reply_sockets: self.reply_sockets.map(usize::from),
            reply_socket_rate: self.reply_socket_rate,
            reply_socket_idle: self.reply_socket_idle,
            reply_ports_except: self.reply_ports_except,
            metrics: self.metrics,
            label: self.label,
        })
    }
}

/// The environment variable that holds the wrong value; `None` if the value is from the command line.
fn culprit(error: &clap::Error, mut arguments: impl Iterator<Item = OsString>) -> Option<String> {
    let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) else { return None };
    let option = option.split_whitespace().next()?;
    let has_value = |argument: OsString| argument.to_string_lossy().split('=').next() == Some(option);
    let variable = variable(option.strip_prefix("--")?);
    (!arguments.any(has_value) && env::var_os(&variable).is_some()).then_some(variable)
}

pub(crate) fn parse_workers(text: &str) -> Result<Workers, String> {
    if text == "auto" {
        return Ok(Workers::Auto);
    }
    match text.parse::<NonZeroUsize>() {
        Ok(count) if count.get() <= WORKERS_MAX => Ok(Workers::Fixed(count)),
        _ => Err(format!("must be a number from 1 to {WORKERS_MAX}, or `auto`")),
    }
}

pub(crate) fn parse_busy_poll(text: &str) -> Result<Duration, String> {
    match duration::parse(text) {
        Ok(duration) if duration <= Duration::from_millis(1) => Ok(duration),
        Ok(_) => Err("must be at most 1ms: it is time that a processor burns".into()),
        Err(error) => Err(error.to_string()),
    }
}

pub(crate) fn parse_interval(text: &str) -> Result<Duration, String> {
    match duration::parse(text) {
        Ok(interval) if interval >= Duration::from_millis(10) => Ok(interval),
        Ok(_) => Err("must be at least 10ms".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// Zero means never.
pub(crate) fn parse_timeout(text: &str) -> Result<Duration, String> {
    match duration::parse(text) {
        Ok(timeout) if timeout.is_zero() || timeout >= Duration::from_millis(10) => Ok(timeout),
        Ok(_) => Err("must be at least 10ms, or 0s".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// Zero means never. Otherwise the kernel sets the limits.
pub(crate) fn parse_keepalive(text: &str) -> Result<Duration, String> {
    let (least, most) = (Duration::from_secs(1), Duration::from_secs(keepalive::SECONDS_MAX as u64));
    match duration::parse(text) {
        Ok(after) if after.is_zero() || (least..=most).contains(&after) => Ok(after),
        Ok(_) => Err("must be at least 1s and at most 9h, or 0s".into()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<ServerConfig, String> {
        let words = std::iter::once("tubular-echo").chain(line.split_whitespace());
        let matches = command().try_get_matches_from(words).map_err(|error| error.to_string())?;
        let options = Options::from_arg_matches(&matches).map_err(|error| error.to_string())?;
        options.server().map_err(|error| error.to_string())
    }

    #[test]
    fn the_definition_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn each_option_has_a_variable_named_after_it() {
        let command = command();
        let options: Vec<&Arg> = command.get_arguments().filter(|arg| arg.get_long().is_some()).collect();
        assert!(options.len() > 10);
        for option in options {
            let name = format!("TUBULAR_ECHO_{}", option.get_id().as_str().to_uppercase());
            assert_eq!(option.get_env(), Some(name.as_ref()), "{}", option.get_id());
        }
    }

    #[test]
    fn addresses_are_separated_by_commas_too() {
        let config = parse("--listen 127.0.0.2:7,[::1]:7 --listen 127.0.0.3:7").unwrap();
        assert_eq!(config.endpoints.len(), 3);
        let words = ["tubular-echo", "--listen", "127.0.0.2:7, [::1]:7 ,127.0.0.3:7"];
        let matches = command().try_get_matches_from(words).unwrap();
        assert_eq!(Options::from_arg_matches(&matches).unwrap().listen.len(), 3, "and a space");
    }

    #[test]
    fn the_default_is_loopback_of_both_families() {
        let config = parse("").unwrap();
        let addrs: Vec<_> = config.endpoints.iter().map(|endpoint| endpoint.addr.to_string()).collect();
        assert_eq!(addrs, ["127.0.0.1:1234", "[::1]:1234"]);
        assert!(config.endpoints.iter().all(|endpoint| endpoint.tcp && endpoint.udp) && !config.named);
        assert_eq!(config.workers, Workers::Fixed(NonZeroUsize::MIN));
    }

    #[test]
    fn named_addresses_replace_the_default() {
        let config = parse("--tcp 127.0.0.2:7 --udp [::1]:8 --listen 127.0.0.3:9").unwrap();
        let found: Vec<_> = config
            .endpoints
            .iter()
            .map(|endpoint| (endpoint.addr.addr().port(), endpoint.tcp, endpoint.udp))
            .collect();
        assert_eq!(found, [(9, true, true), (7, true, false), (8, false, true)]);
        assert!(config.named);
    }

    #[test]
    fn on_the_internet_there_are_limits_unless_they_are_given() {
        let limits = |line| {
            let config = parse(line).unwrap();
            (
                config.udp_prefix_rate.map(NonZeroU32::get),
                config.udp_reply_rate.map(NonZeroU32::get),
                config.max_connections_per_prefix.map(NonZeroUsize::get),
                config.idle_timeout.as_secs(),
            )
        };
        assert_eq!(limits(""), (None, None, None, 0));
        assert_eq!(limits("--public"), (Some(200), Some(20_000), Some(100), 60));
        assert_eq!(
            limits("--public --udp-prefix-rate 5 --idle-timeout 0s"),
            (Some(5), Some(20_000), Some(100), 0)
        );
        assert_eq!(limits("--udp-reply-rate 7 --max-connections-per-prefix 8"), (None, Some(7), Some(8), 0));
    }

    #[test]
    fn wrong_options_are_told() {
        for (line, part) in [
            ("--listen 127.0.0.1", "--listen <ADDR:PORT>': the port is missing: say 127.0.0.1:1234"),
            ("--metrics *:9469", "say 0.0.0.0:9469"),
            ("--workers 0", "must be a number from 1 to 4096"),
            ("--workers 4097", "must be a number from 1 to 4096"),
            ("--workers two", "must be a number from 1 to 4096"),
            ("--stats-interval 1ms", "at least 10ms"),
            ("--stats-interval 101years", "at most 100 years"),
            ("--drain-timeout 101years", "at most 100 years"),
            ("--reply-socket-idle 101years", "at most 100 years"),
            ("--idle-timeout 9ms", "at least 10ms, or 0s"),
            ("--tcp-user-timeout 101years", "at most 100 years"),
            ("--busy-poll 2ms", "at most 1ms"),
            ("--reply-ports-except 5353,0", "0 is neither a port (1-65535) nor a range"),
            ("--max-connections 0", "--max-connections"),
            ("--tcp-keepalive 500ms", "at least 1s and at most 9h, or 0s"),
            ("--tcp-keepalive 10h", "at least 1s and at most 9h, or 0s"),
            ("--tcp-keepalive 2min", "--tcp-keepalive 2m is not shorter than --tcp-user-timeout 2m"),
            ("--dscp 46", "reflect, none"),
            ("--listen 127.0.0.1:7 --tcp 127.0.0.1:7", "named twice"),
            ("--steer cpu --join", "--steer cpu and --join exclude each other"),
            ("--steer rss", "hash, cpu"),
            ("--nonsense", "--nonsense"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
