//! `intervals`: the measured time, part by part.

use serde::{Deserialize, Serialize};

use crate::model::counts::Counts;
use crate::model::latency::Percentiles;
use crate::model::spans::Span;

/// A part of the measurement: one second, or, if more than five minutes followed, 10 s, 1 min, 10 min, 1 h or a day.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Interval {
    /// The number of its first second, from 0.
    pub(crate) second: u64,
    /// Its length in seconds.
    #[serde(default = "one")]
    pub(crate) seconds: u64,
    /// Of the datagrams with an intended send time in it.
    #[serde(flatten)]
    pub(crate) counts: Counts,
    /// The latency of their right replies, from the intended send time. `null`: there was none.
    pub(crate) latency: Option<Percentiles>,
}

/// The length of an interval in reports of older versions.
fn one() -> u64 {
    1
}

impl Interval {
    /// The seconds of it.
    pub(crate) fn span(&self) -> Span {
        Span { begin: self.second, seconds: self.seconds }
    }
}
