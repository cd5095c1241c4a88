//! Peers whose path refuses trains.
//!
//! A path may take no GSO send: its MTU is smaller than the datagrams, or its device has no checksum offload. The datagrams
//! of such a train are sent one by one, and for a minute no trains are sent to that peer. Other peers keep their trains.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::policy::flow::HashKey;

/// How many peers are remembered.
const ENTRIES: usize = 64;
/// How long a refusal is believed: paths change.
const REFUSAL_LIFE: Duration = Duration::from_mins(1);

/// Peers whose path refused a train a short while ago, in a table of fixed size. A new peer may push another one out;
/// forgetting one costs one refused send. Which one it pushes out depends on a secret key, so that nobody can choose.
#[derive(Debug)]
pub struct GsoRefusals {
    entries: Vec<Option<(IpAddr, Instant)>>,
    key: HashKey,
}

impl GsoRefusals {
    /// An empty table with places under this key.
    pub fn new(key: HashKey) -> Self {
        Self { entries: Vec::new(), key }
    }

    /// Remembers `peer` from `now` on.
    pub fn remember(&mut self, peer: IpAddr, now: Instant) {
        self.entries.resize(ENTRIES, None);
        let place = self.place(peer);
        self.entries[place] = Some((peer, now + REFUSAL_LIFE));
    }

    /// Whether a train to `peer` was refused lately. `now` is called only if there was a refusal at all.
    pub fn contains(&mut self, peer: IpAddr, now: impl FnOnce() -> Instant) -> bool {
        if self.entries.is_empty() {
            return false;
        }
        let place = self.place(peer);
        let Some(entry) = self.entries.get_mut(place) else { return false };
        match *entry {
            Some((known, until)) if known == peer => {
                let valid = now() < until;
                if !valid {
                    *entry = None;
                }
                valid
            }
            _ => false,
        }
    }

    fn place(&self, peer: IpAddr) -> usize {
        self.key.of(&SocketAddr::new(peer, 0).into()) as usize % ENTRIES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::flow::tests::{VICTIMS, alike};

    #[test]
    fn nobody_chooses_who_is_pushed_out() {
        for victim in VICTIMS.map(|victim| victim.parse::<IpAddr>().unwrap()) {
            let now = Instant::now();
            let mut refusals = GsoRefusals::new(HashKey::numbered(2));
            let forgotten = alike(victim, 64).filter(|ip| {
                refusals.remember(victim, now);
                refusals.remember(*ip, now);
                !refusals.contains(victim, || now)
            });
            assert!(forgotten.count() < 20, "of 64, where chance pushes it out once");
        }
    }

    #[test]
    fn a_refusal_is_one_peers_and_ends() {
        let (peer, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let start = Instant::now();
        let mut refusals = GsoRefusals::new(HashKey::draw());
        assert!(!refusals.contains(peer, || panic!("no peer refused: the clock is not needed")));
        refusals.remember(peer, start);
        for _ in 0..2 {
            assert!(refusals.contains(peer, || start + REFUSAL_LIFE / 2), "asking ends nothing");
        }
        assert!(!refusals.contains(other, || start));
        assert!(!refusals.contains(peer, || start + REFUSAL_LIFE));
        assert!(!refusals.contains(peer, || start), "what has ended stays ended");
    }
    #[test]
    fn a_refusal_is_not_that_of_another_peer_in_the_same_place() {
        let mut refusals = GsoRefusals::new(HashKey::blind());
        let now = Instant::now();
        refusals.remember([192, 0, 2, 1].into(), now);
        assert!(!refusals.contains([192, 0, 2, 2].into(), || now));
    }
}
