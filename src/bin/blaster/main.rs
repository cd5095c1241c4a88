//! `blaster`: a load tester for UDP and TCP echo servers that can be believed.
//!
//! ```text
//! main      options, manual → load → outputs → exit status
//! pure      quantity  target  draw  pacer  payload  ledger  books  latency  timeline  tally
//!           schema  compile (tally → report)  merge (reports → report)  warnings  verdict
//!           objective  search
//! showing   report  compare (tables)  page/{plots, plot, facts} (HTML)  hdr (histogram log)
//! running   load  steps  crew (threads)  live  view (terminal)  clock
//! loads     udp: udp/{flow (pure), socket, worker}, on tubular_echo's ring
//!           tcp: tcp/{echo (pure), connection}, on tokio-uring
//! ```

mod books;
mod clock;
mod compare;
mod compile;
mod crew;
mod draw;
mod hdr;
mod latency;
mod ledger;
mod live;
mod load;
mod manual;
mod merge;
mod objective;
mod options;
mod outputs;
mod pacer;
mod page;
#[cfg(test)]
mod pages;
mod payload;
mod quantity;
mod report;
#[cfg(test)]
mod sample;
mod schema;
mod search;
mod steps;
mod tally;
mod target;
mod tcp;
mod timeline;
mod udp;
mod verdict;
mod view;
mod warnings;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::load::{LoadError, Session};
use crate::merge::MergeError;
use crate::options::{Command, Load, Options, Reread};
use crate::outputs::{OutputError, Outputs};
use crate::schema::{Document, Named, Series};

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
    Unanswered,
    Condition,
}

fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) if is_help(&error) => error.exit(),
        Err(error) => return misused(&one_line(&error)),
    };
    let outcome = match options.command {
        Command::Udp(udp) => measure(&Load::Udp(udp)),
        Command::Tcp(tcp) => measure(&Load::Tcp(tcp)),
        Command::Report(reread) => show(&reread),
    };
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Unanswered) => ExitCode::from(1),
        Ok(Outcome::Condition) => ExitCode::from(3),
        Err(Failure::Load(failure @ (LoadError::Contradiction(_) | LoadError::Target(_)))) => {
            misused(&failure.to_string())
        }
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

/// `blaster udp` and `blaster tcp`.
fn measure(load: &Load) -> Result<Outcome, Failure> {
    let session = Session::new(load)?;
    let mut outputs = Outputs::open(&load.common().outputs)?;
    let mut document = match load {
        Load::Udp(udp) if !udp.steps.is_empty() => {
            Document::Series(Box::new(steps::all(&session, udp, &outputs)?))
        }
        Load::Udp(udp) if udp.find_max => {
            Document::Series(Box::new(steps::find_max(&session, udp, &outputs)?))
        }
        _ => Document::Run(Box::new(session.run(load, &about(load))?)),
    };
    outputs.judge(&mut document);
    outputs.print(&match &document {
        Document::Run(report) => report::render(report, outputs.paint()),
        // its lines have been printed as they came
        Document::Series(series) => compare::footer(series, outputs.paint()),
    });
    outputs.write(&document)?;
    Ok(outcome(&document))
}

/// A run's name for who watches it.
fn about(load: &Load) -> String {
    load.common().targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// `blaster report`.
fn show(reread: &Reread) -> Result<Outcome, Failure> {
    let mut runs = Vec::new();
    for file in &reread.files {
        let name = file.display().to_string();
        let document = schema::read(file).map_err(|error| Failure::Input(name.clone(), error))?;
        match document {
            Document::Run(report) => runs.push(Named::new(name, *report)),
            // the steps of one file by their own names, those of several by both
            Document::Series(series) if reread.files.len() == 1 => runs.extend(series.runs),
            Document::Series(series) => runs.extend(
                series.runs.into_iter().map(|run| Named { name: format!("{name}: {}", run.name), ..run }),
            ),
        }
    }
    let mut document = if reread.merge {
        Document::Run(Box::new(merge::merge(&runs)?))
    } else if let [one] = runs.as_slice() {
        Document::Run(Box::new(one.report.clone()))
    } else {
        Document::Series(Box::new(Series::new(runs)))
    };
    let mut outputs = Outputs::open(&reread.outputs)?;
    outputs.judge(&mut document);
    outputs.print(&match &document {
        Document::Run(report) => report::render(report, outputs.paint()),
        Document::Series(series) => compare::render(series, outputs.paint()),
    });
    outputs.write(&document)?;
    Ok(match outcome(&document) {
        // that is what the run itself said
        Outcome::Unanswered => Outcome::Done,
        outcome => outcome,
    })
}

fn outcome(document: &Document) -> Outcome {
    let runs = document.runs();
    let has_failed = runs.iter().any(|run| run.fail_if.iter().any(|judged| judged.failed));
    let sent: u64 = runs.iter().map(|run| run.sent()).sum();
    let answered: u64 = runs.iter().map(|run| run.answered()).sum();
    if has_failed {
        Outcome::Condition
    } else if sent > 0 && answered == 0 {
        Outcome::Unanswered
    } else {
        Outcome::Done
    }
}
