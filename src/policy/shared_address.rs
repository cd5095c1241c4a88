//! An address that threads read and write without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::{array, iter};

use crate::policy::flow::Address;

/// An address and port that other threads may read while it is written. A reader may then see parts of two addresses.
#[derive(Debug)]
pub(super) struct SharedAddress([AtomicU64; 3]);

impl SharedAddress {
    /// No address has this family and port.
    const NONE: Address = Address { high: 0, low: 0, port_and_family: u64::MAX };

    pub(super) fn none() -> Self {
        let this = Self(array::from_fn(|_| AtomicU64::default()));
        this.store(&Self::NONE);
        this
    }

    pub(super) fn store(&self, addr: &Address) {
        let Address { high, low, port_and_family } = *addr;
        for (word, value) in iter::zip(&self.0, [high, low, port_and_family]) {
            word.store(value, Ordering::Relaxed);
        }
    }

    pub(super) fn is(&self, addr: &Address) -> bool {
        let Address { high, low, port_and_family } = *addr;
        iter::zip(&self.0, [high, low, port_and_family])
            .all(|(word, value)| word.load(Ordering::Relaxed) == value)
    }
}
