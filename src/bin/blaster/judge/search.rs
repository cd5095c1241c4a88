//! `--find-max`: the next rate to try, and the answer. No clock, no socket.
//!
//! ```text
//! seek     double the rate until runs miss the objective, then halve the bracket until it is narrow enough; a rate that
//!          misses runs a second time, since a single disturbance is no limit
//! confirm  run both ends of the bracket several times more, in turns, so that a drift affects both, until chance no longer
//!          explains that they agree. An end with the opposite result moves the bracket. An end without a clear result
//!          becomes part of a gap between the ends: the search looks for a clear one beside it
//! ```
//!
//! The number of runs is bounded. As soon as the runs that are left are only enough to confirm the ends, the search seeks no
//! more: a wide bracket that is confirmed says more than a narrow one that is not.
//!
//! Only the confirming runs decide how sure the answer is, because the seeking runs chose the ends. Assume that runs at a
//! rate meet the objective as often as they miss it: [`by_chance`] is the probability that so many runs agree all the same.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::report::schema::{Answer, BracketEnd, Limit, RunCounts, SearchEnd, Verdict};

/// The highest rate to try.
const RATE_MAX: u64 = 1_000_000_000;
/// How far one step may lead down.
const DESCENT_MAX: u64 = 100;
/// The most confirming runs at a rate, in multiples of `--repeat`.
const CONFIRMING_TIMES_MAX: u32 = 2;
/// The distance that ends keep from an unclear rate, in multiples of `--precision`.
const UNCLEAR_DISTANCE: f64 = 4.0;
/// The most rates between the ends of an answer.
const BETWEEN_MAX: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Plan {
    /// The first rate to try.
    pub(crate) first_per_s: u64,
    /// By how much the upper end of the bracket may exceed the lower one: 0.05 is 5 %.
    pub(crate) precision: f64,
    /// Confirming runs at each end; more if they do not agree.
    pub(crate) repeat: u32,
}

impl Plan {
    /// The duration of a run without `--duration`.
    pub(crate) const DURATION: Duration = Duration::from_secs(2);

    /// The most runs without `--search-runs`: enough to double or halve the rate some ten times, to narrow the bracket, and
    /// to confirm it twice.
    pub(crate) fn runs_max(&self) -> u32 {
        const SEEKING: u32 = 20;
        let halvings = (2.0_f64.ln() / self.precision.ln_1p()).log2().ceil().max(0.0) as u32;
        self.repeat.saturating_mul(4).saturating_add(SEEKING + 2 * halvings)
    }

    /// Whether `many` agreeing runs of `all` are as clear as `repeat` runs that all agree.
    fn proves(&self, many: u32, all: u32) -> bool {
        many >= self.repeat && by_chance(many, all) <= by_chance(self.repeat, self.repeat)
    }

    /// The most confirming runs at a rate.
    fn confirming_max(&self) -> u32 {
        self.repeat.saturating_mul(CONFIRMING_TIMES_MAX)
    }

    /// The probability that a rate whose runs meet the objective as often as not is confirmed as good after at most `all`
    /// runs, though the runs are counted after each.
    fn doubt(&self, all: u32) -> f64 {
        // by the number of runs that missed: the probability of that many, not confirmed so far
        let mut open = vec![1.0];
        let mut confirmed = 0.0;
        for runs in 1..=all {
            let mut next = vec![0.0; open.len() + 1];
            for (missed, chance) in open.iter().enumerate() {
                next[missed] += chance / 2.0;
                next[missed + 1] += chance / 2.0;
            }
            for (missed, chance) in next.iter_mut().enumerate() {
                if self.proves(runs - missed as u32, runs) {
                    confirmed += std::mem::take(chance);
                }
            }
            open = next;
        }
        confirmed
    }
}

/// The runs at one rate.
#[derive(Clone, Copy, Debug, Default)]
struct Runs {
    seeking: RunCounts,
    confirming: RunCounts,
    /// The most right replies per second of a run.
    ok_per_s: f64,
}

impl Runs {
    fn all(&self) -> RunCounts {
        self.seeking + self.confirming
    }
}

/// What the runs at a rate say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Good,
    Bad,
    /// The confirming runs do not agree.
    Unclear,
    /// A single run missed the objective.
    Undecided,
}

/// The bracket, and the gap of unclear rates in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bracket {
    /// The highest good rate below all others.
    low: Option<u64>,
    /// The next rate above it.
    above_low: Option<u64>,
    /// The next rate below `high`; without a `high`, the highest rate.
    below_high: Option<u64>,
    /// The lowest bad rate.
    high: Option<u64>,
}

#[derive(Clone, Debug)]
pub(crate) struct Search {
    plan: Plan,
    tried: BTreeMap<u64, Runs>,
    /// Whether the next run confirms an end.
    confirms: bool,
    has_answered: bool,
}

impl Search {
    pub(crate) fn new(plan: Plan) -> Self {
        Self { plan, tried: BTreeMap::new(), confirms: false, has_answered: false }
    }

    /// Whether the confirming runs at a rate agree: `Good`, `Bad`, or `Unclear` if they can't agree any more. `None`: more
    /// of them are needed.
    fn proven(&self, runs: &Runs) -> Option<Standing> {
        let RunCounts { met, .. } = runs.confirming;
        let (not_met, all) = (runs.confirming.not_met(), runs.confirming.all());
        let left = self.plan.confirming_max().saturating_sub(all);
        if self.plan.proves(met, all) {
            Some(Standing::Good)
        } else if self.plan.proves(not_met, all) {
            Some(Standing::Bad)
        } else {
            let can_agree = |many| self.plan.proves(many + left, all + left);
            (!can_agree(met) && !can_agree(not_met)).then_some(Standing::Unclear)
        }
    }

    fn standing(&self, runs: &Runs) -> Standing {
        self.proven(runs).unwrap_or(match runs.seeking {
            RunCounts { met: 1.., .. } => Standing::Good,
            seeking if seeking.not_met() > 1 => Standing::Bad,
            _ => Standing::Undecided,
        })
    }

    /// The rates whose standing is one of `wanted`, from the lowest.
    fn rates(&self, wanted: &'static [Standing]) -> impl DoubleEndedIterator<Item = u64> {
        let is_wanted = |runs: &Runs| wanted.contains(&self.standing(runs));
        self.tried.iter().filter(move |(_, runs)| is_wanted(runs)).map(|(rate, _)| *rate)
    }

    fn bracket(&self) -> Bracket {
        use Standing::{Bad, Good, Unclear};
        let above_low = self.rates(&[Bad, Unclear]).next();
        let low = self.rates(&[Good]).rev().find(|rate| above_low.is_none_or(|above| *rate < above));
        let high = self.rates(&[Bad]).next();
        let below_high = self.rates(&[Good, Unclear]).rev().find(|rate| high.is_none_or(|high| *rate < high));
        Bracket { low, above_low, below_high, high }
    }

    /// Whether no rate is to be tried between these. A rate close to an unclear one is most likely unclear, too: there the
    /// search keeps its distance.
    fn is_narrow(&self, low: u64, high: u64) -> bool {
        let is_unclear =
            |rate| self.tried.get(&rate).is_some_and(|runs| self.standing(runs) == Standing::Unclear);
        let factor = if is_unclear(low) || is_unclear(high) { UNCLEAR_DISTANCE } else { 1.0 };
        high as f64 <= low as f64 * (1.0 + self.plan.precision * factor) || between(low, high).is_none()
    }

    /// The next rate that may change the bracket. `None`: it is narrow.
    fn seek(&self, bracket: &Bracket) -> Option<u64> {
        if let Some(undecided) = self.rates(&[Standing::Undecided]).next() {
            return Some(undecided);
        }
        let at_low = match (bracket.low, bracket.above_low) {
            (None, None) => Some(self.plan.first_per_s),
            (None, Some(above)) => self.below(above),
            (Some(low), Some(above)) if !self.is_narrow(low, above) => between(low, above),
            _ => None,
        };
        at_low.or_else(|| match (bracket.below_high, bracket.high) {
            (Some(below), None) => (below < RATE_MAX).then(|| (below * 2).min(RATE_MAX)),
            (Some(below), Some(high)) if !self.is_narrow(below, high) => between(below, high),
            _ => None,
        })
    }

    /// A rate below one that is too high: what came back there, but at most half of it, and not much less.
    fn below(&self, rate: u64) -> Option<u64> {
        let came_back = self.tried.get(&rate).map_or(0.0, |runs| runs.ok_per_s);
        let lowest = (rate / DESCENT_MAX).max(1);
        (rate > 1).then(|| (came_back as u64).clamp(lowest, (rate / 2).max(lowest)))
    }

    /// Whether confirming runs at this rate are wanted.
    fn is_open(&self, rate: u64) -> bool {
        self.tried.get(&rate).is_some_and(|runs| self.proven(runs).is_none())
    }

    fn confirming(&self, rate: u64) -> u32 {
        self.tried.get(&rate).map_or(0, |runs| runs.confirming.all())
    }

    /// Whether nothing came back at two rates.
    fn is_dead(&self) -> bool {
        let bad = self.rates(&[Standing::Bad]);
        !self.has_answered && (bad.count() > 1 || self.rates(&[Standing::Bad]).next() == Some(1))
    }

    /// The next rate to try, if `left` more runs are allowed. `None`: the search is over.
    pub(crate) fn next(&mut self, left: u32) -> Option<u64> {
        if left == 0 || self.is_dead() {
            return None;
        }
        let bracket = self.bracket();
        let ends = [bracket.low, bracket.high];
        let needed = |end: Option<u64>| match end {
            Some(rate) if !self.is_open(rate) => 0,
            Some(rate) => self.plan.repeat.saturating_sub(self.confirming(rate)).max(1),
            None => self.plan.repeat,
        };
        let reserve = needed(bracket.low).saturating_add(needed(bracket.high));
        let seek = self.seek(&bracket);
        let open = || ends.into_iter().flatten().filter(|end| self.is_open(*end));
        // what is known at least is worth more than the other end
        let confirm =
            if left < reserve { open().next() } else { open().min_by_key(|end| self.confirming(*end)) };
        let next = if left > reserve { seek.or(confirm) } else { confirm.or(seek) };
        self.confirms = next != seek;
        next
    }

    /// Notes the verdict on a run at `rate`, which [`Search::next`] has chosen, and its right replies per second.
    pub(crate) fn note(&mut self, rate: u64, verdict: &Verdict, ok_per_s: f64) {
        let runs = self.tried.entry(rate).or_default();
        let counts = if self.confirms { &mut runs.confirming } else { &mut runs.seeking };
        counts.note(verdict);
        runs.ok_per_s = runs.ok_per_s.max(ok_per_s);
        self.has_answered |= ok_per_s > 0.0;
    }

    /// Why the search is over, unless a bound is the reason.
    pub(crate) fn end_of_itself(&self) -> Option<SearchEnd> {
        if self.is_dead() {
            return Some(SearchEnd::NoAnswer);
        }
        self.clone().next(u32::MAX).is_none().then_some(SearchEnd::Done)
    }

    /// An end of the bracket for the answer.
    fn end(&self, rate_per_s: u64, standing: Standing) -> BracketEnd {
        let runs = self.tried.get(&rate_per_s).copied().unwrap_or_default();
        let confirmed = self.proven(&runs) == Some(standing);
        BracketEnd { rate_per_s, runs: if confirmed { runs.confirming } else { runs.all() }, confirmed }
    }

    /// The answer so far. A confirmed rate says more than one closer to the limit that is not.
    pub(crate) fn answer(&self) -> Answer {
        let bracket = self.bracket();
        let good = self.rates(&[Standing::Good]).rev().filter(|rate| Some(*rate) <= bracket.low);
        let good: Vec<BracketEnd> = good.map(|rate| self.end(rate, Standing::Good)).collect();
        let bad: Vec<BracketEnd> =
            self.rates(&[Standing::Bad]).map(|rate| self.end(rate, Standing::Bad)).collect();
        let best = |ends: &[BracketEnd]| ends.iter().find(|end| end.confirmed).or(ends.first()).copied();
        let (met, not_met) = (best(&good), best(&bad));
        let limit = match not_met {
            None => Limit::None,
            Some(BracketEnd { runs, confirmed: true, .. }) if self.plan.proves(runs.missed, runs.all()) => {
                Limit::Server
            }
            Some(BracketEnd { runs, confirmed: false, .. }) if runs.generator == 0 => Limit::Server,
            Some(_) => Limit::Generator,
        };
        let is_confirmed = |end: Option<BracketEnd>| end.is_some_and(|end| end.confirmed);
        let settled = match (met, not_met) {
            (Some(met), None) => met.confirmed && met.rate_per_s >= RATE_MAX,
            (None, Some(not_met)) => not_met.confirmed && bracket.above_low == Some(1),
            _ => is_confirmed(met) && is_confirmed(not_met),
        };
        // that blaster was the bottleneck is no claim about the server
        let claims = [met, not_met.filter(|_| limit == Limit::Server)];
        let claims = claims.into_iter().flatten().filter(|end| end.confirmed);
        let confidence = claims
            .map(|end| 1.0 - self.plan.doubt(end.runs.all()))
            .reduce(|one, other| (one + other - 1.0).max(0.0));
        let is_between = |rate: u64| {
            met.is_none_or(|met| rate > met.rate_per_s)
                && not_met.is_none_or(|not_met| rate < not_met.rate_per_s)
        };
        let between = self.tried.iter().filter(|(rate, _)| is_between(**rate));
        let between =
            between.map(|(rate, runs)| BracketEnd { rate_per_s: *rate, runs: runs.all(), confirmed: false });
        Answer {
            met,
            not_met,
            limit,
            confidence: confidence.unwrap_or(0.0),
            settled,
            between: between.take(BETWEEN_MAX).collect(),
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
mod tests;
