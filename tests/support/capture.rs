//! The packets that pass the devices of the calling thread's namespace, with the headers that tests look at.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use super::PATIENCE;
use super::sys;

/// A running capture. Needs root.
pub struct Capture(UdpSocket);

/// The headers of a packet (RFC 791, 8200, 768, 9293).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub from: IpAddr,
    pub to: IpAddr,
    /// The TOS (IPv6: traffic class): DSCP and ECN.
    pub class: u8,
    /// The TTL (IPv6: hop limit).
    pub ttl: u8,
    /// Whether routers may not fragment it (IPv6: always).
    pub dont_fragment: bool,
    /// Whether it is a part of a larger one.
    pub is_fragment: bool,
    /// IPv6; else 0.
    pub flow_label: u32,
    pub protocol: i32,
    /// The ports; 0 where there are none.
    pub from_port: u16,
    pub to_port: u16,
    /// Whether the sender ends the connection by it; no others than TCP.
    pub is_fin: bool,
    /// From the IP header on.
    pub bytes: usize,
}

impl Capture {
    /// From now on it sees all packets.
    pub fn start() -> Self {
        let socket = sys::packet_socket(libc::ETH_P_ALL as u16).expect("a packet socket, which needs root");
        sys::set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 64 << 20).expect("a large queue");
        let socket = UdpSocket::from(socket);
        socket.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
        Self(socket)
    }

    /// The packets to `port` that have passed so far. A loopback device shows each twice: as it leaves and as it comes.
    pub fn packets_to(&self, port: u16) -> Vec<Packet> {
        self.packets().into_iter().filter(|packet| packet.to_port == port).collect()
    }

    /// All packets that have passed so far.
    pub fn packets(&self) -> Vec<Packet> {
        let mut frame = vec![0; 1 << 17];
        let mut packets = Vec::new();
        let begun = std::time::Instant::now();
        while let Ok(bytes) = self.0.recv(&mut frame) {
            packets.extend(parse(&frame[..bytes]));
            assert!(begun.elapsed() < PATIENCE, "the capture does not come to an end");
        }
        packets
    }
}

/// `None`: it is no IP packet.
fn parse(frame: &[u8]) -> Option<Packet> {
    const ETHERNET: usize = 14;
    let packet = frame.get(ETHERNET..)?;
    let word = |at: usize| packet.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes));
    let (mut found, header) = match frame.get(12..ETHERNET)? {
        [0x08, 0x00] => {
            let address = |at: usize| {
                packet.get(at..)?.first_chunk::<4>().map(|bytes| IpAddr::from(Ipv4Addr::from(*bytes)))
            };
            let fragment = word(6)?;
            let found = Packet {
                from: address(12)?,
                to: address(16)?,
                class: packet[1],
                ttl: packet[8],
                dont_fragment: fragment & 0x4000 != 0,
                is_fragment: fragment & 0x3fff != 0,
                flow_label: 0,
                protocol: packet[9].into(),
                from_port: 0,
                to_port: 0,
                is_fin: false,
                bytes: word(2)?.into(),
            };
            (found, usize::from(packet[0] & 15) * 4)
        }
        [0x86, 0xdd] => {
            let address = |at: usize| {
                packet.get(at..)?.first_chunk::<16>().map(|bytes| IpAddr::from(Ipv6Addr::from(*bytes)))
            };
            let first = u32::from_be_bytes(*packet.first_chunk()?);
            let found = Packet {
                from: address(8)?,
                to: address(24)?,
                class: (first >> 20) as u8,
                ttl: packet[7],
                dont_fragment: true,
                is_fragment: packet[6] == 44,
                flow_label: first & 0xf_ffff,
                protocol: packet[6].into(),
                from_port: 0,
                to_port: 0,
                is_fin: false,
                bytes: usize::from(word(4)?) + 40,
            };
            (found, 40)
        }
        _ => return None,
    };
    if matches!(found.protocol, libc::IPPROTO_UDP | libc::IPPROTO_TCP) {
        (found.from_port, found.to_port) = (word(header)?, word(header + 2)?);
    }
    if found.protocol == libc::IPPROTO_TCP {
        found.is_fin = packet.get(header + 13)? & 1 != 0;
    }
    Some(found)
}
