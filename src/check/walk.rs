//! Replays `tubectl register-pid`: its walk over another process's descriptors, and its verdict on each socket.
//!
//! [`walk`] asks the kernel. [`register`] is pure: it repeats the filters of tubular's `internal/sysconn` and the checks
//! of its `internal/destination.go`, in their order.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use crate::kernel::pidfd::{Descriptor, InetSocket, PidFd, Unanswered, describe};
use crate::kernel::sys::Protocol;

/// register-pid gives up after this many closed descriptors in a row (tubular, `internal/pidfd`).
pub const CLOSED_IN_A_ROW_MAX: u32 = 32;

/// The result of a walk.
#[derive(Debug)]
pub struct Walk {
    /// The internet sockets, by rising descriptor.
    pub found: Vec<Found>,
    /// Number of `pidfd_getfd(2)` calls.
    pub calls: u32,
    /// The first descriptor that the walk did not look at.
    pub end_fd: i32,
    /// The error that ended the walk early, if any.
    pub aborted: Option<Aborted>,
}

/// An internet socket of the other process.
#[derive(Debug)]
pub struct Found {
    /// Its descriptor there.
    pub fd: i32,
    /// The kernel's description of it.
    pub socket: InetSocket,
    /// A duplicate, if register-pid would consider the socket. It keeps the socket alive, so drop it soon.
    pub duplicate: Option<OwnedFd>,
}

/// An error that ends the walk. Then register-pid registers nothing.
#[derive(Debug)]
pub struct Aborted {
    /// The descriptor that caused the error.
    pub fd: i32,
    /// The system call and the kernel's answer.
    pub refused: Unanswered,
}

enum Seen {
    Closed,
    NoInetSocket,
    Socket(Found),
}

/// Walks over the process's descriptors from 0, as register-pid does.
pub fn walk(process: &PidFd) -> Walk {
    let mut walk = Walk { found: Vec::new(), calls: 0, end_fd: 0, aborted: None };
    let mut closed_in_a_row = 0;
    while closed_in_a_row < CLOSED_IN_A_ROW_MAX {
        let fd = walk.end_fd;
        walk.end_fd += 1;
        walk.calls += 1;
        closed_in_a_row += 1;
        match look_at(process, fd) {
            Ok(Seen::Closed) => continue,
            Ok(Seen::NoInetSocket) => {}
            Ok(Seen::Socket(found)) => walk.found.push(found),
            Err(refused) => {
                walk.aborted = Some(Aborted { fd, refused });
                break;
            }
        }
        closed_in_a_row = 0;
    }
    walk
}

/// The internet sockets at descriptors from `end_fd` on, which the walk does not reach. Their numbers are from
/// `/proc/PID/fd`. Descriptors that the kernel refuses to describe are left out.
pub fn sockets_beyond(process: &PidFd, pid: u32, end_fd: i32) -> io::Result<Vec<Found>> {
    let mut fds: Vec<i32> = fs::read_dir(format!("/proc/{pid}/fd"))?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd >= end_fd)
        .collect();
    fds.sort_unstable();
    let seen = fds.into_iter().map(|fd| look_at(process, fd));
    Ok(seen.filter_map(|seen| if let Ok(Seen::Socket(found)) = seen { Some(found) } else { None }).collect())
}

fn look_at(process: &PidFd, fd: i32) -> Result<Seen, Unanswered> {
    let Some(duplicate) = process.duplicate(fd)? else { return Ok(Seen::Closed) };
    Ok(match describe(duplicate.as_fd())? {
        Descriptor::Inet(socket) => {
            Seen::Socket(Found { fd, socket, duplicate: receives(&socket).then_some(duplicate) })
        }
        Descriptor::OtherSocket | Descriptor::NotASocket => Seen::NoInetSocket,
    })
}

/// Whether register-pid considers the socket at all: TCP must listen, UDP must have no peer.
pub fn receives(socket: &InetSocket) -> bool {
    match socket.protocol {
        Protocol::Tcp => socket.listening,
        Protocol::Udp => socket.peer.is_none(),
    }
}

/// Why register-pid exits with 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No socket of that protocol is bound to exactly that address.
    NoSocket,
    /// An IPv6 socket without `IPV6_V6ONLY`.
    DualStack {
        /// Its descriptor.
        fd: i32,
    },
    /// Neither plain TCP nor plain UDP.
    Protocol {
        /// Its descriptor.
        fd: i32,
        /// The protocol's number.
        number: i32,
    },
    /// A second socket for one destination. It takes the place of the first; then register-pid fails.
    Duplicate {
        /// The second descriptor.
        fd: i32,
        /// The descriptor that was registered before it.
        first_fd: i32,
    },
}

/// The outcome of `tubectl register-pid PID LABEL PROTOCOL IP PORT`.
#[derive(Debug, PartialEq, Eq)]
pub struct Registration {
    /// The registered descriptors in order. Each replaces the one before it.
    pub registered: Vec<i32>,
    /// The error that it ends with, if any.
    pub refused: Option<Refusal>,
}

/// Replays register-pid over the sockets of a walk. Like tubectl, it compares only IP and port of `address`, not the
/// scope.
pub fn register<'a>(
    sockets: impl IntoIterator<Item = (i32, &'a InetSocket)>,
    protocol: Protocol,
    address: SocketAddr,
) -> Registration {
    let mut registered = Vec::new();
    let mut groups_seen = Vec::new();
    for (fd, socket) in sockets {
        if !receives(socket)
            || socket.protocol != protocol
            || (socket.local.ip(), socket.local.port()) != (address.ip(), address.port())
        {
            continue;
        }
        if socket.reuseport {
            if groups_seen.contains(&socket.foreign_protocol) {
                continue;
            }
            groups_seen.push(socket.foreign_protocol);
        }
        let refused = match socket.foreign_protocol {
            Some(number) => Some(Refusal::Protocol { fd, number }),
            None => (!socket.v6only).then_some(Refusal::DualStack { fd }),
        };
        if refused.is_some() {
            return Registration { registered, refused };
        }
        // an IP and a protocol make one destination, so any second socket is a duplicate
        registered.push(fd);
        if let [first_fd, _] = registered[..] {
            return Registration { registered, refused: Some(Refusal::Duplicate { fd, first_fd }) };
        }
    }
    let refused = registered.is_empty().then_some(Refusal::NoSocket);
    Registration { registered, refused }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(sockets: &[InetSocket], protocol: Protocol, address: &str) -> Registration {
        register((3..).zip(sockets), protocol, address.parse().unwrap())
    }

    fn taken(fd: i32) -> Registration {
        Registration { registered: vec![fd], refused: None }
    }

    #[test]
    fn protocol_address_and_port_must_all_match() {
        let sockets = [
            InetSocket::serving(Protocol::Udp, "127.0.0.1:1"),
            InetSocket::serving(Protocol::Tcp, "127.0.0.2:1"),
            InetSocket::serving(Protocol::Tcp, "127.0.0.1:2"),
            InetSocket::serving(Protocol::Tcp, "127.0.0.1:1"),
        ];
        assert_eq!(replay(&sockets, Protocol::Tcp, "127.0.0.1:1"), taken(6));
        assert_eq!(replay(&sockets, Protocol::Udp, "127.0.0.1:1"), taken(3));
        assert_eq!(replay(&sockets, Protocol::Udp, "127.0.0.1:2").refused, Some(Refusal::NoSocket));
        assert_eq!(replay(&sockets, Protocol::Tcp, "0.0.0.0:1").refused, Some(Refusal::NoSocket));
    }

    #[test]
    fn only_listeners_and_unconnected_sockets_are_considered() {
        let mut accepted = InetSocket::serving(Protocol::Tcp, "127.0.0.1:1");
        accepted.listening = false;
        let mut connected = InetSocket::serving(Protocol::Udp, "127.0.0.1:1");
        connected.peer = Some("127.0.0.9:9".parse().unwrap());
        assert_eq!(replay(&[accepted], Protocol::Tcp, "127.0.0.1:1").refused, Some(Refusal::NoSocket));
        assert_eq!(replay(&[connected], Protocol::Udp, "127.0.0.1:1").refused, Some(Refusal::NoSocket));
        let listener = InetSocket::serving(Protocol::Tcp, "127.0.0.1:1");
        assert_eq!(replay(&[accepted, listener], Protocol::Tcp, "127.0.0.1:1"), taken(4));
    }

    #[test]
    fn a_scope_does_not_count() {
        let sockets = [InetSocket::serving(Protocol::Udp, "[fe80::1%2]:1")];
        assert_eq!(replay(&sockets, Protocol::Udp, "[fe80::1]:1"), taken(3));
    }

    #[test]
    fn only_the_first_of_a_reuseport_group_registers() {
        let mut sockets = [InetSocket::serving(Protocol::Udp, "127.0.0.1:1"); 3];
        for socket in &mut sockets {
            socket.reuseport = true;
        }
        assert_eq!(replay(&sockets, Protocol::Udp, "127.0.0.1:1"), taken(3));
    }

    #[test]
    fn a_duplicate_registers_in_the_first_ones_place_and_fails() {
        let sockets = [InetSocket::serving(Protocol::Tcp, "127.0.0.1:1"); 3];
        let outcome = replay(&sockets, Protocol::Tcp, "127.0.0.1:1");
        assert_eq!(outcome.registered, [3, 4]);
        assert_eq!(outcome.refused, Some(Refusal::Duplicate { fd: 4, first_fd: 3 }));
    }

    #[test]
    fn dual_stack_and_foreign_protocols_are_refused() {
        let mut dual = InetSocket::serving(Protocol::Tcp, "[::1]:1");
        dual.v6only = false;
        assert_eq!(replay(&[dual], Protocol::Tcp, "[::1]:1").refused, Some(Refusal::DualStack { fd: 3 }));

        let mut mptcp = InetSocket::serving(Protocol::Tcp, "127.0.0.1:1");
        mptcp.foreign_protocol = Some(262);
        assert_eq!(
            replay(&[mptcp], Protocol::Tcp, "127.0.0.1:1").refused,
            Some(Refusal::Protocol { fd: 3, number: 262 })
        );
    }
}
