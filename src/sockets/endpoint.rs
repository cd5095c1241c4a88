//! The addresses to serve, and the protocols of each.

use std::net::{IpAddr, SocketAddr};

use crate::sockets::listen_addr::ListenAddr;

/// An address to serve.
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
    /// The number of sockets that each worker needs for it.
    pub fn sockets(&self) -> usize {
        usize::from(self.tcp) + usize::from(self.udp)
    }
}

/// Merges the endpoints of one address; those with port 0 share one port. The error is an address that has the same
/// protocol twice.
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

/// The default: port 1234 on the loopback addresses of both families.
pub fn default_endpoints() -> Vec<Endpoint> {
    [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])]
        .map(|ip| Endpoint { addr: SocketAddr::from((ip, 1234)).into(), tcp: true, udp: true })
        .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(addr: &str) -> Endpoint {
        Endpoint { addr: addr.parse().unwrap(), tcp: true, udp: true }
    }

    #[test]
    fn protocols_of_one_address_merge_and_twice_the_same_is_an_error() {
        let tcp = Endpoint { udp: false, ..endpoint("127.0.0.1:7") };
        let udp = Endpoint { tcp: false, ..endpoint("127.0.0.1:7") };
        assert_eq!(merge([tcp, udp]).unwrap(), [endpoint("127.0.0.1:7")]);
        assert_eq!(merge([tcp, endpoint("127.0.0.1:7")]), Err(tcp.addr));
    }
}
