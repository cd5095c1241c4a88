//! The door of a ring with two kernels behind it: the real one, and that of the simulation.

#![allow(unsafe_code)] // the door's own promises, handed on

use std::io;
use std::os::fd::RawFd;

use io_uring::squeue;

use super::abi::{Entries, Sqe};
use super::here::ask as ask_if_any;
use super::world::World;
use crate::kernel::ring::{File, RingConfig, Wait, uring};

/// An instance of `io_uring`, real or simulated.
pub(crate) enum Uring {
    Real(uring::Uring),
    Simulated,
}

fn ask<T>(question: impl FnOnce(&mut World) -> T) -> T {
    ask_if_any(question).expect("the thread of a simulated ring has a world")
}

impl Uring {
    pub(crate) fn new(config: &RingConfig) -> io::Result<Self> {
        match ask_if_any(|world| world.kernel.set_up(config)) {
            Some(()) => Ok(Self::Simulated),
            None => uring::Uring::new(config).map(Self::Real),
        }
    }

    pub(crate) fn register_files(&self, files: u32) -> io::Result<()> {
        match self {
            Self::Real(uring) => uring.register_files(files),
            Self::Simulated => {
                ask(|world| world.kernel.register_files(files));
                Ok(())
            }
        }
    }

    pub(crate) fn update_file(&self, file: File, fd: RawFd) -> io::Result<()> {
        match self {
            Self::Real(uring) => uring.update_file(file, fd),
            Self::Simulated => ask(|world| world.kernel.update_file(file.0 as usize, fd)),
        }
    }

    pub(crate) fn allocate_files(&self, first: File, count: u32) -> io::Result<()> {
        match self {
            Self::Real(uring) => uring.allocate_files(first, count),
            Self::Simulated => {
                ask(|world| world.kernel.allocate_files(first.0 as usize, count as usize));
                Ok(())
            }
        }
    }

    pub(crate) fn unregister_files(&self) -> io::Result<()> {
        match self {
            Self::Real(uring) => uring.unregister_files(),
            Self::Simulated => {
                ask(World::unregister_files);
                Ok(())
            }
        }
    }

    pub(crate) fn enable(&self) -> io::Result<()> {
        match self {
            Self::Real(uring) => uring.enable(),
            Self::Simulated => Ok(()),
        }
    }

    pub(crate) fn installs_descriptors(&self) -> bool {
        match self {
            Self::Real(uring) => uring.installs_descriptors(),
            Self::Simulated => ask(|world| world.kernel.installs),
        }
    }

    pub(crate) fn probe(&self) -> io::Result<()> {
        match self {
            Self::Real(uring) => uring.probe(),
            Self::Simulated => Ok(()),
        }
    }

    pub(crate) fn register_ring_fd(&mut self) -> io::Result<()> {
        match self {
            Self::Real(uring) => uring.register_ring_fd(),
            Self::Simulated => Ok(()),
        }
    }

    /// # Safety
    ///
    /// That of [`uring::Uring::register_buffers`].
    pub(crate) unsafe fn register_buffers(
        &self,
        entries: *mut u8,
        count: u16,
        group: u16,
        flags: u16,
    ) -> io::Result<()> {
        match self {
            // SAFETY: the caller's promise is the same
            Self::Real(uring) => unsafe { uring.register_buffers(entries, count, group, flags) },
            Self::Simulated => {
                // SAFETY: the caller's promise is the same
                let entries = unsafe { Entries::new(entries, count) };
                ask(|world| world.kernel.register_buffers(entries, group, flags))
            }
        }
    }

    pub(crate) fn unregister_buffers(&self, group: u16) -> io::Result<()> {
        match self {
            Self::Real(uring) => uring.unregister_buffers(group),
            Self::Simulated => {
                ask(|world| world.kernel.unregister_buffers(group));
                Ok(())
            }
        }
    }

    /// # Safety
    ///
    /// That of [`uring::Uring::push`].
    pub(crate) unsafe fn push(&mut self, entry: &squeue::Entry) -> bool {
        match self {
            // SAFETY: the caller's promise is the same
            Self::Real(uring) => unsafe { uring.push(entry) },
            Self::Simulated => {
                // SAFETY: the caller's promise is the same
                let sqe = unsafe { Sqe::of(entry) };
                ask(|world| world.push(sqe))
            }
        }
    }

    pub(crate) fn has_queued(&self) -> bool {
        match self {
            Self::Real(uring) => uring.has_queued(),
            Self::Simulated => ask(|world| world.kernel.has_queued()),
        }
    }

    pub(crate) fn queued(&self) -> usize {
        match self {
            Self::Real(uring) => uring.queued(),
            Self::Simulated => ask(|world| world.kernel.queued()),
        }
    }

    pub(crate) fn has_work(&self) -> bool {
        match self {
            Self::Real(uring) => uring.has_work(),
            Self::Simulated => ask(|world| world.kernel.has_work()),
        }
    }

    pub(crate) fn is_deferred(&self) -> bool {
        match self {
            Self::Real(uring) => uring.is_deferred(),
            Self::Simulated => true,
        }
    }

    pub(crate) fn has_completed(&self) -> bool {
        match self {
            Self::Real(uring) => uring.has_completed(),
            Self::Simulated => ask(|world| world.kernel.has_completed()),
        }
    }

    pub(crate) fn enter(&self, wait: Wait) -> io::Result<()> {
        match self {
            Self::Real(uring) => uring.enter(wait),
            Self::Simulated => ask(|world| world.enter(wait)),
        }
    }

    pub(crate) fn reap(&self) -> Box<dyn Iterator<Item = (u64, i32, u32)> + '_> {
        match self {
            Self::Real(uring) => Box::new(uring.reap()),
            Self::Simulated => Box::new(ask(World::reap).into_iter()),
        }
    }
}
