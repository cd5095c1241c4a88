//! `--loss` and `--p99`: whether a run met them, and if not, whether blaster caused that.

use crate::judge::blame::{self, OwnLosses};
use crate::model::units::{count, duration, percent, rate};
use crate::report::schema::{Objective, Report, Verdict};

/// The share of the rate that a run must have sent.
const RATE_KEPT: f64 = 0.98;

/// The rate that a run must have sent at least. Random gaps and bursts at the end of the run change it a little.
fn least_per_s(report: &Report, wanted_per_s: f64) -> f64 {
    let seconds = (report.elapsed_ns as f64 / 1e9).max(1e-9);
    let together = report.load.together() as f64;
    let by_chance = match report.load.gaps.as_deref() {
        // four standard deviations
        Some("poisson") => 4.0 * (wanted_per_s * seconds / together).sqrt() * together,
        _ => 0.0,
    };
    wanted_per_s * RATE_KEPT - by_chance / seconds
}

impl Objective {
    /// Judges a run.
    pub(crate) fn judge(&self, report: &Report) -> Verdict {
        // what is too much at a lower rate is too much at this one, too
        if report.totals.counts.sent > 0
            && let Some(missed @ Verdict::Missed(_)) = self.loss(report)
        {
            return missed;
        }
        let generator = &report.generator;
        if generator.unsent > 0 {
            return Verdict::Generator(format!("{} never sent", count(generator.unsent)));
        }
        let sent_per_s = report.totals.sent_per_s;
        if report.load.rate_per_s.is_some_and(|wanted| sent_per_s < least_per_s(report, wanted)) {
            let refused = report.totals.counts.send_failures;
            if refused > 0 {
                return Verdict::Generator(format!("this host refused to send {}", count(refused)));
            }
            return Verdict::Generator(format!("only {}/s were sent", rate(sent_per_s)));
        }
        self.loss(report).or_else(|| self.latency(report)).unwrap_or(Verdict::Met)
    }

    /// The verdict on datagrams without a right reply in time. `None`: they are few enough.
    fn loss(&self, report: &Report) -> Option<Verdict> {
        let counts = &report.totals.counts;
        if counts.sent == 0 {
            return Some(Verdict::Missed("nothing was sent".into()));
        }
        let is_too_much = |bad: u64| bad as f64 * 100.0 > self.loss_percent * counts.sent as f64;
        let bad = counts.sent.saturating_sub(counts.ok);
        if !is_too_much(bad) {
            return None;
        }
        let missed = |bad| Verdict::Missed(format!("{} not ok", percent(bad, counts.sent)));
        let own = OwnLosses::of(report);
        let rest = own.rest(report);
        Some(if is_too_much(rest) { missed(rest) } else { Verdict::Generator(own.causes.join(", ")) })
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
        return Some(blame::left_late(slip_ns));
    }
    let actual_ns = report.latency.from_actual.as_ref()?.p99_ns;
    (actual_ns <= most_ns).then(|| format!("from the actual send time p99 is {}", duration(actual_ns)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::counts::Counts;
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
}
