//! What the service manager hears (sd_notify(3)).
//!
//! [`Notifier::ready`] takes the proof that every worker is armed and consumes the notifier, so
//! `READY=1` is sent once and never too early, by construction. Everything works the same when
//! `NOTIFY_SOCKET` is unset; then nothing is sent.

use std::env;
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;
use sendfd::SendWithFd;

use crate::server::Armed;

const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";

/// The service manager can't be told: it would wait for a readiness that never comes.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot notify the service manager at NOTIFY_SOCKET={path}: {error}; start by `systemd-run -p Type=notify` or \
     unset NOTIFY_SOCKET"
)]
pub struct NotifyError {
    path: String,
    error: io::Error,
}

/// A descriptor that the service manager passed to us, by its number.
pub type Passed = (RawFd, String);

/// The sockets that the service manager passed, with their names (`LISTEN_FDS`, `LISTEN_FDNAMES`;
/// sd_listen_fds(3)), from a .socket unit or from its store.
pub fn passed() -> Result<Vec<Passed>, PassedError> {
    sd_notify::listen_fds_with_names().map(Iterator::collect).map_err(PassedError)
}

/// What the service manager says of the sockets that it passed can't be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read LISTEN_FDS, LISTEN_PID or LISTEN_FDNAMES: {0}; unset them or start by a .socket unit")]
pub struct PassedError(io::Error);

/// A service manager that waits for `READY=1`.
#[derive(Debug)]
pub struct Notifier(Manager);

/// A service manager that knows that we are ready.
#[derive(Debug)]
pub struct Ready(Manager);

#[derive(Debug)]
struct Manager(Option<Socket>);

#[derive(Debug)]
struct Socket {
    socket: UnixDatagram,
    path: String,
}

impl Notifier {
    /// Connects to the socket that `NOTIFY_SOCKET` names, a path or an abstract name (`@…`).
    pub fn from_env() -> Result<Self, NotifyError> {
        let Some(name) = env::var_os(SOCKET_VARIABLE).filter(|name| !name.is_empty()) else {
            return Ok(Self(Manager(None)));
        };
        let path = name.to_string_lossy().into_owned();
        let connect = || {
            // the library takes an abstract name for a path, so the connection is made here
            let addr = match name.as_bytes().strip_prefix(b"@") {
                Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name)?,
                None => SocketAddr::from_pathname(&name)?,
            };
            let socket = UnixDatagram::unbound()?;
            socket.connect_addr(&addr)?;
            Ok(socket)
        };
        match connect() {
            Ok(socket) => Ok(Self(Manager(Some(Socket { socket, path })))),
            Err(error) => Err(NotifyError { path, error }),
        }
    }

    /// Somebody listens.
    pub fn is_heard(&self) -> bool {
        self.0.0.is_some()
    }

    /// Gives a socket to the service manager's store, which passes it to the next process under `name`.
    /// `FDPOLL=0`, or it would be dropped at the first error on it.
    pub fn store(&self, name: &str, socket: BorrowedFd<'_>) -> Result<(), NotifyError> {
        let states = [NotifyState::FdStore, NotifyState::FdName(name), NotifyState::Custom("FDPOLL=0")];
        self.0.send_with(&states, &[socket])
    }

    /// Takes all sockets called `name` out of the store.
    pub fn unstore(&self, name: &str) -> Result<(), NotifyError> {
        self.0.send(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)])
    }

    /// Says that the service is up. `armed` proves it.
    pub fn ready(self, _armed: Armed, status: &str) -> Result<Ready, NotifyError> {
        self.0.send(&[NotifyState::Ready, NotifyState::Status(status)])?;
        Ok(Ready(self.0))
    }
}

impl Ready {
    /// Somebody listens.
    pub fn is_heard(&self) -> bool {
        self.0.0.is_some()
    }

    /// A line for `systemctl status`.
    pub fn status(&self, status: &str) -> Result<(), NotifyError> {
        self.0.send(&[NotifyState::Status(status)])
    }

    /// Every worker is alive.
    pub fn watchdog(&self) -> Result<(), NotifyError> {
        self.0.send(&[NotifyState::Watchdog])
    }

    /// The end has begun, and may take `timeout` from now.
    pub fn stopping(&self, timeout: Duration) -> Result<(), NotifyError> {
        // the library's own word for it ends at 32 bits, after 71 minutes
        let extension = format!("EXTEND_TIMEOUT_USEC={}", timeout.as_micros());
        self.0.send(&[
            NotifyState::Stopping,
            NotifyState::Status("draining"),
            NotifyState::Custom(&extension),
        ])
    }
}

impl Manager {
    fn send(&self, states: &[NotifyState<'_>]) -> Result<(), NotifyError> {
        self.send_with(states, &[])
    }

    fn send_with(&self, states: &[NotifyState<'_>], fds: &[BorrowedFd<'_>]) -> Result<(), NotifyError> {
        let Some(Socket { socket, path }) = &self.0 else { return Ok(()) };
        let mut message = String::new();
        for state in states {
            writeln!(message, "{state}").expect("writing to a string never fails");
        }
        let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        match socket.send_with_fd(message.as_bytes(), &fds) {
            Ok(_) => Ok(()),
            Err(error) => Err(NotifyError { path: path.clone(), error }),
        }
    }
}

/// How many sockets the service manager keeps for this unit, if it says so: `FDSTORE` (systemd 254).
pub fn store_size() -> Option<usize> {
    env::var("FDSTORE").ok()?.parse().ok()
}

/// How often the service manager wants to hear of us: `WATCHDOG_USEC`, if it is meant for this process.
pub fn watchdog_interval() -> Option<Duration> {
    // no time at all is no wish: nobody could meet it
    sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero())
}
