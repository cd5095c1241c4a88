//! Requests to the server's metrics, and a strict reader of Prometheus's text format (version 0.0.4).

use super::{PATIENCE, Server, until};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

/// An answer over HTTP.
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// The address of the metrics, from the server's log.
pub fn address_of(server: &Server) -> SocketAddr {
    let lines = server.log.all();
    let url =
        lines.iter().find_map(|line| line.split_once("metrics on http://")).expect("a line in the log").1;
    url.strip_suffix("/metrics").expect("a path").parse().expect("an address")
}

/// Requests `path`.
pub fn get(addr: SocketAddr, path: &str) -> Answer {
    ask(addr, &format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\n\r\n"))
}

/// Sends a request and reads the answer until the server closes the connection.
pub fn ask(addr: SocketAddr, request: &str) -> Answer {
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE).expect("connect to the metrics");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(request.as_bytes()).expect("send a request");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer and the end of the connection");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP: {text:?}"));
    let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}

/// The samples by their name and labels, as written.
pub type Samples = BTreeMap<String, f64>;

/// Requests and parses the metrics.
pub fn scrape(addr: SocketAddr) -> Samples {
    let answer = get(addr, "/metrics");
    assert_eq!(answer.status, 200, "{}", answer.head);
    assert!(
        answer.head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"),
        "{}",
        answer.head
    );
    let length = format!("content-length: {}", answer.body.len());
    assert!(answer.head.contains(&length), "{}", answer.head);
    read(&answer.body)
}

/// Parses the format. Fails the test on anything that Prometheus would refuse or warn of.
pub fn read(text: &str) -> Samples {
    assert!(text.ends_with('\n'));
    let mut samples = Samples::new();
    let (mut helped, mut family, mut families) = ("", "", Vec::new());
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            helped = help.split_once(' ').unwrap_or_else(|| panic!("help without a text: {line}")).0;
        } else if let Some(typed) = line.strip_prefix("# TYPE ") {
            let (name, kind) = typed.split_once(' ').unwrap_or_else(|| panic!("no type: {line}"));
            assert_eq!(name, helped, "help and type of the same family");
            assert!(!families.contains(&name), "{name} in two pieces");
            assert!(matches!(kind, "counter" | "gauge" | "histogram"), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            families.push(name);
            family = name;
        } else {
            let (sample, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
            let (name, labels) = sample.split_once('{').map_or((sample, ""), |(name, rest)| {
                (name, rest.strip_suffix('}').unwrap_or_else(|| panic!("labels without an end: {line}")))
            });
            let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
            assert!(name == family || of_histogram == Some(family), "{name} under another family");
            for label in labels.split(',').filter(|label| !label.is_empty()) {
                let (name, value) = label.split_once('=').unwrap_or_else(|| panic!("no label: {line}"));
                assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{line}");
                assert!(value.len() > 2 && value.starts_with('"') && value.ends_with('"'), "{line}");
            }
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
            assert!(value >= 0.0, "{line}");
            assert!(samples.insert(sample.to_owned(), value).is_none(), "twice: {line}");
        }
    }
    samples
}

/// Waits until a sum (see below) has reached `wanted`. The server counts a reply a moment after sending it, so a client
/// that has the reply may ask too early.
pub fn until_counted(addr: SocketAddr, family: &str, labels: &[&str], wanted: f64) {
    until(&format!("{family} {labels:?} is {wanted}"), || sum(&scrape(addr), family, labels) >= wanted);
}

/// The sum of the samples of a family whose labels contain all these.
pub fn sum(samples: &Samples, family: &str, labels: &[&str]) -> f64 {
    let of_family = |sample: &str| sample.split('{').next() == Some(family);
    let found: Vec<f64> = samples
        .iter()
        .filter(|(sample, _)| of_family(sample) && labels.iter().all(|label| sample.contains(label)))
        .map(|(_, value)| *value)
        .collect();
    assert!(!found.is_empty(), "no {family} with {labels:?} in {samples:#?}");
    found.iter().sum()
}
