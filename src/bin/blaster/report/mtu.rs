//! The result of `blaster mtu` as data: the JSON of its `--json`.

use serde::{Deserialize, Serialize};

use crate::report::names::NamedHost;
use crate::report::schema::{ConditionResult, Host, PacketLoad, VERSION, command_line};

/// The name of the format.
pub(crate) const SCHEMA: &str = "blaster-mtu";

/// The path MTUs of one call.
// one field for each part of the JSON
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct MtuReport {
    /// The name of the format.
    #[cfg_attr(test, schemars(extend("const" = SCHEMA)))]
    pub(crate) schema: String,
    /// The version of the format. Within a version, fields are only added.
    #[cfg_attr(test, schemars(extend("const" = VERSION)))]
    pub(crate) version: u32,
    /// The version of blaster.
    pub(crate) blaster: String,
    /// The arguments of blaster.
    pub(crate) command_line: Vec<String>,
    /// RFC 3339, UTC.
    pub(crate) started_at: String,
    pub(crate) host: Host,
    pub(crate) load: MtuLoad,
    pub(crate) elapsed_ns: u64,
    /// Whether a signal ended it.
    pub(crate) ended_early: bool,
    /// The smallest path MTU of all paths. `null`: nothing came back on one of them.
    pub(crate) mtu: Option<u32>,
    /// One for each flow.
    pub(crate) paths: Vec<PathMtu>,
    /// What a reader must know.
    pub(crate) warnings: Vec<String>,
    /// The conditions of `--fail-if`.
    pub(crate) fail_if: Vec<ConditionResult>,
}

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct MtuLoad {
    /// As in the command line.
    pub(crate) targets: Vec<String>,
    /// The names among them.
    pub(crate) names: Vec<NamedHost>,
    /// The number that marks the datagrams.
    pub(crate) run_id: String,
    /// The seed of random choices, as digits: it may be larger than the numbers that every reader of JSON reads exactly.
    pub(crate) seed: String,
    /// Flows to each target.
    pub(crate) flows: u32,
    /// As in `--source`.
    pub(crate) source: Option<String>,
    #[serde(flatten)]
    pub(crate) packets: PacketLoad,
    /// The longest wait for a reply.
    pub(crate) timeout_ns: u64,
}

impl MtuReport {
    /// The result of this call of blaster.
    pub(crate) fn new(load: MtuLoad, host: Host, started_at: String, paths: Vec<PathMtu>) -> Self {
        Self {
            schema: SCHEMA.into(),
            version: VERSION,
            blaster: env!("CARGO_PKG_VERSION").into(),
            command_line: command_line(),
            started_at,
            host,
            load,
            elapsed_ns: 0,
            ended_early: false,
            mtu: paths.iter().map(|path| path.mtu).min().flatten(),
            paths,
            warnings: Vec::new(),
            fail_if: Vec::new(),
        }
    }
}

/// The path MTU of one flow. Sizes are those of packets: with the headers of IP and UDP, 28 bytes, for IPv6 48.
// one field for each part of the JSON
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct PathMtu {
    pub(crate) destination: String,
    pub(crate) source: String,
    /// The largest packet that reached the destination, and whose reply came back in one piece. `null`: nothing came back.
    pub(crate) mtu: Option<u32>,
    /// The payload of that packet.
    pub(crate) datagram_bytes: Option<u32>,
    /// Whether the next larger packet does not pass: an error says so, or chance does not explain the silence.
    pub(crate) settled: bool,
    pub(crate) limit: Limit,
    /// The way that has the limit. `null`: that is not known.
    pub(crate) way: Option<Way>,
    /// The largest packet that reached the destination in one piece: a reply came, if only in fragments.
    pub(crate) there: Option<u32>,
    /// The largest packet, or fragment, that came back. Its request may have travelled in fragments.
    pub(crate) back: Option<u32>,
    /// The largest fragment of a reply that came in fragments.
    pub(crate) fragment_bytes: Option<u32>,
    /// Packets of that size.
    pub(crate) at_mtu: Option<Tries>,
    /// The smallest larger packets that did not pass.
    pub(crate) above: Option<Tries>,
    /// ICMP messages about packets that were too large, by their sender and the MTU that they tell.
    pub(crate) told: Vec<ToldMtu>,
    /// Other errors, the last one: ICMP messages, and what this host refused.
    pub(crate) error: Option<String>,
    /// What this host believes now: the MTU of its route, or what an ICMP message told it. `null`: it does not tell.
    pub(crate) host_mtu: Option<u32>,
    /// Datagrams sent.
    pub(crate) sent: u32,
    /// The shortest round trip. `null`: nothing came back.
    pub(crate) round_trip_ns: Option<u64>,
}

/// Why a larger packet does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Limit {
    /// The interface of this host: it sends no larger packet, so the path may carry more.
    Interface,
    /// A router told the MTU of its next link by ICMP.
    Router,
    /// A router said by ICMP that the packet is too large, but not this MTU.
    RouterWithAnotherMtu,
    /// Larger packets, or their replies, vanish: a black hole.
    Silence,
    /// Replies come in fragments.
    Fragments,
    /// Replies have other bytes, or fewer.
    Damage,
    /// No larger UDP datagram exists.
    Largest,
    /// The search ended before it was known.
    Unknown,
    /// Nothing came back.
    NoAnswer,
}

/// One of the two ways of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Way {
    There,
    Back,
}

/// The packets of one size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Tries {
    /// The size.
    pub(crate) packet: u32,
    pub(crate) sent: u32,
    /// Replies in one piece.
    pub(crate) whole: u32,
    /// Replies in fragments.
    pub(crate) in_fragments: u32,
    /// Replies with other bytes, or fewer.
    pub(crate) damaged: u32,
    /// ICMP messages that say that it is too large.
    pub(crate) told: u32,
    /// Whether this host does not send it, because its interface has a smaller MTU.
    pub(crate) refused: bool,
}

/// ICMP messages about packets that were too large.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ToldMtu {
    /// Their sender.
    pub(crate) from: String,
    /// The MTU that they tell; 0: they tell none.
    pub(crate) mtu: u32,
    /// The smallest packet that they are about.
    pub(crate) about: u32,
    /// How many came to this flow; 0: another flow to the destination got them.
    pub(crate) count: u32,
}
