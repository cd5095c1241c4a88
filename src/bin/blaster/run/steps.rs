//! Several open loops, one after the other: --steps and --find-max.
//!
//! Each is a run of its own, with new sockets and new counts, so that nothing of one step counts in the next.

use std::time::{Duration, Instant};

use crate::judge::search::Search;
use crate::model::quantity::Rate;
use crate::model::units;
use crate::options::{Contradiction, LoadOptions};
use crate::report::schema::{NamedRun, SearchEnd, SearchResult, Series, Verdict};
use crate::run::outputs::Outputs;
use crate::run::session::{LoadError, Session};
use crate::show::{answer, compare};

/// Wide enough for the name of any step.
const NAME_WIDTH: usize = 15;

/// The runs so far, and the error that ended them.
type Steps = (Series, Option<LoadError>);

/// The error of a run after which earlier runs are reported. A signal is no error then.
fn unless_stopped(error: LoadError) -> Option<LoadError> {
    if matches!(error, LoadError::Stopped) { None } else { Some(error) }
}

/// Runs --steps.
pub(crate) fn all(session: &Session, load: &LoadOptions, outputs: &Outputs) -> Steps {
    let paint = outputs.paint();
    outputs.print(&compare::heading(NAME_WIDTH, &paint));
    let mut runs = Vec::new();
    let steps = &load.rates().steps;
    for (nth, step) in (1..).zip(steps) {
        let header = format!("step {nth} of {}: {}", steps.len(), name(step.rate));
        let run = match one(session, load, step.rate, step.duration, &header) {
            Ok(run) => run,
            Err(error) if runs.is_empty() => return (Series::new(runs), Some(error)),
            Err(error) => return (Series::new(runs), unless_stopped(error)),
        };
        outputs.print(&compare::line(&run, NAME_WIDTH, &paint));
        let is_over = run.report.ended_early;
        runs.push(run);
        if is_over {
            break;
        }
    }
    (Series::new(runs), None)
}

/// Runs --find-max.
pub(crate) fn find_max(session: &Session, load: &LoadOptions, outputs: &Outputs) -> Steps {
    let (options, common) = (&load.rates().search, load.common());
    let (objective, plan) = (options.objective(), options.plan(load.first_rate()));
    let mut budget = match options.budget(&plan, load.longest_search_run()) {
        Ok(budget) => budget,
        Err(error) => return (Series::new(Vec::new()), Some(Contradiction::from(error).into())),
    };
    let (unit, duration) = (load.due_unit(), common.search_duration());
    let paint = outputs.paint();
    let bounds = paint.wrap(&answer::announcement(unit, &objective, duration, budget.bound()));
    outputs.print(&format!("{bounds}\n\n{}", compare::heading(NAME_WIDTH, &paint)));
    let start = Instant::now();
    let mut search = Search::new(plan);
    let mut failure = None;
    let mut runs = Vec::new();
    let ended_by = loop {
        let left = budget.left(start.elapsed());
        let Some(rate_per_s) = search.next(left) else {
            break search.end_of_itself().unwrap_or(budget.ended_by());
        };
        let rate = Rate::whole(rate_per_s);
        let at_most = format!("≤{}", budget.bound().runs);
        let header = format!("run {} of {at_most}: {}", runs.len() + 1, name(rate));
        let begun = Instant::now();
        let mut run = match one(session, load, rate, duration, &header) {
            Ok(run) => run,
            Err(error) if runs.is_empty() => return (Series::new(runs), Some(error)),
            Err(error) => {
                failure = unless_stopped(error);
                break if failure.is_some() { SearchEnd::Failure } else { SearchEnd::Signal };
            }
        };
        budget.note(begun.elapsed());
        // a run that a signal ended is shown, but not judged
        if !run.report.ended_early {
            let verdict = objective.judge(&run.report);
            search.note(rate_per_s, &verdict, run.report.totals.ok_per_s);
            run.verdict = Some(verdict);
        }
        let has_no_port = lacks_local_ports(&run);
        outputs.print(&compare::line(&run, NAME_WIDTH, &paint));
        let is_over = run.report.ended_early;
        runs.push(run);
        if is_over {
            break SearchEnd::Signal;
        }
        if has_no_port {
            failure = Some(LoadError::LocalPorts);
            break SearchEnd::Failure;
        }
    };
    let found = SearchResult {
        objective,
        duration_ns: duration.as_nanos() as u64,
        unit: Some(unit.into()),
        answer: search.answer(),
        precision_percent: Some(options.precision.0),
        bound: Some(budget.bound()),
        took: Some(budget.taken(start.elapsed())),
        ended_by: Some(ended_by),
    };
    (Series { found: Some(found), ..Series::new(runs) }, failure)
}

/// Whether a run could not make its connections because local ports are used up. They stay so for a minute, and further runs
/// would say nothing.
fn lacks_local_ports(run: &NamedRun) -> bool {
    let is_kept_from_rate = matches!(run.verdict, Some(Verdict::Missed(_) | Verdict::Generator(_)));
    is_kept_from_rate && run.report.refusals.iter().any(|refusals| refusals.errno == libc::EADDRNOTAVAIL)
}

fn name(rate: Rate) -> String {
    format!("{}/s", units::rate(rate.per_s()))
}

fn one(
    session: &Session,
    load: &LoadOptions,
    rate: Rate,
    duration: Duration,
    header: &str,
) -> Result<NamedRun, LoadError> {
    let report = session.run(&load.step(rate, duration), header)?;
    Ok(NamedRun::new(name(rate), report))
}
