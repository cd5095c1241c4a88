//! The bare client: closed loop, non-blocking, never sleeping, so that what is measured is the server.
//!
//! Every reply is verified: bytes, length, order, source. Damage of any kind is `bad`, which must be zero.

mod tcp;
mod udp;

use std::io::{Error, ErrorKind};
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Subcommand;
use serde::Serialize;

use crate::kernel;

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

/// How long, and whom to watch.
#[derive(Clone, clap::Args)]
pub(crate) struct Window {
    /// Seconds that are measured
    #[arg(long, default_value_t = 1.0)]
    pub(crate) seconds: f64,
    /// Seconds before that
    #[arg(long, default_value_t = 0.2)]
    pub(crate) warmup: f64,
    /// The server's process, to take its CPU time and, for full batches, to stop it while requests queue up
    #[arg(long)]
    pub(crate) server_pid: Option<u32>,
    /// Pin the client to this core
    #[arg(long)]
    pub(crate) core: Option<usize>,
}

/// What was seen in the measured seconds.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Sample {
    /// Verified replies: datagrams, messages or connections
    pub(crate) echoes: u64,
    /// Their payload
    pub(crate) bytes: u64,
    /// Damage of any kind, over the whole run
    pub(crate) bad: u64,
    /// What kind of damage was seen first
    pub(crate) first_bad: Option<String>,
    /// Requests without an answer in time
    pub(crate) lost: u64,
    /// Answers after that time
    pub(crate) late: u64,
    /// How long it was measured
    pub(crate) seconds: f64,
    /// CPU time of the server in those seconds
    pub(crate) server_cpu_s: Option<f64>,
    /// CPU time of the client in those seconds
    pub(crate) client_cpu_s: f64,
    /// CPU time of everybody else on this machine in those seconds: what disturbs the measurement
    pub(crate) others_cpu_s: f64,
    /// Memory that each idle connection cost the server
    pub(crate) bytes_per_connection: Option<f64>,
}

impl Sample {
    /// Counts damage.
    fn bad(&mut self, what: impl FnOnce() -> String) {
        self.bad += 1;
        if self.first_bad.is_none() {
            self.first_bad = Some(what());
        }
    }

    /// CPU time of the server per echo.
    pub(crate) fn server_ns(&self) -> Option<f64> {
        Some(self.server_cpu_s? * 1e9 / self.echoes as f64)
    }
}

impl Load {
    /// Where the load goes and how long it lasts are set by the table.
    pub(crate) fn aim(&mut self, to: std::net::SocketAddr, server_pid: u32, seconds: f64, warmup: f64) {
        let (target, window) = match self {
            Self::Udp(udp) => (&mut udp.target, &mut udp.window),
            Self::Tcp(tcp) => (&mut tcp.target, &mut tcp.window),
        };
        *target = to;
        *window = Window { seconds, warmup, server_pid: Some(server_pid), core: window.core };
    }

    /// Wrong sources are to be seen as such, at the price of a slower client.
    pub(crate) fn compare_sources(&mut self) {
        if let Self::Udp(udp) = self {
            udp.unconnected = true;
        }
    }

    /// The address that its target lies at: the family matters.
    pub(crate) fn family(&self) -> std::net::IpAddr {
        match self {
            Self::Udp(udp) => udp.target.ip(),
            Self::Tcp(tcp) => tcp.target.ip(),
        }
    }

    /// Runs the load.
    pub(crate) fn run(&self) -> Result<Sample> {
        match self {
            Self::Udp(udp) => udp.run(),
            Self::Tcp(tcp) => tcp.run(),
        }
    }

    fn window(&self) -> &Window {
        match self {
            Self::Udp(udp) => &udp.window,
            Self::Tcp(tcp) => &tcp.window,
        }
    }
}

/// The command `load`: one run, printed as one line of JSON; whether nothing bad came.
pub(crate) fn command(load: &Load) -> Result<bool> {
    kernel::raise_open_files()?;
    if let Some(core) = load.window().core {
        kernel::pin(&[core])?;
    }
    let sample = load.run()?;
    println!("{}", serde_json::to_string(&sample)?);
    eprintln!(
        "{:.0} echoes/s, {} bad, {} lost; client {:.0} ns per echo{}",
        sample.echoes as f64 / sample.seconds,
        sample.bad,
        sample.lost,
        sample.client_cpu_s * 1e9 / sample.echoes as f64,
        sample.server_ns().map_or(String::new(), |ns| format!(", server {ns:.0} ns per echo")),
    );
    Ok(sample.bad == 0 && sample.echoes > 0)
}

/// Counts, and the clocks at the time.
struct Mark {
    echoes: u64,
    bytes: u64,
    at: Instant,
    server: Option<Duration>,
    client: Duration,
    machine: Duration,
}

impl Window {
    fn mark(&self, sample: &Sample) -> Result<Mark> {
        Ok(Mark {
            echoes: sample.echoes,
            bytes: sample.bytes,
            at: Instant::now(),
            server: self.server_pid.map(kernel::cpu_time).transpose()?,
            client: kernel::cpu_time(0)?,
            machine: machine_cpu_time()?,
        })
    }

    /// What happened since `from`.
    fn since(&self, from: &Mark, sample: &Sample) -> Result<Sample> {
        let to = self.mark(sample)?;
        let server = to.server.zip(from.server).map(|(to, from)| to.saturating_sub(from));
        let client = to.client.saturating_sub(from.client);
        let ours = client + server.unwrap_or_default();
        Ok(Sample {
            echoes: to.echoes - from.echoes,
            bytes: to.bytes - from.bytes,
            seconds: (to.at - from.at).as_secs_f64(),
            server_cpu_s: server.map(|cpu| cpu.as_secs_f64()),
            client_cpu_s: client.as_secs_f64(),
            others_cpu_s: to.machine.saturating_sub(from.machine).saturating_sub(ours).as_secs_f64(),
            ..sample.clone()
        })
    }

    /// Calls `turn` over and over, first to warm up, then to measure.
    fn measure(&self, mut turn: impl FnMut(Instant, &mut Sample) -> Result<()>) -> Result<Sample> {
        let mut sample = Sample::default();
        let start = Instant::now();
        let warm = start + Duration::from_secs_f64(self.warmup);
        let end = warm + Duration::from_secs_f64(self.seconds);
        let mut from = None;
        loop {
            let now = Instant::now();
            if from.is_none() && now >= warm {
                from = Some(self.mark(&sample)?);
            }
            if now >= end {
                break;
            }
            turn(now, &mut sample)?;
        }
        let from = from.expect("the window begins before it ends");
        self.since(&from, &sample)
    }

    /// The same with full batches: the server is stopped while `fill` queues requests, and runs until `turn`
    /// says that all were answered. Its CPU time is taken while it stands still.
    fn measure_batches<S>(
        &self,
        state: &mut S,
        mut fill: impl FnMut(&mut S, &mut Sample) -> Result<()>,
        mut turn: impl FnMut(&mut S, Instant, &mut Sample) -> Result<bool>,
    ) -> Result<Sample> {
        let pid = self.server_pid.ok_or("full batches need --server-pid: the server is stopped meanwhile")?;
        let mut sample = Sample::default();
        let start = Instant::now();
        let warm = start + Duration::from_secs_f64(self.warmup);
        let end = warm + Duration::from_secs_f64(self.seconds);
        let mut from = None;
        loop {
            kernel::signal(pid, libc::SIGSTOP)?;
            let stopped = wait_until_stopped(pid);
            let result = stopped.and_then(|()| {
                let now = Instant::now();
                if from.is_none() && now >= warm {
                    from = Some(self.mark(&sample)?);
                }
                if let (Some(from), true) = (&from, now >= end) {
                    return self.since(from, &sample).map(Some);
                }
                fill(state, &mut sample)?;
                Ok(None)
            });
            kernel::signal(pid, libc::SIGCONT)?;
            if let Some(sample) = result? {
                return Ok(sample);
            }
            while !turn(state, Instant::now(), &mut sample)? {}
        }
    }
}

/// CPU time that all processes together have used, interrupts and the hypervisor's theft included: proc(5),
/// `cpu` of `stat`, in hundredths of a second.
fn machine_cpu_time() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let ticks = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    // user, nice, system, idle, iowait, irq, softirq, steal; guests are part of user
    let busy =
        |(i, ticks): (usize, &str)| if i == 3 || i == 4 || i > 7 { 0 } else { ticks.parse().unwrap_or(0) };
    Ok(Duration::from_millis(10 * ticks.enumerate().map(busy).sum::<u64>()))
}

/// Waits until every thread of a process stands still.
fn wait_until_stopped(pid: u32) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    let tasks = Path::new("/proc").join(pid.to_string()).join("task");
    while Instant::now() < deadline {
        let mut moving = false;
        for task in std::fs::read_dir(&tasks)? {
            let stat = std::fs::read_to_string(task?.path().join("stat"))?;
            // pid (name) state …: the name may hold anything, so the state is found behind its last bracket
            moving |= !stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'));
        }
        if !moving {
            return Ok(());
        }
    }
    Err(Error::new(ErrorKind::TimedOut, format!("process {pid} did not stop")).into())
}

/// Bytes to send and to compare with: long enough for any message at any offset.
pub(crate) struct Pattern(Vec<u8>);

impl Pattern {
    /// The pattern repeats after this many bytes, which no message size divides.
    pub(crate) const PERIOD: usize = 65_521;

    pub(crate) fn new() -> Self {
        let mut word = 0x2545_f491_4f6c_dd1d_u64;
        let period: Vec<u8> = (0..Self::PERIOD)
            .map(|_| {
                word ^= word << 13;
                word ^= word >> 7;
                word ^= word << 17;
                word as u8
            })
            .collect();
        Self([&period[..], &period[..], &period[..]].concat())
    }

    /// `bytes` of it (131,042 at most) from any position.
    pub(crate) fn at(&self, position: u64, bytes: usize) -> &[u8] {
        let start = (position % Self::PERIOD as u64) as usize;
        &self.0[start..start + bytes]
    }
}
