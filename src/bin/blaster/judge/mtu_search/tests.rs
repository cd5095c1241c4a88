use rand::RngExt;

use super::*;
use crate::model::draw;

const INTERFACE: u32 = 1_500;
const ROUTER: &str = "192.0.2.1";

/// A path that answers as this one says.
#[derive(Clone, Copy)]
struct Path {
    is_ipv4: bool,
    interface: u32,
    there: u32,
    back: u32,
    /// The MTU that a router tells. `None`: it tells nothing.
    told: Option<u32>,
    /// So many percent of the datagrams are lost.
    loss: u32,
    seed: u64,
}

const OPEN: Path = Path {
    is_ipv4: true,
    interface: INTERFACE,
    there: INTERFACE,
    back: INTERFACE,
    told: None,
    loss: 0,
    seed: 0,
};

impl Path {
    /// What becomes of the nth datagram, in the order of events. `None`: silence.
    fn answer(&self, probe: Probe, nth: u32) -> Option<Event> {
        let Probe { packet, may_fragment } = probe;
        if packet > self.interface && !may_fragment {
            return Some(Event::Refused { mtu: Some(self.interface) });
        }
        let is_lost = draw::rng(self.seed, nth, 0).random_range(0..100) < self.loss;
        let fragments_pass = may_fragment && (self.is_ipv4 || packet > self.interface);
        if is_lost {
            None
        } else if packet > self.there && !fragments_pass {
            self.told.map(|mtu| Event::Told { from: Some(ROUTER.parse().unwrap()), mtu })
        } else if packet > self.back.min(self.interface) {
            // as tubular-echo does: routers may fragment its replies over IPv4, and the host of the server fragments what
            // is larger than its own link
            let fragments = if self.is_ipv4 { self.back } else { self.interface };
            let largest = largest_fragment(fragments, self.is_ipv4);
            (fragments <= self.back).then_some(Event::InFragments(largest))
        } else {
            Some(Event::Whole)
        }
    }

    /// Searches to the end.
    fn search_on(&self, mut search: Search) -> Search {
        let mut nth = 0;
        loop {
            let probes = search.next();
            if probes.is_empty() {
                assert!(search.sent() < DATAGRAMS_MAX && search.rounds < ROUNDS_MAX, "it ended of itself");
                return search;
            }
            for probe in probes {
                nth += 1;
                let answer = self.answer(probe, nth);
                if !matches!(answer, Some(Event::Refused { .. })) {
                    search.note_sent(probe);
                }
                if let Some(event) = answer {
                    search.note(probe, event);
                }
            }
        }
    }

    fn search(&self) -> Search {
        self.search_on(Search::new(self.is_ipv4))
    }

    fn find(&self) -> Finding {
        self.search().finding()
    }
}

/// The largest fragment for a link: the parts of all but the last are multiples of eight bytes.
fn largest_fragment(link: u32, is_ipv4: bool) -> u32 {
    let headers = if is_ipv4 { 20 } else { 48 };
    (link - headers) / 8 * 8 + headers
}

fn summary(finding: &Finding) -> (Option<u32>, Limit, Option<Way>, bool) {
    (finding.mtu, finding.limit, finding.way, finding.settled)
}

#[test]
fn an_open_path_takes_few_datagrams() {
    for path in [OPEN, Path { is_ipv4: false, ..OPEN }] {
        let search = path.search();
        assert_eq!(summary(&search.finding()), (Some(1_500), Limit::Interface, Some(Way::There), true));
        assert!(search.sent() <= 3, "{}", search.sent());
    }
    let jumbo = Path { interface: 9_000, there: 9_000, back: 9_000, ..OPEN };
    assert_eq!(jumbo.find().mtu, Some(9_000));
    let loopback = Path { interface: 65_536, there: 65_536, back: 65_536, ..OPEN };
    assert_eq!(summary(&loopback.find()), (Some(65_535), Limit::Largest, None, true));
    let loopback = Path { is_ipv4: false, ..loopback };
    assert_eq!(summary(&loopback.find()), (Some(65_536), Limit::Interface, Some(Way::There), true));
}

#[test]
fn every_mtu_is_found_exactly_if_a_router_tells_it_and_if_nobody_does() {
    for is_ipv4 in [true, false] {
        for mtu in (80..1_270).step_by(7).chain(1_270..INTERFACE) {
            let silent = Path { is_ipv4, there: mtu, ..OPEN };
            let search = silent.search();
            let finding = search.finding();
            assert_eq!(
                (finding.mtu, finding.limit, finding.settled),
                (Some(mtu), Limit::Silence, true),
                "{mtu}"
            );
            // the fragments of IPv6 tell of ways up to the largest fragment
            let is_known = is_ipv4 || mtu < largest_fragment(INTERFACE, false);
            assert_eq!(finding.way, is_known.then_some(Way::There), "{mtu}");
            let told = Path { told: Some(mtu), ..silent }.search();
            let finding = told.finding();
            assert_eq!(summary(&finding), (Some(mtu), Limit::Router, Some(Way::There), true), "{mtu}");
            assert!(told.sent() <= 8, "{mtu}: {}", told.sent());
        }
    }
    // between jumbo frames and the usual ones
    for mtu in (1_500..9_000).step_by(37) {
        let path = Path { interface: 9_216, there: mtu, back: 9_216, ..OPEN };
        assert_eq!(summary(&path.find()), (Some(mtu), Limit::Silence, Some(Way::There), true), "{mtu}");
    }
}

#[test]
fn a_smaller_way_back_is_told_from_a_smaller_way_there() {
    for mtu in [576, 1_280, 1_399, 1_400, 1_492] {
        let finding = Path { back: mtu, ..OPEN }.find();
        assert_eq!(summary(&finding), (Some(mtu), Limit::Fragments, Some(Way::Back), true), "{mtu}");
        assert_eq!(finding.there, Some(INTERFACE), "{mtu}");
        // the host of a server with IPv6 does not know the way: nothing comes back
        let finding = Path { is_ipv4: false, back: mtu, ..OPEN }.find();
        assert_eq!(summary(&finding), (Some(mtu), Limit::Silence, None, true), "{mtu}");
        // both are small, and nobody says so
        let finding = Path { there: mtu, back: mtu - 8, ..OPEN }.find();
        assert_eq!(summary(&finding), (Some(mtu - 8), Limit::Fragments, Some(Way::Back), true), "{mtu}");
        assert!(finding.there > finding.mtu, "{mtu}: {finding:?}");
    }
}

/// As some gateways do: no MTU, that of the wrong link, less than passes, more than the packet has, less than IP allows.
#[test]
fn a_false_icmp_message_deceives_nobody() {
    for said in [0, 1, 68, 576, 1_300, 1_500, 9_000, u32::MAX] {
        for is_ipv4 in [true, false] {
            let finding = Path { is_ipv4, there: 1_400, told: Some(said), ..OPEN }.find();
            let wanted = (Some(1_400), Limit::RouterWithAnotherMtu, Some(Way::There), true);
            assert_eq!(summary(&finding), wanted, "{said}");
        }
    }
}

/// Several routers have smaller and smaller links; each message tells of the next.
#[test]
fn one_router_after_the_other() {
    let mut search = Search::new(true);
    // unusual ones
    let links = [9_100, 4_000, 1_499, 1_433, 1_411];
    loop {
        let probes = search.next();
        if probes.is_empty() {
            break;
        }
        for probe in probes {
            search.note_sent(probe);
            let first_small = links.iter().find(|link| probe.packet > **link && !probe.may_fragment);
            search.note(
                probe,
                match first_small {
                    Some(link) => Event::Told { from: None, mtu: *link },
                    None => Event::Whole,
                },
            );
        }
    }
    assert_eq!(summary(&search.finding()), (Some(1_411), Limit::Router, Some(Way::There), true));
    assert!(search.sent() < 20, "{}", search.sent());
}

#[test]
fn plain_loss_is_no_limit() {
    for loss in [3, 10, 25] {
        for (mtu, seed) in
            [1_300, 1_400, 1_444, 1_500].into_iter().flat_map(|mtu| (0..10).map(move |seed| (mtu, seed)))
        {
            let finding = Path { there: mtu, loss, seed, ..OPEN }.find();
            assert_eq!(finding.mtu, Some(mtu), "{loss} %, {seed}");
            assert!(finding.settled, "{loss} %, {seed}: {finding:?}");
        }
    }
}

#[test]
fn silence_that_chance_explains_is_not_settled() {
    let tries = |sent, whole| Tries { sent, whole, ..Tries::default() };
    assert!(is_chance(&tries(8, 1), &tries(8, 0)));
    assert!(is_chance(&tries(8, 3), &tries(8, 0)));
    assert!(!is_chance(&tries(8, 6), &tries(8, 0)));
    assert!(!is_chance(&tries(6, 6), &tries(8, 0)));
    assert!(is_chance(&tries(6, 6), &tries(1, 0)), "a single try says little");
}

#[test]
fn nothing_comes_back() {
    for is_ipv4 in [true, false] {
        let path = Path { is_ipv4, there: 0, ..OPEN };
        let search = path.search();
        assert_eq!(summary(&search.finding()), (None, Limit::NoAnswer, None, false));
        assert_eq!(search.sent(), TRIES_OF_SMALLEST);
    }
}

#[test]
fn another_flow_to_the_destination_needs_few_datagrams_and_no_message_of_its_own() {
    let path = Path { there: 1_400, told: Some(1_400), ..OPEN };
    let pilot = path.search();
    // routers limit how many messages they send
    let silent = Path { told: None, ..path };
    let other = silent.search_on(Search::after(&pilot, true));
    assert_eq!(summary(&other.finding()), (Some(1_400), Limit::Router, Some(Way::There), true));
    assert_eq!(other.told()[0].count, 0);
    // another path of the same routers
    let larger = OPEN.search_on(Search::after(&pilot, true));
    assert_eq!(summary(&larger.finding()), (Some(1_500), Limit::Interface, Some(Way::There), true));
    let smaller = Path { there: 1_380, ..OPEN }.search_on(Search::after(&pilot, true));
    assert_eq!(smaller.finding().mtu, Some(1_380));
    assert_eq!(Path { there: 1_380, ..OPEN }.search_on(Search::after(&pilot, false)).told(), []);
}

#[test]
fn a_server_that_cuts_datagrams_is_the_limit() {
    let mut search = Search::new(true);
    loop {
        let probes = search.next();
        if probes.is_empty() {
            break;
        }
        for probe in probes {
            if probe.packet > INTERFACE {
                search.note(probe, Event::Refused { mtu: None });
                continue;
            }
            search.note_sent(probe);
            search.note(probe, if probe.packet > 1_052 { Event::Damaged } else { Event::Whole });
        }
    }
    assert_eq!(summary(&search.finding()), (Some(1_052), Limit::Damage, None, true));
}

#[test]
fn what_is_known_before_the_end() {
    let path = Path { there: 1_400, ..OPEN };
    let mut search = Search::new(true);
    assert_eq!(summary(&search.finding()), (None, Limit::NoAnswer, None, false));
    for round in 0..40 {
        let probes = search.next();
        for probe in probes {
            let answer = path.answer(probe, 1);
            if !matches!(answer, Some(Event::Refused { .. })) {
                search.note_sent(probe);
            }
            if let Some(event) = answer {
                search.note(probe, event);
            }
        }
        let finding = search.finding();
        assert!(finding.mtu.is_some_and(|mtu| mtu <= 1_400), "{round}");
        assert!(!finding.settled || finding.mtu == Some(1_400), "{round}: {finding:?}");
    }
}
