//! Reads the addresses to listen on as people write them. The error for a wrong one says what to write instead.

use std::ffi::CString;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

use crate::kernel::sys;

/// The port in the advice for an address without a port.
const EXAMPLE_PORT: u16 = 1234;

/// The longest name of an interface, without the zero byte at its end (`IFNAMSIZ`).
const NAME_BYTES_MAX: usize = libc::IFNAMSIZ - 1;

/// The name of an interface, such as `eth0`. Each call of [`Interface::index`] looks it up again, in the network
/// namespace of the calling thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Padded with zero bytes.
    name: [u8; NAME_BYTES_MAX],
}

impl Interface {
    /// `None` if `name` can't be the name of an interface.
    pub fn new(name: &str) -> Option<Self> {
        let odd = |byte: u8| byte == b'/' || byte == b':' || byte == 0 || byte.is_ascii_whitespace();
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.bytes().any(odd) {
            return None;
        }
        let mut padded = [0; NAME_BYTES_MAX];
        padded[..name.len()].copy_from_slice(name.as_bytes());
        Some(Self { name: padded })
    }

    fn bytes(&self) -> &[u8] {
        self.name.split(|&byte| byte == 0).next().unwrap_or_default()
    }

    /// The number of the interface. `ENODEV`: there is no such interface.
    pub fn index(&self) -> io::Result<u32> {
        sys::interface_index(&CString::new(self.bytes())?)
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.bytes()))
    }
}

/// An address to listen on: `192.0.2.1:7`, `[2001:db8::1]:7`, `[fe80::1%2]:7`, `[fe80::1%eth0]:7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddr {
    addr: SocketAddr,
    /// The interface that the text names after an IPv6 address.
    interface: Option<Interface>,
}

impl ListenAddr {
    /// The address. It lacks the number of a named interface; see [`ListenAddr::resolve`].
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The address with the number of its interface, for the kernel. `ENODEV`: there is no interface of this name.
    pub fn resolve(&self) -> io::Result<SocketAddr> {
        match (self.addr, &self.interface) {
            (SocketAddr::V6(mut addr), Some(interface)) => {
                addr.set_scope_id(interface.index()?);
                Ok(addr.into())
            }
            (addr, _) => Ok(addr),
        }
    }
}

impl From<SocketAddr> for ListenAddr {
    fn from(addr: SocketAddr) -> Self {
        Self { addr, interface: None }
    }
}

impl FromStr for ListenAddr {
    type Err = ListenAddrError;

    /// Reads an address and port. Spaces around them are allowed.
    fn from_str(text: &str) -> Result<Self, ListenAddrError> {
        let text = text.trim();
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return Ok(addr.into());
        }
        let named = || {
            let (ip, rest) = text.strip_prefix('[')?.split_once('%')?;
            let (name, port) = rest.split_once("]:")?;
            let addr = SocketAddr::new(IpAddr::V6(ip.parse().ok()?), port.parse().ok()?);
            Some(Self { addr, interface: Some(Interface::new(name)?) })
        };
        named().ok_or_else(|| diagnose(text))
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.interface {
            Some(interface) => write!(f, "[{}%{interface}]:{}", self.addr.ip(), self.addr.port()),
            None => self.addr.fmt(f),
        }
    }
}

/// Why a text is not an address to listen on. Each message has an example behind "say" that would be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListenAddrError {
    /// An IP address without a port.
    #[error("the port is missing: say {0}")]
    NoPort(ListenAddr),
    /// A port without an address.
    #[error(
        "the address is missing: say 127.0.0.1:{0} or [::1]:{0} for this host alone, 0.0.0.0:{0} or [::]:{0} for all \
         its addresses"
    )]
    NoAddress(u16),
    /// `*`, which other programs accept for all addresses.
    #[error("`*` is no address: say 0.0.0.0:{0} for all addresses of IPv4, [::]:{0} for all of IPv6")]
    Asterisk(u16),
    /// IPv6 without brackets, so that address and port can't be told apart.
    #[error("IPv6 goes in brackets: say {0}")]
    Brackets(SocketAddr),
    /// IPv4 in brackets.
    #[error("brackets are for IPv6: say {0}")]
    BracketsAroundV4(SocketAddr),
    /// `localhost`.
    #[error("names are not looked up: say 127.0.0.1:{0} or [::1]:{0}")]
    Localhost(u16),
    /// Another host name.
    #[error(
        "names are not looked up: `getent ahosts {0}` shows the addresses; say one of them, as in 127.0.0.1:{1} or \
         [::1]:{1}"
    )]
    Name(String, u16),
    /// The port is too large, or not a number.
    #[error("{0:?} is no port, which is a number up to 65535: say {1}")]
    Port(String, ListenAddr),
    /// A prefix instead of an address.
    #[error("a socket has an address, not a prefix: say {0}, and have the prefix steered there (tubular)")]
    Prefix(SocketAddr),
    /// An address in quotes, behind `udp://`, or with a space in it.
    #[error("there is something beside the address: say {0}")]
    Decorated(ListenAddr),
    /// The text after `%` can't be the name of an interface.
    #[error("{0:?} is no name of an interface, which `ip -6 address` shows: say {1}")]
    Zone(String, SocketAddr),
    /// Anything else.
    #[error("ADDR:PORT is wanted: say 127.0.0.1:1234 or [::1]:1234")]
    Shape,
}

/// Reads an address and port, like `FromStr`. It exists for callers that need a function's name.
pub fn parse(text: &str) -> Result<ListenAddr, ListenAddrError> {
    text.parse()
}

/// Guesses what the author of a wrong `text` meant.
fn diagnose(text: &str) -> ListenAddrError {
    let decoration = |char: char| char.is_whitespace() || matches!(char, '"' | '\'' | '`');
    let scheme = text.split_once("://").map_or(text, |(_, rest)| rest.trim_end_matches('/'));
    let bare: String = scheme.chars().filter(|char| !decoration(*char)).collect();
    if bare != text {
        return bare.parse().map_or_else(|_| diagnose(&bare), ListenAddrError::Decorated);
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        // ::1:1234 is a valid IPv6 address, but its author probably means port 1234 of ::1
        let meant = text.rsplit_once(':').and_then(|(ip, port)| Some((ip.parse().ok()?, port.parse().ok()?)));
        return match meant {
            Some((ip, port)) => ListenAddrError::Brackets(SocketAddr::new(IpAddr::V6(ip), port)),
            None => ListenAddrError::NoPort(SocketAddr::new(ip, EXAMPLE_PORT).into()),
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
    let linked = inner.and_then(|inner| {
        let (ip, zone) = inner.split_once('%')?;
        Some((ip.parse::<Ipv6Addr>().ok()?, zone))
    });
    if let Some((ip, zone)) = linked {
        let Some(interface) = Interface::new(zone) else {
            return ListenAddrError::Zone(zone.into(), SocketAddrV6::new(ip, likely, 0, 2).into());
        };
        let meant = ListenAddr { addr: SocketAddr::new(ip.into(), likely), interface: Some(interface) };
        return match port {
            _ if port_text.is_empty() => ListenAddrError::NoPort(meant),
            None => ListenAddrError::Port(port_text.into(), meant),
            Some(_) => ListenAddrError::Decorated(meant),
        };
    }
    let ip = inner.unwrap_or(host).parse::<IpAddr>();
    match (ip, inner) {
        (Ok(ip @ IpAddr::V4(_)), Some(_)) => ListenAddrError::BracketsAroundV4(SocketAddr::new(ip, likely)),
        (Ok(ip), _) if port_text.is_empty() => {
            ListenAddrError::NoPort(SocketAddr::new(ip, EXAMPLE_PORT).into())
        }
        (Ok(ip @ IpAddr::V6(_)), None) => ListenAddrError::Brackets(SocketAddr::new(ip, likely)),
        (Ok(ip), _) if port.is_none() => {
            ListenAddrError::Port(port_text.into(), SocketAddr::new(ip, likely).into())
        }
        // there is something between the bracket and the port
        (Ok(ip), _) => ListenAddrError::Decorated(SocketAddr::new(ip, likely).into()),
        (Err(_), None) if host.is_empty() => ListenAddrError::NoAddress(likely),
        (Err(_), None) if host == "*" => ListenAddrError::Asterisk(likely),
        (Err(_), None) if host.eq_ignore_ascii_case("localhost") => ListenAddrError::Localhost(likely),
        (Err(_), None) if is_name(host) => ListenAddrError::Name(host.into(), likely),
        (Err(_), _) => ListenAddrError::Shape,
    }
}

/// Splits a text into host, with its brackets, and port; the port may be empty. `None` if it has neither.
fn host_and_port(text: &str) -> Option<(&str, &str)> {
    if text.starts_with('[') {
        let (host, rest) = text.split_at(text.find(']')? + 1);
        return Some((host, rest.strip_prefix(':').unwrap_or(rest)));
    }
    let named = || Some((text, "")).filter(|(name, _)| is_name(name) && name.parse::<u64>().is_err());
    text.rsplit_once(':').or_else(named)
}

/// Whether the text looks like a host name.
fn is_name(host: &str) -> bool {
    let is_letter = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '.' | '_');
    host.chars().all(is_letter) && host.chars().any(|char| char.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_an_address() {
        for text in ["127.0.0.1:7", " [::1]:1234 ", "[fe80::1%2]:1234", "0.0.0.0:0", "[fe80::1%eth0.7]:1234"]
        {
            assert_eq!(parse(text).expect(text).to_string(), text.trim());
        }
    }

    #[test]
    fn an_interface_is_found_by_its_name() {
        assert_eq!(parse("[fe80::1%lo]:7").unwrap().resolve().unwrap(), "[fe80::1%1]:7".parse().unwrap());
        let absent = parse("[fe80::1%no-such-link]:7").unwrap();
        assert_eq!(absent.resolve().unwrap_err().raw_os_error(), Some(libc::ENODEV));
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
            ("[fe80::1%eth 0]:7", "beside the address: say [fe80::1%eth0]:7"),
            ("[fe80::1%sixteen-letters-]:7", "\"sixteen-letters-\" is no name of an interface"),
            ("[fe80::1%]:7", "\"\" is no name of an interface"),
            ("[fe80::1%eth0]:70000", "\"70000\" is no port"),
            ("[fe80::1%eth0]", "the port is missing: say [fe80::1%eth0]:1234"),
            ("127.0.0.1%lo:7", "ADDR:PORT is wanted"),
            ("[127.0.0.1%lo]:7", "ADDR:PORT is wanted"),
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

    /// The parser accepts the examples in its own messages.
    #[test]
    fn advice_can_be_followed() {
        let texts = "127.0.0.1 ::1 ::1:7 [::1] 1234 :7 *:7 [127.0.0.1]:7 localhost a.b:7 127.0.0.1:x [::1]:x 1.2.3.0/24:7 \
                     [2001:db8::/64]:7 udp://[::1]:7 [fe80::1%]:7 [fe80::1%eth0]:x [fe80::1%eth0] ?";
        for text in texts.split_whitespace() {
            let error = parse(text).expect_err(text).to_string();
            let (_, advice) = error.split_once("say ").unwrap();
            let words = advice.split([' ', ',']).filter(|word| word.contains(':'));
            let said: Vec<_> = words.map(|word| parse(word).expect(word)).collect();
            assert!(!said.is_empty(), "{error}");
        }
    }
}
