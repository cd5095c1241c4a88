//! What is sent through the simulated network: bytes that say which they are.
//!
//! One fixed table of pseudo-random bytes; everything is a part of it, so that writing and comparing are
//! single operations on memory.

use std::sync::LazyLock;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Bodies repeat after so many bytes, a prime.
const PERIOD: usize = 65_521;
/// The longest part that can be had at once.
pub(super) const PART_BYTES_MAX: usize = 65_536;
/// Bytes of a datagram that name it. Shorter ones may be alike.
pub(super) const ID_BYTES: usize = 8;

static TABLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut table = vec![0; PERIOD];
    SmallRng::seed_from_u64(1).fill_bytes(&mut table);
    table.extend_from_within(..);
    table.extend_from_within(..PART_BYTES_MAX - PERIOD);
    table
});

fn part(at: u64, bytes: usize) -> &'static [u8] {
    &TABLE[(at % PERIOD as u64) as usize..][..bytes]
}

/// Bytes of a stream, from a place in it on.
pub(super) fn stream(salt: u64, from: u64, bytes: usize) -> &'static [u8] {
    part(salt + from, bytes)
}

/// Appends a datagram of so many bytes. Short ones can't say which they are.
pub(super) fn write_datagram(to: &mut Vec<u8>, id: u64, bytes: usize) {
    if bytes >= ID_BYTES {
        to.extend(id.to_ne_bytes());
        to.extend(part(id * 31, bytes - ID_BYTES));
    } else {
        to.extend(part(id * 31, bytes));
    }
}

/// Whether these are the bytes of that datagram.
pub(super) fn is_datagram(bytes: &[u8], id: u64) -> bool {
    match bytes.split_first_chunk() {
        Some((first, rest)) => u64::from_ne_bytes(*first) == id && rest == part(id * 31, rest.len()),
        None => bytes == part(id * 31, bytes.len()),
    }
}
