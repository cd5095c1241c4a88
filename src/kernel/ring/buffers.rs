//! Provided buffers: a buffer ring, and the parts of it that completions bring.
//!
//! A buffer is in exactly one place. The kernel's: it is in the ring and may be written at any moment.
//! Ours: every byte received into it is held by a [`ReceivedPart`], which is neither `Clone` nor `Copy`.
//! [`BufferRing::recycle`] takes the part back by value; with the last one the buffer returns to the
//! kernel. So bytes can't be read after they were given back, nor given back twice.
//!
//! Where a part of an incremental buffer lies is not told: it follows what was taken of the buffer before, so
//! completions must come in the order in which the buffer was filled. [`super::order`] tries whether they do
//! before such a ring is used. What contradicts that order ends the process ([`Contradiction`]): a peer must not
//! get another peer's bytes. Two parts of one buffer that change places, neither of them its last, contradict
//! nothing and would go unseen; only the trial stands against that.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::cqueue;
use io_uring::types::{BufRingEntry, RecvMsgOut};

use super::identity::{Identity, Tokens};
use super::memory::{Mapping, PinnedBytes};
#[cfg(ring_poison)]
use super::poison;
use super::{Completion, Quiet, Ring, RingError, Step, Token};
use crate::kernel::addr::SOCKADDR_V6_BYTES;
use crate::kernel::cmsg::CONTROL_IN_BYTES;

/// Room for the peer's name in a received datagram's buffer: a `sockaddr_in6`, rounded up so that the
/// control messages behind it are aligned to 16 bytes.
const NAME_BYTES: usize = SOCKADDR_V6_BYTES.next_multiple_of(16);

/// `struct io_uring_recvmsg_out`: four lengths and flags.
const OUT_BYTES: usize = 16;

/// What stands before the payload in a buffer of a multishot RECVMSG: lengths, the peer's
/// name, the control messages.
pub const DATAGRAM_HEADER_BYTES: usize = OUT_BYTES + NAME_BYTES + CONTROL_IN_BYTES;

/// `IOU_PBUF_RING_INC` (Linux 6.12): a buffer is used up in as many parts as it takes.
const INCREMENTAL: u16 = 2;

/// How a buffer ring is made.
#[derive(Clone, Copy, Debug)]
pub struct BufferConfig {
    /// How many buffers: a power of two up to 32,768.
    pub count: u16,
    /// Bytes of each buffer.
    pub buffer_bytes: u32,
    /// Let a buffer be used up in parts (Linux 6.12; before that the registration fails). For streams
    /// only: RECVMSG into such buffers is broken on current kernels.
    pub incremental: bool,
}

/// A part of a provided buffer that the kernel has filled and handed over.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a part that is not recycled is a buffer lost"]
pub struct ReceivedPart {
    /// The buffer ring that it is part of.
    ring: Identity,
    buffer: u16,
    offset: u32,
    bytes: u32,
}

impl ReceivedPart {
    /// Which buffer it is part of: below the ring's count.
    pub fn buffer(&self) -> u16 {
        self.buffer
    }

    /// How many bytes were received.
    pub fn bytes(&self) -> u32 {
        self.bytes
    }
}

/// A received datagram, or a train of them, as it lies in its buffer.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// The peer's `struct sockaddr`.
    pub name: &'a [u8],
    /// Control messages, for [`crate::kernel::cmsg::decode`].
    pub control: &'a [u8],
    /// Where the payload begins in the part.
    pub payload_offset: u32,
    /// Bytes of payload.
    pub payload_bytes: u32,
}

impl<'a> Datagram<'a> {
    /// Reads `bytes`, the whole part that a multishot RECVMSG brought: name and control messages stand where
    /// [`BufferRing`] made room for them, the lengths before them say how much of that room was used
    /// (io_uring_recvmsg_out(3)). Lengths beyond the room or the part count as all of it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Unusable> {
        let out = RecvMsgOut::parse(bytes, &layout()).map_err(|()| Unusable::Malformed)?;
        if out.is_payload_truncated() {
            Err(Unusable::PayloadTruncated)
        } else if out.is_control_data_truncated() {
            Err(Unusable::ControlTruncated)
        } else {
            Ok(Self {
                name: &bytes[OUT_BYTES..][..out.name_data().len()],
                control: &bytes[OUT_BYTES + NAME_BYTES..][..out.control_data().len()],
                payload_offset: DATAGRAM_HEADER_BYTES as u32,
                payload_bytes: out.payload_data().len() as u32,
            })
        }
    }
}

/// Tells a multishot RECVMSG how much room the name and the control messages get.
fn layout() -> libc::msghdr {
    // SAFETY: msghdr is plain data, and all zeroes is an empty one
    let mut layout: libc::msghdr = unsafe { std::mem::zeroed() };
    layout.msg_namelen = NAME_BYTES as u32;
    layout.msg_controllen = CONTROL_IN_BYTES as _;
    layout
}

/// Why a received datagram can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// The payload did not fit its buffer (`MSG_TRUNC`).
    PayloadTruncated,
    /// The control messages did not fit (`MSG_CTRUNC`): the original destination may be missing.
    ControlTruncated,
    /// Shorter than its own header.
    Malformed,
}

/// What a completion says of a buffer that can't be so, if the kernel fills buffers as it is expected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Contradiction {
    #[error("there is no such buffer")]
    Unknown,
    #[error("the kernel does not have it")]
    NotTheKernels,
    #[error("others were provided before it")]
    NotItsTurn,
    #[error("it is filled beyond its end")]
    BeyondItsEnd,
    #[error("it is used up before it is full")]
    UsedUpTooSoon,
    #[error("it is full and not used up")]
    NotUsedUp,
}

/// How much of a buffer is in whose hands.
#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    /// Bytes that the kernel has filled.
    filled_bytes: u32,
    /// Parts of it that are out.
    parts: u32,
    /// The kernel may still write to it.
    kernel: bool,
}

/// A ring of provided buffers, registered under a group number.
// 15 fields: the memory that the kernel shares, and what is known of each buffer in it
#[derive(Debug)]
pub struct BufferRing {
    identity: Identity,
    /// The ring that it is registered with.
    ring: Identity,
    /// What receives into it.
    receivers: Cell<Option<Tokens>>,
    group: u16,
    buffer_bytes: u32,
    incremental: bool,
    /// The entries; the first one's unused field is the ring's tail (io_uring_register_buf_ring(3)).
    entries: Mapping,
    mask: u16,
    tail: u16,
    /// Which buffer the kernel uses up next: it takes them in the order in which they were provided.
    head: u16,
    /// The buffers that were provided, by place in the ring.
    provided: Vec<u16>,
    buffers: Mapping,
    usage: Vec<Usage>,
    /// Buffers that the kernel can take.
    available: u16,
    /// What a multishot RECVMSG is told of the room in a buffer.
    layout: &'static libc::msghdr,
}

// SAFETY: the layout is never written after it was made; all else is owned
unsafe impl Send for BufferRing {}

impl BufferRing {
    /// Registers a buffer ring with `ring` and hands all its buffers to the kernel.
    pub fn new(ring: &mut Ring, config: BufferConfig) -> Result<Self, RingError> {
        let BufferConfig { count, buffer_bytes, incremental } = config;
        let group = ring.new_buffer_group();
        assert!(count.is_power_of_two(), "the kernel masks the tail");
        let failed = |error: io::Error| RingError::new(Step::RegisterBuffers, &error);
        let entries = Mapping::new(usize::from(count) * size_of::<BufRingEntry>()).map_err(failed)?;
        let buffers = Mapping::new(usize::from(count) * buffer_bytes as usize).map_err(failed)?;
        let register = |flags| {
            // SAFETY: io_uring_register_buf_ring(3) wants page-aligned memory of `count` entries that
            // stays valid until the group is unregistered; a Mapping is both, and is never unmapped
            unsafe { ring.uring().register_buffers(entries.base(), count, group, flags) }
        };
        register(if incremental { INCREMENTAL } else { 0 }).map_err(failed)?;
        let mut this = Self {
            identity: Identity::new(),
            ring: ring.identity,
            receivers: Cell::new(None),
            group,
            buffer_bytes,
            incremental,
            entries,
            mask: count - 1,
            tail: 0,
            head: 0,
            provided: vec![0; count.into()],
            buffers,
            usage: vec![Usage::default(); count.into()],
            available: 0,
            layout: Box::leak(Box::new(layout())),
        };
        for buffer in 0..count {
            this.provide(buffer);
        }
        Ok(this)
    }

    /// Takes the ring from the kernel. Nothing that receives into it is in flight.
    pub(super) fn unregister(self, ring: &mut Ring) {
        ring.receivers.retain(|(receiver, _)| *receiver != self.identity);
        // one that stays takes a little memory, and its group
        let _ = ring.uring().unregister_buffers(self.group);
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    /// Whether completions with this token are its own.
    #[inline]
    pub(super) fn expects(&self, token: Token) -> bool {
        self.receivers.get().is_some_and(|receivers| receivers.contains(token))
    }

    /// Expects completions of `ring` with this token from now on; all that it expects then.
    pub(super) fn expect(&self, token: Token, ring: Identity) -> Tokens {
        assert_eq!(ring, self.ring, "the buffers of another ring");
        let receivers = self.receivers.get().map_or(Tokens::only(token), |receivers| receivers.with(token));
        self.receivers.set(Some(receivers));
        receivers
    }

    pub(super) fn group(&self) -> u16 {
        self.group
    }

    pub(super) fn layout(&self) -> *const libc::msghdr {
        self.layout
    }

    /// How many buffers the kernel has left to receive into.
    pub fn available(&self) -> u16 {
        self.available
    }

    /// How many buffers there are.
    pub fn count(&self) -> u16 {
        self.mask + 1
    }

    /// A mark that moves whenever a buffer was used and came back.
    pub fn mark(&self) -> u16 {
        self.tail
    }

    /// Gives the buffers' memory back to the system, if the kernel has all of them; false if it doesn't.
    ///
    /// The kernel may go on to fill them: their addresses stay, and it finds new pages there. Nothing that it has filled
    /// may be lost: that is what `quiet` is for.
    pub fn give_back(&mut self, quiet: Quiet<'_>) -> bool {
        assert_eq!(quiet.ring, self.ring, "another ring is quiet");
        let all_there = self.available == self.count();
        if all_there {
            self.buffers.give_back();
        }
        all_there
    }

    /// The part that `completion` brought, if it used a buffer of this ring. Ends the process if that part may be
    /// another one than the kernel means.
    pub fn take(&mut self, completion: &Completion) -> Option<ReceivedPart> {
        self.try_take(completion).unwrap_or_else(|contradiction| {
            panic!(
                "the kernel contradicts itself: {contradiction}, says {completion:?} of a provided buffer; ended \
                 rather than send somebody another one's bytes"
            )
        })
    }

    /// The same, but a contradiction changes nothing and is told.
    pub(super) fn try_take(
        &mut self,
        completion: &Completion,
    ) -> Result<Option<ReceivedPart>, Contradiction> {
        let Some(buffer) = cqueue::buffer_select(completion.flags()) else { return Ok(None) };
        let is_ours = completion.ring == self.ring && self.expects(completion.token);
        assert!(is_ours, "received into another buffer ring: {completion:?}");
        let bytes = match completion.result() {
            Ok(bytes) => bytes,
            // whatever an error says of a buffer that is used in parts, it has used no part; if the kernel has let go
            // of it all the same, the next completion is out of turn
            Err(_) if self.incremental => return Ok(None),
            Err(_) => 0,
        };
        let is_next = self.provided[usize::from(self.head & self.mask)] == buffer;
        let usage = self.usage.get_mut(usize::from(buffer)).ok_or(Contradiction::Unknown)?;
        if !usage.kernel {
            return Err(Contradiction::NotTheKernels);
        }
        // a whole buffer says by itself where its bytes are, in whatever order completions come
        if self.incremental && !is_next {
            return Err(Contradiction::NotItsTurn);
        }
        let offset = usage.filled_bytes;
        let left = (self.buffer_bytes - offset).checked_sub(bytes).ok_or(Contradiction::BeyondItsEnd)?;
        let more = cqueue::buffer_more(completion.flags());
        match (more, self.incremental && left > 0) {
            (true, false) => return Err(Contradiction::NotUsedUp),
            (false, true) => return Err(Contradiction::UsedUpTooSoon),
            _ => {}
        }
        usage.filled_bytes += bytes;
        usage.parts += 1;
        if !more {
            usage.kernel = false;
            self.available -= 1;
            self.head = self.head.wrapping_add(1);
        }
        completion.forget_buffer();
        let part = ReceivedPart { ring: self.identity, buffer, offset, bytes };
        #[cfg(ring_poison)]
        poison::allow(self.pinned(&part));
        Ok(Some(part))
    }

    /// The received bytes.
    pub fn bytes(&self, part: &ReceivedPart) -> &[u8] {
        let pinned = self.pinned(part);
        // SAFETY: the pinned lies in a mapping that is never unmapped, and the kernel wrote it before the
        // completion that made this part, which is one of this buffer ring. Until the part is recycled, which takes it by value while
        // no such borrow lives, the kernel writes only behind it
        unsafe { std::slice::from_raw_parts(pinned.as_ptr(), pinned.bytes() as usize) }
    }

    /// The received bytes' place, to send from.
    pub fn pinned(&self, part: &ReceivedPart) -> PinnedBytes {
        assert_eq!(part.ring, self.identity, "a part of another buffer ring");
        let start = usize::from(part.buffer) * self.buffer_bytes as usize + part.offset as usize;
        self.buffers.pinned(start, part.bytes as usize)
    }

    /// Reads a part that a multishot RECVMSG brought.
    pub fn datagram(&self, part: &ReceivedPart) -> Result<Datagram<'_>, Unusable> {
        Datagram::parse(self.bytes(part))
    }

    /// Gives a part back. With its last part the buffer returns to the kernel.
    pub fn recycle(&mut self, part: ReceivedPart) {
        #[cfg(ring_poison)]
        poison::forbid(self.pinned(&part));
        let ReceivedPart { ring, buffer, .. } = part;
        assert_eq!(ring, self.identity, "a part of another buffer ring");
        let usage = &mut self.usage[usize::from(buffer)];
        usage.parts = usage.parts.checked_sub(1).expect("a part of this ring");
        if usage.parts == 0 && !usage.kernel {
            self.provide(buffer);
        }
    }

    fn provide(&mut self, buffer: u16) {
        self.usage[usize::from(buffer)] = Usage { filled_bytes: 0, parts: 0, kernel: true };
        self.available += 1;
        self.provided[usize::from(self.tail & self.mask)] = buffer;
        let place =
            self.buffers.pinned(usize::from(buffer) * self.buffer_bytes as usize, self.buffer_bytes as usize);
        #[cfg(ring_poison)]
        poison::forbid(place);
        #[allow(clippy::cast_ptr_alignment)] // a mapping is aligned to a page
        let base = self.entries.base().cast::<BufRingEntry>();
        // SAFETY: the index is masked to the entries of this ring, and an entry at or past the tail is
        // ours to write. The fields are set one by one since the first entry holds the tail as well
        unsafe {
            let entry = &mut *base.add(usize::from(self.tail & self.mask));
            entry.set_addr(place.as_ptr() as u64);
            entry.set_len(self.buffer_bytes);
            entry.set_bid(buffer);
        }
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lies in the first entry; the kernel reads it with acquire semantics
        unsafe {
            let tail = BufRingEntry::tail(base).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::time::Duration;

    use super::super::{FileTable, RingConfig, Token};
    use super::*;

    const MORE: u32 = 1 << 4; // IORING_CQE_F_BUF_MORE
    const CONFIG: BufferConfig = BufferConfig { count: 2, buffer_bytes: 4096, incremental: false };
    const RECEIVE: Token = Token::new(1, 0, 0);

    /// A ring without a file; what completes in it is made here.
    fn ring() -> Ring {
        Ring::new(RingConfig {
            submission_entries: 8,
            completion_entries: 16,
            files: 1,
            file_table: FileTable::Registered,
            busy_poll: Duration::ZERO,
        })
        .unwrap()
    }

    /// A completion of this ring that has used a buffer.
    fn used(ring: &Ring, buffer: u32, result: i32, flags: u32) -> Completion {
        Completion::new(ring.identity, RECEIVE, result, 1 | buffer << 16 | flags) // IORING_CQE_F_BUFFER
    }

    #[test]
    fn a_completion_that_can_not_be_true_is_no_part_of_an_incremental_buffer() {
        let mut ring = ring();
        let Ok(mut buffers) = BufferRing::new(&mut ring, BufferConfig { incremental: true, ..CONFIG }) else {
            println!("this kernel has no incremental buffers (6.12)");
            return;
        };
        ring.expect(&buffers, RECEIVE);
        let of = |buffer, result, flags| used(&ring, buffer, result, flags);
        let mut parts = Vec::new();
        for (completion, expected) in [
            (of(2, 10, MORE), Err(Contradiction::Unknown)),
            (of(1, 10, MORE), Err(Contradiction::NotItsTurn)),
            (of(0, 10, 0), Err(Contradiction::UsedUpTooSoon)),
            (of(0, 4097, 0), Err(Contradiction::BeyondItsEnd)),
            (of(0, 4096, MORE), Err(Contradiction::NotUsedUp)),
            (of(0, 96, MORE), Ok(Some((0, 96)))),
            (of(0, -libc::ECONNRESET, 0), Ok(None)), // it has used nothing
            (of(0, 4001, 0), Err(Contradiction::BeyondItsEnd)),
            (of(0, 3999, 0), Err(Contradiction::UsedUpTooSoon)),
            (of(1, 1, MORE), Err(Contradiction::NotItsTurn)),
            (of(0, 4000, 0), Ok(Some((96, 4000)))),
            (of(0, 1, MORE), Err(Contradiction::NotTheKernels)),
            (of(1, 4096, 0), Ok(Some((0, 4096)))),
            (of(1, 1, MORE), Err(Contradiction::NotTheKernels)),
        ] {
            let taken = buffers.try_take(&completion);
            let seen = taken.map(|part| {
                part.map(|part| {
                    let place = (part.offset, part.bytes);
                    parts.push(part);
                    place
                })
            });
            assert_eq!(seen, expected, "{completion:?}");
        }
        // they come back in the order in which they are given back
        let last = parts.pop().unwrap();
        buffers.recycle(last);
        for part in parts {
            buffers.recycle(part);
        }
        assert_eq!(buffers.try_take(&of(0, 1, MORE)), Err(Contradiction::NotItsTurn));
        let part = buffers.try_take(&of(1, 1, MORE)).unwrap().unwrap();
        buffers.recycle(part);
    }

    #[test]
    fn a_completion_that_can_not_be_true_is_no_whole_buffer() {
        let mut ring = ring();
        let mut buffers = BufferRing::new(&mut ring, CONFIG).unwrap();
        ring.expect(&buffers, RECEIVE);
        let of = |buffer, result, flags| used(&ring, buffer, result, flags);
        assert_eq!(buffers.try_take(&of(2, 1, 0)), Err(Contradiction::Unknown));
        assert_eq!(buffers.try_take(&of(0, 1, MORE)), Err(Contradiction::NotUsedUp));
        assert_eq!(buffers.try_take(&of(0, 4097, 0)), Err(Contradiction::BeyondItsEnd));
        let parts =
            [of(1, 1, 0), of(0, 1, 0)].map(|completion| buffers.try_take(&completion).unwrap().unwrap());
        assert_eq!(
            buffers.try_take(&of(1, 1, 0)),
            Err(Contradiction::NotTheKernels),
            "whole ones come in any order"
        );
        for part in parts {
            buffers.recycle(part);
        }
        let ended = catch_unwind(AssertUnwindSafe(|| buffers.take(&of(2, 1, 0))));
        ended.expect_err("the process ends rather than guess");
    }
}
