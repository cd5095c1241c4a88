//! `--metrics`: the counters for Prometheus (`/metrics`), and the server's health (`/healthz`).
//!
//! ```text
//! worker ─ relaxed counters ─► families.rs  names and labels ─► text ─┐
//!        └ turns ─► health.rs  is each worker turning?              ──┴─► exposition::http  one thread, few connections
//! ```
//!
//! One thread serves both. It reads the workers' counters without a lock, so it never delays a worker. The thread has
//! its own descriptor table. So `tubectl register-pid`, which walks the process's table, does not see its listener and
//! connections, and they do not count against the process's limit of open files. (`ss -p` reads the process's table
//! too, and shows no process for this port.)

mod families;
mod health;

use std::io;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

pub use health::Phase;

use tracing::{info, warn};

use self::health::Health;
use crate::exposition::http::{Answers, BindError, Server};
use crate::exposition::process;
use crate::kernel::ring::Errno;
use crate::kernel::sys;
use crate::policy::counters::{Counters, DroppedMessages};
use crate::sockets::error;
use crate::sockets::listen_addr::ListenAddr;

/// The longest sleep of a worker's turn: shorter than the interval of the health checks, so that a live worker's turn
/// counter changes between two of them.
pub(super) const TURN_TIMEOUT: Duration = Duration::from_millis(500);

/// How often the thread tries to bind an address that another process has.
const TRY_INTERVAL: Duration = Duration::from_millis(20);

/// The data that the answers are made of.
#[derive(Clone, Debug)]
pub struct Source {
    /// Each worker's counters.
    pub workers: Vec<Arc<Counters>>,
    /// Log lines and notifications that were dropped.
    pub dropped_messages: DroppedMessages,
    /// Whether the server is starting, serving or draining.
    pub phase: Arc<Phase>,
    /// Label of the sockets in tubular's bindings.
    pub label: Option<String>,
    /// The limit of open files; `None` if it is unknown.
    pub open_files_max: Option<u64>,
}

/// Why metrics can't be served.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The address can't be listened on.
    #[error("cannot serve metrics on {addr}: {errno}; {}", cure(*.errno, *.addr))]
    Listen {
        /// The address.
        addr: ListenAddr,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The thread could not start.
    #[error("cannot serve metrics: {step}: {error}")]
    Thread {
        /// The step that failed.
        step: &'static str,
        /// The kernel's answer.
        error: io::Error,
    },
}

/// The cure for an address that can't be bound.
fn cure(errno: Errno, addr: ListenAddr) -> String {
    match errno.0 {
        libc::EADDRINUSE => format!(
            "`ss -ln 'sport = :{}'` shows that it is taken; choose another port, or with --join take it over when its \
             holder has left",
            addr.addr().port()
        ),
        _ => error::cure(errno, addr.addr(), false),
    }
}

/// The data that the answers are made of.
struct Site {
    source: Source,
    /// When the process started, seconds since 1970.
    start_s: f64,
    /// Only the thread that serves locks it.
    health: Mutex<Health>,
}

impl Site {
    fn checks(&self) -> MutexGuard<'_, Health> {
        self.health.lock().expect("a panic ends the process")
    }
}

impl Answers for Site {
    fn metrics(&self) -> String {
        families::text(&self.source, self.start_s)
    }

    fn health(&self) -> Result<(), String> {
        self.checks().judge(&self.source.phase).map_err(|unwell| unwell.to_string())
    }

    fn look(&self) {
        self.checks().check(self.source.workers.iter().map(|counters| counters.turns.get()));
    }
}

/// Serves `/metrics` and `/healthz` on `addr` until the process ends, on a thread of its own. With `join`, the address
/// may belong to another process at the start: the thread waits until it is free.
pub(super) fn start(addr: ListenAddr, join: bool, source: Source) -> Result<(), MetricsError> {
    let (outcomes, inbox) = mpsc::channel();
    let failed = |step| move |error| MetricsError::Thread { step, error };
    let serve = move || {
        #[allow(unsafe_code)]
        // the only unsafe block outside of its rooms: nobody else knows what this thread holds
        // SAFETY: the thread begins here, and nothing that it is given holds a descriptor: counters, an address, a label
        let own = unsafe { sys::own_descriptors() };
        if let Err(error) = own {
            warn!(
                "metrics share the descriptors of the process: close_range: {error}; tubectl register-pid meets them, and \
                 the limit of open files counts them"
            );
        }
        let report = |outcome| {
            // the receiver is gone only when the process is ending
            let _ = outcomes.send(outcome);
        };
        let server = match Server::bind(addr) {
            Err(BindError::Listen(Errno(libc::EADDRINUSE))) if join => {
                warn!(
                    "metrics are not served yet: another process has {addr}; they are served as soon as it ends"
                );
                report(Ok(()));
                loop {
                    if let Ok(server) = Server::bind(addr) {
                        break server;
                    }
                    thread::sleep(TRY_INTERVAL);
                }
            }
            Err(BindError::Listen(errno)) => return report(Err(MetricsError::Listen { addr, errno })),
            Err(BindError::Runtime(error)) => return report(Err(failed("start a runtime")(error))),
            Ok(server) => server,
        };
        info!("metrics on http://{}/metrics", server.addr());
        report(Ok(()));
        server.serve(Arc::new(Site { source, start_s: process::now_s(), health: Mutex::default() }));
    };
    thread::Builder::new().name("metrics".into()).spawn(serve).map_err(failed("start a thread"))?;
    inbox.recv().unwrap_or_else(|_| Err(failed("start a thread")(io::ErrorKind::BrokenPipe.into())))
}
