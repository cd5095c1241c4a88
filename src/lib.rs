//! The house of `tubular-echo`: a TCP and UDP echo server on `io_uring` that answers from the very
//! address that was asked, and the floor that its load tester `blaster` stands on too.
//!
//! ```text
//! floor 3  the life        main.rs    options, log, exit code
//!                          server.rs  bind → arm → ready → serve → drain
//!                          notify.rs  what the service manager hears
//! floor 2  the datapaths   worker.rs  one turn of the ring
//!                          udp.rs     datagram in → reply out        tcp.rs  stream in → stream out
//! floor 1  kernel objects  sockets.rs listening sockets              stats.rs  counters
//!                          ring.rs    one ring; ring/{token, buffers, message}.rs
//! floor 0  libc, once      sys.rs     system calls and socket addresses
//!                          cmsg.rs    control messages
//! beside                   src/bin/blaster/  the load tester: uses ring, sys and cmsg only
//! ```
//!
//! Arrows point down only. Each dependency has one door: `io_uring` in `ring`, `sd_notify` in
//! `notify`, `libc` on floor 0 and in `ring`.
//!
//! `unsafe` lives in `sys`, `cmsg`, `ring` and its rooms; the lint denies it everywhere else.

pub mod addr;
pub mod cmsg;
pub mod ring;
pub mod sys;
