//! Binds every endpoint for every worker, except those whose sockets the service manager passed.
//!
//! The listening sockets are the first descriptors that the process opens: TCP before UDP, address by address, one for
//! each worker. So `tubectl register-pid` finds them: it walks the descriptors from 0 and gives up after a gap of 32.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use tracing::warn;

use crate::kernel::ring::Errno;
use crate::kernel::sys::{self, IntOption, Protocol};
use crate::sockets::adopt::{Adopted, Origin};
use crate::sockets::endpoint::Endpoint;
use crate::sockets::error::{Covering, SocketError, errno_of, failed, may_come};
use crate::sockets::listening::{AtExit, Listening, Share, open};
use crate::sockets::shares::Sockets;

/// How long to try a port that is taken. After a process has died, its ring frees its ports a moment later.
const BIND_PATIENCE: Duration = Duration::from_millis(500);
/// How long to wait for all missing addresses and interfaces together. At boot interfaces appear late, and an IPv6
/// address is tentative for a second or two.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(5);
/// Interval between two tries.
const TRY_INTERVAL: Duration = Duration::from_millis(10);
/// Tries to find a port that is free for both protocols, if the endpoint has port 0.
const PORT_TRIES: u32 = 64;

/// What to bind, and how.
#[derive(Clone, Copy)]
pub struct Binding<'a> {
    /// The addresses to serve.
    pub endpoints: &'a [Endpoint],
    /// The operator named the endpoints. If not, sockets of a .socket unit replace them.
    pub named: bool,
    /// Number of workers. Each gets its own sockets.
    pub workers: usize,
    /// Share ports with other processes that allow it.
    pub join: bool,
}

/// How long to try an address again after this answer of the kernel; `None` if another try would not help.
pub(crate) fn patience(errno: Errno) -> Option<Duration> {
    match errno.0 {
        libc::EADDRINUSE => Some(BIND_PATIENCE),
        _ => may_come(errno).then_some(ADDRESS_PATIENCE),
    }
}

/// Binds every endpoint once for each worker, except those that have `adopted` sockets already.
///
/// Without `--join`, the first socket of an address binds the port for itself alone, and only then lets the other
/// workers' sockets join. So a second instance of this program fails, instead of silently taking half of the traffic.
///
/// One worker serves each adopted socket. If the store has fewer sockets of an address than there are workers, new ones
/// join them. Sockets of a .socket unit stay as they are, because the unit decides their number.
///
/// Addresses of a family that the host lacks are left out, as long as any address remains. A missing address is waited
/// for.
pub fn bind_all(binding: Binding<'_>, adopted: Vec<Adopted>) -> Result<Sockets, SocketError> {
    let mut patience = Patience::new();
    bind_patiently(binding, adopted, &mut patience)
}

fn bind_patiently(
    binding: Binding<'_>,
    adopted: Vec<Adopted>,
    patience: &mut Patience,
) -> Result<Sockets, SocketError> {
    let Binding { named, workers, join, .. } = binding;
    let mut sockets = Sockets { shares: (0..workers).map(|_| Vec::new()).collect(), warnings: Vec::new() };
    let (from_unit, mut stored): (Vec<_>, Vec<_>) =
        adopted.into_iter().partition(|adopted| adopted.origin == Origin::Unit);
    let endpoints = if named || from_unit.is_empty() { binding.endpoints } else { &[] };
    sockets.deal_from_unit(from_unit);
    let mut absent: Vec<(Endpoint, SocketError)> = Vec::new();
    for endpoint in endpoints {
        match sockets.bind_endpoint(endpoint, join, &mut stored, patience) {
            Err(error) if error.lacks_family() => absent.push((*endpoint, error)),
            outcome => outcome?,
        }
    }
    // the loopback device may appear late too; wait for it if there is nothing else to serve
    if sockets.shares.iter().all(Vec::is_empty) {
        patience.loopback = true;
        for (endpoint, _) in std::mem::take(&mut absent) {
            match sockets.bind_endpoint(&endpoint, join, &mut stored, patience) {
                Ok(()) => patience.loopback = false,
                Err(error) if error.lacks_family() => {
                    absent.push((endpoint, error));
                }
                Err(error) => return Err(error),
            }
        }
        if sockets.shares.iter().all(Vec::is_empty) && !absent.is_empty() {
            return Err(absent.swap_remove(0).1);
        }
    }
    sockets.warnings.extend(absence_warnings(&absent));
    // stored sockets that no endpoint asks for any more
    for Adopted { mut listening, .. } in stored {
        sockets.warnings.push(format!("{} {} is no longer served", listening.protocol, listening.addr));
        listening.at_exit = AtExit::Retire;
        sockets.shares[0].push(listening);
    }
    sockets.warn();
    Ok(sockets)
}

/// One warning for each address family that the host lacks.
fn absence_warnings(absent: &[(Endpoint, SocketError)]) -> Vec<String> {
    let of_family = |is_ipv4: bool, name: &str| {
        let of_family = |(endpoint, _): &&(Endpoint, _)| endpoint.addr.addr().is_ipv4() == is_ipv4;
        let (_, error) = absent.iter().find(of_family)?;
        let addrs: Vec<_> =
            absent.iter().filter(of_family).map(|(endpoint, _)| endpoint.addr.to_string()).collect();
        Some(format!("not serving {}: {}; this host has no {name}", addrs.join(", "), error.errno))
    };
    [of_family(true, "IPv4"), of_family(false, "IPv6")].into_iter().flatten().collect()
}

impl Sockets {
    /// Binds an endpoint for all workers, except the sockets that .socket units have passed.
    fn bind_endpoint(
        &mut self,
        endpoint: &Endpoint,
        join: bool,
        stored: &mut Vec<Adopted>,
        patience: &mut Patience,
    ) -> Result<(), SocketError> {
        let protocol = if endpoint.tcp { Protocol::Tcp } else { Protocol::Udp };
        let addr = patience.wait(Duration::ZERO, || {
            endpoint.addr.resolve().map_err(failed("find the interface of", protocol, endpoint.addr))
        })?;
        let covered = |protocol| {
            self.shares.iter().flatten().any(|socket| socket.protocol == protocol && socket.addr == addr)
        };
        let wanted = Wanted {
            addr,
            tcp: endpoint.tcp && !covered(Protocol::Tcp),
            udp: endpoint.udp && !covered(Protocol::Udp),
        };
        match bind_wanted(wanted, self.shares.len(), join, stored, &mut self.warnings, patience) {
            Ok(bound) => {
                for sockets_of_one in bound {
                    self.deal(sockets_of_one);
                }
                Ok(())
            }
            Err(mut error) => {
                error.addr = endpoint.addr;
                error.join = join;
                // the port may be taken by one of our own sockets, which covers this address
                if error.is(libc::EADDRINUSE) {
                    let mut bound = self.shares.iter().flatten();
                    error.covering = bound.find_map(|socket| {
                        Covering::of(socket.addr, addr)
                            .filter(|_| socket.protocol == error.protocol)
                            .map(Box::new)
                    });
                }
                Err(error)
            }
        }
    }

    /// Distributes the sockets of one protocol and address among the workers in turn.
    fn deal(&mut self, sockets: Vec<Listening>) {
        let workers = self.shares.len();
        for (index, listening) in sockets.into_iter().enumerate() {
            self.shares[index % workers].push(listening);
        }
    }

    /// Distributes the sockets that .socket units passed, and warns of what the units could do better.
    fn deal_from_unit(&mut self, adopted: Vec<Adopted>) {
        let mut unreached: Vec<SocketAddr> = Vec::new();
        let mut groups: Vec<Vec<Listening>> = Vec::new();
        for Adopted { listening, .. } in adopted {
            let same = |group: &&mut Vec<Listening>| {
                group[0].protocol == listening.protocol && group[0].addr == listening.addr
            };
            match groups.iter_mut().find(same) {
                Some(group) => group.push(listening),
                None => groups.push(vec![listening]),
            }
        }
        for group in groups {
            let addr = group[0].addr;
            // with FreeBind= the unit also binds addresses that do not exist
            if !unreached.contains(&addr)
                && let Err(error) = reach(addr)
            {
                self.warnings.push(format!(
                    "nothing reaches {addr} at present: {}; the .socket unit binds it all the same (FreeBind=)",
                    errno_of(&error)
                ));
                unreached.push(addr);
            }
            let mut group = group;
            // the service manager opens and passes the sockets in the order of the unit
            number(&mut group);
            let (count, workers) = (group.len(), self.shares.len());
            if count < workers {
                self.warnings.push(format!(
                    "{count} of {workers} workers serve {} {}: list the address {workers} times in the .socket unit, \
                     with ReusePort=yes, for all of them to serve it",
                    group[0].protocol, group[0].addr
                ));
            }
            self.deal(group);
        }
    }
}

/// Checks that an address belongs to this host: another socket can be bound to it.
fn reach(addr: SocketAddr) -> io::Result<()> {
    let mut unused = addr;
    unused.set_port(0);
    sys::bind(sys::socket(Protocol::Udp, addr)?.as_fd(), unused)
}

/// The sockets of an endpoint that are still to be bound.
#[derive(Clone, Copy)]
struct Wanted {
    addr: SocketAddr,
    tcp: bool,
    udp: bool,
}

/// Binds all sockets of an endpoint: TCP for each worker, then UDP for each worker.
fn bind_wanted(
    wanted: Wanted,
    workers: usize,
    join: bool,
    stored: &mut Vec<Adopted>,
    warnings: &mut Vec<String>,
    patience: &mut Patience,
) -> Result<Vec<Vec<Listening>>, SocketError> {
    let mut tries = PORT_TRIES;
    let mut addr = wanted.addr;
    let mut bound = Vec::new();
    for (protocol, is_wanted) in [(Protocol::Tcp, wanted.tcp), (Protocol::Udp, wanted.udp)] {
        if is_wanted {
            let known = take_matching(stored, protocol, addr);
            if let Some(first) = known.first() {
                addr.set_port(first.addr.port());
                bound.push(complete(known, workers, warnings));
            }
        }
    }
    let missing = |bound: &[Vec<Listening>], protocol| {
        !bound.iter().any(|sockets: &Vec<Listening>| sockets[0].protocol == protocol)
    };
    let wanted = Wanted {
        addr,
        tcp: wanted.tcp && missing(&bound, Protocol::Tcp),
        udp: wanted.udp && missing(&bound, Protocol::Udp),
    };
    loop {
        match bind_new(wanted, workers, join, patience) {
            Err(error) if error.is(libc::EADDRINUSE) && wanted.addr.port() == 0 && tries > 1 => tries -= 1,
            outcome => {
                bound.extend(outcome?);
                return Ok(bound);
            }
        }
    }
}

/// Takes the stored sockets of an address out of `stored`. Port 0 matches any port.
fn take_matching(stored: &mut Vec<Adopted>, protocol: Protocol, addr: SocketAddr) -> Vec<Listening> {
    let matches = |adopted: &mut Adopted| {
        let found = &adopted.listening;
        found.protocol == protocol && (found.addr == addr || addr.port() == 0 && found.addr.ip() == addr.ip())
    };
    let mut known: Vec<_> = stored.extract_if(.., matches).map(|adopted| adopted.listening).collect();
    known.sort_by_key(|socket| socket.group_number);
    // when one of several sockets is closed, the kernel gives its number to the last one
    if known.iter().enumerate().any(|(place, socket)| socket.group_number != Some(place)) {
        for socket in &mut known {
            socket.group_number = None;
        }
    }
    known
}

/// Numbers the sockets of one address in the order in which they were opened.
fn number(group: &mut [Listening]) {
    for (number, socket) in group.iter_mut().enumerate() {
        socket.group_number = Some(number);
    }
}

/// Adds new sockets to stored ones, until each worker has one.
fn complete(mut known: Vec<Listening>, workers: usize, warnings: &mut Vec<String>) -> Vec<Listening> {
    let (protocol, addr) = (known[0].protocol, known[0].addr);
    while known.len() < workers {
        let opened =
            known.iter().try_for_each(|socket| sys::set_option(socket.as_fd(), IntOption::REUSE_PORT, 1));
        match opened.map_err(failed("share", protocol, addr)).and_then(|()| open(protocol, addr, Share::Join))
        {
            Ok(mut listening) => {
                // it is the last one; if the others have no number, its number is not sure either
                listening.group_number = known[0].group_number.map(|_| known.len());
                known.push(listening);
            }
            Err(error) => {
                warnings.push(format!(
                    "{} of {workers} workers serve {protocol} {addr}: {}; another user's stored socket can't be joined",
                    known.len(),
                    error.errno
                ));
                break;
            }
        }
    }
    known
}

fn bind_new(
    wanted: Wanted,
    workers: usize,
    join: bool,
    patience: &mut Patience,
) -> Result<Vec<Vec<Listening>>, SocketError> {
    let mut addr = wanted.addr;
    let mut bound = Vec::new();
    for (protocol, is_wanted) in [(Protocol::Tcp, wanted.tcp), (Protocol::Udp, wanted.udp)] {
        if !is_wanted {
            continue;
        }
        let mut sockets = Vec::new();
        for worker in 0..workers {
            let share = match (join, worker) {
                (true, _) | (false, 1..) => Share::Join,
                (false, 0) if workers > 1 => Share::Open,
                (false, 0) => Share::Alone,
            };
            // no wait for a port that the kernel chose: if the other protocol has it, the next try gets another one
            let for_port = if wanted.addr.port() == 0 { Duration::ZERO } else { BIND_PATIENCE };
            let listening = patience.wait(for_port, || open(protocol, addr, share))?;
            addr.set_port(listening.addr.port());
            sockets.push(listening);
        }
        if !join {
            number(&mut sockets);
        }
        bound.push(sockets);
    }
    Ok(bound)
}

/// How long to wait for missing addresses.
struct Patience {
    /// When the wait ends. Set, with one warning, by the first missing address.
    addresses_until: Option<Instant>,
    /// Length of the wait.
    addresses: Duration,
    /// Wait for a loopback address too. Normally, a missing loopback address means that the host lacks its family.
    loopback: bool,
}

impl Patience {
    fn new() -> Self {
        Self { addresses_until: None, addresses: ADDRESS_PATIENCE, loopback: false }
    }

    /// Tries again while the address is missing, and for `for_port` while its port is taken.
    fn wait<T>(
        &mut self,
        for_port: Duration,
        mut attempt: impl FnMut() -> Result<T, SocketError>,
    ) -> Result<T, SocketError> {
        let port_until = Instant::now() + for_port;
        loop {
            let error = match attempt() {
                Err(error) => error,
                outcome => return outcome,
            };
            let until = if error.is(libc::EADDRINUSE) {
                port_until
            } else if error.may_come() && (self.loopback || !error.lacks_family()) {
                *self.addresses_until.get_or_insert_with(|| {
                    let SocketError { protocol, addr, errno, .. } = &error;
                    let patience = humantime::format_duration(self.addresses);
                    warn!("{protocol} {addr} is not there yet: {errno}; trying for up to {patience}");
                    Instant::now() + self.addresses
                })
            } else {
                return Err(error);
            };
            if Instant::now() >= until {
                return Err(error);
            }
            thread::sleep(TRY_INTERVAL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(endpoints: &[Endpoint], workers: usize, join: bool) -> Result<Sockets, SocketError> {
        let binding = Binding { endpoints, named: true, workers, join };
        let mut patience = Patience { addresses: Duration::from_millis(50), ..Patience::new() };
        bind_patiently(binding, Vec::new(), &mut patience)
    }

    fn endpoint(addr: &str) -> Endpoint {
        Endpoint { addr: addr.parse().unwrap(), tcp: true, udp: true }
    }

    #[test]
    fn port_0_is_one_port_for_all_protocols_and_workers() {
        let sockets = bind(&[endpoint("127.0.0.1:0"), endpoint("[::1]:0")], 3, false).unwrap();
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
            let first = bind(&[endpoint("127.0.0.1:0")], workers, false).unwrap();
            let taken = endpoint(&first.shares[0][0].addr.to_string());
            let error = bind(&[taken], 2, false).unwrap_err();
            assert!(error.is(libc::EADDRINUSE), "{error}");
            let text = error.to_string();
            assert!(text.contains(&taken.addr.to_string()) && text.contains("ss -lnp"), "{text}");
            assert_eq!(
                bind(&[taken], 1, true).is_ok(),
                workers > 1,
                "a single worker does not share its port"
            );
        }
    }

    #[test]
    fn an_address_of_another_host_is_told_when_patience_is_over() {
        let foreign = endpoint("192.0.2.1:0");
        let begun = Instant::now();
        let error = bind(&[endpoint("127.0.0.1:0"), foreign], 1, false).unwrap_err();
        assert!(begun.elapsed() >= Duration::from_millis(50));
        let text = error.to_string();
        assert!(text.contains("192.0.2.1:0") && text.contains("ip address"), "{text}");
    }

    #[test]
    fn an_interface_that_is_not_there_is_told_by_its_name() {
        let text = bind(&[endpoint("[fe80::1%no-such-link]:0")], 1, false).unwrap_err().to_string();
        assert!(text.contains("[fe80::1%no-such-link]:0") && text.contains("ip link"), "{text}");
    }

    #[test]
    fn who_wants_to_share_is_not_told_to() {
        let first = bind(&[endpoint("127.0.0.1:0")], 1, false).unwrap();
        let taken = endpoint(&first.shares[0][0].addr.to_string());
        let cure = |join| bind(&[taken], 1, join).unwrap_err().to_string();
        assert!(cure(false).contains("share it on purpose with --join"));
        assert!(cure(true).contains("without --join") && !cure(true).contains("on purpose"));
    }
}
