//! Builds the rules about which datagrams are answered, from the options and the kernel's settings about ports.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use tracing::warn;

use super::config::ServerConfig;
use crate::kernel::sys::{self, Protocol};
use crate::policy::pairs::Pairs;
use crate::policy::refuse::Rules;
use crate::sockets::endpoint::Endpoint;
use crate::sockets::listening::Listening;
use crate::sockets::shares::Sockets;
use crate::values::ports::Ports;

/// Builds the rules, and makes the sockets report the hop limit of each datagram if a rule needs it.
pub(super) fn build(
    config: &ServerConfig,
    pairs: Arc<Pairs>,
    reserved: &Ports,
    bound: &mut Sockets,
) -> Rules {
    let listening: Vec<SocketAddr> = bound.shares.iter().flatten().map(|socket| socket.addr).collect();
    let rules = Rules::new(&listening, local_ports(), pairs).reserving(reserved);
    bound.set_hops(rules.needs_hops());
    for warning in bound.warnings.drain(..) {
        warn!("{warning}");
    }
    warn_of_client_like_ports(&rules, &bound.shares, &config.endpoints);
    if config.public { rules.public() } else { rules }
}

/// Ports that the kernel never chooses for a client (ip-sysctl, `ip_local_reserved_ports`). If they can't be read:
/// none, with a warning.
pub(super) fn reserved_ports() -> Ports {
    sys::reserved_ports().unwrap_or_else(|error| {
        warn!(
            "net.ipv4.ip_local_reserved_ports can't be read: {error}; replies may take those ports, too (ProcSubset= of \
             a unit hides the file): name them in --reply-ports-except"
        );
        Ports::default()
    })
}

/// Ports that the kernel chooses for clients (ip-sysctl, `ip_local_port_range`). If they can't be read: the kernel's
/// default, with a warning.
fn local_ports() -> RangeInclusive<u16> {
    sys::local_ports().unwrap_or_else(|error| {
        let default = sys::LOCAL_PORTS_DEFAULT;
        warn!(
            "net.ipv4.ip_local_port_range can't be read: {error}; taking {}-{} for the ports of clients: a client on \
             the server's own port is answered only if it is one of those (ProcSubset= of a unit hides the file)",
            default.start(),
            default.end()
        );
        default
    })
}

/// Warns of each UDP port that a client may have as well, unless the kernel chose the ports (port 0).
fn warn_of_client_like_ports(rules: &Rules, shares: &[Vec<Listening>], endpoints: &[Endpoint]) {
    let udp = shares.iter().flatten().filter(|socket| socket.protocol == Protocol::Udp);
    let ports: BTreeSet<u16> = udp.map(|socket| socket.addr.port()).collect();
    if endpoints.iter().any(|endpoint| endpoint.addr.addr().port() == 0) {
        return;
    }
    for port in ports.into_iter().filter(|port| rules.is_client_like(*port)) {
        warn!(
            "UDP port {port} is one that clients have, too (net.ipv4.ip_local_port_range): a loop between two servers on it \
             ends only after up to 255 replies; choose another one, or reserve it on every host \
             (net.ipv4.ip_local_reserved_ports) and restart"
        );
    }
}
