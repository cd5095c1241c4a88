//! `blaster`: a load tester for UDP and TCP echo servers whose results can be trusted.
//!
//! The map. A line is a folder, or a file at the top. A folder uses only folders below it; a file uses only files to its
//! right in its folder.
//!
//! ```text
//! main      from the command line to the exit status
//! run       steps (--steps, --find-max)  session (one run)  outputs  destination (one file)
//! show      text (the report)  compare (several)  page (HTML)  page::{plots, facts, plot}
//!           progress (the screen, --every)  answer (of --find-max)  paint
//! options   the command line: what each option means, and which go together
//! manual    the text of --help after the options
//! udp       udp (the run)  worker  schedule  socket  flow  error  plan, on the library's ring
//! tcp       tcp (the run)  worker  connection  shared  echo  local_end  error  plan, on tokio-uring
//! judge     search  objective  warnings  fail_if
//! report    hdr  merge (reports → report)  compile (results → report)  schema (the JSON)
//! console   streams (standard output and error)  interruptible (waits)  signals
//! workers   threads (of a run)  live (counts while it runs)  stop  clock
//! model     plan  results  timeline  outcomes  counts  latency  sent_log  pacer  target
//!           quantity (numbers on the command line)  payload  draw  units (numbers in reports)  local_limits
//! ```
//!
//! Messages: errors stand beside the code that meets them (`thiserror`), warnings in judge::warnings, reasons of
//! --find-max in judge::objective, help in options and manual. streams::message prints the errors.

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
    pub(crate) mod counts;
    pub(crate) mod draw;
    pub(crate) mod latency;
    pub(crate) mod local_limits;
    pub(crate) mod outcomes;
    pub(crate) mod pacer;
    pub(crate) mod payload;
    pub(crate) mod plan;
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

use crate::console::streams::message;
use crate::console::{interruptible, signals, streams};
use crate::model::units::count;
use crate::options::{Command, LoadOptions, Options, ReportOptions};
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

/// The outcome of a call, for the exit status.
enum Outcome {
    Done,
    /// Not all outputs could be written; the messages are printed.
    Unwritten,
    /// The server did not answer, or not to the end; the reason is not printed yet.
    Unanswered(String),
    /// A condition of `--fail-if` holds.
    ConditionHolds,
}

fn main() -> ExitCode {
    let status = run();
    streams::finish();
    status
}

fn run() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) if is_help(&error) => error.exit(),
        Err(error) => return misused(&one_line(&error)),
    };
    let outcome = match options.command {
        Command::Udp(udp) => measure(&LoadOptions::Udp(udp)),
        Command::Tcp(tcp) => measure(&LoadOptions::Tcp(tcp)),
        Command::Report(options) => show(&options),
    };
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Unanswered(why)) => {
            message(&why);
            ExitCode::from(1)
        }
        Ok(Outcome::Unwritten) => ExitCode::from(1),
        Ok(Outcome::ConditionHolds) => ExitCode::from(3),
        Err(Failure::Load(failure @ (LoadError::Contradiction(_) | LoadError::Target(_)))) => {
            misused(&failure.to_string())
        }
        Err(failure) => {
            message(&failure.to_string());
            ExitCode::from(1)
        }
    }
}

/// Whether clap answers with help, also to a bare `blaster`.
fn is_help(error: &clap::Error) -> bool {
    !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
}

fn misused(why: &str) -> ExitCode {
    message(&format!("{why} (see --help)"));
    ExitCode::from(2)
}

/// The message of clap without usage and hints.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = first.split_whitespace().collect();
    let line = words.join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).into()
}

/// `blaster udp` and `blaster tcp`.
fn measure(load: &LoadOptions) -> Result<Outcome, Failure> {
    let session = Session::new(load)?;
    let mut outputs = Outputs::open(&load.common().outputs).map_err(|error| {
        // the signal ended the wait for a reader of a FIFO
        if signals::stop().is_asked() { LoadError::Stopped.into() } else { Failure::from(error) }
    })?;
    // if a step fails, the steps before it are still reported
    let (mut document, failure) = match load {
        LoadOptions::Udp(udp) if udp.has_steps() => {
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
        _ => (Document::Run(Box::new(session.run(load, &targets(load))?)), None),
    };
    outputs.judge(&mut document);
    let table = match &document {
        Document::Run(report) => text::render(report, outputs.paint()),
        // the lines of its runs are printed already
        Document::Series(series) => compare::footer(series, outputs.paint()),
    };
    if !write(&mut outputs, &document, &table) {
        return Ok(Outcome::Unwritten);
    }
    failure.map_or_else(|| Ok(outcome(&document)), |failure| Err(failure.into()))
}

/// Writes the files, then prints the table: its reader may be slow. Prints the errors, and after an error the table even
/// with --quiet. Returns whether there was none.
fn write(outputs: &mut Outputs, document: &Document, table: &str) -> bool {
    interruptible::begin_report();
    let mut errors = outputs.write(document);
    if outputs.is_for_terminal() {
        progress::wait_until_cleared();
    }
    outputs.print(table);
    errors.extend(outputs.finish());
    for error in &errors {
        message(&error.to_string());
    }
    if !errors.is_empty() {
        outputs.rescue(&match document {
            Document::Run(report) => text::render(report, outputs.paint()),
            Document::Series(series) => compare::render(series, outputs.paint()),
        });
    }
    errors.is_empty()
}

/// The name of a single run on the screen.
fn targets(load: &LoadOptions) -> String {
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
            // the steps of a single file keep their names; those of several files get the name of the file as well
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
        // the run itself has reported that
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
    let mut conditions = runs.iter().flat_map(|run| &run.fail_if).chain(on_series);
    let has_failed = conditions.any(|condition| condition.failed);
    let sent: u64 = runs.iter().map(|run| run.sent()).sum();
    let answered: u64 = runs.iter().map(|run| run.answered()).sum();
    if has_failed {
        Outcome::ConditionHolds
    } else if sent > 0 && answered == 0 {
        Outcome::Unanswered(format!("nothing came back for {} sent; does the server run?", count(sent)))
    } else if let Some(why) = runs.iter().find_map(|run| abandoned(run)) {
        Outcome::Unanswered(why)
    } else {
        Outcome::Done
    }
}

/// The reason why no connection of a TCP run was in order at its end; `None` if one was.
fn abandoned(run: &Report) -> Option<String> {
    let connections = run.connections.filter(|it| it.attempted > 0 && it.in_order_at_end == 0)?;
    // after a second Ctrl-C blaster does not wait for the end of the connections
    (!run.ended_early).then(|| {
        format!(
            "no connection was served to the end: {} failed, {} broke, {} had no answer",
            count(connections.failed),
            count(connections.broken),
            count(connections.stuck)
        )
    })
}
