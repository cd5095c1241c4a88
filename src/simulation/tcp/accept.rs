//! Accepting: what a listener's queue brings, and when it may rest.

use std::time::Duration;

use super::{Listener, Tcp};
use crate::kernel::addr::RawAddr;
use crate::kernel::pause::FAILURES_MAX;
use crate::simulation::abi::{self, FILE_INDEX_ALLOC};
use crate::simulation::kernel::{Kernel, Object, Operation};

/// Accepting rests so long after it failed for want of a descriptor or of memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl Tcp {
    /// An ACCEPT is submitted, multishot or not.
    pub(in crate::simulation) fn accept(
        &mut self,
        listener: usize,
        operation: Operation,
        kernel: &mut Kernel,
    ) {
        assert_eq!(operation.sqe.file_index, FILE_INDEX_ALLOC, "connections are direct descriptors");
        assert!(self.listeners[listener].accept.is_none(), "a listener is armed twice");
        // several share one pause; at the end of the process nobody waits for it
        let Listener { rests_until, filtered, .. } = self.listeners[listener];
        let waits = self.listeners.len() == 1 && !filtered;
        assert!(
            !waits || kernel.now >= rests_until,
            "what has failed for want of something is tried at once"
        );
        self.listeners[listener].accept = Some(kernel.begin(operation));
        kernel.activate(Object::Listener(listener));
        // what is there comes during the submission, as a rule
        if !kernel.chance.one_in(4) {
            self.advance_listener(listener, kernel);
        }
    }

    /// An ACCEPT is cancelled.
    pub(in crate::simulation) fn check_leaving(&self, listener: usize) {
        let Listener { addr, served, .. } = self.listeners[listener];
        let has_cause = self.held() >= self.limit || self.draining || !served;
        assert!(has_cause, "accepting on {addr} ends below the limit");
    }

    pub(in crate::simulation) fn advance_listener(&mut self, listener: usize, kernel: &mut Kernel) {
        let Some(accept) = self.listeners[listener].accept else { return };
        let sqe = kernel.get(accept).sqe;
        let end = if kernel.get(accept).cancelled {
            Some(-libc::ECANCELED)
        } else if kernel.persists(|persistent| persistent.accept) {
            Some(-kernel.faults.persistent.accept_errno)
        } else if kernel.chance.happens(kernel.faults.receive) {
            Some(-kernel.chance.pick(&[libc::ECONNABORTED, libc::EMFILE, libc::ENOMEM, libc::EPROTO]))
        } else if let Some(connection) = self.listeners[listener].queue.pop_front() {
            kernel.progress();
            match kernel.install(Object::Connection(connection)) {
                None => {
                    // as the kernel does it: taken from the queue, and closed
                    self.connections[connection].closed = true;
                    self.books.refused += 1;
                    Some(-libc::ENFILE)
                }
                Some(file) => {
                    self.connections[connection].accepted = true;
                    self.books.accepted += 1;
                    kernel.ledger.count("tcp_closed_prefix_limit", (sqe.addr() != 0).into());
                    if sqe.addr() != 0 {
                        let name = RawAddr::from(self.connections[connection].peer.addr);
                        assert_eq!(sqe.ioprio & abi::ACCEPT_MULTISHOT, 0, "one place for many names");
                        sqe.write_name(name.as_bytes());
                    }
                    if sqe.ioprio & abi::ACCEPT_MULTISHOT == 0 {
                        Some(file as i32)
                    } else {
                        self.listeners[listener].fruitless = 0;
                        if !kernel.complete_more(&sqe, file as i32, 0) {
                            self.listeners[listener].accept = None;
                            kernel.end(accept);
                        }
                        None
                    }
                }
            }
        } else {
            None
        };
        if let Some(result) = end {
            if result == -libc::ECANCELED {
                let cancelled = kernel.get(accept).cancelled;
                kernel.ledger.count_perhaps("tcp_accept_errors", (!cancelled).into());
            } else {
                kernel.ledger.count("tcp_accept_errors", (result < 0).into());
                if [libc::EMFILE, libc::ENFILE, libc::ENOMEM].contains(&-result) {
                    self.listeners[listener].rests_until = kernel.now + ACCEPT_PAUSE;
                    kernel.ledger.count("tcp_accept_pauses", 1);
                }
            }
            let this = &mut self.listeners[listener];
            this.accept = None;
            this.fruitless = if result < 0 { this.fruitless + 1 } else { 0 };
            kernel.ledger.count("tcp_accept_pauses", (this.fruitless > FAILURES_MAX.into()).into());
            kernel.end(accept);
            kernel.complete(&sqe, result, 0);
        }
        let Listener { queue, accept, .. } = &self.listeners[listener];
        if accept.is_some() && !queue.is_empty() {
            kernel.activate(Object::Listener(listener));
        }
    }
}
