//! The objective and the answer of a search, in words.

use std::fmt;
use std::time::Duration;

use crate::model::units::{self, count, counted};
use crate::report::schema::{Answer, Bound, BracketEnd, Limit, Objective, SearchEnd, SearchResult, Verdict};

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
        self.p99_ns.map_or(Ok(()), |ns| write!(f, ", p99 at most {}", units::duration(ns)))
    }
}

/// What a search is about to do.
pub(crate) fn announcement(unit: &str, objective: &Objective, duration: Duration, bound: Bound) -> String {
    format!(
        "search for {} with {objective}: at most {} of {}, {} in all",
        highest_rate(unit),
        counted(bound.runs.into(), "run"),
        units::duration(duration.as_nanos() as u64),
        units::duration(bound.time_ns)
    )
}

/// What a search looks for.
fn highest_rate(unit: &str) -> &'static str {
    match unit {
        "connection" => "the highest rate of new connections",
        "message" => "the highest rate of messages",
        _ => "the highest rate",
    }
}

/// A probability; rounded down, so that it claims no more than is known.
fn sure(confidence: f64) -> String {
    format!("{:.1}%", (confidence * 1_000.0).floor() / 10.0)
}

fn per_s(end: &BracketEnd) -> String {
    format!("{}/s", count(end.rate_per_s))
}

impl SearchResult {
    /// The answer in words.
    pub(crate) fn sentence(&self) -> String {
        let text = match self.ended_by {
            Some(SearchEnd::NoAnswer) => self.dead(),
            _ if self.answer.settled => self.confirmed(),
            _ => self.unconfirmed(),
        };
        text + &self.between()
    }

    /// What was looked for.
    fn wanted(&self) -> String {
        format!("{} with {}", highest_rate(self.unit.as_deref().unwrap_or_default()), self.objective)
    }

    /// What blaster lacked to do more.
    fn more_blaster(&self) -> &'static str {
        if self.unit.as_deref() == Some("connection") { MORE_CONNECTIONS } else { OTHER_BLASTERS }
    }

    /// A number of runs at an end: 5 of 5 runs of 2.00 s.
    fn runs(&self, end: &BracketEnd, many: u32) -> String {
        format!(
            "{many} of {} of {}",
            counted(end.runs.all().into(), "run"),
            units::duration(self.duration_ns)
        )
    }

    fn confirmed(&self) -> String {
        let (wanted, objective, answer) = (self.wanted(), &self.objective, &self.answer);
        let sure = sure(answer.confidence);
        let below = answer.met.as_ref().map(|met| {
            let held = format!("{} ({} met it)", per_s(met), self.runs(met, met.runs.met));
            let most = format!("{sure} sure that most runs at that rate meet it");
            (held, most)
        });
        let text = match (below, &answer.not_met, answer.limit) {
            (Some((held, _)), Some(above), Limit::Server) => format!(
                "{wanted} is at least {held} and less than {} ({} missed it): {sure} sure \
                 that most runs meet it at the one rate and miss it at the other.",
                per_s(above),
                self.runs(above, above.runs.missed)
            ),
            (Some((held, most)), Some(above), _) => format!(
                "{wanted} is at least {held}: {most}. At {} blaster itself was the \
                 bottleneck in {}, so the server may carry more ({}).",
                per_s(above),
                self.runs(above, above.runs.generator),
                self.more_blaster()
            ),
            (Some((held, most)), None, _) => {
                format!("{wanted} is at least {held}: {most}. No limit was met.")
            }
            (None, Some(above), Limit::Server) => {
                format!("No rate was found with {objective}: even {} missed it.", per_s(above))
            }
            (None, above, _) => format!(
                "No rate was found with {objective}, and blaster itself was the bottleneck even at {}.",
                above.as_ref().map_or(String::new(), per_s)
            ),
        };
        capitalized(&text) + &self.wide()
    }

    /// How the bracket differs from what `--precision` asked for.
    fn wide(&self) -> String {
        let ends = self.answer.met.as_ref().zip(self.answer.not_met.as_ref());
        let (Some((met, not_met)), Some(precision)) = (ends, self.precision_percent) else {
            return String::new();
        };
        let gap = not_met.rate_per_s as f64 / met.rate_per_s as f64 - 1.0;
        let is_wide = gap * 100.0 > precision && not_met.rate_per_s - met.rate_per_s > 1;
        if !is_wide {
            return String::new();
        }
        format!(" The ends are {:.0}% apart, more than the precision of {precision}%.", gap * 100.0)
    }

    /// What is known, and that it is no answer.
    fn unconfirmed(&self) -> String {
        let Answer { met, not_met, limit, .. } = &self.answer;
        let ended = match (self.ended_by, &self.took) {
            (Some(SearchEnd::Signal), Some(took)) => {
                format!("a signal ended the search after {}", taken(took))
            }
            (Some(SearchEnd::Failure), Some(took)) => {
                format!("an error ended the search after {}", taken(took))
            }
            (Some(SearchEnd::Runs), Some(took)) => format!("{} were the most allowed", taken(took)),
            (Some(SearchEnd::Time), Some(took)) => {
                format!("after {} one more could have taken too long", taken(took))
            }
            _ => "runs at the same rate turn out differently".into(),
        };
        let met = met.as_ref().map(|end| {
            let runs = self.runs(end, end.runs.met);
            if end.confirmed {
                let sure = sure(self.answer.confidence);
                format!(
                    " It is at least {}: {runs} met it ({sure} sure that most runs there do).",
                    per_s(end)
                )
            } else {
                format!(" At {} {runs} met it; chance may explain that.", per_s(end))
            }
        });
        let not_met = not_met.as_ref().map(|end| {
            let many = if *limit == Limit::Server { end.runs.missed } else { end.runs.not_met() };
            let whose = match limit {
                Limit::Server => "",
                _ => ", but blaster itself was the bottleneck in some",
            };
            let doubt = if end.confirmed { "" } else { "; chance may explain that" };
            format!(" At {} {} missed it{whose}{doubt}.", per_s(end), self.runs(end, many))
        });
        let none = if met.is_none() { " No rate is known to meet it." } else { "" };
        let no_limit = if not_met.is_none() { " No limit was met." } else { "" };
        format!(
            "Not confirmed is {}: {ended}.{none}{}{}{no_limit}{}",
            self.wanted(),
            met.unwrap_or_default(),
            not_met.unwrap_or_default(),
            self.cure()
        )
    }

    fn cure(&self) -> &'static str {
        match self.ended_by {
            Some(SearchEnd::Runs) => {
                " Longer runs (--duration) differ less; --search-runs allows more of them."
            }
            Some(SearchEnd::Time) => " --search-time allows more.",
            Some(SearchEnd::Signal | SearchEnd::Failure) => "",
            _ => " Longer runs (--duration) differ less.",
        }
    }

    fn dead(&self) -> String {
        let lowest =
            self.answer.not_met.as_ref().map_or(String::new(), |end| format!(", even at {}", per_s(end)));
        format!("No rate was found with {}: nothing came back{lowest}.", self.objective)
    }

    /// The rates between the ends, whose side is not known.
    fn between(&self) -> String {
        let of = |end: &BracketEnd| {
            format!("{} (met in {} of {})", per_s(end), end.runs.met, counted(end.runs.all().into(), "run"))
        };
        let rates: Vec<String> = self.answer.between.iter().map(of).collect();
        if rates.is_empty() { String::new() } else { format!(" Unclear: {}.", rates.join(", ")) }
    }
}

/// With a capital letter at its beginning.
fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

/// What to do when blaster is the bottleneck.
const MORE_CONNECTIONS: &str =
    "use more --connections or --threads, other processors than the server's, or several machines";
const OTHER_BLASTERS: &str = "use more --threads, other processors than the server's, or several machines";

fn taken(took: &Bound) -> String {
    format!("{} in {}", counted(took.runs.into(), "run"), units::duration(took.time_ns))
}

#[cfg(test)]
mod tests;
