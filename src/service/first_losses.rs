//! Warnings about losses. The log gets one line about the first loss of each kind, with its cure; the counters count
//! all of them.

use crate::policy::counters::Snapshot;

/// A kind of loss: its counter, and the text of its warning.
type Loss = (fn(&Snapshot) -> u64, &'static str);

const SHORT_BUFFERS: &str = "the kernel drops datagrams, mostly because a receive buffer is full \
     (udp_receive_buffer_drops): raise net.core.rmem_max to 4194304 or grant CAP_NET_ADMIN, and restart, or ask for more \
     --workers";
/// The text for the same loss if the buffers already have the size that the server asks for.
const WHOLE_BUFFERS: &str = "the kernel drops datagrams, mostly because a receive buffer is full \
     (udp_receive_buffer_drops), although it is as large as was asked for: ask for more --workers, and for processors \
     that they have for themselves";

const LOSSES: [Loss; 32] = [
    (
        |now| now.udp_truncated,
        "a datagram or its control messages did not fit their buffer and was dropped (udp_truncated)",
    ),
    (|now| now.udp_receive_buffer_drops, SHORT_BUFFERS),
    (
        |now| now.udp_receive_pauses,
        "receiving datagrams fails again and again, and pauses for 10 ms each time (udp_receive_pauses): a security \
         module may forbid it, see dmesg and the audit log, or memory is short",
    ),
    (
        |now| now.tcp_accept_pauses,
        "accepting connections fails, and pauses for 100 ms each time (tcp_accept_pauses): open files or memory are \
         short, or a security module forbids it, see dmesg and the audit log",
    ),
    (
        |now| now.udp_unaddressed,
        "a datagram came without its original destination and was dropped (udp_unaddressed): somebody has \
         switched IP_RECVORIGDSTADDR off on our socket",
    ),
    (
        |now| now.udp_refused_system_port,
        "not answering datagrams from ports below 1024 (udp_refused_system_port)",
    ),
    (
        |now| now.udp_refused_bad_source,
        "not answering datagrams from impossible addresses (udp_refused_bad_source)",
    ),
    (
        |now| now.udp_refused_bad_destination,
        "not answering datagrams that were sent to a multicast or broadcast address (udp_refused_bad_destination)",
    ),
    (
        |now| now.udp_refused_own_pair,
        "not answering datagrams that claim to come from ourselves (udp_refused_own_pair): somebody forges them \
         to start a loop",
    ),
    (
        |now| now.udp_refused_own_port,
        "not answering datagrams from a port that we listen on (udp_refused_own_port): their sender may be an echo \
         server too",
    ),
    (
        |now| now.udp_refused_hop_limit,
        "a loop between two servers on one port has ended (udp_refused_hop_limit): reserve the port, on every host \
         (net.ipv4.ip_local_reserved_ports), and it ends with the first datagram",
    ),
    (
        |now| now.udp_refused_reflector_port,
        "not answering datagrams from ports of services that are known to reflect (udp_refused_reflector_port)",
    ),
    (
        |now| now.udp_refused_prefix_rate,
        "a source exceeds its rate limit, and some of its datagrams are dropped (udp_refused_prefix_rate): \
         --udp-prefix-rate",
    ),
    (
        |now| now.udp_refused_reply_rate,
        "datagrams exceed the rate limit, and some are dropped (udp_refused_reply_rate): --udp-reply-rate",
    ),
    (
        |now| now.udp_exposed,
        "datagrams come to a public address (udp_exposed): on the Internet sources are forged; --public limits what \
         they can make us send",
    ),
    (
        |now| now.udp_reply_sockets_limited,
        "datagrams to new ports come faster than reply sockets may be made, some are dropped \
         (udp_reply_sockets_limited): --reply-socket-rate and --reply-sockets",
    ),
    (
        |now| now.udp_reply_port_privileged,
        "a datagram to a port below 1024 can't be answered from there and was dropped (udp_reply_port_privileged): \
         grant CAP_NET_BIND_SERVICE",
    ),
    (
        |now| now.udp_reply_port_taken,
        "a datagram to a port that another process is bound to was dropped (udp_reply_port_taken): `ss -lnup` shows \
         whose it is",
    ),
    (
        |now| now.udp_reply_port_excepted,
        "a datagram to a port that the system reserves, or that was excepted, was dropped (udp_reply_port_excepted): take it \
         out of net.ipv4.ip_local_reserved_ports or --reply-ports-except if it is to be answered",
    ),
    (
        |now| now.udp_reply_address_missing,
        "a datagram to an address that is not this host's was dropped (udp_reply_address_missing): an IPv4 prefix needs an \
         AnyIP route (`ip route add local PREFIX dev lo`)",
    ),
    (
        |now| now.udp_reply_socket_forbidden,
        "a reply socket was forbidden, the datagram was dropped (udp_reply_socket_forbidden): see SocketBindDeny= and \
         SystemCallFilter= of a unit, a container's profile and SELinux; a passed socket's Mark= takes CAP_NET_ADMIN",
    ),
    (
        |now| now.udp_reply_socket_no_files,
        "open files are short, so that a reply socket could not be made and a datagram was dropped \
         (udp_reply_socket_no_files): raise RLIMIT_NOFILE (LimitNOFILE= in a unit, `ulimit -n`) or fs.file-max",
    ),
    (
        |now| now.udp_reply_socket_no_memory,
        "memory is short, so that a reply socket could not be made and a datagram was dropped \
         (udp_reply_socket_no_memory): see MemoryMax= of a unit, or lower --reply-sockets",
    ),
    (
        |now| now.udp_reply_socket_errors,
        "a reply socket could not be made, the datagram was dropped (udp_reply_socket_errors): does the interface of a \
         passed socket (BindToDevice=) still exist, and the address family?",
    ),
    (
        |now| now.udp_send_bad_source,
        "a reply could not leave from the address that the client contacted, and was dropped (udp_send_bad_source): an \
         IPv4 prefix needs an AnyIP route (`ip route add local PREFIX dev lo`)",
    ),
    (
        |now| now.udp_send_unreachable,
        "there was no route for a reply, it was dropped (udp_send_unreachable): `ip route get CLIENT from ADDRESS` shows \
         why, and an IPv4 prefix needs an AnyIP route (`ip route add local PREFIX dev lo`)",
    ),
    (
        |now| now.udp_send_forbidden,
        "a filter forbade a reply, it was dropped (udp_send_forbidden): see nftables, iptables, tc and cgroup filters, and \
         dmesg for a full nf_conntrack table",
    ),
    (|now| now.udp_send_errors, "a reply could not be sent and was dropped (udp_send_errors)"),
    (
        |now| now.tcp_closed_prefix_limit,
        "a source has more connections than it may have, they are closed (tcp_closed_prefix_limit): \
         --max-connections-per-prefix",
    ),
    (
        |now| now.tcp_no_descriptors,
        "open files are short, so that a connection's large messages are copied instead of spliced \
         (tcp_no_descriptors): raise RLIMIT_NOFILE (LimitNOFILE= in a unit, `ulimit -n`)",
    ),
    (
        |now| now.tcp_closed_stalled,
        "a connection whose peer does not read was closed to make room for others' echoes (tcp_closed_stalled)",
    ),
    (
        |now| now.notifications_dropped,
        "the service manager does not read its messages (notifications_dropped): it is stopped, restarts or has too \
         much to do; the server goes on, and tells it again",
    ),
];

/// Remembers which warnings have been logged.
#[derive(Debug, Default)]
pub(super) struct FirstLosses {
    logged: [bool; LOSSES.len()],
    has_whole_buffers: bool,
}

impl FirstLosses {
    /// `has_whole_buffers` says that the receive buffers have the size that the server asks for.
    pub(super) fn new(has_whole_buffers: bool) -> Self {
        Self { has_whole_buffers, ..Self::default() }
    }

    /// The warnings that have not been logged yet.
    pub(super) fn news(&mut self, now: &Snapshot) -> impl Iterator<Item = &'static str> {
        self.logged.iter_mut().zip(LOSSES).filter_map(|(logged, (count, text))| {
            let first = !*logged && count(now) > 0;
            *logged |= first;
            let text = if text == SHORT_BUFFERS && self.has_whole_buffers { WHOLE_BUFFERS } else { text };
            first.then_some(text)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_kind_is_told_once() {
        let mut losses = FirstLosses::default();
        let mut now = Snapshot::default();
        assert_eq!(losses.news(&now).count(), 0);
        now.udp_truncated = 3;
        assert_eq!(losses.news(&now).count(), 1);
        now.udp_truncated = 9;
        now.tcp_closed_stalled = 1;
        let news: Vec<_> = losses.news(&now).collect();
        assert!(news.len() == 1 && news[0].contains("tcp_closed_stalled"), "{news:?}");
    }

    #[test]
    fn a_buffer_that_is_as_large_as_was_asked_for_need_not_be_raised() {
        let now = Snapshot { udp_receive_buffer_drops: 1, ..Snapshot::default() };
        for (has_whole_buffers, wanted) in [(false, true), (true, false)] {
            let news = FirstLosses::new(has_whole_buffers).news(&now).next().unwrap();
            assert_eq!(news.contains("net.core.rmem_max"), wanted, "{news}");
            assert!(news.contains("--workers"), "{news}");
        }
    }

    #[test]
    fn each_text_names_its_counter() {
        for (count, text) in LOSSES.into_iter().chain([(LOSSES[1].0, WHOLE_BUFFERS)]) {
            let entries = Snapshot::default();
            let name =
                entries.entries().map(|(name, _)| name).find(|name| text.contains(&format!("({name})")));
            assert!(name.is_some(), "{text}");
            assert_eq!(count(&entries), 0);
        }
    }
}
