//! The plan of a TCP run.

use std::net::SocketAddr;
use std::time::Duration;

use crate::model::counts::Class;
use crate::model::plan::{Extent, Traffic};
use crate::model::timetable::Timetable;

/// How long connections may take to end after blaster has shut them down.
pub(crate) const SHUTDOWN_LONGEST: Duration = Duration::from_secs(1);

/// What each connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// Send a message, wait for its whole echo, send the next
    PingPong,
    /// Send without waiting, and read at the same time
    Stream,
    /// Send by a schedule (--rate) without waiting, the connections in turns, and read at the same time
    Open,
    /// Connect, send one message, read its echo, close, and start again; with --rate by a schedule
    Connect,
}

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) traffic: Traffic,
    pub(crate) extent: Extent,
    pub(crate) mode: Mode,
    /// When messages are due; in the mode `connect`, when connections are. `None`: there is no schedule.
    pub(crate) timetable: Option<Timetable>,
    /// Whether an earlier run of the same call has reached the server.
    pub(crate) follows_others: bool,
}

impl Plan {
    /// Whether messages have intended send times of their own.
    pub(crate) fn is_scheduled(&self) -> bool {
        self.timetable.is_some()
    }

    /// The destination of connection `id`, and its local address if `--source` sets one. With --each-once, `id` is the
    /// number of the visit.
    pub(crate) fn addresses(&self, id: u32) -> (SocketAddr, Option<SocketAddr>) {
        let peer = match &self.traffic.visits {
            Some(visits) => visits.destination(visits.place(id.into())),
            None => self.traffic.targets.of_flow(id),
        };
        (peer, self.traffic.source_of(id, peer))
    }

    /// Which of all connections that is: number `life` of those of connection `id`.
    pub(crate) fn number_of(&self, id: u32, life: u32) -> u64 {
        let lives = if self.traffic.visits.is_some() { 0 } else { u64::from(life) };
        u64::from(id) + lives * u64::from(self.extent.flows)
    }

    /// Notes the outcome of a message of connection `id`, or of a connection that was not established, for those who watch
    /// the run.
    pub(crate) fn note_latest(&self, id: u32, class: Class, sent_ns: u64) {
        let Some(watchlist) = &self.traffic.watchlist else { return };
        let place = match &self.traffic.visits {
            Some(visits) => Some(visits.place(id.into())),
            None => watchlist.of_flow(id),
        };
        if let Some(place) = place {
            watchlist.outages.note(place, class, sent_ns);
        }
    }

    /// The places of the counts of connection `id`: that of its destination, and that of its source.
    pub(crate) fn places(&self, id: u32) -> (usize, Option<usize>) {
        match &self.traffic.visits {
            Some(visits) => {
                let sources = visits.sources().len() as u32;
                (visits.place(id.into()), id.checked_rem(sources).map(|place| place as usize))
            }
            None => ((id / self.extent.workers) as usize, None),
        }
    }
}
