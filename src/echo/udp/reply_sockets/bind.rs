//! Makes a socket that sends from one pair of address and port, or says why there is none.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use super::options::InheritedOptions;
use crate::kernel::seam;
use crate::kernel::sys::{self, IntOption, Protocol};
use crate::sockets::listening::{self, SOCKET_BUFFER_BYTES};

/// Why there is no reply socket for a pair. The reply is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindRefusal {
    /// The limit of open reply sockets, or of new ones per second, is reached.
    Limited,
    /// The port takes a capability that we don't have.
    Privileged,
    /// Another socket is bound to the pair.
    Taken,
    /// Reply sockets must not take this port.
    Excepted,
    /// This host does not have the address.
    NoAddress,
    /// A filter or a missing privilege forbids it.
    Forbidden,
    /// There are no open files left.
    NoFiles,
    /// There is no memory left.
    NoMemory,
    /// Another error.
    Failed,
}

impl BindRefusal {
    /// The meaning of an error of socket(2), bind(2) or setsockopt(2) for this port.
    pub(super) fn of(errno: i32, port: u16) -> Self {
        match errno {
            // ip(7): ports below 1024, unless net.ipv4.ip_unprivileged_port_start says otherwise. An LSM answers the same
            libc::EACCES if port < 1024 => Self::Privileged,
            // seccomp, a cgroup's program (SocketBindDeny=), an LSM; options that take CAP_NET_ADMIN
            libc::EPERM | libc::EACCES => Self::Forbidden,
            libc::EADDRINUSE => Self::Taken,
            libc::EADDRNOTAVAIL => Self::NoAddress,
            libc::EMFILE | libc::ENFILE => Self::NoFiles,
            libc::ENOBUFS | libc::ENOMEM => Self::NoMemory,
            _ => Self::Failed,
        }
    }
}

/// A socket that sends from `pair` and is never read. It has `SO_REUSEPORT`, since another worker may need the same pair,
/// and never `SO_REUSEADDR`, which would let in the sockets of other users.
pub(super) fn bind(pair: SocketAddr, inherited: &InheritedOptions) -> io::Result<OwnedFd> {
    if let Some(outcome) = seam::bind(pair) {
        return outcome;
    }
    let socket = sys::socket(Protocol::Udp, pair)?;
    inherited.set(socket.as_fd())?;
    // socket(7): the kernel raises it to its minimum
    sys::set_option(socket.as_fd(), IntOption::RECEIVE_BUFFER, 0)?;
    sys::set_option(socket.as_fd(), IntOption::REUSE_PORT, 1)?;
    if pair.is_ipv6() {
        sys::set_option(socket.as_fd(), IntOption::ONLY_V6, 1)?;
        sys::set_option(socket.as_fd(), IntOption::FREEBIND_V6, 1)?;
    }
    // the log said for the listening sockets what is lost without it
    let _ = listening::let_be_cut(socket.as_fd(), pair);
    if sys::set_option(socket.as_fd(), IntOption::SEND_BUFFER_FORCE, SOCKET_BUFFER_BYTES).is_err() {
        sys::set_option(socket.as_fd(), IntOption::SEND_BUFFER, SOCKET_BUFFER_BYTES)?;
    }
    sys::bind(socket.as_fd(), pair)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn each_cause_is_told_apart() {
        for (errno, port, refused) in [
            (libc::EACCES, 443, BindRefusal::Privileged),
            (libc::EACCES, 5000, BindRefusal::Forbidden),
            (libc::EPERM, 443, BindRefusal::Forbidden),
            (libc::EADDRINUSE, 5000, BindRefusal::Taken),
            (libc::EADDRNOTAVAIL, 5000, BindRefusal::NoAddress),
            (libc::EMFILE, 5000, BindRefusal::NoFiles),
            (libc::ENFILE, 5000, BindRefusal::NoFiles),
            (libc::ENOBUFS, 5000, BindRefusal::NoMemory),
            (libc::ENOMEM, 5000, BindRefusal::NoMemory),
            (libc::ENODEV, 5000, BindRefusal::Failed),
        ] {
            assert_eq!(BindRefusal::of(errno, port), refused, "{errno}");
        }
    }

    #[test]
    fn next_to_nothing_is_kept_of_what_reaches_it_by_itself() {
        let pair = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let socket = bind(pair, &InheritedOptions::default()).unwrap();
        let kept_bytes = sys::option(socket.as_fd(), IntOption::RECEIVE_BUFFER).unwrap();
        assert!(kept_bytes < 8192, "{kept_bytes}");
    }
}
