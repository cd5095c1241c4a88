//! How many workers, connections and reply sockets the limit of open files allows.
//!
//! What nobody named adapts to what is there: connections are accepted one by one, then there are fewer of them and
//! fewer reply sockets. What somebody named is served so or refused, with numbers that are served.

use std::fmt;
use std::num::NonZeroUsize;

use crate::echo::tcp::Tcp;
use crate::kernel::ring::FileTable;

/// Workers, at most: with more of them each one's part of the memory for streams would be nothing.
pub const WORKERS_MAX: usize = 4096;
/// Connections served at a time if nobody says how many and the limit of open files allows it.
pub const CONNECTIONS_DEFAULT: usize = 10_000;
/// The same for reply sockets, of each worker.
pub const REPLY_SOCKETS_DEFAULT: usize = 1000;
/// Reply sockets of all workers together: the table that tells our own pairs takes 160 bytes for each, at once.
const REPLY_SOCKETS_MAX: usize = 4 << 20;
/// Files that the kernel lets a ring have (`IORING_MAX_FIXED_FILES`), whatever the limit of open files.
const RING_FILES_MAX: usize = 1 << 20;
/// Descriptors of a worker besides its sockets: a ring and an eventfd.
const WORKER_DESCRIPTORS: usize = 2;
/// Our other descriptors, at the most: standard streams, the service manager's socket, metrics, whatever a library
/// opens.
const OTHERS_MAX: usize = 64;

/// Descriptors set apart for others, where there may be `limit`.
fn others(limit: usize) -> usize {
    (limit / 8).clamp(16, OTHERS_MAX)
}

/// How many workers to start where nobody says: one for each of `processors`, as long as their rings and sockets, so
/// many listening `sockets` each, take no more than a quarter of the open files.
pub fn workers(processors: usize, sockets: usize, open_files: usize) -> usize {
    let room = open_files / 4 / (sockets + WORKER_DESCRIPTORS);
    processors.min(room).max(1)
}

/// What each worker has whatever else is served.
#[derive(Clone, Copy, Debug)]
pub struct Fixed {
    /// Workers.
    pub workers: usize,
    /// Sockets of the worker with most of them.
    pub sockets: usize,
    /// How many of those are listeners.
    pub listeners: usize,
    /// Sockets of all workers.
    pub all_sockets: usize,
}

/// What somebody asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wishes {
    /// Connections, all workers together.
    pub connections: Option<NonZeroUsize>,
    /// Reply sockets of each worker.
    pub reply_sockets: Option<usize>,
    /// Connections have to be accepted one by one, whatever there is.
    pub one_by_one: bool,
}

/// What each worker serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Connections at a time.
    pub connections: usize,
    /// Reply sockets.
    pub reply_sockets: usize,
    /// Connections are accepted one by one: there is no room for a whole backlog beyond the limit.
    pub one_by_one: bool,
    /// What was to be served, and by what it is limited, if it was not named and there is less of it.
    pub less: Option<Less>,
}

/// Less is served than by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Less {
    connections: usize,
    reply_sockets: usize,
    instead_of: (usize, usize),
    limit: usize,
}

impl fmt::Display for Less {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connections, reply_sockets, instead_of: (all, all_reply_sockets), limit } = self;
        write!(
            f,
            "serving up to {connections} connections and {reply_sockets} reply sockets per worker instead of {all} and \
             {all_reply_sockets}: RLIMIT_NOFILE allows {limit}; raise it (LimitNOFILE= in a unit, `ulimit -n`) for more"
        )
    }
}

/// What was asked for is more than there may be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    /// The listening sockets alone are too many.
    #[error(
        "{workers} workers with {sockets} listening sockets each take {needed} open files, but RLIMIT_NOFILE allows \
         {limit}; {}", Cures(.cures)
    )]
    Sockets {
        /// How many workers.
        workers: usize,
        /// Listening sockets of each.
        sockets: usize,
        /// Open files for all of it.
        needed: usize,
        /// What the process may have.
        limit: usize,
        /// What helps.
        cures: Vec<String>,
    },
    /// The limit of open files leaves no room for what was asked for.
    #[error(
        "{connections} connections and {reply_sockets} reply sockets per worker take {needed} open files with our own \
         sockets, but RLIMIT_NOFILE allows {limit}; {}", Cures(.cures)
    )]
    OpenFiles {
        /// Connections of each worker.
        connections: usize,
        /// Reply sockets of each worker.
        reply_sockets: usize,
        /// Open files for all of it.
        needed: usize,
        /// What the process may have.
        limit: usize,
        /// What helps.
        cures: Vec<String>,
    },
    /// A ring's file table can't be so long.
    #[error(
        "{connections} connections and {reply_sockets} reply sockets per worker take a table of {needed} files, and a \
         ring has {RING_FILES_MAX} at the most; {}", Cures(.cures)
    )]
    RingFiles {
        /// Connections of each worker.
        connections: usize,
        /// Reply sockets of each worker.
        reply_sockets: usize,
        /// Files of its ring.
        needed: usize,
        /// What helps.
        cures: Vec<String>,
    },
    /// The pairs that are answered from take too much memory.
    #[error(
        "{workers} workers with {each} reply sockets each are more than {REPLY_SOCKETS_MAX} sockets; {}", Cures(.cures)
    )]
    ReplySockets {
        /// How many workers.
        workers: usize,
        /// Reply sockets of each.
        each: usize,
        /// What helps.
        cures: Vec<String>,
    },
}

/// Several cures, of which one is enough.
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

/// Open files that so many workers take at the least, each with these listening sockets, so that each may have a
/// connection.
fn least(workers: usize, sockets: usize) -> usize {
    // a listening socket is a descriptor and has a place in its ring's table, where each has a place for a connection
    // besides; with ordinary descriptors that place is a descriptor, too
    let descriptors = OTHERS_MAX + workers * (2 * sockets + WORKER_DESCRIPTORS + 1);
    descriptors.max(2 * sockets + 2)
}

/// Whether so many workers with so many listening sockets each can be started at all; asked before they are bound.
pub fn check_sockets(workers: usize, sockets: usize, limit: usize) -> Result<(), BudgetError> {
    let descriptors = others(limit).min(16) + workers * (sockets + WORKER_DESCRIPTORS);
    if descriptors <= limit {
        return Ok(());
    }
    let needed = least(workers, sockets);
    let mut cures = vec![raise(needed)];
    let fewer = (1..workers).rev().find(|&fewer| least(fewer, sockets) <= limit);
    cures.extend(fewer.map(|fewer| format!("lower --workers to {fewer}")));
    // TCP and UDP of each address
    let addresses = (1..sockets.div_ceil(2)).rev().find(|&addresses| least(workers, 2 * addresses) <= limit);
    cures.extend(addresses.map(|addresses| format!("name no more than {addresses} addresses")));
    Err(BudgetError::Sockets { workers, sockets, needed, limit, cures })
}

/// Decides what each worker serves of what was asked for.
pub fn share(wishes: Wishes, fixed: Fixed, limit: usize, table: FileTable) -> Result<Budget, BudgetError> {
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
    let whole = Budget { connections, reply_sockets, one_by_one: wishes.one_by_one, less: None };
    if room.fits(&whole) {
        return Ok(whole);
    }
    let one_by_one = Budget { one_by_one: true, ..whole };
    if room.fits(&one_by_one) {
        return Ok(one_by_one);
    }
    room.shrink(&one_by_one).ok_or_else(|| room.refusal(&one_by_one))
}

/// Files of each worker for connections and reply sockets, and what decides how they are divided.
struct Room {
    wishes: Wishes,
    fixed: Fixed,
    limit: usize,
    table: FileTable,
    /// Files that the limit allows.
    files: usize,
    /// Files that the ring's table has room for.
    ring_files: usize,
}

impl Room {
    fn new(wishes: Wishes, fixed: Fixed, limit: usize, table: FileTable) -> Self {
        let Fixed { workers, sockets, all_sockets, .. } = fixed;
        // besides the eventfd and the listening sockets
        let ring_files = RING_FILES_MAX.saturating_sub(1 + sockets);
        let files = match table {
            // the limit holds for each ring's table by itself
            FileTable::Registered => limit.saturating_sub(1 + sockets),
            FileTable::Ordinary => {
                limit.saturating_sub(others(limit) + all_sockets + WORKER_DESCRIPTORS * workers) / workers
            }
        };
        Self { wishes, fixed, limit, table, files: files.min(ring_files), ring_files }
    }

    fn fits(&self, budget: &Budget) -> bool {
        let Budget { connections, reply_sockets, one_by_one, .. } = *budget;
        Tcp::files(connections, self.fixed.listeners, one_by_one).saturating_add(reply_sockets) <= self.files
    }

    /// Files that TCP takes before it has a connection, if connections are accepted one by one.
    fn tcp_files(&self) -> usize {
        Tcp::files(0, self.fixed.listeners, true)
    }

    /// Connections and reply sockets that are the least to serve: what was named, and otherwise one connection.
    fn least(&self, wanted: &Budget) -> (usize, usize) {
        (self.wishes.connections.map_or(1, |_| wanted.connections), self.wishes.reply_sockets.unwrap_or(0))
    }

    /// As much as fits, without taking from what was named; `None` if that alone does not fit.
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
        let less = Less {
            connections: fewer,
            reply_sockets: fewer_reply_sockets,
            instead_of: (connections, reply_sockets),
            limit: self.limit,
        };
        let (connections, reply_sockets) = (fewer, fewer_reply_sockets);
        Some(Budget { connections, reply_sockets, less: Some(less), ..*wanted })
    }

    /// Why what was named does not fit, and what helps.
    fn refusal(&self, wanted: &Budget) -> BudgetError {
        let Fixed { workers, sockets, all_sockets, .. } = self.fixed;
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
                OTHERS_MAX + all_sockets + (WORKER_DESCRIPTORS * workers) + places.saturating_mul(workers)
            }
        };
        cures.insert(0, raise(needed));
        BudgetError::OpenFiles { connections, reply_sockets, needed, limit: self.limit, cures }
    }

    /// Advice to ask for less, with numbers that fit.
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

    /// Advice to start more workers, where each then has room for its connections.
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

    /// A worker for each of the cases below: so many addresses with both protocols.
    fn fixed(workers: usize, addresses: usize) -> Fixed {
        Fixed { workers, sockets: 2 * addresses, listeners: addresses, all_sockets: 2 * addresses * workers }
    }

    fn wishes(connections: usize, reply_sockets: Option<usize>) -> Wishes {
        Wishes { connections: NonZeroUsize::new(connections), reply_sockets, one_by_one: false }
    }

    const NOTHING: Wishes = Wishes { connections: None, reply_sockets: None, one_by_one: false };
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
        let expected = Budget { connections: 10_000, reply_sockets: 1000, one_by_one: false, less: None };
        assert_eq!(whole, expected);
    }

    /// The table in docs/tuning.md.
    #[test]
    fn less_is_served_step_by_step() {
        for (limit, connections, reply_sockets, one_by_one) in [
            (256, 187, 62, true),
            (4096, 3089, 1000, true),
            (9199, 8192, 1000, true),
            (11_007, 10_000, 1000, true),
            (19_199, 10_000, 1000, false),
        ] {
            let budget = share(NOTHING, fixed(1, 2), limit, FileTable::Registered).unwrap();
            let found = (budget.connections, budget.reply_sockets, budget.one_by_one);
            assert_eq!(found, (connections, reply_sockets, one_by_one), "{limit}");
        }
    }

    #[test]
    fn many_addresses_fit_where_connections_are_accepted_singly() {
        for (addresses, limit) in [(8, 20_000), (130, 524_288), (256, 524_288), (256, 1 << 30), (256, 20_000)]
        {
            let budget = share(NOTHING, fixed(1, addresses), limit, FileTable::Registered).unwrap();
            assert!(budget.one_by_one, "{addresses} addresses, {limit}");
            assert_eq!((budget.connections, budget.reply_sockets, budget.less), (10_000, 1000, None));
        }
    }

    /// The numbers behind these words in a message.
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
