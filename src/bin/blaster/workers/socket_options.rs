//! The socket options of `--dscp`, `--ttl`, `--flow-label`, `--dont-fragment`, `--interface` and `--mark`.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use tubular_echo::kernel::addr::Domain;
use tubular_echo::kernel::sys::{self, IntOption};

use crate::model::flow_label::FlowLabel;
use crate::model::packet_options::PacketOptions;

/// The kernel refused an option.
#[derive(Debug, thiserror::Error)]
#[error("{option}: {error}; {cure}")]
pub(crate) struct SocketOptionError {
    /// As on the command line.
    option: String,
    error: io::Error,
    cure: &'static str,
}

impl SocketOptionError {
    /// What the kernel said.
    pub(crate) fn into_inner(self) -> io::Error {
        self.error
    }
}

/// Sets all options on a socket that sends to `peer`.
pub(crate) fn set(
    socket: BorrowedFd<'_>,
    peer: SocketAddr,
    options: &PacketOptions,
) -> Result<(), SocketOptionError> {
    set_route(socket, options)?;
    let (class, hops, discover) = match Domain::of(peer) {
        Domain::Ipv4 => (IntOption::TOS_V4, IntOption::HOPS_V4, IntOption::MTU_DISCOVER_V4),
        Domain::Ipv6 => (IntOption::CLASS_V6, IntOption::HOPS_V6, IntOption::MTU_DISCOVER_V6),
    };
    if let Some(dscp) = options.dscp {
        sys::set_option(socket, class, dscp.class().into())
            .map_err(failed(format!("--dscp {}", dscp.number()), "leave it out"))?;
    }
    if let Some(ttl) = options.ttl {
        sys::set_option(socket, hops, ttl.into()).map_err(failed(format!("--ttl {ttl}"), "leave it out"))?;
    }
    if let (Some(label), Domain::Ipv6) = (options.flow_label, Domain::of(peer)) {
        let (option, value) = match label {
            FlowLabel::Fixed(0) => (IntOption::AUTO_FLOW_LABEL, 0),
            _ => (IntOption::FLOW_LABEL_OF_ADDRESS, 1),
        };
        sys::set_option(socket, option, value)
            .map_err(failed(format!("--flow-label {label}"), "leave it out"))?;
    }
    if options.dont_fragment {
        sys::set_option(socket, discover, IntOption::MTU_DISCOVER_ALWAYS)
            .map_err(failed("--dont-fragment".into(), "leave it out"))?;
    }
    Ok(())
}

/// Tries whether the kernel accepts flow labels. It refuses all that nobody holds, as long as a program of this network
/// namespace holds one for itself alone. This sends nothing.
pub(crate) fn check_flow_label(options: &PacketOptions) -> Result<(), SocketOptionError> {
    let Some(label) = options.flow_label else { return Ok(()) };
    let peer = SocketAddr::from((Ipv6Addr::LOCALHOST, 1));
    let tried = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).and_then(|socket| {
        sys::set_option(socket.as_fd(), IntOption::FLOW_LABEL_OF_ADDRESS, 1)?;
        label.labels(0).map_or(Ok(()), |labels| socket.connect(labels.put_on(peer, 0)))
    });
    match tried {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Err(failed(
            format!("--flow-label {label}"),
            "another program holds a label for itself alone (`cat /proc/net/ip6_flowlabel` shows it): end it and wait a \
             minute, or leave --flow-label out",
        )(error)),
        // what else is wrong is no fault of labels, and the sockets of the run tell it
        _ => Ok(()),
    }
}

/// Sets the options that choose a route. A socket that asks the kernel for its way needs them, too.
pub(crate) fn set_route(socket: BorrowedFd<'_>, options: &PacketOptions) -> Result<(), SocketOptionError> {
    if let Some(name) = options.interface {
        let index = name.0.index().map(|index| index as i32);
        index.and_then(|index| sys::set_option(socket, IntOption::BOUND_INTERFACE, index)).map_err(|error| {
            let cure = match error.raw_os_error() {
                Some(libc::EPERM) => {
                    "before Linux 5.7 that needs CAP_NET_RAW: run blaster as root, or `setcap cap_net_raw+ep` its file"
                }
                _ => "`ip link` shows the interfaces",
            };
            failed(format!("--interface {}", name.0), cure)(error)
        })?;
    }
    if let Some(mark) = options.mark {
        sys::set_option(socket, IntOption::MARK, mark as i32).map_err(failed(
            format!("--mark {mark:#x}"),
            "that needs CAP_NET_ADMIN: run blaster as root, or `setcap cap_net_admin+ep` its file",
        ))?;
    }
    Ok(())
}

/// Has the kernel tell the DSCP, the ECN bits and the TTL with each datagram.
pub(crate) fn read_headers(socket: BorrowedFd<'_>, peer: SocketAddr) -> io::Result<()> {
    let (class, hops) = match Domain::of(peer) {
        Domain::Ipv4 => (IntOption::RECEIVE_TOS_V4, IntOption::RECEIVE_HOPS_V4),
        Domain::Ipv6 => (IntOption::RECEIVE_CLASS_V6, IntOption::RECEIVE_HOPS_V6),
    };
    sys::set_option(socket, class, 1)?;
    sys::set_option(socket, hops, 1)
}

fn failed(option: String, cure: &'static str) -> impl FnOnce(io::Error) -> SocketOptionError {
    move |error| SocketOptionError { option, error, cure }
}
