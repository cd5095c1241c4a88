//! The dashboard of a blaster that runs all the time: a probe.

use super::percentile;
use crate::grafana::{Dashboard, Panel, Query, Row, causes, fault, graph, number, query, rate};
use crate::process::{self, of_process, processors};

/// A family that only blaster has.
const PROGRAM: &str = "blaster_build_info";

pub fn dashboard() -> Dashboard {
    Dashboard {
        uid: "blaster",
        title: "blaster, a probe",
        description: "Echo paths as blaster sees them: docs/blaster.md, \"Metrics of a run\", explains each family.",
        listed_by: PROGRAM,
        by_label: None,
        rows: vec![
            Row { title: "Now", panels: now() },
            Row { title: "Loss", panels: loss() },
            Row { title: "Destinations", panels: destinations() },
            Row { title: "Latency", panels: latency() },
            Row { title: "The probe's process", panels: process() },
        ],
    }
}

/// The part of the messages without a right reply in time.
fn not_ok(by: &str) -> String {
    let missed = rate(by, r#"blaster_outcomes_total{@,outcome!="ok"}"#);
    format!("{missed} / {}", rate(by, "blaster_outcomes_total{@}"))
}

fn now() -> Vec<Panel> {
    vec![
        number("Probes", "That answer the scrape.", "short", query("", "count(blaster_build_info{@})")),
        number(
            "Not ok",
            "The part of the messages without a right reply in time.",
            "percentunit",
            query("", not_ok("")),
        ),
        number(
            "Latency p99",
            "From the time at which the message was meant to be sent.",
            "s",
            query(
                "",
                format!("histogram_quantile(0.99, {})", rate("le", "blaster_latency_seconds_bucket{@}")),
            ),
        ),
        number(
            "Silent destinations",
            "Destinations whose latest message had no reply.",
            "short",
            query("", r#"sum(blaster_destinations{@,fault="silent"})"#),
        ),
        number(
            "Longest outage",
            "The longest time that a destination is without a right reply.",
            "s",
            query("", "max(blaster_longest_outage_seconds{@})"),
        ),
    ]
}

fn loss() -> Vec<Panel> {
    let bits = |family: &str| format!("8 * {}", rate("", family));
    vec![
        graph(
            "Messages sent",
            "By probe.",
            "ops",
            [query("{{instance}}", rate("instance", "blaster_sent_messages_total{@}"))],
        ),
        graph(
            "Part that is not ok",
            "Without a right reply in time, by probe.",
            "percentunit",
            [query("{{instance}}", not_ok("instance"))],
        ),
        graph(
            "Outcomes",
            "Each message has one. corrupted, truncated, misdirected: the reply was wrong.",
            "ops",
            [causes("{{outcome}}", rate("outcome", "blaster_outcomes_total{@}"))],
        ),
        graph(
            "Odd replies",
            "Duplicates, replies out of order, another flow's bytes, and replies to nothing of ours.",
            "ops",
            [fault("{{kind}}", rate("kind", "blaster_odd_replies_total{@}"))],
        ),
        graph(
            "Payload",
            "Sent and received.",
            "bps",
            [
                query("sent", bits("blaster_sent_bytes_total{@}")),
                query("received", bits("blaster_received_bytes_total{@}")),
            ],
        ),
        graph(
            "Waiting, and refused here",
            "Messages without an outcome yet. refused: the probe's own kernel refused to send.",
            "short",
            [
                fault("{{instance}} waiting", "sum by (instance) (blaster_waiting_messages{@})"),
                fault("{{instance}} refused", rate("instance", "blaster_send_failures_total{@}")),
            ],
        ),
    ]
}

fn destinations() -> Vec<Panel> {
    vec![
        graph(
            "By the fault of the latest message",
            "none: it had a right reply in time.",
            "short",
            [causes("{{fault}}", "sum by (fault) (blaster_destinations{@})")],
        ),
        graph(
            "Without a right reply for",
            "The 20 destinations that are without for the longest time.",
            "s",
            [causes("{{destination}} {{fault}}", "max by (destination, fault) (blaster_outage_seconds{@})")],
        ),
        graph(
            "Rounds of --each-once",
            "Each round sends to every destination.",
            "ops",
            [fault("{{instance}}", rate("instance", "blaster_rounds_total{@}"))],
        ),
    ]
}

fn latency() -> Vec<Panel> {
    let of = |name, quantile, family| query(name, percentile(quantile, family, "{@}", "[@]"));
    let mean = |family: &str| -> Query {
        let [sum, count] = ["sum", "count"].map(|part| rate("", &format!("{family}_{part}{{@}}")));
        query("mean", format!("{sum} / {count}"))
    };
    vec![
        graph(
            "Latency",
            "From the time at which the message was meant to be sent. Buckets are powers of two.",
            "s",
            [
                of("p50", "0.5", "blaster_latency_seconds"),
                of("p99", "0.99", "blaster_latency_seconds"),
                mean("blaster_latency_seconds"),
            ],
        ),
        graph(
            "Delay of the probe itself",
            "How late blaster sent. If this is long, the latency beside it is the probe's.",
            "s",
            [of("p99", "0.99", "blaster_send_slip_seconds"), mean("blaster_send_slip_seconds")],
        ),
    ]
}

fn process() -> Vec<Panel> {
    vec![
        graph(
            "Processors in use",
            "By probe.",
            "short",
            [query("{{instance}}", processors("{@}", "[@]", PROGRAM))],
        ),
        process::memory(PROGRAM),
        graph(
            "Threads and open files",
            "Both stay as they are while a run lasts.",
            "short",
            [
                query("{{instance}} threads", of_process("process_threads", PROGRAM)),
                query("{{instance}} files", of_process("process_open_fds", PROGRAM)),
            ],
        ),
        process::running_for(PROGRAM, "Since the process started."),
    ]
}
