//! What the worker's counters have to say, counter by counter: the simulated kernel writes down what it did, under
//! the name of the counter that tells it, so that a right sum of wrong counters is none.

use std::collections::BTreeMap;

use crate::policy::counters::Snapshot;

/// How far the kernel knows a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Knowledge {
    /// It has happened as often as the counter says.
    Exact,
    /// Each time is counted, and at once for more than one, as often as not; never without a time.
    Least,
    /// It is counted at most so often: what happened may have had another consequence.
    Most,
    /// It may be counted when this has happened, and not before.
    Cause,
}
use Knowledge::{Cause, Exact, Least, Most};

/// The counters that the kernel knows, each by what the process met.
const KNOWN: [(&str, Knowledge); 42] = [
    ("udp_bytes_in", Exact),
    ("udp_trains_in", Exact),
    ("udp_trains_out", Exact),
    ("udp_truncated", Exact),
    ("udp_unaddressed", Exact),
    ("udp_refused_system_port", Exact),
    ("udp_refused_bad_source", Exact),
    ("udp_refused_bad_destination", Exact),
    ("udp_refused_own_pair", Exact),
    ("udp_refused_own_port", Exact),
    ("udp_refused_hop_limit", Most),
    ("udp_refused_reflector_port", Exact),
    ("udp_exposed", Exact),
    ("udp_reply_sockets_made", Exact),
    ("udp_reply_port_privileged", Least),
    ("udp_reply_port_taken", Least),
    ("udp_reply_address_missing", Least),
    ("udp_reply_socket_forbidden", Least),
    ("udp_reply_socket_no_files", Least),
    ("udp_reply_socket_no_memory", Least),
    ("udp_reply_socket_errors", Least),
    ("udp_no_buffers", Exact),
    ("udp_receive_errors", Exact),
    ("udp_receive_pauses", Most),
    ("udp_send_waits", Exact),
    ("udp_trains_refused", Exact),
    ("udp_send_unreachable", Exact),
    ("udp_send_forbidden", Exact),
    ("udp_send_bad_source", Exact),
    ("udp_send_errors", Exact),
    ("tcp_bytes_in", Most),
    ("tcp_bytes_spliced", Exact),
    ("tcp_no_descriptors", Exact),
    ("tcp_stalls", Cause),
    ("tcp_accept_errors", Exact),
    ("tcp_accept_pauses", Most),
    ("tcp_no_buffers", Exact),
    ("tcp_closed_reset", Most),
    ("tcp_closed_vanished", Most),
    ("tcp_closed_error", Most),
    ("tcp_closed_finished", Most),
    ("tcp_closed_prefix_limit", Most),
];

/// What a connection ends by whose peer is out of reach: what the last ICMP message told, or that there was none.
pub(super) const VANISHED: [i32; 9] = [
    libc::ETIMEDOUT,
    libc::EHOSTUNREACH,
    libc::ENETUNREACH,
    libc::EHOSTDOWN,
    libc::ENONET,
    libc::ECONNREFUSED,
    libc::ENOPROTOOPT,
    libc::EACCES,
    libc::EPROTO,
];

/// What has happened so far.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    happened: BTreeMap<&'static str, u64>,
    /// What the process may have counted besides.
    perhaps: BTreeMap<&'static str, u64>,
}

impl Ledger {
    /// So many times more that this counter tells.
    pub(super) fn count(&mut self, name: &'static str, more: u64) {
        debug_assert!(KNOWN.iter().any(|(known, _)| *known == name), "{name} is compared with nothing");
        *self.happened.entry(name).or_default() += more;
    }

    /// So many times more that this counter tells, unless the process wanted it so.
    pub(super) fn count_perhaps(&mut self, name: &'static str, more: u64) {
        *self.perhaps.entry(name).or_default() += more;
    }

    /// What a reply meets that the kernel refuses with `errno`: one datagram, or a train of so many.
    pub(super) fn count_refused(&mut self, errno: i32, datagrams: u64) {
        let train = datagrams > 1;
        match errno {
            libc::EMSGSIZE | libc::EINVAL | libc::EIO if train => self.count("udp_trains_refused", 1),
            libc::ENETUNREACH | libc::ECONNREFUSED => self.count("udp_send_unreachable", datagrams),
            libc::EPERM => self.count("udp_send_forbidden", datagrams),
            libc::EADDRNOTAVAIL | libc::EINVAL => self.count("udp_send_bad_source", datagrams),
            _ => self.count("udp_send_errors", datagrams),
        }
    }

    /// A reply socket can't be had: what it was for, at least a datagram, is not answered.
    pub(super) fn count_unbound(&mut self, errno: i32, port: u16) {
        let counter = match errno {
            libc::EACCES if port < 1024 => "udp_reply_port_privileged",
            libc::EACCES | libc::EPERM => "udp_reply_socket_forbidden",
            libc::EADDRINUSE => "udp_reply_port_taken",
            libc::EADDRNOTAVAIL => "udp_reply_address_missing",
            libc::EMFILE | libc::ENFILE => "udp_reply_socket_no_files",
            libc::ENOBUFS | libc::ENOMEM => "udp_reply_socket_no_memory",
            _ => "udp_reply_socket_errors",
        };
        self.count(counter, 1);
    }

    /// A connection's end is told to the process, which may have closed it for another reason.
    pub(super) fn count_told(&mut self, errno: i32) {
        match errno {
            libc::ECONNRESET | libc::EPIPE => self.count("tcp_closed_reset", 1),
            libc::EIO => self.count("tcp_closed_error", 1),
            vanished if VANISHED.contains(&vanished) => self.count("tcp_closed_vanished", 1),
            other => panic!("a connection ends by {other}"),
        }
    }

    /// The counters say what has happened.
    pub(super) fn check(&self, now: &Snapshot) {
        for (name, knowledge) in KNOWN {
            let [happened, perhaps] =
                [&self.happened, &self.perhaps].map(|counts| counts.get(name).copied().unwrap_or(0));
            let (_, counted) = now.entries().find(|(other, _)| *other == name).expect("a counter");
            let fits = match knowledge {
                Exact => (happened..=happened + perhaps).contains(&counted),
                Least => counted >= happened && (happened > 0 || counted == 0),
                Most => counted <= happened,
                Cause => happened > 0 || counted == 0,
            };
            assert!(fits, "{name}: {counted} counted, {happened} happened ({knowledge:?}): {now}");
        }
    }
}
