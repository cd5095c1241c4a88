//! Every unsafe system call of the tests, each behind a safe function.
#![allow(unsafe_code, reason = "the tests ask the kernel for what std has no words for")]

use std::ffi::{CStr, c_int, c_long, c_void};
use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;
use std::time::Duration;

use sendfd::RecvWithFd;

/// Turns -1 into the error of errno. Any other value is the result.
fn checked(result: c_long) -> io::Result<c_long> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A terminal (openpty(3)) with lines of so many characters, 0 if it doesn't tell: the end that shows what is written, and
/// the end that a process writes to.
pub fn terminal(columns: u16) -> io::Result<(OwnedFd, OwnedFd)> {
    let (mut shown, mut written) = (-1, -1);
    let nothing = ptr::null_mut();
    let size = libc::winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: reads the size and writes two descriptors, ours alone; no name and no settings are asked for or given.
    unsafe {
        checked(
            libc::openpty(&raw mut shown, &raw mut written, nothing, ptr::null(), &raw const size).into(),
        )?;
        Ok((OwnedFd::from_raw_fd(shown), OwnedFd::from_raw_fd(written)))
    }
}

// Processes ------------------------------------------------------------------------------------------

/// The processor time that a process has used so far (clock_getcpuclockid(3)).
pub fn cpu_time_of(pid: u32) -> Duration {
    // SAFETY: both calls write to locals; timespec is plain data.
    unsafe {
        let mut clock: libc::clockid_t = 0;
        assert_eq!(libc::clock_getcpuclockid(pid as i32, &raw mut clock), 0, "the clock of process {pid}");
        let mut time: libc::timespec = mem::zeroed();
        checked(libc::clock_gettime(clock, &raw mut time).into()).expect("clock_gettime");
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }
}

/// Sets the soft limit of another process of this user (prlimit(2)). Returns the old limit.
pub fn set_soft_limit(pid: u32, resource: libc::__rlimit_resource_t, value: u64) -> u64 {
    // SAFETY: both calls get valid rlimits that outlive them, and otherwise integers.
    unsafe {
        let mut limit: libc::rlimit = mem::zeroed();
        let prlimit = |new, old| checked(libc::prlimit(pid as i32, resource, new, old).into());
        prlimit(ptr::null(), &raw mut limit).expect("read the limit");
        let before = mem::replace(&mut limit.rlim_cur, value);
        prlimit(&raw const limit, ptr::null_mut()).expect("set the limit");
        before
    }
}

/// A handle on a process. It never refers to another process, even if the number is used again.
pub struct Pidfd(OwnedFd);

impl Pidfd {
    /// `pidfd_open(2)`.
    pub fn open(pid: u32) -> io::Result<Self> {
        // SAFETY: takes two integers; a result that is not -1 is a new descriptor, ours alone.
        unsafe {
            let fd = checked(libc::syscall(libc::SYS_pidfd_open, pid as c_int, 0))?;
            Ok(Self(OwnedFd::from_raw_fd(fd as RawFd)))
        }
    }

    /// `pidfd_send_signal(2)`.
    pub fn signal(&self, signal: c_int) -> io::Result<()> {
        let fd = self.0.as_raw_fd();
        // SAFETY: a null siginfo pointer is allowed and means what kill(2) would fill in.
        unsafe { checked(libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, ptr::null::<c_void>(), 0)) }
            .map(drop)
    }

    /// Whether the process ends within this time. It stays a zombie until its parent waits for it.
    pub fn ends_within(&self, patience: Duration) -> bool {
        poll(&mut [poll_entry(&self.0, libc::POLLIN)], patience) == 1
    }

    /// `pidfd_getfd(2)`: duplicates a descriptor of the process.
    pub fn copy_descriptor(&self, number: RawFd) -> io::Result<OwnedFd> {
        // SAFETY: takes three integers; a result that is not -1 is a new descriptor, ours alone.
        unsafe {
            let fd = checked(libc::syscall(libc::SYS_pidfd_getfd, self.0.as_raw_fd(), number, 0))?;
            Ok(OwnedFd::from_raw_fd(fd as RawFd))
        }
    }
}

/// Makes a pipe as small as the kernel allows (fcntl(2), `F_SETPIPE_SZ`). Returns its size in bytes.
pub fn make_pipe_small(pipe: &impl AsFd) -> usize {
    // SAFETY: F_SETPIPE_SZ takes two integers and touches no memory.
    let bytes = unsafe { libc::fcntl(pipe.as_fd().as_raw_fd(), libc::F_SETPIPE_SZ, 1) };
    usize::try_from(bytes).expect("a small pipe")
}

/// Pipes that count for this user, until they are closed: each has room for `bytes` (pipe(7), "/proc/sys/fs/pipe-user-pages-soft").
/// Needs root.
pub fn pipes_of_user(user: u32, count: usize, bytes: usize) -> io::Result<Vec<OwnedFd>> {
    /// Of the calling thread alone: the C library's setreuid(3) changes all threads.
    fn become_real_user(user: u32) -> io::Result<()> {
        // SAFETY: setreuid(2) takes two integers and touches no memory.
        unsafe { checked(libc::syscall(libc::SYS_setreuid, user, -1)) }.map(drop)
    }
    become_real_user(user)?;
    let pipes = (0..count).map(|_| {
        let (reads, writes) = io::pipe()?;
        // SAFETY: F_SETPIPE_SZ takes two integers and touches no memory.
        unsafe { checked(libc::fcntl(reads.as_raw_fd(), libc::F_SETPIPE_SZ, bytes as c_int).into())? };
        Ok([reads.into(), writes.into()])
    });
    let pipes: io::Result<Vec<[OwnedFd; 2]>> = pipes.collect();
    become_real_user(0)?;
    Ok(pipes?.into_iter().flatten().collect())
}

/// Sets `O_NONBLOCK` on an open file, for all processes that share it (fcntl(2)).
pub fn make_nonblocking(file: &impl AsFd) {
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: both commands take integers and touch no memory.
    let outcome = unsafe {
        checked(libc::fcntl(fd, libc::F_GETFL).into()).and_then(|flags| {
            checked(libc::fcntl(fd, libc::F_SETFL, flags as c_int | libc::O_NONBLOCK).into())
        })
    };
    outcome.expect("O_NONBLOCK");
}

/// Makes the command start its process with this signal ignored, as nohup(1) does.
pub fn ignore_signal(command: &mut Command, signal: c_int) {
    // SAFETY: the closure makes a system call only: it neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(move || {
            if libc::signal(signal, libc::SIG_IGN) == libc::SIG_ERR {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

/// Receives one message and the descriptors that came with it, at most eight (unix(7), SCM_RIGHTS).
pub fn receive_descriptors(socket: &UnixDatagram, message: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut numbers = [-1; 8];
    let (len, count) = socket.recv_with_fd(message, &mut numbers)?;
    // SAFETY: the kernel has just made these descriptors, for us alone.
    let own = |number: &RawFd| unsafe { OwnedFd::from_raw_fd(*number) };
    // the received descriptor survives execve(2), the copy does not
    let copies = numbers[..count].iter().map(|number| own(number).try_clone());
    Ok((len, copies.collect::<io::Result<_>>()?))
}

/// Makes the command pass these descriptors to its process, from number 3 on, and one more at `extra_number`.
pub fn pass(command: &mut Command, descriptors: Vec<OwnedFd>, extra: OwnedFd, extra_number: RawFd) {
    /// The first number that no test program uses: each has far fewer open files at this point.
    const PARKED_FROM: RawFd = 1000;
    // SAFETY: the closure makes system calls only: it neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(move || {
            // first move all of them up, so that none overwrites another
            for from in descriptors.iter().chain([&extra]) {
                checked(libc::fcntl(from.as_raw_fd(), libc::F_DUPFD_CLOEXEC, PARKED_FROM).into())?;
            }
            let parked = PARKED_FROM..;
            let places = (3..3 + descriptors.len() as RawFd).chain([extra_number]);
            for (parked, place) in parked.zip(places) {
                checked(libc::dup2(parked, place).into())?;
            }
            Ok(())
        });
    }
}

/// Makes the kernel kill the command's process when the thread that starts it ends.
pub fn die_with_us(command: &mut Command) {
    // SAFETY: the closure makes one system call.
    unsafe {
        command.pre_exec(|| checked(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL).into()).map(drop));
    }
}

/// Makes the command's process enter the control group of this `cgroup.procs` before it begins.
pub fn enter_group(command: &mut Command, procs: &std::path::Path) {
    use std::os::unix::ffi::OsStrExt;
    let procs = std::ffi::CString::new(procs.as_os_str().as_bytes()).expect("a path");
    // SAFETY: the closure makes system calls only, on memory allocated before the fork.
    unsafe {
        command.pre_exec(move || {
            let fd = checked(libc::open(procs.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC).into())?;
            // 0 means the writing process
            checked(libc::write(fd as c_int, c"0".as_ptr().cast(), 1) as c_long).map(drop)
        });
    }
}

/// A system call that fails in the started process, as if the kernel had refused it.
#[derive(Clone, Copy)]
pub struct Denied {
    /// The number of the system call, as in `libc::SYS_…`.
    pub call: c_long,
    /// If set, the call fails only with this first argument (such as the family of `socket`).
    pub first_argument: Option<u32>,
    /// If set, the call fails only with this second argument (such as the operation of `io_uring_register`).
    pub second_argument: Option<u32>,
    /// The errno of the failed call.
    pub errno: c_int,
}

/// Restrictions of a started process, applied between fork and exec.
pub struct Confinement {
    /// `RLIMIT_…` and its soft and hard value.
    pub limits: Vec<(libc::__rlimit_resource_t, u64)>,
    /// The system calls that seccomp refuses.
    pub denied: Vec<Denied>,
}

/// Makes the command start its process with these restrictions and with descriptors 0, 1 and 2 only. The kernel kills it
/// when the thread that starts it ends.
pub fn confine(command: &mut Command, confinement: Confinement) {
    let filter = seccomp_filter(&confinement.denied);
    let limits = confinement.limits;
    // SAFETY: the closure runs in the forked child, where only async-signal-safe functions may be
    // called: it makes system calls on memory allocated before the fork, and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            checked(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL).into())?;
            checked(libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC))?;
            for &(resource, value) in &limits {
                let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
                checked(libc::setrlimit(resource, &raw const limit).into())?;
            }
            if filter.len() > 1 {
                let program =
                    libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
                checked(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
                let mode = libc::SECCOMP_MODE_FILTER;
                checked(libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program).into())?;
            }
            Ok(())
        });
    }
}

/// The classic BPF program that refuses these calls and allows all others.
fn seccomp_filter(denied: &[Denied]) -> Vec<libc::sock_filter> {
    // Offsets in struct seccomp_data: `nr` is the first word, the low halves of args[0] and args[1] are at 16 and 24.
    const NUMBER: u32 = 0;
    const FIRST_ARGUMENT: u32 = 16;
    const SECOND_ARGUMENT: u32 = 24;
    // the flag that io_uring_register(2) has in its operation if the ring's own descriptor is registered
    const REGISTERED_RING: u32 = 1 << 31;
    let load = |offset| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
    let skip_unless = |value, skipped| libc::sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt: 0,
        jf: skipped,
        k: value,
    };
    let answer = |verdict| statement(libc::BPF_RET | libc::BPF_K, verdict);
    let mut program = Vec::new();
    for rule in denied {
        program.push(load(NUMBER));
        if let Some(value) = rule.second_argument {
            program.push(skip_unless(rule.call as u32, 4));
            program.push(load(SECOND_ARGUMENT));
            program.push(statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, !REGISTERED_RING));
            program.push(skip_unless(value, 1));
        } else if let Some(value) = rule.first_argument {
            program.push(skip_unless(rule.call as u32, 3));
            program.push(load(FIRST_ARGUMENT));
            program.push(skip_unless(value, 1));
        } else {
            program.push(skip_unless(rule.call as u32, 1));
        }
        program.push(answer(libc::SECCOMP_RET_ERRNO | rule.errno as u32));
    }
    program.push(answer(libc::SECCOMP_RET_ALLOW));
    program
}

fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// Raises the soft limit of descriptors of this process to the hard one, for a thousand connections.
pub fn raise_file_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a valid rlimit that outlives them.
    unsafe {
        checked(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit).into()).expect("read the limit");
        limit.rlim_cur = limit.rlim_max;
        checked(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit).into()).expect("raise the limit");
    }
}

/// Processor time of this process and of its children that it has waited for (getrusage(2)).
pub fn cpu_time() -> Duration {
    let of = |who| {
        // SAFETY: rusage is plain data, for which all zeroes is a valid value; the call fills it in.
        let usage = unsafe {
            let mut usage: libc::rusage = mem::zeroed();
            checked(libc::getrusage(who, &raw mut usage).into()).expect("getrusage");
            usage
        };
        let time = |time: libc::timeval| {
            Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
        };
        time(usage.ru_utime) + time(usage.ru_stime)
    };
    of(libc::RUSAGE_SELF) + of(libc::RUSAGE_CHILDREN)
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    // SAFETY: geteuid(2) has no arguments and never fails.
    unsafe { libc::geteuid() == 0 }
}

// Network namespaces ---------------------------------------------------------------------------------

/// Moves the calling thread into a new network namespace.
pub fn unshare_network() -> io::Result<()> {
    // SAFETY: takes flags only; CLONE_NEWNET concerns the calling thread alone.
    unsafe { checked(libc::unshare(libc::CLONE_NEWNET).into()) }.map(drop)
}

/// Moves the calling thread into this network namespace.
pub fn join_network(namespace: &impl AsFd) -> io::Result<()> {
    // SAFETY: takes a descriptor that is open for the whole call, and a flag.
    unsafe { checked(libc::setns(namespace.as_fd().as_raw_fd(), libc::CLONE_NEWNET).into()) }.map(drop)
}

/// Brings the loopback device up, as `ip link set lo up` would.
pub fn raise_loopback() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: ifreq is plain data, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = libc::IFF_UP as i16;
    // SAFETY: netdevice(7): SIOCSIFFLAGS reads an ifreq, which outlives the call.
    unsafe { checked(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request).into()) }
        .map(drop)
}

/// Switches an offload of a device of the calling thread's namespace on or off: `command` is one of ethtool's that set one
/// flag (linux/ethtool.h, `ETHTOOL_S…`).
pub fn set_offload(device: &str, command: u32, is_on: bool) -> io::Result<()> {
    /// The ioctl of all commands (linux/sockios.h).
    const SIOCETHTOOL: libc::Ioctl = 0x8946;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    let mut value = [command, is_on.into()];
    // SAFETY: ifreq is plain data, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(device.bytes().take(libc::IFNAMSIZ - 1)) {
        *place = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    // SAFETY: netdevice(7): SIOCETHTOOL reads an ifreq and the `struct ethtool_value` of two words that it points to. Both
    // outlive the call.
    unsafe { checked(libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request).into()) }.map(drop)
}

/// The number of a network device, which is the scope of its link-local addresses.
pub fn device_number(name: &CStr) -> io::Result<u32> {
    // SAFETY: if_nametoindex(3) reads a C string, which outlives the call.
    let number = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if number == 0 { Err(io::Error::last_os_error()) } else { Ok(number) }
}

// Sockets --------------------------------------------------------------------------------------------

/// Sets a socket option whose value is an int.
pub fn set_option(socket: &impl AsFd, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    set_option_bytes(socket, level, name, &value.to_ne_bytes())
}

/// Sets a socket option of any shape.
pub fn set_option_bytes(socket: &impl AsFd, level: c_int, name: c_int, value: &[u8]) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    unsafe { checked(libc::setsockopt(fd, level, name, value.as_ptr().cast(), value.len() as u32).into()) }
        .map(drop)
}

/// A socket option whose value is an int.
pub fn option(socket: &impl AsFd, level: c_int, name: c_int) -> io::Result<c_int> {
    let mut value = [0; 4];
    option_bytes(socket, level, name, &mut value)?;
    Ok(c_int::from_ne_bytes(value))
}

/// The socket's `SO_COOKIE`: all descriptors of one socket have the same number, and no other socket has it.
pub fn socket_identity(socket: &impl AsFd) -> io::Result<u64> {
    let mut value = [0; 8];
    option_bytes(socket, libc::SOL_SOCKET, libc::SO_COOKIE, &mut value)?;
    Ok(u64::from_ne_bytes(value))
}

fn option_bytes(socket: &impl AsFd, level: c_int, name: c_int, value: &mut [u8]) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    let mut len = value.len() as u32;
    // SAFETY: the pointer and the length describe `value`; both outlive the call.
    unsafe { checked(libc::getsockopt(fd, level, name, value.as_mut_ptr().cast(), &raw mut len).into()) }
        .map(drop)
}

/// Makes `close` send a reset instead of a FIN: `SO_LINGER` with a time of zero (socket(7)).
pub fn reset_on_close(socket: &impl AsFd) {
    let on_and_zero = [1_i32.to_ne_bytes(), 0_i32.to_ne_bytes()].concat();
    set_option_bytes(socket, libc::SOL_SOCKET, libc::SO_LINGER, &on_and_zero).expect("SO_LINGER");
}

/// Bytes in a connection's send buffer that the peer's kernel has not acknowledged yet (`SIOCOUTQ`, tcp(7)).
pub fn unacknowledged_bytes(stream: &impl AsFd) -> usize {
    let mut bytes: c_int = 0;
    // SAFETY: SIOCOUTQ, which has the number of TIOCOUTQ, writes one int, which outlives the call.
    unsafe { checked(libc::ioctl(stream.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes).into()) }
        .expect("SIOCOUTQ");
    bytes as usize
}

/// A socket that sees every packet that passes a device of the calling thread's namespace, with its link-layer
/// header (packet(7)). Needs root.
pub fn packet_socket(family: u16) -> io::Result<OwnedFd> {
    let protocol = c_int::from(family.to_be());
    // SAFETY: socket(2) takes no memory; a result that is not -1 is a new descriptor, ours alone.
    unsafe {
        let fd =
            checked(libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol).into())?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// Sends one urgent byte, `MSG_OOB` (tcp(7)).
pub fn send_urgent(stream: &impl AsFd, byte: u8) -> io::Result<()> {
    let fd = stream.as_fd().as_raw_fd();
    // SAFETY: send(2) reads one byte from a local that outlives the call.
    unsafe { checked(libc::send(fd, (&raw const byte).cast(), 1, libc::MSG_OOB) as i64) }.map(drop)
}

/// One entry for [`poll`]; `events` as in poll(2).
pub fn poll_entry(file: &impl AsFd, events: i16) -> libc::pollfd {
    libc::pollfd { fd: file.as_fd().as_raw_fd(), events, revents: 0 }
}

/// `poll(2)`: the number of entries with an event; zero if `patience` has passed.
pub fn poll(entries: &mut [libc::pollfd], patience: Duration) -> usize {
    let patience_ms = patience.as_millis() as c_int;
    loop {
        // SAFETY: the pointer and the count describe `entries`, which outlives the call.
        let ready = unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, patience_ms) };
        match checked(ready.into()) {
            Ok(count) => return count as usize,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
}

/// Room for the control messages of one datagram, aligned as cmsg(3) asks.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Sends one message that the kernel cuts into datagrams of `segment_bytes` each (`UDP_SEGMENT`, udp(7)). The last one may
/// be shorter.
pub fn send_train(
    socket: &impl AsFd,
    to: SocketAddr,
    payload: &[u8],
    segment_bytes: u16,
) -> io::Result<usize> {
    let (mut name, name_len) = to_kernel(to);
    let mut control = Control([0; 64]);
    let mut bytes = libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
    // SAFETY: msghdr is plain data, for which all zeroes is a valid value. Every pointer in it is to a
    // local or to `payload` and outlives the call. cmsg(3): CMSG_FIRSTHDR is not null, because
    // msg_controllen has room for one header and a u16, and CMSG_DATA points into `control`.
    unsafe {
        let mut message: libc::msghdr = mem::zeroed();
        message.msg_name = (&raw mut name).cast();
        message.msg_namelen = name_len;
        message.msg_iov = &raw mut bytes;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(size_of::<u16>() as u32) as usize;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_UDP;
        (*header).cmsg_type = libc::UDP_SEGMENT;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as u32) as usize;
        libc::CMSG_DATA(header).cast::<u16>().write_unaligned(segment_bytes);
        checked(libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const message, 0) as c_long)
            .map(|sent| sent as usize)
    }
}

/// The result of one `recvmsg(2)`: the payload, its sender, and the size of the datagrams in it if the kernel delivered a
/// train (`UDP_GRO`).
pub struct Arrival {
    pub payload: Vec<u8>,
    pub from: SocketAddr,
    pub segment_bytes: Option<usize>,
    /// Its TOS or traffic class, if the socket asks for it (`IP_RECVTOS`, `IPV6_RECVTCLASS`).
    pub traffic_class: Option<u8>,
    /// When the kernel received it (`CLOCK_REALTIME`), in nanoseconds, if the socket asks for it (`SO_TIMESTAMPNS`).
    pub received_ns: Option<i64>,
}

/// Receives one message. The buffer is large enough for any datagram and any train.
pub fn receive(socket: &impl AsFd) -> io::Result<Arrival> {
    let mut payload = vec![0; 1 << 16];
    let mut control = Control([0; 64]);
    let mut bytes = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
    // SAFETY: msghdr and sockaddr_storage are plain data, for which all zeroes is a valid value.
    // Every pointer in the message is to a local that outlives the call. The headers are walked by the
    // macros of cmsg(3), within what the kernel says it wrote; UDP_GRO and IPV6_TCLASS carry an int,
    // IP_TOS a byte, SCM_TIMESTAMPNS a timespec.
    unsafe {
        let mut name: libc::sockaddr_storage = mem::zeroed();
        let mut message: libc::msghdr = mem::zeroed();
        message.msg_name = (&raw mut name).cast();
        message.msg_namelen = size_of::<libc::sockaddr_storage>() as u32;
        message.msg_iov = &raw mut bytes;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control.0.len();
        let len = checked(libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, 0) as c_long)?;
        assert_eq!(message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC), 0, "a reply was cut short");
        payload.truncate(len as usize);
        let (mut segment_bytes, mut traffic_class, mut received_ns) = (None, None, None);
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if ((*header).cmsg_level, (*header).cmsg_type) == (libc::SOL_UDP, libc::UDP_GRO) {
                segment_bytes = Some(libc::CMSG_DATA(header).cast::<c_int>().read_unaligned() as usize);
            }
            match ((*header).cmsg_level, (*header).cmsg_type) {
                (libc::SOL_IP, libc::IP_TOS) => traffic_class = Some(libc::CMSG_DATA(header).read()),
                (libc::SOL_IPV6, libc::IPV6_TCLASS) => {
                    traffic_class = Some(libc::CMSG_DATA(header).cast::<c_int>().read_unaligned() as u8);
                }
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                    let time = libc::CMSG_DATA(header).cast::<libc::timespec>().read_unaligned();
                    received_ns = Some(time.tv_sec * 1_000_000_000 + time.tv_nsec);
                }
                _ => {}
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
        Ok(Arrival { payload, from: from_kernel(&name), segment_bytes, traffic_class, received_ns })
    }
}

/// An address as the kernel wants it, and its length.
fn to_kernel(address: SocketAddr) -> (libc::sockaddr_storage, u32) {
    // SAFETY: sockaddr_storage is plain data, larger than and aligned for every socket address.
    unsafe {
        let mut storage: libc::sockaddr_storage = mem::zeroed();
        let len = match address {
            SocketAddr::V4(v4) => {
                let name = &mut *(&raw mut storage).cast::<libc::sockaddr_in>();
                name.sin_family = libc::AF_INET as u16;
                name.sin_port = v4.port().to_be();
                name.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                let name = &mut *(&raw mut storage).cast::<libc::sockaddr_in6>();
                name.sin6_family = libc::AF_INET6 as u16;
                name.sin6_port = v6.port().to_be();
                name.sin6_addr.s6_addr = v6.ip().octets();
                name.sin6_scope_id = v6.scope_id();
                size_of::<libc::sockaddr_in6>()
            }
        };
        (storage, len as u32)
    }
}

/// The address that the kernel wrote.
fn from_kernel(storage: &libc::sockaddr_storage) -> SocketAddr {
    // SAFETY: the family says which socket address the storage holds; it has room for either.
    unsafe {
        if c_int::from(storage.ss_family) == libc::AF_INET {
            let name = &*ptr::from_ref(storage).cast::<libc::sockaddr_in>();
            let ip = Ipv4Addr::from(name.sin_addr.s_addr.to_ne_bytes());
            SocketAddr::new(IpAddr::V4(ip), u16::from_be(name.sin_port))
        } else {
            let name = &*ptr::from_ref(storage).cast::<libc::sockaddr_in6>();
            let ip = Ipv6Addr::from(name.sin6_addr.s6_addr);
            SocketAddrV6::new(ip, u16::from_be(name.sin6_port), 0, name.sin6_scope_id).into()
        }
    }
}

/// The local address of a socket (`getsockname(2)`).
pub fn local_address(socket: &impl AsFd) -> io::Result<SocketAddr> {
    // SAFETY: sockaddr_storage is plain data; the pointers are to locals that outlive the call.
    unsafe {
        let mut name: libc::sockaddr_storage = mem::zeroed();
        let mut len = size_of::<libc::sockaddr_storage>() as u32;
        let fd = socket.as_fd().as_raw_fd();
        checked(libc::getsockname(fd, (&raw mut name).cast(), &raw mut len).into())?;
        Ok(from_kernel(&name))
    }
}

/// Connects a socket, `connect(2)`.
pub fn connect(socket: &impl AsFd, target: SocketAddr) -> io::Result<()> {
    let (name, len) = to_kernel(target);
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the pointer and the length describe a local that outlives the call.
    unsafe { checked(libc::connect(fd, (&raw const name).cast(), len).into()) }.map(drop)
}

/// Whether any process has a UDP socket bound to exactly this address in the thread's network namespace (proc(5),
/// /proc/net/udp).
pub fn is_bound(address: SocketAddr) -> io::Result<bool> {
    let list = if address.is_ipv4() { "udp" } else { "udp6" };
    let list = std::fs::read_to_string(format!("/proc/thread-self/net/{list}"))?;
    // words of four bytes in host order, in hexadecimal
    let octets = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let words = octets.chunks_exact(4).map(|word| u32::from_ne_bytes(word.try_into().expect("four bytes")));
    let words: Vec<_> = words.map(|word| format!("{word:08X}")).collect();
    let name = format!("{}:{:04X}", words.concat(), address.port());
    Ok(list.lines().skip(1).any(|line| line.split_whitespace().nth(1) == Some(&name)))
}

/// Whether the socket has a peer (`getpeername(2)`).
pub fn has_peer(socket: &impl AsFd) -> bool {
    // SAFETY: as in `local_address`.
    unsafe {
        let mut name: libc::sockaddr_storage = mem::zeroed();
        let mut len = size_of::<libc::sockaddr_storage>() as u32;
        libc::getpeername(socket.as_fd().as_raw_fd(), (&raw mut name).cast(), &raw mut len) == 0
    }
}
