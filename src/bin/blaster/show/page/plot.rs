//! One plot: lines over two axes.
//!
//! The lines are an SVG that stretches to the width of its column, with strokes that keep their thickness. All texts are
//! HTML beside it. So they have one size on every screen, and only their number depends on the width of the column.

use maud::{Markup, html};

/// A color of the page: the name of its variable in the style sheet, without the dashes. `colors.rs` tests that people with
/// any kind of color vision can tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ink(pub(super) &'static str);

impl Ink {
    /// Right replies.
    pub(super) const GOOD: Self = Self("ok");
    /// The load itself.
    pub(super) const PLAIN: Self = Self("plain");
    /// Defects.
    pub(super) const BAD: Self = Self("lost");
    /// Colors of lines without a meaning of their own.
    pub(super) const SERIES: [Self; 8] = [
        Self::GOOD,
        Self("late"),
        Self("misdirected"),
        Self("corrupted"),
        Self("truncated"),
        Self("unreachable"),
        Self::BAD,
        Self::PLAIN,
    ];

    /// For an attribute `style`.
    pub(super) fn style(self) -> String {
        format!("--ink:var(--{})", self.0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    Linear,
    Logarithmic,
}

#[derive(Clone, Debug)]
pub(super) struct Axis {
    pub(super) scale: Scale,
    /// Whether it ends with the last value. Otherwise it ends at a round number.
    pub(super) is_tight: bool,
    /// Values that are always on the axis.
    pub(super) from: Option<f64>,
    pub(super) to: Option<f64>,
    /// `None`: at round numbers.
    pub(super) ticks: Option<Vec<f64>>,
    pub(super) label: fn(f64) -> String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stroke {
    Solid,
    Dashed,
    /// A pattern of dashes and gaps, in pixels: it tells lines apart beside their colors.
    Pattern(&'static str),
    /// With a dot at each point.
    Dotted,
    /// The dots without the line.
    Dots,
}

impl Stroke {
    /// A pattern for each of several lines.
    pub(super) const PATTERNS: [Self; 8] = [
        Self::Solid,
        Self::Pattern("7 3"),
        Self::Pattern("2 3"),
        Self::Pattern("9 3 2 3"),
        Self::Pattern("14 4"),
        Self::Pattern("4 2"),
        Self::Pattern("9 3 2 3 2 3"),
        Self::Dashed,
    ];

    fn dashes(self) -> Option<&'static str> {
        match self {
            Self::Dashed => Some("5 4"),
            Self::Pattern(pattern) => Some(pattern),
            Self::Solid | Self::Dotted | Self::Dots => None,
        }
    }
}

/// A line. Where a point is not a number, the line has a gap.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) ink: Ink,
    pub(super) points: Vec<(f64, f64)>,
    pub(super) fill: bool,
    pub(super) stroke: Stroke,
}

impl Line {
    pub(super) fn new(name: impl Into<String>, ink: Ink, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), ink, points, fill: false, stroke: Stroke::Solid }
    }

    /// The points between gaps.
    fn parts(&self) -> impl Iterator<Item = &[(f64, f64)]> {
        self.points.split(|(_, y)| y.is_nan()).filter(|part| !part.is_empty())
    }
}

/// A plot. `columns` are places on the x axis and the texts that they show under the pointer.
#[derive(Clone, Debug)]
pub(super) struct Plot {
    pub(super) title: &'static str,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) lines: Vec<Line>,
    pub(super) columns: Vec<(f64, String)>,
    /// Why there is nothing to draw; shown instead of lines.
    pub(super) nothing: Option<String>,
}

/// An axis in the coordinates of the drawing: logarithms on a logarithmic axis.
struct DrawnAxis {
    scale: Scale,
    range: std::ops::Range<f64>,
    /// Values with a label.
    ticks: Vec<f64>,
}

impl DrawnAxis {
    fn new(axis: &Axis, values: impl Iterator<Item = f64>) -> Self {
        let is_drawn = |value: &f64| value.is_finite() && (axis.scale == Scale::Linear || *value > 0.0);
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.chain(axis.from).chain(axis.to).filter(is_drawn) {
            (low, high) = (low.min(value), high.max(value));
        }
        if low > high {
            (low, high) = (1.0, 10.0);
        }
        let ticks = match (&axis.ticks, axis.scale) {
            (Some(ticks), _) => ticks.clone(),
            (None, Scale::Linear) => linear_ticks(low, high),
            (None, Scale::Logarithmic) => logarithmic_ticks(low, high),
        };
        if axis.ticks.is_none() && !axis.is_tight {
            low = ticks.first().copied().unwrap_or(low).min(low);
            high = ticks.last().copied().unwrap_or(high).max(high);
        }
        let mut drawn = Self { scale: axis.scale, range: 0.0..1.0, ticks: Vec::new() };
        drawn.range = drawn.at(low)..drawn.at(high);
        if drawn.range.is_empty() {
            drawn.range.end = drawn.range.start + 1.0;
        }
        let is_within = |tick: &f64| (-1e-9..=1.0 + 1e-9).contains(&drawn.share(*tick));
        drawn.ticks = ticks.into_iter().filter(is_within).collect();
        drawn
    }

    fn at(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => value,
            Scale::Logarithmic => value.max(f64::MIN_POSITIVE).log10(),
        }
    }

    /// The place of a value as a share of the axis: 0 is its begin, 1 its end. Lower values are at its begin.
    fn share(&self, value: f64) -> f64 {
        (self.at(value).max(self.range.start) - self.range.start) / (self.range.end - self.range.start)
    }
}

/// Round numbers around `low` to `high`, about five.
fn linear_ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = ((high - low) / 4.0).max(high.abs() * 1e-6).max(1e-9);
    let power = 10_f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].map(|digit| digit * power).into_iter().find(|step| *step >= rough * 0.999);
    let step = step.unwrap_or(power * 10.0);
    let (first, last) = ((low / step + 1e-9).floor() as i64, (high / step - 1e-9).ceil() as i64);
    (first..=last.max(first + 1)).map(|nth| nth as f64 * step).collect()
}

/// Powers of ten around `low` to `high`; if those are few, also 2 and 5 times each; if those are many, only every second or
/// third.
fn logarithmic_ticks(low: f64, high: f64) -> Vec<f64> {
    /// More labels would touch.
    const POWERS_MAX: i32 = 7;
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    if last - first >= POWERS_MAX {
        let step = (last - first + POWERS_MAX - 1) / POWERS_MAX;
        return (0..=(last - first + step - 1) / step).map(|nth| 10_f64.powi(first + nth * step)).collect();
    }
    let digits: &[f64] = if last - first > 3 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let all = (first..=last).flat_map(|power| digits.iter().map(move |digit| digit * 10_f64.powi(power)));
    let all: Vec<f64> = all.collect();
    let begin = all.iter().rposition(|tick| *tick <= low * 1.000_001).unwrap_or(0);
    let end = all.iter().position(|tick| *tick >= high * 0.999_999).unwrap_or(all.len() - 1);
    let some = &all[begin..=end.max(begin + 1).min(all.len() - 1)];
    if some.len() <= POWERS_MAX as usize + 1 {
        return some.to_vec();
    }
    // too close: without the fives
    some.iter().copied().filter(|tick| !format!("{tick:e}").starts_with('5')).collect()
}

/// The drawing's own units, in both directions.
const SIZE: f64 = 1_000.0;

/// A width of the drawing in pixels, and the class of labels that are shown from this width on. The style sheet has the
/// same widths, with the column for the labels of the y axis.
const TIERS: [(f64, &str); 3] = [(200.0, "narrow"), (380.0, "middling"), (620.0, "wide")];
/// Pixels of a character of a label, at most, and between two labels, at least.
const CHARACTER: f64 = 7.6;
const BETWEEN: f64 = 12.0;

/// Whether a label stands before its tick, since there is no room behind it.
fn is_at_end(share: f64) -> bool {
    share > 0.95
}

/// For each label the classes of the widths at which it is shown: there, no two of them touch.
fn shown_at(labels: &[(f64, String)]) -> Vec<String> {
    let mut classes: Vec<Vec<&str>> = vec![Vec::new(); labels.len()];
    for (width, class) in TIERS {
        // where a label begins and ends
        let reach = |(share, text): &(f64, String)| {
            let room = text.chars().count() as f64 * CHARACTER;
            let begin = share * width - if is_at_end(*share) { room } else { room / 2.0 };
            (begin, begin + room)
        };
        let touch = |one: &(f64, String), next: &(f64, String)| reach(next).0 < reach(one).1 + BETWEEN;
        let every = (1..labels.len().max(2))
            .find(|step| {
                let shown: Vec<_> = labels.iter().step_by(*step).collect();
                shown.windows(2).all(|pair| !touch(pair[0], pair[1]))
            })
            .unwrap_or(labels.len().max(1));
        for nth in (0..labels.len()).step_by(every) {
            classes[nth].push(class);
        }
    }
    classes.into_iter().map(|classes| classes.join(" ")).collect()
}

impl Plot {
    /// The title, the legend and the drawing.
    pub(super) fn card(&self) -> Markup {
        html! {
            section.card.plot {
                div.top {
                    h2 { (self.title) }
                    @if !self.lines.is_empty() && self.nothing.is_none() { (self.legend()) }
                }
                @match &self.nothing {
                    Some(why) => p.nothing { (why) },
                    None => (self.chart()),
                }
            }
        }
    }

    fn legend(&self) -> Markup {
        html! {
            ul.legend { @for line in &self.lines {
                li {
                    @if line.stroke == Stroke::Dots {
                        svg.swatch.dot viewBox="0 0 10 10" aria-hidden="true" style=(line.ink.style()) {
                            circle cx="5" cy="5" r="4" {}
                        }
                    } @else {
                        svg.swatch viewBox="0 0 26 10" aria-hidden="true" style=(line.ink.style()) {
                            @if line.stroke == Stroke::Dotted { circle cx="13" cy="5" r="4" {} }
                            path d="M0 5H26" stroke-dasharray=[line.stroke.dashes()] {}
                        }
                    }
                    (line.name)
                }
            } }
        }
    }

    fn chart(&self) -> Markup {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let places = self.columns.iter().map(|(x, _)| *x);
        let x = DrawnAxis::new(&self.x, points().map(|(x, _)| *x).chain(places));
        let y = DrawnAxis::new(&self.y, points().map(|(_, y)| *y));
        let percent = |share: f64| format!("{:.2}%", share * 100.0);
        let labels: Vec<(f64, String)> =
            x.ticks.iter().map(|tick| (x.share(*tick), (self.x.label)(*tick))).collect();
        let grid: Vec<String> =
            y.ticks.iter().map(|tick| format!("M0 {}H{SIZE}", down(y.share(*tick)))).collect();
        html! {
            div.chart {
                div.y aria-hidden="true" { @for tick in &y.ticks {
                    span style={ "bottom:" (percent(y.share(*tick))) } { ((self.y.label)(*tick)) }
                } }
                svg.area viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img" aria-label=(self.title) {
                    path.grid d=(grid.concat()) {}
                    @for line in &self.lines { (drawn(line, &x, &y)) }
                    @for (begin, width, said) in self.pointed_at(&x) {
                        rect.column x=(begin) y="0" width=(width) height=(SIZE) { title { (said) } }
                    }
                }
                div.x aria-hidden="true" { @for ((share, label), class) in labels.iter().zip(shown_at(&labels)) {
                    span class=(class) style={ "left:" (percent(*share)) @if is_at_end(*share) { ";--shift:-100%" } } { (label) }
                } }
            }
        }
    }

    /// The columns: each reaches halfway to its neighbours.
    fn pointed_at(&self, x: &DrawnAxis) -> Vec<(f64, f64, &str)> {
        let places: Vec<f64> = self.columns.iter().map(|(at, _)| across(x.share(*at))).collect();
        let edge = |nth: usize| match (nth.checked_sub(1).map(|before| places[before]), places.get(nth)) {
            (Some(before), Some(after)) => f64::midpoint(before, *after),
            // as far as to the other side, but not beyond the drawing
            (None, Some(first)) => {
                places.get(1).map_or(0.0, |second| first - (second - first) / 2.0).max(0.0)
            }
            (Some(last), None) => {
                let before = places.len().checked_sub(2).map(|nth| places[nth]);
                before.map_or(SIZE, |before| last + (last - before) / 2.0).min(SIZE)
            }
            (None, None) => 0.0,
        };
        self.columns
            .iter()
            .enumerate()
            .map(|(nth, (_, said))| {
                (edge(nth), ((edge(nth + 1) - edge(nth)).max(1.0) * 10.0).round() / 10.0, said.as_str())
            })
            .collect()
    }
}

fn across(share: f64) -> f64 {
    (share * SIZE * 10.0).round() / 10.0
}

fn down(share: f64) -> f64 {
    across(1.0 - share)
}

fn drawn(line: &Line, x: &DrawnAxis, y: &DrawnAxis) -> Markup {
    let place = |&(px, py): &(f64, f64)| (across(x.share(px)), down(y.share(py)));
    html! {
        g style=(line.ink.style()) { @for part in line.parts() {
            @let places: Vec<(f64, f64)> = part.iter().map(place).collect();
            @let points = places.iter().map(|(x, y)| format!("{x},{y}")).collect::<Vec<_>>().join(" ");
            @if line.fill {
                @let (first, last) = (places[0].0, places[places.len() - 1].0);
                polygon points={ (first) "," (SIZE) " " (points) " " (last) "," (SIZE) } {}
            }
            // a point alone, too, is a dot
            @if matches!(line.stroke, Stroke::Dots | Stroke::Dotted) || places.len() == 1 {
                @let dots: Vec<String> = places.iter().map(|(x, y)| format!("M{x} {y}h0")).collect();
                path.dots d=(dots.concat()) {}
            }
            @if line.stroke != Stroke::Dots {
                polyline points=(points) stroke-dasharray=[line.stroke.dashes()] {}
            }
        } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_enclose_what_is_drawn() {
        let table: [(f64, f64, &[f64]); 4] = [
            (0.0, 10.0, &[0.0, 5.0, 10.0]),
            (0.0, 50_123.0, &[0.0, 20_000.0, 40_000.0, 60_000.0]),
            (0.0, 0.0, &[0.0, 1e-9]),
            (3.0, 7.0, &[3.0, 4.0, 5.0, 6.0, 7.0]),
        ];
        for (low, high, wanted) in table {
            assert_eq!(linear_ticks(low, high), wanted, "{low} to {high}");
        }
        let table: [(f64, f64, &[f64]); 5] = [
            (30.0, 400.0, &[20.0, 50.0, 100.0, 200.0, 500.0]),
            (1_000.0, 1e8, &[1e3, 1e4, 1e5, 1e6, 1e7, 1e8]),
            (100.0, 100.0, &[100.0, 200.0]),
            (11.0, 9_000.0, &[10.0, 20.0, 100.0, 200.0, 1e3, 2e3, 1e4]),
            (1.0, 1e12, &[1.0, 1e2, 1e4, 1e6, 1e8, 1e10, 1e12]),
        ];
        for (low, high, wanted) in table {
            assert_eq!(logarithmic_ticks(low, high), wanted, "{low} to {high}");
        }
    }

    fn axis(scale: Scale) -> Axis {
        Axis { scale, is_tight: false, from: None, to: None, ticks: None, label: |value| value.to_string() }
    }

    fn plot(lines: Vec<Line>, columns: Vec<(f64, String)>) -> Plot {
        Plot {
            title: "a title",
            x: axis(Scale::Linear),
            y: axis(Scale::Logarithmic),
            lines,
            columns,
            nothing: None,
        }
    }

    #[test]
    fn a_tight_axis_ends_with_the_last_value() {
        let of = |is_tight| {
            let axis = Axis { is_tight, from: Some(0.0), ..axis(Scale::Linear) };
            DrawnAxis::new(&axis, [6.0, 12.0].into_iter())
        };
        assert_eq!((of(true).range, of(true).ticks), (0.0..12.0, vec![0.0, 5.0, 10.0]));
        assert_eq!((of(false).range, of(false).ticks), (0.0..15.0, vec![0.0, 5.0, 10.0, 15.0]));
    }

    #[test]
    fn a_plot_has_lines_texts_and_a_legend() {
        let points = vec![(0.0, 10.0), (1.0, 0.0), (1.5, f64::NAN), (2.0, 1e6)];
        let one = Line { fill: true, ..Line::new("one", Ink::BAD, points) };
        let other = Line { stroke: Stroke::Dashed, ..Line::new("other", Ink::GOOD, vec![(0.0, 10.0)]) };
        let drawn = plot(vec![one, other], vec![(0.0, "<first>".into()), (2.0, "last".into())]);
        let card = drawn.card().into_string();
        assert!(
            card.contains("--ink:var(--lost)") && card.contains("<title>&lt;first&gt;</title>"),
            "{card}"
        );
        // the gap makes two lines of the first, and the end of it is a dot
        assert_eq!((card.matches("<polyline").count(), card.matches("M1000 0h0").count()), (3, 1), "{card}");
        assert!(card.contains("<ul class=\"legend\">") && card.contains(">2</span>"), "{card}");
        // and without anything to draw there are axes, or the reason
        assert!(plot(Vec::new(), Vec::new()).card().into_string().contains("class=\"grid\""));
        let nothing = Plot { nothing: Some("no reply".into()), ..drawn };
        let card = nothing.card().into_string();
        assert!(card.contains("no reply") && !card.contains("<svg"), "{card}");
    }

    #[test]
    fn a_column_reaches_halfway_to_its_neighbours() {
        let columns = |places: &[f64]| places.iter().map(|at| (*at, String::new())).collect();
        let of = |places: &[f64]| -> Vec<(f64, f64)> {
            let x = DrawnAxis { scale: Scale::Linear, range: 0.0..10.0, ticks: Vec::new() };
            plot(Vec::new(), columns(places)).pointed_at(&x).iter().map(|it| (it.0, it.1)).collect()
        };
        assert_eq!(of(&[]), []);
        assert_eq!(of(&[5.0]), [(0.0, 1_000.0)]);
        assert_eq!(of(&[1.0, 3.0, 9.0]), [(0.0, 200.0), (200.0, 400.0), (600.0, 400.0)]);
    }

    #[test]
    fn labels_never_touch_and_a_wide_column_has_more() {
        let labels: Vec<(f64, String)> =
            (0..=10).map(|nth| (f64::from(nth) / 10.0, format!("{} s", nth * 100))).collect();
        let classes = shown_at(&labels);
        let shown = |class| -> Vec<usize> {
            (0..labels.len()).filter(|nth| classes[*nth].split(' ').any(|word| word == class)).collect()
        };
        for (width, class) in TIERS {
            let shown = shown(class);
            let room = |nth: usize| labels[nth].1.len() as f64 * CHARACTER;
            let touch = |pair: &[usize]| {
                (labels[pair[1]].0 - labels[pair[0]].0) * width < f64::midpoint(room(pair[0]), room(pair[1]))
            };
            assert!(shown.len() > 1 && !shown.windows(2).any(touch), "{class}: {shown:?}");
        }
        assert!(shown("wide").len() > shown("narrow").len(), "{classes:?}");
        assert!(shown_at(&[]).is_empty());
    }
}
