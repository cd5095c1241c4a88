//! Standard output and standard error. A thread of its own writes each, so that a slow reader stops nobody.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tubular_echo::console::printer::Printer;
use tubular_echo::console::terminal;

use crate::console::interruptible;
use crate::model::units::counted;
use crate::model::wrap::wrap;

/// Whether standard error got lines that must not be dropped.
static HAS_MESSAGES: AtomicBool = AtomicBool::new(false);
static OUT: OnceLock<Printer> = OnceLock::new();
static ERR: OnceLock<Printer> = OnceLock::new();

pub(crate) fn out() -> &'static Printer {
    OUT.get_or_init(|| Printer::start(io::stdout(), |_, _| {}))
}

pub(crate) fn err() -> &'static Printer {
    let note = |printer: &Printer, lines| {
        let dropped = counted(lines, "line");
        printer.offer(
            format!("blaster: {dropped} dropped here, because nobody read standard error\n").as_bytes(),
        );
    };
    ERR.get_or_init(|| Printer::start(io::stderr(), note))
}

/// Prints a message of blaster on standard error. On a terminal its lines break at words.
pub(crate) fn message(text: &str) {
    let line = format!("blaster: {text}");
    print_error(&format!("{}\n", wrap(&line, terminal::width(io::stderr()), 2)));
}

/// Prints on standard error.
pub(crate) fn print_error(text: &str) {
    HAS_MESSAGES.store(true, Ordering::Relaxed);
    err().print(text);
}

/// Prints a line on standard error. It is dropped if nobody reads.
pub(crate) fn offer_line(line: &str) {
    err().offer(line.as_bytes());
}

/// Waits until standard error is written.
pub(crate) fn finish() {
    /// For lines that may be dropped.
    const LAST_LINES_TIMEOUT: Duration = Duration::from_secs(1);
    let Some(err) = ERR.get() else { return };
    if HAS_MESSAGES.load(Ordering::Relaxed) {
        // there is no other place to report an error
        let _ = interruptible::finish(err);
    } else {
        err.is_done_within(LAST_LINES_TIMEOUT);
    }
}
