//! The bare client: closed loop, non-blocking, never sleeping, so that what is measured is the server.
//!
//! Every reply is verified: bytes, length, order, source. Damage of any kind is `bad`, which must be zero.

pub(crate) mod machine;
mod measure;
mod pattern;
mod tcp;
mod udp;

use std::net::{IpAddr, SocketAddr};

use clap::Subcommand;

use crate::kernel;
pub(crate) use measure::Sample;

/// What goes wrong ends the program with one line.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// What the client can do.
#[derive(Clone, Subcommand)]
pub(crate) enum Load {
    /// Datagrams, singly or in trains
    Udp(udp::Udp),
    /// Connections: ping-pong, streaming, connection rate, or idle
    Tcp(tcp::Tcp),
}

/// Where the load goes, for how long, and whom to watch meanwhile.
#[derive(Clone, clap::Args)]
pub(crate) struct Aim {
    /// The server
    #[arg(long, default_value = "127.0.0.1:1234")]
    target: SocketAddr,
    /// Seconds that are measured
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Seconds before that
    #[arg(long, default_value_t = 0.2)]
    warmup: f64,
    /// The server's process, to take its CPU time and, for full batches, to stop it while requests queue up
    #[arg(long)]
    server_pid: Option<u32>,
    /// Pin the client to this core
    #[arg(long)]
    core: Option<usize>,
    /// Measure on demand: for each line on stdin, a number of seconds, run so long and print what was seen
    #[arg(long)]
    on_demand: bool,
}

impl Load {
    /// The address family of its target.
    pub(crate) fn family(&self) -> IpAddr {
        self.aim().target.ip()
    }

    fn aim(&self) -> &Aim {
        match self {
            Self::Udp(udp) => &udp.aim,
            Self::Tcp(tcp) => &tcp.aim,
        }
    }
}

/// The command `load`: what was seen, as a line of JSON; whether nothing bad came.
pub(crate) fn command(load: &Load) -> Result<bool> {
    kernel::raise_open_files()?;
    let aim = load.aim();
    if let Some(core) = aim.core {
        kernel::pin(&[core])?;
    }
    let mut work = match load {
        Load::Udp(udp) => udp.start()?,
        Load::Tcp(tcp) => tcp.start()?,
    };
    if aim.on_demand {
        for line in std::io::stdin().lines() {
            let sample = work.measure(line?.trim().parse()?)?;
            println!("{}", serde_json::to_string(&sample)?);
        }
        return Ok(true);
    }
    let warm = if aim.warmup > 0.0 { work.measure(aim.warmup)? } else { Sample::default() };
    let mut sample = work.measure(aim.seconds)?;
    sample.bad += warm.bad;
    sample.first_bad = warm.first_bad.or(sample.first_bad);
    println!("{}", serde_json::to_string(&sample)?);
    eprintln!("{sample}");
    Ok(sample.bad == 0 && sample.echoes > 0)
}
