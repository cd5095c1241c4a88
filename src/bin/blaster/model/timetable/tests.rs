use std::path::Path;

use super::*;

const S: u64 = 1_000_000_000;

fn rate(text: &str) -> Timetable {
    Timetable::Rate { curve: text.parse().unwrap(), gaps: Gaps::Even, burst: 1 }
}

fn burst(text: &str, burst: u32) -> Timetable {
    Timetable::Rate { curve: text.parse().unwrap(), gaps: Gaps::Even, burst }
}

fn poisson(text: &str, seed: u64) -> Timetable {
    Timetable::Rate { curve: text.parse().unwrap(), gaps: Gaps::Exponential { seed }, burst: 1 }
}

fn every(datagrams: u32, ms: u64) -> Timetable {
    Timetable::Bursts { datagrams, every: Duration::from_millis(ms) }
}

fn recorded(lines: &str) -> Timetable {
    Timetable::Recorded(Arc::new(Recording::read_lines(Path::new("FILE"), lines.as_bytes()).unwrap()))
}

/// One of each kind, and combinations.
fn all_kinds() -> Vec<Timetable> {
    vec![
        rate("1234"),
        rate("0..5k:300ms,5k:100ms,5k..100:200ms,0:100ms,700"),
        burst("1200", 6),
        burst("0..5k:300ms,1k", 12),
        every(18, 13),
        every(6, 1),
        poisson("1234", 7),
        poisson("0..5k:300ms,1k", 8),
        Timetable::Rate { curve: "2k".parse().unwrap(), gaps: Gaps::Exponential { seed: 9 }, burst: 6 },
        recorded("1 64\n1.001 64\n1.001 64\n1.005 64\n1.1 64\n"),
    ]
}

fn first(timetable: &Timetable, train: u32, number: usize) -> Vec<u64> {
    let mut times = timetable.send_times(train, 0, 1);
    (0..number).map_while(|_| times.take(u64::MAX - 1)).collect()
}

#[test]
fn a_constant_rate_is_the_pacers() {
    let mut pacer = Pacer::new(Rate::whole(123_456), 5, 1, 3);
    let mut times = Timetable::from(Rate::whole(123_456)).send_times(5, 1, 3);
    for _ in 0..1_000 {
        assert_eq!((times.next_ns(), times.covered_ns()), (pacer.next_ns(), pacer.covered_ns()));
        assert_eq!(times.take(u64::MAX), pacer.take(u64::MAX));
    }
}

#[test]
fn datagrams_of_a_burst_have_one_time() {
    assert_eq!(first(&every(3, 10), 1, 7), [0, 0, 0, 10_000_000, 10_000_000, 10_000_000, 20_000_000]);
    assert_eq!(first(&every(4, 10), 2, 4), [0, 0, 10_000_000, 10_000_000], "trains of 2");
    assert_eq!(first(&every(4, 10), 4, 3), [0, 10_000_000, 20_000_000], "a burst is one train");
    assert_eq!(first(&burst("3", 2), 1, 5), [0, 0, 666_666_666, 666_666_666, 1_333_333_333]);
    assert_eq!(
        first(&burst("2..6:2s,1", 4), 1, 9),
        [0, 0, 0, 0, S * 6 / 5 + 36_067_977, 1_236_067_977, 1_236_067_977, 1_236_067_977, 2 * S]
    );
}

#[test]
fn workers_together_keep_the_schedule_of_one() {
    for timetable in all_kinds() {
        for train in [1, 3, 6] {
            if train > 1 && matches!(timetable, Timetable::Recorded(_)) {
                continue;
            }
            let mut one = timetable.send_times(train, 0, 1);
            let mut many: Vec<SendTimes> =
                (0..5).map(|worker| timetable.send_times(train, worker, 5)).collect();
            for number in 0..5_000 {
                let worker = &mut many[number % 5];
                assert_eq!(worker.next_ns(), one.next_ns(), "{timetable:?}, train {number}");
                assert_eq!(worker.take(u64::MAX), one.take(u64::MAX), "{timetable:?}, train {number}");
                assert_eq!(worker.covered_ns(), one.covered_ns(), "{timetable:?}, train {number}");
                // the pacer's spacing is rounded
                assert!(one.covered_ns().abs_diff(one.next_ns()) <= 1, "{timetable:?}, train {number}");
            }
        }
    }
}

#[test]
fn nothing_before_its_time_and_nothing_left_out_after_a_stall() {
    for timetable in all_kinds() {
        let mut stalled = timetable.send_times(1, 0, 1);
        let mut punctual = stalled.clone();
        assert_eq!(stalled.covered_ns(), 0);
        let mut wanted = Vec::new();
        for now_ns in (0..900_000_000_u64).step_by(1_000_000) {
            assert!(punctual.next_ns() >= now_ns.saturating_sub(999_999), "{timetable:?}");
            while let Some(intended_ns) = punctual.take(now_ns) {
                assert!(intended_ns <= now_ns && punctual.next_ns() >= intended_ns, "{timetable:?}");
                wanted.push(intended_ns);
            }
        }
        let found: Vec<u64> = std::iter::from_fn(|| stalled.take(899_000_000)).collect();
        assert_eq!(found, wanted, "{timetable:?}");
        assert!(found.len() > 30, "{timetable:?}");
    }
}

#[test]
fn what_is_left_is_what_would_be_taken() {
    for timetable in all_kinds() {
        for (worker, workers) in [(0, 1), (1, 3)] {
            let mut times = timetable.send_times(1, worker, workers);
            for end_ns in [0, 1, 1_000_000, 1_000_001, 400_000_000, 2 * S] {
                let left = times.left(end_ns);
                let taken =
                    std::iter::from_fn(|| end_ns.checked_sub(1).and_then(|now_ns| times.take(now_ns)));
                assert_eq!(left, taken.count() as u64, "{timetable:?}, until {end_ns}");
            }
        }
    }
}

/// Whatever the command line allows.
#[test]
fn extremes_are_in_order() {
    let silence = format!("{}1", "0:10years,".repeat(99));
    for text in
        ["0.001", "1G", "0.001..1G:10years", "1G..0:10years,1G:1ns,0:10years,1", "0..1G:1ns,0.001", &silence]
    {
        for gaps in [Gaps::Even, Gaps::Exponential { seed: 1 }] {
            for burst in [1, 128, 1 << 24] {
                for (train, worker, workers) in [(1, 0, 1), (128.min(burst), 4_095, 4_096)] {
                    let timetable = Timetable::Rate { curve: text.parse().unwrap(), gaps, burst };
                    let mut times = timetable.send_times(train, worker, workers);
                    let mut before_ns = 0;
                    for _ in 0..3 {
                        let next_ns = times.next_ns();
                        assert!(
                            next_ns >= before_ns && times.covered_ns() <= next_ns.max(before_ns),
                            "{timetable:?}"
                        );
                        before_ns = next_ns;
                        // a second train may be due after the end of time
                        if next_ns > 10 * 366 * 86_400 * S || times.take(next_ns).is_none() {
                            break;
                        }
                    }
                    assert!(timetable.most_within(Duration::from_secs(2)) > 0.0);
                    assert!(timetable.mean_per_s(Duration::ZERO, None).is_some_and(|per_s| per_s >= 0.0));
                }
            }
        }
    }
}

#[test]
fn very_many_are_left_by_expectation() {
    let end_ns = 10 * S;
    for (timetable, wanted) in [(poisson("1M", 1), 1e7), (rate("0..2M:10s"), 1e7)] {
        let left = timetable.send_times(1, 0, 1).left(end_ns) as f64;
        assert!((left - wanted).abs() < 4.0 * wanted.sqrt(), "{timetable:?}: {left}");
        assert!((timetable.datagrams_until(end_ns) - wanted).abs() < 1.0);
    }
}

#[test]
fn what_may_be_waiting_is_bounded() {
    for timetable in all_kinds() {
        for window in [Duration::from_millis(20), Duration::from_millis(300)] {
            let times = first(&timetable, 1, 4_000);
            let within = |begin: usize| {
                times[begin..].partition_point(|ns| *ns < times[begin] + window.as_nanos() as u64)
            };
            let most = (0..3_000).filter(|begin| begin + 1_000 < times.len()).map(within).max().unwrap();
            let bound = timetable.most_within(window).ceil();
            assert!(most as f64 <= bound + 1.0, "{timetable:?}: {most} in {window:?}, {bound} at most");
        }
    }
}

#[test]
fn the_same_seed_draws_the_same_gaps_and_another_one_others() {
    assert_eq!(first(&poisson("1k", 5), 1, 100), first(&poisson("1k", 5), 1, 100));
    assert_ne!(first(&poisson("1k", 5), 1, 100), first(&poisson("1k", 6), 1, 100));
    let mut of_many = poisson("1k", 5).send_times(1, 3, 64);
    assert_eq!(of_many.take(u64::MAX), first(&poisson("1k", 5), 1, 4).last().copied());
}

/// Gaps in units of their mean, in order.
fn gaps(times: &[u64], mean_ns: f64) -> Vec<f64> {
    let before = [0].iter().chain(times);
    let mut gaps: Vec<f64> =
        times.iter().zip(before).map(|(ns, before)| (ns - before) as f64 / mean_ns).collect();
    gaps.sort_by(f64::total_cmp);
    gaps
}

/// The largest distance between the distribution of these gaps and the exponential one (Kolmogorov and Smirnov).
fn distance(sorted: &[f64]) -> f64 {
    let number = sorted.len() as f64;
    let apart = |(nth, gap): (usize, &f64)| {
        let wanted = 1.0 - (-gap).exp();
        (wanted - nth as f64 / number).abs().max((wanted - (nth + 1) as f64 / number).abs())
    };
    sorted.iter().enumerate().map(apart).fold(0.0, f64::max)
}

#[test]
fn random_gaps_are_exponential() {
    const NUMBER: usize = 100_000;
    for (text, train, mean_ns) in [("1k", 1, 1e6), ("1k", 8, 8e6), ("200k", 1, 5e3)] {
        let times = first(&poisson(text, 42), train, NUMBER);
        let gaps = gaps(&times, mean_ns);
        let number = NUMBER as f64;
        let mean = gaps.iter().sum::<f64>() / number;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / number;
        // four standard deviations; the fourth central moment of the exponential distribution is 9
        assert!((mean - 1.0).abs() < 4.0 / number.sqrt(), "{text}: the mean is {mean}");
        assert!((variance - 1.0).abs() < 4.0 * (8.0 / number).sqrt(), "{text}: the variance is {variance}");
        // a larger distance has a probability of one in a million; that of even gaps is 0.63
        assert!(distance(&gaps) < 2.69 / number.sqrt(), "{text}: {}", distance(&gaps));
        // neighbours know nothing of each other
        let in_order: Vec<f64> =
            times.windows(2).map(|pair| (pair[1] - pair[0]) as f64 / mean_ns - 1.0).collect();
        let together = in_order.windows(2).map(|pair| pair[0] * pair[1]).sum::<f64>() / number;
        assert!(together.abs() < 4.0 / number.sqrt(), "{text}: the correlation is {together}");
    }
}

#[test]
fn random_gaps_follow_a_ramp() {
    let timetable = poisson("0..20k:10s,1", 3);
    let times = first(&timetable, 1, 100_000);
    for second in 0..10 {
        let found = times.iter().filter(|ns| **ns / S == second).count() as f64;
        let wanted = 2_000.0 * second as f64 + 1_000.0;
        assert!((found - wanted).abs() < 4.0 * wanted.sqrt(), "second {second}: {found} instead of {wanted}");
    }
}
