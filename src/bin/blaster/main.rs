//! `blaster`: a load tester for UDP and TCP echo servers that can be believed.
//!
//! ```text
//! main          the command line → a run, or a report that is read again → its exit status
//! options       the command line · manual  what --help says after the options
//! run           session (one run)  steps (several)  outputs (where reports go)  destination (one file)
//! show          text  compare (tables)  page + page/{plots, plot, facts} (HTML)  progress (while it runs)
//! judge         warnings  fail_if  objective  search
//! report        schema  compile (results → report)  merge (reports → report)  hdr (histogram log)
//! udp           udp/{flow (pure), socket, worker}, on tubular_echo's ring
//! tcp           tcp/{echo (pure), bound, connection}, on tokio-uring
//! console       signals  interruptible (who does not read)
//! workers       threads  live  clock
//! model         quantity  target  draw  pacer  payload  sent_log  outcomes  latency  timeline  results
//! ```

mod manual;
mod options;
#[cfg(test)]
mod pages;
mod tcp;
mod udp;

mod run {
    pub(crate) mod destination;
    pub(crate) mod outputs;
    pub(crate) mod session;
    pub(crate) mod steps;
}

mod show {
    pub(crate) mod answer;
    pub(crate) mod compare;
    #[cfg(test)]
    mod extremes;
    pub(crate) mod page;
    pub(crate) mod paint;
    pub(crate) mod progress;
    pub(crate) mod text;
}

mod judge {
    pub(crate) mod fail_if;
    pub(crate) mod objective;
    pub(crate) mod search;
    pub(crate) mod warnings;
}

mod report {
    pub(crate) mod compile;
    pub(crate) mod hdr;
    pub(crate) mod merge;
    #[cfg(test)]
    pub(crate) mod sample;
    pub(crate) mod schema;
}

mod console {
    pub(crate) mod interruptible;
    pub(crate) mod signals;
    pub(crate) mod streams;
}

mod workers {
    pub(crate) mod clock;
    pub(crate) mod live;
    pub(crate) mod stop;
    pub(crate) mod threads;
}

mod model {
    pub(crate) mod draw;
    pub(crate) mod latency;
    pub(crate) mod local_limits;
    pub(crate) mod outcomes;
    pub(crate) mod pacer;
    pub(crate) mod payload;
    pub(crate) mod quantity;
    pub(crate) mod results;
    pub(crate) mod sent_log;
    pub(crate) mod target;
    pub(crate) mod timeline;
    pub(crate) mod units;
}

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::console::streams::complain;
use crate::console::{interruptible, signals, streams};
use crate::model::units::count;
use crate::options::{Command, Load, Options, ReportOptions};
use crate::report::merge::MergeError;
use crate::report::schema::{Document, NamedRun, Report, Series};
use crate::report::{merge, schema};
use crate::run::outputs::{OutputError, Outputs};
use crate::run::session::{LoadError, Session};
use crate::run::steps;
use crate::show::{compare, progress, text};

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Output(#[from] OutputError),
    #[error("{0}: {1}")]
    Input(String, schema::ReadError),
    #[error(transparent)]
    Merge(#[from] MergeError),
}

/// How it went, for the exit status.
enum Outcome {
    Done,
    /// Not all reports could be written; that has been said.
    Unwritten,
    /// The server was not there, or not to the end; why that is said.
    Unanswered(String),
    Condition,
}

fn main() -> ExitCode {
    let status = run();
    streams::settle();
    status
}

fn run() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) if is_help(&error) => error.exit(),
        Err(error) => return misused(&one_line(&error)),
    };
    let outcome = match options.command {
        Command::Udp(udp) => measure(&Load::Udp(udp)),
        Command::Tcp(tcp) => measure(&Load::Tcp(tcp)),
        Command::Report(options) => show(&options),
    };
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Unanswered(why)) => {
            complain(&why);
            ExitCode::from(1)
        }
        Ok(Outcome::Unwritten) => ExitCode::from(1),
        Ok(Outcome::Condition) => ExitCode::from(3),
        Err(Failure::Load(failure @ (LoadError::Contradiction(_) | LoadError::Target(_)))) => {
            misused(&failure.to_string())
        }
        Err(failure) => {
            complain(&failure.to_string());
            ExitCode::from(1)
        }
    }
}

/// Help that was asked for, or that answers a bare `blaster`.
fn is_help(error: &clap::Error) -> bool {
    !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
}

fn misused(why: &str) -> ExitCode {
    complain(&format!("{why} (see --help)"));
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

/// `blaster udp` and `blaster tcp`.
fn measure(load: &Load) -> Result<Outcome, Failure> {
    let session = Session::new(load)?;
    let mut outputs = Outputs::open(&load.common().outputs).map_err(|error| {
        // a FIFO that nobody had opened to read
        if signals::stop().is_asked() { LoadError::Stopped.into() } else { Failure::from(error) }
    })?;
    // what a step that fails has before it is no worse for that
    let (mut document, failure) = match load {
        Load::Udp(udp) if udp.has_steps() => {
            let (series, failure) = if udp.find_max {
                steps::find_max(&session, udp, &outputs)
            } else {
                steps::all(&session, udp, &outputs)
            };
            match failure {
                Some(failure) if series.runs.is_empty() => return Err(failure.into()),
                failure => (Document::Series(Box::new(series)), failure),
            }
        }
        _ => (Document::Run(Box::new(session.run(load, &about(load))?)), None),
    };
    outputs.judge(&mut document);
    let table = match &document {
        Document::Run(report) => text::render(report, outputs.paint()),
        // its lines have been printed as they came
        Document::Series(series) => compare::footer(series, outputs.paint()),
    };
    if !write(&mut outputs, &document, &table) {
        return Ok(Outcome::Unwritten);
    }
    failure.map_or_else(|| Ok(outcome(&document)), |failure| Err(failure.into()))
}

/// Writes the files and prints the table, in this order: a reader of the table may take his time. Says what went wrong,
/// and shows what would be lost with it. Whether nothing did.
fn write(outputs: &mut Outputs, document: &Document, table: &str) -> bool {
    interruptible::begin_report();
    let mut errors = outputs.write(document);
    if outputs.is_for_terminal() {
        progress::settle();
    }
    outputs.print(table);
    errors.extend(outputs.finish());
    for error in &errors {
        complain(&error.to_string());
    }
    if !errors.is_empty() {
        outputs.rescue(&match document {
            Document::Run(report) => text::render(report, outputs.paint()),
            Document::Series(series) => compare::render(series, outputs.paint()),
        });
    }
    errors.is_empty()
}

/// A run's name for who watches it.
fn about(load: &Load) -> String {
    load.common().targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// `blaster report`.
fn show(options: &ReportOptions) -> Result<Outcome, Failure> {
    let mut runs = Vec::new();
    let mut found = None;
    for file in &options.files {
        let name = file.display().to_string();
        let document = schema::read(file).map_err(|error| Failure::Input(name.clone(), error))?;
        match document {
            Document::Run(report) => runs.push(NamedRun::new(name, *report)),
            // the steps of one file by their own names, those of several by both
            Document::Series(series) if options.files.len() == 1 => {
                found = series.found;
                runs.extend(series.runs);
            }
            Document::Series(series) => runs.extend(
                series.runs.into_iter().map(|run| NamedRun { name: format!("{name}: {}", run.name), ..run }),
            ),
        }
    }
    let mut document = if options.merge {
        Document::Run(Box::new(merge::merge(&runs)?))
    } else if let ([one], None) = (runs.as_slice(), found) {
        Document::Run(Box::new(one.report.clone()))
    } else {
        Document::Series(Box::new(Series { found, ..Series::new(runs) }))
    };
    let mut outputs = Outputs::open(&options.outputs)?;
    outputs.judge(&mut document);
    let table = match &document {
        Document::Run(report) => text::render(report, outputs.paint()),
        Document::Series(series) => compare::render(series, outputs.paint()),
    };
    if !write(&mut outputs, &document, &table) {
        return Ok(Outcome::Unwritten);
    }
    Ok(match outcome(&document) {
        // that is what the run itself said
        Outcome::Unanswered(_) => Outcome::Done,
        outcome => outcome,
    })
}

fn outcome(document: &Document) -> Outcome {
    let runs = document.runs();
    let on_series = match document {
        Document::Run(_) => [].as_slice(),
        Document::Series(series) => &series.fail_if,
    };
    let mut judged = runs.iter().flat_map(|run| &run.fail_if).chain(on_series);
    let has_failed = judged.any(|judged| judged.failed);
    let sent: u64 = runs.iter().map(|run| run.sent()).sum();
    let answered: u64 = runs.iter().map(|run| run.answered()).sum();
    if has_failed {
        Outcome::Condition
    } else if sent > 0 && answered == 0 {
        Outcome::Unanswered(format!("nothing came back for {} sent; does the server run?", count(sent)))
    } else if let Some(why) = runs.iter().find_map(|run| abandoned(run)) {
        Outcome::Unanswered(why)
    } else {
        Outcome::Done
    }
}

/// How a TCP server left all connections that it had in the end.
fn abandoned(run: &Report) -> Option<String> {
    let connections = run.connections.filter(|it| it.attempted > 0 && it.in_order_at_end == 0)?;
    // who presses Ctrl-C twice does not wait for the end of connections
    (!run.ended_early).then(|| {
        format!(
            "no connection was served to the end: {} failed, {} broke, {} had no answer",
            count(connections.failed),
            count(connections.broken),
            count(connections.stuck)
        )
    })
}
