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
    /// What its reply sockets have of it.
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
