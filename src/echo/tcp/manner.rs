//! How a connection is received from. That follows from how much its peer sends at a time.
//!
//! ```text
//!                     a receive brings much              it has an ordinary descriptor
//! Messages (multishot) ───────────────────► Streaming ──────────────────────────────────► Splicing
//!      ▲                                        │                                            │
//!      └─────────────── pieces are small, several in a row ──────────────────────────────────┘
//! ```

use crate::kernel::pipe::PIPE_BYTES;

/// A receive of so many bytes shows a peer that streams: a multishot would fill buffer after buffer before anything is
/// sent. It is also the fewest bytes that are moved by their pages. The pages that a pipe refers to are [`PIPE_BYTES`] at
/// the most: so a peer that does not read keeps no more pages than four times the bytes that wait for it.
pub(super) const SPLICED_BYTES_MIN: u32 = PIPE_BYTES / 4;
/// So many small pieces in a row show that the messages are small again.
const SMALL_PIECES_MAX: u8 = 8;

/// How it is received from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A multishot receives.
    Messages,
    /// There is one receive for each send: a peer that does not read makes us keep no more than one receive brings.
    Streaming,
    /// The same, but pages are moved through a pipe.
    Splicing,
}

/// How far its ordinary descriptor is. splice(2) needs one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Descriptor {
    None,
    Wanted,
    /// It is being made.
    Installing,
    Installed,
    /// It has none, and gets none.
    Refused,
}

/// How a connection is received from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    kind: Kind,
    descriptor: Descriptor,
    /// Its file says `EAGAIN` instead of waiting. splice(2) needs that, and a multishot would end at once by it.
    is_nonblocking: bool,
    small_pieces: u8,
}

impl Default for Manner {
    fn default() -> Self {
        Self { kind: Kind::Messages, descriptor: Descriptor::None, is_nonblocking: false, small_pieces: 0 }
    }
}

impl Manner {
    /// A receive has brought so many bytes.
    pub(super) fn received(&mut self, bytes: u32) {
        if bytes >= SPLICED_BYTES_MIN {
            if self.descriptor == Descriptor::None {
                self.descriptor = Descriptor::Wanted;
            }
            let has_descriptor = self.descriptor == Descriptor::Installed;
            self.kind = if has_descriptor { Kind::Splicing } else { Kind::Streaming };
        }
        self.measure(bytes);
    }

    /// A splice has brought so many bytes. True if they may stay in their pages.
    pub(super) fn spliced(&mut self, bytes: u32) -> bool {
        assert_eq!(self.kind, Kind::Splicing, "nothing is spliced yet");
        self.measure(bytes);
        bytes >= SPLICED_BYTES_MIN
    }

    fn measure(&mut self, bytes: u32) {
        if self.kind == Kind::Messages || bytes >= SPLICED_BYTES_MIN {
            self.small_pieces = 0;
            return;
        }
        self.small_pieces += 1;
        if self.small_pieces == SMALL_PIECES_MAX {
            self.kind = Kind::Messages;
        }
    }

    /// It wants a descriptor.
    pub(super) fn wants_descriptor(self) -> bool {
        self.descriptor == Descriptor::Wanted
    }

    /// Its descriptor is being made.
    pub(super) fn begin_install(&mut self) {
        assert_eq!(self.descriptor, Descriptor::Wanted, "nobody wants a descriptor");
        self.descriptor = Descriptor::Installing;
    }

    /// A descriptor is being made.
    pub(super) fn is_installing(self) -> bool {
        self.descriptor == Descriptor::Installing
    }

    /// It has its descriptor, or gets none.
    pub(super) fn installed(&mut self, has_descriptor: bool) {
        assert!(matches!(self.descriptor, Descriptor::Wanted | Descriptor::Installing), "{self:?}");
        self.descriptor = if has_descriptor { Descriptor::Installed } else { Descriptor::Refused };
        if has_descriptor && self.kind == Kind::Streaming {
            self.kind = Kind::Splicing;
        }
    }

    /// What its file has to do from now on: not wait, or wait again. `None`: it does so already.
    pub(super) fn changes_to_nonblocking(self) -> Option<bool> {
        let wanted = match self.kind {
            Kind::Splicing => true,
            Kind::Messages => false,
            Kind::Streaming => self.is_nonblocking,
        };
        (wanted != self.is_nonblocking).then_some(wanted)
    }

    /// That was changed, or could not be: then it is neither spliced nor received from by a multishot.
    pub(super) fn changed_to_nonblocking(&mut self, nonblocking: bool, is_changed: bool) {
        if is_changed {
            self.is_nonblocking = nonblocking;
        } else {
            (self.kind, self.descriptor) = (Kind::Streaming, Descriptor::Refused);
        }
    }

    /// A multishot receives.
    pub(super) fn is_multishot(self) -> bool {
        self.kind == Kind::Messages && !self.is_nonblocking
    }

    /// Pages are moved through a pipe.
    pub(super) fn is_spliced(self) -> bool {
        self.kind == Kind::Splicing && self.is_nonblocking
    }
}

#[cfg(test)]
mod tests {
    use std::panic;

    use super::*;

    const LARGE: u32 = SPLICED_BYTES_MIN;
    const SMALL: u32 = SPLICED_BYTES_MIN - 1;

    /// One that has brought much, and has its descriptor.
    fn splicing() -> Manner {
        let mut manner = Manner::default();
        manner.received(LARGE);
        manner.begin_install();
        manner.installed(true);
        assert_eq!(manner.changes_to_nonblocking(), Some(true));
        manner.changed_to_nonblocking(true, true);
        manner
    }

    #[test]
    fn who_brings_much_at_a_time_is_spliced_once_there_is_a_descriptor_that_does_not_wait() {
        let mut manner = Manner::default();
        manner.received(SMALL);
        assert!(manner.is_multishot() && !manner.wants_descriptor());
        manner.received(LARGE);
        assert!(!manner.is_multishot() && !manner.is_spliced() && manner.wants_descriptor());
        manner.begin_install();
        assert!(manner.is_installing() && !manner.wants_descriptor());
        assert_eq!(manner.changes_to_nonblocking(), None);
        manner.installed(true);
        assert!(!manner.is_installing() && !manner.is_spliced(), "its file would wait");
        assert_eq!(manner.changes_to_nonblocking(), Some(true));
        manner.changed_to_nonblocking(true, true);
        assert!(manner.is_spliced());
        assert_eq!(manner.changes_to_nonblocking(), None);
    }

    #[test]
    fn only_large_pieces_keep_their_pages() {
        let mut manner = splicing();
        assert!(!manner.spliced(1) && !manner.spliced(SMALL));
        assert!(manner.spliced(LARGE) && manner.spliced(PIPE_BYTES));
    }

    #[test]
    fn small_pieces_in_a_row_end_it_and_a_large_one_begins_it_again_with_the_same_descriptor() {
        let mut manner = splicing();
        for piece in [SMALL, SMALL, LARGE].repeat(5) {
            manner.spliced(piece);
        }
        for _ in 1..SMALL_PIECES_MAX {
            manner.spliced(SMALL);
            assert!(manner.is_spliced());
        }
        manner.spliced(SMALL);
        assert!(!manner.is_spliced() && !manner.is_multishot(), "a multishot would end at once");
        assert_eq!(manner.changes_to_nonblocking(), Some(false));
        manner.changed_to_nonblocking(false, true);
        assert!(manner.is_multishot());
        for _ in 0..SMALL_PIECES_MAX {
            manner.received(SMALL);
        }
        manner.received(LARGE);
        assert!(!manner.wants_descriptor());
        assert_eq!(manner.changes_to_nonblocking(), Some(true));
        manner.changed_to_nonblocking(true, true);
        assert!(manner.is_spliced());
    }

    #[test]
    fn without_a_descriptor_there_is_one_receive_for_each_send() {
        let mut manner = Manner::default();
        manner.received(LARGE);
        manner.installed(false);
        assert!(!manner.is_multishot() && !manner.is_spliced());
        manner.received(LARGE);
        assert!(!manner.wants_descriptor(), "it is asked for once");
        for _ in 0..SMALL_PIECES_MAX {
            assert!(!manner.is_multishot());
            manner.received(SMALL);
        }
        assert!(manner.is_multishot());
    }

    #[test]
    fn a_descriptor_that_comes_when_the_messages_are_small_again_waits_for_large_ones() {
        let mut manner = Manner::default();
        manner.received(LARGE);
        manner.begin_install();
        for _ in 0..SMALL_PIECES_MAX {
            manner.received(SMALL);
        }
        manner.installed(true);
        assert!(manner.is_multishot());
        assert_eq!(manner.changes_to_nonblocking(), None);
        manner.received(LARGE);
        assert_eq!(manner.changes_to_nonblocking(), Some(true));
    }

    #[test]
    fn a_file_that_can_not_be_changed_is_neither_spliced_nor_received_from_by_a_multishot() {
        let mut never_spliced = Manner::default();
        never_spliced.received(LARGE);
        never_spliced.installed(true);
        never_spliced.changed_to_nonblocking(true, false);
        let mut never_waits = splicing();
        for _ in 0..SMALL_PIECES_MAX {
            never_waits.spliced(SMALL);
        }
        never_waits.changed_to_nonblocking(false, false);
        for mut manner in [never_spliced, never_waits] {
            for piece in [LARGE, SMALL].repeat(10) {
                manner.received(piece);
                assert!(!manner.is_multishot() && !manner.is_spliced(), "{manner:?}");
                assert_eq!(manner.changes_to_nonblocking(), None);
            }
            (0..SMALL_PIECES_MAX).for_each(|_| manner.received(SMALL));
            assert!(!manner.is_spliced());
        }
    }

    #[test]
    fn a_descriptor_is_made_once() {
        let refused =
            |transition: fn(&mut Manner)| panic::catch_unwind(|| transition(&mut splicing())).is_err();
        assert!(refused(Manner::begin_install) && refused(|manner| manner.installed(true)));
        assert!(panic::catch_unwind(|| Manner::default().spliced(LARGE)).is_err(), "it is not spliced yet");
    }
}
