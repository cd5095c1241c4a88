//! Standard output and standard error, each written by a thread of its own.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tubular_echo::console::printer::Printer;

use crate::console::interruptible;

/// There is more on standard error than what may be dropped.
static HAS_COMPLAINED: AtomicBool = AtomicBool::new(false);
static OUT: OnceLock<Printer> = OnceLock::new();
static ERR: OnceLock<Printer> = OnceLock::new();

pub(crate) fn out() -> &'static Printer {
    OUT.get_or_init(|| Printer::start(io::stdout(), |_, _| {}))
}

pub(crate) fn err() -> &'static Printer {
    let note = |printer: &Printer, lines| {
        printer.offer(
            format!("blaster: {lines} lines were dropped here: nobody read standard error\n").as_bytes(),
        );
    };
    ERR.get_or_init(|| Printer::start(io::stderr(), note))
}

/// Says something on standard error, if anybody listens.
pub(crate) fn complain(text: &str) {
    say(&format!("blaster: {text}\n"));
}

pub(crate) fn say(text: &str) {
    HAS_COMPLAINED.store(true, Ordering::Relaxed);
    err().print(text);
}

/// Says a line on standard error that is worth no wait.
pub(crate) fn mention(line: &str) {
    err().offer(line.as_bytes());
}

/// Waits for whoever reads standard error.
pub(crate) fn settle() {
    /// For lines that are worth no wait.
    const LAST_LINES_TIMEOUT: Duration = Duration::from_secs(1);
    let Some(err) = ERR.get() else { return };
    if HAS_COMPLAINED.load(Ordering::Relaxed) {
        // there is nobody left to tell
        let _ = interruptible::finish(err);
    } else {
        err.is_done_within(LAST_LINES_TIMEOUT);
    }
}
