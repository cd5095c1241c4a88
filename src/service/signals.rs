//! The thread that waits for signals. It can end the process even when the main thread is blocked.

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread::{self, Builder};
use std::time::Duration;

use tracing::warn;

use super::threads::{self, ThreadError};
use super::workers::Event;
use crate::console::printer::Printer;
use crate::kernel::sys::EndSignals;

/// How long the process waits at its end for a reader of the last log lines.
pub const LAST_LINES_TIMEOUT: Duration = Duration::from_secs(1);
/// Small, for hosts where memory is limited.
const STACK_BYTES: usize = 256 << 10;

/// The start of the server: nothing is served yet, and a signal ends the process. A failed start drops this value, so
/// that a signal can't end the process before the main thread has printed the error.
pub(super) struct Starting(Arc<AtomicBool>);

impl Starting {
    /// From now on a signal starts a drain.
    pub(super) fn signals_now_drain(self) {
        drop(self);
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Starts the thread. While the server starts, the first signal ends the process. Later the first one is an event and
/// the second one ends the process, whether the main thread reacts or not.
pub(super) fn listen(
    mut signals: EndSignals,
    events: Sender<Event>,
    log: Printer,
) -> Result<Starting, ThreadError> {
    let started = Arc::new(AtomicBool::new(false));
    let has_started = Arc::clone(&started);
    let listen = move || {
        signals.wait();
        if !has_started.load(Ordering::Relaxed) {
            warn!("ended by a signal before it was ready");
            log.is_done_within(LAST_LINES_TIMEOUT);
            process::exit(0);
        }
        let _ = events.send(Event::Signal);
        signals.wait();
        let _ = events.send(Event::Signal);
        // the main thread waits this long for the last lines
        thread::sleep(LAST_LINES_TIMEOUT);
        process::exit(0);
    };
    threads::start("signals", Builder::new().name("signals".into()).stack_size(STACK_BYTES), listen)?;
    Ok(Starting(started))
}
