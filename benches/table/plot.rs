//! The ratios as a picture: a bar for each row that compares our processor time with somebody else's, and a line
//! where both take the same.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::rows::Metric;
use super::{Outcome, median};
use crate::load::Result;

const WIDTH: i32 = 900;
const ROW_HEIGHT: i32 = 24;
const MARGIN: i32 = 34;
/// Where the bars begin, and how long one is that says 1.
const ZERO: i32 = 440;
const ONE: i32 = 330;
const FONT: (&str, i32) = ("sans-serif", 13);
/// Readable on white and on black.
const INK: RGBColor = RGBColor(125, 133, 144);
const BETTER: RGBColor = RGBColor(46, 134, 171);
const WORSE: RGBColor = RGBColor(207, 97, 63);

/// The picture as SVG; `None` if no row compares.
pub(super) fn draw(outcomes: &[Outcome]) -> Result<Option<String>> {
    let rows: Vec<_> = outcomes.iter().filter(|outcome| compares(outcome)).collect();
    if rows.is_empty() {
        return Ok(None);
    }
    let height = MARGIN + ROW_HEIGHT * rows.len() as i32 + MARGIN / 2;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH as u32, height as u32)).into_drawing_area();
        let text = |at, horizontal| FONT.into_text_style(&root).color(&INK).pos(Pos::new(horizontal, at));
        let title = "processor time per verified echo, ours ÷ theirs: shorter is better";
        root.draw(&Text::new(title, (ZERO, 8), text(VPos::Top, HPos::Left)))?;
        for (number, outcome) in (0..).zip(&rows) {
            let ratio = median(&outcome.ratios);
            let middle = MARGIN + number * ROW_HEIGHT + ROW_HEIGHT / 2;
            let against = outcome.row.peer.map_or("", |peer| peer.server);
            let label = format!("{} · {against}", outcome.row.work);
            root.draw(&Text::new(label, (ZERO - 10, middle), text(VPos::Center, HPos::Right)))?;
            let end = ZERO + (ratio.min(1.35) * f64::from(ONE)) as i32;
            let ink = if ratio <= 1.0 { BETTER } else { WORSE };
            let bar = [(ZERO, middle - ROW_HEIGHT / 3), (end.max(ZERO + 2), middle + ROW_HEIGHT / 3)];
            root.draw(&Rectangle::new(bar, ink.filled()))?;
            let figure = if ratio < 0.1 { format!("{ratio:.3}") } else { format!("{ratio:.2}") };
            root.draw(&Text::new(figure, (end + 6, middle), text(VPos::Center, HPos::Left)))?;
        }
        let equal = [(ZERO + ONE, MARGIN - 4), (ZERO + ONE, height - MARGIN / 3)];
        root.draw(&PathElement::new(equal, INK.stroke_width(1)))?;
        root.present()?;
    }
    Ok(Some(svg))
}

/// Whether a row says what we cost beside somebody else.
fn compares(outcome: &Outcome) -> bool {
    let row = &outcome.row;
    let theirs = row.peer.is_some_and(|peer| !peer.server.contains("tubular-echo"));
    let cpu = matches!(row.metric, Metric::CpuNsPerEcho | Metric::CpuMsPerGb);
    cpu && theirs && row.ours.server.contains("tubular-echo") && !outcome.ratios.is_empty()
}
