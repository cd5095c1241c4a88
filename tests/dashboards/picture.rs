//! The panels of a dashboard as a picture, from the data that Prometheus has. Grafana draws the same data in its own style.

use std::fmt::Write;

use super::grafana::{Dashboard, Panel, Query};
use super::prometheus::Line;

const COLUMNS: usize = 3;
const WIDTH: f64 = 380.0;
const HEIGHT: f64 = 190.0;
const GAP: f64 = 12.0;
/// The room for the title above, and for the names of the lines below a plot.
const ABOVE: f64 = 34.0;
const BELOW: f64 = 36.0;
const LEFT: f64 = 62.0;
/// Readable on white and on black.
const INKS: [&str; 6] = ["#2e86ab", "#cf613f", "#3d9a5f", "#9067c6", "#b8860b", "#c2477f"];
/// The names of a panel's lines that have room.
const NAMES_MAX: usize = 6;

/// The picture as SVG. Panels without data are left out.
pub fn draw(dashboard: &Dashboard, mut data: impl FnMut(&Query) -> Vec<Line>) -> String {
    let mut drawn = String::new();
    let mut y = 0.0;
    for row in &dashboard.rows {
        let mut panels = Vec::new();
        for panel in row.panels.iter().filter(|panel| !panel.is_number) {
            let lines: Vec<_> = panel
                .queries
                .iter()
                .flat_map(|query| data(query).into_iter().map(|line| (name(query, &line), line)))
                .collect();
            if !lines.is_empty() {
                panels.push((panel, lines));
            }
        }
        if panels.is_empty() {
            continue;
        }
        y += 30.0;
        writeln!(drawn, r#"<text class="row" x="{GAP}" y="{}">{}</text>"#, y - 6.0, escaped(row.title))
            .unwrap();
        for (place, (panel, lines)) in panels.iter().enumerate() {
            let x = GAP + (place % COLUMNS) as f64 * (WIDTH + GAP);
            let top = y + (place / COLUMNS) as f64 * (HEIGHT + GAP);
            draw_panel(&mut drawn, panel, lines, x, top);
        }
        y += panels.len().div_ceil(COLUMNS) as f64 * (HEIGHT + GAP);
    }
    let width = GAP + COLUMNS as f64 * (WIDTH + GAP);
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" width="{width}" height="{y}" role="img" aria-label="The panels of the dashboard">
<style>
text {{ font: 11px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: #7d8590 }}
.title {{ font-weight: 600; font-size: 12px }} .row {{ font-weight: 600; font-size: 14px }}
.end {{ text-anchor: end }} .box {{ fill: none; stroke: #7d8590; stroke-opacity: .35 }}
.grid {{ stroke: #7d8590; stroke-opacity: .25 }} polyline {{ fill: none; stroke-width: 1.5 }}
</style>
{drawn}</svg>
"#
    )
}

fn draw_panel(drawn: &mut String, panel: &Panel, lines: &[(String, Line)], x: f64, y: f64) {
    let points = || lines.iter().flat_map(|(_, line)| &line.values).filter(|(_, value)| value.is_finite());
    let most = round_up(points().map(|(_, value)| *value).fold(0.0, f64::max));
    let from = points().map(|(time, _)| *time).fold(f64::INFINITY, f64::min);
    let to = points().map(|(time, _)| *time).fold(f64::NEG_INFINITY, f64::max);
    let (bottom, plot_height) = (y + HEIGHT - BELOW, HEIGHT - ABOVE - BELOW);
    let plot_width = WIDTH - LEFT - GAP;
    writeln!(drawn, r#"<rect class="box" x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="4"/>"#)
        .unwrap();
    writeln!(
        drawn,
        r#"<text class="title" x="{}" y="{}">{}</text>"#,
        x + 10.0,
        y + 20.0,
        escaped(panel.title)
    )
    .unwrap();
    for part in [0.0, 0.5, 1.0] {
        let at = bottom - part * plot_height;
        let (left, right) = (x + LEFT, x + LEFT + plot_width);
        writeln!(drawn, r#"<line class="grid" x1="{left}" y1="{at:.1}" x2="{right}" y2="{at:.1}"/>"#)
            .unwrap();
        let figure = figure(part * most, panel.unit);
        writeln!(drawn, r#"<text class="end" x="{}" y="{:.1}">{figure}</text>"#, left - 5.0, at + 4.0)
            .unwrap();
    }
    let mut name_at = x + 10.0;
    for (nth, (name, line)) in lines.iter().enumerate() {
        let ink = INKS[nth % INKS.len()];
        let places: Vec<_> = line
            .values
            .iter()
            .filter(|(_, value)| value.is_finite())
            .map(|(time, value)| {
                let across = (time - from) / (to - from).max(1.0) * plot_width;
                format!("{:.1},{:.1}", x + LEFT + across, bottom - value / most * plot_height)
            })
            .collect();
        writeln!(drawn, r#"<polyline stroke="{ink}" points="{}"/>"#, places.join(" ")).unwrap();
        let width = 18.0 + 6.4 * name.chars().count() as f64;
        if nth < NAMES_MAX && name_at + width < x + WIDTH {
            let base = y + HEIGHT - 12.0;
            writeln!(
                drawn,
                r#"<rect x="{name_at:.1}" y="{}" width="8" height="8" fill="{ink}"/><text x="{:.1}" y="{base}">{}</text>"#,
                base - 8.0,
                name_at + 11.0,
                escaped(name)
            )
            .unwrap();
            name_at += width;
        }
    }
}

/// The legend of a line: the query's name with the labels filled in.
fn name(query: &Query, line: &Line) -> String {
    let mut name = query.name.to_owned();
    for (label, value) in line.labels.as_object().expect("labels") {
        name = name.replace(&format!("{{{{{label}}}}}"), value.as_str().unwrap_or_default());
    }
    name.replace("127.0.0.1:9469", "host")
}

/// The next of 1, 2, 5, 10, …
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let scale = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|step| step * scale)
        .into_iter()
        .find(|step| *step >= value * 0.98)
        .unwrap_or(value)
}

fn figure(value: f64, unit: &str) -> String {
    if unit == "percentunit" {
        return format!("{:.0} %", value * 100.0);
    }
    let unit = match unit {
        "bps" => "bit/s",
        "bytes" => "B",
        "s" => "s",
        "short" => "",
        _ => "/s",
    };
    let (scaled, letter) = match value {
        v if v >= 1e9 => (v / 1e9, "G"),
        v if v >= 1e6 => (v / 1e6, "M"),
        v if v >= 1e3 => (v / 1e3, "k"),
        v if v >= 1.0 || v == 0.0 || unit == "/s" => (v, ""),
        v if v < 1e-3 => (v * 1e6, "µ"),
        v => (v * 1e3, "m"),
    };
    let digits = usize::from(scaled.fract() > 0.0);
    format!("{scaled:.digits$} {letter}{unit}").trim_end().to_owned()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
