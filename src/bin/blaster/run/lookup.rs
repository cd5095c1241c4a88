//! The names among the targets, and of `--server-metrics`: their addresses (getaddrinfo(3)), once, before anything is sent.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, SocketAddrV6};
use std::time::Duration;

use dns_lookup::{AddrInfoHints, LookupErrorKind};
use tubular_echo::kernel::addr::Domain;

use crate::console::interruptible;
use crate::console::streams::message;
use crate::model::given_target::GivenTarget;
use crate::model::host_name::HostName;
use crate::model::metrics_url::MetricsUrl;
use crate::model::packet_options::PacketOptions;
use crate::model::source::Source;
use crate::model::target::TargetError;
use crate::options::{DestinationOptions, LoadOptions};
use crate::report::names::{LeftOutAddress, LeftOutReason, NamedHost};
use crate::workers::route;

/// The static build can't load the modules of /etc/nsswitch.conf: they are of the C library of the host.
const IS_STATIC: bool = cfg!(all(target_feature = "crt-static", target_env = "gnu"));
/// After this time blaster says what it waits for.
const PATIENCE: Duration = Duration::from_secs(1);

/// `EAI_ADDRFAMILY` of netdb.h, which the crate libc does not have.
const EAI_ADDRFAMILY: i32 = -9;

#[derive(Debug, thiserror::Error)]
pub(crate) enum LookupError {
    #[error(
        "{0} is not looked up, because this blaster is a static program: `getent ahosts {0}` shows its addresses; say \
         them instead"
    )]
    Static(HostName),
    #[error(
        "no host is named {0}{also}: `getent ahosts {0}` asks the same, and /etc/resolv.conf names the servers",
        also = or_none_of(*.1)
    )]
    Unknown(HostName, Option<Domain>),
    #[error("{0} is a name without an{kind} address: `getent ahosts {0}` shows all", kind = kind(*.1))]
    NoAddress(HostName, Option<Domain>),
    #[error(
        "looking up {0}: the name servers of /etc/resolv.conf did not answer, or have no answer for now; try again when \
         they do"
    )]
    NoAnswer(HostName),
    #[error("looking up {0}: the name servers of /etc/resolv.conf refuse to answer; name others there")]
    Refused(HostName),
    #[error("looking up {0}: {1}")]
    Other(HostName, io::Error),
    #[error("--source {local} can't reach {host}, which has only addresses of the other family: {addresses}")]
    OtherFamily { host: HostName, local: String, addresses: String },
    #[error("starting a thread: {0}; see `ulimit -u`")]
    Thread(io::Error),
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A signal ended the wait.
    #[error("ended by a signal")]
    Stopped,
}

/// Why a name may be unknown besides, if addresses of one family were asked for.
fn or_none_of(family: Option<Domain>) -> &'static str {
    match family {
        None => "",
        Some(Domain::Ipv4) => ", or it has no IPv4 address (leave -4 out)",
        Some(Domain::Ipv6) => ", or it has no IPv6 address (leave -6 out)",
    }
}

fn kind(family: Option<Domain>) -> &'static str {
    match family {
        None => "",
        Some(Domain::Ipv4) => " IPv4",
        Some(Domain::Ipv6) => " IPv6",
    }
}

/// Looks up all names of the options, and tells their addresses. Returns whether there were names.
pub(crate) fn look_up(load: &mut LoadOptions) -> Result<bool, LookupError> {
    let once = match (load.common().is_endless(), load.rates().has_steps()) {
        (true, _) => "; looked up once, for as long as it runs",
        (_, true) => "; looked up once, for all runs",
        _ => "",
    };
    let common = load.common_mut();
    let has_name = common.server_metrics.as_ref().is_some_and(|url| url.target().name().is_some());
    look_up_all(&mut common.destination, common.server_metrics.as_mut(), common.outputs.quiet, once)?;
    Ok(!common.destination.names.is_empty() || has_name)
}

/// Looks up the names of the targets and of `--server-metrics`, and tells their addresses; `once` follows them, as in
/// "looked up once".
pub(crate) fn look_up_all(
    destination: &mut DestinationOptions,
    mut url: Option<&mut MetricsUrl>,
    quiet: bool,
    once: &str,
) -> Result<(), LookupError> {
    let family = destination.family();
    let DestinationOptions { given: targets, names, source, allow_public, packets, .. } = destination;
    let name_of_url = url.as_ref().and_then(|url| url.target().name()).cloned();
    let hosts: BTreeSet<HostName> =
        targets.iter().filter_map(GivenTarget::name).cloned().chain(name_of_url).collect();
    let tell = |named: &NamedHost| {
        if !quiet {
            message(&format!("{}{once}", named.words()));
        }
    };
    for host in hosts {
        if IS_STATIC {
            return Err(LookupError::Static(host));
        }
        let found = addresses(&host, family, quiet)?;
        if let Some(url) = url.as_mut().filter(|url| url.target().name() == Some(&host)) {
            url.find(&found);
        }
        if !targets.iter().any(|target| target.name() == Some(&host)) {
            // the first that answers is asked
            tell(&named_host(&host, &found, Vec::new()));
            continue;
        }
        let (usable, mut left_out) = of_source(&host, found, source.as_ref())?;
        for target in targets.iter_mut().filter(|target| target.name() == Some(&host)) {
            target.find(&usable);
            // before anything depends on the routes of this moment
            target.check_allowed(*allow_public)?;
        }
        let (reachable, unrouted) = with_route(usable, packets);
        for target in targets.iter_mut().filter(|target| target.name() == Some(&host)) {
            target.find(&reachable);
        }
        left_out.extend(left_out_as(LeftOutReason::NoRoute, &unrouted));
        let named = named_host(&host, &reachable, left_out);
        tell(&named);
        names.push(named);
    }
    Ok(())
}

/// All addresses of a host, in an order that does not depend on its name servers: the same seed makes the same choices.
fn addresses(host: &HostName, family: Option<Domain>, quiet: bool) -> Result<Vec<SocketAddr>, LookupError> {
    let hints = AddrInfoHints {
        address: match family {
            None => libc::AF_UNSPEC,
            Some(Domain::Ipv4) => libc::AF_INET,
            Some(Domain::Ipv6) => libc::AF_INET6,
        },
        // each address once, and not once for each type of socket
        socktype: libc::SOCK_STREAM,
        ..AddrInfoHints::default()
    };
    let asked = host.clone();
    let ask = move || -> Result<BTreeSet<SocketAddr>, dns_lookup::LookupError> {
        Ok(dns_lookup::getaddrinfo(Some(asked.as_str()), None, Some(hints))?
            .map(|info| info.map(|info| without_flow(info.sockaddr)))
            .collect::<io::Result<_>>()?)
    };
    let waits = || {
        if !quiet {
            message(&format!(
                "waiting for the addresses of {host}, from the name servers of /etc/resolv.conf"
            ));
        }
    };
    let answer = interruptible::run("lookup", ask, PATIENCE, waits);
    match answer.map_err(LookupError::Thread)? {
        None => Err(LookupError::Stopped),
        Some(Ok(found)) if found.is_empty() => Err(LookupError::NoAddress(host.clone(), family)),
        Some(Ok(found)) => Ok(found.into_iter().collect()),
        Some(Err(error)) => Err(match error.kind() {
            LookupErrorKind::NoName => LookupError::Unknown(host.clone(), family),
            LookupErrorKind::NoData => LookupError::NoAddress(host.clone(), family),
            _ if error.error_num() == EAI_ADDRFAMILY => LookupError::NoAddress(host.clone(), family),
            LookupErrorKind::Again => LookupError::NoAnswer(host.clone()),
            LookupErrorKind::Fail => LookupError::Refused(host.clone()),
            _ => LookupError::Other(host.clone(), error.into()),
        }),
    }
}

/// The same address with port 0, and with the interface of a link-local address.
fn without_flow(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(addr) => (*addr.ip(), 0).into(),
        SocketAddr::V6(addr) => SocketAddrV6::new(*addr.ip(), 0, 0, addr.scope_id()).into(),
    }
}

/// The addresses of the family of `--source`, and the others.
fn of_source(
    host: &HostName,
    found: Vec<SocketAddr>,
    source: Option<&Source>,
) -> Result<(Vec<SocketAddr>, Vec<LeftOutAddress>), LookupError> {
    let Some(source) = source else { return Ok((found, Vec::new())) };
    let (usable, other): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|addr| addr.is_ipv4() == source.is_ipv4());
    if usable.is_empty() {
        let addresses = named_host(host, &other, Vec::new()).addresses.join(", ");
        return Err(LookupError::OtherFamily { host: host.clone(), local: source.to_string(), addresses });
    }
    Ok((usable, left_out_as(LeftOutReason::OtherFamily, &other)))
}

/// The addresses that this host has a route to, and the others. If there is no route at all, the first send tells why.
fn with_route(usable: Vec<SocketAddr>, packets: &PacketOptions) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
    let has_route = |addr: &SocketAddr| {
        let mut peer = *addr;
        // the route is the same for all
        peer.set_port(1);
        !route::local_addr(peer, packets).is_err_and(|error| error.is_no_route())
    };
    if !usable.iter().any(has_route) {
        return (usable, Vec::new());
    }
    usable.into_iter().partition(has_route)
}

fn left_out_as(reason: LeftOutReason, addresses: &[SocketAddr]) -> Vec<LeftOutAddress> {
    addresses.iter().map(|addr| LeftOutAddress { address: shown(*addr), reason }).collect()
}

fn named_host(host: &HostName, found: &[SocketAddr], left_out: Vec<LeftOutAddress>) -> NamedHost {
    let addresses = found.iter().map(|addr| shown(*addr)).collect();
    NamedHost { name: host.to_string(), addresses, left_out }
}

/// The address without its port.
fn shown(addr: SocketAddr) -> String {
    match addr {
        SocketAddr::V6(addr) if addr.scope_id() != 0 => format!("{}%{}", addr.ip(), addr.scope_id()),
        addr => addr.ip().to_string(),
    }
}
