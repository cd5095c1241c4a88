//! `--loss` and `--p99`: what a rate must achieve, and whose fault it is when it does not.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::report::{count, duration, percent};
use crate::schema::Report;
use crate::warnings::{BUSY, SLIP_P99_NS};

/// The share of a rate that must really have been sent.
const RATE_KEPT: f64 = 0.98;

/// What every run at a rate is to achieve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Objective {
    /// The most, in percent of what was sent, that may go without a right reply in time.
    pub(crate) loss_percent: f64,
    /// The longest that 99 of 100 right replies may take from the intended send time, in nanoseconds.
    pub(crate) p99_ns: Option<u64>,
}

/// What a run says about its rate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", content = "why", rename_all = "kebab-case")]
pub(crate) enum Verdict {
    /// The objective was met.
    Met,
    /// It was not, and blaster has no part in that.
    Missed(String),
    /// It was not, or the rate was not even sent, and blaster itself may be to blame: this says nothing about
    /// the server.
    Generator(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Met => f.write_str("met"),
            Self::Missed(why) => write!(f, "missed: {why}"),
            Self::Generator(why) => write!(f, "blaster's limit: {why}"),
        }
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "loss at most {}%", self.loss_percent)?;
        self.p99_ns.map_or(Ok(()), |ns| write!(f, ", p99 at most {}", duration(ns)))
    }
}

impl Objective {
    /// Judges a run.
    pub(crate) fn judge(&self, report: &Report) -> Verdict {
        let generator = &report.generator;
        if generator.unsent > 0 {
            return Verdict::Generator(format!("{} were never sent", count(generator.unsent)));
        }
        let sent_per_s = report.totals.sent_per_s;
        if report.load.rate_per_s.is_some_and(|rate| sent_per_s < rate * RATE_KEPT) {
            return Verdict::Generator(format!("only {}/s were sent", count(sent_per_s as u64)));
        }
        match (self.missed(report), self.excuse(report)) {
            (None, _) => Verdict::Met,
            (Some(_), Some(excuse)) => Verdict::Generator(excuse),
            (Some(why), None) => Verdict::Missed(why),
        }
    }

    fn missed(&self, report: &Report) -> Option<String> {
        let counts = &report.totals.counts;
        let bad = counts.sent.saturating_sub(counts.ok);
        if counts.sent == 0 {
            return Some("nothing was sent".into());
        }
        if bad as f64 * 100.0 > self.loss_percent * counts.sent as f64 {
            return Some(format!("{} not ok", percent(bad, counts.sent)));
        }
        let measured_ns = report.latency.from_intended.as_ref().map(|latency| latency.p99_ns);
        self.p99_ns.and_then(|most_ns| match measured_ns {
            None => Some("no latency was measured".into()),
            Some(ns) if ns > most_ns => Some(format!("p99 {}", duration(ns))),
            Some(_) => None,
        })
    }

    /// Why a miss may be blaster's own.
    fn excuse(&self, report: &Report) -> Option<String> {
        let generator = &report.generator;
        let totals = &report.totals;
        let busiest = generator.cpu_share.iter().copied().fold(0.0, f64::max);
        if totals.own_drops > 0 {
            return Some(format!("its own sockets dropped {}", count(totals.own_drops)));
        }
        if totals.counts.send_failures > 0 {
            return Some(format!("this host refused to send {}", count(totals.counts.send_failures)));
        }
        if generator.forgotten > 0 {
            return Some(format!("{} were given up before the timeout", count(generator.forgotten)));
        }
        if busiest >= BUSY {
            return Some(format!("a thread of it used {:.0}% of a core", busiest * 100.0));
        }
        let slip_ns = generator.slip.as_ref()?.p99_ns;
        // late senders bunch datagrams up: a burst that the rate does not have
        if slip_ns >= SLIP_P99_NS {
            return Some(format!("one in a hundred left {} late or more", duration(slip_ns)));
        }
        let actual_ns = report.latency.from_actual.as_ref()?.p99_ns;
        let intended_ns = report.latency.from_intended.as_ref()?.p99_ns;
        let is_slip_alone = self.p99_ns.is_some_and(|most_ns| intended_ns > most_ns && actual_ns <= most_ns);
        is_slip_alone.then(|| format!("from the actual send time p99 is {}", duration(actual_ns)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::books::Counts;
    use crate::latency::Latency;
    use crate::sample::report;
    use crate::schema::Load;

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
        assert_eq!(missed(&lossy), "1.1000 % not ok");
        let mut slow = good();
        slow.latency.from_intended = all_took(2_100_000).summary();
        slow.latency.from_actual = slow.latency.from_intended.clone();
        assert!(missed(&slow).starts_with("p99 2.10 ms"));
        let loss_alone = Objective { p99_ns: None, ..OBJECTIVE };
        assert_eq!(loss_alone.judge(&slow), Verdict::Met);
        assert_eq!(missed(&report(Counts::default())), "nothing was sent");
    }

    #[test]
    fn a_bottleneck_of_blasters_own_is_no_limit_of_the_servers() {
        type Spoil = fn(&mut Report);
        let cases: [(&str, Spoil); 6] = [
            ("own sockets dropped", |report| report.totals.own_drops = 3),
            ("refused to send", |report| report.totals.counts.send_failures = 3),
            ("given up", |report| report.generator.forgotten = 3),
            ("97% of a core", |report| report.generator.cpu_share = vec![0.3, 0.97]),
            ("left 2.", |report| report.generator.slip = all_took(2_000_000).summary()),
            ("actual send time", |report| {
                report.totals.counts.ok = 1_000;
                report.generator.slip = all_took(100_000).summary();
                report.latency.from_intended = all_took(2_050_000).summary();
            }),
        ];
        for (words, spoil) in cases {
            let mut report = good();
            report.totals.counts.ok = 0;
            spoil(&mut report);
            let verdict = OBJECTIVE.judge(&report);
            assert!(matches!(&verdict, Verdict::Generator(why) if why.contains(words)), "{words}: {verdict}");
        }
        // what was met in spite of all that was met, unless the rate was not sent at all
        let mut busy = good();
        busy.generator.cpu_share = vec![1.0];
        assert_eq!(OBJECTIVE.judge(&busy), Verdict::Met);
        let slow = Report { load: Load { rate_per_s: Some(1_021.0), ..good().load }, ..good() };
        assert!(matches!(OBJECTIVE.judge(&slow), Verdict::Generator(_)), "1,000/s were sent");
        busy.generator.unsent = 1;
        assert!(matches!(OBJECTIVE.judge(&busy), Verdict::Generator(_)));
    }
}
