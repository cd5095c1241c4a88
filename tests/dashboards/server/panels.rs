//! The dashboard of the server.

use super::{FAULTS, LIMITS, PROGRAM, RULES};
use crate::grafana::{Dashboard, Panel, Row, causes, fault, graph, number, query, rate};
use crate::process::{self, of_process, processors};

/// A family of the chosen listeners, both protocols.
fn all(family: &str) -> String {
    format!(r#"{family}{{@,label=~"$label"}}"#)
}

fn udp(family: &str) -> String {
    format!(r#"{family}{{@,protocol="udp",label=~"$label"}}"#)
}

fn tcp(family: &str) -> String {
    format!(r#"{family}{{@,protocol="tcp",label=~"$label"}}"#)
}

/// Datagrams that were dropped for these reasons.
fn dropped(reasons: &str) -> String {
    let family = format!(r#"tubular_echo_dropped_datagrams_total{{@,label=~"$label",reason=~"{reasons}"}}"#);
    rate("reason", &family)
}

pub fn dashboard() -> Dashboard {
    Dashboard {
        uid: "tubular-echo",
        title: "tubular-echo",
        description: "The server: docs/metrics.md explains each family, docs/troubleshooting.md each fault.",
        listed_by: PROGRAM,
        by_label: Some(("label", "tubular_echo_received_bytes_total")),
        rows: vec![
            Row { title: "Now", panels: now() },
            Row { title: "Traffic", panels: traffic() },
            Row { title: "Datagrams that were not answered", panels: unanswered() },
            Row { title: "Connections", panels: connections() },
            Row { title: "Workers and process", panels: workers() },
        ],
    }
}

fn now() -> Vec<Panel> {
    let received = rate("", &all("tubular_echo_received_datagrams_total"));
    let sent = rate("", &all("tubular_echo_sent_datagrams_total"));
    vec![
        number(
            "Servers",
            "Instances that answer the scrape.",
            "short",
            query("", "count(tubular_echo_build_info{@})"),
        ),
        number("Datagrams", "Received per second.", "pps", query("", &*received)),
        number(
            "Answered",
            "The part of the received datagrams that was sent back.",
            "percentunit",
            query("", format!("{sent} / {received}")),
        ),
        number(
            "Connections",
            "Open now.",
            "short",
            query("", format!("sum({})", tcp("tubular_echo_open_connections"))),
        ),
        number(
            "Sent",
            "Payload, both protocols.",
            "bps",
            query("", format!("8 * {}", rate("", &all("tubular_echo_sent_bytes_total")))),
        ),
        number(
            "Processors",
            "In use.",
            "short",
            query("", format!("sum({})", processors("{@}", "[@]", PROGRAM))),
        ),
    ]
}

fn traffic() -> Vec<Panel> {
    let received = rate("domain", &udp("tubular_echo_received_datagrams_total"));
    let sent = rate("domain", &udp("tubular_echo_sent_datagrams_total"));
    let bits = |by: &str, family: &str| format!("8 * {}", rate(by, family));
    vec![
        graph(
            "Datagrams received",
            "By family of addresses. Each datagram of a train counts.",
            "pps",
            [query("{{domain}}", &*received)],
        ),
        graph(
            "Payload received",
            "By family and protocol.",
            "bps",
            [query(
                "{{domain}} {{protocol}}",
                bits("domain, protocol", &all("tubular_echo_received_bytes_total")),
            )],
        ),
        graph(
            "Payload sent",
            "By family and protocol. spliced: the part of TCP that was moved without a copy (messages from 16 KiB on).",
            "bps",
            [
                query(
                    "{{domain}} {{protocol}}",
                    bits("domain, protocol", &all("tubular_echo_sent_bytes_total")),
                ),
                fault("{{domain}} spliced", bits("domain", &tcp("tubular_echo_spliced_bytes_total"))),
            ],
        ),
        graph(
            "Part of the datagrams that was answered",
            "By family. 1 is all. The next row says why others were not.",
            "percentunit",
            [query("{{domain}}", format!("{sent} / {received}"))],
        ),
        graph(
            "Trains",
            "Datagrams that arrive in one piece (GRO) and leave in one piece (GSO). refused: the path did not take a train, its datagrams were sent singly.",
            "ops",
            [
                query("received", rate("", &udp("tubular_echo_received_trains_total"))),
                query("sent", rate("", &udp("tubular_echo_sent_trains_total"))),
                fault("refused", rate("", &udp("tubular_echo_trains_refused_total"))),
            ],
        ),
        graph(
            "Reply sockets made",
            "Sockets to answer from another port than the bound one: all ports of a prefix are steered.",
            "ops",
            [fault("{{domain}}", rate("domain", &udp("tubular_echo_reply_sockets_made_total")))],
        ),
    ]
}

fn unanswered() -> Vec<Panel> {
    vec![
        graph(
            "Refused, by rule",
            "The datagram could start a loop, or its source is impossible. Forged datagrams look like this.",
            "pps",
            [causes("{{reason}}", dropped(RULES))],
        ),
        graph(
            "Refused, by limit",
            "More than --udp-prefix-rate, --udp-reply-rate or --reply-socket-rate allows.",
            "pps",
            [causes("{{reason}}", dropped(LIMITS))],
        ),
        graph(
            "Dropped, by fault",
            "A route, an address, a filter, a capability or memory is missing: the server's log has the cure.",
            "pps",
            [fault("{{reason}}", dropped(FAULTS))],
        ),
        graph(
            "Dropped by the kernel",
            "A receive buffer was full: too few workers, or too little memory for bursts. A train may count as one.",
            "pps",
            [fault(
                "{{instance}} {{domain}}",
                rate("instance, domain", &udp("tubular_echo_receive_buffer_drops_total")),
            )],
        ),
        graph(
            "Waits",
            "Nothing is lost by these: data waits in the socket until buffers are free, replies wait until the network takes them.",
            "ops",
            [
                fault(
                    "receive buffers in use, {{protocol}}",
                    rate("protocol", &all("tubular_echo_receive_buffers_exhausted_total")),
                ),
                fault("send buffer full", rate("", &udp("tubular_echo_send_waits_total"))),
            ],
        ),
        graph(
            "Receives that failed",
            "A security module forbids them, or memory is short. exposed: datagrams to a public address without --public.",
            "ops",
            [
                fault("failed", rate("", &udp("tubular_echo_receive_errors_total"))),
                fault("paused", rate("", &udp("tubular_echo_receive_pauses_total"))),
                fault("exposed", rate("", &udp("tubular_echo_exposed_total"))),
            ],
        ),
    ]
}

fn connections() -> Vec<Panel> {
    let stalled =
        r#"tubular_echo_closed_connections_total{@,protocol="tcp",label=~"$label",reason="stalled"}"#;
    vec![
        graph(
            "Open",
            "By family.",
            "short",
            [query("{{domain}}", format!("sum by (domain) ({})", tcp("tubular_echo_open_connections")))],
        ),
        graph(
            "Accepted",
            "By family.",
            "cps",
            [query("{{domain}}", rate("domain", &tcp("tubular_echo_accepted_connections_total")))],
        ),
        graph(
            "Closed, by cause",
            "finished is the normal end.",
            "cps",
            [causes("{{reason}}", rate("reason", &tcp("tubular_echo_closed_connections_total")))],
        ),
        graph(
            "Peers that read slowly",
            "Echoes copied to spill memory, and connections closed since that memory was used up.",
            "ops",
            [
                fault("copied", rate("", &tcp("tubular_echo_stalls_total"))),
                fault("closed", rate("", stalled)),
            ],
        ),
        graph(
            "Accepting stopped",
            "full: --max-connections is reached. failed, paused: open files or memory are short, or a security module forbids it.",
            "ops",
            [
                fault("full", rate("", &tcp("tubular_echo_limit_reached_total"))),
                fault("failed", rate("", &tcp("tubular_echo_accept_errors_total"))),
                fault("paused", rate("", &tcp("tubular_echo_accept_pauses_total"))),
            ],
        ),
        graph(
            "No open file for splice",
            "Connections whose large messages were copied. Nothing is lost.",
            "ops",
            [fault("{{instance}}", rate("instance", &tcp("tubular_echo_descriptors_exhausted_total")))],
        ),
    ]
}

fn workers() -> Vec<Panel> {
    let processors = format!("sum by (instance) ({})", processors("{@}", "[@]", PROGRAM));
    let datagrams = rate("instance", "tubular_echo_received_datagrams_total{@}");
    let bytes = rate("instance", "tubular_echo_sent_bytes_total{@}");
    vec![
        graph(
            "Turns by worker",
            "An idle worker turns twice a second. Uneven lines under load: few flows, or a NIC with few queues.",
            "ops",
            [query(
                "{{instance}} {{worker}}",
                rate("instance, worker", "tubular_echo_worker_turns_total{@}"),
            )],
        ),
        graph(
            "Processors in use",
            "As many as workers means that you need more workers or hosts.",
            "short",
            [
                query("{{instance}}", &*processors),
                query("{{instance}} workers", "count by (instance) (tubular_echo_worker_turns_total{@})"),
            ],
        ),
        graph(
            "Processor time per datagram",
            "True where there is little TCP.",
            "s",
            [query("{{instance}}", format!("{processors} / {datagrams}"))],
        ),
        graph(
            "Processor time per gigabyte sent",
            "Both protocols. Small messages cost more.",
            "s",
            [query("{{instance}}", format!("1e9 * {processors} / {bytes}"))],
        ),
        process::memory(PROGRAM),
        graph(
            "Open files",
            "From Linux 6.13 on, connections and reply sockets don't count.",
            "short",
            [
                query("{{instance}} open", of_process("process_open_fds", PROGRAM)),
                query("{{instance}} limit", of_process("process_max_fds", PROGRAM)),
            ],
        ),
        process::running_for(PROGRAM, "Since the process started. A restart brings the line to 0."),
        graph(
            "Threads",
            "The workers, and four for main, signals, metrics and the log.",
            "short",
            [query("{{instance}}", of_process("process_threads", PROGRAM))],
        ),
        graph(
            "Nobody reads",
            "Log lines and messages to the service manager that nobody took in time.",
            "ops",
            [
                fault("{{instance}} log lines", rate("instance", "tubular_echo_log_lines_dropped_total{@}")),
                fault(
                    "{{instance}} notifications",
                    rate("instance", "tubular_echo_notifications_dropped_total{@}"),
                ),
            ],
        ),
    ]
}
