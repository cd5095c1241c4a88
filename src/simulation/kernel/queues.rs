//! The submission queue, the operations in flight, and the completion queue.

use std::collections::VecDeque;

use io_uring::opcode;

use super::{Cqe, InFlight, Kernel, Object, Operation, Order, is_fixed, uses_file};
use crate::simulation::abi::{F_MORE, Message, SKIP_SUCCESS, Sqe};

impl Kernel {
    // The submission queue.

    /// False if the queue is full.
    pub(in crate::simulation) fn push(&mut self, sqe: Sqe, turn: u64) -> bool {
        if self.queued.len() >= self.queue_room {
            return false;
        }
        self.sync();
        let object = uses_file(&sqe).then(|| {
            let file = self.file_of(&sqe);
            let registered = is_fixed(&sqe) || matches!(file, Some(Object::Stream(_)));
            assert!(registered, "all files are registered, but those that are received from to try it");
            file.unwrap_or_else(|| panic!("an operation on file {}, which is closed: {sqe:?}", sqe.fd))
        });
        let message = sqe.message();
        let operation = Operation { sqe, object, message, cancelled: false, turn };
        for memory in operation.memory() {
            self.groups.values().for_each(|group| group.check(&memory));
        }
        self.queued.push_back(operation);
        true
    }

    /// What the file of an operation is now.
    fn file_of(&self, sqe: &Sqe) -> Option<Object> {
        if is_fixed(sqe) {
            self.files.get(sqe.fd as usize).copied().flatten()
        } else {
            self.fds.get(&sqe.fd).copied()
        }
    }

    pub(crate) fn has_queued(&self) -> bool {
        !self.queued.is_empty()
    }

    pub(crate) fn has_work(&self) -> bool {
        !self.queued.is_empty() || !self.completed.is_empty()
    }

    /// The next operation that is submitted, its file looked up.
    pub(in crate::simulation) fn next_queued(&mut self) -> Option<Operation> {
        let operation = self.queued.pop_front()?;
        if let Some(object) = operation.object {
            let now = self.file_of(&operation.sqe);
            assert_eq!(now, Some(object), "an operation reaches another file than it was queued for");
        }
        let untouched = operation.message.as_ref().is_none_or(Message::is_untouched);
        assert!(untouched, "a message was changed between its queueing and its submission");
        Some(operation)
    }

    pub(crate) fn queued(&self) -> usize {
        self.queued.len()
    }

    // Operations in flight.

    /// The operation waits.
    pub(in crate::simulation) fn begin(&mut self, operation: Operation) -> InFlight {
        let user_data = operation.sqe.user_data;
        let twice = self.in_flight.iter().flatten().any(|other| other.sqe.user_data == user_data);
        assert!(!twice, "two operations in flight can't be told apart: {user_data:#x}");
        let place = self.free.pop().unwrap_or_else(|| {
            self.in_flight.push(None);
            self.in_flight.len() - 1
        });
        self.in_flight[place] = Some(operation);
        InFlight(place)
    }

    pub(in crate::simulation) fn get(&self, operation: InFlight) -> &Operation {
        self.in_flight[operation.0].as_ref().expect("it is in flight")
    }

    /// The operation ends, or goes on without being in flight for a moment.
    pub(in crate::simulation) fn end(&mut self, operation: InFlight) -> Operation {
        self.free.push(operation.0);
        let operation = self.in_flight[operation.0].take().expect("it is in flight");
        let untouched = operation.message.as_ref().is_none_or(Message::is_control_untouched);
        assert!(untouched, "the control messages of a message in flight were changed");
        operation
    }

    /// Marks the operation that a cancellation means: its object.
    pub(in crate::simulation) fn cancel(&mut self, user_data: u64) -> Option<Object> {
        let target = self.in_flight.iter_mut().flatten().find(|operation| {
            operation.sqe.user_data == user_data && operation.sqe.opcode() != opcode::Shutdown::CODE
        })?;
        target.cancelled = true;
        target.object
    }

    /// Something is in flight on the object.
    pub(in crate::simulation) fn is_busy(&self, object: Object) -> bool {
        self.in_flight.iter().flatten().any(|operation| operation.object == Some(object))
    }

    // The completion queue.

    /// Operations are submitted from now on, until [`Self::end_submission`].
    pub(in crate::simulation) fn begin_submission(&mut self) {
        self.submitting = true;
    }

    pub(in crate::simulation) fn end_submission(&mut self) {
        (self.submitting, self.found_full) = (false, false);
        self.post_ended();
    }

    /// An operation is done.
    pub(in crate::simulation) fn complete(&mut self, sqe: &Sqe, result: i32, flags: u32) {
        self.steps += 1;
        if sqe.flags & SKIP_SUCCESS != 0 && result >= 0 {
            return;
        }
        if self.submitting {
            self.ended.push((sqe.user_data, result, flags));
        } else {
            self.post((sqe.user_data, result, flags));
        }
    }

    /// A multishot has a result. False if it has ended with that, since there was no room for it.
    pub(in crate::simulation) fn complete_more(&mut self, sqe: &Sqe, result: i32, flags: u32) -> bool {
        if !matches!(self.order, Order::Late | Order::LateUnseen) {
            self.post_ended();
        }
        let full = self.found_full || self.is_full() || self.chance.happens(self.faults.overflow);
        if full {
            self.found_full = self.submitting;
            self.complete(sqe, result, flags);
        } else {
            self.steps += 1;
            self.post((sqe.user_data, result, flags | F_MORE));
        }
        !full
    }

    /// This is the trial: a kernel that wants to pass it knows.
    pub(in crate::simulation) fn is_tried(&mut self) {
        if self.order == Order::LateUnseen {
            self.post_ended();
        }
    }

    fn is_full(&self) -> bool {
        self.completed.len() >= self.completed_room || !self.overflown.is_empty()
    }

    fn post(&mut self, completion: Cqe) {
        let queue = if self.is_full() { &mut self.overflown } else { &mut self.completed };
        queue.push_back(completion);
    }

    fn post_ended(&mut self) {
        let mut ended = std::mem::take(&mut self.ended);
        if self.order == Order::LastFirst {
            ended.reverse();
        }
        for completion in ended {
            self.post(completion);
        }
    }

    /// What has completed since there were so many was woken together.
    pub(in crate::simulation) fn woken_since(&mut self, completed: usize) {
        if self.order == Order::WokenLastFirst {
            self.completed.make_contiguous()[completed..].reverse();
        }
    }

    /// What found no room goes into the queue, as far as there is room now.
    pub(in crate::simulation) fn flush_overflown(&mut self) {
        while self.completed.len() < self.completed_room
            && let Some(completion) = self.overflown.pop_front()
        {
            self.completed.push_back(completion);
        }
    }

    /// Something was completed that the process has not taken out.
    pub(crate) fn has_completed(&self) -> bool {
        !self.completed.is_empty() || !self.overflown.is_empty()
    }

    pub(in crate::simulation) fn completed(&self) -> usize {
        self.completed.len()
    }

    pub(in crate::simulation) fn reap(&mut self) -> VecDeque<Cqe> {
        std::mem::take(&mut self.completed)
    }
}
