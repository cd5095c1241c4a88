//! A listener of the TCP datapath: how far accepting on it is.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use crate::kernel::addr::Domain;
use crate::kernel::pause::Failures;
use crate::kernel::ring::{File, PeerName, Ring, Token};
use crate::kernel::sys;
use crate::policy::counters::Traffic;
use crate::sockets::listening::{AtExit, Listening};

/// How far accepting on a listener is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepting {
    Armed,
    /// Being cancelled at the limit of connections.
    Cancelling,
    /// Being cancelled for good.
    Leaving,
    Ended,
    /// Ended for want of a descriptor or of memory, or too often in a row for nothing: armed again after a pause.
    Paused,
    /// For good.
    Off,
}

pub(super) struct Listener {
    /// `None` once it was retired.
    pub(super) listening: Option<Listening>,
    pub(super) addr: SocketAddr,
    pub(super) domain: Domain,
    pub(super) at_exit: AtExit,
    pub(super) file: File,
    pub(super) accepting: Accepting,
    /// Accepts in a row that ended without a connection.
    pub(super) failures: Failures,
    /// The peer of the connection that was accepted last; only where they are accepted one by one.
    pub(super) peer: Option<PeerName>,
}

impl Listener {
    /// Accepting goes on after a pause.
    pub(super) fn pause(&mut self, counters: &Traffic) {
        if self.accepting == Accepting::Ended {
            self.accepting = Accepting::Paused;
            counters.tcp_accept_pauses.add(1);
        }
    }

    /// Accepts what comes, or one connection.
    pub(super) fn accept(&mut self, ring: &mut Ring, accept: Token) {
        self.accepting = Accepting::Armed;
        match &mut self.peer {
            None => ring.accept(self.file, accept),
            Some(peer) => ring.accept_one(self.file, peer, accept),
        }
    }

    /// Ends accepting, unless there are connections in the queue that nobody else will accept. One that
    /// another processor was just putting there as the filter came is accepted all the same.
    pub(super) fn end_if_left(&mut self, ring: &mut Ring, accept: Token, cancel: Token) -> io::Result<()> {
        let left = match &self.listening {
            Some(listening) if self.at_exit != AtExit::Keep => sys::accept_queue_len(listening.as_fd())? == 0,
            _ => true,
        };
        match self.accepting {
            Accepting::Armed if left => {
                self.accepting = Accepting::Leaving;
                ring.cancel(accept, cancel);
            }
            Accepting::Ended | Accepting::Paused if left => self.accepting = Accepting::Off,
            // cancelled at the limit of connections: for good, now
            Accepting::Cancelling if left => self.accepting = Accepting::Leaving,
            Accepting::Off if !left => self.accepting = Accepting::Ended,
            _ => {}
        }
        Ok(())
    }
}
