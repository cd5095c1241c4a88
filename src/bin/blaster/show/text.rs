//! The report as plain text, with aligned columns.

use std::fmt::{self, Write};

use crate::model::counts::Class;
use crate::model::latency::Percentiles;
use crate::model::results::{Example, SentMessage};
use crate::model::units::{bandwidth, count, counted, duration, percent, rate};
use crate::report::schema::Report;
use crate::show::paint::Paint;

/// The whole report; it ends with a newline.
pub(crate) fn render(report: &Report, paint: &Paint) -> String {
    let mut out = String::new();
    heading(report, paint, &mut out);
    outcomes(report, paint, &mut out);
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
    for condition in &report.fail_if {
        let outcome = if condition.failed { paint.bad("FAILED") } else { "passed".into() };
        let _ = writeln!(out, "{outcome}  --fail-if '{}': {}", condition.condition, condition.measured);
    }
    out
}

impl fmt::Display for Example {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, came_bytes, .. } = self;
        let from = self.came_from.map_or("an unknown address".into(), |from| from.to_string());
        let Some(SentMessage { sent_to, sent_bytes, flow, sequence, differs_at }) = &self.answers else {
            return write!(f, "{kind}: {came_bytes} bytes from {from}");
        };
        write!(f, "{kind}: {sent_bytes} bytes to {sent_to}, {came_bytes} from {from}")?;
        differs_at.map_or(Ok(()), |at| write!(f, ", byte {at} differs"))?;
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
    words.push(counted(load.threads.into(), "thread"));
    words.extend(report.counted_runs());
    words.extend(load.seed.map(|seed| format!("seed {seed}")));
    let _ = writeln!(out, "{}", paint.head(&words.join(", ")));
}

/// The line of a count, red if it should be 0 and is not.
fn count_line(name: &str, number: u64, is_bad: bool, note: &str, paint: &Paint, out: &mut String) {
    let line = format!("  {name:<13}{:>15}   {note}", count(number));
    let line = line.trim_end();
    let _ = writeln!(out, "{}", if is_bad && number > 0 { paint.bad(line) } else { line.into() });
}

fn outcomes(report: &Report, paint: &Paint, out: &mut String) {
    let counts = &report.totals.counts;
    let is_tcp = report.load.protocol == "tcp";
    let seconds = report.elapsed_ns as f64 / 1e9;
    let bytes_per_s = if seconds > 0.0 { counts.bytes_sent as f64 / seconds } else { 0.0 };
    let _ = writeln!(
        out,
        "\n{:<15}{:>15}   in {}: {}/s, {}",
        "sent",
        count(counts.sent),
        if seconds < 0.1 { duration(report.elapsed_ns) } else { format!("{seconds:.2} s") },
        rate(report.totals.sent_per_s),
        bandwidth(bytes_per_s)
    );
    for (class, number) in counts.classes() {
        // a TCP connection has one peer, and no ICMP report is about one message
        if is_tcp && matches!(class, Class::Misdirected | Class::Unreachable) {
            continue;
        }
        let share = if number == 0 { String::new() } else { percent(number, counts.sent) };
        count_line(class.name(), number, class != Class::Ok, &share, paint, out);
    }
    if is_tcp {
        count_line("unattributed", counts.unattributed, true, "", paint, out);
        connections(report, out);
    } else {
        beside(report, paint, out);
    }
}

fn connections(report: &Report, out: &mut String) {
    let Some(connections) = report.connections else { return };
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

/// The counts beside the classes.
fn beside(report: &Report, paint: &Paint, out: &mut String) {
    let totals = &report.totals;
    let distance =
        format!("by {:.1} on average, {} at most", totals.reorder_distance_mean, totals.reorder_distance_max);
    out.push_str("beside\n");
    for (name, number) in totals.counts.beside().chain([("own_drops", totals.own_drops)]) {
        let note = if name == "reordered" && number > 0 { distance.as_str() } else { "" };
        count_line(name, number, true, note, paint, out);
    }
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
    use crate::model::counts::Counts;
    use crate::report::sample::report;

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
