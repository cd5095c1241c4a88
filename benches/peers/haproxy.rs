//! haproxy in TCP mode in front of the epoll peer: a well-kept proxy that splices, not an echo server.
//!
//! Every byte crosses it twice, from the client to the peer and back, over two connections. Its own processor time
//! is measured; that of the epoll peer, on the same core, is not.

use std::io::{BufRead, BufReader, Error, Result, Write};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::kernel;

/// Debian's, if it is installed.
pub(crate) fn program() -> Option<&'static str> {
    ["haproxy", "/usr/sbin/haproxy"]
        .into_iter()
        .find(|haproxy| Command::new(haproxy).arg("-v").output().is_ok())
}

/// Becomes haproxy: the process that is measured stays the same.
pub(super) fn serve(listener: &TcpListener) -> Result<()> {
    let haproxy = program().ok_or_else(|| Error::other("no haproxy (Debian: apt-get install haproxy)"))?;
    let (configuration, mut writer) = std::io::pipe()?;
    kernel::inherit(listener)?;
    write!(
        writer,
        "global
           nbthread 1
           maxconn 2000
           tune.bufsize 65536
         defaults
           mode tcp
           option splice-auto
           timeout connect 5s
           timeout client 60s
           timeout server 60s
         frontend clients
           bind fd@{}
           default_backend echo
         backend echo
           server epoll {}\n",
        listener.as_raw_fd(),
        start_epoll_peer()?,
    )?;
    drop(writer);
    Err(Command::new(haproxy).args(["-db", "-f", "/proc/self/fd/0"]).stdin(configuration).exec())
}

/// Starts the peer behind it; its address.
fn start_epoll_peer() -> Result<String> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["serve", "epoll", "--end-with-parent"]).stdin(Stdio::null()).stderr(Stdio::piped());
    let mut peer = command.spawn()?;
    let mut line = String::new();
    BufReader::new(peer.stderr.take().expect("stderr is piped")).read_line(&mut line)?;
    match line.trim().strip_prefix("ready ") {
        Some(address) => Ok(address.to_owned()),
        None => Err(Error::other(format!("the epoll peer did not start: {line}"))),
    }
}
