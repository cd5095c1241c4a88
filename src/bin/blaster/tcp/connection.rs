//! One connection, or several one after the other: the messages that it sends, the judgement of their echoes, and how it
//! ends. No ring.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use tubular_echo::kernel::ring::Errno;

use crate::model::counts::{Class, Tally};
use crate::model::payload::Header;
use crate::model::results::{Example, MessageNumber, Results, SentMessage, first_bytes};
use crate::tcp::account::Account;
use crate::tcp::echo::{Difference, Echo, Echoed, Expected};
use crate::tcp::local_end;
use crate::tcp::plan::{Mode, Plan};
use crate::tcp::schedule::Due;

/// The stage of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It has no socket.
    Idle,
    Connecting,
    /// Messages are sent and read.
    Open,
    /// Everything was sent, and the server knows that; its own end is awaited.
    Finishing,
    /// It was counted. Operations of the ring may still wait on its socket.
    Ended,
}

/// When a connection sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// As soon as it has something to send.
    Free,
    /// It waits for its turn.
    Queued,
    /// Its socket has no room.
    Full,
}

/// The socket of a connection, and what the ring does with it.
pub(super) struct Link {
    pub(super) socket: Option<Arc<OwnedFd>>,
    pub(super) stage: Stage,
    /// The number of the connection, among those that follow each other in one place.
    pub(super) life: u32,
    pub(super) is_receiving: bool,
    pub(super) is_polling: bool,
    pub(super) turn: Turn,
    /// The next connection of its place must wait a while.
    pub(super) must_rest: bool,
    /// Nothing more can be sent on it.
    pub(super) send_error: Option<Errno>,
}

/// A connection that is made while the clock runs.
#[derive(Clone, Copy)]
pub(super) struct Begun {
    /// When it was to be made, and the message that it sends.
    pub(super) due: Due,
    /// When it was begun.
    pub(super) at_ns: u64,
}

/// Connection number `id`; in the mode `connect` also the connections that follow it. With --each-once: visit number `id`.
pub(super) struct Connection {
    pub(super) id: u32,
    pub(super) peer: SocketAddr,
    /// The local address, if it is not for the routing table to choose.
    pub(super) local: Option<SocketAddr>,
    pub(super) link: Link,
    sequence: u64,
    echo: Echo,
    /// The connection that is there, or is being made, in the mode `connect`.
    pub(super) begun: Begun,
    /// Blaster has shut it down: it did not answer in time.
    was_shut_down: bool,
    /// It ended without an error; in the mode `connect`, the last one did.
    pub(super) is_in_order: bool,
}

impl Connection {
    pub(super) fn new(plan: &Plan, id: u32) -> Self {
        let (peer, local) = plan.addresses(id);
        let link = Link {
            socket: None,
            stage: Stage::Idle,
            life: 0,
            is_receiving: false,
            is_polling: false,
            turn: Turn::Free,
            must_rest: false,
            send_error: None,
        };
        Self {
            id,
            peer,
            local,
            link,
            sequence: 0,
            echo: Echo::default(),
            begun: Begun { due: Due::at(0), at_ns: 0 },
            was_shut_down: false,
            is_in_order: false,
        }
    }

    /// Becomes visit number `id`, in the same place.
    pub(super) fn visit(&mut self, plan: &Plan, id: u32) {
        let Link { life, turn, .. } = self.link;
        *self = Self::new(plan, id);
        (self.link.life, self.link.turn) = (life, turn);
    }

    /// Begins the next connection of this place.
    pub(super) fn begin(&mut self, due: Due, now_ns: u64) {
        self.begun = Begun { due, at_ns: now_ns };
        self.was_shut_down = false;
        self.link.life = self.link.life.wrapping_add(1);
        self.link.send_error = None;
        self.note_room();
    }

    /// Whether it is not over.
    pub(super) fn is_running(&self) -> bool {
        matches!(self.link.stage, Stage::Connecting | Stage::Open | Stage::Finishing)
    }

    /// Whether everything has come back.
    pub(super) fn is_complete(&self) -> bool {
        self.echo.is_complete()
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.echo.has_unsent()
    }

    /// Whether it has something to send, and may.
    pub(super) fn can_send(&self) -> bool {
        let Link { stage, turn, send_error, .. } = &self.link;
        *stage == Stage::Open && self.has_unsent() && *turn == Turn::Free && send_error.is_none()
    }

    /// Its socket has room.
    pub(super) fn note_room(&mut self) {
        if self.link.turn == Turn::Full {
            self.link.turn = Turn::Free;
        }
    }

    /// Adds the next message, which is to be sent from `now_ns` on. Returns its size.
    pub(super) fn add_message(&mut self, account: &mut Account, due: Due, now_ns: u64) -> usize {
        let Due { intended_ns, recorded_bytes } = due;
        let traffic = &account.plan.traffic;
        let sequence = self.sequence;
        self.sequence += 1;
        let header = traffic.header(self.id, sequence, intended_ns);
        let drawn_bytes = || traffic.message_bytes(self.id, sequence);
        let bytes = recorded_bytes.unwrap_or_else(drawn_bytes) as usize;
        self.echo.add(&header, now_ns, bytes);
        account.note_sent(intended_ns, bytes);
        if account.is_measured(intended_ns) {
            self.tally(account, |tally| tally.sent += 1);
        }
        bytes
    }

    /// Writes the next unsent bytes into `out`, as many as it holds. Returns their number.
    pub(super) fn write_unsent(&self, plan: &Plan, out: &mut [u8]) -> usize {
        self.echo.write_unsent(&plan.traffic.bodies, out)
    }

    /// The kernel has taken the next `bytes` bytes.
    pub(super) fn note_taken(&mut self, bytes: usize) {
        self.echo.note_sent(bytes);
    }

    /// Judges bytes that were received at `now_ns`.
    pub(super) fn judge(&mut self, account: &mut Account, mut bytes: &[u8], now_ns: u64) {
        account.last_received_ns = now_ns;
        account.results.outcomes.at(now_ns).counts.bytes_received += bytes.len() as u64;
        let plan = Arc::clone(&account.plan);
        while !bytes.is_empty() {
            let Ok((echoed, rest)) = self.echo.feed(&plan.traffic.bodies, bytes) else {
                account.results.outcomes.at(now_ns).counts.unattributed += 1;
                self.show_example("unattributed", bytes.len(), bytes, None, account);
                break;
            };
            bytes = rest;
            let Some(Echoed { expected, difference, head }) = echoed else { continue };
            let class = account.note_echo(&expected, difference.is_some(), now_ns);
            if class == Class::Corrupted {
                let is_crossed = self.other_message(&plan, &expected, &head).is_some();
                account.results.outcomes.at(now_ns).counts.crossed += u64::from(is_crossed);
                let kind = if is_crossed { "crossed" } else { class.name() };
                self.show_example(kind, expected.bytes, &head, Some((expected, difference)), account);
            }
            self.classify(expected.intended_ns, class, account);
        }
    }

    /// The other message of this run that an echo of `expected` begins like.
    fn other_message(&self, plan: &Plan, expected: &Expected, head: &[u8]) -> Option<MessageNumber> {
        let header = Header::decode(head).filter(|header| header.run_id == plan.traffic.run_id)?;
        let found = MessageNumber { flow: header.flow, sequence: header.sequence };
        (found != MessageNumber { flow: self.id, sequence: expected.sequence }).then_some(found)
    }

    /// Keeps one of the first few wrong echoes for the report. `came`: its beginning. `answers`: the message, and the first
    /// byte that differs.
    fn show_example(
        &self,
        kind: &str,
        came_bytes: usize,
        came: &[u8],
        answers: Option<(Expected, Option<Difference>)>,
        account: &mut Account,
    ) {
        if !account.results.wants_example(kind) {
            return;
        }
        let plan = &account.plan;
        let peer = self.peer;
        let bytes_of = answers.as_ref().and_then(|(expected, _)| self.other_message(plan, expected, came));
        let answers = answers.map(|(expected, difference)| {
            let sent = expected.message(&plan.traffic.bodies);
            let number = MessageNumber { flow: self.id, sequence: expected.sequence };
            SentMessage {
                differs_at: difference.map(|it| it.at),
                sent_byte: difference.map(|it| sent[it.at]),
                came_byte: difference.map(|it| it.came),
                ..SentMessage::new(peer, number, &sent, &[])
            }
        });
        account.results.examples.push(Example {
            kind: kind.into(),
            came_from: Some(peer),
            came_bytes,
            came_first: first_bytes(came),
            answers,
            in_flight: None,
            bytes_of,
        });
    }

    /// Counts a message in its class, in the second of its intended send time.
    fn classify(&self, intended_ns: u64, class: Class, account: &mut Account) {
        *account.results.outcomes.at(intended_ns).counts.of_mut(class) += 1;
        account.plan.note_latest(self.id, class, intended_ns);
        if class != Class::Ok && account.is_measured(intended_ns) {
            self.tally(account, |tally| *tally.of_mut(class) += 1);
        }
    }

    /// Changes the counts of the destination and of the source.
    fn tally(&self, account: &mut Account, change: impl Fn(&mut Tally)) {
        let Account { plan, results, .. } = account;
        let Results { destinations, sources, .. } = results;
        let (destination, source) = plan.places(self.id);
        change(destinations.at(destination));
        if let Some(source) = source {
            change(sources.at(source));
        }
    }

    /// Counts a connection that was not established.
    pub(super) fn note_failure(&mut self, account: &mut Account, error: &io::Error, is_measured: bool) {
        // blaster did not reach the server: it may still be there
        let is_ours = local_end::is_ours(error);
        self.is_in_order &= is_ours;
        let connections = &mut account.results.connections;
        connections.failed += 1;
        connections.refused += u64::from(error.kind() == io::ErrorKind::ConnectionRefused);
        connections.timed_out += u64::from(error.kind() == io::ErrorKind::TimedOut);
        connections.missed += u64::from(is_measured && !is_ours);
        connections.unmade += u64::from(is_measured && is_ours);
        if !is_ours {
            account.plan.note_latest(self.id, Class::Lost, self.begun.at_ns);
        }
        let errno = error.raw_os_error().unwrap_or(libc::ETIMEDOUT);
        account.results.note_local_error(errno);
        if is_measured {
            self.tally(account, |tally| match errno {
                libc::EADDRNOTAVAIL | libc::EACCES | libc::EPERM => tally.refused += 1,
                _ => tally.failed += 1,
            });
        }
    }

    /// Ends both directions of the socket, because the server does not answer in time.
    pub(super) fn shut_down(&mut self) {
        self.was_shut_down = true;
        self.abandon();
    }

    /// Ends both directions of the socket. What waits on it ends, too.
    pub(super) fn abandon(&self) {
        if let Some(socket) = &self.link.socket {
            local_end::shut_down(socket.as_fd());
        }
    }

    /// How it ends, if nothing more comes from the server: with `error`, or without one.
    pub(super) fn ending(&self, mode: Mode, error: Option<Errno>) -> io::Result<()> {
        let is_finishing = self.link.stage == Stage::Finishing;
        let is_in_order = match mode {
            Mode::PingPong => false,
            Mode::Stream | Mode::Open => is_finishing && self.is_complete(),
            // blaster made that end, not the server
            Mode::Connect => is_finishing && !self.was_shut_down,
        };
        match error.or(self.link.send_error.filter(|errno| errno.0 != libc::EPIPE)) {
            Some(errno) => Err(io::Error::from_raw_os_error(errno.0)),
            None if is_in_order => Ok(()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Counts the end of a connection.
    pub(super) fn note_end(&mut self, account: &mut Account, ended: io::Result<()>) {
        self.is_in_order = ended.is_ok();
        let is_early = self.link.stage == Stage::Open && account.plan.mode != Mode::Connect;
        let connections = &mut account.results.connections;
        if ended.is_err() && self.was_shut_down {
            connections.stuck += 1;
        } else if let Err(error) = ended {
            connections.broken += 1;
            connections.missed += u64::from(is_early);
            connections.closed += u64::from(error.kind() == io::ErrorKind::UnexpectedEof);
            let is_reset = matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe);
            connections.reset += u64::from(is_reset);
            if let Some(errno) = error.raw_os_error() {
                account.results.note_local_error(errno);
            }
        }
        self.count_unanswered(account);
    }

    /// Counts what has not come back by the end: lost if nothing came; truncated, or corrupted, if a part of it came.
    fn count_unanswered(&mut self, account: &mut Account) {
        let mut echo = std::mem::take(&mut self.echo);
        for left in echo.end() {
            account.waiting -= 1;
            let class = match (left.came_bytes, left.difference) {
                (0, _) => Class::Lost,
                (_, None) => Class::Truncated,
                (_, Some(_)) => Class::Corrupted,
            };
            self.classify(left.expected.intended_ns, class, account);
            if class.is_wrong() {
                let answers = Some((left.expected, left.difference));
                self.show_example(class.name(), left.came_bytes, left.head(), answers, account);
            }
        }
    }
}
