//! The faults of the server and its network, and the errors that each of them excuses.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The server is stopped for a moment (SIGSTOP, SIGCONT). Nothing may be lost.
    Pause,
    /// SIGTERM and a new process with the same sockets. Nothing may be lost.
    Restart,
    /// SIGTERM and a new process with new sockets.
    Renewal,
    /// SIGKILL and a new process with the same sockets. Data that the process had received is lost.
    Kill,
    /// SIGKILL and a new process with new sockets.
    Death,
    /// A device goes down and up.
    Link,
    /// A served address vanishes and returns.
    Address,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Pause, Self::Restart, Self::Renewal, Self::Kill, Self::Death, Self::Link, Self::Address];

    /// Whether datagrams may be lost.
    pub fn loses(self) -> bool {
        !matches!(self, Self::Pause | Self::Restart)
    }

    /// Whether datagrams may be reordered: datagrams that waited in the kernel until it found the neighbour again are
    /// sent beside newer ones. A plain server with recvmmsg and sendmmsg showed the same under this fault.
    pub fn reorders(self) -> bool {
        matches!(self, Self::Link | Self::Address)
    }

    /// Whether a connection may end before all its data was echoed.
    pub fn ends_connections(self) -> bool {
        self != Self::Pause
    }

    /// Whether a connection may be reset, or fail to open.
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

/// The time of a fault.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// The kind of the fault.
    pub fault: Fault,
    /// The beginning.
    pub from: SystemTime,
    /// The end.
    pub to: SystemTime,
}

/// How long after a fault its consequences may show. The kernel checks the state of links once a second, and if its
/// first neighbour request gets lost, it sends the next one a second later. A plain server of twenty lines with
/// recvfrom and sendto was out of reach for up to 1.94 s after a link had returned, in forty tries over IPv6.
const AFTERMATH: Duration = Duration::from_millis(2500);

/// All faults so far.
#[derive(Default)]
pub struct Diary(Mutex<Vec<Window>>);

impl Diary {
    /// Causes a fault and notes its time.
    pub fn note<T>(&self, fault: Fault, action: impl FnOnce() -> T) -> T {
        let from = SystemTime::now();
        let result = action();
        self.0.lock().unwrap().push(Window { fault, from, to: SystemTime::now() });
        result
    }

    /// Whether a fault with this property excuses an error at this time.
    pub fn excuses(&self, from: SystemTime, to: SystemTime, allows: impl Fn(Fault) -> bool) -> bool {
        let windows = self.0.lock().unwrap();
        windows
            .iter()
            .any(|window| allows(window.fault) && window.from <= to && from <= window.to + AFTERMATH)
    }

    /// The last fault before this time, and how long before, as text.
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

    /// How often this fault happened.
    pub fn count(&self, fault: Fault) -> usize {
        self.0.lock().unwrap().iter().filter(|window| window.fault == fault).count()
    }
}
