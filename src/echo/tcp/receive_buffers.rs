//! The buffers that all connections of a worker receive into, and the connections that wait for one.

use std::collections::VecDeque;

use super::connection::Connection;
use crate::echo::operation::Operation;
use crate::kernel::pause::Failures;
use crate::kernel::ring::{
    BufferConfig, BufferRing, Completion, File, ReceivedPart, Ring, RingError, WholeBuffers, try_order,
};

/// Bytes of an incremental buffer. Large messages lie in it whole, small ones side by side.
pub(super) const INCREMENTAL_BYTES: u32 = 64 << 10;
/// Bytes of a buffer that one receive uses up, however short it is.
const WHOLE_BYTES: u32 = 32 << 10;

/// How many receive buffers a worker has.
#[derive(Clone, Copy, Debug)]
pub struct BufferCounts {
    /// If a buffer is used in parts.
    pub incremental: u16,
    /// If each receive uses up a buffer.
    pub whole: u16,
}

impl Default for BufferCounts {
    /// So many that a turn's messages find room: without a buffer a receive ends, and has to begin again. With half as many
    /// a turn of 1,000 messages of 12,000 bytes takes twice the time, with twice as many nothing gets better.
    fn default() -> Self {
        Self { incremental: 32, whole: 128 }
    }
}

/// Receive buffers of all connections together.
pub(super) struct ReceiveBuffers {
    pub(super) provided: BufferRing,
    whole: Option<WholeBuffers>,
    /// Connections that wait for a buffer, in turn.
    starved: VecDeque<File>,
    /// In this turn a buffer was filled.
    filled: bool,
    /// In this turn a receive found no buffer.
    lacked: bool,
    /// Turns in a row in which receives found no buffer although there were some, and nothing was received.
    failures: Failures,
    /// There were so many of those turns that the next receive waits for a pause.
    paused: bool,
}

impl ReceiveBuffers {
    /// Incremental buffers, if the kernel has them and the trial shows that they are safe, else whole ones. Without
    /// listeners nobody asks. Nothing was queued in the ring before.
    pub(super) fn new(ring: &mut Ring, counts: BufferCounts, has_listeners: bool) -> Result<Self, RingError> {
        let trial = if has_listeners { try_order(ring, Operation::Cancel.alone()) } else { Ok(()) };
        let config = if has_listeners && trial.is_ok() {
            BufferConfig { count: counts.incremental, buffer_bytes: INCREMENTAL_BYTES, incremental: true }
        } else {
            BufferConfig { count: counts.whole, buffer_bytes: WHOLE_BYTES, incremental: false }
        };
        Ok(Self {
            provided: BufferRing::new(ring, config)?,
            whole: trial.err(),
            starved: VecDeque::new(),
            filled: false,
            lacked: false,
            failures: Failures::default(),
            paused: false,
        })
    }

    /// Why each receive uses up a buffer, if it does.
    pub(super) fn whole(&self) -> Option<WholeBuffers> {
        self.whole
    }

    /// Buffers that receives may use now.
    pub(super) fn available(&self) -> u16 {
        if self.paused { 0 } else { self.provided.available() }
    }

    /// A connection can be served from [`Self::next_starved`].
    pub(super) fn has_ready_work(&self) -> bool {
        !self.starved.is_empty() && self.available() > 0
    }

    /// The part of a buffer that a completion brought.
    pub(super) fn take(&mut self, completion: &Completion) -> Option<ReceivedPart> {
        self.provided.take(completion)
    }

    /// A buffer was filled for a connection.
    pub(super) fn filled(&mut self) {
        self.filled = true;
    }

    /// A connection's receive found no buffer.
    pub(super) fn lacked(&mut self) {
        self.lacked = true;
    }

    /// `connection` waits for a buffer.
    pub(super) fn wait(&mut self, file: File, connection: &mut Connection) {
        if !connection.in_lists.starved {
            connection.in_lists.starved = true;
            self.starved.push_back(file);
        }
    }

    /// The connection that has waited longest.
    pub(super) fn next_starved(&mut self) -> Option<File> {
        self.starved.pop_front()
    }

    /// The turn ends. Receives wait for a pause once they have found no buffer, turn after turn, without any reason.
    pub(super) fn judge_turn(&mut self) {
        let (filled, lacked) = (std::mem::take(&mut self.filled), std::mem::take(&mut self.lacked));
        if filled {
            self.failures.forget();
        } else if lacked && self.provided.available() > 0 {
            self.paused |= self.failures.add();
        }
    }

    /// Receives wait for a pause.
    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }

    /// The pause is over.
    pub(super) fn resume(&mut self) {
        self.paused = false;
    }
}
