//! Which destinations are broadcast addresses of this host's networks.
//!
//! No reply can leave from a broadcast address, and the kernel gives different reasons for that. Such datagrams are counted
//! by one rule. The kernel is asked only when a reply could not leave, and its answer is remembered for a while, so a flood
//! of broadcasts does not cost a system call each.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use crate::kernel::sys;

/// How many answers are remembered.
const ANSWERS: usize = 16;
/// How long an answer is believed: networks change.
const ANSWER_LIFE: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Broadcasts {
    answers: Vec<(Ipv4Addr, bool, Instant)>,
    /// The place of the answer that is forgotten next.
    oldest: usize,
}

impl Broadcasts {
    /// Whether `destination` is a broadcast address. `ask` asks the kernel.
    pub(super) fn contains(&mut self, destination: IpAddr, ask: impl FnOnce(Ipv4Addr) -> bool) -> bool {
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
        assert!(broadcasts.contains(ip(255), |_| true));
        assert!(!broadcasts.contains(ip(1), |_| false));
        assert!(broadcasts.contains(ip(255), |_| panic!("it was asked before")));
        assert!(!broadcasts.contains(ip(1), |_| panic!("it was asked before")));
        // others push the oldest out, and no more is kept
        (2..2 + ANSWERS as u8).for_each(|last| assert!(!broadcasts.contains(ip(last), |_| false)));
        assert_eq!(broadcasts.answers.len(), ANSWERS);
        assert!(!broadcasts.contains(ip(255), |_| false), "it is asked anew");
        let latest = 100..100 + ANSWERS as u8;
        latest.clone().for_each(|last| assert!(!broadcasts.contains(ip(last), |_| false)));
        latest
            .for_each(|last| assert!(!broadcasts.contains(ip(last), |_| panic!("it is one of the latest"))));
        assert!(!broadcasts.contains(IpAddr::from([0; 16]), |_| panic!("IPv6 has none")));
    }
}
