//! What is done to the server and its network, and what each of that excuses.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The server is stopped for a moment (SIGSTOP, SIGCONT): nothing may be lost.
    Pause,
    /// SIGTERM and a new process with the same sockets: nothing may be lost.
    Restart,
    /// SIGTERM and a new process with new sockets.
    Renewal,
    /// SIGKILL and a new process with the same sockets: what was in hand is lost.
    Kill,
    /// SIGKILL and a new process with new sockets.
    Death,
    /// A device goes down and up.
    Link,
    /// A served address goes and returns.
    Address,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Pause, Self::Restart, Self::Renewal, Self::Kill, Self::Death, Self::Link, Self::Address];

    /// Datagrams may be lost.
    pub fn loses(self) -> bool {
        !matches!(self, Self::Pause | Self::Restart)
    }

    /// Datagrams may overtake each other: what waited in the kernel until the neighbour was found again is sent
    /// beside what comes then. A plain recvmmsg and sendmmsg server under the same fault has shown the same.
    pub fn reorders(self) -> bool {
        matches!(self, Self::Link | Self::Address)
    }

    /// A connection may end before everything that it sent was echoed.
    pub fn ends_connections(self) -> bool {
        self != Self::Pause
    }

    /// A connection may be reset, or not come about at all.
    pub fn breaks_connections(self) -> bool {
        self.loses()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pause => "pauses",
            Self::Restart => "restarts with stored sockets",
            Self::Renewal => "restarts without",
            Self::Kill => "kills with stored sockets",
            Self::Death => "kills without",
            Self::Link => "links down and up",
            Self::Address => "addresses removed and added",
        })
    }
}

/// When something happened.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// What.
    pub fault: Fault,
    /// From when on.
    pub from: SystemTime,
    /// Until when.
    pub to: SystemTime,
}

/// How long after a fault its consequences may show. The kernel looks at the state of links once a second, and when the
/// first question for a neighbour is lost the next one comes a second later: behind a link that had returned a server of
/// twenty lines that knows nothing but recvfrom and sendto was out of reach for up to 1.94 s in forty tries, over IPv6.
const AFTERMATH: Duration = Duration::from_millis(2500);

/// All that happened so far.
#[derive(Default)]
pub struct Diary(Mutex<Vec<Window>>);

impl Diary {
    /// Does something, and notes when that was.
    pub fn note<T>(&self, fault: Fault, action: impl FnOnce() -> T) -> T {
        let from = SystemTime::now();
        let result = action();
        self.0.lock().unwrap().push(Window { fault, from, to: SystemTime::now() });
        result
    }

    /// Whether something that this is true of excuses what happened in this time.
    pub fn excuses(&self, from: SystemTime, to: SystemTime, allows: impl Fn(Fault) -> bool) -> bool {
        let windows = self.0.lock().unwrap();
        windows
            .iter()
            .any(|window| allows(window.fault) && window.from <= to && from <= window.to + AFTERMATH)
    }

    /// What happened last before this, and how long before, to be read.
    pub fn last(&self, time: SystemTime) -> String {
        let windows = self.0.lock().unwrap();
        let Some(window) = windows.iter().rev().find(|window| window.from <= time) else {
            return String::new();
        };
        let seconds = |to: SystemTime, from| to.duration_since(from).unwrap_or_default().as_secs_f64();
        format!(
            ", {:.2} s after the last of {} had begun, which took {:.2} s",
            seconds(time, window.from),
            window.fault,
            seconds(window.to, window.from)
        )
    }

    /// How often this happened.
    pub fn count(&self, fault: Fault) -> usize {
        self.0.lock().unwrap().iter().filter(|window| window.fault == fault).count()
    }
}
