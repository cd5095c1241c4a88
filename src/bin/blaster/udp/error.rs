//! The errors of a UDP run.

use std::io;
use std::net::SocketAddr;

use tubular_echo::kernel::ring::{Errno, RingError};

use crate::model::source::SourceNotLocal;
use crate::model::units::counted;
use crate::workers::socket_options::SocketOptionError;

#[derive(Debug, thiserror::Error)]
pub(crate) enum UdpError {
    #[error(
        "{needed} open files are needed for {}, but the limit is {limit}: raise it (`ulimit -n`, LimitNOFILE=) or use fewer --flows",
        counted((*flows).into(), "flow")
    )]
    OpenFiles { flows: u32, needed: u64, limit: u64 },
    #[error("{step}: {error}")]
    Socket { step: &'static str, error: io::Error },
    #[error("no route to {peer}: {error}; see `ip route get {}{by}`", peer.ip())]
    NoRoute { peer: SocketAddr, error: io::Error, by: String },
    #[error(
        "{peer} is broadcast here, or prohibited by a route: {error}; leave it out of the target (`ip route get {}` shows \
         it)",
        peer.ip()
    )]
    Broadcast { peer: SocketAddr, error: io::Error },
    #[error(
        "no local port is free for a flow to {peer}: {error}; use fewer --flows, or send from several addresses \
         (--source), or widen net.ipv4.ip_local_port_range"
    )]
    NoPort { peer: SocketAddr, error: io::Error },
    #[error("ended by a signal")]
    Stopped,
    #[error(transparent)]
    Source(#[from] SourceNotLocal),
    #[error(transparent)]
    Option(#[from] SocketOptionError),
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error("arming a multishot receive: {0}; Linux 6.1 or newer is needed")]
    Arm(Errno),
    #[error("entering the io_uring: {0}")]
    Enter(io::Error),
    #[error("receiving datagrams: {0}")]
    Receive(Errno),
    #[error("starting a thread: {0}; see `ulimit -u`")]
    Thread(#[from] io::Error),
}
