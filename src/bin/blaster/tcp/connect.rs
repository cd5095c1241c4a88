//! The connections that are made before the clock starts.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpStream as StdStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio_uring::Runtime;

use crate::model::source::SourceNotLocal;
use crate::tcp::error::TcpError;
use crate::tcp::local_end;
use crate::tcp::plan::{Mode, Plan};
use crate::workers::stop::Stop;

/// So many destinations are connected to at a time. The connections to one destination are made one after the other: its
/// accept queue may be short.
const AT_A_TIME: usize = 16;

/// What all workers know of their first connections: a dead destination does not end a run, but a run without any
/// connection is none. Nor is one that this host has no means for.
#[derive(Debug, Default)]
pub(super) struct FirstConnections {
    is_any_established: AtomicBool,
    first_failure: Mutex<Option<(SocketAddr, io::Error)>>,
}

/// A connection, or why there is none.
pub(super) type Connected = io::Result<StdStream>;

impl FirstConnections {
    /// Connects for one worker, in the order of `ids`. If connecting is the load itself, one connection is made as a test,
    /// and none is returned.
    pub(super) fn connect(
        &self,
        runtime: &Runtime,
        plan: &Arc<Plan>,
        ids: &[u32],
        stop: &Arc<Stop>,
    ) -> Result<Vec<Connected>, TcpError> {
        if let Some(visits) = &plan.traffic.visits {
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
            let made = runtime.block_on(connect_to_each(plan, some, stop));
            for (id, made) in made {
                connected.insert(id, made?);
            }
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
        if first.as_ref().is_none_or(|(_, known)| is_ours(error) && !is_ours(known)) {
            *first = Some((peer, copy(error)));
        }
    }

    /// The error, if no worker has a connection, or if this host has no more of them. All must have tried.
    pub(super) fn check(&self) -> Result<(), TcpError> {
        let mut first = self.first_failure.lock().expect("a panic ends the process");
        match first.take() {
            Some((peer, error)) if is_ours(&error) || !self.is_any_established.load(Ordering::Relaxed) => {
                *first = Some((peer, copy(&error)));
                Err(TcpError::Connect { peer, error })
            }
            _ => Ok(()),
        }
    }
}

/// The error is this host's: local ports, open files or memory are used up. The server was not asked.
fn is_ours(error: &io::Error) -> bool {
    let used_up = [libc::EADDRNOTAVAIL, libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    error.raw_os_error().is_some_and(|errno| used_up.contains(&errno))
}

/// The same error once more.
fn copy(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

/// Connects to several destinations at a time; each element of `by_peer` has the connections to one of them.
async fn connect_to_each(
    plan: &Arc<Plan>,
    by_peer: &[Vec<u32>],
    stop: &Arc<Stop>,
) -> Vec<(u32, Result<Connected, TcpError>)> {
    let connect =
        |ids: &Vec<u32>| tokio_uring::spawn(connect_to_one(Arc::clone(plan), ids.clone(), Arc::clone(stop)));
    let tasks: Vec<_> = by_peer.iter().map(connect).collect();
    let mut made = Vec::new();
    for task in tasks {
        made.extend(task.await.expect("a panic ends the process"));
    }
    made
}

/// Connects to one destination, one connection after the other. When one has timed out, the others are not tried.
async fn connect_to_one(
    plan: Arc<Plan>,
    ids: Vec<u32>,
    stop: Arc<Stop>,
) -> Vec<(u32, Result<Connected, TcpError>)> {
    let mut made = Vec::with_capacity(ids.len());
    let mut timed_out = None;
    for id in ids {
        if stop.is_asked() {
            break;
        }
        let connected = match &timed_out {
            Some(error) => Ok(Err(copy(error))),
            None => connect_one(&plan, id).await,
        };
        if let Ok(Err(error)) = &connected
            && error.kind() == io::ErrorKind::TimedOut
        {
            timed_out = Some(copy(error));
        }
        made.push((id, connected));
    }
    made
}

async fn connect_one(plan: &Plan, id: u32) -> Result<Connected, TcpError> {
    let (peer, local) = plan.addresses(id);
    let socket = local_end::socket(peer, local);
    let socket = match (socket, local) {
        (Err(error), Some(local)) => return Err(SourceNotLocal { local: local.ip(), error }.into()),
        (Err(error), None) => return Ok(Err(error)),
        (Ok(socket), _) => socket,
    };
    Ok(local_end::connect(socket, peer, plan.traffic.timeout()).await)
}
