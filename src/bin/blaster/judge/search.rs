//! `--find-max`: the next rate to try, and the answer. No clock, no socket.
//!
//! ```text
//! seek     double the rate until a run misses the objective, then halve the bracket until it is narrow enough; a rate
//!          that misses runs a second time, since a single disturbance is no limit
//! confirm  run both ends of the bracket several times more, in turns, so that a drift affects both; if most runs at an
//!          end disagree with it, the bracket moves, and the search goes on
//! ```
//!
//! Only the confirming runs decide how sure the answer is, because the seeking runs chose the ends. Assume that runs at a
//! rate meet the objective as often as they miss it: [`by_chance`] is the probability that so many runs agree all the same.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::report::schema::{Answer, BracketEnd, Limit, RunCounts, Verdict};

/// The highest rate to try.
const RATE_MAX: u64 = 1_000_000_000;
/// After so many moves of the bracket by confirming runs, the answer counts as not settled.
const MOVES_MAX: u32 = 8;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Plan {
    /// The first rate to try, datagrams per second.
    pub(crate) first_per_s: u64,
    /// By how much the upper end of the bracket may exceed the lower one: 0.05 is 5 %.
    pub(crate) precision: f64,
    /// Confirming runs at each end.
    pub(crate) repeat: u32,
}

impl Plan {
    /// The first rate without `--rate`.
    pub(crate) const FIRST_PER_S: u64 = 10_000;
    /// The duration of a run without `--duration`.
    pub(crate) const DURATION: Duration = Duration::from_secs(2);
}

#[derive(Clone, Debug)]
pub(crate) struct Search {
    plan: Plan,
    /// The seeking runs by rate.
    sought: BTreeMap<u64, RunCounts>,
    /// The confirming runs by rate.
    confirmed: BTreeMap<u64, RunCounts>,
    /// The bracket: the highest rate that seems good, and the lowest that seems too high.
    low: Option<u64>,
    high: Option<u64>,
    moves: u32,
    is_over: bool,
}

impl Search {
    pub(crate) fn new(plan: Plan) -> Self {
        Self {
            plan,
            sought: BTreeMap::new(),
            confirmed: BTreeMap::new(),
            low: None,
            high: None,
            moves: 0,
            is_over: false,
        }
    }

    /// Whether the bracket is narrow enough to be confirmed. Then both ends are known, or there is no rate beyond the known
    /// end.
    fn is_narrow(&self) -> bool {
        match (self.low, self.high) {
            (Some(low), Some(high)) => {
                high as f64 <= low as f64 * (1.0 + self.plan.precision) || between(low, high).is_none()
            }
            (None, Some(high)) => high <= 1,
            (Some(low), None) => low >= RATE_MAX,
            (None, None) => false,
        }
    }

    /// The next rate to try. `None`: the search is over.
    pub(crate) fn next(&self) -> Option<u64> {
        if self.is_over {
            return None;
        }
        if self.is_narrow() {
            let runs = |end: &u64| self.confirmed.get(end).map_or(0, |runs| runs.all());
            return [self.low, self.high].into_iter().flatten().min_by_key(runs);
        }
        Some(match (self.low, self.high) {
            (Some(low), Some(high)) => between(low, high).unwrap_or(low),
            (Some(low), None) => (low * 2).min(RATE_MAX),
            (None, Some(high)) => (high / 2).max(1),
            (None, None) => self.plan.first_per_s,
        })
    }

    /// Notes the verdict on a run at `rate`, which [`Search::next`] has chosen.
    pub(crate) fn note(&mut self, rate: u64, verdict: &Verdict) {
        if self.is_narrow() {
            self.confirmed.entry(rate).or_default().note(verdict);
            self.check_bracket();
            return;
        }
        let runs = self.sought.entry(rate).or_default();
        runs.note(verdict);
        if runs.met > 0 {
            self.low = Some(rate);
        } else if runs.not_met() >= 2 {
            self.high = Some(rate);
        }
    }

    /// When both ends have their confirming runs: moves an end that most of them disagree with, or ends the search.
    fn check_bracket(&mut self) {
        let runs = |end: u64| self.confirmed.get(&end).copied().unwrap_or_default();
        if [self.low, self.high].into_iter().flatten().any(|end| runs(end).all() < self.plan.repeat) {
            return;
        }
        let holds = |many: u32| many * 2 > self.plan.repeat;
        let (low, high) = (self.low, self.high);
        if let Some(low) = low.filter(|low| !holds(runs(*low).met)) {
            self.high = Some(low);
            self.low = self.sought.range(..low).rev().find(|(_, runs)| runs.met > 0).map(|(rate, _)| *rate);
        } else if let Some(high) = high.filter(|high| !holds(runs(*high).not_met())) {
            self.low = Some(high);
            let is_too_much = |runs: &RunCounts| runs.met == 0 && runs.not_met() > 1;
            self.high =
                self.sought.range(high + 1..).find(|(_, runs)| is_too_much(runs)).map(|(rate, _)| *rate);
        } else {
            self.is_over = true;
            return;
        }
        self.moves += 1;
        self.is_over = self.moves >= MOVES_MAX;
    }

    /// The answer so far.
    pub(crate) fn answer(&self) -> Answer {
        let end = |rate_per_s: Option<u64>| {
            rate_per_s.map(|rate_per_s| BracketEnd {
                rate_per_s,
                runs: self.confirmed.get(&rate_per_s).copied().unwrap_or_default(),
            })
        };
        let (met, not_met) = (end(self.low), end(self.high));
        let limit = match not_met {
            None => Limit::None,
            Some(BracketEnd { runs, .. }) if runs.missed * 2 > runs.all() => Limit::Server,
            Some(BracketEnd { runs, .. }) if runs.all() > 0 => Limit::Generator,
            Some(BracketEnd { rate_per_s, .. }) => match self.sought.get(&rate_per_s) {
                Some(runs) if runs.generator == 0 => Limit::Server,
                _ => Limit::Generator,
            },
        };
        let doubt = met.map_or(0.0, |end| by_chance(end.runs.met, end.runs.all()));
        let doubt_above = match (limit, not_met) {
            (Limit::Server, Some(end)) => by_chance(end.runs.missed, end.runs.all()),
            _ => 0.0,
        };
        let is_confirmed = |end: BracketEnd| end.runs.all() >= self.plan.repeat;
        Answer {
            met,
            not_met,
            limit,
            confidence: (1.0 - doubt - doubt_above).max(0.0),
            settled: self.is_over
                && self.moves < MOVES_MAX
                && met.is_none_or(is_confirmed)
                && not_met.is_none_or(is_confirmed),
        }
    }
}

/// The geometric mean of the ends, rounded to three digits. `None`: there is no rate between them.
fn between(low: u64, high: u64) -> Option<u64> {
    let middle = (low as f64 * high as f64).sqrt();
    let digit = 10_f64.powf(middle.log10().floor() - 2.0).max(1.0);
    let rounded = ((middle / digit).round() * digit) as u64;
    Some(rounded).filter(|rate| (low + 1..high).contains(rate))
}

/// The probability that a fair coin shows heads `many` times or more in `all` throws.
pub(crate) fn by_chance(many: u32, all: u32) -> f64 {
    // from one binomial coefficient to the next
    let mut ways = 1.0;
    let mut sum = 0.0;
    for heads in 0..=all {
        if heads >= many {
            sum += ways;
        }
        ways = ways * f64::from(all - heads) / f64::from(heads + 1);
    }
    sum / 2_f64.powf(f64::from(all))
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    const PLAN: Plan = Plan { first_per_s: 10_000, precision: 0.05, repeat: 5 };

    /// Searches against `server`, which says how a run at a rate turns out; the answer, and how many runs it took.
    fn search(plan: Plan, mut server: impl FnMut(u64) -> Verdict) -> (Answer, u32) {
        let mut search = Search::new(plan);
        let mut runs = 0;
        while let Some(rate) = search.next() {
            assert!((1..=RATE_MAX).contains(&rate));
            search.note(rate, &server(rate));
            runs += 1;
            assert!(runs < 500, "the search does not end: {search:?}");
        }
        (search.answer(), runs)
    }

    fn missed() -> Verdict {
        Verdict::Missed("p99".into())
    }

    fn up_to(limit: u64) -> impl FnMut(u64) -> Verdict {
        move |rate| if rate <= limit { Verdict::Met } else { missed() }
    }

    #[test]
    fn a_clear_limit_is_bracketed_from_wherever_the_search_begins() {
        for first_per_s in [1, 777, 10_000, 400_000, 90_000_000] {
            for limit in [3, 1_500, 10_000, 123_456, 7_000_000] {
                let plan = Plan { first_per_s, ..PLAN };
                let (answer, runs) = search(plan, up_to(limit));
                let (met, not_met) = (answer.met.unwrap(), answer.not_met.unwrap());
                assert!(met.rate_per_s <= limit && limit < not_met.rate_per_s, "{limit}: {answer:?}");
                let is_narrow = not_met.rate_per_s as f64 <= met.rate_per_s as f64 * 1.05;
                assert!(is_narrow || not_met.rate_per_s - met.rate_per_s == 1, "{limit}: {answer:?}");
                assert_eq!((met.runs.met, not_met.runs.missed, answer.limit), (5, 5, Limit::Server));
                assert!(answer.settled && (answer.confidence - 0.9375).abs() < 1e-9, "{answer:?}");
                assert!(runs < 80, "{runs} runs from {first_per_s} to {limit}");
            }
        }
    }

    #[test]
    fn hiccups_do_not_lead_it_astray() {
        for seed in 0..50 {
            let mut rng = SmallRng::seed_from_u64(seed);
            // a disturbance makes one run in ten miss, and near the limit chance decides
            let (answer, _) = search(PLAN, |rate| {
                let chance = 0.9 / (1.0 + (rate as f64 / 100_000.0).powi(60));
                if rng.random_bool(chance) { Verdict::Met } else { missed() }
            });
            let (met, not_met) = (answer.met.unwrap().rate_per_s, answer.not_met.unwrap().rate_per_s);
            assert!(met > 85_000 && not_met < 115_000, "seed {seed}: {answer:?}");
        }
    }

    #[test]
    fn where_blaster_is_the_limit_nothing_is_said_about_the_server() {
        let (answer, _) = search(PLAN, |rate| match rate {
            0..=50_000 => Verdict::Met,
            _ => Verdict::Generator("97% of a core".into()),
        });
        assert_eq!(answer.limit, Limit::Generator);
        assert!(answer.met.unwrap().rate_per_s > 45_000, "{answer:?}");
        assert!((answer.confidence - 0.96875).abs() < 1e-9, "about the lower end alone: {answer:?}");
        // and one run in which the server was to blame does not make it the server's
        let mut nth = 0;
        let (answer, _) = search(PLAN, |rate| {
            nth += 1;
            match rate {
                0..=50_000 => Verdict::Met,
                _ if nth % 3 == 0 => missed(),
                _ => Verdict::Generator("97% of a core".into()),
            }
        });
        assert_eq!(answer.limit, Limit::Generator, "{answer:?}");
    }

    #[test]
    fn no_rate_and_every_rate() {
        let (answer, _) = search(PLAN, |_| missed());
        assert_eq!((answer.met, answer.limit), (None, Limit::Server));
        assert_eq!(answer.not_met.unwrap().rate_per_s, 1);
        let (answer, _) = search(PLAN, |_| Verdict::Met);
        assert_eq!((answer.not_met, answer.limit), (None, Limit::None));
        assert_eq!(answer.met.unwrap().rate_per_s, RATE_MAX);
    }

    #[test]
    fn a_search_that_was_cut_short_says_so() {
        let mut search = Search::new(PLAN);
        for _ in 0..8 {
            let rate = search.next().unwrap();
            search.note(rate, &up_to(30_000)(rate));
        }
        let answer = search.answer();
        assert!(!answer.settled && answer.confidence < 0.5, "{answer:?}");
        assert!(answer.met.unwrap().rate_per_s <= 30_000);
    }

    #[test]
    fn the_odds_of_a_fair_coin() {
        for (many, all, wanted) in
            [(5, 5, 1.0 / 32.0), (4, 5, 6.0 / 32.0), (0, 5, 1.0), (8, 10, 56.0 / 1_024.0), (0, 0, 1.0)]
        {
            assert!((by_chance(many, all) - wanted).abs() < 1e-12, "{many} of {all}");
        }
    }
}
