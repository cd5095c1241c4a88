//! Many destinations with faults, summed up as prefixes and ranges of ports.
//!
//! A summary claims nothing that was not seen. A prefix stands in it only if all visited addresses of the prefix have the
//! fault, and if it lies in a target. "All ports" are all visited ports of these addresses.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use crate::model::counts::{Fault, Tally};
use crate::model::units::count;

/// Destinations with the same fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) fault: Fault,
    pub(crate) net: IpNet,
    /// The interface of a link-local address, else 0.
    pub(crate) scope_id: u32,
    pub(crate) ports: Ports,
    /// How many visited destinations it stands for.
    pub(crate) destinations: u64,
    /// The sum of theirs.
    pub(crate) tally: Tally,
}

/// Ports of a group. Sources have port 0 only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ports {
    /// All visited ones, two or more for each address.
    All,
    /// Ranges, by their first and last port.
    Ranges(Vec<(u16, u16)>),
}

/// So many ranges of ports are written out.
const RANGES_SHOWN: usize = 8;

impl Ports {
    /// As text. `None`: all, or that of a source.
    pub(crate) fn words(&self) -> Option<String> {
        let Self::Ranges(ranges) = self else { return None };
        if *ranges == [(0, 0)] {
            return None;
        }
        let shown = ranges
            .iter()
            .take(RANGES_SHOWN)
            .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") });
        let shown = shown.collect::<Vec<_>>().join(",");
        let others = ranges.iter().skip(RANGES_SHOWN).map(|(first, last)| u32::from(last - first) + 1);
        let others: u32 = others.sum();
        Some(if others == 0 { shown } else { format!("{shown} and {} other ports", count(others.into())) })
    }
}

impl Group {
    /// Addresses and ports: `192.0.2.77:1234`, or `192.0.2.128/27, all ports`; of sources the addresses.
    pub(crate) fn place(&self) -> String {
        let zone = if self.scope_id == 0 { String::new() } else { format!("%{}", self.scope_id) };
        let mut place = format!("{}{zone}", self.net.addr());
        if self.net.prefix_len() < self.net.max_prefix_len() {
            place = format!("{place}/{}", self.net.prefix_len());
        }
        match self.ports.words() {
            None if self.ports == Ports::All => format!("{place}, all ports"),
            None => place,
            Some(ports) if self.net.addr().is_ipv6() => format!("[{place}]:{ports}"),
            Some(ports) => format!("{place}:{ports}"),
        }
    }
}

/// Sums up the destinations with faults. `visited` are all destinations that were visited, each once; `nets` are the
/// networks of the targets; without them, `visited` are only those with faults. The worst groups come first.
pub(crate) fn summarize(visited: &[(SocketAddr, Tally)], nets: &[IpNet]) -> Vec<Group> {
    let mut spaces: BTreeMap<(bool, u32), Space> = BTreeMap::new();
    for (addr, tally) in visited {
        let scope_id = if let SocketAddr::V6(addr) = addr { addr.scope_id() } else { 0 };
        let space = spaces.entry((addr.is_ipv6(), scope_id)).or_default();
        space.addresses.entry(bits(addr.ip())).or_default().insert(addr.port(), *tally);
    }
    let mut groups = Vec::new();
    for ((is_ipv6, scope_id), space) in spaces {
        let nets: Vec<IpNet> =
            nets.iter().filter(|net| matches!(net, IpNet::V6(_)) == is_ipv6).copied().collect();
        space.sum_up(is_ipv6, scope_id, &nets, &mut groups);
    }
    groups.sort_by_key(|group| {
        let wrong = u64::MAX - group.tally.wrong();
        (wrong, group.fault, group.scope_id, group.net, group.ports.clone())
    });
    groups
}

/// An address as a number; a prefix is an interval of such numbers.
fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().into(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// The visited destinations of one address family and interface: by address, by port.
#[derive(Default)]
struct Space {
    addresses: BTreeMap<u128, BTreeMap<u16, Tally>>,
}

/// Addresses whose wrong ports are the same, and their number and tally.
type Members = BTreeMap<u128, (u64, Tally)>;

impl Space {
    fn sum_up(self, is_ipv6: bool, scope_id: u32, nets: &[IpNet], groups: &mut Vec<Group>) {
        let mut same: BTreeMap<(Fault, Ports), Members> = BTreeMap::new();
        for (address, by_port) in &self.addresses {
            for fault in Fault::ALL {
                let wrong: Vec<_> =
                    by_port.iter().filter(|(_, tally)| tally.fault() == Some(fault)).collect();
                if wrong.is_empty() {
                    continue;
                }
                let mut sum = Tally::default();
                for (_, tally) in &wrong {
                    sum += tally;
                }
                // without networks, other destinations are not known
                let ports = if !nets.is_empty() && wrong.len() > 1 && wrong.len() == by_port.len() {
                    Ports::All
                } else {
                    Ports::Ranges(ranges(wrong.iter().map(|(port, _)| **port)))
                };
                let members = same.entry((fault, ports)).or_default();
                members.insert(*address, (wrong.len() as u64, sum));
            }
        }
        let visited: Vec<u128> = self.addresses.into_keys().collect();
        let width = if is_ipv6 { 128 } else { 32 };
        for ((fault, ports), members) in &same {
            let wholly = if *ports == Ports::All { None } else { same.get(&(*fault, Ports::All)) };
            let wholly: Vec<u128> = wholly.into_iter().flat_map(|members| members.keys().copied()).collect();
            let cover = Cover { visited: &visited, wholly: &wholly, nets, width };
            let all: Vec<u128> = members.keys().copied().collect();
            let mut found = Vec::new();
            cover.prefixes(&all, 0, 0, &mut found);
            for (base, prefix_len) in found {
                let mut group = Group {
                    fault: *fault,
                    net: cover.net(base, prefix_len),
                    scope_id,
                    ports: ports.clone(),
                    destinations: 0,
                    tally: Tally::default(),
                };
                let last = base | cover.host_mask(prefix_len);
                for (destinations, tally) in members.range(base..=last).map(|(_, it)| it) {
                    group.destinations += destinations;
                    group.tally += tally;
                }
                groups.push(group);
            }
        }
    }
}

/// Runs of neighbouring ports. `ports` are in order.
fn ranges(ports: impl Iterator<Item = u16>) -> Vec<(u16, u16)> {
    let mut found: Vec<(u16, u16)> = Vec::new();
    for port in ports {
        match found.last_mut() {
            Some((_, last)) if *last + 1 == port => *last = port,
            _ => found.push((port, port)),
        }
    }
    found
}

/// The search for prefixes that cover some of the visited addresses, and none of the others.
struct Cover<'a> {
    /// In order.
    visited: &'a [u128],
    /// Addresses whose ports all have the same fault, in order: a prefix may hold them, too.
    wholly: &'a [u128],
    nets: &'a [IpNet],
    /// Bits of an address.
    width: u8,
}

impl Cover<'_> {
    /// Adds the largest prefixes within base/prefix_len that cover `members`, which are in order and lie in it.
    fn prefixes(&self, members: &[u128], base: u128, prefix_len: u8, found: &mut Vec<(u128, u8)>) {
        match members {
            [] => {}
            [only] => found.push((*only, self.width)),
            _ if self.is_covered(members.len(), base, prefix_len) => found.push((base, prefix_len)),
            _ => {
                let half = base | 1 << (self.width - prefix_len - 1);
                let (low, high) = members.split_at(members.partition_point(|member| *member < half));
                self.prefixes(low, base, prefix_len + 1, found);
                self.prefixes(high, half, prefix_len + 1, found);
            }
        }
    }

    /// Whether the prefix lies in a target, and all its visited addresses have the fault; `members` of them are counted.
    fn is_covered(&self, members: usize, base: u128, prefix_len: u8) -> bool {
        let inside = |all: &[u128]| {
            let last = base | self.host_mask(prefix_len);
            all.partition_point(|address| *address <= last) - all.partition_point(|address| *address < base)
        };
        let net = self.net(base, prefix_len);
        self.nets.iter().any(|target| target.contains(&net))
            && inside(self.visited) == members + inside(self.wholly)
    }

    fn host_mask(&self, prefix_len: u8) -> u128 {
        let host_bits = u32::from(self.width - prefix_len);
        1_u128.checked_shl(host_bits).map_or(u128::MAX, |end| end - 1)
    }

    fn net(&self, base: u128, prefix_len: u8) -> IpNet {
        let ip = if self.width == 32 {
            IpAddr::V4(Ipv4Addr::from_bits(base as u32))
        } else {
            IpAddr::V6(Ipv6Addr::from_bits(base))
        };
        IpNet::new(ip, prefix_len).expect("no prefix is longer than an address")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::model::target::Target;

    fn tally(fault: Option<Fault>) -> Tally {
        let right = Tally { sent: 2, ..Tally::default() };
        match fault {
            None => right,
            Some(Fault::Misdirected) => Tally { misdirected: 1, ..right },
            Some(Fault::Corrupted) => Tally { damaged: 1, ..right },
            Some(Fault::Silent) => Tally { lost: 2, ..right },
            Some(Fault::Lossy) => Tally { lost: 1, ..right },
            Some(Fault::Late) => Tally { late: 1, ..right },
            Some(Fault::Unsendable) => Tally { refused: 1, ..right },
        }
    }

    fn is_in(addr: SocketAddr, group: &Group) -> bool {
        group.net.contains(&addr.ip())
            && match &group.ports {
                Ports::All => true,
                Ports::Ranges(ranges) => {
                    ranges.iter().any(|(first, last)| (*first..=*last).contains(&addr.port()))
                }
            }
    }

    /// All destinations of a target, with the fault that `of` says.
    fn visited(
        target: &str,
        of: impl Fn(SocketAddr) -> Option<Fault>,
    ) -> (Vec<(SocketAddr, Tally)>, Vec<IpNet>) {
        let target: Target = target.parse().unwrap();
        let size = target.addresses().unwrap();
        let all = (0..size).flat_map(|address| (0..target.ports()).map(move |port| (address, port)));
        let all = all.map(|(address, port)| target.nth(address, port));
        (all.map(|addr| (addr, tally(of(addr)))).collect(), vec![target.net()])
    }

    fn words(groups: &[Group]) -> Vec<String> {
        let words =
            |group: &Group| format!("{} {} {}", group.place(), group.fault.name(), group.destinations);
        groups.iter().map(words).collect()
    }

    #[test]
    fn one_address_a_prefix_and_a_port() {
        let net: IpNet = "192.0.2.128/27".parse().unwrap();
        let (all, nets) = visited("192.0.2.0/24:1234-1237", |addr| match addr.ip().to_string().as_str() {
            "192.0.2.77" if addr.port() == 1234 => Some(Fault::Silent),
            "192.0.2.78" if addr.port() != 1234 => Some(Fault::Silent),
            _ if net.contains(&addr.ip()) => Some(Fault::Misdirected),
            _ => None,
        });
        assert_eq!(
            words(&summarize(&all, &nets)),
            [
                "192.0.2.128/27, all ports misdirected 128",
                "192.0.2.78:1235-1237 silent 3",
                "192.0.2.77:1234 silent 1",
            ]
        );
    }

    #[test]
    fn a_port_and_a_host_that_cross_each_other() {
        let (all, nets) = visited("[2001:db8::/120]:5000-5003", |addr| {
            let is_wrong = addr.port() == 5002 || addr.ip().to_string() == "2001:db8::7";
            is_wrong.then_some(Fault::Silent)
        });
        assert_eq!(
            words(&summarize(&all, &nets)),
            ["[2001:db8::/120]:5002 silent 255", "2001:db8::7, all ports silent 4",]
        );
    }

    #[test]
    fn no_more_than_the_target_is_claimed() {
        let (all, nets) = visited("192.0.2.0/25:7", |_| Some(Fault::Silent));
        assert_eq!(words(&summarize(&all, &nets)), ["192.0.2.0/25:7 silent 128"]);
        // neighbours, but each a target of its own
        let nets = ["192.0.2.6/32".parse().unwrap(), "192.0.2.7/32".parse().unwrap()];
        let two: Vec<_> = all[6..8].to_vec();
        assert_eq!(words(&summarize(&two, &nets)), ["192.0.2.6:7 silent 1", "192.0.2.7:7 silent 1"]);
        assert_eq!(summarize(&[], &nets), []);
        // other destinations are not known
        let (all, _) = visited("192.0.2.0/31:7-8", |_| Some(Fault::Lossy));
        assert_eq!(words(&summarize(&all, &[])), ["192.0.2.0:7-8 lossy 2", "192.0.2.1:7-8 lossy 2"]);
        // sources have no ports
        let (all, nets) = visited("192.0.2.0/30:1", |_| Some(Fault::Silent));
        let sources: Vec<_> = all.iter().map(|(addr, tally)| ((addr.ip(), 0).into(), *tally)).collect();
        assert_eq!(words(&summarize(&sources, &nets)), ["192.0.2.0/30 silent 4"]);
    }

    #[test]
    fn a_long_list_of_ports_is_cut() {
        let (all, nets) =
            visited("127.0.0.1:1000-1999", |addr| (addr.port() % 2 == 0).then_some(Fault::Silent));
        assert_eq!(
            words(&summarize(&all, &nets)),
            ["127.0.0.1:1000,1002,1004,1006,1008,1010,1012,1014 and 492 other ports silent 500"]
        );
    }

    proptest! {
        /// Each destination with a fault is in one group of that fault at least, no other visited destination is, and
        /// no destination is counted twice.
        #[test]
        fn a_summary_is_true_and_whole(
            faults in prop::collection::vec(prop::option::weighted(0.5, 0..6_usize), 64 * 4),
            left_out in prop::collection::btree_set(0..64 * 4_usize, 0..60),
            split in 0..=6_u8,
        ) {
            let of = |nth: usize| faults[nth].map(|fault| Fault::ALL[fault]);
            let (all, _) = visited("10.0.0.64/26:20-23", |_| None);
            let all = all.into_iter().enumerate().filter(|(nth, _)| !left_out.contains(nth));
            let all: Vec<_> = all.map(|(nth, (addr, _))| (addr, tally(of(nth)))).collect();
            let net: IpNet = "10.0.0.64/26".parse().unwrap();
            let nets: Vec<IpNet> = net.subnets(26 + split).unwrap().collect();
            let groups = summarize(&all, &nets);
            for (addr, tally) in &all {
                let found: BTreeSet<_> =
                    groups.iter().filter(|group| is_in(*addr, group)).map(|group| group.fault).collect();
                prop_assert_eq!(found, tally.fault().into_iter().collect(), "{}", addr);
            }
            let wrong = all.iter().filter(|(_, tally)| tally.fault().is_some()).count() as u64;
            prop_assert_eq!(groups.iter().map(|group| group.destinations).sum::<u64>(), wrong);
            let is_inside = |group: &Group| nets.iter().any(|net| net.contains(&group.net));
            prop_assert!(groups.iter().all(is_inside));
        }
    }
}
