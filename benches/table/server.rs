//! Servers as processes: ours, the peers of this program, and what this machine has of the one in Go and haproxy.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::rows::Side;
use crate::kernel;
use crate::load::Result;
use crate::peers::haproxy;

const OURS: &str = env!("CARGO_BIN_EXE_tubular-echo");
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// What this machine has.
pub(crate) struct Available {
    /// The help text of our server: it lists the flags that exist.
    help: String,
    /// The Go peer, built
    go: std::result::Result<PathBuf, String>,
}

impl Available {
    pub(crate) fn look() -> Result<Self> {
        let help = Command::new(OURS).arg("--help").output()?;
        Ok(Self { help: String::from_utf8_lossy(&help.stdout).into_owned(), go: build_go() })
    }

    /// What a side needs and this machine does not have.
    pub(super) fn missing(&self, side: &Side) -> Option<String> {
        let line = match side.steered() {
            Some(_) if !kernel::is_root() => return Some("steering needs root".into()),
            Some((_, line)) => line,
            None => side.server,
        };
        let mut words = line.split_whitespace();
        match words.next() {
            Some("tubular-echo") => words
                .find(|word| word.starts_with("--") && !self.help.contains(word))
                .map(|flag| format!("the server has no {flag}")),
            Some("go" | "go-netip") => self.go.as_ref().err().cloned(),
            Some("haproxy") if haproxy::program().is_none() => {
                Some("no haproxy (Debian: apt-get install haproxy)".into())
            }
            _ => None,
        }
    }
}

/// Builds the Go peer beside this program.
fn build_go() -> std::result::Result<PathBuf, String> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/go/main.go");
    let program = std::env::current_exe().map_err(|e| e.to_string())?.with_file_name("go-peer");
    let go = ["go", "/usr/lib/go/bin/go", "/usr/local/go/bin/go"]
        .into_iter()
        .find(|go| Command::new(go).arg("version").output().is_ok())
        .ok_or("no Go toolchain (Debian: apt-get install golang-go)")?;
    let built = Command::new(go).arg("build").arg("-o").args([&program, Path::new(source)]).output();
    match built {
        Ok(built) if built.status.success() => Ok(program),
        Ok(built) => Err(format!("go build: {}", String::from_utf8_lossy(&built.stderr))),
        Err(e) => Err(format!("go build: {e}")),
    }
}

/// A running server; killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    log: Receiver<String>,
}

impl Server {
    /// Starts it on an address of its own and waits until it is ready.
    pub(crate) fn start(line: &str, ip: IpAddr, available: &Available) -> Result<Self> {
        let address = free_address(ip)?;
        let (name, flags) = line.split_once(' ').unwrap_or((line, ""));
        let mut command = match name {
            "tubular-echo" => Command::new(OURS),
            "go" | "go-netip" => Command::new(available.go.as_ref().map_err(Clone::clone)?),
            // Another build of ours, say.
            path if path.contains('/') => Command::new(path),
            peer => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["serve", peer]);
                command
            }
        };
        if name == "go-netip" {
            command.arg("-netip");
        }
        command.args(flags.split_whitespace()).arg("--listen").arg(address.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| format!("{line}: {e}"))?;
        let log = follow(child.stderr.take().expect("stderr is piped"));
        let server = Self { child, address, log };
        server.wait_until_ready().map_err(|e| format!("{line}: {e}"))?;
        Ok(server)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_until_ready(&self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        let mut log = String::new();
        loop {
            match self.log.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.split_whitespace().any(|word| word == "ready") => return Ok(()),
                Ok(line) => log = format!("{log}\n{line}"),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("not ready within {START_TIMEOUT:?}{log}").into());
                }
                Err(RecvTimeoutError::Disconnected) => return Err(format!("ended at once{log}").into()),
            }
        }
    }

    /// What the server has logged since it was ready.
    pub(crate) fn last_words(&self) -> String {
        self.log.try_iter().fold(String::new(), |words, line| words + "\n    " + &line)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its address is never used again, so nothing depends on how it ends.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads the log as it comes, so that the server never waits for us.
fn follow(stderr: ChildStderr) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(std::result::Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Below the ports that Linux gives to clients (ip_local_port_range, ip(7)): no client takes it before the server does.
const FIRST_PORT: u16 = 20_000;
const LAST_PORT: u16 = 32_000;

/// A port that is free for both protocols.
fn free_address(ip: IpAddr) -> Result<SocketAddr> {
    // several benches at a time begin at different places
    let first = std::process::id() as u16 % (LAST_PORT - FIRST_PORT);
    (FIRST_PORT + first..LAST_PORT)
        .chain(FIRST_PORT..FIRST_PORT + first)
        .map(|port| SocketAddr::new(ip, port))
        .find(|address| TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok())
        .ok_or_else(|| format!("no port between {FIRST_PORT} and {LAST_PORT} is free").into())
}
