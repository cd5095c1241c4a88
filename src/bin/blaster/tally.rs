//! What a worker brings home, and what the workers of a run come to together.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::AddAssign;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::books::Books;
use crate::latency::Latency;
use crate::timeline::Timeline;

/// Who reported by ICMP that datagrams can't be delivered, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Complaint {
    /// The host or router that sent the report.
    pub(crate) from: std::net::IpAddr,
    /// The address and port that the datagrams were sent to.
    pub(crate) about: SocketAddr,
    /// ICMP type (RFC 792, RFC 4443).
    pub(crate) icmp_type: u8,
    /// ICMP code.
    pub(crate) icmp_code: u8,
}

/// So many different complaints are kept apart; the books count them all.
const COMPLAINTS_MAX: usize = 16;

/// How hard a generator thread worked while it was sending.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[allow(clippy::struct_field_names)] // units go last
pub(crate) struct Effort {
    /// Wall time from the first send to the last.
    pub(crate) elapsed_ns: u64,
    /// Its CPU clock over that time.
    pub(crate) cpu_ns: u64,
    /// Of that, spent looking at the clock just before an intended send time.
    pub(crate) pacing_ns: u64,
}

impl Effort {
    /// Processor time, pacing left out.
    pub(crate) fn work_ns(&self) -> u64 {
        self.cpu_ns.saturating_sub(self.pacing_ns)
    }

    /// The share of a core that the work took, pacing left out.
    pub(crate) fn share(&self) -> f64 {
        self.work_ns() as f64 / self.elapsed_ns.max(1) as f64
    }

    /// The share of a core that pacing took.
    pub(crate) fn pacing_share(&self) -> f64 {
        self.pacing_ns as f64 / self.elapsed_ns.max(1) as f64
    }
}

/// What became of the connections of a TCP run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Connections {
    /// Attempted.
    pub(crate) attempted: u64,
    /// Established.
    pub(crate) established: u64,
    /// Refused, timed out or otherwise not established.
    pub(crate) failed: u64,
    /// Established, then ended by the other side or by an error.
    pub(crate) broken: u64,
}

impl AddAssign<&Connections> for Connections {
    fn add_assign(&mut self, other: &Connections) {
        self.attempted += other.attempted;
        self.established += other.established;
        self.failed += other.failed;
        self.broken += other.broken;
    }
}

/// The results of one worker, or of all.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    /// The classes, second by second.
    pub(crate) books: Books,
    /// How long right replies took, in time or late, second by second: from the intended send time, which
    /// outside the open loop is the actual one.
    pub(crate) round_trips: Timeline,
    /// The same from the actual send time. Open loop only.
    pub(crate) from_actual: Latency,
    /// Actual less intended send time. Open loop only.
    pub(crate) slip: Latency,
    /// How hard each worker worked.
    pub(crate) efforts: Vec<Effort>,
    /// Datagrams that our own sockets dropped, their receive buffers being full.
    pub(crate) own_drops: u64,
    /// Datagrams given up because their place in the table was needed, before their timeout.
    pub(crate) forgotten: u64,
    /// Datagrams of the schedule that were never sent, since the time was up.
    pub(crate) unsent: u64,
    /// ICMP errors by kind.
    pub(crate) complaints: BTreeMap<Complaint, u64>,
    /// Local send failures by errno; for TCP, failed and broken connections.
    pub(crate) refusals: BTreeMap<i32, u64>,
    /// TCP only.
    pub(crate) connections: Connections,
    /// The smallest receive buffer that a socket of ours got, in bytes.
    pub(crate) receive_buffer_bytes: u64,
}

impl Tally {
    /// Nothing yet, in a run with this warmup.
    pub(crate) fn new(warmup: Duration) -> Self {
        Self {
            books: Books::new(warmup),
            round_trips: Timeline::new(warmup),
            from_actual: Latency::new(),
            slip: Latency::new(),
            efforts: Vec::new(),
            own_drops: 0,
            forgotten: 0,
            unsent: 0,
            complaints: BTreeMap::new(),
            refusals: BTreeMap::new(),
            connections: Connections::default(),
            receive_buffer_bytes: u64::MAX,
        }
    }

    /// Notes an ICMP error.
    pub(crate) fn complain(&mut self, complaint: Complaint) {
        if self.complaints.len() < COMPLAINTS_MAX || self.complaints.contains_key(&complaint) {
            *self.complaints.entry(complaint).or_default() += 1;
        }
    }

    /// Notes what the local kernel refused.
    pub(crate) fn refuse(&mut self, errno: i32) {
        *self.refusals.entry(errno).or_default() += 1;
    }

    /// Adds another worker's results.
    pub(crate) fn merge(&mut self, other: &Tally) {
        self.books.merge(&other.books);
        self.round_trips.merge(&other.round_trips);
        self.from_actual.merge(&other.from_actual);
        self.slip.merge(&other.slip);
        self.efforts.extend(&other.efforts);
        self.own_drops += other.own_drops;
        self.forgotten += other.forgotten;
        self.unsent += other.unsent;
        for (complaint, count) in &other.complaints {
            *self.complaints.entry(*complaint).or_default() += count;
        }
        for (errno, count) in &other.refusals {
            *self.refusals.entry(*errno).or_default() += count;
        }
        self.connections += &other.connections;
        self.receive_buffer_bytes = self.receive_buffer_bytes.min(other.receive_buffer_bytes);
    }
}
