//! A client for datagrams and trains. Its socket is never connected: the kernel would drop a reply from a wrong source,
//! and the test would not see it.

use super::random::payload;
use super::{PATIENCE, sys};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// A client socket with room for thousands of replies.
pub struct UdpClient {
    /// The socket itself, for operations that this type does not have.
    pub socket: UdpSocket,
}

impl UdpClient {
    /// A client at a free port of this address.
    pub fn at(ip: impl Into<IpAddr>) -> Self {
        Self::bound_to(SocketAddr::new(ip.into(), 0))
    }

    /// A client at exactly this address, which may have a scope.
    pub fn bound_to(address: SocketAddr) -> Self {
        let socket = UdpSocket::bind(address).expect("bind a client socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("set the patience");
        // only root gets the whole buffer, so tests that send bursts need root
        if sys::set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 16 << 20).is_err() {
            sys::set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, 16 << 20).expect("SO_RCVBUF");
        }
        Self { socket }
    }

    /// A client at the loopback address of the target's family.
    pub fn beside(target: SocketAddr) -> Self {
        match target {
            SocketAddr::V4(_) => Self::at(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => Self::at(Ipv6Addr::LOCALHOST),
        }
    }

    /// With `UDP_GRO`, so that the kernel may deliver whole trains.
    pub fn receiving_trains(self) -> Self {
        sys::set_option(&self.socket, libc::SOL_UDP, libc::UDP_GRO, 1).expect("UDP_GRO");
        self
    }

    /// Sends one datagram.
    pub fn send(&self, to: SocketAddr, bytes: &[u8]) {
        let sent = self.socket.send_to(bytes, to).unwrap_or_else(|error| panic!("send to {to}: {error}"));
        assert_eq!(sent, bytes.len());
    }

    /// Sends one message that the kernel cuts into datagrams of this size; the last may be shorter.
    pub fn send_train(&self, to: SocketAddr, bytes: &[u8], segment_bytes: u16) {
        let sent = sys::send_train(&self.socket, to, bytes, segment_bytes);
        assert_eq!(sent.unwrap_or_else(|error| panic!("train to {to}: {error}")), bytes.len());
    }

    /// The next message, from any sender.
    pub fn receive(&self) -> sys::Arrival {
        sys::receive(&self.socket).unwrap_or_else(|error| panic!("no reply: {error}"))
    }

    /// Expects exactly this datagram from exactly this address.
    pub fn expect(&self, from: SocketAddr, bytes: &[u8]) {
        let arrival = self.receive();
        assert_eq!(arrival.from, from, "the source of a reply of {} bytes", arrival.payload.len());
        assert_eq!(arrival.payload.len(), bytes.len(), "the length of a reply from {from}");
        assert!(arrival.payload == bytes, "a reply of {} bytes from {from} has other bytes", bytes.len());
    }

    /// Expects silence: no datagram is queued, and none arrives during the wait.
    pub fn expect_nothing_for(&self, quiet: Duration) {
        self.socket.set_read_timeout(Some(quiet)).expect("set the patience");
        match sys::receive(&self.socket) {
            Ok(extra) => panic!("{} bytes too many, from {}", extra.payload.len(), extra.from),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}"),
        }
        self.socket.set_read_timeout(Some(PATIENCE)).expect("set the patience");
    }

    /// Sends datagrams of these sizes, with at most `in_flight` unanswered at a time, and expects each echo in order.
    pub fn echo(&self, target: SocketAddr, sizes: &[usize], in_flight: usize) {
        for turn in 0..sizes.len() + in_flight {
            if let Some(answered) = turn.checked_sub(in_flight)
                && answered < sizes.len()
            {
                self.expect(target, &payload(answered, sizes[answered]));
            }
            if turn < sizes.len() {
                self.send(target, &payload(turn, sizes[turn]));
            }
        }
    }
}

/// Cuts a train's bytes into its datagrams.
pub fn datagrams(bytes: &[u8], segment_bytes: u16) -> impl Iterator<Item = &[u8]> {
    bytes.chunks(segment_bytes.into())
}
