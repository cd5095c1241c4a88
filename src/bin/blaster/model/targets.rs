//! The choice among the targets.

use std::net::SocketAddr;

use rand::RngExt;

use crate::model::draw;
use crate::model::no_hosts::NoHostAddresses;
use crate::model::tallies::{Place, TABLE_MAX};
use crate::model::target::{Target, TargetError};

/// All targets, and the choice among them. The draw of a flow or a datagram depends only on the seed and on its number. So
/// it is drawn again when a reply is judged, and takes no memory.
#[derive(Clone, Debug)]
pub(crate) struct Targets {
    all: Vec<Target>,
    seed: u64,
    spray: bool,
    no_hosts: NoHostAddresses,
    /// The number of destinations, if each can have its place in a table.
    places: Option<usize>,
}

impl Targets {
    /// At least one target; with `spray` each datagram draws its own.
    pub(crate) fn new(targets: Vec<Target>, seed: u64, spray: bool) -> Result<Self, TargetError> {
        let size = targets.iter().try_fold(0_u128, |sum, target| sum.checked_add(target.size()?));
        let places = size.filter(|size| *size <= u128::from(TABLE_MAX)).map(|size| size as usize);
        let targets = Self { all: targets, seed, spray, no_hosts: NoHostAddresses::default(), places };
        if spray { targets.of_one_family() } else { Ok(targets) }
    }

    /// The same targets. It is an error if a socket can't reach all of them.
    pub(crate) fn of_one_family(self) -> Result<Self, TargetError> {
        let first = self.all[0].is_ipv4();
        match self.all.iter().find(|target| target.is_ipv4() != first) {
            Some(other) => Err(TargetError::MixedSpray { target: other.to_string() }),
            None => Ok(self),
        }
    }

    /// The same targets, but no datagram goes to `no_hosts`.
    pub(crate) fn without(self, no_hosts: NoHostAddresses) -> Result<Self, TargetError> {
        match self.all.iter().find(|target| no_hosts.has_all_of(target.net())) {
            Some(target) => Err(TargetError::Broadcast { target: target.to_string() }),
            None => Ok(Self { no_hosts, ..self }),
        }
    }

    /// Addresses that no datagram goes to.
    pub(crate) fn no_hosts(&self) -> &NoHostAddresses {
        &self.no_hosts
    }

    /// Whether all datagrams of a flow go to `port`, which is its own port. A server does not answer a datagram that comes
    /// from its own port: the sender might be another echo server. And a datagram to its own sender answers itself.
    pub(crate) fn always_sends_to(&self, flow: u32, port: u16) -> bool {
        let is_here = |target: &Target| target.has_only_port(port);
        if self.spray { self.all.iter().any(is_here) } else { self.of_flow(flow).port() == port }
    }

    /// The number of destinations, if they have places in a table. `None`: they are too many.
    pub(crate) fn places(&self) -> Option<usize> {
        self.places
    }

    /// The place of the counts of `addr`, which is a destination.
    pub(crate) fn place(&self, addr: SocketAddr) -> Place<SocketAddr> {
        if self.places.is_none() {
            return Place::Named(addr);
        }
        let mut before = 0;
        for target in &self.all {
            match target.position(addr) {
                Some(position) => return Place::Table(before + position as usize),
                None => before += target.size().unwrap_or(0) as usize,
            }
        }
        unreachable!("{addr} is a destination")
    }

    /// The destination with this place.
    pub(crate) fn at_place(&self, place: usize) -> SocketAddr {
        let mut place = place as u128;
        for target in &self.all {
            let size = target.size().unwrap_or(u128::MAX);
            if place < size {
                let ports = u128::from(target.ports());
                return target.nth(place / ports, (place % ports) as u32);
            }
            place -= size;
        }
        unreachable!("no destination has place {place}")
    }

    /// Whether a destination has this port.
    pub(crate) fn have_port(&self, port: u16) -> bool {
        self.all.iter().any(|target| target.has_port(port))
    }

    /// Whether each datagram draws its own destination.
    pub(crate) fn spray(&self) -> bool {
        self.spray
    }

    /// The destination of `flow`: targets take turns, and the flow draws within its target.
    pub(crate) fn of_flow(&self, flow: u32) -> SocketAddr {
        let nth = flow as usize % self.all.len();
        let mut rng = draw::rng(self.seed, flow, u64::MAX);
        self.all[nth].draw_wanted(&mut rng, |drawn| self.no_hosts.has(drawn.ip()))
    }

    /// The destination of one datagram, with `spray`; it comes from `own_port`.
    pub(crate) fn of_datagram(&self, flow: u32, sequence: u64, own_port: u16) -> SocketAddr {
        let mut rng = draw::rng(self.seed, flow, sequence);
        let nth = rng.random_range(0..self.all.len());
        self.all[nth].draw_wanted(&mut rng, |drawn| drawn.port() == own_port || self.no_hosts.has(drawn.ip()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_stay_inside_and_come_back_the_same() {
        for text in ["192.0.2.128/25:5000-5003", "[2001:db8:0:7::/64]:any", "10.0.0.0/8:9", "127.0.0.1:7"] {
            let target: Target = text.parse().unwrap();
            let targets = Targets::new(vec![target.clone()], 42, true).unwrap();
            let mut seen = std::collections::BTreeSet::new();
            for sequence in 0..1_000 {
                let addr = targets.of_datagram(3, sequence, 0);
                assert!(target.contains(addr), "{addr} is not in {text}");
                assert_eq!(addr, targets.of_datagram(3, sequence, 0));
                seen.insert(addr);
            }
            assert_eq!(seen.len() == 1, target.is_single(), "{text}");
        }
    }

    #[test]
    fn each_destination_of_a_small_target_has_a_place_of_its_own() {
        let list = ["10.0.0.0/28:7-9", "127.0.0.1:7", "10.0.0.16/32:1-4"].map(|text| text.parse().unwrap());
        let targets = Targets::new(list.to_vec(), 1, true).unwrap();
        let places = targets.places().unwrap();
        assert_eq!(places, 16 * 3 + 1 + 4);
        for place in 0..places {
            assert_eq!(targets.place(targets.at_place(place)), Place::Table(place));
        }
        let targets = |text: &str| Targets::new(vec![text.parse().unwrap()], 1, true).unwrap();
        assert_eq!(targets("10.0.0.0/16:7").places(), Some(65_536));
        for text in ["10.0.0.0/16:7-8", "[2001:db8::/64]:7", "[4000::/2]:any"] {
            assert_eq!(targets(text).places(), None, "{text}");
        }
        let addr = "10.0.0.1:7".parse().unwrap();
        assert_eq!(targets("10.0.0.0/8:any").place(addr), Place::Named(addr));
    }

    #[test]
    fn all_of_a_small_prefix_is_met() {
        let targets = Targets::new(vec!["192.0.2.0/30:7".parse().unwrap()], 1, false).unwrap();
        let seen: std::collections::BTreeSet<_> = (0..100).map(|flow| targets.of_flow(flow)).collect();
        assert_eq!(seen.len(), 4);
    }

    #[test]
    fn no_host_and_the_own_port_are_not_drawn() {
        let no_hosts = NoHostAddresses::of(
            ["10.1.0.1/30", "10.2.0.1/31", "10.3.0.1/32"].map(|net| net.parse().unwrap()),
        );
        let targets = |text: &str, spray| {
            Targets::new(vec![text.parse().unwrap()], 1, spray).unwrap().without(no_hosts.clone())
        };
        for spray in [false, true] {
            let targets = targets("10.1.0.0/29:5000-5001", spray).unwrap();
            let drawn: std::collections::BTreeSet<_> = (0..500)
                .map(
                    |nth| {
                        if spray { targets.of_datagram(3, nth, 5_001) } else { targets.of_flow(nth as u32) }
                    },
                )
                .collect();
            // two of the eight addresses belong to no host, and one of the two ports is the own port of the spraying flow
            assert_eq!(drawn.len(), if spray { 6 } else { 12 }, "{drawn:?}");
        }
        for text in ["10.1.0.0:7", "10.1.0.3/32:7"] {
            assert!(matches!(targets(text, false), Err(TargetError::Broadcast { .. })), "{text}");
        }
        assert!(targets("10.2.0.0/31:7", false).is_ok());
        assert!(targets("127.0.0.0/8:7", true).unwrap().always_sends_to(0, 7));
        assert!(!targets("127.0.0.0/8:7-8", true).unwrap().always_sends_to(0, 7));
    }

    #[test]
    fn targets_take_turns() {
        let list = vec!["127.0.0.1:7".parse().unwrap(), "[::1]:8".parse().unwrap()];
        let targets = Targets::new(list.clone(), 1, false).unwrap();
        assert_eq!(targets.of_flow(4), "127.0.0.1:7".parse().unwrap());
        assert_eq!(targets.of_flow(5), "[::1]:8".parse().unwrap());
        assert!(matches!(Targets::new(list, 1, true), Err(TargetError::MixedSpray { .. })));
    }
}
