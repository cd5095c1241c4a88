//! The UDP load: flows of datagrams from unconnected sockets, on the library's ring.

mod error;
mod flow;
pub(crate) mod plan;
mod schedule;
pub(crate) mod socket;
mod worker;

use std::sync::Arc;

use tubular_echo::kernel::sys;

pub(crate) use self::error::UdpError;
use self::plan::Plan;
use self::worker::Worker;
use crate::model::results::Results;
use crate::workers::socket_options;
use crate::workers::stop::Stop;
use crate::workers::threads::{self, Watch};

/// Runs `plan` on its threads; `watch` observes the run.
pub(crate) fn run(plan: Plan, stop: &Arc<Stop>, watch: &mut Watch<'_>) -> Result<Results, UdpError> {
    let limit = sys::raise_open_files()
        .map_err(|error| UdpError::Socket { step: "raising the limit of open files", error })?;
    let extent = plan.extent;
    let needed = extent.files_needed();
    if needed > limit {
        return Err(UdpError::OpenFiles { flows: extent.flows, needed, limit });
    }
    socket_options::check_flow_label(&plan.traffic.packets)?;
    let (plan, stop) = (Arc::new(plan), Arc::clone(stop));
    threads::run(extent.workers, extent.warmup, watch, move |number, live, start_gate| {
        let worker = Worker::new(number, Arc::clone(&plan), Arc::clone(&stop), live)?;
        start_gate.ready().map(|clock| worker.run(clock)).transpose()
    })
}
