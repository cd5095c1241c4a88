//! The listening sockets: which ones, in what order, with which options.
//!
//! They are the first descriptors that the process opens, TCP before UDP, address by address, one for
//! each worker, so that `tubectl register-pid`, which walks the descriptors from 0 and gives up after a
//! gap of 32, finds them.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use std::{io, thread};

use crate::ring::Errno;
use crate::sys::{self, IntOption, Protocol};

/// Receive and send buffer asked for, bytes. The default of 208 KiB holds 256 small datagrams.
pub const SOCKET_BUFFER_BYTES: i32 = 4 << 20;
/// Connections that may wait to be accepted, per listener.
pub const LISTEN_BACKLOG: u32 = 4096;
/// How long a taken port is tried again: the ring of a process that just died frees it late.
const BIND_PATIENCE: Duration = Duration::from_millis(500);
/// Port 0 has to find one that is free for all protocols.
const PORT_TRIES: u32 = 64;

/// What to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Address and port; port 0 lets the kernel choose one for all protocols and workers.
    pub addr: SocketAddr,
    /// Serve TCP.
    pub tcp: bool,
    /// Serve UDP.
    pub udp: bool,
    /// A host without this address family costs a warning only.
    pub optional: bool,
}

/// A bound socket; a TCP one listens.
#[derive(Debug)]
pub struct Listening {
    /// What it serves.
    pub protocol: Protocol,
    /// Where it is bound.
    pub addr: SocketAddr,
    fd: OwnedFd,
}

impl AsFd for Listening {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// All listening sockets.
#[derive(Debug, Default)]
pub struct Sockets {
    /// For each worker its own sockets, in the order of the endpoints.
    pub shares: Vec<Vec<Listening>>,
    /// What the operator should know although it stops nobody, a line each.
    pub warnings: Vec<String>,
}

/// Why an address can't be served: the step, the address, the kernel's answer, the cure.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {protocol} {addr}: {errno}; {}", cure(*.errno, *.addr))]
pub struct SocketError {
    step: &'static str,
    protocol: Protocol,
    addr: SocketAddr,
    errno: Errno,
}

impl SocketError {
    fn is(&self, errno: i32) -> bool {
        self.errno.0 == errno
    }
}

fn cure(errno: Errno, addr: SocketAddr) -> String {
    match errno.0 {
        libc::EADDRINUSE => format!(
            "`ss -lnp 'sport = :{}'` (as root) shows who has it; choose another port, or share it on purpose \
             with --join",
            addr.port()
        ),
        libc::EADDRNOTAVAIL => "it is no address of this host: `ip address` lists them, and an AnyIP route \
                                (`ip route add local PREFIX dev lo`) adds a whole prefix"
            .into(),
        libc::EACCES => "ports below net.ipv4.ip_unprivileged_port_start take CAP_NET_BIND_SERVICE \
                         (AmbientCapabilities= in a unit, `setcap` on the binary)"
            .into(),
        libc::EAFNOSUPPORT => {
            "this host has no such address family: name only addresses of the other one".into()
        }
        libc::EMFILE | libc::ENFILE => {
            "open files are short: raise RLIMIT_NOFILE (LimitNOFILE= in a unit, `ulimit -n`)".into()
        }
        libc::EPERM => "the user already has sockets there, or a filter forbids it: see SystemCallFilter=, \
                        SocketBindDeny= and SELinux"
            .into(),
        libc::EINVAL if addr.is_ipv6() => {
            "a link-local address needs its interface's number: [fe80::1%2]:1234".into()
        }
        _ => "see bind(2), ip(7) and ipv6(7)".into(),
    }
}

/// Binds every endpoint once for each of `workers`. `join` shares ports with whoever lets us.
///
/// Without `join` the first socket of an address takes the port for itself (a second instance of this
/// program is an error, not half of the traffic), and only then opens it to the other workers'.
pub fn bind_all(endpoints: &[Endpoint], workers: usize, join: bool) -> Result<Sockets, SocketError> {
    let mut sockets = Sockets { shares: (0..workers).map(|_| Vec::new()).collect(), warnings: Vec::new() };
    let mut absent = None;
    for endpoint in endpoints {
        match bind_endpoint(endpoint, workers, join) {
            Ok(bound) => {
                for (index, listening) in bound.into_iter().enumerate() {
                    sockets.shares[index % workers].push(listening);
                }
            }
            Err(error)
                if endpoint.optional && (error.is(libc::EAFNOSUPPORT) || error.is(libc::EADDRNOTAVAIL)) =>
            {
                sockets.warnings.push(format!("not serving {}: {}", endpoint.addr, error.errno));
                absent = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    if let Some(error) = absent.filter(|_| sockets.shares.iter().all(Vec::is_empty)) {
        return Err(error);
    }
    sockets.warnings.extend(receive_buffer_warning(&sockets));
    Ok(sockets)
}

/// All sockets of an endpoint: TCP of each worker, then UDP of each worker.
fn bind_endpoint(endpoint: &Endpoint, workers: usize, join: bool) -> Result<Vec<Listening>, SocketError> {
    let mut tries = PORT_TRIES;
    loop {
        match try_endpoint(endpoint, workers, join) {
            Err(error) if error.is(libc::EADDRINUSE) && endpoint.addr.port() == 0 && tries > 1 => tries -= 1,
            outcome => return outcome,
        }
    }
}

fn try_endpoint(endpoint: &Endpoint, workers: usize, join: bool) -> Result<Vec<Listening>, SocketError> {
    let mut addr = endpoint.addr;
    let mut bound = Vec::new();
    for (protocol, wanted) in [(Protocol::Tcp, endpoint.tcp), (Protocol::Udp, endpoint.udp)] {
        if !wanted {
            continue;
        }
        for worker in 0..workers {
            let share = match (join, worker) {
                (true, _) | (false, 1..) => Share::Join,
                (false, 0) if workers > 1 => Share::Open,
                (false, 0) => Share::Alone,
            };
            // a port that the kernel chose is free or not; waiting would not free it
            let patience = if endpoint.addr.port() == 0 { Duration::ZERO } else { BIND_PATIENCE };
            let listening = with_patience(patience, || open(protocol, addr, share))?;
            addr.set_port(listening.addr.port());
            bound.push(listening);
        }
    }
    Ok(bound)
}

/// Who else may bind the address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Share {
    /// Nobody.
    Alone,
    /// Nobody had it before us; our other workers may follow.
    Open,
    /// Others have it already.
    Join,
}

fn open(protocol: Protocol, addr: SocketAddr, share: Share) -> Result<Listening, SocketError> {
    let failed = |step| {
        move |error: io::Error| SocketError {
            step,
            protocol,
            addr,
            errno: Errno(error.raw_os_error().unwrap_or(libc::EINVAL)),
        }
    };
    let fd = sys::socket(protocol, addr).map_err(failed("open a socket for"))?;
    let set = |option, value| {
        sys::set_option(fd.as_fd(), option, value).map_err(failed("set the socket options of"))
    };
    if addr.is_ipv6() {
        set(IntOption::ONLY_V6, 1)?;
    }
    match protocol {
        // never on UDP, where a second such socket would take everything
        Protocol::Tcp => {
            set(IntOption::REUSE_ADDR, 1)?;
            set(IntOption::NO_DELAY, 1)?; // connections inherit it
        }
        Protocol::Udp => {
            set(if addr.is_ipv4() { IntOption::ORIGDST_V4 } else { IntOption::ORIGDST_V6 }, 1)?;
            if addr.is_ipv6() {
                set(IntOption::FREEBIND_V6, 1)?;
            }
            set(IntOption::GRO, 1)?;
            for (force, plain) in [
                (IntOption::RECEIVE_BUFFER_FORCE, IntOption::RECEIVE_BUFFER),
                (IntOption::SEND_BUFFER_FORCE, IntOption::SEND_BUFFER),
            ] {
                if sys::set_option(fd.as_fd(), force, SOCKET_BUFFER_BYTES).is_err() {
                    set(plain, SOCKET_BUFFER_BYTES)?;
                }
            }
        }
    }
    if share == Share::Join {
        set(IntOption::REUSE_PORT, 1)?;
    }
    sys::bind(fd.as_fd(), addr).map_err(failed("bind"))?;
    if share == Share::Open {
        set(IntOption::REUSE_PORT, 1)?;
    }
    if protocol == Protocol::Tcp {
        sys::listen(fd.as_fd(), LISTEN_BACKLOG).map_err(failed("listen on"))?;
    }
    let addr = sys::local_addr(fd.as_fd()).map_err(failed("read the address of"))?;
    Ok(Listening { protocol, addr, fd })
}

/// Tries again for `patience` while the address is taken.
fn with_patience<T>(
    patience: Duration,
    mut attempt: impl FnMut() -> Result<T, SocketError>,
) -> Result<T, SocketError> {
    let deadline = Instant::now() + patience;
    loop {
        match attempt() {
            Err(error) if error.is(libc::EADDRINUSE) && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(10));
            }
            outcome => return outcome,
        }
    }
}

/// One line if the kernel gave smaller receive buffers than asked for.
fn receive_buffer_warning(sockets: &Sockets) -> Option<String> {
    let smallest = sockets
        .shares
        .iter()
        .flatten()
        .filter(|listening| listening.protocol == Protocol::Udp)
        .filter_map(|listening| sys::option(listening.as_fd(), IntOption::RECEIVE_BUFFER).ok())
        .map(|doubled| doubled / 2) // socket(7): the kernel doubles what was asked for
        .min()?;
    (smallest < SOCKET_BUFFER_BYTES).then(|| {
        format!(
            "UDP receive buffers are {smallest} bytes instead of {SOCKET_BUFFER_BYTES}: bursts may be dropped; \
             raise net.core.rmem_max or grant CAP_NET_ADMIN"
        )
    })
}

/// Merges endpoints of one address: those with port 0 share one port, a protocol named twice is an
/// error that this returns as the address.
pub fn merge(endpoints: impl IntoIterator<Item = Endpoint>) -> Result<Vec<Endpoint>, SocketAddr> {
    let mut merged: Vec<Endpoint> = Vec::new();
    for endpoint in endpoints {
        match merged.iter_mut().find(|known| known.addr == endpoint.addr) {
            Some(known) if (known.tcp && endpoint.tcp) || (known.udp && endpoint.udp) => {
                return Err(endpoint.addr);
            }
            Some(known) => {
                known.tcp |= endpoint.tcp;
                known.udp |= endpoint.udp;
            }
            None => merged.push(endpoint),
        }
    }
    Ok(merged)
}

/// The default: loopback of both families, port 1234, where a host has them.
pub fn default_endpoints() -> Vec<Endpoint> {
    [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])]
        .map(|ip| Endpoint { addr: (ip, 1234).into(), tcp: true, udp: true, optional: true })
        .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(addr: &str) -> Endpoint {
        Endpoint { addr: addr.parse().unwrap(), tcp: true, udp: true, optional: false }
    }

    #[test]
    fn port_0_is_one_port_for_all_protocols_and_workers() {
        let sockets = bind_all(&[endpoint("127.0.0.1:0"), endpoint("[::1]:0")], 3, false).unwrap();
        assert_eq!(sockets.shares.len(), 3);
        for family in [0, 2] {
            let port = sockets.shares[0][family].addr.port();
            assert_ne!(port, 0);
            for share in &sockets.shares {
                assert_eq!(share.len(), 4);
                assert_eq!((share[family].addr.port(), share[family + 1].addr.port()), (port, port));
                assert_eq!(share[family].protocol, Protocol::Tcp);
                assert_eq!(share[family + 1].protocol, Protocol::Udp);
            }
        }
    }

    #[test]
    fn a_port_in_use_is_an_error_with_a_cure_unless_joined() {
        for workers in [1, 2] {
            let first = bind_all(&[endpoint("127.0.0.1:0")], workers, false).unwrap();
            let taken = endpoint(&first.shares[0][0].addr.to_string());
            let error = bind_all(&[taken], 2, false).unwrap_err();
            assert!(error.is(libc::EADDRINUSE), "{error}");
            let text = error.to_string();
            assert!(text.contains(&taken.addr.to_string()) && text.contains("ss -lnp"), "{text}");
            assert_eq!(bind_all(&[taken], 1, true).is_ok(), workers > 1, "who is alone lets nobody join");
        }
    }

    #[test]
    fn an_optional_address_that_is_missing_costs_a_warning() {
        let mut missing = endpoint("192.0.2.1:0");
        let error = bind_all(&[missing], 1, false).unwrap_err().to_string();
        assert!(error.contains("192.0.2.1:0") && error.contains("ip address"), "{error}");
        missing.optional = true;
        let sockets = bind_all(&[missing, endpoint("127.0.0.1:0")], 1, false).unwrap();
        assert_eq!(sockets.shares[0].len(), 2);
        assert!(sockets.warnings[0].contains("192.0.2.1"), "{:?}", sockets.warnings);
        assert!(bind_all(&[missing], 1, false).is_err(), "nothing to serve is an error");
    }

    #[test]
    fn protocols_of_one_address_merge_and_twice_the_same_is_an_error() {
        let tcp = Endpoint { udp: false, ..endpoint("127.0.0.1:7") };
        let udp = Endpoint { tcp: false, ..endpoint("127.0.0.1:7") };
        assert_eq!(merge([tcp, udp]).unwrap(), [endpoint("127.0.0.1:7")]);
        assert_eq!(merge([tcp, endpoint("127.0.0.1:7")]), Err(tcp.addr));
    }
}
