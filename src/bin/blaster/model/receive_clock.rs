//! The kernel's receive times on the clock of the run. No clock, no socket.
//!
//! The kernel notes when it received a datagram in `CLOCK_REALTIME`, which somebody may set during a run; the run's clock
//! can't be set. Their difference is read again and again. When it has changed by more than clocks drift, a clock was set.
//! The times of datagrams that were on their way then may be from before or after that, so they don't count: the latency
//! of these datagrams ends when blaster reads them. So no latency is negative, or off by the step.
//!
//! The clock of a NIC is a third one, and its difference to the kernel's is not known. The datagram that took the shortest
//! time from the NIC to the kernel counts as one that took no time there; the others took so much longer.

use tubular_echo::kernel::cmsg::ReceiveTimes;

/// How far the clocks' difference may be off before it is read again, precisely.
const TOLERANCE_NS: i64 = 50_000;
/// The difference is read again at least this often.
const READ_EVERY_NS: u64 = 10_000_000;
/// How long a precise reading may take. A thread that loses its processor in the middle reads again.
const READING_MAX_NS: u64 = 2_000;
const READINGS_MAX: u32 = 5;
/// Clocks that are corrected run at most so much faster or slower: one in a thousand (adjtimex(2): 500 ppm).
const DRIFT: u64 = 1_000;
/// Two readings of a steady difference may differ by this, beside the drift.
const STEP_MIN_NS: u64 = 20_000;
/// A receive time may lie this far outside the possible time: the readings of the clocks are not more precise.
const SLACK_NS: u64 = 20_000;
/// The shortest time from the NIC to the kernel is searched over this time.
const NIC_WINDOW_NS: u64 = 500_000_000;

/// One reading of both clocks.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_field_names)] // units go last
pub(crate) struct Reading {
    /// The run's clock before and after the other was read.
    pub(crate) before_ns: u64,
    pub(crate) after_ns: u64,
    /// `CLOCK_REALTIME`.
    pub(crate) real_ns: i64,
}

/// The arrival of a datagram on the clock of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// When blaster read it.
    pub(crate) read_ns: u64,
    /// When the kernel received it, as far as it told.
    kernel_ns: Option<u64>,
    /// Whether the NIC told the time.
    is_by_nic: bool,
    /// A receive time counts only for what was sent from here on.
    steady_from_ns: u64,
}

impl Arrival {
    /// Whether a receive time is the NIC's.
    pub(crate) fn is_by_nic(self) -> bool {
        self.is_by_nic
    }

    /// When the kernel received the reply to a datagram that was sent at `sent_ns`. `None`: it is not known.
    pub(crate) fn received_ns(self, sent_ns: u64) -> Option<u64> {
        let at_ns = self.kernel_ns.filter(|_| sent_ns >= self.steady_from_ns)?;
        let is_possible = at_ns + SLACK_NS >= sent_ns && at_ns <= self.read_ns + SLACK_NS;
        is_possible.then(|| at_ns.max(sent_ns).min(self.read_ns))
    }
}

/// Converts the kernel's receive times.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReceiveClock {
    /// `CLOCK_REALTIME` less the run's clock, and when that was read. `None`: not yet.
    difference: Option<(i64, u64)>,
    /// When the last step was noticed.
    steady_from_ns: u64,
    steps: u64,
    nic: NicDelay,
}

impl ReceiveClock {
    /// Follows the clocks at `now_ns`, before the conversion of what was read then. `real` reads `CLOCK_REALTIME`, `read`
    /// both clocks.
    pub(crate) fn follow(
        &mut self,
        now_ns: u64,
        real: impl FnOnce() -> i64,
        mut read: impl FnMut() -> Reading,
    ) {
        if let Some((difference_ns, read_at_ns)) = self.difference
            && now_ns < read_at_ns + READ_EVERY_NS
            && real().saturating_sub(now_ns as i64).saturating_sub(difference_ns).abs() <= TOLERANCE_NS
        {
            return;
        }
        let mut best = read();
        for _ in 1..READINGS_MAX {
            if best.duration_ns() <= READING_MAX_NS {
                break;
            }
            let next = read();
            if next.duration_ns() < best.duration_ns() {
                best = next;
            }
        }
        let difference_ns = best.real_ns.saturating_sub(best.before_ns as i64);
        if let Some((before_ns, read_at_ns)) = self.difference {
            let drift_ns = best.after_ns.saturating_sub(read_at_ns) / DRIFT;
            if difference_ns.abs_diff(before_ns) > STEP_MIN_NS + best.duration_ns() + drift_ns {
                self.steady_from_ns = best.after_ns;
                self.steps += 1;
                self.nic = NicDelay::default();
            }
        }
        self.difference = Some((difference_ns, best.before_ns));
    }

    /// The arrival of a datagram that was read at `read_ns`.
    pub(crate) fn arrival(&mut self, read_ns: u64, times: ReceiveTimes) -> Arrival {
        let mut kernel_ns = || {
            let (difference_ns, _) = self.difference?;
            let software_ns = times.software_ns?;
            let delay_ns = times
                .hardware_ns
                .map_or(0, |hardware_ns| self.nic.delay_ns(read_ns, software_ns.saturating_sub(hardware_ns)));
            u64::try_from(software_ns.saturating_sub(difference_ns).saturating_sub(delay_ns)).ok()
        };
        let is_by_nic = times.hardware_ns.is_some();
        Arrival { kernel_ns: kernel_ns(), is_by_nic, read_ns, steady_from_ns: self.steady_from_ns }
    }

    /// How often a clock was set.
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }
}

impl Reading {
    fn duration_ns(&self) -> u64 {
        self.after_ns.saturating_sub(self.before_ns)
    }
}

/// The shortest time from the NIC to the kernel, each time with the unknown difference of their clocks: in this window and
/// in the one before, since the clocks drift.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::struct_field_names)] // units go last
struct NicDelay {
    shortest_ns: Option<i64>,
    before_ns: Option<i64>,
    window_ends_ns: u64,
}

impl NicDelay {
    /// How much longer than the shortest one this time is.
    fn delay_ns(&mut self, now_ns: u64, lag_ns: i64) -> i64 {
        if now_ns >= self.window_ends_ns {
            self.before_ns = self.shortest_ns.take();
            self.window_ends_ns = now_ns + NIC_WINDOW_NS;
        }
        let shortest_ns = self.shortest_ns.map_or(lag_ns, |shortest_ns| shortest_ns.min(lag_ns));
        self.shortest_ns = Some(shortest_ns);
        lag_ns.saturating_sub(self.before_ns.map_or(shortest_ns, |before_ns| before_ns.min(shortest_ns)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host whose `CLOCK_REALTIME` is set now and then, and which drifts.
    struct Host {
        now_ns: u64,
        /// `CLOCK_REALTIME` less the run's clock.
        ahead_ns: i64,
        clock: ReceiveClock,
    }

    impl Host {
        fn new(ahead_ns: i64) -> Self {
            Self { now_ns: 0, ahead_ns, clock: ReceiveClock::default() }
        }

        fn real_ns(&self) -> i64 {
            self.now_ns as i64 + self.ahead_ns
        }

        /// The kernel's time for a datagram that it receives now.
        fn stamp(&self) -> ReceiveTimes {
            ReceiveTimes { software_ns: Some(self.real_ns()), hardware_ns: None }
        }

        /// Reads a datagram now.
        fn read(&mut self, times: ReceiveTimes) -> Arrival {
            let (now_ns, real_ns) = (self.now_ns, self.real_ns());
            let reading = Reading { before_ns: now_ns, after_ns: now_ns + 60, real_ns: real_ns + 30 };
            self.clock.follow(now_ns, || real_ns + 30, || reading);
            self.clock.arrival(now_ns, times)
        }

        /// A datagram that is sent, received 50 µs later, and read `late_ns` after that. Returns its latency as measured,
        /// and whether the kernel's time is known. `between` happens while it waits to be read.
        fn round_trip(&mut self, late_ns: u64, between: impl FnOnce(&mut Self)) -> (u64, bool) {
            self.now_ns += 1_000;
            let sent_ns = self.now_ns;
            self.now_ns += 50_000;
            let times = self.stamp();
            self.now_ns += late_ns;
            between(self);
            let arrival = self.read(times);
            let received_ns = arrival.received_ns(sent_ns);
            (received_ns.unwrap_or(arrival.read_ns) - sent_ns, received_ns.is_some())
        }
    }

    const YEARS_NS: i64 = 1_700_000_000_000_000_000;

    #[test]
    fn late_reading_is_no_latency() {
        let mut host = Host::new(YEARS_NS);
        host.round_trip(0, |_| ());
        for late_ns in [0, 3_000, 1_000_000, 300_000_000] {
            let (latency_ns, is_known) = host.round_trip(late_ns, |_| ());
            assert!(
                is_known && latency_ns.abs_diff(50_000) < 1_000,
                "{latency_ns} ns, read {late_ns} ns late"
            );
        }
        assert_eq!(host.clock.steps(), 0);
    }

    /// Whatever step: latency is right, or ends when the datagram was read; and the next datagram has the kernel's time.
    #[test]
    fn a_clock_that_is_set_in_the_middle_spoils_nothing() {
        for step_ns in [
            -3_600_000_000_000,
            -1_000_000,
            -200_000,
            200_000,
            1_000_000,
            1_000_000_000,
            1_260_000_000_000_000_000,
        ] {
            let mut host = Host::new(YEARS_NS);
            for _ in 0..100 {
                host.round_trip(1_000, |_| ());
            }
            let (latency_ns, is_known) = host.round_trip(2_000_000, |host| host.ahead_ns += step_ns);
            assert_eq!((latency_ns, is_known), (2_050_000, false), "a step of {step_ns} ns");
            for _ in 0..100 {
                let (latency_ns, is_known) = host.round_trip(1_000, |_| ());
                assert!(is_known && latency_ns.abs_diff(50_000) < 1_000, "{latency_ns} after {step_ns}");
            }
            assert_eq!(host.clock.steps(), 1);
        }
    }

    /// A datagram that has waited in the socket since before the step, and is read in a later turn.
    #[test]
    fn a_time_from_before_the_step_does_not_count_later_either() {
        for step_ns in [-500_000, 500_000] {
            let mut host = Host::new(YEARS_NS);
            host.round_trip(0, |_| ());
            let sent_ns = host.now_ns;
            // so long that the time would be possible after the step, too
            host.now_ns += 5_000_000;
            let times = host.stamp();
            host.now_ns += 5_000_000;
            host.ahead_ns += step_ns;
            host.round_trip(0, |_| ());
            assert_eq!(host.read(times).received_ns(sent_ns), None, "{step_ns}");
        }
    }

    #[test]
    fn a_clock_that_is_corrected_slowly_is_no_step() {
        let mut host = Host::new(YEARS_NS);
        host.round_trip(0, |_| ());
        for _ in 0..10_000 {
            host.now_ns += 1_000_000;
            host.ahead_ns += 500;
            let (latency_ns, is_known) = host.round_trip(2_000, |_| ());
            assert!(is_known && latency_ns.abs_diff(50_000) < 8_000, "{latency_ns}");
        }
        assert_eq!(host.clock.steps(), 0);
    }

    #[test]
    fn a_thread_that_loses_its_processor_while_it_reads_the_clocks_reads_again() {
        let mut host = Host::new(YEARS_NS);
        host.round_trip(0, |_| ());
        host.now_ns += 20_000_000;
        let mut times = 0_u32;
        host.clock.follow(
            host.now_ns,
            || 0,
            || {
                times += 1;
                let late_ns = if times < 3 { 4_000_000 } else { 0 };
                let before_ns = host.now_ns + u64::from(times) * 5_000_000;
                let real_ns = before_ns as i64 + YEARS_NS + late_ns;
                Reading { before_ns, after_ns: before_ns + late_ns as u64 + 60, real_ns }
            },
        );
        assert_eq!((times, host.clock.steps()), (3, 0));
    }

    #[test]
    fn impossible_times_do_not_count() {
        let mut host = Host::new(YEARS_NS);
        (0..100).for_each(|_| assert!(host.round_trip(1_000, |_| ()).0 > 0));
        let now_ns = host.now_ns as i64 + YEARS_NS;
        for software_ns in [
            None,
            Some(0),
            Some(i64::MIN),
            Some(i64::MAX),
            Some(now_ns + 1_000_000),
            Some(now_ns - 1_000_000),
        ] {
            let arrival = host.read(ReceiveTimes { software_ns, hardware_ns: None });
            assert_eq!(arrival.received_ns(host.now_ns - 500_000), None, "{software_ns:?}");
        }
        for hardware_ns in [i64::MIN, i64::MAX] {
            let times = ReceiveTimes { software_ns: Some(now_ns), hardware_ns: Some(hardware_ns) };
            let _ = host.read(times).received_ns(0);
        }
    }

    /// A NIC with a clock of its own that drifts; from there to the kernel it takes 3 to 90 µs.
    #[test]
    fn what_the_nic_received_earlier_is_no_latency() {
        let mut host = Host::new(YEARS_NS);
        host.round_trip(0, |_| ());
        for nth in 0..10_000_u64 {
            let sent_ns = host.now_ns;
            host.now_ns += 50_000;
            let hardware_ns = host.now_ns as i64 + 37_000_000_000 + host.now_ns as i64 / 50_000;
            host.now_ns += 3_000 + nth * 7_919 % 87_000;
            let times = ReceiveTimes { hardware_ns: Some(hardware_ns), ..host.stamp() };
            let latency_ns = host.read(times).received_ns(sent_ns).expect("a time") - sent_ns;
            assert!(nth < 100 || latency_ns.abs_diff(53_000) < 21_000, "{nth}: {latency_ns}");
            if nth > 100 && nth < 500 {
                assert!(latency_ns.abs_diff(53_000) < 2_000, "{nth}: {latency_ns}");
            }
        }
    }
}
