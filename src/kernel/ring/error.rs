//! Errors of a ring: the kernel's number, the step of the set-up, the cure.

use std::io;

use super::memory;
use crate::kernel::sys::{self, MemoryLimit};

/// An error number of the kernel, positive (errno(3)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

/// An error that is not the kernel's becomes `EIO`.
impl From<io::Error> for Errno {
    fn from(error: io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

/// What was being set up when the kernel refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// io_uring_setup(2).
    Setup,
    /// The table of registered files.
    RegisterFiles,
    /// A ring of provided buffers.
    RegisterBuffers,
    /// Memory of an arena.
    ReserveMemory,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Setup => "setting up an io_uring",
            Self::RegisterFiles => "registering the file table of an io_uring",
            Self::RegisterBuffers => "registering a buffer ring of an io_uring",
            Self::ReserveMemory => "reserving memory",
        })
    }
}

/// Why there is no ring: the step, the kernel's answer, the cure.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{step}: {errno}; {cure}")]
pub struct RingError {
    /// What was being set up.
    pub step: Step,
    /// What the kernel answered.
    pub errno: Errno,
    cure: &'static str,
}

impl RingError {
    /// `step` was refused.
    pub fn new(step: Step, error: &io::Error) -> Self {
        let errno = Errno(error.raw_os_error().unwrap_or(libc::EINVAL));
        let cure = match (errno.0, step) {
            (libc::EPERM | libc::ENOSYS | libc::EACCES, _) => {
                "io_uring is blocked: `sysctl kernel.io_uring_disabled` must be 0, and a seccomp filter (a \
                 container's default profile, SystemCallFilter= of a unit) must allow io_uring_setup, \
                 io_uring_enter and io_uring_register; kernels before 6.1 lack parts of it"
            }
            (libc::ENOMEM, step) => memory_cure(step),
            (libc::EMFILE | libc::ENFILE, _) => {
                "open files are short: raise RLIMIT_NOFILE (LimitNOFILE= in a unit, `ulimit -n`) or ask for \
                 fewer connections or flows"
            }
            (libc::EINVAL, _) => {
                "the kernel is too old or its io_uring is cut down: Linux 6.1 or newer is needed"
            }
            _ => "see dmesg for what the kernel says of it",
        };
        Self { step, errno, cure }
    }
}

/// What is short where the kernel says ENOMEM: it says so of three limits, and of memory itself.
fn memory_cure(step: Step) -> &'static str {
    // mapping memory has nothing to do with locked memory; setting up and registering rings has, and maps some
    let is_mapping = step == Step::ReserveMemory || memory::is_used_up();
    if is_mapping && sys::is_limited(MemoryLimit::AddressSpace) {
        "the address space is limited: lift RLIMIT_AS (LimitAS=infinity in a unit, `ulimit -v unlimited`); what is \
         reserved there costs no memory until it is used"
    } else if is_mapping && sys::is_limited(MemoryLimit::Data) {
        "the data segment is limited: lift RLIMIT_DATA (LimitDATA=infinity in a unit, `ulimit -d unlimited`); what is \
         reserved there costs no memory until it is used"
    } else if !is_mapping && sys::is_limited(MemoryLimit::Locked) {
        "locked memory is short: raise RLIMIT_MEMLOCK (LimitMEMLOCK= in a unit, `ulimit -l`) or ask for fewer workers \
         or threads"
    } else {
        "memory is short: `free -m` shows how much there is, vm.overcommit_memory=2 and MemoryMax= of a unit give less; \
         or ask for fewer workers or threads"
    }
}
