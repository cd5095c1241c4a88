//! What must hold: when all is quiet, and at the end.

use std::time::Duration;

use super::{Phase, World};
use crate::policy::counters::Snapshot;
use crate::simulation::buffers::Group;
use crate::simulation::chance::Faults;
use crate::simulation::kernel::Object;
use crate::simulation::scene::Endpoint;
use crate::sockets::listening::AtExit;

impl World {
    /// All is quiet, so that nothing is owed to anybody.
    pub(super) fn check_quiet(&mut self) {
        self.udp.check_armed();
        self.tcp.check_quiet(self.scene.connections_limit);
        self.tcp.check_restraint();
        let full = self.tcp.held() >= self.scene.connections_limit;
        let reached = Snapshot::of([&*self.counters]).tcp_limit_reached > 0;
        // a listener that pauses just then says nothing
        let pauses = self.kernel.faults.receive > 0 || self.kernel.faults.persistent.accept > Duration::ZERO;
        let served = !pauses && self.tcp.listeners.iter().any(|listener| listener.served);
        assert!(!full || reached || !served, "the limit of connections is reached, and nobody says so");
        assert!(!self.kernel.has_queued(), "operations are queued, but not submitted");
        self.check_books();
        let files = self.kernel.files();
        let connections = files.filter(|object| matches!(object, Object::Connection(_))).count();
        assert_eq!(connections as u64, Snapshot::of([&*self.counters]).tcp_open, "connections in the table");
        if self.scene.lingers {
            self.check_what_comes_with_time();
        }
        self.check_buffers();
    }

    /// Nobody keeps a buffer.
    pub(super) fn check_buffers(&self) {
        // one may wait at a connection that nobody serves
        if self.tcp.listeners.is_empty() || self.tcp.open() < self.scene.connections_limit {
            assert!(self.kernel.groups().all(Group::is_full), "a buffer was lost");
        }
    }

    /// What the kernel has dropped is counted, what nobody uses or wants is closed.
    fn check_what_comes_with_time(&self) {
        let drops = Snapshot::of([&*self.counters]).udp_receive_buffer_drops;
        assert_eq!(drops, self.udp.books.dropped, "datagrams that the kernel dropped, with time");
        let all_served = self.tcp.connections.len() <= self.scene.connections_limit;
        // a turn that fails puts that off
        let Faults { enter, partial, interrupted, overflow, receive, .. } = self.kernel.faults;
        if [enter, partial, interrupted, overflow, receive] == [0; 5] {
            // the streams' buffers come first, and stay; streams that end now and then put it off, too
            let mut of_datagrams = self.kernel.groups().skip(1);
            let is_put_off = !self.tcp.listeners.is_empty();
            let given_back = is_put_off || of_datagrams.all(Group::is_given_back);
            assert!(given_back, "memory of buffers that nobody uses is kept");
            // who waits at the limit comes in late
            let rests = self.tcp.held() > 0 || !all_served || !self.kernel.has_timers();
            assert!(rests, "the worker is woken, and has nothing to look after");
        }
        let closes_idle = !self.scene.idle_timeout.is_zero();
        for object in self.kernel.files() {
            let is_wanted = match object {
                Object::Reply(_)
                | Object::Stream(_)
                | Object::StreamEnd(_)
                | Object::PipeOut
                | Object::PipeIn => false,
                Object::Udp(socket) => self.scene.udp[socket].at_exit != AtExit::Retire,
                // above the limit of connections somebody may wait in its queue
                Object::Listener(listener) => {
                    let waits = !self.tcp.listeners[listener].queue.is_empty();
                    waits || self.scene.tcp[listener].at_exit != AtExit::Retire
                }
                Object::Connection(_) => !closes_idle || !all_served,
                Object::Wake | Object::Peer(_) => true,
            };
            assert!(is_wanted, "{object:?} is still open");
        }
    }

    /// What the worker has counted is what has happened.
    pub(in crate::simulation) fn check_books(&mut self) {
        self.check_datagrams();
        let (now, tcp) = (Snapshot::of([&*self.counters]), self.tcp.books);
        assert_eq!(now.tcp_accepted, tcp.accepted, "connections accepted");
        assert_eq!(now.tcp_open, tcp.accepted - tcp.closed, "connections open");
        assert_eq!(now.tcp_bytes_out, tcp.echoed_bytes, "bytes of streams sent");
        assert!(now.tcp_bytes_in >= tcp.echoed_bytes, "bytes of streams received");
        self.kernel.ledger.check(&now);
        // each time it was reached a connection was accepted since, or it was there from the beginning
        let (limit, listeners) = (self.scene.connections_limit as u64, self.tcp.listeners.len() as u64);
        let reached_max = (tcp.accepted + 1).saturating_sub(limit) * listeners;
        assert!(now.tcp_limit_reached <= reached_max, "the limit is reached too often: {now}");
        let never = |is_on: bool, count: u64| is_on || count == 0;
        assert!(never(self.scene.rates.per_prefix.is_some(), now.udp_refused_prefix_rate), "a rate: {now}");
        assert!(never(self.scene.rates.replies.is_some(), now.udp_refused_reply_rate), "a rate: {now}");
        assert!(never(!self.scene.idle_timeout.is_zero(), now.tcp_closed_idle), "closed: {now}");
        assert!(never(self.scene.per_prefix.is_some(), now.tcp_closed_prefix_limit), "closed: {now}");
        assert!(never(self.phase == Phase::Draining, now.tcp_closed_drained), "closed: {now}");
        // one worker has memory for all that these connections can want
        assert!(never(self.scene.workers > 1, now.tcp_closed_stalled), "closed: {now}");
        // by error: where the kernel can't say when there is room, nobody waits for it
        let given_up =
            now.tcp_closed_stalled + now.tcp_closed_idle + now.tcp_closed_prefix_limit + now.tcp_closed_error;
        // one that is given up may break, or have its last byte sent, meanwhile
        assert!(given_up >= tcp.given_up, "{} connections were not served to their end: {now}", tcp.given_up);
        let causes = now.entries().filter(|(name, _)| name.starts_with("tcp_closed_"));
        assert_eq!(causes.map(|(_, count)| count).sum::<u64>(), tcp.closed, "connections closed: {now}");
    }

    /// The same of datagrams alone.
    fn check_datagrams(&mut self) {
        let (now, books) = (Snapshot::of([&*self.counters]), self.udp.books);
        let (silent, unanswered) = self.udp.settle();
        let rates = now.udp_refused_prefix_rate + now.udp_refused_reply_rate;
        let reply_sockets = now.udp_reply_sockets_limited
            + now.udp_reply_port_privileged
            + now.udp_reply_port_taken
            + now.udp_reply_port_excepted
            + now.udp_reply_address_missing
            + now.udp_reply_socket_forbidden
            + now.udp_reply_socket_no_files
            + now.udp_reply_socket_no_memory
            + now.udp_reply_socket_errors;
        let lost = now.udp_refused_reflector_port
            + now.udp_refused_hop_limit
            + now.udp_refused_system_port
            + now.udp_refused_bad_source
            + now.udp_refused_bad_destination
            + now.udp_refused_own_pair
            + now.udp_refused_own_port
            + rates
            + reply_sockets
            + now.udp_send_unreachable
            + now.udp_send_forbidden
            + now.udp_send_bad_source
            + now.udp_send_errors;
        assert_eq!(now.udp_datagrams_in, books.delivered, "datagrams received");
        assert_eq!(now.udp_datagrams_out, books.echoed, "datagrams sent");
        assert_eq!(now.udp_bytes_out, books.echoed_bytes, "bytes of datagrams sent");
        assert_eq!(now.udp_truncated + now.udp_unaddressed, books.flawed, "datagrams with a flaw");
        assert_eq!(now.udp_datagrams_in, now.udp_datagrams_out + lost, "every datagram is echoed or counted");
        self.scene.unanswered += unanswered;
        self.scene.silent += silent;
        assert_eq!(self.scene.unanswered, lost, "what was not echoed is counted");
        let excused = rates + reply_sockets + now.udp_refused_hop_limit + now.udp_send_errors;
        assert!(self.scene.silent <= excused, "{} datagrams got no echo for no reason", self.scene.silent);
    }

    /// The worker has ended.
    pub(in crate::simulation) fn check_end(&mut self) {
        assert!(self.phase == Phase::Draining, "the worker ends although nobody asked it to");
        assert_eq!(self.kernel.files().count(), 0, "files are left open");
        let udp = self.udp.sockets.iter().map(|socket| socket.filtered).zip(&self.scene.udp);
        let tcp = self.tcp.listeners.iter().map(|listener| listener.filtered).zip(&self.scene.tcp);
        for (filtered, Endpoint { addr, at_exit }) in udp.chain(tcp) {
            assert_eq!(filtered, *at_exit != AtExit::Keep, "nothing new comes to {addr}, which {at_exit:?}");
        }
        if self.scene.cuts {
            // what waits at the deadline is lost, and counted
            self.check_datagrams();
            return;
        }
        let took = self.kernel.now.saturating_sub(self.told);
        assert!(took < self.scene.drain_timeout, "the worker has ended at its deadline");
        self.check_books();
        let drops = Snapshot::of([&*self.counters]).udp_receive_buffer_drops;
        assert_eq!(drops, self.udp.books.dropped, "datagrams that the kernel dropped");
        for (number, this) in self.tcp.connections.iter().enumerate() {
            assert!(!this.accepted || this.closed, "connection {number} was cut");
        }
        for (listener, Endpoint { addr, at_exit }) in self.tcp.listeners.iter().zip(&self.scene.tcp) {
            let accepted = listener.queue.is_empty() || *at_exit == AtExit::Keep;
            assert!(accepted, "connections to {addr} were left in the queue");
        }
        for (number, socket) in self.udp.sockets.iter().enumerate() {
            let answered = self.udp.is_queue_empty(number) || self.scene.outlives(socket.addr);
            assert!(answered, "datagrams to {} were left", socket.addr);
        }
    }
}
