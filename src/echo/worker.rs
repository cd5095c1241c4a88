//! A worker: a thread with one ring and listening sockets of its own. Workers share nothing.
//!
//! One turn: submit what was queued and sleep until something completes; copy the completions out;
//! hand each to its datapath; let the datapaths queue what follows. Nothing else happens here, and
//! nothing is logged: a worker counts.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::echo::tcp::{self, Tcp, TcpLimits};
use crate::echo::udp::reply_sockets::{ReplySocketLimits, ReplySockets};
use crate::echo::udp::{self, Leave, Udp};
use crate::kernel::pause::{PAUSE, Pause};
use crate::kernel::ring::{
    Completion, Errno, File, FileTable, Ring, RingConfig, RingError, Token, Wait, WholeBuffers,
};
use crate::kernel::sys::{self, Protocol};
use crate::policy::counters::Counters;
use crate::policy::limits::Rates;
use crate::policy::refuse::{Admission, Rules};
use crate::sockets::listening::Listening;
use crate::values::ports::Ports;

/// Operations that fit the submission queue; more are submitted in between.
const SUBMISSION_ENTRIES: u32 = 256;
/// Completions that fit: a turn's receives and the sends of the turn before.
const COMPLETION_ENTRIES: u32 = 4096;
/// How often a draining worker looks whether the kernel's queues are empty.
const DRAIN_TICK: Duration = Duration::from_millis(5);

/// How long sockets that outlive us are read at the end, if they don't become empty before; and what the
/// last replies may take after that.
const LEAVING: Duration = Duration::from_millis(100);
/// How often sockets that retire are looked after, while there are any.
const TENDING_TICK: Duration = Duration::from_secs(1);

/// What a worker needs to know.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Which datagrams are not answered; all workers have the same rules.
    pub rules: Rules,
    /// How many datagrams it answers per second.
    pub rates: Rates,
    /// Reply sockets for ports other than the bound ones.
    pub reply_sockets: ReplySocketLimits,
    /// Ports that no reply socket takes.
    pub reply_ports_except: Arc<Ports>,
    /// How much TCP it takes on.
    pub tcp: TcpLimits,
    /// Sizes of the UDP datapath.
    pub udp_sizes: udp::Sizes,
    /// How the ring knows its files.
    pub file_table: FileTable,
    /// Look for work for so long before sleeping; zero for never.
    pub busy_poll: Duration,
    /// How long a drain may take.
    pub drain_timeout: Duration,
    /// Workers that are not through with their connections; each takes itself off when it is.
    pub workers_with_tcp: Arc<AtomicUsize>,
    /// How long a turn may sleep, so that a live worker's count of turns moves. `None`: for ever.
    pub turn_timeout: Option<Duration>,
}

/// Why a worker could not start or can't go on.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// There is no ring to work with.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// A listening socket can't be used.
    #[error(
        "cannot {step} {protocol} {addr} through io_uring: {errno}; Linux 6.1 or newer is needed, and no security module \
         that forbids it (see dmesg and the audit log)"
    )]
    Socket {
        /// What failed.
        step: &'static str,
        /// Of which socket.
        protocol: Protocol,
        /// Its address.
        addr: SocketAddr,
        /// The kernel's answer.
        errno: Errno,
    },
    /// Somebody else has shut a listener down.
    #[error(
        "tcp {addr} does not listen any more: somebody has shut it down, by `ss -K` or by shutdown(2) in a process that \
         has it, too; start the server again"
    )]
    ShutDown {
        /// The listener's address.
        addr: SocketAddr,
    },
    /// The ring stopped working.
    #[error(
        "io_uring_enter: {0}; with EPERM or ENOSYS a seccomp filter (SystemCallFilter= of a unit, a container's \
         profile) forbids it, else see dmesg for what the kernel says of it"
    )]
    Enter(io::Error),
    /// The queue of a socket can't be asked for.
    #[error("cannot see whether a queue is empty: {0}")]
    Queue(io::Error),
}

/// What a completion belongs to: the operation's number in its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Operation {
    /// Somebody wants the worker to end.
    Wake,
    /// A cancellation; what it cancelled has its own completion.
    Cancel,
    UdpReceive,
    UdpSendGroup,
    UdpSendDatagram,
    Accept,
    TcpReceive,
    TcpSend,
    TcpShutdown,
    TcpClose,
    TcpReadable,
    TcpWritable,
    TcpTick,
    UdpTick,
}

impl Operation {
    const ALL: [Self; 14] = [
        Self::Wake,
        Self::Cancel,
        Self::UdpReceive,
        Self::UdpSendGroup,
        Self::UdpSendDatagram,
        Self::Accept,
        Self::TcpReceive,
        Self::TcpSend,
        Self::TcpShutdown,
        Self::TcpClose,
        Self::TcpReadable,
        Self::TcpWritable,
        Self::TcpTick,
        Self::UdpTick,
    ];

    fn of(token: Token) -> Self {
        Self::ALL[usize::from(token.operation())]
    }
}

const UDP_OPERATIONS: udp::Operations = udp::Operations {
    receive: Operation::UdpReceive as u8,
    send_group: Operation::UdpSendGroup as u8,
    send_datagram: Operation::UdpSendDatagram as u8,
    tick: Operation::UdpTick as u8,
    cancel: Operation::Cancel as u8,
};

const TCP_OPERATIONS: tcp::Operations = tcp::Operations {
    accept: Operation::Accept as u8,
    receive: Operation::TcpReceive as u8,
    send: Operation::TcpSend as u8,
    readable: Operation::TcpReadable as u8,
    writable: Operation::TcpWritable as u8,
    shutdown: Operation::TcpShutdown as u8,
    close: Operation::TcpClose as u8,
    cancel: Operation::Cancel as u8,
    tick: Operation::TcpTick as u8,
};

/// The file that wakes the worker; the listening sockets follow it, then the reply sockets, then the
/// connections.
const WAKE: File = File(0);

/// A worker whose sockets are armed.
pub struct Worker {
    ring: Ring,
    udp: Udp,
    tcp: Tcp,
    counters: Arc<Counters>,
    config: WorkerConfig,
    completions: Vec<Completion>,
    /// Sockets are being retired.
    retiring: bool,
    /// Until when it drains, once it does.
    drain_deadline: Option<Instant>,
    /// Draining, it is through with its connections.
    tcp_drained: bool,
    /// Until when it reads the sockets that outlive us, once nothing else is left to do.
    leave_deadline: Option<Instant>,
    /// The poll of [`WAKE`] has failed.
    wake_pause: Pause,
}

/// Registered files of a worker with these sockets; the limit of open files must allow them.
pub fn files(sockets: &[Listening], reply_sockets: usize, connections: usize, single_accept: bool) -> usize {
    let listeners = sockets.iter().filter(|socket| socket.protocol == Protocol::Tcp).count();
    1 + sockets.len() + reply_sockets + Tcp::files(connections, listeners, single_accept)
}

impl Worker {
    /// Sets up the ring on the calling thread, which must run the worker, and arms `sockets`: when this
    /// returns, the first operation of each is in the kernel and was not refused. The worker ends after
    /// `wake` (an eventfd) becomes readable.
    pub fn arm(
        sockets: Vec<Listening>,
        wake: Arc<OwnedFd>,
        counters: Arc<Counters>,
        config: WorkerConfig,
    ) -> Result<Self, WorkerError> {
        let TcpLimits { connections, single_accept, .. } = config.tcp;
        let mut ring = Ring::new(RingConfig {
            submission_entries: SUBMISSION_ENTRIES,
            completion_entries: COMPLETION_ENTRIES,
            files: files(&sockets, config.reply_sockets.count, connections, single_accept) as u32,
            file_table: config.file_table,
            busy_poll: config.busy_poll,
        })?;
        ring.register_file(WAKE, wake)?;
        let first_reply_socket = 1 + sockets.len() as u32;
        let first_connection = first_reply_socket + config.reply_sockets.count as u32;
        let connection_files = files(&sockets, 0, connections, single_accept) as u32 - first_reply_socket;
        ring.reserve_files_below(File(first_connection), connection_files)?;
        let (udp, tcp): (Vec<_>, Vec<_>) =
            sockets.into_iter().partition(|socket| socket.protocol == Protocol::Udp);
        let first_listener = 1 + udp.len() as u32;
        let pairs = config.rules.pairs();
        let except = Arc::clone(&config.reply_ports_except);
        let reply_sockets = ReplySockets::new(first_reply_socket, config.reply_sockets, except, pairs);
        let admission = Admission::new(config.rules.clone(), config.rates);
        let udp = Udp::new(&mut ring, udp, 1, reply_sockets, admission, UDP_OPERATIONS, config.udp_sizes)?;
        let tcp =
            Tcp::new(&mut ring, tcp, first_listener, first_connection, config.tcp.clone(), TCP_OPERATIONS)?;
        ring.poll_readable(WAKE, Token::new(Operation::Wake as u8, 0, 0));
        let mut this = Self {
            ring,
            udp,
            tcp,
            counters,
            config,
            completions: Vec::with_capacity(COMPLETION_ENTRIES as usize),
            retiring: true,
            drain_deadline: None,
            tcp_drained: false,
            leave_deadline: None,
            wake_pause: Pause::new(PAUSE),
        };
        this.finish_turn();
        // an operation that the kernel does not know fails in its first completion
        this.ring.turn(Wait::No, &mut this.completions).map_err(WorkerError::Enter)?;
        this.handle_completions()?;
        this.udp.begin_serving();
        this.tcp.begin_serving();
        this.finish_turn();
        this.ring.flush();
        Ok(this)
    }

    /// Why streams are received into whole buffers, if they are.
    pub fn whole_buffers(&self) -> Option<WholeBuffers> {
        self.tcp.whole_buffers()
    }

    /// Serves until it is woken to end, then drains. An error is final.
    pub fn run(mut self) -> Result<(), WorkerError> {
        loop {
            let draining = self.drain_deadline.map(|_| DRAIN_TICK);
            let tending = self.retiring.then_some(TENDING_TICK);
            let pauses = [self.udp.sleep(), self.tcp.sleep(), self.wake_pause.sleep()];
            let sleeps = [self.config.turn_timeout, draining, tending].into_iter().chain(pauses);
            let wait = match sleeps.flatten().min() {
                _ if self.tcp.is_pressed() => Wait::No,
                None => Wait::Completion,
                Some(timeout) => Wait::Timeout(timeout),
            };
            self.ring.turn(wait, &mut self.completions).map_err(WorkerError::Enter)?;
            self.counters.turns.add(1);
            self.handle_completions()?;
            if self.is_drained()? {
                break;
            }
            if self.retiring {
                let (ring, tcp, udp) = (&mut self.ring, &mut self.tcp, &mut self.udp);
                self.retiring = tcp
                    .retire(ring)
                    .and_then(|left| Ok(left | udp.retire(ring)?))
                    .map_err(WorkerError::Queue)?;
            }
            self.finish_turn();
        }
        // frees the ports sooner than the ring's own end, which the kernel puts off
        let _ = self.ring.unregister_files();
        Ok(())
    }

    fn handle_completions(&mut self) -> Result<(), WorkerError> {
        let Self { ring, udp, tcp, counters, wake_pause, .. } = self;
        let mut ending = false;
        for completion in self.completions.drain(..) {
            let token = completion.token();
            match Operation::of(token) {
                Operation::UdpReceive => {
                    udp.received(&completion, counters).map_err(|errno| WorkerError::Socket {
                        step: "receive on",
                        protocol: Protocol::Udp,
                        addr: udp.addr(token),
                        errno,
                    })?;
                }
                Operation::UdpSendGroup | Operation::UdpSendDatagram => udp.sent(&completion, counters),
                Operation::Accept => {
                    tcp.accepted(completion, ring, counters).map_err(|errno| {
                        let addr = tcp.addr(token);
                        if tcp.listens(token) {
                            let (step, protocol) = ("accept on", Protocol::Tcp);
                            WorkerError::Socket { step, protocol, addr, errno }
                        } else {
                            WorkerError::ShutDown { addr }
                        }
                    })?;
                }
                Operation::TcpReceive => tcp.received(&completion, counters),
                Operation::TcpSend => tcp.sent(&completion, counters),
                Operation::TcpShutdown => tcp.shut_down(&completion),
                Operation::TcpReadable => tcp.readable(&completion),
                Operation::TcpWritable => tcp.writable(&completion),
                Operation::TcpTick if completion.is_elapsed() => tcp.ticked(),
                Operation::TcpTick => tcp.tick_failed(),
                Operation::UdpTick if completion.is_elapsed() => udp.ticked(token, ring, counters),
                Operation::UdpTick => udp.tick_failed(token),
                Operation::Wake if completion.result().is_ok() => ending = true,
                Operation::Wake => wake_pause.begin(),
                Operation::Cancel | Operation::TcpClose => {}
            }
        }
        if ending && self.drain_deadline.is_none() {
            self.drain_deadline = Some(sys::now() + self.config.drain_timeout);
            self.udp.begin_drain(&self.counters);
            self.tcp.begin_drain();
        }
        Ok(())
    }

    fn finish_turn(&mut self) {
        if self.wake_pause.ends() {
            self.ring.poll_readable(WAKE, Token::new(Operation::Wake as u8, 0, 0));
        }
        self.udp.finish_turn(&mut self.ring, &self.counters);
        self.tcp.finish_turn(&mut self.ring, &self.counters);
    }

    /// True when a drain has come to its end, or to its deadline.
    fn is_drained(&mut self) -> Result<bool, WorkerError> {
        let Some(deadline) = self.drain_deadline else { return Ok(false) };
        let now = sys::now();
        let tcp = self.tcp.drain(&mut self.ring).map_err(WorkerError::Queue)?;
        let others = &self.config.workers_with_tcp;
        if tcp && !self.tcp_drained {
            self.tcp_drained = true;
            others.fetch_sub(1, Ordering::Relaxed);
        }
        // the next process starts when the last worker has ended: until then nobody else reads the sockets
        // that outlive us
        if others.load(Ordering::Relaxed) == 0 || now >= deadline {
            self.leave_deadline.get_or_insert(now + LEAVING);
        }
        let leave = match self.leave_deadline {
            None => Leave::NotYet,
            Some(leave_deadline) if now < leave_deadline => Leave::WhenEmpty,
            Some(_) => Leave::Now,
        };
        let udp = self.udp.drain(&mut self.ring, leave).map_err(WorkerError::Queue)?;
        let ended = udp && tcp || now >= deadline + 2 * LEAVING;
        if ended {
            self.udp.give_up(&self.counters);
        }
        Ok(ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_found_by_its_number() {
        for (number, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, number);
            assert_eq!(Operation::of(Token::new(operation as u8, 0, 0)), operation);
        }
    }
}
