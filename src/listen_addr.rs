//! Addresses to listen on as people write them. What is wrong with one is told with what to write instead.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// The port in advice for an address that has none.
const EXAMPLE_PORT: u16 = 1234;

/// Why a text is no address to listen on. Behind each "say" is what is understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListenAddrError {
    /// An IP address alone.
    #[error("the port is missing: say {0}")]
    NoPort(SocketAddr),
    /// A port alone.
    #[error(
        "the address is missing: say 127.0.0.1:{0} or [::1]:{0} for this host alone, 0.0.0.0:{0} or [::]:{0} for all \
         its addresses"
    )]
    NoAddress(u16),
    /// What other programs call all addresses.
    #[error("`*` is no address: say 0.0.0.0:{0} for all addresses of IPv4, [::]:{0} for all of IPv6")]
    Asterisk(u16),
    /// IPv6, where the port can't be told from the address.
    #[error("IPv6 goes in brackets: say {0}")]
    Brackets(SocketAddr),
    /// IPv4 in brackets.
    #[error("brackets are for IPv6: say {0}")]
    BracketsAroundV4(SocketAddr),
    /// The name that every host has.
    #[error("names are not looked up: say 127.0.0.1:{0} or [::1]:{0}")]
    Localhost(u16),
    /// Another name.
    #[error(
        "names are not looked up: `getent ahosts {0}` shows the addresses; say one of them, as in 127.0.0.1:{1} or \
         [::1]:{1}"
    )]
    Name(String, u16),
    /// Too large a number, or none.
    #[error("{0:?} is no port, which is a number up to 65535: say {1}")]
    Port(String, SocketAddr),
    /// A prefix.
    #[error("a socket has an address, not a prefix: say {0}, and have the prefix steered there (tubular)")]
    Prefix(SocketAddr),
    /// An address in quotes, behind `udp://`, or with a space in it.
    #[error("there is something beside the address: say {0}")]
    Decorated(SocketAddr),
    /// The name of an interface, or a number that is none.
    #[error("{0:?} is no number of an interface, which `ip -6 address` shows: say {1}")]
    Zone(String, SocketAddr),
    /// Anything else.
    #[error("ADDR:PORT is wanted: say 127.0.0.1:1234 or [::1]:1234")]
    Shape,
}

/// Reads an address and port, with spaces around them if there are any.
pub fn parse(text: &str) -> Result<SocketAddr, ListenAddrError> {
    let text = text.trim();
    text.parse().map_err(|_| diagnose(text))
}

/// What somebody may have meant by `text`, which is no address and port.
fn diagnose(text: &str) -> ListenAddrError {
    let decoration = |char: char| char.is_whitespace() || matches!(char, '"' | '\'' | '`');
    let scheme = text.split_once("://").map_or(text, |(_, rest)| rest.trim_end_matches('/'));
    let bare: String = scheme.chars().filter(|char| !decoration(*char)).collect();
    if bare != text {
        return bare.parse().map_or_else(|_| diagnose(&bare), ListenAddrError::Decorated);
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        // ::1:1234 is an address of IPv6; who writes it means another one
        let meant = text.rsplit_once(':').and_then(|(ip, port)| Some((ip.parse().ok()?, port.parse().ok()?)));
        return match meant {
            Some((ip, port)) => ListenAddrError::Brackets(SocketAddr::new(IpAddr::V6(ip), port)),
            None => ListenAddrError::NoPort(SocketAddr::new(ip, EXAMPLE_PORT)),
        };
    }
    let Some((host, port_text)) = host_and_port(text) else {
        return text.parse().map_or(ListenAddrError::Shape, ListenAddrError::NoAddress);
    };
    let port = port_text.parse().ok();
    let likely = port.unwrap_or(EXAMPLE_PORT);
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if let Some((ip, length)) = inner.unwrap_or(host).split_once('/')
        && let (Ok(_), Ok(_)) = (ip.parse::<IpAddr>(), length.parse::<u8>())
    {
        let loopback = if ip.contains(':') { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
        return ListenAddrError::Prefix(SocketAddr::new(loopback, likely));
    }
    if let Some((ip, zone)) = inner.and_then(|inner| inner.split_once('%'))
        && let Ok(ip) = ip.parse()
        && zone.parse::<u32>().is_err()
    {
        return ListenAddrError::Zone(zone.into(), SocketAddrV6::new(ip, likely, 0, 2).into());
    }
    let ip = inner.unwrap_or(host).parse::<IpAddr>();
    match (ip, inner) {
        (Ok(ip @ IpAddr::V4(_)), Some(_)) => ListenAddrError::BracketsAroundV4(SocketAddr::new(ip, likely)),
        (Ok(ip), _) if port_text.is_empty() => ListenAddrError::NoPort(SocketAddr::new(ip, EXAMPLE_PORT)),
        (Ok(ip @ IpAddr::V6(_)), None) => ListenAddrError::Brackets(SocketAddr::new(ip, likely)),
        (Ok(ip), _) if port.is_none() => ListenAddrError::Port(port_text.into(), SocketAddr::new(ip, likely)),
        // what stands between bracket and port
        (Ok(ip), _) => ListenAddrError::Decorated(SocketAddr::new(ip, likely)),
        (Err(_), None) if host.is_empty() => ListenAddrError::NoAddress(likely),
        (Err(_), None) if host == "*" => ListenAddrError::Asterisk(likely),
        (Err(_), None) if host.eq_ignore_ascii_case("localhost") => ListenAddrError::Localhost(likely),
        (Err(_), None) if is_name(host) => ListenAddrError::Name(host.into(), likely),
        (Err(_), _) => ListenAddrError::Shape,
    }
}

/// What stands before the port, with its brackets, and the port, as far as there is one. `None`: a text without
/// either.
fn host_and_port(text: &str) -> Option<(&str, &str)> {
    if text.starts_with('[') {
        let (host, rest) = text.split_at(text.find(']')? + 1);
        return Some((host, rest.strip_prefix(':').unwrap_or(rest)));
    }
    let named = || Some((text, "")).filter(|(name, _)| is_name(name) && name.parse::<u64>().is_err());
    text.rsplit_once(':').or_else(named)
}

/// A name of a host, as far as its letters tell.
fn is_name(host: &str) -> bool {
    let is_letter = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '.' | '_');
    host.chars().all(is_letter) && host.chars().any(|char| char.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_an_address() {
        for text in ["127.0.0.1:7", " [::1]:1234 ", "[fe80::1%2]:1234", "0.0.0.0:0"] {
            assert!(parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn each_mistake_has_its_own_advice() {
        for (text, advice) in [
            ("127.0.0.1", "the port is missing: say 127.0.0.1:1234"),
            ("127.0.0.1:", "the port is missing: say 127.0.0.1:1234"),
            ("::1", "the port is missing: say [::1]:1234"),
            ("[::1]", "the port is missing: say [::1]:1234"),
            ("2001:db8::1", "the port is missing: say [2001:db8::1]:1234"),
            ("1234", "the address is missing: say 127.0.0.1:1234"),
            (":7", "the address is missing: say 127.0.0.1:7 or [::1]:7"),
            ("*:7", "`*` is no address: say 0.0.0.0:7"),
            ("::1:7", "brackets: say [::1]:7"),
            ("2001:db8::1:7", "brackets: say [2001:db8::1]:7"),
            ("2001:db8:0:0:0:0:0:1:7", "brackets: say [2001:db8::1]:7"),
            ("[127.0.0.1]:7", "brackets are for IPv6: say 127.0.0.1:7"),
            ("localhost:7", "names are not looked up: say 127.0.0.1:7 or [::1]:7"),
            ("localhost", "names are not looked up: say 127.0.0.1:1234 or [::1]:1234"),
            ("echo.example.net:7", "`getent ahosts echo.example.net`"),
            ("127.0.0.1:65536", "\"65536\" is no port, which is a number up to 65535: say 127.0.0.1:1234"),
            ("[::1]:echo", "\"echo\" is no port, which is a number up to 65535: say [::1]:1234"),
            ("[::1]:-7", "\"-7\" is no port"),
            ("192.0.2.0/24:7", "a socket has an address, not a prefix: say 127.0.0.1:7"),
            ("[2001:db8::/64]:7", "a socket has an address, not a prefix: say [::1]:7"),
            ("udp://127.0.0.1:7", "beside the address: say 127.0.0.1:7"),
            ("tcp://localhost:7/", "names are not looked up: say 127.0.0.1:7"),
            ("\"127.0.0.1:7\"", "beside the address: say 127.0.0.1:7"),
            ("127.0.0.1 :7", "beside the address: say 127.0.0.1:7"),
            ("[::1]7", "beside the address: say [::1]:7"),
            ("[fe80::1%eth0]:7", "\"eth0\" is no number of an interface"),
            ("", "ADDR:PORT is wanted: say 127.0.0.1:1234"),
            ("256.0.0.1:7", "ADDR:PORT is wanted"),
            ("[", "ADDR:PORT is wanted"),
            ("[]:7", "ADDR:PORT is wanted"),
            ("127.0.0.1:7:8", "ADDR:PORT is wanted"),
            ("nonsense?:7", "ADDR:PORT is wanted"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(advice), "{text}: {error}");
        }
    }

    /// What stands behind "say" is understood.
    #[test]
    fn advice_can_be_followed() {
        let texts = "127.0.0.1 ::1 ::1:7 [::1] 1234 :7 *:7 [127.0.0.1]:7 localhost a.b:7 127.0.0.1:x [::1]:x 1.2.3.0/24:7 \
                     [2001:db8::/64]:7 udp://[::1]:7 [fe80::1%eth0]:7 ?";
        for text in texts.split_whitespace() {
            let error = parse(text).expect_err(text).to_string();
            let (_, advice) = error.split_once("say ").unwrap();
            let words = advice.split([' ', ',']).filter(|word| word.contains(':'));
            let said: Vec<_> = words.map(|word| parse(word).expect(word)).collect();
            assert!(!said.is_empty(), "{error}");
        }
    }
}
