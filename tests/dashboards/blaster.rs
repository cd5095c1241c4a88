//! The dashboard and the rules of a blaster that runs all the time: a probe.

#![allow(clippy::too_many_lines, reason = "lists")]

use super::grafana::{Dashboard, Row, causes, fault, graph, number, query};
use super::rules::{Alert, Case, Record, Rules};

/// Replies that no echo server sends.
macro_rules! wrong {
    () => {
        "corrupted|truncated|misdirected"
    };
}

/// A quantile of a histogram by instance.
macro_rules! quantile {
    ($quantile:literal, $family:literal, $matchers:literal, $range:literal) => {
        concat!(
            "histogram_quantile(",
            $quantile,
            ", sum by (job, instance, protocol, le) (rate(",
            $family,
            "_bucket",
            $matchers,
            $range,
            ")))"
        )
    };
}

pub fn dashboard() -> Dashboard {
    Dashboard {
        uid: "blaster",
        title: "blaster, a probe",
        description: "Echo paths as blaster sees them: docs/blaster.md, \"Metrics of a run\", explains each family.",
        listed_by: "blaster_build_info",
        by_label: None,
        rows: vec![
            Row {
                title: "Now",
                panels: vec![
                    number(
                        "Probes",
                        "That answer the scrape.",
                        "short",
                        query("", "count(blaster_build_info{@})"),
                    ),
                    number(
                        "Not ok",
                        "The part of the messages without a right reply in time.",
                        "percentunit",
                        query(
                            "",
                            r#"sum(rate(blaster_outcomes_total{@,outcome!="ok"}[@])) / sum(rate(blaster_outcomes_total{@}[@]))"#,
                        ),
                    ),
                    number(
                        "Latency p99",
                        "From the time at which the message was meant to be sent.",
                        "s",
                        query(
                            "",
                            "histogram_quantile(0.99, sum by (le) (rate(blaster_latency_seconds_bucket{@}[@])))",
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
                ],
            },
            Row {
                title: "Loss",
                panels: vec![
                    graph(
                        "Messages sent",
                        "By probe.",
                        "ops",
                        [query(
                            "{{instance}}",
                            "sum by (instance) (rate(blaster_sent_messages_total{@}[@]))",
                        )],
                    ),
                    graph(
                        "Part that is not ok",
                        "Without a right reply in time, by probe.",
                        "percentunit",
                        [query(
                            "{{instance}}",
                            r#"sum by (instance) (rate(blaster_outcomes_total{@,outcome!="ok"}[@])) / sum by (instance) (rate(blaster_outcomes_total{@}[@]))"#,
                        )],
                    ),
                    graph(
                        "Outcomes",
                        "Each message has one. corrupted, truncated, misdirected: the reply was wrong.",
                        "ops",
                        [causes("{{outcome}}", "sum by (outcome) (rate(blaster_outcomes_total{@}[@]))")],
                    ),
                    graph(
                        "Odd replies",
                        "Duplicates, replies out of order, another flow's bytes, and replies to nothing of ours.",
                        "ops",
                        [fault("{{kind}}", "sum by (kind) (rate(blaster_odd_replies_total{@}[@]))")],
                    ),
                    graph(
                        "Payload",
                        "Sent and received.",
                        "bps",
                        [
                            query("sent", "8 * sum(rate(blaster_sent_bytes_total{@}[@]))"),
                            query("received", "8 * sum(rate(blaster_received_bytes_total{@}[@]))"),
                        ],
                    ),
                    graph(
                        "Waiting, and refused here",
                        "Messages without an outcome yet. refused: the probe's own kernel refused to send.",
                        "short",
                        [
                            fault("{{instance}} waiting", "sum by (instance) (blaster_waiting_messages{@})"),
                            fault(
                                "{{instance}} refused",
                                "sum by (instance) (rate(blaster_send_failures_total{@}[@]))",
                            ),
                        ],
                    ),
                ],
            },
            Row {
                title: "Destinations",
                panels: vec![
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
                        [causes(
                            "{{destination}} {{fault}}",
                            "max by (destination, fault) (blaster_outage_seconds{@})",
                        )],
                    ),
                    graph(
                        "Rounds of --each-once",
                        "Each round sends to every destination.",
                        "ops",
                        [fault("{{instance}}", "sum by (instance) (rate(blaster_rounds_total{@}[@]))")],
                    ),
                ],
            },
            Row {
                title: "Latency",
                panels: vec![
                    graph(
                        "Latency",
                        "From the time at which the message was meant to be sent. Buckets are powers of two.",
                        "s",
                        [
                            query("p50", quantile!("0.5", "blaster_latency_seconds", "{@}", "[@]")),
                            query("p99", quantile!("0.99", "blaster_latency_seconds", "{@}", "[@]")),
                            query(
                                "mean",
                                "sum(rate(blaster_latency_seconds_sum{@}[@])) / sum(rate(blaster_latency_seconds_count{@}[@]))",
                            ),
                        ],
                    ),
                    graph(
                        "Delay of the probe itself",
                        "How late blaster sent. If this is long, the latency beside it is the probe's.",
                        "s",
                        [
                            query("p99", quantile!("0.99", "blaster_send_slip_seconds", "{@}", "[@]")),
                            query(
                                "mean",
                                "sum(rate(blaster_send_slip_seconds_sum{@}[@])) / sum(rate(blaster_send_slip_seconds_count{@}[@]))",
                            ),
                        ],
                    ),
                ],
            },
            Row {
                title: "The probe's process",
                panels: vec![
                    graph(
                        "Processors in use",
                        "By probe.",
                        "short",
                        [query(
                            "{{instance}}",
                            "rate(process_cpu_seconds_total{@}[@]) and on (job, instance) blaster_build_info",
                        )],
                    ),
                    graph(
                        "Memory",
                        "resident: in RAM. mapped: mostly never touched.",
                        "bytes",
                        [
                            query(
                                "{{instance}} resident",
                                "process_resident_memory_bytes{@} and on (job, instance) blaster_build_info",
                            ),
                            query(
                                "{{instance}} mapped",
                                "process_virtual_memory_bytes{@} and on (job, instance) blaster_build_info",
                            ),
                        ],
                    ),
                    graph(
                        "Threads and open files",
                        "Both stay as they are while a run lasts.",
                        "short",
                        [
                            query(
                                "{{instance}} threads",
                                "process_threads{@} and on (job, instance) blaster_build_info",
                            ),
                            query(
                                "{{instance}} files",
                                "process_open_fds{@} and on (job, instance) blaster_build_info",
                            ),
                        ],
                    ),
                    graph(
                        "Running for",
                        "Since the process started.",
                        "s",
                        [query(
                            "{{instance}}",
                            "time() - (process_start_time_seconds{@} and on (job, instance) blaster_build_info)",
                        )],
                    ),
                ],
            },
        ],
    }
}

const WHERE: &[(&str, &str)] = &[("job", "blaster"), ("instance", "a"), ("protocol", "udp")];

pub fn rules() -> Rules {
    Rules {
        name: "blaster",
        records: vec![
            Record {
                name: "instance_protocol:blaster_not_ok:ratio_rate5m",
                query: "sum by (job, instance, protocol) (rate(blaster_outcomes_total{outcome!=\"ok\"}[5m])) / \
                        sum by (job, instance, protocol) (rate(blaster_outcomes_total[5m]))",
                moves: true,
            },
            Record {
                name: "instance_protocol:blaster_latency_seconds:p99_rate5m",
                query: quantile!("0.99", "blaster_latency_seconds", "", "[5m]"),
                moves: true,
            },
            Record {
                name: "instance_protocol:blaster_send_slip_seconds:p99_rate5m",
                query: quantile!("0.99", "blaster_send_slip_seconds", "", "[5m]"),
                moves: true,
            },
        ],
        alerts: vec![
            Alert {
                name: "ProbeDown",
                is_urgent: true,
                query: r#"up{job="blaster"} == 0"#.into(),
                wait: "2m",
                summary: "the probe {{ $labels.instance }} does not answer the scrape: nobody watches its destinations",
                runbook: "blaster",
                fires: Case(&[(r#"up{job="blaster",instance="a"}"#, "1 1 0 0 0 0 0")], "5m"),
                told: (
                    &[("job", "blaster"), ("instance", "a")],
                    "the probe a does not answer the scrape: nobody watches its destinations",
                ),
                quiet: Case(&[(r#"up{job="blaster",instance="a"}"#, "1 1 0 0 1 1 1")], "5m"),
            },
            Alert {
                name: "ProbeLoss",
                is_urgent: true,
                query: "instance_protocol:blaster_not_ok:ratio_rate5m > 0.01".into(),
                wait: "5m",
                summary: "{{ $value | humanizePercentage }} of the {{ $labels.protocol }} messages of {{ $labels.instance }} have no right reply in time",
                runbook: "no-reply-comes",
                fires: Case(
                    &[
                        (
                            r#"blaster_outcomes_total{job="blaster",instance="a",protocol="udp",outcome="ok"}"#,
                            "0+90x30",
                        ),
                        (
                            r#"blaster_outcomes_total{job="blaster",instance="a",protocol="udp",outcome="lost"}"#,
                            "0+10x30",
                        ),
                    ],
                    "20m",
                ),
                told: (WHERE, "10% of the udp messages of a have no right reply in time"),
                quiet: Case(
                    &[
                        (
                            r#"blaster_outcomes_total{job="blaster",instance="a",protocol="udp",outcome="ok"}"#,
                            "0+9990x30",
                        ),
                        (
                            r#"blaster_outcomes_total{job="blaster",instance="a",protocol="udp",outcome="lost"}"#,
                            "0+10x30",
                        ),
                    ],
                    "20m",
                ),
            },
            Alert {
                name: "ProbeSilentDestination",
                is_urgent: true,
                query: "max by (job, instance, protocol, destination, fault) (blaster_outage_seconds) > 60"
                    .into(),
                wait: "1m",
                summary: "{{ $labels.destination }} has given {{ $labels.instance }} no right {{ $labels.protocol }} reply for {{ $value | humanizeDuration }} ({{ $labels.fault }})",
                runbook: "no-reply-comes",
                fires: Case(
                    &[(
                        r#"blaster_outage_seconds{job="blaster",instance="a",protocol="udp",destination="192.0.2.1:7",fault="silent"}"#,
                        "0+60x10",
                    )],
                    "5m",
                ),
                told: (
                    &[
                        ("job", "blaster"),
                        ("instance", "a"),
                        ("protocol", "udp"),
                        ("destination", "192.0.2.1:7"),
                        ("fault", "silent"),
                    ],
                    "192.0.2.1:7 has given a no right udp reply for 5m 0s (silent)",
                ),
                quiet: Case(
                    &[(
                        r#"blaster_outage_seconds{job="blaster",instance="a",protocol="udp",destination="192.0.2.1:7",fault="silent"}"#,
                        "0 30 60 0 30 60 0 30",
                    )],
                    "6m",
                ),
            },
            Alert {
                name: "ProbeWrongReplies",
                is_urgent: true,
                query: format!(
                    "sum by (job, instance, protocol) (increase(blaster_outcomes_total{{outcome=~\"{}\"}}[10m])) > 0",
                    wrong!()
                ),
                wait: "0m",
                summary: "{{ $labels.instance }} gets wrong {{ $labels.protocol }} replies: their bytes or their source are not those of the message",
                runbook: "its-warnings",
                fires: Case(
                    &[(
                        r#"blaster_outcomes_total{job="blaster",instance="a",protocol="udp",outcome="corrupted"}"#,
                        "0x5 1x5",
                    )],
                    "8m",
                ),
                told: (
                    WHERE,
                    "a gets wrong udp replies: their bytes or their source are not those of the message",
                ),
                quiet: Case(
                    &[(
                        r#"blaster_outcomes_total{job="blaster",instance="a",protocol="udp",outcome="lost"}"#,
                        "0x5 1x5",
                    )],
                    "8m",
                ),
            },
            Alert {
                name: "ProbeSlow",
                is_urgent: false,
                query: "instance_protocol:blaster_latency_seconds:p99_rate5m > 0.25".into(),
                wait: "10m",
                summary: "1 of 100 {{ $labels.protocol }} replies to {{ $labels.instance }} takes more than {{ $value | humanizeDuration }}",
                runbook: "it-is-slow",
                fires: Case(
                    &[
                        (
                            r#"blaster_latency_seconds_bucket{job="blaster",instance="a",protocol="udp",le="0.5"}"#,
                            "0+0x30",
                        ),
                        (
                            r#"blaster_latency_seconds_bucket{job="blaster",instance="a",protocol="udp",le="1"}"#,
                            "0+100x30",
                        ),
                        (
                            r#"blaster_latency_seconds_bucket{job="blaster",instance="a",protocol="udp",le="+Inf"}"#,
                            "0+100x30",
                        ),
                    ],
                    "25m",
                ),
                told: (WHERE, "1 of 100 udp replies to a takes more than 995ms"),
                quiet: Case(
                    &[
                        (
                            r#"blaster_latency_seconds_bucket{job="blaster",instance="a",protocol="udp",le="0.125"}"#,
                            "0+100x30",
                        ),
                        (
                            r#"blaster_latency_seconds_bucket{job="blaster",instance="a",protocol="udp",le="+Inf"}"#,
                            "0+100x30",
                        ),
                    ],
                    "25m",
                ),
            },
            Alert {
                name: "ProbeLate",
                is_urgent: false,
                query: "instance_protocol:blaster_send_slip_seconds:p99_rate5m > 0.01".into(),
                wait: "10m",
                summary: "the probe {{ $labels.instance }} sends late: its latency is its own",
                runbook: "its-warnings",
                fires: Case(
                    &[
                        (
                            r#"blaster_send_slip_seconds_bucket{job="blaster",instance="a",protocol="udp",le="0.5"}"#,
                            "0+0x30",
                        ),
                        (
                            r#"blaster_send_slip_seconds_bucket{job="blaster",instance="a",protocol="udp",le="+Inf"}"#,
                            "0+100x30",
                        ),
                    ],
                    "25m",
                ),
                told: (WHERE, "the probe a sends late: its latency is its own"),
                quiet: Case(
                    &[
                        (
                            r#"blaster_send_slip_seconds_bucket{job="blaster",instance="a",protocol="udp",le="0.001"}"#,
                            "0+100x30",
                        ),
                        (
                            r#"blaster_send_slip_seconds_bucket{job="blaster",instance="a",protocol="udp",le="+Inf"}"#,
                            "0+100x30",
                        ),
                    ],
                    "25m",
                ),
            },
        ],
    }
}
