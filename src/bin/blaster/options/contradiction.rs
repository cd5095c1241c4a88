//! Options that don't go together.

use super::schedule::ScheduleContradiction;
use super::search::SearchTooShort;
use crate::model::visits;
use crate::udp;

/// Options that don't go together, and values that are out of range together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Contradiction {
    #[error("--mode open needs a --rate")]
    OpenWithoutRate,
    #[error("{0} makes an open loop; --mode {1} has no schedule")]
    ScheduleWithoutOpen(&'static str, &'static str),
    #[error(transparent)]
    Schedule(#[from] ScheduleContradiction),
    #[error("--in-flight is for the closed loop; with {0} nothing waits for replies")]
    InFlightWithoutClosed(&'static str),
    #[error("a train of {datagrams} datagrams of {size} bytes is more than one call carries: {most} bytes")]
    TrainTooLong { datagrams: u32, size: u32, most: u32 },
    #[error("--gso {0} is more than one call may carry: 128 datagrams (before Linux 6.9: 64)")]
    TrainOfTooMany(u32),
    #[error("a datagram of {size} bytes is more than IPv4 carries: 65507")]
    TooLargeForV4 { size: u32 },
    #[error("{0} datagrams in flight for each flow are more than blaster remembers: {max}", max = udp::plan::IN_FLIGHT_MAX)]
    TooManyInFlight(u64),
    #[error("--source {0} can't reach {1}, which is of the other address family")]
    SourceOfOtherFamily(String, String),
    #[error("{0} is for names, and {1} is of the other address family; leave one of them out")]
    AddressOfOtherFamily(&'static str, String),
    #[error("--flow-label {0} is for IPv6, and no target has an IPv6 address; leave it out")]
    FlowLabelWithoutIpv6(String),
    #[error(
        "target {0}: a link-local address needs its interface: say it as in [fe80::1%eth0]:1234, or --interface eth0 \
         (`ip -6 address` shows it)"
    )]
    LinkLocalWithoutInterface(String),
    #[error("--each-once ends when each destination was visited; --duration can only be forever")]
    RoundsForATime,
    #[error("--find-max and --steps need an end; --duration can't be forever")]
    SearchForever,
    #[error("{0:?} is nothing that blaster mtu measures: use mtu, as in 'mtu<1500'")]
    NotOfMtu(String),
    #[error("{paths} paths are more than blaster mtu searches: {most} (use fewer targets or --flows)")]
    TooManyPaths { paths: u64, most: u64 },
    #[error("--count 0 measures nothing")]
    CountOfNothing,
    #[error("--each-once={0} is more than {max} visits of each destination", max = visits::TIMES_MAX)]
    TooManyVisits(u32),
    #[error(transparent)]
    SearchTooShort(#[from] SearchTooShort),
    #[error("--sample {0} is more than blaster remembers: {max}", max = visits::DESTINATIONS_MAX)]
    SampleTooLarge(u32),
}
