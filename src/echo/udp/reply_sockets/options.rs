//! The options that a reply socket inherits from the listening socket that it answers for.
//!
//! A passed listening socket may have been given options that decide which way its replies leave: an interface, a mark, a
//! priority. Its reply sockets get them, too. They don't get options that have no effect on a reply: buffer sizes, which
//! are ours; the traffic class, which is that of the request; filters and all other options of receiving.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use crate::kernel::sys::{self, IntOption, Protocol};

/// Options of a listening socket that differ from those of a new socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InheritedOptions(Vec<(IntOption, i32, Importance)>);

/// How much depends on an inherited option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Importance {
    /// Without it a reply might leave by another interface or route.
    Required,
    /// Without it a reply still arrives. We may lack the privilege for it: another process, which had more privileges, may
    /// have made the listening socket.
    Optional,
}

impl InheritedOptions {
    const V4: [(IntOption, Importance); 7] = [
        (IntOption::BOUND_INTERFACE, Importance::Required),
        (IntOption::UNICAST_INTERFACE_V4, Importance::Required),
        (IntOption::MARK, Importance::Required),
        (IntOption::PRIORITY, Importance::Optional),
        (IntOption::HOPS_V4, Importance::Optional),
        // if the address takes one of these and it can't be set, binding to the address fails
        (IntOption::TRANSPARENT_V4, Importance::Optional),
        (IntOption::FREEBIND_V4, Importance::Optional),
    ];
    const V6: [(IntOption, Importance); 6] = [
        (IntOption::BOUND_INTERFACE, Importance::Required),
        (IntOption::UNICAST_INTERFACE_V6, Importance::Required),
        (IntOption::MARK, Importance::Required),
        (IntOption::PRIORITY, Importance::Optional),
        (IntOption::HOPS_V6, Importance::Optional),
        (IntOption::TRANSPARENT_V6, Importance::Optional),
    ];

    /// The options in which `listening`, bound to `addr`, differs from a new socket.
    pub fn of(listening: BorrowedFd<'_>, addr: SocketAddr) -> Self {
        let options = if addr.is_ipv4() { &Self::V4[..] } else { &Self::V6[..] };
        let Ok(new) = sys::socket(Protocol::Udp, addr) else { return Self::default() };
        let differs = |&(option, importance): &(IntOption, Importance)| {
            let value = sys::option(listening, option).ok()?;
            (sys::option(new.as_fd(), option).ok() != Some(value)).then_some((option, value, importance))
        };
        Self(options.iter().filter_map(differs).collect())
    }

    /// Sets them on `socket`; fails if a required one can't be set.
    pub(super) fn set(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        for &(option, value, importance) in &self.0 {
            match sys::set_option(socket, option, value) {
                Err(error) if importance == Importance::Required => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Replies with these and with the `other` options leave by the same interfaces and routes.
    pub(super) fn share_route(&self, other: &Self) -> bool {
        let required = |this: &Self| {
            let required = this.0.iter().filter(|(_, _, importance)| *importance == Importance::Required);
            required.map(|&(option, value, _)| (option, value)).collect::<Vec<_>>()
        };
        required(self) == required(other)
    }
}

/// The number of different options: most listening sockets have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionsId(pub(super) u16);
