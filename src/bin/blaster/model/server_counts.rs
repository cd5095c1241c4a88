//! The counters of our server, from the text of its metrics (docs/metrics.md), and their difference over a run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The text is not that of our server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotOurs;

/// The counters of the sockets of one protocol.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ServerCounts {
    /// Datagrams; UDP only.
    pub(crate) received: u64,
    /// Replies to them.
    pub(crate) sent: u64,
    pub(crate) received_bytes: u64,
    pub(crate) sent_bytes: u64,
    /// Datagrams that did not find room in the receive buffers. The server did not receive them; a train may count as
    /// one.
    pub(crate) receive_buffer_drops: u64,
    /// Received datagrams that the server did not answer, by its reason; without those that are 0.
    pub(crate) not_answered: BTreeMap<String, u64>,
    /// Accepted connections; TCP only.
    pub(crate) accepted: u64,
    /// Closed connections by the server's reason; without those that are 0.
    pub(crate) closed: BTreeMap<String, u64>,
    /// Its processor time, with everything that it did.
    pub(crate) cpu_ns: u64,
}

/// The counters of a process at one moment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ServerSample {
    pub(crate) version: String,
    /// Seconds since 1970, as written: each process has its own.
    started_at_s: String,
    counts: ServerCounts,
}

/// The sockets that the counters are about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sockets<'a> {
    /// `udp` or `tcp`.
    pub(crate) protocol: &'a str,
    pub(crate) ipv4: bool,
    pub(crate) ipv6: bool,
}

impl Sockets<'_> {
    fn have(self, line: &Line<'_>) -> bool {
        line.label("protocol").is_none_or(|protocol| protocol == self.protocol)
            && match line.label("domain").as_deref() {
                Some("ipv4") => self.ipv4,
                Some("ipv6") => self.ipv6,
                _ => true,
            }
    }
}

impl ServerSample {
    /// Reads the text of the metrics.
    pub(crate) fn read(text: &str, sockets: Sockets<'_>) -> Result<Self, NotOurs> {
        let (mut version, mut started_at_s) = (None, String::new());
        let mut counts = ServerCounts::default();
        for line in text.lines().filter_map(Line::read).filter(|line| sockets.have(line)) {
            let number = line.value as u64;
            let mut by_reason = |sum: fn(&mut ServerCounts) -> &mut BTreeMap<String, u64>| {
                if let Some(reason) = line.label("reason").filter(|_| number > 0) {
                    *sum(&mut counts).entry(reason).or_default() += number;
                }
            };
            match line.name.strip_prefix("tubular_echo_").unwrap_or(line.name) {
                "build_info" => version = line.label("version"),
                "process_start_time_seconds" => started_at_s = line.value.to_string(),
                "process_cpu_seconds_total" => counts.cpu_ns = (line.value * 1e9) as u64,
                "received_datagrams_total" => counts.received += number,
                "sent_datagrams_total" => counts.sent += number,
                "received_bytes_total" => counts.received_bytes += number,
                "sent_bytes_total" => counts.sent_bytes += number,
                "receive_buffer_drops_total" => counts.receive_buffer_drops += number,
                "accepted_connections_total" => counts.accepted += number,
                "dropped_datagrams_total" => by_reason(|counts| &mut counts.not_answered),
                "closed_connections_total" => by_reason(|counts| &mut counts.closed),
                _ => {}
            }
        }
        Ok(Self { version: version.ok_or(NotOurs)?, started_at_s, counts })
    }

    /// The growth since `before`. `None`: another process counts now, from 0 on.
    pub(crate) fn since(&self, before: &Self) -> Option<ServerCounts> {
        let is_same = self.started_at_s == before.started_at_s;
        is_same.then(|| self.counts.less(&before.counts)).flatten()
    }
}

impl ServerCounts {
    /// `None`: a count is smaller than before.
    fn less(&self, before: &Self) -> Option<Self> {
        let by_reason = |now: &BTreeMap<String, u64>, before: &BTreeMap<String, u64>| {
            if before.keys().any(|reason| !now.contains_key(reason)) {
                return None;
            }
            let mut growth = BTreeMap::new();
            for (reason, number) in now {
                let number = number.checked_sub(before.get(reason).copied().unwrap_or(0))?;
                if number > 0 {
                    growth.insert(reason.clone(), number);
                }
            }
            Some(growth)
        };
        Some(Self {
            received: self.received.checked_sub(before.received)?,
            sent: self.sent.checked_sub(before.sent)?,
            received_bytes: self.received_bytes.checked_sub(before.received_bytes)?,
            sent_bytes: self.sent_bytes.checked_sub(before.sent_bytes)?,
            receive_buffer_drops: self.receive_buffer_drops.checked_sub(before.receive_buffer_drops)?,
            not_answered: by_reason(&self.not_answered, &before.not_answered)?,
            accepted: self.accepted.checked_sub(before.accepted)?,
            closed: by_reason(&self.closed, &before.closed)?,
            cpu_ns: self.cpu_ns.checked_sub(before.cpu_ns)?,
        })
    }
}

/// A sample of Prometheus's text format: `name{label="value",…} value`.
struct Line<'a> {
    name: &'a str,
    labels: Vec<(&'a str, String)>,
    value: f64,
}

impl<'a> Line<'a> {
    /// `None`: a comment, an empty line, or nothing of this format.
    fn read(line: &'a str) -> Option<Self> {
        let name_ends = line.find(|letter: char| letter == '{' || letter.is_whitespace())?;
        let (name, rest) = line.split_at(name_ends);
        if name.is_empty() || name.starts_with('#') {
            return None;
        }
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => labels(rest)?,
            None => (Vec::new(), rest),
        };
        // a time may follow
        let value: f64 = rest.split_whitespace().next()?.parse().ok()?;
        (value.is_finite() && value >= 0.0).then_some(Self { name, labels, value })
    }

    fn label(&self, name: &str) -> Option<String> {
        self.labels.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
    }
}

/// The labels, from behind their opening brace; and what follows their closing one.
fn labels(mut rest: &str) -> Option<(Vec<(&str, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut letters = quoted.char_indices();
        let ends = loop {
            match letters.next()? {
                (at, '"') => break at,
                (_, '\\') => match letters.next()?.1 {
                    'n' => value.push('\n'),
                    letter => value.push(letter),
                },
                (_, letter) => value.push(letter),
            }
        };
        labels.push((name.trim(), value));
        rest = &quoted[ends + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UDP: Sockets<'_> = Sockets { protocol: "udp", ipv4: true, ipv6: false };

    const TEXT: &str = r#"# HELP tubular_echo_received_datagrams_total Datagrams received.
# TYPE tubular_echo_received_datagrams_total counter
tubular_echo_received_datagrams_total{domain="ipv4",protocol="udp",label="a \"b\" } 5\\"} 100
tubular_echo_received_datagrams_total{domain="ipv4",protocol="udp",label="other"} 20 1700000000000
tubular_echo_received_datagrams_total{domain="ipv6",protocol="udp"} 7000
tubular_echo_sent_datagrams_total{domain="ipv4",protocol="udp"} 110
tubular_echo_received_bytes_total{domain="ipv4",protocol="udp"} 6400
tubular_echo_received_bytes_total{domain="ipv4",protocol="tcp"} 1
tubular_echo_dropped_datagrams_total{domain="ipv4",protocol="udp",reason="prefix_rate"} 10
tubular_echo_dropped_datagrams_total{domain="ipv4",protocol="udp",reason="hop_limit"} 0
tubular_echo_receive_buffer_drops_total{domain="ipv4",protocol="udp"} 3
tubular_echo_closed_connections_total{domain="ipv4",protocol="tcp",reason="idle"} 4
tubular_echo_build_info{version="0.1.0"} 1
process_cpu_seconds_total 1.5
process_start_time_seconds 1700000000.25
"#;

    #[test]
    fn the_sockets_that_are_meant_are_counted() {
        let sample = ServerSample::read(TEXT, UDP).unwrap();
        let wanted = ServerCounts {
            received: 120,
            sent: 110,
            received_bytes: 6_400,
            receive_buffer_drops: 3,
            not_answered: [("prefix_rate".into(), 10)].into(),
            cpu_ns: 1_500_000_000,
            ..ServerCounts::default()
        };
        assert_eq!((sample.version.as_str(), &sample.counts), ("0.1.0", &wanted));
        let both = ServerSample::read(TEXT, Sockets { ipv6: true, ..UDP }).unwrap();
        assert_eq!(both.counts.received, 7_120);
        let tcp = ServerSample::read(TEXT, Sockets { protocol: "tcp", ..UDP }).unwrap();
        assert_eq!((tcp.counts.closed.get("idle"), tcp.counts.received_bytes), (Some(&4), 1));
    }

    #[test]
    fn the_growth_is_that_of_one_process() {
        let before = ServerSample::read(TEXT, UDP).unwrap();
        let later =
            |from: &str, to: &str| ServerSample::read(&TEXT.replace(from, to), UDP).unwrap().since(&before);
        assert_eq!(later("", ""), Some(ServerCounts::default()));
        assert_eq!(later("} 110", "} 119").unwrap().sent, 9);
        let refused = later("\"hop_limit\"} 0", "\"hop_limit\"} 2").unwrap().not_answered;
        assert_eq!(refused, [("hop_limit".into(), 2)].into());
        assert_eq!(later("} 110", "} 109"), None, "it fell");
        assert_eq!(later("\"prefix_rate\"} 10", "\"prefix_rate\"} 0"), None, "it fell");
        assert_eq!(later("1700000000.25", "1700000000.26"), None, "it began later");
    }

    #[test]
    fn other_texts_are_not_ours() {
        for text in [
            "",
            "<html>",
            "up 1\n",
            "tubular_echo_build_info{version=\"0.1.0",
            "tubular_echo_build_info{version=\"1\\",
        ] {
            assert_eq!(ServerSample::read(text, UDP), Err(NotOurs), "{text:?}");
        }
        for text in [
            "{", "a{", "a{b", "a{b=", "a{b=\"", "a{b=\"\\", "a{} ", "a NaN", "a -1", "a{,,,}1", " 5",
            "\u{e9}{",
        ] {
            let both = format!("{text}\ntubular_echo_build_info{{version=\"1\"}} 1");
            assert_eq!(ServerSample::read(&both, UDP).unwrap().version, "1", "{text:?}");
        }
    }
}
