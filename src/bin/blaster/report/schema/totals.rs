//! `totals`: the counts of the measured time.

use serde::{Deserialize, Serialize};

use crate::model::counts::Counts;

/// The counts of all measured seconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Totals {
    #[serde(flatten)]
    pub(crate) counts: Counts,
    /// Datagrams that blaster's own sockets dropped: their buffers were full. They count as lost.
    pub(crate) own_drops: u64,
    /// The mean distance by which reordered datagrams were overtaken.
    pub(crate) reorder_distance_mean: f64,
    pub(crate) reorder_distance_max: u64,
    pub(crate) sent_per_s: f64,
    /// Right replies per second.
    pub(crate) ok_per_s: f64,
}
