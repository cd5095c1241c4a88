//! When the kernel probes a quiet TCP peer (keepalive, RFC 9293, 3.8.4).
//!
//! If a peer loses power, a quiet connection does not notice it and would stay open for ever. The kernel of a live peer
//! answers a probe without its program noticing.
//!
//! With a user timeout, the kernel ends a connection when a probe is due, the user timeout has passed, and at least one
//! probe before it had no answer (`tcp_keepalive_timer`). One lost segment must not end a connection. So the first probe
//! leaves well before the user timeout, and several follow.

use std::time::Duration;

/// Number of probes without an answer after which the connection ends.
pub const PROBES: i32 = 4;
/// Silence before the first probe, if there is no user timeout.
const AFTER_DEFAULT_S: i32 = 60;
/// The longest time that the kernel accepts for either number (`MAX_TCP_KEEPIDLE`, `MAX_TCP_KEEPINTVL`).
pub const SECONDS_MAX: i32 = 32_767;

/// The times of the probes, in whole seconds as the kernel wants them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe.
    pub after_s: i32,
    /// Time from one probe to the next.
    pub interval_s: i32,
}

impl Keepalive {
    /// The first probe follows after `wanted`, which must be shorter than the user timeout; the default is half of that
    /// timeout. All probes together end with the user timeout. Without a user timeout (zero), they take as long as the
    /// silence before them. Returns `None`, no probes, if `wanted` is zero.
    pub fn new(wanted: Option<Duration>, user_timeout: Duration) -> Option<Self> {
        let seconds = |duration: Duration| {
            i32::try_from(duration.as_secs()).map_or(SECONDS_MAX, |seconds| seconds.clamp(1, SECONDS_MAX))
        };
        let after_s = match wanted {
            Some(Duration::ZERO) => return None,
            Some(after) => seconds(after),
            None if user_timeout.is_zero() => AFTER_DEFAULT_S,
            None => seconds(user_timeout / 2),
        };
        let left_s = if user_timeout.is_zero() { after_s } else { seconds(user_timeout) - after_s };
        Some(Self { after_s, interval_s: (left_s / PROBES).max(1) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(wanted: Option<u64>, user_timeout: u64) -> Option<(i32, i32)> {
        let keepalive = Keepalive::new(wanted.map(Duration::from_secs), Duration::from_secs(user_timeout))?;
        Some((keepalive.after_s, keepalive.interval_s))
    }

    #[test]
    fn the_probes_end_with_the_user_timeout() {
        assert_eq!(numbers(None, 120), Some((60, 15)), "the default");
        assert_eq!(numbers(Some(100), 120), Some((100, 5)));
        assert_eq!(numbers(Some(10), 120), Some((10, 27)));
        assert_eq!(numbers(None, 0), Some((60, 15)));
        assert_eq!(numbers(Some(3600), 0), Some((3600, 900)));
        assert_eq!(numbers(Some(0), 120), None);
        assert_eq!(numbers(None, 1 << 40), Some((SECONDS_MAX, 1)), "the kernel's limit");
    }

    /// The kernel sends a probe after the silence and after each interval. It ends the connection at the first probe
    /// that is due after the user timeout.
    #[test]
    fn no_single_lost_segment_ends_a_connection() {
        for user_timeout_s in 5..1000 {
            let (after_s, interval_s) = numbers(None, user_timeout_s).unwrap();
            let due = (0..).map(|number| after_s + number * interval_s);
            let probes = due.take_while(|at| *at < user_timeout_s as i32).count();
            assert!(probes >= PROBES as usize - 1, "{probes} in {user_timeout_s} s");
            let end_s = after_s + probes as i32 * interval_s;
            assert!(end_s <= user_timeout_s as i32 + interval_s, "{end_s} s instead of {user_timeout_s}");
        }
    }
}
