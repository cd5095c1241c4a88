//! A flow's socket: unconnected, so that a reply from the wrong source is seen and not hidden as loss.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use tubular_echo::sys::{self, IntOption, Protocol};

use super::UdpError;
use super::flow::{Flow, Plan};

/// Receive buffer asked for, in bytes: the default holds only some 250 small datagrams.
const RECEIVE_BUFFER_BYTES: i32 = 4 << 20;

/// A socket and what it got.
pub(super) struct Made {
    pub(super) socket: UdpSocket,
    pub(super) receive_buffer_bytes: u64,
}

/// Opens the socket of `flow` on a port of the kernel's choice.
pub(super) fn open(flow: &Flow, plan: &Plan, gro: bool) -> Result<Made, UdpError> {
    let peer = flow.home();
    let failed = |step| move |error: io::Error| UdpError::Socket { step, error };
    let socket = sys::socket(Protocol::Udp, peer).map_err(failed("opening a socket"))?;
    let fd = socket.as_fd();
    let (any, errors): (SocketAddr, _) = if peer.is_ipv4() {
        ((Ipv4Addr::UNSPECIFIED, 0).into(), IntOption::RECEIVE_ERRORS_V4)
    } else {
        sys::set_option(fd, IntOption::ONLY_V6, 1).map_err(failed("setting IPV6_V6ONLY"))?;
        ((Ipv6Addr::UNSPECIFIED, 0).into(), IntOption::RECEIVE_ERRORS_V6)
    };
    sys::set_option(fd, errors, 1).map_err(failed("asking for ICMP errors"))?;
    if gro {
        sys::set_option(fd, IntOption::GRO, 1).map_err(failed("setting UDP_GRO (try --gro off)"))?;
    }
    if plan.train > 1 {
        let size_bytes = flow.size_bytes().expect("a flow that sends trains has one size") as i32;
        sys::set_option(fd, IntOption::SEGMENT, size_bytes).map_err(failed("setting UDP_SEGMENT"))?;
    }
    let receive_buffer_bytes = enlarge(fd).map_err(failed("reading SO_RCVBUF"))?;
    sys::bind(fd, any).map_err(failed("binding a socket to a free port"))?;
    Ok(Made { socket: socket.into(), receive_buffer_bytes })
}

/// Asks for a large receive buffer, beyond the host's cap where we may; returns what was given.
fn enlarge(socket: BorrowedFd<'_>) -> io::Result<u64> {
    if sys::set_option(socket, IntOption::RECEIVE_BUFFER_FORCE, RECEIVE_BUFFER_BYTES).is_err() {
        sys::set_option(socket, IntOption::RECEIVE_BUFFER, RECEIVE_BUFFER_BYTES)?;
    }
    Ok(sys::option(socket, IntOption::RECEIVE_BUFFER)? as u64)
}

/// Asks the routing table about `peer`; nothing is sent.
pub(super) fn probe(peer: SocketAddr) -> Result<(), UdpError> {
    let any: SocketAddr =
        if peer.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    UdpSocket::bind(any)
        .and_then(|socket| socket.connect(peer))
        .map_err(|error| UdpError::NoRoute { peer, error })
}
