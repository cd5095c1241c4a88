//! Shared by the tests: a server that starts and stops safely, private networks, and clients that check every byte and
//! its source.
//!
//! ```text
//! launch   how a server is started: arguments, user, limits, denied system calls
//! server   a running server: its addresses, its log, its end
//! lines    text that arrives while the test runs: the log, the service manager's messages
//! netns    private network namespaces, and cables between two of them
//! udp      a client of datagrams and trains         tcp   conversations over many connections
//! steer    an sk_lookup dispatcher                  registry     its `register-pid` and `register`
//! steered  a server with all ports of a prefix         forge  datagrams with a forged source
//! holder   a process that holds descriptors         walkthrough  steered addresses, exchanges with them
//! rig      test programs beside a real systemd      tubectl      the stand-in that units name
//! unit     services of a real systemd               stuck        a thread held still from outside
//! random   reproducible payloads                    strace   which thread makes which system call
//! container  a program alone in a directory, under a seccomp profile
//! metrics  scrapes, and a strict reader of them
//! relay    a cable that loses, doubles, swaps and corrupts in exact counts
//! blaster  the load tester beside a test, and its report
//! capture  the headers of all packets that pass           names  names of hosts, and a name server
//! sys      every unsafe system call of the tests
//! ```
#![allow(dead_code, unused_imports, reason = "each test program uses the part that it needs")]
#![allow(unreachable_pub, reason = "`pub` here means: for the tests")]

pub mod blaster;
pub mod capture;
pub mod container;
pub mod forge;
pub mod holder;
pub mod launch;
pub mod lines;
pub mod metrics;
pub mod names;
pub mod netns;
pub mod random;
pub mod registry;
pub mod relay;
pub mod rig;
pub mod server;
pub mod steer;
pub mod steered;
pub mod strace;
pub mod stuck;
pub mod sys;
pub mod tcp;
pub mod tubectl;
pub mod udp;
pub mod unit;
pub mod walkthrough;

pub use launch::Launch;
pub use server::Server;

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// The time limit of a test: far more than any test needs, so that only a hang meets it.
pub const TEST_DEADLINE: Duration = Duration::from_mins(2);

/// The longest wait within a test: for a reply, for the readiness, for the end of a process.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a test's body on a thread of its own, and fails if it has not ended by the deadline. Then it kills the servers
/// that the test has started, and prints their logs.
pub fn bounded(body: impl FnOnce() + Send + 'static) {
    sys::raise_file_limit();
    let name = thread::current().name().unwrap_or("test").to_owned();
    let (done, finished) = mpsc::channel();
    let runner = thread::Builder::new()
        .name(name)
        .spawn(move || {
            body();
            let _ = done.send(());
        })
        .expect("a thread for the test");
    match finished.recv_timeout(TEST_DEADLINE) {
        Ok(()) | Err(RecvTimeoutError::Disconnected) => {
            if let Err(failure) = runner.join() {
                std::panic::resume_unwind(failure);
            }
        }
        Err(RecvTimeoutError::Timeout) => {
            server::kill_all_of(runner.thread().id());
            panic!("the test had not ended after {TEST_DEADLINE:?}");
        }
    }
}

/// Like [`bounded`], in a network namespace that has only the loopback device: every port is free, and the test may change
/// addresses and routes. Needs root.
pub fn private_network(body: impl FnOnce() + Send + 'static) {
    bounded(|| {
        let _own = netns::Netns::unshare();
        body();
    });
}

/// Runs an action for each of these cases at the same time, on threads of their own in the same network. For cases that
/// mostly wait, so that a test takes as long as its longest case.
pub fn side_by_side<T: Send>(cases: impl IntoIterator<Item = T>, action: impl Fn(T) + Sync) {
    let action = &action;
    thread::scope(|scope| {
        for case in cases {
            scope.spawn(move || action(case));
        }
    });
}

/// Waits for a condition by polling it. Returns how long it took.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(10));
    }
    begun.elapsed()
}
