//! `tubular-echo health` asks a running server whether it answers: for containers without a shell.
//!
//! Without `--metrics` it asks every address for an echo, over sockets of its own. Three things keep tubular's sk_lookup
//! from deceiving it. Its own sockets are connected, and the kernel finds these before it asks sk_lookup. An address
//! that no socket of this network namespace is bound to is not asked, because the echo of another server could come
//! back ([`mod@bound`]). And if no echo comes although a socket is bound, the message says that the address may be steered.
//! One case is left: an address that tubular steers to another server, while both have a socket bound there (a reply socket
//! of the other one counts). Only `--metrics` tells these apart.

pub mod bound;
pub mod probe;

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use crate::kernel::sys::Protocol;
use crate::sockets::endpoint::default_endpoints;
use crate::sockets::listen_addr::ListenAddr;
use crate::values::duration;
use bound::is_bound;
use probe::{echo_of_datagram, echo_of_stream, status_of};

const AFTER_HELP: &str = "\
Environment:
  TUBULAR_ECHO_LISTEN, TUBULAR_ECHO_TCP, TUBULAR_ECHO_UDP, TUBULAR_ECHO_METRICS
                   as for the server, so that in its container the command needs no options

Exit status:
  0 the server answers   1 it does not   2 wrong usage";

/// Options of `tubular-echo health`.
#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct HealthOptions {
    /// Address that the server serves over TCP and UDP; repeatable. Default: port 1234 on loopback, IPv4 and IPv6.
    /// Loopback is asked for `0.0.0.0` and `[::]`. A loopback address of a family that the host lacks is left out
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Vec<ListenAddr>,

    /// Address that the server serves over TCP; repeatable
    #[arg(long, value_name = "ADDR:PORT")]
    tcp: Vec<ListenAddr>,

    /// Address that the server serves over UDP; repeatable
    #[arg(long, value_name = "ADDR:PORT")]
    udp: Vec<ListenAddr>,

    /// Ask only /healthz at this address, as the server's --metrics has it. The server then says whether every worker
    /// runs; an echo shows it of one worker for each address
    #[arg(long, value_name = "ADDR:PORT")]
    metrics: Option<ListenAddr>,

    /// Time limit of each answer
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_timeout)]
    timeout: Duration,
}

/// Why the server is not healthy.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// The kernel chose the port.
    #[error(
        "health: {0}: the kernel chooses port 0 anew at each start; name the port that the server's log shows"
    )]
    NoPort(ListenAddr),
    /// The interface of an address is missing.
    #[error("health: {addr}: {source}; `ip link` lists the interfaces")]
    NoInterface {
        /// The address with the name of the interface.
        addr: ListenAddr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// No address is left.
    #[error(
        "health: this host has none of the address families to ask; name an address that the server serves"
    )]
    NothingToAsk,
    /// The server is not there, or in another network namespace.
    #[error(
        "health: {protocol} {addr}: no socket of this network namespace is bound there; start the server, or name its \
         addresses (--listen, --tcp, --udp)"
    )]
    Unbound {
        /// The protocol.
        protocol: Protocol,
        /// The address that the server should have.
        addr: SocketAddr,
    },
    /// A system call failed.
    #[error("health: {protocol} {addr}: {step}: {source}; the server's log says why it does not answer")]
    Refused {
        /// The protocol.
        protocol: Protocol,
        /// The address that was asked.
        addr: SocketAddr,
        /// What was tried.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A socket is bound, and the kernel finds none.
    #[error(
        "health: {protocol} {addr}: connection refused, although a socket is bound there; if tubular steers this address, \
         register the socket, or ask the server by --metrics"
    )]
    Missed {
        /// The protocol.
        protocol: Protocol,
        /// The address that was asked.
        addr: SocketAddr,
    },
    /// No echo came in time.
    #[error(
        "health: {protocol} {addr}: no echo within {}; the server's log says why. If tubular steers this address to \
         another socket, ask the server by --metrics",
        humantime::format_duration(*.timeout)
    )]
    Silent {
        /// The protocol.
        protocol: Protocol,
        /// The address that was asked.
        addr: SocketAddr,
        /// The time limit.
        timeout: Duration,
    },
    /// Something else than the echo came.
    #[error(
        "health: {protocol} {addr}: another answer than the echo came; find the program that sent it by `ss -lnp`"
    )]
    Wrong {
        /// The protocol.
        protocol: Protocol,
        /// The address that was asked.
        addr: SocketAddr,
    },
    /// The server says that it is not well.
    #[error(
        "health: http://{addr}/healthz: {status}; the server's log says which worker does not run, or that it ends"
    )]
    Unhealthy {
        /// The address that was asked.
        addr: SocketAddr,
        /// The line of the answer.
        status: String,
    },
    /// Not the metrics port.
    #[error(
        "health: http://{0}/healthz: the answer is not HTTP; name the address of --metrics, which tubular must not steer"
    )]
    NotHttp(SocketAddr),
    /// The result could not be written.
    #[error("health: write the result: {0}")]
    Output(#[source] io::Error),
}

/// Asks every address at the same time. The error is the first one, in the order of the addresses; all others are printed.
pub fn run(options: &HealthOptions) -> Result<ExitCode, HealthError> {
    let questions = questions(options)?;
    let timeout = options.timeout;
    let answers: Vec<_> = thread::scope(|scope| {
        let ask = |question: Question| scope.spawn(move || (question, question.ask(timeout)));
        let asked: Vec<_> = questions.into_iter().map(ask).collect();
        asked.into_iter().map(|thread| thread.join().expect("a probe does not panic")).collect()
    });
    let (mut answered, mut errors) = (Vec::new(), Vec::new());
    for (question, answer) in answers {
        match answer {
            Ok(took) => {
                answered.push(format!("{question}: answered in {:.1} ms\n", took.as_secs_f64() * 1e3));
            }
            Err(error) => errors.push(error),
        }
    }
    io::stdout().write_all(answered.concat().as_bytes()).map_err(HealthError::Output)?;
    let last = errors.pop();
    for error in errors {
        // if stderr accepts nothing, the exit status reports it
        let _ = writeln!(io::stderr(), "error: {error}");
    }
    last.map_or(Ok(ExitCode::SUCCESS), Err)
}

/// What one probe asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Echo(Protocol, SocketAddr),
    Healthz(SocketAddr),
}

impl std::fmt::Display for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Echo(protocol, addr) => write!(f, "{protocol} {addr}"),
            Self::Healthz(addr) => write!(f, "http://{addr}/healthz"),
        }
    }
}

impl Question {
    /// How long the right answer took.
    fn ask(self, timeout: Duration) -> Result<Duration, HealthError> {
        let begun = Instant::now();
        match self {
            Self::Healthz(addr) => status_of(addr, timeout)?,
            Self::Echo(protocol, addr) if !is_bound(protocol, addr) => {
                return Err(HealthError::Unbound { protocol, addr });
            }
            Self::Echo(protocol, addr) => {
                let echo = match protocol {
                    Protocol::Tcp => echo_of_stream(reachable(addr), timeout),
                    Protocol::Udp => echo_of_datagram(reachable(addr), timeout),
                };
                echo.map_err(|error| match error {
                    HealthError::Refused { source, .. }
                        if source.kind() == io::ErrorKind::ConnectionRefused =>
                    {
                        HealthError::Missed { protocol, addr }
                    }
                    error => error,
                })?;
            }
        }
        Ok(begun.elapsed())
    }
}

fn questions(options: &HealthOptions) -> Result<Vec<Question>, HealthError> {
    if let Some(metrics) = options.metrics {
        return Ok(vec![Question::Healthz(reachable(resolved(metrics)?))]);
    }
    let both = [Protocol::Tcp, Protocol::Udp];
    let of = |addrs: &[ListenAddr], protocols: &[Protocol]| {
        let addrs = addrs.iter().copied();
        let pairs = addrs.flat_map(|addr| protocols.iter().map(move |protocol| (*protocol, addr)));
        pairs.collect::<Vec<_>>()
    };
    let mut named =
        [of(&options.listen, &both), of(&options.tcp, &both[..1]), of(&options.udp, &both[1..])].concat();
    if named.is_empty() {
        let defaults: Vec<_> = default_endpoints().iter().map(|endpoint| endpoint.addr).collect();
        named = of(&defaults, &both);
    }
    let mut questions = Vec::new();
    for (protocol, addr) in named {
        let addr = resolved(addr)?;
        if !lacks_family(addr) {
            questions.push(Question::Echo(protocol, addr));
        }
    }
    if questions.is_empty() { Err(HealthError::NothingToAsk) } else { Ok(questions) }
}

fn resolved(addr: ListenAddr) -> Result<SocketAddr, HealthError> {
    if addr.addr().port() == 0 {
        return Err(HealthError::NoPort(addr));
    }
    addr.resolve().map_err(|source| HealthError::NoInterface { addr, source })
}

/// Whether the server, too, leaves the address out, because the host has no loopback address of this family.
fn lacks_family(addr: SocketAddr) -> bool {
    let probed = reachable(addr).ip();
    probed.is_loopback()
        && UdpSocket::bind((probed, 0)).is_err_and(|error| {
            matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
        })
}

/// The address to ask for a bound one: loopback for all addresses.
fn reachable(mut addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => addr.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => addr.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    addr
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    match duration::parse(text) {
        Ok(timeout) if timeout >= Duration::from_millis(10) => Ok(timeout),
        Ok(_) => Err("must be at least 10ms".into()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: HealthOptions,
    }

    fn asked(line: &str) -> Result<Vec<String>, String> {
        let words = std::iter::once("health").chain(line.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        let questions = questions(&line.options).map_err(|error| error.to_string())?;
        Ok(questions.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn every_address_is_asked_for_its_protocols_and_metrics_replace_them() {
        let some = asked("--listen 127.0.0.2:7 --udp 127.0.0.3:9").unwrap();
        assert_eq!(some, ["tcp 127.0.0.2:7", "udp 127.0.0.2:7", "udp 127.0.0.3:9"]);
        assert_eq!(
            asked("--tcp 0.0.0.0:7 --metrics 0.0.0.0:9469").unwrap(),
            ["http://127.0.0.1:9469/healthz"]
        );
        let defaults = asked("").unwrap();
        assert_eq!(defaults[..2], ["tcp 127.0.0.1:1234", "udp 127.0.0.1:1234"]);
    }

    #[test]
    fn a_port_that_nobody_knows_can_t_be_asked() {
        assert!(asked("--listen 127.0.0.1:0").unwrap_err().contains("port 0"));
        assert!(asked("--metrics 127.0.0.1:0").unwrap_err().contains("port 0"));
        assert!(asked("--timeout 1ms").is_err());
    }

    #[test]
    fn loopback_stands_for_all_addresses() {
        for (bound, asked) in [
            ("0.0.0.0:7", "127.0.0.1:7"),
            ("[::]:7", "[::1]:7"),
            ("192.0.2.1:7", "192.0.2.1:7"),
            ("[2001:db8::1]:7", "[2001:db8::1]:7"),
        ] {
            assert_eq!(reachable(bound.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
