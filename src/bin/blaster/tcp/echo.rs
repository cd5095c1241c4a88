//! A stream of messages and its echo: what is still to be sent, and the judgement of what comes back, both in pieces of any
//! size. No socket, no clock.

use std::collections::VecDeque;

use crate::model::payload::{Bodies, HEADER_BYTES, Header};

/// A message whose echo is not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    /// The intended send time, in nanoseconds since the run's start.
    pub(crate) intended_ns: u64,
    /// When the connection got it to send.
    pub(crate) sent_ns: u64,
    pub(crate) sequence: u64,
    header: [u8; HEADER_BYTES],
    pub(crate) bytes: usize,
}

/// A message whose echo is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Echoed {
    pub(crate) expected: Expected,
    /// The first byte that differs from what was sent.
    pub(crate) difference: Option<Difference>,
    /// The beginning of the echo.
    pub(crate) head: [u8; HEADER_BYTES],
}

/// A message whose echo will not be completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Incomplete {
    pub(crate) expected: Expected,
    /// How many bytes of the echo came.
    pub(crate) came_bytes: usize,
    /// The first of them that differs from what was sent.
    pub(crate) difference: Option<Difference>,
    head: [u8; HEADER_BYTES],
}

impl Incomplete {
    /// The beginning of the echo.
    pub(crate) fn head(&self) -> &[u8] {
        &self.head[..self.came_bytes.min(HEADER_BYTES)]
    }
}

/// A byte of an echo that differs from what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Its place in the message, from 0.
    pub(crate) at: usize,
    pub(crate) came: u8,
}

impl Expected {
    /// The whole message.
    pub(crate) fn message(&self, bodies: &Bodies) -> Vec<u8> {
        let mut message = vec![0; self.bytes];
        bodies.write_encoded(&self.header, &mut message);
        message
    }
}

/// The part of a stream that has not come back, or not even been sent. The bytes of messages are not kept: their headers
/// tell them.
#[derive(Debug, Default)]
pub(crate) struct Echo {
    expected: VecDeque<Expected>,
    /// How many of the last messages the kernel has not taken in full.
    unsent: usize,
    /// How many bytes of the first of these it has taken.
    sent_bytes: usize,
    /// How many bytes of the first expected message have come.
    at: usize,
    /// The first of them that differs from what was sent.
    difference: Option<Difference>,
    /// The first of them.
    head: [u8; HEADER_BYTES],
}

impl Echo {
    /// Adds a message of `bytes` bytes that is to be sent from `sent_ns` on.
    pub(crate) fn add(&mut self, header: &Header, sent_ns: u64, bytes: usize) {
        let Header { sequence, intended_ns, .. } = *header;
        let header = header.encode();
        self.expected.push_back(Expected { intended_ns, sent_ns, sequence, header, bytes });
        self.unsent += 1;
    }

    /// Whether the kernel has not taken everything.
    pub(crate) fn has_unsent(&self) -> bool {
        self.unsent > 0
    }

    /// Writes the next unsent bytes into `out`, as many as it holds. Returns their number.
    pub(crate) fn write_unsent(&self, bodies: &Bodies, out: &mut [u8]) -> usize {
        let mut at = self.sent_bytes;
        let mut written = 0;
        for message in self.expected.range(self.expected.len() - self.unsent..) {
            let part = (message.bytes - at).min(out.len() - written);
            bodies.write_part(&message.header, at, &mut out[written..written + part]);
            written += part;
            at = 0;
            if written == out.len() {
                break;
            }
        }
        written
    }

    /// The kernel has taken the next `bytes` bytes.
    pub(crate) fn note_sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes;
        while self.unsent > 0 {
            let first = &self.expected[self.expected.len() - self.unsent];
            if self.sent_bytes < first.bytes {
                return;
            }
            self.sent_bytes -= first.bytes;
            self.unsent -= 1;
        }
    }

    /// How many bytes of the first message may have come back, and the message.
    fn first_sent(&self) -> Option<(&Expected, usize)> {
        let first = self.expected.front()?;
        // what was not sent can't come back
        let sent_bytes = if self.unsent == self.expected.len() { self.sent_bytes } else { first.bytes };
        (sent_bytes > self.at).then_some((first, sent_bytes))
    }

    /// Whether everything has come back.
    pub(crate) fn is_complete(&self) -> bool {
        self.expected.is_empty()
    }

    /// Judges the next bytes, up to the end of a message. Returns the message, if it is complete now, and the bytes
    /// behind it. `Err`: no message was sent that they could answer.
    pub(crate) fn feed<'a>(
        &mut self,
        bodies: &Bodies,
        bytes: &'a [u8],
    ) -> Result<(Option<Echoed>, &'a [u8]), Unasked> {
        if bytes.is_empty() {
            return Ok((None, bytes));
        }
        let (&first, sent_bytes) = self.first_sent().ok_or(Unasked)?;
        let (part, rest) = bytes.split_at(bytes.len().min(sent_bytes - self.at));
        if self.difference.is_none() && !bodies.is_part(&first.header, self.at, part) {
            let differs = |&at: &usize| !bodies.is_part(&first.header, self.at + at, &part[at..=at]);
            let found = (0..part.len()).find(differs);
            self.difference = found.map(|at| Difference { at: self.at + at, came: part[at] });
        }
        if let Some(head) = self.head.get_mut(self.at..) {
            let bytes = head.len().min(part.len());
            head[..bytes].copy_from_slice(&part[..bytes]);
        }
        self.at += part.len();
        if self.at < first.bytes {
            return Ok((None, rest));
        }
        let echoed = Echoed { expected: first, difference: self.difference.take(), head: self.head };
        self.expected.pop_front();
        self.at = 0;
        Ok((Some(echoed), rest))
    }

    /// Ends the stream. Returns the messages whose echo is not complete, oldest first.
    pub(crate) fn end(&mut self) -> impl Iterator<Item = Incomplete> {
        let mut first = Some((std::mem::take(&mut self.at), self.difference.take()));
        let head = self.head;
        (self.unsent, self.sent_bytes) = (0, 0);
        self.expected.drain(..).map(move |expected| {
            let (came_bytes, difference) = first.take().unwrap_or((0, None));
            Incomplete { expected, came_bytes, difference, head }
        })
    }
}

/// Bytes came that answer no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unasked;

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [usize; 4] = [32, 64, 33, 500];

    fn header(sequence: u64) -> Header {
        Header { run_id: 4, flow: 2, sequence, intended_ns: 100 + sequence }
    }

    /// Four sent messages, as one stream.
    fn stream(bodies: &Bodies, echo: &mut Echo) -> Vec<u8> {
        let mut stream = Vec::new();
        for (sequence, bytes) in (0..).zip(SIZES) {
            let begin = stream.len();
            stream.resize(begin + bytes, 0);
            bodies.write(&header(sequence), &mut stream[begin..]);
            echo.add(&header(sequence), 100 + sequence, bytes);
        }
        echo.note_sent(stream.len());
        assert!(!echo.has_unsent());
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
    fn it_is_sent_in_any_pieces() {
        let bodies = Bodies::new();
        let mut echo = Echo::default();
        let whole = stream(&bodies, &mut echo);
        for piece_bytes in [1, 7, 31, 32, 33, 64, 100, 629] {
            let mut echo = Echo::default();
            for (sequence, bytes) in (0..).zip(SIZES) {
                echo.add(&header(sequence), 0, bytes);
            }
            let (mut sent, mut piece) = (Vec::new(), vec![0; piece_bytes]);
            while echo.has_unsent() {
                let written = echo.write_unsent(&bodies, &mut piece);
                // the kernel takes a part only
                let taken = written.div_ceil(2);
                sent.extend_from_slice(&piece[..taken]);
                echo.note_sent(taken);
                assert!(!echo.is_complete());
            }
            assert_eq!(sent, whole, "pieces of {piece_bytes}");
        }
    }

    #[test]
    fn what_was_not_sent_can_not_come_back() {
        let bodies = Bodies::new();
        let whole = stream(&bodies, &mut Echo::default());
        let mut echo = Echo::default();
        echo.add(&header(0), 0, SIZES[0]);
        assert_eq!(echo.feed(&bodies, &whole[..1]), Err(Unasked));
        echo.note_sent(10);
        let (echoed, rest) = echo.feed(&bodies, &whole[..32]).unwrap();
        assert_eq!((echoed, rest.len()), (None, 22));
        assert_eq!(echo.feed(&bodies, rest), Err(Unasked));
        echo.note_sent(22);
        let (echoed, rest) = echo.feed(&bodies, rest).unwrap();
        assert!(echoed.is_some_and(|echoed| echoed.difference.is_none()) && rest.is_empty());
    }

    #[test]
    fn any_pieces_make_the_same_messages() {
        let bodies = Bodies::new();
        for piece_bytes in [1, 7, 31, 32, 33, 64, 100, 629] {
            let mut echo = Echo::default();
            let stream = stream(&bodies, &mut echo);
            let found = feed_in_pieces(&mut echo, &bodies, &stream, piece_bytes);
            let found: Vec<_> =
                found.iter().map(|echoed| (echoed.expected.sent_ns, echoed.difference)).collect();
            let wanted: Vec<_> = (0..4).map(|sequence| (100 + sequence, None)).collect();
            assert_eq!(found, wanted, "pieces of {piece_bytes}");
            assert!(echo.is_complete());
        }
    }

    #[test]
    fn damage_is_that_of_one_message() {
        let bodies = Bodies::new();
        for (byte, damaged, at) in [
            (0, 0, 0),
            (31, 0, 31),
            (32, 1, 0),
            (95, 1, 63),
            (96, 2, 0),
            (128, 2, 32),
            (129, 3, 0),
            (628, 3, 499),
        ] {
            let mut echo = Echo::default();
            let mut stream = stream(&bodies, &mut echo);
            stream[byte] ^= 0x80;
            let came = stream[byte];
            let found = feed_in_pieces(&mut echo, &bodies, &stream, 50);
            let wrong: Vec<_> = found
                .iter()
                .filter_map(|echoed| Some((echoed.expected.sequence, echoed.difference?)))
                .collect();
            assert_eq!(wrong, [(damaged, Difference { at, came })], "byte {byte}");
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
        let left: Vec<_> = echo.end().map(|left| (left.expected.sent_ns, left.came_bytes)).collect();
        assert_eq!(left, [(101, 8), (102, 0), (103, 0)]);
        assert!(echo.is_complete());

        let mut stream = self::stream(&bodies, &mut echo);
        stream[35] ^= 1;
        feed_in_pieces(&mut echo, &bodies, &stream[..40], 40);
        let left: Vec<_> =
            echo.end().map(|left| (left.difference.map(|it| it.at), left.head().to_vec())).collect();
        assert_eq!(left, [(Some(3), stream[32..40].to_vec()), (None, vec![]), (None, vec![])]);
    }
}
