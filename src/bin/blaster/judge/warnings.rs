//! What a reader must know before trusting a report: above all, whether blaster was the bottleneck.

use crate::model::local_limits::{LOCAL_PORTS_USED_UP, RECEIVE_BUFFER_BYTES};
use crate::model::units::{count, counted, duration};
use crate::report::schema::Report;

/// A thread with this share of a core may have been the bottleneck.
pub(crate) const BUSY: f64 = 0.95;
/// A thread that waited for a processor for this share of the time may have read replies too late.
pub(crate) const STARVED: f64 = 0.05;
/// If one datagram in a hundred leaves this late or later, the schedule was not kept.
pub(crate) const SLIP_P99_NS: u64 = 1_000_000;

/// All warnings that `report` needs, each one line.
pub(crate) fn warnings(report: &Report) -> Vec<String> {
    let mut found = Vec::new();
    if !report.totals.counts.is_balanced() {
        found.push(
            "the outcomes do not add up: this is a defect of blaster, trust none of its numbers".into(),
        );
    }
    found.extend(own_drops(report));
    processors(report, &mut found);
    schedule(report, &mut found);
    found.extend(forgotten(report));
    found.extend(local_errors(report));
    connections(report, &mut found);
    if report.ended_early {
        found.push("ended early by a signal: the report covers the time until then".into());
    }
    found
}

fn own_drops(report: &Report) -> Option<String> {
    let own_drops = report.totals.own_drops;
    if own_drops == 0 {
        return None;
    }
    // socket(7): the kernel doubles the size that was asked for
    let given = report.generator.receive_buffer_bytes.unwrap_or(0) / 2;
    let raise = if given < RECEIVE_BUFFER_BYTES as u64 {
        format!("raise net.core.rmem_max to {RECEIVE_BUFFER_BYTES}, or ")
    } else {
        String::new()
    };
    Some(format!(
        "blaster was the bottleneck: its own sockets dropped {}, and these count as lost (receive \
         buffers of {} bytes; {raise}use more --flows or --threads)",
        counted(own_drops, "datagram"),
        count(given),
    ))
}

/// The share of the busiest thread.
fn busiest(report: &Report) -> f64 {
    report.generator.cpu_share.iter().copied().fold(0.0, f64::max)
}

fn processors(report: &Report, found: &mut Vec<String>) {
    let busiest = busiest(report);
    if busiest >= BUSY {
        found.push(format!(
            "blaster may be the bottleneck: one of its threads used {:.0}% of a core; the server may carry more \
             (use more --threads, or other processors than the server's)",
            busiest * 100.0
        ));
    }
    let starved = report.generator.starved_share.iter().copied().fold(0.0, f64::max);
    if starved >= STARVED {
        found.push(format!(
            "blaster was the bottleneck: one of its threads waited {:.0}% of the time for a processor that others used; \
             latency includes that, and late replies may have come in time (give blaster processors of its own)",
            starved * 100.0
        ));
    }
}

fn schedule(report: &Report, found: &mut Vec<String>) {
    let generator = &report.generator;
    let elsewhere = if busiest(report) < BUSY / 2.0 {
        ", though it used little of its processors: something else keeps them busy"
    } else {
        ""
    };
    if generator.unsent > 0 {
        found.push(format!(
            "blaster was the bottleneck: it never sent {} of the schedule, {}/s is more than it can do here{elsewhere}",
            counted(generator.unsent, "datagram"),
            report.load.rate_per_s.map_or(String::new(), |rate| count(rate as u64)),
        ));
    }
    if let Some(slip) = generator.slip.as_ref().filter(|slip| slip.p99_ns >= SLIP_P99_NS) {
        found.push(format!(
            "blaster was the bottleneck: one datagram in a hundred left {} late or more; latency from the \
             intended send time includes that{elsewhere}",
            duration(slip.p99_ns)
        ));
    }
}

fn forgotten(report: &Report) -> Option<String> {
    let forgotten = report.generator.forgotten;
    (forgotten > 0).then(|| {
        format!(
            "blaster gave up {} before the timeout, to make room for newer ones: a reply after that is \
             unattributed (use more --flows or a shorter --timeout)",
            counted(forgotten, "datagram")
        )
    })
}

/// What the local kernel refused, or why connections failed and broke.
fn local_errors(report: &Report) -> Option<String> {
    if report.totals.counts.send_failures > 0 {
        return Some(format!("this host refused to send: {}", reasons(report)));
    }
    let connections = report.connections.filter(|it| it.failed + it.broken > 0)?;
    let reasons = if report.refusals.is_empty() { "the server closed them".into() } else { reasons(report) };
    Some(format!(
        "{} failed and {} broke: {reasons}",
        counted(connections.failed, "connection"),
        count(connections.broken)
    ))
}

/// The errors of the kernel and their numbers.
fn reasons(report: &Report) -> String {
    let reasons = report.refusals.iter();
    let reasons = reasons.map(|error| format!("{} × {}", count(error.count), error.message));
    reasons.collect::<Vec<_>>().join(", ")
}

fn connections(report: &Report, found: &mut Vec<String>) {
    let Some(connections) = report.connections else { return };
    if let Some(no_port) = report.refusals.iter().find(|error| error.errno == libc::EADDRNOTAVAIL) {
        found.push(format!(
            "blaster was the bottleneck: it had no local port for {}{LOCAL_PORTS_USED_UP}",
            counted(no_port.count, "connection")
        ));
    }
    if connections.stuck > 0 {
        found.push(format!("blaster ended {} that did not answer", counted(connections.stuck, "connection")));
    }
    let left = report.load.count.map_or(0, |wanted| wanted.saturating_sub(report.totals.counts.sent));
    if left > 0 && report.load.duration_ns.is_none() && !report.ended_early {
        found.push(format!("given up: blaster never sent {} of --count", counted(left, "message")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::counts::Counts;
    use crate::model::latency::Latency;
    use crate::report::sample::report;

    fn good() -> Report {
        report(Counts { sent: 10, ok: 10, ..Counts::default() })
    }

    #[test]
    fn a_good_run_warns_of_nothing() {
        assert_eq!(warnings(&good()), Vec::<String>::new());
    }

    #[test]
    fn each_defect_has_its_sentence() {
        type Spoil = fn(&mut Report);
        let cases: [(&str, Spoil); 8] = [
            ("do not add up", |report| report.totals.counts.lost += 1),
            ("its own sockets dropped", |report| report.totals.own_drops = 3),
            ("97% of a core", |report| report.generator.cpu_share = vec![0.1, 0.97]),
            ("30% of the time for a processor", |report| report.generator.starved_share = vec![0.0, 0.3]),
            ("never sent", |report| report.generator.unsent = 7),
            ("gave up 1 datagram before the timeout", |report| report.generator.forgotten = 1),
            ("refused to send", |report| report.totals.counts.send_failures = 1),
            ("ended early", |report| report.ended_early = true),
        ];
        for (words, spoil) in cases {
            let mut report = good();
            spoil(&mut report);
            let found = warnings(&report);
            assert!(found.len() == 1 && found[0].contains(words), "{words}: {found:?}");
        }
        for (bytes, can_be_raised) in [(425_984, true), (8 << 20, false)] {
            let mut report = good();
            report.totals.own_drops = 3;
            report.generator.receive_buffer_bytes = Some(bytes);
            assert_eq!(
                warnings(&report)[0].contains("raise net.core.rmem_max to 4194304"),
                can_be_raised,
                "{bytes}"
            );
        }
        let mut slip = Latency::new();
        slip.record(5_000_000);
        let mut report = good();
        report.generator.slip = slip.summary();
        assert!(warnings(&report)[0].contains("late or more"));
    }
}
