//! `fail_if`: the conditions of `--fail-if`.

use serde::{Deserialize, Serialize};

/// The result of one condition of `--fail-if`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ConditionResult {
    /// As in the command line.
    pub(crate) condition: String,
    pub(crate) measured: String,
    /// Whether the condition holds; then the run has failed.
    pub(crate) failed: bool,
}
