//! Several open loops, one after the other: --steps and --find-max.
//!
//! Each is a run of its own, with new sockets and new counts, so that nothing of one step counts in the next.

use std::time::Duration;

use crate::judge::search::{Plan, Search};
use crate::model::quantity::{Length, Rate};
use crate::model::rate_curve::RateCurve;
use crate::model::units;
use crate::options::{CommonOptions, LoadOptions, UdpOptions};
use crate::report::schema::Objective;
use crate::report::schema::{NamedRun, SearchResult, Series};
use crate::run::outputs::Outputs;
use crate::run::session::{LoadError, Session};
use crate::show::compare;

/// Wide enough for the name of any step.
const NAME_WIDTH: usize = 15;

/// The runs so far, and the error that ended them.
type Steps = (Series, Option<LoadError>);

/// The error of a run after which earlier runs are reported. A signal is no error then.
fn unless_stopped(error: LoadError) -> Option<LoadError> {
    if matches!(error, LoadError::Stopped) { None } else { Some(error) }
}

/// Runs --steps.
pub(crate) fn all(session: &Session, udp: &UdpOptions, outputs: &Outputs) -> Steps {
    let paint = outputs.paint();
    outputs.print(&compare::heading(NAME_WIDTH, &paint));
    let mut runs = Vec::new();
    for (nth, step) in (1..).zip(&udp.steps) {
        let header = format!("step {nth} of {}: {}", udp.steps.len(), name(step.rate));
        let run = match one(session, udp, step.rate, step.duration, &header) {
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
pub(crate) fn find_max(session: &Session, udp: &UdpOptions, outputs: &Outputs) -> Steps {
    let objective =
        Objective { loss_percent: udp.loss.0, p99_ns: udp.p99.map(|longest| longest.as_nanos() as u64) };
    let plan = Plan {
        first_per_s: udp
            .rate
            .as_ref()
            .and_then(RateCurve::constant)
            .map_or(Plan::FIRST_PER_S, |rate| (rate.per_s() as u64).max(1)),
        precision: udp.precision.0 / 100.0,
        repeat: udp.repeat,
    };
    let duration = udp.common.duration.and_then(Length::time).unwrap_or(Plan::DURATION);
    let paint = outputs.paint();
    outputs.print(&compare::heading(NAME_WIDTH, &paint));
    let mut search = Search::new(plan);
    let mut failure = None;
    let mut runs = Vec::new();
    while let Some(rate_per_s) = search.next() {
        let rate = Rate::whole(rate_per_s);
        let header = format!("run {}: {}", runs.len() + 1, name(rate));
        let mut run = match one(session, udp, rate, duration, &header) {
            Ok(run) => run,
            Err(error) => {
                failure = if runs.is_empty() { Some(error) } else { unless_stopped(error) };
                break;
            }
        };
        if run.report.ended_early {
            break;
        }
        let verdict = objective.judge(&run.report);
        search.note(rate_per_s, &verdict);
        run.verdict = Some(verdict);
        outputs.print(&compare::line(&run, NAME_WIDTH, &paint));
        runs.push(run);
    }
    let found = SearchResult { objective, duration_ns: duration.as_nanos() as u64, answer: search.answer() };
    (Series { found: Some(found), ..Series::new(runs) }, failure)
}

fn name(rate: Rate) -> String {
    format!("{}/s", units::rate(rate.per_s()))
}

fn one(
    session: &Session,
    udp: &UdpOptions,
    rate: Rate,
    duration: Duration,
    header: &str,
) -> Result<NamedRun, LoadError> {
    let common = CommonOptions { duration: Some(Length::For(duration)), ..udp.common.clone() };
    let step =
        UdpOptions { rate: Some(rate.into()), steps: Vec::new(), find_max: false, common, ..udp.clone() };
    let report = session.run(&LoadOptions::Udp(step), header)?;
    Ok(NamedRun::new(name(rate), report))
}
