//! The life of a connection, and what leads from one phase to the next.
//!
//! ```text
//!                         the peer's FIN                     all is sent
//! Free ─► Parked ─► Open ────────────────► Finishing(Peer) ───────────────────────────────► Closing ─► Free
//!                    │                           ▲                                              ▲
//!                    │ the server ends           │ the peer's FIN                               │ the peer's FIN
//!                    ▼                           │          nothing more         all is sent    │
//!                 FinalRead ─────────────────────┴─► Finishing(Server) ─────────────► Lingering ┘
//!
//! every phase that is served ─ an error, a limit, the idle timeout ─► Closing(cause)
//! ```
//!
//! Nothing here knows of the ring. A transition that can't be is an assertion.

use super::cause::Cause;

/// Who ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndedBy {
    Peer,
    Server,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No connection has this file.
    Free,
    /// Accepted above the limit. It waits as if it were still in the accept queue.
    Parked,
    /// Echoes.
    Open,
    /// The server ends. It still echoes what the kernel has received so far. The bytes are counted, so that a peer that
    /// goes on sending can't hold up the end.
    FinalRead {
        /// Bytes that it may still bring.
        bytes_left: u32,
    },
    /// Nothing more is received for the echo. What was received is still sent.
    Finishing(EndedBy),
    /// Our FIN is sent. What the peer still sends is read and dropped: a close with unread bytes would reset the
    /// connection, and destroy what the peer has not read yet.
    Lingering,
    /// It is over. It is closed as soon as nothing is in flight on it.
    Closing(Cause),
}

impl Phase {
    /// Received bytes are sent back.
    pub(super) fn echoes(self) -> bool {
        matches!(self, Self::Open | Self::FinalRead { .. } | Self::Finishing(_))
    }

    /// It counts against the limit, and has not ended.
    pub(super) fn is_live(self) -> bool {
        self.echoes() || self == Self::Lingering
    }

    /// A connection has the place.
    pub(super) fn is_taken(self) -> bool {
        self != Self::Free
    }

    pub(super) fn is_closing(self) -> bool {
        matches!(self, Self::Closing(_))
    }

    /// It was accepted, and waits for its place.
    pub(super) fn park(&mut self) {
        // two connections with one number would get each other's bytes
        assert_eq!(*self, Self::Free, "the kernel gave out a file in use");
        *self = Self::Parked;
    }

    /// It was accepted, and its source has too many.
    pub(super) fn turn_away(&mut self) {
        assert_eq!(*self, Self::Free, "the kernel gave out a file in use");
        *self = Self::Closing(Cause::PrefixLimit);
    }

    /// There is a place for it. `final_bytes`: the server ends, and it may bring that many bytes.
    pub(super) fn serve(&mut self, final_bytes: Option<u32>) {
        assert_eq!(*self, Self::Parked, "it is served already");
        *self = final_bytes.map_or(Self::Open, |bytes_left| Self::FinalRead { bytes_left });
    }

    /// The server ends, and it may bring that many bytes. True if that changes anything: others wait for their place,
    /// or end already.
    pub(super) fn begin_drain(&mut self, final_bytes: u32) -> bool {
        let open = *self == Self::Open;
        if open {
            *self = Self::FinalRead { bytes_left: final_bytes };
        }
        open
    }

    /// Bytes were received.
    pub(super) fn received(&mut self, bytes: u32) {
        self.assert_served();
        if let Self::FinalRead { bytes_left } = *self {
            *self = match bytes_left.saturating_sub(bytes) {
                0 => Self::Finishing(EndedBy::Server),
                bytes_left => Self::FinalRead { bytes_left },
            };
        }
    }

    /// A receive that does not wait found nothing.
    pub(super) fn found_nothing(&mut self) {
        self.assert_served();
        if matches!(self, Self::FinalRead { .. }) {
            *self = Self::Finishing(EndedBy::Server);
        }
    }

    /// The peer's FIN was received.
    pub(super) fn peer_finished(&mut self) {
        self.assert_served();
        *self = match *self {
            Self::Open | Self::FinalRead { .. } | Self::Finishing(_) => Self::Finishing(EndedBy::Peer),
            Self::Lingering => Self::Closing(Cause::Drained),
            other => other,
        };
    }

    /// All that was received is sent, and nothing is being received. True if our FIN comes next.
    pub(super) fn all_sent(&mut self) -> bool {
        let Self::Finishing(by) = *self else { panic!("{self:?} can't be through") };
        *self = match by {
            EndedBy::Peer => Self::Closing(Cause::Finished),
            EndedBy::Server => Self::Lingering,
        };
        by == EndedBy::Server
    }

    /// It is given up for this cause, unless it has another one already.
    pub(super) fn close(&mut self, cause: Cause) {
        self.assert_served();
        if !self.is_closing() {
            *self = Self::Closing(cause);
        }
    }

    /// Its socket is broken: that is the cause, whatever it was to be closed for.
    pub(super) fn broken(&mut self, cause: Cause) {
        self.assert_served();
        *self = Self::Closing(cause);
    }

    fn assert_served(self) {
        assert!(
            !matches!(self, Self::Free | Self::Parked),
            "nothing is in flight on a connection that is {self:?}"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::panic;

    use super::*;

    const FINAL_READ: Phase = Phase::FinalRead { bytes_left: 100 };

    const ALL: [Phase; 9] = [
        Phase::Free,
        Phase::Parked,
        Phase::Open,
        FINAL_READ,
        Phase::Finishing(EndedBy::Peer),
        Phase::Finishing(EndedBy::Server),
        Phase::Lingering,
        Phase::Closing(Cause::Idle),
        Phase::Closing(Cause::Finished),
    ];

    /// What becomes of each phase; `None`: the transition is refused.
    fn each(transition: fn(&mut Phase), legal: &[(Phase, Phase)]) {
        for before in ALL {
            let wanted = legal.iter().find(|(from, _)| *from == before).map(|(_, to)| *to);
            let became = panic::catch_unwind(|| {
                let mut phase = before;
                transition(&mut phase);
                phase
            });
            assert_eq!(became.ok(), wanted, "{before:?}");
        }
    }

    /// The phases that nothing but an acceptance and a place lead out of are refused, the others stay but for these.
    fn served(changed: &[(Phase, Phase)]) -> Vec<(Phase, Phase)> {
        let rest = ALL[2..].iter().filter(|phase| changed.iter().all(|(from, _)| from != *phase));
        changed.iter().copied().chain(rest.map(|phase| (*phase, *phase))).collect()
    }

    #[test]
    fn a_connection_waits_for_its_place_or_is_turned_away() {
        each(Phase::park, &[(Phase::Free, Phase::Parked)]);
        each(Phase::turn_away, &[(Phase::Free, Phase::Closing(Cause::PrefixLimit))]);
        each(|phase| phase.serve(None), &[(Phase::Parked, Phase::Open)]);
        each(|phase| phase.serve(Some(100)), &[(Phase::Parked, FINAL_READ)]);
    }

    #[test]
    fn the_end_of_the_server_reads_open_connections_for_the_last_time() {
        for before in ALL {
            let mut phase = before;
            assert_eq!(phase.begin_drain(100), before == Phase::Open);
            let wanted = if before == Phase::Open { FINAL_READ } else { before };
            assert_eq!(phase, wanted);
        }
    }

    #[test]
    fn the_final_read_ends_when_nothing_is_there_or_too_much() {
        each(|phase| phase.received(5), &served(&[(FINAL_READ, Phase::FinalRead { bytes_left: 95 })]));
        each(Phase::found_nothing, &served(&[(FINAL_READ, Phase::Finishing(EndedBy::Server))]));
        for too_much in [1, 2, u32::MAX] {
            let mut phase = FINAL_READ;
            phase.received(99);
            assert_eq!(phase, Phase::FinalRead { bytes_left: 1 });
            phase.received(too_much);
            assert_eq!(phase, Phase::Finishing(EndedBy::Server));
            phase.received(1);
            assert_eq!(phase, Phase::Finishing(EndedBy::Server));
        }
    }

    #[test]
    fn a_fin_of_the_peer_makes_the_end_its_own() {
        let finishing = Phase::Finishing(EndedBy::Peer);
        each(
            Phase::peer_finished,
            &served(&[
                (Phase::Open, finishing),
                (FINAL_READ, finishing),
                (Phase::Finishing(EndedBy::Server), finishing),
                (Phase::Lingering, Phase::Closing(Cause::Drained)),
            ]),
        );
    }

    #[test]
    fn a_connection_that_is_through_is_closed_by_the_peer_and_half_closed_by_the_server() {
        let legal = [
            (Phase::Finishing(EndedBy::Peer), Phase::Closing(Cause::Finished)),
            (Phase::Finishing(EndedBy::Server), Phase::Lingering),
        ];
        each(
            |phase| {
                let fin = phase.all_sent();
                assert_eq!(fin, *phase == Phase::Lingering);
            },
            &legal,
        );
    }

    #[test]
    fn the_first_cause_stays_but_for_an_error_of_the_socket() {
        let all = |cause, but: &[Phase]| -> Vec<_> {
            let to = |phase: Phase| if but.contains(&phase) { phase } else { Phase::Closing(cause) };
            ALL[2..].iter().map(|phase| (*phase, to(*phase))).collect()
        };
        let closing = [Phase::Closing(Cause::Idle), Phase::Closing(Cause::Finished)];
        each(|phase| phase.close(Cause::Stalled), &all(Cause::Stalled, &closing));
        each(|phase| phase.broken(Cause::Reset), &all(Cause::Reset, &[]));
    }

    #[test]
    fn a_phase_says_whether_it_echoes_and_whether_it_lives() {
        for phase in ALL {
            let echoes = matches!(phase, Phase::Open | Phase::FinalRead { .. } | Phase::Finishing(_));
            assert_eq!(phase.is_taken(), phase != Phase::Free, "{phase:?}");
            assert_eq!(phase.echoes(), echoes, "{phase:?}");
            assert_eq!(phase.is_live(), echoes || phase == Phase::Lingering, "{phase:?}");
            assert_eq!(phase.is_closing(), matches!(phase, Phase::Closing(_)), "{phase:?}");
        }
    }
}
