//! `--metrics`: a run as Prometheus's metrics: names, labels, text. docs/blaster.md has a table of them.
//!
//! The number of series is bounded: of the destinations without a right reply, only the 20 are named that had none for the
//! longest time.

use tubular_echo::exposition::families::{Durations, Families};

use crate::model::counts::Fault;
use crate::workers::live::DurationTotals;
use crate::workers::observed::{Observed, ObservedTotals};

/// All metrics of a run, or of the runs of a call so far. The process started at `start_s` (seconds since 1970).
pub(crate) fn text(observed: &Observed, start_s: f64) -> String {
    let mut families = Families::default();
    let protocol = ("protocol", observed.protocol);
    let own = &[protocol][..];
    add_counts(&mut families, &observed.totals, protocol);
    families.gauge(
        "blaster_waiting_messages",
        "Messages without a reply that are not given up yet (--linger).",
        own,
        observed.waiting as f64,
    );
    families.histogram(
        "blaster_latency_seconds",
        "Latency of right replies in time, from the intended send time.",
        own,
        &durations(&observed.totals.round_trips),
    );
    families.histogram(
        "blaster_send_slip_seconds",
        "Delay of blaster's sends behind the schedule; open loop only.",
        own,
        &durations(&observed.totals.slip),
    );
    let outages = &observed.outages;
    let help = "Destinations by the fault of the latest message to them; none: it had a right reply in time.";
    let faults = Fault::ALL.iter().map(|fault| fault.name()).zip(outages.counts.by_fault);
    // one message has all or no answer
    let faults = faults.filter(|(fault, _)| *fault != Fault::Lossy.name());
    for (fault, number) in faults.chain([("none", outages.counts.right)]) {
        families.gauge("blaster_destinations", help, &[protocol, ("fault", fault)], number as f64);
    }
    families.gauge(
        "blaster_longest_outage_seconds",
        "The longest time that a destination is without a right reply; 0: each had one.",
        own,
        outages.longest_ns() as f64 / 1e9,
    );
    for outage in &outages.longest {
        families.gauge(
            "blaster_outage_seconds",
            "The time that a destination is without a right reply; the 20 longest.",
            &[protocol, ("destination", &outage.destination.to_string()), ("fault", outage.fault.name())],
            outage.lasts_ns as f64 / 1e9,
        );
    }
    families.counter(
        "blaster_rounds_total",
        "Rounds of --each-once that are done.",
        own,
        observed.rounds as f64,
    );
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    families.gauge("blaster_build_info", "What is running; always 1.", &version, 1.0);
    families.process(start_s, None);
    families.text()
}

fn add_counts(families: &mut Families, totals: &ObservedTotals, protocol: (&str, &str)) {
    let counts = &totals.counts;
    let own = &[protocol][..];
    families.counter(
        "blaster_sent_messages_total",
        "Datagrams (TCP: messages) handed to the kernel.",
        own,
        counts.sent as f64,
    );
    let help = "Messages by their outcome: each has one when its reply came or was given up (--linger).";
    for (class, number) in counts.classes() {
        let labels = [protocol, ("outcome", class.name())];
        families.counter("blaster_outcomes_total", help, &labels, number as f64);
    }
    let help = "Replies that are no first answer, and first answers that came out of order, by kind.";
    for (kind, number) in counts.beside().filter(|(kind, _)| *kind != "send_failures") {
        families.counter("blaster_odd_replies_total", help, &[protocol, ("kind", kind)], number as f64);
    }
    for (name, help, number) in [
        ("send_failures", "Sends that the local kernel refused.", counts.send_failures),
        ("sent_bytes", "Payload handed to the kernel.", counts.bytes_sent),
        ("received_bytes", "Payload received, of any datagram.", counts.bytes_received),
    ] {
        families.counter(&format!("blaster_{name}_total"), help, own, number as f64);
    }
}

fn durations(totals: &DurationTotals) -> Durations {
    Durations {
        up_to: totals.up_to().map(|(ns, count)| (ns as f64 / 1e9, count)).collect(),
        count: totals.count(),
        sum_s: totals.sum_ns() as f64 / 1e9,
    }
}
