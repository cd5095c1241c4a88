//! How a ring knows its files: registered in a table of its own, or as descriptors of the process.
//!
//! A registered file saves the kernel a look-up for each operation, and a direct descriptor shows in nobody's
//! table. But before Linux 6.13 a file that is taken out of the table stays open until every operation has ended
//! that began before, on whichever file: with multishots that never end, a connection never gets our FIN, a port
//! is never free, and no socket is ever freed. There a ring works with ordinary descriptors.

#![allow(unsafe_code)]

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use io_uring::types::Fixed;
use io_uring::{IoUring, opcode};

use super::File;

/// How rings know their files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileTable {
    /// In a table of their own; connections are direct descriptors.
    Registered,
    /// In the process's.
    Ordinary,
}

impl FileTable {
    /// The better one that works with this kernel, found by trying it: without streams to try it with, the one that
    /// works with every kernel. Where the kernel refuses more than that, it says so when a ring is made.
    pub fn best() -> Self {
        let late = match closes_at_once() {
            Ok(at_once) => !at_once,
            // the kernel has no such table
            Err(error) => error.raw_os_error() == Some(libc::EINVAL),
        };
        if late { Self::Ordinary } else { Self::Registered }
    }
}

/// Whether a file that is taken out of a table is closed although an operation on another one waits.
fn closes_at_once() -> io::Result<bool> {
    const WAITS: u32 = 0;
    const CLOSED: u32 = 1;
    // whoever needs a ring tells better why there is none
    let Ok(mut ring) = IoUring::new(4) else { return Ok(true) };
    // what can't be tried is not hoped for
    let (Ok((waits, _other_end)), Ok((closed, mut seen))) = (UnixStream::pair(), UnixStream::pair()) else {
        return Ok(false);
    };
    seen.set_nonblocking(true)?;
    ring.submitter().register_files_sparse(2)?;
    ring.submitter().register_files_update(WAITS, &[waits.as_raw_fd(), closed.as_raw_fd()])?;
    drop(closed);
    let poll = opcode::PollAdd::new(Fixed(WAITS), libc::POLLIN as u32).build();
    // SAFETY: a poll points at no memory
    unsafe { ring.submission().push(&poll).map_err(io::Error::other)? };
    ring.submit()?;
    ring.submitter().register_files_update(CLOSED, &[-1])?;
    match seen.read(&mut [0]) {
        Ok(0) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::EPROTO)),
        Err(error) => Err(error),
    }
}

/// A file of a ring with ordinary descriptors.
enum Descriptor {
    /// Somebody else has it, too.
    Shared(Arc<dyn AsFd + Send + Sync>),
    /// The ring's own.
    Owned(OwnedFd),
}

/// The files of a ring with ordinary descriptors, by number.
pub(super) struct Descriptors {
    by_file: Vec<Option<Descriptor>>,
    /// Numbers for connections.
    free: Vec<u32>,
}

impl Descriptors {
    pub(super) fn new(files: u32) -> Self {
        Self { by_file: (0..files).map(|_| None).collect(), free: Vec::new() }
    }

    /// Connections get numbers from `first` on.
    pub(super) fn allocate(&mut self, first: File, count: u32) {
        self.free = (first.0..first.0 + count).rev().collect();
    }

    /// The descriptor of a file; -1, which no operation works on, if there is none.
    pub(super) fn get(&self, file: File) -> RawFd {
        match &self.by_file[file.0 as usize] {
            Some(Descriptor::Shared(fd)) => fd.as_fd().as_raw_fd(),
            Some(Descriptor::Owned(fd)) => fd.as_raw_fd(),
            None => -1,
        }
    }

    /// The descriptor of one of the ring's own files.
    pub(super) fn borrow(&self, file: File) -> Option<BorrowedFd<'_>> {
        match &self.by_file[file.0 as usize] {
            Some(Descriptor::Owned(fd)) => Some(fd.as_fd()),
            _ => None,
        }
    }

    pub(super) fn share(&mut self, file: File, fd: Arc<dyn AsFd + Send + Sync>) {
        self.by_file[file.0 as usize] = Some(Descriptor::Shared(fd));
    }

    pub(super) fn give(&mut self, file: File, fd: OwnedFd) {
        self.by_file[file.0 as usize] = Some(Descriptor::Owned(fd));
    }

    /// Takes in the descriptor that an accept brought; closes it if there is no number for it.
    ///
    /// # Safety
    ///
    /// The descriptor is open, and nobody else's.
    pub(super) unsafe fn take_in(&mut self, fd: RawFd) -> Option<File> {
        // SAFETY: the caller's promise
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let file = File(self.free.pop()?);
        self.give(file, fd);
        Some(file)
    }

    /// Forgets a file; one of the ring's own is closed.
    pub(super) fn remove(&mut self, file: File) {
        self.by_file[file.0 as usize] = None;
    }

    /// Gives up a connection's descriptor, for an operation that closes it; its number is free again.
    pub(super) fn give_up(&mut self, file: File) -> RawFd {
        match self.by_file[file.0 as usize].take() {
            Some(Descriptor::Owned(fd)) => {
                self.free.push(file.0);
                fd.into_raw_fd()
            }
            _ => -1,
        }
    }

    pub(super) fn clear(&mut self) {
        self.by_file.fill_with(|| None);
    }
}

/// Ordinary descriptors of files that are registered, too, by number.
#[derive(Default)]
pub(super) struct Installed {
    by_file: Vec<Option<OwnedFd>>,
}

impl Installed {
    pub(super) fn give(&mut self, file: File, fd: OwnedFd) {
        let index = file.0 as usize;
        if index >= self.by_file.len() {
            self.by_file.resize_with(index + 1, || None);
        }
        self.by_file[index] = Some(fd);
    }

    pub(super) fn borrow(&self, file: File) -> Option<BorrowedFd<'_>> {
        self.by_file.get(file.0 as usize)?.as_ref().map(AsFd::as_fd)
    }

    /// Closes the descriptor of a file, if it has one.
    pub(super) fn remove(&mut self, file: File) {
        if let Some(fd) = self.by_file.get_mut(file.0 as usize) {
            *fd = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_used_again_and_a_descriptor_is_closed_once() {
        let mut files = Descriptors::new(4);
        files.allocate(File(2), 2);
        let pairs: Vec<_> = (0..3).map(|_| UnixStream::pair().unwrap()).collect();
        let (ours, mut theirs): (Vec<OwnedFd>, Vec<_>) =
            pairs.into_iter().map(|(ours, theirs)| (OwnedFd::from(ours), theirs)).unzip();
        let numbers: Vec<_> = ours
            .into_iter()
            // SAFETY: each is open, and given away here
            .map(|fd| unsafe { files.take_in(fd.into_raw_fd()) })
            .collect();
        assert_eq!(numbers, [Some(File(2)), Some(File(3)), None]);
        let mut is_closed = |number: usize| {
            theirs[number].set_nonblocking(true).unwrap();
            theirs[number].read(&mut [0]).is_ok_and(|bytes| bytes == 0)
        };
        assert_eq!([is_closed(0), is_closed(1), is_closed(2)], [false, false, true]);
        files.remove(File(3));
        assert_eq!([is_closed(0), is_closed(1)], [false, true]);
        assert_eq!(files.get(File(3)), -1);
        let fd = files.give_up(File(2));
        assert!(!is_closed(0) && fd >= 0, "whoever has it closes it");
        // SAFETY: it was given up, to us
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
        assert!(is_closed(0));
    }
}
