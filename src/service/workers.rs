//! The worker threads as the main thread sees them: their start, the proof that all are armed, and their end.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread::Builder;
use std::time::Duration;

use tracing::{info, warn};

use super::threads::{self, ThreadError};
use crate::echo::tcp::Copies;
use crate::echo::worker::{Shared, Worker, WorkerConfig, WorkerError};
use crate::kernel::ring::WholeBuffers;
use crate::kernel::sys;
use crate::policy::counters::{Counters, Snapshot};
use crate::sockets::listening::Listening;

/// Why the workers did not start, or why one ended early.
#[derive(Debug, thiserror::Error)]
pub enum WorkersError {
    /// A worker could not start, or can't go on.
    #[error("worker {index}: {error}")]
    Failed {
        /// The worker's number.
        index: usize,
        /// The reason.
        error: WorkerError,
    },
    /// A worker ended, although the server was not draining.
    #[error("worker {0} ended unexpectedly")]
    Ended(usize),
    /// No descriptor could be opened that wakes a worker.
    #[error("cannot make an eventfd: {0}")]
    Wake(io::Error),
    /// The kernel refused another thread.
    #[error(transparent)]
    Thread(#[from] ThreadError),
}

/// Proof that every worker has its sockets bound, registered and armed. Only [`Workers::wait_until_armed`] makes one.
#[derive(Debug)]
pub(super) struct Armed(());

/// Messages to the main thread.
pub(super) enum Event {
    /// A worker is armed.
    Armed,
    /// A worker serves, but can't be kept on its processor.
    Unpinned(io::Error),
    /// A worker receives streams into whole buffers.
    WholeBuffers(WholeBuffers),
    /// A worker copies large messages.
    Copies(Copies),
    /// A worker can't start or go on.
    Failed(usize, WorkerError),
    /// A worker has ended without an error.
    Ended(usize),
    /// A signal that ends the server.
    Signal,
}

/// What the main thread does after a wait for events.
pub(super) enum Wakeup {
    /// The time is over.
    Timeout,
    /// A signal came.
    Signal,
    /// A worker has ended without an error.
    Ended(usize),
}

/// One worker. The main thread never joins its thread: a stuck worker must not delay the end of the process.
struct Handle {
    counters: Arc<Counters>,
    wake: Arc<OwnedFd>,
}

/// All workers, and where their events arrive.
pub(super) struct Workers {
    handles: Vec<Handle>,
    events: Sender<Event>,
    inbox: Receiver<Event>,
}

impl Workers {
    /// No workers yet. `events` leads to `inbox`.
    pub(super) fn new(events: Sender<Event>, inbox: Receiver<Event>) -> Self {
        Self { handles: Vec::new(), events, inbox }
    }

    /// Starts one more worker with these sockets, on this processor if one is given.
    pub(super) fn start(
        &mut self,
        sockets: Vec<Listening>,
        counters: Arc<Counters>,
        processor: Option<usize>,
        shared: Shared,
        config: WorkerConfig,
    ) -> Result<(), WorkersError> {
        let index = self.handles.len();
        let wake = Arc::new(sys::eventfd().map_err(WorkersError::Wake)?);
        self.handles.push(Handle { counters: Arc::clone(&counters), wake: Arc::clone(&wake) });
        let events = self.events.clone();
        let body = move || {
            // the receiver is gone only when the process is ending
            let tell = |event| drop(events.send(event));
            if let Some(Err(error)) = processor.map(sys::pin_thread) {
                tell(Event::Unpinned(error));
            }
            let outcome = Worker::arm(sockets, wake, counters, shared, config).and_then(|worker| {
                if let Some(reason) = worker.whole_buffers() {
                    tell(Event::WholeBuffers(reason));
                }
                if let Some(reason) = worker.copies() {
                    tell(Event::Copies(reason));
                }
                tell(Event::Armed);
                worker.run()
            });
            tell(match outcome {
                Ok(()) => Event::Ended(index),
                Err(error) => Event::Failed(index, error),
            });
        };
        Ok(threads::start("worker", Builder::new().name(format!("worker-{index}")), body)?)
    }

    /// Waits until every worker is armed.
    pub(super) fn wait_until_armed(&self) -> Result<Armed, WorkersError> {
        let (mut armed, mut unpinned, mut whole_buffers, mut copies, mut signals) = (0, None, None, None, 0);
        while armed < self.handles.len() {
            match self.inbox.recv() {
                Ok(Event::Armed) => armed += 1,
                Ok(Event::Unpinned(error)) => unpinned = Some(error),
                Ok(Event::WholeBuffers(reason)) => whole_buffers = Some(reason),
                Ok(Event::Copies(reason)) => copies = Some(reason),
                Ok(Event::Failed(index, error)) => return Err(WorkersError::Failed { index, error }),
                Ok(Event::Ended(index)) => return Err(WorkersError::Ended(index)),
                // some workers serve already, so this signal starts the normal drain later
                Ok(Event::Signal) => signals += 1,
                Err(_) => unreachable!("self holds a sender"),
            }
        }
        for _ in 0..signals {
            let _ = self.events.send(Event::Signal);
        }
        if let Some(error) = unpinned {
            warn!("--pin has no effect: the workers can't be kept on their processors: {error}");
        }
        match whole_buffers {
            None => {}
            // no warning: this kernel has nothing better
            Some(reason @ WholeBuffers::NotIncremental) => {
                info!("TCP is received into whole buffers: {reason}");
            }
            Some(reason) => warn!("TCP is received into whole buffers: {reason}"),
        }
        if let Some(reason) = copies {
            warn!("large TCP messages are copied: {reason}");
        }
        Ok(Armed(()))
    }

    /// Waits for an event, `timeout` at most. A worker's failure is an error.
    pub(super) fn wait(&self, timeout: Duration) -> Result<Wakeup, WorkersError> {
        loop {
            return match self.inbox.recv_timeout(timeout) {
                Ok(Event::Signal) => Ok(Wakeup::Signal),
                Ok(Event::Ended(index)) => Ok(Wakeup::Ended(index)),
                Ok(Event::Failed(index, error)) => Err(WorkersError::Failed { index, error }),
                // these arrive only before all workers are armed
                Ok(Event::Armed | Event::Unpinned(_) | Event::WholeBuffers(_) | Event::Copies(_)) => continue,
                Err(RecvTimeoutError::Timeout) => Ok(Wakeup::Timeout),
                Err(RecvTimeoutError::Disconnected) => unreachable!("self holds a sender"),
            };
        }
    }

    /// Asks every worker to answer all that it has received, and to end.
    pub(super) fn drain(&self) {
        for handle in &self.handles {
            sys::wake(handle.wake.as_fd());
        }
    }

    /// Number of workers.
    pub(super) fn len(&self) -> usize {
        self.handles.len()
    }

    /// Each worker's count of turns.
    pub(super) fn turns(&self) -> Vec<u64> {
        self.handles.iter().map(|handle| handle.counters.turns.get()).collect()
    }

    /// The sum of all workers' counters.
    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot::of(self.handles.iter().map(|handle| &*handle.counters))
    }
}
