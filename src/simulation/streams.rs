//! Streams inside the process: what is written to one end can be received at the other.

use std::collections::VecDeque;

use super::abi::{self, Sqe};
use super::kernel::{InFlight, Kernel, Object, Operation};

#[derive(Debug, Default)]
struct Stream {
    queue: VecDeque<u8>,
    ended: bool,
    receive: Option<InFlight>,
}

#[derive(Debug, Default)]
pub(super) struct Streams(Vec<Stream>);

impl Streams {
    /// A new stream: the end to receive from, and the other one.
    pub(super) fn open(&mut self) -> (Object, Object) {
        self.0.push(Stream::default());
        let number = self.0.len() - 1;
        (Object::Stream(number), Object::StreamEnd(number))
    }

    pub(super) fn write(&mut self, stream: usize, bytes: &[u8]) {
        self.0[stream].queue.extend(bytes);
    }

    pub(super) fn end(&mut self, stream: usize) {
        self.0[stream].ended = true;
    }

    /// Wakes what waits for something that has come meanwhile, the latest first.
    pub(super) fn advance_all(&mut self, kernel: &mut Kernel) {
        for stream in (0..self.0.len()).rev() {
            self.advance(stream, kernel);
        }
    }

    /// A RECV is submitted, multishot or not.
    pub(super) fn receive(&mut self, stream: usize, operation: Operation, kernel: &mut Kernel) {
        let this = &mut self.0[stream];
        let sqe = operation.sqe;
        assert!(this.receive.is_none(), "two receives on one stream");
        if sqe.ioprio & abi::RECV_MULTISHOT != 0 {
            this.receive = Some(kernel.begin(operation));
            self.advance(stream, kernel);
        } else {
            assert!(operation.is_inline(), "a receive that could end up in a thread of the kernel");
            let (result, flags) = this.take(&sqe, kernel).unwrap_or((-libc::EAGAIN, 0));
            kernel.complete(&sqe, result, flags);
        }
    }

    fn advance(&mut self, stream: usize, kernel: &mut Kernel) {
        let this = &mut self.0[stream];
        while let Some(receive) = this.receive {
            let sqe = kernel.get(receive).sqe;
            let next = if kernel.get(receive).cancelled {
                Some((-libc::ECANCELED, 0))
            } else {
                this.take(&sqe, kernel)
            };
            let ended = match next {
                None => return,
                Some((result @ 1.., flags)) => {
                    kernel.is_tried();
                    !kernel.complete_more(&sqe, result, flags)
                }
                Some((result, flags)) => {
                    kernel.complete(&sqe, result, flags);
                    true
                }
            };
            if ended {
                this.receive = None;
                kernel.end(receive);
            }
        }
    }
}

impl Stream {
    /// What a receive gets, if it doesn't have to wait: result and flags.
    fn take(&mut self, sqe: &Sqe, kernel: &mut Kernel) -> Option<(i32, u32)> {
        kernel.progress();
        let group = kernel.group(sqe.buf_group);
        if self.queue.is_empty() {
            return self.ended.then_some((0, 0));
        } else if group.is_empty() {
            return Some((-libc::ENOBUFS, 0));
        }
        let limit = if sqe.len() == 0 { u32::MAX } else { sqe.len() };
        let bytes = self.queue.len().min(group.room().min(limit) as usize);
        let taken: Vec<u8> = self.queue.drain(..bytes).collect();
        Some((bytes as i32, group.fill(&taken)))
    }
}
