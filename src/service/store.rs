//! The service manager's store of sockets. It keeps them for the next process of this service (systemd.service(5),
//! `FileDescriptorStoreMax=`).

use std::io;
use std::os::fd::AsFd;

use tracing::warn;

use super::notify::{self, Notifier, NotifyError};
use crate::kernel::sys;
use crate::sockets::adopt;
use crate::sockets::listening::{AtExit, Listening};

/// Why the store could not be updated.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The service manager can't be reached.
    #[error(transparent)]
    Notify(#[from] NotifyError),
    /// A socket that is no longer served could not be closed to new traffic.
    #[error("cannot close a stored socket to new traffic: {0}")]
    Close(io::Error),
}

/// Removes the sockets that retire from the store, and adds those that this process has bound. `stored` sockets are
/// there already. `wanted` says that the operator asked for the store.
pub(super) fn update(
    shares: &mut [Vec<Listening>],
    mut stored: usize,
    notifier: &mut Notifier,
    wanted: bool,
) -> Result<(), StoreError> {
    for socket in shares.iter().flatten().filter(|socket| socket.at_exit == AtExit::Retire) {
        notifier.unstore(&adopt::store_name(socket))?;
        sys::drop_incoming(socket.as_fd()).map_err(StoreError::Close)?;
        stored -= 1;
    }
    if !notifier.has_manager() {
        if wanted {
            warn!(
                "--fd-store has no effect: NOTIFY_SOCKET is not set, so there is no service manager to keep sockets"
            );
        }
        return Ok(());
    }
    // if the manager does not say how many sockets it keeps, assume that it keeps all of them
    let size = notify::store_size().or(wanted.then_some(usize::MAX)).unwrap_or(0);
    let (mut left_out, mut not_taken) = (0, 0);
    for socket in shares.iter_mut().flatten().filter(|socket| socket.at_exit == AtExit::Close) {
        if stored >= size {
            left_out += 1;
        } else if not_taken > 0 || !notifier.store(&adopt::store_name(socket), socket.as_fd())? {
            not_taken += 1;
        } else {
            socket.at_exit = AtExit::Keep;
            stored += 1;
        }
    }
    if not_taken > 0 {
        warn!(
            "{not_taken} sockets will not survive a restart: the service manager does not read its messages; restart the \
             server when it does"
        );
    }
    if left_out > 0 && (wanted || size > 0) {
        warn!(
            "{left_out} sockets will not survive a restart: the service manager keeps only {size}; raise \
               FileDescriptorStoreMax= and FDSTORE"
        );
    }
    Ok(())
}
