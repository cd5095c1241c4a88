//! A chapter: one server from its start to its end under all loads, with random faults of some kinds. At the end the
//! counts of both sides are compared.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::datagrams::{self, Books};
use crate::faults::{Diary, Fault};
use crate::house::{self, House, Usage, refused};
use crate::oddities::{self, Oddities, Sent};
use crate::site::{LISTENING, Site};
use crate::streams::{self, Streams, Tally};
use crate::support::random::Random;
use crate::support::until;

/// The events that may happen in a chapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plot {
    /// Pauses only: one long life of the server, and no loss.
    Steady,
    /// Restarts with stored sockets: no loss, and the counts of both sides are equal.
    Restarts,
    /// Network faults.
    Network,
    /// All events.
    Anything,
}

impl Plot {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Steady, Self::Restarts, Self::Network, Self::Anything];

    fn faults(self) -> &'static [Fault] {
        match self {
            Self::Steady => &[Fault::Pause],
            Self::Restarts => &[Fault::Pause, Fault::Restart, Fault::Restart],
            Self::Network => &[Fault::Pause, Fault::Link, Fault::Address],
            Self::Anything => &Fault::ALL,
        }
    }

    fn loses(self) -> bool {
        self.faults().iter().any(|fault| fault.loses())
    }
}

/// A life of the server that was long enough to be judged.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    /// Time from the warm point to the end.
    pub length: Duration,
    /// Usage at the warm point.
    pub warm: Usage,
    /// Usage at the end, with all connections closed.
    pub end: Usage,
}

impl Life {
    /// Growth of resident memory in percent.
    pub fn growth(&self) -> f64 {
        (self.end.resident_kib as f64 / self.warm.resident_kib as f64 - 1.0) * 100.0
    }
}

/// The result of a chapter.
#[derive(Default)]
pub struct Outcome {
    pub books: Books,
    pub refused: u64,
    /// Drops by the kernel at the server's full receive buffers, as far as the server could see them.
    pub dropped: u64,
    pub streams: Tally,
    pub lives: usize,
    pub killed: usize,
    pub life: Option<Life>,
    /// The server's counters and the clients' counts agreed exactly.
    pub exact: bool,
    /// The server's counters, if each of its lives left some.
    pub counters: BTreeMap<String, u64>,
    pub damage: Vec<String>,
}

/// The shortest life that shows growth.
const LONG_ENOUGH: Duration = Duration::from_secs(8);
/// The most that resident memory may grow.
const GROWTH_MAX_PERCENT: f64 = 1.0;

/// Runs a chapter of this length.
pub fn play(
    site: &Arc<Site>,
    blaster: &str,
    plot: Plot,
    length: Duration,
    seed: u64,
    diary: &Diary,
) -> Outcome {
    let mut random = Random::new(seed);
    let mut sent = Sent::default();
    let mut outcome = Outcome::default();
    let mut house = House::start(site, random.between(1, 2));
    let sockets = Site::sockets_in_use();

    // until the server has touched all the memory that it ever uses
    oddities::warm_up(site, &mut sent.books);
    let target = |family: usize| LISTENING[family].parse().expect("an address");
    (0..2).for_each(|family| streams::warm_up(&site.clients, target(family), &mut outcome.streams));
    let loads = datagrams::start(site, blaster, random.next());
    let streams = Streams::start(site, random.next());
    let oddities = Oddities::start(site, random.next());
    let begun = Instant::now();
    thread::sleep(length.min(LONG_ENOUGH) / 4);
    let (warm, warm_at) = (house.usage(), Instant::now());

    while begun.elapsed() < length {
        let faults = plot.faults();
        let fault = faults[random.between(0, faults.len() - 1)];
        strike(fault, site, &mut house, &mut random, diary);
        let rest = Duration::from_millis(random.between(2500, 8000) as u64);
        thread::sleep(rest.min(length.saturating_sub(begun.elapsed())));
    }

    outcome.damage = streams.finish(diary, &mut outcome.streams);
    outcome.damage.extend(oddities.finish(diary, &mut sent));
    let verdict = datagrams::finish(loads, diary, &mut sent.books);
    outcome.damage.extend(verdict.damage);
    // reply sockets close when they have been idle for a while, connections when their peer's FIN has arrived
    until("all sockets but those that listen are closed", || Site::sockets_in_use() == sockets);
    outcome.lives = house.lives + house.killed + 1;
    outcome.killed = house.killed;
    if outcome.lives == 1 && warm_at.elapsed() >= LONG_ENOUGH {
        let life = Life { length: warm_at.elapsed(), warm, end: house.usage() };
        if life.growth() >= GROWTH_MAX_PERCENT || life.end.descriptors != life.warm.descriptors {
            outcome.damage.push(format!("growth: {life:?}"));
        }
        outcome.life = Some(life);
    }
    let (counters, damage) = house.close();
    outcome.damage.extend(damage);
    outcome.books = sent.books;
    outcome.refused = sent.refused.total();
    // a killed process loses its count of drops; where no loss is allowed, no drop is allowed either
    let dropped = counters.get("udp_receive_buffer_drops").copied().unwrap_or(0);
    outcome.dropped = dropped;
    let is_told = outcome.killed == 0 && plot.loses() && verdict.missing_datagrams <= dropped;
    if !is_told {
        let reasons: Vec<_> =
            house::reasons(&counters).map(|(name, count)| format!("{name}={count}")).collect();
        let told = format!(
            "; in this chapter the kernel dropped {dropped} at full receive buffers, and the server counted {}",
            reasons.join(" ")
        );
        outcome.damage.extend(verdict.missing.into_iter().map(|what| what + &told));
    }
    if outcome.killed == 0 {
        outcome.exact = !plot.loses();
        outcome.damage.extend(compare(&counters, &sent, &outcome.streams, outcome.exact));
        outcome.counters = counters;
    }
    outcome
}

fn strike(fault: Fault, site: &Site, house: &mut House, random: &mut Random, diary: &Diary) {
    assert!(!house.server().pidfd.ends_within(Duration::ZERO), "the server ended by itself");
    let pause = |random: &mut Random, most| Duration::from_millis(random.between(50, most) as u64);
    match fault {
        Fault::Pause => {
            let pause = pause(random, 400);
            diary.note(fault, || {
                house.server().pause();
                thread::sleep(pause);
                house.server().resume();
            });
        }
        Fault::Restart => diary.note(fault, || house.restart(true)),
        Fault::Renewal => diary.note(fault, || house.restart(false)),
        Fault::Kill => diary.note(fault, || house.kill(true)),
        Fault::Death => diary.note(fault, || house.kill(false)),
        Fault::Link => {
            let (clients_side, pause) = (random.between(0, 1) == 0, pause(random, 1500));
            diary.note(fault, || site.link_down(clients_side, pause));
        }
        Fault::Address => {
            let (family, pause) = (random.between(0, 1), pause(random, 1500));
            diary.note(fault, || Site::address_gone(family, pause));
        }
    }
}

/// Whether the counts of the server and of its clients agree. Where no loss is allowed, they must be equal; elsewhere
/// no side may have received more than the other has sent.
fn compare(counters: &BTreeMap<String, u64>, sent: &Sent, streams: &Tally, exact: bool) -> Vec<String> {
    let count = |name: &str| counters.get(name).copied().unwrap_or(0);
    let mut damage = Vec::new();
    let mut not_more = |what: &str, part: u64, whole: u64| {
        if part > whole || exact && part != whole {
            damage.push(format!("{what}: {part} of {whole}"));
        }
    };
    let asked = sent.books.sent + sent.refused.total();
    not_more("datagrams received by the server, sent by clients", count("udp_datagrams_in"), asked);
    not_more(
        "datagrams received by clients, sent by the server",
        sent.books.echoed,
        count("udp_datagrams_out"),
    );
    let refused = refused(counters);
    not_more("refused, from system ports", refused.system_port, sent.refused.system_port);
    not_more("refused, from our port", refused.own_port, sent.refused.own_port);
    not_more("refused, from our pair", refused.own_pair, sent.refused.own_pair);
    if exact {
        not_more("connections", streams.connected, count("tcp_accepted"));
    }
    // only the sender counts the data that a reset destroys
    if count("tcp_bytes_in") > streams.bytes_sent || streams.bytes_received > count("tcp_bytes_out") {
        damage.push(format!(
            "bytes of connections: sent {}, in {}, out {}, received {}",
            streams.bytes_sent,
            count("tcp_bytes_in"),
            count("tcp_bytes_out"),
            streams.bytes_received
        ));
    }
    damage
}
