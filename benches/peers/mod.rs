//! Servers to be measured against, each as small and as good as it can be written: whoever finds a way to
//! make one of them faster improves the table. All answer from the original destination where the interface
//! lets them, ask for the same receive buffer and backlog as the server, and run on one thread, or with `--workers` on
//! several, each on a processor with a socket of its own, as the server's workers.

mod coalesce;
mod epoll;
pub(crate) mod haproxy;
mod tokio_net;
mod tokio_uring_net;
mod udp;

use std::io::Result;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::kernel;

/// The peers by name.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Peer {
    /// UDP, one recvmsg and one sendmsg per datagram
    Recvmsg,
    /// The same without ever sleeping: what polling can bring at best
    RecvmsgSpin,
    /// UDP, recvmmsg and sendmmsg of up to 64 datagrams
    Recvmmsg,
    /// The same; a received train is answered by one GSO send
    Gro,
    /// The same; datagrams and trains of one flow in one batch leave as one GSO send
    Coalesce,
    /// TCP, epoll, edge-triggered
    Epoll,
    /// The same; much at a time goes back by splice(2) through a pipe, without a copy
    EpollSplice,
    /// TCP, haproxy in front of `epoll`, where it is installed: each byte crosses it twice
    Haproxy,
    /// UDP, tokio's current-thread runtime, recvmsg and sendmsg
    TokioUdp,
    /// TCP, tokio's current-thread runtime, a task per connection
    TokioTcp,
    /// UDP, tokio-uring, which has no ancillary data: answers from the bound address
    TokioUringUdp,
    /// TCP, tokio-uring, a task per connection
    TokioUringTcp,
}

/// Workers of this process that do not listen yet.
static STARTING: AtomicUsize = AtomicUsize::new(1);

impl Peer {
    /// Serves on `listen` with so many threads until it is killed. Port 0 is for one of them.
    pub(crate) fn serve(self, listen: SocketAddr, workers: usize) -> Result<()> {
        if workers == 1 {
            return self.serve_alone(listen);
        }
        STARTING.store(workers, Ordering::SeqCst);
        let cores = kernel::cores()?;
        let start = |index: usize| {
            let core = cores[index % cores.len()];
            thread::spawn(move || kernel::pin(&[core]).and_then(|()| self.serve_alone(listen)))
        };
        // no worker ends but by an error
        let ended = (0..workers).map(start).collect::<Vec<_>>();
        ended.into_iter().try_for_each(|worker| worker.join().expect("no worker panics"))
    }

    fn serve_alone(self, listen: SocketAddr) -> Result<()> {
        match self {
            Self::Recvmsg => udp::one_by_one(&udp_socket(listen)?, 0),
            Self::RecvmsgSpin => udp::one_by_one(&udp_socket(listen)?, libc::MSG_DONTWAIT),
            Self::Recvmmsg => udp::batches(&udp_socket(listen)?),
            Self::Gro => udp::trains(&gro_socket(listen)?),
            Self::Coalesce => coalesce::serve(&gro_socket(listen)?),
            Self::Epoll => epoll::serve(&listener(listen)?, None),
            Self::EpollSplice => epoll::serve(&listener(listen)?, Some(epoll::Pipe::new()?)),
            Self::Haproxy => haproxy::serve(&listener(listen)?),
            Self::TokioUdp => tokio_net::udp(udp_socket(listen)?),
            Self::TokioTcp => tokio_net::tcp(listener(listen)?),
            Self::TokioUringUdp => tokio_uring_net::udp(udp_socket(listen)?),
            Self::TokioUringTcp => tokio_uring_net::tcp(listener(listen)?),
        }
    }
}

fn udp_socket(listen: SocketAddr) -> Result<UdpSocket> {
    let socket: UdpSocket = kernel::bound(listen, libc::SOCK_DGRAM)?.into();
    kernel::receive_buffer(&socket, kernel::RECEIVE_BUFFER_BYTES)?;
    if listen.is_ipv4() {
        kernel::set_option(&socket, libc::SOL_IP, libc::IP_RECVORIGDSTADDR, 1)?;
    } else {
        kernel::set_option(&socket, libc::SOL_IPV6, libc::IPV6_RECVORIGDSTADDR, 1)?;
        kernel::set_option(&socket, libc::SOL_IPV6, libc::IPV6_FREEBIND, 1)?;
    }
    ready(socket.local_addr()?);
    Ok(socket)
}

fn gro_socket(listen: SocketAddr) -> Result<UdpSocket> {
    let socket = udp_socket(listen)?;
    kernel::set_option(&socket, libc::SOL_UDP, libc::UDP_GRO, 1)?;
    Ok(socket)
}

fn listener(listen: SocketAddr) -> Result<TcpListener> {
    let listener: TcpListener = kernel::bound(listen, libc::SOCK_STREAM)?.into();
    kernel::listen(&listener)?;
    // Accepted connections inherit it, which saves a system call for each.
    kernel::set_option(&listener, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    ready(listener.local_addr()?);
    Ok(listener)
}

/// What the table waits for, in the words of the server's log.
fn ready(address: SocketAddr) {
    if STARTING.fetch_sub(1, Ordering::SeqCst) == 1 {
        eprintln!("ready {address}");
    }
}
