//! The system calls that peers and load client are made of. Bare on purpose: nothing here is shared with
//! the server, so that no mistake is either.
#![allow(unsafe_code, reason = "batched system calls have no safe wrapper; they all live in this one file")]

use std::io::{Error, Result};
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use libc::{c_int, cmsghdr, iovec, mmsghdr};

/// What one socket of a server asks for, the same for every server in a comparison.
pub(crate) const RECEIVE_BUFFER_BYTES: c_int = 4 << 20;
/// Connections that may wait to be accepted.
pub(crate) const BACKLOG: c_int = 4096;
/// The largest datagram or train that fits one IPv6 UDP message.
pub(crate) const MESSAGE_BYTES_MAX: usize = 65_527;
/// From one buffer to the next. Not a power of two: the first lines of all buffers would share one cache set.
pub(crate) const STRIDE_BYTES: usize = (64 << 10) + 5 * 64;
/// Segments of one GSO send: the limit of kernels before 6.10, and still the advice.
pub(crate) const SEGMENTS_MAX: usize = 64;

/// `CMSG_ALIGN(sizeof(struct cmsghdr))` on 64-bit Linux: where the data of a control message begins.
const CMSG_HEADER: usize = size_of::<cmsghdr>();
const CONTROL_BYTES: usize = 128;

fn check(result: c_int) -> Result<usize> {
    usize::try_from(result).map_err(|_| Error::last_os_error())
}

/// Sets an `int` socket option.
pub(crate) fn set_option(socket: &impl AsFd, level: c_int, name: c_int, value: c_int) -> Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    check(unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), size_of::<c_int>() as u32) })
        .map(drop)
}

/// Asks for a receive buffer beyond the system's limit if we may, within it otherwise.
pub(crate) fn receive_buffer(socket: &impl AsFd, bytes: c_int) -> Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes)
        .or_else(|_| set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes))
}

/// A bound socket of this kind (`SOCK_…`) whose address other sockets of this user may have, too.
pub(crate) fn bound(to: SocketAddr, kind: c_int) -> Result<OwnedFd> {
    let name = Name::from(to);
    // SAFETY: no memory is passed; the descriptor is new and owned here alone.
    let socket = unsafe {
        OwnedFd::from_raw_fd(check(libc::socket(name.family(), kind | libc::SOCK_CLOEXEC, 0))? as c_int)
    };
    set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    if kind == libc::SOCK_STREAM {
        set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    }
    // SAFETY: `name` holds `len` bytes of a socket address and outlives the call.
    check(unsafe { libc::bind(socket.as_raw_fd(), name.bytes.as_ptr().cast(), name.len) })?;
    Ok(socket)
}

/// Turns the backlog of a listening socket up: std chooses a small one.
pub(crate) fn listen(socket: &impl AsFd) -> Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::listen(socket.as_fd().as_raw_fd(), BACKLOG) }).map(drop)
}

/// Binds an IPv4 stream socket to `from` without choosing its port yet, so that every destination has all
/// ports of that address (`IP_BIND_ADDRESS_NO_PORT`, ip(7)); connecting is left to the caller.
pub(crate) fn stream_from(from: IpAddr) -> Result<OwnedFd> {
    let name = Name::from(SocketAddr::new(from, 0));
    // SAFETY: no memory is passed; the descriptor is new and owned here alone.
    let socket = unsafe {
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
        OwnedFd::from_raw_fd(check(libc::socket(name.family(), kind, 0))? as c_int)
    };
    set_option(&socket, libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    // SAFETY: `name` holds `len` bytes of a socket address and outlives the call.
    check(unsafe { libc::bind(socket.as_raw_fd(), name.bytes.as_ptr().cast(), name.len) })?;
    Ok(socket)
}

/// Connects a blocking socket.
pub(crate) fn connect(socket: &impl AsFd, to: &Name) -> Result<()> {
    // SAFETY: `to` holds `len` bytes of a socket address and outlives the call.
    check(unsafe { libc::connect(socket.as_fd().as_raw_fd(), to.bytes.as_ptr().cast(), to.len) }).map(drop)
}

/// Whether namespaces and programs in the kernel are ours to make.
pub(crate) fn is_root() -> bool {
    // SAFETY: no memory is passed, and the call cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Raises the soft limit of open files to the hard one.
pub(crate) fn raise_open_files() -> Result<u64> {
    // SAFETY: both calls get a pointer to a whole `rlimit` that outlives them.
    unsafe {
        let mut limit: libc::rlimit = zeroed();
        check(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit))?;
        limit.rlim_cur = limit.rlim_max;
        check(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit))?;
        Ok(limit.rlim_max)
    }
}

/// Binds the calling thread, and what it starts from now on, to these cores.
pub(crate) fn pin(cores: &[usize]) -> Result<()> {
    // SAFETY: an all-zero `cpu_set_t` is an empty set, and the call reads nothing beyond it.
    unsafe {
        let mut set: libc::cpu_set_t = zeroed();
        for &core in cores {
            libc::CPU_SET(core, &mut set);
        }
        check(libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)).map(drop)
    }
}

/// The cores that this process may run on.
pub(crate) fn cores() -> Result<Vec<usize>> {
    // SAFETY: the call fills the set, which is as large as it says.
    let set = unsafe {
        let mut set: libc::cpu_set_t = zeroed();
        check(libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set))?;
        set
    };
    // SAFETY: every index lies within the set.
    Ok((0..libc::CPU_SETSIZE as usize).filter(|&core| unsafe { libc::CPU_ISSET(core, &set) }).collect())
}

/// CPU time of a whole process, all its threads, kernel and user (`clock_getcpuclockid(3)`); 0 is this one.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration> {
    // SAFETY: both calls write to whole objects that outlive them.
    let time = unsafe {
        let mut clock: libc::clockid_t = 0;
        match libc::clock_getcpuclockid(pid as libc::pid_t, &raw mut clock) {
            0 => {}
            errno => return Err(Error::from_raw_os_error(errno)),
        }
        let mut time: libc::timespec = zeroed();
        check(libc::clock_gettime(clock, &raw mut time))?;
        time
    };
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// Ends this process when the one that started it ends, however that is (prctl(2), `PR_SET_PDEATHSIG`).
pub(crate) fn end_with_parent() -> Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) }).map(drop)
}

/// Leaves a descriptor open for the program that this process becomes.
pub(crate) fn inherit(fd: &impl AsFd) -> Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_SETFD, 0) }).map(drop)
}

/// Sends a signal to a process that we started.
pub(crate) fn signal(pid: u32, signal: c_int) -> Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::kill(pid as libc::pid_t, signal) }).map(drop)
}

/// A socket address as the kernel wants it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Name {
    bytes: [u8; 28],
    len: u32,
}

impl Name {
    const EMPTY: Self = Self { bytes: [0; 28], len: 0 };

    /// The bytes that mean something.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len as usize]
    }

    fn family(&self) -> c_int {
        u16::from_ne_bytes([self.bytes[0], self.bytes[1]]).into()
    }

    /// Mixes the bytes that differ between peers: port and address.
    pub(crate) fn hash(&self) -> u64 {
        let word = |at: usize| u64::from_ne_bytes(self.bytes[at..at + 8].try_into().expect("eight bytes"));
        (word(0) ^ word(16).rotate_left(23)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl From<SocketAddr> for Name {
    fn from(address: SocketAddr) -> Self {
        let mut name = Self::EMPTY;
        name.bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        let family = match address.ip() {
            IpAddr::V4(ip) => {
                name.bytes[4..8].copy_from_slice(&ip.octets());
                name.len = size_of::<libc::sockaddr_in>() as u32;
                libc::AF_INET
            }
            IpAddr::V6(ip) => {
                name.bytes[8..24].copy_from_slice(&ip.octets());
                name.len = size_of::<libc::sockaddr_in6>() as u32;
                libc::AF_INET6
            }
        };
        name.bytes[..2].copy_from_slice(&(family as u16).to_ne_bytes());
        name
    }
}

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

/// An epoll instance with room for the answers of one wait.
pub(crate) struct Epoll {
    fd: OwnedFd,
    ready: Box<[libc::epoll_event]>,
}

impl Epoll {
    /// `count` answers at most per wait.
    pub(crate) fn new(count: usize) -> Result<Self> {
        // SAFETY: no memory is passed; the descriptor is new and owned here alone.
        let fd = unsafe { OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))? as c_int) };
        Ok(Self { fd, ready: vec![libc::epoll_event { events: 0, u64: 0 }; count].into() })
    }

    /// Declares the interest in `fd`; answers carry its number.
    pub(crate) fn add(&self, fd: &impl AsRawFd, events: c_int) -> Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, events)
    }

    /// Declares another interest. What is ready already is told again.
    pub(crate) fn modify(&self, fd: &impl AsRawFd, events: c_int) -> Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, events)
    }

    fn control(&self, operation: c_int, fd: &impl AsRawFd, events: c_int) -> Result<()> {
        let mut event = libc::epoll_event { events: events as u32, u64: fd.as_raw_fd() as u64 };
        // SAFETY: `event` outlives the call, which copies it.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), operation, fd.as_raw_fd(), &raw mut event) })
            .map(drop)
    }

    /// Waits for at least one answer; their number. A signal counts as none.
    pub(crate) fn wait(&mut self) -> Result<usize> {
        let room = self.ready.len() as c_int;
        // SAFETY: `ready` has room for as many answers as the call is told.
        match check(unsafe { libc::epoll_wait(self.fd.as_raw_fd(), self.ready.as_mut_ptr(), room, -1) }) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => Ok(0),
            result => result,
        }
    }

    /// Answer `i` of the last wait: the descriptor's number and what it is ready for.
    pub(crate) fn answer(&self, i: usize) -> (usize, c_int) {
        let event = self.ready[i];
        (event.u64 as usize, event.events as c_int)
    }
}

/// `accept4(2)`: the next connection, non-blocking already.
pub(crate) fn accept(listener: &impl AsFd) -> Result<OwnedFd> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: null for the address means that none is wanted; the descriptor is new and owned here alone.
    unsafe {
        let fd = listener.as_fd().as_raw_fd();
        let fd = check(libc::accept4(fd, std::ptr::null_mut(), std::ptr::null_mut(), flags))?;
        Ok(OwnedFd::from_raw_fd(fd as c_int))
    }
}

/// Lets close reset the connection instead of leaving it in `TIME_WAIT` (socket(7), `SO_LINGER` of zero).
pub(crate) fn reset_on_close(socket: &impl AsFd) -> Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let size = size_of::<libc::linger>() as u32;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the pointer and the length describe `linger`, which outlives the call.
    check(unsafe {
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), size)
    })
    .map(drop)
}

/// `splice(2)`: moves up to `bytes` between a socket and a pipe, as pages where it can. Waits for neither of them
/// if the socket doesn't wait.
pub(crate) fn splice(from: &impl AsFd, to: &impl AsFd, bytes: usize) -> Result<usize> {
    let (from, to) = (from.as_fd().as_raw_fd(), to.as_fd().as_raw_fd());
    let flags = libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE;
    let none = std::ptr::null_mut();
    // SAFETY: null for both offsets means that there are none; no other memory is passed.
    let moved = unsafe { libc::splice(from, none, to, none, bytes, flags) };
    usize::try_from(moved).map_err(|_| Error::last_os_error())
}
