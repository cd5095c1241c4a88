//! Where the kernel writes who connects.

#![allow(unsafe_code)]

use std::net::SocketAddr;
use std::ptr::NonNull;

use crate::kernel::addr::{self, SOCKADDR_V6_BYTES};

/// A `struct sockaddr` and its length as accept(2) fills them.
#[repr(C, align(8))]
struct Name {
    bytes: [u8; SOCKADDR_V6_BYTES],
    len: u32,
}

/// Room for the name of the peer that [`super::Ring::accept_one`] accepts. It lives as long as the process, since an
/// accept in flight may write to it.
pub struct PeerName(NonNull<Name>);

// SAFETY: the name belongs to its one owner; nothing in it is tied to a thread
unsafe impl Send for PeerName {}

impl Default for PeerName {
    /// Empty room.
    fn default() -> Self {
        Self(NonNull::from(Box::leak(Box::new(Name { bytes: [0; SOCKADDR_V6_BYTES], len: 0 }))))
    }
}

impl PeerName {
    /// Tells the kernel how much fits; returns where, as accept(2) takes it.
    pub(super) fn prepare(&mut self) -> (*mut libc::sockaddr, *mut libc::socklen_t) {
        let name = self.0.as_ptr();
        // SAFETY: the name is never freed, and reached by pointers only. The kernel reads the length when the
        // accept is executed
        unsafe {
            (&raw mut (*name).len).write_volatile(SOCKADDR_V6_BYTES as u32);
            ((&raw mut (*name).bytes).cast(), &raw mut (*name).len)
        }
    }

    /// Who connected, once the accept has completed and until the next one begins.
    pub fn get(&self) -> Option<SocketAddr> {
        let name = self.0.as_ptr();
        // SAFETY: the name is never freed, and no reference to it exists. Whatever the kernel may be writing
        // there, each byte has some value, and any value is a valid one
        let (bytes, len) =
            unsafe { ((&raw const (*name).bytes).read_volatile(), (&raw const (*name).len).read_volatile()) };
        addr::decode(&bytes[..bytes.len().min(len as usize)])
    }
}
