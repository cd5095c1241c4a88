//! Live progress on a terminal: one line on standard error, gone when the report comes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tubular_echo::sys::EndSignals;

use crate::live::{Live, Shown, Stop};
use crate::report::count;

/// How often signals and the workers' end are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often the line changes.
const DRAW_EVERY: Duration = Duration::from_millis(250);

/// How far a run is to go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goal<'a> {
    /// What is run, if it is one of several; or nothing.
    pub(crate) about: &'a str,
    /// Warmup and measured time together.
    pub(crate) duration: Option<Duration>,
    /// Draw nothing.
    pub(crate) quiet: bool,
}

/// Looks on until the workers are done; passes on signals.
pub(crate) fn watch(
    goal: Goal<'_>,
    signals: &EndSignals,
    stop: &Stop,
    lives: &[Arc<Live>],
    are_done: &dyn Fn() -> bool,
) {
    let bar = bar(goal);
    let start = Instant::now();
    let mut drawn = (start, Shown::default());
    while !are_done() {
        if signals.wait_timeout(LOOK_EVERY).is_some() {
            stop.ask();
        }
        let since = drawn.0.elapsed();
        if since >= DRAW_EVERY {
            let shown = sum(lives);
            bar.set_position(start.elapsed().as_millis() as u64);
            bar.set_message(message(&drawn.1, &shown, since));
            drawn = (Instant::now(), shown);
        }
    }
    bar.finish_and_clear();
}

/// Hidden unless standard error is a terminal; it has no colors, whatever NO_COLOR says.
fn bar(goal: Goal<'_>) -> ProgressBar {
    let target = if goal.quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let (bar, template) = match goal.duration {
        Some(duration) => (ProgressBar::new(duration.as_millis() as u64), "{prefix}{bar:24} {elapsed} {msg}"),
        None => (ProgressBar::no_length(), "{prefix}{elapsed} {msg}"),
    };
    bar.set_draw_target(target);
    if !goal.about.is_empty() {
        bar.set_prefix(format!("{}  ", goal.about));
    }
    bar.with_style(ProgressStyle::with_template(template).expect("the templates above are valid"))
}

fn sum(lives: &[Arc<Live>]) -> Shown {
    lives.iter().fold(Shown::default(), |sum, live| {
        let Shown { sent, ok, damaged, refused } = live.look();
        Shown {
            sent: sum.sent + sent,
            ok: sum.ok + ok,
            damaged: sum.damaged + damaged,
            refused: sum.refused + refused,
        }
    })
}

fn message(before: &Shown, now: &Shown, over: Duration) -> String {
    let per_s = |before: u64, now: u64| count(((now - before) as f64 / over.as_secs_f64()) as u64);
    let unanswered = now.sent.saturating_sub(now.ok + now.damaged);
    format!(
        "sent {}/s, ok {}/s, damaged {}, unanswered {}",
        per_s(before.sent, now.sent),
        per_s(before.ok, now.ok),
        count(now.damaged),
        count(unanswered)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_the_last_moment() {
        let before = Shown { sent: 1_000, ok: 900, damaged: 1, refused: 0 };
        let now = Shown { sent: 3_000, ok: 2_400, damaged: 3, refused: 0 };
        assert_eq!(
            message(&before, &now, Duration::from_millis(500)),
            "sent 4,000/s, ok 3,000/s, damaged 3, unanswered 597"
        );
    }
}
