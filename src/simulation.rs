//! The datapaths in a simulated world: the kernel's side of the ring, the network and its people, all from
//! one seed, so that whatever goes wrong once goes wrong again.
//!
//! ```text
//! worker.rs udp.rs tcp.rs …  the real code: it does not know
//!        │ operations          ▲ completions
//!        ▼                     │
//! uring.rs                   the door: to the kernel, or to here
//!        │
//! world.rs     what happens next
//!   calls.rs     system calls                             enter.rs    io_uring_enter(2)
//!   checks.rs    what must hold
//! kernel.rs    objects, time, who has something to do
//!   queues.rs    operations, from queue to completion     registered.rs  files and buffers
//! udp.rs       sockets, and a book of who asked what
//!   flow.rs      who asks                                 arrival.rs  what was asked
//! tcp.rs       connections, and what each is owed
//!   accept.rs    listeners                                operations.rs  on connections
//!   bytes.rs     in both directions
//! peer.rs      the other end of a connection            scene.rs    what a world is furnished with
//! streams.rs   streams inside the process               pipes.rs    the worker's pipe
//! chance.rs    dice, and how often what goes wrong      content.rs  bytes that say which they are
//! buffers.rs   who has which buffer                     ledger.rs   what each counter has to say
//! abi.rs       raw memory, read as the kernel does
//! ```
//!
//! The simulated kernel does what the real one may do, at any moment and in any order: receives end, the
//! completion queue is full, sends come short, fail and wait, io_uring_enter(2) is interrupted, what ends by its own
//! submission completes behind what multishots have brought later. It checks
//! at every step that a buffer is in one place only, that no operation is queued on a file that is closed,
//! that what is in flight stays as it is, that each datagram is answered once, by the right address and in
//! order, and each byte of a stream too; and whenever all is quiet that nobody is owed anything, that
//! everything is armed and that the counters tell what has happened.
//!
//! A world belongs to a thread, as a ring does. Whatever asks the kernel for something past the ring asks it (`here.rs`)
//! first, in tests only: `kernel::seam` is the one place that does so.

mod abi;
mod buffers;
mod chance;
mod content;
mod here;
mod kernel;
mod ledger;
mod peer;
mod pipes;
mod scene;
mod streams;
mod tcp;
mod udp;
mod uring;
mod world;

pub(crate) use self::here::ask;
pub(crate) use self::uring::Uring;

mod tests;
