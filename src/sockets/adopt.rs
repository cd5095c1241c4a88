//! Sockets that the service manager passes: from a .socket unit, or from its store, which keeps those of an earlier
//! process (sd_listen_fds(3)).

use std::collections::HashSet;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use crate::kernel::sys::{self, IntOption, Protocol, SocketKind};
use crate::sockets::listening::Listening;

/// The prefix of names in the store. Names of .socket units end in ".socket" or are chosen by the user.
const STORE_PREFIX: &str = "stored-";

/// Stands in a name of the store before the socket's number in its group.
const NUMBER_MARK: char = '#';

/// The name of a socket in the store: protocol, address, and its number in its group if that is known. The store has an
/// order of its own, so only the name can tell the number. A name must not contain a colon (sd_pid_notify_with_fds(3)).
pub fn store_name(socket: &Listening) -> String {
    let name = format!("{STORE_PREFIX}{}-{}", socket.protocol, socket.addr).replace(':', "_");
    match socket.group_number {
        Some(number) => format!("{name}{NUMBER_MARK}{number}"),
        None => name,
    }
}

/// The number in a name of the store. Earlier versions of this program have stored none.
fn number_in(name: &str) -> Option<usize> {
    name.rsplit_once(NUMBER_MARK)?.1.parse().ok()
}

/// Where an adopted socket comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A .socket unit.
    Unit,
    /// The service manager's store, where an earlier process of this service put it.
    Store,
}

/// A socket that the service manager passed.
#[derive(Debug)]
pub struct Adopted {
    /// Where it comes from.
    pub origin: Origin,
    /// The socket, ready to serve.
    pub listening: Listening,
}

/// Why a passed socket can't be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve descriptor {number} ({name}) that the service manager passed: {why}")]
pub struct AdoptError {
    number: RawFd,
    name: String,
    why: String,
}

/// Adopts the sockets that the service manager passed. A second descriptor of the same socket is closed.
pub fn adopt(passed: &[(RawFd, String)]) -> Result<Vec<Adopted>, AdoptError> {
    let numbers: Vec<RawFd> = passed.iter().map(|(number, _)| *number).collect();
    let mut cookies = HashSet::new();
    let mut adopted = Vec::new();
    for fd in sys::take_passed(&numbers) {
        let number = fd.as_raw_fd();
        let name = passed.iter().find(|(passed, _)| *passed == number).map_or("", |(_, name)| name);
        let refuse = |why: String| AdoptError { number, name: name.into(), why };
        let kind = sys::socket_kind(fd.as_fd()).map_err(|error| refuse(error.to_string()))?;
        if !cookies.insert(kind.cookie) {
            continue;
        }
        let protocol = check(fd.as_fd(), &kind).map_err(|why| refuse(why.into()))?;
        let origin = if name.starts_with(STORE_PREFIX) { Origin::Store } else { Origin::Unit };
        let mut listening = Listening::adopt(fd, protocol).map_err(|error| refuse(error.to_string()))?;
        listening.group_number = number_in(name).filter(|_| origin == Origin::Store);
        adopted.push(Adopted { origin, listening });
    }
    Ok(adopted)
}

/// Checks that a passed socket is like those that the server opens itself.
fn check(fd: BorrowedFd<'_>, kind: &SocketKind) -> Result<Protocol, &'static str> {
    let Some(protocol) = kind.protocol else {
        return Err(
            "it is neither TCP nor UDP; use ListenStream= and ListenDatagram= with addresses and ports",
        );
    };
    let v6_only = sys::option(fd, IntOption::ONLY_V6).ok();
    if v6_only == Some(0) {
        Err("it serves IPv4 through IPv6, which tubular does not take; set BindIPv6Only=ipv6-only")
    } else if protocol == Protocol::Tcp && !kind.listens {
        Err("it does not listen; set Accept=no")
    } else if kind.connected {
        Err("it is connected to a peer")
    } else {
        Ok(protocol)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::sockets::listening::AtExit;

    fn refusal(fd: BorrowedFd<'_>) -> Option<&'static str> {
        check(fd, &sys::socket_kind(fd).unwrap()).err()
    }

    #[test]
    fn what_could_be_ours_is_taken_and_everything_else_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(refusal(listener.as_fd()), None);
        let one_family = UdpSocket::bind("[::1]:0").unwrap();
        assert_eq!(refusal(one_family.as_fd()), None);
        let both_families = UdpSocket::bind("[::]:0").unwrap();
        assert!(refusal(both_families.as_fd()).unwrap().contains("BindIPv6Only"));
        let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(refusal(connection.as_fd()).unwrap().contains("does not listen"));
        let connected = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(refusal(connected.as_fd()), None);
        connected.connect("127.0.0.1:9").unwrap();
        assert!(refusal(connected.as_fd()).unwrap().contains("connected"));
        let unix = UnixDatagram::unbound().unwrap();
        assert!(refusal(unix.as_fd()).unwrap().contains("neither TCP nor UDP"));
    }

    #[test]
    fn a_copy_is_the_same_socket() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let copy = socket.try_clone().unwrap();
        let other = UdpSocket::bind("127.0.0.1:0").unwrap();
        let cookie = |socket: &UdpSocket| sys::socket_kind(socket.as_fd()).unwrap().cookie;
        assert_eq!(cookie(&socket), cookie(&copy));
        assert_ne!(cookie(&socket), cookie(&other));
    }

    #[test]
    fn a_name_of_the_store_tells_the_number() {
        for addr in ["127.0.0.1:1234", "[::1]:1234"] {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap().into();
            let (protocol, addr) = (Protocol::Udp, addr.parse().unwrap());
            let mut listening = Listening::pretended(protocol, addr, AtExit::Keep, socket);
            assert_eq!(number_in(&store_name(&listening)), None);
            listening.group_number = Some(12);
            let name = store_name(&listening);
            assert_eq!(number_in(&name), Some(12), "{name}");
            assert!(name.starts_with(STORE_PREFIX) && !name.contains(':'), "{name}");
        }
    }
}
