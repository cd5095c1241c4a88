//! The plan of a UDP run.

use std::time::Duration;

use clap::ValueEnum;

use crate::model::plan::{Extent, Traffic};
use crate::model::timetable::Timetable;

/// The most datagrams that a flow can remember.
const WINDOW_MAX: usize = 1 << 24;

/// The most datagrams of a flow that may be in flight in a closed loop.
pub(crate) const IN_FLIGHT_MAX: u32 = 1 << 22;

/// The event that makes a flow send.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Mode {
    /// The time of the schedule, whether replies come or not.
    Open(Timetable),
    /// A reply that makes room in flight.
    Closed {
        /// The datagrams (with trains: the trains) of each flow that may wait for their replies.
        in_flight: u32,
    },
    /// None: flows send as fast as the kernel accepts.
    Flood,
}

/// Whose receive time ends a latency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReceiveTime {
    /// The kernel's
    Kernel,
    /// The NIC's, where it has a clock; else the kernel's
    Nic,
    /// Blaster's own: when it reads the reply
    Own,
}

impl ReceiveTime {
    /// The flags of `SO_TIMESTAMPING`.
    pub(crate) fn flags(self) -> Option<i32> {
        const KERNEL: u32 = libc::SOF_TIMESTAMPING_RX_SOFTWARE | libc::SOF_TIMESTAMPING_SOFTWARE;
        const NIC: u32 = libc::SOF_TIMESTAMPING_RX_HARDWARE | libc::SOF_TIMESTAMPING_RAW_HARDWARE;
        match self {
            Self::Kernel => Some(KERNEL as i32),
            Self::Nic => Some((KERNEL | NIC) as i32),
            Self::Own => None,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) traffic: Traffic,
    pub(crate) extent: Extent,
    pub(crate) mode: Mode,
    /// Datagrams in a train; 1: no trains.
    pub(crate) train: u32,
    /// Whether received trains come in one piece.
    pub(crate) gro: bool,
    pub(crate) receive_time: ReceiveTime,
}

impl Plan {
    /// Whether each datagram has an intended send time (the open loop).
    pub(crate) fn is_scheduled(&self) -> bool {
        matches!(self.mode, Mode::Open(_))
    }

    /// How many datagrams each flow remembers, a power of two.
    pub(crate) fn window(&self) -> usize {
        window(self.extent.flows, &self.mode, self.train, self.traffic.timeout())
    }
}

/// The open loop needs room for the datagrams of the timeout and of one second more. The closed loop needs room for
/// four times the datagrams in flight. All flows together remember about a million datagrams or more, and each flow at
/// least 256.
fn window(flows: u32, mode: &Mode, train: u32, timeout: Duration) -> usize {
    let (in_all, of_each) = match mode {
        Mode::Open(timetable) => (timetable.most_within(timeout + Duration::from_secs(1)), 0),
        Mode::Closed { in_flight } => (0.0, in_flight.saturating_mul(train).saturating_mul(4)),
        Mode::Flood => (0.0, 0),
    };
    let in_all = (in_all.min(WINDOW_MAX as f64) as usize).max(1 << 20);
    let of_each = in_all.div_ceil(flows as usize).max(of_each as usize);
    of_each.clamp(256, WINDOW_MAX).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::quantity::Rate;

    #[test]
    fn windows_hold_what_may_be_waiting() {
        let open = |rate: &str| Mode::Open(rate.parse::<Rate>().unwrap().into());
        let closed = |in_flight| Mode::Closed { in_flight };
        let table = [
            (1, Mode::Flood, 1, 1, 1 << 20),
            (64, closed(8), 1, 1, 1 << 14),
            (10_000, closed(1), 1, 1, 256),
            (64, closed(100_000), 1, 1, 1 << 19),
            (64, closed(100_000), 32, 1, WINDOW_MAX),
            (1, open("4M"), 1, 1, 1 << 23),
            (4, open("4M"), 1, 3, 1 << 22),
            (1, open("1G"), 1, 9, WINDOW_MAX),
        ];
        for (flows, mode, train, timeout_s, wanted) in table {
            let found = window(flows, &mode, train, Duration::from_secs(timeout_s));
            assert_eq!(found, wanted, "{flows} flows, {mode:?}, trains of {train}, {timeout_s} s");
        }
        assert!(window(1, &closed(IN_FLIGHT_MAX), 1, Duration::from_secs(1)) >= 4 * IN_FLIGHT_MAX as usize);
    }
}
