//! Runs the load tester beside a test, and reads its report.

use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use jsonschema::Validator;
use serde_json::Value;

use super::sys::{Confinement, Pidfd, confine};

/// The classes of the outcomes: each datagram is in one.
pub const CLASSES: [&str; 7] = ["ok", "corrupted", "truncated", "misdirected", "late", "lost", "unreachable"];
/// The counts beside them.
const BESIDE: [&str; 6] =
    ["duplicated", "reordered", "crossed", "unattributed", "send_failures", "own_drops"];

/// The names of all counts of datagrams but `sent`.
pub fn counts_beside_sent() -> impl Iterator<Item = &'static str> {
    CLASSES.into_iter().chain(BESIDE)
}

/// Expects a document of blaster to be what docs/blaster-report.schema.json promises, without any other field.
pub fn expect_documented(document: &Value) {
    static VALIDATOR: OnceLock<Validator> = OnceLock::new();
    let validator = VALIDATOR.get_or_init(|| {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/blaster-report.schema.json");
        let text = std::fs::read(file).expect("the schema");
        let mut schema = serde_json::from_slice(&text).expect("JSON");
        close(&mut schema);
        jsonschema::validator_for(&schema).expect("a JSON Schema")
    });
    if let Err(error) = validator.validate(document) {
        let why: Vec<_> = validator.iter_errors(document).map(|error| error.to_string()).collect();
        panic!("{error}; {why:#?}; {document:#}");
    }
}

/// Forbids the fields that a schema does not name. Readers must allow them: later versions may add some.
fn close(schema: &mut Value) {
    if let Some(fields) = schema.as_object_mut() {
        if fields.contains_key("properties") {
            fields.entry("additionalProperties").or_insert(false.into());
        }
        fields.values_mut().for_each(close);
    } else if let Some(values) = schema.as_array_mut() {
        values.iter_mut().for_each(close);
    }
}

/// A running blaster. If the test ends first, it is killed.
pub struct Blaster(Child);

/// The report of a run.
pub struct Report(Value);

impl Blaster {
    /// Starts it with these arguments in the calling thread's network.
    pub fn start(arguments: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_blaster"));
        command.args(arguments.split_whitespace()).args(["--quiet", "--json=-"]);
        command.stdout(Stdio::piped());
        confine(&mut command, Confinement { limits: Vec::new(), denied: Vec::new() });
        Self(command.spawn().expect("start blaster"))
    }

    /// Makes it stop sending, wait for the outstanding replies, and report.
    pub fn end(&self) {
        Pidfd::open(self.0.id()).expect("blaster").signal(libc::SIGINT).expect("end blaster");
    }

    /// Waits for its end.
    pub fn finish(self) -> Report {
        let output = self.0.wait_with_output().expect("blaster's report");
        let report = serde_json::from_slice(&output.stdout);
        let report = report.unwrap_or_else(|error| panic!("no report: {error}, {}", output.status));
        expect_documented(&report);
        Report(report)
    }
}

impl Report {
    /// Runs blaster to its end.
    pub fn of(arguments: &str) -> Self {
        Blaster::start(arguments).finish()
    }

    /// One count of the report's totals.
    pub fn total(&self, name: &str) -> u64 {
        self.0["totals"][name].as_u64().unwrap_or_else(|| panic!("totals.{name}"))
    }

    /// Connections that were established; TCP only.
    pub fn established(&self) -> u64 {
        self.0["connections"]["established"].as_u64().expect("connections.established")
    }

    /// The 99th percentile of the latency from the intended send time, in microseconds.
    pub fn p99_us(&self) -> f64 {
        self.0["latency"]["from_intended"]["p99_ns"].as_f64().expect("the latency of replies") / 1e3
    }

    /// Expects these counts, and 0 for all other classes and counts.
    pub fn expect(&self, what: &str, counts: &[(&str, u64)]) {
        let wanted =
            |class: &str| counts.iter().find(|(name, _)| *name == class).map_or(0, |(_, count)| *count);
        let found: Vec<_> = counts_beside_sent().map(|name| (name, self.total(name))).collect();
        let expected: Vec<_> = counts_beside_sent().map(|name| (name, wanted(name))).collect();
        assert_eq!(found, expected, "{what}");
    }
}
