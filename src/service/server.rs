//! The server's life: bind → arm → ready → serve → drain.
//!
//! The main thread binds the sockets (they are the first descriptors of the process), starts the
//! workers, waits until all are armed, says so, and then only listens: for signals, for a worker's end,
//! for the clock. A worker that ends before its time ends the process: its sockets would stay in their
//! group and swallow a share of the flows.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};
use std::{io, process, thread};

use tracing::{info, warn};

use crate::console::printer::Printer;
use crate::echo::tcp;
use crate::echo::udp::reply_sockets;
use crate::echo::worker::{Worker, WorkerConfig, WorkerError};
use crate::kernel::ring::{FileTable, WholeBuffers};
use crate::kernel::sys::{self, EndSignals, Protocol};
use crate::policy::counters::{Counters, Snapshot, Unheard};
use crate::policy::limits::{ConnectionsPerPrefix, Rates};
use crate::policy::many_hosts::{self, ManyHostsError};
use crate::policy::pairs::Pairs;
use crate::policy::refuse::Rules;
use crate::service::budget::{self, Budget, BudgetError, Fixed, Wishes};
use crate::service::first_losses::Troubles;
use crate::service::metrics::{self, MetricsError};
use crate::service::notify::{self, Notifier, NotifyError, PassedError, Ready};
use crate::sockets::adopt::{self, AdoptError};
use crate::sockets::keepalive::Keepalive;
use crate::sockets::listen_addr::ListenAddr;
use crate::sockets::listening::{
    self, Adopted, Binding, Endpoint, Fate, Listening, Origin, SocketError, Sockets,
};
use crate::values::ports::{Ports, PortsExcept};

/// How often the counters are searched for losses that were not told yet.
const TROUBLE_INTERVAL: Duration = Duration::from_secs(1);
/// How often `systemctl status` gets new numbers.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// So many looks at the workers, each with a sign of life if all have turned, in the time that the watchdog allows.
/// A stall of nine tenths of that time is survived, whoever is held: from the last sign of life before it to the
/// first one after it pass a look's interval, the stall, and a second look if a worker turns a moment later.
const WATCHDOG_LOOKS: u32 = 20;
/// After a look that found a worker still, the next one comes after this part of the time.
const WATCHDOG_SECOND_LOOKS: u32 = 50;
/// A watchdog that allows less than some of these is answered as often as that.
const WATCHDOG_INTERVAL_MIN: Duration = Duration::from_millis(1);
/// A drain may take this much longer than its deadline before the process ends without its workers.
const DRAIN_GRACE: Duration = Duration::from_secs(2);
/// Enough for the thread that hears signals, and little where memory is limited.
const SIGNALS_STACK_BYTES: usize = 256 << 10;
/// The end waits so long for somebody to read the last lines of the log.
pub const LAST_LINES_TIMEOUT: Duration = Duration::from_secs(1);

/// How many workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// One for each processor that the process may run on, and that its control group's quota allows.
    Auto,
    /// So many.
    Fixed(NonZeroUsize),
}

/// What the server is to do.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools)] // each is a switch of its own on the command line
pub struct ServerConfig {
    /// Where it listens.
    pub endpoints: Vec<Endpoint>,
    /// Somebody named them; else they give way to what a .socket unit passes.
    pub named: bool,
    /// Share ports with whoever lets us.
    pub join: bool,
    /// Threads that serve.
    pub workers: Workers,
    /// Keep each worker on one processor.
    pub pin: bool,
    /// Connections served at a time, all workers together.
    pub max_connections: Option<NonZeroUsize>,
    /// The open Internet is served.
    pub public: bool,
    /// Datagrams that one source is answered per second, by each worker.
    pub udp_prefix_rate: Option<NonZeroU32>,
    /// Datagrams that are answered per second, all workers together.
    pub udp_reply_rate: Option<NonZeroU32>,
    /// Connections that one source may have, an IPv4 address or an IPv6 /64, all workers together.
    pub max_connections_per_prefix: Option<NonZeroUsize>,
    /// Close connections on which nothing happened for so long; zero for never.
    pub idle_timeout: Duration,
    /// Give up connections whose peer acknowledges nothing for so long; zero for the system's patience.
    pub tcp_user_timeout: Duration,
    /// UDP replies leave with the DSCP of what they answer.
    pub reflect_dscp: bool,
    /// Ask quiet peers for a sign of life after so long; zero for never, `None` for what suits the user timeout.
    pub tcp_keepalive: Option<Duration>,
    /// Print the counters so often.
    pub stats_interval: Option<Duration>,
    /// Workers look for work for so long before they sleep; zero for never.
    pub busy_poll: Duration,
    /// How long the end may take.
    pub drain_timeout: Duration,
    /// Have the service manager keep the listening sockets for the next process.
    pub fd_store: bool,
    /// Sockets to answer from other UDP ports than the bound ones, per worker.
    pub reply_sockets: Option<usize>,
    /// How many of them each worker makes per second, at the most.
    pub reply_socket_rate: u32,
    /// Close them after so long without a reply.
    pub reply_socket_idle: Duration,
    /// Ports that are not bound to answer from them.
    pub reply_ports_except: PortsExcept,
    /// Where to serve metrics.
    pub metrics: Option<ListenAddr>,
    /// What tubular's bindings call our sockets, for the metrics.
    pub label: Option<String>,
}

/// Why the server did not start, or ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An address can't be served.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// What the service manager passed can't be read.
    #[error(transparent)]
    Passed(#[from] PassedError),
    /// An address is not one host's.
    #[error(transparent)]
    ManyHosts(#[from] ManyHostsError),
    /// A socket that the service manager passed can't be served.
    #[error(transparent)]
    Adopt(#[from] AdoptError),
    /// The service manager can't be told.
    #[error(transparent)]
    Notify(#[from] NotifyError),
    /// Metrics can't be served.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// A worker could not start, or can't go on.
    #[error("worker {index}: {error}")]
    Worker {
        /// Which one.
        index: usize,
        /// Why.
        error: WorkerError,
    },
    /// A worker ended although nobody asked it to.
    #[error("worker {0} ended unexpectedly")]
    Ended(usize),
    /// The limit of open files does not allow what was asked for.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// There are too many threads.
    #[error(
        "cannot start a thread ({0}): {1}; allow more threads or memory (TasksMax= in a unit, `ulimit -u`, `ulimit -v`) or \
         lower --workers"
    )]
    Thread(&'static str, io::Error),
    /// Something that every process may do was refused.
    #[error("cannot {step}: {error}")]
    System {
        /// What failed.
        step: &'static str,
        /// The kernel's answer.
        error: io::Error,
    },
}

fn system(step: &'static str) -> impl FnOnce(io::Error) -> ServerError {
    move |error| ServerError::System { step, error }
}

/// Proof that every worker has its sockets bound, registered and armed.
#[derive(Debug)]
pub struct Armed(());

/// What the main thread waits for.
enum Event {
    Armed,
    /// A worker can't be kept on its processor, and serves all the same.
    Unpinned(io::Error),
    /// A worker receives streams into whole buffers.
    Whole(WholeBuffers),
    Failed(usize, WorkerError),
    Ended(usize),
    Signal,
}

/// A worker as the main thread sees it.
struct Handle {
    counters: Arc<Counters>,
    wake: Arc<OwnedFd>,
}

/// Serves until one of `signals` comes, then drains. `log` is where tracing's lines go: a signal before the start is
/// over has its own end.
pub fn run(config: &ServerConfig, signals: EndSignals, log: &Printer) -> Result<(), ServerError> {
    let unheard = Unheard { log_lines: Arc::clone(log.dropped()), ..Unheard::default() };
    let (events, inbox) = mpsc::channel();
    let begun = listen_for_signals(signals, events.clone(), log.clone())?;
    let open_files = sys::raise_open_files()
        .inspect_err(|error| warn!("the limit of open files stays as it is, unknown: {error}"))
        .ok();
    let limit = open_files.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let processors = sys::processors().unwrap_or_else(|_| {
        // a guess is good enough to count workers, and who can't be pinned is told
        (0..thread::available_parallelism().map_or(1, NonZeroUsize::get)).collect()
    });
    let adopted = adopt::adopt(&notify::passed()?)?;
    let stored = adopted.iter().filter(|adopted| adopted.origin == Origin::Store).count();
    let mut bound = bind(config, adopted, processors.len(), limit)?;
    for warning in &bound.warnings {
        warn!("{warning}");
    }
    let troubles = Troubles::new(bound.has_whole_buffers());
    let count = bound.shares.len();
    let addresses = addresses(&bound.shares);
    let file_table = FileTable::best();
    let wishes = Wishes {
        connections: config.max_connections,
        reply_sockets: config.reply_sockets,
        // a descriptor of the process is everybody's loss, and a multishot takes as many as wait
        one_by_one: file_table == FileTable::Ordinary || config.max_connections_per_prefix.is_some(),
    };
    let budget = budget::share(wishes, fixed(&bound.shares), limit, file_table)?;
    if let Some(less) = budget.less {
        warn!("{less}");
    }
    let mut notifier = Notifier::from_env(Arc::clone(&unheard.notifications))?;
    keep_in_store(&mut bound.shares, stored, &mut notifier, config.fd_store)?;
    let watchdog = notify::watchdog_interval();

    let listening: Vec<_> = bound.shares.iter().flatten().map(|socket| socket.addr).collect();
    let pairs = Arc::new(Pairs::new(listening.len() + count * budget.reply_sockets));
    let reserved = reserved_ports();
    let rules = rules(config, &listening, pairs, &reserved, &mut bound);
    let worker_config = WorkerConfig {
        turn_timeout: turn_timeout(watchdog, config.metrics.is_some()),
        ..worker_config(config, rules, &reserved, &budget, file_table, count)
    };
    let counters: Vec<Arc<Counters>> = bound.shares.iter().map(|_| Arc::default()).collect();
    let phase = Arc::new(metrics::Phase::default());
    if let Some(addr) = config.metrics {
        let (workers, phase, label) = (counters.clone(), Arc::clone(&phase), config.label.clone());
        let unheard = unheard.clone();
        let source = metrics::Source { workers, unheard, phase, label, open_files_max: open_files };
        metrics::start(addr, config.join, source)?;
    }
    begun.note();
    let mut handles = Vec::new();
    for (index, (share, counters)) in bound.shares.into_iter().zip(counters).enumerate() {
        let processor = config.pin.then(|| processors[index % processors.len()]);
        handles.push(start_worker(index, share, counters, processor, worker_config.clone(), events.clone())?);
    }
    let armed = wait_until_armed(&inbox, &events, count)?;
    for address in &addresses {
        info!("listening on {address}");
    }
    phase.serving();
    let mut ready = notifier.ready(armed, &format!("serving {}", addresses.join(", ")))?;
    info!("ready");
    if ready.retry_interval().is_some() {
        warn!(
            "the service manager does not read that the server is ready: serving all the same, and telling it again"
        );
    }
    let clock = Clock::new(config.stats_interval, ready.is_heard(), watchdog);
    serve(&inbox, &handles, &unheard, &mut ready, clock, troubles)?;
    phase.draining();
    drain(&inbox, &handles, &mut ready, config.drain_timeout)?;
    ready.give_up();
    info!("final counters: {}", snapshot(&handles).with(&unheard));
    Ok(())
}

/// Whether anything may be served yet. It is, too, once the start has failed: then the main thread tells why.
struct Begun(Arc<AtomicBool>);

impl Begun {
    fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.note();
    }
}

/// Starts the thread that hears signals, whatever holds up the main thread: before anything is served the first one
/// ends the process, later it is an event, and after the second one the process ends, with or without the main thread.
fn listen_for_signals(
    mut signals: EndSignals,
    events: Sender<Event>,
    log: Printer,
) -> Result<Begun, ServerError> {
    let begun = Arc::new(AtomicBool::new(false));
    let has_begun = Arc::clone(&begun);
    let listen = move || {
        signals.wait();
        if !has_begun.load(Ordering::Relaxed) {
            warn!("ended by a signal before it was ready");
            log.is_done_within(LAST_LINES_TIMEOUT);
            process::exit(0);
        }
        let _ = events.send(Event::Signal);
        signals.wait();
        let _ = events.send(Event::Signal);
        // the main thread waits for the last lines so long
        thread::sleep(LAST_LINES_TIMEOUT);
        process::exit(0);
    };
    thread::Builder::new()
        .name("signals".into())
        .stack_size(SIGNALS_STACK_BYTES)
        .spawn(listen)
        .map_err(|error| ServerError::Thread("signals", error))?;
    Ok(Begun(begun))
}

/// Binds what is to be listened on by all workers, which are counted first, and sets it as the options say.
fn bind(
    config: &ServerConfig,
    adopted: Vec<Adopted>,
    processors: usize,
    limit: usize,
) -> Result<Sockets, ServerError> {
    // the kernel refuses some of these, and what it says of them tells nothing
    for addr in config.endpoints.iter().map(|endpoint| endpoint.addr).chain(config.metrics) {
        many_hosts::check(addr.addr())?;
    }
    let from_unit = adopted.iter().any(|adopted| adopted.origin == Origin::Unit);
    let sockets_each = if config.named || !from_unit {
        config.endpoints.iter().map(Endpoint::sockets).sum()
    } else {
        0 // what the .socket unit passed replaces the default
    };
    let workers = match config.workers {
        Workers::Auto => budget::workers(processors_allowed(processors), sockets_each, limit),
        Workers::Fixed(count) => count.get(),
    }
    .min(budget::WORKERS_MAX);
    budget::check_sockets(workers, sockets_each, limit)?;
    let ServerConfig { endpoints, named, join, .. } = config;
    let binding = Binding { endpoints, named: *named, workers, join: *join };
    let mut bound = listening::bind_all(binding, adopted)?;
    // passed ones as well, and those whose network has come meanwhile
    for socket in bound.shares.iter().flatten() {
        many_hosts::check(socket.addr)?;
    }
    bound.set_user_timeout(config.tcp_user_timeout);
    bound.set_keepalive(Keepalive::new(config.tcp_keepalive, config.tcp_user_timeout));
    bound.set_dscp(config.reflect_dscp);
    Ok(bound)
}

/// Ports that the system gives to nobody who leaves the choice to it; none where it does not say, with a warning.
fn reserved_ports() -> Ports {
    sys::reserved_ports().unwrap_or_else(|error| {
        warn!(
            "net.ipv4.ip_local_reserved_ports can't be read: {error}; replies may take those ports, too (ProcSubset= of \
             a unit hides the file): name them in --reply-ports-except"
        );
        Ports::default()
    })
}

/// What is not answered. The sockets are made to tell what the rules want to know.
fn rules(
    config: &ServerConfig,
    listening: &[SocketAddr],
    pairs: Arc<Pairs>,
    reserved: &Ports,
    bound: &mut Sockets,
) -> Rules {
    let rules = Rules::new(listening, local_ports(), pairs).reserving(reserved);
    let told = bound.warnings.len();
    bound.set_hops(rules.needs_hops());
    bound.warnings[told..].iter().for_each(|warning| warn!("{warning}"));
    warn_of_client_like_ports(&rules, &bound.shares, &config.endpoints);
    if config.public { rules.public() } else { rules }
}

/// Says which UDP ports a client may have as well, unless it was left to the system to choose one of those.
fn warn_of_client_like_ports(rules: &Rules, shares: &[Vec<Listening>], endpoints: &[Endpoint]) {
    let udp = shares.iter().flatten().filter(|socket| socket.protocol == Protocol::Udp);
    let ports: BTreeSet<u16> = udp.map(|socket| socket.addr.port()).collect();
    if endpoints.iter().any(|endpoint| endpoint.addr.addr().port() == 0) {
        return;
    }
    for port in ports.into_iter().filter(|port| rules.is_client_like(*port)) {
        warn!(
            "UDP port {port} is one that clients have, too (net.ipv4.ip_local_port_range): a loop between two servers on it \
             ends only after up to 255 replies; choose another one, or reserve it on every host \
             (net.ipv4.ip_local_reserved_ports) and restart"
        );
    }
}

/// What each worker needs to know. A turn of it may sleep for ever.
fn worker_config(
    config: &ServerConfig,
    rules: Rules,
    reserved: &Ports,
    budget: &Budget,
    file_table: FileTable,
    workers: usize,
) -> WorkerConfig {
    let share = |rate: NonZeroU32| NonZeroU32::new(rate.get().div_ceil(workers as u32));
    WorkerConfig {
        rules,
        rates: Rates { per_prefix: config.udp_prefix_rate, replies: config.udp_reply_rate.and_then(share) },
        reply_sockets: reply_sockets::Limits {
            count: budget.reply_sockets,
            per_second: config.reply_socket_rate,
            idle_timeout: config.reply_socket_idle,
        },
        reply_ports_except: Arc::new(config.reply_ports_except.with(reserved)),
        limits: tcp::Limits {
            connections: budget.connections,
            workers,
            idle_timeout: config.idle_timeout,
            one_by_one: budget.one_by_one,
            per_prefix: config
                .max_connections_per_prefix
                .map(|limit| Arc::new(ConnectionsPerPrefix::new(limit.get()))),
        },
        file_table,
        busy_poll: config.busy_poll,
        drain_timeout: config.drain_timeout,
        workers_with_tcp: Arc::new(AtomicUsize::new(workers)),
        turn_timeout: None,
    }
}

/// How long a worker may sleep, so that whoever looks at its count of turns sees it move.
fn turn_timeout(watchdog: Option<Duration>, has_metrics: bool) -> Option<Duration> {
    watchdog
        .map(|time| watchdog_interval(time, WATCHDOG_LOOKS))
        .into_iter()
        .chain(has_metrics.then_some(metrics::TURN_TIMEOUT))
        .min()
}

/// A part of the time that the watchdog allows.
fn watchdog_interval(time: Duration, parts: u32) -> Duration {
    (time / parts).max(WATCHDOG_INTERVAL_MIN)
}

/// Has the service manager's store give up what retires, and keep what was bound here, so that it outlives
/// us. `stored` are there already.
fn keep_in_store(
    shares: &mut [Vec<Listening>],
    mut stored: usize,
    notifier: &mut Notifier,
    wanted: bool,
) -> Result<(), ServerError> {
    for socket in shares.iter().flatten().filter(|socket| socket.fate == Fate::Retires) {
        notifier.unstore(&adopt::store_name(socket))?;
        sys::drop_incoming(socket.as_fd()).map_err(system("close a stored socket to new traffic"))?;
        stored -= 1;
    }
    if wanted && !notifier.is_heard() {
        warn!(
            "--fd-store has no effect: NOTIFY_SOCKET is not set, so there is no service manager to keep sockets"
        );
        return Ok(());
    }
    // a variable left over from elsewhere: nobody is there to keep anything
    if !notifier.is_heard() {
        return Ok(());
    }
    // who does not say how many it keeps is trusted to keep them all
    let size = notify::store_size().or(wanted.then_some(usize::MAX)).unwrap_or(0);
    let (mut left_out, mut not_taken) = (0, 0);
    for socket in shares.iter_mut().flatten().filter(|socket| socket.fate == Fate::Ends) {
        if stored >= size {
            left_out += 1;
        } else if not_taken > 0 || !notifier.store(&adopt::store_name(socket), socket.as_fd())? {
            not_taken += 1;
        } else {
            socket.fate = Fate::Outlives;
            stored += 1;
        }
    }
    if not_taken > 0 {
        warn!(
            "{not_taken} sockets will not survive a restart: the service manager does not read what it is told; restart \
             the server when it does"
        );
    }
    if left_out > 0 && (wanted || size > 0) {
        warn!(
            "{left_out} sockets will not survive a restart: the service manager keeps only {size}; raise \
               FileDescriptorStoreMax= and FDSTORE"
        );
    }
    Ok(())
}

/// Each protocol and address that is served once, in order.
fn addresses(shares: &[Vec<Listening>]) -> Vec<String> {
    let unique: BTreeSet<_> = shares
        .iter()
        .flatten()
        .filter(|socket| socket.fate != Fate::Retires)
        .map(|socket| (socket.addr, socket.protocol.to_string()))
        .collect();
    unique.into_iter().map(|(addr, protocol)| format!("{protocol} {addr}")).collect()
}

/// How many of so many processors the control group's quota lets us use, rounded down: a worker more would be stopped
/// in each period when all are busy.
fn processors_allowed(processors: usize) -> usize {
    // it knows both versions of control groups, with every group above ours
    let allowed = thread::available_parallelism().map_or(processors, NonZeroUsize::get);
    if allowed < processors {
        info!("the control group allows the time of {allowed} of {processors} processors");
    }
    processors.min(allowed)
}

/// What the budget needs to know of the listening sockets.
fn fixed(shares: &[Vec<Listening>]) -> Fixed {
    let listeners =
        |share: &Vec<Listening>| share.iter().filter(|socket| socket.protocol == Protocol::Tcp).count();
    Fixed {
        workers: shares.len(),
        sockets: shares.iter().map(Vec::len).max().unwrap_or(0),
        listeners: shares.iter().map(listeners).max().unwrap_or(0),
        all_sockets: shares.iter().map(Vec::len).sum(),
    }
}

/// The ports that the kernel gives to clients; its default where it does not say, with a warning.
fn local_ports() -> RangeInclusive<u16> {
    sys::local_ports().unwrap_or_else(|error| {
        let default = sys::LOCAL_PORTS_DEFAULT;
        warn!(
            "net.ipv4.ip_local_port_range can't be read: {error}; taking {}-{} for the ports of clients: a client on \
             the server's own port is answered only if it is one of those (ProcSubset= of a unit hides the file)",
            default.start(),
            default.end()
        );
        default
    })
}

fn start_worker(
    index: usize,
    share: Vec<Listening>,
    counters: Arc<Counters>,
    processor: Option<usize>,
    config: WorkerConfig,
    events: Sender<Event>,
) -> Result<Handle, ServerError> {
    let wake = Arc::new(sys::eventfd().map_err(system("make an eventfd"))?);
    let handle = Handle { counters: Arc::clone(&counters), wake: Arc::clone(&wake) };
    let body = move || {
        if let Some(Err(error)) = processor.map(sys::pin_thread) {
            // nobody listens any more only when the process is ending
            let _ = events.send(Event::Unpinned(error));
        }
        let outcome = Worker::arm(share, wake, counters, config).and_then(|worker| {
            if let Some(reason) = worker.whole_buffers() {
                let _ = events.send(Event::Whole(reason));
            }
            let _ = events.send(Event::Armed);
            worker.run()
        });
        let _ = events.send(match outcome {
            Ok(()) => Event::Ended(index),
            Err(error) => Event::Failed(index, error),
        });
    };
    thread::Builder::new()
        .name(format!("worker-{index}"))
        .spawn(body)
        .map_err(|error| ServerError::Thread("worker", error))?;
    Ok(handle)
}

fn wait_until_armed(
    inbox: &Receiver<Event>,
    events: &Sender<Event>,
    count: usize,
) -> Result<Armed, ServerError> {
    let (mut armed, mut unpinned, mut whole, mut signals) = (0, None, None, 0);
    while armed < count {
        match inbox.recv() {
            Ok(Event::Armed) => armed += 1,
            Ok(Event::Unpinned(error)) => unpinned = Some(error),
            Ok(Event::Whole(reason)) => whole = Some(reason),
            Ok(Event::Failed(index, error)) => return Err(ServerError::Worker { index, error }),
            Ok(Event::Ended(index)) => return Err(ServerError::Ended(index)),
            // some serve already, so this end is a drain as any other
            Ok(Event::Signal) => signals += 1,
            Err(_) => unreachable!("we hold a sender"),
        }
    }
    for _ in 0..signals {
        let _ = events.send(Event::Signal);
    }
    if let Some(error) = unpinned {
        warn!("--pin has no effect: the workers can't be kept on their processors: {error}");
    }
    match whole {
        None => {}
        // as good as that kernel can do
        Some(reason @ WholeBuffers::NotIncremental) => info!("TCP is received into whole buffers: {reason}"),
        Some(reason) => warn!("TCP is received into whole buffers: {reason}"),
    }
    Ok(Armed(()))
}

/// Serves until a signal says to end.
fn serve(
    inbox: &Receiver<Event>,
    handles: &[Handle],
    unheard: &Unheard,
    ready: &mut Ready,
    mut clock: Clock,
    mut troubles: Troubles,
) -> Result<(), ServerError> {
    let mut turns: Vec<u64> = handles.iter().map(|handle| handle.counters.turns.get()).collect();
    loop {
        let next = clock.until_next();
        match inbox.recv_timeout(ready.retry_interval().map_or(next, |retry| retry.min(next))) {
            Ok(Event::Signal) => return Ok(()),
            Ok(Event::Failed(index, error)) => return Err(ServerError::Worker { index, error }),
            Ok(Event::Ended(index)) => return Err(ServerError::Ended(index)),
            Ok(Event::Armed | Event::Unpinned(_) | Event::Whole(_)) => {}
            Err(RecvTimeoutError::Disconnected) => unreachable!("run() holds a sender"),
            Err(RecvTimeoutError::Timeout) => {
                let due = clock.due(Instant::now());
                let now = || snapshot(handles).with(unheard);
                if due.troubles {
                    for text in troubles.news(&now()) {
                        warn!("{text}; said once");
                    }
                }
                if due.stats {
                    info!("counters: {}", now());
                }
                let _ = ready.catch_up();
                // the service manager may be restarting: what it misses, it misses
                if due.status {
                    let _ = ready.status(&status(&snapshot(handles)));
                }
                if due.watchdog {
                    let now: Vec<u64> = handles.iter().map(|handle| handle.counters.turns.get()).collect();
                    let all_turned = now.iter().zip(&turns).all(|(now, before)| now != before);
                    if all_turned && ready.watchdog().is_ok() {
                        turns = now;
                    } else {
                        clock.look_again(Instant::now());
                    }
                }
            }
        }
    }
}

/// Has every worker answer what it has received and end. A second signal ends the process at once.
fn drain(
    inbox: &Receiver<Event>,
    handles: &[Handle],
    ready: &mut Ready,
    timeout: Duration,
) -> Result<(), ServerError> {
    info!("draining for up to {}", humantime::format_duration(timeout));
    let _ = ready.stopping(timeout + DRAIN_GRACE + LAST_LINES_TIMEOUT);
    for handle in handles {
        sys::wake(handle.wake.as_fd());
    }
    let deadline = Instant::now() + timeout + DRAIN_GRACE;
    let mut left = handles.len();
    while left > 0 {
        let end = deadline.saturating_duration_since(Instant::now());
        match inbox.recv_timeout(ready.retry_interval().map_or(end, |retry| retry.min(end))) {
            Ok(Event::Ended(_)) => left -= 1,
            Ok(Event::Failed(index, error)) => return Err(ServerError::Worker { index, error }),
            Ok(Event::Signal) => {
                warn!("a second signal: ending at once");
                return Ok(());
            }
            Ok(Event::Armed | Event::Unpinned(_) | Event::Whole(_)) => {}
            Err(_) if Instant::now() < deadline => {
                let _ = ready.catch_up();
            }
            Err(_) => {
                warn!("{left} worker(s) did not end in time");
                return Ok(());
            }
        }
    }
    Ok(())
}

fn snapshot(handles: &[Handle]) -> Snapshot {
    Snapshot::of(handles.iter().map(|handle| &*handle.counters))
}

fn status(now: &Snapshot) -> String {
    format!(
        "{} connections open, {} accepted; {} datagrams in, {} out",
        now.tcp_open, now.tcp_accepted, now.udp_datagrams_in, now.udp_datagrams_out
    )
}

/// What the main thread does from time to time.
struct Clock {
    troubles: Periodic,
    stats: Periodic,
    status: Periodic,
    watchdog: Periodic,
    /// How soon the workers are looked at again when one had not turned.
    second_look: Duration,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // they are independent of each other
struct Due {
    troubles: bool,
    stats: bool,
    status: bool,
    watchdog: bool,
}

/// Something that comes round every interval, or never.
struct Periodic {
    interval: Option<Duration>,
    next: Instant,
}

impl Periodic {
    fn new(interval: Option<Duration>, now: Instant) -> Self {
        Self { interval, next: now + interval.unwrap_or_default() }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        let Some(interval) = self.interval.filter(|_| now >= self.next) else { return false };
        self.next = now + interval;
        true
    }
}

impl Clock {
    fn new(stats: Option<Duration>, is_heard: bool, watchdog: Option<Duration>) -> Self {
        let now = Instant::now();
        Self {
            troubles: Periodic::new(Some(TROUBLE_INTERVAL), now),
            stats: Periodic::new(stats, now),
            status: Periodic::new(is_heard.then_some(STATUS_INTERVAL), now),
            watchdog: Periodic::new(
                watchdog.filter(|_| is_heard).map(|time| watchdog_interval(time, WATCHDOG_LOOKS)),
                now,
            ),
            second_look: watchdog_interval(watchdog.unwrap_or_default(), WATCHDOG_SECOND_LOOKS),
        }
    }

    fn until_next(&self) -> Duration {
        let all = [&self.troubles, &self.stats, &self.status, &self.watchdog];
        let next =
            all.iter().filter(|periodic| periodic.interval.is_some()).map(|periodic| periodic.next).min();
        next.map_or(TROUBLE_INTERVAL, |next| next.saturating_duration_since(Instant::now()))
    }

    /// The watchdog is due again soon: the last look brought no sign of life.
    fn look_again(&mut self, now: Instant) {
        self.watchdog.next = now + self.second_look;
    }

    fn due(&mut self, now: Instant) -> Due {
        Due {
            troubles: self.troubles.is_due(now),
            stats: self.stats.is_due(now),
            status: self.status.is_due(now),
            watchdog: self.watchdog.is_due(now),
        }
    }
}
