//! `runs`: several reports in one file.

use serde::{Deserialize, Serialize};

use super::fail_if::ConditionResult;
use super::report::{Report, VERSION, command_line};
use super::search::{SearchResult, Verdict};

/// The name of the format of several runs.
pub(crate) const SERIES_SCHEMA: &str = "blaster-series";

/// Several runs: the steps of one call, or the runs of several files.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Series {
    /// The name of the format.
    #[cfg_attr(test, schemars(extend("const" = SERIES_SCHEMA)))]
    pub(crate) schema: String,
    /// The version of the format. Within a version, fields are only added.
    #[cfg_attr(test, schemars(extend("const" = VERSION)))]
    pub(crate) version: u32,
    /// The version of blaster.
    pub(crate) blaster: String,
    /// The arguments of blaster.
    pub(crate) command_line: Vec<String>,
    /// In the order in which they ran, or in which their files were named.
    pub(crate) runs: Vec<NamedRun>,
    /// The result of `--find-max`. `null`: there was no search.
    pub(crate) found: Option<SearchResult>,
    /// The conditions of `--fail-if` on `found`.
    #[serde(default)]
    pub(crate) fail_if: Vec<ConditionResult>,
}

impl Series {
    /// A series of this call of blaster.
    pub(crate) fn new(runs: Vec<NamedRun>) -> Self {
        Self {
            schema: SERIES_SCHEMA.into(),
            version: VERSION,
            blaster: env!("CARGO_PKG_VERSION").into(),
            command_line: command_line(),
            runs,
            found: None,
            fail_if: Vec::new(),
        }
    }
}

/// One of several runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct NamedRun {
    /// Its rate, or its file.
    pub(crate) name: String,
    pub(crate) report: Report,
    /// The judgement of a run of a search. `null`: the run belongs to no search, or a signal ended it.
    pub(crate) verdict: Option<Verdict>,
    /// Whether the report has no intervals and empty histograms: a search keeps those of 24 runs.
    #[serde(default)]
    pub(crate) summed_up: bool,
}

impl NamedRun {
    /// A run that belongs to no search.
    pub(crate) fn new(name: impl Into<String>, report: Report) -> Self {
        Self { name: name.into(), report, verdict: None, summed_up: false }
    }
}
