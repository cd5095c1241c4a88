//! Proof of where a completion, a part of a buffer and a chunk come from.
//!
//! The kernel names buffers by number and connections by descriptor. A number that is read by the wrong ring is
//! somebody else's memory, or somebody else's file. So each ring, buffer ring and store has an identity of its own, what
//! they hand out bears it, and taking it back compares it.
//!
//! A completion bears only its ring and its token. Two rules tell from the token what it may bring:
//!
//! * An operation number is that of accepts, of installations, or of other operations, and never of two of them ([`Operations`]).
//! * The tokens of the receives into one buffer ring agree in some bits, and those of any two buffer rings differ in
//!   one of these ([`Tokens`]).

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Token;

/// A number that nothing else in the process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity(NonZeroU32);

impl Identity {
    pub(super) fn new() -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let last = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| last.checked_add(1));
        let number = last.ok().and_then(|last| NonZeroU32::MIN.checked_add(last));
        Self(number.expect("fewer than four billion rings and stores in the life of a process"))
    }
}

/// What the completions of an operation number bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Brings {
    /// A new file.
    File,
    /// A new descriptor of a file that is there already.
    Descriptor,
    /// Anything else.
    Other,
}

/// What each operation number was used for so far.
#[derive(Debug)]
pub(super) struct Operations([Option<Brings>; 256]);

impl Operations {
    pub(super) fn new() -> Self {
        Self([None; 256])
    }

    /// Ends the process if the operation number of `token` was used for anything else before.
    #[inline]
    pub(super) fn claim(&mut self, token: Token, brings: Brings) {
        let used = &mut self.0[usize::from(token.operation())];
        if *used != Some(brings) {
            assert_eq!(*used, None, "operation {} brings different things", token.operation());
            *used = Some(brings);
        }
    }

    pub(super) fn brings(&self, token: Token) -> Option<Brings> {
        self.0[usize::from(token.operation())]
    }
}

/// A set of tokens: those that agree with `sample` in the bits of `fixed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tokens {
    sample: u64,
    fixed: u64,
}

impl Tokens {
    pub(super) fn only(token: Token) -> Self {
        Self { sample: token.user_data(), fixed: u64::MAX }
    }

    #[inline]
    pub(super) fn contains(self, token: Token) -> bool {
        (self.sample ^ token.user_data()) & self.fixed == 0
    }

    /// The smallest set with this token as well.
    pub(super) fn with(self, token: Token) -> Self {
        Self { fixed: self.fixed & !(self.sample ^ token.user_data()), ..self }
    }

    pub(super) fn overlaps(self, other: Self) -> bool {
        (self.sample ^ other.sample) & self.fixed & other.fixed == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_grows_by_what_differs() {
        let connection = |generation, index| Token::new(5, generation, index);
        let mut connections = Tokens::only(connection(0, 1));
        assert!(connections.contains(connection(0, 1)) && !connections.contains(connection(0, 2)));
        connections = connections.with(connection(0, 2)).with(connection(1, 1));
        for (generation, index) in [(0, 0), (0, 3), (1, 2)] {
            assert!(connections.contains(connection(generation, index)), "{generation} {index}");
        }
        assert!(!connections.contains(connection(0, 4)) && !connections.contains(Token::new(4, 0, 1)));
        assert!(connections.overlaps(Tokens::only(connection(1, 3))));
        assert!(!connections.overlaps(Tokens::only(Token::new(2, 0, 1))));
    }

    #[test]
    #[should_panic(expected = "operation 7 brings different things")]
    fn an_operation_number_means_one_thing() {
        let mut operations = Operations::new();
        operations.claim(Token::new(7, 0, 0), Brings::Other);
        operations.claim(Token::new(7, 1, 1), Brings::Other);
        operations.claim(Token::new(7, 0, 0), Brings::File);
    }
}
