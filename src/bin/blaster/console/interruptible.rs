//! Waits that a signal can end: for a FIFO that nobody opens, for name servers, for a pipe or a terminal that nobody reads. Other threads
//! do the work, so that the main thread notices signals.
//!
//! | signals | the wait |
//! |---|---|
//! | none, or only the one that ended the run | goes on |
//! | the first one after the end of the run | ends after five seconds without progress |
//! | the second one | ends after one second without progress |

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use tubular_echo::console::printer::Printer;

use crate::console::signals;

/// How often to look for signals.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const WAIT_AFTER_SIGNAL: Duration = Duration::from_secs(5);
const WAIT_AFTER_SECOND_SIGNAL: Duration = Duration::from_secs(1);

/// Signals that came before the report.
static SIGNALS_OF_RUN: AtomicU32 = AtomicU32::new(0);

/// The run is over: later signals are meant for the report.
pub(crate) fn begin_report() {
    SIGNALS_OF_RUN.store(signals::stop().times(), Ordering::Relaxed);
}

/// Waits until `is_done`, which may block for the time that it gets; or until signals end the wait because there is no
/// `progress`. Returns whether it is done.
pub(crate) fn wait(progress: impl Fn() -> u64, is_done: impl Fn(Duration) -> bool) -> bool {
    let look = || (progress(), signals::stop().times());
    let (mut last, mut since) = (look(), Instant::now());
    while !is_done(LOOK_EVERY) {
        let now = look();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        let is_over = match now.1 {
            0 => false,
            1 => SIGNALS_OF_RUN.load(Ordering::Relaxed) == 0 && since.elapsed() >= WAIT_AFTER_SIGNAL,
            _ => since.elapsed() >= WAIT_AFTER_SECOND_SIGNAL,
        };
        if is_over {
            return false;
        }
    }
    true
}

/// Does `work` on a thread of its own. `None`: the first signal ended the wait, and the thread goes on. `at_length` is
/// called once, when it has taken longer than `patience`. An error: there is no such thread.
pub(crate) fn run<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
    patience: Duration,
    at_length: impl FnOnce(),
) -> io::Result<Option<T>> {
    let (done, is_done) = mpsc::channel();
    let work = move || {
        // the receiver is gone only when the process ends
        let _ = done.send(work());
    };
    let begun = Instant::now();
    let mut at_length = Some(at_length);
    thread::Builder::new().name(name.into()).spawn(work)?;
    loop {
        match is_done.recv_timeout(LOOK_EVERY) {
            Ok(outcome) => return Ok(Some(outcome)),
            Err(RecvTimeoutError::Timeout) if !signals::stop().is_asked() => {}
            Err(_) => return Ok(None),
        }
        if begun.elapsed() > patience
            && let Some(at_length) = at_length.take()
        {
            at_length();
        }
    }
}

/// Opens a file; the first signal ends the wait.
pub(crate) fn open(options: &OpenOptions, path: &Path) -> io::Result<File> {
    let (own_options, own_path) = (options.clone(), path.to_owned());
    match run("open", move || own_options.open(own_path), Duration::MAX, || ()) {
        Ok(outcome) => outcome.unwrap_or_else(|| Err(given_up())),
        Err(_) => options.open(path),
    }
}

/// Writes all bytes to a file of any kind.
pub(crate) fn write_all(file: &File, bytes: &[u8]) -> io::Result<()> {
    let printer = Printer::start(file.try_clone()?, |_, _| {});
    printer.print_bytes(bytes);
    finish(&printer)
}

/// Waits until everything is printed.
pub(crate) fn finish(printer: &Printer) -> io::Result<()> {
    if wait(|| printer.written(), |timeout| printer.is_done_within(timeout)) {
        printer.take_error().map_or(Ok(()), Err)
    } else {
        Err(given_up())
    }
}

fn given_up() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "given up after a signal: nobody reads it")
}
