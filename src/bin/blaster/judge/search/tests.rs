use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;

const PLAN: Plan = Plan { first_per_s: 10_000, precision: 0.05, repeat: 5 };

/// Searches against `server`, which says how a run at a rate turns out, and how much of it comes back. Returns the answer
/// after at most `runs_max` runs, and how many there were.
fn search_within(runs_max: u32, plan: Plan, mut server: impl FnMut(u64) -> (Verdict, f64)) -> (Answer, u32) {
    let mut search = Search::new(plan);
    let mut runs = 0;
    while let Some(rate) = search.next(runs_max - runs) {
        assert!((1..=RATE_MAX).contains(&rate));
        let (verdict, share) = server(rate);
        search.note(rate, &verdict, rate as f64 * share);
        runs += 1;
        assert!(runs <= runs_max, "the search does not end: {search:?}");
    }
    (search.answer(), runs)
}

fn search(plan: Plan, server: impl FnMut(u64) -> (Verdict, f64)) -> (Answer, u32) {
    search_within(plan.runs_max(), plan, server)
}

fn missed() -> Verdict {
    Verdict::Missed("p99".into())
}

/// What a server that carries `limit` makes of a run.
fn up_to(limit: u64) -> impl FnMut(u64) -> (Verdict, f64) {
    move |rate| match rate {
        _ if rate <= limit => (Verdict::Met, 1.0),
        _ => (missed(), limit as f64 / rate as f64),
    }
}

/// A server whose runs meet the objective by chance: with the probability `chance` at a rate.
fn random(seed: u64, chance: impl Fn(f64) -> f64) -> impl FnMut(u64) -> (Verdict, f64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    move |rate| if rng.random_bool(chance(rate as f64)) { (Verdict::Met, 1.0) } else { (missed(), 0.9) }
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
            assert!(
                is_narrow || not_met.rate_per_s - met.rate_per_s == 1,
                "{first_per_s} {limit}: {answer:?}"
            );
            assert_eq!((met.runs.met, not_met.runs.missed, answer.limit), (5, 5, Limit::Server));
            assert!(answer.settled && (answer.confidence - 0.9375).abs() < 1e-9, "{answer:?}");
            assert!(runs < 48, "{runs} runs from {first_per_s} to {limit}");
        }
    }
}

/// Of `searches`, the share whose answer is settled, and of these the share that is right: `is_right` says so.
fn shares(
    searches: u64,
    chance: impl Fn(f64) -> f64 + Copy,
    is_right: impl Fn(&Answer) -> bool,
) -> (f64, f64) {
    let (mut settled, mut right) = (0.0, 0.0);
    for seed in 0..searches {
        let (answer, runs) = search(PLAN, random(seed, chance));
        assert!(runs <= PLAN.runs_max(), "seed {seed}: {runs} runs");
        // five of five at each end, or at one
        let has_both = answer.met.is_some() && answer.not_met.is_some();
        let most = if answer.settled && has_both { 0.9375 } else { 0.96875 };
        assert!(answer.confidence <= most + 1e-9, "{answer:?}");
        if answer.settled {
            settled += 1.0;
            right += f64::from(is_right(&answer));
        }
    }
    (settled / searches as f64, right / settled)
}

/// The bracket of an answer.
fn ends(answer: &Answer) -> (f64, f64) {
    let rate = |end: Option<BracketEnd>| end.map(|end| end.rate_per_s as f64);
    (rate(answer.met).unwrap_or(0.0), rate(answer.not_met).unwrap_or(f64::INFINITY))
}

/// A disturbance makes a run in so many miss below the limit.
#[test]
fn disturbances_do_not_lead_it_astray() {
    for (hiccups, settled_min) in [(0.02, 0.99), (0.1, 0.95), (0.2, 0.8)] {
        let chance = |rate: f64| if rate <= 123_456.0 { 1.0 - hiccups } else { 0.0 };
        let (settled, right) = shares(300, chance, |answer| {
            let (low, high) = ends(answer);
            low <= 123_456.0 && 123_456.0 < high
        });
        assert!(settled >= settled_min && right >= 0.99, "{hiccups}: {settled} settled, {right} right");
    }
}

/// Near the limit chance decides. Then the ends keep away from there.
#[test]
fn a_limit_without_an_edge_lies_between_the_ends() {
    for steepness in [30, 60] {
        let chance = |rate: f64| 0.95 / (1.0 + (rate / 100_000.0).powi(steepness));
        let (settled, right) = shares(300, chance, |answer| {
            let (low, high) = ends(answer);
            chance(low) > 0.5 && chance(high) < 0.5 && low > 60_000.0 && high < 170_000.0
        });
        assert!(settled >= 0.9 && right >= 0.97, "{steepness}: {settled} settled, {right} right");
    }
}

/// If a coin decides each run, whatever the rate, there is no answer. The search claims one at most as often as it says.
#[test]
fn coins_are_not_taken_for_a_limit() {
    for chance in [0.35, 0.5, 0.65] {
        let (settled, _) = shares(500, |_| chance, |_| true);
        assert!(settled <= 0.04, "{chance}: {settled} claim an answer");
    }
}

#[test]
fn every_search_ends_within_its_bound() {
    for seed in 0..400 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let plan = Plan {
            first_per_s: rng.random_range(1..=RATE_MAX),
            precision: 10_f64.powi(rng.random_range(-6..2)),
            repeat: rng.random_range(1..20),
        };
        let runs_max = rng.random_range(1..120);
        // each verdict is drawn, and each share that comes back
        let (answer, _) = search_within(runs_max, plan, |_| {
            let verdict = match rng.random_range(0..3) {
                0 => Verdict::Met,
                1 => missed(),
                _ => Verdict::Generator("97% of a core".into()),
            };
            (verdict, if rng.random_bool(0.2) { 0.0 } else { rng.random() })
        });
        let (low, high) = ends(&answer);
        assert!(low < high && answer.between.len() <= BETWEEN_MAX, "seed {seed}: {answer:?}");
        assert!((0.0..1.0).contains(&answer.confidence), "seed {seed}: {answer:?}");
        let is_confirmed = |end: Option<BracketEnd>| end.is_none_or(|end| end.confirmed);
        assert!(!answer.settled || is_confirmed(answer.met) && is_confirmed(answer.not_met), "{answer:?}");
        for end in [answer.met, answer.not_met].into_iter().flatten() {
            let enough = end.runs.all() >= plan.repeat;
            assert!(enough || !end.confirmed, "seed {seed}: {answer:?}");
            assert!(end.runs.all() > 0, "0 of 0 runs say nothing: {answer:?}");
        }
    }
}

/// Few runs make a wide bracket, and what is known at least is confirmed first.
#[test]
fn the_last_runs_confirm_what_is_known() {
    for (runs_max, is_settled) in [(8, false), (12, false), (14, true), (20, true)] {
        let (answer, runs) = search_within(runs_max, PLAN, up_to(30_000));
        assert_eq!((answer.settled, runs), (is_settled, runs_max), "{answer:?}");
        let met = answer.met.unwrap();
        assert!(met.confirmed && met.runs.met == 5 && met.rate_per_s <= 30_000, "{answer:?}");
    }
    let (answer, _) = search_within(4, PLAN, up_to(30_000));
    assert!(!answer.settled && answer.confidence.abs() < 1e-9, "{answer:?}");
    assert_eq!(answer.rate_per_s(), None);
}

#[test]
fn where_blaster_is_the_limit_nothing_is_said_about_the_server() {
    let (answer, _) = search(PLAN, |rate| match rate {
        0..=50_000 => (Verdict::Met, 1.0),
        _ => (Verdict::Generator("97% of a core".into()), 50_000.0 / rate as f64),
    });
    assert_eq!(answer.limit, Limit::Generator);
    assert!(answer.settled && answer.met.unwrap().rate_per_s > 45_000, "{answer:?}");
    assert!((answer.confidence - 0.96875).abs() < 1e-9, "about the lower end alone: {answer:?}");
    // and one run in which the server was to blame does not make it the server's
    let mut nth = 0;
    let (answer, _) = search(PLAN, |rate| {
        nth += 1;
        match rate {
            0..=50_000 => (Verdict::Met, 1.0),
            _ if nth % 3 == 0 => (missed(), 0.5),
            _ => (Verdict::Generator("97% of a core".into()), 0.5),
        }
    });
    assert_eq!(answer.limit, Limit::Generator, "{answer:?}");
    // a first rate far beyond what blaster can send costs few runs
    let plan = Plan { first_per_s: 50_000_000, ..PLAN };
    let (answer, runs) = search(plan, |rate| match rate {
        0..=200_000 => (Verdict::Met, 1.0),
        _ => (Verdict::Generator("only 210,000/s were sent".into()), 210_000.0 / rate as f64),
    });
    assert!(answer.settled && answer.limit == Limit::Generator && runs < 40, "{runs} runs: {answer:?}");
}

#[test]
fn no_rate_and_every_rate() {
    // nothing is ever right in time, though replies come
    let (answer, _) = search(PLAN, |_| (missed(), 0.01));
    assert_eq!((answer.met, answer.limit, answer.settled), (None, Limit::Server, true));
    assert_eq!((answer.not_met.unwrap().rate_per_s, answer.rate_per_s()), (1, Some(0)));
    let (answer, _) = search(PLAN, |_| (Verdict::Met, 1.0));
    assert_eq!((answer.not_met, answer.limit, answer.settled), (None, Limit::None, true));
    assert_eq!(answer.met.unwrap().rate_per_s, RATE_MAX);
}

/// Two runs at each of two rates show that nobody answers.
#[test]
fn a_dead_target_costs_four_runs() {
    for first_per_s in [1, 2, 10_000, RATE_MAX] {
        let mut search = Search::new(Plan { first_per_s, ..PLAN });
        let mut runs = 0;
        while let Some(rate) = search.next(48 - runs) {
            search.note(rate, &missed(), 0.0);
            runs += 1;
        }
        assert!(runs <= 4, "{runs} runs from {first_per_s}");
        assert_eq!(search.end_of_itself(), Some(SearchEnd::NoAnswer));
        assert!(!search.answer().settled);
    }
    // one that answers at a lower rate only is not dead
    let (answer, _) = search(PLAN, |rate| if rate > 300 { (missed(), 0.0) } else { (Verdict::Met, 1.0) });
    assert!(answer.settled && answer.met.unwrap().rate_per_s > 280, "{answer:?}");
}

#[test]
fn a_search_that_was_cut_short_says_so() {
    let mut search = Search::new(PLAN);
    for left in (41..=48).rev() {
        let rate = search.next(left).unwrap();
        let (verdict, share) = up_to(30_000)(rate);
        search.note(rate, &verdict, rate as f64 * share);
    }
    let answer = search.answer();
    assert!(!answer.settled && answer.confidence < 0.5, "{answer:?}");
    assert!(answer.met.unwrap().rate_per_s <= 30_000);
    assert_eq!(search.end_of_itself(), None);
}

#[test]
fn the_odds_of_a_fair_coin() {
    for (many, all, wanted) in
        [(5, 5, 1.0 / 32.0), (4, 5, 6.0 / 32.0), (0, 5, 1.0), (8, 10, 56.0 / 1_024.0), (0, 0, 1.0)]
    {
        assert!((by_chance(many, all) - wanted).abs() < 1e-12, "{many} of {all}");
    }
    // five of five; or one of the first five missed, and the next four met
    assert!((PLAN.doubt(5) - 1.0 / 32.0).abs() < 1e-12);
    assert!((PLAN.doubt(9) - (1.0 / 32.0 + 5.0 / 32.0 / 16.0)).abs() < 1e-12);
    let sure = Plan { repeat: 100, ..PLAN };
    assert!(sure.doubt(200) < 1e-20 && sure.doubt(100) > 0.0);
}
