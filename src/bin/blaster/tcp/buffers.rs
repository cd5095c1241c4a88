//! The memory of a worker's ring: slots for what goes out, buffers for what comes.

use tubular_echo::kernel::ring::{BufferRing, Errno, Outgoing};

use crate::tcp::calls::Queue;

/// The most sends of a turn. More would only delay each other.
pub(super) const SLOTS: u32 = 64;
/// The most bytes of a send.
pub(super) const SLOT_BYTES: u32 = 64 << 10;
/// Provided buffers. The kernel reports when they run out, so any number is correct.
pub(super) const BUFFERS: u16 = 256;
/// Bytes of a provided buffer.
pub(super) const BUFFER_BYTES: u32 = 64 << 10;

/// The bytes in an outgoing slot.
pub(super) struct SlotUse {
    pub(super) place: u32,
    pub(super) bytes: u32,
    /// How many of them the kernel has taken.
    pub(super) taken: Result<u32, Errno>,
}

pub(super) struct Sending {
    pub(super) slots: Outgoing,
    /// The bytes in the slots of this turn, by slot.
    pub(super) in_slots: Vec<SlotUse>,
    /// The places of connections that have something to send, and room.
    pub(super) ready: Queue,
}

pub(super) struct Receiving {
    pub(super) buffers: BufferRing,
    /// The places of connections whose multishot receive has ended, or not begun.
    pub(super) unarmed: Vec<u32>,
}

impl Sending {
    pub(super) fn new(slots: Outgoing) -> Self {
        Self { slots, in_slots: Vec::with_capacity(SLOTS as usize), ready: Queue::new() }
    }

    /// Whether a connection has something to send, and room.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Gives the memory back to the system.
    pub(super) fn give_back(&mut self) {
        self.slots.give_back();
    }
}
