//! A dispatcher for tests: an `sk_lookup` program that steers bindings to registered sockets, like tubular's
//! (ebpf/inet-kern.c). It is assembled here, so that the tests need no BPF compiler.
//!
//! A binding is a protocol, a prefix and a port or all ports. The first binding that matches decides. Its destination is
//! one of four slots of a SOCKMAP, one per protocol and family. A slot without a socket drops its traffic. The program
//! calls `bpf_sk_assign` without flags, so that the kernel spreads the traffic over the socket's reuseport group.
#![allow(unsafe_code, reason = "bpf(2) has no safe wrapper")]

use std::ffi::CString;
use std::fs::File;
use std::io::{Error, Result};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ipnet::IpNet;
use tubular_echo::kernel::sys::Protocol;

/// Traffic to steer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Destination addresses.
    pub prefix: IpNet,
    /// Destination port, 0 for all.
    pub port: u16,
}

impl Binding {
    /// A binding as `tubectl bind` reads it.
    pub fn new(protocol: Protocol, prefix: &str, port: u16) -> Self {
        Self { protocol, prefix: prefix.parse().expect("a prefix such as 127.0.0.128/25"), port }
    }
}

/// The sockets that traffic is steered to, one slot for each protocol and family.
pub struct SocketMap(OwnedFd);

/// Keeps the program attached to a network namespace; dropping it detaches, unless it was pinned.
pub struct Dispatcher {
    /// The registered sockets.
    pub sockets: SocketMap,
    link: OwnedFd,
}

/// File names of the pinned objects in a directory.
const SOCKETS: &str = "sockets";
const LINK: &str = "link";

impl Dispatcher {
    /// Attaches to the calling thread's network namespace. Needs root.
    pub fn attach(bindings: &[Binding]) -> Result<Self> {
        let sockets = SocketMap::new()?;
        let program = load(&program(bindings, sockets.0.as_raw_fd()))?;
        let namespace = File::open("/proc/thread-self/ns/net")?;
        let link = bpf_fd(
            LINK_CREATE,
            &LinkCreate {
                program: program.as_raw_fd() as u32,
                target: namespace.as_raw_fd() as u32,
                attach_type: ATTACH_TYPE_SK_LOOKUP,
                flags: 0,
            },
        )?;
        Ok(Self { sockets, link })
    }

    /// Opens the dispatcher that was pinned in a directory.
    pub fn open(directory: &Path) -> Result<Self> {
        Ok(Self { sockets: SocketMap::open(directory)?, link: open(&directory.join(LINK))? })
    }

    /// Keeps the program attached, and the sockets reachable, under a directory of a BPF file system.
    pub fn pin(&self, directory: &Path) -> Result<()> {
        pin(&self.sockets.0, &directory.join(SOCKETS))?;
        pin(&self.link, &directory.join(LINK))
    }

    /// Replaces the bindings; the sockets stay the same.
    pub fn update(&self, bindings: &[Binding]) -> Result<()> {
        let program = load(&program(bindings, self.sockets.0.as_raw_fd()))?;
        let update = LinkUpdate {
            link: self.link.as_raw_fd() as u32,
            program: program.as_raw_fd() as u32,
            flags: 0,
            old_program: 0,
        };
        bpf(LINK_UPDATE, &update).map(drop)
    }

    /// Ends the steering at once. Closing the descriptors is not enough: a process that another thread has just forked
    /// holds copies of them until its execve(2).
    pub fn detach(self) -> Result<()> {
        bpf(LINK_DETACH, &LinkDetach { link: self.link.as_raw_fd() as u32 }).map(drop)
    }
}

impl SocketMap {
    fn new() -> Result<Self> {
        bpf_fd(
            MAP_CREATE,
            &MapCreate { map_type: MAP_TYPE_SOCKMAP, key_bytes: 4, value_bytes: 8, entries: 4, flags: 0 },
        )
        .map(Self)
    }

    /// Opens the map that was pinned in a directory.
    pub fn open(directory: &Path) -> Result<Self> {
        open(&directory.join(SOCKETS)).map(Self)
    }

    /// Registers `socket` in place of the one before.
    pub fn register(&self, protocol: Protocol, ip: IpAddr, socket: BorrowedFd<'_>) -> Result<()> {
        let key = slot(protocol, ip);
        let value = u64::from(socket.as_raw_fd() as u32);
        let element = MapElement {
            map: self.0.as_raw_fd() as u32,
            padding: 0,
            key: &raw const key as u64,
            value: &raw const value as u64,
            flags: 0,
        };
        bpf(MAP_UPDATE, &element).map(drop)
    }

    /// Whether a socket is registered. The kernel removes a socket when its last holder closes it.
    pub fn has(&self, protocol: Protocol, ip: IpAddr) -> bool {
        self.cookie(protocol, ip).is_some()
    }

    /// The `SO_COOKIE` of the registered socket.
    pub fn cookie(&self, protocol: Protocol, ip: IpAddr) -> Option<u64> {
        let key = slot(protocol, ip);
        let mut cookie = 0_u64;
        let element = MapElement {
            map: self.0.as_raw_fd() as u32,
            padding: 0,
            key: &raw const key as u64,
            value: &raw mut cookie as u64,
            flags: 0,
        };
        bpf(MAP_LOOKUP, &element).ok().map(|_| cookie)
    }
}

/// The slot of a destination.
fn slot(protocol: Protocol, ip: IpAddr) -> u32 {
    u32::from(protocol == Protocol::Udp) * 2 + u32::from(ip.is_ipv6())
}

fn pin(object: &OwnedFd, path: &Path) -> Result<()> {
    let name = c_path(path);
    bpf(OBJ_PIN, &Object { name: name.as_ptr() as u64, fd: object.as_raw_fd() as u32, flags: 0 }).map(drop)
}

fn open(path: &Path) -> Result<OwnedFd> {
    let name = c_path(path);
    bpf_fd(OBJ_GET, &Object { name: name.as_ptr() as u64, fd: 0, flags: 0 })
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("a path without NUL")
}

// ---- the program: instructions are (operation, registers, offset, immediate) as in linux/bpf.h ----

/// One instruction of the kernel's virtual machine.
#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction {
    operation: u8,
    /// Destination in the low half, source in the high half.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const R0: u8 = 0; // results
const R1: u8 = 1; // first argument
const R2: u8 = 2;
const R3: u8 = 3;
const CONTEXT: u8 = 6; // calls preserve this register and the next two
const SOCKET: u8 = 7;
const RESULT: u8 = 8;
const STACK: u8 = 10;

const SK_DROP: i32 = 0;
const SK_PASS: i32 = 1;

/// Offsets in `struct bpf_sk_lookup`; addresses are in network order, the local port in host order.
mod field {
    pub(super) const FAMILY: i16 = 8;
    pub(super) const PROTOCOL: i16 = 12;
    pub(super) const LOCAL_IP4: i16 = 40;
    pub(super) const LOCAL_IP6: i16 = 44;
    pub(super) const LOCAL_PORT: i16 = 60;
}

/// Kernel functions by number (linux/bpf.h, `enum bpf_func_id`).
mod call {
    pub(super) const MAP_LOOKUP_ELEM: i32 = 1;
    pub(super) const SK_RELEASE: i32 = 86;
    pub(super) const SK_ASSIGN: i32 = 124;
}

const fn instruction(operation: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { operation, registers: to | from << 4, offset, immediate }
}
const fn copy(to: u8, from: u8) -> Instruction {
    instruction(0xbf, to, from, 0, 0)
}
const fn set(to: u8, value: i32) -> Instruction {
    instruction(0xb7, to, 0, 0, value)
}
const fn add(to: u8, value: i32) -> Instruction {
    instruction(0x07, to, 0, 0, value)
}
const fn and(to: u8, mask: i32) -> Instruction {
    instruction(0x54, to, 0, 0, mask) // of the low 32 bits
}
const fn load_word(to: u8, from: u8, offset: i16) -> Instruction {
    instruction(0x61, to, from, offset, 0)
}
const fn store_word(to: u8, offset: i16, value: i32) -> Instruction {
    instruction(0x62, to, 0, offset, value)
}
const fn kernel(function: i32) -> Instruction {
    instruction(0x85, 0, 0, 0, function)
}
const fn skip_if_not_zero(value: u8, count: i16) -> Instruction {
    instruction(0x55, value, 0, count, 0)
}
const fn skip_if_zero(value: u8, count: i16) -> Instruction {
    instruction(0x15, value, 0, count, 0)
}
const EXIT: Instruction = instruction(0x95, 0, 0, 0, 0);

/// A field of the context, with the value that it must have under a mask. Both are as the kernel loads them.
struct Condition {
    field: i16,
    mask: u32,
    value: u32,
}

fn conditions(binding: &Binding) -> Vec<Condition> {
    let exactly = |field, value| Condition { field, mask: u32::MAX, value };
    let protocol = match binding.protocol {
        Protocol::Tcp => libc::IPPROTO_TCP,
        Protocol::Udp => libc::IPPROTO_UDP,
    };
    let (family, first_field, octets) = match binding.prefix.network() {
        IpAddr::V4(ip) => (libc::AF_INET, field::LOCAL_IP4, ip.octets().to_vec()),
        IpAddr::V6(ip) => (libc::AF_INET6, field::LOCAL_IP6, ip.octets().to_vec()),
    };
    let mut conditions =
        vec![exactly(field::FAMILY, family as u32), exactly(field::PROTOCOL, protocol as u32)];
    if binding.port != 0 {
        conditions.push(exactly(field::LOCAL_PORT, binding.port.into()));
    }
    let netmask = match binding.prefix.netmask() {
        IpAddr::V4(mask) => mask.octets().to_vec(),
        IpAddr::V6(mask) => mask.octets().to_vec(),
    };
    for (word, (value, mask)) in octets.chunks_exact(4).zip(netmask.chunks_exact(4)).enumerate() {
        let native = |bytes: &[u8]| u32::from_ne_bytes(bytes.try_into().expect("chunks of four"));
        let field = first_field + 4 * word as i16;
        conditions.push(Condition { field, mask: native(mask), value: native(value) });
    }
    conditions
}

/// Looks the slot's socket up, assigns it and ends the program.
fn assign(slot: u32, map_fd: i32) -> Vec<Instruction> {
    const PSEUDO_MAP_FD: u8 = 1;
    vec![
        store_word(STACK, -4, slot as i32),
        instruction(0x18, R1, PSEUDO_MAP_FD, 0, map_fd), // a 64-bit immediate takes two places
        instruction(0, 0, 0, 0, 0),
        copy(R2, STACK),
        add(R2, -4),
        kernel(call::MAP_LOOKUP_ELEM),
        skip_if_not_zero(R0, 2),
        set(R0, SK_DROP),
        EXIT,
        copy(SOCKET, R0),
        copy(R1, CONTEXT),
        copy(R2, SOCKET),
        set(R3, 0),
        kernel(call::SK_ASSIGN),
        copy(RESULT, R0),
        copy(R1, SOCKET),
        kernel(call::SK_RELEASE),
        set(R0, SK_PASS),
        skip_if_zero(RESULT, 1),
        set(R0, SK_DROP), // a socket of the wrong kind
        EXIT,
    ]
}

fn program(bindings: &[Binding], map_fd: i32) -> Vec<Instruction> {
    let mut program = vec![copy(CONTEXT, R1)];
    for binding in bindings {
        let assign = assign(slot(binding.protocol, binding.prefix.addr()), map_fd);
        let conditions = conditions(binding);
        for (at, Condition { field, mask, value }) in conditions.iter().enumerate() {
            let conditions_left = conditions.len() - at - 1;
            let to_next_binding = (3 * conditions_left + assign.len()) as i16;
            program.extend([
                load_word(R1, CONTEXT, *field),
                and(R1, *mask as i32),
                // compares 32 bits: a 64-bit comparison would sign-extend the immediate
                instruction(0x56, R1, 0, to_next_binding, *value as i32),
            ]);
        }
        program.extend(assign);
    }
    program.extend([set(R0, SK_PASS), EXIT]);
    program
}

// ---- bpf(2) ----

const MAP_CREATE: i32 = 0;
const MAP_LOOKUP: i32 = 1;
const MAP_UPDATE: i32 = 2;
const PROG_LOAD: i32 = 5;
const OBJ_PIN: i32 = 6;
const OBJ_GET: i32 = 7;
const LINK_CREATE: i32 = 28;
const LINK_UPDATE: i32 = 29;
const LINK_DETACH: i32 = 34;
const MAP_TYPE_SOCKMAP: u32 = 15;
const PROG_TYPE_SK_LOOKUP: u32 = 30;
const ATTACH_TYPE_SK_LOOKUP: u32 = 36;

// The first fields of `union bpf_attr`, one struct for each kind of command. The kernel takes the rest as zero.

#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_bytes: u32,
    value_bytes: u32,
    entries: u32,
    flags: u32,
}

#[repr(C)]
struct MapElement {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct Object {
    name: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
struct LinkDetach {
    link: u32,
}

#[repr(C)]
struct LinkUpdate {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

#[repr(C)]
struct ProgramLoad {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_bytes: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

fn load(instructions: &[Instruction]) -> Result<OwnedFd> {
    let mut log = vec![0_u8; 1 << 16];
    let mut name = [0; 16];
    name[..5].copy_from_slice(b"steer");
    let load = ProgramLoad {
        program_type: PROG_TYPE_SK_LOOKUP,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"MIT".as_ptr() as u64,
        log_level: 1,
        log_bytes: log.len() as u32,
        log: log.as_mut_ptr() as u64,
        kernel_version: 0,
        flags: 0,
        name,
        interface: 0,
        attach_type: ATTACH_TYPE_SK_LOOKUP,
    };
    bpf_fd(PROG_LOAD, &load).map_err(|error| {
        let verdict = log.split(|byte| *byte == 0).next().unwrap_or_default();
        Error::new(error.kind(), format!("{error}: {}", String::from_utf8_lossy(verdict)))
    })
}

fn bpf<T>(command: i32, attributes: &T) -> Result<i64> {
    // SAFETY: every caller passes the head of union bpf_attr that belongs to its command, and what it points
    // to outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}

fn bpf_fd<T>(command: i32, attributes: &T) -> Result<OwnedFd> {
    // SAFETY: the commands used with this return a new descriptor that nobody else owns.
    bpf(command, attributes).map(|fd| unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
