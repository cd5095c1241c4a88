//! Properties that hold for any input from outside. Each module has a function `check` that takes any input and panics if
//! a property is violated; most of them compare with a second, slow implementation. `cargo test` feeds them the inputs in
//! `corpus/` and random ones. The fuzz targets in fuzz/ use this file as their library.

#![allow(dead_code)] // of the parts of the programs below not everything is used
#![allow(unreachable_pub)] // fuzz/ reaches it

#[path = "../../src/bin/blaster/books.rs"]
mod books;
#[path = "../../src/bin/blaster/compile.rs"]
mod compile;
#[path = "../../src/bin/blaster/draw.rs"]
mod draw;
#[path = "../../src/echo/udp/group.rs"]
mod group;
#[path = "../../src/bin/blaster/latency.rs"]
mod latency;
#[path = "../../src/bin/blaster/objective.rs"]
mod objective;
#[path = "../../src/service/options.rs"]
mod options;
#[path = "../../src/bin/blaster/pacer.rs"]
mod pacer;
#[path = "../../src/bin/blaster/payload.rs"]
mod payload;
#[path = "../../src/bin/blaster/quantity.rs"]
mod quantity;
#[path = "../../src/bin/blaster/report.rs"]
mod report;
#[cfg(test)]
#[path = "../../src/bin/blaster/sample.rs"]
mod sample;
#[path = "../../src/bin/blaster/schema.rs"]
mod schema;
#[path = "../../src/bin/blaster/search.rs"]
mod search;
#[path = "../../src/bin/blaster/tally.rs"]
mod tally;
#[path = "../../src/bin/blaster/target.rs"]
mod target;
#[path = "../../src/bin/blaster/timeline.rs"]
mod timeline;
#[path = "../../src/bin/blaster/verdict.rs"]
mod verdict;
#[path = "../../src/bin/blaster/warnings.rs"]
mod warnings;
// these modules expect the library's modules here
use tubular_echo::{check, kernel, policy, service, sockets, values};

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
