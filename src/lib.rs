//! `tubular-echo`: a TCP and UDP echo server on `io_uring`. Each reply leaves from the address and port that the client
//! contacted. This library is the server; `main.rs` starts it. The load tester `blaster` has a map of its own, in
//! `src/bin/blaster/main.rs`, and uses the lower floors.
//!
//! This file is the map. Each folder is a floor, declared here from the top to the bottom. A module uses only its own
//! floor and those below, and no imports form a circle: `tests/layers.rs` reads this file and all imports.
//!
//! ```text
//! a datagram   kernel::ring ─► echo::udp::socket ─► policy::refuse ─► echo::udp::replies, egress (which way out) ─► kernel::ring
//! a stream     kernel::ring ─► echo::tcp (which connection) ─► echo::tcp::connection, phase (its state) ─► kernel::ring
//! a worker     echo::worker (one turn: submit, wait, collect, hand to udp and tcp)
//! the process  service::run (budget → bind → start → serve → drain)
//! ```
//!
//! | where does … live? | |
//! |---|---|
//! | an option, its help, its default | `service::options`, then `service::config` |
//! | an error before the server is ready | the module of its step; all are listed in `service::error` |
//! | a warning about a loss, said once | `service::first_losses` |
//! | the choice by which socket a datagram's reply leaves | `echo::udp::egress` |
//! | the states of datagrams on their way out | `echo::udp::progress` |
//! | what an errno of an operation means | `policy::errno_policy` |
//! | a counter, its name and help | `policy::counters` |
//! | a system call | `kernel::sys`; of the ring: `kernel::ring` |
//! | the real or the simulated kernel | `kernel::seam`: nothing else in production code knows of tests |
//!
//! Each dependency has one door: `io_uring` in `kernel::ring`, `sd_notify` in `service::notify`, `hyper` in
//! `exposition::http`, `prometheus` in `exposition::families`. `libc` is called in `kernel` only; elsewhere it
//! lends its error numbers. `rustix` and `nix` are called in `kernel::sys` and `kernel::pidfd`, and in blaster.
//!
//! `unsafe` is allowed in the files of `kernel::sys`, `kernel::pidfd` and `kernel::ring` that say so, for one call in
//! `service::metrics` and, in tests, in `simulation::abi` and `simulation::uring`; the lint denies it everywhere else.
//! Outside of the ring and of tests it stands at 16 places: socket options, the error queue, signals and processors
//! beyond what the libraries offer, bpf(2), and descriptors that another process or another thread has opened.

/// The main thread: from the command line to the last line of the log.
pub mod service {
    pub mod budget; // open files → workers, connections, reply sockets
    pub mod config; // the settings
    pub mod error; // why it did not start, or ended early
    pub mod first_losses; // the first loss of each kind, for the log
    mod host; // what the host offers
    pub mod metrics; // Prometheus and health, over HTTP
    pub mod notify; // messages to the service manager
    pub mod options; // the command line
    mod rules; // the settings → which datagrams are answered
    pub mod run; // the server from start to end
    mod schedule; // what is due when
    mod serving; // the main thread once the server is ready
    pub mod signals; // the thread that waits for signals
    pub mod store; // sockets that the service manager keeps
    pub mod threads; // starting a thread
    pub mod workers; // start of the workers, proof that they are armed, their end
}

// `tubular-echo check`: the walk of `tubectl register-pid`, replayed
pub mod check;

// `tubular-echo health`: asks a running server whether it answers
pub mod health;

/// One worker: its ring, and the two datapaths on it.
pub mod echo {
    pub mod files; // which file of the ring is what
    pub mod idle; // a coarse clock for timeouts
    pub mod operation; // the numbers in tokens
    pub mod tcp; // a stream comes in and goes out
    pub mod udp; // a datagram comes in and goes out
    pub mod worker; // one turn of the ring
}

// in tests: another kernel under a worker, all from one seed
#[cfg(test)]
mod simulation;

/// Metrics in Prometheus's text format, over HTTP: of the server and of blaster.
pub mod exposition {
    pub mod families; // names, labels, values → text
    pub mod http; // one thread, few connections
    pub mod process; // process_…
}

/// Listening sockets: which addresses, where the sockets come from, their options.
pub mod sockets {
    pub mod adopt; // sockets that the service manager passed
    pub mod bind; // who gets which address
    pub mod endpoint; // what to listen on
    pub mod error; // why an address can't be served, and the cure
    pub mod keepalive; // when a quiet TCP peer is probed
    pub mod listen_addr; // addresses as people write them
    pub mod listening; // one socket and its options
    pub mod shares; // all sockets, by worker, and their options
}

/// Decisions. Nothing here has a socket or an operation of a ring.
pub mod policy {
    pub mod address_blocks; // which addresses are public
    pub mod counters; // what is counted
    pub mod errno_policy; // what an errno means after the start
    pub mod flow; // client and destination of a datagram
    pub mod gso_refusals; // peers whose path takes no trains
    pub mod limits; // how much one source may have
    pub mod many_hosts; // addresses that stand for many hosts
    pub mod pairs; // addresses and ports that this process answers from
    pub mod rate; // so many per second
    pub mod recent_pairs; // pairs that were answered from lately
    pub mod refuse; // which datagrams are not answered
    mod shared_address; // an address that threads share without a lock
}

/// Lines for people.
pub mod console {
    pub mod help; // a -h that fits a screen
    pub mod printer; // a thread that waits for readers, so that no other has to
    pub mod terminal; // colors
}

/// Linux as safe Rust. Nothing here knows of echo.
pub mod kernel {
    pub mod addr; // socket addresses
    pub mod cmsg; // control messages
    pub mod pause; // time before the next try
    pub mod pidfd; // descriptors of another process
    pub mod pipe; // pages on their way from socket to socket
    pub mod ring; // one io_uring
    pub(crate) mod seam; // the real kernel, or in tests another one
    pub mod sys; // system calls
}

/// Plain values.
pub mod values {
    pub mod counter; // a number with one writer
    pub mod duration; // 500ms, 1h 30m
    pub mod ports; // 5353,8000-8099
}
