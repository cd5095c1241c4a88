//! Connections that are made while the clock runs: in the mode `connect`, and with --each-once.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use tubular_echo::kernel::ring::{File, Token};

use super::{OP_POLL, Worker};
use crate::tcp::calls::{Deadline, take_over};
use crate::tcp::connection::{Begun, Stage};
use crate::tcp::local_end;
use crate::tcp::plan::Mode;
use crate::tcp::schedule::Due;

/// Pause after a failed connection, so that blaster does not flood a server that is gone.
const PAUSE_AFTER_FAILURE_NS: u64 = 10_000_000;

impl Worker {
    /// Makes the connections that are due, as far as there are places.
    pub(super) fn call(&mut self, now_ns: u64) {
        if !self.account.plan.is_scheduled() {
            return;
        }
        while self.calls.has_room()
            && let Some(due) = self.schedule.next(now_ns)
            && let Some(place) = self.calls.free.pop_front()
        {
            if self.account.plan.traffic.visits.is_some() {
                let visit = self.schedule.next_visit();
                self.connections[place as usize].visit(&self.account.plan, visit as u32);
            }
            // a wait for a place is the server's: it still holds all of them
            self.account.note_wait(due.intended_ns, due.intended_ns < self.calls.room_since_ns);
            let slip_ns = now_ns - due.intended_ns.max(self.calls.room_since_ns).min(now_ns);
            self.account.note_slip(due.intended_ns, slip_ns);
            self.begin_call(place, due, now_ns);
        }
    }

    /// Makes the next connection of a place, when the one before is over.
    pub(super) fn call_again(&mut self, place: u32, now_ns: u64) {
        if let Some(due) = self.schedule.next(now_ns) {
            self.begin_call(place, due, now_ns);
        }
    }

    fn begin_call(&mut self, place: u32, due: Due, now_ns: u64) {
        if self.account.is_measured(due.intended_ns) {
            self.schedule.count_measured();
        }
        self.account.last_sent_ns = now_ns;
        self.account.results.connections.attempted += 1;
        self.running += 1;
        self.connections[place as usize].begin(due, now_ns);
        match self.dial(place) {
            Ok(true) => self.established(place, now_ns),
            Ok(false) => {
                self.connections[place as usize].link.stage = Stage::Connecting;
                self.poll(place);
                let timeout_ns = self.account.plan.traffic.timeout_ns;
                let deadline = self.deadline(place, now_ns + timeout_ns);
                self.calls.connecting.push_back(deadline);
            }
            Err(error) => self.fail(place, &error, now_ns),
        }
    }

    fn deadline(&self, place: u32, at_ns: u64) -> Deadline {
        Deadline { at_ns, place, life: self.connections[place as usize].link.life }
    }

    /// Begins to connect. Returns whether the connection is there.
    fn dial(&mut self, place: u32) -> io::Result<bool> {
        let connection = &self.connections[place as usize];
        let (peer, local) = (connection.peer, connection.local);
        let plan = &self.account.plan;
        let socket = Arc::new(local_end::socket(peer, local, &plan.traffic.packets)?);
        let nth = plan.number_of(connection.id, connection.link.life);
        let is_there = local_end::connect(socket.as_fd(), plan.traffic.labelled(peer, nth))?;
        self.register(place, &socket).map_err(io::Error::other)?;
        Ok(is_there)
    }

    /// Waits until the socket of a connection is writable.
    pub(super) fn poll(&mut self, place: u32) {
        let link = &mut self.connections[place as usize].link;
        if !link.is_polling {
            link.is_polling = true;
            self.ring.poll_writable(File(place), Token::new(OP_POLL, 0, place));
        }
    }

    /// A poll has ended: the connection is there, or failed; or its socket has room again.
    pub(super) fn after_poll(&mut self, place: u32, now_ns: u64) {
        let connection = &mut self.connections[place as usize];
        connection.link.is_polling = false;
        connection.note_room();
        if connection.link.stage == Stage::Connecting {
            let socket = connection.link.socket.as_ref().expect("it connects");
            match local_end::connected(socket.as_fd(), connection.peer) {
                Ok(()) => self.established(place, now_ns),
                Err(error) => self.fail(place, &error, now_ns),
            }
        } else {
            self.make_ready(place);
            self.release_if_quiet(place, now_ns);
        }
    }

    /// A connection is there: sends its message, which counts from the time when the connection was begun.
    fn established(&mut self, place: u32, now_ns: u64) {
        self.open(place);
        let connection = &self.connections[place as usize];
        if connection.is_running() {
            let Begun { due, at_ns } = connection.begun;
            self.add_message(place, due, at_ns);
            let linger_ns = self.account.plan.extent.linger.as_nanos() as u64;
            let deadline = self.deadline(place, now_ns + linger_ns);
            self.calls.echoing.push_back(deadline);
        } else {
            self.release_if_quiet(place, now_ns);
        }
    }

    /// A connection was not established.
    fn fail(&mut self, place: u32, error: &io::Error, now_ns: u64) {
        let connection = &mut self.connections[place as usize];
        let is_measured = self.account.is_measured(connection.begun.due.intended_ns);
        connection.note_failure(&mut self.account, error, is_measured);
        connection.abandon();
        connection.link.stage = Stage::Ended;
        connection.link.must_rest = true;
        self.running -= 1;
        self.release_if_quiet(place, now_ns);
    }

    /// Ends what has lasted too long, and begins again what has rested.
    pub(super) fn expire(&mut self, now_ns: u64) {
        while let Some(Deadline { place, life, .. }) = take_over(&mut self.calls.connecting, now_ns) {
            let link = &self.connections[place as usize].link;
            if link.life == life && link.stage == Stage::Connecting {
                self.fail(place, &io::ErrorKind::TimedOut.into(), now_ns);
            }
        }
        while let Some(Deadline { place, life, .. }) = take_over(&mut self.calls.echoing, now_ns) {
            let connection = &mut self.connections[place as usize];
            if connection.link.life == life && connection.is_running() {
                connection.shut_down();
            }
        }
        while let Some(Deadline { place, .. }) = take_over(&mut self.calls.resting, now_ns) {
            self.call_again(place, now_ns);
        }
    }

    /// Frees the place of a connection that has ended, when nothing waits on its socket any more.
    pub(super) fn release_if_quiet(&mut self, place: u32, now_ns: u64) {
        let connection = &mut self.connections[place as usize];
        let link = &mut connection.link;
        if link.stage != Stage::Ended || link.is_receiving || link.is_polling {
            return;
        }
        link.stage = Stage::Idle;
        let must_rest = std::mem::take(&mut link.must_rest);
        if link.socket.take().is_some() {
            self.ring.unregister_file(File(place));
        }
        let plan = &self.account.plan;
        if plan.traffic.visits.is_some() {
            self.account.results.connections.in_order_at_end += u64::from(connection.is_in_order);
        }
        if plan.mode != Mode::Connect {
            return;
        }
        if plan.is_scheduled() {
            if !self.calls.has_room() {
                self.calls.room_since_ns = now_ns;
            }
            self.calls.free.push_back(place);
        } else if must_rest {
            let deadline = self.deadline(place, now_ns + PAUSE_AFTER_FAILURE_NS);
            self.calls.resting.push_back(deadline);
        } else {
            self.call_again(place, now_ns);
        }
    }
}
