//! What an error after the start means: one table from operation and errno to what is done about it.
//!
//! Nothing that a peer or the network can cause is fatal. Only an error that shows that the ring or a socket of ours is
//! unusable is. What fails again and again waits for a pause, see [`crate::kernel::pause`].

use crate::kernel::ring::Errno;

/// How far the sockets of a worker are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketStage {
    /// Their first operations show whether they work here. The server is not ready yet.
    Arming,
    /// They work.
    Serving,
}

/// The kernel lacks the operation, or a security module forbids it. These numbers say so only before the start. Later
/// the network causes them too: EOPNOTSUPP (ICMP: source route failed), EACCES (ICMPv6: administratively prohibited)
/// and others, see `icmp_err_convert` and `icmpv6_err_convert` of Linux.
fn is_impossible(errno: Errno, stage: SocketStage) -> bool {
    stage == SocketStage::Arming
        && matches!(errno.0, libc::EOPNOTSUPP | libc::ENOSYS | libc::EPERM | libc::EACCES)
}

/// The ring or the socket itself is the cause, and no message of the network. The next try would fail the same way.
fn is_unusable(errno: Errno) -> bool {
    matches!(errno.0, libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EFAULT)
}

/// What is done about a receive of datagrams that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receive {
    /// No buffer was free: arm it again when there is one.
    Starved,
    /// It was cancelled.
    Cancelled,
    /// Count it and arm it again.
    Rearm,
    /// The operation can't work here.
    Fatal,
}

/// What an ended receive of datagrams means.
pub fn of_datagrams(errno: Errno, stage: SocketStage) -> Receive {
    match errno.0 {
        libc::ENOBUFS => Receive::Starved,
        libc::ECANCELED => Receive::Cancelled,
        _ if is_unusable(errno) || is_impossible(errno, stage) => Receive::Fatal,
        // ICMP errors, short memory, a link that went down, signals
        _ => Receive::Rearm,
    }
}

/// What is done about an accept that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// Descriptors or memory are short: count it and arm it again after a pause.
    Pause,
    /// It was cancelled.
    Cancelled,
    /// Count it and arm it again.
    Rearm,
    /// The operation can't work here.
    Fatal,
}

/// What an ended accept means.
pub fn of_accept(errno: Errno, stage: SocketStage) -> Accept {
    match errno.0 {
        libc::ECANCELED => Accept::Cancelled,
        _ if is_unusable(errno) || is_impossible(errno, stage) => Accept::Fatal,
        // A full table and short memory pass, but not at once. Until then each accept fails the same way, whether
        // anybody connects or not.
        libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM => Accept::Pause,
        // the network errors of the new connection come here as well (accept(2))
        _ => Accept::Rearm,
    }
}

/// What is done about a receive on a connection that ended. Nothing that it fails with is fatal for the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamReceive {
    /// No buffer was free: receive again when there is one.
    Starved,
    /// It was cancelled.
    Cancelled,
    /// No bytes were there.
    WouldBlock,
    /// A signal ended it: receive again.
    Interrupted,
    /// The connection is gone.
    Reset,
}

/// What an ended receive on a connection means.
pub fn of_stream(errno: Errno) -> StreamReceive {
    match errno.0 {
        libc::ENOBUFS => StreamReceive::Starved,
        libc::ECANCELED => StreamReceive::Cancelled,
        libc::EAGAIN => StreamReceive::WouldBlock,
        libc::EINTR => StreamReceive::Interrupted,
        // ECONNRESET, ETIMEDOUT, EHOSTUNREACH and all others that end one connection
        _ => StreamReceive::Reset,
    }
}

/// What is done about a splice that brought nothing from a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpliceIn {
    /// A receive tells why.
    Receive,
    /// The connection is broken. An error is told once: a receive would find the end of the stream instead.
    Reset,
}

/// What a splice's errno means.
pub fn of_splice_in(errno: Errno) -> SpliceIn {
    match errno.0 {
        libc::EAGAIN | libc::EINTR | libc::ENOMEM | libc::ENOBUFS => SpliceIn::Receive,
        _ => SpliceIn::Reset,
    }
}

/// What is done about a reply that was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Send {
    /// The send buffer is full: it waits for room.
    Wait,
    /// The path takes no such train: send its datagrams one by one.
    Split,
    /// Drop it: there is no route to the peer.
    Unreachable,
    /// Drop it: a filter forbids it.
    Forbidden,
    /// Drop it: this host may not send from that address.
    BadSource,
    /// Drop it for another reason.
    Drop,
}

/// What a failed reply means. `train`: it was one message of several datagrams.
pub fn of_reply(errno: Errno, train: bool) -> Send {
    match errno.0 {
        libc::EAGAIN => Send::Wait,
        // udp(7), UDP_SEGMENT: EMSGSIZE, on older kernels EINVAL, for a segment above the path's MTU. EIO where the
        // device has no checksum offload
        libc::EMSGSIZE | libc::EINVAL | libc::EIO if train => Send::Split,
        libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EHOSTDOWN | libc::ECONNREFUSED => {
            Send::Unreachable
        }
        libc::EPERM | libc::EACCES => Send::Forbidden,
        libc::EINVAL | libc::EADDRNOTAVAIL => Send::BadSource,
        _ => Send::Drop,
    }
}

/// What is done about a failed send on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamSend {
    /// The send buffer is full, since the peer does not read fast enough: spill the rest.
    Stalled,
    /// Memory is short: send the same again after a pause.
    Again,
    /// The connection is gone.
    Reset,
}

/// What a failed send on a connection means.
pub fn of_stream_send(errno: Errno) -> StreamSend {
    match errno.0 {
        libc::EAGAIN => StreamSend::Stalled,
        libc::EINTR | libc::ENOMEM | libc::ENOBUFS => StreamSend::Again,
        // EPIPE, ECONNRESET, ETIMEDOUT, ECANCELED and all others that end one connection
        _ => StreamSend::Reset,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What ICMP's unreachable codes, its other errors and ICMPv6's become, and what else comes from outside or passes.
    const PASSING: [i32; 22] = [
        libc::ENETUNREACH,
        libc::EHOSTUNREACH,
        libc::ENOPROTOOPT,
        libc::ECONNREFUSED,
        libc::EMSGSIZE,
        libc::EOPNOTSUPP,
        libc::EHOSTDOWN,
        libc::ENONET,
        libc::EPROTO,
        libc::EACCES,
        libc::EPERM,
        libc::ENETDOWN,
        libc::ENOMEM,
        libc::ENOBUFS,
        libc::EINTR,
        libc::EAGAIN,
        libc::ETIMEDOUT,
        libc::ECONNABORTED,
        libc::ECONNRESET,
        libc::EMFILE,
        libc::ENFILE,
        libc::ECANCELED,
    ];

    #[test]
    fn what_a_network_can_cause_is_never_fatal() {
        for errno in PASSING.map(Errno) {
            assert_ne!(of_datagrams(errno, SocketStage::Serving), Receive::Fatal, "{errno}");
            assert_ne!(of_accept(errno, SocketStage::Serving), Accept::Fatal, "{errno}");
        }
        for errno in [libc::EBADF, libc::EINVAL, libc::ENOTSOCK, libc::EFAULT].map(Errno) {
            for stage in [SocketStage::Arming, SocketStage::Serving] {
                assert_eq!(of_datagrams(errno, stage), Receive::Fatal, "{errno}");
                assert_eq!(of_accept(errno, stage), Accept::Fatal, "{errno}");
            }
        }
    }

    #[test]
    fn what_the_kernel_does_not_have_or_forbids_is_told_before_the_start() {
        for errno in [libc::EOPNOTSUPP, libc::ENOSYS, libc::EPERM, libc::EACCES].map(Errno) {
            assert_eq!(of_datagrams(errno, SocketStage::Arming), Receive::Fatal, "{errno}");
            assert_eq!(of_accept(errno, SocketStage::Arming), Accept::Fatal, "{errno}");
        }
        for errno in [libc::ECONNREFUSED, libc::ENOMEM, libc::ENOBUFS, libc::EHOSTUNREACH].map(Errno) {
            assert_ne!(of_datagrams(errno, SocketStage::Arming), Receive::Fatal, "{errno}");
            assert_ne!(of_accept(errno, SocketStage::Arming), Accept::Fatal, "{errno}");
        }
    }

    #[test]
    fn each_errno_has_its_meaning() {
        fn each<T: PartialEq + std::fmt::Debug>(errnos: &[i32], of: fn(Errno) -> T, wanted: T) {
            for &errno in errnos {
                assert_eq!(of(Errno(errno)), wanted, "{}", Errno(errno));
            }
        }
        let of_datagrams = |errno| of_datagrams(errno, SocketStage::Serving);
        let of_accept = |errno| of_accept(errno, SocketStage::Serving);
        let broken = [libc::EBADF, libc::EINVAL, libc::ENOTSOCK, libc::EFAULT];
        each(&[libc::ENOBUFS], of_datagrams, Receive::Starved);
        each(&[libc::ECANCELED], of_datagrams, Receive::Cancelled);
        each(&broken, of_datagrams, Receive::Fatal);
        each(&[libc::ECANCELED], of_accept, Accept::Cancelled);
        each(&broken, of_accept, Accept::Fatal);
        each(&[libc::EAGAIN], of_stream, StreamReceive::WouldBlock);
        each(&[libc::EINTR], of_stream, StreamReceive::Interrupted);
        each(&[libc::ECONNRESET, libc::ETIMEDOUT, libc::EHOSTUNREACH], of_stream, StreamReceive::Reset);
    }

    #[test]
    fn each_errno_of_a_reply_has_its_counter() {
        let each = |errnos: &[i32], wanted: Send| {
            for &errno in errnos {
                assert_eq!(of_reply(Errno(errno), false), wanted, "{}", Errno(errno));
            }
        };
        each(&[libc::EAGAIN], Send::Wait);
        each(&[libc::ENETUNREACH, libc::EHOSTUNREACH, libc::ENETDOWN, libc::EHOSTDOWN], Send::Unreachable);
        each(&[libc::ECONNREFUSED], Send::Unreachable);
        each(&[libc::EPERM, libc::EACCES], Send::Forbidden);
        each(&[libc::EINVAL, libc::EADDRNOTAVAIL], Send::BadSource);
        each(&[libc::EMSGSIZE, libc::EIO, libc::ENOBUFS, libc::ENOMEM], Send::Drop);
        for errno in [libc::EINTR, libc::ENOMEM, libc::ENOBUFS] {
            assert_eq!(of_stream_send(Errno(errno)), StreamSend::Again, "{errno}");
        }
    }

    #[test]
    fn an_accept_waits_for_what_is_short_and_for_nothing_else() {
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
            assert_eq!(of_accept(Errno(errno), SocketStage::Serving), Accept::Pause, "{errno}");
        }
        assert_eq!(of_accept(Errno(libc::ECONNABORTED), SocketStage::Serving), Accept::Rearm);
    }

    #[test]
    fn each_sign_of_a_refused_train_splits_it_and_only_a_train() {
        for errno in [libc::EMSGSIZE, libc::EINVAL, libc::EIO] {
            assert_eq!(of_reply(Errno(errno), true), Send::Split);
            assert_ne!(of_reply(Errno(errno), false), Send::Split);
        }
        assert_eq!(of_reply(Errno(libc::EAGAIN), true), Send::Wait);
        assert_eq!(of_reply(Errno(libc::ENETUNREACH), true), Send::Unreachable);
        assert_eq!(of_reply(Errno(libc::EINVAL), false), Send::BadSource);
        assert_eq!(of_reply(Errno(libc::EPERM), false), Send::Forbidden);
    }

    #[test]
    fn a_connection_ends_for_what_ends_it() {
        assert_eq!(of_stream(Errno(libc::ECONNRESET)), StreamReceive::Reset);
        assert_eq!(of_stream(Errno(libc::ENOBUFS)), StreamReceive::Starved);
        assert_eq!(of_stream(Errno(libc::ECANCELED)), StreamReceive::Cancelled);
        assert_eq!(of_stream_send(Errno(libc::EAGAIN)), StreamSend::Stalled);
        assert_eq!(of_stream_send(Errno(libc::EPIPE)), StreamSend::Reset);
    }
}
