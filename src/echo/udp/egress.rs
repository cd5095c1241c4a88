//! Where a reply leaves: the one place that chooses its way out.
//!
//! A reply must come from the address and port that the datagram was sent to. From a listening socket's own port it
//! leaves by that socket, which is told the address (`IP_PKTINFO` carries no port). From any other port it leaves by a
//! reply socket, which is bound to exactly that pair.

use std::net::SocketAddr;

use super::backlog::Backlogs;
use super::reply_sockets::{BindRefusal, InheritedOptions, OptionsId, ReplySockets};
use crate::kernel::ring::{File, Ring};
use crate::kernel::sys;
use crate::policy::flow::Flow;

/// A way out: the file that sends, and whether the message sets the source address. A reply socket is bound to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Egress {
    pub(super) file: File,
    pub(super) sets_source: bool,
}

impl Egress {
    /// The source that the message of a reply sets.
    pub(super) fn source(self, flow: &Flow) -> Option<SocketAddr> {
        self.sets_source.then_some(flow.origdst)
    }
}

/// The way out of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// It is there.
    Ready(Egress),
    /// A reply socket was opened for it.
    Opened(Egress),
    /// A reply socket may have to be opened, which was not allowed.
    MustOpen,
    /// There is none: the reply is dropped.
    None(BindRefusal),
}

/// A listening socket, as far as replies are concerned.
#[derive(Debug)]
struct Source {
    file: File,
    addr: SocketAddr,
    /// The options that its reply sockets inherit.
    options: OptionsId,
    is_open: bool,
}

/// All ways out of a worker: its listening sockets and its reply sockets.
#[derive(Debug)]
pub(super) struct EgressTable {
    /// The listening sockets, by number.
    listening: Vec<Source>,
    pub(super) reply_sockets: ReplySockets,
}

impl EgressTable {
    pub(super) fn new(reply_sockets: ReplySockets) -> Self {
        Self { listening: Vec::new(), reply_sockets }
    }

    /// Adds the next listening socket. Its reply sockets get the `options` that it was given.
    pub(super) fn add(&mut self, file: File, addr: SocketAddr, options: InheritedOptions) {
        let options = self.reply_sockets.intern(options);
        self.listening.push(Source { file, addr, options, is_open: true });
    }

    /// The listening socket of this number is closed.
    pub(super) fn close(&mut self, number: u16) {
        self.listening[usize::from(number)].is_open = false;
    }

    /// The way out for replies from `origdst` to datagrams that the listening socket of this number has received.
    ///
    /// Opening a reply socket takes time, so it is allowed only by `opening`: the ring that gets it, and the backlogs,
    /// which keep the sockets open that something waits for.
    pub(super) fn choose(
        &mut self,
        number: u16,
        origdst: SocketAddr,
        turn: u64,
        opening: Option<(&mut Ring, &Backlogs)>,
    ) -> Choice {
        let own = &self.listening[usize::from(number)];
        let options = own.options;
        if origdst.port() == own.addr.port() {
            return Choice::Ready(Egress { file: own.file, sets_source: true });
        }
        if let Some(file) = self.reply_sockets.get(origdst, options, turn) {
            return Choice::Ready(Egress { file, sets_source: false });
        }
        let Some((ring, backlogs)) = opening else { return Choice::MustOpen };
        // a listening socket of ours on that port answers from every address; a reply socket that shared the port with it
        // would take its datagrams
        if let Some(other) = self.listening_on(origdst) {
            return if self.reply_sockets.share_route(other.options, options) {
                Choice::Ready(Egress { file: other.file, sets_source: true })
            } else {
                Choice::None(BindRefusal::Taken)
            };
        }
        let is_used = |file| backlogs.is_used(file);
        match self.reply_sockets.get_or_open(origdst, options, ring, turn, sys::now(), is_used) {
            Ok(file) => Choice::Opened(Egress { file, sets_source: false }),
            Err(refusal) => Choice::None(refusal),
        }
    }

    /// Whether `egress` still leads out for replies from `origdst`: the reply socket that it was may have been closed
    /// since, and its file be another one's.
    pub(super) fn is_current(&mut self, egress: Egress, number: u16, origdst: SocketAddr, turn: u64) -> bool {
        let options = self.listening[usize::from(number)].options;
        egress.sets_source || self.reply_sockets.get(origdst, options, turn) == Some(egress.file)
    }

    fn listening_on(&self, origdst: SocketAddr) -> Option<&Source> {
        let port_and_family = |addr: SocketAddr| (addr.port(), addr.is_ipv4());
        self.listening
            .iter()
            .find(|source| source.is_open && port_and_family(source.addr) == port_and_family(origdst))
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::reply_sockets::ReplySocketLimits;
    use super::*;
    use crate::kernel::ring::{FileTable, RingConfig};
    use crate::kernel::sys::IntOption;
    use crate::policy::pairs::Pairs;

    const TURN: u64 = 1;
    const OWN: Egress = Egress { file: File(0), sets_source: true };
    const OTHER: Egress = Egress { file: File(1), sets_source: true };

    fn ring() -> Ring {
        Ring::new(RingConfig {
            submission_entries: 8,
            completion_entries: 16,
            files: 8,
            file_table: FileTable::Registered,
            busy_poll: Duration::ZERO,
        })
        .unwrap()
    }

    /// A pair of this test process alone.
    fn pair(number: u16) -> SocketAddr {
        let [high, low] = (std::process::id() as u16).to_be_bytes();
        SocketAddr::from(([127, high | 1, low, 2], 21_000 + number))
    }

    /// Listening sockets on the ports of `pair(0)`, and with these options on that of `pair(1)`; `count` reply sockets.
    fn table(count: usize, options: InheritedOptions) -> EgressTable {
        let limits = ReplySocketLimits { count, per_second: 1000, idle_timeout: Duration::from_mins(1) };
        let pairs = Arc::new(Pairs::new(8));
        let mut table = EgressTable::new(ReplySockets::new(2, limits, Arc::default(), pairs));
        table.add(OWN.file, pair(0), InheritedOptions::default());
        table.add(OTHER.file, pair(1), options);
        table
    }

    #[test]
    fn from_its_own_port_a_reply_leaves_by_the_listening_socket() {
        let mut table = table(4, InheritedOptions::default());
        let elsewhere = SocketAddr::from(([127, 0, 0, 9], pair(0).port()));
        for origdst in [pair(0), elsewhere] {
            assert_eq!(table.choose(0, origdst, TURN, None), Choice::Ready(OWN));
        }
        assert_eq!(table.choose(1, pair(1), TURN, None), Choice::Ready(OTHER));
    }

    #[test]
    fn from_another_port_it_leaves_by_a_reply_socket_that_is_opened_once() {
        let (mut ring, mut table, backlogs) =
            (ring(), table(4, InheritedOptions::default()), Backlogs::default());
        assert_eq!(table.choose(0, pair(2), TURN, None), Choice::MustOpen);
        let Choice::Opened(egress) = table.choose(0, pair(2), TURN, Some((&mut ring, &backlogs))) else {
            panic!("a reply socket is opened");
        };
        assert_eq!(egress, Egress { file: File(2), sets_source: false });
        assert_eq!(table.choose(0, pair(2), TURN, None), Choice::Ready(egress));
        assert!(table.is_current(egress, 0, pair(2), TURN));
        assert!(!table.is_current(egress, 0, pair(3), TURN), "the file is another pair's now");
        assert!(table.is_current(OWN, 0, pair(3), TURN), "a listening socket stays");
    }

    #[test]
    fn from_the_port_of_another_listening_socket_it_leaves_by_that_one() {
        let (mut ring, mut table, backlogs) =
            (ring(), table(4, InheritedOptions::default()), Backlogs::default());
        assert_eq!(table.choose(0, pair(1), TURN, None), Choice::MustOpen);
        assert_eq!(table.choose(0, pair(1), TURN, Some((&mut ring, &backlogs))), Choice::Ready(OTHER));
        table.close(1);
        let opened = table.choose(0, pair(1), TURN, Some((&mut ring, &backlogs)));
        assert!(matches!(opened, Choice::Opened(_)), "its port is free now: {opened:?}");
    }

    #[test]
    fn a_listening_socket_with_another_route_lends_its_port_to_nobody() {
        let bound = UdpSocket::bind(pair(9)).unwrap();
        sys::set_option(bound.as_fd(), IntOption::BOUND_INTERFACE, 1).unwrap();
        let options = InheritedOptions::of(bound.as_fd(), pair(9));
        let (mut ring, mut table, backlogs) = (ring(), table(4, options), Backlogs::default());
        let choice = table.choose(0, pair(1), TURN, Some((&mut ring, &backlogs)));
        assert_eq!(choice, Choice::None(BindRefusal::Taken));
    }

    #[test]
    fn without_a_reply_socket_there_is_no_way_out() {
        let (mut ring, mut table, backlogs) =
            (ring(), table(0, InheritedOptions::default()), Backlogs::default());
        let choice = table.choose(0, pair(4), TURN, Some((&mut ring, &backlogs)));
        assert_eq!(choice, Choice::None(BindRefusal::Limited));
    }
}
