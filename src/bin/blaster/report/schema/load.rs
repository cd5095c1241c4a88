//! `load`: what the run sent, as the command line asked for it.

use serde::{Deserialize, Serialize};

use crate::model::units::counted;
use crate::report::names::NamedHost;

/// The load of a run.
// one field for each part of the JSON
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Load {
    /// `udp` or `tcp`.
    pub(crate) protocol: String,
    /// As in `--mode`.
    pub(crate) mode: String,
    /// As in the command line.
    pub(crate) targets: Vec<String>,
    /// The names among the targets, with their addresses.
    #[serde(default)]
    pub(crate) names: Vec<NamedHost>,
    /// The number that marks the datagrams of the run; after a merge, those of all runs.
    pub(crate) run_ids: Vec<String>,
    /// The seed of random choices: a number, or from 2^53 on a string of its digits, since many readers of JSON do not
    /// read larger numbers exactly. `null`: merged runs had different seeds.
    #[serde(with = "exact")]
    #[cfg_attr(test, schemars(with = "Option<exact::Exact>"))]
    pub(crate) seed: Option<u64>,
    /// Sizes in bytes: `64`, `64-1400` or `64,512`.
    pub(crate) size: String,
    /// Flows (UDP) or connections (TCP).
    pub(crate) flows: u32,
    pub(crate) threads: u32,
    /// The mean rate of the schedule, in datagrams per second. TCP: in messages per second; in the mode `connect`, in new
    /// connections per second. `null`: there is no schedule, or all was due at once.
    pub(crate) rate_per_s: Option<f64>,
    /// As in `--rate`, if the rate changes.
    #[serde(default)]
    pub(crate) rate_curve: Option<String>,
    /// As in `--gaps`. `null`: not set, so gaps are even.
    #[serde(default)]
    pub(crate) gaps: Option<String>,
    /// As in `--burst`.
    #[serde(default)]
    pub(crate) burst: Option<BurstLoad>,
    /// As in `--replay`.
    #[serde(default)]
    pub(crate) replay: Option<ReplayLoad>,
    /// Datagrams (with trains: trains) in flight per flow; closed loop only.
    pub(crate) in_flight: Option<u32>,
    /// Datagrams in a train; UDP only.
    pub(crate) gso: Option<u32>,
    /// Whether trains were received in one piece; UDP only.
    pub(crate) gro: Option<bool>,
    /// Whether each datagram drew a destination; UDP only.
    pub(crate) spray: Option<bool>,
    /// As in `--receive-time`; UDP only.
    #[serde(default)]
    pub(crate) receive_time: Option<String>,
    /// As in `--each-once`.
    #[serde(default)]
    pub(crate) each_once: Option<u32>,
    /// Whether `--duration` is `forever`.
    #[serde(default)]
    pub(crate) is_endless: bool,
    /// As in `--source`.
    #[serde(default)]
    pub(crate) source: Option<String>,
    #[serde(flatten)]
    pub(crate) packets: PacketLoad,
    /// As in `--dont-fragment`.
    #[serde(default)]
    pub(crate) dont_fragment: bool,
    /// A reply after this time is late.
    pub(crate) timeout_ns: u64,
    /// The time before the measurement.
    pub(crate) warmup_ns: u64,
    /// As in `--duration`.
    pub(crate) duration_ns: Option<u64>,
    /// As in `--count`.
    pub(crate) count: Option<u64>,
}

/// The headers of packets, and their way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct PacketLoad {
    /// As in `--dscp`, as a number.
    #[serde(default)]
    pub(crate) dscp: Option<u8>,
    /// As in `--ttl`.
    #[serde(default)]
    pub(crate) ttl: Option<u8>,
    /// As in `--flow-label`: `random`, or a hexadecimal number.
    #[serde(default)]
    pub(crate) flow_label: Option<String>,
    /// As in `--interface`.
    #[serde(default)]
    pub(crate) interface: Option<String>,
    /// As in `--mark`.
    #[serde(default)]
    pub(crate) mark: Option<u32>,
}

impl Load {
    /// Whether each datagram (TCP: each message, or new connection) had an intended send time.
    pub(crate) fn is_scheduled(&self) -> bool {
        self.mode == "open" || self.rate_per_s.is_some() || self.replay.is_some()
    }

    /// Whether the load is new connections.
    pub(crate) fn connects(&self) -> bool {
        self.mode == "connect"
    }

    /// What is sent, as a noun.
    pub(crate) fn unit(&self) -> &'static str {
        if self.protocol == "tcp" { "message" } else { "datagram" }
    }

    /// What a schedule or a rate counts, as a noun.
    pub(crate) fn due_unit(&self) -> &'static str {
        if self.connects() { "connection" } else { self.unit() }
    }

    /// The most datagrams that were due at one time, if these were meant to be many.
    pub(crate) fn together(&self) -> u64 {
        let burst = self.burst.as_ref().map(|burst| burst.datagrams.into());
        burst.or(self.replay.as_ref().map(|replay| replay.together)).unwrap_or(1)
    }

    /// How many flows or connections, in words.
    pub(crate) fn counted_flows(&self) -> String {
        counted(self.flows.into(), if self.protocol == "tcp" { "connection" } else { "flow" })
    }
}

/// Datagrams (TCP: messages, or new connections) that are due together, as in `--burst`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct BurstLoad {
    pub(crate) datagrams: u32,
    /// The time from one burst to the next. `null`: it follows from the rate.
    pub(crate) every_ns: Option<u64>,
}

/// The recording of `--replay`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ReplayLoad {
    pub(crate) file: String,
    pub(crate) datagrams: u64,
    /// The time after which it begins again. `null`: all its datagrams have one time.
    pub(crate) period_ns: Option<u64>,
    /// The most datagrams with one time.
    pub(crate) together: u64,
}

/// A number that every reader of JSON reads exactly.
mod exact {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// From here on two whole numbers may be the same `double`.
    const DOUBLES_END: u64 = 1 << 53;

    #[derive(Serialize, Deserialize)]
    #[cfg_attr(test, derive(schemars::JsonSchema))]
    #[serde(untagged)]
    pub(super) enum Exact {
        Number(u64),
        Digits(String),
    }

    #[allow(clippy::ref_option)] // serde calls it so
    pub(super) fn serialize<S: Serializer>(number: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
        let exact = |number| match number {
            0..DOUBLES_END => Exact::Number(number),
            _ => Exact::Digits(number.to_string()),
        };
        number.map(exact).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
        match Option::<Exact>::deserialize(from)? {
            None => Ok(None),
            Some(Exact::Number(number)) => Ok(Some(number)),
            Some(Exact::Digits(digits)) => digits.parse().map(Some).map_err(serde::de::Error::custom),
        }
    }
}
