//! The search for path MTUs: a socket for each flow, and few datagrams.

mod flow;

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use tubular_echo::kernel::sys;

pub(crate) use self::flow::{Flow, Wanted};
use crate::workers::stop::Stop;

/// How often to look whether a signal came.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Drives these flows until their searches are over, or a signal came.
pub(crate) fn drive(flows: &mut [Flow], wanted: &Wanted, start: Instant, stop: &Stop) {
    // the largest reply, of either family
    let mut buffer = vec![0; 1 << 16];
    loop {
        let now_ns = start.elapsed().as_nanos() as u64;
        if stop.is_asked() {
            // what has come by now counts
            return flows.iter_mut().for_each(|flow| flow.read(wanted, now_ns, &mut buffer));
        }
        for flow in flows.iter_mut() {
            flow.step(wanted, now_ns, &mut buffer);
        }
        let Some(due_ns) = flows.iter().filter_map(|flow| flow.due_ns(wanted, now_ns)).min() else { return };
        let pause = Duration::from_nanos(due_ns.saturating_sub(now_ns)).min(LOOK_EVERY);
        let sockets: Vec<BorrowedFd<'_>> = flows.iter().map(|flow| flow.socket().as_fd()).collect();
        sys::wait_readable(&sockets, pause);
    }
}
