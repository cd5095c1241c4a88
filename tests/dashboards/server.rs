//! What the dashboard and the rules of the server have in common.

pub mod panels;
pub mod rules;

/// A family that only the server has.
const PROGRAM: &str = "tubular_echo_build_info";

/// Reasons of dropped datagrams: rules that the datagram breaks.
const RULES: &str = "system_port|bad_source|bad_destination|own_pair|own_port|hop_limit|reflector_port";
/// Limits that it exceeds.
const LIMITS: &str = "prefix_rate|reply_rate|reply_sockets_limited";
/// Faults of the host, its configuration or its network.
const FAULTS: &str = "truncated|unaddressed|reply_port_privileged|reply_port_taken|reply_port_excepted|\
     reply_address_missing|reply_socket_forbidden|reply_socket_no_files|reply_socket_no_memory|\
     reply_socket_errors|send_unreachable|send_forbidden|send_bad_source|send_errors";

/// All reasons of dropped datagrams, in three groups.
pub const REASONS: [&str; 3] = [RULES, LIMITS, FAULTS];
