//! Datagrams in a receive queue, and the bytes that a multishot RECVMSG writes for them.

use std::net::SocketAddr;

use super::flow::Datagram;
use crate::kernel::addr::RawAddr;
use crate::simulation::abi;

/// The defect of an arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::simulation) enum Flaw {
    PayloadTruncated,
    ControlTruncated,
    NoDestination,
}

/// A datagram, or a train of them.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) flow: usize,
    pub(super) datagrams: Vec<Datagram>,
    pub(super) flaw: Option<Flaw>,
}

impl Arrival {
    /// Appends the control messages: original destination, hop limit, traffic class, and the datagrams' size in a train.
    pub(super) fn push_control(&self, origdst: SocketAddr, control: &mut Vec<u8>) {
        let (hops, class) =
            (i32::from(self.datagrams[0].hops).to_ne_bytes(), self.datagrams[0].traffic_class);
        let is_addressed = self.flaw != Some(Flaw::NoDestination);
        let name = RawAddr::from(origdst);
        match origdst {
            SocketAddr::V4(_) => {
                if is_addressed {
                    abi::push_control(control, libc::SOL_IP, libc::IP_ORIGDSTADDR, name.as_bytes());
                }
                abi::push_control(control, libc::SOL_IP, libc::IP_TTL, &hops);
                abi::push_control(control, libc::SOL_IP, libc::IP_TOS, &[class]);
            }
            SocketAddr::V6(_) => {
                if is_addressed {
                    abi::push_control(control, libc::SOL_IPV6, libc::IPV6_ORIGDSTADDR, name.as_bytes());
                }
                abi::push_control(control, libc::SOL_IPV6, libc::IPV6_HOPLIMIT, &hops);
                let class = i32::from(class).to_ne_bytes();
                abi::push_control(control, libc::SOL_IPV6, libc::IPV6_TCLASS, &class);
            }
        }
        if self.datagrams.len() > 1 {
            let bytes = self.datagrams[0].bytes as i32;
            abi::push_control(control, libc::SOL_UDP, libc::UDP_GRO, &bytes.to_ne_bytes());
        }
    }

    /// The bytes of a buffer: `struct io_uring_recvmsg_out`, the peer's name, control messages, payload.
    pub(super) fn received(&self, peer: SocketAddr, control: &[u8], payload: &[u8]) -> Vec<u8> {
        let message_flags = match self.flaw {
            Some(Flaw::PayloadTruncated) => libc::MSG_TRUNC,
            Some(Flaw::ControlTruncated) => libc::MSG_CTRUNC,
            Some(Flaw::NoDestination) | None => 0,
        };
        let name = RawAddr::from(peer);
        let mut received = Vec::with_capacity(payload.len() + 560);
        let lengths = [name.as_bytes().len(), control.len(), payload.len(), message_flags as usize];
        received.extend(lengths.iter().flat_map(|length| (*length as u32).to_ne_bytes()));
        received.extend(name.as_bytes());
        received.resize(16 + 32, 0);
        received.extend(control);
        received.resize(16 + 32 + 512, 0);
        received.extend(payload);
        received
    }
}
