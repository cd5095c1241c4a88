//! What an error after the start means: one table from (operation, errno) to what is done about it.
//!
//! Nothing that a peer or the network can cause is fatal. Fatal is only what says that the ring or a
//! socket of ours is unusable. What fails again and again pauses, see [`crate::kernel::pause`].

use crate::kernel::ring::Errno;

/// How far a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its first operation is to show that it works here: the server is not ready yet.
    Arming,
    /// It has.
    Serving,
}

/// What says before the start that an operation can't work: the kernel does not have it, or a security module forbids
/// it. Later the same numbers mean less: the network tells EOPNOTSUPP (ICMP, source route failed), EACCES (ICMPv6,
/// administratively prohibited) and others, see `icmp_err_convert` and `icmpv6_err_convert` of Linux.
fn is_impossible(errno: Errno, stage: Stage) -> bool {
    stage == Stage::Arming && matches!(errno.0, libc::EOPNOTSUPP | libc::ENOSYS | libc::EPERM | libc::EACCES)
}

/// The ring's or the socket's own state, which no message of the network changes: trying again would fail the same way.
fn is_unusable(errno: Errno) -> bool {
    matches!(errno.0, libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EFAULT)
}

/// What is done about a receive or accept that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receive {
    /// Something is short: arm again when there may be more of it.
    Starved,
    /// It was cancelled on purpose.
    Cancelled,
    /// Nothing is there.
    WouldBlock,
    /// Count it and arm again.
    Rearm,
    /// The connection is gone.
    Reset,
    /// The operation can't work here.
    Fatal,
}

/// What an ended receive of datagrams means.
pub fn of_datagrams(errno: Errno, stage: Stage) -> Receive {
    match errno.0 {
        libc::ENOBUFS => Receive::Starved,
        libc::ECANCELED => Receive::Cancelled,
        _ if is_unusable(errno) || is_impossible(errno, stage) => Receive::Fatal,
        // ICMP errors, short memory, a link that went down, signals
        _ => Receive::Rearm,
    }
}

/// What an ended accept means.
pub fn of_accept(errno: Errno, stage: Stage) -> Receive {
    match errno.0 {
        libc::ECANCELED => Receive::Cancelled,
        _ if is_unusable(errno) || is_impossible(errno, stage) => Receive::Fatal,
        // tables that are full for the moment and short memory pass, but not at once: until then each accept
        // fails the same way, whether anybody connects or not
        libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM => Receive::Starved,
        // accept(2): network errors of the new connection come here as well
        _ => Receive::Rearm,
    }
}

/// What an ended receive on a connection means.
pub fn of_stream(errno: Errno) -> Receive {
    match errno.0 {
        libc::ENOBUFS => Receive::Starved,
        libc::ECANCELED => Receive::Cancelled,
        libc::EAGAIN => Receive::WouldBlock,
        libc::EINTR => Receive::Rearm,
        // ECONNRESET, ETIMEDOUT, EHOSTUNREACH and whatever else ends one connection
        _ => Receive::Reset,
    }
}

/// What is done about a reply that was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Send {
    /// The send buffer is full: it waits for room.
    Wait,
    /// The path takes no such train: send its datagrams singly.
    Split,
    /// Drop it: no way to the peer.
    Unreachable,
    /// Drop it: a filter forbids it.
    Forbidden,
    /// Drop it: this host may not send from that address.
    BadSource,
    /// Drop it: something else.
    Drop,
}

/// What a failed reply means; `train` if it was one message of several datagrams.
pub fn of_reply(errno: Errno, train: bool) -> Send {
    match errno.0 {
        libc::EAGAIN => Send::Wait,
        // udp(7), UDP_SEGMENT: EMSGSIZE, on older kernels EINVAL, for a segment above the path's MTU; EIO
        // where the device has no checksum offload
        libc::EMSGSIZE | libc::EINVAL | libc::EIO if train => Send::Split,
        libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EHOSTDOWN | libc::ECONNREFUSED => {
            Send::Unreachable
        }
        libc::EPERM | libc::EACCES => Send::Forbidden,
        libc::EINVAL | libc::EADDRNOTAVAIL => Send::BadSource,
        _ => Send::Drop,
    }
}

/// What a failed send on a connection means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamSend {
    /// The peer does not read fast enough: set the rest aside.
    Stalled,
    /// Something is short: try the same again after a pause.
    Again,
    /// The connection is gone.
    Reset,
}

/// What a failed send on a connection means.
pub fn of_stream_send(errno: Errno) -> StreamSend {
    match errno.0 {
        libc::EAGAIN => StreamSend::Stalled,
        libc::EINTR | libc::ENOMEM | libc::ENOBUFS => StreamSend::Again,
        // EPIPE, ECONNRESET, ETIMEDOUT, ECANCELED and whatever else ends one connection
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
            assert_ne!(of_datagrams(errno, Stage::Serving), Receive::Fatal, "{errno}");
            assert_ne!(of_accept(errno, Stage::Serving), Receive::Fatal, "{errno}");
            assert_ne!(of_stream(errno), Receive::Fatal, "{errno}");
        }
        for errno in [libc::EBADF, libc::EINVAL, libc::ENOTSOCK, libc::EFAULT].map(Errno) {
            for stage in [Stage::Arming, Stage::Serving] {
                assert_eq!(of_datagrams(errno, stage), Receive::Fatal, "{errno}");
                assert_eq!(of_accept(errno, stage), Receive::Fatal, "{errno}");
            }
        }
    }

    #[test]
    fn what_the_kernel_does_not_have_or_forbids_is_told_before_the_start() {
        for errno in [libc::EOPNOTSUPP, libc::ENOSYS, libc::EPERM, libc::EACCES].map(Errno) {
            assert_eq!(of_datagrams(errno, Stage::Arming), Receive::Fatal, "{errno}");
            assert_eq!(of_accept(errno, Stage::Arming), Receive::Fatal, "{errno}");
        }
        for errno in [libc::ECONNREFUSED, libc::ENOMEM, libc::ENOBUFS, libc::EHOSTUNREACH].map(Errno) {
            assert_ne!(of_datagrams(errno, Stage::Arming), Receive::Fatal, "{errno}");
            assert_ne!(of_accept(errno, Stage::Arming), Receive::Fatal, "{errno}");
        }
    }

    #[test]
    fn each_errno_has_its_meaning() {
        let each = |errnos: &[i32], of: fn(Errno) -> Receive, wanted: Receive| {
            for &errno in errnos {
                assert_eq!(of(Errno(errno)), wanted, "{}", Errno(errno));
            }
        };
        let of_datagrams = |errno| of_datagrams(errno, Stage::Serving);
        let of_accept = |errno| of_accept(errno, Stage::Serving);
        let broken = [libc::EBADF, libc::EINVAL, libc::ENOTSOCK, libc::EFAULT];
        each(&[libc::ENOBUFS], of_datagrams, Receive::Starved);
        each(&[libc::ECANCELED], of_datagrams, Receive::Cancelled);
        each(&broken, of_datagrams, Receive::Fatal);
        each(&[libc::ECANCELED], of_accept, Receive::Cancelled);
        each(&broken, of_accept, Receive::Fatal);
        each(&[libc::EAGAIN], of_stream, Receive::WouldBlock);
        each(&[libc::EINTR], of_stream, Receive::Rearm);
        each(&[libc::ECONNRESET, libc::ETIMEDOUT, libc::EHOSTUNREACH], of_stream, Receive::Reset);
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
            assert_eq!(of_accept(Errno(errno), Stage::Serving), Receive::Starved, "{errno}");
        }
        assert_eq!(of_accept(Errno(libc::ECONNABORTED), Stage::Serving), Receive::Rearm);
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
        assert_eq!(of_stream(Errno(libc::ECONNRESET)), Receive::Reset);
        assert_eq!(of_stream(Errno(libc::ENOBUFS)), Receive::Starved);
        assert_eq!(of_stream(Errno(libc::ECANCELED)), Receive::Cancelled);
        assert_eq!(of_stream_send(Errno(libc::EAGAIN)), StreamSend::Stalled);
        assert_eq!(of_stream_send(Errno(libc::EPIPE)), StreamSend::Reset);
    }
}
