//! When a TCP peer that says nothing is asked for a sign of life.
//!
//! A connection on which nothing happens tells nobody that its peer has lost power: it would hold its place for ever.
//! The kernel asks such peers (keepalive, RFC 9293, 3.8.4), and one that is there answers without its program noticing.
//!
//! Where there is a user timeout, the kernel goes by that: it gives a connection up at the first unanswered question
//! that is followed by another when so much time has passed, however few there were (`tcp_keepalive_timer`). One lost
//! segment must not end a connection, so the first question comes well before, and several follow.

use std::time::Duration;

/// Questions that a peer has to leave unanswered.
pub const QUESTIONS: i32 = 4;
/// The first question after so much silence, where there is no user timeout to go by.
const AFTER_DEFAULT_S: i32 = 60;
/// What the kernel takes for either time (`MAX_TCP_KEEPIDLE`, `MAX_TCP_KEEPINTVL`).
pub const SECONDS_MAX: i32 = 32_767;

/// The numbers that the kernel wants, whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first question.
    pub after_s: i32,
    /// From one question to the next.
    pub interval_s: i32,
}

impl Keepalive {
    /// Questions after so much silence, which is shorter than the user timeout, so that the last of them is over when
    /// that is; half of it if nobody says, since `wanted` is `None`. Without a user timeout (zero) they take as long as
    /// the silence did. `None`: no questions, since `wanted` is zero.
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
        Some(Self { after_s, interval_s: (left_s / QUESTIONS).max(1) })
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
    fn the_questions_end_with_the_user_timeout() {
        assert_eq!(numbers(None, 120), Some((60, 15)), "the default");
        assert_eq!(numbers(Some(100), 120), Some((100, 5)));
        assert_eq!(numbers(Some(10), 120), Some((10, 27)));
        assert_eq!(numbers(None, 0), Some((60, 15)));
        assert_eq!(numbers(Some(3600), 0), Some((3600, 900)));
        assert_eq!(numbers(Some(0), 120), None);
        assert_eq!(numbers(None, 1 << 40), Some((SECONDS_MAX, 1)), "what the kernel takes");
    }

    /// What the kernel does: a question after the silence and after each interval, the end at the first one that is
    /// due when the user timeout has passed.
    #[test]
    fn no_single_lost_segment_ends_a_connection() {
        for user_timeout_s in 5..1000 {
            let (after_s, interval_s) = numbers(None, user_timeout_s).unwrap();
            let due = (0..).map(|number| after_s + number * interval_s);
            let questions = due.take_while(|at| *at < user_timeout_s as i32).count();
            assert!(questions >= QUESTIONS as usize - 1, "{questions} in {user_timeout_s} s");
            let end_s = after_s + questions as i32 * interval_s;
            assert!(end_s <= user_timeout_s as i32 + interval_s, "{end_s} s instead of {user_timeout_s}");
        }
    }
}
