//! A socket on a core of its own that takes every datagram, with the kernel's receive time.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::kernel::{self, Batch, Origin};
use crate::load::Result;

/// Datagrams of one call.
const BATCH: usize = 64;
/// More than the longest of them.
const STRIDE_BYTES: usize = 2_048;

pub(super) struct Sink {
    pub(super) port: u16,
    ends: Arc<AtomicBool>,
    thread: JoinHandle<Arrivals>,
}

#[derive(Default)]
pub(super) struct Arrivals {
    /// By the kernel's clock of the day.
    pub(super) times_ns: Vec<u64>,
    pub(super) replies: u64,
}

impl Sink {
    /// Starts it on the calling thread's cores and in its network; `replies`: it sends everything back.
    pub(super) fn start(replies: bool) -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        kernel::receive_buffer(&socket, 8 << 20)?;
        kernel::set_option(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
        let port = socket.local_addr()?.port();
        let ends = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ends);
        let thread = std::thread::spawn(move || take(&socket, replies, &told));
        Ok(Self { port, ends, thread })
    }

    /// What came.
    pub(super) fn end(self) -> Arrivals {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.join().expect("the sink's thread")
    }
}

/// Polls without a pause, so that no sender pays for waking it.
fn take(socket: &UdpSocket, replies: bool, ends: &AtomicBool) -> Arrivals {
    let mut batch = Batch::new(BATCH, STRIDE_BYTES);
    let mut arrivals = Arrivals { times_ns: Vec::with_capacity(1 << 20), replies: 0 };
    while !ends.load(Ordering::Relaxed) {
        let Ok(count) = batch.receive(socket, BATCH, libc::MSG_DONTWAIT) else { continue };
        for i in 0..count {
            arrivals.times_ns.extend(batch.received_ns(i));
            if let (true, Some(message)) = (replies, batch.message(i)) {
                batch.turn_around(i, &crate::kernel::Message { origin: Origin::Unknown, ..message }, None);
            }
        }
        if replies {
            let sent = batch.send(socket, 0, count);
            arrivals.replies += sent.unwrap_or(0) as u64;
        }
    }
    arrivals
}
