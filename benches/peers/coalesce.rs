//! recvmmsg and sendmmsg with everything that is known about trains: the datagrams and trains of one flow
//! that came in one batch leave as one GSO send.
//!
//! A group is (peer, original destination, segment size). It takes what fits behind it in arrival order; a
//! message that ends in a shorter segment is its last, because the kernel cuts a send into equal parts.

use std::io::Result;
use std::net::UdpSocket;

use super::udp::{self, BATCH};
use crate::kernel::{Batch, Group, MESSAGE_BYTES_MAX, Message, SEGMENTS_MAX, STRIDE_BYTES};

/// IPv4's limit of one send, less than IPv6's.
const SEND_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 20;
/// Segments beyond the usual MTU are refused by real devices; a train brings its own proof.
const SEGMENT_BYTES_MAX: usize = 1452;
/// Twice the groups that there can be: short probes.
const SLOTS: usize = 2 * BATCH;
const NONE: u8 = u8::MAX;

struct Open {
    key: Message,
    messages: usize,
    segments: usize,
    bytes: usize,
    closed: bool,
}

pub(super) fn serve(socket: &UdpSocket) -> Result<()> {
    let mut batch = Batch::new(BATCH, STRIDE_BYTES);
    let mut turn = Turn::default();
    loop {
        let count = udp::receive(&mut batch, socket)?;
        turn.group(&batch, count);
        turn.reply(&mut batch, socket);
    }
}

/// The groups of one batch.
struct Turn {
    open: Vec<Open>,
    /// The messages that are answered: index, what it is, and its group.
    members: Vec<(usize, Message, usize)>,
    /// The newest group of each flow by hash of the peer.
    slots: [u8; SLOTS],
    groups: Vec<Group>,
    order: Vec<usize>,
}

impl Default for Turn {
    fn default() -> Self {
        Self { open: vec![], members: vec![], slots: [NONE; SLOTS], groups: vec![], order: vec![] }
    }
}

impl Turn {
    fn group(&mut self, batch: &Batch, count: usize) {
        self.open.clear();
        self.members.clear();
        self.slots.fill(NONE);
        for i in 0..count {
            if let Some(message) = batch.message(i) {
                let group = self.join(&message);
                self.members.push((i, message, group));
            }
        }
    }

    /// The group that takes the message: the newest of its flow, or a new one.
    fn join(&mut self, message: &Message) -> usize {
        let mut slot = (message.from.hash() >> 57) as usize % SLOTS;
        while self.slots[slot] != NONE {
            let at = self.slots[slot] as usize;
            let open = &mut self.open[at];
            if open.key.from == message.from && open.key.origin == message.origin {
                if open.take(message) {
                    return at;
                }
                break; // the flow's next group replaces this one
            }
            slot = (slot + 1) % SLOTS;
        }
        self.slots[slot] = self.open.len() as u8;
        self.open.push(Open::new(message));
        self.open.len() - 1
    }

    fn reply(&mut self, batch: &mut Batch, socket: &UdpSocket) {
        let mut end = 0;
        self.groups.clear();
        for open in &self.open {
            let segment = (open.segments > 1).then_some(open.key.segment);
            self.groups.push(Group { first: end, end, segment });
            end += open.messages;
        }
        self.order.resize(end, 0);
        for &(i, ref message, group) in &self.members {
            let group = &mut self.groups[group];
            // Control messages are read from the first message of a group alone.
            batch.turn_around(i, message, group.segment);
            self.order[group.end] = i;
            group.end += 1;
        }
        let mut first = 0;
        while first < self.groups.len() {
            first += batch.send_groups(socket, &self.groups[first..], &self.order).unwrap_or_else(|_| {
                self.one_by_one(batch, socket, first);
                1
            });
        }
    }

    /// A group that the kernel refuses leaves as it came, in order.
    fn one_by_one(&self, batch: &mut Batch, socket: &UdpSocket, group: usize) {
        for &(i, ref message, _) in self.members.iter().filter(|member| member.2 == group) {
            batch.turn_around(i, message, (message.segment < message.bytes).then_some(message.segment));
            udp::send(batch, socket, i, i + 1);
        }
    }
}

impl Open {
    fn new(message: &Message) -> Self {
        Self {
            key: *message,
            messages: 1,
            segments: segments(message),
            bytes: message.bytes,
            closed: ends_short(message, message.segment),
        }
    }

    /// Adds the message if it may stand behind what is there.
    fn take(&mut self, message: &Message) -> bool {
        let (segment, more) = (self.key.segment, segments(message));
        // A single datagram of fewer bytes may be the last segment.
        let fits = message.segment == segment || (more == 1 && message.segment < segment);
        let proven = segment <= SEGMENT_BYTES_MAX || (segments(&self.key) > 1 && more > 1);
        let taken = !self.closed
            && fits
            && proven
            && message.bytes > 0
            && self.segments + more <= SEGMENTS_MAX
            && self.bytes + message.bytes <= SEND_BYTES_MAX;
        if taken {
            self.messages += 1;
            self.segments += more;
            self.bytes += message.bytes;
            self.closed = ends_short(message, segment);
        }
        taken
    }
}

fn segments(message: &Message) -> usize {
    message.bytes.div_ceil(message.segment.max(1)).max(1)
}

/// Whether nothing can follow: the last segment is shorter than the others, or there is no payload at all.
fn ends_short(message: &Message, segment: usize) -> bool {
    message.bytes == 0 || !message.bytes.is_multiple_of(segment)
}
