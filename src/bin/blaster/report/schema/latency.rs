//! `latency`: that of the measured time.

use serde::{Deserialize, Serialize};

use crate::model::latency::Percentiles;

/// Latency by its start. `null`: no right reply came.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Latencies {
    /// From the intended send time. Outside the open loop that is the actual one.
    pub(crate) from_intended: Option<Percentiles>,
    /// From the actual send time.
    pub(crate) from_actual: Option<Percentiles>,
}
