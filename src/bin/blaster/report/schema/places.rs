//! `destinations`, `sources`, `outages`: addresses, and what is wrong with them.

use serde::{Deserialize, Serialize};

use crate::model::counts::{Fault, Tally};

/// So many entries has a list of faults.
pub(crate) const FAULTS_MAX: usize = 1_000;

/// Destinations, or sources. Each is a pair of address and port (a source: an address), and has one fault at most. If
/// several fit, the first of these counts: misdirected, corrupted, silent, lossy, late, unsendable.
// one field for each part of the JSON
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Places {
    /// Those that something was sent to, or that blaster tried to connect to; with `only_faults` those with faults.
    pub(crate) visited: u64,
    /// Those that `--each-once` did not come to, since the run was ended early.
    pub(crate) not_visited: u64,
    /// Only destinations with faults are known, and not what was sent to them: `--spray` had more than 65,536 to draw from.
    /// Then those that nothing came back from are among the lossy ones.
    #[serde(default)]
    pub(crate) only_faults: bool,
    /// Which of all destinations `--each-once` visited. `null`: all, or no `--each-once`.
    pub(crate) sample: Option<String>,
    /// Without a fault.
    pub(crate) ok: u64,
    /// A reply came from another address or port.
    pub(crate) misdirected: u64,
    /// A reply was corrupted or truncated.
    pub(crate) corrupted: u64,
    /// Nothing came back, whether or not an ICMP report or a refused connection said why.
    pub(crate) silent: u64,
    /// Some of what was sent had no answer.
    pub(crate) lossy: u64,
    /// A reply came after the timeout.
    pub(crate) late: u64,
    /// The local kernel refused to send there.
    pub(crate) unsendable: u64,
    /// Those with faults, summed up, the worst first; at most 1,000.
    pub(crate) faults: Vec<FaultyPlaces>,
    /// The number of those with faults that `faults` has no room for.
    pub(crate) more: u64,
}

/// Destinations, or sources, with one fault. Prefixes hold no visited address without it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct FaultyPlaces {
    /// In words: `192.0.2.77:1234` or `192.0.2.128/27, all ports`.
    pub(crate) place: String,
    pub(crate) prefix: String,
    /// `1234` or `5000-5003,6000`. `null`: all visited ports of these addresses, or a source.
    pub(crate) ports: Option<String>,
    pub(crate) fault: Fault,
    /// How many visited destinations (or sources) it stands for.
    pub(crate) visited: u64,
    #[serde(flatten)]
    pub(crate) tally: Tally,
}

/// Destinations by their last message.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Outages {
    /// The number of those whose last message had a right reply in time.
    pub(crate) right: u64,
    /// Those whose last message had none, the longest first; at most 1,000.
    pub(crate) longest: Vec<Outage>,
    /// The number of those that the list has no room for.
    pub(crate) more: u64,
}

/// A destination without a right reply.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Outage {
    pub(crate) destination: String,
    /// Of its last message.
    pub(crate) fault: Fault,
    /// The time since the last message that had a right reply in time was due; without one, since the first message.
    pub(crate) lasts_ns: u64,
}
