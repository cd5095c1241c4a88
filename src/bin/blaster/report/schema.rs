//! The report as data: the JSON of `--json`, which the table, the page and `--fail-if` read as well.
//!
//! Version 2. Within a version, fields are only added. Times are in nanoseconds, and their names end in `_ns`. Counts are of
//! datagrams (TCP: of messages); their names stand in `model/counts.rs`, percentiles in `model/latency.rs`. `totals` covers
//! the measured time without the warmup, and balances: sent = ok + corrupted + truncated + misdirected + late + lost +
//! unreachable. Each of the `intervals` balances as well: a datagram counts in the interval of its intended send time.
//!
//! Each part of the JSON is a module with its name, or one of these. The types of `replies`, `examples` and of
//! names are in `report::replies`, `model::results` and `report::names`.

mod document; // the content of a file
mod errors; // icmp_errors, refusals
mod fail_if;
mod generator;
mod hosts;
mod intervals;
mod latency;
mod load;
mod places; // destinations, sources, outages
mod read; // from a file; no number in it can break a calculation
mod report; // one run
mod search; // found, verdict: --find-max
mod series; // several runs
mod server;
mod totals;

pub(crate) use self::document::Document;
pub(crate) use self::errors::{IcmpErrors, LocalErrors};
pub(crate) use self::fail_if::ConditionResult;
pub(crate) use self::generator::Generator;
pub(crate) use self::hosts::{Host, distinct_hosts};
pub(crate) use self::intervals::Interval;
pub(crate) use self::latency::Latencies;
pub(crate) use self::load::{BurstLoad, Load, PacketLoad, ReplayLoad};
pub(crate) use self::places::{FAULTS_MAX, FaultyPlaces, Outage, Outages, Places};
#[cfg(test)]
pub(crate) use self::read::parse;
pub(crate) use self::read::{ReadError, read};
pub(crate) use self::report::{Report, SCHEMA, VERSION, command_line};
pub(crate) use self::search::{
    Answer, Bound, BracketEnd, Limit, Objective, RunCounts, SearchEnd, SearchResult, Verdict,
};
pub(crate) use self::series::{NamedRun, Series};
pub(crate) use self::server::{LossesByPlace, Server};
pub(crate) use self::totals::Totals;
