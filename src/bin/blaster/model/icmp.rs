//! The words for ICMP errors: RFC 792, RFC 1812 (IPv4), RFC 4443 (IPv6).

/// What an ICMP error says, as in `port unreachable`.
pub(crate) fn meaning(is_ipv4: bool, icmp_type: u8, icmp_code: u8) -> String {
    let known = if is_ipv4 { of_ipv4(icmp_type, icmp_code) } else { of_ipv6(icmp_type, icmp_code) };
    known.map_or_else(|| format!("type {icmp_type} code {icmp_code}"), Into::into)
}

fn of_ipv4(icmp_type: u8, icmp_code: u8) -> Option<&'static str> {
    Some(match (icmp_type, icmp_code) {
        (3, 0) => "network unreachable",
        (3, 1) => "host unreachable",
        (3, 2) => "protocol unreachable",
        (3, 3) => "port unreachable",
        (3, 4) => "fragmentation needed",
        (3, 5) => "source route failed",
        (3, 6) => "network unknown",
        (3, 7) => "host unknown",
        (3, 8) => "source host isolated",
        (3, 9) => "network prohibited by an administrator",
        (3, 10) => "host prohibited by an administrator",
        (3, 11) => "network unreachable for this type of service",
        (3, 12) => "host unreachable for this type of service",
        (3, 13) => "prohibited by a filter",
        (3, 14) => "host precedence violation",
        (3, 15) => "precedence cutoff",
        (11, 0) => "hop limit exceeded",
        (11, 1) => "reassembly time exceeded",
        (12, _) => "parameter problem",
        _ => return None,
    })
}

fn of_ipv6(icmp_type: u8, icmp_code: u8) -> Option<&'static str> {
    Some(match (icmp_type, icmp_code) {
        (1, 0) => "no route",
        (1, 1) => "prohibited by a filter",
        (1, 2) => "beyond the scope of the source address",
        (1, 3) => "address unreachable",
        (1, 4) => "port unreachable",
        (1, 5) => "source address refused by a policy",
        (1, 6) => "route rejected",
        (2, _) => "packet too big",
        (3, 0) => "hop limit exceeded",
        (3, 1) => "reassembly time exceeded",
        (4, _) => "parameter problem",
        _ => return None,
    })
}

/// The usual cause of such an error.
pub(crate) fn cause(meaning: &str) -> Option<&'static str> {
    Some(match meaning {
        "port unreachable" => "nobody listens there",
        "host unreachable" | "address unreachable" | "host unknown" => {
            "no host has that address, or it is down"
        }
        "network unreachable" | "network unknown" | "no route" | "route rejected" => "a router has no route",
        "prohibited by a filter"
        | "network prohibited by an administrator"
        | "host prohibited by an administrator"
        | "source address refused by a policy" => "a firewall refuses it",
        "fragmentation needed" | "packet too big" => "the path carries only smaller datagrams, see --size",
        "hop limit exceeded" => "the route goes round in a circle, or is too long",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_words() {
        for (is_ipv4, icmp_type, icmp_code, wanted) in [
            (true, 3, 3, "port unreachable"),
            (false, 1, 4, "port unreachable"),
            (true, 3, 1, "host unreachable"),
            (false, 1, 3, "address unreachable"),
            (true, 3, 13, "prohibited by a filter"),
            (true, 3, 99, "type 3 code 99"),
            (false, 3, 3, "type 3 code 3"),
        ] {
            assert_eq!(meaning(is_ipv4, icmp_type, icmp_code), wanted);
        }
        assert_eq!(cause("port unreachable"), Some("nobody listens there"));
        assert_eq!(cause("type 3 code 99"), None);
    }
}
