//! `--each-once`: a connection to each destination, by a schedule.

use std::rc::Rc;
use std::time::Duration;

use crate::model::pacer::Pacer;
use crate::model::visits::Visits;
use crate::tcp::connection::Connection;
use crate::tcp::shared::Shared;

/// How often to look whether a connection is due.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Makes the visits of one worker, at most one for each of its `ids` at a time. Returns when the last one has begun.
pub(super) async fn visit_all(shared: &Rc<Shared>, ids: &[u32]) {
    let plan = &shared.plan;
    let (Some(rate), Some(worker)) = (plan.rate, ids.first()) else { return };
    let total = plan.traffic.visits.as_ref().map_or(0, Visits::total);
    let mut pacer = Pacer::new(rate, 1, *worker, plan.extent.workers);
    for nth in (u64::from(*worker)..total).step_by(plan.extent.workers as usize) {
        let has_room = || (shared.alive.get() as usize) < ids.len();
        while !has_room() || pacer.take(shared.clock.now_ns()).is_none() {
            if shared.stop.is_asked() {
                return;
            }
            shared.publish();
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let Some(now_ns) = shared.next_send_ns() else { return };
        visit(Rc::clone(shared), nth as u32, now_ns);
    }
}

/// Starts the task of one visit.
fn visit(shared: Rc<Shared>, nth: u32, now_ns: u64) {
    shared.alive.set(shared.alive.get() + 1);
    tokio_uring::spawn(async move {
        let connection = Rc::new(Connection::new(Rc::clone(&shared), nth));
        connection.connect_and_echo(now_ns).await;
        shared.results.borrow_mut().connections.in_order_at_end += u64::from(connection.is_in_order());
        shared.alive.set(shared.alive.get() - 1);
    });
}
