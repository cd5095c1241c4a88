//! Reproducible payloads: the same seed gives the same bytes, so a receiver needs no copy of the sent data.

/// Marsaglia's xorshift64*: small, fast, and good enough that two payloads never look alike.
pub struct Random {
    state: u64,
    /// Bytes of the stream that the last piece left over, in the upper bytes, and their number.
    left: u64,
    left_bytes: usize,
}

impl Random {
    /// A generator. Neighbouring seeds give unrelated bytes.
    pub fn new(seed: u64) -> Self {
        // The golden ratio spreads small seeds over all 64 bits, and the state must not be zero.
        let state = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut random = Self { state, left: 0, left_bytes: 0 };
        random.next();
        random
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + (self.next() % (high - low + 1) as u64) as usize
    }

    /// The next bytes of the stream. The stream is the same however it is cut into pieces.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        bytes.extend_from_slice(&self.left.to_le_bytes()[8 - self.left_bytes..]);
        while bytes.len() < len {
            self.left = self.next();
            bytes.extend_from_slice(&self.left.to_le_bytes());
        }
        self.left_bytes = bytes.len() - len;
        bytes.truncate(len);
        bytes
    }
}

/// The payload number `seed` of this length.
pub fn payload(seed: usize, len: usize) -> Vec<u8> {
    Random::new(seed as u64).bytes(len)
}
