//! The payload of a datagram or a message. It lets blaster judge every byte of the echo.
//!
//! ```text
//!  0               8       12      16              24              32
//! ┌───────────────┬───────┬───────┬───────────────┬───────────────┬──────────────┄
//! │   sequence    │ check │ flow  │    run id     │ intended send │ pseudo-random
//! │               │  sum  │       │               │   time (ns)   │ bytes
//! └───────────────┴───────┴───────┴───────────────┴───────────────┴──────────────┄
//! ```
//!
//! Numbers are in network order. The checksum mixes the other four fields. It also selects the body: the place in one fixed
//! table of pseudo-random bytes at which the body begins. So bodies of neighbours differ, and a body is written or compared
//! by a single copy or comparison. Sequence and checksum come first, so a reply of only 16 bytes still identifies its
//! datagram.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// The size of the header, and of the smallest message.
pub(crate) const HEADER_BYTES: usize = 32;
/// The largest message: the payload of the largest IPv6 datagram.
pub(crate) const SIZE_MAX_BYTES: u32 = 65_527;

/// The bytes that a reply needs to identify its datagram.
pub(crate) const ATTRIBUTABLE_BYTES: usize = 16;

/// The number of different bodies; they begin one byte apart.
const BODIES: usize = 4096;

/// The longest body: the largest datagram is shorter.
const BODY_BYTES_MAX: usize = 65_536;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// A number of this run, so that a reply to an earlier run is not taken for one of this run.
    pub(crate) run_id: u64,
    /// The flow or connection.
    pub(crate) flow: u32,
    /// The number of the message in its flow.
    pub(crate) sequence: u64,
    /// The intended send time, in nanoseconds since the run's start.
    pub(crate) intended_ns: u64,
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.checksum().to_be_bytes());
        bytes[12..16].copy_from_slice(&self.flow.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.run_id.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.intended_ns.to_be_bytes());
        bytes
    }

    /// The header at the beginning of a message of any run. `None`: there is none, or it is damaged.
    pub(crate) fn decode(message: &[u8]) -> Option<Self> {
        let word = |at: usize| message.get(at..)?.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
        let (sequence, run_id, intended_ns) = (word(0)?, word(16)?, word(24)?);
        let header = Self { run_id, flow: word(8)? as u32, sequence, intended_ns };
        (header.encode()[..] == message[..HEADER_BYTES]).then_some(header)
    }

    /// Two multiplications by odd constants. They detect accidental damage, not malice.
    fn checksum(&self) -> u32 {
        let mixed = (self.sequence ^ self.run_id.rotate_left(23)).wrapping_mul(0xa076_1d64_78bd_642f)
            ^ self.intended_ns;
        let mixed = (mixed ^ mixed >> 29 ^ u64::from(self.flow)).wrapping_mul(0xe703_7ed1_a0b4_28db);
        (mixed >> 32) as u32
    }
}

/// The judgement of a reply's bytes, compared with the datagram that they claim to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Every byte as sent.
    Intact,
    /// A true beginning of what was sent, and no more.
    Truncated,
    /// The header is intact, but other bytes follow, or more of them.
    Corrupted,
    /// A part of the header is damaged, but most of it belongs to this datagram.
    Resembling,
    /// Not an answer to this datagram.
    Foreign,
}

/// The sequence number that a reply claims to answer. `None`: too short to say.
pub(crate) fn sequence(reply: &[u8]) -> Option<u64> {
    reply.get(..ATTRIBUTABLE_BYTES)?.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

/// The intended send time that a reply carries. `None`: too short to say.
pub(crate) fn intended_ns(reply: &[u8]) -> Option<u64> {
    reply.get(24..)?.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

/// The table of the bodies.
#[derive(Debug)]
pub(crate) struct Bodies {
    table: Box<[u8]>,
}

impl Bodies {
    /// The table is the same in every run.
    pub(crate) fn new() -> Self {
        let mut table = vec![0; BODIES + BODY_BYTES_MAX];
        SmallRng::seed_from_u64(0x7475_6265).fill_bytes(&mut table);
        Self { table: table.into() }
    }

    /// The body of the message with this header.
    fn body(&self, header: &[u8; HEADER_BYTES], bytes: usize) -> &[u8] {
        let start = usize::from(u16::from_be_bytes([header[10], header[11]])) % BODIES;
        &self.table[start..start + bytes]
    }

    /// Writes a whole message into `out`, which has its size.
    pub(crate) fn write(&self, header: &Header, out: &mut [u8]) {
        self.write_encoded(&header.encode(), out);
    }

    /// The same for a header as bytes.
    pub(crate) fn write_encoded(&self, header: &[u8; HEADER_BYTES], out: &mut [u8]) {
        let (head, body) = out.split_at_mut(HEADER_BYTES);
        head.copy_from_slice(header);
        body.copy_from_slice(self.body(header, body.len()));
    }

    /// Writes the part of a message from byte `at` on that fills `out`.
    pub(crate) fn write_part(&self, header: &[u8; HEADER_BYTES], at: usize, out: &mut [u8]) {
        let (head, body) = out.split_at_mut(out.len().min(HEADER_BYTES.saturating_sub(at)));
        if !head.is_empty() {
            head.copy_from_slice(&header[at..at + head.len()]);
        }
        let body_at = at.saturating_sub(HEADER_BYTES);
        body.copy_from_slice(&self.body(header, body_at + body.len())[body_at..]);
    }

    /// Whether the message with this header has `part` at byte `at`.
    pub(crate) fn is_part(&self, header: &[u8; HEADER_BYTES], at: usize, part: &[u8]) -> bool {
        let (head, body) = part.split_at(part.len().min(HEADER_BYTES.saturating_sub(at)));
        let body_at = at.saturating_sub(HEADER_BYTES);
        (head.is_empty() || *head == header[at..at + head.len()])
            && *body == self.body(header, body_at + body.len())[body_at..]
    }

    /// Whether `reply` has the run and the time of this header, and the message's whole body: only what stands before
    /// them was changed. A message without a body is not known by this.
    pub(crate) fn differs_before_run_only(&self, header: &Header, sent_bytes: usize, reply: &[u8]) -> bool {
        let header = header.encode();
        reply.len() == sent_bytes
            && sent_bytes > HEADER_BYTES
            && reply[ATTRIBUTABLE_BYTES..HEADER_BYTES] == header[ATTRIBUTABLE_BYTES..]
            && reply[HEADER_BYTES..] == *self.body(&header, sent_bytes - HEADER_BYTES)
    }

    /// Judges `reply` as the answer to the message of `sent_bytes` bytes with this header.
    pub(crate) fn judge(&self, header: &Header, sent_bytes: usize, reply: &[u8]) -> Content {
        let header = header.encode();
        let Some((head, body)) = reply.split_first_chunk::<HEADER_BYTES>() else {
            return if reply.len() >= ATTRIBUTABLE_BYTES && header.starts_with(reply) {
                Content::Truncated
            } else {
                Content::Foreign
            };
        };
        if *head != header {
            return if resembles(head, &header) { Content::Resembling } else { Content::Foreign };
        }
        if body.len() > sent_bytes - HEADER_BYTES || body != self.body(&header, body.len()) {
            Content::Corrupted
        } else if body.len() < sent_bytes - HEADER_BYTES {
            Content::Truncated
        } else {
            Content::Intact
        }
    }
}

/// Whether the header of `reply` differs from `header` only in the sequence number.
pub(crate) fn differs_in_sequence_only(header: &Header, reply: &[u8]) -> bool {
    reply.get(8..HEADER_BYTES) == Some(&header.encode()[8..])
}

/// Whether at least three of the four words are intact.
fn resembles(head: &[u8; HEADER_BYTES], header: &[u8; HEADER_BYTES]) -> bool {
    head.chunks(8).zip(header.chunks(8)).filter(|(found, sent)| found == sent).count() >= 3
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header =
        Header { run_id: 0x1122_3344_5566_7788, flow: 7, sequence: 99, intended_ns: 123_456_789 };

    fn message(bodies: &Bodies, header: &Header, bytes: usize) -> Vec<u8> {
        let mut message = vec![0; bytes];
        bodies.write(header, &mut message);
        message
    }

    #[test]
    fn what_was_written_is_judged_intact() {
        let bodies = Bodies::new();
        for bytes in [32, 33, 64, 1400, 65_507, 65_527] {
            let message = message(&bodies, &HEADER, bytes);
            assert_eq!(bodies.judge(&HEADER, bytes, &message), Content::Intact, "{bytes} bytes");
            assert_eq!(sequence(&message), Some(99));
            assert_eq!(intended_ns(&message), Some(123_456_789));
        }
    }

    #[test]
    fn a_header_is_read_from_any_message_unless_it_is_damaged() {
        let mut message = message(&Bodies::new(), &HEADER, 80);
        assert_eq!(Header::decode(&message), Some(HEADER));
        assert_eq!(Header::decode(&message[..HEADER_BYTES]), Some(HEADER));
        assert_eq!(Header::decode(&message[..HEADER_BYTES - 1]), None);
        for byte in 0..HEADER_BYTES {
            message[byte] ^= 1;
            assert_eq!(Header::decode(&message), None, "byte {byte}");
            message[byte] ^= 1;
        }
    }

    #[test]
    fn a_message_is_known_by_its_end() {
        let bodies = Bodies::new();
        let mut reply = message(&bodies, &HEADER, 80);
        reply[..ATTRIBUTABLE_BYTES].fill(0xaa);
        let is_meant = |reply: &[u8]| bodies.differs_before_run_only(&HEADER, 80, reply);
        assert!(is_meant(&reply) && !is_meant(&reply[..79]));
        for byte in ATTRIBUTABLE_BYTES..80 {
            reply[byte] ^= 1;
            assert!(!is_meant(&reply), "byte {byte}");
            reply[byte] ^= 1;
        }
    }

    #[test]
    fn any_flipped_bit_is_seen_and_the_datagram_still_known() {
        let bodies = Bodies::new();
        let message = message(&bodies, &HEADER, 80);
        for bit in 0..80 * 8 {
            let mut reply = message.clone();
            reply[bit / 8] ^= 1 << (bit % 8);
            let wanted = if bit < HEADER_BYTES * 8 { Content::Resembling } else { Content::Corrupted };
            assert_eq!(bodies.judge(&HEADER, 80, &reply), wanted, "bit {bit}");
            assert_eq!(differs_in_sequence_only(&HEADER, &reply), !(64..256).contains(&bit), "bit {bit}");
        }
    }

    #[test]
    fn cut_short_or_too_long() {
        let bodies = Bodies::new();
        let message = message(&bodies, &HEADER, 80);
        for bytes in 0..80 {
            let wanted = if bytes < ATTRIBUTABLE_BYTES { Content::Foreign } else { Content::Truncated };
            assert_eq!(bodies.judge(&HEADER, 80, &message[..bytes]), wanted, "{bytes} bytes");
        }
        let mut long = message.clone();
        long.push(0);
        assert_eq!(bodies.judge(&HEADER, 80, &long), Content::Corrupted);
    }

    #[test]
    fn any_part_is_known_and_any_damage_to_it() {
        let bodies = Bodies::new();
        let (header, message) = (HEADER.encode(), message(&bodies, &HEADER, 100));
        for at in 0..100 {
            for end in at..=100 {
                assert!(bodies.is_part(&header, at, &message[at..end]), "{at}..{end}");
            }
            let mut part = message[at..].to_vec();
            part[(100 - at) / 2] ^= 1;
            assert!(!bodies.is_part(&header, at, &part), "{at}..");
        }
    }

    #[test]
    fn another_datagram_is_foreign() {
        let bodies = Bodies::new();
        let others = [
            Header { run_id: 1, sequence: 98, ..HEADER },
            Header { sequence: 100, intended_ns: 5, ..HEADER },
            // its neighbour in a train: the checksum tells them apart
            Header { sequence: 100, ..HEADER },
        ];
        for other in others {
            let reply = message(&bodies, &other, 64);
            assert_eq!(bodies.judge(&HEADER, 64, &reply), Content::Foreign, "{other:?}");
        }
        assert_eq!(bodies.judge(&HEADER, 64, &[0; 64]), Content::Foreign);
    }

    #[test]
    fn the_body_of_a_neighbour_is_corruption() {
        let bodies = Bodies::new();
        let mut reply = message(&bodies, &HEADER, 64);
        let neighbour = message(&bodies, &Header { sequence: 100, ..HEADER }, 64);
        reply[HEADER_BYTES..].copy_from_slice(&neighbour[HEADER_BYTES..]);
        assert_eq!(bodies.judge(&HEADER, 64, &reply), Content::Corrupted);
    }
}
