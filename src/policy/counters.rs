//! The counters. One worker writes each of them; the log and the metrics read them.

use std::fmt;
use std::ops::Index;
use std::sync::Arc;

use crate::kernel::addr::Domain;
use crate::values::counter::Counter;

/// The name, meaning and value of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name in the log.
    pub name: &'static str,
    /// The doc comment of its definition.
    pub meaning: &'static str,
    /// The current value.
    pub value: u64,
}

macro_rules! counters {
    ($(#[doc = $meaning:literal] $name:ident,)+) => {
        /// The counters of one worker for one address family.
        #[derive(Debug, Default)]
        pub struct Traffic {
            $(#[doc = $meaning] pub $name: Counter,)+
        }

        impl Traffic {
            /// All counters, in the order of their definition.
            pub fn entries(&self) -> impl Iterator<Item = Entry> {
                [$(Entry { name: stringify!($name), meaning: $meaning, value: self.$name.get() },)+].into_iter()
            }
        }

        /// The sum of the counters of several workers, both families together, at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Snapshot {
            /// Turns of the rings.
            pub turns: u64,
            /// Log lines dropped because nobody read them.
            pub log_lines_dropped: u64,
            /// Messages that the service manager did not read.
            pub notifications_dropped: u64,
            $(#[doc = $meaning] pub $name: u64,)+
        }

        impl Snapshot {
            /// Adds up the counters of several workers.
            pub fn of<'a>(workers: impl IntoIterator<Item = &'a Counters>) -> Self {
                let mut sum = Self::default();
                for counters in workers {
                    sum.turns += counters.turns.get();
                    for traffic in &counters.traffic {
                        $(sum.$name += traffic.$name.get();)+
                    }
                }
                sum
            }

            /// Adds the counts of dropped log lines and notifications.
            #[must_use]
            pub fn with(self, dropped_messages: &DroppedMessages) -> Self {
                Self {
                    log_lines_dropped: dropped_messages.log_lines.get(),
                    notifications_dropped: dropped_messages.notifications.get(),
                    ..self
                }
            }

            /// Names and values, in the order of their definition.
            pub fn entries(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [
                    ("turns", self.turns),
                    ("log_lines_dropped", self.log_lines_dropped),
                    ("notifications_dropped", self.notifications_dropped),
                    $((stringify!($name), self.$name),)+
                ]
                .into_iter()
            }
        }
    };
}

/// Counts of messages that were dropped because nobody read them.
#[derive(Clone, Debug, Default)]
pub struct DroppedMessages {
    /// Log lines.
    pub log_lines: Arc<Counter>,
    /// Messages to the service manager.
    pub notifications: Arc<Counter>,
}

/// The counters of one worker, aligned so that two workers' counters share no cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counters {
    /// Turns of the ring.
    pub turns: Counter,
    traffic: [Traffic; Domain::ALL.len()],
}

impl Index<Domain> for Counters {
    type Output = Traffic;

    fn index(&self, domain: Domain) -> &Traffic {
        &self.traffic[domain as usize]
    }
}

counters! {
    /// Connections accepted.
    tcp_accepted,
    /// Connections open now.
    tcp_open,
    /// Bytes received on connections, except those that come after our FIN.
    tcp_bytes_in,
    /// Bytes that the kernel accepted for sending on connections.
    tcp_bytes_out,
    /// Bytes of those that were moved by their pages, without a copy.
    tcp_bytes_spliced,
    /// Connections whose large messages are copied, since there was no descriptor to splice from.
    tcp_no_descriptors,
    /// Connections that ended normally: the peer finished and its echo was complete.
    tcp_closed_finished,
    /// Connections that the peer reset.
    tcp_closed_reset,
    /// Connections closed by any other error.
    tcp_closed_error,
    /// Connections closed because the peer did not respond in time (--tcp-user-timeout, --tcp-keepalive).
    tcp_closed_vanished,
    /// Connections closed after too long without traffic (--idle-timeout).
    tcp_closed_idle,
    /// Connections closed at once because their source had reached its limit (--max-connections-per-prefix).
    tcp_closed_prefix_limit,
    /// Connections closed because the peer did not read and the memory for its echo ran out.
    tcp_closed_stalled,
    /// Connections that the drain of the server closed.
    tcp_closed_drained,
    /// Times a connection's peer read too slowly, so that its echo was copied to spill memory.
    tcp_stalls,
    /// Times all receive buffers of the connections were in use.
    tcp_no_buffers,
    /// Times the limit of connections paused accepting.
    tcp_limit_reached,
    /// Failed accepts.
    tcp_accept_errors,
    /// Pauses of 100 ms after a failed accept.
    tcp_accept_pauses,
    /// Datagrams received; each datagram of a train counts.
    udp_datagrams_in,
    /// Bytes of their payload.
    udp_bytes_in,
    /// Trains received in one message (GRO).
    udp_trains_in,
    /// Datagrams sent.
    udp_datagrams_out,
    /// Bytes of their payload.
    udp_bytes_out,
    /// Trains sent in one message (GSO).
    udp_trains_out,
    /// Dropped: the payload or the control messages did not fit the buffer.
    udp_truncated,
    /// Dropped: the kernel did not report the original destination.
    udp_unaddressed,
    /// Not answered: sent from a port below 1024.
    udp_refused_system_port,
    /// Not answered: sent from an address that is not that of a single host.
    udp_refused_bad_source,
    /// Not answered: sent to a multicast or broadcast address.
    udp_refused_bad_destination,
    /// Not answered: sent from an address and port of this server.
    udp_refused_own_pair,
    /// Not answered: sent from a port that this server listens on.
    udp_refused_own_port,
    /// Not answered: sent from a port that this server listens on, with a hop limit so low that it may be in a loop.
    udp_refused_hop_limit,
    /// Not answered: sent from the port of a service that reflects (--public).
    udp_refused_reflector_port,
    /// Not answered: its source exceeded --udp-prefix-rate.
    udp_refused_prefix_rate,
    /// Not answered: all sources together exceeded --udp-reply-rate.
    udp_refused_reply_rate,
    /// Datagrams to a public address while --public is off, answered or not.
    udp_exposed,
    /// Reply sockets opened, to answer from a port other than the bound one.
    udp_reply_sockets_made,
    /// Dropped: --reply-socket-rate allowed no further reply socket.
    udp_reply_sockets_limited,
    /// Dropped: the reply's port needs CAP_NET_BIND_SERVICE.
    udp_reply_port_privileged,
    /// Dropped: another process is bound to the reply's port.
    udp_reply_port_taken,
    /// Dropped: --reply-ports-except excludes the reply's port.
    udp_reply_port_excepted,
    /// Dropped: the reply's address does not belong to this host.
    udp_reply_address_missing,
    /// Dropped: a filter forbade the reply socket.
    udp_reply_socket_forbidden,
    /// Dropped: the limit of open files left none for a reply socket.
    udp_reply_socket_no_files,
    /// Dropped: there was no memory for a reply socket.
    udp_reply_socket_no_memory,
    /// Dropped: the reply socket failed for another reason.
    udp_reply_socket_errors,
    /// Times all receive buffers of a UDP socket were in use; queued datagrams stay queued.
    udp_no_buffers,
    /// Drops at our sockets as the kernel counts them, mostly because the receive buffer was full; a dropped train may count once.
    udp_receive_buffer_drops,
    /// Failed receives.
    udp_receive_errors,
    /// Pauses of 10 ms because receiving on a UDP socket failed repeatedly.
    udp_receive_pauses,
    /// Times a reply waited because the send buffer was full.
    udp_send_waits,
    /// Trains that the path refused, sent as single datagrams instead.
    udp_trains_refused,
    /// Replies dropped because there was no route to the peer.
    udp_send_unreachable,
    /// Replies dropped because a filter forbade them.
    udp_send_forbidden,
    /// Replies dropped because the host may not use their source address.
    udp_send_bad_source,
    /// Replies dropped because of another error.
    udp_send_errors,
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.entries().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{name}={value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::*;

    #[test]
    fn workers_and_families_add_up() {
        let workers = [Counters::default(), Counters::default()];
        workers[0].turns.add(9);
        workers[0][Domain::Ipv4].udp_datagrams_in.add(3);
        workers[1][Domain::Ipv6].udp_datagrams_in.add(4);
        workers[1][Domain::Ipv4].tcp_open.add(2);
        workers[1][Domain::Ipv4].tcp_open.subtract(1);
        let sum = Snapshot::of(&workers);
        assert_eq!((sum.udp_datagrams_in, sum.tcp_open), (7, 1));
        let text = sum.to_string();
        assert!(text.starts_with("turns=9 ") && text.contains(" udp_datagrams_in=7 "), "{text}");
    }

    /// Processors fetch cache lines of 64 bytes in pairs.
    #[test]
    fn no_two_workers_share_a_cache_line() {
        let workers: Vec<Arc<Counters>> = (0..8).map(|_| Arc::default()).collect();
        let mut lines: Vec<usize> = Vec::new();
        for counters in &workers {
            let first = ptr::from_ref(&**counters).addr();
            // the one before has the count of references
            lines.extend(first / 128 - 1..=(first + size_of::<Counters>() - 1) / 128);
        }
        let count = lines.len();
        lines.sort_unstable();
        lines.dedup();
        assert_eq!(lines.len(), count);
    }

    #[test]
    fn every_counter_is_found_with_its_meaning() {
        let counters = Counters::default();
        counters[Domain::Ipv6].udp_send_waits.add(2);
        let found = |domain: Domain| counters[domain].entries().find(|entry| entry.name == "udp_send_waits");
        let (ipv4, ipv6) = (found(Domain::Ipv4).unwrap(), found(Domain::Ipv6).unwrap());
        assert_eq!((ipv4.value, ipv6.value), (0, 2));
        assert_eq!(ipv6.meaning.trim(), "Times a reply waited because the send buffer was full.");
    }
}
