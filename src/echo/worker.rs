//! A worker: a thread with one ring and listening sockets of its own. Workers share little, see [`Shared`].
//!
//! In a turn the worker submits what was queued, sleeps until something completes, and copies the completions out. It
//! hands each completion to its datapath, and lets the datapaths queue what follows. It logs nothing: it counts.

mod stage;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use self::stage::Stage;
use crate::echo::files::{FileLayout, WAKE};
use crate::echo::operation::Operation;
use crate::echo::tcp::{Copies, Tcp, TcpLimits};
use crate::echo::udp::reply_sockets::{ReplySocketLimits, ReplySockets};
use crate::echo::udp::{self, Udp};
use crate::kernel::pause::{PAUSE, Pause};
use crate::kernel::ring::{
    Completion, Errno, File, FileTable, Ring, RingConfig, RingError, Wait, WholeBuffers,
};
use crate::kernel::sys::{self, Protocol};
use crate::policy::counters::Counters;
use crate::policy::limits::{ConnectionsPerPrefix, Rates};
use crate::policy::refuse::{Admission, Rules};
use crate::sockets::listening::Listening;
use crate::values::ports::Ports;

/// Operations that fit into the submission queue. The ring submits when it is full.
const SUBMISSION_ENTRIES: u32 = 256;
/// Completions that fit into the completion queue: a turn's receives and the sends of the turn before.
const COMPLETION_ENTRIES: u32 = 4096;
/// How often a draining worker checks whether the kernel's queues are empty.
const DRAIN_TICK: Duration = Duration::from_millis(5);
/// How often a worker checks the queues of sockets that retire, while there are any.
const RETIRE_TICK: Duration = Duration::from_secs(1);

/// What a worker needs to know.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Which datagrams are not answered. All workers have the same rules.
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
    /// How long to look for work before sleeping. Zero: not at all.
    pub busy_poll: Duration,
    /// How long a drain may take.
    pub drain_timeout: Duration,
    /// How long a turn may sleep, so that a live worker's count of turns moves. `None`: for ever.
    pub turn_timeout: Option<Duration>,
}

/// What all workers of a process change together.
#[derive(Clone, Debug)]
pub struct Shared {
    /// How many connections each source has, if sources are limited.
    per_prefix: Option<Arc<ConnectionsPerPrefix>>,
    /// How many workers may still have connections. At its end each counts itself out.
    workers_with_tcp: Arc<AtomicUsize>,
}

impl Shared {
    /// For this many workers, and at most this many connections of each source.
    pub fn new(workers: usize, connections_per_prefix: Option<usize>) -> Self {
        let per_prefix = connections_per_prefix.map(|limit| Arc::new(ConnectionsPerPrefix::new(limit)));
        Self { per_prefix, workers_with_tcp: Arc::new(AtomicUsize::new(workers)) }
    }

    /// A worker has no connection left.
    fn tcp_drained(&self) {
        self.workers_with_tcp.fetch_sub(1, Ordering::Relaxed);
    }

    fn workers_with_tcp(&self) -> usize {
        self.workers_with_tcp.load(Ordering::Relaxed)
    }
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
    /// The length of a socket's queue can't be read.
    #[error("cannot see whether a queue is empty: {0}")]
    Queue(io::Error),
}

const UDP_OPERATIONS: udp::Operations = udp::Operations {
    receive: Operation::UdpReceive as u8,
    send_group: Operation::UdpSendGroup as u8,
    send_datagram: Operation::UdpSendDatagram as u8,
    tick: Operation::UdpTick as u8,
    cancel: Operation::Cancel as u8,
};

/// A worker whose sockets are armed.
pub struct Worker {
    ring: Ring,
    udp: Udp,
    tcp: Tcp,
    counters: Arc<Counters>,
    shared: Shared,
    drain_timeout: Duration,
    turn_timeout: Option<Duration>,
    stage: Stage,
    /// Retired sockets are not all closed yet, in whatever stage.
    has_retired: bool,
    completions: Vec<Completion>,
    /// For the poll of [`WAKE`], when it has failed.
    wake_pause: Pause,
}

/// The files of a worker with these sockets. The limit of open files must allow them.
fn file_layout(sockets: &[Listening], config: &WorkerConfig) -> FileLayout {
    let listeners = sockets.iter().filter(|socket| socket.protocol == Protocol::Tcp).count();
    let connections = Tcp::files(config.tcp.connections, listeners, config.tcp.single_accept);
    FileLayout::new(sockets.len() - listeners, listeners, config.reply_sockets.count, connections)
}

impl Worker {
    /// Sets up the ring on the calling thread, which must run the worker, and arms `sockets`. When this returns, the
    /// first operation of each socket is in the kernel and was not refused. The worker ends after `wake` (an eventfd)
    /// becomes readable.
    pub fn arm(
        sockets: Vec<Listening>,
        wake: Arc<OwnedFd>,
        counters: Arc<Counters>,
        shared: Shared,
        config: WorkerConfig,
    ) -> Result<Self, WorkerError> {
        let files = file_layout(&sockets, &config);
        let mut ring = Ring::new(RingConfig {
            submission_entries: SUBMISSION_ENTRIES,
            completion_entries: COMPLETION_ENTRIES,
            files: files.count(),
            file_table: config.file_table,
            busy_poll: config.busy_poll,
        })?;
        ring.register_file(WAKE, wake)?;
        ring.reserve_files_below(File(files.connections.first()), files.connections.count())?;
        let (udp, tcp): (Vec<_>, Vec<_>) =
            sockets.into_iter().partition(|socket| socket.protocol == Protocol::Udp);
        let pairs = config.rules.pairs();
        let reply_sockets = ReplySockets::new(
            files.reply_sockets.first(),
            config.reply_sockets,
            config.reply_ports_except,
            pairs,
        );
        let admission = Admission::new(config.rules, config.rates);
        let first = files.udp.first();
        let udp =
            Udp::new(&mut ring, udp, first, reply_sockets, admission, UDP_OPERATIONS, config.udp_sizes)?;
        let tcp_files = (files.listeners, files.connections);
        let tcp = Tcp::new(&mut ring, tcp, tcp_files, &config.tcp, shared.per_prefix.clone())?;
        ring.poll_readable(WAKE, Operation::Wake.alone());
        let mut this = Self {
            ring,
            udp,
            tcp,
            counters,
            shared,
            drain_timeout: config.drain_timeout,
            turn_timeout: config.turn_timeout,
            stage: Stage::Serving,
            has_retired: true,
            completions: Vec::with_capacity(COMPLETION_ENTRIES as usize),
            wake_pause: Pause::new(PAUSE),
        };
        this.finish_turn();
        // the first completion of an operation that the kernel does not know is an error
        this.ring.turn(Wait::No, &mut this.completions).map_err(WorkerError::Enter)?;
        this.handle_completions()?;
        this.udp.begin_serving();
        this.tcp.begin_serving();
        this.finish_turn();
        this.ring.flush();
        Ok(this)
    }

    /// Why each receive of a stream uses up a buffer, if it does.
    pub fn whole_buffers(&self) -> Option<WholeBuffers> {
        self.tcp.whole_buffers()
    }

    /// Why large messages are copied, if they are.
    pub fn copies(&self) -> Option<Copies> {
        self.tcp.copies()
    }

    /// Serves until `wake` becomes readable, then drains. An error is final.
    pub fn run(mut self) -> Result<(), WorkerError> {
        loop {
            let wait = self.wait();
            self.ring.turn(wait, &mut self.completions).map_err(WorkerError::Enter)?;
            self.counters.turns.add(1);
            self.handle_completions()?;
            if self.has_drained()? {
                break;
            }
            if self.has_retired {
                let (tcp, udp) =
                    (self.tcp.close_retired(&mut self.ring), self.udp.close_retired(&mut self.ring));
                let are_closed = tcp.map_err(WorkerError::Queue)? & udp.map_err(WorkerError::Queue)?;
                self.has_retired = !are_closed;
            }
            self.finish_turn();
        }
        // this frees the ports at once, while the kernel puts off the end of the ring
        let _ = self.ring.unregister_files();
        Ok(())
    }

    /// How long the next turn may sleep.
    fn wait(&self) -> Wait {
        if self.tcp.has_ready_work() {
            return Wait::No;
        }
        let sleeps = [
            self.turn_timeout,
            self.stage.drain().map(|_| DRAIN_TICK),
            self.has_retired.then_some(RETIRE_TICK),
            self.udp.sleep(),
            self.tcp.sleep(),
            self.wake_pause.sleep(),
        ];
        sleeps.into_iter().flatten().min().map_or(Wait::Completion, Wait::Timeout)
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
                Operation::TcpAccept => {
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
                Operation::TcpInstall => tcp.installed(completion, ring, counters),
                Operation::TcpTick if completion.is_elapsed() => tcp.ticked(),
                Operation::TcpTick => tcp.tick_failed(),
                Operation::UdpTick if completion.is_elapsed() => udp.ticked(token, ring, counters),
                Operation::UdpTick => udp.tick_failed(token),
                Operation::Wake if completion.result().is_ok() => ending = true,
                Operation::Wake => wake_pause.begin(),
                Operation::Cancel | Operation::TcpClose => {}
            }
        }
        if ending && self.stage.begin_drain(sys::now(), self.drain_timeout) {
            self.udp.begin_drain(&self.counters);
            self.tcp.begin_drain();
        }
        Ok(())
    }

    fn finish_turn(&mut self) {
        if self.wake_pause.ends() {
            self.ring.poll_readable(WAKE, Operation::Wake.alone());
        }
        self.udp.finish_turn(&mut self.ring, &self.counters);
        self.tcp.finish_turn(&mut self.ring, &self.counters);
    }

    /// True when a drain has come to its end, or to its deadline.
    fn has_drained(&mut self) -> Result<bool, WorkerError> {
        if self.stage.drain().is_none() {
            return Ok(false);
        }
        let now = sys::now();
        let tcp = self.tcp.drain(&mut self.ring).map_err(WorkerError::Queue)?;
        if tcp && self.stage.tcp_drained() {
            self.shared.tcp_drained();
        }
        self.stage.leave(now, self.shared.workers_with_tcp());
        let udp =
            self.udp.drain(&mut self.ring, self.stage.stops_receiving(now)).map_err(WorkerError::Queue)?;
        let ended = udp && tcp || self.stage.is_overdue(now);
        if ended {
            self.udp.count_abandoned(&self.counters);
        }
        Ok(ended)
    }
}
