//! The options that set headers and ways of what a run sends: `--dscp`, `--ttl`, `--flow-label`, `--dont-fragment`, `--interface`, `--mark`.

use std::str::FromStr;

use clap::Args;
use tubular_echo::sockets::listen_addr::Interface;

use crate::model::dscp::Dscp;
use crate::model::flow_label::FlowLabel;

/// What the sockets of a run ask for.
// one field for each option
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct PacketOptions {
    /// Send with this DSCP: EF, AF41, CS3 or a number from 0 to 63. UDP: the report counts the DSCP and the ECN bits that
    /// replies came with
    #[arg(long, value_name = "DSCP", help_heading = "Packets")]
    pub(crate) dscp: Option<Dscp>,

    /// Send with this TTL (IPv6: hop limit). UDP: the report counts the TTL that replies came with
    #[arg(long, value_name = "HOPS", value_parser = clap::value_parser!(u8).range(1..), help_heading = "Packets")]
    pub(crate) ttl: Option<u8>,

    /// Send with flow labels, IPv6: random (a label of its own for each flow or connection, by --seed), one number for all,
    /// or 0 for none [default: as net.ipv6.auto_flowlabels says]
    #[arg(long, value_name = "random|LABEL", help_heading = "Packets")]
    pub(crate) flow_label: Option<FlowLabel>,

    /// Send nothing in fragments: no router may fragment it, and this host refuses what is larger than the path MTU, which
    /// `blaster mtu` finds
    #[arg(long, help_heading = "Packets")]
    pub(crate) dont_fragment: bool,

    /// Send and receive by this interface only (SO_BINDTODEVICE), whatever the routing table says
    #[arg(long, value_name = "NAME", help_heading = "Packets")]
    pub(crate) interface: Option<InterfaceName>,

    /// Send with this mark, for the rules of this host's routing and filters (SO_MARK); needs CAP_NET_ADMIN
    #[arg(long, value_name = "MARK", value_parser = mark, help_heading = "Packets")]
    pub(crate) mark: Option<u32>,
}

impl PacketOptions {
    /// Whether replies tell what they came with.
    pub(crate) fn reads_headers(&self) -> bool {
        self.dscp.is_some() || self.ttl.is_some()
    }

    /// What `ip route get` needs beside the address to find the same route.
    pub(crate) fn route_words(&self) -> String {
        let interface = self.interface.map(|name| format!(" oif {}", name.0));
        let mark = self.mark.map(|mark| format!(" mark {mark:#x}"));
        [interface, mark].into_iter().flatten().collect()
    }
}

/// The name of an interface. It is looked up when a socket is bound to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InterfaceName(pub(crate) Interface);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PacketOptionError {
    #[error("{0:?} is no name of an interface, which `ip link` shows")]
    Interface(String),
    #[error("{0:?} is no mark: say a number, as in 7 or 0x7")]
    Mark(String),
}

impl FromStr for InterfaceName {
    type Err = PacketOptionError;

    fn from_str(text: &str) -> Result<Self, PacketOptionError> {
        Interface::new(text).map(Self).ok_or_else(|| PacketOptionError::Interface(text.into()))
    }
}

/// A mark, decimal or hexadecimal as in `ip rule` and nft(8).
fn mark(text: &str) -> Result<u32, PacketOptionError> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map_err(|_| PacketOptionError::Mark(text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_decimal_or_hexadecimal() {
        for (text, number) in [("7", 7), ("0x1f", 31), ("0xffffffff", u32::MAX), ("0", 0)] {
            assert_eq!(mark(text), Ok(number));
        }
        for text in ["", "0x", "-1", "7/8", "0x100000000"] {
            assert!(mark(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_of_interfaces_are_checked_before_they_are_looked_up() {
        assert!("eth0".parse::<InterfaceName>().is_ok());
        for text in ["", "an-interface-name-that-is-too-long", "a/b", "a b"] {
            assert!(text.parse::<InterfaceName>().is_err(), "{text}");
        }
    }
}
