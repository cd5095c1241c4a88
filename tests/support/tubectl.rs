//! The tests' stand-in for tubectl: the two forms of registration, with its messages.

use std::env;
use std::error::Error;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use sendfd::SendWithFd;
use tubular_echo::sys::{self, Protocol};

use super::registry::{Registered, register_passed, register_pid};
use super::steer::SocketMap;
use super::sys::Pidfd;

/// Where the dispatcher's sockets are found.
pub const SOCKETS: &str = "/sys/fs/bpf/sockets";

/// `register-pid PID LABEL PROTOCOL IP PORT` and `register LABEL`, whose sockets come by `LISTEN_FDS`.
pub fn run(arguments: &[String]) -> Result<String, String> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let sockets = SocketMap::open(Path::new(SOCKETS)).map_err(|error| format!("{SOCKETS}: {error}"))?;
    match words[..] {
        ["register-pid", pid, label, protocol, ip, port] => {
            let protocol = match protocol {
                "tcp" => Protocol::Tcp,
                "udp" => Protocol::Udp,
                other => return Err(format!("unknown protocol: {other:?}")),
            };
            let pid = pid.parse().map_err(|error| format!("invalid pid {pid:?}: {error}"))?;
            let ip = ip.parse().map_err(|error| format!("invalid IP {ip:?}: {error}"))?;
            let port = port.parse().map_err(|error| format!("invalid port {port:?}: {error}"))?;
            let registered = register_pid(&sockets, pid, protocol, SocketAddr::new(ip, port))
                .map_err(|failure| format!("register-pid: pid {pid}: {failure}"))?;
            Ok(line(&registered, label))
        }
        ["register", label] => {
            // LISTEN_PID and LISTEN_FDNAMES are ignored.
            let count = env::var("LISTEN_FDS").ok().and_then(|count| count.parse::<i32>().ok());
            let count = count.filter(|count| *count > 0).ok_or("no sockets passed")?;
            let passed = sys::take_passed(&(3..3 + count).collect::<Vec<_>>());
            let registered =
                register_passed(&sockets, &passed).map_err(|failure| format!("register fd: {failure}"))?;
            let lines: Vec<_> = registered.iter().map(|registered| line(registered, label)).collect();
            Ok(lines.join("\n"))
        }
        // No command of tubectl's: has the manager's store keep sockets of a process, as it should not.
        ["store", pid, ref numbers @ ..] => store(pid, numbers).map_err(|error| error.to_string()),
        _ => Err("expected register-pid PID LABEL PROTOCOL IP PORT, or register LABEL".into()),
    }
}

fn store(pid: &str, numbers: &[&str]) -> Result<String, Box<dyn Error>> {
    let process = Pidfd::open(pid.parse()?)?;
    let manager = UnixDatagram::unbound()?;
    manager.connect(env::var("NOTIFY_SOCKET")?)?;
    for number in numbers {
        let socket = process.copy_descriptor(number.parse()?)?;
        manager.send_with_fd(b"FDSTORE=1\nFDNAME=stored-by-mistake\nFDPOLL=0", &[socket.as_raw_fd()])?;
    }
    Ok(format!("stored {}", numbers.len()))
}

fn line(registered: &Registered, label: &str) -> String {
    let Registered { cookie, protocol, address, .. } = registered;
    let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
    format!("registered socket sk:{cookie:x}: updated destination {family}:{protocol}:{label}")
}
