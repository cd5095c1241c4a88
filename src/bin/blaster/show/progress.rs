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

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tubular_echo::console::terminal;

use crate::console::interruptible;
use crate::console::streams::offer_line;
use crate::model::units::{count, duration, percent, rate};
use crate::show::paint::Paint;
use crate::workers::live::{BucketCounts, Live, LiveCounts};

/// How often to look whether the workers are done.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often the clock changes.
const DRAW_EVERY: Duration = Duration::from_millis(250);
/// How often the figures change. A percentile needs this long.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// Samples on the screen.
const HISTORY: usize = 40;

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

/// The lines of --every.
struct Log {
    every: Duration,
    /// When the next line is due, since the start.
    due: Duration,
    /// The time and the counts of the last line.
    since: Duration,
    before: LiveTotals,
}

impl Log {
    fn new(every: Duration, before: LiveTotals) -> Self {
        Self { every, due: every, since: Duration::ZERO, before }
    }

    /// The line for the time since the last one, if a line is due at `now`. If several are due, this is one for all.
    fn line(&mut self, now: Duration, read: impl FnOnce() -> LiveTotals) -> Option<String> {
        if now < self.due {
            return None;
        }
        let totals = read();
        let latency = |ns| if ns == 0 { "-".into() } else { duration(ns) };
        let sample = Sample::new(&self.before, &totals, now.saturating_sub(self.since));
        // the next multiple of the interval, so that lines stay punctual after a delay
        let every_ns = self.every.as_nanos();
        self.due = now + Duration::from_nanos((every_ns - now.as_nanos() % every_ns) as u64);
        (self.since, self.before) = (now, totals);
        Some(format!(
            "{:.1}s: sent {}/s, ok {}/s, not ok {}, p50 {}, p99 {}\n",
            now.as_secs_f64(),
            rate(sample.sent_per_s),
            rate(sample.ok_per_s),
            percent(sample.not_ok.0, sample.not_ok.1),
            latency(sample.round_trips[0]),
            latency(sample.round_trips[1]),
        ))
    }
}

/// The sum of what all workers show.
#[derive(Clone)]
struct LiveTotals {
    counts: LiveCounts,
    round_trips: BucketCounts,
    slip: BucketCounts,
}

impl LiveTotals {
    fn new(lives: &[Arc<Live>]) -> Self {
        let mut totals = Self {
            counts: LiveCounts::default(),
            round_trips: BucketCounts::default(),
            slip: BucketCounts::default(),
        };
        for live in lives {
            totals.counts += live.read();
            totals.round_trips += live.round_trips.read();
            totals.slip += live.slip.read();
        }
        totals
    }
}

/// The difference of two totals.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sample {
    sent_per_s: f64,
    ok_per_s: f64,
    /// Datagrams without a right reply so far, of how many sent.
    not_ok: (u64, u64),
    /// p50, p99 and the maximum, in nanoseconds; 0: not measured.
    round_trips: [u64; 3],
    slip: [u64; 3],
}

impl Sample {
    fn new(before: &LiveTotals, now: &LiveTotals, over: Duration) -> Self {
        let per_s = |number: u64| number as f64 / over.as_secs_f64();
        let (sent, ok) = (now.counts.sent - before.counts.sent, now.counts.ok - before.counts.ok);
        let figures = |all: BucketCounts| [0.5, 0.99, 1.0].map(|quantile| all.at(quantile).unwrap_or(0));
        Self {
            sent_per_s: per_s(sent),
            ok_per_s: per_s(ok),
            not_ok: (sent.saturating_sub(ok), sent),
            round_trips: figures(now.round_trips.since(&before.round_trips)),
            slip: figures(now.slip.since(&before.slip)),
        }
    }
}

/// A row of durations: its name, and its p50, p99 and maximum.
type Row = (&'static str, fn(&Sample) -> [u64; 3]);

/// The samples on the screen, the newest last.
#[derive(Debug, Default)]
struct History {
    samples: VecDeque<Sample>,
}

impl History {
    fn push(&mut self, sample: Sample) {
        if self.samples.len() == HISTORY {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// The lines below the bar; each begins with a line break.
    fn render(&self, shown: &LiveCounts, paint: &Paint) -> String {
        let Some(last) = self.samples.back() else { return String::new() };
        let (bad, sent) = last.not_ok;
        let unanswered = shown.sent.saturating_sub(shown.ok + shown.damaged);
        let mut lines = vec![
            Line {
                name: "rate",
                figure: format!("{}/s", count(last.sent_per_s.round() as u64)),
                values: self.values(|sample| sample.sent_per_s),
                beside: format!("ok {}/s", count(last.ok_per_s.round() as u64)),
                is_bad: false,
            },
            Line {
                name: "not ok",
                figure: percent(bad, sent),
                values: self.values(|sample| sample.not_ok.0 as f64 / sample.not_ok.1.max(1) as f64),
                beside: format!("unanswered {}, damaged {}", count(unanswered), count(shown.damaged)),
                is_bad: bad > 0,
            },
        ];
        let rows: [Row; 2] =
            [("latency p99", |sample| sample.round_trips), ("slip p99", |sample| sample.slip)];
        for (name, of) in rows {
            let [p50_ns, p99_ns, max_ns] = of(last);
            // without a schedule there is no slip, and without a reply no latency
            if self.samples.iter().all(|sample| of(sample)[2] == 0) {
                continue;
            }
            lines.push(Line {
                name,
                figure: duration(p99_ns),
                values: self.values(|sample| magnitude(of(sample)[1])),
                beside: format!("p50 {}, max {}", duration(p50_ns), duration(max_ns)),
                is_bad: false,
            });
        }
        let widest = lines.iter().map(|line| line.beside.chars().count()).max().unwrap_or(0);
        let (history, has_beside) = Line::room(widest, paint.width);
        lines.iter().map(|line| line.render(history, has_beside, paint)).collect()
    }

    fn values(&self, of: impl Fn(&Sample) -> f64) -> Vec<f64> {
        self.samples.iter().map(of).collect()
    }
}

/// A line of the screen: a figure, its history as bars, and further figures.
struct Line {
    name: &'static str,
    figure: String,
    values: Vec<f64>,
    beside: String,
    is_bad: bool,
}

impl Line {
    /// Characters of the name and the figure.
    const BEFORE: usize = 26;
    /// Room for the further figures: lines should not change their length when a number gets a digit.
    const BESIDE: usize = 36;
    /// Fewer bars show nothing.
    const FEWEST: usize = 8;

    /// How many bars fit the terminal, and whether the further figures do.
    fn room(widest: usize, width: Option<usize>) -> (usize, bool) {
        let Some(width) = width else { return (HISTORY, true) };
        let room = width.saturating_sub(Self::BEFORE + 2);
        match room.checked_sub(2 + widest.max(Self::BESIDE)) {
            Some(bars) if bars >= Self::FEWEST => (bars.min(HISTORY), true),
            _ => (room.min(HISTORY), false),
        }
    }

    fn render(&self, history: usize, has_beside: bool, paint: &Paint) -> String {
        let Self { name, figure, values, beside, is_bad } = self;
        let bars = bars(&values[values.len().saturating_sub(history)..]);
        let mut line = format!("\n{name:<11} {figure:>14}  {bars:<history$}");
        if has_beside {
            line = format!("{line}  {beside}");
        }
        if *is_bad { paint.bad(&line) } else { line }
    }
}

/// The height of a duration in the bars: a microsecond is 0, and ten times more is one step higher.
fn magnitude(ns: u64) -> f64 {
    (ns as f64 / 1e3).max(1.0).log10()
}

/// A bar for each value, as high as its share of the largest.
fn bars(values: &[f64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let largest = values.iter().copied().fold(0.0, f64::max);
    let height = |value: &f64| if largest > 0.0 { value / largest * 7.0 } else { 0.0 };
    values.iter().map(|value| BARS[(height(value).round() as usize).min(7)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_has_a_line_for_each_stretch() {
        let at = |sent, ok| LiveTotals {
            counts: LiveCounts { sent, ok, ..LiveCounts::default() },
            round_trips: BucketCounts::default(),
            slip: BucketCounts::default(),
        };
        let mut log = Log::new(Duration::from_secs(2), at(0, 0));
        let mut line = |ms, sent, ok| log.line(Duration::from_millis(ms), || at(sent, ok));
        assert_eq!(line(1_999, 20, 20), None);
        assert_eq!(
            line(2_000, 20, 15).as_deref(),
            Some("2.0s: sent 10/s, ok 7.50/s, not ok 25.0 %, p50 -, p99 -\n")
        );
        assert_eq!(line(3_999, 40, 35), None);
        // after a delay there is one line, and the next ones are punctual
        assert_eq!(
            line(7_000, 70, 65).as_deref(),
            Some("7.0s: sent 10/s, ok 10/s, not ok 0, p50 -, p99 -\n")
        );
        assert_eq!(line(7_999, 80, 75), None);
        assert!(line(8_000, 80, 75).is_some());
    }

    fn sample(sent_per_s: f64, bad: u64, p99_ns: u64) -> Sample {
        Sample {
            sent_per_s,
            ok_per_s: sent_per_s - bad as f64,
            not_ok: (bad, sent_per_s as u64),
            round_trips: [30_000, p99_ns, 9_000_000],
            slip: [0; 3],
        }
    }

    #[test]
    fn all_at_a_glance() {
        let mut history = History::default();
        history.push(sample(1_000.0, 0, 100_000));
        history.push(sample(2_000.0, 20, 10_000_000));
        let shown = LiveCounts { sent: 3_000, ok: 2_900, damaged: 5, refused: 0 };
        let text = history.render(&shown, &Paint::PLAIN);
        let lines: Vec<&str> = text.trim_start().lines().collect();
        let words = |nth: usize| lines[nth].split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words(0), "rate 2,000/s ▅█ ok 1,980/s");
        assert_eq!(words(1), "not ok 1.00 % ▁█ unanswered 95, damaged 5");
        assert_eq!(words(2), "latency p99 10.0 ms ▅█ p50 30.0 µs, max 9.00 ms");
        assert_eq!(lines.len(), 3, "there is no slip without a schedule: {text}");
        assert!(
            history.render(&shown, &Paint { color: true, width: None }).contains("\x1b[31m\nnot ok"),
            "loss is red"
        );
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let mut history = History::default();
        (0..HISTORY).for_each(|nth| history.push(sample(1_000_000.0, 20 + nth as u64, 10_000_000)));
        let shown = LiveCounts { sent: 300_000_000, ok: 290_000_000, damaged: 1_234, refused: 0 };
        for (width, bars, has_beside) in [(120, 40, true), (80, 14, true), (50, 22, false), (36, 8, false)] {
            let text = history.render(&shown, &Paint { color: false, width: Some(width) });
            for line in text.trim_start().lines() {
                assert!(line.chars().count() <= width, "{width}: {line}");
                let found = line.chars().filter(|char| ('▁'..='█').contains(char)).count();
                // the longest text may take the place of bars
                assert!(found <= bars && found + 4 >= bars, "{width}: {found} bars in {line}");
            }
            assert_eq!(text.contains("damaged 1,234"), has_beside, "{width}: {text}");
            let (name, bar) = first_line("[2001:db8:1:2:3:4:5:6]:65535 192.0.2.0/24:any", Some(width));
            assert!(name.chars().count() + bar + 20 <= width, "{width}: {name} {bar}");
            assert_eq!(first_line("127.0.0.1:1234", Some(width)).0, "127.0.0.1:1234");
        }
        assert_eq!(first_line("127.0.0.1:1234", Some(120)).1, HISTORY);
        assert_eq!(first_line("127.0.0.1:1234", Some(50)).1, 14);
    }

    #[test]
    fn the_oldest_samples_leave() {
        let mut history = History::default();
        (0..=HISTORY).for_each(|nth| history.push(sample(nth as f64, 0, 1)));
        assert_eq!((history.samples.len(), history.samples[0].sent_per_s as u64), (HISTORY, 1));
    }

    #[test]
    fn a_sample_is_what_happened_since() {
        let live = Arc::new(Live::default());
        live.show(LiveCounts { sent: 10, ok: 5, damaged: 0, refused: 0 });
        live.round_trips.note(5_000_000);
        let before = LiveTotals::new(&[Arc::clone(&live)]);
        live.show(LiveCounts { sent: 30, ok: 20, damaged: 0, refused: 0 });
        (0..99).for_each(|_| live.round_trips.note(1_000));
        live.round_trips.note(2_000_000);
        let sample = Sample::new(&before, &LiveTotals::new(&[live]), Duration::from_millis(500));
        assert_eq!((sample.sent_per_s as u64, sample.ok_per_s as u64, sample.not_ok), (40, 30, (5, 20)));
        let [p50, p99, max] = sample.round_trips;
        assert!(p50.abs_diff(1_000) < 130 && p99 == p50 && max.abs_diff(2_000_000) < 250_000, "{sample:?}");
    }
}
