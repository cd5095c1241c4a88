//! `tubectl register-pid` and `tubectl register` for the tests' dispatcher. They find the sockets by tubectl's exact walk,
//! or take the passed ones, and put them into the socket map.

use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::{fs, io};

use tubular_echo::check::walk::{Refusal, register, walk};
use tubular_echo::kernel::pidfd::{Descriptor, PidFd, describe};
use tubular_echo::kernel::sys::Protocol;

use super::steer::SocketMap;

/// A registration that succeeded.
#[derive(Debug)]
pub struct Registered {
    /// The descriptor of the registered socket in the other process.
    pub fd: i32,
    /// Its `SO_COOKIE`.
    pub cookie: u64,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The address that it is bound to.
    pub address: SocketAddr,
    /// Number of `pidfd_getfd(2)` calls of the walk; zero for a passed socket.
    pub calls: u32,
}

/// Why `register-pid` exits with 1.
#[derive(Debug)]
pub enum Failure {
    /// The process lives in another network namespace.
    OtherNamespace,
    /// The walk ended at this descriptor.
    Aborted(i32, String),
    /// The sockets that the walk found do not make one destination.
    Refused(Refusal),
    /// Two passed sockets have the same destination.
    Twice(Protocol, SocketAddr),
    /// The kernel refused something else.
    Kernel(io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherNamespace => f.write_str("can't register sockets from different network namespace"),
            Self::Aborted(fd, why) => write!(f, "target fd {fd}: {why}"),
            Self::Refused(refusal) => write!(f, "{refusal:?}"),
            Self::Twice(protocol, address) => {
                write!(f, "found multiple sockets for destination {protocol} {address}")
            }
            Self::Kernel(error) => write!(f, "{error}"),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Kernel(error)
    }
}

/// Takes the socket of process `pid` that is bound to `address`, and steers the traffic of its destination there.
pub fn register_pid(
    sockets: &SocketMap,
    pid: u32,
    protocol: Protocol,
    address: SocketAddr,
) -> Result<Registered, Failure> {
    if fs::read_link("/proc/thread-self/ns/net")? != fs::read_link(format!("/proc/{pid}/ns/net"))? {
        return Err(Failure::OtherNamespace);
    }
    let walk = walk(&PidFd::open(pid)?);
    if let Some(aborted) = walk.aborted {
        return Err(Failure::Aborted(aborted.fd, aborted.refused.to_string()));
    }
    let outcome = register(walk.found.iter().map(|found| (found.fd, &found.socket)), protocol, address);
    let mut last = None;
    for fd in outcome.registered {
        let found = walk.found.iter().find(|found| found.fd == fd).expect("only sockets found register");
        let duplicate = found.duplicate.as_ref().expect("kept for every socket that may register");
        sockets.register(protocol, address.ip(), duplicate.as_fd())?;
        last = Some(Registered { fd, cookie: found.socket.cookie, protocol, address, calls: walk.calls });
    }
    match (outcome.refused, last) {
        (None, Some(registered)) => Ok(registered),
        (refused, _) => Err(Failure::Refused(refused.unwrap_or(Refusal::NoSocket))),
    }
}

/// Steers traffic to the passed sockets: to the first of each reuseport group, and once for each destination.
pub fn register_passed(sockets: &SocketMap, passed: &[OwnedFd]) -> Result<Vec<Registered>, Failure> {
    let (mut groups, mut destinations) = (HashSet::new(), HashSet::new());
    let mut registered = Vec::new();
    for socket in passed {
        let fd = socket.as_raw_fd();
        let described =
            describe(socket.as_fd()).map_err(|refused| Failure::Aborted(fd, refused.to_string()))?;
        let Descriptor::Inet(found) = described else {
            return Err(Failure::Aborted(fd, "no internet socket".into()));
        };
        let (protocol, address) = (found.protocol, found.local);
        if found.reuseport && !groups.insert((protocol, address)) {
            continue;
        }
        sockets.register(protocol, address.ip(), socket.as_fd())?;
        if !destinations.insert((protocol, address.is_ipv4())) {
            return Err(Failure::Twice(protocol, address));
        }
        registered.push(Registered { fd, cookie: found.cookie, protocol, address, calls: 0 });
    }
    Ok(registered)
}
