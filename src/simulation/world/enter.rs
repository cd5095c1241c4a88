//! The queues of the ring, and `io_uring_enter(2)`.

use std::collections::VecDeque;
use std::io;
use std::os::fd::IntoRawFd;
use std::time::Duration;

use io_uring::opcode;

use super::{LINGER, Phase, World};
use crate::kernel::ring::Wait;
use crate::simulation::abi::Sqe;
use crate::simulation::kernel::{Cqe, Object, Operation};
use crate::sockets::listening::AtExit;

/// The longest that the worker waits for what fails again and again.
const PAUSE_MAX: Duration = Duration::from_millis(100);

impl World {
    /// False if the submission queue is full.
    pub(crate) fn push(&mut self, sqe: Sqe) -> bool {
        self.kernel.push(sqe, self.counters.turns.get())
    }

    /// The completions, which the worker handles in its next turn.
    pub(crate) fn reap(&mut self) -> VecDeque<Cqe> {
        let turn = self.counters.turns.get();
        let completions = self.kernel.reap();
        for (user_data, ..) in &completions {
            self.udp.seen(*user_data, turn);
        }
        completions
    }

    pub(crate) fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let failed = |errno| Err(io::Error::from_raw_os_error(errno));
        self.kernel.started |= self.counters.turns.get() > 0;
        self.kernel.turn();
        self.kernel.sync();
        assert!(self.pipe.is_empty(), "the pipe waits for a peer");
        if self.kernel.chance.happens(self.kernel.faults.enter) {
            self.kernel.flush_overflown();
            return failed(self.kernel.chance.pick(&[libc::EINTR, libc::EAGAIN, libc::EBUSY]));
        }
        if self.kernel.persists(|persistent| persistent.enter) {
            return failed(libc::EAGAIN);
        }
        let queued = self.kernel.queued();
        let partial = queued > 0 && self.kernel.chance.happens(self.kernel.faults.partial);
        let count = if partial { self.kernel.chance.below(queued) } else { queued };
        self.kernel.begin_submission();
        for _ in 0..count {
            let operation = self.kernel.next_queued().expect("so many are queued");
            self.submit(operation);
        }
        self.kernel.end_submission();
        // what happens inside the process waits for nobody
        if !self.kernel.chance.one_in(4) {
            let completed = self.kernel.completed();
            self.streams.advance_all(&mut self.kernel);
            self.kernel.woken_since(completed);
        }
        self.kernel.flush_overflown();
        if partial {
            // the kernel does not wait then
            return if count > 0 { Ok(()) } else { failed(libc::EAGAIN) };
        }
        if wait == Wait::No {
            for _ in 0..self.kernel.chance.below(3) {
                self.happen();
            }
            return Ok(());
        }
        let batch = self.kernel.chance.pick(&[1, 1, 4, 40, 300]);
        while self.kernel.completed() < batch {
            if self.kernel.chance.happens(self.kernel.faults.interrupted) {
                return failed(libc::EINTR);
            }
            if self.happen() {
                continue;
            }
            if self.kernel.completed() > 0 {
                break;
            }
            // whoever looks again so soon waits for something to pass
            let paused = matches!(wait, Wait::Timeout(timeout) if timeout <= PAUSE_MAX);
            assert!(!paused || self.has_cause_to_pause(), "the worker pauses, and nothing has failed");
            let lingers = self.lingers();
            if !paused && !lingers && self.next_phase() {
                continue;
            }
            let end = match wait {
                Wait::Timeout(timeout) => self.kernel.now + timeout,
                _ if self.kernel.has_timers() => Duration::MAX,
                _ if lingers => self.kernel.now + LINGER,
                _ => panic!("the worker sleeps for ever: {:?}", self.phase),
            };
            self.kernel.doze();
            if !self.kernel.sleep(end) {
                return failed(libc::ETIME);
            }
        }
        Ok(())
    }

    /// Something may have failed, or has to be looked at now and then.
    fn has_cause_to_pause(&self) -> bool {
        let faults = &self.kernel.faults;
        let fails = faults.receive > 0 || faults.passing > 0 || faults.persistent.lasts();
        let mut endpoints = self.scene.udp.iter().chain(&self.scene.tcp);
        fails || self.phase == Phase::Draining || endpoints.any(|endpoint| endpoint.at_exit == AtExit::Retire)
    }

    /// An operation begins.
    fn submit(&mut self, operation: Operation) {
        let Self { kernel, udp, tcp, streams, .. } = self;
        match (operation.sqe.opcode(), operation.object) {
            (opcode::RecvMsgMulti::CODE, Some(Object::Udp(socket))) => udp.receive(socket, operation, kernel),
            (opcode::SendMsg::CODE, Some(from @ (Object::Udp(_) | Object::Reply(_)))) => {
                udp.send(from, operation, kernel);
            }
            (opcode::AcceptMulti::CODE, Some(Object::Listener(listener))) => {
                tcp.accept(listener, operation, kernel);
            }
            (opcode::Recv::CODE, Some(Object::Connection(connection))) => {
                tcp.receive(connection, operation, kernel);
            }
            (opcode::FixedFdInstall::CODE, Some(connection @ Object::Connection(_))) => {
                self.install(connection, &operation.sqe);
            }
            (opcode::Recv::CODE, Some(Object::Stream(stream))) => {
                streams.receive(stream, operation, kernel);
            }
            (opcode::Send::CODE, Some(Object::Connection(connection))) => {
                tcp.send(connection, operation, kernel);
            }
            (opcode::PollAdd::CODE, Some(Object::Connection(connection))) => {
                tcp.poll(connection, operation, kernel);
            }
            (opcode::Shutdown::CODE, Some(Object::Connection(connection))) => {
                tcp.shut_down(connection, operation, kernel);
            }
            (opcode::Close::CODE, None) => {
                let file = operation.sqe.file_index as usize - 1;
                match kernel.close_file(file) {
                    Some(Object::Connection(connection)) => {
                        let busy = kernel.is_busy(Object::Connection(connection));
                        assert!(!busy, "connection {connection} is closed under an operation");
                        tcp.close(connection, kernel);
                    }
                    other => panic!("file {file} is closed, but it is {other:?}"),
                }
                kernel.complete(&operation.sqe, 0, 0);
            }
            (opcode::AsyncCancel::CODE, None) => {
                let object = kernel.cancel(operation.sqe.addr());
                if let Some(object) = object {
                    kernel.activate(object);
                }
                match object {
                    Some(Object::Listener(listener)) => tcp.check_leaving(listener),
                    Some(Object::Connection(connection)) => tcp.check_stopped(connection),
                    _ => {}
                }
                let result = if object.is_some() { 0 } else { -libc::ENOENT };
                kernel.complete(&operation.sqe, result, 0);
            }
            (opcode::Timeout::CODE, None) if kernel.persists(|persistent| persistent.timer) => {
                kernel.complete(&operation.sqe, -libc::ENOMEM, 0);
            }
            (opcode::Timeout::CODE, None) => kernel.begin_timer(operation),
            (opcode::PollAdd::CODE, Some(Object::Wake)) if kernel.persists(|persistent| persistent.poll) => {
                kernel.complete(&operation.sqe, -libc::ENOMEM, 0);
            }
            (opcode::PollAdd::CODE, Some(Object::Wake)) => {
                self.wake_poll = Some(kernel.begin(operation));
                if self.woken {
                    kernel.activate(Object::Wake);
                }
            }
            (code, object) => panic!("operation {code} on {object:?} is not simulated"),
        }
    }

    /// An ordinary descriptor is made of a connection, if there is one to be had.
    fn install(&mut self, connection: Object, sqe: &Sqe) {
        let result = if self.kernel.chance.happens(self.kernel.faults.bind) {
            self.kernel.ledger.count("tcp_no_descriptors", 1);
            -self.kernel.chance.pick(&[libc::EMFILE, libc::ENFILE, libc::ENOMEM])
        } else {
            self.descriptor(connection).into_raw_fd()
        };
        self.kernel.complete(sqe, result, 0);
    }
}
