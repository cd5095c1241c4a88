//! The report as plain text, with aligned columns.

use std::fmt::Write;

use crate::model::counts::Class;
use crate::model::latency::Percentiles;
use crate::model::units::{bandwidth, count, counted, duration, percent, rate};
use crate::report::schema::{ConditionResult, Report};
use crate::show::columns::{Column, fitting};
use crate::show::paint::Paint;
use crate::show::places;
use crate::show::replies;
use crate::show::server;

/// The whole report; it ends with a newline.
pub(crate) fn render(report: &Report, paint: &Paint) -> String {
    let mut out = String::new();
    heading(report, paint, &mut out);
    outcomes(report, paint, &mut out);
    destinations(report, paint, &mut out);
    reply_headers(report, paint, &mut out);
    latency(report, paint, &mut out);
    generator(report, paint, &mut out);
    server_lines(report, paint, &mut out);
    for errors in &report.icmp_errors {
        let line = format!(
            "{} × ICMP {} from {} about {}",
            count(errors.count),
            errors.meaning(),
            errors.from,
            errors.about
        );
        let _ = writeln!(out, "{}", paint.wrap(&line));
    }
    for example in &report.examples {
        let _ = writeln!(out, "{}", paint.wrap(&example.to_string()));
    }
    ending(&report.warnings, &report.fail_if, paint, &mut out);
    out
}

/// What a reader must know, and whether the conditions were kept.
pub(super) fn ending(warnings: &[String], conditions: &[ConditionResult], paint: &Paint, out: &mut String) {
    for warning in warnings {
        let _ = writeln!(out, "{}", paint.marked("!", warning));
    }
    for condition in conditions {
        let text = format!("--fail-if '{}': {}", condition.condition, condition.measured);
        let _ = writeln!(out, "{}", paint.condition(condition.failed, &text));
    }
}

fn heading(report: &Report, paint: &Paint, out: &mut String) {
    let load = &report.load;
    let mut words = vec![format!("{} {}", load.protocol, load.targets.join(" "))];
    words.push(places::mode(load));
    words.push(match load.in_flight {
        Some(in_flight) => format!("{} × {in_flight} in flight", load.counted_flows()),
        None => load.counted_flows(),
    });
    words.push(format!("{} bytes", load.size));
    if let Some(gso) = load.gso.filter(|gso| *gso > 1) {
        words.push(format!("trains of {gso}"));
    }
    if let Some(gro) = load.gro {
        words.push(format!("gro {}", if gro { "on" } else { "off" }));
    }
    if load.spray == Some(true) {
        words.push("sprayed".into());
    }
    words.extend(places::packets(load));
    words.push(counted(load.threads.into(), "thread"));
    words.extend(report.counted_runs());
    words.extend(load.seed.map(|seed| format!("seed {seed}")));
    let _ = writeln!(out, "{}", paint.head(&paint.wrap(&words.join(", "))));
    for name in &load.names {
        let _ = writeln!(out, "{}", paint.wrap(&name.words()));
    }
}

/// The line of a count, red if it should be 0 and is not.
fn count_line(name: &str, number: u64, is_bad: bool, note: &str, paint: &Paint, out: &mut String) {
    let line = format!("  {name:<13}{:>15}{note}", count(number));
    let line = paint.wrap(line.trim_end());
    let _ = writeln!(out, "{}", if is_bad && number > 0 { paint.bad(&line) } else { line });
}

fn outcomes(report: &Report, paint: &Paint, out: &mut String) {
    let counts = &report.totals.counts;
    let is_tcp = report.load.protocol == "tcp";
    let seconds = report.elapsed_ns as f64 / 1e9;
    let bytes_per_s = if seconds > 0.0 { counts.bytes_sent as f64 / seconds } else { 0.0 };
    let line = format!(
        "{:<15}{:>15}   in {}: {}/s, {}",
        "sent",
        count(counts.sent),
        duration(report.elapsed_ns),
        rate(report.totals.sent_per_s),
        bandwidth(bytes_per_s)
    );
    let _ = writeln!(out, "\n{}", paint.wrap(&line));
    for (class, number) in counts.classes() {
        // a TCP connection has one peer, and no ICMP report is about one message
        if is_tcp && matches!(class, Class::Misdirected | Class::Unreachable) {
            continue;
        }
        let share = if number == 0 { String::new() } else { format!("{:>13}", percent(number, counts.sent)) };
        count_line(class.name(), number, class != Class::Ok, &share, paint, out);
    }
    if is_tcp {
        count_line("crossed", counts.crossed, true, "", paint, out);
        count_line("unattributed", counts.unattributed, true, "", paint, out);
        connections(report, paint, out);
    } else {
        beside(report, paint, out);
    }
}

/// The destinations and sources, and those with faults.
fn destinations(report: &Report, paint: &Paint, out: &mut String) {
    for said in places::said(report) {
        let line = format!("{:<15}{:>15}   {}", said.name.to_lowercase(), count(said.visited), said.note);
        let _ = writeln!(out, "{}", paint.wrap(&line));
        for line in &said.faults {
            let line = paint.wrap(&format!("  {line}"));
            let _ = writeln!(out, "{}", if said.has_faults { paint.bad(&line) } else { line });
        }
    }
}

/// What right replies came with, where that was asked for.
fn reply_headers(report: &Report, paint: &Paint, out: &mut String) {
    for replies::Line { name, count: number, note, .. } in replies::lines(report) {
        let line = format!("{name:<15}{:>15}   {note}", count(number));
        let _ = writeln!(out, "{}", paint.wrap(&line));
    }
}

fn connections(report: &Report, paint: &Paint, out: &mut String) {
    let Some(connections) = report.connections else { return };
    let line = format!(
        "connections    {:>15}   {} established, {} failed, {} broken, {} stuck",
        count(connections.attempted),
        count(connections.established),
        count(connections.failed),
        count(connections.broken),
        count(connections.stuck)
    );
    let _ = writeln!(out, "{}", paint.wrap(&line));
}

/// The counts beside the classes.
fn beside(report: &Report, paint: &Paint, out: &mut String) {
    let totals = &report.totals;
    let mut distance = format!(
        "   by {:.1} on average, {} at most",
        totals.reorder_distance_mean, totals.reorder_distance_max
    );
    if report.load.flows > 1 {
        distance.push_str(", within a flow");
    }
    out.push_str("beside\n");
    for (name, number) in totals.counts.beside().chain([("own_drops", totals.own_drops)]) {
        let note = match (name, number) {
            ("reordered", 1..) => distance.as_str(),
            // an order of different flows does not exist
            ("reordered", 0) if report.load.flows > 1 => "   seen within a flow only",
            _ => "",
        };
        count_line(name, number, true, note, paint, out);
    }
}

/// Characters of the names of rows: all figures fit beside them into 80.
const NAMES_WIDTH: usize = 16;

/// A figure of a latency.
type LatencyColumn = Column<fn(&Percentiles) -> u64>;

/// The figures of a latency. A narrow terminal shows p50, p99 and the maximum.
fn figures() -> [LatencyColumn; 7] {
    let column = |(name, of)| {
        let rank = match name {
            "p50" | "p99" | "max" => 0,
            "p99.9" => 1,
            "p95" => 2,
            "p90" => 3,
            _ => 4,
        };
        Column { name, width: 9, rank, of }
    };
    Percentiles::NAMED.map(column)
}

/// The name of a row, and its figures.
type Row<'a> = (&'a str, &'a Percentiles);

fn latency(report: &Report, paint: &Paint, out: &mut String) {
    let Some(actual) = &report.latency.from_actual else { return };
    let mut rows: Vec<Row<'_>> = match (&report.latency.from_intended, &report.generator.slip) {
        (Some(intended), Some(slip)) => {
            vec![("from intended", intended), ("from actual", actual), ("generator slip", slip)]
        }
        _ if report.load.mode == "connect" => vec![("connect, echo", actual)],
        _ => vec![("round trip", actual)],
    };
    rows.extend(report.generator.reading_slip.as_ref().map(|slip| ("reading slip", slip)));
    let columns = fitting(&figures(), NAMES_WIDTH, paint.width);
    let _ = write!(out, "\n{}", paint.head(&format!("{:<NAMES_WIDTH$}", "latency")));
    for Column { name, width, .. } in &columns {
        let _ = write!(out, "{name:>width$}");
    }
    out.push('\n');
    for (name, percentiles) in rows {
        let _ = write!(out, "{:<NAMES_WIDTH$}", format!("  {name}"));
        for Column { width, of, .. } in &columns {
            let _ = write!(out, "{:>width$}", duration(of(percentiles)));
        }
        out.push('\n');
    }
}

fn server_lines(report: &Report, paint: &Paint, out: &mut String) {
    const NAME: &str = "server";
    for (nth, line) in server::lines(report).iter().enumerate() {
        let name = if nth == 0 { format!("{NAME} ") } else { String::new() };
        let line = paint.wrap(&format!("{name}{line}"));
        let _ = match nth {
            0 => writeln!(out, "{}{}", paint.head(NAME), &line[NAME.len()..]),
            _ => writeln!(out, "{line}"),
        };
    }
}

fn generator(report: &Report, paint: &Paint, out: &mut String) {
    const NAME: &str = "blaster";
    let generator = &report.generator;
    let shares = |shares: &[f64]| {
        shares.iter().map(|share| format!("{:.0}%", share * 100.0)).collect::<Vec<_>>().join(" ")
    };
    let unit = report.load.unit();
    let mut line = format!(
        "{NAME} {} of its own CPU per {unit}, {} of a core",
        duration(generator.cpu_ns_per_datagram as u64),
        shares(&generator.cpu_share)
    );
    if generator.pacing_share.iter().any(|share| *share >= 0.005) {
        let _ = write!(line, " (and {} watching the clock)", shares(&generator.pacing_share));
    }
    let line = paint.wrap(&line);
    let _ = writeln!(out, "\n{}{}", paint.head(NAME), &line[NAME.len()..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::counts::Counts;
    use crate::report::sample::{facts, report, results};
    use crate::report::schema::{ConditionResult, IcmpErrors};

    #[test]
    fn damage_is_seen_and_only_colored_when_asked() {
        let counts = Counts { sent: 1_000_000, ok: 999_999, misdirected: 1, ..Counts::default() };
        let report = report(Counts { ok: 0, lost: 999_999, ..counts });
        let plain = render(&report, &Paint::PLAIN);
        assert!(!plain.contains('\x1b'));
        assert!(plain.contains("  misdirected                1    0.00010 %\n"), "{plain}");
        assert!(plain.contains("  corrupted                  0\n"), "{plain}");
        let colored = render(&report, &Paint { color: true, width: None });
        assert!(colored.contains("\x1b[31m  misdirected"));
        assert!(plain.lines().all(|line| line == line.trim_end()), "{plain}");
    }

    /// A report with something of everything, in words that are long.
    fn full() -> Report {
        let counts = Counts {
            sent: 123_456_789,
            ok: 1_000,
            lost: 123_455_788,
            misdirected: 1,
            reordered: 123,
            ..Counts::default()
        };
        let mut results = results(counts);
        results.slip.record(5_420_000);
        results.from_actual.record(1_234_567);
        let mut facts = facts();
        facts.load.rate_per_s = Some(1_234_567.0);
        facts.load.targets = vec!["192.0.2.0/24:1024-65535".into(), "[2001:db8:1:2::/64]:any".into()];
        let mut report = Report::new(facts, &results);
        report.icmp_errors = vec![IcmpErrors {
            from: "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff".into(),
            about: "[2001:db8:1:2:3:4:5:6]:65535".into(),
            icmp_type: 1,
            icmp_code: 4,
            count: 1_234_567,
        }];
        report.warnings = vec![
            "blaster was the bottleneck: one datagram in a hundred left 5.42 ms late or more; latency from the \
             intended send time includes that, though it used little of its processors"
                .into(),
        ];
        report.fail_if =
            vec![ConditionResult { condition: "misdirected>0".into(), measured: "1".into(), failed: true }];
        report
    }

    #[test]
    fn no_terminal_breaks_a_word() {
        let report = full();
        let table = |width| render(&report, &Paint { color: false, width });
        let wide = table(Some(120));
        for width in [120, 100, 80, 66, 50] {
            let text = table(Some(width));
            let wider = text.lines().find(|line| line.chars().count() > width);
            assert_eq!(wider, None, "{width}: {text}");
            let words = |text: &str| -> Vec<String> { text.split_whitespace().map(String::from).collect() };
            let tail = |text: &str| words(&text[text.find("ICMP").expect("there is one")..]);
            assert_eq!(tail(&text), tail(&wide), "{width}: no message lost a word: {text}");
            let figures: usize = [(79, 7), (70, 6), (61, 5), (52, 4)]
                .into_iter()
                .find_map(|(needed, figures)| (width >= needed).then_some(figures))
                .unwrap_or(3);
            let heading = text.lines().find(|line| line.starts_with("latency")).expect("latency");
            assert_eq!(heading.split_whitespace().count(), 1 + figures, "{width}: {heading}");
        }
        let is_whole = |line: &str| line.ends_with(&report.warnings[0]);
        assert!(table(None).lines().any(is_whole), "nothing breaks in a file: {}", table(None));
    }
}
