//! `blaster`: a load tester for UDP and TCP echo servers that can be believed.
//!
//! ```text
//! main      options → load → report → exit status
//! pure      options  quantity  target  draw  pacer  payload  ledger  books  latency
//!           tally  schema  warnings  verdict  report
//! running   crew (threads)  live  progress  clock
//! loads     udp: udp/{flow (pure), socket, worker}, on tubular_echo's ring
//!           tcp: tcp/{echo (pure), connection}, on tokio-uring
//! ```

mod books;
mod clock;
mod crew;
mod draw;
mod latency;
mod ledger;
mod live;
mod options;
mod pacer;
#[cfg(test)]
mod pages;
mod payload;
mod progress;
mod quantity;
mod report;
mod schema;
mod tally;
mod target;
mod tcp;
mod udp;
mod verdict;
mod warnings;

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use clap::Parser;
use clap::error::ErrorKind;
use rand::random;
use tubular_echo::sys::{self, EndSignals};

use crate::live::Stop;
use crate::options::{Common, Contradiction, Load, Options, Switch, Tcp, Udp, UdpMode};
use crate::payload::Bodies;
use crate::progress::Goal;
use crate::schema::{Host, Judged, Preface, Report};
use crate::tally::Tally;
use crate::target::{TargetError, Targets};

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Contradiction(#[from] Contradiction),
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error(transparent)]
    Udp(#[from] udp::UdpError),
    #[error(transparent)]
    Tcp(#[from] tcp::TcpError),
    #[error("blocking SIGINT and SIGTERM: {0}")]
    Signals(io::Error),
    #[error("writing the report to {}: {error}", path.display())]
    Json { path: PathBuf, error: io::Error },
    #[error("nothing could be sent: {0}")]
    NothingSent(String),
}

/// How a run went, for the exit status.
enum Outcome {
    Done,
    Unanswered,
    Condition,
}

fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) if is_help(&error) => error.exit(),
        Err(error) => return misused(&one_line(&error)),
    };
    match run(&options) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Unanswered) => ExitCode::from(1),
        Ok(Outcome::Condition) => ExitCode::from(3),
        Err(failure @ (Failure::Contradiction(_) | Failure::Target(_))) => misused(&failure.to_string()),
        Err(failure) => {
            eprintln!("blaster: {failure}");
            ExitCode::from(1)
        }
    }
}

/// Help that was asked for, or that answers a bare `blaster`.
fn is_help(error: &clap::Error) -> bool {
    !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
}

fn misused(why: &str) -> ExitCode {
    eprintln!("blaster: {why} (see --help)");
    ExitCode::from(2)
}

/// What clap has to say, without usage and further hints.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = first.split_whitespace().collect();
    let line = words.join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).into()
}

fn run(options: &Options) -> Result<Outcome, Failure> {
    let common = options.load.common();
    match &options.load {
        Load::Udp(udp) => udp.check()?,
        Load::Tcp(_) => common.check()?,
    }
    for target in &common.targets {
        target.check_manners(common.allow_public)?;
    }
    let mut json = common.json.as_deref().map(open_json).transpose()?;
    let signals = EndSignals::block().map_err(Failure::Signals)?;
    let seed = common.seed.unwrap_or_else(random);
    let run_id = random();
    let stop = Arc::new(Stop::default());
    let goal =
        Goal { duration: common.duration().map(|duration| common.warmup + duration), quiet: common.quiet };
    let mut watch = |lives: &[Arc<live::Live>], are_done: &dyn Fn() -> bool| {
        progress::watch(goal, &signals, &stop, lives, are_done);
    };
    let started_at = SystemTime::now();
    let (load, tally) = match &options.load {
        Load::Udp(udp) => run_udp(udp, seed, run_id, &stop, &mut watch)?,
        Load::Tcp(tcp) => run_tcp(tcp, seed, run_id, &stop, &mut watch)?,
    };
    let preface = Preface {
        command_line: std::env::args().collect(),
        started_at,
        host: host(),
        load,
        ended_early: stop.is_asked(),
    };
    let mut report = Report::new(preface, &tally);
    report.warnings = warnings::warnings(&report);
    if let Some(conditions) = &common.fail_if {
        report.fail_if = conditions
            .judge(&report)
            .into_iter()
            .map(|(condition, failed)| Judged {
                condition: condition.to_string(),
                measured: condition.measured(&report),
                failed,
            })
            .collect();
    }
    publish(&report, common, json.as_mut())?;
    let sent = report.totals.counts.sent + report.warmup.sent;
    let answered = report.totals.counts.answered() + report.warmup.answered();
    if report.fail_if.iter().any(|judged| judged.failed) {
        Ok(Outcome::Condition)
    } else if sent == 0 && !report.refusals.is_empty() {
        let reasons: Vec<_> = report.refusals.iter().map(|refusals| refusals.message.as_str()).collect();
        Err(Failure::NothingSent(reasons.join(", ")))
    } else if sent > 0 && answered == 0 {
        Ok(Outcome::Unanswered)
    } else {
        Ok(Outcome::Done)
    }
}

fn run_udp(
    udp: &Udp,
    seed: u64,
    run_id: u64,
    stop: &Arc<Stop>,
    watch: &mut crew::Watch<'_>,
) -> Result<(schema::Load, Tally), Failure> {
    let common = &udp.common;
    let in_flight = udp.in_flight.unwrap_or(1);
    let (mode, rate) = match (udp.mode(), udp.rate) {
        (UdpMode::Open, Some(rate)) => (udp::Mode::Open(rate), Some(rate)),
        (UdpMode::Open, None) => return Err(Contradiction::OpenWithoutRate.into()),
        (UdpMode::Closed, _) => (udp::Mode::Closed { in_flight }, None),
        (UdpMode::Flood, _) => (udp::Mode::Flood, None),
    };
    let sizes = udp.sizes();
    let workers = common.threads.min(udp.flows);
    let targets = Targets::new(common.targets.clone(), seed, udp.spray)?;
    let about = schema::Load {
        protocol: "udp",
        mode: name(udp.mode()),
        rate_per_s: rate.map(quantity::Rate::per_s),
        in_flight: matches!(mode, udp::Mode::Closed { .. }).then_some(in_flight),
        gso: Some(udp.gso),
        gro: Some(udp.gro == Switch::On),
        spray: Some(udp.spray),
        ..about(common, seed, run_id, &sizes, udp.flows, workers)
    };
    let plan = udp::Plan {
        run_id,
        seed,
        targets,
        sizes,
        bodies: Bodies::new(),
        timeout_ns: common.timeout.as_nanos() as u64,
        train: udp.gso,
        scheduled: rate.is_some(),
    };
    let load = udp::Load {
        plan: Arc::new(plan),
        mode,
        flows: udp.flows,
        workers,
        window: udp::window(udp.flows, mode, udp.gso, common.timeout),
        gro: udp.gro == Switch::On,
        warmup: common.warmup,
        duration: common.duration(),
        count: common.count,
        linger: common.linger(),
    };
    Ok((about, udp::run(load, stop, watch)?))
}

fn run_tcp(
    tcp: &Tcp,
    seed: u64,
    run_id: u64,
    stop: &Arc<Stop>,
    watch: &mut crew::Watch<'_>,
) -> Result<(schema::Load, Tally), Failure> {
    let common = &tcp.common;
    let sizes = tcp.sizes();
    let workers = common.threads.min(tcp.connections);
    let about = schema::Load {
        protocol: "tcp",
        mode: name(tcp.mode),
        ..about(common, seed, run_id, &sizes, tcp.connections, workers)
    };
    let load = tcp::Load {
        run_id,
        seed,
        targets: Targets::new(common.targets.clone(), seed, false)?,
        sizes,
        bodies: Bodies::new(),
        timeout: common.timeout,
        mode: tcp.mode,
        connections: tcp.connections,
        workers,
        warmup: common.warmup,
        duration: common.duration(),
        count: common.count,
        linger: common.linger(),
    };
    Ok((about, tcp::run(load, stop, watch)?))
}

/// What of a load both protocols have.
fn about(
    common: &Common,
    seed: u64,
    run_id: u64,
    sizes: &quantity::Sizes,
    flows: u32,
    threads: u32,
) -> schema::Load {
    schema::Load {
        targets: common.targets.iter().map(ToString::to_string).collect(),
        run_id: format!("{run_id:016x}"),
        seed,
        size: sizes.to_string(),
        flows,
        threads,
        timeout_ns: common.timeout.as_nanos() as u64,
        warmup_ns: common.warmup.as_nanos() as u64,
        duration_ns: common.duration().map(|duration| duration.as_nanos() as u64),
        count: common.count,
        ..schema::Load::default()
    }
}

/// The name of a mode as it is given on the command line.
fn name(mode: impl clap::ValueEnum) -> String {
    mode.to_possible_value().map_or(String::new(), |value| value.get_name().into())
}

/// Where this runs, as far as the kernel tells.
fn host() -> Host {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpu_info = read("/proc/cpuinfo");
    let model = cpu_info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    Host {
        kernel: read("/proc/sys/kernel/osrelease").trim().into(),
        cpu: model.map_or(String::new(), |(_, model)| model.into()),
        processors: sys::processors().map_or(0, |processors| processors.len()),
    }
}

/// Opens what `--json` names: before the run, so that a wrong path costs no run.
fn open_json(path: &Path) -> Result<Box<dyn Write>, Failure> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdout()));
    }
    let file = File::create(path).map_err(|error| Failure::Json { path: path.into(), error })?;
    Ok(Box::new(file))
}

/// Writes the table and the JSON.
fn publish(report: &Report, common: &Common, json: Option<&mut Box<dyn Write>>) -> Result<(), Failure> {
    let to_stdout = common.json.as_deref() != Some(Path::new("-"));
    if !common.quiet {
        let is_terminal = if to_stdout { io::stdout().is_terminal() } else { io::stderr().is_terminal() };
        let color = is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let table = report::render(report, color);
        // a reader that has gone away does not want it
        let _ = if to_stdout {
            io::stdout().write_all(table.as_bytes())
        } else {
            io::stderr().write_all(table.as_bytes())
        };
    }
    if let (Some(json), Some(path)) = (json, &common.json) {
        let failed = |error| Failure::Json { path: path.clone(), error };
        serde_json::to_writer_pretty(&mut *json, report).map_err(|error| failed(error.into()))?;
        json.write_all(b"\n").and_then(|()| json.flush()).map_err(failed)?;
    }
    Ok(())
}
