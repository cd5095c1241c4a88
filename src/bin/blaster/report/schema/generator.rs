//! `generator`: the part of blaster itself.

use serde::{Deserialize, Serialize};

use crate::model::latency::Percentiles;

/// The part of blaster itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Generator {
    /// The delay of sends behind the schedule. `null` outside the open loop.
    pub(crate) slip: Option<Percentiles>,
    /// How late blaster read right replies: from the kernel's (or the NIC's) receive time on, which ends the latency.
    /// `null`: those times were not asked for, or none came.
    #[serde(default)]
    pub(crate) reading_slip: Option<Percentiles>,
    /// Right replies without a receive time of the kernel. Their latency ends when blaster read them.
    #[serde(default)]
    pub(crate) unstamped: u64,
    /// Right replies with a receive time of the NIC.
    #[serde(default)]
    pub(crate) stamped_by_nic: u64,
    /// How often somebody set the host's clock during the run, as far as blaster noticed it.
    #[serde(default)]
    pub(crate) clock_steps: u64,
    /// The processor time of the sending threads per sent datagram, with the warmup and without pacing.
    pub(crate) cpu_ns_per_datagram: f64,
    /// For each thread, the share of a core that it used, without pacing.
    pub(crate) cpu_share: Vec<f64>,
    /// For each thread, the share of a core that it used to watch the clock before intended send times.
    pub(crate) pacing_share: Vec<f64>,
    /// For each thread, the share of the time that it waited for a processor that others used. Zero if such waits were too
    /// short to matter.
    #[serde(default)]
    pub(crate) starved_share: Vec<f64>,
    /// Datagrams (TCP: messages, or new connections) of the schedule that were not sent, or made, before the time was up.
    pub(crate) unsent: u64,
    /// Datagrams that were given up before their timeout: blaster could not remember more.
    pub(crate) forgotten: u64,
    /// The smallest receive buffer of the sockets; UDP only.
    pub(crate) receive_buffer_bytes: Option<u64>,
}
