//! Why right replies are missing, in words: what the network reported, what came instead, how connections ended.

use std::collections::BTreeSet;

use crate::model::icmp;
use crate::model::units::{count, counted};
use crate::report::schema::{IcmpErrors, Report};

/// Errors of connections that have a count and words of their own.
const KNOWN_ERRORS: [i32; 4] = [libc::ECONNREFUSED, libc::ECONNRESET, libc::EPIPE, libc::ETIMEDOUT];

/// The causes that the report shows, each one line.
pub(crate) fn causes(report: &Report) -> Vec<String> {
    let counts = &report.totals.counts;
    let mut found: Vec<String> = Vec::new();
    let meanings: BTreeSet<String> = report.icmp_errors.iter().map(IcmpErrors::meaning).collect();
    for meaning in meanings {
        let cause = icmp::cause(&meaning).map_or(String::new(), |cause| format!(": {cause}"));
        found.push(format!("ICMP {meaning}{cause}"));
    }
    if counts.crossed > 0 {
        found.push(format!(
            "{} had the bytes of another flow's message: the server mixes up its clients, or its buffers",
            counted(counts.crossed, "reply")
        ));
    }
    if counts.unattributed > 0 && report.generator.forgotten == 0 {
        found.push(format!(
            "{} came that answered nothing of ours: the server changes what it echoes, or somebody else sends",
            counted(counts.unattributed, "reply")
        ));
    }
    let wrong = counts.corrupted + counts.truncated + counts.misdirected;
    if wrong > 0 && wrong == counts.answered() {
        found.push(format!("every reply was wrong: {}", wrong_kinds(report)));
    }
    found.extend(connections(report));
    if found.is_empty() && counts.sent > 0 && counts.answered() == 0 && report.totals.own_drops == 0 {
        found.push(silence(report).into());
    }
    found
}

fn wrong_kinds(report: &Report) -> String {
    let counts = &report.totals.counts;
    let kinds = [
        (counts.corrupted, "corrupted: the server changes what it echoes"),
        (counts.truncated, "truncated: the server cuts what it echoes"),
        (
            counts.misdirected,
            "misdirected: the server answers from another address or port than the one contacted",
        ),
    ];
    let kinds = kinds.iter().filter(|(number, _)| *number > 0);
    kinds.map(|(number, words)| format!("{} {words}", count(*number))).collect::<Vec<_>>().join(", ")
}

/// Nothing came, and nothing says why.
fn silence(report: &Report) -> &'static str {
    if report.load.protocol == "tcp" {
        "no connection got a byte: the server does not accept them (its backlog holds them), or does not echo"
    } else {
        "no reply came and no ICMP error: the server does not answer, a firewall drops the datagrams or the replies, \
         or --linger is too short"
    }
}

/// How connections ended that are not in order.
fn connections(report: &Report) -> Vec<String> {
    let Some(it) = report.connections else { return Vec::new() };
    let of = |number: u64| counted(number, "connection");
    let mut found = Vec::new();
    if it.refused > 0 {
        found.push(format!("{} refused: nobody listens there, or no longer", of(it.refused)));
    }
    if it.timed_out > 0 {
        found.push(format!(
            "{} not established in time: the server's accept queue is full (its backlog), or a firewall drops them",
            of(it.timed_out)
        ));
    }
    if it.closed > 0 {
        found.push(format!("the server closed {} before all was echoed", of(it.closed)));
    }
    if it.reset > 0 {
        found.push(format!("the server reset {}", of(it.reset)));
    }
    let others = report.refusals.iter().filter(|error| !KNOWN_ERRORS.contains(&error.errno));
    found.extend(others.map(|error| format!("{} × {}", count(error.count), error.message)));
    if it.stuck > 0 {
        found.push(format!(
            "blaster ended {} that did not answer: the server does not accept them (its backlog holds them), or does \
             not echo",
            of(it.stuck)
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::counts::{Connections, Counts};
    use crate::report::sample::report;
    use crate::report::schema::LocalErrors;

    #[test]
    fn each_cause_has_its_words() {
        type Spoil = fn(&mut Report);
        let icmp = |icmp_type, icmp_code| IcmpErrors {
            from: "192.0.2.1".into(),
            about: "192.0.2.9:7".into(),
            icmp_type,
            icmp_code,
            count: 1,
        };
        let cases: [(&str, Spoil); 5] = [
            ("no reply came and no ICMP error", |_| {}),
            ("3 replies came that answered nothing of ours", |report| report.totals.counts.unattributed = 3),
            ("1 reply had the bytes of another flow's message", |report| report.totals.counts.crossed = 1),
            ("every reply was wrong: 10 corrupted: the server changes", |report| {
                (report.totals.counts.corrupted, report.totals.counts.lost) = (10, 0);
            }),
            ("every reply was wrong: 10 misdirected: the server answers from another", |report| {
                (report.totals.counts.misdirected, report.totals.counts.lost) = (10, 0);
            }),
        ];
        let lost = || report(Counts { sent: 10, lost: 10, ..Counts::default() });
        for (words, spoil) in cases {
            let mut report = lost();
            spoil(&mut report);
            let found = causes(&report);
            assert!(found.len() == 1 && found[0].contains(words), "{words}: {found:?}");
        }
        for (errors, words) in [
            (icmp(3, 3), "ICMP port unreachable: nobody listens there"),
            (icmp(3, 13), "ICMP prohibited by a filter: a firewall refuses it"),
            (icmp(9, 9), "ICMP type 9 code 9"),
        ] {
            let report = Report { icmp_errors: vec![errors.clone(), errors], ..lost() };
            assert_eq!(causes(&report), [words]);
        }
        assert_eq!(causes(&report(Counts { sent: 10, ok: 10, ..Counts::default() })), Vec::<String>::new());
    }

    #[test]
    fn each_end_of_a_connection_has_its_words() {
        for (connections, words) in [
            (Connections { refused: 1, ..Connections::default() }, "1 connection refused: nobody listens"),
            (
                Connections { timed_out: 2, ..Connections::default() },
                "2 connections not established in time: the server's accept queue",
            ),
            (Connections { closed: 3, ..Connections::default() }, "the server closed 3 connections before"),
            (Connections { reset: 4, ..Connections::default() }, "the server reset 4 connections"),
            (
                Connections { stuck: 5, ..Connections::default() },
                "blaster ended 5 connections that did not answer",
            ),
            (Connections::default(), "no connection got a byte"),
        ] {
            let mut report = report(Counts { sent: 10, lost: 10, ..Counts::default() });
            report.load.protocol = "tcp".into();
            report.connections = Some(connections);
            report.refusals =
                vec![LocalErrors { errno: libc::ECONNRESET, message: "reset".into(), count: 4 }];
            let found = causes(&report);
            assert!(found.len() == 1 && found[0].starts_with(words), "{words}: {found:?}");
        }
    }
}
