//! `recvmmsg(2)` and `sendmmsg(2)`, with what control messages say: trains and the address that was asked.

use std::io::{Error, Result};
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd};

use libc::{c_int, cmsghdr, iovec, mmsghdr};

use super::{Name, check};

/// The largest datagram or train that fits one IPv6 UDP message.
pub(crate) const MESSAGE_BYTES_MAX: usize = 65_527;
/// From one buffer to the next. Not a power of two: the first lines of all buffers would share one cache set.
pub(crate) const STRIDE_BYTES: usize = (64 << 10) + 5 * 64;
/// Segments of one GSO send: the limit of kernels before 6.10, and still the advice.
pub(crate) const SEGMENTS_MAX: usize = 64;

/// `CMSG_ALIGN(sizeof(struct cmsghdr))` on 64-bit Linux: where the data of a control message begins.
const CMSG_HEADER: usize = size_of::<cmsghdr>();
const CONTROL_BYTES: usize = 128;

/// Control messages of one message, in or out.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

impl Control {
    /// Calls `found` with level, type and data of each control message in the first `len` bytes.
    fn scan(&self, len: usize, mut found: impl FnMut(c_int, c_int, &[u8])) {
        let (mut at, end) = (0, len.min(CONTROL_BYTES));
        while at + CMSG_HEADER <= end {
            let int = |i: usize| c_int::from_ne_bytes(self.0[i..i + 4].try_into().expect("four bytes"));
            let size = usize::from_ne_bytes(self.0[at..at + 8].try_into().expect("eight bytes"));
            if size < CMSG_HEADER || at + size > end {
                return;
            }
            found(int(at + 8), int(at + 12), &self.0[at + CMSG_HEADER..at + size]);
            at += size.next_multiple_of(8);
        }
    }

    /// Appends a control message at `at`; returns where the next one goes.
    fn push<const N: usize>(&mut self, at: usize, level: c_int, kind: c_int, data: [u8; N]) -> usize {
        self.0[at..at + 8].copy_from_slice(&(CMSG_HEADER + N).to_ne_bytes());
        self.0[at + 8..at + 12].copy_from_slice(&level.to_ne_bytes());
        self.0[at + 12..at + 16].copy_from_slice(&kind.to_ne_bytes());
        self.0[at + CMSG_HEADER..at + CMSG_HEADER + N].copy_from_slice(&data);
        at + CMSG_HEADER + N.next_multiple_of(8)
    }

    /// Appends the size that the kernel cuts a train into.
    fn push_segment(&mut self, at: usize, segment: usize) -> usize {
        self.push(at, libc::SOL_UDP, libc::UDP_SEGMENT, (segment as u16).to_ne_bytes())
    }
}

/// The address that a datagram was sent to, which its reply leaves from.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Origin {
    /// Nothing was told: the kernel chooses.
    Unknown,
    /// `IP_ORIGDSTADDR`
    V4([u8; 4]),
    /// `IPV6_ORIGDSTADDR`
    V6([u8; 16]),
}

/// A received message, ready to be grouped.
#[derive(Clone, Copy)]
pub(crate) struct Message {
    /// The peer.
    pub(crate) from: Name,
    /// The address that was asked.
    pub(crate) origin: Origin,
    /// Payload of all segments.
    pub(crate) bytes: usize,
    /// Payload of one segment: `bytes` for a single datagram.
    pub(crate) segment: usize,
}

/// Messages that leave as one GSO send: `order[first..end]` of a batch.
#[derive(Clone, Copy)]
pub(crate) struct Group {
    /// First index into the order.
    pub(crate) first: usize,
    /// Index after the last.
    pub(crate) end: usize,
    /// Bytes of one segment if there is more than one.
    pub(crate) segment: Option<usize>,
}

/// Buffers, addresses and headers of `recvmmsg(2)` and `sendmmsg(2)`. The headers point into the other
/// boxes, which are never moved out or resized.
pub(crate) struct Batch {
    headers: Box<[mmsghdr]>,
    iovecs: Box<[iovec]>,
    names: Box<[Name]>,
    controls: Box<[Control]>,
    bytes: Box<[u8]>,
    stride: usize,
    group_headers: Box<[mmsghdr]>,
    group_iovecs: Box<[iovec]>,
}

impl Batch {
    /// `count` buffers of `stride` bytes.
    pub(crate) fn new(count: usize, stride: usize) -> Self {
        // SAFETY: all-zero `mmsghdr` and `iovec` are valid: null pointers of zero length.
        let (header, vector): (mmsghdr, iovec) = unsafe { (zeroed(), zeroed()) };
        let mut batch = Self {
            headers: vec![header; count].into(),
            iovecs: vec![vector; count].into(),
            names: vec![Name::EMPTY; count].into(),
            controls: vec![Control([0; CONTROL_BYTES]); count].into(),
            bytes: vec![0; count * stride].into(),
            stride,
            group_headers: vec![header; count].into(),
            group_iovecs: vec![vector; count].into(),
        };
        for i in 0..count {
            batch.iovecs[i].iov_base = batch.bytes[i * stride..].as_mut_ptr().cast();
            let header = &mut batch.headers[i].msg_hdr;
            header.msg_iov = &raw mut batch.iovecs[i];
            header.msg_iovlen = 1;
            header.msg_name = (&raw mut batch.names[i].bytes).cast();
            header.msg_control = batch.controls[i].0.as_mut_ptr().cast();
            batch.expect(i);
        }
        batch
    }

    /// Makes message `i` ready to be received into.
    fn expect(&mut self, i: usize) {
        let header = &mut self.headers[i].msg_hdr;
        header.msg_namelen = 28;
        header.msg_controllen = CONTROL_BYTES;
        self.iovecs[i].iov_len = self.stride;
    }

    /// `recvmmsg(2)` of up to `count` messages; the number that came.
    pub(crate) fn receive(&mut self, socket: &impl AsFd, count: usize, flags: c_int) -> Result<usize> {
        let count = count.min(self.headers.len());
        (0..count).for_each(|i| self.expect(i));
        self.receive_expected(socket, count, flags)
    }

    /// The same when no message was touched since the last call that failed: nothing to make ready.
    pub(crate) fn receive_expected(
        &mut self,
        socket: &impl AsFd,
        count: usize,
        flags: c_int,
    ) -> Result<usize> {
        let fd = socket.as_fd().as_raw_fd();
        let count = count.min(self.headers.len());
        // SAFETY: `count` headers exist; each points to a name, a control area and an iovec of the stated
        // lengths, owned by `self`, and the kernel keeps none of them beyond the call (recvmmsg(2)).
        check(unsafe {
            libc::recvmmsg(fd, self.headers.as_mut_ptr(), count as u32, flags, std::ptr::null_mut())
        })
    }

    /// `recvmsg(2)` into the first buffer.
    pub(crate) fn receive_one(&mut self, socket: &impl AsFd, flags: c_int) -> Result<()> {
        self.expect(0);
        let fd = socket.as_fd().as_raw_fd();
        // SAFETY: as in `receive_expected`, for one header.
        let bytes = unsafe { libc::recvmsg(fd, &raw mut self.headers[0].msg_hdr, flags) };
        self.headers[0].msg_len = u32::try_from(bytes).map_err(|_| Error::last_os_error())?;
        Ok(())
    }

    /// What message `i` brought; None when the kernel had to cut it.
    pub(crate) fn message(&self, i: usize) -> Option<Message> {
        let (header, bytes) = (&self.headers[i].msg_hdr, self.headers[i].msg_len as usize);
        if header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
            return None;
        }
        let (mut origin, mut segment) = (Origin::Unknown, bytes);
        self.controls[i].scan(header.msg_controllen, |level, kind, data| match (level, kind, data) {
            (libc::SOL_IP, libc::IP_ORIGDSTADDR, data) if data.len() >= 8 => {
                origin = Origin::V4(data[4..8].try_into().expect("four bytes"));
            }
            (libc::SOL_IPV6, libc::IPV6_ORIGDSTADDR, data) if data.len() >= 24 => {
                origin = Origin::V6(data[8..24].try_into().expect("sixteen bytes"));
            }
            (libc::SOL_UDP, libc::UDP_GRO, data) if data.len() == 4 => {
                segment = i32::from_ne_bytes(data.try_into().expect("four bytes")) as usize;
            }
            _ => {}
        });
        let from = Name { len: header.msg_namelen, ..self.names[i] };
        Some(Message { from, origin, bytes, segment })
    }

    /// When the kernel received message `i`, by the clock of the day: `SO_TIMESTAMPNS` (socket(7)).
    pub(crate) fn received_ns(&self, i: usize) -> Option<u64> {
        let mut received_ns = None;
        self.controls[i].scan(self.headers[i].msg_hdr.msg_controllen, |level, kind, data| {
            if let (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS, Some((seconds, rest))) =
                (level, kind, data.split_first_chunk::<8>())
            {
                let nanoseconds = rest.first_chunk().map_or(0, |rest| u64::from_ne_bytes(*rest));
                received_ns = Some(u64::from_ne_bytes(*seconds) * 1_000_000_000 + nanoseconds);
            }
        });
        received_ns
    }

    /// Payload of message `i` as it was received.
    pub(crate) fn payload(&self, i: usize) -> &[u8] {
        let at = i * self.stride;
        &self.bytes[at..at + (self.headers[i].msg_len as usize).min(self.stride)]
    }

    /// Turns the received message `i` into its own reply: back to the peer, from `origin`, the same bytes,
    /// cut as they came unless `segment` says otherwise.
    pub(crate) fn turn_around(&mut self, i: usize, message: &Message, segment: Option<usize>) {
        let control = &mut self.controls[i];
        let mut end = match message.origin {
            Origin::Unknown => 0,
            Origin::V4(address) => {
                let mut info = [0; size_of::<libc::in_pktinfo>()];
                info[4..8].copy_from_slice(&address); // ipi_spec_dst
                control.push(0, libc::SOL_IP, libc::IP_PKTINFO, info)
            }
            Origin::V6(address) => {
                let mut info = [0; size_of::<libc::in6_pktinfo>()];
                info[..16].copy_from_slice(&address); // ipi6_addr
                control.push(0, libc::SOL_IPV6, libc::IPV6_PKTINFO, info)
            }
        };
        if let Some(segment) = segment {
            end = control.push_segment(end, segment);
        }
        self.headers[i].msg_hdr.msg_controllen = end;
        self.iovecs[i].iov_len = message.bytes;
    }

    /// Room for the payload of message `i`, to be sent to `to` or to the peer of the socket, cut into segments if asked.
    pub(crate) fn compose(
        &mut self,
        i: usize,
        bytes: usize,
        to: Option<&Name>,
        segment: Option<usize>,
    ) -> &mut [u8] {
        let to = to.unwrap_or(&Name::EMPTY);
        self.names[i].bytes = to.bytes;
        self.headers[i].msg_hdr.msg_namelen = to.len;
        self.headers[i].msg_hdr.msg_controllen =
            segment.map_or(0, |segment| self.controls[i].push_segment(0, segment));
        self.iovecs[i].iov_len = bytes;
        &mut self.bytes[i * self.stride..i * self.stride + bytes]
    }

    /// `sendmsg(2)` of the first message.
    pub(crate) fn send_one(&mut self, socket: &impl AsFd) -> Result<()> {
        // SAFETY: the header points to a name, a control area and an iovec of the stated lengths, owned by
        // `self`; the kernel has copied them when the call returns.
        let sent =
            unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const self.headers[0].msg_hdr, 0) };
        if sent < 0 { Err(Error::last_os_error()) } else { Ok(()) }
    }

    /// `sendmmsg(2)` of messages `first..end`; the number that the kernel took.
    pub(crate) fn send(&mut self, socket: &impl AsFd, first: usize, end: usize) -> Result<usize> {
        send_headers(socket, &mut self.headers[first..end])
    }

    /// Sends messages of this batch in groups, each already turned around. The name and the control messages
    /// of a group are those of its first message. Returns the number of groups that the kernel took.
    pub(crate) fn send_groups(
        &mut self,
        socket: &impl AsFd,
        groups: &[Group],
        order: &[usize],
    ) -> Result<usize> {
        for (slot, &i) in order.iter().enumerate() {
            self.group_iovecs[slot] = self.iovecs[i];
        }
        for (slot, group) in groups.iter().enumerate() {
            let header = &mut self.group_headers[slot].msg_hdr;
            *header = self.headers[order[group.first]].msg_hdr;
            header.msg_iov = &raw mut self.group_iovecs[group.first];
            header.msg_iovlen = group.end - group.first;
        }
        send_headers(socket, &mut self.group_headers[..groups.len()])
    }
}

fn send_headers(socket: &impl AsFd, headers: &mut [mmsghdr]) -> Result<usize> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the headers belong to a `Batch`, which owns what they point to; the kernel has copied
    // everything when the call returns (sendmmsg(2)).
    check(unsafe { libc::sendmmsg(fd, headers.as_mut_ptr(), headers.len() as u32, 0) })
}
