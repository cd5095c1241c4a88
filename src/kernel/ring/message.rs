//! Outgoing messages: `struct msghdr` with everything that it points at, in slots that never move.

#![allow(unsafe_code)]

use std::net::SocketAddr;

use super::memory::PinnedBytes;
use crate::kernel::addr::{self, Domain, RawAddr};
use crate::kernel::cmsg::Control;

/// Datagrams in one message at the most: what every kernel with `UDP_SEGMENT` takes (128 from 6.9 on).
pub const SEGMENTS_MAX: usize = 64;

/// Where a message goes and where it comes from.
#[derive(Clone, Copy, Debug)]
pub struct Transmit {
    /// Who gets it.
    pub peer: SocketAddr,
    /// The address that it leaves from, with its scope; the port does not count. `None` leaves the choice to the
    /// routing table.
    pub source: Option<SocketAddr>,
    /// Cut the payload into datagrams of so many bytes, the last one may be shorter (`UDP_SEGMENT`).
    pub segment_bytes: Option<u16>,
    /// The DSCP that it leaves with, in its place in the traffic class; 0 leaves it to the socket.
    pub dscp: u8,
    /// The hop limit that it leaves with; 0 leaves it to the socket.
    pub hops: u8,
}

/// One message: up to `PARTS` parts gathered into one payload.
#[repr(C)]
struct Slot<const PARTS: usize> {
    header: libc::msghdr,
    name: RawAddr,
    control: Control,
    parts: [libc::iovec; PARTS],
    used: usize,
}

/// Slots for messages of up to `PARTS` parts. They live as long as the process, since a send in flight
/// reads its control messages, and before its submission everything.
pub struct Messages<const PARTS: usize> {
    slots: &'static mut [Slot<PARTS>],
}

// SAFETY: the pointers in the slots lead to the slots themselves and to mappings, none tied to a thread
unsafe impl<const PARTS: usize> Send for Messages<PARTS> {}

impl<const PARTS: usize> Messages<PARTS> {
    /// Makes `count` empty slots.
    pub fn new(count: usize) -> Self {
        let slots = (0..count)
            .map(|_| Slot {
                // SAFETY: msghdr is plain data, and all zeroes is an empty one
                header: unsafe { std::mem::zeroed() },
                name: RawAddr::EMPTY,
                control: Control::EMPTY,
                parts: [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; PARTS],
                used: 0,
            })
            .collect::<Vec<_>>();
        Self { slots: Box::leak(slots.into_boxed_slice()) }
    }

    /// Takes all parts out of `slot`.
    pub fn clear(&mut self, slot: usize) {
        self.slots[slot].used = 0;
    }

    /// Appends a part to the payload of `slot`, which has room for `PARTS`.
    pub fn push(&mut self, slot: usize, part: PinnedBytes) {
        let slot = &mut self.slots[slot];
        slot.parts[slot.used] =
            libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.bytes() as usize };
        slot.used += 1;
    }

    /// The finished message of `slot`, addressed as `transmit` says. The slot must be left alone until
    /// the message's completion: what it says meanwhile is what is sent.
    pub fn finish(&mut self, slot: usize, transmit: &Transmit) -> Message {
        let slot = &mut self.slots[slot];
        slot.name = RawAddr::from(transmit.peer);
        // either end may be link-local, and the other not; if both are, it is on the same link
        let scope_id = transmit.source.map_or(0, addr::scope_id).max(addr::scope_id(transmit.peer));
        slot.control.encode(transmit.source.map(|source| source.ip()), scope_id, transmit.segment_bytes);
        if transmit.dscp != 0 {
            slot.control.push_dscp(Domain::of(transmit.peer), transmit.dscp);
        }
        if transmit.hops != 0 {
            slot.control.push_hops(Domain::of(transmit.peer), transmit.hops);
        }
        let name = slot.name.as_bytes();
        slot.header.msg_name = name.as_ptr().cast_mut().cast();
        slot.header.msg_namelen = name.len() as u32;
        slot.header.msg_iov = slot.parts.as_mut_ptr();
        slot.header.msg_iovlen = slot.used as _;
        let control = slot.control.as_bytes();
        slot.header.msg_control = control.as_ptr().cast_mut().cast();
        slot.header.msg_controllen = control.len() as _;
        Message { header: &raw const slot.header }
    }

    /// The message of `slot` as it was finished last, to send it once more.
    pub fn again(&self, slot: usize) -> Message {
        Message { header: &raw const self.slots[slot].header }
    }
}

/// A finished message in its slot; everything that it points at lives as long as the process.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    header: *const libc::msghdr,
}

impl Message {
    pub(super) fn header(self) -> *const libc::msghdr {
        self.header
    }
}
