//! The connections that are made before the clock starts.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::model::source::SourceNotLocal;
use crate::tcp::error::TcpError;
use crate::tcp::local_end::{self, LocalEndError, is_used_up};
use crate::tcp::plan::{Mode, Plan};
use crate::workers::stop::Stop;

/// So many destinations are connected to at a time. The connections to one destination are made one after the other: its
/// accept queue may be short.
const AT_A_TIME: usize = 16;
/// How often to look for the request to stop.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What all workers know of their first connections: a dead destination does not end a run, but a run without any
/// connection is none. Nor is one that this host has no means for.
#[derive(Debug, Default)]
pub(super) struct FirstConnections {
    is_any_established: AtomicBool,
    first_failure: Mutex<Option<(SocketAddr, io::Error)>>,
}

/// A connection, or why there is none.
pub(super) type Connected = io::Result<OwnedFd>;

impl FirstConnections {
    /// Connects for one worker, in the order of `ids`. If connecting is the load itself, one connection is made as a test,
    /// and none is returned.
    pub(super) fn connect(&self, plan: &Plan, ids: &[u32], stop: &Stop) -> Result<Vec<Connected>, TcpError> {
        if let Some(visits) = &plan.traffic.visits {
            // the kernel must accept the options
            let peer = visits.destination(0);
            local_end::socket(peer, None, &plan.traffic.packets).map_err(|error| match error {
                LocalEndError::Option(error) => TcpError::from(error),
                error => TcpError::Connect { peer, error: error.into() },
            })?;
            // each source must be an address of this host
            for local in visits.sources() {
                local_end::bind(*local).map_err(|error| SourceNotLocal { local: local.ip(), error })?;
            }
            self.is_any_established.store(true, Ordering::Relaxed);
            return Ok(Vec::new());
        }
        let mut by_peer: BTreeMap<SocketAddr, Vec<u32>> = BTreeMap::new();
        for id in ids {
            by_peer.entry(plan.addresses(*id).0).or_default().push(*id);
        }
        let mut by_peer: Vec<Vec<u32>> = by_peer.into_values().collect();
        if plan.mode == Mode::Connect {
            for ids in &mut by_peer {
                ids.truncate(1);
            }
        }
        let mut connected = BTreeMap::new();
        for some in by_peer.chunks(AT_A_TIME) {
            connected.extend(connect_to_each(plan, some, stop)?);
            if stop.is_asked() {
                return Err(TcpError::Stopped);
            }
            if plan.mode == Mode::Connect && connected.values().any(Result::is_ok) {
                break;
            }
        }
        for (id, made) in &connected {
            match made {
                Ok(_) => self.is_any_established.store(true, Ordering::Relaxed),
                Err(error) => self.note_failure(plan.addresses(*id).0, error),
            }
        }
        Ok(if plan.mode == Mode::Connect { Vec::new() } else { connected.into_values().collect() })
    }

    fn note_failure(&self, peer: SocketAddr, error: &io::Error) {
        let mut first = self.first_failure.lock().expect("a panic ends the process");
        if first.as_ref().is_none_or(|(_, known)| is_used_up(error) && !is_used_up(known)) {
            *first = Some((peer, copy(error)));
        }
    }

    /// The error, if no worker has a connection, or if this host has no more of them. All must have tried. In a run that
    /// follows others, that is a result, not an error.
    pub(super) fn check(&self, plan: &Plan) -> Result<(), TcpError> {
        if plan.follows_others {
            return Ok(());
        }
        let mut first = self.first_failure.lock().expect("a panic ends the process");
        match first.take() {
            Some((peer, error)) if is_used_up(&error) || !self.is_any_established.load(Ordering::Relaxed) => {
                *first = Some((peer, copy(&error)));
                Err(TcpError::Connect { peer, error })
            }
            _ => Ok(()),
        }
    }
}

/// The same error once more.
fn copy(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

/// The connections to one destination, which are made one after the other.
struct Line<'a> {
    left: std::slice::Iter<'a, u32>,
    connecting: Option<Attempt>,
    made: Vec<(u32, Connected)>,
}

struct Attempt {
    id: u32,
    socket: OwnedFd,
    until: Instant,
}

impl Line<'_> {
    /// Begins the next connections, until one must be waited for, or none is left.
    fn advance(&mut self, plan: &Plan) -> Result<(), TcpError> {
        while self.connecting.is_none()
            && let Some(&id) = self.left.next()
        {
            let (peer, local) = plan.addresses(id);
            let socket = match local_end::socket(peer, local, &plan.traffic.packets) {
                Ok(socket) => socket,
                Err(LocalEndError::Source(error)) => return Err(error.into()),
                Err(LocalEndError::Option(error)) => return Err(error.into()),
                Err(LocalEndError::Socket(error)) => {
                    self.made.push((id, Err(error)));
                    continue;
                }
            };
            match local_end::connect(socket.as_fd(), plan.traffic.labelled(peer, id.into())) {
                Ok(true) => self.made.push((id, Ok(socket))),
                Ok(false) => {
                    let until = Instant::now() + plan.traffic.timeout();
                    self.connecting = Some(Attempt { id, socket, until });
                }
                Err(error) => self.note(id, Err(error)),
            }
        }
        Ok(())
    }

    /// Notes a connection, or its failure. When one has timed out, the others are not tried.
    fn note(&mut self, id: u32, made: Connected) {
        let timed_out = made.as_ref().err().filter(|error| error.kind() == io::ErrorKind::TimedOut).map(copy);
        self.made.push((id, made));
        if let Some(error) = timed_out {
            self.made.extend(self.left.by_ref().map(|id| (*id, Err(copy(&error)))));
        }
    }

    /// Ends the attempt if its socket is writable, or its time is up.
    fn settle(&mut self, plan: &Plan, is_writable: bool) {
        if let Some(Attempt { id, socket, .. }) =
            self.connecting.take_if(|attempt| is_writable || attempt.until <= Instant::now())
        {
            let made = if is_writable {
                local_end::connected(socket.as_fd(), plan.addresses(id).0).map(|()| socket)
            } else {
                Err(io::ErrorKind::TimedOut.into())
            };
            self.note(id, made);
        }
    }
}

/// Connects to several destinations at a time; each element of `by_peer` has the connections to one of them.
fn connect_to_each(
    plan: &Plan,
    by_peer: &[Vec<u32>],
    stop: &Stop,
) -> Result<Vec<(u32, Connected)>, TcpError> {
    let mut lines: Vec<_> =
        by_peer.iter().map(|ids| Line { left: ids.iter(), connecting: None, made: Vec::new() }).collect();
    while !stop.is_asked() {
        for line in &mut lines {
            line.advance(plan)?;
        }
        let waiting = || lines.iter().filter_map(|line| line.connecting.as_ref());
        let Some(until) = waiting().map(|attempt| attempt.until).min() else { break };
        let mut polled: Vec<_> =
            waiting().map(|attempt| PollFd::new(attempt.socket.as_fd(), PollFlags::POLLOUT)).collect();
        let pause =
            until.saturating_duration_since(Instant::now()).min(LOOK_EVERY) + Duration::from_millis(1);
        // an error is a signal, or memory that is short for the moment
        let _ = poll(&mut polled, PollTimeout::try_from(pause).unwrap_or(PollTimeout::ZERO));
        let is_writable: Vec<bool> = polled.iter().map(|polled| polled.any().unwrap_or(false)).collect();
        let waiting = lines.iter_mut().filter(|line| line.connecting.is_some());
        for (line, is_writable) in waiting.zip(is_writable) {
            line.settle(plan, is_writable);
        }
    }
    Ok(lines.into_iter().flat_map(|line| line.made).collect())
}
