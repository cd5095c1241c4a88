//! The plan of a TCP run.

use std::net::SocketAddr;

use crate::model::plan::{Extent, Traffic};

/// What each connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// Send a message, wait for its whole echo, send the next
    PingPong,
    /// Send without waiting, and read at the same time
    Stream,
    /// Connect, send one message, read its echo, close, and start again
    Connect,
}

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) traffic: Traffic,
    pub(crate) extent: Extent,
    pub(crate) mode: Mode,
}

impl Plan {
    /// The destination of connection `id`, and its local address if `--source` sets one.
    pub(crate) fn addresses(&self, id: u32) -> (SocketAddr, Option<SocketAddr>) {
        let peer = self.traffic.targets.of_flow(id);
        (peer, self.traffic.source_of(id, peer))
    }
}
