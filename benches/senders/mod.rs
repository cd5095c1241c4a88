//! Programs that send datagrams, side by side: what a datagram costs them, how punctual it is, and how soon after the
//! start the first one comes. The programs take turns at a sink that uses the kernel's receive times.

mod program;
mod sink;

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::resource::{UsageWho, getrusage};

use crate::kernel;
use crate::load::Result;
use crate::steering;
use program::{PROGRAMS, Program};
use sink::Sink;

/// How the senders are measured
#[derive(Clone, clap::Args)]
pub(crate) struct Options {
    /// Runs of each program at each rate
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of a run
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// Only these programs, comma-separated
    #[arg(long, value_delimiter = ',')]
    programs: Vec<String>,
}

/// What a run asks of a program.
#[derive(Clone, Copy)]
pub(crate) enum Work {
    /// As fast as one core allows.
    Flood,
    /// Datagrams per second.
    Rate(u32),
    /// As fast as replies come, 100 at most in flight.
    Queries,
}

const WORKS: [Work; 5] =
    [Work::Flood, Work::Queries, Work::Rate(1_000), Work::Rate(10_000), Work::Rate(100_000)];

/// What was seen of a program in one run.
struct Run {
    sent: u64,
    cpu: Duration,
    seconds: f64,
    start: Option<Duration>,
    /// p50 and p99 of the distance from the schedule, in nanoseconds.
    error_ns: Option<(u64, u64)>,
}

/// The command `senders`: prints a line for each program and work, the median of its runs.
pub(crate) fn command(options: &Options) -> Result<bool> {
    if !kernel::is_root() {
        return Err("the senders need root, for a network namespace of their own".into());
    }
    let cores = kernel::cores()?;
    let (Some(&sink_core), Some(&core)) = (cores.first(), cores.get(1)) else {
        return Err("the senders need a core for the sink and another for the program".into());
    };
    println!("work     program    sent/s   ns of CPU  % of core  error p50, p99 µs  first ms");
    for work in WORKS {
        let able: Vec<&Program> = PROGRAMS
            .iter()
            .filter(|program| {
                options.programs.is_empty() || options.programs.iter().any(|it| it == program.name)
            })
            .filter(|program| program.line(work, 0, 0).is_some())
            .collect();
        let mut runs: Vec<Vec<Run>> = able.iter().map(|_| vec![]).collect();
        for _ in 0..options.rounds {
            for (program, runs) in able.iter().zip(&mut runs) {
                runs.push(steering::elsewhere(|| run(program, work, options.seconds, sink_core, core))?);
            }
        }
        for (program, runs) in able.iter().zip(&runs) {
            print(program.name, work, runs);
        }
    }
    Ok(true)
}

/// One run of a program against a sink of its own.
fn run(program: &Program, work: Work, seconds: u32, sink_core: usize, core: usize) -> Result<Run> {
    kernel::pin(&[sink_core])?;
    let mut receiver = program.receiver()?;
    let sink = receiver.is_none().then(|| Sink::start(matches!(work, Work::Queries))).transpose()?;
    let port = sink.as_ref().map_or(program::RECEIVER_PORT, |sink| sink.port);
    let line = program.line(work, port, seconds).ok_or("the program can't do this")?;
    kernel::pin(&[core])?;
    let (sent, cpu) = (datagrams_sent()?, cpu_of_children()?);
    let began = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let mut words = line.split_whitespace();
    let output = Command::new(program::path(words.next().unwrap_or_default())).args(words).output();
    let output = output.map_err(|e| format!("{line}: {e}"))?;
    let (sent, cpu) = (datagrams_sent()? - sent, cpu_of_children()?.saturating_sub(cpu));
    let arrivals = sink.map(Sink::end);
    if let Some(receiver) = &mut receiver {
        receiver.kill()?;
        receiver.wait()?;
    }
    if sent == 0 || arrivals.as_ref().is_some_and(|it| it.times_ns.is_empty()) {
        return Err(format!("{line}: nothing came. {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let arrivals = arrivals.unwrap_or_default();
    let first = arrivals.times_ns.first().map(|&ns| Duration::from_nanos(ns));
    Ok(Run {
        sent: sent - arrivals.replies,
        cpu,
        seconds: f64::from(seconds),
        start: first.and_then(|first| first.checked_sub(began)),
        error_ns: matches!(work, Work::Rate(_)).then(|| schedule_error(&arrivals.times_ns)).flatten(),
    })
}

/// p50 and p99 of the distance from the schedule that the program kept: the straight line through the medians of the
/// first and of the last third, so that a few late datagrams don't turn it. Its rate may be another than the wanted one;
/// `sent/s` shows that.
pub(crate) fn schedule_error(times: &[u64]) -> Option<(u64, u64)> {
    let (first, last) = (*times.first()?, *times.last()?);
    let third = times.len() / 3;
    let spacing_ns = (last - first) as f64 / (times.len() - 1) as f64;
    let mut late_ns: Vec<f64> =
        times.iter().enumerate().map(|(i, time)| (time - first) as f64 - spacing_ns * i as f64).collect();
    let turn = (median(&late_ns[2 * third..]) - median(&late_ns[..third])) / (2 * third) as f64;
    late_ns.iter_mut().enumerate().for_each(|(i, late)| *late -= turn * i as f64);
    let middle = median(&late_ns);
    let mut errors: Vec<u64> = late_ns.iter().map(|late| (late - middle).abs() as u64).collect();
    errors.sort_unstable();
    let percentile = |share: usize| errors.get((errors.len() - 1) * share / 100).copied();
    Some((percentile(50)?, percentile(99)?))
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn print(name: &str, work: Work, runs: &[Run]) {
    let median = |value: &dyn Fn(&Run) -> f64| median(&runs.iter().map(value).collect::<Vec<f64>>());
    // what was not measured is no number
    let shown = |value: f64| if value.is_nan() { "–".to_string() } else { format!("{value:.1}") };
    let work = match work {
        Work::Flood => "flood".into(),
        Work::Queries => "queries".into(),
        Work::Rate(rate) => format!("{rate}/s"),
    };
    let per_s = median(&|run| run.sent as f64 / run.seconds);
    let cost_ns = median(&|run| run.cpu.as_secs_f64() * 1e9 / run.sent as f64);
    let share = median(&|run| run.cpu.as_secs_f64() / run.seconds * 100.0);
    let us = |pick: fn((u64, u64)) -> u64| {
        median(&|run| run.error_ns.map_or(f64::NAN, |error| pick(error) as f64 / 1e3))
    };
    let start = median(&|run| run.start.map_or(f64::NAN, |start| start.as_secs_f64() * 1e3));
    println!(
        "{work:<8} {name:<9} {per_s:>8.0} {cost_ns:>11.0} {share:>10.1} {:>9} {:>8} {:>9}",
        shown(us(|error| error.0)),
        shown(us(|error| error.1)),
        shown(start),
    );
}

/// Datagrams sent in this thread's network namespace (`OutDatagrams` of proc_net_snmp, RFC 4113).
pub(crate) fn datagrams_sent() -> Result<u64> {
    let table = std::fs::read_to_string("/proc/thread-self/net/snmp")?;
    let mut lines = table.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else {
        return Err("no Udp in /proc/net/snmp".into());
    };
    let mut columns = names.split_whitespace().zip(values.split_whitespace());
    let column = columns.find(|(name, _)| *name == "OutDatagrams").ok_or("no OutDatagrams")?;
    Ok(column.1.parse()?)
}

/// The CPU time of all children that were waited for.
pub(crate) fn cpu_of_children() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let of = |time: nix::sys::time::TimeVal| {
        Duration::new(time.tv_sec().unsigned_abs(), time.tv_usec() as u32 * 1_000)
    };
    Ok(of(usage.user_time()) + of(usage.system_time()))
}
