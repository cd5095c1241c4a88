//! `found`, `verdict`: the result of `--find-max`.

use std::ops::Add;

use serde::{Deserialize, Serialize};

/// The result of `--find-max`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct SearchResult {
    pub(crate) objective: Objective,
    /// The duration of each run.
    pub(crate) duration_ns: u64,
    /// What the rates count: `datagram`, `message` or `connection`. `null`: an older blaster, which counted datagrams.
    #[serde(default)]
    pub(crate) unit: Option<String>,
    #[serde(flatten)]
    pub(crate) answer: Answer,
    /// As in `--precision`, which a confirmed bracket may not reach. `null`, as the fields below: an older blaster.
    #[serde(default)]
    pub(crate) precision_percent: Option<f64>,
    /// What bounded the search.
    #[serde(default)]
    pub(crate) bound: Option<Bound>,
    /// What it took.
    #[serde(default)]
    pub(crate) took: Option<Bound>,
    #[serde(default)]
    pub(crate) ended_by: Option<SearchEnd>,
}

/// Runs, and their time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Bound {
    pub(crate) runs: u32,
    pub(crate) time_ns: u64,
}

/// Why a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SearchEnd {
    /// Nothing was left to try.
    Done,
    /// Nothing came back at two rates.
    NoAnswer,
    /// As many runs as `bound` allows were made.
    Runs,
    /// A further run could have taken longer than `bound` allows.
    Time,
    Signal,
    /// A run could not be made; standard error said why.
    Failure,
}

/// What each run of a search must achieve: `--loss` and `--p99`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Objective {
    /// The largest share of datagrams (TCP: of messages, or of new connections) without a right reply in time, in percent.
    pub(crate) loss_percent: f64,
    /// The longest p99 from the intended send time.
    pub(crate) p99_ns: Option<u64>,
}

/// The judgement of a run at a rate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "outcome", content = "why", rename_all = "kebab-case")]
pub(crate) enum Verdict {
    Met,
    /// The objective was missed, and blaster did not cause that.
    Missed(String),
    /// The objective was missed, or the rate was not reached, and blaster may have caused that. This says nothing about the
    /// server.
    Generator(String),
}

/// The runs at one rate, by their judgement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct RunCounts {
    pub(crate) met: u32,
    pub(crate) missed: u32,
    /// Blaster was the bottleneck.
    pub(crate) generator: u32,
}

impl RunCounts {
    pub(crate) fn note(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Met => self.met += 1,
            Verdict::Missed(_) => self.missed += 1,
            Verdict::Generator(_) => self.generator += 1,
        }
    }

    pub(crate) fn all(self) -> u32 {
        self.met + self.missed + self.generator
    }

    /// The runs that did not meet the objective, for either reason.
    pub(crate) fn not_met(self) -> u32 {
        self.missed + self.generator
    }
}

impl Add for RunCounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            met: self.met + other.met,
            missed: self.missed + other.missed,
            generator: self.generator + other.generator,
        }
    }
}

/// A rate of a search, and its runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct BracketEnd {
    pub(crate) rate_per_s: u64,
    /// The confirming runs of a confirmed rate; else all its runs.
    pub(crate) runs: RunCounts,
    /// Whether the confirming runs agree. An older blaster tells it only in `settled`.
    #[serde(default)]
    pub(crate) confirmed: bool,
}

/// What limits the highest rate that met the objective.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Limit {
    /// The server, or the path to it: at the next rate most runs missed the objective, and blaster did not cause that.
    Server,
    /// Blaster itself: the server may carry more.
    Generator,
    /// No limit was found before the search ended.
    None,
}

/// The answer of a search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Answer {
    /// The highest rate that meets the objective. `null`: no rate does.
    pub(crate) met: Option<BracketEnd>,
    /// The lowest rate above it that does not.
    pub(crate) not_met: Option<BracketEnd>,
    /// The limit at that rate.
    pub(crate) limit: Limit,
    /// The probability that chance does not explain the confirming runs: that most runs meet the objective at the lower end
    /// and, if the server is the limit, that most miss it at the upper end. An end that is not confirmed is left out; 0:
    /// none is.
    pub(crate) confidence: f64,
    /// Whether both ends are confirmed, or one of them if there is no rate beyond it.
    pub(crate) settled: bool,
    /// Rates between the two, at most 8: they were tried, and which side they are on is not known.
    #[serde(default)]
    pub(crate) between: Vec<BracketEnd>,
}

impl Answer {
    /// The highest rate that certainly meets the objective; 0: none does. `None`: this is not confirmed.
    pub(crate) fn rate_per_s(&self) -> Option<u64> {
        match self.met {
            Some(met) => (met.confirmed || self.settled).then_some(met.rate_per_s),
            None => self.settled.then_some(0),
        }
    }
}
