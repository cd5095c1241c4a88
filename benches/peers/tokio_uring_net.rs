//! tokio-uring, as an ordinary program would use it. It has no multishot operations, no buffer rings and no
//! ancillary data on receive.

use std::future::Future;
use std::io::Result;
use std::rc::Rc;

use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::{TcpListener, TcpStream, UdpSocket};

use crate::kernel::MESSAGE_BYTES_MAX;

const READ_BYTES: usize = 64 << 10;
/// Datagrams that may be received or sent at once.
const IN_FLIGHT: usize = 64;

fn run(future: impl Future<Output = Result<()>>) -> Result<()> {
    // The flags that its event loop works with; DEFER_TASKRUN hangs it.
    let mut ring = tokio_uring::uring_builder();
    ring.setup_coop_taskrun().setup_single_issuer().setup_cqsize(4096);
    tokio_uring::builder().entries(1024).uring_builder(&ring).start(future)
}

pub(super) fn udp(socket: std::net::UdpSocket) -> Result<()> {
    run(async move {
        let socket = Rc::new(UdpSocket::from_std(socket));
        let tasks: Vec<_> =
            (0..IN_FLIGHT).map(|_| tokio_uring::spawn(datagrams(Rc::clone(&socket)))).collect();
        for task in tasks {
            task.await??;
        }
        Ok(())
    })
}

async fn datagrams(socket: Rc<UdpSocket>) -> Result<()> {
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    loop {
        let (received, full) = socket.recv_from(buffer).await;
        let (bytes, from) = received?;
        let (sent, slice) = socket.send_to(full.slice(..bytes), from).await;
        sent?;
        buffer = slice.into_inner();
    }
}

pub(super) fn tcp(listener: std::net::TcpListener) -> Result<()> {
    run(async move {
        let listener = TcpListener::from_std(listener);
        loop {
            let (stream, _) = listener.accept().await?;
            tokio_uring::spawn(async move {
                // The end of a connection, orderly or not, is the end of its task.
                let _ = echo(&stream).await;
            });
        }
    })
}

async fn echo(stream: &TcpStream) -> Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let (read, full) = stream.read(buffer).await;
        let read = read?;
        if read == 0 {
            return Ok(());
        }
        let (written, slice) = stream.write_all(full.slice(..read)).await;
        written?;
        buffer = slice.into_inner();
    }
}
