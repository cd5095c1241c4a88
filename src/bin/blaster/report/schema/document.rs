//! The content of one file: a report, or several.

use serde::Serialize;

use super::report::Report;
use super::series::Series;

/// The content of one JSON file.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub(crate) enum Document {
    Run(Box<Report>),
    Series(Box<Series>),
}

impl Document {
    pub(crate) fn runs(&self) -> Vec<&Report> {
        match self {
            Self::Run(report) => vec![report],
            Self::Series(series) => series.runs.iter().map(|run| &run.report).collect(),
        }
    }

    pub(crate) fn runs_mut(&mut self) -> Vec<&mut Report> {
        match self {
            Self::Run(report) => vec![report],
            Self::Series(series) => series.runs.iter_mut().map(|run| &mut run.report).collect(),
        }
    }
}
