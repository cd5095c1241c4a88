//! What the host offers: open files and processors.

use std::num::NonZeroUsize;
use std::thread;

use tracing::{info, warn};

use crate::kernel::sys;

/// What the host offers the server.
pub(super) struct Host {
    /// RLIMIT_NOFILE, raised as far as it goes; `None` if it is unknown.
    pub(super) open_files: Option<u64>,
    /// Processors that the process may run on, by number.
    pub(super) processors: Vec<usize>,
}

/// The largest receive queue of a connection where the kernel doesn't tell: its default from Linux 6.16 on.
const TCP_QUEUE_BYTES_DEFAULT: u32 = 32 << 20;

/// The most bytes that a connection may bring after the server was told to end: what its receive queue holds, and a
/// third more, since the kernel takes in what is on its way already.
pub(super) fn tcp_receive_bytes_max() -> u32 {
    let queue_bytes = sys::tcp_receive_queue_bytes_max().unwrap_or(TCP_QUEUE_BYTES_DEFAULT);
    queue_bytes.saturating_add(queue_bytes / 3)
}

impl Host {
    pub(super) fn ask() -> Self {
        let open_files = sys::raise_open_files()
            .inspect_err(|error| warn!("the limit of open files stays as it is, unknown: {error}"))
            .ok();
        let processors = sys::processors().unwrap_or_else(|_| {
            // good enough to count workers; the log warns if a worker can't be pinned
            (0..thread::available_parallelism().map_or(1, NonZeroUsize::get)).collect()
        });
        Self { open_files, processors }
    }

    pub(super) fn open_files_max(&self) -> usize {
        self.open_files.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
    }

    /// Number of processors whose time the quota of the control group allows, rounded down. If the server used more
    /// time, the kernel would stop it for the rest of each period.
    pub(super) fn processors_allowed(&self) -> usize {
        let processors = self.processors.len();
        // the standard library reads both versions of control groups, parent groups included
        let allowed = thread::available_parallelism().map_or(processors, NonZeroUsize::get);
        if allowed < processors {
            info!("the control group allows the time of {allowed} of {processors} processors");
        }
        processors.min(allowed)
    }
}
