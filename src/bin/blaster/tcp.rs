//! TCP load: connections that ask and wait, stream, or come and go. Ordinary async request and response,
//! so it runs on tokio-uring, one runtime to a thread.

mod bound;
mod connection;
mod echo;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{SocketAddr, TcpStream as StdStream};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio_uring::Runtime;
use tokio_uring::net::TcpStream;
use tubular_echo::kernel::ring::{RingError, Step};
use tubular_echo::kernel::sys;

use self::connection::Connection;
use crate::model::local_limits::LOCAL_PORTS_USED_UP;
use crate::model::payload::Bodies;
use crate::model::quantity::Sizes;
use crate::model::results::{Results, ThreadTimes};
use crate::model::target::{Source, SourceNotLocal, Targets};
use crate::workers::clock::{self, Clock};
use crate::workers::live::{Live, LiveCounts};
use crate::workers::stop::Stop;
use crate::workers::threads::{self, Watch};

/// Descriptors beside the connections'.
const SPARE_FILES: u64 = 64;
/// So many failed connections, and not one that came about, end the run.
const FAILURES_MAX: u64 = 100;
/// How often a thread looks whether it is time to end.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long connections that were shut down may take to notice.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Why no load could be made, or no more of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TcpError {
    #[error(
        "{connections} connections need as many open files and some, the limit is {limit}: raise it (`ulimit -n`, LimitNOFILE=) or use fewer --connections"
    )]
    OpenFiles { connections: u32, limit: u64 },
    #[error("ended by a signal")]
    Stopped,
    #[error("raising the limit of open files: {0}")]
    Limit(io::Error),
    #[error(transparent)]
    Source(#[from] SourceNotLocal),
    #[error("connecting to {peer}: {error}{}", cure(error))]
    Connect { peer: SocketAddr, error: io::Error },
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error("starting a thread: {0}; see `ulimit -u`")]
    Thread(#[from] io::Error),
}

/// What usually helps when a connection does not come about.
fn cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "; does the server listen there?",
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "; a firewall may drop it, see --timeout",
        io::ErrorKind::AddrNotAvailable => LOCAL_PORTS_USED_UP,
        _ => "",
    }
}

/// What each connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// Send a message, wait for the whole of its echo, send the next
    PingPong,
    /// Send without waiting, and read at the same time
    Stream,
    /// Connect, send one message, read its echo, close, begin anew
    Connect,
}

/// A TCP load.
#[derive(Debug)]
pub(crate) struct Load {
    /// Tells this run's messages from any other's.
    pub(crate) run_id: u64,
    /// Where random choices come from.
    pub(crate) seed: u64,
    /// Where connections go.
    pub(crate) targets: Targets,
    /// Where they come from.
    pub(crate) source: Option<Source>,
    /// How large messages are.
    pub(crate) sizes: Sizes,
    /// What they carry.
    pub(crate) bodies: Bodies,
    /// An echo that takes longer is late; a connection that takes longer has failed.
    pub(crate) timeout: Duration,
    /// What each connection does.
    pub(crate) mode: Mode,
    /// How many connections at a time.
    pub(crate) connections: u32,
    /// How many threads share them.
    pub(crate) workers: u32,
    /// What is sent before measuring.
    pub(crate) warmup: Duration,
    /// How long to measure.
    pub(crate) duration: Option<Duration>,
    /// How many messages to measure.
    pub(crate) count: Option<u64>,
    /// How long to listen after the last send for what is missing.
    pub(crate) linger: Duration,
}

/// What the connections of one thread share.
struct Shared {
    load: Arc<Load>,
    clock: Cell<Clock>,
    stop: Arc<Stop>,
    live: Arc<Live>,
    results: RefCell<Results>,
    shown: Cell<LiveCounts>,
    /// Measured messages still to be sent.
    remaining: Cell<u64>,
    end_ns: u64,
    /// Connections whose tasks still run.
    alive: Cell<u32>,
    /// No message has been sent for good.
    is_over: Cell<bool>,
    /// Blaster itself has shut down what was still open.
    was_shut_down: Cell<bool>,
    /// When anything came back last; before that, when the run began.
    received_at_ns: Cell<u64>,
    /// When the last right echo in time was complete.
    right_at_ns: Cell<u64>,
    /// When the last message was sent.
    sent_at_ns: Cell<u64>,
    /// To shut down what does not end by itself.
    streams: RefCell<Vec<Weak<TcpStream>>>,
}

impl Shared {
    /// Permission to send a message now; it counts as sent with that.
    fn take_turn(&self) -> Option<u64> {
        let now_ns = self.clock.get().now_ns();
        let remaining = self.remaining.get();
        if self.is_over.get() || remaining == 0 || now_ns >= self.end_ns {
            return None;
        }
        if self.results.borrow().outcomes.is_measured(now_ns) {
            self.remaining.set(remaining - 1);
        }
        self.sent_at_ns.set(now_ns);
        Some(now_ns)
    }

    fn show(&self, change: impl FnOnce(&mut LiveCounts)) {
        let mut shown = self.shown.get();
        change(&mut shown);
        self.shown.set(shown);
        self.live.show(shown);
    }

    /// Whether every attempt to connect has failed so far.
    fn is_hopeless(&self) -> bool {
        let connections = self.results.borrow().connections;
        connections.established == 0 && connections.failed >= FAILURES_MAX
    }

    /// Whether it is no use to wait for a count to be reached. Where a time is set, a server may come back in it.
    fn is_given_up(&self, now_ns: u64) -> bool {
        let patience_ns = self.load.linger.as_nanos() as u64;
        self.end_ns == u64::MAX && now_ns > self.received_at_ns.get().saturating_add(patience_ns)
    }

    fn watch_stream(&self, stream: &Rc<TcpStream>) {
        let mut streams = self.streams.borrow_mut();
        if streams.len() == streams.capacity() {
            streams.retain(|stream| stream.strong_count() > 0);
        }
        streams.push(Rc::downgrade(stream));
    }
}

/// Runs `load` on its threads while `watch` looks on.
pub(crate) fn run(load: Load, stop: &Arc<Stop>, watch: &mut Watch<'_>) -> Result<Results, TcpError> {
    let limit = sys::raise_open_files().map_err(TcpError::Limit)?;
    if u64::from(load.connections) + SPARE_FILES > limit {
        return Err(TcpError::OpenFiles { connections: load.connections, limit });
    }
    let stop = Arc::clone(stop);
    let load = Arc::new(load);
    threads::run(load.workers, load.warmup, watch, move |number, live, post| {
        let ids: Vec<u32> = (number..load.connections).step_by(load.workers as usize).collect();
        let count = load.count.map_or(u64::MAX, |count| {
            let workers = u64::from(load.workers);
            count / workers + u64::from(u64::from(number) < count % workers)
        });
        let runtime = runtime(&ids)?;
        let ready = prepare(&runtime, &load, &ids, &stop)?;
        let Some(clock) = post.ready() else { return Ok(None) };
        let shared = Shared {
            load: Arc::clone(&load),
            clock: Cell::new(clock),
            stop: Arc::clone(&stop),
            live,
            results: RefCell::new(Results::new(load.warmup)),
            shown: Cell::default(),
            remaining: Cell::new(count),
            end_ns: load.duration.map_or(u64::MAX, |duration| (load.warmup + duration).as_nanos() as u64),
            alive: Cell::new(0),
            is_over: Cell::new(false),
            was_shut_down: Cell::new(false),
            received_at_ns: Cell::new(0),
            right_at_ns: Cell::new(0),
            sent_at_ns: Cell::new(0),
            streams: RefCell::default(),
        };
        Ok(Some(work(&runtime, shared, ids, ready)))
    })
}

/// A runtime with room for an operation in each direction on each connection.
fn runtime(ids: &[u32]) -> Result<Runtime, TcpError> {
    let entries = (ids.len() * 2).next_power_of_two().clamp(256, 4096) as u32;
    Runtime::new(tokio_uring::builder().entries(entries))
        .map_err(|error| RingError::new(Step::Setup, &error).into())
}

impl Load {
    /// Where connection `id` goes, and comes from if that was asked for.
    fn ends(&self, id: u32) -> (SocketAddr, Option<SocketAddr>) {
        let peer = self.targets.of_flow(id);
        (
            peer,
            self.source.as_ref().map(|source| source.of_flow(self.seed, id, peer, self.targets.no_hosts())),
        )
    }
}

/// Connects before the clock starts. Where connecting is the load itself, one connection shows that it
/// can be done at all.
fn prepare(runtime: &Runtime, load: &Load, ids: &[u32], stop: &Stop) -> Result<Vec<StdStream>, TcpError> {
    let connect = |id: &u32| {
        if stop.is_asked() {
            return Err(TcpError::Stopped);
        }
        let (peer, local) = load.ends(*id);
        let connected = if let Some(local) = local {
            let socket = bound::bind(local);
            let socket = socket.map_err(|error| SourceNotLocal { local: local.ip(), error })?;
            runtime.block_on(bound::connect(socket, peer, load.timeout))
        } else {
            StdStream::connect_timeout(&peer, load.timeout)
                .and_then(|stream| bound::check_other_end(&stream, peer).map(|()| stream))
        };
        connected.map_err(|error| TcpError::Connect { peer, error })
    };
    match load.mode {
        Mode::PingPong | Mode::Stream => ids.iter().map(connect).collect(),
        Mode::Connect => {
            ids.first().map(connect).transpose()?;
            Ok(Vec::new())
        }
    }
}

/// One thread's runtime, from the first message to the closed books.
fn work(runtime: &Runtime, shared: Shared, ids: Vec<u32>, ready: Vec<StdStream>) -> Results {
    let shared = Rc::new(shared);
    runtime.block_on(supervise(Rc::clone(&shared), ids, ready));
    let warmup = shared.load.warmup;
    shared.results.replace(Results::new(warmup))
}

/// Starts the connections, ends them in time.
async fn supervise(shared: Rc<Shared>, ids: Vec<u32>, ready: Vec<StdStream>) {
    shared.clock.get().wait_for_start();
    let start_ns = shared.clock.get().now_ns();
    let cpu_at_start = sys::thread_cpu_time();
    let waits_at_start = clock::waits();
    let mut ready = ready.into_iter();
    let mut connections = Vec::new();
    for id in ids {
        let connection = Rc::new(Connection::new(Rc::clone(&shared), id));
        connections.push(Rc::clone(&connection));
        shared.alive.set(shared.alive.get() + 1);
        let stream = ready.next();
        let shared = Rc::clone(&shared);
        tokio_uring::spawn(async move {
            match stream {
                Some(stream) => connection.serve(stream).await,
                None => connection.connect_repeatedly().await,
            }
            shared.alive.set(shared.alive.get() - 1);
        });
    }
    let is_time = |now_ns| {
        now_ns >= shared.end_ns
            || shared.stop.is_asked()
            || shared.is_hopeless()
            || shared.is_given_up(now_ns)
    };
    while shared.alive.get() > 0 && shared.remaining.get() > 0 && !is_time(shared.clock.get().now_ns()) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    shared.is_over.set(true);
    let ended_ns = shared.clock.get().now_ns();
    let cpu_ns = sys::thread_cpu_time().saturating_sub(cpu_at_start).as_nanos() as u64;
    let waits = clock::waits() - waits_at_start;
    wait_for(&shared, shared.load.linger).await;
    let elapsed_ns = ended_ns - start_ns;
    // a count is noticed some time after its last message, which has its echo later still
    let span_ns = match shared.remaining.get() {
        0 => shared.right_at_ns.get().max(shared.sent_at_ns.get()) - start_ns,
        _ => elapsed_ns,
    };
    shared.results.borrow_mut().thread_times.push(ThreadTimes {
        elapsed_ns,
        span_ns,
        cpu_ns,
        pacing_ns: 0,
        waits,
    });
    shared.was_shut_down.set(true);
    for stream in shared.streams.borrow().iter().filter_map(Weak::upgrade) {
        // it may be gone already, and that is as good
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
    wait_for(&shared, SHUTDOWN_TIMEOUT).await;
    for connection in connections {
        connection.count_unanswered();
        shared.results.borrow_mut().connections.in_order_at_end += u64::from(connection.is_in_order());
    }
}

/// Waits until every connection has ended, but for `patience` at the most.
async fn wait_for(shared: &Shared, patience: Duration) {
    let until_ns = shared.clock.get().now_ns() + patience.as_nanos() as u64;
    while shared.alive.get() > 0 && shared.clock.get().now_ns() < until_ns && !shared.stop.is_urgent() {
        tokio::time::sleep(LOOK_EVERY / 10).await;
    }
}
