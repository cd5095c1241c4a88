//! The settings of the server, one for each option of the command line.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use crate::sockets::endpoint::Endpoint;
use crate::sockets::listen_addr::ListenAddr;
use crate::values::ports::PortsExcept;

/// Number of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// One for each processor that the process may run on, but no more than the quota of its control group allows.
    Auto,
    /// This many.
    Fixed(NonZeroUsize),
}

/// What chooses the worker of a datagram or a connection.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steer {
    /// The kernel's hash of both addresses and ports.
    Hash,
    /// The processor on which the kernel receives.
    Cpu,
}

/// Settings of the server. It has more than 12 fields because each is an option of the command line.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools)] // each is an independent switch on the command line
// one field for each option
pub struct ServerConfig {
    /// Addresses to listen on.
    pub endpoints: Vec<Endpoint>,
    /// The operator named the addresses. If not, sockets passed by a .socket unit replace them.
    pub named: bool,
    /// Share ports with other processes that allow it.
    pub join: bool,
    /// Number of worker threads.
    pub workers: Workers,
    /// Keep each worker on one processor.
    pub pin: bool,
    /// What chooses the worker.
    pub steer: Steer,
    /// TCP connections served at a time, all workers together.
    pub max_connections: Option<NonZeroUsize>,
    /// The server faces the open Internet.
    pub public: bool,
    /// Datagrams answered per second and source prefix, by each worker.
    pub udp_prefix_rate: Option<NonZeroU32>,
    /// Datagrams answered per second, all workers together.
    pub udp_reply_rate: Option<NonZeroU32>,
    /// Connections of one source (an IPv4 address or an IPv6 /64), all workers together.
    pub max_connections_per_prefix: Option<NonZeroUsize>,
    /// Close a connection after this time without traffic; zero for never.
    pub idle_timeout: Duration,
    /// Close a connection whose peer acknowledges no data for this time; zero for the system's default.
    pub tcp_user_timeout: Duration,
    /// Each UDP reply carries the DSCP of the datagram that it answers.
    pub reflect_dscp: bool,
    /// Probe a quiet peer after this time; zero for never, `None` for a time that fits `tcp_user_timeout`.
    pub tcp_keepalive: Option<Duration>,
    /// Log the counters at this interval.
    pub stats_interval: Option<Duration>,
    /// Time that a worker polls before it sleeps; zero for not at all.
    pub busy_poll: Duration,
    /// Time limit of the drain.
    pub drain_timeout: Duration,
    /// Store the listening sockets at the service manager for the next process.
    pub fd_store: bool,
    /// Reply sockets of each worker: sockets that answer from UDP ports other than the bound ones.
    pub reply_sockets: Option<usize>,
    /// Reply sockets that each worker opens per second, at most.
    pub reply_socket_rate: u32,
    /// Close a reply socket after this time without a reply.
    pub reply_socket_idle: Duration,
    /// Ports that no reply socket binds.
    pub reply_ports_except: PortsExcept,
    /// Address of the metrics.
    pub metrics: Option<ListenAddr>,
    /// Label of the sockets in tubular's bindings, for the metrics.
    pub label: Option<String>,
}
