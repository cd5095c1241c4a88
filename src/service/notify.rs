//! What the service manager hears (sd_notify(3)).
//!
//! [`Notifier::ready`] takes the proof that every worker is armed and consumes the notifier, so
//! `READY=1` is sent once and never too early, by construction. Everything works the same when
//! `NOTIFY_SOCKET` is unset; then nothing is sent.
//!
//! No message waits for a manager that does not read, since the same thread hears signals. What must arrive, `READY=1`,
//! `STOPPING=1` and what leaves the store, is owed: it is tried again until it goes, and nothing overtakes it. Other
//! messages are dropped, counted, and followed by newer ones. Only before anything is served sockets for the store
//! wait, for a while: without them a restart loses what is queued.

use std::collections::VecDeque;
use std::env;
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use sendfd::SendWithFd;

use crate::kernel::sys;
use crate::service::workers::Armed;
use crate::values::counter::Counter;

const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";
/// How long a manager may read nothing before the start goes on without its store.
const STORE_PATIENCE: Duration = Duration::from_secs(5);
/// How often what is owed is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

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

/// A service manager that has been told that we are ready, or will be.
#[derive(Debug)]
pub struct Ready(Manager);

#[derive(Debug)]
struct Manager {
    connection: Option<Connection>,
    /// What must arrive and has not, in order.
    owed: VecDeque<String>,
    dropped: Arc<Counter>,
}

#[derive(Debug)]
struct Connection {
    socket: UnixDatagram,
    addr: SocketAddr,
    path: String,
}

impl Notifier {
    /// Connects to the socket that `NOTIFY_SOCKET` names, a path or an abstract name (`@…`). `dropped` counts what it
    /// does not take.
    pub fn from_env(dropped: Arc<Counter>) -> Result<Self, NotifyError> {
        let owed = VecDeque::new();
        let Some(name) = env::var_os(SOCKET_VARIABLE).filter(|name| !name.is_empty()) else {
            return Ok(Self(Manager { connection: None, owed, dropped }));
        };
        let path = name.to_string_lossy().into_owned();
        let connect = || {
            // the library takes an abstract name for a path, so the connection is made here
            let addr = match name.as_bytes().strip_prefix(b"@") {
                Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name)?,
                None => SocketAddr::from_pathname(&name)?,
            };
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            socket.connect_addr(&addr)?;
            Ok((socket, addr))
        };
        match connect() {
            Ok((socket, addr)) => {
                Ok(Self(Manager { connection: Some(Connection { socket, addr, path }), owed, dropped }))
            }
            Err(error) => Err(NotifyError { path, error }),
        }
    }

    /// Somebody listens.
    pub fn is_heard(&self) -> bool {
        self.0.connection.is_some()
    }

    /// Gives a socket to the service manager's store, which passes it to the next process under `name`.
    /// `FDPOLL=0`, or it would be dropped at the first error on it. `false`: the manager does not take it.
    pub fn store(&mut self, name: &str, socket: BorrowedFd<'_>) -> Result<bool, NotifyError> {
        let states = [NotifyState::FdStore, NotifyState::FdName(name), NotifyState::Custom("FDPOLL=0")];
        Ok(self.0.is_paid() && self.0.send_patiently(&text(&states), &[socket])?)
    }

    /// Takes all sockets called `name` out of the store, now or later.
    pub fn unstore(&mut self, name: &str) -> Result<(), NotifyError> {
        let removal = text(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
        if !self.0.is_paid() || !self.0.send_patiently(&removal, &[])? {
            self.0.owed.push_back(removal);
        }
        Ok(())
    }

    /// Says that the service is up, now or as soon as the manager reads. `armed` proves it.
    pub fn ready(mut self, _armed: Armed, status: &str) -> Result<Ready, NotifyError> {
        self.0.owe(&[NotifyState::Ready, NotifyState::Status(status)])?;
        Ok(Ready(self.0))
    }
}

impl Ready {
    /// Somebody listens.
    pub fn is_heard(&self) -> bool {
        self.0.connection.is_some()
    }

    /// A line for `systemctl status`.
    pub fn status(&mut self, status: &str) -> Result<(), NotifyError> {
        self.0.send_or_drop(&[NotifyState::Status(status)])
    }

    /// Every worker is alive.
    pub fn watchdog(&mut self) -> Result<(), NotifyError> {
        self.0.send_or_drop(&[NotifyState::Watchdog])
    }

    /// The end has begun, and may take `timeout` from now.
    pub fn stopping(&mut self, timeout: Duration) -> Result<(), NotifyError> {
        // the library's own word for it ends at 32 bits, after 71 minutes
        let extension = format!("EXTEND_TIMEOUT_USEC={}", timeout.as_micros());
        self.0.owe(&[NotifyState::Stopping, NotifyState::Status("draining"), NotifyState::Custom(&extension)])
    }

    /// When to try again to send what is owed; `None` if nothing is.
    pub fn retry_interval(&self) -> Option<Duration> {
        (!self.0.owed.is_empty()).then_some(RETRY_INTERVAL)
    }

    /// Sends what is owed, as far as the manager takes it.
    pub fn catch_up(&mut self) -> Result<(), NotifyError> {
        self.0.pay()
    }

    /// Counts what has not arrived and never will.
    pub fn give_up(&mut self) {
        self.0.dropped.add(self.0.owed.len() as u64);
        self.0.owed.clear();
    }
}

/// A message, a line for each assignment.
fn text(states: &[NotifyState<'_>]) -> String {
    let mut message = String::new();
    for state in states {
        writeln!(message, "{state}").expect("writing to a string never fails");
    }
    message
}

impl Manager {
    /// Sends, now or when the manager takes it.
    fn owe(&mut self, states: &[NotifyState<'_>]) -> Result<(), NotifyError> {
        if self.connection.is_some() {
            self.owed.push_back(text(states));
        }
        self.pay()
    }

    fn pay(&mut self) -> Result<(), NotifyError> {
        while let Some(message) = self.owed.front()
            && self.send(message, &[])?
        {
            self.owed.pop_front();
        }
        Ok(())
    }

    /// Whether nothing is owed any more. A manager that was waited for once is not waited for again.
    fn is_paid(&mut self) -> bool {
        self.pay().is_ok() && self.owed.is_empty()
    }

    /// Sends now or never.
    fn send_or_drop(&mut self, states: &[NotifyState<'_>]) -> Result<(), NotifyError> {
        let outcome = self.pay().and_then(|()| {
            let is_sent = self.owed.is_empty() && self.send(&text(states), &[])?;
            if is_sent { Ok(()) } else { Err(self.error(io::ErrorKind::WouldBlock.into())) }
        });
        if outcome.is_err() {
            self.dropped.add(1);
        }
        outcome
    }

    /// Sends, and waits a while for the manager to take it. `false`: it does not.
    fn send_patiently(&self, message: &str, fds: &[BorrowedFd<'_>]) -> Result<bool, NotifyError> {
        if self.send(message, fds)? {
            return Ok(true);
        }
        if let Some(Connection { socket, .. }) = &self.connection {
            sys::wait_writable(socket.as_fd(), STORE_PATIENCE);
        }
        self.send(message, fds)
    }

    /// Sends if the manager takes it now. `false`: it does not, since it has not read what was sent before.
    fn send(&self, message: &str, fds: &[BorrowedFd<'_>]) -> Result<bool, NotifyError> {
        let Some(Connection { socket, addr, .. }) = &self.connection else { return Ok(true) };
        let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let send = || socket.send_with_fd(message.as_bytes(), &fds);
        let outcome = match send() {
            Err(error) if !is_full(&error) => {
                // a manager that was restarted has another socket, by the same name
                socket.connect_addr(addr).and_then(|()| send())
            }
            outcome => outcome,
        };
        match outcome {
            Ok(_) => Ok(true),
            Err(error) if is_full(&error) => Ok(false),
            Err(error) => Err(self.error(error)),
        }
    }

    fn error(&self, error: io::Error) -> NotifyError {
        NotifyError {
            path: self.connection.as_ref().map_or(String::new(), |connection| connection.path.clone()),
            error,
        }
    }
}

/// The receiver has not read what was sent before: its queue, the memory for it or the number of descriptors on their
/// way is at its limit (unix(7)).
fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS | libc::ETOOMANYREFS))
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
