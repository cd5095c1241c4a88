//! `icmp_errors`, `refusals`: what the network and the local kernel answered.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::model::icmp;

/// ICMP errors of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct IcmpErrors {
    /// The sender of the reports.
    pub(crate) from: String,
    /// The destination of the datagrams.
    pub(crate) about: String,
    pub(crate) icmp_type: u8,
    pub(crate) icmp_code: u8,
    pub(crate) count: u64,
}

impl IcmpErrors {
    /// What they say, as in `port unreachable`.
    pub(crate) fn meaning(&self) -> String {
        let is_ipv4 = self.from.parse().is_ok_and(|from: IpAddr| from.is_ipv4());
        icmp::meaning(is_ipv4, self.icmp_type, self.icmp_code)
    }
}

/// Local errors of one kind.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct LocalErrors {
    pub(crate) errno: i32,
    /// The meaning of the errno, and often the cure.
    pub(crate) message: String,
    /// The number of datagrams or connections.
    pub(crate) count: u64,
}
