//! What a run sends, and for how long: the part of a plan that UDP and TCP share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::model::flow_label::FlowLabels;
use crate::model::packet_options::PacketOptions;
use crate::model::payload::{Bodies, Header};
use crate::model::quantity::Sizes;
use crate::model::source::Source;
use crate::model::targets::Targets;
use crate::model::visits::Visits;
use crate::model::watchlist::Watchlist;

/// Open files beside those of the flows or connections: standard streams, rings, the report's files, and some to spare.
const SPARE_FILES: u64 = 64;

/// The content of a run's traffic, and its addresses.
#[derive(Debug)]
pub(crate) struct Traffic {
    /// Tells this run's messages from those of any other run.
    pub(crate) run_id: u64,
    /// The seed of all random choices.
    pub(crate) seed: u64,
    /// The destinations.
    pub(crate) targets: Targets,
    /// The local addresses. `None`: the routing table chooses them.
    pub(crate) source: Option<Source>,
    /// With `--each-once`: all visits, of these targets, from these sources.
    pub(crate) visits: Option<Visits>,
    /// What is observed while the run lasts. `None`: nothing.
    pub(crate) watchlist: Option<Arc<Watchlist>>,
    /// The headers and the way of what is sent.
    pub(crate) packets: PacketOptions,
    /// The flow labels of IPv6. `None`: the kernel chooses them, or there are none.
    pub(crate) labels: Option<FlowLabels>,
    pub(crate) sizes: Sizes,
    pub(crate) bodies: Bodies,
    /// A reply that takes longer is late; a TCP connection that takes longer has failed.
    pub(crate) timeout_ns: u64,
}

impl Traffic {
    /// Datagrams or messages of 64 bytes to these targets, for tests.
    #[cfg(test)]
    pub(crate) fn sample(targets: Targets, seed: u64, timeout_ns: u64) -> Self {
        Self {
            run_id: 0xfeed,
            seed,
            targets,
            source: None,
            visits: None,
            watchlist: None,
            packets: PacketOptions::default(),
            labels: None,
            sizes: Sizes::Fixed(64),
            bodies: Bodies::new(),
            timeout_ns,
        }
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_nanos(self.timeout_ns)
    }

    /// The local address of `flow`, with port 0; the flow goes to `peer` first. `None`: the routing table chooses it.
    pub(crate) fn source_of(&self, flow: u32, peer: SocketAddr) -> Option<SocketAddr> {
        match &self.visits {
            Some(visits) if !visits.sources().is_empty() => {
                Some(visits.sources()[flow as usize % visits.sources().len()])
            }
            _ => self
                .source
                .as_ref()
                .map(|source| source.of_flow(self.seed, flow, peer, self.targets.no_hosts())),
        }
    }

    /// How many destinations have places in a table of counts. `flows` is the number of the worker's flows or connections:
    /// each has one destination, unless each datagram has its own. `None`: the destinations are too many.
    pub(crate) fn places(&self, flows: usize) -> Option<usize> {
        match &self.visits {
            Some(visits) => Some(visits.destinations().len()),
            None if self.targets.spray() => self.targets.places(),
            None => Some(flows),
        }
    }

    /// The number of sources whose losses are counted.
    pub(crate) fn counted_sources(&self) -> usize {
        self.visits.as_ref().map_or(0, |visits| visits.sources().len())
    }

    /// Where flow or connection `nth` sends to, with its flow label. Only what is given to the kernel has one.
    pub(crate) fn labelled(&self, addr: SocketAddr, nth: u64) -> SocketAddr {
        self.labels.map_or(addr, |labels| labels.put_on(addr, nth))
    }

    pub(crate) fn header(&self, flow: u32, sequence: u64, intended_ns: u64) -> Header {
        Header { run_id: self.run_id, flow, sequence, intended_ns }
    }

    /// The size of message `sequence` of `flow`.
    pub(crate) fn message_bytes(&self, flow: u32, sequence: u64) -> u32 {
        self.sizes.of_message(self.seed, flow, sequence)
    }
}

/// The size of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    /// Flows (UDP), or connections at a time (TCP).
    pub(crate) flows: u32,
    /// The threads that share them.
    pub(crate) workers: u32,
    /// The time before the measurement.
    pub(crate) warmup: Duration,
    /// The time of the measurement. `None`: until the count is reached.
    pub(crate) duration: Option<Duration>,
    /// The measured datagrams (TCP: messages). `None`: until the time is up.
    pub(crate) count: Option<u64>,
    /// The longest wait for missing replies after the last send.
    pub(crate) linger: Duration,
}

impl Extent {
    /// The end of the sending, in nanoseconds since the start.
    pub(crate) fn end_ns(&self) -> u64 {
        self.duration.map_or(u64::MAX, |duration| (self.warmup + duration).as_nanos() as u64)
    }

    /// The flows of worker `number`.
    pub(crate) fn flows_of(&self, number: u32) -> Vec<u32> {
        (number..self.flows).step_by(self.workers as usize).collect()
    }

    /// The measured datagrams (TCP: messages) that worker `number` sends.
    pub(crate) fn count_of(&self, number: u32) -> u64 {
        let Some(count) = self.count else { return u64::MAX };
        let workers = u64::from(self.workers);
        count / workers + u64::from(u64::from(number) < count % workers)
    }

    /// Whether only a signal ends the run.
    pub(crate) fn is_endless(&self) -> bool {
        self.duration.is_none() && self.count.is_none()
    }

    pub(crate) fn files_needed(&self) -> u64 {
        u64::from(self.flows) + SPARE_FILES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_all_flows_and_the_whole_count() {
        for (flows, workers, count) in [(1, 1, 0), (5, 2, 7), (64, 3, 100), (7, 7, 3)] {
            let extent = Extent {
                flows,
                workers,
                warmup: Duration::ZERO,
                duration: None,
                count: Some(count),
                linger: Duration::ZERO,
            };
            let mut all: Vec<u32> = (0..workers).flat_map(|number| extent.flows_of(number)).collect();
            all.sort_unstable();
            assert_eq!(all, (0..flows).collect::<Vec<_>>(), "{flows} flows, {workers} workers");
            assert_eq!((0..workers).map(|number| extent.count_of(number)).sum::<u64>(), count);
        }
    }
}
