//! UDP load: flows of datagrams from unconnected sockets, on the ring.

mod flow;
mod socket;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tubular_echo::ring::{Errno, RingError};
use tubular_echo::sys;

pub(crate) use self::flow::Plan;
use self::worker::Worker;
use crate::crew::{self, Watch};
use crate::live::Stop;
use crate::quantity::Rate;
use crate::tally::Tally;

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
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error("reserving memory for outgoing datagrams: {0}")]
    Memory(io::Error),
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

/// How many datagrams each of `flows` flows should remember: those of `timeout` and a second more at
/// `rate`, and in any case about a million in all, at least 256.
pub(crate) fn window(flows: u32, rate: Option<Rate>, timeout: Duration) -> usize {
    let in_all = rate.map_or(0.0, |rate| rate.per_s() * (timeout.as_secs_f64() + 1.0)).min(16_777_216.0);
    let of_each = (in_all as usize).max(1 << 20).div_ceil(flows as usize);
    of_each.next_power_of_two().clamp(256, 1 << 24)
}

/// Runs `load` on its threads while `watch` looks on.
pub(crate) fn run(load: Load, stop: &Arc<Stop>, watch: &mut Watch<'_>) -> Result<Tally, UdpError> {
    let limit = sys::raise_open_files()
        .map_err(|error| UdpError::Socket { step: "raising the limit of open files", error })?;
    if u64::from(load.flows) + SPARE_FILES > limit {
        return Err(UdpError::OpenFiles { flows: load.flows, limit });
    }
    socket::probe(load.plan.targets.of_flow(0))?;
    let stop = Arc::clone(stop);
    crew::run(load.workers, load.warmup, watch, move |number, live, post| {
        let worker = Worker::new(number, &load, Arc::clone(&stop), live)?;
        post.ready().map(|clock| worker.run(clock)).transpose()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_hold_what_may_be_waiting() {
        let rate = |text: &str| Some(text.parse().unwrap());
        assert_eq!(window(1, None, Duration::from_secs(1)), 1 << 20);
        assert_eq!(window(64, None, Duration::from_secs(1)), 1 << 14);
        assert_eq!(window(10_000, None, Duration::from_secs(1)), 256);
        assert_eq!(window(1, rate("4M"), Duration::from_secs(1)), 1 << 23);
        assert_eq!(window(4, rate("4M"), Duration::from_secs(3)), 1 << 22);
        assert_eq!(window(1, rate("1G"), Duration::from_secs(9)), 1 << 24);
    }
}
