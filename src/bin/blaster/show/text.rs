//! The report for people: plain text, columns that line up.

use std::fmt::{self, Write};

use crate::model::latency::Percentiles;
use crate::model::results::{Answered, Example};
use crate::report::schema::Report;

/// 1234567 as 1,234,567.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (nth, digit) in digits.chars().enumerate() {
        if nth > 0 && (digits.len() - nth).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// So many per second: whole, unless that would say nothing.
pub(crate) fn rate(per_s: f64) -> String {
    if per_s < 9.995 && (per_s - per_s.round()).abs() >= 0.005 {
        format!("{per_s:.2}")
    } else {
        count(per_s.round() as u64)
    }
}

/// Nanoseconds with three digits and a unit.
pub(crate) fn duration(ns: u64) -> String {
    let ns = ns as f64;
    let (value, unit) = match ns {
        _ if ns < 1e3 => return format!("{ns:.0} ns"),
        _ if ns < 999.5e3 => (ns / 1e3, "µs"),
        _ if ns < 999.5e6 => (ns / 1e6, "ms"),
        _ => (ns / 1e9, "s"),
    };
    let places = match value {
        _ if value < 9.995 => 2,
        _ if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.places$} {unit}")
}

/// Bytes per second as bits per second with three digits and a unit.
fn bandwidth(bytes_per_s: f64) -> String {
    let bits = bytes_per_s * 8.0;
    match bits {
        _ if bits < 999.5e3 => format!("{:.0} kbit/s", bits / 1e3),
        _ if bits < 999.5e6 => format!("{:.1} Mbit/s", bits / 1e6),
        _ => format!("{:.2} Gbit/s", bits / 1e9),
    }
}

/// A share of `all` in percent: neither all nor nothing unless it is.
pub(crate) fn percent(number: u64, all: u64) -> String {
    let percent = number as f64 * 100.0 / all.max(1) as f64;
    match number {
        0 => "0".into(),
        number if number == all => "100 %".into(),
        _ if percent < 0.0001 => "< 0.0001 %".into(),
        _ if percent > 99.9999 => "> 99.9999 %".into(),
        _ => format!("{percent:.4} %"),
    }
}

/// Escape codes, or nothing.
#[derive(Debug)]
pub(crate) struct Paint {
    /// Whether there are any.
    pub(crate) color: bool,
}

impl Paint {
    /// What should not be.
    pub(crate) fn bad(&self, text: &str) -> String {
        if self.color { format!("\x1b[31m{text}\x1b[0m") } else { text.into() }
    }

    /// A heading.
    pub(crate) fn head(&self, text: &str) -> String {
        if self.color { format!("\x1b[1m{text}\x1b[0m") } else { text.into() }
    }
}

/// The whole report, ending with a newline.
pub(crate) fn render(report: &Report, paint: &Paint) -> String {
    let mut out = String::new();
    heading(report, paint, &mut out);
    books(report, paint, &mut out);
    latency(report, paint, &mut out);
    generator(report, paint, &mut out);
    for errors in &report.icmp_errors {
        let _ = writeln!(
            out,
            "{} × ICMP type {} code {} from {} about {}",
            count(errors.count),
            errors.icmp_type,
            errors.icmp_code,
            errors.from,
            errors.about
        );
    }
    for example in &report.examples {
        let _ = writeln!(out, "{example}");
    }
    for warning in &report.warnings {
        let _ = writeln!(out, "{} {warning}", paint.bad("!"));
    }
    for judged in &report.fail_if {
        let verdict = if judged.failed { paint.bad("FAILED") } else { "passed".into() };
        let _ = writeln!(out, "{verdict}  --fail-if '{}': {}", judged.condition, judged.measured);
    }
    out
}

impl fmt::Display for Example {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, came_bytes, .. } = self;
        let from = self.came_from.map_or("nowhere".into(), |from| from.to_string());
        let Some(Answered { sent_to, sent_bytes, flow, sequence, differs_at }) = &self.answers else {
            return write!(f, "{kind}: {came_bytes} bytes from {from}");
        };
        write!(f, "{kind}: {sent_bytes} bytes to {sent_to}, {came_bytes} from {from}")?;
        differs_at.map_or(Ok(()), |at| write!(f, ", byte {at} is another"))?;
        write!(f, " (flow {flow}, number {sequence})")
    }
}

fn heading(report: &Report, paint: &Paint, out: &mut String) {
    let load = &report.load;
    let mut words = vec![format!("{} {}", load.protocol, load.targets.join(" "))];
    words.push(match load.rate_per_s {
        Some(per_s) => format!("{} loop at {}/s", load.mode, rate(per_s)),
        None => load.mode.clone(),
    });
    let flows = if load.protocol == "tcp" { "connections" } else { "flows" };
    words.push(match load.in_flight {
        Some(in_flight) => format!("{} {flows} × {in_flight} in flight", count(load.flows.into())),
        None => format!("{} {flows}", count(load.flows.into())),
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
    words.push(format!("{} thread{}", load.threads, if load.threads == 1 { "" } else { "s" }));
    if report.hosts.len() > 1 {
        words.push(format!("{} hosts", report.hosts.len()));
    }
    words.extend(load.seed.map(|seed| format!("seed {seed}")));
    let _ = writeln!(out, "{}", paint.head(&words.join(", ")));
}

fn books(report: &Report, paint: &Paint, out: &mut String) {
    let totals = &report.totals;
    let counts = &totals.counts;
    let seconds = report.elapsed_ns as f64 / 1e9;
    let bytes_per_s = if seconds > 0.0 { counts.bytes_sent as f64 / seconds } else { 0.0 };
    let _ = writeln!(
        out,
        "\n{:<15}{:>15}   in {}: {}/s, {}",
        "sent",
        count(counts.sent),
        if seconds < 0.1 { duration(report.elapsed_ns) } else { format!("{seconds:.2} s") },
        rate(totals.sent_per_s),
        bandwidth(bytes_per_s)
    );
    let share = |number: u64| if number == 0 { String::new() } else { percent(number, counts.sent) };
    let mut line = |name: &str, number: u64, is_bad: bool, note: &str| {
        let line = format!("  {name:<13}{:>15}   {note}", count(number));
        let line = line.trim_end();
        let _ = writeln!(out, "{}", if is_bad && number > 0 { paint.bad(line) } else { line.into() });
    };
    line("ok", counts.ok, false, &share(counts.ok));
    line("corrupted", counts.corrupted, true, &share(counts.corrupted));
    line("truncated", counts.truncated, true, &share(counts.truncated));
    if report.load.protocol == "udp" {
        line("misdirected", counts.misdirected, true, &share(counts.misdirected));
    }
    line("late", counts.late, true, &share(counts.late));
    line("lost", counts.lost, true, &share(counts.lost));
    if report.load.protocol == "tcp" {
        line("unattributed", counts.unattributed, true, "");
        if let Some(connections) = report.connections {
            let _ = writeln!(
                out,
                "connections    {:>15}   {} established, {} failed, {} broken, {} stuck",
                count(connections.attempted),
                count(connections.established),
                count(connections.failed),
                count(connections.broken),
                count(connections.stuck)
            );
        }
        return;
    }
    line("unreachable", counts.unreachable, true, &share(counts.unreachable));
    let distance = if counts.reordered == 0 {
        String::new()
    } else {
        format!("by {:.1} on average, {} at most", totals.reorder_distance_mean, totals.reorder_distance_max)
    };
    out.push_str("beside\n");
    let mut line = |name: &str, number: u64, note: &str| {
        let line = format!("  {name:<13}{:>15}   {note}", count(number));
        let line = line.trim_end();
        let _ = writeln!(out, "{}", if number > 0 { paint.bad(line) } else { line.into() });
    };
    line("duplicated", counts.duplicated, "");
    line("reordered", counts.reordered, &distance);
    line("unattributed", counts.unattributed, "");
    line("send_failures", counts.send_failures, "");
    line("own_drops", totals.own_drops, "");
}

fn latency(report: &Report, paint: &Paint, out: &mut String) {
    let Some(actual) = &report.latency.from_actual else { return };
    let columns = ["p50", "p90", "p99", "p99.9", "p99.99", "max"];
    let _ = write!(out, "\n{}", paint.head(&format!("{:<18}", "latency")));
    for column in columns {
        let _ = write!(out, "{column:>10}");
    }
    out.push('\n');
    let mut row = |name: &str, percentiles: &Percentiles| {
        let Percentiles { p50_ns, p90_ns, p99_ns, p99_9_ns, p99_99_ns, max_ns, .. } = *percentiles;
        let _ = write!(out, "  {name:<16}");
        for ns in [p50_ns, p90_ns, p99_ns, p99_9_ns, p99_99_ns, max_ns] {
            let _ = write!(out, "{:>10}", duration(ns));
        }
        out.push('\n');
    };
    match (&report.latency.from_intended, &report.generator.slip) {
        (Some(intended), Some(slip)) => {
            row("from intended", intended);
            row("from actual", actual);
            row("generator slip", slip);
        }
        _ if report.load.mode == "connect" => row("connect and echo", actual),
        _ => row("round trip", actual),
    }
}

fn generator(report: &Report, paint: &Paint, out: &mut String) {
    let generator = &report.generator;
    let shares = |shares: &[f64]| {
        shares.iter().map(|share| format!("{:.0}%", share * 100.0)).collect::<Vec<_>>().join(" ")
    };
    let unit = if report.load.protocol == "tcp" { "message" } else { "datagram" };
    let _ = write!(
        out,
        "\n{} {} of its own CPU per {unit}, {} of a core",
        paint.head("blaster"),
        duration(generator.cpu_ns_per_datagram as u64),
        shares(&generator.cpu_share)
    );
    if generator.pacing_share.iter().any(|share| *share >= 0.005) {
        let _ = write!(out, " (and {} watching the clock)", shares(&generator.pacing_share));
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::outcomes::Counts;
    use crate::report::sample::report;

    #[test]
    fn numbers_for_people() {
        for (number, wanted) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(number), wanted);
        }
        for (per_s, wanted) in [(0.0, "0"), (0.5, "0.50"), (3.0, "3"), (9.99, "9.99"), (1_999.6, "2,000")] {
            assert_eq!(rate(per_s), wanted);
        }
        for (ns, wanted) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1.00 µs"),
            (12_345, "12.3 µs"),
            (123_456, "123 µs"),
            (999_900, "1.00 ms"),
            (1_500_000_000, "1.50 s"),
            (3_600_000_000_000, "3600 s"),
        ] {
            assert_eq!(duration(ns), wanted);
        }
    }

    #[test]
    fn damage_is_seen_and_only_colored_when_asked() {
        let counts = Counts { sent: 1_000_000, ok: 999_999, misdirected: 1, ..Counts::default() };
        let report = report(Counts { ok: 0, lost: 999_999, ..counts });
        let plain = render(&report, &Paint { color: false });
        assert!(!plain.contains('\x1b'));
        assert!(plain.contains("  misdirected                1   0.0001 %\n"), "{plain}");
        assert!(plain.contains("  corrupted                  0\n"), "{plain}");
        assert!(render(&report, &Paint { color: true }).contains("\x1b[31m  misdirected"));
        assert!(plain.lines().all(|line| line == line.trim_end()), "{plain}");
    }
}
