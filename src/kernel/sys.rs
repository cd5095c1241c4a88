//! System calls that std does not offer, each once, as safe functions.
//!
//! | | |
//! |---|---|
//! | `sys::sockets` | make, bind, connect and name sockets; send, and end a stream |
//! | `sys::options` | socket options, behind one getter and one setter |
//! | `sys::datagrams` | receive a datagram, and what the kernel tells of it |
//! | `sys::queues` | what waits in a socket's queues, and what was dropped there |
//! | `sys::groups` | which socket of a group receives |
//! | `sys::descriptors` | eventfds, write, wait; descriptors that were passed, a table of one's own |
//! | `sys::pipes` | pipes that move pages |
//! | `sys::host` | limits, names, interfaces, ports |
//! | `sys::processors` | which there are, and staying on one |
//! | `sys::clock` | time, sleep, processor time |
//! | `sys::secrets` | keys for hashes |
//! | `sys::signals` | signals that end a program |
//!
//! `rustix` makes the calls on sockets and descriptors, `nix` those on the process and the host. `unsafe` is left where
//! neither has the call, or has it for 1,024 processors at the most.

mod clock;
mod datagrams;
mod descriptors;
mod groups;
mod host;
mod options;
mod pipes;
mod processors;
mod queues;
mod secrets;
mod signals;
mod sockets;

pub use self::clock::{now, process_cpu_time, sleep, thread_cpu_time, wake_punctually};
pub use self::datagrams::{Received, receive_datagram};
pub use self::descriptors::{
    eventfd, is_path_only, own_descriptors, renumber, set_nonblocking, take_passed, wait_readable,
    wait_writable, wake, write,
};
pub use self::groups::{receive_by_hash, receive_by_processor};
pub use self::host::{
    LOCAL_PORTS_DEFAULT, MemoryLimit, host_name, interface_index, is_limited, kernel_release, local_ports,
    raise_open_files, reserved_ports, tcp_receive_queue_bytes_max,
};
pub use self::options::{IntOption, cookie, option, set_option};
pub use self::pipes::{pipe, read, splice};
pub use self::processors::{pin_thread, processors};
pub use self::queues::{
    IcmpError, SocketError, accept_queue_len, accept_queue_max, drop_incoming, next_error, next_icmp_error,
    receive_queue_bytes, send_queue_bytes, socket_drops,
};
pub use self::secrets::secret_words;
pub use self::signals::EndSignals;
pub use self::sockets::{
    Protocol, SocketKind, bind, end_stream, is_broadcast, listen, local_addr, peer_addr, send_now, socket,
    socket_kind, stream_pair,
};

/// What the C library says of a call.
fn check(result: i32) -> std::io::Result<i32> {
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(result) }
}
