//! Reply sockets: how a reply leaves from another port than the one that is listened on.
//!
//! When tubular steers every port of a prefix to one socket, a reply has to leave from the port that
//! was asked, and `IP_PKTINFO` carries no port. A socket bound to exactly that address and port does it,
//! unprivileged. It is only sent from: what reaches it once the steering is gone is never read, and the
//! smallest receive buffer drops all but the first of it. A filter would drop that, too, but the kernel compiles
//! one for each socket and frees it in the background: sockets that come and go by the thousand were seen to hang
//! a host (Linux 6.18: more frees than its workqueue takes wait for a lock whose holder waits for the workqueue).
//! It is never connected (connected sockets are found before sk_lookup, and would steal the flow) and
//! never bound to all addresses (which would take the port on every other one).
//!
//! Made by plain system calls where a pair is seen for the first time, registered with the ring, its
//! descriptor closed: nothing is half made. A fixed number, least recently used first out; idle ones go
//! after a while; so many new ones a second, or a sprayer of ports could make a socket factory of us.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashTable;

use crate::echo::idle::{IdleClock, TICKS};
use crate::kernel::ring::{File, Ring, Token};
use crate::kernel::seam;
use crate::kernel::sys::{self, IntOption, Protocol};
use crate::policy::flow::HashKey;
use crate::policy::pairs::Pairs;
use crate::sockets::listening::{self, SOCKET_BUFFER_BYTES};
use crate::values::ports::Ports;

/// How many reply sockets, and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Kept at a time, per worker.
    pub count: usize,
    /// Made per second, per worker.
    pub per_second: u32,
    /// Kept so long without a reply.
    pub idle_timeout: Duration,
}

/// Why there is no socket for a pair: the reply is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Too many new ones at present.
    Limited,
    /// The port takes a capability that we don't have.
    Privileged,
    /// Somebody else is bound to it.
    Taken,
    /// The port is one that no reply socket takes.
    Excepted,
    /// The address is not this host's.
    NoAddress,
    /// A filter or a missing privilege forbids it.
    Forbidden,
    /// There are no open files left.
    NoFiles,
    /// There is no memory left.
    NoMemory,
    /// Something else is wrong.
    Failed,
}

impl Refused {
    /// What it means that a socket for this port could not be had (socket(2), bind(2), socket(7)).
    fn of(errno: i32, port: u16) -> Self {
        match errno {
            // ip(7): ports below 1024, unless net.ipv4.ip_unprivileged_port_start says otherwise; an LSM says the same
            libc::EACCES if port < 1024 => Self::Privileged,
            // seccomp, a cgroup's program (SocketBindDeny=), an LSM; options that take CAP_NET_ADMIN
            libc::EPERM | libc::EACCES => Self::Forbidden,
            libc::EADDRINUSE => Self::Taken,
            libc::EADDRNOTAVAIL => Self::NoAddress,
            libc::EMFILE | libc::ENFILE => Self::NoFiles,
            libc::ENOBUFS | libc::ENOMEM => Self::NoMemory,
            _ => Self::Failed,
        }
    }
}

/// What a socket that answers for a listening socket has from it: a passed one may have been given a way out of
/// its own.
///
/// Not among it is what has no bearing on a reply: buffers, which are ours; the traffic class, which is the
/// request's; filters and whatever else concerns receiving.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inherited(Vec<(IntOption, i32, Need)>);

/// How much depends on an inherited option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// A reply without it might take another way.
    Must,
    /// Without it a reply is as good as any. What takes a privilege, the listening socket may have from somebody
    /// who has more of them.
    May,
}

impl Inherited {
    const V4: [(IntOption, Need); 7] = [
        (IntOption::BOUND_INTERFACE, Need::Must),
        (IntOption::UNICAST_INTERFACE_V4, Need::Must),
        (IntOption::MARK, Need::Must),
        (IntOption::PRIORITY, Need::May),
        (IntOption::HOPS_V4, Need::May),
        // without these it is seen at the latest when the address is bound
        (IntOption::TRANSPARENT_V4, Need::May),
        (IntOption::FREEBIND_V4, Need::May),
    ];
    const V6: [(IntOption, Need); 6] = [
        (IntOption::BOUND_INTERFACE, Need::Must),
        (IntOption::UNICAST_INTERFACE_V6, Need::Must),
        (IntOption::MARK, Need::Must),
        (IntOption::PRIORITY, Need::May),
        (IntOption::HOPS_V6, Need::May),
        (IntOption::TRANSPARENT_V6, Need::May),
    ];

    /// What is different about `listening`, bound to `addr`, from a new socket.
    pub fn of(listening: BorrowedFd<'_>, addr: SocketAddr) -> Self {
        let options = if addr.is_ipv4() { &Self::V4[..] } else { &Self::V6[..] };
        let Ok(new) = sys::socket(Protocol::Udp, addr) else { return Self::default() };
        let differs = |&(option, need): &(IntOption, Need)| {
            let value = sys::option(listening, option).ok()?;
            (sys::option(new.as_fd(), option).ok() != Some(value)).then_some((option, value, need))
        };
        Self(options.iter().filter_map(differs).collect())
    }

    fn set(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        for &(option, value, need) in &self.0 {
            match sys::set_option(socket, option, value) {
                Err(error) if need == Need::Must => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// What leaves by the one and what by the other leaves by the same interfaces.
    fn is_same_way(&self, other: &Self) -> bool {
        let musts = |this: &Self| {
            let musts = this.0.iter().filter(|(_, _, need)| *need == Need::Must);
            musts.map(|&(option, value, _)| (option, value)).collect::<Vec<_>>()
        };
        musts(self) == musts(other)
    }
}

/// What reply sockets have inherited, by number: few are different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WayOut(u16);

/// No entry.
const NONE: u32 = u32::MAX;

/// A reply socket, or an unused place in the ring's file table.
#[derive(Clone, Copy, Debug)]
struct Entry {
    pair: SocketAddr,
    way_out: WayOut,
    /// Neighbours in the order of use.
    older: u32,
    newer: u32,
    used_turn: u64,
    used_tick: u32,
}

/// The reply sockets of a worker.
#[derive(Debug)]
pub struct ReplySockets {
    limits: Limits,
    /// Ports that none of them takes.
    except: Arc<Ports>,
    first_file: u32,
    /// What they have from listening sockets, by way out.
    inherited: Vec<Inherited>,
    /// Entries by their pair's hash under `key`, told apart by the pair.
    by_pair: HashTable<u32>,
    key: HashKey,
    entries: Vec<Entry>,
    unused: Vec<u32>,
    oldest: u32,
    newest: u32,
    budget: Budget,
    clock: IdleClock,
    pairs: Arc<Pairs>,
}

impl ReplySockets {
    /// Reply sockets take the files from `first_file` on, as many as `limits` says, and no port of `except`.
    /// Their pairs are in `pairs` while they live.
    pub fn new(first_file: u32, limits: Limits, except: Arc<Ports>, pairs: Arc<Pairs>) -> Self {
        Self {
            limits,
            except,
            first_file,
            inherited: Vec::new(),
            by_pair: HashTable::new(),
            key: HashKey::draw(),
            entries: Vec::new(),
            unused: Vec::new(),
            oldest: NONE,
            newest: NONE,
            budget: Budget::new(limits.per_second),
            // a tick sooner than a tick late: the port may be wanted by somebody
            clock: IdleClock::new(limits.idle_timeout * TICKS / (TICKS + 1)),
            pairs,
        }
    }

    /// The way out of sockets that have this from their listening socket.
    pub fn way_out(&mut self, inherited: Inherited) -> WayOut {
        let known = self.inherited.iter().position(|known| *known == inherited);
        let number = known.unwrap_or_else(|| {
            self.inherited.push(inherited);
            self.inherited.len() - 1
        });
        WayOut(number as u16)
    }

    /// The one way and the other lead through the same interfaces.
    pub fn is_same_way(&self, one: WayOut, other: WayOut) -> bool {
        one == other || self.inherited[usize::from(one.0)].is_same_way(&self.inherited[usize::from(other.0)])
    }

    /// None is open.
    pub fn is_empty(&self) -> bool {
        self.by_pair.is_empty()
    }

    /// Whether `file` is still the socket of `pair`, or none of these.
    pub fn is_still(&mut self, file: File, pair: SocketAddr, way_out: WayOut, turn: u64) -> bool {
        let index = file.0.checked_sub(self.first_file);
        let is_ours = index.is_some_and(|index| (index as usize) < self.limits.count);
        !is_ours || self.get(pair, way_out, turn) == Some(file)
    }

    /// Has the clock tick, which ends in [`Self::ticked`], if any socket is open.
    pub fn run_clock(&mut self, ring: &mut Ring, token: Token) {
        if !self.is_empty() {
            self.clock.run(ring, token);
        }
    }

    /// The socket of `pair`, if there is one; it counts as used.
    pub fn get(&mut self, pair: SocketAddr, way_out: WayOut, turn: u64) -> Option<File> {
        let hash = self.key.of(&pair.into());
        let is_it = |&index: &u32| {
            let entry = &self.entries[index as usize];
            entry.pair == pair && entry.way_out == way_out
        };
        let index = *self.by_pair.find(hash, is_it)?;
        if self.entries[index as usize].used_turn != turn {
            self.unlink(index);
            self.link_newest(index, turn);
        }
        Some(self.file(index))
    }

    /// The socket of `pair`, made if need be; the least recently used one may have to go for it, but none that
    /// something waits for.
    pub fn get_or_make(
        &mut self,
        pair: SocketAddr,
        way_out: WayOut,
        ring: &mut Ring,
        turn: u64,
        now: Instant,
        is_waited_for: impl Fn(File) -> bool,
    ) -> Result<File, Refused> {
        if let Some(file) = self.get(pair, way_out, turn) {
            return Ok(file);
        }
        if self.except.contains(pair.port()) {
            return Err(Refused::Excepted);
        }
        let is_full = self.entries.len() - self.unused.len() == self.limits.count;
        let evicted = if is_full { self.oldest_but(is_waited_for) } else { NONE };
        if is_full && evicted == NONE || !self.budget.take(now) {
            return Err(Refused::Limited);
        }
        let socket = bind(pair, &self.inherited[usize::from(way_out.0)]).map_err(|error| {
            error.raw_os_error().map_or(Refused::Failed, |errno| Refused::of(errno, pair.port()))
        })?;
        if evicted != NONE {
            self.evict(evicted, ring);
        }
        let entry = Entry { pair, way_out, older: NONE, newer: NONE, used_turn: turn, used_tick: 0 };
        let index = self.unused.pop().unwrap_or(self.entries.len() as u32);
        let taken = if self.pairs.insert(pair) {
            let taken = ring.take_file(self.file(index), socket);
            taken.map_err(|error| {
                self.pairs.remove(pair);
                Refused::of(error.errno.0, pair.port())
            })
        } else {
            Err(Refused::Failed)
        };
        if let Err(refused) = taken {
            if (index as usize) < self.entries.len() {
                self.unused.push(index);
            }
            return Err(refused);
        }
        if index as usize == self.entries.len() {
            self.entries.push(entry);
        } else {
            self.entries[index as usize] = entry;
        }
        let Self { by_pair, entries, key, .. } = self;
        let hash = |&index: &u32| key.of(&entries[index as usize].pair.into());
        by_pair.insert_unique(hash(&index), index, hash);
        self.link_newest(index, turn);
        Ok(self.file(index))
    }

    /// The clock's timer has failed.
    pub fn tick_failed(&mut self) {
        self.clock.failed();
    }

    /// How long a turn may sleep; any time, unless the clock could not be set.
    pub fn sleep(&self) -> Option<Duration> {
        self.clock.sleep().filter(|_| !self.is_empty())
    }

    /// The clock has ticked: closes what has been idle for too long, and nothing waits for.
    pub fn ticked(&mut self, ring: &mut Ring, is_waited_for: impl Fn(File) -> bool) {
        self.clock.ticked();
        let mut index = self.oldest;
        while let Some(entry) = self.entries.get(index as usize).copied()
            && self.clock.is_idle(entry.used_tick)
        {
            if !is_waited_for(self.file(index)) {
                self.evict(index, ring);
            }
            index = entry.newer;
        }
    }

    /// The least recently used one of those that aren't such; `NONE` if all are.
    fn oldest_but(&self, is_such: impl Fn(File) -> bool) -> u32 {
        let mut index = self.oldest;
        while index != NONE && is_such(self.file(index)) {
            index = self.entries[index as usize].newer;
        }
        index
    }

    /// Closes a socket. A send that is in flight on it keeps it open until it is done.
    fn evict(&mut self, index: u32, ring: &mut Ring) {
        let pair = self.entries[index as usize].pair;
        // a reply may still be queued under the number of this file, and must not find another one
        ring.flush();
        self.unlink(index);
        let hash = self.key.of(&pair.into());
        if let Ok(entry) = self.by_pair.find_entry(hash, |&other| other == index) {
            entry.remove();
        }
        ring.unregister_file(self.file(index));
        self.pairs.remove(pair);
        self.unused.push(index);
    }

    fn file(&self, index: u32) -> File {
        File(self.first_file + index)
    }

    fn unlink(&mut self, index: u32) {
        let Entry { older, newer, .. } = self.entries[index as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.entries[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.entries[newer as usize].older = older,
        }
    }

    fn link_newest(&mut self, index: u32, turn: u64) {
        let newest = std::mem::replace(&mut self.newest, index);
        let entry = &mut self.entries[index as usize];
        (entry.older, entry.newer, entry.used_turn, entry.used_tick) = (newest, NONE, turn, self.clock.now());
        match newest {
            NONE => self.oldest = index,
            newest => self.entries[newest as usize].newer = index,
        }
    }
}

/// A socket that sends from `pair` and is never read. `SO_REUSEPORT`, since another worker may need
/// the same pair; never `SO_REUSEADDR`, which would let in others' sockets.
fn bind(pair: SocketAddr, inherited: &Inherited) -> io::Result<OwnedFd> {
    if let Some(outcome) = seam::bind(pair) {
        return outcome;
    }
    let socket = sys::socket(Protocol::Udp, pair)?;
    inherited.set(socket.as_fd())?;
    // socket(7): the kernel makes it the least that there is
    sys::set_option(socket.as_fd(), IntOption::RECEIVE_BUFFER, 0)?;
    sys::set_option(socket.as_fd(), IntOption::REUSE_PORT, 1)?;
    if pair.is_ipv6() {
        sys::set_option(socket.as_fd(), IntOption::ONLY_V6, 1)?;
        sys::set_option(socket.as_fd(), IntOption::FREEBIND_V6, 1)?;
    }
    // the listening sockets have told what is lost without it
    let _ = listening::let_be_cut(socket.as_fd(), pair);
    if sys::set_option(socket.as_fd(), IntOption::SEND_BUFFER_FORCE, SOCKET_BUFFER_BYTES).is_err() {
        sys::set_option(socket.as_fd(), IntOption::SEND_BUFFER, SOCKET_BUFFER_BYTES)?;
    }
    sys::bind(socket.as_fd(), pair)?;
    Ok(socket)
}

/// So many a second, and at once what is due in 100 ms: we were not run for so long, and find all that came meanwhile. A
/// turn brings no more than a socket has buffers, so other flows don't wait for all of those.
#[derive(Debug)]
struct Budget {
    per_second: f64,
    burst: f64,
    left: f64,
    at: Option<Instant>,
}

impl Budget {
    fn new(per_second: u32) -> Self {
        let burst = f64::from(per_second / 10).max(1.0);
        Self { per_second: per_second.into(), burst, left: burst, at: None }
    }

    fn take(&mut self, now: Instant) -> bool {
        if let Some(at) = self.at.replace(now) {
            let earned = now.saturating_duration_since(at).as_secs_f64() * self.per_second;
            self.left = (self.left + earned).min(self.burst);
        }
        let enough = self.left >= 1.0;
        if enough {
            self.left -= 1.0;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::kernel::ring::{FileTable, RingConfig};

    const IDLE: Duration = Duration::from_mins(1);
    /// Of sockets that inherit nothing.
    const WAY_OUT: WayOut = WayOut(0);

    fn sockets(count: usize) -> (Ring, ReplySockets, Arc<Pairs>) {
        let ring = Ring::new(RingConfig {
            submission_entries: 8,
            completion_entries: 16,
            files: 16,
            file_table: FileTable::Registered,
            busy_poll: Duration::ZERO,
        })
        .unwrap();
        let pairs = Arc::new(Pairs::new(16));
        let limits = Limits { count, per_second: 10_000, idle_timeout: IDLE };
        let except = Arc::new("20051,20060-20069".parse().unwrap());
        let mut sockets = ReplySockets::new(4, limits, except, Arc::clone(&pairs));
        assert_eq!(sockets.way_out(Inherited::default()), WAY_OUT);
        (ring, sockets, pairs)
    }

    /// A pair that nobody uses, kept free by the random part of the address.
    fn pair(number: u16) -> SocketAddr {
        let [high, low] = (std::process::id() as u16).to_be_bytes();
        SocketAddr::from(([127, high | 1, low, 1], 20_000 + number))
    }

    #[test]
    fn a_pair_has_one_socket_and_the_longest_unused_goes_first() {
        let (mut ring, mut sockets, pairs) = sockets(2);
        let now = Instant::now();
        let first = sockets.get_or_make(pair(1), WAY_OUT, &mut ring, 1, now, |_| false).unwrap();
        let second = sockets.get_or_make(pair(2), WAY_OUT, &mut ring, 1, now, |_| false).unwrap();
        assert_ne!(first, second);
        assert_eq!(sockets.get_or_make(pair(1), WAY_OUT, &mut ring, 2, now, |_| false), Ok(first));
        assert_eq!(
            sockets.get_or_make(pair(3), WAY_OUT, &mut ring, 3, now, |_| false),
            Ok(second),
            "the place of the second"
        );
        assert!(pairs.contains(pair(1)) && !pairs.contains(pair(2)) && pairs.contains(pair(3)));
        assert_eq!(sockets.get(pair(2), WAY_OUT, 3), None);
    }

    #[test]
    fn an_idle_socket_frees_its_port() {
        let (mut ring, mut sockets, pairs) = sockets(2);
        let now = Instant::now();
        sockets.get_or_make(pair(11), WAY_OUT, &mut ring, 1, now, |_| false).unwrap();
        assert!(UdpSocket::bind(pair(11)).is_err(), "it is bound");
        (0..TICKS).for_each(|_| sockets.ticked(&mut ring, |_| false));
        assert!(sockets.get(pair(11), WAY_OUT, 2).is_some(), "and is used once more");
        (0..TICKS).for_each(|_| sockets.ticked(&mut ring, |_| false));
        assert!(!sockets.is_empty());
        sockets.ticked(&mut ring, |_| false);
        assert!(sockets.is_empty() && !pairs.contains(pair(11)));
        UdpSocket::bind(pair(11)).expect("the port is free again");
    }

    #[test]
    fn what_something_waits_for_stays() {
        let (mut ring, mut sockets, _) = sockets(2);
        let now = Instant::now();
        let first = sockets.get_or_make(pair(41), WAY_OUT, &mut ring, 1, now, |_| false).unwrap();
        let second = sockets.get_or_make(pair(42), WAY_OUT, &mut ring, 1, now, |_| false).unwrap();
        let third = sockets.get_or_make(pair(43), WAY_OUT, &mut ring, 2, now, |file| file == first);
        assert_eq!(third, Ok(second), "the place of the only one that may go");
        assert_eq!(
            sockets.get_or_make(pair(44), WAY_OUT, &mut ring, 2, now, |_| true),
            Err(Refused::Limited)
        );
        (0..=TICKS).for_each(|_| sockets.ticked(&mut ring, |file| file == first));
        assert_eq!(
            (sockets.get(pair(41), WAY_OUT, 3), sockets.get(pair(43), WAY_OUT, 3)),
            (Some(first), None)
        );
    }

    #[test]
    fn what_can_not_be_bound_says_why_and_leaves_nothing_behind() {
        let (mut ring, mut sockets, pairs) = sockets(2);
        let now = Instant::now();
        let _holder = UdpSocket::bind(pair(21)).unwrap();
        assert_eq!(sockets.get_or_make(pair(21), WAY_OUT, &mut ring, 1, now, |_| false), Err(Refused::Taken));
        let foreign = "192.0.2.1:5000".parse().unwrap();
        assert_eq!(
            sockets.get_or_make(foreign, WAY_OUT, &mut ring, 1, now, |_| false),
            Err(Refused::NoAddress)
        );
        for port in [51, 60, 69] {
            assert_eq!(
                sockets.get_or_make(pair(port), WAY_OUT, &mut ring, 1, now, |_| false),
                Err(Refused::Excepted)
            );
        }
        assert!(sockets.is_empty() && !pairs.contains(pair(21)) && !pairs.contains(foreign));
    }

    #[test]
    fn each_cause_is_told_apart() {
        for (errno, port, refused) in [
            (libc::EACCES, 443, Refused::Privileged),
            (libc::EACCES, 5000, Refused::Forbidden),
            (libc::EPERM, 443, Refused::Forbidden),
            (libc::EADDRINUSE, 5000, Refused::Taken),
            (libc::EADDRNOTAVAIL, 5000, Refused::NoAddress),
            (libc::EMFILE, 5000, Refused::NoFiles),
            (libc::ENFILE, 5000, Refused::NoFiles),
            (libc::ENOBUFS, 5000, Refused::NoMemory),
            (libc::ENOMEM, 5000, Refused::NoMemory),
            (libc::ENODEV, 5000, Refused::Failed),
        ] {
            assert_eq!(Refused::of(errno, port), refused, "{errno}");
        }
    }

    #[test]
    fn what_a_listening_socket_has_its_reply_sockets_have() {
        let (mut ring, mut sockets, _) = sockets(2);
        let now = Instant::now();
        let plain = UdpSocket::bind(pair(71)).unwrap();
        assert_eq!(Inherited::of(plain.as_fd(), pair(71)), Inherited::default(), "nothing is different");
        let own = UdpSocket::bind(pair(72)).unwrap();
        sys::set_option(own.as_fd(), IntOption::PRIORITY, 5).unwrap();
        sys::set_option(own.as_fd(), IntOption::HOPS_V4, 9).unwrap();
        sys::set_option(own.as_fd(), IntOption::BOUND_INTERFACE, 1).unwrap();
        let inherited = Inherited::of(own.as_fd(), pair(72));
        let way_out = sockets.way_out(inherited.clone());
        assert_ne!(way_out, WAY_OUT);
        assert_eq!(sockets.way_out(inherited.clone()), way_out, "others like it have the same");
        assert!(!sockets.is_same_way(way_out, WAY_OUT));
        let reply = bind(pair(73), &inherited).unwrap();
        for (option, value) in
            [(IntOption::PRIORITY, 5), (IntOption::HOPS_V4, 9), (IntOption::BOUND_INTERFACE, 1)]
        {
            assert_eq!(sys::option(reply.as_fd(), option).unwrap(), value);
        }
        let first = sockets.get_or_make(pair(74), WAY_OUT, &mut ring, 1, now, |_| false).unwrap();
        let second = sockets.get_or_make(pair(74), way_out, &mut ring, 1, now, |_| false).unwrap();
        assert_ne!(first, second, "one socket for each way out");
        assert_eq!(sockets.get(pair(74), WAY_OUT, 1), Some(first));
    }

    #[test]
    fn next_to_nothing_is_kept_of_what_reaches_it_by_itself() {
        let socket = bind(pair(31), &Inherited::default()).unwrap();
        let kept_bytes = sys::option(socket.as_fd(), IntOption::RECEIVE_BUFFER).unwrap();
        assert!(kept_bytes < 8192, "{kept_bytes}");
    }

    #[test]
    fn so_many_a_second_and_no_more() {
        let mut budget = Budget::new(2000);
        let start = Instant::now();
        let taken = |budget: &mut Budget, at| (0..1000).filter(|_| budget.take(at)).count();
        assert_eq!(taken(&mut budget, start), 200);
        assert_eq!(taken(&mut budget, start + Duration::from_millis(2)), 4);
        assert_eq!(taken(&mut budget, start + Duration::from_secs(9)), 200, "nothing more is saved up");
    }
}
