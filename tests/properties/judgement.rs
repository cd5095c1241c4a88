//! blaster's payload: its judgement of a reply agrees with a comparison byte by byte.

use std::sync::LazyLock;

use crate::input::Input;
use crate::model::payload::{self, ATTRIBUTABLE_BYTES, Bodies, Content, HEADER_BYTES, Header};

static BODIES: LazyLock<Bodies> = LazyLock::new(Bodies::new);

/// A message, and a reply that is made from it or of any bytes.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let mut header =
        Header { run_id: input.u64(), flow: input.u32(), sequence: input.u64(), intended_ns: input.u64() };
    let sent_bytes = HEADER_BYTES + usize::from(input.u16()) % 600;
    // one message more than is sent, for replies that are too long
    let mut message = [0; HEADER_BYTES + 1200];
    BODIES.write(&header, &mut message);
    let sent = &message[..sent_bytes];
    layout(&header, sent);

    let (way, at, len) = (input.u8(), usize::from(input.u16()), usize::from(input.u16()));
    let rest = input.0;
    let at = at % (sent_bytes + 1);
    let mut reply = match way % 6 {
        0 => rest.to_vec(),
        1 => sent[..at].to_vec(),
        2 => message[..sent_bytes + len % 600].to_vec(),
        3 => [sent, rest].concat(),
        4 => {
            header.sequence = header.sequence.wrapping_add(1);
            sent.to_vec()
        }
        _ => sent.to_vec(),
    };
    if way >= 128 {
        for (byte, mask) in reply.iter_mut().skip(at).zip(rest) {
            *byte ^= mask;
        }
    }
    judge(&header, sent_bytes, &reply);
    let head: &[u8; HEADER_BYTES] = message.first_chunk().unwrap();
    part(head, &message, at, &message[at..at + len % 600]);
    part(head, &message, at, rest);
    let mut changed = message[at..at + len % 600].to_vec();
    changed.iter_mut().rev().zip(rest).for_each(|(byte, mask)| *byte ^= mask);
    part(head, &message, at, &changed);
}

fn layout(header: &Header, sent: &[u8]) {
    let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    let found = Header {
        sequence: number(&sent[..8]),
        flow: number(&sent[12..16]) as u32,
        run_id: number(&sent[16..24]),
        intended_ns: number(&sent[24..32]),
    };
    assert_eq!(found, *header);
    assert_eq!(payload::sequence(sent), Some(header.sequence));
    assert_eq!(payload::intended_ns(sent), Some(header.intended_ns));
}

fn judge(header: &Header, sent_bytes: usize, reply: &[u8]) {
    let mut longest = vec![0; sent_bytes.max(reply.len())];
    BODIES.write(header, &mut longest);
    let right = |range: std::ops::Range<usize>| range.into_iter().all(|at| reply[at] == longest[at]);
    let wanted = if reply.len() < HEADER_BYTES {
        let tells = reply.len() >= ATTRIBUTABLE_BYTES && right(0..reply.len());
        if tells { Content::Truncated } else { Content::Foreign }
    } else if !right(0..HEADER_BYTES) {
        let words = (0..4).filter(|word| right(word * 8..word * 8 + 8)).count();
        if words == 3 { Content::Resembling } else { Content::Foreign }
    } else if reply.len() > sent_bytes || !right(HEADER_BYTES..reply.len()) {
        Content::Corrupted
    } else if reply.len() < sent_bytes {
        Content::Truncated
    } else {
        Content::Intact
    };
    assert_eq!(BODIES.judge(header, sent_bytes, reply), wanted);
    let differs = reply.len() >= HEADER_BYTES && right(8..HEADER_BYTES);
    assert_eq!(payload::differs_in_sequence_only(header, reply), differs);
    let attributable = reply.len() >= ATTRIBUTABLE_BYTES;
    assert_eq!(payload::sequence(reply).is_some(), attributable);
    assert_eq!(payload::intended_ns(reply).is_some(), reply.len() >= 32);
}

fn part(head: &[u8; HEADER_BYTES], message: &[u8], at: usize, part: &[u8]) {
    if at + part.len() <= message.len() {
        assert_eq!(BODIES.is_part(head, at, part), *part == message[at..at + part.len()]);
    }
}
