//! Which destinations are broadcast addresses of this host's networks, so that a reply that can't leave from one is
//! counted by that rule, whatever the kernel gives as its reason.
//!
//! Asked only where a reply could not leave, and the answer is remembered: nobody's broadcasts cost a system call each.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use crate::kernel::sys;

/// Answers that are remembered.
const ANSWERS: usize = 16;
/// How long an answer is believed: networks change.
const ANSWER_LIFE: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Broadcasts {
    answers: Vec<(Ipv4Addr, bool, Instant)>,
    /// The answer that is forgotten next.
    oldest: usize,
}

impl Broadcasts {
    /// Whether a datagram was sent to many hosts. `ask` asks the kernel.
    pub(super) fn has(&mut self, destination: IpAddr, ask: impl FnOnce(Ipv4Addr) -> bool) -> bool {
        let IpAddr::V4(ip) = destination else { return false };
        let now = sys::now();
        if let Some((_, answer, _)) =
            self.answers.iter().find(|(known, _, until)| *known == ip && now < *until)
        {
            return *answer;
        }
        let answer = ask(ip);
        let entry = (ip, answer, now + ANSWER_LIFE);
        if self.answers.len() < ANSWERS {
            self.answers.push(entry);
        } else {
            self.answers[self.oldest] = entry;
            self.oldest = (self.oldest + 1) % ANSWERS;
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_asked_once_for_each() {
        let mut broadcasts = Broadcasts::default();
        let ip = |last| IpAddr::from([192, 0, 2, last]);
        assert!(broadcasts.has(ip(255), |_| true));
        assert!(!broadcasts.has(ip(1), |_| false));
        assert!(broadcasts.has(ip(255), |_| panic!("it was asked before")));
        assert!(!broadcasts.has(ip(1), |_| panic!("it was asked before")));
        // others push the oldest out, and no more is kept
        (2..2 + ANSWERS as u8).for_each(|last| assert!(!broadcasts.has(ip(last), |_| false)));
        assert_eq!(broadcasts.answers.len(), ANSWERS);
        assert!(!broadcasts.has(ip(255), |_| false), "it is asked anew");
        assert!(!broadcasts.has(IpAddr::from([0; 16]), |_| panic!("IPv6 has none")));
    }
}
