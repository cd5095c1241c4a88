//! Limits of the process; names, interfaces and ports of the host.

use std::ffi::{CStr, OsStr};
use std::io;
use std::ops::RangeInclusive;

use nix::sys::resource::{self, Resource};
use nix::sys::utsname::{UtsName, uname};

use crate::values::ports::Ports;

/// Raises the soft limit of open files to the hard one, if it may, and returns what holds then (getrlimit(2)).
pub fn raise_open_files() -> io::Result<u64> {
    let (soft, hard) = resource::getrlimit(Resource::RLIMIT_NOFILE)?;
    let raised = resource::setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    Ok(if raised.is_ok() { hard } else { soft })
}

/// Limits of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryLimit {
    /// `RLIMIT_AS`.
    AddressSpace,
    /// `RLIMIT_DATA`.
    Data,
    /// `RLIMIT_MEMLOCK`.
    Locked,
}

/// Whether there is such a limit (getrlimit(2)).
pub fn is_limited(limit: MemoryLimit) -> bool {
    let resource = match limit {
        MemoryLimit::AddressSpace => Resource::RLIMIT_AS,
        MemoryLimit::Data => Resource::RLIMIT_DATA,
        MemoryLimit::Locked => Resource::RLIMIT_MEMLOCK,
    };
    resource::getrlimit(resource).is_ok_and(|(soft, _)| soft != libc::RLIM_INFINITY)
}

/// The number of an interface of the calling thread's network namespace (if_nametoindex(3)). `ENODEV`: there is none
/// of this name.
pub fn interface_index(name: &CStr) -> io::Result<u32> {
    Ok(nix::net::if_::if_nametoindex(name)?)
}

/// The kernel's release, such as `6.1.0-49-cloud-amd64` (uname(2)).
pub fn kernel_release() -> String {
    system_name(UtsName::release)
}

/// The host's name (uname(2)).
pub fn host_name() -> String {
    system_name(UtsName::nodename)
}

fn system_name(of: impl Fn(&UtsName) -> &OsStr) -> String {
    uname().map(|names| of(&names).to_string_lossy().into_owned()).unwrap_or_default()
}

/// The ports that the kernel gives to clients if nobody says otherwise (ip(7)).
pub const LOCAL_PORTS_DEFAULT: RangeInclusive<u16> = 32_768..=60_999;

/// The ports that the kernel gives to clients (`net.ipv4.ip_local_port_range`, ip(7)). Only a file tells: there is no
/// system call for it.
pub fn local_ports() -> io::Result<RangeInclusive<u16>> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let mut ports = text.split_whitespace().map(str::parse);
    match (ports.next(), ports.next()) {
        (Some(Ok(first)), Some(Ok(last))) => Ok(first..=last),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The largest receive queue that a TCP connection gets (the third number of `net.ipv4.tcp_rmem`, tcp(7)). Only a file
/// tells.
pub fn tcp_receive_queue_bytes_max() -> io::Result<u32> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_rmem")?;
    let most = text.split_whitespace().nth(2).and_then(|bytes| bytes.parse().ok());
    most.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The ports that the kernel gives to nobody who leaves the choice to it (`net.ipv4.ip_local_reserved_ports`):
/// others count on them. There is no other way to ask for them than this file.
pub fn reserved_ports() -> io::Result<Ports> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports")?;
    text.parse().map_err(|_| io::ErrorKind::InvalidData.into())
}
