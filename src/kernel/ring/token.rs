//! What a submission carries in its `user_data` and gets back in its completions.
//!
//! ```text
//!  63      56 55                    32 31                                    0
//! ┌──────────┬────────────────────────┬───────────────────────────────────────┐
//! │operation │       generation       │                 index                 │
//! └──────────┴────────────────────────┴───────────────────────────────────────┘
//! ```
//!
//! The index says which object (a socket, a message slot, a connection); the generation tells a
//! reused one from the one that the operation was meant for. What the operation numbers mean is the
//! business of the datapath that submits them.

/// Bits of a generation; it wraps.
const GENERATION_BITS: u32 = 24;

/// Names an operation in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token(u64);

impl Token {
    /// The token of `operation` on object `index` in its `generation` (the low 24 bits count).
    pub const fn new(operation: u8, generation: u32, index: u32) -> Self {
        let generation = generation & ((1 << GENERATION_BITS) - 1);
        Self((operation as u64) << 56 | (generation as u64) << 32 | index as u64)
    }

    /// What was submitted.
    pub const fn operation(self) -> u8 {
        (self.0 >> 56) as u8
    }

    /// Which life of the object it was meant for.
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32 & ((1 << GENERATION_BITS) - 1)
    }

    /// The object.
    pub const fn index(self) -> u32 {
        self.0 as u32
    }

    pub(super) const fn from_user_data(user_data: u64) -> Self {
        Self(user_data)
    }

    pub(super) const fn user_data(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_survives_the_round_trip() {
        let edges = [0, 1, 0x00ff_fffe, 0x00ff_ffff];
        for operation in [0, 1, 0x7f, 0xff] {
            for generation in edges {
                for index in [0, 1, 0xffff, u32::MAX] {
                    let token = Token::from_user_data(Token::new(operation, generation, index).user_data());
                    assert_eq!(
                        (token.operation(), token.generation(), token.index()),
                        (operation, generation, index)
                    );
                }
            }
        }
    }

    #[test]
    fn a_generation_wraps_without_touching_its_neighbours() {
        assert_eq!(Token::new(3, 0x0100_0000, 9), Token::new(3, 0, 9));
    }
}
