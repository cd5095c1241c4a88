//! The server's program: reads the options, starts the log, runs the server and turns the outcome into an exit status.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use tracing::warn;
use tracing_subscriber::EnvFilter;
use tubular_echo::check;
use tubular_echo::console::printer::Printer;
use tubular_echo::console::terminal;
use tubular_echo::health;
use tubular_echo::kernel::sys::EndSignals;
use tubular_echo::service::options::{Command, Options};
use tubular_echo::service::run;
use tubular_echo::service::signals::LAST_LINES_TIMEOUT;

/// How long a failed start waits for a reader of its error.
const ERROR_TIMEOUT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let options = Options::read();
    let done = options.command.as_ref().map(|command| match command {
        Command::Check(check) => check::run(check).map_err(|error| error.to_string()),
        Command::Health(health) => health::run(health).map_err(|error| error.to_string()),
    });
    if let Some(outcome) = done {
        return outcome.unwrap_or_else(|error| {
            complain(&error);
            ExitCode::FAILURE
        });
    }
    // before the first thread, which inherits the mask
    let signals = match EndSignals::block() {
        Ok(signals) => signals,
        Err(error) => {
            complain(&format!("cannot block the signals that end the server: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let log = start_log();
    let (error, status, patience) = match options.server() {
        Ok(config) => match run::run(&config, signals, &log) {
            Ok(()) => (None, ExitCode::SUCCESS, LAST_LINES_TIMEOUT),
            Err(error) => (Some(error.to_string()), ExitCode::FAILURE, ERROR_TIMEOUT),
        },
        Err(error) => (Some(error.to_string()), ExitCode::from(2), ERROR_TIMEOUT),
    };
    if let Some(error) = error {
        // no log line: neither RUST_LOG nor a timestamp may hide why the server is not there
        log.print(&format!("error: {error}\n"));
    }
    log.is_done_within(patience);
    status
}

/// Prints an error. If stderr accepts nothing, for example on a full disk, only the exit status reports the failure.
fn complain(error: &dyn Display) {
    let _ = writeln!(io::stderr(), "error: {error}");
}

/// Starts the log on stderr, without timestamps if the journal reads it. A thread that logs never waits for the reader.
fn start_log() -> Printer {
    let printer = Printer::start(io::stderr(), |_, lines| {
        warn!(
            "{lines} lines of the log were dropped here (log_lines_dropped): nobody read stderr, or it took no more"
        );
    });
    printer.tell_panics(LAST_LINES_TIMEOUT);
    let filter = EnvFilter::builder().with_default_directive(tracing::Level::INFO.into()).from_env_lossy();
    let writer = printer.clone();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || writer.clone())
        .with_ansi(terminal::wants_color(io::stderr().is_terminal()))
        .with_target(false)
        // a log that can't be written must not cause a panic
        .log_internal_errors(false);
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        log.without_time().init();
    } else {
        log.init();
    }
    printer
}

#[cfg(test)]
#[path = "../tests/support/pages.rs"]
mod pages;

#[cfg(test)]
mod tests {
    #[test]
    fn pages_tell_every_option() {
        super::pages::make(tubular_echo::service::options::command());
    }
}
