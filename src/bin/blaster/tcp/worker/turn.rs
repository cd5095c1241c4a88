//! A turn of the ring: what connections have to send goes out, and what has come goes to them.

use std::time::Duration;

use tubular_echo::kernel::ring::{Completion, Errno, File, Token, Wait};

use super::{OP_POLL, OP_RECEIVE, OP_SEND, Worker};
use crate::model::pacer::Pause;
use crate::tcp::buffers::{SLOTS, SlotUse};
use crate::tcp::connection::{Stage, Turn};
use crate::tcp::error::TcpError;

impl Worker {
    /// A connection may have something to send.
    pub(super) fn make_ready(&mut self, place: u32) {
        let connection = &mut self.connections[place as usize];
        if connection.can_send() {
            connection.link.turn = Turn::Queued;
            self.sending.ready.push_back(place);
        }
    }

    /// Enters the kernel: it sends what is in the slots, and fetches what has come. Then all connections go on.
    pub(super) fn turn(&mut self, pause: Pause) -> Result<(), TcpError> {
        self.fill_slots();
        self.arm();
        self.completions.clear();
        let wait = match pause {
            Pause::None => Wait::No,
            Pause::Nanoseconds(ns) => Wait::Timeout(Duration::from_nanos(ns)),
        };
        self.ring.turn(wait, &mut self.completions).map_err(TcpError::Enter)?;
        // a send that the kernel has put off would take what is written into its slot by then
        while self.ring.has_queued() {
            self.ring.turn(Wait::No, &mut self.completions).map_err(TcpError::Enter)?;
        }
        let now_ns = self.clock.now_ns();
        let completions = std::mem::take(&mut self.completions);
        self.settle_sends(&completions, now_ns);
        for completion in &completions {
            let (operation, place) = (completion.token().operation(), completion.token().index());
            match operation {
                OP_RECEIVE => self.after_receive(place, completion, now_ns),
                OP_POLL => self.after_poll(place, now_ns),
                _ => {}
            }
        }
        self.completions = completions;
        self.account.show();
        Ok(())
    }

    /// Writes what connections have to send into the slots, and queues the sends.
    fn fill_slots(&mut self) {
        let Self { account, ring, connections, sending, .. } = self;
        while sending.in_slots.len() < SLOTS as usize
            && let Some(place) = sending.ready.pop_front()
        {
            let connection = &mut connections[place as usize];
            connection.link.turn = Turn::Free;
            if !connection.can_send() {
                continue;
            }
            let slot = sending.in_slots.len() as u32;
            let bytes = connection.write_unsent(&account.plan, sending.slots.payload(slot)) as u32;
            let filled = sending.slots.filled(slot, bytes);
            ring.send_all(File(place), filled, Token::new(OP_SEND, 0, slot));
            sending.in_slots.push(SlotUse { place, bytes, taken: Ok(bytes) });
        }
    }

    /// Arms the receives that have ended, if there are buffers.
    fn arm(&mut self) {
        let Self { ring, connections, receiving, .. } = self;
        if receiving.buffers.available() == 0 {
            return;
        }
        for place in receiving.unarmed.drain(..) {
            let link = &mut connections[place as usize].link;
            if matches!(link.stage, Stage::Open | Stage::Finishing) && !link.is_receiving {
                link.is_receiving = true;
                ring.receive(File(place), &receiving.buffers, Token::new(OP_RECEIVE, 0, place));
            }
        }
    }

    /// Notes what the kernel has taken, and empties the slots. Only a send that was cut short, or failed, has a completion.
    fn settle_sends(&mut self, completions: &[Completion], now_ns: u64) {
        for completion in completions.iter().filter(|it| it.token().operation() == OP_SEND) {
            if let Some(used) = self.sending.in_slots.get_mut(completion.token().index() as usize) {
                used.taken = completion.result();
            }
        }
        let mut in_slots = std::mem::take(&mut self.sending.in_slots);
        for SlotUse { place, bytes, taken } in in_slots.drain(..) {
            let connection = &mut self.connections[place as usize];
            match taken {
                Ok(taken) => {
                    connection.note_taken(taken as usize);
                    if taken == bytes {
                        self.proceed(place, now_ns);
                    }
                }
                Err(Errno(libc::EAGAIN)) => {
                    connection.link.turn = Turn::Full;
                    self.poll(place);
                }
                Err(Errno(libc::EINTR)) => {}
                Err(errno) => {
                    // the receive ends, too, and by what
                    connection.link.send_error = Some(errno);
                    connection.abandon();
                }
            }
            self.make_ready(place);
        }
        self.sending.in_slots = in_slots;
    }

    fn after_receive(&mut self, place: u32, completion: &Completion, now_ns: u64) {
        let connection = &mut self.connections[place as usize];
        connection.link.is_receiving &= completion.more();
        let part = self.receiving.buffers.take(completion);
        match completion.result() {
            Ok(1..) => {
                if let Some(part) = &part
                    && connection.is_running()
                {
                    connection.judge(&mut self.account, self.receiving.buffers.bytes(part), now_ns);
                }
                if !completion.more() {
                    self.receiving.unarmed.push(place);
                }
                self.proceed(place, now_ns);
            }
            // the next turn arms it again: the buffers are back at the end of this one
            Err(Errno(libc::ENOBUFS | libc::EINTR)) => self.receiving.unarmed.push(place),
            Ok(0) => self.after_end(place, None),
            Err(errno) => self.after_end(place, Some(errno)),
        }
        if let Some(part) = part {
            self.receiving.buffers.recycle(part);
        }
        self.release_if_quiet(place, now_ns);
    }
}
