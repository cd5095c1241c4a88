//! One listening socket: opens or adopts it, and sets the options that the datapath needs.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::kernel::ring::Errno;
use crate::kernel::sys::{self, IntOption, Protocol};
use crate::sockets::error::{SocketError, errno_of, failed};

/// The size asked for, of both the receive and the send buffer. The kernel's default of 208 KiB holds only 256 small
/// datagrams.
pub const SOCKET_BUFFER_BYTES: i32 = 4 << 20;
/// Connections that may wait to be accepted at each listener.
pub const LISTEN_BACKLOG: u32 = 4096;

/// What happens to a listening socket when this process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtExit {
    /// It is closed. The drain answers its whole queue first.
    Close,
    /// The service manager keeps it for the next process, together with its queue.
    Keep,
    /// It takes no new traffic: this process answers its queue and closes it.
    Retire,
}

/// A bound socket; a TCP one listens.
#[derive(Debug)]
pub struct Listening {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The address that it is bound to.
    pub addr: SocketAddr,
    /// What happens to it at the end.
    pub at_exit: AtExit,
    /// Its number among the sockets that share its address (`SO_REUSEPORT`), if that is known. The kernel gives numbers
    /// in the order of bind(2) for UDP and of listen(2) for TCP.
    pub(super) group_number: Option<usize>,
    pub(super) missing_options: Vec<MissingOption>,
    fd: Arc<OwnedFd>,
}

impl Listening {
    /// The socket, for a ring that keeps it open as long as it knows of it.
    pub fn shared(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.fd)
    }
}

impl AsFd for Listening {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A helpful option that the kernel or a seccomp filter refused. The socket serves without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MissingOption {
    pub(super) option: &'static str,
    loss: &'static str,
    errno: Errno,
}

impl MissingOption {
    pub(super) fn of(set: io::Result<()>, option: &'static str, loss: &'static str) -> Option<Self> {
        set.err().map(|error| Self { option, loss, errno: errno_of(&error) })
    }
}

impl std::fmt::Display for MissingOption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "serving without {}: {}; {}", self.option, self.errno, self.loss)
    }
}

/// The other sockets that may bind the address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    /// No other socket.
    Alone,
    /// No other socket before this one; then the sockets of the other workers.
    Open,
    /// Other sockets may have it already.
    Join,
}

pub(super) fn open(protocol: Protocol, addr: SocketAddr, share: Share) -> Result<Listening, SocketError> {
    let failed = |step| failed(step, protocol, addr);
    let fd = sys::socket(protocol, addr).map_err(failed("open a socket for"))?;
    let set = |option, value| {
        sys::set_option(fd.as_fd(), option, value).map_err(failed("set the socket options of"))
    };
    if addr.is_ipv6() {
        set(IntOption::ONLY_V6, 1)?;
    }
    let mut missing_options = prepare(fd.as_fd(), protocol, addr)?;
    if protocol == Protocol::Tcp {
        // never on UDP: there a second socket with this option would take all traffic
        let set = sys::set_option(fd.as_fd(), IntOption::REUSE_ADDR, 1);
        missing_options.extend(MissingOption::of(
            set,
            "SO_REUSEADDR",
            "a restart may find the port taken for a minute",
        ));
    }
    if share == Share::Join {
        set(IntOption::REUSE_PORT, 1)?;
    }
    sys::bind(fd.as_fd(), addr).map_err(failed("bind"))?;
    free_source(fd.as_fd(), protocol, addr)?;
    if share == Share::Open {
        set(IntOption::REUSE_PORT, 1)?;
    }
    if protocol == Protocol::Tcp {
        sys::listen(fd.as_fd(), LISTEN_BACKLOG).map_err(failed("listen on"))?;
    }
    let addr = sys::local_addr(fd.as_fd()).map_err(failed("read the address of"))?;
    let at_exit = AtExit::Close;
    Ok(Listening { protocol, addr, at_exit, group_number: None, missing_options, fd: fd.into() })
}

impl Listening {
    /// Prepares a bound socket of another process for the datapath.
    pub fn adopt(fd: OwnedFd, protocol: Protocol) -> Result<Self, SocketError> {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let addr = sys::local_addr(fd.as_fd()).map_err(failed("read the address of", protocol, nowhere))?;
        let failed = |step| failed(step, protocol, addr);
        match protocol {
            // the file table has room for a backlog of this length
            Protocol::Tcp => sys::listen(fd.as_fd(), LISTEN_BACKLOG).map_err(failed("listen on"))?,
            // a .socket unit sets this option; another socket with it would take all traffic
            Protocol::Udp => sys::set_option(fd.as_fd(), IntOption::REUSE_ADDR, 0)
                .map_err(failed("set the socket options of"))?,
        }
        forget_errors(fd.as_fd(), addr);
        let missing_options = prepare(fd.as_fd(), protocol, addr)?;
        free_source(fd.as_fd(), protocol, addr)?;
        let at_exit = AtExit::Keep;
        Ok(Self { protocol, addr, at_exit, group_number: None, missing_options, fd: fd.into() })
    }
}

/// Switches off the error queue of an adopted socket, and of the connections of an adopted listener: it would receive
/// ICMP errors and send timestamps. The server never reads that queue. A stranger's ICMP errors would fill the receive
/// buffer, and a poll of the socket would return at once for ever.
fn forget_errors(fd: BorrowedFd<'_>, addr: SocketAddr) {
    let errors = if addr.is_ipv4() { IntOption::RECEIVE_ERRORS_V4 } else { IntOption::RECEIVE_ERRORS_V6 };
    for option in [errors, IntOption::TIMESTAMPING] {
        // a refusal is harmless: without the option there is no such queue, or the counters show its effects
        let _ = sys::set_option(fd, option, 0);
    }
    let _ = sys::option(fd, IntOption::ERROR);
}

/// Sets the options that the datapath needs, and those that only help it. The result lists the refused ones of the
/// latter.
fn prepare(
    fd: BorrowedFd<'_>,
    protocol: Protocol,
    addr: SocketAddr,
) -> Result<Vec<MissingOption>, SocketError> {
    let missing_options = match protocol {
        Protocol::Tcp => {
            // accepted connections inherit both options
            let no_delay = sys::set_option(fd, IntOption::NO_DELAY, 1);
            let inline = sys::set_option(fd, IntOption::OOB_INLINE, 1);
            [
                MissingOption::of(no_delay, "TCP_NODELAY", "small echoes may wait for each other"),
                MissingOption::of(inline, "SO_OOBINLINE", "urgent bytes are not echoed"),
            ]
        }
        Protocol::Udp => {
            let origdst = if addr.is_ipv4() { IntOption::ORIGDST_V4 } else { IntOption::ORIGDST_V6 };
            sys::set_option(fd, origdst, 1).map_err(failed("set the socket options of", protocol, addr))?;
            // a warning follows if the kernel reports smaller buffers
            let _ = raise_buffers(fd, addr);
            let trains = sys::set_option(fd, IntOption::GRO, 1);
            [
                MissingOption::of(trains, "UDP_GRO", "trains of datagrams arrive and leave singly"),
                MissingOption::of(
                    let_be_cut(fd, addr),
                    "IP_MTU_DISCOVER",
                    "replies vanish where a path's MTU is small",
                ),
            ]
        }
    };
    Ok(missing_options.into_iter().flatten().collect())
}

/// Lets routers fragment IPv4 replies that are too large for their next link, as they may fragment the kernel's own ping
/// replies. By default the kernel forbids it (DF) and relies on an ICMP message. If that message gets lost, all replies
/// of that size get lost, unnoticed. IPv6 routers never fragment.
pub(crate) fn let_be_cut(fd: BorrowedFd<'_>, addr: SocketAddr) -> io::Result<()> {
    if addr.is_ipv6() {
        return Ok(());
    }
    sys::set_option(fd, IntOption::MTU_DISCOVER_V4, IntOption::MTU_DISCOVER_NEVER)
}

/// Gives a UDP socket buffers of the wanted size, or as large as allowed, but never smaller than they are.
fn raise_buffers(fd: BorrowedFd<'_>, addr: SocketAddr) -> io::Result<()> {
    for (force, plain) in [
        (IntOption::RECEIVE_BUFFER_FORCE, IntOption::RECEIVE_BUFFER),
        (IntOption::SEND_BUFFER_FORCE, IntOption::SEND_BUFFER),
    ] {
        let has = sys::option(fd, plain)?;
        let enough = has / 2 >= SOCKET_BUFFER_BYTES; // socket(7): the kernel doubles the size asked for
        if enough || sys::set_option(fd, force, SOCKET_BUFFER_BYTES).is_ok() {
            continue;
        }
        // a .socket unit may have given it more than this process may set; a new socket shows how much that is
        let new = sys::socket(Protocol::Udp, addr)?;
        sys::set_option(new.as_fd(), plain, SOCKET_BUFFER_BYTES)?;
        if sys::option(new.as_fd(), plain)? > has {
            sys::set_option(fd, plain, SOCKET_BUFFER_BYTES)?;
        }
    }
    Ok(())
}

/// Lets IPv6 replies leave from any address that a client contacted. This follows bind: before it, the option would let
/// the socket bind an address of another host, such as a mistyped one.
fn free_source(fd: BorrowedFd<'_>, protocol: Protocol, addr: SocketAddr) -> Result<(), SocketError> {
    if protocol == Protocol::Udp && addr.is_ipv6() {
        sys::set_option(fd, IntOption::FREEBIND_V6, 1).map_err(failed(
            "set the socket options of",
            protocol,
            addr,
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Listening {
        /// A test's descriptor in place of a listening socket.
        pub(crate) fn pretended(protocol: Protocol, addr: SocketAddr, at_exit: AtExit, fd: OwnedFd) -> Self {
            Self { protocol, addr, at_exit, group_number: None, missing_options: Vec::new(), fd: fd.into() }
        }
    }
}
