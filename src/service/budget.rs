//! How many workers, connections and reply sockets the limit of open files allows.
//!
//! A number that the operator did not give adapts to the limit: first connections are accepted one by one, then there
//! are fewer connections and fewer reply sockets. A number that the operator gave is served, or the start fails with an
//! error that names numbers that fit.

use std::fmt;
use std::num::NonZeroUsize;
use std::os::fd::RawFd;

use crate::echo::tcp::Tcp;
use crate::kernel::ring::FileTable;

/// The largest number of workers. With more, each one's share of the memory for streams would be too small.
pub const WORKERS_MAX: usize = 4096;
/// Connections served at a time, all workers together.
const CONNECTIONS_DEFAULT: usize = 10_000;
/// Reply sockets of each worker.
const REPLY_SOCKETS_DEFAULT: usize = 1000;
/// Reply sockets of all workers together. The table of the server's own pairs (`policy::pairs`) reserves 160 bytes for
/// each of them at the start.
const REPLY_SOCKETS_MAX: usize = 4 << 20;
/// The longest file table of a ring (`IORING_MAX_FIXED_FILES`), whatever the limit of open files.
const RING_FILES_MAX: usize = 1 << 20;
/// Descriptors of a worker besides its sockets: a ring and an eventfd.
const WORKER_DESCRIPTORS: usize = 2;
/// The two ends of its pipe. A worker can do without.
const PIPE_DESCRIPTORS: usize = 2;
/// The most descriptors kept free for other uses: standard streams, the service manager's socket, metrics, libraries.
const RESERVE_MAX: usize = 64;

/// Descriptors kept free for other uses, of `limit` that the process may have.
fn reserve(limit: usize) -> usize {
    (limit / 8).clamp(16, RESERVE_MAX)
}

/// So many numbers in a row without a descriptor end the search of `tubectl register-pid`.
const SEARCH_GAP: usize = 32;

/// Descriptors of all workers, pipes included.
fn worker_descriptors(fixed: Fixed) -> usize {
    fixed.all_sockets + (WORKER_DESCRIPTORS + PIPE_DESCRIPTORS) * fixed.workers
}

/// The first number for descriptors of connections. The search for listening sockets ends before it, so that it takes
/// no longer for them. `None`: the limit allows neither these nor the pipes.
fn first_descriptor(fixed: Fixed, open_files: usize) -> Option<RawFd> {
    let first = reserve(open_files) + worker_descriptors(fixed) + SEARCH_GAP;
    RawFd::try_from(first).ok().filter(|_| first < open_files)
}

/// The number of workers for `--workers auto`: one for each of `processors`, as long as all rings and sockets together
/// take no more than a quarter of the open files. Each worker has `sockets` listening sockets.
pub(super) fn workers(processors: usize, sockets: usize, open_files: usize) -> usize {
    let room = open_files / 4 / (sockets + WORKER_DESCRIPTORS);
    processors.min(room).max(1)
}

/// The workers and their listening sockets, which are given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fixed {
    pub(super) workers: usize,
    /// Listening sockets of the worker that has the most.
    pub(super) sockets: usize,
    /// How many of those are TCP listeners.
    pub(super) listeners: usize,
    /// Listening sockets of all workers.
    pub(super) all_sockets: usize,
}

/// What the options ask for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wishes {
    /// Connections, all workers together.
    pub(super) connections: Option<NonZeroUsize>,
    /// Reply sockets of each worker.
    pub(super) reply_sockets: Option<usize>,
    /// Connections must be accepted one by one, even if there is room for more.
    pub(super) single_accept: bool,
}

/// What each worker serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    /// Connections at a time.
    pub(super) connections: usize,
    pub(super) reply_sockets: usize,
    /// Connections are accepted one by one: the file table has no room for a whole backlog beyond the limit.
    pub(super) single_accept: bool,
    /// Ordinary descriptors of connections have this number or a higher one. `None`: large messages are copied.
    pub(super) first_descriptor: Option<RawFd>,
    /// Set if the limit of open files does not allow the defaults.
    pub(super) reduction: Option<Reduction>,
}

/// A warning: the server serves less than by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reduction {
    connections: usize,
    reply_sockets: usize,
    instead_of: (usize, usize),
    limit: usize,
}

impl fmt::Display for Reduction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connections, reply_sockets, instead_of: (all, all_reply_sockets), limit } = self;
        write!(
            f,
            "serving up to {connections} connections and {reply_sockets} reply sockets per worker instead of {all} and \
             {all_reply_sockets}: RLIMIT_NOFILE allows {limit}; raise it (LimitNOFILE= in a unit, `ulimit -n`) for more"
        )
    }
}

/// The options ask for more than the limits allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    /// The listening sockets alone need too many open files.
    #[error(
        "{workers} workers with {sockets} listening sockets each take {needed} open files, but RLIMIT_NOFILE allows \
         {limit}; {}", Cures(.cures)
    )]
    Sockets {
        /// Number of workers.
        workers: usize,
        /// Listening sockets of each worker.
        sockets: usize,
        /// Open files needed in all.
        needed: usize,
        /// Open files that the process may have.
        limit: usize,
        /// Changes of which one is enough.
        cures: Vec<String>,
    },
    /// The connections and reply sockets need too many open files.
    #[error(
        "{connections} connections and {reply_sockets} reply sockets per worker take {needed} open files with our own \
         sockets, but RLIMIT_NOFILE allows {limit}; {}", Cures(.cures)
    )]
    OpenFiles {
        /// Connections of each worker.
        connections: usize,
        /// Reply sockets of each worker.
        reply_sockets: usize,
        /// Open files needed in all.
        needed: usize,
        /// Open files that the process may have.
        limit: usize,
        /// Changes of which one is enough.
        cures: Vec<String>,
    },
    /// The file table of a ring would be longer than the kernel allows.
    #[error(
        "{connections} connections and {reply_sockets} reply sockets per worker take a table of {needed} files, and a \
         ring has {RING_FILES_MAX} at the most; {}", Cures(.cures)
    )]
    RingFiles {
        /// Connections of each worker.
        connections: usize,
        /// Reply sockets of each worker.
        reply_sockets: usize,
        /// Files of each worker's ring.
        needed: usize,
        /// Changes of which one is enough.
        cures: Vec<String>,
    },
    /// The table of the server's own pairs would take too much memory.
    #[error(
        "{workers} workers with {each} reply sockets each are more than {REPLY_SOCKETS_MAX} sockets; {}", Cures(.cures)
    )]
    ReplySockets {
        /// Number of workers.
        workers: usize,
        /// Reply sockets of each worker.
        each: usize,
        /// Changes of which one is enough.
        cures: Vec<String>,
    },
}

/// Changes of which one is enough, as text.
struct Cures<'a>(&'a [String]);

impl fmt::Display for Cures<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", or "))
    }
}

/// The cure that always helps.
fn raise(needed: usize) -> String {
    format!("raise it to {needed} (LimitNOFILE= in a unit, `ulimit -n`)")
}

/// The fewest open files with which this many workers, with this many listening sockets each, can each serve one
/// connection.
fn least(workers: usize, sockets: usize) -> usize {
    // each listening socket takes a descriptor and needs room for a connection that it accepts; without registered files
    // that connection takes a descriptor too
    let descriptors = RESERVE_MAX + workers * (2 * sockets + WORKER_DESCRIPTORS + PIPE_DESCRIPTORS + 1);
    descriptors.max(2 * sockets + 2)
}

/// Checks, before any socket is bound, that this many workers with this many listening sockets each can start at all.
pub(super) fn check_sockets(workers: usize, sockets: usize, limit: usize) -> Result<(), BudgetError> {
    let descriptors = reserve(limit).min(16) + workers * (sockets + WORKER_DESCRIPTORS);
    if descriptors <= limit {
        return Ok(());
    }
    let needed = least(workers, sockets);
    let mut cures = vec![raise(needed)];
    let fewer = (1..workers).rev().find(|&fewer| least(fewer, sockets) <= limit);
    cures.extend(fewer.map(|fewer| format!("lower --workers to {fewer}")));
    // an address has two sockets: TCP and UDP
    let addresses = (1..sockets.div_ceil(2)).rev().find(|&addresses| least(workers, 2 * addresses) <= limit);
    cures.extend(addresses.map(|addresses| format!("name no more than {addresses} addresses")));
    Err(BudgetError::Sockets { workers, sockets, needed, limit, cures })
}

/// Decides what each worker serves, within `limit` open files.
pub(super) fn share(
    wishes: Wishes,
    fixed: Fixed,
    limit: usize,
    table: FileTable,
) -> Result<Budget, BudgetError> {
    let workers = fixed.workers;
    let reply_sockets_max = REPLY_SOCKETS_MAX / workers;
    let reply_sockets = wishes.reply_sockets.unwrap_or(REPLY_SOCKETS_DEFAULT.min(reply_sockets_max));
    if reply_sockets > reply_sockets_max {
        let fewer = REPLY_SOCKETS_MAX / reply_sockets;
        let cures = vec![
            format!("lower --workers to {fewer}"),
            format!("lower --reply-sockets to {reply_sockets_max}"),
        ];
        return Err(BudgetError::ReplySockets { workers, each: reply_sockets, cures });
    }
    let connections = wishes.connections.map_or(CONNECTIONS_DEFAULT, NonZeroUsize::get).div_ceil(workers);
    let room = Room::new(wishes, fixed, limit, table);
    let whole = Budget {
        connections,
        reply_sockets,
        single_accept: wishes.single_accept,
        first_descriptor: first_descriptor(fixed, limit),
        reduction: None,
    };
    if room.fits(&whole) {
        return Ok(whole);
    }
    let single_accept = Budget { single_accept: true, ..whole };
    if room.fits(&single_accept) {
        return Ok(single_accept);
    }
    room.shrink(&single_accept).ok_or_else(|| room.refusal(&single_accept))
}

/// The files that each worker has for connections and reply sockets, and the numbers that decide how to divide them.
struct Room {
    wishes: Wishes,
    fixed: Fixed,
    limit: usize,
    table: FileTable,
    /// Files that both limits allow: that of open files and that of the ring's table.
    files: usize,
    /// Files that the ring's table alone would allow.
    ring_files: usize,
}

impl Room {
    fn new(wishes: Wishes, fixed: Fixed, limit: usize, table: FileTable) -> Self {
        let Fixed { workers, sockets, .. } = fixed;
        // the eventfd and the listening sockets take a place too
        let ring_files = RING_FILES_MAX.saturating_sub(1 + sockets);
        let files = match table {
            // the limit of open files applies to each ring's table by itself
            FileTable::Registered => limit.saturating_sub(1 + sockets),
            FileTable::Ordinary => limit.saturating_sub(reserve(limit) + worker_descriptors(fixed)) / workers,
        };
        Self { wishes, fixed, limit, table, files: files.min(ring_files), ring_files }
    }

    fn fits(&self, budget: &Budget) -> bool {
        let Budget { connections, reply_sockets, single_accept, .. } = *budget;
        let tcp_files = Tcp::files(connections, self.fixed.listeners, single_accept);
        tcp_files.saturating_add(reply_sockets) <= self.files
    }

    /// Files that TCP takes without any connection, if connections are accepted one by one.
    fn tcp_files(&self) -> usize {
        Tcp::files(0, self.fixed.listeners, true)
    }

    /// The fewest connections and reply sockets to serve: the numbers that the operator gave, otherwise one connection
    /// and no reply socket.
    fn least(&self, wanted: &Budget) -> (usize, usize) {
        (self.wishes.connections.map_or(1, |_| wanted.connections), self.wishes.reply_sockets.unwrap_or(0))
    }

    /// As much as fits, without less of what the operator asked for; `None` if that alone does not fit.
    fn shrink(&self, wanted: &Budget) -> Option<Budget> {
        let Budget { connections, reply_sockets, .. } = *wanted;
        let left = self.files.saturating_sub(self.tcp_files());
        let (connections_min, reply_sockets_min) = self.least(wanted);
        if connections_min.saturating_add(reply_sockets_min) > left {
            return None;
        }
        let (fewer, fewer_reply_sockets) = match (self.wishes.connections, self.wishes.reply_sockets) {
            (None, None) => {
                let reply_sockets = reply_sockets.min(left / 4);
                (connections.min(left - reply_sockets), reply_sockets)
            }
            (Some(_), _) => (connections, reply_sockets.min(left - connections)),
            (None, Some(_)) => (connections.min(left - reply_sockets), reply_sockets),
        };
        let reduction = Reduction {
            connections: fewer,
            reply_sockets: fewer_reply_sockets,
            instead_of: (connections, reply_sockets),
            limit: self.limit,
        };
        let (connections, reply_sockets) = (fewer, fewer_reply_sockets);
        Some(Budget { connections, reply_sockets, reduction: Some(reduction), ..*wanted })
    }

    /// The error for numbers that do not fit, with its cures.
    fn refusal(&self, wanted: &Budget) -> BudgetError {
        let Fixed { workers, sockets, .. } = self.fixed;
        let (connections, reply_sockets) = self.least(wanted);
        let mut cures = self.fewer(connections, reply_sockets);
        let places = self.tcp_files().saturating_add(connections).saturating_add(reply_sockets);
        let table_files = places.saturating_add(1 + sockets);
        if table_files > RING_FILES_MAX {
            cures.extend(self.more_workers(reply_sockets));
            return BudgetError::RingFiles { connections, reply_sockets, needed: table_files, cures };
        }
        let needed = match self.table {
            FileTable::Registered => table_files,
            FileTable::Ordinary => {
                RESERVE_MAX + worker_descriptors(self.fixed) + places.saturating_mul(workers)
            }
        };
        cures.insert(0, raise(needed));
        BudgetError::OpenFiles { connections, reply_sockets, needed, limit: self.limit, cures }
    }

    /// Advice to lower the given numbers, to ones that fit.
    fn fewer(&self, connections_min: usize, reply_sockets_min: usize) -> Vec<String> {
        let (wishes, workers) = (&self.wishes, self.fixed.workers);
        let left = self.files.saturating_sub(self.tcp_files());
        let mut cures = Vec::new();
        if wishes.connections.is_some() && left > reply_sockets_min {
            cures.push(format!("lower --max-connections to {}", (left - reply_sockets_min) * workers));
        }
        if wishes.reply_sockets.is_some() && left >= connections_min {
            cures.push(format!("lower --reply-sockets to {}", left - connections_min));
        }
        if cures.is_empty() && wishes.connections.is_some() && wishes.reply_sockets.is_some() && left > 0 {
            cures.push(format!("lower --max-connections to {workers} and --reply-sockets to {}", left - 1));
        }
        cures
    }

    /// Advice to start more workers, if each then has room for its connections.
    fn more_workers(&self, reply_sockets_min: usize) -> Option<String> {
        let connections = self.wishes.connections?.get();
        let each = self.ring_files.saturating_sub(self.tcp_files() + reply_sockets_min);
        let more = connections.div_ceil(each.max(1));
        let helps = more <= WORKERS_MAX && self.table == FileTable::Registered && self.limit > RING_FILES_MAX;
        helps.then(|| format!("raise --workers to {more}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Workers that each serve TCP and UDP on this many addresses.
    fn fixed(workers: usize, addresses: usize) -> Fixed {
        Fixed { workers, sockets: 2 * addresses, listeners: addresses, all_sockets: 2 * addresses * workers }
    }

    fn wishes(connections: usize, reply_sockets: Option<usize>) -> Wishes {
        Wishes { connections: NonZeroUsize::new(connections), reply_sockets, single_accept: false }
    }

    const NOTHING: Wishes = Wishes { connections: None, reply_sockets: None, single_accept: false };
    const TABLES: [FileTable; 2] = [FileTable::Registered, FileTable::Ordinary];

    #[test]
    fn the_defaults_adapt_to_every_limit_from_256_on() {
        for limit in [256, 512, 1024, 4096, 9199, 20_000, 65_536, 524_288, 1 << 30] {
            for processors in [1, 4, 64] {
                for table in TABLES {
                    let workers = workers(processors, 4, limit);
                    let budget = share(NOTHING, fixed(workers, 2), limit, table).unwrap();
                    assert!(budget.connections > 0, "{limit} {table:?}");
                    let descriptors = workers * (4 + WORKER_DESCRIPTORS);
                    assert!(descriptors < limit, "{limit}: {workers} workers");
                    let places = 2 + budget.connections + budget.reply_sockets;
                    match table {
                        FileTable::Registered => assert!(places + 5 <= limit),
                        FileTable::Ordinary => assert!(places * workers + descriptors + 16 <= limit),
                    }
                }
            }
        }
        let whole = share(NOTHING, fixed(1, 2), 524_288, FileTable::Registered).unwrap();
        let expected = Budget {
            connections: 10_000,
            reply_sockets: 1000,
            single_accept: false,
            first_descriptor: Some(64 + 4 + 4 + 32),
            reduction: None,
        };
        assert_eq!(whole, expected);
    }

    /// The table in docs/tuning.md.
    #[test]
    fn less_is_served_step_by_step() {
        for (limit, connections, reply_sockets, single_accept) in [
            (256, 187, 62, true),
            (4096, 3089, 1000, true),
            (9199, 8192, 1000, true),
            (11_007, 10_000, 1000, true),
            (19_199, 10_000, 1000, false),
        ] {
            let budget = share(NOTHING, fixed(1, 2), limit, FileTable::Registered).unwrap();
            let found = (budget.connections, budget.reply_sockets, budget.single_accept);
            assert_eq!(found, (connections, reply_sockets, single_accept), "{limit}");
        }
    }

    #[test]
    fn many_addresses_fit_where_connections_are_accepted_singly() {
        for (addresses, limit) in [(8, 20_000), (130, 524_288), (256, 524_288), (256, 1 << 30), (256, 20_000)]
        {
            let budget = share(NOTHING, fixed(1, addresses), limit, FileTable::Registered).unwrap();
            assert!(budget.single_accept, "{addresses} addresses, {limit}");
            assert_eq!((budget.connections, budget.reply_sockets, budget.reduction), (10_000, 1000, None));
        }
    }

    /// The number that follows these words in a message.
    fn number(text: &str, words: &str) -> Option<usize> {
        let rest = &text[text.find(words)? + words.len()..];
        let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
        Some(digits.parse().expect("a number"))
    }

    #[test]
    fn each_advice_is_one_that_helps() {
        let mut followed = 0;
        for table in TABLES {
            for workers in [1, 2, 7] {
                for limit in [256, 300, 4096, 20_000, 1 << 22] {
                    for connections in [0, 100, 5000, 100_000, 8_000_000, usize::MAX] {
                        for reply_sockets in [None, Some(0), Some(1000), Some(30_000)] {
                            let fixed = fixed(workers, 2);
                            let wishes = wishes(connections, reply_sockets);
                            let Err(error) = share(wishes, fixed, limit, table) else { continue };
                            let text = error.to_string();
                            let mut helped = 0;
                            let mut follow = |wishes, fixed, limit| {
                                share(wishes, fixed, limit, table).unwrap_or_else(|error| {
                                    panic!("{text}; and then: {error}");
                                });
                                helped += 1;
                            };
                            if let Some(limit) = number(&text, "raise it to ") {
                                follow(wishes, fixed, limit);
                            }
                            let both = number(&text, " and --reply-sockets to ");
                            if let Some(connections) = number(&text, "lower --max-connections to ") {
                                let connections = NonZeroUsize::new(connections);
                                let reply_sockets = both.or(wishes.reply_sockets);
                                follow(Wishes { connections, reply_sockets, ..wishes }, fixed, limit);
                            }
                            if let Some(reply_sockets) = number(&text, "lower --reply-sockets to ") {
                                let reply_sockets = Some(reply_sockets);
                                follow(Wishes { reply_sockets, ..wishes }, fixed, limit);
                            }
                            if let Some(workers) = number(&text, "raise --workers to ") {
                                let all_sockets = fixed.sockets * workers;
                                follow(wishes, Fixed { workers, all_sockets, ..fixed }, limit);
                            }
                            assert!(helped > 0, "no number in: {text}");
                            followed += helped;
                        }
                    }
                }
            }
        }
        assert!(followed > 100);
    }

    #[test]
    fn too_many_sockets_are_told_with_how_many_may_be() {
        for (workers, sockets, limit) in [(1, 512, 256), (64, 4, 256), (64, 16, 512), (4096, 4, 4096)] {
            let text = check_sockets(workers, sockets, limit).unwrap_err().to_string();
            let check = |workers, sockets, limit| {
                check_sockets(workers, sockets, limit).unwrap_or_else(|error| panic!("{text}; {error}"));
                let fixed = Fixed { workers, sockets, listeners: sockets, all_sockets: workers * sockets };
                for table in TABLES {
                    share(NOTHING, fixed, limit, table).unwrap_or_else(|error| panic!("{text}; {error}"));
                }
            };
            check(workers, sockets, number(&text, "raise it to ").unwrap());
            if let Some(workers) = number(&text, "lower --workers to ") {
                check(workers, sockets, limit);
            }
            if let Some(addresses) = number(&text, "name no more than ") {
                check(workers, 2 * addresses, limit);
            }
        }
        let text = check_sockets(1, 512, 256).unwrap_err().to_string();
        assert!(text.contains("name no more than"), "{text}");
        let text = check_sockets(64, 4, 256).unwrap_err().to_string();
        assert!(text.contains("lower --workers to"), "{text}");
    }

    #[test]
    fn reply_sockets_of_many_workers_are_limited_by_memory() {
        let text = share(wishes(0, Some(30_000)), fixed(4096, 1), 1 << 30, FileTable::Registered)
            .unwrap_err()
            .to_string();
        let each = number(&text, "lower --reply-sockets to ").unwrap();
        share(wishes(0, Some(each)), fixed(4096, 1), 1 << 30, FileTable::Registered).unwrap();
        let workers = number(&text, "lower --workers to ").unwrap();
        share(wishes(0, Some(30_000)), fixed(workers, 1), 1 << 30, FileTable::Registered).unwrap();
    }
}
