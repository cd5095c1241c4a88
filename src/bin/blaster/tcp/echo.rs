//! Judges the echo of a stream of messages, in whatever pieces it comes. No socket, no clock.

use std::collections::VecDeque;

use crate::payload::{Bodies, HEADER_BYTES, Header};

/// A message whose echo has not come in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    /// When it was sent, nanoseconds since the run's start.
    pub(crate) sent_ns: u64,
    /// Its first bytes.
    header: [u8; HEADER_BYTES],
    /// All its bytes.
    bytes: usize,
}

/// A message whose echo has come in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Echoed {
    /// When it was sent.
    pub(crate) sent_ns: u64,
    /// Whether every byte was as sent.
    pub(crate) intact: bool,
}

/// What of a stream is still to come back.
#[derive(Debug, Default)]
pub(crate) struct Echo {
    expected: VecDeque<Expected>,
    /// Bytes of the first expected message that have come.
    at: usize,
    /// One of them was not as sent.
    damaged: bool,
}

impl Echo {
    /// Enters a message of `bytes` bytes that is about to be sent.
    pub(crate) fn expect(&mut self, header: &Header, bytes: usize) {
        let expected = Expected { sent_ns: header.intended_ns, header: header.encode(), bytes };
        self.expected.push_back(expected);
    }

    /// Whether everything has come back.
    pub(crate) fn is_complete(&self) -> bool {
        self.expected.is_empty()
    }

    /// Judges the next bytes up to the end of a message. Returns that message, if it is complete now, and
    /// the bytes behind it. `Err`: bytes that nothing was sent for.
    pub(crate) fn feed<'a>(
        &mut self,
        bodies: &Bodies,
        bytes: &'a [u8],
    ) -> Result<(Option<Echoed>, &'a [u8]), Unasked> {
        if bytes.is_empty() {
            return Ok((None, bytes));
        }
        let first = *self.expected.front().ok_or(Unasked)?;
        let (part, rest) = bytes.split_at(bytes.len().min(first.bytes - self.at));
        self.damaged |= !bodies.is_part(&first.header, self.at, part);
        self.at += part.len();
        if self.at < first.bytes {
            return Ok((None, rest));
        }
        let echoed = Echoed { sent_ns: first.sent_ns, intact: !self.damaged };
        self.expected.pop_front();
        (self.at, self.damaged) = (0, false);
        Ok((Some(echoed), rest))
    }

    /// The end of the stream: what was expected, oldest first, each with whether a part of it had come.
    pub(crate) fn end(&mut self) -> impl Iterator<Item = (Expected, bool)> {
        let has_begun = std::mem::take(&mut self.at) > 0;
        self.damaged = false;
        self.expected.drain(..).enumerate().map(move |(nth, expected)| (expected, nth == 0 && has_begun))
    }
}

/// Bytes came that nothing was sent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unasked;

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [usize; 4] = [32, 64, 33, 500];

    fn header(sequence: u64) -> Header {
        Header { run_id: 4, flow: 2, sequence, intended_ns: 100 + sequence }
    }

    /// Four messages that were sent, as one stream.
    fn stream(bodies: &Bodies, echo: &mut Echo) -> Vec<u8> {
        let mut stream = Vec::new();
        for (sequence, bytes) in (0..).zip(SIZES) {
            let begin = stream.len();
            stream.resize(begin + bytes, 0);
            bodies.write(&header(sequence), &mut stream[begin..]);
            echo.expect(&header(sequence), bytes);
        }
        stream
    }

    fn feed_in_pieces(echo: &mut Echo, bodies: &Bodies, stream: &[u8], piece_bytes: usize) -> Vec<Echoed> {
        let mut found = Vec::new();
        for mut piece in stream.chunks(piece_bytes) {
            while !piece.is_empty() {
                let (echoed, rest) = echo.feed(bodies, piece).unwrap();
                found.extend(echoed);
                piece = rest;
            }
        }
        found
    }

    #[test]
    fn any_pieces_make_the_same_messages() {
        let bodies = Bodies::new();
        for piece_bytes in [1, 7, 31, 32, 33, 64, 100, 629] {
            let mut echo = Echo::default();
            let stream = stream(&bodies, &mut echo);
            let found = feed_in_pieces(&mut echo, &bodies, &stream, piece_bytes);
            let wanted: Vec<_> =
                (0..4).map(|sequence| Echoed { sent_ns: 100 + sequence, intact: true }).collect();
            assert_eq!(found, wanted, "pieces of {piece_bytes}");
            assert!(echo.is_complete());
        }
    }

    #[test]
    fn damage_is_that_of_one_message() {
        let bodies = Bodies::new();
        for (byte, damaged) in [(0, 0), (31, 0), (32, 1), (95, 1), (96, 2), (128, 2), (129, 3), (628, 3)] {
            let mut echo = Echo::default();
            let mut stream = stream(&bodies, &mut echo);
            stream[byte] ^= 0x80;
            let found = feed_in_pieces(&mut echo, &bodies, &stream, 50);
            let wrong: Vec<_> = (0..4).filter(|&nth: &usize| !found[nth].intact).collect();
            assert_eq!(wrong, [damaged], "byte {byte}");
        }
    }

    #[test]
    fn more_than_was_sent_is_unasked() {
        let bodies = Bodies::new();
        let mut echo = Echo::default();
        let mut stream = stream(&bodies, &mut echo);
        feed_in_pieces(&mut echo, &bodies, &stream, 1000);
        stream.truncate(1);
        assert_eq!(echo.feed(&bodies, &stream), Err(Unasked));
    }

    #[test]
    fn an_early_end_tells_the_cut_one_from_those_that_never_began() {
        let bodies = Bodies::new();
        let mut echo = Echo::default();
        let stream = stream(&bodies, &mut echo);
        feed_in_pieces(&mut echo, &bodies, &stream[..40], 40);
        let left: Vec<_> = echo.end().map(|(expected, has_begun)| (expected.sent_ns, has_begun)).collect();
        assert_eq!(left, [(101, true), (102, false), (103, false)]);
        assert!(echo.is_complete());
    }
}
