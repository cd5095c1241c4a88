//! Counters: each written by one worker, read by whoever prints them.

use std::fmt;
use std::ops::Index;
use std::sync::Arc;

use crate::kernel::addr::Domain;
use crate::values::counter::Counter;

/// One counter, read: its name, what it means, and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As in the log.
    pub name: &'static str,
    /// The comment of its definition.
    pub meaning: &'static str,
    /// The value.
    pub value: u64,
}

macro_rules! counters {
    ($(#[doc = $meaning:literal] $name:ident,)+) => {
        /// What one worker has done for the addresses of one family.
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
            /// Lines of the log that nobody took.
            pub log_lines_dropped: u64,
            /// Messages that the service manager did not take.
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

            /// With what the process said and nobody took.
            #[must_use]
            pub fn with(self, unheard: &Unheard) -> Self {
                Self {
                    log_lines_dropped: unheard.log_lines.get(),
                    notifications_dropped: unheard.notifications.get(),
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

/// What the process said and nobody took; it went on all the same.
#[derive(Clone, Debug, Default)]
pub struct Unheard {
    /// Lines of the log.
    pub log_lines: Arc<Counter>,
    /// Messages to the service manager.
    pub notifications: Arc<Counter>,
}

/// What one worker has done. Aligned so that two workers' counters share no cache line.
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
    /// Bytes received on connections; what comes after our FIN is not counted.
    tcp_bytes_in,
    /// Bytes that the kernel took to send on connections.
    tcp_bytes_out,
    /// Connections closed after the peer had finished and had everything sent back.
    tcp_closed_finished,
    /// Connections that their peer reset.
    tcp_closed_reset,
    /// Connections closed for another error.
    tcp_closed_error,
    /// Connections whose peer gave no sign of life for too long (--tcp-user-timeout, --tcp-keepalive).
    tcp_closed_vanished,
    /// Connections closed because nothing was sent or received on them for too long (--idle-timeout).
    tcp_closed_idle,
    /// Connections closed at once because their source has as many as it may have (--max-connections-per-prefix).
    tcp_closed_prefix_limit,
    /// Connections closed because their peer did not read and memory for its echo ran out.
    tcp_closed_stalled,
    /// Connections that the end of the server closed.
    tcp_closed_drained,
    /// Times a connection's peer did not read fast enough, so that its echo was set aside.
    tcp_stalls,
    /// Times the receive buffers of the connections were used up.
    tcp_no_buffers,
    /// Times the limit of connections stopped accepting for a while.
    tcp_limit_reached,
    /// Accepts that failed.
    tcp_accept_errors,
    /// Times accepting paused after that: a tenth of a second each.
    tcp_accept_pauses,
    /// Datagrams received; a train counts each of its own.
    udp_datagrams_in,
    /// Bytes of their payload.
    udp_bytes_in,
    /// Trains received in one piece (GRO).
    udp_trains_in,
    /// Datagrams sent.
    udp_datagrams_out,
    /// Bytes of their payload.
    udp_bytes_out,
    /// Trains sent in one piece (GSO).
    udp_trains_out,
    /// Received payload or control messages did not fit: dropped.
    udp_truncated,
    /// No original destination to answer from: dropped.
    udp_unaddressed,
    /// Not answered: came from a port below 1024.
    udp_refused_system_port,
    /// Not answered: came from an address that is not one host's.
    udp_refused_bad_source,
    /// Not answered: was sent to a multicast or broadcast address.
    udp_refused_bad_destination,
    /// Not answered: came from one of our own address and port pairs.
    udp_refused_own_pair,
    /// Not answered: came from a port that we listen on.
    udp_refused_own_port,
    /// Not answered: came from a port that we listen on, and may have gone round in a loop, for all its hops.
    udp_refused_hop_limit,
    /// Not answered: came from the port of a service that is known to reflect (--public).
    udp_refused_reflector_port,
    /// Not answered: its source had as many answers as it may have (--udp-prefix-rate).
    udp_refused_prefix_rate,
    /// Not answered: there were as many answers as there may be (--udp-reply-rate).
    udp_refused_reply_rate,
    /// Datagrams to a public address without --public, answered or not.
    udp_exposed,
    /// Reply sockets made, to answer from another port than the bound one.
    udp_reply_sockets_made,
    /// Dropped: too many new reply sockets at that moment.
    udp_reply_sockets_limited,
    /// Dropped: the port to answer from takes CAP_NET_BIND_SERVICE.
    udp_reply_port_privileged,
    /// Dropped: the port to answer from is somebody else's.
    udp_reply_port_taken,
    /// Dropped: the port to answer from is one that no reply socket may take (--reply-ports-except).
    udp_reply_port_excepted,
    /// Dropped: the address to answer from is not this host's.
    udp_reply_address_missing,
    /// Dropped: a filter forbade the reply socket.
    udp_reply_socket_forbidden,
    /// Dropped: there were no open files left for a reply socket.
    udp_reply_socket_no_files,
    /// Dropped: there was no memory left for a reply socket.
    udp_reply_socket_no_memory,
    /// Dropped: no reply socket for another reason.
    udp_reply_socket_errors,
    /// Times the receive buffers of a UDP socket were used up; what is queued stays queued.
    udp_no_buffers,
    /// Drops at our sockets by the kernel's count, mostly since the receive buffer was full; of a train it may count one.
    udp_receive_buffer_drops,
    /// Receives that failed.
    udp_receive_errors,
    /// Times receiving on a UDP socket paused since it had failed again and again: 10 ms each.
    udp_receive_pauses,
    /// Times a reply found the send buffer full and had to wait.
    udp_send_waits,
    /// Trains that the path refused, sent singly instead.
    udp_trains_refused,
    /// Replies with no route to their peer: dropped.
    udp_send_unreachable,
    /// Replies that a filter forbade: dropped.
    udp_send_forbidden,
    /// Replies whose source address this host may not use: dropped.
    udp_send_bad_source,
    /// Replies that failed otherwise: dropped.
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

    #[test]
    fn every_counter_is_found_with_its_meaning() {
        let counters = Counters::default();
        counters[Domain::Ipv6].udp_send_waits.add(2);
        let found = |domain: Domain| counters[domain].entries().find(|entry| entry.name == "udp_send_waits");
        let (ipv4, ipv6) = (found(Domain::Ipv4).unwrap(), found(Domain::Ipv6).unwrap());
        assert_eq!((ipv4.value, ipv6.value), (0, 2));
        assert_eq!(ipv6.meaning.trim(), "Times a reply found the send buffer full and had to wait.");
    }
}
