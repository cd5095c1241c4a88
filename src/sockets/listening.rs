//! The listening sockets: which ones, in what order, with which options.
//!
//! They are the first descriptors that the process opens, TCP before UDP, address by address, one for
//! each worker, so that `tubectl register-pid`, which walks the descriptors from 0 and gives up after a
//! gap of 32, finds them.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use std::{io, thread};

use tracing::warn;

use crate::kernel::ring::Errno;
use crate::kernel::sys::{self, IntOption, Protocol};
use crate::sockets::keepalive::{self, Keepalive};
use crate::sockets::listen_addr::ListenAddr;

/// Receive and send buffer asked for, bytes. The default of 208 KiB holds 256 small datagrams.
pub const SOCKET_BUFFER_BYTES: i32 = 4 << 20;
/// Connections that may wait to be accepted, per listener.
pub const LISTEN_BACKLOG: u32 = 4096;
/// How long a taken port is tried again: the ring of a process that just died frees it late.
const BIND_PATIENCE: Duration = Duration::from_millis(500);
/// How long an address, or an interface, that is not there is waited for, all of them together: at boot interfaces come
/// late, and an IPv6 address is tentative for a second or two.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(5);
/// How often what is waited for is tried again.
const TRY_INTERVAL: Duration = Duration::from_millis(10);
/// Port 0 has to find one that is free for all protocols.
const PORT_TRIES: u32 = 64;

/// What to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Address and port; port 0 lets the kernel choose one for all protocols and workers.
    pub addr: ListenAddr,
    /// Serve TCP.
    pub tcp: bool,
    /// Serve UDP.
    pub udp: bool,
}

impl Endpoint {
    /// Sockets that it takes for each worker.
    pub fn sockets(&self) -> usize {
        usize::from(self.tcp) + usize::from(self.udp)
    }
}

/// What becomes of a listening socket when this process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It ends with us: everything in its queue has to be answered before.
    Ends,
    /// The service manager keeps it for the next process, and what is in its queue too.
    Outlives,
    /// It is not wanted any more: it answers what is in its queue and is closed.
    Retires,
}

/// A bound socket; a TCP one listens.
#[derive(Debug)]
pub struct Listening {
    /// What it serves.
    pub protocol: Protocol,
    /// Where it is bound.
    pub addr: SocketAddr,
    /// What becomes of it.
    pub fate: Fate,
    lacks: Vec<Lack>,
    fd: OwnedFd,
}

/// An option that only helps, and that the kernel or a filter refused: the socket serves without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lack {
    option: &'static str,
    loss: &'static str,
    errno: Errno,
}

impl Lack {
    fn of(set: io::Result<()>, option: &'static str, loss: &'static str) -> Option<Self> {
        set.err().map(|error| Self { option, loss, errno: errno_of(&error) })
    }
}

impl std::fmt::Display for Lack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "serving without {}: {}; {}", self.option, self.errno, self.loss)
    }
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

/// What to bind, and how.
#[derive(Clone, Copy)]
pub struct Binding<'a> {
    /// Where to listen.
    pub endpoints: &'a [Endpoint],
    /// Somebody named the endpoints; else they give way to what a .socket unit passed.
    pub named: bool,
    /// How many workers get sockets of their own.
    pub workers: usize,
    /// Share ports with whoever lets us.
    pub join: bool,
}

/// Why an address can't be served: the step, the address, the kernel's answer, the cure.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot {step} {protocol} {addr}: {errno}; {}",
    .covering.as_ref().map_or_else(|| cure(*.errno, .addr.addr(), *.join), |covering| covering.cure())
)]
pub struct SocketError {
    step: &'static str,
    protocol: Protocol,
    addr: ListenAddr,
    errno: Errno,
    covering: Option<Box<Covering>>,
    /// The port was to be shared.
    join: bool,
}

/// Two addresses of ours that can't both have their port.
#[derive(Clone, Copy, Debug)]
struct Covering {
    all: SocketAddr,
    one: SocketAddr,
}

impl Covering {
    fn of(a: SocketAddr, b: SocketAddr) -> Option<Self> {
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
    fn is(&self, errno: i32) -> bool {
        self.errno.0 == errno
    }

    /// The address may come: it is tentative, or its interface is not there yet.
    fn may_come(&self) -> bool {
        may_come(self.errno)
    }

    /// The host lacks the address's family, or does not use it: what every host with the family has is not there.
    fn lacks_family(&self) -> bool {
        let ip = self.addr.addr().ip();
        (self.is(libc::EAFNOSUPPORT) && (ip.is_loopback() || ip.is_unspecified()))
            || (self.is(libc::EADDRNOTAVAIL) && ip.is_loopback())
    }
}

/// An address with this answer of the kernel may come: it is tentative, or its interface is not there yet.
fn may_come(errno: Errno) -> bool {
    matches!(errno.0, libc::EADDRNOTAVAIL | libc::ENODEV)
}

/// How long an address is tried again after this answer of the kernel; `None`: trying again won't help.
pub(crate) fn patience(errno: Errno) -> Option<Duration> {
    match errno.0 {
        libc::EADDRINUSE => Some(BIND_PATIENCE),
        _ => may_come(errno).then_some(ADDRESS_PATIENCE),
    }
}

/// What the operator can do about an address that can't be listened on; `join`: its port was to be shared.
pub(crate) fn cure(errno: Errno, addr: SocketAddr, join: bool) -> String {
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
        // there a route is no address
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

/// Binds every endpoint once for each worker, but for those that have `adopted` sockets already.
///
/// Unless ports are to be shared the first socket of an address takes the port for itself (a second
/// instance of this program is an error, not half of the traffic), and only then opens it to the other
/// workers'. An adopted socket is served by one worker; where there are fewer than workers, a stored one
/// is joined by new ones, one of a .socket unit is not, since the unit says how many there are.
///
/// What a host with only one address family can't have is left out, as long as anything is left. An address that is
/// not there yet is waited for.
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
    // a loopback device may be late, too: worth waiting for where there is nothing else
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
    // what the store still had, but nobody wants any more
    for Adopted { mut listening, .. } in stored {
        sockets.warnings.push(format!("{} {} is no longer served", listening.protocol, listening.addr));
        listening.fate = Fate::Retires;
        sockets.shares[0].push(listening);
    }
    sockets.warnings.extend(receive_buffer_warning(&sockets));
    sockets.warnings.extend(accept_queue_warning(&sockets));
    let mut lacks: Vec<Lack> = Vec::new();
    for lack in sockets.shares.iter().flatten().flat_map(|socket| &socket.lacks) {
        if !lacks.iter().any(|known| known.option == lack.option) {
            lacks.push(*lack);
        }
    }
    sockets.warnings.extend(lacks.iter().map(Lack::to_string));
    Ok(sockets)
}

/// A line for each family that the host lacks.
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
    /// Binds an endpoint for all workers, but for what .socket units have passed.
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
                // they are ours: there is nobody else to look for
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

    /// Gives the sockets of one protocol and address to the workers in turn.
    fn deal(&mut self, sockets: Vec<Listening>) {
        let workers = self.shares.len();
        for (index, listening) in sockets.into_iter().enumerate() {
            self.shares[index % workers].push(listening);
        }
    }

    /// The same for what .socket units passed.
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
            // FreeBind= binds what is not there
            if !unreached.contains(&addr)
                && let Err(error) = reach(addr)
            {
                self.warnings.push(format!(
                    "nothing reaches {addr} at present: {}; the .socket unit binds it all the same (FreeBind=)",
                    errno_of(&error)
                ));
                unreached.push(addr);
            }
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

/// Whether an address is one of this host's: whether a socket of ours could be bound to it.
fn reach(addr: SocketAddr) -> io::Result<()> {
    let mut unused = addr;
    unused.set_port(0);
    sys::bind(sys::socket(Protocol::Udp, addr)?.as_fd(), unused)
}

/// What is to be bound of an endpoint.
#[derive(Clone, Copy)]
struct Wanted {
    addr: SocketAddr,
    tcp: bool,
    udp: bool,
}

/// All sockets of an endpoint: TCP of each worker, then UDP of each worker.
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

/// Takes the stored sockets of an address out of `stored`; port 0 is whatever port they have.
fn take_matching(stored: &mut Vec<Adopted>, protocol: Protocol, addr: SocketAddr) -> Vec<Listening> {
    let matches = |adopted: &mut Adopted| {
        let found = &adopted.listening;
        found.protocol == protocol && (found.addr == addr || addr.port() == 0 && found.addr.ip() == addr.ip())
    };
    stored.extract_if(.., matches).map(|adopted| adopted.listening).collect()
}

/// Adds new sockets to stored ones, until each worker has one.
fn complete(mut known: Vec<Listening>, workers: usize, warnings: &mut Vec<String>) -> Vec<Listening> {
    let (protocol, addr) = (known[0].protocol, known[0].addr);
    while known.len() < workers {
        let opened =
            known.iter().try_for_each(|socket| sys::set_option(socket.as_fd(), IntOption::REUSE_PORT, 1));
        match opened.map_err(failed("share", protocol, addr)).and_then(|()| open(protocol, addr, Share::Join))
        {
            Ok(listening) => known.push(listening),
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
            // a port that the kernel chose is free or not; waiting would not free it
            let for_port = if wanted.addr.port() == 0 { Duration::ZERO } else { BIND_PATIENCE };
            let listening = patience.wait(for_port, || open(protocol, addr, share))?;
            addr.set_port(listening.addr.port());
            sockets.push(listening);
        }
        bound.push(sockets);
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

fn failed(
    step: &'static str,
    protocol: Protocol,
    addr: impl Into<ListenAddr>,
) -> impl Fn(io::Error) -> SocketError {
    let addr = addr.into();
    move |error| SocketError { step, protocol, addr, errno: errno_of(&error), covering: None, join: false }
}

fn errno_of(error: &io::Error) -> Errno {
    Errno(error.raw_os_error().unwrap_or(libc::EINVAL))
}

fn open(protocol: Protocol, addr: SocketAddr, share: Share) -> Result<Listening, SocketError> {
    let failed = |step| failed(step, protocol, addr);
    let fd = sys::socket(protocol, addr).map_err(failed("open a socket for"))?;
    let set = |option, value| {
        sys::set_option(fd.as_fd(), option, value).map_err(failed("set the socket options of"))
    };
    if addr.is_ipv6() {
        set(IntOption::ONLY_V6, 1)?;
    }
    let mut lacks = prepare(fd.as_fd(), protocol, addr)?;
    if protocol == Protocol::Tcp {
        // never on UDP, where a second such socket would take everything
        let set = sys::set_option(fd.as_fd(), IntOption::REUSE_ADDR, 1);
        lacks.extend(Lack::of(set, "SO_REUSEADDR", "a restart may find the port taken for a minute"));
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
    Ok(Listening { protocol, addr, fate: Fate::Ends, lacks, fd })
}

/// Sets the options that the datapath needs, on a socket of ours or an adopted one, and those that help it.
fn prepare(fd: BorrowedFd<'_>, protocol: Protocol, addr: SocketAddr) -> Result<Vec<Lack>, SocketError> {
    let lacks = match protocol {
        Protocol::Tcp => {
            // connections inherit both
            let no_delay = sys::set_option(fd, IntOption::NO_DELAY, 1);
            let inline = sys::set_option(fd, IntOption::OOB_INLINE, 1);
            [
                Lack::of(no_delay, "TCP_NODELAY", "small echoes may wait for each other"),
                Lack::of(inline, "SO_OOBINLINE", "urgent bytes are not echoed"),
            ]
        }
        Protocol::Udp => {
            let origdst = if addr.is_ipv4() { IntOption::ORIGDST_V4 } else { IntOption::ORIGDST_V6 };
            sys::set_option(fd, origdst, 1).map_err(failed("set the socket options of", protocol, addr))?;
            // whoever got less is warned by what the kernel says it has
            let _ = raise_buffers(fd, addr);
            let trains = sys::set_option(fd, IntOption::GRO, 1);
            [
                Lack::of(trains, "UDP_GRO", "trains of datagrams arrive and leave singly"),
                Lack::of(
                    let_be_cut(fd, addr),
                    "IP_MTU_DISCOVER",
                    "replies vanish where a path's MTU is small",
                ),
            ]
        }
    };
    Ok(lacks.into_iter().flatten().collect())
}

/// Lets routers cut IPv4 replies that are too large for their next link, as they may cut the kernel's own echoes. By
/// default the kernel forbids it (DF), relies on an ICMP message, and where that gets lost, so does every reply of that
/// size, and nobody knows. IPv6 routers cut nothing.
pub(crate) fn let_be_cut(fd: BorrowedFd<'_>, addr: SocketAddr) -> io::Result<()> {
    if addr.is_ipv6() {
        return Ok(());
    }
    sys::set_option(fd, IntOption::MTU_DISCOVER_V4, IntOption::MTU_DISCOVER_NEVER)
}

/// Gives a UDP socket the buffers that we want, or what we may; never less than it has.
fn raise_buffers(fd: BorrowedFd<'_>, addr: SocketAddr) -> io::Result<()> {
    for (force, plain) in [
        (IntOption::RECEIVE_BUFFER_FORCE, IntOption::RECEIVE_BUFFER),
        (IntOption::SEND_BUFFER_FORCE, IntOption::SEND_BUFFER),
    ] {
        let has = sys::option(fd, plain)?;
        let enough = has / 2 >= SOCKET_BUFFER_BYTES; // socket(7): the kernel doubles what was asked for
        if enough || sys::set_option(fd, force, SOCKET_BUFFER_BYTES).is_ok() {
            continue;
        }
        // a .socket unit may have given it more than we may have: a new socket tells what that is
        let new = sys::socket(Protocol::Udp, addr)?;
        sys::set_option(new.as_fd(), plain, SOCKET_BUFFER_BYTES)?;
        if sys::option(new.as_fd(), plain)? > has {
            sys::set_option(fd, plain, SOCKET_BUFFER_BYTES)?;
        }
    }
    Ok(())
}

/// Lets IPv6 replies leave from any address that was asked. Only a bound socket gets this: before bind
/// it would make an address of another host, a typing error perhaps, look served.
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

/// Where an adopted socket comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A .socket unit.
    Unit,
    /// The service manager's store, where an earlier process of ours put it.
    Store,
}

/// A socket that the service manager passed.
#[derive(Debug)]
pub struct Adopted {
    /// Where it comes from.
    pub origin: Origin,
    /// The socket.
    pub listening: Listening,
}

impl Listening {
    /// A descriptor that a test lets pass for a listening socket.
    #[cfg(test)]
    pub(crate) fn pretended(protocol: Protocol, addr: SocketAddr, fate: Fate, fd: OwnedFd) -> Self {
        Self { protocol, addr, fate, lacks: Vec::new(), fd }
    }

    /// Makes a bound socket of somebody else's fit for the datapath.
    pub fn adopt(fd: OwnedFd, protocol: Protocol) -> Result<Self, SocketError> {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let addr = sys::local_addr(fd.as_fd()).map_err(failed("read the address of", protocol, nowhere))?;
        let failed = |step| failed(step, protocol, addr);
        match protocol {
            // our tables have room for this many and no more
            Protocol::Tcp => sys::listen(fd.as_fd(), LISTEN_BACKLOG).map_err(failed("listen on"))?,
            // a .socket unit sets it; the next such socket would take everything
            Protocol::Udp => sys::set_option(fd.as_fd(), IntOption::REUSE_ADDR, 0)
                .map_err(failed("set the socket options of"))?,
        }
        forget_errors(fd.as_fd(), addr);
        let lacks = prepare(fd.as_fd(), protocol, addr)?;
        free_source(fd.as_fd(), protocol, addr)?;
        Ok(Self { protocol, addr, fate: Fate::Outlives, lacks, fd })
    }
}

/// Has the network's errors, and the times of what we send, no longer queued at an adopted socket, connections of a
/// listener included. Nobody reads that queue: a stranger's ICMP errors would fill the receive buffer with it, and a
/// socket that has something there is never waited for.
fn forget_errors(fd: BorrowedFd<'_>, addr: SocketAddr) {
    let errors = if addr.is_ipv4() { IntOption::RECEIVE_ERRORS_V4 } else { IntOption::RECEIVE_ERRORS_V6 };
    for option in [errors, IntOption::TIMESTAMPING] {
        // a kernel or a filter without the option has no such queue to fear, or what comes of it is counted
        let _ = sys::set_option(fd, option, 0);
    }
    let _ = sys::option(fd, IntOption::ERROR);
}

/// How long is waited for what may come, and for what of it.
struct Patience {
    /// Until when an address that is not there is waited for; told once.
    addresses_until: Option<Instant>,
    /// For how long, from the first one on.
    addresses: Duration,
    /// For a loopback address, too, which else is missing with its family.
    loopback: bool,
}

impl Patience {
    fn new() -> Self {
        Self { addresses_until: None, addresses: ADDRESS_PATIENCE, loopback: false }
    }

    /// Tries again while the address is not there, and for `for_port` while its port is taken.
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

impl Sockets {
    /// Has the kernel tell, or not, with which DSCP datagrams came, so that their replies leave with it. Stored sockets
    /// may have been set otherwise.
    pub fn set_dscp(&mut self, reflected: bool) {
        let udp = self.shares.iter().flatten().filter(|socket| socket.protocol == Protocol::Udp);
        let set = udp.map(|socket| {
            let v4 = socket.addr.is_ipv4();
            let option = if v4 { IntOption::RECEIVE_TOS_V4 } else { IntOption::RECEIVE_CLASS_V6 };
            sys::set_option(socket.as_fd(), option, reflected.into())
        });
        let failed = set.into_iter().find(Result::is_err).unwrap_or(Ok(()));
        let lack = Lack::of(failed, "IP_RECVTOS", "replies leave without the DSCP of what they answer");
        self.warnings.extend(lack.filter(|_| reflected).map(|lack| lack.to_string()));
    }

    /// Has the kernel tell, or not, with which hop limit datagrams came. Stored sockets may have been set otherwise.
    pub fn set_hops(&mut self, wanted: bool) {
        let udp = self.shares.iter().flatten().filter(|socket| socket.protocol == Protocol::Udp);
        let set = udp.map(|socket| {
            let v4 = socket.addr.is_ipv4();
            let option = if v4 { IntOption::RECEIVE_HOPS_V4 } else { IntOption::RECEIVE_HOPS_V6 };
            sys::set_option(socket.as_fd(), option, wanted.into())
        });
        let failed = set.into_iter().find(Result::is_err).unwrap_or(Ok(()));
        let lack = Lack::of(failed, "IP_RECVTTL", "no client on the server's own port is answered");
        self.warnings.extend(lack.filter(|_| wanted).map(|lack| lack.to_string()));
    }

    /// Has the kernel give up connections whose peer acknowledges nothing for so long (tcp(7),
    /// `TCP_USER_TIMEOUT`); zero for the system's own patience, about 15 minutes.
    pub fn set_user_timeout(&mut self, timeout: Duration) {
        let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        let listeners = self.shares.iter().flatten().filter(|socket| socket.protocol == Protocol::Tcp);
        let set = listeners
            .map(|listener| sys::set_option(listener.as_fd(), IntOption::USER_TIMEOUT, timeout_ms))
            .find(Result::is_err);
        let loss = "peers that vanished are given up when the system gives them up";
        self.warnings
            .extend(Lack::of(set.unwrap_or(Ok(())), "TCP_USER_TIMEOUT", loss).map(|lack| lack.to_string()));
    }

    /// Has the kernel ask quiet peers for a sign of life, or not (tcp(7), `SO_KEEPALIVE`). What a .socket unit said of
    /// that is overruled: its numbers would have to fit the user timeout, which is ours.
    pub fn set_keepalive(&mut self, keepalive: Option<Keepalive>) {
        let set = |listener: &Listening| {
            let set = |option, value| sys::set_option(listener.as_fd(), option, value);
            if let Some(Keepalive { after_s, interval_s }) = keepalive {
                set(IntOption::KEEP_ALIVE_IDLE, after_s)?;
                set(IntOption::KEEP_ALIVE_INTERVAL, interval_s)?;
                set(IntOption::KEEP_ALIVE_COUNT, keepalive::QUESTIONS)?;
            }
            set(IntOption::KEEP_ALIVE, keepalive.is_some().into())
        };
        let listeners = self.shares.iter().flatten().filter(|socket| socket.protocol == Protocol::Tcp);
        let set = listeners.map(set).find(Result::is_err).unwrap_or(Ok(()));
        let loss = "idle connections of peers that vanished are kept";
        self.warnings.extend(Lack::of(set, "SO_KEEPALIVE", loss).map(|lack| lack.to_string()));
    }
}

impl Sockets {
    /// Whether the kernel gave UDP sockets the receive buffers that were asked for.
    pub fn has_whole_buffers(&self) -> bool {
        receive_buffer_bytes(self).is_none_or(|bytes| bytes >= SOCKET_BUFFER_BYTES)
    }
}

/// The smallest receive buffer of a UDP socket.
fn receive_buffer_bytes(sockets: &Sockets) -> Option<i32> {
    sockets
        .shares
        .iter()
        .flatten()
        .filter(|listening| listening.protocol == Protocol::Udp)
        .filter_map(|listening| sys::option(listening.as_fd(), IntOption::RECEIVE_BUFFER).ok())
        .map(|doubled| doubled / 2) // socket(7): the kernel doubles what was asked for
        .min()
}

/// One line if the kernel gave smaller receive buffers than asked for.
fn receive_buffer_warning(sockets: &Sockets) -> Option<String> {
    let smallest = receive_buffer_bytes(sockets)?;
    (smallest < SOCKET_BUFFER_BYTES).then(|| {
        format!(
            "UDP receive buffers are {smallest} bytes instead of {SOCKET_BUFFER_BYTES}: bursts may be dropped; \
             raise net.core.rmem_max to {SOCKET_BUFFER_BYTES} or grant CAP_NET_ADMIN, and restart"
        )
    })
}

/// One line if the kernel gave shorter accept queues than asked for: it tells nobody else.
fn accept_queue_warning(sockets: &Sockets) -> Option<String> {
    let listeners = sockets.shares.iter().flatten().filter(|listening| listening.protocol == Protocol::Tcp);
    let shortest = listeners.filter_map(|listening| sys::accept_queue_max(listening.as_fd()).ok()).min()?;
    (shortest < LISTEN_BACKLOG).then(|| {
        format!(
            "TCP accept queues hold {shortest} connections instead of {LISTEN_BACKLOG}: in a burst of more, some wait \
             a second or longer; raise net.core.somaxconn and restart"
        )
    })
}

/// Merges endpoints of one address: those with port 0 share one port, a protocol named twice is an
/// error that this returns as the address.
pub fn merge(endpoints: impl IntoIterator<Item = Endpoint>) -> Result<Vec<Endpoint>, ListenAddr> {
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
        .map(|ip| Endpoint { addr: SocketAddr::from((ip, 1234)).into(), tcp: true, udp: true })
        .to_vec()
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
            assert_eq!(bind(&[taken], 1, true).is_ok(), workers > 1, "who is alone lets nobody join");
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

    #[test]
    fn protocols_of_one_address_merge_and_twice_the_same_is_an_error() {
        let tcp = Endpoint { udp: false, ..endpoint("127.0.0.1:7") };
        let udp = Endpoint { tcp: false, ..endpoint("127.0.0.1:7") };
        assert_eq!(merge([tcp, udp]).unwrap(), [endpoint("127.0.0.1:7")]);
        assert_eq!(merge([tcp, endpoint("127.0.0.1:7")]), Err(tcp.addr));
    }
}
