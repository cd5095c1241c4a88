//! The one door to the kernel: everything that a ring asks of `io_uring`, and nothing that it decides.
//!
//! Tests put another kernel behind it, see `kernel::seam`; nothing else of a ring knows of that.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, Submitter, squeue};

use super::{File, RingConfig, Wait, restrictions};

/// An instance of `io_uring`, as the calling thread set it up.
pub(crate) struct Uring {
    /// Never dropped, as nothing that it points at is ever unmapped.
    instance: &'static IoUring,
    submitter: Submitter<'static>,
    /// Completions run only while we enter.
    deferred: bool,
    installs: bool,
}

impl Uring {
    /// The best set-up that the kernel knows; `EINVAL` means that it doesn't know a flag: completions run when
    /// we enter to wait (Linux 6.1), else cooperatively; no indirection in the submission queue (Linux 6.6).
    pub(crate) fn new(config: &RingConfig) -> io::Result<Self> {
        let candidates = [(true, true), (true, false), (false, false)];
        let mut refused = io::Error::from_raw_os_error(libc::EINVAL);
        for (defer_taskrun, no_sqarray) in candidates {
            let mut builder = IoUring::builder();
            builder.setup_submit_all().setup_cqsize(config.completion_entries).setup_single_issuer();
            // the thread that enables it is the one that uses it
            builder.setup_taskrun_flag().setup_r_disabled();
            if defer_taskrun {
                builder.setup_defer_taskrun();
            } else {
                builder.setup_coop_taskrun();
            }
            if no_sqarray {
                builder.setup_no_sqarray();
            }
            match builder.build(config.submission_entries) {
                Ok(uring) => {
                    let instance: &'static IoUring = Box::leak(Box::new(uring));
                    let submitter = instance.submitter();
                    let installs = restrictions::knows_install(&submitter);
                    return Ok(Self { instance, submitter, deferred: defer_taskrun, installs });
                }
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refused = error,
                Err(error) => return Err(error),
            }
        }
        Err(refused)
    }

    /// Makes a table for `files` registered files, all empty.
    pub(crate) fn register_files(&self, files: u32) -> io::Result<()> {
        self.submitter.register_files_sparse(files)
    }

    /// Puts a file into the table; -1 takes it out.
    pub(crate) fn update_file(&self, file: File, fd: RawFd) -> io::Result<()> {
        self.submitter.register_files_update(file.0, &[fd]).map(drop)
    }

    /// Limits where direct descriptors are put (`IORING_REGISTER_FILE_ALLOC_RANGE`, Linux 6.0).
    pub(crate) fn allocate_files(&self, first: File, count: u32) -> io::Result<()> {
        const REGISTER_FILE_ALLOC_RANGE: u32 = 25;
        #[repr(C)]
        struct FileIndexRange {
            offset: u32,
            len: u32,
            reserved: u64,
        }
        let range = FileIndexRange { offset: first.0, len: count, reserved: 0 };
        // SAFETY: io_uring_register(2) reads one live io_uring_file_index_range
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                self.instance.as_raw_fd(),
                REGISTER_FILE_ALLOC_RANGE,
                &raw const range,
                0,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Takes every file out of the table.
    pub(crate) fn unregister_files(&self) -> io::Result<()> {
        self.submitter.unregister_files()
    }

    /// Lets the ring do what it is used for, and nothing else, from now on and for this thread.
    pub(crate) fn enable(&self) -> io::Result<()> {
        restrictions::restrict_and_enable(&self.submitter, self.installs)
    }

    /// The kernel can make an ordinary descriptor of a direct one (`IORING_OP_FIXED_FD_INSTALL`, Linux 6.8).
    pub(crate) fn installs_descriptors(&self) -> bool {
        self.installs
    }

    /// Saves the kernel a look-up at each enter (Linux 5.18).
    pub(crate) fn register_ring_fd(&mut self) -> io::Result<()> {
        self.submitter.register_ring_fd().map(drop)
    }

    /// Registers a ring of provided buffers under `group`.
    ///
    /// # Safety
    ///
    /// io_uring_register_buf_ring(3): `entries` is page-aligned memory of `count` entries that stays valid
    /// until the group is unregistered.
    pub(crate) unsafe fn register_buffers(
        &self,
        entries: *mut u8,
        count: u16,
        group: u16,
        flags: u16,
    ) -> io::Result<()> {
        // SAFETY: the caller's promise is the same
        unsafe { self.submitter.register_buf_ring_with_flags(entries as u64, count, group, flags) }
    }

    /// Unregisters the ring of provided buffers of `group`.
    pub(crate) fn unregister_buffers(&self, group: u16) -> io::Result<()> {
        self.submitter.unregister_buf_ring(group)
    }

    /// Queues an operation; false if the queue is full.
    ///
    /// # Safety
    ///
    /// What the entry points at stays valid until the operation has completed.
    pub(crate) unsafe fn push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: no other view of the submission queue exists: views are made in this room only, and
        // dropped where they are made. The caller vouches for the entry
        unsafe { self.instance.submission_shared().push(entry).is_ok() }
    }

    /// Operations are queued that were not submitted yet.
    pub(crate) fn has_queued(&self) -> bool {
        self.queued() > 0
    }

    /// How many they are.
    pub(crate) fn queued(&self) -> usize {
        // SAFETY: see `push`
        unsafe { self.instance.submission_shared() }.len()
    }

    /// There is something to submit, or to take out, or the kernel has something ready for us to come for.
    pub(crate) fn has_work(&self) -> bool {
        // SAFETY: see `push`; it is the same with the completion queue
        let (submission, completion) =
            unsafe { (self.instance.submission_shared(), self.instance.completion_shared()) };
        !submission.is_empty() || submission.taskrun() || !completion.is_empty()
    }

    /// Operations make progress only while we enter (`DEFER_TASKRUN`).
    pub(crate) fn is_deferred(&self) -> bool {
        self.deferred
    }

    /// There is something to take out, or the kernel has kept something for which the queue had no room.
    pub(crate) fn has_completed(&self) -> bool {
        // SAFETY: see `has_work`
        let (submission, completion) =
            unsafe { (self.instance.submission_shared(), self.instance.completion_shared()) };
        submission.cq_overflow() || !completion.is_empty()
    }

    /// Submits what is queued and sleeps as `wait` says (io_uring_enter(2)).
    pub(crate) fn enter(&self, wait: Wait) -> io::Result<()> {
        match wait {
            Wait::No => self.submitter.submit(),
            Wait::Completion => self.submitter.submit_and_wait(1),
            Wait::Timeout(timeout) => {
                let timespec = Timespec::from(timeout);
                self.submitter.submit_with_args(1, &SubmitArgs::new().timespec(&timespec))
            }
        }
        .map(drop)
    }

    /// Takes out what the completion queue holds: user data, result and flags of each.
    pub(crate) fn reap(&self) -> impl Iterator<Item = (u64, i32, u32)> {
        // SAFETY: see `has_work`
        let queue = unsafe { self.instance.completion_shared() };
        queue.map(|entry| (entry.user_data(), entry.result(), entry.flags()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Uring {
        /// Asks what the kernel knows: a registration that no ring of ours needs.
        pub(crate) fn probe(&self) -> io::Result<()> {
            self.submitter.register_probe(&mut io_uring::Probe::new())
        }
    }
}
