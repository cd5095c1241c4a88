//! All listening sockets, grouped by worker, and the options that all of them get.

use std::os::fd::AsFd;
use std::time::Duration;

use crate::kernel::sys::{self, IntOption, Protocol};
use crate::sockets::keepalive::{self, Keepalive};
use crate::sockets::listening::{AtExit, LISTEN_BACKLOG, Listening, MissingOption, SOCKET_BUFFER_BYTES};

/// All listening sockets.
#[derive(Debug, Default)]
pub struct Sockets {
    /// The sockets of each worker, in the order of the endpoints.
    pub shares: Vec<Vec<Listening>>,
    /// Warnings for the operator, one line each.
    pub warnings: Vec<String>,
}

impl Sockets {
    /// Makes the kernel report the DSCP of each datagram, so that its reply can carry it; or not. Stored sockets may
    /// have the opposite setting.
    pub fn set_dscp(&mut self, reflected: bool) {
        let udp = self.shares.iter().flatten().filter(|socket| socket.protocol == Protocol::Udp);
        let set = udp.map(|socket| {
            let v4 = socket.addr.is_ipv4();
            let option = if v4 { IntOption::RECEIVE_TOS_V4 } else { IntOption::RECEIVE_CLASS_V6 };
            sys::set_option(socket.as_fd(), option, reflected.into())
        });
        let failed = set.into_iter().find(Result::is_err).unwrap_or(Ok(()));
        let missing =
            MissingOption::of(failed, "IP_RECVTOS", "replies leave without the DSCP of what they answer");
        self.warnings.extend(missing.filter(|_| reflected).map(|missing| missing.to_string()));
    }

    /// Makes the kernel report the hop limit of each datagram, or not. Stored sockets may have the opposite setting.
    pub fn set_hops(&mut self, wanted: bool) {
        let udp = self.shares.iter().flatten().filter(|socket| socket.protocol == Protocol::Udp);
        let set = udp.map(|socket| {
            let v4 = socket.addr.is_ipv4();
            let option = if v4 { IntOption::RECEIVE_HOPS_V4 } else { IntOption::RECEIVE_HOPS_V6 };
            sys::set_option(socket.as_fd(), option, wanted.into())
        });
        let failed = set.into_iter().find(Result::is_err).unwrap_or(Ok(()));
        let missing =
            MissingOption::of(failed, "IP_RECVTTL", "no client on the server's own port is answered");
        self.warnings.extend(missing.filter(|_| wanted).map(|missing| missing.to_string()));
    }

    /// Makes the kernel end a connection whose peer acknowledges no data for this time (tcp(7), `TCP_USER_TIMEOUT`).
    /// Zero means the system's default, about 15 minutes.
    pub fn set_user_timeout(&mut self, timeout: Duration) {
        let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        let listeners = self.shares.iter().flatten().filter(|socket| socket.protocol == Protocol::Tcp);
        let set = listeners
            .map(|listener| sys::set_option(listener.as_fd(), IntOption::USER_TIMEOUT, timeout_ms))
            .find(Result::is_err);
        let loss = "connections of vanished peers end only after the system's default time";
        self.warnings.extend(
            MissingOption::of(set.unwrap_or(Ok(())), "TCP_USER_TIMEOUT", loss)
                .map(|missing| missing.to_string()),
        );
    }

    /// Makes the kernel probe quiet peers, or not (tcp(7), `SO_KEEPALIVE`). This overrules a .socket unit, because its
    /// times would not fit the user timeout.
    pub fn set_keepalive(&mut self, keepalive: Option<Keepalive>) {
        let set = |listener: &Listening| {
            let set = |option, value| sys::set_option(listener.as_fd(), option, value);
            if let Some(Keepalive { after_s, interval_s }) = keepalive {
                set(IntOption::KEEP_ALIVE_IDLE, after_s)?;
                set(IntOption::KEEP_ALIVE_INTERVAL, interval_s)?;
                set(IntOption::KEEP_ALIVE_COUNT, keepalive::PROBES)?;
            }
            set(IntOption::KEEP_ALIVE, keepalive.is_some().into())
        };
        let listeners = self.shares.iter().flatten().filter(|socket| socket.protocol == Protocol::Tcp);
        let set = listeners.map(set).find(Result::is_err).unwrap_or(Ok(()));
        let loss = "idle connections of peers that vanished are kept";
        self.warnings.extend(MissingOption::of(set, "SO_KEEPALIVE", loss).map(|missing| missing.to_string()));
    }
}

impl Sockets {
    /// Lets each worker receive what the kernel receives on the worker's processor. Worker `i` has socket `i` of each
    /// address, and is pinned to `processors[i]`. A wrong number would only cost the way to another processor.
    pub fn steer_by_processor(&mut self, processors: &[usize]) {
        let workers = self.shares.len();
        if workers > processors.len() {
            let processors = processors.len();
            self.warnings.push(format!(
                "--steer cpu has no effect: {workers} workers share {processors} processors; lower --workers to \
                 {processors}, or say auto"
            ));
            return self.steer_by_hash();
        }
        let mut refused = Ok(());
        let mut warnings = Vec::new();
        for group in self.groups() {
            let first = group[0];
            if group.iter().any(|socket| socket.group_number.is_none()) {
                let (protocol, addr) = (first.protocol, first.addr);
                warnings.push(format!(
                    "--steer cpu has no effect on {protocol} {addr}: the order of its stored sockets is not known; stop \
                     and start the service once, so that it opens new ones"
                ));
                let _ = sys::receive_by_hash(first.as_fd());
            } else if group.len() > 1 {
                let processors = &processors[..workers.min(group.len())];
                refused = refused.and(sys::receive_by_processor(first.as_fd(), processors));
            }
        }
        let loss = "the kernel's hash chooses the workers";
        let missing = MissingOption::of(refused, "SO_ATTACH_REUSEPORT_CBPF", loss);
        self.warnings.extend(missing.map(|missing| missing.to_string()).into_iter().chain(warnings));
    }

    /// Lets the kernel's hash choose the worker, also where an earlier process has chosen otherwise.
    pub fn steer_by_hash(&mut self) {
        let kept = |group: &Vec<&Listening>| group[0].at_exit == AtExit::Keep;
        let set = self
            .groups()
            .iter()
            .filter(|group| kept(group))
            .try_for_each(|group| sys::receive_by_hash(group[0].as_fd()));
        let loss = "the --steer cpu of an earlier process stays in effect";
        self.warnings.extend(
            MissingOption::of(set, "SO_DETACH_REUSEPORT_BPF", loss).map(|missing| missing.to_string()),
        );
    }

    /// The served sockets by protocol and address. A stored one, if there is any, comes first.
    fn groups(&self) -> Vec<Vec<&Listening>> {
        let mut groups: Vec<Vec<&Listening>> = Vec::new();
        for socket in self.shares.iter().flatten().filter(|socket| socket.at_exit != AtExit::Retire) {
            let same = |group: &&mut Vec<&Listening>| {
                (group[0].protocol, group[0].addr) == (socket.protocol, socket.addr)
            };
            match groups.iter_mut().find(same) {
                Some(group) => group.push(socket),
                None => groups.push(vec![socket]),
            }
        }
        groups
    }
}

impl Sockets {
    /// Collects warnings about sockets that serve, but lack an option or have smaller buffers than asked for.
    pub(super) fn warn(&mut self) {
        let mut warnings: Vec<String> =
            receive_buffer_warning(self).into_iter().chain(accept_queue_warning(self)).collect();
        let mut told: Vec<&'static str> = Vec::new();
        for missing in self.shares.iter().flatten().flat_map(|socket| &socket.missing_options) {
            if !told.contains(&missing.option) {
                told.push(missing.option);
                warnings.push(missing.to_string());
            }
        }
        self.warnings.extend(warnings);
    }

    /// Whether all UDP sockets have receive buffers of the size asked for.
    pub fn has_whole_buffers(&self) -> bool {
        receive_buffer_bytes(self).is_none_or(|bytes| bytes >= SOCKET_BUFFER_BYTES)
    }
}

/// The smallest receive buffer of a UDP socket.
fn receive_buffer_bytes(sockets: &Sockets) -> Option<i32> {
    sockets
        .shares
        .iter()
        .flatten()
        .filter(|listening| listening.protocol == Protocol::Udp)
        .filter_map(|listening| sys::option(listening.as_fd(), IntOption::RECEIVE_BUFFER).ok())
        .map(|doubled| doubled / 2) // socket(7): the kernel doubles the size asked for
        .min()
}

/// A warning if the kernel gave smaller receive buffers than asked for.
fn receive_buffer_warning(sockets: &Sockets) -> Option<String> {
    let smallest = receive_buffer_bytes(sockets)?;
    (smallest < SOCKET_BUFFER_BYTES).then(|| {
        format!(
            "UDP receive buffers are {smallest} bytes instead of {SOCKET_BUFFER_BYTES}: bursts may be dropped; \
             raise net.core.rmem_max to {SOCKET_BUFFER_BYTES} or grant CAP_NET_ADMIN, and restart"
        )
    })
}

/// A warning if the kernel gave shorter accept queues than asked for. The kernel itself reports no error for that.
fn accept_queue_warning(sockets: &Sockets) -> Option<String> {
    let listeners = sockets.shares.iter().flatten().filter(|listening| listening.protocol == Protocol::Tcp);
    let shortest = listeners.filter_map(|listening| sys::accept_queue_max(listening.as_fd()).ok()).min()?;
    (shortest < LISTEN_BACKLOG).then(|| {
        format!(
            "TCP accept queues hold {shortest} connections instead of {LISTEN_BACKLOG}: in a burst of more, some wait \
             a second or longer; raise net.core.somaxconn and restart"
        )
    })
}
