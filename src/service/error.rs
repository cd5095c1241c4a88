//! Why the server did not start, or ended early. Each variant is the error of one step.

use super::budget::BudgetError;
use super::metrics::MetricsError;
use super::notify::{NotifyError, PassedError};
use super::store::StoreError;
use super::threads::ThreadError;
use super::workers::WorkersError;
use crate::policy::many_hosts::ManyHostsError;
use crate::sockets::adopt::AdoptError;
use crate::sockets::error::SocketError;

/// Why the server did not start, or ended early.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An address can't be served.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The variables that describe passed sockets can't be read.
    #[error(transparent)]
    Passed(#[from] PassedError),
    /// An address stands for many hosts.
    #[error(transparent)]
    ManyHosts(#[from] ManyHostsError),
    /// A socket that the service manager passed can't be served.
    #[error(transparent)]
    Adopt(#[from] AdoptError),
    /// The service manager can't be reached.
    #[error(transparent)]
    Notify(#[from] NotifyError),
    /// The sockets in the service manager's store can't be brought up to date.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Metrics can't be served.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// A worker did not start, or ended early.
    #[error(transparent)]
    Workers(#[from] WorkersError),
    /// The limit of open files does not allow what was asked for.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// The kernel refused another thread.
    #[error(transparent)]
    Thread(#[from] ThreadError),
}
