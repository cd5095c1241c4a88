//! Sends the groups of all sockets, and handles what becomes of each message.
//!
//! A group leaves by the way out that [`EgressTable::choose`] finds for it. A train that its path refuses is sent as single
//! datagrams, and a reply that finds no room in a send buffer waits in a backlog. The way of a group from state to state
//! is drawn in [`super::progress`].

use super::backlog::{Backlogs, QueuedReply};
use super::broadcasts::Broadcasts;
use super::egress::{Choice, Egress, EgressTable};
use super::operation::{GroupId, Operations, Sent};
use super::progress::{Next, Progress};
use super::reply_sockets::BindRefusal;
use super::socket::Socket;
use super::split::SplitTrains;
use crate::kernel::ring::{Completion, Errno, File, Patience, Ring, Token};
use crate::kernel::sys;
use crate::policy::counters::{Counters, Traffic};
use crate::policy::errno_policy;
use crate::policy::flow::HashKey;
use crate::policy::gso_refusals::GsoRefusals;
use crate::policy::refuse::RuleRefusal;
use crate::values::counter::Counter;

/// A message of a group that has completed.
#[derive(Clone, Copy)]
struct Completed {
    token: Token,
    id: GroupId,
    egress: Egress,
    /// How many datagrams it carried.
    datagrams: u32,
    /// How it was sent, if that was from a backlog.
    patience: Option<Patience>,
}

/// Replies of a worker on their way out.
pub(super) struct Replies {
    operations: Operations,
    pub(super) egress: EgressTable,
    /// Peers whose path refuses trains.
    pub(super) gso_refusals: GsoRefusals,
    split: SplitTrains,
    backlogs: Backlogs,
    broadcasts: Broadcasts,
    /// Groups that may need a new reply socket.
    deferred: Vec<GroupId>,
}

impl Replies {
    pub(super) fn new(egress: EgressTable, split_slots: u16, operations: Operations) -> Self {
        Self {
            operations,
            egress,
            gso_refusals: GsoRefusals::new(HashKey::draw()),
            split: SplitTrains::new(split_slots),
            backlogs: Backlogs::default(),
            broadcasts: Broadcasts::default(),
            deferred: Vec::new(),
        }
    }

    /// Handles the completion of a message.
    pub(super) fn sent(
        &mut self,
        completion: &Completion,
        sockets: &mut [Socket],
        turn: u64,
        counters: &Counters,
    ) {
        let token = completion.token();
        let id = self.group_of(token);
        let socket = &mut sockets[usize::from(id.socket)];
        let counters = &counters[socket.domain];
        let (group, progress) = socket.groups.get(id.first);
        let egress = progress.egress();
        let datagrams = progress.datagrams_per_message(group.datagrams);
        let patience =
            if self.backlogs.is_empty() { None } else { self.backlogs.completed(egress.file, token) };
        debug_assert!(
            patience.is_some() || !matches!(progress, Progress::OneByOne { .. }),
            "datagrams leave one by one only from a backlog"
        );
        let message = Completed { token, id, egress, datagrams, patience };
        match completion.result() {
            Ok(bytes) => {
                counters.udp_datagrams_out.add(datagrams.into());
                counters.udp_bytes_out.add(bytes.into());
                counters.udp_trains_out.add((datagrams > 1).into());
                self.complete(token, id, socket);
            }
            Err(errno) => self.failed(errno, message, socket, turn, counters),
        }
        if patience.is_some() {
            self.backlogs.settle(egress.file);
        }
    }

    /// A message was refused: it is sent again, or otherwise, or dropped and counted.
    fn failed(
        &mut self,
        errno: Errno,
        message: Completed,
        socket: &mut Socket,
        turn: u64,
        counters: &Traffic,
    ) {
        let Completed { token, id, egress, datagrams, patience } = message;
        let flow = socket.groups.group(id.first).flow;
        let can_split = datagrams > 1 && self.split.fits(datagrams);
        match errno_policy::of_reply(errno, can_split) {
            errno_policy::Send::Wait => {
                counters.udp_send_waits.add(1);
                if !self.wait_for_room(message, socket, turn) {
                    counters.udp_send_errors.add(datagrams.into());
                    self.complete(token, id, socket);
                }
            }
            errno_policy::Send::Split => {
                counters.udp_trains_refused.add(1);
                self.gso_refusals.remember(flow.peer.ip(), sys::now());
                if patience.is_some() {
                    // others of its flow wait behind it, so its datagrams go first
                    let message = socket.groups.send_one_by_one(id.first, egress);
                    self.backlogs.precede(egress.file, QueuedReply { token, message, flow });
                } else {
                    socket.groups.await_split(id.first);
                    self.split.push(id);
                }
            }
            refused => {
                let is_broadcast =
                    matches!(refused, errno_policy::Send::Unreachable | errno_policy::Send::BadSource)
                        && self
                            .broadcasts
                            .contains(flow.origdst.ip(), |ip| sys::is_broadcast(ip).unwrap_or(false));
                let counter = match refused {
                    _ if is_broadcast => RuleRefusal::BadDestination.counter(counters),
                    errno_policy::Send::Unreachable => &counters.udp_send_unreachable,
                    errno_policy::Send::Forbidden => &counters.udp_send_forbidden,
                    errno_policy::Send::BadSource => &counters.udp_send_bad_source,
                    _ => &counters.udp_send_errors,
                };
                counter.add(datagrams.into());
                self.complete(token, id, socket);
            }
        }
    }

    /// Queues a message that found no room, to be sent again. False if it can't be.
    fn wait_for_room(&mut self, message: Completed, socket: &Socket, turn: u64) -> bool {
        let Completed { token, id, egress, patience, .. } = message;
        let flow = socket.groups.group(id.first).flow;
        let message = match self.operations.sent(token) {
            Sent::Group(_) => socket.groups.again(id.first),
            Sent::Datagram(slot) => self.split.again(slot),
        };
        let reply = QueuedReply { token, message, flow };
        match patience {
            Some(Patience::Inline) => self.backlogs.retry(egress.file, reply),
            None if self.egress.is_current(egress, id.socket, flow.origdst, turn) => {
                self.backlogs.open(egress.file, reply);
            }
            // its reply socket is closed, or the kernel has not waited though it was asked to
            None | Some(Patience::Wait) => return false,
        }
        true
    }

    /// A message of this group is through.
    fn complete(&mut self, token: Token, id: GroupId, socket: &mut Socket) {
        if let Sent::Datagram(slot) = self.operations.sent(token) {
            self.split.release(slot);
        }
        if let Next::Datagram { egress, number } = socket.groups.complete(id.first) {
            let message = socket.groups.datagram(id.first, number, egress);
            let flow = socket.groups.group(id.first).flow;
            self.backlogs.precede(egress.file, QueuedReply { token, message, flow });
        }
    }

    /// The group that a message belongs to.
    fn group_of(&self, token: Token) -> GroupId {
        match self.operations.sent(token) {
            Sent::Group(id) => id,
            Sent::Datagram(slot) => self.split.group_of(slot),
        }
    }

    /// Sends all that this turn's datagrams ask for, and what has waited. Order matters.
    pub(super) fn send(&mut self, sockets: &mut [Socket], turn: u64, ring: &mut Ring, counters: &Counters) {
        // refused trains are older than what this turn brought
        self.send_split(sockets, turn, ring, counters);
        for socket in &mut *sockets {
            self.send_gathered(socket, turn, ring);
        }
        self.send_deferred(sockets, turn, ring, counters);
        self.send_split(sockets, turn, ring, counters);
        self.backlogs.send_next(ring);
    }

    /// Sends a socket's groups of this turn in the order of their first datagrams. Groups that may need a new reply socket
    /// come after those of all sockets.
    fn send_gathered(&mut self, socket: &mut Socket, turn: u64, ring: &mut Ring) {
        let mut gathered = std::mem::take(&mut socket.groups.gathered);
        for first in gathered.drain(..) {
            let id = GroupId { socket: socket.number, first };
            if self.must_split(id, socket) {
                socket.groups.await_split(first);
                self.split.push(id);
                continue;
            }
            let origdst = socket.groups.group(first).flow.origdst;
            match self.egress.choose(id.socket, origdst, turn, None) {
                Choice::Ready(egress) | Choice::Opened(egress) => self.send_whole(id, egress, socket, ring),
                Choice::MustOpen | Choice::None(_) => self.deferred.push(id),
            }
        }
        socket.groups.gathered = gathered;
    }

    /// Whether a group is sent as single datagrams at once: its path takes no trains. A group of one datagram is not
    /// excepted, since it must not overtake the trains before it.
    fn must_split(&mut self, id: GroupId, socket: &Socket) -> bool {
        let group = socket.groups.group(id.first);
        // a refusal that was forgotten meanwhile leaves some of the flow behind
        let is_older =
            |other: GroupId| other.socket == id.socket && socket.groups.group(other.first).flow == group.flow;
        self.split.fits(group.datagrams)
            && (self.gso_refusals.contains(group.flow.peer.ip(), sys::now)
                || self.split.waiting().any(is_older))
    }

    /// Sends the groups whose reply socket was not there yet.
    fn send_deferred(&mut self, sockets: &mut [Socket], turn: u64, ring: &mut Ring, counters: &Counters) {
        if self.deferred.is_empty() {
            return;
        }
        // opening sockets takes time, and other replies shall not wait for it
        ring.flush();
        let mut deferred = std::mem::take(&mut self.deferred);
        for id in deferred.drain(..) {
            let socket = &mut sockets[usize::from(id.socket)];
            if let Some(egress) = self.open_egress(id, socket, turn, ring, counters) {
                self.send_whole(id, egress, socket, ring);
            }
        }
        self.deferred = deferred;
    }

    /// The way out of a group, with a new reply socket if need be. `None`: there is none, and the group is dropped.
    fn open_egress(
        &mut self,
        id: GroupId,
        socket: &mut Socket,
        turn: u64,
        ring: &mut Ring,
        counters: &Counters,
    ) -> Option<Egress> {
        let counters = &counters[socket.domain];
        let group = socket.groups.group(id.first);
        let (origdst, datagrams) = (group.flow.origdst, group.datagrams);
        match self.egress.choose(id.socket, origdst, turn, Some((ring, &self.backlogs))) {
            Choice::Ready(egress) => Some(egress),
            Choice::Opened(egress) => {
                counters.udp_reply_sockets_made.add(1);
                Some(egress)
            }
            Choice::MustOpen => unreachable!("it was allowed"),
            Choice::None(refusal) => {
                counter_of(refusal, counters).add(datagrams.into());
                socket.groups.drop_unsent(id.first);
                None
            }
        }
    }

    fn send_whole(&mut self, id: GroupId, egress: Egress, socket: &mut Socket, ring: &mut Ring) {
        let message = socket.groups.send_whole(id.first, egress);
        let flow = socket.groups.group(id.first).flow;
        let token = self.operations.send_group(id);
        self.backlogs.send(egress.file, QueuedReply { token, message, flow }, ring);
    }

    /// Sends the datagrams of refused trains, as far as message slots go.
    fn send_split(&mut self, sockets: &mut [Socket], turn: u64, ring: &mut Ring, counters: &Counters) {
        while let Some(id) = self.split.first() {
            let socket = &mut sockets[usize::from(id.socket)];
            let Some(egress) = self.open_egress(id, socket, turn, ring, counters) else {
                self.split.pop();
                continue;
            };
            if self.backlogs.has(egress.file) {
                // one after the other, which takes no slots: a train that waits must not keep them from others
                self.split.pop();
                let message = socket.groups.send_one_by_one(id.first, egress);
                let flow = socket.groups.group(id.first).flow;
                let token = self.operations.send_group(id);
                self.backlogs.push(egress.file, QueuedReply { token, message, flow });
                continue;
            }
            if !self.split.has_room(socket.groups.group(id.first).datagrams) {
                return;
            }
            self.split.pop();
            socket.groups.send_split(id.first, egress, |datagram, transmit| {
                let (slot, message) = self.split.fill(id, datagram, transmit);
                let token = self.operations.send_datagram(slot);
                ring.send_message(egress.file, message, Patience::Inline, token);
            });
        }
    }

    /// Ends the backlogs that have had their time.
    pub(super) fn tidy(&mut self) {
        self.backlogs.tidy();
    }

    /// A reply waits for this file.
    pub(super) fn is_used(&self, file: File) -> bool {
        self.backlogs.is_used(file)
    }

    /// Closes the reply sockets that were idle for too long.
    pub(super) fn close_idle(&mut self, ring: &mut Ring) {
        self.egress.reply_sockets.ticked(ring, |file| self.backlogs.is_used(file));
    }

    /// The worker ends: counts the datagrams that still wait for room in a send buffer or for a message slot.
    pub(super) fn give_up(&self, sockets: &[Socket], counters: &Counters) {
        let count = |id: GroupId, datagrams: u32| {
            counters[sockets[usize::from(id.socket)].domain].udp_send_errors.add(datagrams.into());
        };
        let left = |id: GroupId| {
            let (group, progress) = sockets[usize::from(id.socket)].groups.get(id.first);
            progress.left_with_message(group.datagrams)
        };
        for token in self.backlogs.all() {
            match self.operations.sent(token) {
                Sent::Group(id) => count(id, left(id)),
                Sent::Datagram(slot) => count(self.split.group_of(slot), 1),
            }
        }
        self.split.waiting().for_each(|id| count(id, left(id)));
    }
}

/// Where a reply that got no socket is counted.
fn counter_of(refusal: BindRefusal, counters: &Traffic) -> &Counter {
    match refusal {
        BindRefusal::Limited => &counters.udp_reply_sockets_limited,
        BindRefusal::Privileged => &counters.udp_reply_port_privileged,
        BindRefusal::Taken => &counters.udp_reply_port_taken,
        BindRefusal::Excepted => &counters.udp_reply_port_excepted,
        BindRefusal::NoAddress => &counters.udp_reply_address_missing,
        BindRefusal::Forbidden => &counters.udp_reply_socket_forbidden,
        BindRefusal::NoFiles => &counters.udp_reply_socket_no_files,
        BindRefusal::NoMemory => &counters.udp_reply_socket_no_memory,
        BindRefusal::Failed => &counters.udp_reply_socket_errors,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Replies {
        /// A group that waits to be split, as if its path had refused it.
        pub(in crate::echo::udp) fn pretend_waiting(&mut self, id: GroupId) {
            self.split.push(id);
        }
    }
}
