//! Reading a file of `--json`. No number in it can break a calculation.

use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use super::document::Document;
use super::intervals::Interval;
use super::report::{Report, SCHEMA, VERSION};
use super::series::SERIES_SCHEMA;
use crate::model::spans::LENGTHS;

/// Why a file can't be read as a report.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    File(#[from] std::io::Error),
    #[error("not a report that `blaster --json` wrote: {0}")]
    Json(#[from] serde_json::Error),
    #[error("not a report of blaster, but {0:?}")]
    Schema(String),
    #[error(
        "a report of version {0}, this blaster reads version {VERSION}: let the same blaster write and read"
    )]
    Version(u32),
    #[error("not what blaster writes: {0}")]
    Implausible(String),
}

/// Reads a file of `--json`.
pub(crate) fn read(path: &Path) -> Result<Document, ReadError> {
    parse(&std::fs::read(path)?)
}

/// Reads the text of such a file. Its numbers are added and multiplied later, so a number that blaster could not have
/// measured is an error here.
pub(crate) fn parse(text: &[u8]) -> Result<Document, ReadError> {
    #[derive(Deserialize)]
    struct Kind {
        schema: String,
        version: u32,
    }
    let kind: Kind = serde_json::from_slice(text)?;
    let document = match (kind.schema.as_str(), kind.version) {
        (SCHEMA | SERIES_SCHEMA, version) if version != VERSION => return Err(ReadError::Version(version)),
        (SCHEMA, _) => Document::Run(serde_json::from_slice(text)?),
        (SERIES_SCHEMA, _) => Document::Series(serde_json::from_slice(text)?),
        _ => return Err(ReadError::Schema(kind.schema)),
    };
    check_numbers("", &serde_json::from_slice(text)?)?;
    for report in document.runs() {
        report.measured_from()?;
        let is_implausible = |interval: &&Interval| {
            let Interval { second, seconds, .. } = **interval;
            second > SECONDS_MAX || !LENGTHS.contains(&seconds) || second % seconds > 0
        };
        if let Some(interval) = report.intervals.iter().find(is_implausible) {
            let Interval { second, seconds, .. } = interval;
            return Err(ReadError::Implausible(format!("an interval of {seconds} s at second {second}")));
        }
    }
    Ok(document)
}

impl Report {
    /// The intended send time of the first measured datagram.
    pub(crate) fn measured_from(&self) -> Result<SystemTime, ReadError> {
        let implausible = || ReadError::Implausible(format!("started_at {:?}", self.started_at));
        let started_at = humantime::parse_rfc3339(&self.started_at).map_err(|_| implausible())?;
        started_at.checked_add(Duration::from_nanos(self.load.warmup_ns)).ok_or_else(implausible)
    }
}

/// The longest run: ten years.
const SECONDS_MAX: u64 = 10 * 366 * 86_400;
/// The same for names that end in `_ns`.
const TIME_NS_MAX: f64 = SECONDS_MAX as f64 * 1e9;
/// The limit of all other numbers: every reader reads them exactly, and no run has more.
const NUMBER_MAX: f64 = (1_u64 << 53) as f64;

/// Checks that blaster could have measured every number in `value`, the field `name`.
fn check_numbers(name: &str, value: &serde_json::Value) -> Result<(), ReadError> {
    use serde_json::Value;
    match value {
        Value::Object(fields) => fields.iter().try_for_each(|(name, value)| check_numbers(name, value)),
        Value::Array(values) => values.iter().try_for_each(|value| check_numbers(name, value)),
        // no calculation uses it, and --seed takes any number
        Value::Number(_) if name == "seed" => Ok(()),
        Value::Number(number) => {
            let most = if name.ends_with("_ns") { TIME_NS_MAX } else { NUMBER_MAX };
            // NaN is not within the limit
            let within = number.as_f64().is_some_and(|number| number.abs() <= most);
            if within { Ok(()) } else { Err(ReadError::Implausible(format!("{name} {number}"))) }
        }
        _ => Ok(()),
    }
}
