//! The rules of the server.

#![allow(clippy::too_many_lines, reason = "lists")]

use super::{FAULTS, LIMITS, PROGRAM, RULES};
use crate::process::processors;
use crate::rules::{Alert, Record, Rules, record, urgent, warning};

pub fn rules() -> Rules {
    let alerts = is_it_there().into_iter().chain(traffic()).chain(counted()).collect();
    Rules { name: "tubular-echo", records: records(), alerts }
}

fn records() -> Vec<Record> {
    vec![
        record(
            "instance_domain_protocol:tubular_echo_received_bytes:rate5m",
            "sum by (job, instance, domain, protocol) (rate(tubular_echo_received_bytes_total[5m]))",
        ),
        record(
            "instance_domain_protocol:tubular_echo_sent_bytes:rate5m",
            "sum by (job, instance, domain, protocol) (rate(tubular_echo_sent_bytes_total[5m]))",
        ),
        record(
            "instance_domain:tubular_echo_received_datagrams:rate5m",
            r#"sum by (job, instance, domain) (rate(tubular_echo_received_datagrams_total{protocol="udp"}[5m]))"#,
        ),
        record(
            "instance_reason:tubular_echo_dropped_datagrams:rate5m",
            "sum by (job, instance, reason) (rate(tubular_echo_dropped_datagrams_total[5m]))",
        ),
        record(
            "instance:tubular_echo_answered_datagrams:ratio_rate5m",
            "sum by (job, instance) (rate(tubular_echo_sent_datagrams_total[5m])) / \
             sum by (job, instance) (rate(tubular_echo_received_datagrams_total[5m]))",
        ),
        record("instance:tubular_echo_processors:rate5m", processors("", "[5m]", PROGRAM)),
        record(
            "instance:tubular_echo_worker_utilisation:ratio_rate5m",
            "instance:tubular_echo_processors:rate5m / on (job, instance) \
             count by (job, instance) (tubular_echo_worker_turns_total)",
        ),
    ]
}

/// The server is not there, or does not work.
fn is_it_there() -> Vec<Alert> {
    vec![
        urgent("EchoDown", r#"up{job="tubular-echo"} == 0"#)
            .lasts("1m")
            .says("{{ $labels.instance }} does not answer the scrape", "a-server-is-down")
            .fires(("4m", &[("up", "1 1 0 0 0 0")]), &[], "")
            .stays_quiet(("4m", &[("up", "1 1 0 1 1 1")])),
        urgent("EchoWorkerStuck", "rate(tubular_echo_worker_turns_total[2m]) == 0")
            .lasts("1m")
            .says(
                "worker {{ $labels.worker }} of {{ $labels.instance }} stands still: its part of the flows is not served",
                "a-worker-stands-still",
            )
            .fires(
                (
                    "12m",
                    &[
                        (r#"tubular_echo_worker_turns_total{worker="0"}"#, "0+120x20"),
                        (r#"tubular_echo_worker_turns_total{worker="1"}"#, "0+120x5 600x15"),
                    ],
                ),
                &[("worker", "1")],
                "",
            )
            .stays_quiet(("12m", &[(r#"tubular_echo_worker_turns_total{worker="0"}"#, "0+120x20")])),
        warning(
            "EchoRestarts",
            "changes(process_start_time_seconds[15m]) > 2 and on (job, instance) tubular_echo_build_info",
        )
        .says("{{ $labels.instance }} started {{ $value }} times within 15 minutes", "it-ends-or-does-not")
        .fires(
            (
                "5m",
                &[
                    ("process_start_time_seconds", "1 2 3 4 4 4"),
                    (r#"tubular_echo_build_info{version="1"}"#, "1x5"),
                ],
            ),
            &[],
            "3",
        )
        .stays_quiet((
            "5m",
            &[
                ("process_start_time_seconds", "1 1 3 4 4 4"),
                (r#"process_start_time_seconds{job="other"}"#, "1 2 3 4 4 4"),
                (r#"tubular_echo_build_info{version="1"}"#, "1x5"),
            ],
        )),
    ]
}

/// Datagrams are not answered, or soon will not be.
fn traffic() -> Vec<Alert> {
    let dropped = |reasons: &str, rate: u32| {
        format!("instance_reason:tubular_echo_dropped_datagrams:rate5m{{reason=~\"{reasons}\"}} > {rate}")
    };
    vec![
        urgent("EchoCannotAnswer", dropped(FAULTS, 1))
            .lasts("5m")
            .says(
                "{{ $labels.instance }} can't answer {{ $value | humanize }} datagrams a second ({{ $labels.reason }})",
                "no-reply-comes",
            )
            .fires(
                (
                    "20m",
                    &[(r#"tubular_echo_dropped_datagrams_total{reason="send_bad_source"}"#, "0+120x30")],
                ),
                &[("reason", "send_bad_source")],
                "2",
            )
            .stays_quiet((
                "20m",
                &[
                    (r#"tubular_echo_dropped_datagrams_total{reason="send_bad_source"}"#, "0+30x30"),
                    (r#"tubular_echo_dropped_datagrams_total{reason="own_port"}"#, "0+6000x30"),
                ],
            )),
        warning("EchoRateLimited", dropped(LIMITS, 100))
            .lasts("10m")
            .says(
                "{{ $labels.instance }} refuses {{ $value | humanize }} datagrams a second by a limit ({{ $labels.reason }})",
                "no-reply-comes",
            )
            .fires(
                ("20m", &[(r#"tubular_echo_dropped_datagrams_total{reason="prefix_rate"}"#, "0+12000x30")]),
                &[("reason", "prefix_rate")],
                "200",
            )
            .stays_quiet((
                "20m",
                &[(r#"tubular_echo_dropped_datagrams_total{reason="prefix_rate"}"#, "0+3000x30")],
            )),
        warning("EchoForgedSources", dropped(RULES, 100))
            .lasts("10m")
            .says(
                "{{ $labels.instance }} refuses {{ $value | humanize }} datagrams a second by a rule ({{ $labels.reason }})",
                "no-reply-comes",
            )
            .fires(
                ("20m", &[(r#"tubular_echo_dropped_datagrams_total{reason="own_port"}"#, "0+12000x30")]),
                &[("reason", "own_port")],
                "200",
            )
            .stays_quiet((
                "20m",
                &[(r#"tubular_echo_dropped_datagrams_total{reason="own_port"}"#, "0+3000x30")],
            )),
        urgent(
            "EchoReceiveBufferFull",
            "sum by (job, instance) (rate(tubular_echo_receive_buffer_drops_total[5m])) > 1",
        )
        .lasts("5m")
        .says(
            "the kernel drops {{ $value | humanize }} datagrams a second at the receive buffers of {{ $labels.instance }}",
            "replies-are-lost-under-load",
        )
        .fires(("20m", &[("tubular_echo_receive_buffer_drops_total", "0+120x30")]), &[], "2")
        .stays_quiet(("20m", &[("tubular_echo_receive_buffer_drops_total", "0+30x30")])),
        warning("EchoWorkersBusy", "instance:tubular_echo_worker_utilisation:ratio_rate5m > 0.9")
            .lasts("15m")
            .says(
                "the workers of {{ $labels.instance }} use {{ $value | humanizePercentage }} of their processors",
                "replies-are-lost-under-load",
            )
            .fires(
                (
                    "30m",
                    &[
                        ("process_cpu_seconds_total", "0+114x40"),
                        (r#"tubular_echo_build_info{version="1"}"#, "1x40"),
                        (r#"tubular_echo_worker_turns_total{worker="0"}"#, "0+9x40"),
                        (r#"tubular_echo_worker_turns_total{worker="1"}"#, "0+9x40"),
                    ],
                ),
                &[],
                "95%",
            )
            .stays_quiet((
                "30m",
                &[
                    ("process_cpu_seconds_total", "0+60x40"),
                    (r#"tubular_echo_build_info{version="1"}"#, "1x40"),
                    (r#"tubular_echo_worker_turns_total{worker="0"}"#, "0+9x40"),
                    (r#"tubular_echo_worker_turns_total{worker="1"}"#, "0+9x40"),
                ],
            )),
        warning(
            "EchoConnectionsFull",
            "sum by (job, instance) (increase(tubular_echo_limit_reached_total[5m])) > 0",
        )
        .lasts("10m")
        .says(
            "new connections wait at {{ $labels.instance }}: --max-connections is reached again and again",
            "connections-wait-or-are-closed",
        )
        .fires(("20m", &[("tubular_echo_limit_reached_total", "0+1x30")]), &[], "")
        .stays_quiet(("12m", &[("tubular_echo_limit_reached_total", "0x5 3x25")])),
    ]
}

/// Faults of which one is enough.
fn counted() -> Vec<Alert> {
    vec![
        warning(
            "EchoAcceptFails",
            "sum by (job, instance) (increase(tubular_echo_accept_pauses_total[10m])) > 0",
        )
        .says(
            "{{ $labels.instance }} can't accept connections: open files or memory are short, or a filter forbids it",
            "connections-wait-or-are-closed",
        )
        .fires(("8m", &[("tubular_echo_accept_pauses_total", "0x5 1x5")]), &[], "")
        .stays_quiet(("8m", &[("tubular_echo_accept_pauses_total", "1x10")])),
        warning(
            "EchoReceiveFails",
            "sum by (job, instance) (increase(tubular_echo_receive_pauses_total[10m])) > 0",
        )
        .says(
            "{{ $labels.instance }} can't receive datagrams: memory is short, or a filter forbids it",
            "replies-are-lost-under-load",
        )
        .fires(("8m", &[("tubular_echo_receive_pauses_total", "0x5 1x5")]), &[], "")
        .stays_quiet(("8m", &[("tubular_echo_receive_pauses_total", "1x10")])),
        warning(
            "EchoUnheard",
            "increase(tubular_echo_log_lines_dropped_total[10m]) + \
             increase(tubular_echo_notifications_dropped_total[10m]) > 0",
        )
        .says(
            "nobody reads the log or the notifications of {{ $labels.instance }}",
            "it-ends-or-does-not",
        )
        .fires(
            (
                "8m",
                &[
                    ("tubular_echo_log_lines_dropped_total", "0x5 7x5"),
                    ("tubular_echo_notifications_dropped_total", "0x10"),
                ],
            ),
            &[],
            "",
        )
        .stays_quiet((
            "8m",
            &[
                ("tubular_echo_log_lines_dropped_total", "7x10"),
                ("tubular_echo_notifications_dropped_total", "0x10"),
            ],
        )),
        warning("EchoExposed", "sum by (job, instance) (increase(tubular_echo_exposed_total[1h])) > 0")
            .says(
                "{{ $labels.instance }} serves a public address without --public",
                "it-starts-but-warns",
            )
            .fires(("8m", &[("tubular_echo_exposed_total", "0x5 1x5")]), &[], "")
            .stays_quiet(("8m", &[("tubular_echo_exposed_total", "0x10")])),
        warning(
            "EchoLoop",
            "sum by (job, instance) \
             (increase(tubular_echo_dropped_datagrams_total{reason=\"hop_limit\"}[1h])) > 0",
        )
        .says(
            "a loop between {{ $labels.instance }} and another server on its port has run until its hops were used up",
            "no-reply-comes",
        )
        .fires(
            ("8m", &[(r#"tubular_echo_dropped_datagrams_total{reason="hop_limit"}"#, "0x5 1x5")]),
            &[],
            "",
        )
        .stays_quiet(("8m", &[(r#"tubular_echo_dropped_datagrams_total{reason="own_port"}"#, "0x5 1x5")])),
    ]
}
