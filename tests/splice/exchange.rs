//! A large message on its way there and back: sent in many ways, and compared byte for byte.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;

use rustix::fs::{MemfdFlags, memfd_create, sendfile};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use crate::support::random::{Random, payload};
use crate::support::server::End;
use crate::support::{Server, sys, until};

/// The most bytes that are read at once.
const PIECE_BYTES_MAX: usize = 1 << 17;

/// How a peer sends.
#[derive(Clone, Copy, Debug)]
pub enum Sender {
    /// As much at a time as the socket takes.
    Whole,
    /// In pieces of odd sizes, each at once (`TCP_NODELAY`).
    OddPieces,
    /// From a file's pages, by sendfile(2).
    Pages,
    /// From its own pages, by `MSG_ZEROCOPY`.
    ZeroCopy,
}

impl Sender {
    pub const ALL: [Self; 4] = [Self::Whole, Self::OddPieces, Self::Pages, Self::ZeroCopy];

    /// Sends these bytes. They stay as they are until all of them have come back.
    pub fn send(self, mut stream: &TcpStream, bytes: &[u8]) {
        let mut random = Random::new(bytes.len() as u64);
        stream.set_nodelay(matches!(self, Self::OddPieces)).expect("TCP_NODELAY");
        match self {
            Self::Whole => stream.write_all(bytes).expect("send"),
            Self::OddPieces => {
                let mut rest = bytes;
                while !rest.is_empty() {
                    let (piece, more) = rest.split_at((random.between(1, 40_000) | 1).min(rest.len()));
                    stream.write_all(piece).expect("send");
                    rest = more;
                }
            }
            Self::Pages => {
                let mut file = File::from(memfd_create("message", MemfdFlags::CLOEXEC).expect("a file"));
                file.write_all(bytes).expect("write to memory");
                let mut place = 0;
                while place < bytes.len() as u64 {
                    let sent = sendfile(stream, &file, Some(&mut place), random.between(1, 300_000));
                    assert!(sent.expect("sendfile") > 0);
                }
            }
            Self::ZeroCopy => send_zero_copy(stream, bytes, &mut random),
        }
    }
}

fn send_zero_copy(stream: &TcpStream, bytes: &[u8], random: &mut Random) {
    sys::set_option(stream, libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1).expect("SO_ZEROCOPY");
    let mut rest = bytes;
    while !rest.is_empty() {
        let piece = &rest[..random.between(1, 300_000).min(rest.len())];
        match send(stream, piece, SendFlags::from_bits_retain(libc::MSG_ZEROCOPY as u32)) {
            Ok(sent) => rest = &rest[sent..],
            // a user may pin only so many pages
            Err(Errno::NOBUFS) => {
                until("all is acknowledged", || sys::unacknowledged_bytes(stream) == 0);
            }
            Err(error) => panic!("MSG_ZEROCOPY: {error}"),
        }
    }
}

/// Sends these bytes while they come back.
pub fn exchange(stream: &TcpStream, bytes: &[u8], sender: Sender) {
    thread::scope(|scope| {
        scope.spawn(move || sender.send(stream, bytes));
        expect(stream, bytes);
    });
}

/// Receives these bytes, in pieces of all sizes.
pub fn expect(mut stream: &TcpStream, bytes: &[u8]) {
    let mut random = Random::new(!bytes.len() as u64);
    let mut piece = vec![0; PIECE_BYTES_MAX];
    let mut rest = bytes;
    while !rest.is_empty() {
        let place = bytes.len() - rest.len();
        let room = random.between(1, PIECE_BYTES_MAX).min(rest.len());
        let len = stream.read(&mut piece[..room]);
        // a stopped process is interrupted where it has a time limit (signal(7))
        if len.as_ref().is_err_and(|error| error.kind() == ErrorKind::Interrupted) {
            continue;
        }
        let len = len.unwrap_or_else(|error| panic!("after {place} of {} bytes: {error}", bytes.len()));
        assert!(len > 0, "the end after {place} of {} bytes", bytes.len());
        assert!(piece[..len] == rest[..len], "other bytes came back, after {place}");
        rest = &rest[len..];
    }
}

/// The server splices from this connection when this has returned, until its messages are small.
pub fn begin_splicing(server: &Server, stream: &TcpStream) {
    const BYTES: usize = 1 << 20;
    let bytes = payload(BYTES, BYTES);
    exchange(stream, &bytes, Sender::Whole);
    // the server finds much at a time
    send_while_stopped(server, || Sender::Whole.send(stream, &bytes[..60_000]));
    expect(stream, &bytes[..60_000]);
}

/// Sends something to the stopped server, and waits until it can be received.
pub fn send_while_stopped(server: &Server, sends: impl FnOnce()) {
    server.pause();
    sends();
    server.resume();
}

/// Stops the server. At least this share of its TCP bytes went back by their pages.
pub fn stop_spliced(server: Server, what: &str, share_min: f64) -> End {
    let end = server.stop();
    let [bytes, spliced] = ["tcp_bytes_out", "tcp_bytes_spliced"].map(|name| end.counter(name) as f64);
    println!("{what}: {:.1} % of {bytes} bytes were spliced", 100.0 * spliced / bytes);
    assert_eq!(end.counter("tcp_bytes_in"), end.counter("tcp_bytes_out"));
    assert!(spliced >= share_min * bytes, "{what}: {spliced} of {bytes} bytes were spliced");
    end
}
