//! `blaster mtu`: the next sizes to try, and the answer. No clock, no socket.
//!
//! ```text
//! begin    the smallest size and the largest: does anything come back, and what does this host send at most?
//! seek     sizes that ICMP told, then usual ones, then eight sizes evenly spaced: all at once, since silence takes time.
//!          A size without an answer is tried three times, since a lost datagram is no limit
//! confirm  silence above the MTU: this size and the one below it in turns, until chance does not explain it
//! back     the size above the MTU once more, and routers may fragment it: is its reply too large for the way back? Over
//!          IPv6 they never do: there, a size that this host fragments, for the size of the reply's fragments
//! ```
//!
//! A reply is proof, so an answer never gets smaller. That a size does not pass may turn out wrong: then the search goes on.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::report::mtu::{Limit, ToldMtu, Tries, Way};

/// A size without an answer is tried this often.
const TRIES: u32 = 3;
/// The smallest size is tried this often.
const TRIES_OF_SMALLEST: u32 = 5;
/// A silent size above the MTU is tried this often, and more often where so many datagrams get lost that chance may explain
/// the silence.
const TRIES_TO_CONFIRM: u32 = 8;
const TRIES_TO_CONFIRM_MAX: u32 = 24;
/// Chance explains silence if it is more likely than this.
const CHANCE_MAX: f64 = 0.01;
/// Sizes at a time.
const AT_ONCE: usize = 8;
/// The most datagrams of a search. With eight sizes at a time, six rounds find any size.
pub(crate) const DATAGRAMS_MAX: u32 = 300;
/// The most rounds: the beginning, nine sets of sizes with three tries each, the confirming, and the way back.
pub(crate) const ROUNDS_MAX: u32 = 60;

/// The smallest packet that every host of IPv4 takes (RFC 791), and one of IPv6 with blaster's header.
const SMALLEST_V4: u32 = 68;
const SMALLEST_V6: u32 = 80;
/// The largest packets.
const LARGEST_V4: u32 = 65_535;
const LARGEST_V6: u32 = 65_575;
/// The headers of IP and UDP.
const HEADERS_V4: u32 = 28;
const HEADERS_V6: u32 = 48;

/// Usual MTUs: the least of IPv4 hosts and of IPv6, mobile networks, WireGuard, VXLAN and Geneve, L2TP, GRE with and
/// without a key, IP in IP, PPPoE, Ethernet, jumbo frames of clouds and of switches.
const USUAL: [u32; 15] =
    [576, 1280, 1380, 1400, 1420, 1430, 1450, 1460, 1472, 1476, 1480, 1492, 1500, 8_951, 9_000];

/// A datagram to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Probe {
    /// The size of its packet.
    pub(crate) packet: u32,
    /// Routers may fragment it; over IPv6, this host does.
    pub(crate) may_fragment: bool,
}

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The reply came in one piece.
    Whole,
    /// The reply came in fragments; the size of the largest.
    InFragments(u32),
    /// Other bytes came, or fewer.
    Damaged,
    /// ICMP says that it was too large; the MTU, 0: none is told.
    Told { from: Option<IpAddr>, mtu: u32 },
    /// This host does not send it; the largest packet that it sends, if it tells.
    Refused { mtu: Option<u32> },
}

/// The search for the path MTU of one flow.
#[derive(Clone, Debug)]
pub(crate) struct Search {
    is_ipv4: bool,
    sizes: BTreeMap<u32, Tries>,
    /// The size that routers may fragment.
    fragmentable: Option<Tries>,
    fragment_bytes: Option<u32>,
    told: Vec<ToldMtu>,
    /// Sizes worth a try.
    hints: Vec<u32>,
    sent: u32,
    rounds: u32,
}

/// What is known of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) mtu: Option<u32>,
    pub(crate) settled: bool,
    pub(crate) limit: Limit,
    pub(crate) way: Option<Way>,
    pub(crate) there: Option<u32>,
    pub(crate) back: Option<u32>,
    pub(crate) at_mtu: Option<Tries>,
    pub(crate) above: Option<Tries>,
}

/// The headers of IP and UDP in bytes.
pub(crate) fn headers(is_ipv4: bool) -> u32 {
    if is_ipv4 { HEADERS_V4 } else { HEADERS_V6 }
}

/// Whether something of this size came back.
fn has_reply(tries: &Tries) -> bool {
    tries.whole + tries.in_fragments + tries.damaged > 0
}

/// Whether an error, and not silence, says that this size does not pass whole.
fn has_reason(tries: &Tries) -> bool {
    tries.refused || tries.told + tries.in_fragments + tries.damaged > 0
}

impl Search {
    pub(crate) fn new(is_ipv4: bool) -> Self {
        Self {
            is_ipv4,
            sizes: BTreeMap::new(),
            fragmentable: None,
            fragment_bytes: None,
            told: Vec::new(),
            hints: Vec::new(),
            sent: 0,
            rounds: 0,
        }
    }

    /// The same, for another flow to a target that `pilot` has searched: most likely its answer is the same. To the same
    /// destination, the ICMP messages of `pilot` stand for those that routers don't repeat.
    pub(crate) fn after(pilot: &Self, has_same_destination: bool) -> Self {
        let mut search = Self::new(pilot.is_ipv4);
        search.hints.extend(pilot.mtu());
        if has_same_destination {
            search.told = pilot.told.iter().map(|told| ToldMtu { count: 0, ..told.clone() }).collect();
        }
        search
    }

    fn smallest(&self) -> u32 {
        if self.is_ipv4 { SMALLEST_V4 } else { SMALLEST_V6 }
    }

    fn largest(&self) -> u32 {
        if self.is_ipv4 { LARGEST_V4 } else { LARGEST_V6 }
    }

    fn tries(&self, packet: u32) -> Tries {
        self.sizes.get(&packet).copied().unwrap_or(Tries { packet, ..Tries::default() })
    }

    /// The largest packet whose reply came whole.
    pub(crate) fn mtu(&self) -> Option<u32> {
        self.sizes.values().rev().find(|tries| tries.whole > 0).map(|tries| tries.packet)
    }

    /// The smallest packet above `mtu` that does not pass. `None`: none was found.
    fn above(&self, mtu: u32) -> Option<Tries> {
        let does_not_pass = |tries: &&Tries| has_reason(tries) || tries.sent >= TRIES;
        self.sizes.range(mtu + 1..).map(|(_, tries)| tries).find(does_not_pass).copied()
    }

    /// The datagrams of the next round. Empty: the search is over.
    pub(crate) fn next(&mut self) -> Vec<Probe> {
        if self.sent >= DATAGRAMS_MAX || self.rounds >= ROUNDS_MAX {
            return Vec::new();
        }
        self.rounds += 1;
        let whole = |packet| Probe { packet, may_fragment: false };
        let sizes = self.next_sizes();
        if !sizes.is_empty() {
            return sizes.into_iter().map(whole).collect();
        }
        self.way_back().into_iter().collect()
    }

    fn next_sizes(&self) -> Vec<u32> {
        let Some(mtu) = self.mtu() else {
            return self.first_sizes();
        };
        let above = self.above(mtu);
        let end = above.map_or(self.largest() + 1, |above| above.packet);
        if end == mtu + 1 {
            return match above {
                Some(above) if !has_reason(&above) && self.is_to_confirm(mtu, &above) => vec![mtu, end],
                _ => Vec::new(),
            };
        }
        let open: Vec<u32> = self.sizes.range(mtu + 1..end).map(|(packet, _)| *packet).collect();
        if open.is_empty() { self.seek(mtu, end) } else { open }
    }

    /// Whether the silence above the MTU needs further tries.
    fn is_to_confirm(&self, mtu: u32, above: &Tries) -> bool {
        let most = if is_chance(&self.tries(mtu), above) { TRIES_TO_CONFIRM_MAX } else { TRIES_TO_CONFIRM };
        above.sent < most
    }

    /// The sizes until something has come back.
    fn first_sizes(&self) -> Vec<u32> {
        let smallest = self.smallest();
        if self.sizes.is_empty() {
            let mut first = vec![smallest, self.largest()];
            first.extend(self.hints.iter().flat_map(|hint| [*hint, hint.saturating_add(1)]));
            first.retain(|packet| (smallest..=self.largest()).contains(packet));
            first.sort_unstable();
            first.dedup();
            return first;
        }
        // all other replies would be silent, too
        let is_open = self.tries(smallest).sent < TRIES_OF_SMALLEST && !has_reply(&self.tries(smallest));
        if is_open { vec![smallest] } else { Vec::new() }
    }

    /// Sizes between those that are known.
    fn seek(&self, mtu: u32, end: u32) -> Vec<u32> {
        let is_new = |packet: &u32| (mtu + 1..end).contains(packet);
        let mut wanted: Vec<u32> =
            self.hints.iter().flat_map(|hint| [*hint, hint.saturating_add(1)]).filter(is_new).collect();
        if wanted.is_empty() {
            wanted = USUAL.into_iter().filter(is_new).collect();
            if wanted.len() >= AT_ONCE {
                let all = wanted.len();
                wanted = (0..AT_ONCE).map(|nth| wanted[nth * (all - 1) / (AT_ONCE - 1)]).collect();
            }
            // a usual size that passes is most likely the answer
            let is_usual = USUAL.contains(&mtu) || self.hints.contains(&mtu);
            if is_usual || wanted.is_empty() {
                wanted.push(mtu + 1);
            }
            if wanted.len() == 1 {
                let (gap, parts) = (end - mtu, AT_ONCE as u32);
                wanted.extend((1..parts).map(|nth| mtu + nth * gap / parts).filter(is_new));
            }
        }
        wanted.sort_unstable();
        wanted.dedup();
        wanted
    }

    /// One more datagram, which may travel in fragments: its reply tells of the way back.
    fn way_back(&self) -> Option<Probe> {
        let above = self.above(self.mtu()?).filter(|above| !above.refused && !has_reply(above))?;
        let packet = if self.is_ipv4 {
            above.packet
        } else {
            self.sizes.values().find(|tries| tries.refused).map(|tries| tries.packet)?
        };
        let tries = self.fragmentable.unwrap_or_default();
        let has_answer = has_reply(&tries) || has_reason(&tries);
        let is_open = tries.packet != packet || (!has_answer && tries.sent < TRIES);
        is_open.then_some(Probe { packet, may_fragment: true })
    }

    fn of(&mut self, probe: Probe) -> &mut Tries {
        let Probe { packet, may_fragment } = probe;
        let new = Tries { packet, ..Tries::default() };
        if !may_fragment {
            return self.sizes.entry(packet).or_insert(new);
        }
        let tries = self.fragmentable.get_or_insert(new);
        if tries.packet != packet {
            *tries = new;
        }
        tries
    }

    /// Notes that a datagram was sent.
    pub(crate) fn note_sent(&mut self, probe: Probe) {
        self.sent += 1;
        self.of(probe).sent += 1;
    }

    /// Notes what became of a datagram.
    pub(crate) fn note(&mut self, probe: Probe, event: Event) {
        let tries = self.of(probe);
        match event {
            Event::Whole => tries.whole += 1,
            Event::InFragments(bytes) => {
                tries.in_fragments += 1;
                self.fragment_bytes = self.fragment_bytes.max(Some(bytes));
            }
            Event::Damaged => tries.damaged += 1,
            Event::Refused { mtu } => {
                tries.refused = true;
                if let Some(mtu) = mtu.filter(|mtu| *mtu < probe.packet) {
                    self.hints.push(mtu);
                    self.of(Probe { packet: mtu + 1, may_fragment: false }).refused = true;
                }
            }
            Event::Told { from, mtu } => {
                tries.told += 1;
                // its fragments may be too large as well, which says nothing about its size
                if !probe.may_fragment {
                    self.note_told(from, mtu, probe.packet);
                }
            }
        }
    }

    fn note_told(&mut self, from: Option<IpAddr>, mtu: u32, about: u32) {
        self.hints.push(mtu);
        let from = from.map_or_else(|| "unknown".into(), |from| from.to_string());
        match self.told.iter_mut().find(|told| told.from == from && told.mtu == mtu) {
            Some(told) => {
                told.count += 1;
                told.about = told.about.min(about);
            }
            None => self.told.push(ToldMtu { from, mtu, about, count: 1 }),
        }
    }

    pub(crate) fn told(&self) -> &[ToldMtu] {
        &self.told
    }

    pub(crate) fn sent(&self) -> u32 {
        self.sent
    }

    /// The largest fragment of a reply.
    pub(crate) fn fragment_bytes(&self) -> Option<u32> {
        self.fragment_bytes
    }

    /// What is known so far.
    pub(crate) fn finding(&self) -> Finding {
        let fragmentable = self.fragmentable.unwrap_or_default();
        let there = self.sizes.values().rev().find(|tries| has_reply(tries)).map(|tries| tries.packet);
        let mtu = self.mtu();
        let whole_back = (fragmentable.whole > 0).then_some(fragmentable.packet);
        let back = mtu.map(|mtu| mtu.max(whole_back.unwrap_or(0)).max(self.fragment_bytes.unwrap_or(0)));
        let above = mtu.and_then(|mtu| self.above(mtu));
        let limit = mtu.map_or(Limit::NoAnswer, |mtu| self.limit(mtu, above));
        let way = match limit {
            Limit::Interface | Limit::Router | Limit::RouterWithAnotherMtu => Some(Way::There),
            Limit::Fragments => Some(Way::Back),
            // a request that arrived would have got the same reply, or one that the way back carries
            Limit::Silence => above
                .filter(|above| {
                    let has_same_reply = above.packet == fragmentable.packet && has_reply(&fragmentable);
                    has_same_reply || back.is_some_and(|back| back >= above.packet)
                })
                .map(|_| Way::There),
            _ => None,
        };
        let at_mtu = mtu.map(|mtu| self.tries(mtu));
        let settled = match limit {
            Limit::Unknown | Limit::NoAnswer => false,
            Limit::Silence => at_mtu.zip(above).is_some_and(|(at, above)| !is_chance(&at, &above)),
            _ => true,
        };
        Finding { mtu, settled, limit, way, there, back, at_mtu, above }
    }

    fn limit(&self, mtu: u32, above: Option<Tries>) -> Limit {
        let Some(above) = above.filter(|above| above.packet == mtu + 1) else {
            return if mtu == self.largest() { Limit::Largest } else { Limit::Unknown };
        };
        let is_told = self.told.iter().any(|told| told.mtu == mtu);
        if above.refused {
            Limit::Interface
        } else if above.in_fragments > 0 {
            Limit::Fragments
        } else if above.damaged > 0 {
            Limit::Damage
        } else if is_told {
            Limit::Router
        } else if above.told > 0 {
            Limit::RouterWithAnotherMtu
        } else {
            Limit::Silence
        }
    }
}

/// Whether plain loss may explain that nothing of the larger size came back.
fn is_chance(at_mtu: &Tries, above: &Tries) -> bool {
    // half an observation more of each kind, so that a few tries that all passed do not exclude loss
    let lost = f64::from(at_mtu.sent.saturating_sub(at_mtu.whole)) + 0.5;
    let share = lost / (f64::from(at_mtu.sent) + 1.0);
    share.powf(f64::from(above.sent)) > CHANCE_MAX
}

#[cfg(test)]
mod tests;
