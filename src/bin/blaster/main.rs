//! `blaster`: a load tester for UDP and TCP echo servers whose results can be trusted.
//!
//! This file is the map. Each folder is a floor, declared here from the top to the bottom. A module uses only its own
//! floor and those below, and no imports form a circle: `tests/layers.rs` reads this file and all imports.
//!
//! ```text
//! a run        options ─► run::session ─► udp or tcp (on workers::threads) ─► model::results ─► report::compile
//! a datagram   udp::schedule (who sends) ─► udp::flow (compose) ─► udp::worker (send) ─► udp::flow (judge)
//! a path MTU   options ─► run::mtu ─► mtu_flows (sockets) ─► judge::mtu_search ─► report::mtu ─► show::mtu
//! a message    tcp::connection ─► tcp::echo (judge)
//! a report     report::schema ─► judge::{warnings, fail_if} ─► run::outputs ─► show::{text, page}, report::hdr
//! ```
//!
//! | where does … live? | |
//! |---|---|
//! | an option, its help, its default | `options`; the text after the options: `manual` |
//! | an error that ends blaster | the module of its step, as `thiserror`; `Failure` here lists them |
//! | a warning in a report | `judge::warnings`; `workers::clock` has one |
//! | what blaster may have caused itself | `judge::blame` |
//! | the reason for a verdict of `--find-max` | `judge::objective` |
//! | a field of the JSON | the module of its part in `report::schema`; counts: `model::counts`; percentiles: `model::latency` |
//! | the name of a count | `model::counts` |
//! | the exit status | `outcome` here |

// the manual pages, made by ci/pages
#[cfg(test)]
mod pages;

/// A run, and the places that its report goes to.
mod run {
    pub(crate) mod destination; // one file, so that no older report is lost
    mod lines; // files that grow while a run lasts
    pub(crate) mod lookup; // names → addresses
    pub(crate) mod monitor; // --jsonl, --csv, --metrics
    pub(crate) mod mtu; // blaster mtu
    pub(crate) mod outputs; // the table and all files
    mod server_metrics; // the server's counters, over HTTP
    pub(crate) mod session; // one run: options → report
    pub(crate) mod steps; // several runs: --steps, --find-max
}

/// Reports for people.
mod show {
    pub(crate) mod answer; // the bounds and the answer of --find-max
    pub(crate) mod columns; // tables that fit the terminal
    pub(crate) mod compare; // several reports side by side
    #[cfg(test)]
    mod extremes; // reports with extreme numbers
    pub(crate) mod mtu; // path MTUs
    pub(crate) mod page; // --html
    pub(crate) mod paint; // colors, and lines that fit the terminal
    pub(crate) mod places; // destinations and sources with faults
    pub(crate) mod progress; // the screen while a run lasts; --every
    pub(crate) mod replies; // the headers of replies
    mod server; // --server-metrics in words
    pub(crate) mod text; // one report
    mod wrong_reply; // an example of a wrong reply
}

// the command line: each option, and which go together
mod options;

// the text of --help after the options
mod manual;

// flows of few datagrams, whose sizes matter: mtu_flows::flow
mod mtu_flows;

// flows of datagrams on the library's ring: udp::{worker, schedule, socket, flow, error, plan}
mod udp;

// connections on the library's ring: tcp::{worker, schedule, calls, connection, echo, …}
mod tcp;

/// Judgements of a report.
mod judge {
    mod blame; // the losses and the latency that blaster may have caused
    pub(crate) mod budget; // --search-runs and --search-time: how many more runs?
    pub(crate) mod causes; // why did no right reply come?
    pub(crate) mod fail_if; // --fail-if
    pub(crate) mod mtu_search; // blaster mtu: the next sizes, the answer
    pub(crate) mod objective; // --loss and --p99: whose fault is a miss?
    pub(crate) mod search; // --find-max: the next rate, the answer
    pub(crate) mod warnings; // was blaster the bottleneck?
}

/// Reports as data.
mod report {
    pub(crate) mod compile; // results → report
    pub(crate) mod hdr; // report → histogram log
    pub(crate) mod interval_line; // --jsonl, --csv
    #[cfg(test)]
    mod json_schema; // docs/blaster-report.schema.json
    pub(crate) mod merge; // reports → report
    pub(crate) mod metrics; // --metrics
    pub(crate) mod mtu; // path MTUs
    pub(crate) mod names; // the names among the targets
    pub(crate) mod replies; // the headers of replies
    #[cfg(test)]
    pub(crate) mod sample; // a report for tests
    pub(crate) mod schema; // the JSON
    mod server; // counts of both ends → where datagrams were lost
    pub(crate) mod whole; // of many runs, those that a report shows whole
}

/// Standard output, standard error, signals.
mod console {
    pub(crate) mod interruptible; // waits that a signal can end
    pub(crate) mod signals; // the thread that waits for signals
    pub(crate) mod streams; // printing, and messages
}

/// The threads of a load, and what they share with the rest.
mod workers {
    pub(crate) mod clock; // time since the start
    pub(crate) mod live; // counts while a run lasts
    pub(crate) mod observed; // all counts while a run lasts
    pub(crate) mod route; // what the routing table says
    pub(crate) mod socket_options; // --dscp, --ttl, --dont-fragment, --interface, --mark
    pub(crate) mod stop; // the request to end early
    pub(crate) mod threads; // start together, add up
}

/// Arithmetic and data. Nothing here has a socket or a clock.
mod model {
    pub(crate) mod backoff; // pauses of flows that nothing is delivered for
    pub(crate) mod counts; // the list of all counts
    pub(crate) mod draw; // random choices that can be repeated
    pub(crate) mod dscp; // --dscp
    pub(crate) mod flow_label; // --flow-label
    pub(crate) mod given_target; // a target of the command line: addresses, or a name
    pub(crate) mod host_name; // a name to look up
    pub(crate) mod icmp; // words for ICMP errors
    pub(crate) mod latency; // histograms and percentiles
    pub(crate) mod local_limits; // limits of this host
    pub(crate) mod metrics_url; // --server-metrics
    pub(crate) mod no_hosts; // addresses that belong to no host
    pub(crate) mod outages; // destinations without a right reply, and since when
    pub(crate) mod outcomes; // counts by interval
    pub(crate) mod pacer; // when each train is due at a constant rate
    pub(crate) mod packet_options; // headers and ways of what is sent
    pub(crate) mod payload; // the bytes of a message, and their judgement
    pub(crate) mod plan; // what a run sends, and for how long
    pub(crate) mod quantity; // numbers on the command line
    pub(crate) mod rate_curve; // a rate that changes with time
    pub(crate) mod receive_clock; // the kernel's receive times on the clock of the run
    pub(crate) mod recording; // the times and sizes of --replay
    pub(crate) mod reply_headers; // the DSCP and TTL of replies
    pub(crate) mod results; // all results of a worker
    pub(crate) mod sent_log; // the datagrams of a flow and their states
    pub(crate) mod server_counts; // the counters of our server
    pub(crate) mod source; // --source: the local addresses
    pub(crate) mod spans; // intervals that get longer as they age
    pub(crate) mod summary; // destinations with faults, as prefixes and ranges of ports
    pub(crate) mod tallies; // counts by address
    pub(crate) mod target; // one target
    pub(crate) mod targets; // the choice among all targets
    pub(crate) mod timeline; // latency by interval
    pub(crate) mod timetable; // when a run sends: even, changing, in bursts, at random, as recorded
    pub(crate) mod units; // numbers in reports
    pub(crate) mod visits; // --each-once: the destinations, and their order
    pub(crate) mod watchlist; // what is observed while a run lasts
    pub(crate) mod wrap; // lines that break at words
}

use std::process::ExitCode;

use clap::error::ErrorKind;

use crate::console::streams::message;
use crate::console::{interruptible, signals, streams};
use crate::judge::causes;
use crate::model::units::count;
use crate::options::{Command, LoadOptions, MtuOptions, Options, ReportOptions};
use crate::report::merge::MergeError;
use crate::report::schema::{Document, NamedRun, Report, Series};
use crate::report::{merge, schema};
use crate::run::lookup::LookupError;
use crate::run::outputs::{OutputError, Outputs};
use crate::run::session::{LoadError, Session};
use crate::run::steps;
use crate::show::{compare, mtu, progress, text};

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
    /// The server gave no right reply, or not to the end; the reason is not printed yet.
    Unanswered(String),
    /// A condition of `--fail-if` holds.
    ConditionHolds,
    /// A signal ended the run; its report is written.
    EndedEarly,
    /// A search ended, and its answer is not confirmed; the table says so.
    Unconfirmed,
}

fn main() -> ExitCode {
    let status = run();
    streams::finish();
    status
}

fn run() -> ExitCode {
    let options = match Options::read() {
        Ok(options) => options,
        Err(error) if is_help(&error) => error.exit(),
        Err(error) => return misused(&one_line(&error)),
    };
    let outcome = match options.command {
        Command::Udp(udp) => measure(LoadOptions::Udp(udp)),
        Command::Tcp(tcp) => measure(LoadOptions::Tcp(tcp)),
        Command::Mtu(mtu) => find_mtu(mtu),
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
        Ok(Outcome::EndedEarly) => ExitCode::from(4),
        Ok(Outcome::Unconfirmed) => ExitCode::from(5),
        Err(Failure::Load(
            failure @ (LoadError::Contradiction(_)
            | LoadError::Target(_)
            | LoadError::MetricsTarget(_)
            | LoadError::Lookup(LookupError::Static(_))),
        )) => misused(&failure.to_string()),
        Err(failure @ Failure::Load(LoadError::Stopped)) => {
            message(&failure.to_string());
            ExitCode::from(4)
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
fn measure(mut load: LoadOptions) -> Result<Outcome, Failure> {
    let session = Session::new(&mut load)?;
    let load = &load;
    let mut outputs = Outputs::open(&load.common().outputs).map_err(|error| {
        // the signal ended the wait for a reader of a FIFO
        if signals::stop().is_asked() { LoadError::Stopped.into() } else { Failure::from(error) }
    })?;
    // if a step fails, the steps before it are still reported
    outputs = outputs.beside_lines_on_stdout(load.common().has_lines_on_stdout());
    let (mut document, failure) = if load.rates().has_steps() {
        let (series, failure) = if load.rates().find_max {
            steps::find_max(&session, load, &outputs)
        } else {
            steps::all(&session, load, &outputs)
        };
        match failure {
            Some(failure) if series.runs.is_empty() => return Err(failure.into()),
            failure => (Document::Series(Box::new(series)), failure),
        }
    } else {
        (Document::Run(Box::new(session.run(load, &targets(load))?)), None)
    };
    // a run that a signal ended before it had sent anything is left out
    let has_lost_a_run = matches!(document, Document::Series(_)) && signals::stop().is_asked();
    outputs.judge(&mut document);
    let table = match &document {
        Document::Run(report) => text::render(report, &outputs.paint()),
        // the lines of its runs are printed already
        Document::Series(series) => compare::footer(series, &outputs.paint()),
    };
    let are_lines_written = session.finish_lines();
    if !write(&mut outputs, &document, &table) || !are_lines_written {
        return Ok(Outcome::Unwritten);
    }
    if let Some(failure) = failure {
        return Err(failure.into());
    }
    Ok(match outcome(&document) {
        Outcome::Done | Outcome::Unconfirmed if has_lost_a_run => Outcome::EndedEarly,
        outcome => outcome,
    })
}

/// Writes the files, then prints the table: its reader may be slow. Prints the errors, and after an error the table even
/// with --quiet. Returns whether there was none.
fn write(outputs: &mut Outputs, document: &Document, table: &str) -> bool {
    interruptible::begin_report();
    let errors = outputs.write(document);
    print(outputs, errors, table, || match document {
        Document::Run(report) => text::render(report, &outputs.paint()),
        Document::Series(series) => compare::render(series, &outputs.paint()),
    })
}

/// Prints the table and the errors, and after an error even with --quiet all that is known. Returns whether there was none.
fn print(outputs: &Outputs, mut errors: Vec<OutputError>, table: &str, all: impl FnOnce() -> String) -> bool {
    if outputs.is_for_terminal() {
        progress::wait_until_cleared();
    }
    outputs.print(table);
    errors.extend(outputs.finish());
    for error in &errors {
        message(&error.to_string());
    }
    if !errors.is_empty() {
        outputs.rescue(&all());
    }
    errors.is_empty()
}

/// `blaster mtu`.
fn find_mtu(mut options: MtuOptions) -> Result<Outcome, Failure> {
    run::mtu::prepare(&mut options)?;
    let mut outputs = Outputs::open(&options.outputs()).map_err(|error| {
        // the signal ended the wait for a reader of a FIFO
        if signals::stop().is_asked() { LoadError::Stopped.into() } else { Failure::from(error) }
    })?;
    let report = run::mtu::find(&options, &outputs)?;
    interruptible::begin_report();
    let errors = outputs.write_json(&report).into_iter().collect();
    let table = mtu::render(&report, &outputs.paint());
    if !print(&outputs, errors, &table, || table.clone()) {
        return Ok(Outcome::Unwritten);
    }
    Ok(if report.fail_if.iter().any(|condition| condition.failed) {
        Outcome::ConditionHolds
    } else if report.ended_early {
        Outcome::EndedEarly
    } else if let Some(path) = report.paths.iter().find(|path| path.mtu.is_none()) {
        Outcome::Unanswered(mtu::unanswered(path))
    } else if !report.paths.iter().all(|path| path.settled) {
        Outcome::Unconfirmed
    } else {
        Outcome::Done
    })
}

/// The name of a single run on the screen.
fn targets(load: &LoadOptions) -> String {
    load.common().destination.given.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
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
    } else if let ([one], None) = (runs.as_slice(), &found) {
        Document::Run(Box::new(one.report.clone()))
    } else {
        Document::Series(Box::new(Series { found, ..Series::new(runs) }))
    };
    let mut outputs = Outputs::open(&options.outputs)?;
    outputs.judge(&mut document);
    let table = match &document {
        Document::Run(report) => text::render(report, &outputs.paint()),
        Document::Series(series) => compare::render(series, &outputs.paint()),
    };
    if !write(&mut outputs, &document, &table) {
        return Ok(Outcome::Unwritten);
    }
    Ok(match outcome(&document) {
        // the run itself has reported that
        Outcome::Unanswered(_) | Outcome::EndedEarly | Outcome::Unconfirmed => Outcome::Done,
        outcome => outcome,
    })
}

fn outcome(document: &Document) -> Outcome {
    let runs = document.runs();
    let (on_series, found) = match document {
        Document::Run(_) => ([].as_slice(), None),
        Document::Series(series) => (series.fail_if.as_slice(), series.found.as_ref()),
    };
    let mut conditions = runs.iter().flat_map(|run| &run.fail_if).chain(on_series);
    let has_failed = conditions.any(|condition| condition.failed);
    let sent: u64 = runs.iter().map(|run| run.sent()).sum();
    let right: u64 = runs.iter().map(|run| run.right()).sum();
    if has_failed {
        Outcome::ConditionHolds
    } else if sent > 0 && right == 0 {
        Outcome::Unanswered(nothing_right(&runs, sent))
    } else if let Some(why) = runs.iter().find_map(|run| abandoned(run)).filter(|_| found.is_none()) {
        Outcome::Unanswered(why)
    } else if runs.iter().any(|run| run.ended_early) {
        Outcome::EndedEarly
    } else if found.is_some_and(|found| !found.answer.settled) {
        Outcome::Unconfirmed
    } else {
        Outcome::Done
    }
}

/// The reason why no right reply came in any of these runs.
fn nothing_right(runs: &[&Report], sent: u64) -> String {
    let has_replies = |run: &&Report| run.answered() + run.totals.counts.strays() + run.warmup.strays() > 0;
    let what = if runs.iter().any(has_replies) { "no right reply" } else { "nothing" };
    let causes = runs.iter().map(|run| causes::causes(run)).find(|causes| !causes.is_empty());
    format!("{what} came back for {} sent: {}", count(sent), causes.unwrap_or_default().join("; "))
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
