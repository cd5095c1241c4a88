//! What crosses the border between a process and the kernel, read and written as the kernel does it.
//!
//! Every raw pointer of the simulation is followed here, and none from elsewhere: an [`Sqe`] and the [`Entries`] of a
//! buffer ring are made under the promises of a ring, and what they say of memory can't be changed.

#![allow(unsafe_code)] // the memory that operations point at is the process's own, as in the kernel

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::time::Duration;

use io_uring::{opcode, squeue};

/// `struct io_uring_sqe`, the part that is used here (io_uring_enter(2)).
// 13 fields: they are the kernel's
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sqe {
    opcode: u8,
    pub(super) flags: u8,
    pub(super) ioprio: u16,
    pub(super) fd: i32,
    off: u64,
    addr: u64,
    len: u32,
    pub(super) op_flags: u32,
    pub(super) user_data: u64,
    pub(super) buf_group: u16,
    pub(super) personality: u16,
    pub(super) file_index: u32,
    pub(super) rest: [u64; 2],
}

/// `IOSQE_FIXED_FILE`
pub(super) const FIXED_FILE: u8 = 1 << 0;
/// `IOSQE_BUFFER_SELECT`
pub(super) const BUFFER_SELECT: u8 = 1 << 5;
/// `IOSQE_CQE_SKIP_SUCCESS`
pub(super) const SKIP_SUCCESS: u8 = 1 << 6;
/// `IORING_RECV_MULTISHOT`, in `ioprio`
pub(super) const RECV_MULTISHOT: u16 = 1 << 1;
/// `IORING_ACCEPT_MULTISHOT`, in `ioprio`
pub(super) const ACCEPT_MULTISHOT: u16 = 1 << 0;
/// `IORING_POLL_ADD_MULTI`, in `len`; the events are in `op_flags`.
pub(super) const POLL_ADD_MULTI: u32 = 1 << 0;
/// `IORING_FILE_INDEX_ALLOC`
pub(super) const FILE_INDEX_ALLOC: u32 = u32::MAX;
/// `IORING_CQE_F_BUFFER`; the buffer's number is in the upper half.
pub(super) const F_BUFFER: u32 = 1 << 0;
/// `IORING_CQE_F_MORE`
pub(super) const F_MORE: u32 = 1 << 1;
/// `IORING_CQE_F_BUF_MORE`
pub(super) const F_BUF_MORE: u32 = 1 << 4;
/// `IOU_PBUF_RING_INC`
pub(super) const PBUF_RING_INC: u16 = 2;

impl Sqe {
    /// # Safety
    ///
    /// What the entry points at is what its operation wants there, and lives as long as the process. The process does
    /// not touch it while the simulated kernel runs.
    pub(crate) unsafe fn of(entry: &squeue::Entry) -> Self {
        const { assert!(size_of::<squeue::Entry>() == 64 && size_of::<Sqe>() == 64) };
        // SAFETY: an entry is the kernel's 64 bytes and nothing else, and any bytes are a valid Sqe
        unsafe { std::ptr::from_ref(entry).cast::<Self>().read_unaligned() }
    }

    pub(super) fn opcode(&self) -> u8 {
        self.opcode
    }

    pub(super) fn addr(&self) -> u64 {
        self.addr
    }

    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// The first `bytes` bytes that a SEND sends.
    pub(super) fn sent(&self, bytes: usize) -> Vec<u8> {
        assert!(self.opcode == opcode::Send::CODE && bytes <= self.len as usize);
        Place(self.addr).read(bytes).to_vec()
    }

    /// The message of a SENDMSG.
    pub(super) fn message(&self) -> Option<Message> {
        (self.opcode == opcode::SendMsg::CODE).then(|| Message::at(Place(self.addr)))
    }

    /// Bytes that a multishot RECVMSG leaves for a name and for control messages.
    pub(super) fn room(&self) -> (u32, u64) {
        assert_eq!(self.opcode, opcode::RecvMsg::CODE);
        (Place(self.addr).behind(8).read_u32(), Place(self.addr).behind(40).read_u64())
    }

    /// How long a TIMEOUT lasts.
    pub(super) fn timeout(&self) -> Duration {
        assert_eq!(self.opcode, opcode::Timeout::CODE);
        Duration::new(Place(self.addr).read_u64(), Place(self.addr).behind(8).read_u64() as u32)
    }

    /// Tells an ACCEPT that asks for it who has connected.
    pub(super) fn write_name(&self, name: &[u8]) {
        assert!(self.opcode == opcode::Accept::CODE && self.addr != 0);
        let len = Place(self.off);
        assert!(name.len() <= len.read_u32() as usize, "more than there is room for");
        Place(self.addr).write(name);
        len.write(&(name.len() as u32).to_ne_bytes());
    }
}

/// A place in the process's memory that an [`Sqe`] or the [`Entries`] of a buffer ring lead to. What is read and written
/// there is what the promises to [`Sqe::of`] and [`Entries::new`] speak of.
#[derive(Clone, Copy, Debug)]
struct Place(u64);

impl Place {
    fn behind(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }

    fn read<'a>(self, bytes: usize) -> &'a [u8] {
        if bytes == 0 {
            return &[];
        }
        // SAFETY: by the promises the memory is there for the life of the process, which does not touch it while the
        // simulated kernel runs; no slice leaves this room
        unsafe { std::slice::from_raw_parts(self.0 as *const u8, bytes) }
    }

    fn write(self, bytes: &[u8]) {
        // SAFETY: the same; this memory was given to the kernel to write to
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0 as *mut u8, bytes.len()) };
    }

    fn read_u16(self) -> u16 {
        u16::from_ne_bytes(self.read(2).try_into().expect("two bytes"))
    }

    fn read_u32(self) -> u32 {
        u32::from_ne_bytes(self.read(4).try_into().expect("four bytes"))
    }

    fn read_u64(self) -> u64 {
        u64::from_ne_bytes(self.read(8).try_into().expect("eight bytes"))
    }
}

/// The entries of a buffer ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entries {
    at: Place,
    mask: u16,
}

impl Entries {
    /// # Safety
    ///
    /// That of [`crate::kernel::ring::BufferRing`] towards the kernel: `count` entries are there for the life of the
    /// process, and those up to the tail name memory that is the kernel's to write until its completion.
    pub(crate) unsafe fn new(entries: *mut u8, count: u16) -> Self {
        let at = entries as u64;
        assert!(count.is_power_of_two() && at.is_multiple_of(4096), "as the kernel wants it");
        Self { at: Place(at), mask: count - 1 }
    }

    pub(super) fn count(self) -> u16 {
        self.mask + 1
    }

    /// Up to where the process has provided buffers: it stands in the first entry.
    pub(super) fn tail(self) -> u16 {
        const TAIL_AT: u64 = 14;
        self.at.behind(TAIL_AT).read_u16()
    }

    /// The entry at this place; it wraps.
    pub(super) fn get(self, place: u16) -> Provided {
        const BYTES: u64 = 16;
        Provided(self.at.behind(u64::from(place & self.mask) * BYTES))
    }
}

/// An entry of a buffer ring: `struct io_uring_buf`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Provided(Place);

impl Provided {
    pub(super) fn addr(self) -> u64 {
        self.0.read_u64()
    }

    pub(super) fn len(self) -> u32 {
        self.0.behind(8).read_u32()
    }

    pub(super) fn number(self) -> u16 {
        self.0.behind(12).read_u16()
    }

    /// Writes to the buffer.
    pub(super) fn write(self, bytes: &[u8]) {
        assert!(bytes.len() <= self.len() as usize, "more than the buffer holds");
        Place(self.addr()).write(bytes);
    }

    /// Whether the buffer's page is a new one: what is received begins with a length that is not zero.
    pub(super) fn is_blank(self) -> bool {
        Place(self.addr()).read_u64() == 0
    }

    /// What the kernel does when it has used a part of an incremental buffer.
    pub(super) fn advance(self, bytes: u32) {
        let (addr, len) = (self.addr() + u64::from(bytes), self.len() - bytes);
        self.0.write(&addr.to_ne_bytes());
        self.0.behind(8).write(&len.to_ne_bytes());
    }
}

/// `struct msghdr` and what it points at.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) name: Vec<u8>,
    pub(super) control: Vec<u8>,
    parts: Vec<Range<u64>>,
    header: Vec<u8>,
    header_at: Place,
    control_at: Place,
}

impl Message {
    fn at(header: Place) -> Self {
        // msg_name, msg_namelen, msg_iov, msg_iovlen, msg_control, msg_controllen, msg_flags
        let word = |index: u64| header.behind(8 * index).read_u64();
        let parts = (0..word(3)).map(|part| {
            let part = Place(word(2)).behind(16 * part);
            let (base, len) = (part.read_u64(), part.behind(8).read_u64());
            base..base + len
        });
        Self {
            name: Place(word(0)).read(header.behind(8).read_u32() as usize).to_vec(),
            control: Place(word(4)).read(word(5) as usize).to_vec(),
            parts: parts.collect(),
            header: header.read(size_of::<libc::msghdr>()).to_vec(),
            header_at: header,
            control_at: Place(word(4)),
        }
    }

    /// The memory that it sends from.
    pub(super) fn parts(&self) -> &[Range<u64>] {
        &self.parts
    }

    /// Nobody has changed the message since it was queued.
    pub(super) fn is_untouched(&self) -> bool {
        self.header_at.read(self.header.len()) == self.header && {
            let now = Self::at(self.header_at);
            now.name == self.name && now.control == self.control && now.parts == self.parts
        }
    }

    /// Nobody has changed what the kernel reads late.
    pub(super) fn is_control_untouched(&self) -> bool {
        self.control_at.read(self.control.len()) == self.control
    }

    pub(super) fn payload(&self) -> Vec<u8> {
        let mut payload =
            Vec::with_capacity(self.parts.iter().map(|part| part.end - part.start).sum::<u64>() as usize);
        for part in &self.parts {
            payload.extend_from_slice(Place(part.start).read((part.end - part.start) as usize));
        }
        payload
    }

    /// What the control messages of a datagram say: the source's address and interface, the size of each
    /// datagram of a train, the traffic class and the hop limit, 0 if none is said (ip(7), ipv6(7), udp(7)).
    pub(super) fn control(&self) -> (Option<IpAddr>, u32, Option<u16>, Marks) {
        let (mut source, mut interface, mut segment_bytes) = (None, 0, None);
        let mut marks = Marks::default();
        let mut rest = self.control.as_slice();
        while rest.len() >= 16 {
            let len = u64::from_ne_bytes(rest[..8].try_into().expect("eight bytes")) as usize;
            let [level, kind] =
                [8, 12].map(|at| i32::from_ne_bytes(rest[at..at + 4].try_into().expect("four bytes")));
            assert!(len >= 16 && len <= rest.len(), "a control message of {len} bytes in {}", rest.len());
            let data = &rest[16..len];
            match (level, kind) {
                (libc::SOL_IP, libc::IP_PKTINFO) => {
                    let octets: [u8; 4] = data[4..8].try_into().expect("four bytes");
                    source = Some(Ipv4Addr::from(octets).into());
                }
                (libc::SOL_IPV6, libc::IPV6_PKTINFO) => {
                    let octets: [u8; 16] = data[..16].try_into().expect("sixteen bytes");
                    source = Some(Ipv6Addr::from(octets).into());
                    interface = u32::from_ne_bytes(data[16..20].try_into().expect("four bytes"));
                }
                (libc::SOL_UDP, libc::UDP_SEGMENT) => {
                    segment_bytes = Some(u16::from_ne_bytes(data.try_into().expect("two bytes")));
                }
                (libc::SOL_IP, libc::IP_TOS) | (libc::SOL_IPV6, libc::IPV6_TCLASS) => {
                    let class = i32::from_ne_bytes(data.try_into().expect("four bytes"));
                    marks.dscp = u8::try_from(class).expect("a traffic class");
                    assert_ne!(marks.dscp, 0, "a control message that says nothing");
                }
                (libc::SOL_IP, libc::IP_TTL) | (libc::SOL_IPV6, libc::IPV6_HOPLIMIT) => {
                    let hops = i32::from_ne_bytes(data.try_into().expect("four bytes"));
                    marks.hops = u8::try_from(hops).expect("a hop limit");
                    assert_ne!(marks.hops, 0, "a hop limit that the kernel refuses");
                }
                other => panic!("a control message that nobody wants: {other:?}"),
            }
            rest = rest.get(len.next_multiple_of(8)..).unwrap_or_default();
        }
        (source, interface, segment_bytes, marks)
    }
}

/// What a reply's header is to say beside its addresses; 0 leaves it to the socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) dscp: u8,
    pub(super) hops: u8,
}

/// Appends a control message as the kernel lays it out.
pub(super) fn push_control(area: &mut Vec<u8>, level: i32, kind: i32, data: &[u8]) {
    area.extend((16 + data.len() as u64).to_ne_bytes());
    area.extend(level.to_ne_bytes());
    area.extend(kind.to_ne_bytes());
    area.extend(data);
    area.resize(area.len().next_multiple_of(8), 0);
}
