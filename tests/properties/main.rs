//! Properties that hold for any input from outside. Each module has a function `check` that takes any input and panics if
//! a property is violated; most of them compare with a second, slow implementation. `cargo test` feeds them the inputs in
//! `corpus/` and random ones. The fuzz targets in fuzz/ use this file as their library.

#![allow(dead_code)] // of the parts of the programs below not everything is used
#![allow(unreachable_pub)] // fuzz/ reaches it

#[path = "../../src/echo/udp/group.rs"]
mod group;
#[path = "../../src/service/options.rs"]
mod options;
#[path = "../../src/bin/blaster/judge"]
mod judge {
    pub(crate) mod fail_if;
}
#[path = "../../src/bin/blaster/report"]
mod report {
    pub(crate) mod compile;
    pub(crate) mod names;
    pub(crate) mod replies;
    #[cfg(test)]
    pub(crate) mod sample;
    #[allow(unused_imports)] // of its re-exports not all are used here
    pub(crate) mod schema;
}
#[path = "../../src/bin/blaster/model"]
mod model {
    pub(crate) mod counts;
    pub(crate) mod draw;
    pub(crate) mod dscp;
    pub(crate) mod flow_label;
    pub(crate) mod host_name;
    pub(crate) mod icmp;
    pub(crate) mod latency;
    pub(crate) mod no_hosts;
    pub(crate) mod outages;
    pub(crate) mod outcomes;
    pub(crate) mod pacer;
    pub(crate) mod packet_options;
    pub(crate) mod payload;
    pub(crate) mod plan;
    pub(crate) mod quantity;
    pub(crate) mod rate_curve;
    pub(crate) mod receive_clock;
    pub(crate) mod recording;
    pub(crate) mod reply_headers;
    pub(crate) mod results;
    pub(crate) mod server_counts;
    pub(crate) mod source;
    pub(crate) mod spans;
    pub(crate) mod summary;
    pub(crate) mod tallies;
    pub(crate) mod target;
    pub(crate) mod targets;
    pub(crate) mod timeline;
    pub(crate) mod timetable;
    pub(crate) mod units;
    pub(crate) mod visits;
    pub(crate) mod watchlist;
}
// these modules expect the library's modules here
use tubular_echo::{check, console, health, kernel, policy, service, sockets, values};

mod input;

pub mod ancillary;
pub mod conditions;
pub mod datagram;
pub mod durations;
pub mod judgement;
pub mod numbers;
pub mod schedule;
pub mod targets;
pub mod trains;

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod generated;
