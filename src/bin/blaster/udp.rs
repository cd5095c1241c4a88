//! UDP load: flows of datagrams from unconnected sockets, on the ring.

mod flow;
mod socket;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tubular_echo::kernel::ring::{Errno, RingError};
use tubular_echo::kernel::sys;

pub(crate) use self::flow::Plan;
use self::worker::Worker;
use crate::model::quantity::Rate;
use crate::model::results::Results;
use crate::model::target::SourceNotLocal;
use crate::workers::stop::Stop;
use crate::workers::threads::{self, Watch};

/// Descriptors beside the flows' sockets: standard streams, rings, the report's file, and some to spare.
const SPARE_FILES: u64 = 64;

/// Why no load could be made, or no more of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UdpError {
    #[error(
        "{flows} flows need {flows} open files and some, the limit is {limit}: raise it (`ulimit -n`, LimitNOFILE=) or use fewer --flows"
    )]
    OpenFiles { flows: u32, limit: u64 },
    #[error("{step}: {error}")]
    Socket { step: &'static str, error: io::Error },
    #[error("no way to {peer}: {error}; see `ip route get {}`", peer.ip())]
    NoRoute { peer: SocketAddr, error: io::Error },
    #[error(
        "{peer} is broadcast here, or prohibited by a route: {error}; leave it out of the target (`ip route get {}` shows \
         it)",
        peer.ip()
    )]
    Broadcast { peer: SocketAddr, error: io::Error },
    #[error(
        "no local port is free for a flow to {peer}: {error}; use fewer --flows, or come from several addresses \
         (--source), or widen net.ipv4.ip_local_port_range"
    )]
    NoPort { peer: SocketAddr, error: io::Error },
    #[error("ended by a signal")]
    Stopped,
    #[error(transparent)]
    Source(#[from] SourceNotLocal),
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error("arming a multishot receive: {0}; Linux 6.1 or newer is needed")]
    Arm(Errno),
    #[error("entering the io_uring: {0}")]
    Enter(io::Error),
    #[error("receiving datagrams: {0}")]
    Receive(Errno),
    #[error("starting a thread: {0}; see `ulimit -u`")]
    Thread(#[from] io::Error),
}

/// When the next datagram is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// By a schedule, whatever comes back.
    Open(Rate),
    /// When an answer makes room.
    Closed {
        /// Datagrams (with trains: trains) of each flow that may wait for their answer.
        in_flight: u32,
    },
    /// As fast as the kernel takes them.
    Flood,
}

/// A UDP load.
#[derive(Debug)]
pub(crate) struct Load {
    /// What the flows share.
    pub(crate) plan: Arc<Plan>,
    /// When the next datagram is sent.
    pub(crate) mode: Mode,
    /// How many flows.
    pub(crate) flows: u32,
    /// How many threads share them.
    pub(crate) workers: u32,
    /// How many datagrams each flow remembers, a power of two.
    pub(crate) window: usize,
    /// Whether received trains come in one piece.
    pub(crate) gro: bool,
    /// What is sent before measuring.
    pub(crate) warmup: Duration,
    /// How long to measure.
    pub(crate) duration: Option<Duration>,
    /// How many datagrams to measure.
    pub(crate) count: Option<u64>,
    /// How long to listen after the last send for what is missing.
    pub(crate) linger: Duration,
}

impl Load {
    /// Where the schedule ends, in nanoseconds since the start.
    fn end_ns(&self) -> u64 {
        self.duration.map_or(u64::MAX, |duration| (self.warmup + duration).as_nanos() as u64)
    }

    /// The measured datagrams that worker `number` sends.
    fn share_of_count(&self, number: u32) -> u64 {
        let Some(count) = self.count else { return u64::MAX };
        let workers = u64::from(self.workers);
        count / workers + u64::from(u64::from(number) < count % workers)
    }
}

/// The most datagrams that a flow can remember.
const WINDOW_MAX: usize = 1 << 24;

/// The most datagrams of a flow that may be in flight in a closed loop.
pub(crate) const IN_FLIGHT_MAX: u32 = 1 << 22;

/// How many datagrams each of `flows` flows should remember: in the open loop those of `timeout` and a second
/// more, in the closed loop four times those `in_flight`, and in any case about a million in all, at least 256.
pub(crate) fn window(flows: u32, mode: Mode, train: u32, timeout: Duration) -> usize {
    let (in_all, of_each) = match mode {
        Mode::Open(rate) => (rate.per_s() * (timeout.as_secs_f64() + 1.0), 0),
        Mode::Closed { in_flight } => (0.0, in_flight.saturating_mul(train).saturating_mul(4)),
        Mode::Flood => (0.0, 0),
    };
    let in_all = (in_all.min(WINDOW_MAX as f64) as usize).max(1 << 20);
    let of_each = in_all.div_ceil(flows as usize).max(of_each as usize);
    of_each.clamp(256, WINDOW_MAX).next_power_of_two()
}

/// Runs `load` on its threads while `watch` looks on.
pub(crate) fn run(load: Load, stop: &Arc<Stop>, watch: &mut Watch<'_>) -> Result<Results, UdpError> {
    let limit = sys::raise_open_files()
        .map_err(|error| UdpError::Socket { step: "raising the limit of open files", error })?;
    if u64::from(load.flows) + SPARE_FILES > limit {
        return Err(UdpError::OpenFiles { flows: load.flows, limit });
    }
    let stop = Arc::clone(stop);
    threads::run(load.workers, load.warmup, watch, move |number, live, post| {
        let worker = Worker::new(number, &load, Arc::clone(&stop), live)?;
        post.ready().map(|clock| worker.run(clock)).transpose()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_hold_what_may_be_waiting() {
        let open = |rate: &str| Mode::Open(rate.parse().unwrap());
        let closed = |in_flight| Mode::Closed { in_flight };
        let table = [
            (1, Mode::Flood, 1, 1, 1 << 20),
            (64, closed(8), 1, 1, 1 << 14),
            (10_000, closed(1), 1, 1, 256),
            (64, closed(100_000), 1, 1, 1 << 19),
            (64, closed(100_000), 32, 1, WINDOW_MAX),
            (1, open("4M"), 1, 1, 1 << 23),
            (4, open("4M"), 1, 3, 1 << 22),
            (1, open("1G"), 1, 9, WINDOW_MAX),
        ];
        for (flows, mode, train, timeout_s, wanted) in table {
            let found = window(flows, mode, train, Duration::from_secs(timeout_s));
            assert_eq!(found, wanted, "{flows} flows, {mode:?}, trains of {train}, {timeout_s} s");
        }
        assert!(window(1, closed(IN_FLIGHT_MAX), 1, Duration::from_secs(1)) >= 4 * IN_FLIGHT_MAX as usize);
    }
}
