//! Rings of provided buffers, as the kernel sees them: the memory that the process registered, and a
//! memory of who has which buffer.

use std::ops::Range;

use super::abi::{Entries, F_BUF_MORE, F_BUFFER};

/// What a buffer that went back to the kernel is overwritten with: whoever still reads it gets this.
const POISON: [u8; 1024] = [0xdb; 1024];

#[derive(Clone, Copy, Debug, Default)]
struct Buffer {
    place: Range64,
    /// The kernel may write to it.
    kernel: bool,
    /// So much of it has been handed over.
    filled: u64,
}

/// A range that can be copied.
#[derive(Clone, Copy, Debug, Default)]
struct Range64 {
    start: u64,
    end: u64,
}

/// One group of buffers.
#[derive(Debug)]
pub(super) struct Group {
    number: u16,
    entries: Entries,
    incremental: bool,
    /// What the kernel takes next.
    head: u16,
    /// Up to where the process has provided buffers, as far as that was seen.
    tail: u16,
    buffers: Vec<Buffer>,
}

impl Group {
    pub(super) fn new(number: u16, entries: Entries, incremental: bool) -> Self {
        let buffers = vec![Buffer::default(); entries.count().into()];
        Self { number, entries, incremental, head: 0, tail: 0, buffers }
    }

    /// Takes note of the buffers that the process has provided since the last time. None of them may be
    /// the kernel's already, or in use by one of the operations whose memory is given.
    pub(super) fn sync(&mut self, in_flight: impl Fn() -> Vec<Range<u64>>) {
        let tail = self.entries.tail();
        if tail == self.tail {
            return;
        }
        let in_flight = in_flight();
        while self.tail != tail {
            let entry = self.entries.get(self.tail);
            self.tail = self.tail.wrapping_add(1);
            let (number, start, end) = (entry.number(), entry.addr(), entry.addr() + u64::from(entry.len()));
            let Buffer { place: known, kernel, .. } = self.buffers[usize::from(number)];
            assert!(!kernel, "buffer {number} of group {} was given back twice", self.number);
            assert!(known.end == 0 || (known.start, known.end) == (start, end), "buffer {number} has moved");
            let first = self.buffers[0].place;
            let stands = number == 0 || start == first.start + u64::from(number) * (first.end - first.start);
            assert!(stands, "buffers do not lie side by side: `check` has to be taught");
            for used in &in_flight {
                let apart = used.end <= start || end <= used.start;
                assert!(apart, "buffer {number} of group {} was given back under a send", self.number);
            }
            if known.end != 0 {
                entry.write(&POISON[..POISON.len().min((end - start) as usize)]);
            }
            self.buffers[usize::from(number)] =
                Buffer { place: Range64 { start, end }, kernel: true, filled: 0 };
        }
        let provided = usize::from(self.tail.wrapping_sub(self.head));
        assert!(provided <= self.buffers.len(), "more buffers in the ring than there are");
    }

    /// The process may use this memory: no part of it is the kernel's to write.
    pub(super) fn check(&self, memory: &Range<u64>) {
        let first = self.buffers[0].place;
        let Some(offset) = memory.start.checked_sub(first.start) else { return };
        let number = (offset / (first.end - first.start)) as usize;
        let Some(&Buffer { place, kernel, filled }) = self.buffers.get(number) else { return };
        assert!(place.start <= memory.start && memory.end <= place.end, "sending from two buffers at once");
        let free = !kernel || memory.end <= place.start + filled;
        assert!(free, "sending from buffer {number} of group {}, which is the kernel's", self.number);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// Every buffer is the kernel's.
    pub(super) fn is_full(&self) -> bool {
        self.buffers.iter().all(|buffer| buffer.kernel)
    }

    /// The memory of its buffers holds nothing any more: the system has given new pages for it.
    pub(super) fn is_given_back(&self) -> bool {
        self.is_full() && (0..self.entries.count()).all(|place| self.entries.get(place).is_blank())
    }

    /// Bytes that the next receive can bring.
    pub(super) fn room(&self) -> u32 {
        self.entries.get(self.head).len()
    }

    /// Writes what was received into the next buffer; the flags of its completion.
    pub(super) fn fill(&mut self, bytes: &[u8]) -> u32 {
        assert!(!self.is_empty() && bytes.len() <= self.room() as usize);
        let entry = self.entries.get(self.head);
        let number = entry.number();
        let buffer = &mut self.buffers[usize::from(number)];
        assert!(buffer.kernel, "the simulation is wrong: buffer {number} is not the kernel's");
        entry.write(bytes);
        buffer.filled += bytes.len() as u64;
        let mut flags = F_BUFFER | u32::from(number) << 16;
        if self.incremental && bytes.len() < entry.len() as usize {
            entry.advance(bytes.len() as u32);
            flags |= F_BUF_MORE;
        } else {
            buffer.kernel = false;
            self.head = self.head.wrapping_add(1);
        }
        flags
    }
}
