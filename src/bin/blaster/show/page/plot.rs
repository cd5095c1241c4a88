//! One plot: lines over two axes, as SVG with the colors of its page.
//!
//! plotters writes colors as #RRGGBB. It gets the number of each color here, and then the number is replaced by the name of
//! a CSS variable of the page: so one drawing fits light and dark.

use plotters::coord::ranged1d::{KeyPointHint, Ranged, ValueFormatter};
use plotters::prelude::*;

/// Twice the size on the page: plotters puts points on whole pixels.
const SIZE: (u32, u32) = (1_160, 468);
/// The size of labels; plotters multiplies it by 0.81.
const LABEL_SIZE: f64 = 32.0;

/// A color of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ink(u8);

impl Ink {
    /// Right replies.
    pub(super) const GOOD: Self = Self(0);
    /// The load itself.
    pub(super) const PLAIN: Self = Self(1);
    /// Defects.
    pub(super) const BAD: Self = Self(2);
    /// Colors of lines without a meaning of their own.
    pub(super) const SERIES: [Self; 8] =
        [Self(0), Self(3), Self(4), Self(5), Self(6), Self(7), Self(2), Self(1)];
    const GRID: Self = Self(8);
    const LABEL: Self = Self(9);
    const COUNT: u8 = 10;

    fn color(self) -> RGBColor {
        RGBColor(0xfa, 0x00, self.0)
    }

    /// As in the style sheet.
    pub(super) fn name(self) -> String {
        format!("var(--ink-{})", self.0)
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
    /// With a dot at each point.
    Dotted,
    /// The dots without the line.
    Dots,
}

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
}

/// A plot. `columns` are places on the x axis and the texts that they show under the pointer.
#[derive(Clone, Debug)]
pub(super) struct Plot {
    pub(super) title: &'static str,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) lines: Vec<Line>,
    pub(super) columns: Vec<(f64, String)>,
}

/// An axis in the coordinates of the drawing: logarithms on a logarithmic axis.
struct DrawnAxis {
    scale: Scale,
    range: std::ops::Range<f64>,
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
        if axis.ticks.is_none() {
            low = ticks.first().copied().unwrap_or(low).min(low);
            high = ticks.last().copied().unwrap_or(high).max(high);
        }
        let mut drawn = Self { scale: axis.scale, range: 0.0..1.0, ticks: Vec::new() };
        drawn.range = drawn.at(low)..drawn.at(high);
        if drawn.range.is_empty() {
            drawn.range.end = drawn.range.start + 1.0;
        }
        let range = drawn.range.clone();
        let is_within = |tick: &f64| *tick >= range.start - 1e-9 && *tick <= range.end + 1e-9;
        drawn.ticks = ticks.into_iter().map(|tick| drawn.at(tick)).filter(is_within).collect();
        drawn
    }

    fn at(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => value,
            Scale::Logarithmic => value.max(f64::MIN_POSITIVE).log10(),
        }
    }

    fn value(&self, at: f64) -> f64 {
        match self.scale {
            Scale::Linear => at,
            Scale::Logarithmic => 10_f64.powf(at),
        }
    }
}

impl Ranged for DrawnAxis {
    type FormatOption = plotters::coord::ranged1d::NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value - self.range.start) / (self.range.end - self.range.start);
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for DrawnAxis {}

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

/// Powers of ten around `low` to `high`; if those are few, also 2 and 5 times each.
fn logarithmic_ticks(low: f64, high: f64) -> Vec<f64> {
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let digits: &[f64] = if last - first > 3 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let all = (first..=last).flat_map(|power| digits.iter().map(move |digit| digit * 10_f64.powi(power)));
    let all: Vec<f64> = all.collect();
    let begin = all.iter().rposition(|tick| *tick <= low * 1.000_001).unwrap_or(0);
    let end = all.iter().position(|tick| *tick >= high * 0.999_999).unwrap_or(all.len() - 1);
    all[begin..=end.max(begin + 1).min(all.len() - 1)].to_vec()
}

type Chart<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<DrawnAxis, DrawnAxis>>;

impl Plot {
    /// The drawing.
    pub(super) fn svg(&self) -> String {
        let mut svg = String::new();
        self.draw(&mut svg).expect("memory takes what is drawn");
        // the page sets the size
        let begin = svg.find('>').map_or(0, |end| end + 1);
        let mut svg = format!(
            "<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\" xmlns=\"http://www.w3.org/2000/svg\">{}",
            SIZE.0,
            SIZE.1,
            self.title,
            &svg[begin..]
        );
        for number in 0..Ink::COUNT {
            svg = svg.replace(&format!("\"#FA00{number:02X}\""), &format!("\"{}\"", Ink(number).name()));
        }
        svg
    }

    fn draw(&self, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let places = self.columns.iter().map(|(x, _)| *x);
        let x = DrawnAxis::new(&self.x, points().map(|(x, _)| *x).chain(places));
        let y = DrawnAxis::new(&self.y, points().map(|(_, y)| *y));
        let at = |&(px, py): &(f64, f64)| (x.at(px), y.at(py).max(y.range.start));
        let lines: Vec<Vec<(f64, f64)>> =
            self.lines.iter().map(|line| line.points.iter().map(at).collect()).collect();
        let columns: Vec<(f64, &String)> = self.columns.iter().map(|(px, said)| (x.at(*px), said)).collect();
        let labels = (Labels(&self.x, x.scale), Labels(&self.y, y.scale));
        let floor = y.range.start;

        let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        let mut chart: Chart<'_> = ChartBuilder::on(&root)
            .margin_top(18)
            .margin_right(50)
            .x_label_area_size(44)
            .y_label_area_size(128)
            .build_cartesian_2d(x, y)?;
        let style = ("inherit", LABEL_SIZE, &Ink::LABEL.color());
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(Ink::GRID.color().stroke_width(2))
            .light_line_style(TRANSPARENT)
            .axis_style(Ink::GRID.color().stroke_width(2))
            .x_label_style(style)
            .y_label_style(style)
            .set_all_tick_mark_size(8)
            .x_label_formatter(&|at| labels.0.text(*at))
            .y_label_formatter(&|at| labels.1.text(*at))
            .draw()?;
        for (line, points) in self.lines.iter().zip(lines) {
            draw_line(&mut chart, line, points, floor)?;
        }
        root.present()?;
        let places: Vec<i32> = columns.iter().map(|(at, _)| chart.backend_coord(&(*at, floor)).0).collect();
        drop(chart);
        drop(root);
        self.point_at(svg, &places);
        Ok(())
    }

    /// Adds the columns; each reaches halfway to its neighbours.
    fn point_at(&self, svg: &mut String, places: &[i32]) {
        let mut columns = String::new();
        for (nth, place) in places.iter().enumerate() {
            let before = nth.checked_sub(1).map_or(*place - 20, |nth| places[nth]);
            let after = places.get(nth + 1).copied().unwrap_or(*place + 20);
            let (left, right) = ((place + before) / 2, (place + after) / 2);
            let said = maud::html! {
                rect.column x=(left) y="18" width=((right - left).max(1)) height=(SIZE.1 - 62) {
                    title { (self.columns[nth].1) }
                }
            };
            columns.push_str(&said.into_string());
        }
        let end = svg.rfind("</svg>").unwrap_or(svg.len());
        svg.insert_str(end, &columns);
    }
}

fn draw_line(
    chart: &mut Chart<'_>,
    line: &Line,
    points: Vec<(f64, f64)>,
    floor: f64,
) -> Result<(), Box<dyn std::error::Error>> {
    let color = line.ink.color();
    if line.fill {
        chart.draw_series(AreaSeries::new(points.iter().copied(), floor, color.mix(0.13)))?;
    }
    if matches!(line.stroke, Stroke::Dotted | Stroke::Dots) || points.len() == 1 {
        let dots = points.iter().map(|point| Circle::new(*point, 8, color.filled()));
        chart.draw_series(dots)?;
    }
    match line.stroke {
        Stroke::Dots => {}
        Stroke::Dashed => {
            chart.draw_series(DashedLineSeries::new(points, 14, 10, color.stroke_width(4)))?;
        }
        Stroke::Solid | Stroke::Dotted => {
            chart.draw_series(LineSeries::new(points, color.stroke_width(5)))?;
        }
    }
    Ok(())
}

/// The labels of an axis.
struct Labels<'a>(&'a Axis, Scale);

impl Labels<'_> {
    fn text(&self, at: f64) -> String {
        let value = DrawnAxis { scale: self.1, range: 0.0..1.0, ticks: Vec::new() }.value(at);
        (self.0.label)(value)
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
        let table: [(f64, f64, &[f64]); 3] = [
            (30.0, 400.0, &[20.0, 50.0, 100.0, 200.0, 500.0]),
            (1_000.0, 1e8, &[1e3, 1e4, 1e5, 1e6, 1e7, 1e8]),
            (100.0, 100.0, &[100.0, 200.0]),
        ];
        for (low, high, wanted) in table {
            assert_eq!(logarithmic_ticks(low, high), wanted, "{low} to {high}");
        }
    }

    #[test]
    fn colors_are_the_pages() {
        let axis =
            |scale| Axis { scale, from: None, to: None, ticks: None, label: |value| value.to_string() };
        let plot = Plot {
            title: "a title",
            x: axis(Scale::Linear),
            y: axis(Scale::Logarithmic),
            lines: vec![Line::new("a", Ink::BAD, vec![(0.0, 10.0), (1.0, 0.0), (2.0, 1e6)])],
            columns: vec![(0.0, "<first>".into()), (2.0, "last".into())],
        };
        let svg = plot.svg();
        assert!(svg.contains("var(--ink-2)") && svg.contains("var(--ink-8)"), "{svg}");
        assert!(!svg.contains("#FA"), "{svg}");
        assert!(svg.contains("<title>&lt;first&gt;</title>") && svg.ends_with("</svg>\n"), "{svg}");
        // and without anything to draw there are axes
        assert!(Plot { lines: Vec::new(), columns: Vec::new(), ..plot }.svg().contains("var(--ink-8)"));
    }
}
