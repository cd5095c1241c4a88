//! tokio's current-thread runtime, as an ordinary program would use it.

use std::cell::RefCell;
use std::future::Future;
use std::io::{ErrorKind, Result};
use std::os::fd::AsFd;

use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::LocalSet;

use crate::kernel::{Batch, STRIDE_BYTES};

const READ_BYTES: usize = 64 << 10;

fn run(future: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    LocalSet::new().block_on(&runtime, future)
}

/// recvmsg and sendmsg through the runtime's readiness: its own calls carry no control messages.
pub(super) fn udp(socket: std::net::UdpSocket) -> Result<()> {
    socket.set_nonblocking(true)?;
    run(async move {
        let socket = UdpSocket::from_std(socket)?;
        let batch = RefCell::new(Batch::new(1, STRIDE_BYTES));
        loop {
            let receive = || batch.borrow_mut().receive_one(&socket.as_fd(), 0);
            socket.async_io(Interest::READABLE, receive).await?;
            let Some(message) = batch.borrow().message(0) else { continue };
            batch.borrow_mut().turn_around(0, &message, None);
            // A reply that can't be sent is lost, as on any network.
            let _ =
                socket.async_io(Interest::WRITABLE, || batch.borrow_mut().send_one(&socket.as_fd())).await;
        }
    })
}

pub(super) fn tcp(listener: std::net::TcpListener) -> Result<()> {
    listener.set_nonblocking(true)?;
    run(async move {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::task::spawn_local(async move {
                // The end of a connection, orderly or not, is the end of its task.
                let _ = echo(&stream).await;
            });
        }
    })
}

async fn echo(stream: &TcpStream) -> Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read = loop {
            stream.readable().await?;
            match stream.try_read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => break read,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        };
        let mut written = 0;
        while written < read {
            match stream.try_write(&buffer[written..read]) {
                Ok(n) => written += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => stream.writable().await?,
                Err(e) => return Err(e),
            }
        }
    }
}
