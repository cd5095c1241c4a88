//! What a ring may do: what its room has words for, and nothing else.
//!
//! A ring is a way around seccomp filters, since what is queued in it is no system call. So it is made
//! disabled, told what it will ever be used for (`IORING_REGISTER_RESTRICTIONS`, Linux 5.10), and only then
//! enabled: whoever takes the process over can neither open files nor connect nor start anything
//! through it.

use std::io;

use io_uring::register::{Probe, Restriction};
use io_uring::{Submitter, opcode, squeue};

/// The operations of [`super::Ring`]: multishots and those with buffers of ours share a number with the
/// plain ones.
const OPERATIONS: [u8; 10] = [
    opcode::Accept::CODE,
    opcode::AsyncCancel::CODE,
    opcode::Close::CODE,
    opcode::PollAdd::CODE,
    opcode::Recv::CODE,
    opcode::RecvMsg::CODE,
    opcode::Send::CODE,
    opcode::SendMsg::CODE,
    opcode::Shutdown::CODE,
    opcode::Timeout::CODE,
];

/// What is registered after the ring was enabled: the numbers are those of io_uring_register(2).
const REGISTRATIONS: [u8; 5] = [
    3,  // IORING_UNREGISTER_FILES, at the end
    6,  // IORING_REGISTER_FILES_UPDATE: listening sockets, reply sockets
    22, // IORING_REGISTER_PBUF_RING
    23, // IORING_UNREGISTER_PBUF_RING, of the trial at the start
    25, // IORING_REGISTER_FILE_ALLOC_RANGE
];

const FLAGS: squeue::Flags =
    squeue::Flags::FIXED_FILE.union(squeue::Flags::BUFFER_SELECT).union(squeue::Flags::SKIP_SUCCESS);

/// Whether the kernel knows the operation that makes an ordinary descriptor of a direct one.
pub(super) fn knows_install(submitter: &Submitter<'_>) -> bool {
    let mut probe = Probe::new();
    submitter.register_probe(&mut probe).is_ok() && probe.is_supported(opcode::FixedFdInstall::CODE)
}

/// Restricts a ring that was set up disabled, and enables it. `installs`: it may make ordinary descriptors, too; a
/// kernel that does not know that operation would refuse all restrictions for it. A kernel that can't restrict leaves
/// the ring as it was: the restriction protects others from us, and nothing here depends on it.
pub(super) fn restrict_and_enable(submitter: &Submitter<'_>, installs: bool) -> io::Result<()> {
    let install = installs.then_some(opcode::FixedFdInstall::CODE);
    let operations = OPERATIONS.into_iter().chain(install).map(Restriction::sqe_op);
    let registrations = REGISTRATIONS.into_iter().map(Restriction::register_op);
    let flags = [Restriction::sqe_flags_allowed(FLAGS.bits())];
    let mut all: Vec<_> = operations.chain(registrations).chain(flags).collect();
    let _ = submitter.register_restrictions(&mut all);
    submitter.register_enable_rings()
}
