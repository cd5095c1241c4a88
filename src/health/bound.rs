//! Which sockets of this network namespace are bound, from /proc/net.

use std::fs;
use std::net::{IpAddr, SocketAddr};

use crate::kernel::sys::Protocol;

/// States as the kernel numbers them: a listening TCP socket, and a UDP socket without a peer.
const LISTENS: &str = "0A";
const UNCONNECTED: &str = "07";

/// Whether a socket that could receive is bound to exactly this address. If /proc/net can't be read, nobody knows, and
/// the echo has to tell.
pub fn is_bound(protocol: Protocol, addr: SocketAddr) -> bool {
    let (name, state) = match protocol {
        Protocol::Tcp => ("tcp", LISTENS),
        Protocol::Udp => ("udp", UNCONNECTED),
    };
    let family = if addr.is_ipv4() { "" } else { "6" };
    // of the thread: /proc/net is a link to /proc/self/net, which has the network of the main thread
    let table = fs::read_to_string(format!("/proc/thread-self/net/{name}{family}"));
    table.map_or(true, |table| bound_of(&table, state).any(|bound| bound == (addr.ip(), addr.port())))
}

/// The local addresses of a table's sockets in this state.
fn bound_of(table: &str, state: &str) -> impl Iterator<Item = (IpAddr, u16)> {
    table.lines().skip(1).filter_map(move |line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, _remote, found) = (fields.next()?, fields.next()?, fields.next()?);
        let (ip, port) = local.split_once(':')?;
        (found == state).then_some((read_ip(ip)?, u16::from_str_radix(port, 16).ok()?))
    })
}

/// An address as the kernel prints it: words of 32 bits, each in network order, printed as the host's processor reads it.
fn read_ip(text: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    match text.len() {
        8 => Some(IpAddr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            Some(IpAddr::from(<[u8; 16]>::try_from(words.concat()).ok()?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn bound_sockets_are_found_and_connected_ones_are_not() {
        for ip in ["127.0.0.1", "::1"] {
            let ip: IpAddr = ip.parse().unwrap();
            let Ok(udp) = UdpSocket::bind((ip, 0)) else { continue };
            let tcp = TcpListener::bind((ip, 0)).unwrap();
            let (udp_addr, tcp_addr) = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
            assert!(is_bound(Protocol::Udp, udp_addr));
            assert!(is_bound(Protocol::Tcp, tcp_addr));
            udp.connect(udp_addr).unwrap();
            assert!(!is_bound(Protocol::Udp, udp_addr), "connected");
            drop(tcp);
            assert!(!is_bound(Protocol::Tcp, tcp_addr), "closed");
        }
        let all = UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = all.local_addr().unwrap().port();
        assert!(is_bound(Protocol::Udp, SocketAddr::from(([0, 0, 0, 0], port))));
        assert!(!is_bound(Protocol::Udp, SocketAddr::from(([127, 0, 0, 1], port))), "another address");
    }

    #[test]
    fn lines_of_another_form_are_no_sockets() {
        let table = "head\n\n  0: 0100007F:XXXX 00000000:0000 07\n  1: 01007F:0007 0:0 07\n  2: 0100007F\n";
        assert_eq!(bound_of(table, UNCONNECTED).count(), 0);
    }
}
