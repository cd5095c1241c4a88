//! The losses and the latency that blaster itself may have caused. The rest is the server's, or the path's.

use crate::model::units::{count, counted, duration};
use crate::report::schema::Report;

/// A thread with this share of a core may have been the bottleneck.
pub(super) const BUSY: f64 = 0.95;
/// A thread that waited for a processor for this share of the time may have read replies too late.
const STARVED: f64 = 0.05;
/// If one datagram in a hundred leaves this late or later, the schedule was not kept.
const SLIP_P99_NS: u64 = 1_000_000;
/// The share of the rate that a run must have tried.
const RATE_KEPT: f64 = 0.98;
/// A late worker sends its datagrams in a burst that exceeds the rate, and a burst may be lost. For each datagram that
/// left late, so many lost ones may be blaster's: the datagrams behind it find full queues. In the same way a burst that
/// waits in queues may add as much to the latency as the slip has added.
const BURST: u64 = 2;
/// If blaster can't have caused one datagram in so many that have no right reply, then the server, or the path, is at its
/// limit.
const REST_MAX: u64 = 1_000;

/// Datagrams without a right reply in time that blaster may have caused.
#[derive(Debug, Default)]
pub(super) struct OwnLosses {
    /// The most of them that it may have caused.
    pub(super) most: u64,
    /// How it may have caused them.
    pub(super) causes: Vec<String>,
}

impl OwnLosses {
    pub(super) fn of(report: &Report) -> Self {
        let counts = &report.totals.counts;
        let mut own = Self::default();
        // if nothing at all came back, bursts don't explain it: the datagrams that left in time were not answered either
        if let Some(slip_ns) = slipped(report).filter(|_| counts.answered() > 0) {
            own.most += BURST * sent_late(report);
            own.causes.push(left_late(report, slip_ns));
        }
        for (number, before, after) in [
            (report.totals.own_drops, "its own sockets dropped ", ""),
            (report.generator.forgotten, "", " given up before the timeout"),
            (if is_away(report) { counts.late } else { 0 }, "", " came late while blaster was busy"),
        ] {
            if number > 0 {
                own.most += number;
                own.causes.push(format!("{before}{}{after}", count(number)));
            }
        }
        // no other outcome is a matter of time or of room; and a connection loses nothing in a burst
        let possible = if report.load.protocol == "tcp" { counts.late } else { counts.lost + counts.late };
        if possible == 0 {
            return Self::default();
        }
        own.most = own.most.min(possible);
        own
    }

    /// The datagrams without a right reply in time that blaster can't have caused.
    pub(super) fn rest(&self, report: &Report) -> u64 {
        report.totals.counts.not_ok().saturating_sub(self.most)
    }
}

/// Whether the server, or the path, is at its limit: blaster can't have caused all losses.
pub(super) fn is_lossy(report: &Report) -> bool {
    let rest = OwnLosses::of(report).rest(report) + not_established(report);
    rest * REST_MAX > tried(report)
}

/// New connections that the server did not establish. Each is as bad as a lost message.
pub(super) fn not_established(report: &Report) -> u64 {
    report.connections.filter(|_| report.load.connects()).map_or(0, |connections| connections.missed)
}

/// What was sent, and the new connections that the server did not establish.
pub(super) fn tried(report: &Report) -> u64 {
    report.totals.counts.sent + not_established(report)
}

/// If new connections had to wait because all of `--connections` were taken, their number.
pub(super) fn waited(report: &Report) -> Option<u64> {
    report.connections.map(|connections| connections.waited).filter(|waited| *waited > 0)
}

/// That all of `--connections` were taken.
pub(super) fn all_taken(report: &Report) -> String {
    match report.load.flows {
        1 => "the only connection was taken".into(),
        many => format!("all {} were taken", counted(many.into(), "connection")),
    }
}

/// The rate of what was tried.
pub(super) fn tried_per_s(report: &Report) -> f64 {
    let seconds = (report.elapsed_ns as f64 / 1e9).max(1e-9);
    report.totals.sent_per_s + not_established(report) as f64 / seconds
}

/// Whether what was tried is as much as the schedule asked for. Random gaps, and bursts at the end of the run, change it a
/// little.
pub(super) fn is_rate_kept(report: &Report) -> bool {
    let Some(wanted_per_s) = report.load.rate_per_s else { return true };
    let seconds = (report.elapsed_ns as f64 / 1e9).max(1e-9);
    let together = report.load.together() as f64;
    let by_chance = match report.load.gaps.as_deref() {
        // four standard deviations
        Some("poisson") => 4.0 * (wanted_per_s * seconds / together).sqrt() * together,
        _ => 0.0,
    };
    tried_per_s(report) >= wanted_per_s * RATE_KEPT - by_chance / seconds
}

/// The share of the busiest thread, if it may have been too busy to read replies in time.
pub(super) fn busy(report: &Report) -> Option<f64> {
    Some(most(&report.generator.cpu_share)).filter(|share| *share >= BUSY)
}

/// The share of the time that a thread waited for a processor, if it may have read replies too late.
pub(super) fn starved(report: &Report) -> Option<f64> {
    Some(most(&report.generator.starved_share)).filter(|share| *share >= STARVED)
}

/// The p99 of the slip, if the slip may explain that latency is more than `most_ns`: without it, and without the bursts
/// that it causes, latency might be that short.
pub(super) fn slip_that_explains(report: &Report, most_ns: u64) -> Option<u64> {
    let slip_ns = slipped(report)?;
    let actual_ns = report.latency.from_actual.as_ref()?.p99_ns;
    (actual_ns.saturating_sub(BURST * slip_ns) <= most_ns).then_some(slip_ns)
}

/// The largest of the threads' shares.
pub(super) fn most(shares: &[f64]) -> f64 {
    shares.iter().copied().fold(0.0, f64::max)
}

/// The p99 of the slip, if the schedule was not kept.
fn slipped(report: &Report) -> Option<u64> {
    let late_ns = late_ns(report);
    report.generator.slip.as_ref().map(|slip| slip.p99_ns).filter(|slip_ns| *slip_ns >= late_ns)
}

/// How many datagrams left late.
fn sent_late(report: &Report) -> u64 {
    let late_ns = late_ns(report);
    report.generator.slip.as_ref().map_or(0, |slip| slip.histogram.unpack().count_from(late_ns))
}

/// The slip from which on a datagram left late. Datagrams that are due together leave one after the other: the time that
/// this takes does not make them late.
fn late_ns(report: &Report) -> u64 {
    let threads = u64::from(report.load.threads).div_ceil(report.load.run_ids.len().max(1) as u64).max(1);
    let before_the_last = (report.load.together() - 1) / threads;
    SLIP_P99_NS + (before_the_last as f64 * report.generator.cpu_ns_per_datagram) as u64
}

pub(super) fn left_late(report: &Report, slip_ns: u64) -> String {
    format!("one in a hundred {} {} late or more", left(report), duration(slip_ns))
}

/// What happens to a datagram, a message or a new connection at its time.
pub(super) fn left(report: &Report) -> &'static str {
    if report.load.connects() { "began" } else { "left" }
}

/// Whether blaster may have read replies late that had come in time.
fn is_away(report: &Report) -> bool {
    if report.has_receive_times() {
        return false;
    }
    let generator = &report.generator;
    generator.slip.as_ref().is_some_and(|slip| slip.max_ns >= report.load.timeout_ns / 2)
        || busy(report).is_some()
        || starved(report).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::counts::Counts;
    use crate::model::latency::Latency;
    use crate::report::sample::report;
    use crate::report::schema::{BurstLoad, ReplayLoad};

    fn all_took(ms: u64) -> Latency {
        let mut latency = Latency::new();
        latency.record(ms * 1_000_000);
        latency
    }

    /// A burst of 1,000 at 5 µs each takes 5 ms by itself: losses in it are the server's, or the path's.
    #[test]
    fn the_time_that_a_burst_takes_excuses_nothing() {
        let mut burst = report(Counts { sent: 1_000, ok: 900, lost: 100, ..Counts::default() });
        burst.generator.cpu_ns_per_datagram = 5_000.0;
        burst.latency.from_actual = all_took(1).summary();
        burst.latency.from_intended = all_took(6).summary();
        for (slip_ms, threads, together, is_late) in [
            (5, 1, 1, true),
            (5, 1, 1_000, false),
            (7, 1, 1_000, true),
            (5, 2, 1_000, true),
            (3, 2, 1_000, false),
        ] {
            burst.generator.slip = all_took(slip_ms).summary();
            burst.load.threads = threads;
            burst.load.burst = Some(BurstLoad { datagrams: together, every_ns: None });
            assert_eq!(
                OwnLosses::of(&burst).most > 0,
                is_late,
                "{slip_ms} ms, {threads} threads, {together}"
            );
            let recording = ReplayLoad {
                file: String::new(),
                datagrams: 2_000,
                period_ns: None,
                together: together.into(),
            };
            (burst.load.burst, burst.load.replay) = (None, Some(recording));
            assert_eq!(
                slip_that_explains(&burst, 2_000_000).is_some(),
                is_late,
                "{slip_ms} ms, {threads} threads, {together}"
            );
        }
    }

    #[test]
    fn a_dead_server_is_not_blasters_however_late_it_sends() {
        let mut dead = report(Counts { sent: 1_000, lost: 1_000, ..Counts::default() });
        dead.generator.slip = all_took(5).summary();
        assert_eq!(OwnLosses::of(&dead).most, 0);
        assert!(is_lossy(&dead));
        // but its own sockets may have dropped what came
        dead.totals.own_drops = 1_000;
        assert!(!is_lossy(&dead));
    }

    #[test]
    fn wrong_and_undeliverable_ones_are_not_blasters() {
        let counts =
            Counts { sent: 1_000, ok: 800, unreachable: 100, corrupted: 97, lost: 3, ..Counts::default() };
        let mut slip = Latency::new();
        (0..1_000).for_each(|_| slip.record(5_000_000));
        let mut report = report(counts);
        report.generator.slip = slip.summary();
        assert_eq!((OwnLosses::of(&report).most, OwnLosses::of(&report).rest(&report)), (3, 197));
        report.totals.counts.corrupted += 3;
        report.totals.counts.lost = 0;
        let own = OwnLosses::of(&report);
        assert_eq!((own.most, own.causes.len()), (0, 0));
    }

    #[test]
    fn slip_explains_latency_of_its_own_size_only() {
        for (slip_ms, actual_ms, most_ms, wanted) in
            [(3, 265, 134, false), (200, 5, 100, true), (50, 60, 2, true), (5, 4, 2, true), (1, 10, 5, false)]
        {
            let mut report = report(Counts { sent: 1_000, ok: 1_000, ..Counts::default() });
            report.generator.slip = all_took(slip_ms).summary();
            report.latency.from_actual = all_took(actual_ms).summary();
            let found = slip_that_explains(&report, most_ms * 1_000_000).is_some();
            assert_eq!(
                found, wanted,
                "{slip_ms} ms of slip, {actual_ms} ms of latency, at most {most_ms} ms"
            );
        }
    }
}
