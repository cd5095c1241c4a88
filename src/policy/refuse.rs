//! Which datagrams are not answered: those whose reply could start a loop, or would go where no reply belongs.
//!
//! Two echo servers that answer each other do so for ever (CVE-1999-0103, CVE-2024-2169), and one datagram with a forged
//! source is enough to begin that. Between two ordinary ports no rule of one host can tell such a loop from a client that
//! plays ping-pong. These rules catch all cases that can be told.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::policy::address_blocks;
use crate::policy::counters::Traffic;
use crate::policy::flow::Flow;
use crate::policy::limits::{Exceeded, RateLimits, Rates};
use crate::policy::many_hosts::ManyHosts;
use crate::policy::pairs::Pairs;
use crate::policy::recent_pairs::RecentPairs;
use crate::values::counter::Counter;
use crate::values::ports::Ports;

/// Ports below this one belong to servers (RFC 6335, system ports); the kernel gives them to no client. Tools that choose
/// one for themselves (`nping --udp`: 53) are not answered either.
const SYSTEM_PORTS_END: u16 = 1024;

/// Why a datagram is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleRefusal {
    /// Its source is a system port: a service that may answer our reply.
    SystemPort,
    /// Its source address can't belong to one host.
    BadSource,
    /// It was sent to many hosts at once.
    BadDestination,
    /// Its source is a pair of address and port that we answer from.
    OwnPair,
    /// Its source port is one that we listen on: another server like this one may listen there.
    OwnPort,
    /// Its source port is one that we listen on and that clients have, too, and it has used up its hop limit.
    HopLimit,
    /// Its source port is that of a service that is known to answer anybody.
    ReflectorPort,
    /// Its source has had as many replies as it may have now.
    PrefixRate,
    /// All sources together have had as many replies as they may have now.
    ReplyRate,
}

impl RuleRefusal {
    /// The counter of datagrams that are not answered for this reason.
    pub fn counter(self, counters: &Traffic) -> &Counter {
        match self {
            Self::SystemPort => &counters.udp_refused_system_port,
            Self::BadSource => &counters.udp_refused_bad_source,
            Self::BadDestination => &counters.udp_refused_bad_destination,
            Self::OwnPair => &counters.udp_refused_own_pair,
            Self::OwnPort => &counters.udp_refused_own_port,
            Self::HopLimit => &counters.udp_refused_hop_limit,
            Self::ReflectorPort => &counters.udp_refused_reflector_port,
            Self::PrefixRate => &counters.udp_refused_prefix_rate,
            Self::ReplyRate => &counters.udp_refused_reply_rate,
        }
    }
}

/// Ports of UDP services that answer anybody, so that attackers reflect floods by them and begin loops. Left out are system
/// ports and ports that Linux gives to clients. The services are those that CISA's alert TA14-017A and Shadowserver's daily
/// reports count. In ascending order.
const REFLECTOR_PORTS: [u16; 27] = [
    1194,  // OpenVPN
    1434,  // Microsoft SQL Server Resolution Protocol
    1604,  // Citrix ICA browser
    1900,  // SSDP
    2049,  // NFS
    2123,  // GTP control
    3283,  // Apple Remote Desktop
    3389,  // Remote Desktop
    3478,  // STUN
    3702,  // WS-Discovery
    4500,  // IPsec, past NATs
    5060,  // SIP
    5093,  // Sentinel licences
    5351,  // NAT-PMP
    5353,  // multicast DNS
    5683,  // CoAP
    6881,  // BitTorrent
    9987,  // TeamSpeak
    10001, // Ubiquiti discovery
    10074, // Mitel TP-240
    11211, // memcached
    17185, // VxWorks debugging
    20800, // Call of Duty
    26000, // Quake
    27015, // Steam
    27960, // Quake III
    32414, // Plex discovery
];

/// The rules of this process; all workers share them.
#[derive(Clone, Debug)]
pub struct Rules {
    listening_ports: Vec<u16>,
    /// Where we listen on ports that clients may have, too.
    client_like: Vec<SocketAddr>,
    pairs: Arc<Pairs>,
    /// Other addresses on those ports that we answered from lately.
    answered: Arc<RecentPairs>,
    /// The open Internet is served on purpose (`--public`).
    public: bool,
}

impl Rules {
    /// Rules for a server that listens on `listening`; these are added to `pairs`. The system gives ports in `local_ports`
    /// (`net.ipv4.ip_local_port_range`) to clients. If a listening port is one of them, only pairs with that port are refused:
    /// the listening ones, and those that we answered from lately.
    pub fn new(listening: &[SocketAddr], local_ports: RangeInclusive<u16>, pairs: Arc<Pairs>) -> Self {
        let (mut listening_ports, mut client_like) = (Vec::new(), Vec::new());
        for addr in listening {
            pairs.insert(*addr);
            if local_ports.contains(&addr.port()) {
                if !client_like.contains(addr) {
                    client_like.push(*addr);
                }
            } else if !listening_ports.contains(&addr.port()) {
                listening_ports.push(addr.port());
            }
        }
        Self { listening_ports, client_like, pairs, answered: Arc::default(), public: false }
    }

    /// The same rules where the system gives the `reserved` ports to no client (`net.ipv4.ip_local_reserved_ports`). Every
    /// datagram from one of them that is listened on is refused.
    #[must_use]
    pub fn reserving(mut self, reserved: &Ports) -> Self {
        for own in self.client_like.extract_if(.., |own| reserved.contains(own.port())) {
            if !self.listening_ports.contains(&own.port()) {
                self.listening_ports.push(own.port());
            }
        }
        self
    }

    /// Whether we listen on this port and clients may have it, too.
    pub fn is_client_like(&self, port: u16) -> bool {
        self.client_like.iter().any(|own| own.port() == port)
    }

    /// Whether there is such a port: then the hop limit of each datagram has to be received.
    pub fn needs_hops(&self) -> bool {
        !self.client_like.is_empty()
    }

    /// The hop limit of the reply to a datagram that came with the hop limit `received`; 0 leaves it to the socket.
    ///
    /// A datagram from a port that we listen on and that clients may have, too, may be the reply of another server like this
    /// one. Nothing tells them apart, so its reply leaves with one hop less than it came with. Between two such servers a
    /// datagram goes round 255 times at the most, as it would in a loop of routers. A client gets its replies as long as its
    /// datagrams used up less than half of their hops on the way, and no path is that long.
    pub fn hops(&self, flow: &Flow, received: Option<u8>) -> Result<u8, RuleRefusal> {
        if !self.is_client_like(flow.peer.port()) {
            return Ok(0);
        }
        match received {
            // the kernel did not tell it, though it was asked to
            None => Err(RuleRefusal::OwnPort),
            Some(0 | 1) => Err(RuleRefusal::HopLimit),
            Some(hops) => Ok(hops - 1),
        }
    }

    /// The same rules for a server of the open Internet, where sources are forged every day.
    #[must_use]
    pub fn public(self) -> Self {
        Self { public: true, ..self }
    }

    /// Whether a datagram was sent to a public address without `--public`.
    pub fn is_exposed(&self, flow: &Flow) -> bool {
        !self.public && address_blocks::is_public(flow.origdst.ip())
    }

    /// The pairs that we answer from.
    pub fn pairs(&self) -> Arc<Pairs> {
        Arc::clone(&self.pairs)
    }

    /// Whether, and why, a datagram is not answered.
    pub fn refuse(&self, flow: &Flow) -> Option<RuleRefusal> {
        let Flow { peer, origdst } = *flow;
        if peer.port() < SYSTEM_PORTS_END {
            Some(RuleRefusal::SystemPort)
        } else if !is_one_host(peer.ip()) {
            Some(RuleRefusal::BadSource)
        } else if is_many_hosts(origdst.ip()) {
            Some(RuleRefusal::BadDestination)
        } else if peer == origdst || self.pairs.contains(peer) || self.was_answered_from(peer) {
            // the first check is for a socket that is bound to all addresses: `pairs` has only 0.0.0.0 or :: of it
            Some(RuleRefusal::OwnPair)
        } else if self.listening_ports.contains(&peer.port()) {
            Some(RuleRefusal::OwnPort)
        } else if self.public && REFLECTOR_PORTS.binary_search(&peer.port()).is_ok() {
            Some(RuleRefusal::ReflectorPort)
        } else {
            if self.client_like.iter().any(|own| own.port() == origdst.port() && own.ip() != origdst.ip()) {
                self.answered.insert(origdst);
            }
            None
        }
    }

    fn was_answered_from(&self, peer: SocketAddr) -> bool {
        self.is_client_like(peer.port()) && self.answered.contains(peer)
    }
}

/// Decides for a worker which datagrams are answered: by the rules, and then by the rates.
#[derive(Debug)]
pub struct Admission {
    rules: Rules,
    rates: Option<RateLimits>,
}

impl Admission {
    /// Admission by these rules and rates.
    pub fn new(rules: Rules, rates: Rates) -> Self {
        Self { rules, rates: RateLimits::new(rates) }
    }

    /// The rules.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Whether, and why, so many `datagrams` of one flow are not answered.
    pub fn refuse(&mut self, flow: &Flow, datagrams: u32) -> Option<RuleRefusal> {
        let refusal = self.rules.refuse(flow);
        match &mut self.rates {
            Some(rates) if refusal.is_none() => match rates.exceeded(flow.peer.ip(), datagrams)? {
                Exceeded::PerPrefix => Some(RuleRefusal::PrefixRate),
                Exceeded::Replies => Some(RuleRefusal::ReplyRate),
            },
            _ => refusal,
        }
    }

    /// The turn ends.
    pub fn end_turn(&mut self) {
        if let Some(rates) = &mut self.rates {
            rates.end_turn();
        }
    }
}

/// Multicast or 255.255.255.255. The broadcast address of a network of ours is recognized later, when no reply can leave
/// from it.
fn is_many_hosts(ip: IpAddr) -> bool {
    ManyHosts::by_number(ip).is_some()
}

/// Whether a datagram can come from this address: not from 0.0.0.0/8, 255.0.0.0/8 or ::, not from an IPv4-mapped IPv6
/// address, not from multicast or broadcast.
fn is_one_host(ip: IpAddr) -> bool {
    let odd = match ip {
        IpAddr::V4(ip) => matches!(ip.octets()[0], 0 | 255),
        IpAddr::V6(ip) => ip.is_unspecified() || ip.to_ipv4_mapped().is_some(),
    };
    !odd && !is_many_hosts(ip)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn rules() -> Rules {
        let listening = ["127.0.0.1:1234", "[::1]:1234", "127.0.0.1:40000"].map(|addr| addr.parse().unwrap());
        Rules::new(&listening, 32768..=60999, Arc::new(Pairs::new(8)))
    }

    #[test]
    fn a_pair_that_was_answered_from_on_a_port_like_a_clients_is_no_client() {
        let rules = rules();
        let [one, other] = ["192.0.2.1:40000", "192.0.2.2:40000"].map(|addr| addr.parse().unwrap());
        assert_eq!(rules.refuse(&Flow { peer: one, origdst: other }), None);
        let answer = Flow { peer: other, origdst: one };
        assert_eq!(rules.clone().refuse(&answer), Some(RuleRefusal::OwnPair), "by any worker");
    }

    #[test]
    fn a_reply_that_may_go_to_another_server_has_one_hop_less() {
        let rules = rules();
        assert!(rules.needs_hops());
        let hops = |peer: &str, received| {
            let flow = Flow { peer: peer.parse().unwrap(), origdst: "127.0.0.1:1234".parse().unwrap() };
            rules.hops(&flow, received)
        };
        assert_eq!(hops("192.0.2.1:50000", Some(1)), Ok(0), "a client's hops don't matter");
        assert_eq!(hops("192.0.2.1:40000", Some(64)), Ok(63));
        assert_eq!(hops("[2001:db8::1]:40000", Some(2)), Ok(1));
        assert_eq!(hops("192.0.2.1:40000", Some(1)), Err(RuleRefusal::HopLimit));
        assert_eq!(hops("192.0.2.1:40000", Some(0)), Err(RuleRefusal::HopLimit));
        assert_eq!(hops("192.0.2.1:40000", None), Err(RuleRefusal::OwnPort));
    }

    #[test]
    fn a_port_that_is_reserved_is_no_clients() {
        let rules = rules().reserving(&"40000,5000".parse().unwrap());
        assert!(!rules.needs_hops());
        let flow =
            Flow { peer: "192.0.2.1:40000".parse().unwrap(), origdst: "127.0.0.1:1234".parse().unwrap() };
        assert_eq!(rules.refuse(&flow), Some(RuleRefusal::OwnPort));
    }

    #[test]
    fn only_other_pairs_on_a_port_like_a_clients_are_remembered() {
        let rules = rules();
        let peer = "192.0.2.1:50000".parse().unwrap();
        for (origdst, remembered) in
            [("127.0.0.2:40000", true), ("127.0.0.1:40000", false), ("127.0.0.2:1234", false)]
        {
            let origdst = origdst.parse().unwrap();
            assert_eq!(rules.refuse(&Flow { peer, origdst }), None);
            assert_eq!(rules.answered.contains(origdst), remembered, "{origdst} takes a place");
        }
    }

    #[test]
    fn each_refusal_has_the_counter_of_its_name_and_no_other() {
        for refusal in [
            RuleRefusal::SystemPort,
            RuleRefusal::BadSource,
            RuleRefusal::BadDestination,
            RuleRefusal::OwnPair,
            RuleRefusal::OwnPort,
            RuleRefusal::HopLimit,
            RuleRefusal::ReflectorPort,
            RuleRefusal::PrefixRate,
            RuleRefusal::ReplyRate,
        ] {
            let counters = Traffic::default();
            refusal.counter(&counters).add(3);
            let counted: Vec<_> = counters.entries().filter(|entry| entry.value > 0).collect();
            let name: String = format!("{refusal:?}")
                .chars()
                .flat_map(|c| c.is_uppercase().then_some('_').into_iter().chain(c.to_lowercase()))
                .collect();
            assert_eq!(counted.len(), 1);
            assert_eq!((counted[0].name, counted[0].value), (&*format!("udp_refused{name}"), 3));
        }
    }

    #[test]
    fn datagrams_to_public_addresses_are_exposed_without_public() {
        let flow = |origdst: &str| Flow {
            peer: "192.0.2.1:5000".parse().unwrap(),
            origdst: origdst.parse().unwrap(),
        };
        for (origdst, exposed) in [
            ("8.8.8.8:1234", true),
            ("127.0.0.1:1234", false),
            ("[2600::1]:1234", true),
            ("[::1]:1234", false),
        ] {
            assert_eq!(rules().is_exposed(&flow(origdst)), exposed, "{origdst}");
            assert!(!rules().public().is_exposed(&flow(origdst)), "{origdst}: on purpose");
        }
    }

    #[test]
    fn both_rates_are_told_apart_and_each_turn_has_its_own_time() {
        let flow = |ip: u8| Flow {
            peer: SocketAddr::from(([192, 0, ip, 1], 5000)),
            origdst: "127.0.0.1:1234".parse().unwrap(),
        };
        let rates = Rates { per_prefix: NonZeroU32::new(1), replies: NonZeroU32::new(20) };
        let mut admission = Admission::new(rules(), rates);
        assert_eq!(admission.refuse(&flow(1), 1), None);
        assert_eq!(admission.refuse(&flow(1), 1), Some(RuleRefusal::PrefixRate));
        assert_eq!(admission.refuse(&flow(2), 1), None);
        assert_eq!(admission.refuse(&flow(3), 1), Some(RuleRefusal::ReplyRate), "two at once");
        // the clock was read for the turn; the next one reads it again
        let begun = std::time::Instant::now();
        while begun.elapsed() < std::time::Duration::from_millis(60) {
            std::thread::yield_now();
        }
        assert_eq!(admission.refuse(&flow(4), 1), Some(RuleRefusal::ReplyRate));
        admission.end_turn();
        assert_eq!(admission.refuse(&flow(5), 1), None);
    }

    #[test]
    fn on_the_internet_ports_that_reflect_are_not_answered() {
        assert!(REFLECTOR_PORTS.is_sorted());
        assert!(
            REFLECTOR_PORTS.iter().all(|port| (SYSTEM_PORTS_END..32_768).contains(port)),
            "clients have others"
        );
        let rules = rules();
        for port in REFLECTOR_PORTS {
            let peer = SocketAddr::from(([192, 0, 2, 1], port));
            let flow = Flow { peer, origdst: "127.0.0.1:1234".parse().unwrap() };
            assert_eq!(rules.refuse(&flow), None, "{port}");
            assert_eq!(rules.clone().public().refuse(&flow), Some(RuleRefusal::ReflectorPort), "{port}");
        }
    }

    #[test]
    fn a_datagram_that_the_rules_refuse_costs_no_rate() {
        let rates = Rates { per_prefix: NonZeroU32::new(1), replies: None };
        let mut admission = Admission::new(rules(), rates);
        let origdst = "127.0.0.1:1234".parse().unwrap();
        let [system, client] =
            ["192.0.2.1:7", "192.0.2.1:5000"].map(|peer| Flow { peer: peer.parse().unwrap(), origdst });
        assert_eq!(admission.refuse(&system, 1), Some(RuleRefusal::SystemPort));
        assert_eq!(admission.refuse(&client, 1), None);
        assert_eq!(admission.refuse(&client, 1), Some(RuleRefusal::PrefixRate));
    }

    #[test]
    fn each_rule_refuses_what_it_names_and_a_client_notices_nothing() {
        let rules = rules();
        let pair = "127.0.0.9:5000";
        rules.pairs.insert(pair.parse::<SocketAddr>().unwrap());
        for (peer, origdst, wanted) in [
            ("127.0.0.1:50000", "127.0.0.1:1234", None),
            ("127.0.0.1:1024", "127.0.0.77:9999", None),
            ("[2001:db8::1]:50000", "[::1]:1234", None),
            ("192.0.2.1:7", "127.0.0.1:1234", Some(RuleRefusal::SystemPort)),
            ("192.0.2.1:1023", "127.0.0.1:1234", Some(RuleRefusal::SystemPort)),
            ("0.1.2.3:5000", "127.0.0.1:1234", Some(RuleRefusal::BadSource)),
            ("224.0.0.1:5000", "127.0.0.1:1234", Some(RuleRefusal::BadSource)),
            ("255.1.2.3:5000", "127.0.0.1:1234", Some(RuleRefusal::BadSource)),
            ("[::]:5000", "[::1]:1234", Some(RuleRefusal::BadSource)),
            ("[::ffff:192.0.2.1]:5000", "[::1]:1234", Some(RuleRefusal::BadSource)),
            ("[ff02::1]:5000", "[::1]:1234", Some(RuleRefusal::BadSource)),
            ("192.0.2.1:5000", "224.0.0.251:1234", Some(RuleRefusal::BadDestination)),
            ("192.0.2.1:5000", "255.255.255.255:1234", Some(RuleRefusal::BadDestination)),
            ("[2001:db8::1]:5000", "[ff02::1]:1234", Some(RuleRefusal::BadDestination)),
            ("127.0.0.1:1234", "127.0.0.1:1234", Some(RuleRefusal::OwnPair)),
            (pair, "127.0.0.1:1234", Some(RuleRefusal::OwnPair)),
            ("127.0.0.5:7777", "127.0.0.5:7777", Some(RuleRefusal::OwnPair)),
            ("192.0.2.1:1234", "127.0.0.1:1234", Some(RuleRefusal::OwnPort)),
            ("127.0.0.1:40000", "127.0.0.1:1234", Some(RuleRefusal::OwnPair)),
            ("192.0.2.1:40000", "127.0.0.1:1234", None),
        ] {
            let flow = Flow { peer: peer.parse().unwrap(), origdst: origdst.parse().unwrap() };
            assert_eq!(rules.refuse(&flow), wanted, "{peer} → {origdst}");
        }
    }
}
