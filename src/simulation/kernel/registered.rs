//! What the process has registered with the ring: files and buffers.

use std::io;
use std::os::fd::RawFd;

use super::{Kernel, Object, is_fixed};
use crate::kernel::ring::RingConfig;
use crate::simulation::abi::{self, Entries};
use crate::simulation::buffers::Group;

impl Kernel {
    pub(crate) fn set_up(&mut self, config: &RingConfig) {
        assert!(config.submission_entries.is_power_of_two() && config.completion_entries.is_power_of_two());
        assert!(self.files.is_empty(), "one ring in each world");
    }

    pub(crate) fn register_files(&mut self, files: u32) {
        self.files = vec![None; files as usize];
        self.direct = 0..files as usize;
    }

    pub(crate) fn update_file(&mut self, file: usize, fd: RawFd) -> io::Result<()> {
        let object = if fd < 0 {
            None
        } else if self.chance.happens(self.faults.bind) && matches!(self.fds[&fd], Object::Reply(_)) {
            self.ledger.count("udp_reply_socket_no_memory", 1);
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        } else {
            Some(self.fds[&fd])
        };
        let queued = self.queued.iter().any(|queued| is_fixed(&queued.sqe) && queued.sqe.fd == file as i32);
        assert!(!queued, "file {file} changes under an operation that is queued for it");
        self.files[file] = object;
        self.ledger.count("udp_reply_sockets_made", matches!(object, Some(Object::Reply(_))).into());
        Ok(())
    }

    pub(crate) fn allocate_files(&mut self, first: usize, count: usize) {
        assert!(first + count <= self.files.len());
        self.direct = first..first + count;
    }

    pub(in crate::simulation) fn unregister_files(&mut self) -> Vec<Object> {
        self.files.iter_mut().filter_map(Option::take).collect()
    }

    pub(crate) fn register_buffers(&mut self, entries: Entries, group: u16, flags: u16) -> io::Result<()> {
        let incremental = flags & abi::PBUF_RING_INC != 0;
        if incremental && !self.incremental {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let before = self.groups.insert(group, Group::new(group, entries, incremental));
        assert!(before.is_none(), "group {group} exists");
        Ok(())
    }

    pub(crate) fn unregister_buffers(&mut self, group: u16) {
        let in_use = self.in_flight.iter().flatten().chain(&self.queued).any(|operation| {
            operation.sqe.flags & abi::BUFFER_SELECT != 0 && operation.sqe.buf_group == group
        });
        assert!(!in_use, "a group of buffers is taken from under a receive");
        self.groups.remove(&group).expect("the group is registered");
    }

    /// A descriptor of the process is this object.
    pub(in crate::simulation) fn open(&mut self, fd: RawFd, object: Object) {
        self.fds.insert(fd, object);
    }

    pub(in crate::simulation) fn object(&self, fd: RawFd) -> Object {
        self.fds[&fd]
    }

    pub(in crate::simulation) fn files(&self) -> impl Iterator<Item = Object> {
        self.files.iter().filter_map(|file| *file)
    }

    /// Puts a new connection into the table of files, if there is room.
    pub(in crate::simulation) fn install(&mut self, object: Object) -> Option<usize> {
        let free: Vec<_> = self.direct.clone().filter(|&file| self.files[file].is_none()).take(64).collect();
        let file = *free.get(self.chance.below(free.len().max(1)))?;
        self.files[file] = Some(object);
        Some(file)
    }

    /// Empties a place in the table of files; what it was.
    pub(in crate::simulation) fn close_file(&mut self, file: usize) -> Option<Object> {
        self.files[file].take()
    }
}
