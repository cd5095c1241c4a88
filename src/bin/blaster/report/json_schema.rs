//! docs/blaster-report.schema.json: the JSON Schema of everything that blaster writes as JSON, made from the types. So
//! nobody has to read these types to use it, and it can't differ from them.

use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use crate::report::interval_line::IntervalLine;
use crate::report::mtu::MtuReport;
use crate::report::schema::{Report, Series};

/// The file, and the command that renews it.
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/blaster-report.schema.json");
const RENEW: &str = "RENEW=1 cargo test --locked --bin blaster json_schema";

/// One schema for all documents: a reader knows them by their field `schema`.
fn schema() -> Value {
    let mut generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    let documents = [
        generator.subschema_for::<Report>(),
        generator.subschema_for::<Series>(),
        generator.subschema_for::<IntervalLine>(),
        generator.subschema_for::<MtuReport>(),
    ];
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What blaster writes as JSON",
        "description": "A report of one run (--json), several runs (--json with --steps or --find-max), a line of --jsonl, or the result of blaster mtu (its --json). Times are in \
            nanoseconds, and their names end in _ns. Counts are of datagrams (TCP: of messages). Within a version, fields \
            are only added.",
        "oneOf": documents,
        "$defs": generator.take_definitions(true),
    })
}

#[test]
fn the_file_is_made_from_the_types() {
    let made = format!("{:#}\n", schema());
    if std::env::var_os("RENEW").is_some() {
        std::fs::write(FILE, &made).expect("write the schema");
    }
    let found = std::fs::read_to_string(FILE).unwrap_or_default();
    let differs =
        made.lines().zip(found.lines().chain(std::iter::repeat(""))).find(|(made, found)| made != found);
    assert!(made == found, "{FILE} is not made from the types any more: {differs:?}; renew it by `{RENEW}`");
}

/// Its readers do not see the code.
#[test]
fn links_of_rust_are_not_in_it() {
    let text = schema().to_string();
    let link = text.find("[`").map(|at| &text[at..(at + 60).min(text.len())]);
    assert_eq!(link, None, "a comment of a field names an item of the code");
}
