//! Random numbers that nobody outside can know.

use std::hash::{BuildHasher, RandomState};

use crate::kernel::seam;

/// Words for the key of a hash, new each time. In a simulated world they come from its seed.
pub fn secret_words<const WORDS: usize>() -> [u64; WORDS] {
    let state = RandomState::new();
    std::array::from_fn(|number| seam::secret().unwrap_or_else(|| state.hash_one(number)))
}
