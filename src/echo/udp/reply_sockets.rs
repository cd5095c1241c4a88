//! Reply sockets: how a reply leaves from another port than that of a listening socket.
//!
//! When tubular steers every port of a prefix to one socket, a reply has to leave from the port that was asked, and
//! `IP_PKTINFO` carries no port. A socket bound to exactly that address and port can send from it, without a privilege.
//!
//! * It only sends and is never read. Once the steering is gone, datagrams do reach it; the smallest receive buffer drops
//!   all but the first of them. A filter would drop that one, too, but the kernel compiles a filter for each socket
//!   and frees it in the background. Sockets that came and went by the thousand were seen to hang a host (Linux 6.18: more
//!   frees than the workqueue takes wait for a lock whose holder waits for the workqueue).
//! * It is never connected: connected sockets are found before sk_lookup, and would steal the flow.
//! * It is never bound to all addresses: that would take the port on every other address.
//!
//! It is opened by plain system calls when a pair is seen for the first time, registered with the ring, and its descriptor
//! is closed. A worker has a limited number. When all are in use the least recently used one is closed for a new one, and
//! idle ones are closed after a while. The number of new ones per second is limited, too: else a client that sprays
//! ports would keep the worker busy with opening sockets.

mod bind;
mod by_use;
mod options;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashTable;

pub use self::bind::BindRefusal;
use self::bind::bind;
use self::by_use::ByUse;
pub use self::options::{InheritedOptions, OptionsId};
use crate::echo::idle::{IdleClock, TICKS};
use crate::kernel::ring::{File, Ring, Token};
use crate::kernel::sys;
use crate::policy::flow::HashKey;
use crate::policy::pairs::Pairs;
use crate::policy::rate::{Ahead, Rate};
use crate::values::ports::Ports;

/// So many new sockets may be opened at once as the rate allows in this time. A worker that did not run for a while finds
/// all datagrams that came meanwhile. A turn brings no more of them than a socket has buffers, so other flows don't wait
/// for long.
const BURST: Duration = Duration::from_millis(100);

/// How many reply sockets a worker has, and how fast it opens them.
#[derive(Clone, Copy, Debug)]
pub struct ReplySocketLimits {
    /// Open at a time.
    pub count: usize,
    /// Opened per second.
    pub per_second: u32,
    /// A socket without a reply for this long is closed.
    pub idle_timeout: Duration,
}

/// The reply sockets of a worker.
#[derive(Debug)]
pub struct ReplySockets {
    limits: ReplySocketLimits,
    /// Ports that reply sockets must not take.
    except: Arc<Ports>,
    first_file: u32,
    /// The options that reply sockets inherit from listening sockets, by number.
    options: Vec<InheritedOptions>,
    by_use: ByUse,
    /// Places in `by_use`, by the hash of their pair under `key`.
    by_pair: HashTable<u32>,
    key: HashKey,
    /// New sockets per second.
    rate: Rate,
    ahead: Ahead,
    start: Instant,
    clock: IdleClock,
    /// All pairs of all workers, whose datagrams are not answered.
    pairs: Arc<Pairs>,
}

impl ReplySockets {
    /// Reply sockets take the files from `first_file` on, as many as `limits` says, and no port of `except`.
    /// Their pairs are in `pairs` while they are open.
    pub fn new(first_file: u32, limits: ReplySocketLimits, except: Arc<Ports>, pairs: Arc<Pairs>) -> Self {
        Self {
            limits,
            except,
            first_file,
            options: Vec::new(),
            by_use: ByUse::new(),
            by_pair: HashTable::new(),
            key: HashKey::draw(),
            rate: Rate::new(NonZeroU32::new(limits.per_second).unwrap_or(NonZeroU32::MIN), BURST),
            ahead: Ahead::default(),
            start: sys::now(),
            // rather a tick too soon than a tick too late: another process may want the port
            clock: IdleClock::new(limits.idle_timeout * TICKS / (TICKS + 1)),
            pairs,
        }
    }

    /// The number of the options that the reply sockets of a listening socket get.
    pub fn intern(&mut self, options: InheritedOptions) -> OptionsId {
        let known = self.options.iter().position(|known| *known == options);
        let number = known.unwrap_or_else(|| {
            self.options.push(options);
            self.options.len() - 1
        });
        OptionsId(number as u16)
    }

    /// Replies with the one and the other options leave by the same interfaces and routes.
    pub fn share_route(&self, one: OptionsId, other: OptionsId) -> bool {
        let options = |OptionsId(number)| &self.options[usize::from(number)];
        one == other || options(one).share_route(options(other))
    }

    /// No reply socket is open.
    pub fn is_empty(&self) -> bool {
        self.by_pair.is_empty()
    }

    /// Starts the clock if a socket is open. Its tick ends in [`Self::ticked`].
    pub fn run_clock(&mut self, ring: &mut Ring, token: Token) {
        if !self.is_empty() {
            self.clock.run(ring, token);
        }
    }

    /// The socket of `pair`, if there is one; it counts as used.
    pub fn get(&mut self, pair: SocketAddr, options: OptionsId, turn: u64) -> Option<File> {
        let hash = self.key.of(&pair.into());
        let is_it = |&place: &u32| {
            let entry = self.by_use.get(place);
            entry.pair == pair && entry.options == options
        };
        let place = *self.by_pair.find(hash, is_it)?;
        self.by_use.touch(place, turn, self.clock.now());
        Some(self.file(place))
    }

    /// The socket of `pair`, opened if need be. The least recently used one may be closed for it, but none that `is_used`.
    pub fn get_or_open(
        &mut self,
        pair: SocketAddr,
        options: OptionsId,
        ring: &mut Ring,
        turn: u64,
        now: Instant,
        is_used: impl Fn(File) -> bool,
    ) -> Result<File, BindRefusal> {
        if let Some(file) = self.get(pair, options, turn) {
            return Ok(file);
        }
        if self.except.contains(pair.port()) {
            return Err(BindRefusal::Excepted);
        }
        let is_full = self.by_use.len() == self.limits.count;
        let evicted = if is_full { self.least_recently_used(is_used) } else { None };
        let since_start_ns = now.saturating_duration_since(self.start).as_nanos() as u64;
        if is_full && evicted.is_none() || !self.rate.take(&mut self.ahead, 1, since_start_ns) {
            return Err(BindRefusal::Limited);
        }
        let socket = bind(pair, &self.options[usize::from(options.0)]).map_err(|error| {
            error.raw_os_error().map_or(BindRefusal::Failed, |errno| BindRefusal::of(errno, pair.port()))
        })?;
        if let Some(place) = evicted {
            self.evict(place, ring);
        }
        if !self.pairs.insert(pair) {
            return Err(BindRefusal::Failed);
        }
        let file = self.file(self.by_use.next_place());
        if let Err(error) = ring.take_file(file, socket) {
            self.pairs.remove(pair);
            return Err(BindRefusal::of(error.errno.0, pair.port()));
        }
        let place = self.by_use.insert(pair, options, turn, self.clock.now());
        debug_assert_eq!(self.file(place), file, "the place whose file was taken");
        let Self { by_pair, by_use, key, .. } = self;
        let hash = |&place: &u32| key.of(&by_use.get(place).pair.into());
        by_pair.insert_unique(hash(&place), place, hash);
        debug_assert_eq!(self.by_pair.len(), self.by_use.len(), "each open socket is found by its pair");
        Ok(file)
    }

    /// The clock's timer has failed.
    pub fn tick_failed(&mut self) {
        self.clock.failed();
    }

    /// How long a turn may sleep; `None`: for ever. It is limited only while the clock could not be set.
    pub fn sleep(&self) -> Option<Duration> {
        self.clock.sleep().filter(|_| !self.is_empty())
    }

    /// The clock has ticked: closes the sockets that were idle for too long, but none that `is_used`.
    pub fn ticked(&mut self, ring: &mut Ring, is_used: impl Fn(File) -> bool) {
        self.clock.ticked();
        let mut next = self.by_use.oldest();
        while let Some(place) = next
            && self.clock.is_idle(self.by_use.get(place).used_tick)
        {
            next = self.by_use.newer(place);
            if !is_used(self.file(place)) {
                self.evict(place, ring);
            }
        }
    }

    /// The least recently used one of those that nothing waits for; `None` if something waits for each.
    fn least_recently_used(&self, is_used: impl Fn(File) -> bool) -> Option<u32> {
        let mut next = self.by_use.oldest();
        while let Some(place) = next
            && is_used(self.file(place))
        {
            next = self.by_use.newer(place);
        }
        next
    }

    /// Closes a socket. A send that is in flight on it keeps it open until it is done.
    fn evict(&mut self, place: u32, ring: &mut Ring) {
        let pair = self.by_use.get(place).pair;
        // a reply may still be queued under the number of this file, and must not find another one
        ring.flush();
        let hash = self.key.of(&pair.into());
        if let Ok(entry) = self.by_pair.find_entry(hash, |&other| other == place) {
            entry.remove();
        }
        self.by_use.remove(place);
        ring.unregister_file(self.file(place));
        self.pairs.remove(pair);
    }

    fn file(&self, place: u32) -> File {
        File(self.first_file + place)
    }
}

#[cfg(test)]
mod tests;
