//! The server from start to end: bind → divide the open files → start the workers → serve → drain.
//!
//! The main thread binds the sockets, starts the workers and waits until all of them are armed. The sockets are the
//! first descriptors of the process: `tubectl register-pid` looks for them from descriptor 0 on. From then on the main
//! thread waits, logs and notifies, see `serving`. If a worker ends early, the process ends too: otherwise the worker's
//! sockets would stay in their SO_REUSEPORT group, and the kernel would go on giving them their share of the traffic.

use std::collections::BTreeSet;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::budget::{self, Budget, BudgetError, Fixed, Wishes};
use super::config::{ServerConfig, Steer, Workers as WorkerCount};
use super::error::ServerError;
use super::first_losses::FirstLosses;
use super::host::{self, Host};
use super::metrics;
use super::notify::{self, Notifier};
use super::rules;
use super::schedule::{self, Schedule};
use super::serving::Serving;
use super::signals;
use super::store;
use super::workers::Workers;
use crate::console::printer::Printer;
use crate::echo::tcp::{BufferCounts, TcpLimits};
use crate::echo::udp::{self, reply_sockets::ReplySocketLimits};
use crate::echo::worker::{Shared, WorkerConfig};
use crate::kernel::ring::FileTable;
use crate::kernel::sys::{EndSignals, Protocol};
use crate::policy::counters::{Counters, DroppedMessages};
use crate::policy::limits::Rates;
use crate::policy::many_hosts;
use crate::policy::pairs::Pairs;
use crate::policy::refuse::Rules;
use crate::sockets::adopt;
use crate::sockets::adopt::Origin;
use crate::sockets::bind::{Binding, bind_all};
use crate::sockets::endpoint::Endpoint;
use crate::sockets::keepalive::Keepalive;
use crate::sockets::listening::{AtExit, Listening};
use crate::sockets::shares::Sockets;
use crate::values::ports::Ports;

/// Serves until one of `signals` comes, then drains. A signal that comes before the workers start ends the process, after
/// `log` has had up to a second to print its lines.
pub fn run(config: &ServerConfig, signals: EndSignals, log: &Printer) -> Result<(), ServerError> {
    let dropped_messages =
        DroppedMessages { log_lines: Arc::clone(log.dropped()), ..DroppedMessages::default() };
    let (events, inbox) = mpsc::channel();
    let starting = signals::listen(signals, events.clone(), log.clone())?;
    let host = Host::ask();
    let Bound { mut sockets, stored } = bind(config, &host)?;
    let losses = FirstLosses::new(sockets.has_whole_buffers());
    let file_table = FileTable::best();
    let budget = divide_open_files(config, &sockets, &host, file_table)?;
    let mut notifier = Notifier::from_env(Arc::clone(&dropped_messages.notifications))?;
    store::update(&mut sockets.shares, stored, &mut notifier, config.fd_store)?;
    let watchdog = notify::watchdog_interval();
    let connections_per_prefix = config.max_connections_per_prefix.map(NonZeroUsize::get);
    let shared = Shared::new(sockets.shares.len(), connections_per_prefix);
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

    starting.signals_now_drain();
    let addresses = addresses(&sockets.shares);
    let mut workers = Workers::new(events, inbox);
    for (index, (sockets, counters)) in sockets.shares.into_iter().zip(counters).enumerate() {
        let processor = config.pin.then(|| host.processors[index % host.processors.len()]);
        workers.start(sockets, counters, processor, shared.clone(), worker_config.clone())?;
    }
    let armed = workers.wait_until_armed()?;
    for address in &addresses {
        info!("listening on {address}");
    }
    phase.serving();
    let ready = notifier.ready(armed, &format!("serving {}", addresses.join(", ")))?;
    info!("ready");
    if ready.has_pending() {
        warn!("the service manager does not read READY=1: serving all the same, and sending it again");
    }
    let schedule = Schedule::new(config.stats_interval, ready.has_manager(), watchdog, Instant::now());
    let turns = workers.turns();
    let mut serving = Serving { workers, ready, dropped_messages, schedule, losses, turns };
    serving.serve()?;
    phase.draining();
    serving.drain(config.drain_timeout)?;
    serving.ready.drop_pending();
    info!("final counters: {}", serving.workers.snapshot().with(&serving.dropped_messages));
    Ok(())
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
    // the kernel refuses to bind multicast addresses of some kinds, with an error that explains nothing
    for addr in config.endpoints.iter().map(|endpoint| endpoint.addr).chain(config.metrics) {
        many_hosts::check(addr.addr())?;
    }
    let from_unit = adopted.iter().any(|adopted| adopted.origin == Origin::Unit);
    let workers = worker_count(config, host, from_unit)?;
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
    match config.steer {
        Steer::Cpu => sockets.steer_by_processor(&host.processors),
        Steer::Hash => sockets.steer_by_hash(),
    }
    for warning in sockets.warnings.drain(..) {
        warn!("{warning}");
    }
    Ok(Bound { sockets, stored })
}

/// Number of workers, if the limit of open files has room for their listening sockets. `from_unit`: a .socket unit passed
/// sockets.
fn worker_count(config: &ServerConfig, host: &Host, from_unit: bool) -> Result<usize, BudgetError> {
    let sockets_each = if config.named || !from_unit {
        config.endpoints.iter().map(Endpoint::sockets).sum()
    } else {
        0 // the sockets of the .socket unit replace the default addresses
    };
    let workers = match config.workers {
        WorkerCount::Auto => budget::workers(host.processors_allowed(), sockets_each, host.open_files_max()),
        WorkerCount::Fixed(count) => count.get(),
    }
    .min(budget::WORKERS_MAX);
    budget::check_sockets(workers, sockets_each, host.open_files_max())?;
    Ok(workers)
}

/// Divides the open files that the limit allows between connections and reply sockets.
fn divide_open_files(
    config: &ServerConfig,
    sockets: &Sockets,
    host: &Host,
    file_table: FileTable,
) -> Result<Budget, ServerError> {
    let wishes = Wishes {
        connections: config.max_connections,
        reply_sockets: config.reply_sockets,
        // a refused connection takes a descriptor of the process, and a multishot accept takes all waiting ones
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

/// The settings of each worker. The sockets are told to report what the rules need to know of each datagram.
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
    let per_worker = |rate: NonZeroU32| NonZeroU32::new(rate.get().div_ceil(workers as u32));
    WorkerConfig {
        rules,
        rates: Rates {
            per_prefix: config.udp_prefix_rate,
            replies: config.udp_reply_rate.and_then(per_worker),
        },
        reply_sockets: ReplySocketLimits {
            count: budget.reply_sockets,
            per_second: config.reply_socket_rate,
            idle_timeout: config.reply_socket_idle,
        },
        reply_ports_except: Arc::new(config.reply_ports_except.with(&reserved)),
        udp_sizes: udp::Sizes::default(),
        tcp: TcpLimits {
            connections: budget.connections,
            workers,
            idle_timeout: config.idle_timeout,
            single_accept: budget.single_accept,
            buffers: BufferCounts::default(),
            final_read_bytes: host::tcp_receive_bytes_max(),
            first_descriptor: budget.first_descriptor,
        },
        file_table,
        busy_poll: config.busy_poll,
        drain_timeout: config.drain_timeout,
        turn_timeout: turn_timeout(watchdog, config.metrics.is_some()),
    }
}

/// How long a worker may sleep, so that its count of turns moves between two checks; `None`: without a limit.
fn turn_timeout(watchdog: Option<Duration>, has_metrics: bool) -> Option<Duration> {
    let checks = watchdog.map(schedule::check_interval);
    checks.into_iter().chain(has_metrics.then_some(metrics::TURN_TIMEOUT)).min()
}

/// Each served protocol and address, once and in order.
fn addresses(shares: &[Vec<Listening>]) -> Vec<String> {
    let unique: BTreeSet<_> = shares
        .iter()
        .flatten()
        .filter(|socket| socket.at_exit != AtExit::Retire)
        .map(|socket| (socket.addr, socket.protocol.to_string()))
        .collect();
    unique.into_iter().map(|(addr, protocol)| format!("{protocol} {addr}")).collect()
}
