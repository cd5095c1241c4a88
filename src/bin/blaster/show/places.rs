//! Destinations and sources with faults, in words.

use std::fmt;

use crate::model::counts::Fault;
use crate::model::dscp::Dscp;
use crate::model::units::{count, duration, rate};
use crate::report::schema::{FaultyPlaces, Load, Outage, Outages, PacketLoad, Places, Report};

impl fmt::Display for FaultyPlaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, fault, visited, tally, .. } = self;
        // several words need a colon behind them
        let colon = if place.contains(' ') { ":" } else { "" };
        write!(f, "{place}{colon} {}", fault.name())?;
        let mut notes = Vec::new();
        if *visited > 1 {
            notes.push(format!("{} visited", count(*visited)));
        }
        if tally.tried() > *visited {
            notes.push(format!("{} of {}", count(tally.wrong()), count(tally.tried())));
        }
        if matches!(fault, Fault::Silent | Fault::Lossy) {
            if tally.unreachable > 0 {
                notes.push(format!("{} unreachable by ICMP", count(tally.unreachable)));
            }
            if tally.failed > 0 {
                notes.push(format!("{} without a connection", count(tally.failed)));
            }
        }
        if notes.is_empty() { Ok(()) } else { write!(f, " ({})", notes.join(", ")) }
    }
}

/// The mode of a run and its schedule.
pub(crate) fn mode(load: &Load) -> String {
    let schedule = schedule(load);
    match load.each_once {
        Some(_) if load.is_endless => format!("each destination, round after round, {schedule}"),
        Some(1) => format!("each destination once {schedule}"),
        Some(times) => format!("each destination {times} times {schedule}"),
        None if schedule.is_empty() => load.mode.clone(),
        None if load.mode == "connect" => format!("new connections {schedule}"),
        None => format!("{} loop {schedule}", load.mode),
    }
}

/// When a run sends. After a merge, the rate is that of all machines together, but a rate that changes is that of each.
fn schedule(load: &Load) -> String {
    let mut words = Vec::new();
    words.extend(load.replay.as_ref().map(|replay| format!("replaying {}", replay.file)));
    let mean = load.rate_per_s.map(|per_s| format!("at {}/s", rate(per_s)));
    words.extend(match &load.rate_curve {
        Some(curve) if load.run_ids.len() > 1 => Some(format!("at {curve} each")),
        Some(curve) => Some(format!("at {curve}")),
        None => mean,
    });
    if let Some(burst) = &load.burst {
        let every = burst.every_ns.map_or(String::new(), |ns| format!(" every {}", duration(ns)));
        words.push(format!("in bursts of {}{every}", count(burst.datagrams.into())));
    }
    if load.gaps.as_deref() == Some("poisson") {
        words.push("with exponential gaps".into());
    }
    words.join(" ")
}

/// The options of headers and ways that a load has.
pub(crate) fn packets(load: &Load) -> Vec<String> {
    let mut words = headers(&load.packets);
    words.extend(load.dont_fragment.then(|| "never fragmented".into()));
    words
}

/// The same without --dont-fragment.
pub(crate) fn headers(load: &PacketLoad) -> Vec<String> {
    let mut words = Vec::new();
    words.extend(load.dscp.map(|dscp| format!("DSCP {}", Dscp::of_class(dscp << 2))));
    words.extend(load.ttl.map(|ttl| format!("TTL {ttl}")));
    words.extend(load.flow_label.as_ref().map(|label| match label.as_str() {
        "random" => "random flow labels".into(),
        "0x0" => "no flow label".into(),
        label => format!("flow label {label}"),
    }));
    words.extend(load.interface.as_ref().map(|name| format!("by {name}")));
    words.extend(load.mark.map(|mark| format!("mark {mark:#x}")));
    words
}

/// What a report says of its destinations, or of its sources: how many, and the worst.
pub(crate) struct Said {
    pub(crate) name: &'static str,
    pub(crate) visited: u64,
    pub(crate) note: String,
    /// One line each.
    pub(crate) faults: Vec<String>,
    pub(crate) has_faults: bool,
}

/// So many lines of faults are shown.
const SHOWN: usize = 10;
/// The same without --each-once: which destinations have faults was not the question.
const SHOWN_UNASKED: usize = 5;

/// The destinations, then the sources, as far as they say something: with --each-once, or if several were visited and some
/// have a fault.
pub(crate) fn said(report: &Report) -> Vec<Said> {
    let is_each_once = report.load.each_once.is_some();
    let parts = [("Destinations", &report.destinations), ("Sources", &report.sources)];
    let parts = parts.into_iter().filter_map(|(name, places)| Some((name, places.as_ref()?)));
    parts
        .filter(|(name, _)| *name != "Sources" || !are_destinations_to_blame(report))
        .filter(|(_, places)| {
            is_each_once || places.only_faults || (places.visited > 1 && places.ok < places.visited)
        })
        .filter(|(_, places)| is_each_once || places.ok < places.visited)
        .map(|(name, places)| say(name, places, if is_each_once { SHOWN } else { SHOWN_UNASKED }))
        .chain(report.outages.as_ref().map(say_outages))
        .collect()
}

/// The destinations at the end of a run without end.
fn say_outages(outages: &Outages) -> Said {
    let all = outages.longest.len() as u64 + outages.more;
    let note = format!("{} right, {} without a right reply", count(outages.right), count(all));
    let line = |outage: &Outage| {
        let Outage { destination, fault, lasts_ns } = outage;
        format!("{destination} {} for {}", fault.name(), duration(*lasts_ns))
    };
    let mut faults: Vec<String> = outages.longest.iter().take(SHOWN).map(line).collect();
    if all > SHOWN as u64 {
        faults.push(format!("and {} more: --json lists them", count(all - SHOWN as u64)));
    }
    Said { name: "At the end", visited: outages.right + all, note, faults, has_faults: all > 0 }
}

/// Whether each fault is that of a destination which was silent from several sources. Then it says nothing of a source.
fn are_destinations_to_blame(report: &Report) -> bool {
    let Some(destinations) = &report.destinations else { return false };
    let is_to_blame =
        |fault: &FaultyPlaces| fault.fault == Fault::Silent && fault.tally.tried() > fault.visited;
    !destinations.faults.is_empty() && destinations.faults.iter().all(is_to_blame)
}

fn say(name: &'static str, places: &Places, shown: usize) -> Said {
    let numbers = [
        ("ok", places.ok),
        ("misdirected", places.misdirected),
        ("corrupted", places.corrupted),
        ("silent", places.silent),
        ("lossy", places.lossy),
        ("late", places.late),
        ("unsendable", places.unsendable),
        ("not visited", places.not_visited),
    ];
    let numbers = numbers.iter().filter(|(_, number)| *number > 0);
    let note =
        numbers.map(|(name, number)| format!("{} {name}", count(*number))).collect::<Vec<_>>().join(", ");
    let mut faults: Vec<String> = places.faults.iter().take(shown).map(ToString::to_string).collect();
    let left: u64 = places.faults.iter().skip(shown).map(|fault| fault.visited).sum::<u64>() + places.more;
    if left > 0 {
        faults.push(format!("and {} more: --json lists them", count(left)));
    }
    faults.extend(places.sample.clone());
    if places.only_faults {
        faults.push("of so many destinations, only those with faults are counted".into());
    }
    Said { name, visited: places.visited, note, faults, has_faults: places.ok < places.visited }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::counts::{Counts, Tally};
    use crate::report::sample::report;

    fn fault(place: &str, fault: Fault, visited: u64, tally: Tally) -> FaultyPlaces {
        FaultyPlaces { place: place.into(), prefix: String::new(), ports: None, fault, visited, tally }
    }

    #[test]
    fn what_is_wrong_and_how_often() {
        let sent = |sent| Tally { sent, ..Tally::default() };
        for (place, words) in [
            (
                fault("192.0.2.77:1234", Fault::Silent, 1, Tally { lost: 1, ..sent(1) }),
                "192.0.2.77:1234 silent",
            ),
            (
                fault(
                    "192.0.2.128/27, all ports",
                    Fault::Misdirected,
                    64,
                    Tally { misdirected: 64, ..sent(64) },
                ),
                "192.0.2.128/27, all ports: misdirected (64 visited)",
            ),
            (
                fault("192.0.2.1:7", Fault::Lossy, 1, Tally { lost: 5, unreachable: 2, ..sent(1_000) }),
                "192.0.2.1:7 lossy (7 of 1,000, 2 unreachable by ICMP)",
            ),
            (
                fault("127.0.0.1:7", Fault::Silent, 1, Tally { failed: 1, ..sent(0) }),
                "127.0.0.1:7 silent (1 without a connection)",
            ),
        ] {
            assert_eq!(place.to_string(), words);
        }
    }

    #[test]
    fn only_the_worst_are_listed_and_a_single_destination_is_not() {
        let mut report = report(Counts { sent: 20, ok: 5, lost: 15, ..Counts::default() });
        let faults = (0..15).map(|port| {
            fault(
                &format!("127.0.0.1:{port}"),
                Fault::Silent,
                1,
                Tally { sent: 1, lost: 1, ..Tally::default() },
            )
        });
        let places =
            Places { visited: 20, ok: 5, silent: 15, faults: faults.collect(), more: 2, ..Places::default() };
        report.destinations = Some(places);
        let said = said(&report);
        assert_eq!((said.len(), said[0].note.as_str()), (1, "5 ok, 15 silent"));
        assert_eq!((said[0].faults.len(), said[0].faults[5].as_str()), (6, "and 12 more: --json lists them"));
        let one = Places { visited: 1, silent: 1, ..Places::default() };
        report.destinations = Some(one);
        assert!(super::said(&report).is_empty());
        report.load.each_once = Some(1);
        assert_eq!(super::said(&report)[0].note, "1 silent");
    }
}
