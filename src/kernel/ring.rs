//! One `io_uring`: how it is set up, how operations go in, how completions come out.
//!
//! A turn: submit what was queued, wait, copy the completions out. Whoever owns the ring then handles
//! them, which queues new operations; nothing runs from inside the reap.
//!
//! Operations point only at memory that is never unmapped (see [`PinnedBytes`], [`Message`]), so queueing
//! one is safe whatever happens to its result. A ring lives as long as the process.

//!
//! | | |
//! |---|---|
//! | `instance` | the ring: set-up, files, a turn, each operation |
//! | `config`, `completion`, `token`, `error` | what goes in and comes out |
//! | `buffers`, `arena`, `memory` | received bytes, and where they stay until they are sent |
//! | `message`, `outgoing`, `name` | what operations point at |
//! | `identity` | proof of where a completion, a part of a buffer and a chunk come from |
//! | `files` | registered files, or descriptors where those don't work |
//! | `poll`, `order` | when to look before sleeping; whether completions come in order |
//! | `uring`, `restrictions` | the door to the kernel, and what goes through it |

mod arena;
mod buffers;
mod completion;
mod config;
mod error;
mod files;
mod identity;
mod instance;
mod memory;
mod message;
mod name;
mod order;
mod outgoing;
#[cfg(ring_poison)]
mod poison;
mod poll;
mod restrictions;
mod token;
pub(crate) mod uring;

pub use self::arena::{Arena, Chunk};
pub use self::buffers::{BufferConfig, BufferRing, DATAGRAM_HEADER_BYTES, Datagram, ReceivedPart, Unusable};
pub use self::completion::Completion;
pub use self::config::{File, Interval, Patience, RingConfig, Wait};
pub use self::error::{Errno, RingError, Step};
pub use self::files::FileTable;
pub use self::instance::{Quiet, Ring};
pub use self::memory::PinnedBytes;
pub use self::message::{Message, Messages, SEGMENTS_MAX, Transmit};
pub use self::name::PeerName;
pub use self::order::{WholeBuffers, try_order};
pub use self::outgoing::{Addressed, Outgoing};
pub use self::token::Token;

#[cfg(test)]
mod tests;
