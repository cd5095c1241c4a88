//! `server`: the part of our server, by `--server-metrics`.

use serde::{Deserialize, Serialize};

use crate::model::server_counts::ServerCounts;

/// The part of our server in a run, with the warmup.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Server {
    /// As in `--server-metrics`.
    pub(crate) url: String,
    /// The version of tubular-echo.
    pub(crate) version: String,
    /// How much its counters grew. `null`: that is not known.
    pub(crate) counts: Option<ServerCounts>,
    /// The reason why it is not known.
    pub(crate) unknown_because: Option<String>,
    /// Datagrams (TCP: bytes) that others sent to it meanwhile, at least.
    pub(crate) from_others: u64,
    /// Its processor time for each reply to a datagram (TCP: for each message that blaster got back).
    pub(crate) cpu_ns_per_echo: Option<f64>,
    /// Where datagrams were lost; UDP only. `null`: others loaded the server, or others answered, too.
    pub(crate) losses: Option<LossesByPlace>,
}

/// Datagrams without a reply, by the place where they were lost. Those that an ICMP error told of are among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct LossesByPlace {
    /// Sent, and not received by the server.
    pub(crate) on_the_way_there: u64,
    /// Received by the server, and not answered.
    pub(crate) in_the_server: u64,
    /// Answered, and the reply did not come.
    pub(crate) on_the_way_back: u64,
}
