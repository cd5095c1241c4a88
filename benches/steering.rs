//! Steering for the rows that need it: the tests' dispatcher in a network namespace of its own.

/// The tests' own modules, of which a few calls are needed here.
#[allow(dead_code, unreachable_pub, unused_imports, reason = "written for the tests, which use the rest")]
#[path = "../tests/support"]
mod support {
    pub mod netns;
    pub mod registry;
    pub mod steer;
    pub mod sys;
}

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use support::netns::{Netns, ip, receive_on};
use support::registry::register_pid;
use support::steer::{Binding, Dispatcher};
use tubular_echo::kernel::sys::Protocol;

use crate::load::Result;

/// The first address that is steered; 126 more follow.
pub(crate) const STEERED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 128));
const PREFIX: &str = "127.0.0.128/25";

/// Does something in a network namespace that is left again.
pub(crate) fn elsewhere<T>(action: impl FnOnce() -> T) -> T {
    Netns::new().run(action)
}

/// Two namespaces with a cable between them: 10.9.0.1 at the near end, 10.9.0.2 at the far end.
pub(crate) struct Cable {
    near: Netns,
    far: Netns,
}

impl Cable {
    /// A cable with so many queues; these processors receive what comes out of the far end.
    pub(crate) fn new(queues: usize, receivers: &[usize]) -> Self {
        let (near, far) = (Netns::new(), Netns::new());
        near.run(|| {
            Netns::cable_with_queues("near", "far", &far, queues);
            ip("address add 10.9.0.1/24 dev near");
            ip("link set near up");
        });
        far.run(|| {
            ip("address add 10.9.0.2/24 dev far");
            ip("link set far up");
            receive_on("far", receivers);
        });
        Self { near, far }
    }

    pub(crate) fn at_near_end<T>(&self, action: impl FnOnce() -> T) -> T {
        self.near.run(action)
    }

    pub(crate) fn at_far_end<T>(&self, action: impl FnOnce() -> T) -> T {
        self.far.run(action)
    }
}

/// Keeps the addresses steered.
pub(crate) struct Steering {
    _dispatcher: Dispatcher,
}

impl Steering {
    /// Steers UDP to `port` of all these addresses, 0 for every port, to the socket that process `pid` has
    /// bound to `bound`.
    pub(crate) fn to(pid: u32, bound: SocketAddr, port: u16) -> Result<Self> {
        let dispatcher = Dispatcher::attach(&[Binding::new(Protocol::Udp, PREFIX, port)])?;
        register_pid(&dispatcher.sockets, pid, Protocol::Udp, bound).map_err(|e| e.to_string())?;
        Ok(Self { _dispatcher: dispatcher })
    }
}
