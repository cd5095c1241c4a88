//! The echo server's binary: options, log, exit code.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;
use tubular_echo::options::{Command, Options};
use tubular_echo::{check, server, terminal};

fn main() -> ExitCode {
    let options = Options::read();
    if let Some(Command::Check(check)) = &options.command {
        return check::run(check).unwrap_or_else(|error| {
            complain(&error);
            ExitCode::FAILURE
        });
    }
    start_log();
    let outcome = match options.server() {
        Ok(config) => server::run(&config).map_err(|error| error.to_string()),
        Err(error) => {
            complain(&error);
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // no log line: neither RUST_LOG nor a timestamp may hide why the server is not there
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// Says why the server is not there; if stderr takes nothing, on a full disk for instance, the exit status still does.
fn complain(error: &dyn Display) {
    let _ = writeln!(io::stderr(), "error: {error}");
}

/// Logs to stderr, one line each; the journal has timestamps of its own.
fn start_log() {
    let filter = EnvFilter::builder().with_default_directive(tracing::Level::INFO.into()).from_env_lossy();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(terminal::wants_color(io::stderr().is_terminal()))
        .with_target(false)
        // it would be told on stderr, which has just failed, and that would be a panic
        .log_internal_errors(false);
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        log.without_time().init();
    } else {
        log.init();
    }
}

#[cfg(test)]
#[path = "../tests/support/pages.rs"]
mod pages;

#[cfg(test)]
mod tests {
    #[test]
    fn pages_tell_every_option() {
        super::pages::make(tubular_echo::options::command());
    }
}
