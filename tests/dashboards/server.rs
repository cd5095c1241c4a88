//! The dashboard and the rules of the server.

#![allow(clippy::too_many_lines, reason = "lists")]

use super::grafana::{Dashboard, Row, causes, fault, graph, number, query};
use super::rules::{Alert, Case, Record, Rules};

/// Reasons of dropped datagrams: rules that the datagram breaks.
macro_rules! rules {
    () => {
        "system_port|bad_source|bad_destination|own_pair|own_port|hop_limit|reflector_port"
    };
}
/// Limits that it exceeds.
macro_rules! limits {
    () => {
        "prefix_rate|reply_rate|reply_sockets_limited"
    };
}
/// Faults of the host, its configuration or its network.
macro_rules! faults {
    () => {
        "truncated|unaddressed|reply_port_privileged|reply_port_taken|reply_port_excepted|\
         reply_address_missing|reply_socket_forbidden|reply_socket_no_files|reply_socket_no_memory|\
         reply_socket_errors|send_unreachable|send_forbidden|send_bad_source|send_errors"
    };
}

/// All reasons of dropped datagrams, in three groups.
pub const REASONS: [&str; 3] = [rules!(), limits!(), faults!()];

/// Processors in use, of this server alone: every process exports the family.
macro_rules! processors {
    ($($matchers:literal)?, $range:literal) => {
        concat!(
            "rate(process_cpu_seconds_total", $($matchers,)? $range,
            ") and on (job, instance) tubular_echo_build_info"
        )
    };
}

pub fn dashboard() -> Dashboard {
    Dashboard {
        uid: "tubular-echo",
        title: "tubular-echo",
        description: "The server: docs/metrics.md explains each family, docs/troubleshooting.md each fault.",
        listed_by: "tubular_echo_build_info",
        by_label: Some(("label", "tubular_echo_received_bytes_total")),
        rows: vec![
            Row {
                title: "Now",
                panels: vec![
                    number(
                        "Servers",
                        "Instances that answer the scrape.",
                        "short",
                        query("", "count(tubular_echo_build_info{@})"),
                    ),
                    number(
                        "Datagrams",
                        "Received per second.",
                        "pps",
                        query(
                            "",
                            r#"sum(rate(tubular_echo_received_datagrams_total{@,label=~"$label"}[@]))"#,
                        ),
                    ),
                    number(
                        "Answered",
                        "The part of the received datagrams that was sent back.",
                        "percentunit",
                        query(
                            "",
                            r#"sum(rate(tubular_echo_sent_datagrams_total{@,label=~"$label"}[@])) / sum(rate(tubular_echo_received_datagrams_total{@,label=~"$label"}[@]))"#,
                        ),
                    ),
                    number(
                        "Connections",
                        "Open now.",
                        "short",
                        query("", r#"sum(tubular_echo_open_connections{@,protocol="tcp",label=~"$label"})"#),
                    ),
                    number(
                        "Sent",
                        "Payload, both protocols.",
                        "bps",
                        query("", r#"8 * sum(rate(tubular_echo_sent_bytes_total{@,label=~"$label"}[@]))"#),
                    ),
                    number(
                        "Processors",
                        "In use.",
                        "short",
                        query("", concat!("sum(", processors!("{@}", "[@]"), ")")),
                    ),
                ],
            },
            Row {
                title: "Traffic",
                panels: vec![
                    graph(
                        "Datagrams received",
                        "By family of addresses. Each datagram of a train counts.",
                        "pps",
                        [query(
                            "{{domain}}",
                            r#"sum by (domain) (rate(tubular_echo_received_datagrams_total{@,protocol="udp",label=~"$label"}[@]))"#,
                        )],
                    ),
                    graph(
                        "Payload received",
                        "By family and protocol.",
                        "bps",
                        [query(
                            "{{domain}} {{protocol}}",
                            r#"8 * sum by (domain, protocol) (rate(tubular_echo_received_bytes_total{@,label=~"$label"}[@]))"#,
                        )],
                    ),
                    graph(
                        "Payload sent",
                        "By family and protocol. spliced: the part of TCP that was moved without a copy (messages from 16 KiB on).",
                        "bps",
                        [
                            query(
                                "{{domain}} {{protocol}}",
                                r#"8 * sum by (domain, protocol) (rate(tubular_echo_sent_bytes_total{@,label=~"$label"}[@]))"#,
                            ),
                            fault(
                                "{{domain}} spliced",
                                r#"8 * sum by (domain) (rate(tubular_echo_spliced_bytes_total{@,protocol="tcp",label=~"$label"}[@]))"#,
                            ),
                        ],
                    ),
                    graph(
                        "Part of the datagrams that was answered",
                        "By family. 1 is all. The next row says why others were not.",
                        "percentunit",
                        [query(
                            "{{domain}}",
                            r#"sum by (domain) (rate(tubular_echo_sent_datagrams_total{@,protocol="udp",label=~"$label"}[@])) / sum by (domain) (rate(tubular_echo_received_datagrams_total{@,protocol="udp",label=~"$label"}[@]))"#,
                        )],
                    ),
                    graph(
                        "Trains",
                        "Datagrams that arrive in one piece (GRO) and leave in one piece (GSO). refused: the path did not take a train, its datagrams were sent singly.",
                        "ops",
                        [
                            query(
                                "received",
                                r#"sum(rate(tubular_echo_received_trains_total{@,protocol="udp",label=~"$label"}[@]))"#,
                            ),
                            query(
                                "sent",
                                r#"sum(rate(tubular_echo_sent_trains_total{@,protocol="udp",label=~"$label"}[@]))"#,
                            ),
                            fault(
                                "refused",
                                r#"sum(rate(tubular_echo_trains_refused_total{@,protocol="udp",label=~"$label"}[@]))"#,
                            ),
                        ],
                    ),
                    graph(
                        "Reply sockets made",
                        "Sockets to answer from another port than the bound one: all ports of a prefix are steered.",
                        "ops",
                        [fault(
                            "{{domain}}",
                            r#"sum by (domain) (rate(tubular_echo_reply_sockets_made_total{@,protocol="udp",label=~"$label"}[@]))"#,
                        )],
                    ),
                ],
            },
            Row {
                title: "Datagrams that were not answered",
                panels: vec![
                    graph(
                        "Refused, by rule",
                        "The datagram could start a loop, or its source is impossible. Forged datagrams look like this.",
                        "pps",
                        [causes(
                            "{{reason}}",
                            concat!(
                                r#"sum by (reason) (rate(tubular_echo_dropped_datagrams_total{@,label=~"$label",reason=~""#,
                                rules!(),
                                r#""}[@]))"#
                            ),
                        )],
                    ),
                    graph(
                        "Refused, by limit",
                        "More than --udp-prefix-rate, --udp-reply-rate or --reply-socket-rate allows.",
                        "pps",
                        [causes(
                            "{{reason}}",
                            concat!(
                                r#"sum by (reason) (rate(tubular_echo_dropped_datagrams_total{@,label=~"$label",reason=~""#,
                                limits!(),
                                r#""}[@]))"#
                            ),
                        )],
                    ),
                    graph(
                        "Dropped, by fault",
                        "A route, an address, a filter, a capability or memory is missing: the server's log has the cure.",
                        "pps",
                        [fault(
                            "{{reason}}",
                            concat!(
                                r#"sum by (reason) (rate(tubular_echo_dropped_datagrams_total{@,label=~"$label",reason=~""#,
                                faults!(),
                                r#""}[@]))"#
                            ),
                        )],
                    ),
                    graph(
                        "Dropped by the kernel",
                        "A receive buffer was full: too few workers, or too little memory for bursts. A train may count as one.",
                        "pps",
                        [fault(
                            "{{instance}} {{domain}}",
                            r#"sum by (instance, domain) (rate(tubular_echo_receive_buffer_drops_total{@,protocol="udp",label=~"$label"}[@]))"#,
                        )],
                    ),
                    graph(
                        "Waits",
                        "Nothing is lost by these: data waits in the socket until buffers are free, replies wait until the network takes them.",
                        "ops",
                        [
                            fault(
                                "receive buffers in use, {{protocol}}",
                                r#"sum by (protocol) (rate(tubular_echo_receive_buffers_exhausted_total{@,label=~"$label"}[@]))"#,
                            ),
                            fault(
                                "send buffer full",
                                r#"sum(rate(tubular_echo_send_waits_total{@,protocol="udp",label=~"$label"}[@]))"#,
                            ),
                        ],
                    ),
                    graph(
                        "Receives that failed",
                        "A security module forbids them, or memory is short. exposed: datagrams to a public address without --public.",
                        "ops",
                        [
                            fault(
                                "failed",
                                r#"sum(rate(tubular_echo_receive_errors_total{@,protocol="udp",label=~"$label"}[@]))"#,
                            ),
                            fault(
                                "paused",
                                r#"sum(rate(tubular_echo_receive_pauses_total{@,protocol="udp",label=~"$label"}[@]))"#,
                            ),
                            fault(
                                "exposed",
                                r#"sum(rate(tubular_echo_exposed_total{@,protocol="udp",label=~"$label"}[@]))"#,
                            ),
                        ],
                    ),
                ],
            },
            Row {
                title: "Connections",
                panels: vec![
                    graph(
                        "Open",
                        "By family.",
                        "short",
                        [query(
                            "{{domain}}",
                            r#"sum by (domain) (tubular_echo_open_connections{@,protocol="tcp",label=~"$label"})"#,
                        )],
                    ),
                    graph(
                        "Accepted",
                        "By family.",
                        "cps",
                        [query(
                            "{{domain}}",
                            r#"sum by (domain) (rate(tubular_echo_accepted_connections_total{@,protocol="tcp",label=~"$label"}[@]))"#,
                        )],
                    ),
                    graph(
                        "Closed, by cause",
                        "finished is the normal end.",
                        "cps",
                        [causes(
                            "{{reason}}",
                            r#"sum by (reason) (rate(tubular_echo_closed_connections_total{@,protocol="tcp",label=~"$label"}[@]))"#,
                        )],
                    ),
                    graph(
                        "Peers that read slowly",
                        "Echoes copied to spill memory, and connections closed since that memory was used up.",
                        "ops",
                        [
                            fault(
                                "copied",
                                r#"sum(rate(tubular_echo_stalls_total{@,protocol="tcp",label=~"$label"}[@]))"#,
                            ),
                            fault(
                                "closed",
                                r#"sum(rate(tubular_echo_closed_connections_total{@,protocol="tcp",label=~"$label",reason="stalled"}[@]))"#,
                            ),
                        ],
                    ),
                    graph(
                        "Accepting stopped",
                        "full: --max-connections is reached. failed, paused: open files or memory are short, or a security module forbids it.",
                        "ops",
                        [
                            fault(
                                "full",
                                r#"sum(rate(tubular_echo_limit_reached_total{@,protocol="tcp",label=~"$label"}[@]))"#,
                            ),
                            fault(
                                "failed",
                                r#"sum(rate(tubular_echo_accept_errors_total{@,protocol="tcp",label=~"$label"}[@]))"#,
                            ),
                            fault(
                                "paused",
                                r#"sum(rate(tubular_echo_accept_pauses_total{@,protocol="tcp",label=~"$label"}[@]))"#,
                            ),
                        ],
                    ),
                    graph(
                        "No open file for splice",
                        "Connections whose large messages were copied. Nothing is lost.",
                        "ops",
                        [fault(
                            "{{instance}}",
                            r#"sum by (instance) (rate(tubular_echo_descriptors_exhausted_total{@,protocol="tcp",label=~"$label"}[@]))"#,
                        )],
                    ),
                ],
            },
            Row {
                title: "Workers and process",
                panels: vec![
                    graph(
                        "Turns by worker",
                        "An idle worker turns twice a second. Uneven lines under load: few flows, or a NIC with few queues.",
                        "ops",
                        [query(
                            "{{instance}} {{worker}}",
                            "sum by (instance, worker) (rate(tubular_echo_worker_turns_total{@}[@]))",
                        )],
                    ),
                    graph(
                        "Processors in use",
                        "As many as workers means that you need more workers or hosts.",
                        "short",
                        [
                            query(
                                "{{instance}}",
                                concat!("sum by (instance) (", processors!("{@}", "[@]"), ")"),
                            ),
                            query(
                                "{{instance}} workers",
                                "count by (instance) (tubular_echo_worker_turns_total{@})",
                            ),
                        ],
                    ),
                    graph(
                        "Processor time per datagram",
                        "True where there is little TCP.",
                        "s",
                        [query(
                            "{{instance}}",
                            concat!(
                                "sum by (instance) (",
                                processors!("{@}", "[@]"),
                                ") / sum by (instance) (rate(tubular_echo_received_datagrams_total{@}[@]))"
                            ),
                        )],
                    ),
                    graph(
                        "Processor time per gigabyte sent",
                        "Both protocols. Small messages cost more.",
                        "s",
                        [query(
                            "{{instance}}",
                            concat!(
                                "1e9 * sum by (instance) (",
                                processors!("{@}", "[@]"),
                                ") / sum by (instance) (rate(tubular_echo_sent_bytes_total{@}[@]))"
                            ),
                        )],
                    ),
                    graph(
                        "Memory",
                        "resident: in RAM. mapped: mostly never touched.",
                        "bytes",
                        [
                            query(
                                "{{instance}} resident",
                                "process_resident_memory_bytes{@} and on (job, instance) tubular_echo_build_info",
                            ),
                            query(
                                "{{instance}} mapped",
                                "process_virtual_memory_bytes{@} and on (job, instance) tubular_echo_build_info",
                            ),
                        ],
                    ),
                    graph(
                        "Open files",
                        "From Linux 6.13 on, connections and reply sockets don't count.",
                        "short",
                        [
                            query(
                                "{{instance}} open",
                                "process_open_fds{@} and on (job, instance) tubular_echo_build_info",
                            ),
                            query(
                                "{{instance}} limit",
                                "process_max_fds{@} and on (job, instance) tubular_echo_build_info",
                            ),
                        ],
                    ),
                    graph(
                        "Running for",
                        "Since the process started. A restart brings the line to 0.",
                        "s",
                        [query(
                            "{{instance}}",
                            "time() - (process_start_time_seconds{@} and on (job, instance) tubular_echo_build_info)",
                        )],
                    ),
                    graph(
                        "Threads",
                        "The workers, and four for main, signals, metrics and the log.",
                        "short",
                        [query(
                            "{{instance}}",
                            "process_threads{@} and on (job, instance) tubular_echo_build_info",
                        )],
                    ),
                    graph(
                        "Nobody reads",
                        "Log lines and messages to the service manager that nobody took in time.",
                        "ops",
                        [
                            fault(
                                "{{instance}} log lines",
                                "sum by (instance) (rate(tubular_echo_log_lines_dropped_total{@}[@]))",
                            ),
                            fault(
                                "{{instance}} notifications",
                                "sum by (instance) (rate(tubular_echo_notifications_dropped_total{@}[@]))",
                            ),
                        ],
                    ),
                ],
            },
        ],
    }
}

fn records() -> Vec<Record> {
    let record = |name, query| Record { name, query, moves: true };
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
        record("instance:tubular_echo_processors:rate5m", processors!(, "[5m]")),
        record(
            "instance:tubular_echo_worker_utilisation:ratio_rate5m",
            "instance:tubular_echo_processors:rate5m / on (job, instance) \
             count by (job, instance) (tubular_echo_worker_turns_total)",
        ),
    ]
}

/// An alert on faults that are counted: fires after one in the range.
struct Count {
    name: &'static str,
    query: &'static str,
    summary: &'static str,
    runbook: &'static str,
    grows: Case,
    told: &'static str,
    stays: Case,
}

impl Count {
    fn alert(self) -> Alert {
        Alert {
            name: self.name,
            is_urgent: false,
            query: self.query.into(),
            wait: "0m",
            summary: self.summary,
            runbook: self.runbook,
            fires: self.grows,
            told: (&[("job", "tubular-echo"), ("instance", "a")], self.told),
            quiet: self.stays,
        }
    }
}

pub fn rules() -> Rules {
    let alerts = urgent().into_iter().chain(traffic()).chain(counted()).collect();
    Rules { name: "tubular-echo", records: records(), alerts }
}

const WHERE: &[(&str, &str)] = &[("job", "tubular-echo"), ("instance", "a")];

/// The server is not there, or does not work.
fn urgent() -> Vec<Alert> {
    vec![
        Alert {
            name: "EchoDown",
            is_urgent: true,
            query: r#"up{job="tubular-echo"} == 0"#.into(),
            wait: "1m",
            summary: "{{ $labels.instance }} does not answer the scrape",
            runbook: "a-server-is-down",
            fires: Case(&[(r#"up{job="tubular-echo",instance="a"}"#, "1 1 0 0 0 0")], "4m"),
            told: (WHERE, "a does not answer the scrape"),
            quiet: Case(&[(r#"up{job="tubular-echo",instance="a"}"#, "1 1 0 1 1 1")], "4m"),
        },
        Alert {
            name: "EchoWorkerStuck",
            is_urgent: true,
            query: "rate(tubular_echo_worker_turns_total[2m]) == 0".into(),
            wait: "1m",
            summary: "worker {{ $labels.worker }} of {{ $labels.instance }} stands still: its part of the flows is not served",
            runbook: "a-worker-stands-still",
            fires: Case(
                &[
                    (
                        r#"tubular_echo_worker_turns_total{job="tubular-echo",instance="a",worker="0"}"#,
                        "0+120x20",
                    ),
                    (
                        r#"tubular_echo_worker_turns_total{job="tubular-echo",instance="a",worker="1"}"#,
                        "0+120x5 600x15",
                    ),
                ],
                "12m",
            ),
            told: (
                &[("job", "tubular-echo"), ("instance", "a"), ("worker", "1")],
                "worker 1 of a stands still: its part of the flows is not served",
            ),
            quiet: Case(
                &[(
                    r#"tubular_echo_worker_turns_total{job="tubular-echo",instance="a",worker="0"}"#,
                    "0+120x20",
                )],
                "12m",
            ),
        },
        Alert {
            name: "EchoRestarts",
            is_urgent: false,
            query:
                "changes(process_start_time_seconds[15m]) > 2 and on (job, instance) tubular_echo_build_info"
                    .into(),
            wait: "0m",
            summary: "{{ $labels.instance }} started {{ $value }} times within 15 minutes",
            runbook: "it-ends-or-does-not",
            fires: Case(
                &[
                    (r#"process_start_time_seconds{job="tubular-echo",instance="a"}"#, "1 2 3 4 4 4"),
                    (r#"tubular_echo_build_info{job="tubular-echo",instance="a",version="1"}"#, "1x5"),
                ],
                "5m",
            ),
            told: (WHERE, "a started 3 times within 15 minutes"),
            quiet: Case(
                &[
                    (r#"process_start_time_seconds{job="tubular-echo",instance="a"}"#, "1 1 3 4 4 4"),
                    (r#"process_start_time_seconds{job="other",instance="a"}"#, "1 2 3 4 4 4"),
                    (r#"tubular_echo_build_info{job="tubular-echo",instance="a",version="1"}"#, "1x5"),
                ],
                "5m",
            ),
        },
    ]
}

/// Datagrams are not answered, or soon will not be.
fn traffic() -> Vec<Alert> {
    let dropped = |reasons: &str, rate: u32| {
        format!("instance_reason:tubular_echo_dropped_datagrams:rate5m{{reason=~\"{reasons}\"}} > {rate}")
    };
    vec![
        Alert {
            name: "EchoCannotAnswer",
            is_urgent: true,
            query: dropped(faults!(), 1),
            wait: "5m",
            summary: "{{ $labels.instance }} can't answer {{ $value | humanize }} datagrams a second ({{ $labels.reason }})",
            runbook: "no-reply-comes",
            fires: Case(
                &[(
                    r#"tubular_echo_dropped_datagrams_total{job="tubular-echo",instance="a",reason="send_bad_source"}"#,
                    "0+120x30",
                )],
                "20m",
            ),
            told: (
                &[("job", "tubular-echo"), ("instance", "a"), ("reason", "send_bad_source")],
                "a can't answer 2 datagrams a second (send_bad_source)",
            ),
            quiet: Case(
                &[
                    (
                        r#"tubular_echo_dropped_datagrams_total{job="tubular-echo",instance="a",reason="send_bad_source"}"#,
                        "0+30x30",
                    ),
                    (
                        r#"tubular_echo_dropped_datagrams_total{job="tubular-echo",instance="a",reason="own_port"}"#,
                        "0+6000x30",
                    ),
                ],
                "20m",
            ),
        },
        Alert {
            name: "EchoRateLimited",
            is_urgent: false,
            query: dropped(limits!(), 100),
            wait: "10m",
            summary: "{{ $labels.instance }} refuses {{ $value | humanize }} datagrams a second by a limit ({{ $labels.reason }})",
            runbook: "no-reply-comes",
            fires: Case(
                &[(
                    r#"tubular_echo_dropped_datagrams_total{job="tubular-echo",instance="a",reason="prefix_rate"}"#,
                    "0+12000x30",
                )],
                "20m",
            ),
            told: (
                &[("job", "tubular-echo"), ("instance", "a"), ("reason", "prefix_rate")],
                "a refuses 200 datagrams a second by a limit (prefix_rate)",
            ),
            quiet: Case(
                &[(
                    r#"tubular_echo_dropped_datagrams_total{job="tubular-echo",instance="a",reason="prefix_rate"}"#,
                    "0+3000x30",
                )],
                "20m",
            ),
        },
        Alert {
            name: "EchoForgedSources",
            is_urgent: false,
            query: dropped(rules!(), 100),
            wait: "10m",
            summary: "{{ $labels.instance }} refuses {{ $value | humanize }} datagrams a second by a rule ({{ $labels.reason }})",
            runbook: "no-reply-comes",
            fires: Case(
                &[(
                    r#"tubular_echo_dropped_datagrams_total{job="tubular-echo",instance="a",reason="own_port"}"#,
                    "0+12000x30",
                )],
                "20m",
            ),
            told: (
                &[("job", "tubular-echo"), ("instance", "a"), ("reason", "own_port")],
                "a refuses 200 datagrams a second by a rule (own_port)",
            ),
            quiet: Case(
                &[(
                    r#"tubular_echo_dropped_datagrams_total{job="tubular-echo",instance="a",reason="own_port"}"#,
                    "0+3000x30",
                )],
                "20m",
            ),
        },
        Alert {
            name: "EchoReceiveBufferFull",
            is_urgent: true,
            query: "sum by (job, instance) (rate(tubular_echo_receive_buffer_drops_total[5m])) > 1".into(),
            wait: "5m",
            summary: "the kernel drops {{ $value | humanize }} datagrams a second at the receive buffers of {{ $labels.instance }}",
            runbook: "replies-are-lost-under-load",
            fires: Case(
                &[(
                    r#"tubular_echo_receive_buffer_drops_total{job="tubular-echo",instance="a"}"#,
                    "0+120x30",
                )],
                "20m",
            ),
            told: (WHERE, "the kernel drops 2 datagrams a second at the receive buffers of a"),
            quiet: Case(
                &[(r#"tubular_echo_receive_buffer_drops_total{job="tubular-echo",instance="a"}"#, "0+30x30")],
                "20m",
            ),
        },
        Alert {
            name: "EchoWorkersBusy",
            is_urgent: false,
            query: "instance:tubular_echo_worker_utilisation:ratio_rate5m > 0.9".into(),
            wait: "15m",
            summary: "the workers of {{ $labels.instance }} use {{ $value | humanizePercentage }} of their processors",
            runbook: "replies-are-lost-under-load",
            fires: Case(
                &[
                    (r#"process_cpu_seconds_total{job="tubular-echo",instance="a"}"#, "0+114x40"),
                    (r#"tubular_echo_build_info{job="tubular-echo",instance="a",version="1"}"#, "1x40"),
                    (
                        r#"tubular_echo_worker_turns_total{job="tubular-echo",instance="a",worker="0"}"#,
                        "0+9x40",
                    ),
                    (
                        r#"tubular_echo_worker_turns_total{job="tubular-echo",instance="a",worker="1"}"#,
                        "0+9x40",
                    ),
                ],
                "30m",
            ),
            told: (WHERE, "the workers of a use 95% of their processors"),
            quiet: Case(
                &[
                    (r#"process_cpu_seconds_total{job="tubular-echo",instance="a"}"#, "0+60x40"),
                    (r#"tubular_echo_build_info{job="tubular-echo",instance="a",version="1"}"#, "1x40"),
                    (
                        r#"tubular_echo_worker_turns_total{job="tubular-echo",instance="a",worker="0"}"#,
                        "0+9x40",
                    ),
                    (
                        r#"tubular_echo_worker_turns_total{job="tubular-echo",instance="a",worker="1"}"#,
                        "0+9x40",
                    ),
                ],
                "30m",
            ),
        },
        Alert {
            name: "EchoConnectionsFull",
            is_urgent: false,
            query: "sum by (job, instance) (increase(tubular_echo_limit_reached_total[5m])) > 0".into(),
            wait: "10m",
            summary: "new connections wait at {{ $labels.instance }}: --max-connections is reached again and again",
            runbook: "connections-wait-or-are-closed",
            fires: Case(
                &[(r#"tubular_echo_limit_reached_total{job="tubular-echo",instance="a"}"#, "0+1x30")],
                "20m",
            ),
            told: (WHERE, "new connections wait at a: --max-connections is reached again and again"),
            quiet: Case(
                &[(r#"tubular_echo_limit_reached_total{job="tubular-echo",instance="a"}"#, "0x5 3x25")],
                "12m",
            ),
        },
    ]
}

/// Faults of which one is enough.
fn counted() -> Vec<Alert> {
    vec![
        Count {
            name: "EchoAcceptFails",
            query: "sum by (job, instance) (increase(tubular_echo_accept_pauses_total[10m])) > 0",
            summary: "{{ $labels.instance }} can't accept connections: open files or memory are short, or a filter forbids it",
            runbook: "connections-wait-or-are-closed",
            grows: Case(&[(r#"tubular_echo_accept_pauses_total{job="tubular-echo",instance="a"}"#, "0x5 1x5")], "8m"),
            told: "a can't accept connections: open files or memory are short, or a filter forbids it",
            stays: Case(&[(r#"tubular_echo_accept_pauses_total{job="tubular-echo",instance="a"}"#, "1x10")], "8m"),
        }
        .alert(),
        Count {
            name: "EchoReceiveFails",
            query: "sum by (job, instance) (increase(tubular_echo_receive_pauses_total[10m])) > 0",
            summary: "{{ $labels.instance }} can't receive datagrams: memory is short, or a filter forbids it",
            runbook: "replies-are-lost-under-load",
            grows: Case(&[(r#"tubular_echo_receive_pauses_total{job="tubular-echo",instance="a"}"#, "0x5 1x5")], "8m"),
            told: "a can't receive datagrams: memory is short, or a filter forbids it",
            stays: Case(&[(r#"tubular_echo_receive_pauses_total{job="tubular-echo",instance="a"}"#, "1x10")], "8m"),
        }
        .alert(),
        Count {
            name: "EchoUnheard",
            query: "increase(tubular_echo_log_lines_dropped_total[10m]) + \
                    increase(tubular_echo_notifications_dropped_total[10m]) > 0",
            summary: "nobody reads the log or the notifications of {{ $labels.instance }}",
            runbook: "it-ends-or-does-not",
            grows: Case(
                &[
                    (r#"tubular_echo_log_lines_dropped_total{job="tubular-echo",instance="a"}"#, "0x5 7x5"),
                    (r#"tubular_echo_notifications_dropped_total{job="tubular-echo",instance="a"}"#, "0x10"),
                ],
                "8m",
            ),
            told: "nobody reads the log or the notifications of a",
            stays: Case(
                &[
                    (r#"tubular_echo_log_lines_dropped_total{job="tubular-echo",instance="a"}"#, "7x10"),
                    (r#"tubular_echo_notifications_dropped_total{job="tubular-echo",instance="a"}"#, "0x10"),
                ],
                "8m",
            ),
        }
        .alert(),
        Count {
            name: "EchoExposed",
            query: "sum by (job, instance) (increase(tubular_echo_exposed_total[1h])) > 0",
            summary: "{{ $labels.instance }} serves a public address without --public",
            runbook: "it-starts-but-warns",
            grows: Case(&[(r#"tubular_echo_exposed_total{job="tubular-echo",instance="a"}"#, "0x5 1x5")], "8m"),
            told: "a serves a public address without --public",
            stays: Case(&[(r#"tubular_echo_exposed_total{job="tubular-echo",instance="a"}"#, "0x10")], "8m"),
        }
        .alert(),
        Count {
            name: "EchoLoop",
            query: "sum by (job, instance) \
                    (increase(tubular_echo_dropped_datagrams_total{reason=\"hop_limit\"}[1h])) > 0",
            summary: "a loop between {{ $labels.instance }} and another server on its port has run until its hops were used up",
            runbook: "no-reply-comes",
            grows: Case(
                &[(
                    r#"tubular_echo_dropped_datagrams_total{job="tubular-echo",instance="a",reason="hop_limit"}"#,
                    "0x5 1x5",
                )],
                "8m",
            ),
            told: "a loop between a and another server on its port has run until its hops were used up",
            stays: Case(
                &[(
                    r#"tubular_echo_dropped_datagrams_total{job="tubular-echo",instance="a",reason="own_port"}"#,
                    "0x5 1x5",
                )],
                "8m",
            ),
        }
        .alert(),
    ]
}
