//! `--metrics`: what the counters say, for Prometheus, and whether the server is well.
//!
//! ```text
//! worker ─ relaxed counters ─► families.rs  names and labels ─► text ─┐
//!        └ turns ─► health.rs  is each worker turning?              ──┴─► http.rs  one thread, few connections
//! ```
//!
//! The thread reads what the workers write and takes no lock; no worker knows of it. It has a table of
//! descriptors of its own, so that `tubectl register-pid`, which walks the process's table, meets neither its
//! listener nor its connections, and so that these never count against the process's limit of open files.
//! (`ss -p` reads the same table and shows no process for this port.)

mod families;
mod health;
mod http;
mod process;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

pub use health::Phase;

use tracing::warn;

use crate::ring::Errno;
use crate::sockets;
use crate::stats::{Counters, Unheard};
use crate::sys;

/// A worker's turn may sleep for so long at the most, so that a live worker's count of turns moves between two
/// looks at it.
pub const TURN_TIMEOUT: Duration = Duration::from_millis(500);

/// What is told, and of whom.
#[derive(Clone, Debug)]
pub struct Source {
    /// Each worker's counters.
    pub workers: Vec<Arc<Counters>>,
    /// What nobody took of what the process said.
    pub unheard: Unheard,
    /// How far the server's life is.
    pub phase: Arc<Phase>,
    /// What tubular's bindings call our sockets.
    pub label: Option<String>,
    /// The limit of open files, if it is known.
    pub open_files_max: Option<u64>,
}

/// Why there are no metrics.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The address can't be listened on.
    #[error("cannot serve metrics on {addr}: {errno}; {}", sockets::cure(*.errno, *.addr))]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The thread can't run.
    #[error("cannot serve metrics: {step}: {error}")]
    Thread {
        /// What failed.
        step: &'static str,
        /// The kernel's answer.
        error: io::Error,
    },
}

/// Serves `/metrics` and `/healthz` on `addr` until the process ends, on a thread of its own; returns the
/// address with the port that the kernel chose for port 0.
pub fn start(addr: SocketAddr, source: Source) -> Result<SocketAddr, MetricsError> {
    let (told, hear) = mpsc::channel();
    let failed = |step| move |error| MetricsError::Thread { step, error };
    let serve = move || {
        if let Err(error) = sys::own_descriptors() {
            warn!(
                "metrics share the descriptors of the process: close_range: {error}; tubectl register-pid meets them, and \
                 the limit of open files counts them"
            );
        }
        match http::Server::bind(addr) {
            Ok(server) => {
                // nobody listens any more only when the process is ending
                let _ = told.send(Ok(server.addr()));
                server.serve(source);
            }
            Err(error) => {
                let _ = told.send(Err(error));
            }
        }
    };
    thread::Builder::new().name("metrics".into()).spawn(serve).map_err(failed("start a thread"))?;
    hear.recv().unwrap_or_else(|_| Err(failed("start a thread")(io::ErrorKind::BrokenPipe.into())))
}
