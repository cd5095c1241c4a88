//! Errors about addresses that can't be served, with their cures.

use std::io;
use std::net::SocketAddr;

use crate::kernel::ring::Errno;
use crate::kernel::sys::Protocol;
use crate::sockets::listen_addr::ListenAddr;

/// An address can't be served: the failed step, the address, the kernel's answer and the cure.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot {step} {protocol} {addr}: {errno}; {}",
    .covering.as_ref().map_or_else(|| cure(*.errno, .addr.addr(), *.join), |covering| covering.cure())
)]
pub struct SocketError {
    step: &'static str,
    pub(super) protocol: Protocol,
    pub(super) addr: ListenAddr,
    pub(super) errno: Errno,
    pub(super) covering: Option<Box<Covering>>,
    /// The operator asked to share the port.
    pub(super) join: bool,
}

/// Two of the server's own addresses that can't both bind the port, because one covers the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Covering {
    all: SocketAddr,
    one: SocketAddr,
}

impl Covering {
    pub(super) fn of(a: SocketAddr, b: SocketAddr) -> Option<Self> {
        let alike = a.port() == b.port() && a.is_ipv4() == b.is_ipv4();
        match (a.ip().is_unspecified(), b.ip().is_unspecified()) {
            (true, false) if alike => Some(Self { all: a, one: b }),
            (false, true) if alike => Some(Self { all: b, one: a }),
            _ => None,
        }
    }

    fn cure(&self) -> String {
        format!("{} covers {}: name only one of them", self.all, self.one)
    }
}

impl SocketError {
    pub(super) fn is(&self, errno: i32) -> bool {
        self.errno.0 == errno
    }

    /// Whether the address may still appear: it is tentative, or its interface does not exist yet.
    pub(super) fn may_come(&self) -> bool {
        may_come(self.errno)
    }

    /// Whether the host lacks the address family: an address that every host of that family has does not exist.
    pub(super) fn lacks_family(&self) -> bool {
        let ip = self.addr.addr().ip();
        (self.is(libc::EAFNOSUPPORT) && (ip.is_loopback() || ip.is_unspecified()))
            || (self.is(libc::EADDRNOTAVAIL) && ip.is_loopback())
    }
}

/// Whether an address with this answer of the kernel may still appear: it is tentative, or its interface does not exist
/// yet.
pub(super) fn may_come(errno: Errno) -> bool {
    matches!(errno.0, libc::EADDRNOTAVAIL | libc::ENODEV)
}

/// The cure for an address that can't be served. `join` says that the operator asked to share the port.
pub fn cure(errno: Errno, addr: SocketAddr, join: bool) -> String {
    match errno.0 {
        libc::EADDRINUSE if join => format!(
            "`ss -lnp 'sport = :{}'` (as root) shows who has it and does not share it: another user's, or started \
             without --join; choose another port, or end it",
            addr.port()
        ),
        libc::EADDRINUSE => format!(
            "`ss -lnp 'sport = :{}'` (as root) shows who has it; choose another port, or share it on purpose \
             with --join",
            addr.port()
        ),
        libc::EADDRNOTAVAIL if addr.is_ipv4() => {
            "it is no address of this host: `ip address` lists them, and an AnyIP route (`ip route add local PREFIX dev \
             lo`) adds a whole prefix"
                .into()
        }
        // for IPv6, a local route does not make an address bindable
        libc::EADDRNOTAVAIL => {
            "it is no address of this host: `ip address` lists them, and `ip address add ADDR/128 dev lo` adds one; for a \
             prefix listen on [::]"
                .into()
        }
        libc::EACCES => "ports below net.ipv4.ip_unprivileged_port_start take CAP_NET_BIND_SERVICE \
                         (AmbientCapabilities= in a unit, `setcap` on the binary)"
            .into(),
        libc::EAFNOSUPPORT => {
            "this host has no such address family: name only addresses of the other one".into()
        }
        libc::EMFILE | libc::ENFILE => {
            "open files are short: raise RLIMIT_NOFILE (LimitNOFILE= in a unit, `ulimit -n`), or lower --workers or \
             name fewer addresses"
                .into()
        }
        libc::EPERM => "the user already has sockets there, or a filter forbids it: see SystemCallFilter=, \
                        SocketBindDeny= and SELinux"
            .into(),
        libc::ENODEV => "there is no such interface: `ip link` lists them".into(),
        libc::EINVAL if addr.is_ipv6() => {
            "a link-local address needs its interface: [fe80::1%eth0]:1234".into()
        }
        _ => "see bind(2), ip(7) and ipv6(7)".into(),
    }
}

pub(super) fn failed(
    step: &'static str,
    protocol: Protocol,
    addr: impl Into<ListenAddr>,
) -> impl Fn(io::Error) -> SocketError {
    let addr = addr.into();
    move |error| SocketError { step, protocol, addr, errno: errno_of(&error), covering: None, join: false }
}

pub(super) fn errno_of(error: &io::Error) -> Errno {
    Errno(error.raw_os_error().unwrap_or(libc::EINVAL))
}
