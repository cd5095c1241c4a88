//! Reproducible payloads: the same seed gives the same bytes, so a receiver needs no copy of what was
//! sent.

/// Marsaglia's xorshift64*: small, fast, and good enough that two payloads never look alike.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    /// A generator; neighbouring seeds give unrelated bytes.
    pub fn new(seed: u64) -> Self {
        // The golden ratio spreads small seeds over all 64 bits, and the state must not be zero.
        let mut random = Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        random.next();
        random
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + (self.next() % (high - low + 1) as u64) as usize
    }

    /// The next bytes of the stream. One byte per step, so that the stream does not depend on how it
    /// is cut.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| (self.next() >> 56) as u8).collect()
    }
}

/// The payload number `seed` of this length.
pub fn payload(seed: usize, len: usize) -> Vec<u8> {
    Random::new(seed as u64).bytes(len)
}
