//! The TCP load on the library's ring: connections that ask and wait, that stream, that send by a schedule, or that connect
//! again and again.

mod account;
mod buffers;
mod calls;
mod connect;
mod connection;
mod echo;
mod error;
mod local_end;
pub(crate) mod plan;
mod schedule;
mod worker;

use std::sync::Arc;

use tubular_echo::kernel::sys;

use self::connect::FirstConnections;
pub(crate) use self::error::TcpError;
use self::plan::Plan;
use crate::model::results::Results;
use crate::workers::socket_options;
use crate::workers::stop::Stop;
use crate::workers::threads::{self, Watch};

/// Runs `plan` on its threads; `watch` observes the run.
pub(crate) fn run(plan: Plan, stop: &Arc<Stop>, watch: &mut Watch<'_>) -> Result<Results, TcpError> {
    let limit = sys::raise_open_files().map_err(TcpError::Limit)?;
    let extent = plan.extent;
    let needed = extent.files_needed();
    if needed > limit {
        return Err(TcpError::OpenFiles { connections: extent.flows, needed, limit });
    }
    socket_options::check_flow_label(&plan.traffic.packets)?;
    let (plan, stop) = (Arc::new(plan), Arc::clone(stop));
    let first = FirstConnections::default();
    threads::run(extent.workers, extent.warmup, watch, move |number, live, start_gate| {
        worker::run(number, &plan, &stop, &first, live, start_gate)
    })
}
