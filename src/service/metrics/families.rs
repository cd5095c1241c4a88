//! The counters as Prometheus's metrics: names, labels, text.
//!
//! Counters that both protocols have form one family with a label `protocol`. Counters of reasons form one family with
//! a label `reason`. The labels `domain`, `protocol` and `label` have tubular's names and meanings, so that queries can
//! join both programs' metrics on them.

use super::Source;
use crate::exposition::families::Families;
use crate::kernel::addr::Domain;
use crate::policy::counters::Entry;

/// The prefix of all metrics except the `process_…` ones.
const PREFIX: &str = "tubular_echo_";

/// The family and labels of a counter.
#[derive(Debug, PartialEq, Eq)]
struct Place<'a> {
    /// The name of the family, without prefix and `_total`.
    family: &'a str,
    help: &'a str,
    protocol: &'a str,
    reason: Option<&'a str>,
    /// The value can go down.
    gauge: bool,
}

const DROPPED: &str = "Datagrams received and not answered.";

/// The place of a counter, from its name in the log. A name without an entry here becomes a family of its own.
fn place<'a>(entry: &Entry) -> Place<'a>
where
    'static: 'a,
{
    let (protocol, rest) = entry.name.split_once('_').unwrap_or(("", entry.name));
    let (family, help, reason) = match rest {
        "bytes_in" => ("received_bytes", "Payload received.", None),
        "bytes_out" => ("sent_bytes", "Payload sent.", None),
        "bytes_spliced" => {
            ("spliced_bytes", "Payload sent that was moved by splice(2), without a copy.", None)
        }
        "no_descriptors" => ("descriptors_exhausted", entry.meaning, None),
        "datagrams_in" => ("received_datagrams", entry.meaning, None),
        "datagrams_out" => ("sent_datagrams", entry.meaning, None),
        "trains_in" => ("received_trains", entry.meaning, None),
        "trains_out" => ("sent_trains", entry.meaning, None),
        "no_buffers" => ("receive_buffers_exhausted", "Times all receive buffers were in use.", None),
        "accepted" => ("accepted_connections", entry.meaning, None),
        "open" => ("open_connections", entry.meaning, None),
        "truncated"
        | "unaddressed"
        | "reply_sockets_limited"
        | "reply_port_privileged"
        | "reply_port_taken"
        | "reply_port_excepted"
        | "reply_address_missing"
        | "reply_socket_forbidden"
        | "reply_socket_no_files"
        | "reply_socket_no_memory"
        | "reply_socket_errors"
        | "send_unreachable"
        | "send_forbidden"
        | "send_bad_source"
        | "send_errors" => ("dropped_datagrams", DROPPED, Some(rest)),
        _ => match rest.split_once('_') {
            Some(("closed", reason)) => ("closed_connections", "Connections closed.", Some(reason)),
            Some(("refused", reason)) => ("dropped_datagrams", DROPPED, Some(reason)),
            _ => (rest, entry.meaning, None),
        },
    };
    Place { family, help: help.trim(), protocol, reason, gauge: rest == "open" }
}

/// All metrics at this moment, in Prometheus's text format (version 0.0.4). The process started at `start_s` (seconds
/// since 1970).
pub(super) fn text(source: &Source, start_s: f64) -> String {
    let mut families = Families::default();
    for domain in Domain::ALL {
        let mut sums: Vec<Entry> = Vec::new();
        for counters in &source.workers {
            for (index, entry) in counters[domain].entries().enumerate() {
                match sums.get_mut(index) {
                    Some(sum) => sum.value += entry.value,
                    None => sums.push(entry),
                }
            }
        }
        for sum in sums {
            let place = place(&sum);
            let labels: Vec<_> = source
                .label
                .as_deref()
                .map(|label| ("label", label))
                .into_iter()
                .chain([("domain", domain.name()), ("protocol", place.protocol)])
                .chain(place.reason.map(|reason| ("reason", reason)))
                .collect();
            let (name, value) = (format!("{PREFIX}{}", place.family), sum.value as f64);
            if place.gauge {
                families.gauge(&name, place.help, &labels, value);
            } else {
                families.counter(&format!("{name}_total"), place.help, &labels, value);
            }
        }
    }
    for (worker, counters) in source.workers.iter().enumerate() {
        let (name, help) = (format!("{PREFIX}worker_turns_total"), "Turns of a worker's ring.");
        families.counter(&name, help, &[("worker", &worker.to_string())], counters.turns.get() as f64);
    }
    for (name, help, counter) in [
        (
            "log_lines_dropped",
            "Log lines dropped because nobody read them.",
            &source.dropped_messages.log_lines,
        ),
        (
            "notifications_dropped",
            "Messages that the service manager did not take.",
            &source.dropped_messages.notifications,
        ),
    ] {
        families.counter(&format!("{PREFIX}{name}_total"), help, &[], counter.get() as f64);
    }
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    families.gauge(&format!("{PREFIX}build_info"), "What is running; always 1.", &version, 1.0);
    families.process(start_s, source.open_files_max);
    families.text()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use super::*;
    use crate::policy::counters::{Counters, DroppedMessages};

    fn source() -> Source {
        let workers = vec![Arc::new(Counters::default()), Arc::default()];
        Source {
            workers,
            dropped_messages: DroppedMessages::default(),
            phase: Arc::default(),
            label: Some("echo".into()),
            open_files_max: Some(20),
        }
    }

    #[test]
    fn workers_are_summed_and_domains_are_told_apart() {
        let source = source();
        source.workers[0][Domain::Ipv4].udp_bytes_in.add(3);
        source.workers[1][Domain::Ipv4].udp_bytes_in.add(4);
        source.workers[1][Domain::Ipv6].tcp_open.add(2);
        source.workers[1][Domain::Ipv6].udp_refused_own_pair.add(5);
        source.workers[1].turns.add(6);
        source.dropped_messages.log_lines.add(8);
        source.dropped_messages.notifications.add(9);
        let text = text(&source, 0.0);
        for line in [
            r#"tubular_echo_received_bytes_total{label="echo",domain="ipv4",protocol="udp"} 7"#,
            r#"tubular_echo_received_bytes_total{label="echo",domain="ipv6",protocol="udp"} 0"#,
            r#"tubular_echo_open_connections{label="echo",domain="ipv6",protocol="tcp"} 2"#,
            r#"tubular_echo_dropped_datagrams_total{label="echo",domain="ipv6",protocol="udp",reason="own_pair"} 5"#,
            r#"tubular_echo_worker_turns_total{worker="1"} 6"#,
            "tubular_echo_log_lines_dropped_total 8",
            "tubular_echo_notifications_dropped_total 9",
            concat!(r#"tubular_echo_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""} 1"#),
            "# TYPE tubular_echo_open_connections gauge",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn without_a_label_there_is_none() {
        let source = Source { label: None, ..source() };
        assert!(text(&source, 0.0).contains(r#"sent_bytes_total{domain="ipv4",protocol="tcp"} 0"#));
    }

    #[test]
    fn every_sample_is_there_once_and_every_family_in_one_piece_with_help() {
        let text = text(&source(), 0.0);
        let (mut samples, mut families, mut helped) = (HashSet::new(), HashSet::new(), String::new());
        let mut family = String::new();
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                helped = help.split_once(' ').expect("a name and a text").0.into();
            } else if let Some(typed) = line.strip_prefix("# TYPE ") {
                family = typed.split_once(' ').expect("a name and a type").0.into();
                assert_eq!(family, helped);
                assert!(families.insert(family.clone()), "{family} twice");
                assert_eq!(typed.ends_with(" counter"), family.ends_with("_total"), "{typed}");
            } else {
                let (sample, value) = line.rsplit_once(' ').expect("a sample");
                assert_eq!(sample.split('{').next(), Some(family.as_str()));
                assert!(samples.insert(sample.to_owned()), "{sample} twice");
                value.parse::<f64>().expect("a number");
            }
        }
        assert!(families.len() > 20, "{families:?}");
    }

    #[test]
    fn what_has_no_place_is_a_family_of_its_own() {
        let entry = Entry { name: "udp_new_things", meaning: " New things.", value: 1 };
        let expected =
            Place { family: "new_things", help: "New things.", protocol: "udp", reason: None, gauge: false };
        assert_eq!(place(&entry), expected);
    }
}
