//! The figures below the bar, each with its history.

use std::collections::VecDeque;

use super::sample::Sample;
use crate::model::units::{count, duration, percent};
use crate::show::paint::Paint;
use crate::workers::live::LiveCounts;

/// Samples on the screen.
pub(super) const HISTORY: usize = 40;

/// A row of durations: its name, and its p50, p99 and maximum.
type Row = (&'static str, fn(&Sample) -> [u64; 3]);

/// The samples on the screen, the newest last.
#[derive(Debug, Default)]
pub(super) struct History {
    samples: VecDeque<Sample>,
}

impl History {
    pub(super) fn push(&mut self, sample: Sample) {
        if self.samples.len() == HISTORY {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// The lines below the bar; each begins with a line break.
    pub(super) fn render(&self, shown: &LiveCounts, paint: &Paint) -> String {
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
        }
    }

    #[test]
    fn the_oldest_samples_leave() {
        let mut history = History::default();
        (0..=HISTORY).for_each(|nth| history.push(sample(nth as f64, 0, 1)));
        assert_eq!((history.samples.len(), history.samples[0].sent_per_s as u64), (HISTORY, 1));
    }
}
