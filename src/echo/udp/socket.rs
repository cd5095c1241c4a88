//! A listening socket of the UDP datapath: receiving on it, from the first multishot to the end of the drain.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use super::drops::Drops;
use super::group::Arrival;
use super::groups::Groups;
use super::idle_memory::IdleMemory;
use super::operation::Operations;
use crate::kernel::addr::{self, Domain};
use crate::kernel::cmsg;
use crate::kernel::pause::Failures;
use crate::kernel::ring::{File, PinnedBytes, Quiet, ReceivedPart, Ring, RingError, Unusable};
use crate::kernel::sys;
use crate::policy::counters::Traffic;
use crate::policy::flow::Flow;
use crate::policy::gso_refusals::GsoRefusals;
use crate::policy::refuse::Admission;
use crate::sockets::listening::{AtExit, Listening};

/// Buffers of all sockets of a worker: 64 MiB, the most memory that peers can make it use.
const BUFFERS: usize = 1024;
/// The most buffers of a socket: what one turn can receive.
const BUFFERS_MAX: usize = 128;
/// The fewest buffers of a socket.
const BUFFERS_MIN: usize = 16;

/// How many buffers each of so many sockets has.
pub(super) fn buffers_each(sockets: usize) -> u16 {
    let each = (BUFFERS / sockets.max(1)).clamp(BUFFERS_MIN, BUFFERS_MAX);
    1 << each.ilog2()
}

/// How far receiving on a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiving {
    /// The multishot is in the kernel.
    Armed,
    /// It is, but a cancellation is under way.
    Cancelling,
    /// It has ended and is to be armed again.
    Ended,
    /// It has ended too often in a row without a datagram: it is armed again after a pause.
    Paused,
    /// It has ended for good.
    Off,
}

pub(super) struct Socket {
    /// `None` once it was retired.
    pub(super) listening: Option<Listening>,
    pub(super) addr: SocketAddr,
    pub(super) domain: Domain,
    pub(super) at_exit: AtExit,
    pub(super) file: File,
    pub(super) number: u16,
    pub(super) receiving: Receiving,
    /// Receives in a row that ended without a datagram.
    pub(super) failures: Failures,
    /// The kernel's count of drops; `None` if a filter drops datagrams, too: the kernel counts both alike.
    pub(super) drops: Option<Drops>,
    pub(super) groups: Groups,
    memory: IdleMemory,
}

impl Socket {
    /// Registers `listening` as `file`, and so many buffers of its own.
    pub(super) fn new(
        ring: &mut Ring,
        listening: Listening,
        number: u16,
        file: File,
        buffers: u16,
    ) -> Result<Self, RingError> {
        ring.register_file(file, listening.shared())?;
        let groups = Groups::new(ring, buffers)?;
        Ok(Self {
            addr: listening.addr,
            domain: Domain::of(listening.addr),
            at_exit: listening.at_exit,
            // a socket that retires has a filter already
            drops: Drops::new(listening.as_fd()).filter(|_| listening.at_exit != AtExit::Retire),
            listening: Some(listening),
            file,
            number,
            receiving: Receiving::Ended,
            failures: Failures::default(),
            memory: IdleMemory::new(groups.buffers.mark()),
            groups,
        })
    }

    /// Takes in what was received: it joins a group of this turn, begins one, or is counted and not answered.
    pub(super) fn arrived(
        &mut self,
        part: ReceivedPart,
        turn: u64,
        admission: &mut Admission,
        gso_refusals: &mut GsoRefusals,
        counters: &Traffic,
    ) {
        let Some((flow, mut arrival, payload, hops)) = self.read(&part, counters) else {
            self.groups.buffers.recycle(part);
            return;
        };
        counters.udp_datagrams_in.add(arrival.datagrams.into());
        counters.udp_bytes_in.add(arrival.bytes.into());
        counters.udp_trains_in.add((arrival.datagrams > 1).into());
        if admission.rules().is_exposed(&flow) {
            counters.udp_exposed.add(arrival.datagrams.into());
        }
        let refusal = admission.refuse(&flow, arrival.datagrams);
        match refusal.map_or_else(|| admission.rules().hops(&flow, hops), Err) {
            Ok(hops) => {
                arrival.hops = hops;
                let refuses_trains = || gso_refusals.contains(flow.peer.ip(), sys::now);
                self.groups.add(part, payload, flow, arrival, turn, refuses_trains);
            }
            Err(refusal) => {
                refusal.counter(counters).add(arrival.datagrams.into());
                self.groups.buffers.recycle(part);
            }
        }
    }

    /// The flow of what was received, its sizes, its payload, and the hop limit that it came with. `None`: it can't be
    /// answered, which is counted.
    #[inline]
    fn read(
        &self,
        part: &ReceivedPart,
        counters: &Traffic,
    ) -> Option<(Flow, Arrival, PinnedBytes, Option<u8>)> {
        let datagram = match self.groups.buffers.datagram(part) {
            Ok(datagram) => datagram,
            Err(unusable) => {
                match unusable {
                    Unusable::PayloadTruncated | Unusable::ControlTruncated => counters.udp_truncated.add(1),
                    Unusable::Malformed => counters.udp_receive_errors.add(1),
                }
                return None;
            }
        };
        let ancillary = cmsg::decode(datagram.control);
        let arrival = Arrival::new(datagram.payload_bytes, ancillary.segment_bytes, ancillary.traffic_class);
        let (Some(peer), Some(origdst)) = (addr::decode(datagram.name), ancillary.origdst) else {
            counters.udp_unaddressed.add(arrival.datagrams.into());
            return None;
        };
        let payload = self.groups.buffers.pinned(part).part(datagram.payload_offset, datagram.payload_bytes);
        Some((Flow { peer, origdst }, arrival, payload, ancillary.hops))
    }

    /// Receiving has ended without a datagram once more.
    pub(super) fn fail(&mut self, counters: &Traffic) {
        if self.failures.add() && self.receiving == Receiving::Ended {
            self.receiving = Receiving::Paused;
            counters.udp_receive_pauses.add(1);
        }
    }

    /// Arms the multishot if it has ended. Without a free buffer it would fail at once, again and again.
    pub(super) fn arm(&mut self, ring: &mut Ring, operations: Operations) {
        if self.receiving == Receiving::Ended && self.groups.buffers.available() > 0 {
            self.receiving = Receiving::Armed;
            ring.receive_datagrams(self.file, &self.groups.buffers, operations.receive(self.number));
        }
    }

    /// A second has passed: whether the buffers hold memory that can be given back one day.
    pub(super) fn tick_memory(&mut self) -> bool {
        self.memory.tick(self.groups.buffers.mark())
    }

    /// Gives the memory of the buffers back, if nothing was received for so many seconds.
    pub(super) fn give_back_idle(&mut self, quiet: Quiet<'_>, idle_ticks: u32) {
        if self.memory.is_idle(self.groups.buffers.mark(), idle_ticks) && self.groups.buffers.give_back(quiet)
        {
            self.memory.given_back();
        }
    }

    /// Ends receiving, when nothing is queued. A datagram that another processor was just putting into the queue as the
    /// filter came shows up later, and is received all the same.
    pub(super) fn end_if_empty(&mut self, ring: &mut Ring, operations: Operations) -> io::Result<()> {
        let Some(listening) = &self.listening else { return Ok(()) };
        if sys::receive_queue_bytes(listening.as_fd())? == 0 {
            self.end(ring, operations);
        } else if self.receiving == Receiving::Off {
            self.receiving = Receiving::Ended;
        }
        Ok(())
    }

    /// Ends receiving for good.
    pub(super) fn end(&mut self, ring: &mut Ring, operations: Operations) {
        match self.receiving {
            Receiving::Armed => {
                self.receiving = Receiving::Cancelling;
                ring.cancel(operations.receive(self.number), operations.cancel());
            }
            Receiving::Ended | Receiving::Paused => self.receiving = Receiving::Off,
            Receiving::Cancelling | Receiving::Off => {}
        }
    }

    /// Receives no more, and has sent all replies.
    pub(super) fn is_done(&self) -> bool {
        self.receiving == Receiving::Off && self.groups.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_sockets_share_what_one_worker_may_take() {
        assert_eq!([1, 2, 8, 9, 16, 64, 256].map(buffers_each), [128, 128, 128, 64, 64, 16, 16]);
        assert!((1..=64).all(|sockets| usize::from(buffers_each(sockets)) * sockets <= BUFFERS));
    }
}
