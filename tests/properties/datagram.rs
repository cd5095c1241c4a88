//! The head of a received datagram: lengths, name, control messages, payload.

use tubular_echo::kernel::cmsg::CONTROL_IN_BYTES;
use tubular_echo::kernel::ring::{DATAGRAM_HEADER_BYTES, Datagram, Unusable};

/// Four numbers: bytes of the name, of the control messages, of the payload, and flags.
const LENGTHS_BYTES: usize = 16;
/// Bytes reserved for a name.
const NAME_BYTES: usize = 32;

/// Takes any bytes as the kernel's output in a buffer. The space for control messages is not part of the input, because
/// most of it would have no effect.
pub fn check(data: &[u8]) {
    parse(data);
    let (head, rest) = data.split_at(data.len().min(LENGTHS_BYTES + NAME_BYTES));
    if head.len() == LENGTHS_BYTES + NAME_BYTES {
        let mut piece = head.to_vec();
        piece.resize(DATAGRAM_HEADER_BYTES, 0x5a);
        piece.extend(rest);
        parse(&piece);
    }
}

fn parse(piece: &[u8]) {
    assert_eq!(LENGTHS_BYTES + NAME_BYTES + CONTROL_IN_BYTES, DATAGRAM_HEADER_BYTES);
    let found = Datagram::parse(piece);
    if piece.len() < DATAGRAM_HEADER_BYTES {
        assert_eq!(found.unwrap_err(), Unusable::Malformed);
        return;
    }
    let number = |nth: usize| u32::from_ne_bytes(piece[nth * 4..nth * 4 + 4].try_into().unwrap());
    let (name_bytes, control_bytes, payload_bytes, flags) = (number(0), number(1), number(2), number(3));
    if flags & 0x20 != 0 {
        assert_eq!(found.unwrap_err(), Unusable::PayloadTruncated, "MSG_TRUNC");
    } else if flags & 0x08 != 0 {
        assert_eq!(found.unwrap_err(), Unusable::ControlTruncated, "MSG_CTRUNC");
    } else {
        let datagram = found.unwrap();
        let (lengths_and_name, rest) = piece.split_at(LENGTHS_BYTES + NAME_BYTES);
        let (control, payload) = rest.split_at(CONTROL_IN_BYTES);
        let at_most = |room: &[u8], bytes: u32| room.len().min(bytes as usize);
        let name = &lengths_and_name[LENGTHS_BYTES..];
        assert_eq!(datagram.name, &name[..at_most(name, name_bytes)]);
        assert_eq!(datagram.control, &control[..at_most(control, control_bytes)]);
        assert_eq!(datagram.payload_offset as usize, DATAGRAM_HEADER_BYTES);
        assert_eq!(datagram.payload_bytes as usize, at_most(payload, payload_bytes));
    }
}
