//! What is counted and how: the clocks are read while requests are under way, and in the end every request
//! has been answered, so that the next measurement, of another server perhaps, has the cores to itself.

use std::fmt;
use std::io::{Error, ErrorKind};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Result, machine};
use crate::kernel;

/// The clocks start after so long, and so many turns, under load.
const RAMP: Duration = Duration::from_millis(3);
const RAMP_TURNS: u32 = 2;
/// However short the time: fewer turns say nothing.
const TURNS_MIN: u32 = 4;
/// Requests that are still under way at the end are waited for so long.
const REST: Duration = Duration::from_secs(5);

/// What was seen in the measured seconds.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Sample {
    /// Verified replies: datagrams, messages or connections
    pub(crate) echoes: u64,
    /// Their payload
    pub(crate) bytes: u64,
    /// Damage of any kind
    pub(crate) bad: u64,
    /// What was seen first of it
    pub(crate) first_bad: Option<String>,
    /// Requests without an answer in time
    pub(crate) lost: u64,
    /// Answers after that time
    pub(crate) late: u64,
    /// How long it was measured
    pub(crate) seconds: f64,
    /// CPU time of the server in those seconds
    pub(crate) server_cpu_s: Option<f64>,
    /// CPU time of the client
    pub(crate) client_cpu_s: f64,
    /// CPU time of everybody else on this machine: what disturbs the measurement
    pub(crate) others_cpu_s: f64,
    /// Memory that each idle connection cost the server
    pub(crate) bytes_per_connection: Option<f64>,
}

impl Sample {
    /// Counts damage.
    pub(super) fn bad(&mut self, what: impl FnOnce() -> String) {
        self.bad += 1;
        if self.first_bad.is_none() {
            self.first_bad = Some(what());
        }
    }

    /// Takes the next slice of the same run in.
    pub(crate) fn add(&mut self, slice: Self) {
        self.echoes += slice.echoes;
        self.bytes += slice.bytes;
        self.bad += slice.bad;
        self.first_bad = self.first_bad.take().or(slice.first_bad);
        self.lost += slice.lost;
        self.late += slice.late;
        self.seconds += slice.seconds;
        self.server_cpu_s = match (self.server_cpu_s, slice.server_cpu_s) {
            (Some(a), Some(b)) => Some(a + b),
            (a, b) => a.or(b),
        };
        self.client_cpu_s += slice.client_cpu_s;
        self.others_cpu_s += slice.others_cpu_s;
        self.bytes_per_connection = slice.bytes_per_connection.or(self.bytes_per_connection);
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = |cpu_s: f64| cpu_s * 1e9 / self.echoes as f64;
        let rate = self.echoes as f64 / self.seconds;
        let client = ns(self.client_cpu_s);
        write!(
            f,
            "{rate:.0} echoes/s, {} bad, {} lost; client {client:.0} ns per echo",
            self.bad, self.lost
        )?;
        self.server_cpu_s.map_or(Ok(()), |cpu_s| write!(f, ", server {:.0} ns per echo", ns(cpu_s)))
    }
}

/// A closed loop, a turn at a time.
pub(super) trait Requests {
    /// Sends what may be under way.
    fn begin(&mut self) -> Result<()>;

    /// Looks once at every flow or connection; what was answered is asked again if `more`. Whether nothing is
    /// under way any longer.
    fn turn(&mut self, now: Instant, more: bool, sample: &mut Sample) -> Result<bool>;
}

/// Anything that fills in a sample.
pub(super) type Errand = Box<dyn FnMut(&mut Sample) -> Result<()>>;

/// A load that can be measured again and again.
pub(super) enum Work {
    Loop {
        requests: Box<dyn Requests>,
        server: Option<u32>,
    },
    /// The server is stopped while requests queue up.
    Batches {
        requests: Box<dyn Requests>,
        server: u32,
    },
    /// Something else, once.
    Once(Errand, Option<u32>),
}

impl Work {
    /// Runs for so long.
    pub(super) fn measure(&mut self, seconds: f64) -> Result<Sample> {
        let duration = Duration::from_secs_f64(seconds);
        match self {
            Self::Loop { requests, server } => measure_loop(&mut **requests, *server, duration),
            Self::Batches { requests, server } => measure_batches(&mut **requests, *server, duration),
            Self::Once(work, server) => {
                let from = Mark::now(*server)?;
                let mut sample = Sample::default();
                work(&mut sample)?;
                from.fill(*server, &mut sample)?;
                Ok(sample)
            }
        }
    }
}

fn measure_loop(requests: &mut dyn Requests, server: Option<u32>, duration: Duration) -> Result<Sample> {
    let start = Instant::now();
    let mut sample = Sample::default();
    let mut from = None;
    let mut turns = 0;
    requests.begin()?;
    loop {
        let now = Instant::now();
        match &from {
            None if now - start >= RAMP && turns >= RAMP_TURNS => {
                // What comes before is not counted; damage and loss always are.
                (sample.echoes, sample.bytes, turns) = (0, 0, 0);
                from = Some(Mark::now(server)?);
            }
            Some(_) if now - start > duration + REST => {
                return Err(format!("no answer within {REST:?}").into());
            }
            Some(mark) if now - mark.at >= duration && turns >= TURNS_MIN && sample.echoes > 0 => {
                mark.fill(server, &mut sample)?;
                break;
            }
            _ => {}
        }
        requests.turn(now, true, &mut sample)?;
        turns += 1;
    }
    let (echoes, bytes) = (sample.echoes, sample.bytes);
    rest(requests, &mut sample)?;
    Ok(Sample { echoes, bytes, ..sample })
}

/// Waits for what is under way.
fn rest(requests: &mut dyn Requests, sample: &mut Sample) -> Result<()> {
    let end = Instant::now() + REST;
    while !requests.turn(Instant::now(), false, sample)? {
        if Instant::now() > end {
            return Err(format!("requests were not answered within {REST:?}").into());
        }
    }
    Ok(())
}

fn measure_batches(requests: &mut dyn Requests, server: u32, duration: Duration) -> Result<Sample> {
    let mut sample = Sample::default();
    let start = Instant::now();
    let mut from: Option<Mark> = None;
    loop {
        kernel::signal(server, libc::SIGSTOP)?;
        let filled = wait_until_stopped(server).and_then(|()| {
            // Its CPU time is taken while it stands still.
            let mark = from.get_or_insert(Mark::now(Some(server))?);
            let over = start.elapsed() >= duration && sample.echoes > 0;
            if over {
                mark.fill(Some(server), &mut sample)?;
            } else {
                requests.begin()?;
            }
            Ok(over)
        });
        kernel::signal(server, libc::SIGCONT)?;
        if filled? {
            return Ok(sample);
        }
        rest(requests, &mut sample)?;
    }
}

/// The clocks at one time.
struct Mark {
    at: Instant,
    server: Option<Duration>,
    client: Duration,
    machine: Duration,
}

impl Mark {
    fn now(server: Option<u32>) -> Result<Self> {
        Ok(Self {
            at: Instant::now(),
            server: server.map(kernel::cpu_time).transpose()?,
            client: kernel::cpu_time(0)?,
            machine: machine::cpu_time()?,
        })
    }

    /// Writes down what the clocks have counted since.
    fn fill(&self, server: Option<u32>, sample: &mut Sample) -> Result<()> {
        let now = Self::now(server)?;
        let server = now.server.zip(self.server).map(|(now, then)| now.saturating_sub(then));
        let client = now.client.saturating_sub(self.client);
        let machine = now.machine.saturating_sub(self.machine);
        sample.seconds = (now.at - self.at).as_secs_f64();
        sample.server_cpu_s = server.map(|cpu| cpu.as_secs_f64());
        sample.client_cpu_s = client.as_secs_f64();
        sample.others_cpu_s = machine.saturating_sub(client + server.unwrap_or_default()).as_secs_f64();
        Ok(())
    }
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
