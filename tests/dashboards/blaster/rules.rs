//! The rules of a blaster that runs all the time: a probe.

#![allow(clippy::too_many_lines, reason = "lists")]

use super::percentile;
use crate::rules::{Alert, Record, Rules, record, urgent, warning};

/// Replies that no echo server sends.
const WRONG: &str = "corrupted|truncated|misdirected";

const UDP: &[(&str, &str)] = &[("protocol", "udp")];

pub fn rules() -> Rules {
    let alerts = replies().into_iter().chain(times()).collect();
    Rules { name: "blaster", records: records(), alerts }
}

fn records() -> Vec<Record> {
    let p99 = |family| percentile("0.99", family, "", "[5m]");
    vec![
        record(
            "instance_protocol:blaster_not_ok:ratio_rate5m",
            "sum by (job, instance, protocol) (rate(blaster_outcomes_total{outcome!=\"ok\"}[5m])) / \
             sum by (job, instance, protocol) (rate(blaster_outcomes_total[5m]))",
        ),
        record("instance_protocol:blaster_latency_seconds:p99_rate5m", p99("blaster_latency_seconds")),
        record("instance_protocol:blaster_send_slip_seconds:p99_rate5m", p99("blaster_send_slip_seconds")),
    ]
}

/// No reply comes, or a wrong one.
fn replies() -> Vec<Alert> {
    vec![
        urgent("ProbeDown", r#"up{job="blaster"} == 0"#)
            .lasts("2m")
            .says(
                "the probe {{ $labels.instance }} does not answer the scrape: nobody watches its destinations",
                "blaster",
            )
            .fires(("5m", &[("up", "1 1 0 0 0 0 0")]), &[], "")
            .stays_quiet(("5m", &[("up", "1 1 0 0 1 1 1")])),
        urgent("ProbeLoss", "instance_protocol:blaster_not_ok:ratio_rate5m > 0.01")
            .lasts("5m")
            .says(
                "{{ $value | humanizePercentage }} of the {{ $labels.protocol }} messages of {{ $labels.instance }} have no right reply in time",
                "no-reply-comes",
            )
            .fires(
                (
                    "20m",
                    &[
                        (r#"blaster_outcomes_total{protocol="udp",outcome="ok"}"#, "0+90x30"),
                        (r#"blaster_outcomes_total{protocol="udp",outcome="lost"}"#, "0+10x30"),
                    ],
                ),
                UDP,
                "10%",
            )
            .stays_quiet((
                "20m",
                &[
                    (r#"blaster_outcomes_total{protocol="udp",outcome="ok"}"#, "0+9990x30"),
                    (r#"blaster_outcomes_total{protocol="udp",outcome="lost"}"#, "0+10x30"),
                ],
            )),
        urgent(
            "ProbeSilentDestination",
            "max by (job, instance, protocol, destination, fault) (blaster_outage_seconds) > 60",
        )
        .lasts("1m")
        .says(
            "{{ $labels.destination }} has given {{ $labels.instance }} no right {{ $labels.protocol }} reply for {{ $value | humanizeDuration }} ({{ $labels.fault }})",
            "no-reply-comes",
        )
        .fires(
            (
                "5m",
                &[(
                    r#"blaster_outage_seconds{protocol="udp",destination="192.0.2.1:7",fault="silent"}"#,
                    "0+60x10",
                )],
            ),
            &[("protocol", "udp"), ("destination", "192.0.2.1:7"), ("fault", "silent")],
            "5m 0s",
        )
        .stays_quiet((
            "6m",
            &[(
                r#"blaster_outage_seconds{protocol="udp",destination="192.0.2.1:7",fault="silent"}"#,
                "0 30 60 0 30 60 0 30",
            )],
        )),
        urgent(
            "ProbeWrongReplies",
            format!(
                "sum by (job, instance, protocol) (increase(blaster_outcomes_total{{outcome=~\"{WRONG}\"}}[10m])) > 0"
            ),
        )
        .says(
            "{{ $labels.instance }} gets wrong {{ $labels.protocol }} replies: their bytes or their source are not those of the message",
            "its-warnings",
        )
        .fires(
            ("8m", &[(r#"blaster_outcomes_total{protocol="udp",outcome="corrupted"}"#, "0x5 1x5")]),
            UDP,
            "",
        )
        .stays_quiet(("8m", &[(r#"blaster_outcomes_total{protocol="udp",outcome="lost"}"#, "0x5 1x5")])),
    ]
}

/// Replies are late, or the probe is.
fn times() -> Vec<Alert> {
    vec![
        warning("ProbeSlow", "instance_protocol:blaster_latency_seconds:p99_rate5m > 0.25")
            .lasts("10m")
            .says(
                "1 of 100 {{ $labels.protocol }} replies to {{ $labels.instance }} takes more than {{ $value | humanizeDuration }}",
                "it-is-slow",
            )
            .fires(
                (
                    "25m",
                    &[
                        (r#"blaster_latency_seconds_bucket{protocol="udp",le="0.5"}"#, "0+0x30"),
                        (r#"blaster_latency_seconds_bucket{protocol="udp",le="1"}"#, "0+100x30"),
                        (r#"blaster_latency_seconds_bucket{protocol="udp",le="+Inf"}"#, "0+100x30"),
                    ],
                ),
                UDP,
                "995ms",
            )
            .stays_quiet((
                "25m",
                &[
                    (r#"blaster_latency_seconds_bucket{protocol="udp",le="0.125"}"#, "0+100x30"),
                    (r#"blaster_latency_seconds_bucket{protocol="udp",le="+Inf"}"#, "0+100x30"),
                ],
            )),
        warning("ProbeLate", "instance_protocol:blaster_send_slip_seconds:p99_rate5m > 0.01")
            .lasts("10m")
            .says("the probe {{ $labels.instance }} sends late: its latency is its own", "its-warnings")
            .fires(
                (
                    "25m",
                    &[
                        (r#"blaster_send_slip_seconds_bucket{protocol="udp",le="0.5"}"#, "0+0x30"),
                        (r#"blaster_send_slip_seconds_bucket{protocol="udp",le="+Inf"}"#, "0+100x30"),
                    ],
                ),
                UDP,
                "",
            )
            .stays_quiet((
                "25m",
                &[
                    (r#"blaster_send_slip_seconds_bucket{protocol="udp",le="0.001"}"#, "0+100x30"),
                    (r#"blaster_send_slip_seconds_bucket{protocol="udp",le="+Inf"}"#, "0+100x30"),
                ],
            )),
    ]
}
