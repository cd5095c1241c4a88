//! A row, run: fresh servers and clients in each round, measured in turn in short slices, A B A B.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use clap::Parser;

use super::rows::Side;
use super::server::{Available, Server};
use crate::kernel;
use crate::load::{Load, Result, Sample};
use crate::steering::{self, Steering};

/// One core each, so that the server's CPU time is its own.
pub(super) struct Cores {
    pub(super) server: usize,
    pub(super) client: usize,
}

/// A server and its client.
struct Duel {
    name: &'static str,
    /// Ends after the server: what is steered has somewhere to go
    _steering: Option<Steering>,
    server: Server,
    client: Client,
    sample: Sample,
}

/// One round: both servers up at once, idle but for the one whose slice it is. What changes over time on the
/// machine (its clock rate, its neighbours) meets both.
pub(super) fn round(
    sides: &[Side],
    slices: usize,
    slice_s: f64,
    unconnected: bool,
    cores: &Cores,
    available: &Available,
) -> Result<Vec<Sample>> {
    let mut duels = vec![];
    for side in sides {
        let duel = Duel::start(side, unconnected, cores, available)?;
        duel.pause(libc::SIGSTOP)?;
        duels.push(duel);
    }
    for _ in 0..slices {
        for duel in &mut duels {
            duel.slice(slice_s)?;
        }
    }
    duels.into_iter().map(|duel| duel.end(unconnected)).collect()
}

impl Duel {
    fn start(side: &Side, unconnected: bool, cores: &Cores, available: &Available) -> Result<Self> {
        let Some((steered, line)) = side.steered() else {
            let server = start_server(side.server, side, cores, available)?;
            let client = Client::start(side.load, unconnected, &server, server.address)?;
            return Ok(Self {
                name: side.server,
                _steering: None,
                server,
                client,
                sample: Sample::default(),
            });
        };
        steering::elsewhere(|| {
            let server = start_server(line, side, cores, available)?;
            let (binding, asked) = match steered {
                Steered::Port => (server.address.port(), server.address.port()),
                Steered::AllPorts => (0, WILDCARD_PORT),
            };
            let steering = Steering::to(server.pid(), server.address, binding)?;
            let target = SocketAddr::new(steering::STEERED, asked);
            let client = Client::start(side.load, unconnected, &server, target)?;
            Ok(Self {
                name: side.server,
                _steering: Some(steering),
                server,
                client,
                sample: Sample::default(),
            })
        })
    }

    fn slice(&mut self, seconds: f64) -> Result<()> {
        self.pause(libc::SIGCONT)?;
        let slice = self.client.measure(seconds).map_err(|e| self.failed(&e.to_string()))?;
        self.sample.add(slice);
        self.pause(libc::SIGSTOP)
    }

    /// A server that never sleeps would take the core from the other one.
    fn pause(&self, signal: i32) -> Result<()> {
        if self.name.contains("spin") {
            kernel::signal(self.server.pid(), signal)?;
        }
        Ok(())
    }

    fn failed(&self, why: &str) -> String {
        format!("{}: {why}{}", self.name, self.server.last_words())
    }

    /// What was seen, if it can be believed. An unconnected client sees replies from a wrong source as bad ones;
    /// to a connected one they are lost.
    fn end(self, unconnected: bool) -> Result<Sample> {
        let Sample { bad, echoes, lost, .. } = self.sample;
        if bad > 0 {
            let first = self.sample.first_bad.as_deref().unwrap_or_default();
            return Err(self.failed(&format!("{bad} bad replies, the first: {first}")).into());
        }
        // a closed loop on loopback loses what a full buffer drops, and that is no damage
        if echoes == 0 || !unconnected && lost > echoes / 10 {
            return Err(self.failed(&format!("{echoes} replies, {lost} lost")).into());
        }
        Ok(self.sample)
    }
}

fn start_server(line: &str, side: &Side, cores: &Cores, available: &Available) -> Result<Server> {
    kernel::pin(&[cores.server])?;
    let server = Server::start(line, side.load()?.family(), available);
    kernel::pin(&[cores.client])?;
    server
}

/// Which ports of the steered addresses lead to the server.
#[derive(Clone, Copy)]
pub(super) enum Steered {
    /// The one that it is bound to
    Port,
    /// Every one
    AllPorts,
}

/// The first of the ports that clients ask for when all are steered: not in the range that sockets get theirs
/// from.
const WILDCARD_PORT: u16 = 20_000;

impl Side {
    /// What is steered to the server, and its own command line; None for a server that clients ask directly.
    pub(super) fn steered(&self) -> Option<(Steered, &'static str)> {
        let (first, line) = self.server.split_once(' ')?;
        match first {
            "steered" => Some((Steered::Port, line)),
            "wildcard" => Some((Steered::AllPorts, line)),
            _ => None,
        }
    }

    /// The load as its command line says it.
    fn load(&self) -> Result<Load> {
        #[derive(Parser)]
        #[command(no_binary_name = true)]
        struct Line {
            #[command(subcommand)]
            load: Load,
        }
        Ok(Line::try_parse_from(self.load.split_whitespace())?.load)
    }
}

const ENDED: &str = "the client has ended, see above";

/// The bare client as a process of its own, with its own limit of open files.
pub(super) struct Client {
    child: Child,
    seconds: Option<ChildStdin>,
    samples: BufReader<ChildStdout>,
}

impl Client {
    pub(super) fn start(load: &str, unconnected: bool, server: &Server, target: SocketAddr) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        // A row names a target for its family alone; what comes later on the line counts.
        command.arg("load").args(load.split_whitespace());
        command.args(["--target", &target.to_string(), "--server-pid", &server.pid().to_string()]);
        command.arg("--on-demand");
        if unconnected && load.starts_with("udp") {
            command.arg("--unconnected");
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let samples = BufReader::new(child.stdout.take().expect("stdout is piped"));
        Ok(Self { seconds: child.stdin.take(), samples, child })
    }

    fn measure(&mut self, seconds: f64) -> Result<Sample> {
        self.ask(seconds)?;
        self.answer()
    }

    /// Lets it begin.
    pub(super) fn ask(&mut self, seconds: f64) -> Result<()> {
        let asked = self.seconds.as_mut().is_some_and(|stdin| writeln!(stdin, "{seconds}").is_ok());
        asked.then_some(()).ok_or_else(|| ENDED.into())
    }

    /// Waits for what it has seen.
    pub(super) fn answer(&mut self) -> Result<Sample> {
        let mut line = String::new();
        match self.samples.read_line(&mut line)? {
            0 => Err(ENDED.into()),
            _ => Ok(serde_json::from_str(&line)?),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // The end of its input ends it.
        drop(self.seconds.take());
        let _ = self.child.wait();
    }
}
