//! Why a connection was closed, and which counter says so.

use crate::kernel::ring::Errno;
use crate::policy::counters::Traffic;
use crate::values::counter::Counter;

/// Why a connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The peer sent its FIN, and has everything back.
    Finished,
    /// The peer reset it.
    Reset,
    /// Another error.
    Error,
    /// The peer gave no sign of life for too long.
    Vanished,
    /// The peer did not read, and there was no memory left for its echo.
    Stalled,
    /// Nothing was sent or received on it for too long.
    Idle,
    /// Its source has as many connections as it may have.
    PrefixLimit,
    /// The server ended.
    Drained,
}

impl Cause {
    /// What an error of a connection's socket means.
    pub(super) fn of(errno: Errno) -> Self {
        match errno.0 {
            libc::ECONNRESET | libc::EPIPE => Self::Reset,
            // The kernel has given up. If an ICMP message came last, it reports what that said instead of ETIMEDOUT
            // (tcp(7)).
            libc::ETIMEDOUT | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EHOSTDOWN | libc::ENONET => {
                Self::Vanished
            }
            libc::ECONNREFUSED | libc::ENOPROTOOPT | libc::EACCES | libc::EPROTO => Self::Vanished,
            _ => Self::Error,
        }
    }

    pub(super) fn counter(self, counters: &Traffic) -> &Counter {
        match self {
            Self::Finished => &counters.tcp_closed_finished,
            Self::Reset => &counters.tcp_closed_reset,
            Self::Error => &counters.tcp_closed_error,
            Self::Vanished => &counters.tcp_closed_vanished,
            Self::Idle => &counters.tcp_closed_idle,
            Self::PrefixLimit => &counters.tcp_closed_prefix_limit,
            Self::Stalled => &counters.tcp_closed_stalled,
            Self::Drained => &counters.tcp_closed_drained,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_has_its_cause_and_its_counter() {
        for (errno, cause) in [
            (libc::ECONNRESET, Cause::Reset),
            (libc::EPIPE, Cause::Reset),
            (libc::ETIMEDOUT, Cause::Vanished),
            (libc::EIO, Cause::Error),
        ] {
            assert_eq!(Cause::of(Errno(errno)), cause, "{errno}");
        }
        for cause in [
            Cause::Finished,
            Cause::Reset,
            Cause::Error,
            Cause::Vanished,
            Cause::Stalled,
            Cause::Idle,
            Cause::PrefixLimit,
            Cause::Drained,
        ] {
            let counters = Traffic::default();
            cause.counter(&counters).add(3);
            let counted: Vec<_> = counters.entries().filter(|entry| entry.value > 0).collect();
            let name: String = format!("{cause:?}")
                .chars()
                .flat_map(|c| c.is_uppercase().then_some('_').into_iter().chain(c.to_lowercase()))
                .collect();
            assert_eq!((counted.len(), counted[0].name), (1, &*format!("tcp_closed{name}")));
        }
    }
}
