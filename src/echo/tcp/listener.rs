//! The listeners of the TCP datapath, and how far accepting on each of them is.
//!
//! ```text
//!          ┌──── resume ──── Paused ◄── too many failures, a shortage ──┐
//!          ▼                                                            │
//! ──► Ended ── arm ──► Armed ── the last completion ──► Ended ──────────┘
//!                        │ the limit of connections          ▲
//!                        ├──────────► Cancelling ────────────┘
//!                        │ for good
//!                        └──────────► Leaving ──► Off
//! ```

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use crate::echo::files::FileRange;
use crate::echo::operation::Operation;
use crate::kernel::addr::Domain;
use crate::kernel::pause::{Failures, Pause};
use crate::kernel::ring::{Completion, Errno, File, PeerName, Ring, RingError, Token};
use crate::kernel::sys;
use crate::policy::counters::{Counters, Traffic};
use crate::policy::errno_policy::{self, Accept, SocketStage};
use crate::sockets::listening::{AtExit, Listening};

/// How long accepting pauses after it failed for want of a descriptor or of memory. Each of those failures may have
/// cost a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How far accepting on a listener is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accepting {
    /// Nothing is in flight. It is armed again below the limit of connections.
    Ended,
    /// An accept is in flight.
    Armed,
    /// It is being cancelled at the limit of connections.
    Cancelling,
    /// It is being cancelled for good.
    Leaving,
    /// It has ended for a shortage, or too often in a row for nothing. It is armed again after a pause.
    Paused,
    /// It has ended for good.
    Off,
}

/// What comes next, once a listener accepts no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaves {
    /// The accept has to be cancelled.
    Cancel,
    Nothing,
}

impl Accepting {
    /// An accept is submitted.
    fn arm(&mut self) {
        assert_eq!(*self, Self::Ended, "a listener is armed twice");
        *self = Self::Armed;
    }

    /// An accept has completed; `more`: it goes on. Returns how far accepting was.
    fn completed(&mut self, more: bool) -> Self {
        let was = *self;
        assert!(was.is_in_flight(), "an accept completes although accepting is {was:?}");
        if !more {
            *self = if was == Self::Leaving { Self::Off } else { Self::Ended };
        }
        was
    }

    /// Accepting waits for a pause, unless the accept goes on. True if it does.
    fn pause(&mut self) -> bool {
        let pauses = *self == Self::Ended;
        if pauses {
            *self = Self::Paused;
        }
        pauses
    }

    /// The pause is over.
    fn resume(&mut self) {
        assert_eq!(*self, Self::Paused, "there is no pause to end");
        *self = Self::Ended;
    }

    /// There are as many connections as there may be. True if the accept has to be cancelled.
    fn stop(&mut self) -> bool {
        let stops = *self == Self::Armed;
        if stops {
            *self = Self::Cancelling;
        }
        stops
    }

    /// No more connections are accepted, for good.
    fn leave(&mut self) -> Leaves {
        match *self {
            Self::Armed => {
                *self = Self::Leaving;
                return Leaves::Cancel;
            }
            // it is being cancelled already
            Self::Cancelling => *self = Self::Leaving,
            Self::Ended | Self::Paused => *self = Self::Off,
            Self::Leaving | Self::Off => {}
        }
        Leaves::Nothing
    }

    /// Somebody has come after all. Another processor was just putting the connection into the queue when the filter
    /// came.
    fn come_back(&mut self) {
        if *self == Self::Off {
            *self = Self::Ended;
        }
    }

    fn is_in_flight(self) -> bool {
        matches!(self, Self::Armed | Self::Cancelling | Self::Leaving)
    }

    fn is_being_cancelled(self) -> bool {
        matches!(self, Self::Cancelling | Self::Leaving)
    }
}

/// A connection that was accepted.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) file: File,
    pub(super) domain: Domain,
    /// Where it comes from, if that is known.
    pub(super) peer: Option<IpAddr>,
}

struct Listener {
    /// `None` once it was retired.
    listening: Option<Listening>,
    addr: SocketAddr,
    domain: Domain,
    at_exit: AtExit,
    file: File,
    accepting: Accepting,
    /// Accepts in a row that ended without a connection.
    failures: Failures,
    /// The peer of the connection that was accepted last, if accepts are single.
    peer: Option<PeerName>,
}

impl Listener {
    fn new(listening: Listening, file: File, single_accept: bool) -> Self {
        Self {
            addr: listening.addr,
            domain: Domain::of(listening.addr),
            at_exit: listening.at_exit,
            listening: Some(listening),
            file,
            accepting: Accepting::Ended,
            failures: Failures::default(),
            peer: single_accept.then(PeerName::default),
        }
    }

    fn arm(&mut self, ring: &mut Ring, accept: Token) {
        self.accepting.arm();
        match &mut self.peer {
            None => ring.accept(self.file, accept),
            Some(peer) => ring.accept_one(self.file, peer, accept),
        }
    }

    /// An accept has failed. An error is final: the listener or the ring is unusable.
    fn failed(
        &mut self,
        errno: Errno,
        was: Accepting,
        stage: SocketStage,
        counters: &Traffic,
    ) -> Result<(), Errno> {
        let pauses = match errno_policy::of_accept(errno, stage) {
            Accept::Cancelled if was.is_being_cancelled() => return Ok(()),
            Accept::Fatal => return Err(errno),
            Accept::Pause => true,
            Accept::Cancelled | Accept::Rearm => self.failures.add(),
        };
        counters.tcp_accept_errors.add(1);
        if pauses && self.accepting.pause() {
            counters.tcp_accept_pauses.add(1);
        }
        Ok(())
    }

    /// Ends accepting, unless there are connections in the queue that nobody else will accept.
    fn end_if_empty(&mut self, ring: &mut Ring, accept: Token) -> io::Result<()> {
        let is_empty = match &self.listening {
            Some(listening) if self.at_exit != AtExit::Keep => sys::accept_queue_len(listening.as_fd())? == 0,
            _ => true,
        };
        if !is_empty {
            self.accepting.come_back();
        } else if self.accepting.leave() == Leaves::Cancel {
            ring.cancel(accept, Operation::Cancel.alone());
        }
        Ok(())
    }
}

/// All listeners of a worker.
pub(super) struct Listeners {
    list: Vec<Listener>,
    /// The limit of connections was reached at the end of the last turn.
    full: bool,
    /// For those that pause.
    pause: Pause,
}

impl Listeners {
    /// Registers the sockets as these files.
    pub(super) fn new(
        ring: &mut Ring,
        listening: Vec<Listening>,
        files: FileRange,
        single_accept: bool,
    ) -> Result<Self, RingError> {
        let mut list = Vec::new();
        for (number, listening) in listening.into_iter().enumerate() {
            let file = files.at(number);
            ring.register_file(file, listening.shared())?;
            list.push(Listener::new(listening, file, single_accept));
        }
        Ok(Self { list, full: false, pause: Pause::new(ACCEPT_PAUSE) })
    }

    /// How long a turn may sleep, so that the end of a pause is noticed.
    pub(super) fn sleep(&self) -> Option<Duration> {
        self.pause.sleep()
    }

    /// The address of the listener that an accept's token means.
    pub(super) fn addr(&self, token: Token) -> SocketAddr {
        self.list[token.index() as usize].addr
    }

    /// Whether the listener that an accept's token means still listens. Other processes may have it, too, and shut it
    /// down.
    pub(super) fn listens(&self, token: Token) -> bool {
        let listening = self.list[token.index() as usize].listening.as_ref();
        listening.is_none_or(|it| sys::socket_kind(it.as_fd()).is_ok_and(|kind| kind.listens))
    }

    /// Handles the completion of an accept. An error is final: the listener or the ring is unusable.
    pub(super) fn accepted(
        &mut self,
        completion: Completion,
        ring: &mut Ring,
        stage: SocketStage,
        counters: &Counters,
    ) -> Result<Option<Accepted>, Errno> {
        let listener = &mut self.list[completion.token().index() as usize];
        let counters = &counters[listener.domain];
        let was = listener.accepting.completed(completion.more());
        match ring.accepted(completion) {
            Ok(None) => counters.tcp_accept_errors.add(1),
            Ok(Some(file)) => {
                listener.failures.forget();
                let peer = listener.peer.as_ref().and_then(PeerName::get).map(|peer| peer.ip());
                return Ok(Some(Accepted { file, domain: listener.domain, peer }));
            }
            Err(errno) => listener.failed(errno, was, stage, counters)?,
        }
        Ok(None)
    }

    /// Accepts below the limit of connections, stops at it.
    pub(super) fn arm(&mut self, full: bool, ring: &mut Ring, counters: &Counters) {
        let resumes = self.pause.ends();
        let reached = full && !self.full;
        self.full = full;
        for (number, listener) in (0..).zip(&mut self.list) {
            let accept = Operation::TcpAccept.token(0, number);
            if listener.accepting == Accepting::Paused {
                if resumes {
                    listener.accepting.resume();
                } else {
                    self.pause.begin();
                }
            }
            if reached && matches!(listener.accepting, Accepting::Armed | Accepting::Ended) {
                counters[listener.domain].tcp_limit_reached.add(1);
            }
            if !full && listener.accepting == Accepting::Ended {
                listener.arm(ring, accept);
            } else if full && listener.accepting.stop() {
                ring.cancel(accept, Operation::Cancel.alone());
            }
        }
    }

    /// Lets no new connection into the queues of the listeners that are closed at exit.
    pub(super) fn begin_drain(&self) {
        for listener in self.list.iter().filter(|listener| listener.at_exit == AtExit::Close) {
            if let Some(listening) = &listener.listening {
                // without the filter the close resets late connections, as that of any other server does
                let _ = sys::drop_incoming(listening.as_fd());
            }
        }
    }

    /// Ends accepting: at once where the listener is kept, else when its queue is empty. True when all have ended.
    pub(super) fn drain(&mut self, ring: &mut Ring) -> io::Result<bool> {
        let mut drained = true;
        for (number, listener) in (0..).zip(&mut self.list) {
            listener.end_if_empty(ring, Operation::TcpAccept.token(0, number))?;
            drained &= listener.accepting == Accepting::Off;
        }
        Ok(drained)
    }

    /// Closes the retired listeners, those that no option names any more, once their queues are empty. True when none
    /// is left.
    pub(super) fn close_retired(&mut self, ring: &mut Ring) -> io::Result<bool> {
        let mut are_closed = true;
        for (number, listener) in (0..).zip(&mut self.list) {
            if listener.at_exit != AtExit::Retire || listener.listening.is_none() {
                continue;
            }
            listener.end_if_empty(ring, Operation::TcpAccept.token(0, number))?;
            if listener.accepting == Accepting::Off {
                ring.unregister_file(listener.file);
                listener.listening = None;
            }
            are_closed = false;
        }
        Ok(are_closed)
    }
}

#[cfg(test)]
mod tests {
    use std::panic;

    use super::*;

    const ALL: [Accepting; 6] = [
        Accepting::Ended,
        Accepting::Armed,
        Accepting::Cancelling,
        Accepting::Leaving,
        Accepting::Paused,
        Accepting::Off,
    ];

    /// What becomes of each state, and what the transition says; `None`: it is refused.
    fn each<T: PartialEq + std::fmt::Debug>(
        transition: fn(&mut Accepting) -> T,
        wanted: [Option<(Accepting, T)>; 6],
    ) {
        for (before, wanted) in ALL.into_iter().zip(wanted) {
            let became = panic::catch_unwind(|| {
                let mut accepting = before;
                let says = transition(&mut accepting);
                (accepting, says)
            });
            assert_eq!(became.ok(), wanted, "{before:?}");
        }
    }

    #[test]
    fn an_accept_is_armed_once_and_completes_only_then() {
        use Accepting::{Armed, Cancelling, Ended, Leaving, Off};
        each(Accepting::arm, [Some((Armed, ())), None, None, None, None, None]);
        let goes_on = |state| Some((state, state));
        each(
            |accepting| accepting.completed(true),
            [None, goes_on(Armed), goes_on(Cancelling), goes_on(Leaving), None, None],
        );
        each(
            |accepting| accepting.completed(false),
            [None, Some((Ended, Armed)), Some((Ended, Cancelling)), Some((Off, Leaving)), None, None],
        );
    }

    #[test]
    fn only_an_accept_that_has_ended_pauses() {
        use Accepting::{Armed, Cancelling, Ended, Leaving, Off, Paused};
        let stays = |state| Some((state, false));
        each(
            Accepting::pause,
            [
                Some((Paused, true)),
                stays(Armed),
                stays(Cancelling),
                stays(Leaving),
                stays(Paused),
                stays(Off),
            ],
        );
        each(Accepting::resume, [None, None, None, None, Some((Ended, ())), None]);
    }

    #[test]
    fn at_the_limit_an_accept_is_cancelled_once() {
        use Accepting::{Cancelling, Ended, Leaving, Off, Paused};
        let stays = |state| Some((state, false));
        each(
            Accepting::stop,
            [
                stays(Ended),
                Some((Cancelling, true)),
                stays(Cancelling),
                stays(Leaving),
                stays(Paused),
                stays(Off),
            ],
        );
    }

    #[test]
    fn a_listener_leaves_for_good_unless_somebody_comes() {
        use Accepting::{Armed, Cancelling, Ended, Leaving, Off, Paused};
        use Leaves::{Cancel, Nothing};
        each(
            Accepting::leave,
            [
                Some((Off, Nothing)),
                Some((Leaving, Cancel)),
                Some((Leaving, Nothing)),
                Some((Leaving, Nothing)),
                Some((Off, Nothing)),
                Some((Off, Nothing)),
            ],
        );
        let stays = |state| Some((state, ()));
        each(
            Accepting::come_back,
            [stays(Ended), stays(Armed), stays(Cancelling), stays(Leaving), stays(Paused), Some((Ended, ()))],
        );
    }
}
