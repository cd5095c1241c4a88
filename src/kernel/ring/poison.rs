//! Lets AddressSanitizer see whose memory is whose: what the kernel may write to is forbidden to us until it
//! comes back. Any access to it ends the process with a report.
//!
//! This room and the calls to it exist only in a build with `--cfg ring_poison`, which wants AddressSanitizer
//! (`ci/asan`). The kernel itself is not watched. Received bytes that are being sent stay allowed, since one
//! may well read what the kernel reads.

#![allow(unsafe_code)]

use std::ffi::{c_char, c_void};

use super::memory::PinnedBytes;
use crate::kernel::seam;

unsafe extern "C" {
    // sanitizer/asan_interface.h
    fn __asan_poison_memory_region(base: *const c_void, bytes: usize);
    fn __asan_unpoison_memory_region(base: *const c_void, bytes: usize);
}

/// From now on nothing here may touch these bytes.
pub(super) fn forbid(pinned: PinnedBytes) {
    if seam::is_simulated() {
        return; // there the kernel is in this process, and writes to what is its own
    }
    // SAFETY: the runtime marks its shadow of the bytes, which stay mapped for the life of the process
    unsafe { __asan_poison_memory_region(pinned.as_ptr().cast(), pinned.bytes() as usize) };
}

/// The bytes are ours again.
pub(super) fn allow(pinned: PinnedBytes) {
    // SAFETY: as above
    unsafe { __asan_unpoison_memory_region(pinned.as_ptr().cast(), pinned.bytes() as usize) };
}

/// What the runtime asks for at the start of the process. What a ring knows of is never freed, which it would
/// take for a leak.
// SAFETY: the name is the runtime's, which calls it with this signature (sanitizer/asan_interface.h)
#[unsafe(no_mangle)]
extern "C" fn __asan_default_options() -> *const c_char {
    c"detect_leaks=0".as_ptr()
}
