//! The list of all counts, once: fields, names, sums. A new count is one line here.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// Defines a struct of numbers that add up field by field.
macro_rules! summed {
    ($(#[$attribute:meta])* $name:ident { $($(#[$about:meta])* $field:ident,)+ }) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[cfg_attr(test, derive(schemars::JsonSchema))]
        pub(crate) struct $name {
            $($(#[$about])* pub(crate) $field: u64,)+
        }

        impl AddAssign<&$name> for $name {
            fn add_assign(&mut self, other: &$name) {
                $(self.$field += other.$field;)+
            }
        }
    };
}

/// Defines [`Class`] and [`Counts`].
macro_rules! counts {
    (
        classes: $($(#[$of_class:meta])+ $class:ident => $classed:ident,)+
        beside: $($(#[$of_beside:meta])+ $beside:ident,)+
        bytes: $($(#[$of_bytes:meta])+ $bytes:ident,)+
    ) => {
        /// The outcome of a datagram (TCP: of a message). If several fit, the first of these counts: misdirected,
        /// truncated, corrupted, late, ok, unreachable, lost.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Class {
            $($(#[$of_class])+ $class,)+
        }

        impl Class {
            /// Its name, as in the report and in `--fail-if`.
            pub(crate) fn name(self) -> &'static str {
                match self {
                    $(Self::$class => stringify!($classed),)+
                }
            }
        }

        summed! {
            /// Counts of datagrams (TCP: of messages). The names are those of the JSON report and of `--fail-if`.
            Counts {
                /// Handed to the kernel.
                sent,
                $($(#[$of_class])+ $classed,)+
                $($(#[$of_beside])+ $beside,)+
                $($(#[$of_bytes])+ $bytes,)+
            }
        }

        impl Counts {
            /// The names of `sent`, of the classes and of what is counted beside them.
            pub(crate) const NAMES: &[&str] =
                &["sent", $(stringify!($classed),)+ $(stringify!($beside),)+];

            /// The names of all fields, in their order.
            pub(crate) const FIELDS: &[&str] =
                &["sent", $(stringify!($classed),)+ $(stringify!($beside),)+ $(stringify!($bytes),)+];

            /// The values of all fields, in their order.
            pub(crate) fn values(&self) -> impl Iterator<Item = u64> {
                [self.sent, $(self.$classed,)+ $(self.$beside,)+ $(self.$bytes,)+].into_iter()
            }

            /// How much each has grown since `before`; 0 if it has not.
            pub(crate) fn grown_from(&self, before: &Self) -> Self {
                Self {
                    sent: self.sent.saturating_sub(before.sent),
                    $($classed: self.$classed.saturating_sub(before.$classed),)+
                    $($beside: self.$beside.saturating_sub(before.$beside),)+
                    $($bytes: self.$bytes.saturating_sub(before.$bytes),)+
                }
            }

            /// The count with one of [`Counts::NAMES`].
            pub(crate) fn by_name(&self, name: &str) -> Option<u64> {
                match name {
                    "sent" => Some(self.sent),
                    $(stringify!($classed) => Some(self.$classed),)+
                    $(stringify!($beside) => Some(self.$beside),)+
                    _ => None,
                }
            }

            pub(crate) fn of(&self, class: Class) -> u64 {
                match class {
                    $(Class::$class => self.$classed,)+
                }
            }

            pub(crate) fn of_mut(&mut self, class: Class) -> &mut u64 {
                match class {
                    $(Class::$class => &mut self.$classed,)+
                }
            }

            /// Each class and its count; together they are all that was sent.
            pub(crate) fn classes(&self) -> impl Iterator<Item = (Class, u64)> {
                [$((Class::$class, self.$classed),)+].into_iter()
            }

            /// What is counted beside the classes: names and counts.
            pub(crate) fn beside(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($beside), self.$beside),)+].into_iter()
            }
        }
    };
}

counts! {
    classes:
        /// Every byte as sent, from the address and port that it was sent to, in time.
        Ok => ok,
        /// Other bytes came back, or more of them.
        Corrupted => corrupted,
        /// A true beginning came back, and no more.
        Truncated => truncated,
        /// The reply came from another address or port.
        Misdirected => misdirected,
        /// Right, but after the timeout.
        Late => late,
        /// Nothing came back.
        Lost => lost,
        /// An ICMP report said that it could not be delivered, and nothing came back.
        Unreachable => unreachable,
    beside:
        /// Further replies to a datagram that had one.
        duplicated,
        /// First replies that came after the reply to a later datagram of the same flow.
        reordered,
        /// Replies with the bytes of another flow's datagram (TCP: of another message).
        #[serde(default)]
        crossed,
        /// Received, but it answers nothing that this run sent and remembers.
        unattributed,
        /// Sends that the local kernel refused.
        send_failures,
    bytes:
        /// Payload bytes handed to the kernel.
        bytes_sent,
        /// Payload bytes received, of any datagram.
        bytes_received,
}

impl Class {
    /// Whether a reply came, but a wrong one.
    pub(crate) fn is_wrong(self) -> bool {
        matches!(self, Self::Misdirected | Self::Truncated | Self::Corrupted)
    }
}

impl Counts {
    /// Whether each datagram is in exactly one class.
    pub(crate) fn is_balanced(&self) -> bool {
        self.sent == self.classes().map(|(_, count)| count).sum::<u64>()
    }

    /// Datagrams that something came back for.
    pub(crate) fn answered(&self) -> u64 {
        let is_unanswered = |class| matches!(class, Class::Lost | Class::Unreachable);
        self.classes().filter(|(class, _)| !is_unanswered(*class)).map(|(_, count)| count).sum()
    }

    /// Datagrams that every byte came back for, in time or late.
    pub(crate) fn right(&self) -> u64 {
        self.ok + self.late
    }

    /// Replies that answer nothing of their flow.
    pub(crate) fn strays(&self) -> u64 {
        self.crossed + self.unattributed
    }

    /// Sends, whether or not the local kernel took them.
    pub(crate) fn tried(&self) -> u64 {
        self.sent + self.send_failures
    }

    /// Datagrams without a right reply in time.
    pub(crate) fn not_ok(&self) -> u64 {
        self.sent.saturating_sub(self.ok)
    }
}

summed! {
    /// The connections of a TCP run.
    Connections {
        attempted,
        established,
        /// Refused, timed out or otherwise not established.
        failed,
        /// Established, then ended by the other side or by an error.
        broken,
        /// Of those that failed: refused by the other host.
        #[serde(default)]
        refused,
        /// Of those that failed: not established in time.
        #[serde(default)]
        timed_out,
        /// Of those that broke: closed by the server before all was echoed.
        #[serde(default)]
        closed,
        /// Of those that broke: reset by the server.
        #[serde(default)]
        reset,
        /// Established, then ended by blaster: what was sent had no answer.
        #[serde(default)]
        stuck,
        /// The misses of a search. New connections (`--mode connect`): those due in the measured time that the server did not
        /// establish. Else: those that it did not establish, or ended before everything was sent.
        #[serde(default)]
        missed,
        /// Of those that failed: this host had no local port, open file or memory for them in the measured time, or forbade
        /// them.
        #[serde(default)]
        unmade,
        /// New connections that were due in the measured time while all of `--connections` were taken.
        #[serde(default)]
        waited,
        /// Of the connections at a time, those without an error at the end of the run: none if the server is gone.
        #[serde(default)]
        in_order_at_end,
    }
}

summed! {
    /// The datagrams (TCP: messages) to one destination, without those that came back right and in time.
    Tally {
        sent,
        lost,
        unreachable,
        misdirected,
        /// Corrupted or truncated.
        damaged,
        late,
        /// The local kernel refused to send.
        #[serde(default)]
        refused,
        /// Connections that were not established.
        #[serde(default)]
        failed,
    }
}

/// What is wrong with a destination. Each has one fault at most: the first that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fault {
    /// A reply came from another address or port.
    Misdirected,
    /// A reply had other bytes, or fewer.
    Corrupted,
    /// Nothing came back, whether or not an ICMP report or a refused connection said why.
    Silent,
    /// Some of what was sent had no answer.
    Lossy,
    /// A reply came after the timeout.
    Late,
    /// The local kernel refused to send there.
    Unsendable,
}

impl Fault {
    pub(crate) const ALL: [Self; 6] =
        [Self::Misdirected, Self::Corrupted, Self::Silent, Self::Lossy, Self::Late, Self::Unsendable];

    /// Its name, as in the report and in `--fail-if`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Misdirected => "misdirected",
            Self::Corrupted => "corrupted",
            Self::Silent => "silent",
            Self::Lossy => "lossy",
            Self::Late => "late",
            Self::Unsendable => "unsendable",
        }
    }
}

impl Tally {
    /// The count that a class belongs to.
    pub(crate) fn of_mut(&mut self, class: Class) -> &mut u64 {
        match class {
            Class::Ok => unreachable!("what is right is not counted"),
            Class::Corrupted | Class::Truncated => &mut self.damaged,
            Class::Misdirected => &mut self.misdirected,
            Class::Late => &mut self.late,
            Class::Lost => &mut self.lost,
            Class::Unreachable => &mut self.unreachable,
        }
    }

    /// Nothing came back for so many datagrams, messages and connections.
    pub(crate) fn unanswered(&self) -> u64 {
        self.lost + self.unreachable + self.failed
    }

    /// So many datagrams, messages and connections were not right and in time.
    pub(crate) fn wrong(&self) -> u64 {
        self.unanswered() + self.misdirected + self.damaged + self.late + self.refused
    }

    /// So many datagrams, messages and connections were tried.
    pub(crate) fn tried(&self) -> u64 {
        self.sent + self.failed + self.refused
    }

    pub(crate) fn fault(&self) -> Option<Fault> {
        let found = match self {
            _ if self.misdirected > 0 => Fault::Misdirected,
            _ if self.damaged > 0 => Fault::Corrupted,
            _ if self.unanswered() > 0 && self.unanswered() == self.sent + self.failed => Fault::Silent,
            _ if self.unanswered() > 0 => Fault::Lossy,
            _ if self.late > 0 => Fault::Late,
            _ if self.refused > 0 => Fault::Unsendable,
            _ => return None,
        };
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_has_the_first_fault_that_fits() {
        for (tally, fault) in [
            (Tally { sent: 2, ..Tally::default() }, None),
            (Tally { sent: 2, lost: 1, unreachable: 1, ..Tally::default() }, Some(Fault::Silent)),
            (Tally { sent: 0, failed: 1, ..Tally::default() }, Some(Fault::Silent)),
            (Tally { sent: 1, failed: 1, ..Tally::default() }, Some(Fault::Lossy)),
            (Tally { sent: 2, lost: 1, ..Tally::default() }, Some(Fault::Lossy)),
            (Tally { sent: 2, lost: 1, late: 1, ..Tally::default() }, Some(Fault::Lossy)),
            (Tally { sent: 2, lost: 1, damaged: 1, ..Tally::default() }, Some(Fault::Corrupted)),
            (Tally { sent: 2, misdirected: 1, damaged: 1, ..Tally::default() }, Some(Fault::Misdirected)),
            (Tally { sent: 2, late: 2, ..Tally::default() }, Some(Fault::Late)),
            (Tally { refused: 1, ..Tally::default() }, Some(Fault::Unsendable)),
        ] {
            assert_eq!(tally.fault(), fault, "{tally:?}");
        }
    }

    #[test]
    fn each_class_balances_and_nothing_beside_them_does() {
        for (class, _) in Counts::default().classes() {
            let mut counts = Counts { sent: 1, ..Counts::default() };
            assert!(!counts.is_balanced());
            *counts.of_mut(class) += 1;
            assert!(counts.is_balanced(), "{class:?}");
            *counts.of_mut(class) += 1;
            assert!(!counts.is_balanced(), "{class:?} twice");
        }
        let beside =
            Counts { duplicated: 1, reordered: 2, unattributed: 3, send_failures: 4, ..Counts::default() };
        assert!(beside.is_balanced());
    }

    #[test]
    fn names_find_their_counts() {
        let mut counts = Counts::default();
        for (nth, (class, _)) in (1..).zip(Counts::default().classes()) {
            *counts.of_mut(class) = nth;
            assert_eq!(counts.by_name(class.name()), Some(nth));
        }
        for name in Counts::NAMES {
            assert!(counts.by_name(name).is_some(), "{name}");
        }
        assert_eq!(counts.by_name("bytes_sent"), None, "no count of datagrams");
    }

    #[test]
    fn sums_add_every_field() {
        let mut sum = Counts { sent: 1, lost: 2, bytes_received: 3, ..Counts::default() };
        sum += &Counts { sent: 10, reordered: 20, bytes_received: 30, ..Counts::default() };
        let wanted = Counts { sent: 11, lost: 2, reordered: 20, bytes_received: 33, ..Counts::default() };
        assert_eq!(sum, wanted);
    }
}
