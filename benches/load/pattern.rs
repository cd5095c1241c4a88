//! Bytes to send and to compare with.

/// A pattern long enough for any message at any offset.
pub(super) struct Pattern(Vec<u8>);

impl Pattern {
    /// It repeats after this many bytes, a prime: no message size divides it.
    const PERIOD: usize = 65_521;

    pub(super) fn new() -> Self {
        let mut word = 0x2545_f491_4f6c_dd1d_u64;
        let period: Vec<u8> = (0..Self::PERIOD)
            .map(|_| {
                word ^= word << 13;
                word ^= word >> 7;
                word ^= word << 17;
                word as u8
            })
            .collect();
        Self([&period[..], &period[..], &period[..]].concat())
    }

    /// `bytes` of it (131,042 at most) from any position.
    pub(super) fn at(&self, position: u64, bytes: usize) -> &[u8] {
        let start = (position % Self::PERIOD as u64) as usize;
        &self.0[start..start + bytes]
    }
}
