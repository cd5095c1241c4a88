//! The socket of a flow. It is unconnected: a connected socket would hide a reply from a wrong source, and the reply
//! would count as lost.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use tubular_echo::kernel::sys::{self, IntOption, Protocol};

use crate::model::local_limits::RECEIVE_BUFFER_BYTES;
use crate::model::packet_options::PacketOptions;
use crate::model::source::SourceNotLocal;
use crate::udp::error::UdpError;
use crate::udp::flow::Flow;
use crate::udp::plan::Plan;
use crate::workers::route::{self, RouteError, any};
use crate::workers::socket_options;

pub(super) struct OpenSocket {
    pub(super) socket: UdpSocket,
    pub(super) port: u16,
    pub(super) receive_buffer_bytes: u64,
}

/// Opens the socket of `flow` on a port of the kernel's choice, but not on a port that the flow sends to.
pub(super) fn open(flow: &Flow, plan: &Plan, gro: bool) -> Result<OpenSocket, UdpError> {
    // the unfit sockets stay open until a fit one is found, so that the kernel chooses other ports
    const TRIES_MAX: usize = 8;
    let mut unfit = Vec::new();
    loop {
        let made = open_once(flow, plan, gro)?;
        if flow.can_send_from(plan, made.port) {
            return Ok(made);
        }
        // if all ports are visited, other flows visit that of this one
        if unfit.len() == TRIES_MAX && plan.traffic.visits.is_some() {
            return Ok(made);
        }
        if unfit.len() == TRIES_MAX {
            let error = io::ErrorKind::AddrInUse.into();
            return Err(UdpError::NoPort { peer: flow.home(), error });
        }
        unfit.push(made);
    }
}

fn open_once(flow: &Flow, plan: &Plan, gro: bool) -> Result<OpenSocket, UdpError> {
    let peer = flow.home();
    let failed = |step| move |error: io::Error| UdpError::Socket { step, error };
    let local = match flow.source(plan) {
        Some(source) => source,
        // there may be no way to the first of many destinations
        None if plan.traffic.visits.is_some() => any(peer),
        // sprayed destinations may need different local addresses
        None if plan.traffic.targets.spray() => local_addr(peer, &plan.traffic.packets).map(|_| any(peer))?,
        None => local_addr(peer, &plan.traffic.packets)?,
    };
    let socket = sys::socket(Protocol::Udp, peer).map_err(failed("opening a socket"))?;
    let fd = socket.as_fd();
    socket_options::set(fd, peer, &plan.traffic.packets)?;
    if plan.traffic.packets.reads_headers() {
        socket_options::read_headers(fd, peer).map_err(failed("asking for the headers of replies"))?;
    }
    if peer.is_ipv6() {
        sys::set_option(fd, IntOption::ONLY_V6, 1).map_err(failed("setting IPV6_V6ONLY"))?;
    }
    let errors = if peer.is_ipv4() { IntOption::RECEIVE_ERRORS_V4 } else { IntOption::RECEIVE_ERRORS_V6 };
    sys::set_option(fd, errors, 1).map_err(failed("asking for ICMP errors"))?;
    if gro {
        sys::set_option(fd, IntOption::GRO, 1).map_err(failed("setting UDP_GRO (try --gro off)"))?;
    }
    if let Some(flags) = plan.receive_time.flags() {
        let step = "asking for receive times (try --receive-time own)";
        sys::set_option(fd, IntOption::TIMESTAMPING, flags).map_err(failed(step))?;
    }
    if plan.train > 1 {
        let size_bytes = flow.size_bytes().expect("a flow that sends trains has one size") as i32;
        sys::set_option(fd, IntOption::SEGMENT, size_bytes).map_err(failed("setting UDP_SEGMENT"))?;
    }
    let receive_buffer_bytes = enlarge(fd).map_err(failed("reading SO_RCVBUF"))?;
    sys::bind(fd, local).map_err(|error| match &plan.traffic.source {
        _ if is_out_of_ports(&error) => UdpError::NoPort { peer, error },
        Some(_) => SourceNotLocal { local: local.ip(), error }.into(),
        None => failed("binding a socket to a free port")(error),
    })?;
    let port = sys::local_addr(fd).map_err(failed("reading a socket's address"))?.port();
    Ok(OpenSocket { socket: socket.into(), port, receive_buffer_bytes })
}

/// The local address, with port 0, that the routing table chooses for `peer`. The kernel need not choose again for each
/// datagram of a socket that is bound to it. This sends nothing.
pub(crate) fn local_addr(peer: SocketAddr, packets: &PacketOptions) -> Result<SocketAddr, UdpError> {
    let refused = |error: io::Error| match error.raw_os_error() {
        _ if is_out_of_ports(&error) => UdpError::NoPort { peer, error },
        // connect(2): a broadcast address, and the socket has no SO_BROADCAST
        Some(libc::EACCES) => UdpError::Broadcast { peer, error },
        _ => UdpError::NoRoute { peer, error, by: packets.route_words() },
    };
    route::local_addr(peer, packets).map_err(|error| match error {
        RouteError::Option(error) => error.into(),
        RouteError::Refused(error) => refused(error),
    })
}

/// Whether the kernel has no free port: bind(2) and connect(2) report that differently.
pub(crate) fn is_out_of_ports(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EADDRINUSE | libc::EAGAIN))
}

/// Asks for a large receive buffer, above the host's limit if blaster has the privilege. Returns its real size.
pub(crate) fn enlarge(socket: BorrowedFd<'_>) -> io::Result<u64> {
    if sys::set_option(socket, IntOption::RECEIVE_BUFFER_FORCE, RECEIVE_BUFFER_BYTES).is_err() {
        sys::set_option(socket, IntOption::RECEIVE_BUFFER, RECEIVE_BUFFER_BYTES)?;
    }
    Ok(sys::option(socket, IntOption::RECEIVE_BUFFER)? as u64)
}
