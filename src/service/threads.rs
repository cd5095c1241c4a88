//! Starting a thread, and the error that says what to do if the kernel refuses.

use std::io;
use std::thread::Builder;

/// The kernel refused another thread.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot start a thread ({thread}): {error}; allow more threads or memory (TasksMax= in a unit, `ulimit -u`, `ulimit -v`) or \
     lower --workers"
)]
pub struct ThreadError {
    thread: &'static str,
    error: io::Error,
}

/// Starts a detached thread. `kind` names it in the error.
pub(super) fn start(
    kind: &'static str,
    builder: Builder,
    body: impl FnOnce() + Send + 'static,
) -> Result<(), ThreadError> {
    builder.spawn(body).map(drop).map_err(|error| ThreadError { thread: kind, error })
}
