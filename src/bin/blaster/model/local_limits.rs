//! Limits of this host: the loads meet them, and the warnings explain them.

/// The receive buffer that a flow's socket asks for. The default buffer holds only some 250 small datagrams.
pub(crate) const RECEIVE_BUFFER_BYTES: i32 = 4 << 20;

/// A closed connection keeps its local port for a minute (TIME_WAIT, tcp(7)), and by default there are 28,232 ports.
pub(crate) const LOCAL_PORTS_USED_UP: &str = "; local ports are used up: wait a minute, load a prefix instead of one \
     address, send from a prefix (--source), or widen net.ipv4.ip_local_port_range";
