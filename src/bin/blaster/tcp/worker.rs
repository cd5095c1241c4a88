//! One worker thread: a tokio-uring runtime with its connections, from the first connect to the last count.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio_uring::Runtime;
use tubular_echo::kernel::ring::{RingError, Step};
use tubular_echo::kernel::sys;

use crate::model::results::{Results, ThreadTimes};
use crate::tcp::connect::{Connected, FirstConnections};
use crate::tcp::connection::Connection;
use crate::tcp::error::TcpError;
use crate::tcp::plan::Plan;
use crate::tcp::shared::Shared;
use crate::tcp::visits;
use crate::workers::clock;
use crate::workers::live::Live;
use crate::workers::stop::Stop;
use crate::workers::threads::StartGate;

/// How often a worker looks whether it is time to end.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long connections may take to end after blaster has shut them down.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs worker `number`. `None`: another worker failed, and there is no run.
pub(super) fn run(
    number: u32,
    plan: &Arc<Plan>,
    stop: &Arc<Stop>,
    first: &FirstConnections,
    live: Arc<Live>,
    start_gate: StartGate,
) -> Result<Option<Results>, TcpError> {
    let ids = plan.extent.flows_of(number);
    let runtime = new_runtime(&ids)?;
    let connected = first.connect(&runtime, plan, &ids, stop)?;
    let Some(clock) = start_gate.ready() else { return Ok(None) };
    first.check()?;
    let shared = Rc::new(Shared::new(number, Arc::clone(plan), clock, Arc::clone(stop), live));
    runtime.block_on(supervise(Rc::clone(&shared), ids.clone(), connected));
    let mut results = shared.results.replace(Results::new(plan.extent.warmup));
    results.destinations.name(|place| match &plan.traffic.visits {
        Some(visits) => visits.destination(place),
        None => plan.addresses(ids[place]).0,
    });
    let sources = plan.traffic.visits.as_ref().map_or(&[][..], |visits| visits.sources());
    results.sources.name(|place| sources[place].ip());
    Ok(Some(results))
}

/// A runtime with room for an operation in each direction on each connection.
fn new_runtime(ids: &[u32]) -> Result<Runtime, TcpError> {
    let entries = (ids.len() * 2).next_power_of_two().clamp(256, 4096) as u32;
    Runtime::new(tokio_uring::builder().entries(entries))
        .map_err(|error| RingError::new(Step::Setup, &error).into())
}

/// Starts the connections, ends them in time, and counts what is left.
async fn supervise(shared: Rc<Shared>, ids: Vec<u32>, connected: Vec<Connected>) {
    let has_load = connected.is_empty() || connected.iter().any(Result::is_ok);
    shared.clock.wait_for_start();
    let start_ns = shared.clock.now_ns();
    let cpu_at_start = sys::thread_cpu_time();
    let waits_at_start = clock::cpu_waits();
    let mut connections = Vec::new();
    if shared.plan.traffic.visits.is_some() {
        visits::visit_all(&shared, &ids).await;
    } else {
        connections = start(&shared, ids, connected);
        use_until_end(&shared).await;
    }
    shared.progress.is_over.set(true);
    let elapsed_ns = shared.clock.now_ns() - start_ns;
    let cpu_ns = sys::thread_cpu_time().saturating_sub(cpu_at_start).as_nanos() as u64;
    let waits = clock::cpu_waits() - waits_at_start;
    wait_for_connections(&shared, shared.patience()).await;
    // the worker notices a reached count some time after the last message, and the last echo comes later still
    let span_ns = match shared.progress.remaining.get() {
        0 => shared.progress.last_ok_ns.get().max(shared.progress.last_sent_ns.get()) - start_ns,
        _ => elapsed_ns,
    };
    let times = ThreadTimes { elapsed_ns, span_ns, cpu_ns, pacing_ns: 0, waits };
    // a worker without a connection has nothing to do, and its times say nothing
    if has_load {
        shared.results.borrow_mut().thread_times.push(times);
    }
    shared.shut_down_streams();
    wait_for_connections(&shared, SHUTDOWN_TIMEOUT).await;
    for connection in connections {
        connection.count_unanswered();
        shared.results.borrow_mut().connections.in_order_at_end += u64::from(connection.is_in_order());
    }
}

/// Waits until it is time to stop sending.
async fn use_until_end(shared: &Shared) {
    let has_more = || shared.alive.get() > 0 && shared.progress.remaining.get() > 0;
    while has_more() && !shared.is_time_to_end() {
        shared.publish();
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Starts a task for each connection.
fn start(shared: &Rc<Shared>, ids: Vec<u32>, connected: Vec<Connected>) -> Vec<Rc<Connection>> {
    let mut connected = connected.into_iter();
    let start_one = |id| {
        let connection = Rc::new(Connection::new(Rc::clone(shared), id));
        let stream = match connected.next() {
            Some(Ok(stream)) => Some(stream),
            Some(Err(error)) => {
                connection.note_missing(&error);
                return connection;
            }
            None => None,
        };
        shared.alive.set(shared.alive.get() + 1);
        let (shared, task) = (Rc::clone(shared), Rc::clone(&connection));
        tokio_uring::spawn(async move {
            match stream {
                Some(stream) => task.use_until_end(stream).await,
                None => task.connect_repeatedly().await,
            }
            shared.alive.set(shared.alive.get() - 1);
        });
        connection
    };
    ids.into_iter().map(start_one).collect()
}

/// Waits until every connection has ended, at most for `timeout`.
async fn wait_for_connections(shared: &Shared, timeout: Duration) {
    let until_ns = shared.clock.now_ns() + timeout.as_nanos() as u64;
    while shared.alive.get() > 0 && shared.clock.now_ns() < until_ns && !shared.stop.is_urgent() {
        shared.publish();
        tokio::time::sleep(LOOK_EVERY / 10).await;
    }
}
