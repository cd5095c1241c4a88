//! `--loss` and `--p99`: whether a run met them, and if not, whether blaster caused that.

use crate::judge::blame::{self, OwnLosses};
use crate::model::units::{count, counted, duration, percent, rate};
use crate::report::schema::{Objective, Report, Verdict};

impl Objective {
    /// Judges a run.
    pub(crate) fn judge(&self, report: &Report) -> Verdict {
        // what is too much at a lower rate is too much at this one, too
        if blame::tried(report) > 0
            && let Some(missed @ Verdict::Missed(_)) = self.loss(report)
        {
            return missed;
        }
        let missed = self.connections(report).map(Verdict::Missed);
        let limit = || own_limit(report).map(Verdict::Generator);
        let found = missed.or_else(limit).or_else(|| self.loss(report)).or_else(|| self.latency(report));
        found.unwrap_or(Verdict::Met)
    }

    /// The verdict on datagrams without a right reply in time, and on new connections that were not established. `None`:
    /// they are few enough.
    fn loss(&self, report: &Report) -> Option<Verdict> {
        let tried = blame::tried(report);
        if tried == 0 {
            return Some(Verdict::Missed("nothing was sent".into()));
        }
        let is_too_much = |bad: u64| self.is_too_much(bad, tried);
        let not_established = blame::not_established(report);
        if !is_too_much(report.totals.counts.not_ok() + not_established) {
            return None;
        }
        let missed = |bad| {
            let share = format!("{} not ok", percent(bad, tried));
            Verdict::Missed(match not_established {
                0 => share,
                failed => format!("{share}: {} not established", counted(failed, "connection")),
            })
        };
        let own = OwnLosses::of(report);
        let rest = own.rest(report) + not_established;
        Some(if is_too_much(rest) { missed(rest) } else { Verdict::Generator(own.causes.join(", ")) })
    }

    /// Why too many of the connections that messages share are missing. `None`: they are few enough.
    fn connections(&self, report: &Report) -> Option<String> {
        let connections = report.connections.filter(|_| !report.load.connects())?;
        let (missed, all) = (connections.missed, connections.attempted);
        let words = || format!("{} of {} failed or broke", count(missed), counted(all, "connection"));
        self.is_too_much(missed, all).then(words)
    }

    fn is_too_much(&self, bad: u64, all: u64) -> bool {
        bad as f64 * 100.0 > self.loss_percent * all as f64
    }

    /// The verdict on the latency. `None`: it is short enough.
    fn latency(&self, report: &Report) -> Option<Verdict> {
        let most_ns = self.p99_ns?;
        let Some(measured) = &report.latency.from_intended else {
            return Some(Verdict::Missed("no latency was measured".into()));
        };
        if measured.p99_ns <= most_ns {
            return None;
        }
        Some(match late_by_itself(report, most_ns) {
            Some(excuse) => Verdict::Generator(excuse),
            None => Verdict::Missed(format!("p99 {}", duration(measured.p99_ns))),
        })
    }
}

/// Why blaster did not try as much as the rate asked for. `None`: it did.
fn own_limit(report: &Report) -> Option<String> {
    let unsent = report.generator.unsent;
    if unsent == 0 && blame::is_rate_kept(report) {
        return None;
    }
    let unmade = report.connections.map_or(0, |connections| connections.unmade);
    let refused = report.totals.counts.send_failures;
    let done = if report.load.connects() { "made" } else { "sent" };
    let tried_per_s = rate(blame::tried_per_s(report));
    Some(match blame::waited(report).map(|_| blame::all_taken(report)) {
        _ if unmade > 0 => format!("this host could not make {}", counted(unmade, "connection")),
        Some(all_taken) if unsent > 0 => format!("{all_taken}, and {} never {done}", count(unsent)),
        Some(all_taken) => format!("{all_taken}, and only {tried_per_s}/s were {done}"),
        None if unsent > 0 => format!("{} never {done}", count(unsent)),
        None if refused > 0 => format!("this host refused to send {}", count(refused)),
        None => format!("only {tried_per_s}/s were {done}"),
    })
}

/// The reason why blaster may have caused a latency of more than `most_ns`.
fn late_by_itself(report: &Report, most_ns: u64) -> Option<String> {
    // what the kernel received in time may be read late, and is in time all the same
    if !report.has_receive_times() {
        if let Some(share) = blame::busy(report) {
            return Some(format!("one of its threads used {:.0}% of a core", share * 100.0));
        }
        if let Some(share) = blame::starved(report) {
            let share = share * 100.0;
            return Some(format!("one of its threads waited for a processor {share:.0}% of the time"));
        }
    }
    if let Some(slip_ns) = blame::slip_that_explains(report, most_ns) {
        return Some(blame::left_late(report, slip_ns));
    }
    let actual_ns = report.latency.from_actual.as_ref()?.p99_ns;
    (actual_ns <= most_ns).then(|| match blame::waited(report) {
        Some(_) => format!(
            "{}, and from the time at which the next ones began p99 is {}",
            blame::all_taken(report),
            duration(actual_ns)
        ),
        None => format!("from the actual send time p99 is {}", duration(actual_ns)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::counts::{Connections, Counts};
    use crate::model::latency::Latency;
    use crate::report::sample::report;
    use crate::report::schema::{BurstLoad, Load};

    const OBJECTIVE: Objective = Objective { loss_percent: 1.0, p99_ns: Some(2_000_000) };

    fn good() -> Report {
        report(Counts { sent: 1_000, ok: 990, lost: 5, late: 5, ..Counts::default() })
    }

    fn all_took(ns: u64) -> Latency {
        let mut latency = Latency::new();
        latency.record(ns);
        latency
    }

    fn missed(report: &Report) -> String {
        match OBJECTIVE.judge(report) {
            Verdict::Missed(why) => why,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn met_and_missed() {
        assert_eq!(OBJECTIVE.judge(&good()), Verdict::Met);
        let mut lossy = good();
        lossy.totals.counts.ok -= 1;
        assert_eq!(missed(&lossy), "1.10 % not ok");
        let mut slow = good();
        slow.latency.from_intended = all_took(2_100_000).summary();
        slow.latency.from_actual = slow.latency.from_intended.clone();
        assert!(missed(&slow).starts_with("p99 2.10 ms"));
        let loss_alone = Objective { p99_ns: None, ..OBJECTIVE };
        assert_eq!(loss_alone.judge(&slow), Verdict::Met);
        assert_eq!(missed(&report(Counts::default())), "nothing was sent");
    }

    /// If blaster can have caused a part of the loss only, the rest is the server's.
    #[test]
    fn loss_that_blaster_can_not_have_caused_is_the_servers() {
        type Spoil = fn(&mut Report);
        let cases: [(&str, Spoil); 7] = [
            ("nothing", |_| {}),
            ("a few late", |report| {
                let mut slip = Latency::new();
                (0..1_000).for_each(|number| slip.record(if number < 40 { 2_000_000 } else { 1_000 }));
                report.generator.slip = slip.summary();
            }),
            ("a few drops", |report| report.totals.own_drops = 3),
            ("a few refused", |report| report.totals.counts.send_failures = 3),
            ("a few forgotten", |report| report.generator.forgotten = 3),
            ("a busy thread", |report| report.generator.cpu_share = vec![0.97]),
            ("a starved thread", |report| report.generator.starved_share = vec![0.3]),
        ];
        for (what, spoil) in cases {
            let mut report = report(Counts { sent: 1_000, ok: 900, lost: 100, ..Counts::default() });
            spoil(&mut report);
            let why = missed(&report);
            assert!(why.ends_with("% not ok"), "{what}: {why}");
        }
    }

    /// A dead server, and one that stalls, are not blaster's fault, though it leaves late and can't keep the rate.
    #[test]
    fn a_late_blaster_does_not_excuse_what_it_can_not_explain() {
        let mut dead = report(Counts { sent: 1_000, lost: 1_000, ..Counts::default() });
        dead.generator.slip = all_took(3_000_000).summary();
        dead.generator.unsent = 500;
        dead.load.rate_per_s = Some(2_000.0);
        assert_eq!(missed(&dead), "100 % not ok");
        let mut stalled = good();
        stalled.generator.slip = all_took(3_000_000).summary();
        stalled.latency.from_actual = all_took(265_000_000).summary();
        stalled.latency.from_intended = all_took(268_000_000).summary();
        assert!(missed(&stalled).starts_with("p99 268 ms"), "{}", missed(&stalled));
    }

    #[test]
    fn a_bottleneck_of_blasters_own_is_no_limit_of_the_servers() {
        type Spoil = fn(&mut Report);
        let cases: [(&str, Spoil); 7] = [
            ("own sockets dropped", |report| report.totals.own_drops = 995),
            ("given up before", |report| report.generator.forgotten = 995),
            ("97% of a core", |report| {
                report.totals.counts = Counts { sent: 1_000, ok: 990, ..Counts::default() };
                report.latency.from_intended = all_took(2_100_000).summary();
                report.latency.from_actual = report.latency.from_intended.clone();
                report.generator.cpu_share = vec![0.3, 0.97];
            }),
            ("waited for a processor", |report| {
                report.totals.counts = Counts { sent: 1_000, ok: 990, ..Counts::default() };
                report.latency.from_intended = all_took(2_100_000).summary();
                report.latency.from_actual = report.latency.from_intended.clone();
                report.generator.starved_share = vec![0.0, 0.3];
            }),
            ("came late", |report| {
                report.totals.counts = Counts { sent: 1_000, ok: 0, late: 1_000, ..Counts::default() };
                report.load.timeout_ns = 1_000_000;
                report.generator.slip = all_took(900_000).summary();
            }),
            ("left 2.", |report| {
                report.totals.counts = Counts { sent: 1_000, ok: 10, lost: 990, ..Counts::default() };
                let mut slip = Latency::new();
                (0..1_000).for_each(|number| slip.record(if number < 495 { 2_000_000 } else { 1_000 }));
                report.generator.slip = slip.summary();
            }),
            ("actual send time", |report| {
                report.totals.counts = Counts { sent: 1_000, ok: 1_000, ..Counts::default() };
                report.generator.slip = all_took(100_000).summary();
                report.latency.from_intended = all_took(2_050_000).summary();
            }),
        ];
        for (words, spoil) in cases {
            let mut report = good();
            report.totals.counts = Counts { sent: 1_000, lost: 1_000, ..Counts::default() };
            spoil(&mut report);
            let verdict = OBJECTIVE.judge(&report);
            assert!(matches!(&verdict, Verdict::Generator(why) if why.contains(words)), "{words}: {verdict}");
        }
        // a busy blaster that meets the objective has met it, but not if it did not send the rate
        let mut busy = good();
        busy.generator.cpu_share = vec![1.0];
        assert_eq!(OBJECTIVE.judge(&busy), Verdict::Met);
        let slow = Report { load: Load { rate_per_s: Some(1_021.0), ..good().load }, ..good() };
        assert!(matches!(OBJECTIVE.judge(&slow), Verdict::Generator(_)), "1,000/s were sent");
        // by chance, a second at 1,021/s with exponential gaps has 1,000 datagrams every third time, at 1,200/s never
        for (per_s, burst, is_met) in
            [(1_021.0, None, true), (1_200.0, None, false), (1_200.0, Some(10), true)]
        {
            let burst = burst.map(|datagrams| BurstLoad { datagrams, every_ns: None });
            let load = Load { rate_per_s: Some(per_s), gaps: Some("poisson".into()), burst, ..good().load };
            let by_chance = OBJECTIVE.judge(&Report { load, ..good() });
            assert_eq!(by_chance == Verdict::Met, is_met, "{per_s}/s: {by_chance:?}");
        }
        busy.generator.unsent = 1;
        assert!(matches!(OBJECTIVE.judge(&busy), Verdict::Generator(_)));
    }

    /// A run of TCP at 1,000/s.
    fn tcp(mode: &str, counts: Counts, connections: Connections) -> Report {
        let mut report = report(counts);
        report.load = Load {
            protocol: "tcp".into(),
            mode: mode.into(),
            rate_per_s: Some(1_000.0),
            flows: 16,
            ..report.load
        };
        report.connections = Some(connections);
        report
    }

    /// A refused connection is a miss, as a lost message is, though nothing was sent on it.
    #[test]
    fn connections_that_the_server_does_not_establish_are_misses() {
        let connect = |ok, missed| {
            let counts = Counts { sent: ok, ok, ..Counts::default() };
            tcp("connect", counts, Connections { attempted: ok + missed, missed, ..Connections::default() })
        };
        assert_eq!(OBJECTIVE.judge(&connect(990, 10)), Verdict::Met, "1 % is allowed, and the rate was kept");
        assert_eq!(missed(&connect(989, 11)), "1.10 % not ok: 11 connections not established");
        assert_eq!(missed(&connect(0, 100)), "100 % not ok: 100 connections not established");
        // however late blaster was, and whatever it did not even try
        let mut late = connect(900, 100);
        late.generator.slip = all_took(3_000_000).summary();
        late.generator.unsent = 500;
        assert_eq!(missed(&late), "10.0 % not ok: 100 connections not established");
        // the kinds add up
        let mut both = connect(990, 6);
        both.totals.counts = Counts { sent: 994, ok: 989, lost: 5, ..Counts::default() };
        assert_eq!(missed(&both), "1.10 % not ok: 6 connections not established");
        // messages share connections: their misses are another share
        let open = |missed| {
            let counts = Counts { sent: 1_000, ok: 1_000, ..Counts::default() };
            tcp("open", counts, Connections { attempted: 16, missed, ..Connections::default() })
        };
        assert_eq!(OBJECTIVE.judge(&open(0)), Verdict::Met);
        assert_eq!(missed(&open(1)), "1 of 16 connections failed or broke");
        let mut nobody_left = open(16);
        (nobody_left.generator.unsent, nobody_left.totals.counts) = (1_000, Counts::default());
        assert_eq!(missed(&nobody_left), "16 of 16 connections failed or broke");
        let lenient = Objective { loss_percent: 10.0, p99_ns: None };
        assert_eq!(lenient.judge(&open(1)), Verdict::Met);
    }

    #[test]
    fn what_keeps_tcp_from_its_rate_is_no_limit_of_the_servers() {
        type Spoil = fn(&mut Report, &mut Connections);
        let cases: [(&str, &str, Spoil); 5] = [
            ("connect", "500 never made", |report, _| report.generator.unsent = 500),
            ("connect", "all 16 connections were taken, and 500 never made", |report, connections| {
                (report.generator.unsent, connections.waited) = (500, 1);
            }),
            ("connect", "all 16 connections were taken, and only 500/s were made", |report, connections| {
                (report.totals.sent_per_s, connections.waited) = (500.0, 900);
            }),
            ("connect", "this host could not make 500 connections", |report, connections| {
                (report.totals.sent_per_s, connections.unmade, connections.waited) = (500.0, 500, 1);
            }),
            ("open", "only 500/s were sent", |report, _| report.totals.sent_per_s = 500.0),
        ];
        for (mode, words, spoil) in cases {
            let counts = Counts { sent: 1_000, ok: 1_000, ..Counts::default() };
            let mut report = tcp(mode, counts, Connections::default());
            let mut connections = Connections { attempted: 1_000, ..Connections::default() };
            spoil(&mut report, &mut connections);
            report.connections = Some(connections);
            assert_eq!(OBJECTIVE.judge(&report), Verdict::Generator(words.into()));
        }
        // a wait for a place is long, the connections themselves are not
        let counts = Counts { sent: 1_000, ok: 1_000, ..Counts::default() };
        let mut waiting = tcp("connect", counts, Connections { waited: 900, ..Connections::default() });
        waiting.latency.from_intended = all_took(9_000_000).summary();
        waiting.latency.from_actual = all_took(1_000_000).summary();
        let verdict = OBJECTIVE.judge(&waiting).to_string();
        let words =
            "all 16 connections were taken, and from the time at which the next ones began p99 is 1.00 ms";
        assert!(verdict.ends_with(words), "{verdict}");
        // what blaster can't explain is the server's
        waiting.latency.from_actual = all_took(8_000_000).summary();
        assert_eq!(missed(&waiting), "p99 9.00 ms");
    }

    /// No burst makes a connection lose anything.
    #[test]
    fn late_sends_excuse_no_lost_message_of_tcp() {
        let mut report = tcp(
            "open",
            Counts { sent: 1_000, ok: 900, lost: 100, ..Counts::default() },
            Connections::default(),
        );
        let mut slip = Latency::new();
        (0..1_000).for_each(|_| slip.record(5_000_000));
        report.generator.slip = slip.summary();
        report.load.timeout_ns = 1_000_000_000;
        assert_eq!(missed(&report), "10.0 % not ok");
        (report.totals.counts.lost, report.totals.counts.late) = (0, 100);
        assert!(matches!(OBJECTIVE.judge(&report), Verdict::Generator(_)));
        report.load.protocol = "udp".into();
        (report.totals.counts.lost, report.totals.counts.late) = (100, 0);
        assert!(matches!(OBJECTIVE.judge(&report), Verdict::Generator(_)), "datagrams are lost in bursts");
    }
}
