//! How far a group is on its way out: one state, and the steps between states. No socket and no ring.
//!
//! ```text
//!  Free ─► Gathering ─┬────────────────► Whole ─┬─ sent ──────────────────────────────► Free
//!              │      │ its path takes          ├─ refused ────────────┐
//!              │      │ no trains               │                      │ refused, and others
//!              │      └──────► AwaitsSplit ◄────┘                      │ wait for the same file
//!              │                 │   ├─ slots are free ─► Split ───────┼─ all sent ──────► Free
//!              │                 │   └─ others wait for the file ─► OneByOne ─ all sent ─► Free
//!              └─ no way out ────┴─────────────────────────────────────────────────────► Free
//! ```
//!
//! A send that fails for good counts as sent here: its datagrams are done with.

use super::egress::Egress;

/// The state of a group. Each state with messages in flight holds the way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// There is no group: the kernel has the buffer, or it belongs to the group of another one.
    Free,
    /// No datagram was sent yet. Others of this turn may join until the turn ends. The way out may have to be opened first.
    Gathering,
    /// A train that waits to be sent as single datagrams.
    AwaitsSplit,
    /// All datagrams are sent in one message.
    Whole(Egress),
    /// Each datagram is sent in a message slot of its own; `left` are not completed.
    Split { egress: Egress, left: u16 },
    /// The datagrams are sent one after the other in the group's own message; this is the number of the one that is
    /// sent or queued now.
    OneByOne { egress: Egress, number: u16 },
}

/// The next step when one message of a group is through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Other messages of the group are still on their way.
    Wait,
    /// This datagram follows, the same way out.
    Datagram { egress: Egress, number: u16 },
    /// The group is through: its buffers go back to the kernel.
    Recycle,
}

impl Progress {
    /// The first datagram of a group has arrived.
    pub(super) fn gather(&mut self) {
        debug_assert_eq!(*self, Self::Free, "a buffer begins one group at a time");
        *self = Self::Gathering;
    }

    /// The path takes no trains: its peer is known for that, or has just refused this one.
    pub(super) fn await_split(&mut self) {
        debug_assert!(matches!(self, Self::Gathering | Self::Whole(_)), "{self:?} is no train to split");
        *self = Self::AwaitsSplit;
    }

    /// All datagrams go out in one message.
    pub(super) fn send_whole(&mut self, egress: Egress) {
        debug_assert_eq!(*self, Self::Gathering, "a group is sent once");
        *self = Self::Whole(egress);
    }

    /// Each of the `datagrams` goes out in a slot of its own.
    pub(super) fn send_split(&mut self, egress: Egress, datagrams: u16) {
        debug_assert_eq!(*self, Self::AwaitsSplit, "a group is split once");
        debug_assert!(datagrams > 0, "a group has datagrams");
        *self = Self::Split { egress, left: datagrams };
    }

    /// The datagrams go out one after the other, from the first on.
    pub(super) fn send_one_by_one(&mut self, egress: Egress) {
        debug_assert!(
            matches!(self, Self::AwaitsSplit) || *self == Self::Whole(egress),
            "{self:?} does not begin to leave one by one"
        );
        *self = Self::OneByOne { egress, number: 0 };
    }

    /// A message of the group, which has so many datagrams, is through: what follows.
    pub(super) fn complete(&mut self, datagrams: u32) -> Next {
        match self {
            Self::Whole(_) => {}
            Self::Split { left, .. } => {
                debug_assert!((1..=datagrams).contains(&u32::from(*left)), "{left} of {datagrams}");
                *left -= 1;
                if *left > 0 {
                    return Next::Wait;
                }
            }
            Self::OneByOne { egress, number } => {
                debug_assert!(u32::from(*number) < datagrams, "number {number} of {datagrams}");
                if u32::from(*number) + 1 < datagrams {
                    *number += 1;
                    return Next::Datagram { egress: *egress, number: *number };
                }
            }
            Self::Free | Self::Gathering | Self::AwaitsSplit => panic!("nothing of {self:?} was sent"),
        }
        *self = Self::Free;
        Next::Recycle
    }

    /// There is no way out: the group is dropped before anything of it was sent.
    pub(super) fn drop_unsent(&mut self) {
        debug_assert!(matches!(self, Self::Gathering | Self::AwaitsSplit), "{self:?} is not unsent");
        *self = Self::Free;
    }

    /// The way out of what is sent.
    pub(super) fn egress(self) -> Egress {
        match self {
            Self::Whole(egress) | Self::Split { egress, .. } | Self::OneByOne { egress, .. } => egress,
            Self::Free | Self::Gathering | Self::AwaitsSplit => panic!("nothing of {self:?} was sent"),
        }
    }

    /// How many datagrams one message carries, of a group that has so many.
    pub(super) fn datagrams_per_message(self, datagrams: u32) -> u32 {
        if matches!(self, Self::Whole(_)) { datagrams } else { 1 }
    }

    /// How many datagrams are lost with the group's own message, of a group that has so many: those that it carries, and
    /// those that would have followed.
    pub(super) fn left_with_message(self, datagrams: u32) -> u32 {
        match self {
            Self::OneByOne { number, .. } => datagrams - u32::from(number),
            _ => datagrams,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::kernel::ring::File;

    const EGRESS: Egress = Egress { file: File(7), sets_source: true };
    const OTHER: Egress = Egress { file: File(8), sets_source: false };

    const STATES: [Progress; 6] = [
        Progress::Free,
        Progress::Gathering,
        Progress::AwaitsSplit,
        Progress::Whole(EGRESS),
        Progress::Split { egress: EGRESS, left: 2 },
        Progress::OneByOne { egress: EGRESS, number: 1 },
    ];

    /// Takes a step from each state: it leads to `to` from those in `from`, and is refused from all others.
    fn step(from: &[Progress], to: Progress, step: impl Fn(&mut Progress)) {
        for state in STATES {
            let mut progress = state;
            let taken = catch_unwind(AssertUnwindSafe(|| step(&mut progress)));
            assert_eq!(taken.is_ok(), from.contains(&state), "from {state:?} to {to:?}");
            assert_eq!(progress, if taken.is_ok() { to } else { state });
        }
    }

    #[test]
    fn each_step_leads_from_where_it_may_and_from_nowhere_else() {
        use Progress::{AwaitsSplit, Free, Gathering, OneByOne, Split, Whole};
        step(&[Free], Gathering, Progress::gather);
        step(&[Gathering, Whole(EGRESS)], AwaitsSplit, Progress::await_split);
        step(&[Gathering], Whole(EGRESS), |progress| progress.send_whole(EGRESS));
        step(&[AwaitsSplit], Split { egress: EGRESS, left: 3 }, |progress| progress.send_split(EGRESS, 3));
        let first = OneByOne { egress: EGRESS, number: 0 };
        step(&[AwaitsSplit, Whole(EGRESS)], first, |progress| progress.send_one_by_one(EGRESS));
        step(&[Gathering, AwaitsSplit], Free, Progress::drop_unsent);
    }

    #[test]
    fn a_train_that_is_refused_keeps_its_way_out() {
        let begins = |state: Progress, egress| {
            let mut progress = state;
            catch_unwind(AssertUnwindSafe(|| progress.send_one_by_one(egress))).is_ok()
        };
        assert!(begins(Progress::AwaitsSplit, OTHER), "it had none before");
        assert!(!begins(Progress::Whole(EGRESS), OTHER), "others wait for the file that refused it");
    }

    #[test]
    fn a_whole_group_is_through_with_its_message() {
        let mut progress = Progress::Whole(EGRESS);
        assert_eq!((progress.complete(5), progress), (Next::Recycle, Progress::Free));
    }

    #[test]
    fn a_split_group_is_through_with_its_last_datagram() {
        let mut progress = Progress::Split { egress: EGRESS, left: 3 };
        assert_eq!([progress.complete(3), progress.complete(3)], [Next::Wait; 2]);
        assert_eq!(progress, Progress::Split { egress: EGRESS, left: 1 });
        assert_eq!((progress.complete(3), progress), (Next::Recycle, Progress::Free));
    }

    #[test]
    fn one_by_one_each_number_has_its_turn() {
        let mut progress = Progress::OneByOne { egress: EGRESS, number: 0 };
        for number in 1..4 {
            assert_eq!(progress.complete(4), Next::Datagram { egress: EGRESS, number });
            assert_eq!(progress, Progress::OneByOne { egress: EGRESS, number });
        }
        assert_eq!((progress.complete(4), progress), (Next::Recycle, Progress::Free));
    }

    #[test]
    fn nothing_completes_that_was_not_sent_or_has_other_counts() {
        for (state, datagrams) in [
            (Progress::Free, 1),
            (Progress::Gathering, 1),
            (Progress::AwaitsSplit, 2),
            (Progress::Split { egress: EGRESS, left: 3 }, 2),
            (Progress::Split { egress: EGRESS, left: 0 }, 2),
            (Progress::OneByOne { egress: EGRESS, number: 2 }, 2),
        ] {
            let mut progress = state;
            assert!(catch_unwind(AssertUnwindSafe(|| progress.complete(datagrams))).is_err(), "{state:?}");
        }
    }

    #[test]
    fn only_states_with_messages_in_flight_have_a_way_out() {
        for state in STATES {
            let is_sent = !matches!(state, Progress::Free | Progress::Gathering | Progress::AwaitsSplit);
            let egress = catch_unwind(|| state.egress());
            assert_eq!(egress.is_ok(), is_sent, "{state:?}");
            assert!(egress.is_err() || egress.is_ok_and(|egress| egress == EGRESS));
        }
    }

    #[test]
    fn datagrams_are_counted_by_message_and_by_what_is_left() {
        let whole = Progress::Whole(EGRESS);
        assert_eq!((whole.datagrams_per_message(5), whole.left_with_message(5)), (5, 5));
        let one_by_one = Progress::OneByOne { egress: EGRESS, number: 3 };
        assert_eq!((one_by_one.datagrams_per_message(5), one_by_one.left_with_message(5)), (1, 2));
        assert_eq!(Progress::Split { egress: EGRESS, left: 3 }.datagrams_per_message(5), 1);
        assert_eq!(Progress::AwaitsSplit.left_with_message(5), 5);
    }
}
