//! Which accepted connections are served: so many at a time, and so many of each source.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use crate::kernel::ring::File;
use crate::policy::limits::ConnectionsPerPrefix;

/// What an accepted connection's source may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admitted {
    /// It is one more of this source, if sources are limited.
    Yes(Option<IpAddr>),
    /// Its source has as many as it may have.
    No,
}

/// The places for connections.
pub(super) struct Places {
    limit: usize,
    served: usize,
    /// Connections accepted above the limit, in order.
    parked: VecDeque<File>,
    per_prefix: Option<Arc<ConnectionsPerPrefix>>,
}

impl Places {
    pub(super) fn new(limit: usize, per_prefix: Option<Arc<ConnectionsPerPrefix>>) -> Self {
        Self { limit, served: 0, parked: VecDeque::new(), per_prefix }
    }

    /// Whether a connection of this peer is one too many.
    pub(super) fn admit(&self, peer: Option<IpAddr>) -> Admitted {
        match self.per_prefix.as_ref().zip(peer) {
            None => Admitted::Yes(None),
            Some((sources, peer)) => match sources.admit(peer) {
                Some(prefix) => Admitted::Yes(Some(prefix)),
                None => Admitted::No,
            },
        }
    }

    /// An admitted connection waits for its place.
    pub(super) fn park(&mut self, file: File) {
        self.parked.push_back(file);
    }

    /// The next connection that gets a place. At the end of the server all get one: nobody else will serve them.
    pub(super) fn next(&mut self, draining: bool) -> Option<File> {
        if self.served >= self.limit && !draining {
            return None;
        }
        let file = self.parked.pop_front()?;
        self.served += 1;
        Some(file)
    }

    /// A connection that was not admitted takes a place until it is closed.
    pub(super) fn take_place(&mut self) {
        self.served += 1;
    }

    /// A connection was closed.
    pub(super) fn leave(&mut self, prefix: Option<IpAddr>) {
        if let (Some(sources), Some(prefix)) = (&self.per_prefix, prefix) {
            sources.leave(prefix);
        }
        self.served = self.served.checked_sub(1).expect("only a served connection is closed");
    }

    /// All places are taken.
    pub(super) fn is_full(&self) -> bool {
        self.served >= self.limit
    }

    /// Connections are being served.
    pub(super) fn serves(&self) -> bool {
        self.served > 0
    }

    /// No connection is there, served or not.
    pub(super) fn is_empty(&self) -> bool {
        self.served == 0 && self.parked.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_above_the_limit_wait_their_turn_unless_the_server_ends() {
        let mut places = Places::new(2, None);
        assert!(places.is_empty());
        for file in 1..=4 {
            assert_eq!(places.admit(None), Admitted::Yes(None));
            places.park(File(file));
        }
        assert!(!places.is_empty() && !places.serves());
        assert_eq!([places.next(false), places.next(false)], [Some(File(1)), Some(File(2))]);
        assert!(places.is_full() && places.serves());
        assert_eq!(places.next(false), None);
        places.leave(None);
        assert!(!places.is_full());
        assert_eq!(places.next(false), Some(File(3)));
        assert_eq!(
            [places.next(true), places.next(true)],
            [Some(File(4)), None],
            "all are served at the end"
        );
        (0..3).for_each(|_| places.leave(None));
        assert!(places.is_empty());
    }

    #[test]
    fn a_source_that_has_its_share_is_told_from_others() {
        let sources = Arc::new(ConnectionsPerPrefix::new(1));
        let mut places = Places::new(10, Some(sources));
        let (one, other): (IpAddr, IpAddr) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        assert_eq!(places.admit(Some(one)), Admitted::Yes(Some(one)));
        assert_eq!(places.admit(Some(one)), Admitted::No);
        assert_eq!(places.admit(Some(other)), Admitted::Yes(Some(other)));
        assert_eq!(places.admit(None), Admitted::Yes(None), "its name is not known");
        places.take_place();
        places.leave(Some(one));
        assert_eq!(places.admit(Some(one)), Admitted::Yes(Some(one)));
    }

    #[test]
    #[should_panic(expected = "only a served connection is closed")]
    fn nobody_leaves_who_has_no_place() {
        Places::new(2, None).leave(None);
    }
}
