//! What a connection has received and not sent back yet, with the offsets of what is sent already.
//!
//! ```text
//!   first                                                             last received
//!   ├── chunks: spilled bytes ──┤├── parts: bytes in provided buffers ──┤
//!   ├done┤                       ├done┤
//! ```
//!
//! Bytes leave at the front of the chunks, then of the parts. Spilling moves bytes from the front of the parts to the
//! end of the chunks, so the order stays.

use std::collections::VecDeque;

use crate::kernel::ring::{Chunk, ReceivedPart};

/// What is sent next, and how many of its bytes are done with.
#[derive(Debug)]
pub(super) enum Next<'a> {
    Chunk(&'a Chunk, u32),
    Part(&'a ReceivedPart, u32),
}

/// What is sent completely, and goes back to where it came from.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "it has to be given back"]
pub(super) enum Sent {
    Chunk(Chunk),
    Part(ReceivedPart),
}

/// Bytes that were received and not sent back yet.
#[derive(Debug, Default)]
pub(super) struct Unsent {
    chunks: VecDeque<Chunk>,
    /// Bytes of the first chunk that are sent.
    chunk_bytes_done: u32,
    parts: VecDeque<ReceivedPart>,
    /// Bytes of the first part that are sent or spilled.
    part_bytes_done: u32,
    /// The turn since which its peer has kept some of it waiting.
    stalled_since_turn: Option<u64>,
}

impl Unsent {
    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.parts.is_empty()
    }

    /// Some of it is spilled.
    pub(super) fn is_spilled(&self) -> bool {
        !self.chunks.is_empty()
    }

    /// The turn since which its peer has kept some of it waiting. What is spilled but was never tried to be sent has no
    /// such turn: a short message that was spliced is copied although its peer reads.
    pub(super) fn stalled_since_turn(&self) -> Option<u64> {
        self.stalled_since_turn
    }

    /// A send found too little room, in this turn.
    pub(super) fn stalls(&mut self, turn: u64) {
        assert!(!self.is_empty(), "nothing waits");
        self.stalled_since_turn.get_or_insert(turn);
    }

    /// Adds what was received last.
    pub(super) fn push(&mut self, part: ReceivedPart) {
        assert!(part.bytes() > 0, "nothing to send");
        self.parts.push_back(part);
    }

    /// Adds what was received last, if it is spilled already.
    pub(super) fn keep(&mut self, chunk: Chunk) {
        assert!(self.parts.is_empty(), "what was received before has to be sent before");
        self.chunks.push_back(chunk);
    }

    /// What is to be sent next.
    pub(super) fn next(&self) -> Option<Next<'_>> {
        let chunk = self.chunks.front().map(|chunk| Next::Chunk(chunk, self.chunk_bytes_done));
        chunk.or_else(|| self.next_part().map(|(part, done)| Next::Part(part, done)))
    }

    /// What is to be spilled next: the first part, and how many of its bytes are done with.
    pub(super) fn next_part(&self) -> Option<(&ReceivedPart, u32)> {
        self.parts.front().map(|part| (part, self.part_bytes_done))
    }

    /// So many bytes of what [`Self::next`] says were sent. Returns it if that was the rest of it.
    pub(super) fn sent(&mut self, bytes: u32) -> Option<Sent> {
        if let Some(chunk) = self.chunks.front() {
            self.chunk_bytes_done += bytes;
            assert!(self.chunk_bytes_done <= chunk.bytes(), "more was sent than there was");
            if self.chunk_bytes_done < chunk.bytes() {
                return None;
            }
            self.chunk_bytes_done = 0;
            let sent = self.chunks.pop_front();
            if self.chunks.is_empty() {
                self.stalled_since_turn = None;
            }
            sent.map(Sent::Chunk)
        } else {
            let sent = self.skip(bytes);
            if sent.is_some() {
                self.stalled_since_turn = None;
            }
            sent.map(Sent::Part)
        }
    }

    /// What [`Self::next_part`] says was copied to `chunk` as far as that holds it. Returns the part if that was the rest
    /// of it.
    pub(super) fn spilled(&mut self, chunk: Chunk) -> Option<ReceivedPart> {
        let bytes = chunk.bytes();
        self.chunks.push_back(chunk);
        self.skip(bytes)
    }

    /// So many bytes of the first part are done with. Returns it if that was the rest of it.
    fn skip(&mut self, bytes: u32) -> Option<ReceivedPart> {
        let part = self.parts.front().expect("there are bytes to be done with");
        self.part_bytes_done += bytes;
        assert!(self.part_bytes_done <= part.bytes(), "more was taken than there was");
        if self.part_bytes_done < part.bytes() {
            return None;
        }
        self.part_bytes_done = 0;
        self.parts.pop_front()
    }

    /// All that is left, to be given back.
    pub(super) fn into_parts(self) -> (VecDeque<Chunk>, VecDeque<ReceivedPart>) {
        (self.chunks, self.parts)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::panic::{self, AssertUnwindSafe};
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::kernel::ring::{
        Arena, BufferConfig, BufferRing, File, FileTable, Ring, RingConfig, Token, Wait,
    };

    const FILE: File = File(0);
    const BUFFERS: u16 = 16;
    const CHUNK_BYTES: u32 = 16;
    const CHUNKS: u32 = 3;

    /// A stream that parts are received from, and an arena to spill them to.
    struct Source {
        ring: Ring,
        buffers: BufferRing,
        arena: Arena,
        peer: UnixStream,
        unsent: Unsent,
    }

    impl Source {
        fn new() -> Self {
            let mut ring = Ring::new(RingConfig {
                submission_entries: 8,
                completion_entries: 16,
                files: 1,
                file_table: FileTable::Registered,
                busy_poll: Duration::ZERO,
            })
            .unwrap();
            let (ours, peer) = UnixStream::pair().unwrap();
            ring.register_file(FILE, Arc::new(ours)).unwrap();
            let config = BufferConfig { count: BUFFERS, buffer_bytes: 4096, incremental: false };
            let buffers = BufferRing::new(&mut ring, config).unwrap();
            let arena = Arena::new(CHUNKS, CHUNK_BYTES).unwrap();
            Self { ring, buffers, arena, peer, unsent: Unsent::default() }
        }

        fn receive(&mut self, bytes: &[u8]) {
            self.peer.write_all(bytes).unwrap();
            self.ring.receive_once(FILE, &self.buffers, 4096, Token::new(0, 0, 0));
            let mut completions = Vec::new();
            while completions.is_empty() {
                self.ring.turn(Wait::Completion, &mut completions).unwrap();
            }
            let part = self.buffers.take(&completions[0]).unwrap();
            assert_eq!(self.buffers.bytes(&part), bytes);
            self.unsent.push(part);
        }

        /// Sends the next bytes, so many at the most.
        fn send(&mut self, most: u32, sent: &mut Vec<u8>) {
            let pinned = match self.unsent.next().unwrap() {
                Next::Chunk(chunk, done) => self.arena.pinned(chunk).skip(done),
                Next::Part(part, done) => self.buffers.pinned(part).skip(done),
            };
            let bytes = most.min(pinned.bytes());
            let place = match self.unsent.next().unwrap() {
                Next::Part(part, done) => {
                    self.buffers.bytes(part)[done as usize..][..bytes as usize].to_vec()
                }
                // nobody but the kernel reads chunks: it sends them
                Next::Chunk(..) => self.through_the_kernel(pinned.part(0, bytes)),
            };
            sent.extend(place);
            match self.unsent.sent(bytes) {
                Some(Sent::Chunk(chunk)) => self.arena.release(chunk),
                Some(Sent::Part(part)) => self.buffers.recycle(part),
                None => {}
            }
        }

        fn through_the_kernel(&mut self, pinned: crate::kernel::ring::PinnedBytes) -> Vec<u8> {
            use std::io::Read;
            self.ring.send(FILE, pinned, Token::new(1, 0, 0));
            self.ring.flush();
            let mut bytes = vec![0; pinned.bytes() as usize];
            self.peer.read_exact(&mut bytes).unwrap();
            let mut completions = Vec::new();
            while completions.is_empty() {
                self.ring.turn(Wait::Completion, &mut completions).unwrap();
            }
            bytes
        }

        /// Spills as much as there is room for.
        fn spill(&mut self) {
            while let Some((part, done)) = self.unsent.next_part() {
                let Some(chunk) = self.arena.keep(&self.buffers.bytes(part)[done as usize..]) else { return };
                if let Some(part) = self.unsent.spilled(chunk) {
                    self.buffers.recycle(part);
                }
            }
        }
    }

    /// These bytes, in one part. Its buffer is lost.
    pub(in crate::echo::tcp) fn received(bytes: &[u8]) -> Unsent {
        let mut source = Source::new();
        source.receive(bytes);
        source.unsent
    }

    #[test]
    fn bytes_leave_in_the_order_in_which_they_came_however_they_are_spilled() {
        for (first, each) in [(1, 1), (3, 7), (7, 16), (20, 5), (100, 100)] {
            let mut source = Source::new();
            let bytes: Vec<u8> = (0..100).collect();
            for part in bytes.chunks(20) {
                source.receive(part);
            }
            let mut sent = Vec::new();
            source.send(first, &mut sent);
            while !source.unsent.is_empty() {
                source.spill();
                source.send(each, &mut sent);
            }
            assert_eq!(sent, bytes, "{first} bytes, then {each} at a time");
            assert!(!source.unsent.is_spilled());
            assert_eq!(source.buffers.available(), BUFFERS, "every buffer went back");
            let chunks: Vec<_> = std::iter::from_fn(|| source.arena.keep(b"x")).collect();
            assert_eq!(chunks.len(), CHUNKS as usize, "every chunk went back");
        }
    }

    #[test]
    fn a_stall_is_as_old_as_the_first_send_that_came_short_until_all_that_was_spilled_is_sent() {
        let mut source = Source::new();
        source.receive(&[1; 40]);
        let mut sent = Vec::new();
        source.send(2, &mut sent);
        source.unsent.stalls(5);
        source.spill();
        assert!(source.unsent.is_spilled() && source.unsent.next_part().is_none());
        assert_eq!(source.unsent.stalled_since_turn(), Some(5));
        source.send(16, &mut sent);
        source.receive(&[2; 10]);
        source.unsent.stalls(6);
        source.spill();
        assert_eq!(source.unsent.stalled_since_turn(), Some(5), "its peer has not caught up");
        while source.unsent.is_spilled() {
            source.send(100, &mut sent);
        }
        assert_eq!(source.unsent.stalled_since_turn(), None);
        while !source.unsent.is_empty() {
            source.send(100, &mut sent);
        }
        source.receive(&[3; 10]);
        source.send(3, &mut sent);
        source.unsent.stalls(9);
        source.send(7, &mut sent);
        assert_eq!(source.unsent.stalled_since_turn(), None, "what was not spilled is sent as well");
    }

    #[test]
    fn who_was_never_tried_has_not_kept_anything_waiting() {
        let mut source = Source::new();
        source.unsent.keep(source.arena.keep(&[1; 16]).unwrap());
        assert!(source.unsent.is_spilled());
        assert_eq!(source.unsent.stalled_since_turn(), None);
        assert!(panic::catch_unwind(|| Unsent::default().stalls(1)).is_err(), "nothing waits");
    }

    #[test]
    fn no_more_is_sent_than_was_received() {
        let refused = |transition: &dyn Fn(&mut Source)| {
            let mut source = Source::new();
            source.receive(&[1; 20]);
            panic::catch_unwind(AssertUnwindSafe(|| transition(&mut source))).is_err()
        };
        assert!(!refused(&|source| assert!(source.unsent.sent(20).is_some())));
        assert!(refused(&|source| assert!(source.unsent.sent(21).is_some())), "a part has so many");
        assert!(
            refused(&|source| {
                source.spill();
                let _ = source.unsent.sent(17);
            }),
            "a chunk has so many"
        );
        assert!(
            refused(&|source| {
                assert!(source.unsent.sent(20).is_some());
                let _ = source.unsent.sent(1);
            }),
            "nothing is left"
        );
        assert!(
            refused(&|source| {
                let chunk = source.arena.keep(&[1; 16]).unwrap();
                let _ = source.unsent.sent(10);
                let _ = source.unsent.spilled(chunk);
            }),
            "so many are not left to spill"
        );
    }

    #[test]
    fn what_is_left_is_given_back_whole() {
        let mut source = Source::new();
        source.receive(&[1; 40]);
        source.receive(&[2; 40]);
        source.spill();
        let (chunks, parts) = std::mem::take(&mut source.unsent).into_parts();
        assert_eq!(
            (chunks.len(), parts.len()),
            (3, 1),
            "48 bytes are spilled, 32 of the second part are not"
        );
    }
}
