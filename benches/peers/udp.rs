//! UDP by plain system calls.

use std::io::{ErrorKind, Result};
use std::net::UdpSocket;

use crate::kernel::{Batch, STRIDE_BYTES};

/// Datagrams of one recvmmsg.
pub(super) const BATCH: usize = 64;

/// One recvmsg and one sendmsg per datagram; with `MSG_DONTWAIT` among the flags it never sleeps.
pub(super) fn one_by_one(socket: &UdpSocket, flags: i32) -> Result<()> {
    let mut batch = Batch::new(1, STRIDE_BYTES);
    loop {
        match batch.receive_one(socket, flags) {
            Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => continue,
            result => result?,
        }
        if let Some(message) = batch.message(0) {
            batch.turn_around(0, &message, None);
            // A reply that can't be sent is lost, as on any network; the next datagram is not to blame.
            let _ = batch.send_one(socket);
        }
    }
}

/// Batches of datagrams.
pub(super) fn batches(socket: &UdpSocket) -> Result<()> {
    serve(socket, |batch, i| {
        let message = batch.message(i)?;
        batch.turn_around(i, &message, None);
        Some(())
    })
}

/// Batches of datagrams and trains.
pub(super) fn trains(socket: &UdpSocket) -> Result<()> {
    serve(socket, |batch, i| {
        let message = batch.message(i)?;
        batch.turn_around(i, &message, (message.segment < message.bytes).then_some(message.segment));
        Some(())
    })
}

fn serve(socket: &UdpSocket, mut reply: impl FnMut(&mut Batch, usize) -> Option<()>) -> Result<()> {
    let mut batch = Batch::new(BATCH, STRIDE_BYTES);
    loop {
        let count = receive(&mut batch, socket)?;
        // What was cut on the way in is not answered: the replies before and after it leave without it.
        let mut first = 0;
        for i in 0..count {
            if reply(&mut batch, i).is_none() {
                send(&mut batch, socket, first, i);
                first = i + 1;
            }
        }
        send(&mut batch, socket, first, count);
    }
}

/// Waits for the first message and takes what else is there.
pub(super) fn receive(batch: &mut Batch, socket: &UdpSocket) -> Result<usize> {
    loop {
        match batch.receive(socket, BATCH, libc::MSG_WAITFORONE) {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Sends replies `first..end`; one that the kernel refuses is skipped.
pub(super) fn send(batch: &mut Batch, socket: &UdpSocket, mut first: usize, end: usize) {
    while first < end {
        first += batch.send(socket, first, end).unwrap_or(1);
    }
}
