//! What an error after the start means: one table from (operation, errno) to what is done about it.
//!
//! Nothing that a peer or the network can cause is fatal. Fatal is only what says that the ring or a
//! socket of ours is unusable, where going on would spin.

use crate::ring::Errno;

/// What is done about a receive or accept that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receive {
    /// Something is short: arm again when there may be more of it.
    Starved,
    /// It was cancelled on purpose.
    Cancelled,
    /// Nothing is there.
    Dry,
    /// Count it and arm again.
    Rearm,
    /// The connection is gone.
    Reset,
    /// The operation can't work here.
    Fatal,
}

/// What an ended receive of datagrams means.
pub fn of_datagrams(errno: Errno) -> Receive {
    match errno.0 {
        libc::ENOBUFS => Receive::Starved,
        libc::ECANCELED => Receive::Cancelled,
        // the ring's or the socket's own state: arming again would fail the same way
        libc::EBADF | libc::EINVAL | libc::EOPNOTSUPP | libc::ENOTSOCK | libc::EFAULT => Receive::Fatal,
        // ICMP errors, short memory, a link that went down, signals
        _ => Receive::Rearm,
    }
}

/// What an ended accept means.
pub fn of_accept(errno: Errno) -> Receive {
    match errno.0 {
        libc::ECANCELED => Receive::Cancelled,
        libc::EBADF | libc::EINVAL | libc::EOPNOTSUPP | libc::ENOTSOCK | libc::EFAULT => Receive::Fatal,
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
        libc::EAGAIN => Receive::Dry,
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
    /// Try the same again.
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

    #[test]
    fn what_a_network_can_cause_is_never_fatal() {
        for errno in [
            libc::ECONNREFUSED,
            libc::EHOSTUNREACH,
            libc::ENETUNREACH,
            libc::ENETDOWN,
            libc::ENOMEM,
            libc::ENOBUFS,
            libc::EINTR,
            libc::EAGAIN,
            libc::EMSGSIZE,
            libc::EPROTO,
            libc::ETIMEDOUT,
            libc::ECONNABORTED,
            libc::EMFILE,
            libc::ENFILE,
        ] {
            let errno = Errno(errno);
            assert_ne!(of_datagrams(errno), Receive::Fatal, "{errno}");
            assert_ne!(of_accept(errno), Receive::Fatal, "{errno}");
        }
        assert_eq!(of_datagrams(Errno(libc::EBADF)), Receive::Fatal);
        assert_eq!(of_accept(Errno(libc::EINVAL)), Receive::Fatal);
    }

    #[test]
    fn an_accept_waits_for_what_is_short_and_for_nothing_else() {
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
            assert_eq!(of_accept(Errno(errno)), Receive::Starved, "{errno}");
        }
        assert_eq!(of_accept(Errno(libc::ECONNABORTED)), Receive::Rearm);
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
