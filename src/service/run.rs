//! The server from start to end: budget → bind → start → serve → drain.
//!
//! The main thread binds the sockets as the first descriptors of the process, starts the workers and waits until all
//! of them are armed. From then on it only waits: for a signal, for the end of a worker, for the clock. If a worker
//! ends early, the process ends too: otherwise the worker's sockets would stay in their SO_REUSEPORT group, and the
//! kernel would go on giving them their share of the traffic.

use std::collections::BTreeSet;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::budget::{self, Budget, Fixed, Wishes};
use super::config::{ServerConfig, Workers as WorkerCount};
use super::error::ServerError;
use super::first_losses::FirstLosses;
use super::metrics;
use super::notify::{self, Notifier, Ready};
use super::rules;
use super::schedule::{self, Schedule};
use super::signals::{self, LAST_LINES_TIMEOUT};
use super::store;
use super::workers::{Wakeup, Workers, WorkersError};
use crate::console::printer::Printer;
use crate::echo::tcp;
use crate::echo::udp::{self, reply_sockets::ReplySocketLimits};
use crate::echo::worker::WorkerConfig;
use crate::kernel::ring::FileTable;
use crate::kernel::sys::{self, EndSignals, Protocol};
use crate::policy::counters::{Counters, DroppedMessages};
use crate::policy::limits::{ConnectionsPerPrefix, Rates};
use crate::policy::many_hosts;
use crate::policy::pairs::Pairs;
use crate::policy::refuse::Rules;
use crate::sockets::adopt;
use crate::sockets::adopt::Origin;
use crate::sockets::bind::{Binding, bind_all};
use crate::sockets::endpoint::Endpoint;
use crate::sockets::keepalive::Keepalive;
use crate::sockets::listening::{Fate, Listening};
use crate::sockets::shares::Sockets;
use crate::values::ports::Ports;

/// A drain may take this much longer than its time limit before the process ends without its workers.
const DRAIN_GRACE: Duration = Duration::from_secs(2);

/// Serves until one of `signals` comes, then drains. Before the server is ready, a signal ends the process as soon as
/// `log` has printed its lines.
pub fn run(config: &ServerConfig, signals: EndSignals, log: &Printer) -> Result<(), ServerError> {
    let dropped_messages =
        DroppedMessages { log_lines: Arc::clone(log.dropped()), ..DroppedMessages::default() };
    let (events, inbox) = mpsc::channel();
    let starting = signals::listen(signals, events.clone(), log.clone())?;
    let host = Host::ask();
    let Bound { mut sockets, stored } = bind(config, &host)?;
    let losses = FirstLosses::new(sockets.has_whole_buffers());
    let file_table = FileTable::best();
    let budget = allot(config, &sockets, &host, file_table)?;
    let mut notifier = Notifier::from_env(Arc::clone(&dropped_messages.notifications))?;
    store::update(&mut sockets.shares, stored, &mut notifier, config.fd_store)?;
    let watchdog = notify::watchdog_interval();
    let worker_config = worker_config(config, &mut sockets, &budget, file_table, watchdog);
    let counters: Vec<Arc<Counters>> = sockets.shares.iter().map(|_| Arc::default()).collect();
    let phase = Arc::new(metrics::Phase::default());
    if let Some(addr) = config.metrics {
        let source = metrics::Source {
            workers: counters.clone(),
            dropped_messages: dropped_messages.clone(),
            phase: Arc::clone(&phase),
            label: config.label.clone(),
            open_files_max: host.open_files,
        };
        metrics::start(addr, config.join, source)?;
    }

    starting.done();
    let addresses = addresses(&sockets.shares);
    let mut workers = Workers::new(events, inbox);
    for (index, (share, counters)) in sockets.shares.into_iter().zip(counters).enumerate() {
        let processor = config.pin.then(|| host.processors[index % host.processors.len()]);
        workers.start(share, counters, processor, worker_config.clone())?;
    }
    let armed = workers.wait_until_armed()?;
    for address in &addresses {
        info!("listening on {address}");
    }
    phase.serving();
    let ready = notifier.ready(armed, &format!("serving {}", addresses.join(", ")))?;
    info!("ready");
    if ready.retry_interval().is_some() {
        warn!("the service manager does not read READY=1: serving all the same, and sending it again");
    }
    let schedule = Schedule::new(config.stats_interval, ready.has_manager(), watchdog, Instant::now());
    let mut serving = Serving { workers, ready, dropped_messages, schedule, losses };
    serving.serve()?;
    phase.draining();
    serving.drain(config.drain_timeout)?;
    serving.ready.drop_pending();
    info!("final counters: {}", serving.workers.snapshot().with(&serving.dropped_messages));
    Ok(())
}

/// What the host offers the server.
struct Host {
    /// RLIMIT_NOFILE, raised as far as it goes; `None` if it is unknown.
    open_files: Option<u64>,
    /// Processors that the process may run on, by number.
    processors: Vec<usize>,
}

impl Host {
    fn ask() -> Self {
        let open_files = sys::raise_open_files()
            .inspect_err(|error| warn!("the limit of open files stays as it is, unknown: {error}"))
            .ok();
        let processors = sys::processors().unwrap_or_else(|_| {
            // good enough to count workers; the log warns if a worker can't be pinned
            (0..thread::available_parallelism().map_or(1, NonZeroUsize::get)).collect()
        });
        Self { open_files, processors }
    }

    fn open_files_max(&self) -> usize {
        self.open_files.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
    }

    /// Number of processors that the quota of the control group allows, rounded down. With one more worker than that,
    /// the kernel would stop all busy workers for a part of each period.
    fn processors_allowed(&self) -> usize {
        let processors = self.processors.len();
        // the standard library reads both versions of control groups, parent groups included
        let allowed = thread::available_parallelism().map_or(processors, NonZeroUsize::get);
        if allowed < processors {
            info!("the control group allows the time of {allowed} of {processors} processors");
        }
        processors.min(allowed)
    }
}

/// The listening sockets, and how many of them are in the service manager's store.
struct Bound {
    sockets: Sockets,
    stored: usize,
}

/// Adopts the sockets that the service manager passed, binds the missing ones and sets the options of all.
fn bind(config: &ServerConfig, host: &Host) -> Result<Bound, ServerError> {
    let adopted = adopt::adopt(&notify::passed()?)?;
    let stored = adopted.iter().filter(|adopted| adopted.origin == Origin::Store).count();
    // the kernel refuses some of these, with an error that explains nothing
    for addr in config.endpoints.iter().map(|endpoint| endpoint.addr).chain(config.metrics) {
        many_hosts::check(addr.addr())?;
    }
    let from_unit = adopted.iter().any(|adopted| adopted.origin == Origin::Unit);
    let sockets_each = if config.named || !from_unit {
        config.endpoints.iter().map(Endpoint::sockets).sum()
    } else {
        0 // the sockets of the .socket unit replace the default
    };
    let workers = match config.workers {
        WorkerCount::Auto => budget::workers(host.processors_allowed(), sockets_each, host.open_files_max()),
        WorkerCount::Fixed(count) => count.get(),
    }
    .min(budget::WORKERS_MAX);
    budget::check_sockets(workers, sockets_each, host.open_files_max())?;
    let ServerConfig { endpoints, named, join, .. } = config;
    let binding = Binding { endpoints, named: *named, workers, join: *join };
    let mut sockets = bind_all(binding, adopted)?;
    // again: now with the passed sockets, and with addresses whose network has come up in the meantime
    for socket in sockets.shares.iter().flatten() {
        many_hosts::check(socket.addr)?;
    }
    sockets.set_user_timeout(config.tcp_user_timeout);
    sockets.set_keepalive(Keepalive::new(config.tcp_keepalive, config.tcp_user_timeout));
    sockets.set_dscp(config.reflect_dscp);
    for warning in sockets.warnings.drain(..) {
        warn!("{warning}");
    }
    Ok(Bound { sockets, stored })
}

/// Divides the open files that the limit allows between connections and reply sockets.
fn allot(
    config: &ServerConfig,
    sockets: &Sockets,
    host: &Host,
    file_table: FileTable,
) -> Result<Budget, ServerError> {
    let wishes = Wishes {
        connections: config.max_connections,
        reply_sockets: config.reply_sockets,
        // a refused connection takes a descriptor of the process, and a multishot accept takes all that wait at once
        single_accept: file_table == FileTable::Ordinary || config.max_connections_per_prefix.is_some(),
    };
    let shares = &sockets.shares;
    let listeners =
        |share: &Vec<Listening>| share.iter().filter(|socket| socket.protocol == Protocol::Tcp).count();
    let fixed = Fixed {
        workers: shares.len(),
        sockets: shares.iter().map(Vec::len).max().unwrap_or(0),
        listeners: shares.iter().map(listeners).max().unwrap_or(0),
        all_sockets: shares.iter().map(Vec::len).sum(),
    };
    let budget = budget::share(wishes, fixed, host.open_files_max(), file_table)?;
    if let Some(reduction) = budget.reduction {
        warn!("{reduction}");
    }
    Ok(budget)
}

/// The settings of each worker.
fn worker_config(
    config: &ServerConfig,
    sockets: &mut Sockets,
    budget: &Budget,
    file_table: FileTable,
    watchdog: Option<Duration>,
) -> WorkerConfig {
    let workers = sockets.shares.len();
    let listening = sockets.shares.iter().map(Vec::len).sum::<usize>();
    let pairs = Arc::new(Pairs::new(listening + workers * budget.reply_sockets));
    let reserved: Ports = rules::reserved_ports();
    let rules: Rules = rules::build(config, pairs, &reserved, sockets);
    let share = |rate: NonZeroU32| NonZeroU32::new(rate.get().div_ceil(workers as u32));
    WorkerConfig {
        rules,
        rates: Rates { per_prefix: config.udp_prefix_rate, replies: config.udp_reply_rate.and_then(share) },
        reply_sockets: ReplySocketLimits {
            count: budget.reply_sockets,
            per_second: config.reply_socket_rate,
            idle_timeout: config.reply_socket_idle,
        },
        reply_ports_except: Arc::new(config.reply_ports_except.with(&reserved)),
        udp_sizes: udp::Sizes::default(),
        limits: tcp::Limits {
            connections: budget.connections,
            workers,
            idle_timeout: config.idle_timeout,
            one_by_one: budget.single_accept,
            per_prefix: config
                .max_connections_per_prefix
                .map(|limit| Arc::new(ConnectionsPerPrefix::new(limit.get()))),
        },
        file_table,
        busy_poll: config.busy_poll,
        drain_timeout: config.drain_timeout,
        workers_with_tcp: Arc::new(AtomicUsize::new(workers)),
        turn_timeout: turn_timeout(watchdog, config.metrics.is_some()),
    }
}

/// How long a worker may sleep, so that its turn counter changes between two checks; `None`: without a limit.
fn turn_timeout(watchdog: Option<Duration>, has_metrics: bool) -> Option<Duration> {
    let checks = watchdog.map(schedule::check_interval);
    checks.into_iter().chain(has_metrics.then_some(metrics::TURN_TIMEOUT)).min()
}

/// Each served protocol and address, once and in order.
fn addresses(shares: &[Vec<Listening>]) -> Vec<String> {
    let unique: BTreeSet<_> = shares
        .iter()
        .flatten()
        .filter(|socket| socket.fate != Fate::Retires)
        .map(|socket| (socket.addr, socket.protocol.to_string()))
        .collect();
    unique.into_iter().map(|(addr, protocol)| format!("{protocol} {addr}")).collect()
}

/// A server whose workers are all armed.
struct Serving {
    workers: Workers,
    ready: Ready,
    dropped_messages: DroppedMessages,
    schedule: Schedule,
    losses: FirstLosses,
}

impl Serving {
    /// Serves until a signal comes.
    fn serve(&mut self) -> Result<(), WorkersError> {
        let mut turns = self.workers.turns();
        loop {
            let next = self.schedule.until_next(Instant::now());
            let timeout = self.ready.retry_interval().map_or(next, |retry| retry.min(next));
            match self.workers.wait(timeout)? {
                Wakeup::Signal => return Ok(()),
                Wakeup::Ended(index) => return Err(WorkersError::Ended(index)),
                Wakeup::Timeout => self.perform_due(&mut turns),
            }
        }
    }

    /// Writes the log lines and notifies the service manager as the schedule says. A manager that does not read now
    /// misses the notification.
    fn perform_due(&mut self, turns: &mut Vec<u64>) {
        let due = self.schedule.due(Instant::now());
        let snapshot = || self.workers.snapshot().with(&self.dropped_messages);
        if due.losses {
            for text in self.losses.news(&snapshot()) {
                warn!("{text}; said once");
            }
        }
        if due.stats {
            info!("counters: {}", snapshot());
        }
        let _ = self.ready.send_pending();
        if due.status {
            let now = snapshot();
            let _ = self.ready.status(&format!(
                "{} connections open, {} accepted; {} datagrams in, {} out",
                now.tcp_open, now.tcp_accepted, now.udp_datagrams_in, now.udp_datagrams_out
            ));
        }
        if due.watchdog {
            let now = self.workers.turns();
            let all_turned = now.iter().zip(turns.iter()).all(|(now, before)| now != before);
            if all_turned && self.ready.watchdog().is_ok() {
                *turns = now;
            } else {
                self.schedule.check_again(Instant::now());
            }
        }
    }

    /// Makes every worker answer all that it has received, and end. A second signal ends the drain at once.
    fn drain(&mut self, timeout: Duration) -> Result<(), WorkersError> {
        info!("draining for up to {}", humantime::format_duration(timeout));
        let _ = self.ready.stopping(timeout + DRAIN_GRACE + LAST_LINES_TIMEOUT);
        self.workers.drain();
        let deadline = Instant::now() + timeout + DRAIN_GRACE;
        let mut left = self.workers.len();
        while left > 0 {
            let end = deadline.saturating_duration_since(Instant::now());
            match self.workers.wait(self.ready.retry_interval().map_or(end, |retry| retry.min(end)))? {
                Wakeup::Ended(_) => left -= 1,
                Wakeup::Signal => {
                    warn!("a second signal: ending at once");
                    return Ok(());
                }
                Wakeup::Timeout if Instant::now() < deadline => {
                    let _ = self.ready.send_pending();
                }
                Wakeup::Timeout => {
                    warn!("{left} worker(s) did not end in time");
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
