//! The objective and the answer of a search, in words.

use std::fmt;

use crate::model::units::{count, counted, duration};
use crate::report::schema::{BracketEnd, Limit, Objective, SearchResult, Verdict};

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Met => f.write_str(self.word()),
            Self::Missed(why) | Self::Generator(why) => write!(f, "{}: {why}", self.word()),
        }
    }
}

impl Verdict {
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Missed(_) => "missed",
            Self::Generator(_) => "blaster's limit",
        }
    }

    /// Empty if the objective was met.
    pub(crate) fn reason(&self) -> &str {
        match self {
            Self::Met => "",
            Self::Missed(why) | Self::Generator(why) => why,
        }
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "loss at most {}%", self.loss_percent)?;
        self.p99_ns.map_or(Ok(()), |ns| write!(f, ", p99 at most {}", duration(ns)))
    }
}

impl SearchResult {
    /// The answer in words.
    pub(crate) fn sentence(&self) -> String {
        let Self { objective, answer, duration_ns } = self;
        let runs = |end: &BracketEnd, many: u32| {
            format!("{many} of {} of {}", counted(end.runs.all().into(), "run"), duration(*duration_ns))
        };
        let rate = |end: &BracketEnd| format!("{}/s", count(end.rate_per_s));
        let sure = format!("{:.1}%", (answer.confidence * 1_000.0).floor() / 10.0);
        let below = answer.met.as_ref().map(|met| {
            let held = format!("{} ({} met it)", rate(met), runs(met, met.runs.met));
            let most = format!("{sure} sure that most runs at that rate meet it");
            (held, most)
        });
        let unsettled = if answer.settled {
            ""
        } else {
            " This is not settled: the search was cut short, or the answer changes from run to run."
        };
        let text = match (below, &answer.not_met, answer.limit) {
            (Some((held, _)), Some(above), Limit::Server) => format!(
                "The highest rate with {objective} is at least {held} and less than {} ({} missed it): {sure} sure \
                 that most runs meet it at the one rate and miss it at the other.",
                rate(above),
                runs(above, above.runs.missed)
            ),
            (Some((held, most)), Some(above), _) => format!(
                "The highest rate with {objective} is at least {held}: {most}. At {} blaster itself was the \
                 bottleneck in {}, so the server may carry more (use more --threads, other processors than the \
                 server's, or several machines).",
                rate(above),
                runs(above, above.runs.generator)
            ),
            (Some((held, most)), None, _) => {
                format!("The highest rate with {objective} is at least {held}: {most}. No limit was met.")
            }
            (None, Some(above), Limit::Server) => {
                format!("No rate was found with {objective}: even {} missed it.", rate(above))
            }
            (None, Some(above), _) => format!(
                "No rate was found with {objective}, and blaster itself was the bottleneck even at {}.",
                rate(above)
            ),
            (None, None, _) => format!("No rate was tried for {objective}."),
        };
        text + unsettled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::schema::{Answer, RunCounts};

    #[test]
    fn what_a_search_found_is_said_without_claiming_more() {
        let end = |rate_per_s, met, missed, generator| {
            Some(BracketEnd { rate_per_s, runs: RunCounts { met, missed, generator } })
        };
        let objective = Objective { loss_percent: 0.1, p99_ns: Some(500_000) };
        let answer = Answer {
            met: end(118_000, 5, 0, 0),
            not_met: end(123_000, 0, 5, 0),
            limit: Limit::Server,
            confidence: 0.9375,
            settled: true,
        };
        let said = |answer| SearchResult { objective, duration_ns: 2_000_000_000, answer }.sentence();
        assert_eq!(
            said(answer),
            "The highest rate with loss at most 0.1%, p99 at most 500 µs is at least 118,000/s (5 of 5 runs of \
             2.00 s met it) and less than 123,000/s (5 of 5 runs of 2.00 s missed it): 93.7% sure that most runs \
             meet it at the one rate and miss it at the other."
        );
        let own = Answer { not_met: end(123_000, 0, 1, 4), limit: Limit::Generator, ..answer };
        assert!(said(own).contains("the server may carry more"), "{}", said(own));
        let cut = Answer { not_met: None, limit: Limit::None, settled: false, ..answer };
        assert!(said(cut).contains("No limit was met. This is not settled"), "{}", said(cut));
        let none = Answer { met: None, not_met: end(1, 0, 5, 0), ..answer };
        assert!(said(none).contains("even 1/s missed it"), "{}", said(none));
    }
}
