//! The local end of a connection: its socket, and how it connects. It is never the other end as well.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{self, Shutdown, sockopt};
use tubular_echo::kernel::sys::{self, IntOption, Protocol};

use crate::model::flow_label;
use crate::model::packet_options::PacketOptions;
use crate::model::source::SourceNotLocal;
use crate::workers::socket_options::{self, SocketOptionError};

/// A socket for a connection to `peer`, from `local` if that is set. Its connect does not wait.
pub(super) fn socket(
    peer: SocketAddr,
    local: Option<SocketAddr>,
    packets: &PacketOptions,
) -> Result<OwnedFd, LocalEndError> {
    let socket = match local {
        Some(local) => bind(local).map_err(|error| SourceNotLocal { local: local.ip(), error })?,
        None => sys::socket(Protocol::Tcp, peer)?,
    };
    socket_options::set(socket.as_fd(), peer, packets)?;
    sys::set_nonblocking(socket.as_fd(), true)?;
    Ok(socket)
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub(super) enum LocalEndError {
    #[error(transparent)]
    Source(#[from] SourceNotLocal),
    #[error(transparent)]
    Option(#[from] SocketOptionError),
    #[error(transparent)]
    Socket(#[from] io::Error),
}

impl From<LocalEndError> for io::Error {
    fn from(error: LocalEndError) -> Self {
        match error {
            LocalEndError::Source(SourceNotLocal { error, .. }) | LocalEndError::Socket(error) => error,
            LocalEndError::Option(error) => error.into_inner(),
        }
    }
}

/// A socket with this local address and no port yet.
pub(super) fn bind(local: SocketAddr) -> io::Result<OwnedFd> {
    let socket = sys::socket(Protocol::Tcp, local)?;
    sys::set_option(socket.as_fd(), IntOption::BIND_ADDRESS_NO_PORT, 1)?;
    sys::bind(socket.as_fd(), local)?;
    Ok(socket)
}

/// Begins to connect. Returns whether the connection is there: over loopback it is there at once. Else the socket becomes
/// writable, and then [`connected`] tells.
pub(super) fn connect(socket: BorrowedFd<'_>, peer: SocketAddr) -> io::Result<bool> {
    // rustix takes the flow label in the order of this host; std, and so a SocketAddr, has it in that of the network
    let to = match peer {
        SocketAddr::V6(v6) => flow_label::with_flow_info(peer, u32::from_be(v6.flowinfo())),
        SocketAddr::V4(_) => peer,
    };
    match net::connect(socket, &to) {
        Ok(()) => connected(socket, peer).map(|()| true),
        Err(Errno::INPROGRESS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether a socket has connected that is writable now. From then on its operations wait in the ring.
pub(super) fn connected(socket: BorrowedFd<'_>, peer: SocketAddr) -> io::Result<()> {
    sockopt::socket_error(socket)??;
    refuse_itself(socket, peer)?;
    // operations of a ring on a socket that does not wait fail with EAGAIN
    sys::set_nonblocking(socket, false)
}

/// Refuses a connection to itself. If nobody listens, the kernel may choose the destination port as the local port: such
/// a connection echoes everything, without a server.
fn refuse_itself(socket: BorrowedFd<'_>, peer: SocketAddr) -> io::Result<()> {
    let local = sys::local_addr(socket)?;
    let is_itself = (local.ip(), local.port()) == (peer.ip(), peer.port());
    if is_itself { Err(Errno::CONNREFUSED.into()) } else { Ok(()) }
}

/// Whether a failure to connect is this host's: its local ports, open files or memory are used up, or it forbids the
/// connection. The server was not asked.
pub(super) fn is_ours(error: &io::Error) -> bool {
    is_used_up(error) || matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM))
}

/// Whether local ports, open files or memory of this host are used up.
pub(super) fn is_used_up(error: &io::Error) -> bool {
    let used_up = [libc::EADDRNOTAVAIL, libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    error.raw_os_error().is_some_and(|errno| used_up.contains(&errno))
}

/// Ends both directions. What waits on the socket ends, too. An error means that the connection has ended already.
pub(super) fn shut_down(socket: BorrowedFd<'_>) {
    let _ = net::shutdown(socket, Shutdown::Both);
}
