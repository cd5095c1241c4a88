//! The screen while a run lasts: a few lines on standard error, which are cleared before the report. With --every: a line
//! for logs at each interval.
//!
//! ```text
//! 127.0.0.1:1234  ━━━━━━━━━━━━━╸───────────  34s of 60s
//! rate           50,012/s  ▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇  ok 50,009/s
//! not ok         0.0057 %  ▁▁▁▁▁▁▁▁▁█▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁  unanswered 312, damaged 0
//! latency p99     3.41 ms  ▂▂▂▂▂▂▂▂▂█▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂  p50 30.5 µs, max 10.3 ms
//! slip p99         888 µs  ▁▁▁▁▁▁▁▁▁▃▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁  p50 405 ns, max 5.17 ms
//! ```

mod figures;
mod log;
mod sample;

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tubular_echo::console::terminal;

use self::figures::{HISTORY, History};
use self::log::Log;
use self::sample::{LiveTotals, Sample};
use crate::console::interruptible;
use crate::console::streams::offer_line;
use crate::show::paint::Paint;
use crate::workers::live::Live;

/// How often to look whether the workers are done.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often the clock changes.
const DRAW_EVERY: Duration = Duration::from_millis(250);
/// How often the figures change. A percentile needs this long.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// The run on the screen, and how to show it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watched<'a> {
    pub(crate) name: &'a str,
    /// Warmup and measured time together.
    pub(crate) duration: Option<Duration>,
    /// Draw nothing.
    pub(crate) quiet: bool,
    /// Draw nothing, but print a line at each interval.
    pub(crate) every: Option<Duration>,
}

/// Shows the run until the workers are done. A stopped terminal or a log without a reader does not block it.
/// It calls `look` often.
pub(crate) fn watch(
    watched: Watched<'_>,
    lives: &[Arc<Live>],
    are_done: &dyn Fn() -> bool,
    look: &mut dyn FnMut(),
) {
    let screen = Screen::start(watched, lives);
    let start = Instant::now();
    let mut log = watched.every.map(|every| Log::new(every, LiveTotals::new(lives)));
    while !are_done() {
        thread::sleep(LOOK_EVERY);
        look();
        if let Some(log) = &mut log
            && let Some(line) = log.line(start.elapsed(), || LiveTotals::new(lives))
        {
            offer_line(&line);
        }
    }
    if let Some(screen) = screen {
        screen.finish();
    }
}

/// A thread that draws on the terminal.
struct Screen {
    is_over: Arc<AtomicBool>,
    thread: Thread,
    /// Disconnects when the terminal is cleared.
    drawing: Receiver<()>,
}

/// The `drawing` of a screen whose terminal was stopped and could not be cleared.
static STUCK: Mutex<Option<Receiver<()>>> = Mutex::new(None);

/// Waits until the terminal is cleared, so that the screen does not overwrite the report.
pub(crate) fn wait_until_cleared() {
    if let Some(drawing) = STUCK.lock().expect("a panic ends the process").take() {
        interruptible::wait(|| 0, |timeout| drawing.recv_timeout(timeout) != Err(RecvTimeoutError::Timeout));
    }
}

impl Screen {
    /// `None`: there is no terminal, it is stopped, or no thread can be started.
    fn start(watched: Watched<'_>, lives: &[Arc<Live>]) -> Option<Self> {
        let target = target(watched);
        if target.is_hidden() || STUCK.lock().expect("a panic ends the process").is_some() {
            return None;
        }
        let (bar, lives) = (Bar::new(watched), lives.to_vec());
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let (cleared, drawing) = mpsc::channel();
        let draw = move || {
            bar.drawn.set_draw_target(target);
            draw(&bar, &lives, &over, cleared);
        };
        let thread = thread::Builder::new().name("view".into()).spawn(draw).ok()?.thread().clone();
        Some(Self { is_over, thread, drawing })
    }

    fn finish(self) {
        /// Much more than a running terminal needs.
        const CLEAR_TIMEOUT: Duration = Duration::from_millis(500);
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.unpark();
        if self.drawing.recv_timeout(CLEAR_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
            STUCK.lock().expect("a panic ends the process").replace(self.drawing);
        }
    }
}

/// Draws until the run is over, then clears the terminal. It sends nothing to `_cleared`, but drops it at the end.
fn draw(bar: &Bar, lives: &[Arc<Live>], is_over: &AtomicBool, _cleared: Sender<()>) {
    let start = Instant::now();
    let mut sampled_at = start;
    let mut history = History::default();
    let mut before = LiveTotals::new(lives);
    while !is_over.load(Ordering::Relaxed) {
        thread::park_timeout(DRAW_EVERY);
        let now_at = Instant::now();
        let since = now_at - sampled_at;
        if since >= SAMPLE_EVERY {
            let now = LiveTotals::new(lives);
            history.push(Sample::new(&before, &now, since));
            // the window may have another width now
            let paint = paint();
            bar.fit(&paint);
            bar.drawn.set_message(history.render(&now.counts, &paint));
            // drawing takes time, which belongs to the next sample
            (sampled_at, before) = (now_at, now);
        }
        bar.drawn.set_position(start.elapsed().as_millis() as u64);
    }
    bar.drawn.finish_and_clear();
}

/// Hidden unless standard error is a terminal that can move its cursor.
fn target(watched: Watched<'_>) -> ProgressDrawTarget {
    if watched.quiet || watched.every.is_some() || terminal::is_dumb() {
        ProgressDrawTarget::hidden()
    } else {
        ProgressDrawTarget::stderr()
    }
}

/// For standard error, as its terminal is now.
fn paint() -> Paint {
    let stderr = std::io::stderr();
    Paint { color: terminal::wants_color(stderr.is_terminal()), width: terminal::width(stderr) }
}

/// The bar, with the figures below it.
struct Bar {
    drawn: ProgressBar,
    name: String,
    duration: Option<Duration>,
}

impl Bar {
    /// It is hidden at first, or it would draw each setting at once.
    fn new(watched: Watched<'_>) -> Self {
        let bar = ProgressBar::with_draw_target(
            watched.duration.map(|duration| duration.as_millis() as u64),
            ProgressDrawTarget::hidden(),
        );
        let bar = Self { drawn: bar, name: watched.name.into(), duration: watched.duration };
        bar.fit(&paint());
        bar
    }

    /// Makes the first line fit the terminal.
    fn fit(&self, paint: &Paint) {
        let (name, bar_width) = first_line(&self.name, paint.width);
        let (bar, length) = match self.duration {
            Some(duration) if bar_width > 0 => {
                (format!("{{bar:{bar_width}}}  "), format!(" of {}s", duration.as_secs()))
            }
            Some(duration) => (String::new(), format!(" of {}s", duration.as_secs())),
            None => (String::new(), String::new()),
        };
        let template = format!("{{prefix}}  {bar}{{elapsed}}{length}{{msg}}");
        let style = ProgressStyle::with_template(&template).expect("the templates above are valid");
        self.drawn.set_style(style.progress_chars("━╸─"));
        self.drawn.set_prefix(name);
    }
}

/// What fits into the first line: the name, shortened if it must be, and the length of the bar. 0: there is no bar.
fn first_line(name: &str, width: Option<usize>) -> (String, usize) {
    /// Characters of the times, with the spaces before them.
    const TIMES: usize = 20;
    const SHORTEST: usize = 8;
    let Some(width) = width else { return (name.into(), HISTORY) };
    let chars = name.chars().count();
    let most = width.saturating_sub(TIMES).max(1);
    let name = if chars <= most {
        name.into()
    } else {
        name.chars().take(most - 1).chain(['…']).collect::<String>()
    };
    let bar = width.saturating_sub(name.chars().count() + 2 + TIMES).min(HISTORY);
    (name, if bar < SHORTEST { 0 } else { bar })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_fits_the_terminal() {
        for width in [120, 80, 50, 36] {
            let (name, bar) = first_line("[2001:db8:1:2:3:4:5:6]:65535 192.0.2.0/24:any", Some(width));
            assert!(name.chars().count() + bar + 20 <= width, "{width}: {name} {bar}");
            assert_eq!(first_line("127.0.0.1:1234", Some(width)).0, "127.0.0.1:1234");
        }
        assert_eq!(first_line("127.0.0.1:1234", Some(120)).1, HISTORY);
        assert_eq!(first_line("127.0.0.1:1234", Some(50)).1, 14);
    }
}
