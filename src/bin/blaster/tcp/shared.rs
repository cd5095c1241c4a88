//! The state that the connections of one worker share.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio_uring::net::TcpStream;

use crate::model::results::Results;
use crate::tcp::plan::{Mode, Plan};
use crate::workers::clock::Clock;
use crate::workers::live::{Live, LiveCounts, Snapshot};
use crate::workers::stop::Stop;

/// So many failed connections, and none established, end the run.
const FAILURES_MAX: u64 = 100;

pub(super) struct Shared {
    pub(super) plan: Arc<Plan>,
    pub(super) clock: Clock,
    pub(super) stop: Arc<Stop>,
    pub(super) live: Arc<Live>,
    live_counts: Cell<LiveCounts>,
    pub(super) results: RefCell<Results>,
    pub(super) progress: Progress,
    /// Connections whose tasks still run.
    pub(super) alive: Cell<u32>,
    /// The open connections, so that the worker can shut them down at the end.
    streams: RefCell<Vec<Weak<TcpStream>>>,
}

/// How far the sending is. Times are nanoseconds since the run's start.
pub(super) struct Progress {
    /// Measured messages that are still to be sent.
    pub(super) remaining: Cell<u64>,
    end_ns: u64,
    /// Nothing more is sent.
    pub(super) is_over: Cell<bool>,
    /// Blaster has shut down the connections that were still open.
    pub(super) was_shut_down: Cell<bool>,
    /// When bytes came last; 0 if none have come.
    pub(super) last_received_ns: Cell<u64>,
    /// When the last right echo in time was complete.
    pub(super) last_ok_ns: Cell<u64>,
    pub(super) last_sent_ns: Cell<u64>,
    /// When all counts are to be shown next.
    publish_ns: Cell<u64>,
}

impl Shared {
    /// For the connections of worker `number`.
    pub(super) fn new(number: u32, plan: Arc<Plan>, clock: Clock, stop: Arc<Stop>, live: Arc<Live>) -> Self {
        let extent = plan.extent;
        let mut results = Results::new(extent.warmup);
        let own_connections = extent.flows_of(number).len();
        results.destinations.reserve(plan.traffic.places(own_connections));
        results.sources.reserve(Some(plan.traffic.counted_sources()));
        Self {
            plan,
            clock,
            stop,
            live,
            live_counts: Cell::default(),
            results: RefCell::new(results),
            progress: Progress {
                remaining: Cell::new(extent.count_of(number)),
                end_ns: extent.end_ns(),
                is_over: Cell::new(false),
                was_shut_down: Cell::new(false),
                last_received_ns: Cell::new(0),
                last_ok_ns: Cell::new(0),
                last_sent_ns: Cell::new(0),
                publish_ns: Cell::new(0),
            },
            alive: Cell::new(0),
            streams: RefCell::default(),
        }
    }

    /// Permission to send a message now; with that, it counts as sent. `None`: nothing more is sent.
    pub(super) fn next_send_ns(&self) -> Option<u64> {
        let now_ns = self.clock.now_ns();
        let Progress { remaining, end_ns, is_over, last_sent_ns, .. } = &self.progress;
        if is_over.get() || remaining.get() == 0 || now_ns >= *end_ns {
            return None;
        }
        if self.results.borrow().outcomes.is_measured(now_ns) {
            remaining.set(remaining.get() - 1);
        }
        last_sent_ns.set(now_ns);
        Some(now_ns)
    }

    /// Changes the counts that others see while the run lasts.
    pub(super) fn show(&self, change: impl FnOnce(&mut LiveCounts)) {
        let mut counts = self.live_counts.get();
        change(&mut counts);
        self.live_counts.set(counts);
        self.live.show(counts);
    }

    /// Shows all counts to those who watch the run, if they want them now.
    pub(super) fn publish(&self) {
        let (now_ns, due_ns) = (self.clock.now_ns(), self.progress.publish_ns.get());
        let Some(watchlist) = self.plan.traffic.watchlist.as_ref().filter(|_| now_ns >= due_ns) else {
            return;
        };
        let outcomes = &self.results.borrow().outcomes;
        let mut counts = outcomes.total().counts;
        counts += &outcomes.warmup().counts;
        self.live.publish(Snapshot { at_ns: now_ns, counts });
        self.progress.publish_ns.set(watchlist.next_ns(now_ns));
    }

    /// Whether it is time to stop sending.
    pub(super) fn is_time_to_end(&self) -> bool {
        let now_ns = self.clock.now_ns();
        now_ns >= self.progress.end_ns
            || self.stop.is_asked()
            || self.has_only_failures()
            || self.is_given_up(now_ns)
    }

    /// Whether every connection has failed so far. In the other modes, the run would not have begun.
    fn has_only_failures(&self) -> bool {
        let connections = self.results.borrow().connections;
        self.plan.mode == Mode::Connect
            && !self.plan.extent.is_endless()
            && connections.established == 0
            && connections.failed >= FAILURES_MAX
    }

    /// Whether a run that only a count ends has received nothing for the linger time. A run with a duration waits: the
    /// server may come back.
    fn is_given_up(&self, now_ns: u64) -> bool {
        let linger_ns = self.plan.extent.linger.as_nanos() as u64;
        let last_received_ns = self.progress.last_received_ns.get();
        let only_a_count_ends_it = self.progress.end_ns == u64::MAX && !self.plan.extent.is_endless();
        only_a_count_ends_it && now_ns > last_received_ns.saturating_add(linger_ns)
    }

    /// How long to wait for connections after the last send. A visit may have to connect first.
    pub(super) fn patience(&self) -> Duration {
        let Plan { traffic, extent, .. } = &*self.plan;
        if traffic.visits.is_some() { traffic.timeout() + extent.linger } else { extent.linger }
    }

    /// Remembers an open connection.
    pub(super) fn watch_stream(&self, stream: &Rc<TcpStream>) {
        let mut streams = self.streams.borrow_mut();
        if streams.len() == streams.capacity() {
            streams.retain(|stream| stream.strong_count() > 0);
        }
        streams.push(Rc::downgrade(stream));
    }

    /// Shuts down the connections that are still open.
    pub(super) fn shut_down_streams(&self) {
        self.progress.was_shut_down.set(true);
        for stream in self.streams.borrow().iter().filter_map(Weak::upgrade) {
            // an error means that the connection has ended already
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}
