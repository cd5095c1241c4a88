//! The errors of a TCP run.

use std::io;
use std::net::SocketAddr;

use tubular_echo::kernel::ring::RingError;

use crate::model::local_limits::LOCAL_PORTS_USED_UP;
use crate::model::source::SourceNotLocal;
use crate::model::units::counted;
use crate::workers::socket_options::SocketOptionError;

#[derive(Debug, thiserror::Error)]
pub(crate) enum TcpError {
    #[error(
        "{needed} open files are needed for {}, but the limit is {limit}: raise it (`ulimit -n`, LimitNOFILE=) or use fewer --connections",
        counted((*connections).into(), "connection")
    )]
    OpenFiles { connections: u32, needed: u64, limit: u64 },
    #[error("ended by a signal")]
    Stopped,
    #[error("raising the limit of open files: {0}")]
    Limit(io::Error),
    #[error(transparent)]
    Source(#[from] SourceNotLocal),
    #[error(transparent)]
    Option(#[from] SocketOptionError),
    #[error("connecting to {peer}: {error}{}", cure(error))]
    Connect { peer: SocketAddr, error: io::Error },
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error("entering the io_uring: {0}")]
    Enter(io::Error),
    #[error("starting a thread: {0}; see `ulimit -u`")]
    Thread(#[from] io::Error),
}

/// The usual cure when a connection fails.
fn cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "; does the server listen there?",
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "; a firewall may drop it, see --timeout",
        io::ErrorKind::AddrNotAvailable => LOCAL_PORTS_USED_UP,
        _ => "",
    }
}
