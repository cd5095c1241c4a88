//! Operations on a connection.

use super::Tcp;
use crate::kernel::pause::FAILURES_MAX;
use crate::simulation::abi;
use crate::simulation::kernel::{Kernel, Object, Operation};

/// The fewest bytes whose pages may wait for a peer.
const SPLICED_BYTES_MIN: usize = 16 << 10;

impl Tcp {
    /// An operation that waits on a connection is cancelled.
    pub(in crate::simulation) fn check_stopped(&self, connection: usize) {
        let this = &self.connections[connection];
        let restrained = this.stalled || this.has_streamed;
        let ends = this.fin || this.broken || this.owed.is_some() || this.fruitless > FAILURES_MAX.into();
        let has_cause = restrained || ends || self.may_close_idle;
        assert!(has_cause, "connection {connection} is kept from sending");
    }

    /// A RECV is submitted, multishot or not.
    pub(in crate::simulation) fn receive(
        &mut self,
        connection: usize,
        operation: Operation,
        kernel: &mut Kernel,
    ) {
        self.connections[connection].served = true;
        let served = self.connections.iter().filter(|this| this.served && !this.closed).count();
        assert!(served <= self.limit || self.draining, "{served} connections are served");
        let this = &mut self.connections[connection];
        let sqe = operation.sqe;
        assert!(sqe.flags & abi::BUFFER_SELECT != 0, "received into provided buffers");
        assert!(this.receive.is_none(), "two receives on one connection");
        let all_out = this.received == this.echoed || this.finished;
        assert!(all_out, "more is received before what was received is out");
        let multishot = sqe.ioprio & abi::RECV_MULTISHOT != 0;
        this.multishot = multishot;
        assert!(!multishot || !this.nonblocking, "a multishot that ends when there is nothing");
        assert!(multishot || operation.is_inline(), "a receive that could end up in a thread of the kernel");
        assert!(multishot != this.streams || this.owed.is_some(), "much at a time: {}", this.streams);
        if kernel.group(sqe.buf_group).is_empty() {
            kernel.ledger.count("tcp_no_buffers", 1);
            kernel.complete(&sqe, -libc::ENOBUFS, 0);
        } else if multishot {
            this.receive = Some(kernel.begin(operation));
            kernel.activate(Object::Connection(connection));
            while !kernel.chance.one_in(4) && self.connections[connection].receive.is_some() {
                self.advance(connection, kernel);
            }
        } else if kernel.persists(|persistent| persistent.stream) {
            let result = this.fail(kernel);
            kernel.complete(&sqe, result, 0);
        } else {
            let (result, flags) = this.take(&sqe, kernel).unwrap_or_else(|| {
                this.count_fruitless(kernel);
                (-libc::EAGAIN, 0)
            });
            kernel.complete(&sqe, result, flags);
            kernel.activate(Object::Peer(connection));
        }
    }

    /// A SEND is submitted.
    pub(in crate::simulation) fn send(
        &mut self,
        connection: usize,
        operation: Operation,
        kernel: &mut Kernel,
    ) {
        let this = &mut self.connections[connection];
        assert!(this.shutdown.is_none(), "a send behind a FIN");
        assert!(!this.finished, "bytes behind our FIN");
        assert!(operation.is_inline(), "a send that could end up in a thread of the kernel");
        // who can't wait for room has to try
        let waits = kernel.faults.persistent.poll.is_zero();
        assert!(!this.full || !waits, "a send that can only find no room");
        let sqe = operation.sqe;
        let send = kernel.begin(operation);
        let result = this.give(&sqe.sent(sqe.len() as usize), kernel, &mut self.books).unwrap_or_else(|| {
            this.untold |= libc::POLLOUT;
            this.full = true;
            -libc::EAGAIN
        });
        let stalls = result < sqe.len() as i32;
        kernel.ledger.count("tcp_stalls", stalls.into());
        this.stalled |= stalls;
        kernel.end(send);
        kernel.complete(&sqe, result, 0);
        kernel.activate(Object::Peer(connection));
        kernel.activate(Object::Connection(connection));
    }

    /// Bytes are moved to a pipe. Fails with an errno.
    pub(in crate::simulation) fn splice_in(
        &mut self,
        connection: usize,
        bytes_max: usize,
        kernel: &mut Kernel,
    ) -> Result<Vec<u8>, i32> {
        let this = &mut self.connections[connection];
        assert!(this.nonblocking, "a splice that waits for a peer");
        assert!(this.receive.is_none() && this.readable.is_none(), "a receive could be overtaken");
        assert!(this.received == this.echoed, "more is received before what was received is out");
        if kernel.chance.happens(kernel.faults.passing) {
            // before urgent data it says that it is at the end
            return kernel.chance.pick(&[Err(libc::EINTR), Err(libc::EAGAIN), Ok(())]).map(|()| Vec::new());
        }
        let there = (this.sent - this.received) as usize;
        if there > 0 {
            let bytes = this.bring(there.min(bytes_max), kernel);
            kernel.activate(Object::Peer(connection));
            return Ok(bytes);
        }
        if let Some(errno) = this.error.take() {
            this.told = true;
            kernel.ledger.count_told(errno);
            return Err(errno);
        }
        if this.fin || this.broken { Ok(Vec::new()) } else { Err(libc::EAGAIN) }
    }

    /// Bytes are moved from a pipe. Returns how many, or an errno.
    pub(in crate::simulation) fn splice_out(
        &mut self,
        connection: usize,
        bytes: &[u8],
        kernel: &mut Kernel,
    ) -> Result<usize, i32> {
        let this = &mut self.connections[connection];
        assert!(this.nonblocking, "a splice that waits for a peer");
        assert!(bytes.len() >= SPLICED_BYTES_MIN || this.splices, "the pages of few bytes wait for a peer");
        assert!(this.shutdown.is_none() && !this.finished, "bytes behind our FIN");
        let result = this.give(bytes, kernel, &mut self.books).unwrap_or_else(|| {
            this.untold |= libc::POLLOUT;
            this.full = true;
            -libc::EAGAIN
        });
        let stalls = result < bytes.len() as i32;
        kernel.ledger.count("tcp_stalls", stalls.into());
        kernel.ledger.count("tcp_bytes_spliced", result.max(0) as u64);
        this.stalled |= stalls;
        // the rest of what was spliced
        this.splices = stalls && result > 0;
        kernel.activate(Object::Peer(connection));
        kernel.activate(Object::Connection(connection));
        usize::try_from(result).map_err(|_| -result)
    }

    /// A POLL_ADD is submitted: once for bytes, or for room as long as it goes.
    pub(in crate::simulation) fn poll(
        &mut self,
        connection: usize,
        operation: Operation,
        kernel: &mut Kernel,
    ) {
        let this = &mut self.connections[connection];
        let multishot = operation.sqe.len() & abi::POLL_ADD_MULTI != 0;
        let events = operation.sqe.op_flags as i16;
        if events == libc::POLLOUT && kernel.persists(|persistent| persistent.poll) {
            kernel.complete(&operation.sqe, -libc::ENOMEM, 0);
            return;
        }
        let poll = kernel.begin(operation);
        let place = if events == libc::POLLIN {
            assert!(!multishot && this.receive.is_none(), "bytes are waited for twice");
            &mut this.readable
        } else {
            assert_eq!((multishot, events), (true, libc::POLLOUT), "it would spin behind the peer's FIN");
            this.untold = libc::POLLOUT | libc::POLLRDHUP | libc::POLLHUP;
            &mut this.writable
        };
        assert!(place.replace(poll).is_none(), "polled twice");
        kernel.activate(Object::Connection(connection));
        if !kernel.chance.one_in(4) {
            self.advance(connection, kernel);
        }
    }

    /// A SHUTDOWN is submitted, which the kernel's threads carry out.
    pub(in crate::simulation) fn shut_down(
        &mut self,
        connection: usize,
        operation: Operation,
        kernel: &mut Kernel,
    ) {
        assert_eq!(operation.sqe.len(), libc::SHUT_WR as u32);
        let this = &mut self.connections[connection];
        assert!(this.shutdown.is_none(), "a second FIN");
        this.shutdown = Some(kernel.begin(operation));
        kernel.activate(Object::Connection(connection));
    }

    pub(in crate::simulation) fn advance(&mut self, connection: usize, kernel: &mut Kernel) {
        let this = &mut self.connections[connection];
        let mut again = false;
        if let Some(receive) = this.receive {
            let sqe = kernel.get(receive).sqe;
            let end = if kernel.get(receive).cancelled {
                Some((-libc::ECANCELED, 0))
            } else if kernel.chance.happens(kernel.faults.passing) {
                this.count_fruitless(kernel);
                Some((-libc::EINTR, 0))
            } else if kernel.persists(|persistent| persistent.stream) {
                Some((this.fail(kernel), 0))
            } else {
                match this.take(&sqe, kernel) {
                    // of a multishot it is bytes only that it goes on after
                    Some((result @ 1.., flags)) if sqe.ioprio & abi::RECV_MULTISHOT != 0 => {
                        again = kernel.complete_more(&sqe, result, flags);
                        if !again {
                            this.receive = None;
                            kernel.end(receive);
                        }
                        None
                    }
                    other => other,
                }
            };
            if let Some((result, flags)) = end {
                this.receive = None;
                kernel.end(receive);
                kernel.complete(&sqe, result, flags);
            }
        }
        if let Some(poll) = this.readable {
            let result = if kernel.get(poll).cancelled {
                Some(-libc::ECANCELED)
            } else {
                (this.sent > this.received || this.fin || this.broken).then_some(libc::POLLIN.into())
            };
            if let Some(result) = result {
                this.readable = None;
                let operation = kernel.end(poll);
                kernel.complete(&operation.sqe, result, 0);
            }
        }
        this.advance_writable(kernel);
        if let Some(shutdown) = this.shutdown.take() {
            let operation = kernel.end(shutdown);
            let result = if this.broken { -libc::ENOTCONN } else { 0 };
            if this.broken {
                this.told = true;
            } else {
                assert_eq!(this.echoed, this.received, "a FIN before all is echoed");
                assert!(this.received >= this.owed.unwrap_or(0), "a FIN before all is received");
                this.finished = true;
            }
            kernel.complete(&operation.sqe, result, 0);
        }
        if again {
            kernel.activate(Object::Connection(connection));
        }
        kernel.activate(Object::Peer(connection));
    }
}
