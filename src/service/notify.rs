//! Messages to the service manager (sd_notify(3)). If `NOTIFY_SOCKET` is unset, nothing is sent.
//!
//! `Notifier::ready` takes the proof that every worker is armed and consumes the notifier. So `READY=1` is sent once
//! and never too early, by construction.
//!
//! No message waits for a manager that does not read, because the main thread also has workers to watch. Three kinds of
//! message must arrive: `READY=1`, `STOPPING=1` and removals from the store. They stay pending and are tried again until
//! the manager takes them, and no other message overtakes them. All other messages are dropped and counted: a newer one
//! replaces them anyway. Only sockets for the store wait for a while, before anything is served: without them a restart
//! loses the data in their queues.

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
/// How long the start waits for a manager that does not read, before it goes on without the store.
const STORE_PATIENCE: Duration = Duration::from_secs(5);
/// How often pending messages are tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// The service manager can't be reached. It would wait for `READY=1` in vain, so this is an error.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot notify the service manager at NOTIFY_SOCKET={path}: {error}; start by `systemd-run -p Type=notify` or \
     unset NOTIFY_SOCKET"
)]
pub struct NotifyError {
    path: String,
    error: io::Error,
}

/// The sockets that the service manager passed, from a .socket unit or from its store: their descriptors and names
/// (`LISTEN_FDS`, `LISTEN_FDNAMES`; sd_listen_fds(3)).
pub(super) fn passed() -> Result<Vec<(RawFd, String)>, PassedError> {
    sd_notify::listen_fds_with_names().map(Iterator::collect).map_err(PassedError)
}

/// The variables that describe the passed sockets can't be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read LISTEN_FDS, LISTEN_PID or LISTEN_FDNAMES: {0}; unset them or start by a .socket unit")]
pub struct PassedError(io::Error);

/// A service manager that waits for `READY=1`.
#[derive(Debug)]
pub(super) struct Notifier(Manager);

/// A service manager to which `READY=1` was sent, or is pending.
#[derive(Debug)]
pub(super) struct Ready(Manager);

#[derive(Debug)]
struct Manager {
    connection: Option<Connection>,
    /// Messages that must arrive and have not been sent yet, in order.
    pending: VecDeque<String>,
    dropped: Arc<Counter>,
}

#[derive(Debug)]
struct Connection {
    socket: UnixDatagram,
    addr: SocketAddr,
    path: String,
}

impl Notifier {
    /// Connects to the socket that `NOTIFY_SOCKET` names, a path or an abstract name (`@…`). `dropped` counts the
    /// messages that the manager does not take.
    pub(super) fn from_env(dropped: Arc<Counter>) -> Result<Self, NotifyError> {
        let pending = VecDeque::new();
        let Some(name) = env::var_os(SOCKET_VARIABLE).filter(|name| !name.is_empty()) else {
            return Ok(Self(Manager { connection: None, pending, dropped }));
        };
        let path = name.to_string_lossy().into_owned();
        let connect = || {
            // connect here: the library would take an abstract name for a path
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
                Ok(Self(Manager { connection: Some(Connection { socket, addr, path }), pending, dropped }))
            }
            Err(error) => Err(NotifyError { path, error }),
        }
    }

    pub(super) fn has_manager(&self) -> bool {
        self.0.connection.is_some()
    }

    /// Gives a socket to the service manager's store, which passes it to the next process under `name`. `false`: the
    /// manager does not take it. `FDPOLL=0` makes the manager keep the socket even after an error on it.
    pub(super) fn store(&mut self, name: &str, socket: BorrowedFd<'_>) -> Result<bool, NotifyError> {
        let states = [NotifyState::FdStore, NotifyState::FdName(name), NotifyState::Custom("FDPOLL=0")];
        Ok(self.0.sends_all_pending() && self.0.send_patiently(&text(&states), &[socket])?)
    }

    /// Removes all sockets called `name` from the store, now or as soon as the manager reads.
    pub(super) fn unstore(&mut self, name: &str) -> Result<(), NotifyError> {
        let removal = text(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
        if !self.0.sends_all_pending() || !self.0.send_patiently(&removal, &[])? {
            self.0.pending.push_back(removal);
        }
        Ok(())
    }

    /// Sends `READY=1`, now or as soon as the manager reads.
    pub(super) fn ready(mut self, _armed: Armed, status: &str) -> Result<Ready, NotifyError> {
        self.0.send_or_keep(&[NotifyState::Ready, NotifyState::Status(status)])?;
        Ok(Ready(self.0))
    }
}

impl Ready {
    pub(super) fn has_manager(&self) -> bool {
        self.0.connection.is_some()
    }

    /// Sends a line for `systemctl status`.
    pub(super) fn status(&mut self, status: &str) -> Result<(), NotifyError> {
        self.0.send_or_drop(&[NotifyState::Status(status)])
    }

    /// Sends a sign of life: every worker has turned.
    pub(super) fn watchdog(&mut self) -> Result<(), NotifyError> {
        self.0.send_or_drop(&[NotifyState::Watchdog])
    }

    /// Says that the server is ending, and may take `timeout` from now.
    pub(super) fn stopping(&mut self, timeout: Duration) -> Result<(), NotifyError> {
        // the library's type for this has 32 bits, which end at 71 minutes
        let extension = format!("EXTEND_TIMEOUT_USEC={}", timeout.as_micros());
        let states =
            [NotifyState::Stopping, NotifyState::Status("draining"), NotifyState::Custom(&extension)];
        self.0.send_or_keep(&states)
    }

    /// A message has not been sent yet because the manager does not read.
    pub(super) fn has_pending(&self) -> bool {
        self.retry_interval().is_some()
    }

    /// Time to the next try to send the pending messages; `None` if there are none.
    pub(super) fn retry_interval(&self) -> Option<Duration> {
        (!self.0.pending.is_empty()).then_some(RETRY_INTERVAL)
    }

    /// Sends the pending messages, as far as the manager takes them.
    pub(super) fn send_pending(&mut self) -> Result<(), NotifyError> {
        self.0.send_pending()
    }

    /// Drops and counts the pending messages.
    pub(super) fn drop_pending(&mut self) {
        self.0.dropped.add(self.0.pending.len() as u64);
        self.0.pending.clear();
    }
}

/// A message: one line for each assignment.
fn text(states: &[NotifyState<'_>]) -> String {
    let mut message = String::new();
    for state in states {
        writeln!(message, "{state}").expect("writing to a string never fails");
    }
    message
}

impl Manager {
    /// Sends a message, now or as soon as the manager takes it.
    fn send_or_keep(&mut self, states: &[NotifyState<'_>]) -> Result<(), NotifyError> {
        if self.connection.is_some() {
            self.pending.push_back(text(states));
        }
        self.send_pending()
    }

    fn send_pending(&mut self) -> Result<(), NotifyError> {
        while let Some(message) = self.pending.front()
            && self.send(message, &[])?
        {
            self.pending.pop_front();
        }
        Ok(())
    }

    /// Tries the pending messages again. `false`: some are left, so the start must not wait for this manager again.
    fn sends_all_pending(&mut self) -> bool {
        self.send_pending().is_ok() && self.pending.is_empty()
    }

    /// Sends a message now, or drops and counts it.
    fn send_or_drop(&mut self, states: &[NotifyState<'_>]) -> Result<(), NotifyError> {
        let outcome = self.send_pending().and_then(|()| {
            let is_sent = self.pending.is_empty() && self.send(&text(states), &[])?;
            if is_sent { Ok(()) } else { Err(self.error(io::ErrorKind::WouldBlock.into())) }
        });
        if outcome.is_err() {
            self.dropped.add(1);
        }
        outcome
    }

    /// Sends a message, and waits a while for a manager that does not read. `false`: the manager does not take it.
    fn send_patiently(&self, message: &str, fds: &[BorrowedFd<'_>]) -> Result<bool, NotifyError> {
        if self.send(message, fds)? {
            return Ok(true);
        }
        if let Some(Connection { socket, .. }) = &self.connection {
            sys::wait_writable(socket.as_fd(), STORE_PATIENCE);
        }
        self.send(message, fds)
    }

    /// Sends a message if the manager takes it now. `false`: the manager has not read the earlier messages yet.
    fn send(&self, message: &str, fds: &[BorrowedFd<'_>]) -> Result<bool, NotifyError> {
        let Some(Connection { socket, addr, .. }) = &self.connection else { return Ok(true) };
        let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let send = || socket.send_with_fd(message.as_bytes(), &fds);
        let outcome = match send() {
            Err(error) if !is_full(&error) => {
                // a restarted manager has a new socket of the same name
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

/// Whether the receiver must first read the earlier messages: its queue, the memory for it, or the number of
/// descriptors in flight is at its limit (unix(7)).
fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS | libc::ETOOMANYREFS))
}

/// How many sockets the service manager keeps for this unit, if it says so (`FDSTORE`, systemd 254).
pub(super) fn store_size() -> Option<usize> {
    env::var("FDSTORE").ok()?.parse().ok()
}

/// The time that the service manager allows between two signs of life (`WATCHDOG_USEC`), if it is meant for this
/// process.
pub(super) fn watchdog_interval() -> Option<Duration> {
    // zero would be impossible to meet, so it means no watchdog
    sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero())
}
