//! The house of `tubular-echo`: a TCP and UDP echo server on `io_uring` that answers from the very
//! address that was asked, and the floor that its load tester `blaster` stands on too.
//!
//! ```text
//! floor 3  the life        main.rs    log and exit code           options.rs  the command line
//!                          server.rs  bind → arm → ready → serve → drain
//!                          budget.rs  what the limit of open files allows
//!                          notify.rs  what the service manager hears
//!                          metrics.rs what Prometheus sees; metrics/{families, health, http, process}.rs
//!                          troubles.rs  what the operator hears once
//! floor 2  the datapaths   worker.rs  one turn of the ring
//!                          udp.rs     datagram in → reply out    tcp.rs      stream in → stream out
//!                          udp/socket.rs what is received        tcp/{connection, listener, aside}.rs
//!                          udp/group.rs  what one send carries
//!                          udp/waiting.rs  what waits for room
//!                          udp/drops.rs  what the kernel drops
//!                          reply_sockets.rs  other ports
//! floor 1  kernel objects  sockets.rs listening sockets          stats.rs    counters
//!                          adopt.rs   those that systemd passes
//!                          flow.rs    who asked whom             verdict.rs  errno → what is done
//!                          refuse.rs  what is not answered       pairs.rs    what we answer from
//!                          keepalive.rs  when a quiet peer is asked
//!                          many_hosts.rs  which addresses are not one host's
//!                          idle.rs    a coarse clock             limits.rs   how much one source may have
//!                          pause.rs   before the next try
//!                          ports.rs   sets of ports
//!                          ring.rs    one ring; ring/{token, buffers, files, message,
//!                          name, memory, arena, order, outgoing, poison, poll, restrictions, uring}.rs
//! floor 0  libc, once      sys.rs     system calls               addr.rs     socket addresses
//!                          cmsg.rs    control messages           address_blocks.rs  which addresses are public
//!                          pidfd.rs   another process's descriptors
//! beside                   duration.rs  durations as people write them; listen_addr.rs  addresses; terminal.rs  colors
//! beside                   printer.rs   lines for whoever reads, on a thread of its own
//! beside                   check.rs   the walk of `tubectl register-pid`, replayed: uses floor 0 only
//! beside                   simulation.rs  in tests, another kernel under the worker: all from one seed
//! beside                   src/bin/blaster/  the load tester: uses ring, floor 0 and what is beside only
//! ```
//!
//! Arrows point down only. Each dependency has one door: `io_uring` in `ring`, `sd_notify` in
//! `notify`, `hyper` in `metrics::http`, `prometheus` in `metrics::families`. `libc` is called on floor 0 and in `ring`; elsewhere it lends its error numbers only.
//!
//! `unsafe` lives in `sys`, `pidfd`, `ring` and its rooms, `simulation`'s `abi`; the lint denies it everywhere else.

/// The main thread: from the command line to the last line of the log.
pub mod service {
    pub mod budget;
    pub mod config;
    pub mod error;
    pub mod first_losses;
    pub mod metrics;
    pub mod notify;
    pub mod options;
    mod rules;
    pub mod run;
    mod schedule;
    pub mod signals;
    pub mod store;
    pub mod threads;
    pub mod workers;
}

/// One worker: what comes in by its ring goes out again.
pub mod echo {
    pub mod idle;
    pub mod tcp;
    pub mod udp;
    pub mod worker;
}

pub mod check;
#[cfg(test)]
mod simulation;

/// Decisions, without sockets and without operations of a ring.
pub mod policy {
    pub mod address_blocks;
    pub mod counters;
    pub mod errno_policy;
    pub mod flow;
    pub mod limits;
    pub mod many_hosts;
    pub mod pairs;
    pub mod refuse;
}

/// Listening sockets: which, where from, and their options.
pub mod sockets {
    pub mod adopt;
    pub mod bind;
    pub mod endpoint;
    pub mod error;
    pub mod keepalive;
    pub mod listen_addr;
    pub mod listening;
    pub mod shares;
}

/// Linux as safe Rust. Nothing here knows of echo.
pub mod kernel {
    pub mod addr;
    pub mod cmsg;
    pub mod pause;
    pub mod pidfd;
    pub mod ring;
    pub mod sys;
}

/// Lines for people.
pub mod console {
    pub mod printer;
    pub mod terminal;
}

/// Plain values.
pub mod values {
    pub mod counter;
    pub mod duration;
    pub mod ports;
}
