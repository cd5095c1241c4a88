//! A target of the command line: addresses, or a name that stands for some.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::slice;
use std::str::FromStr;

use crate::model::host_name::{HostName, HostNameError};
use crate::model::target::{Ports, Target, TargetError};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GivenTarget {
    Addresses(Target),
    Name(NamedTarget),
}

/// A name, its ports, and the addresses that it was found to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedTarget {
    pub(crate) host: HostName,
    ports: Ports,
    /// Empty: it was not looked up yet.
    found: Vec<Target>,
}

impl GivenTarget {
    /// Its addresses; none if it is a name that was not looked up yet.
    pub(crate) fn targets(&self) -> &[Target] {
        match self {
            Self::Addresses(target) => slice::from_ref(target),
            Self::Name(named) => &named.found,
        }
    }

    pub(crate) fn name(&self) -> Option<&HostName> {
        match self {
            Self::Addresses(_) => None,
            Self::Name(named) => Some(&named.host),
        }
    }

    /// Whether it stands for one port of one host.
    pub(crate) fn has_one_port(&self) -> bool {
        match self {
            Self::Addresses(target) => target.is_single(),
            Self::Name(named) => named.ports.is_single(),
        }
    }

    /// Notes the addresses of its name.
    pub(crate) fn find(&mut self, addresses: &[SocketAddr]) {
        if let Self::Name(named) = self {
            named.found = addresses.iter().map(|addr| Target::of_host(*addr, named.ports)).collect();
        }
    }

    /// Gives link-local addresses that lack their interface this one.
    pub(crate) fn put_on_interface(&mut self, index: u32) {
        let targets = match self {
            Self::Addresses(target) => slice::from_mut(target),
            Self::Name(named) => &mut named.found,
        };
        for target in targets {
            target.put_on_interface(index);
        }
    }

    /// Refuses multicast, broadcast and the like, and without `--allow-public` also public addresses.
    pub(crate) fn check_allowed(&self, allow_public: bool) -> Result<(), TargetError> {
        self.targets().iter().try_for_each(|target| {
            target.check_allowed(allow_public).map_err(|error| match self.name() {
                Some(host) => TargetError::OfName {
                    host: host.clone(),
                    ip: target.net().addr(),
                    error: Box::new(error),
                },
                None => error,
            })
        })
    }
}

impl FromStr for GivenTarget {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        text.parse().map(Self::Addresses).or_else(|error| named(text).unwrap_or(Err(error)).map(Self::Name))
    }
}

/// A target with a name instead of an address. `None`: there is no name in `text`.
fn named(text: &str) -> Option<Result<NamedTarget, TargetError>> {
    let decoration = |char: char| char.is_whitespace() || matches!(char, '"' | '\'' | '`');
    let bare = text.split_once("://").map_or(text, |(_, rest)| rest.trim_end_matches('/'));
    let bare: String = bare.chars().filter(|char| !decoration(*char)).collect();
    let (outer, port) = bare.rsplit_once(':').unwrap_or((&bare, ""));
    let inner = outer.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(outer);
    let (host, behind) = inner.split_at(inner.find(['/', '%']).unwrap_or(inner.len()));
    if !host.chars().any(char::is_alphabetic) || host.contains(':') || host.parse::<IpAddr>().is_ok() {
        return None;
    }
    let host = match HostName::new(host) {
        Ok(host) => host,
        Err(HostNameError::Characters(_)) => return None,
        Err(error) => return Some(Err(TargetError::Name(text.into(), error))),
    };
    if port.is_empty() {
        return Some(Err(TargetError::NameWithoutPort(text.into(), host)));
    }
    let Some(ports) = Ports::parse(port) else {
        return Some(Err(TargetError::Port(text.into(), port.into())));
    };
    let target = NamedTarget { host, ports, found: Vec::new() };
    let is_alone = bare == text && inner == outer && behind.is_empty();
    Some(if is_alone {
        Ok(target)
    } else {
        Err(TargetError::BesideName(text.into(), format!("{}{ports}", target.host)))
    })
}

impl fmt::Display for GivenTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addresses(target) => target.fmt(f),
            Self::Name(named) => write!(f, "{}{}", named.host, named.ports),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_ports_of_addresses() {
        for text in ["localhost:7", "echo.example.net.:7-9", "a_b.example:any", "LOCALHOST:65535"] {
            let mut target: GivenTarget = text.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(target.to_string(), text);
            assert_eq!(
                (target.targets(), target.has_one_port()),
                ([].as_slice(), !text.contains(['-', 'y']))
            );
            target.find(&["192.0.2.1:0".parse().unwrap(), "[fe80::1%3]:0".parse().unwrap()]);
            let (_, port) = text.rsplit_once(':').unwrap();
            let found: Vec<_> = target.targets().iter().map(ToString::to_string).collect();
            assert_eq!(found, [format!("192.0.2.1:{port}"), format!("[fe80::1%3]:{port}")]);
        }
        for text in ["127.0.0.1:7", "[::1]:7", "[2001:db8::/64]:any", "10.0.0.0/8:7-9", "[fe80::1%lo]:7"] {
            let target: GivenTarget = text.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(target.targets(), [text.parse::<Target>().unwrap()]);
        }
    }

    #[test]
    fn what_is_no_name_is_no_address_in_another_spelling_either() {
        for text in [
            "1.2.3:7",
            "127.1:7",
            "0x7f.1:7",
            "2130706433:7",
            "a..b:7",
            "bücher.example:7",
            "user@host:7",
            "::face:7",
            ":7",
        ] {
            let error = text.parse::<GivenTarget>().expect_err(text).to_string();
            assert!(!error.contains('\n'), "{text}: {error}");
        }
    }

    #[test]
    fn what_to_write_instead_is_told_to_the_letter() {
        for (text, meant) in [
            ("localhost", "localhost:1234"),
            ("echo.example.net:", "echo.example.net:1234"),
            ("localhost/8:7", "localhost:7"),
            ("localhost%lo:7", "localhost:7"),
            ("[localhost]:7", "localhost:7"),
            ("udp://localhost:7/", "localhost:7"),
            ("\"localhost\":7-9", "localhost:7-9"),
            (" localhost:any", "localhost:any"),
            ("127.0.0.1", "127.0.0.1:1234"),
            ("::1:7", "[::1]:7"),
            ("[::1]", "[::1]:1234"),
        ] {
            let error = text.parse::<GivenTarget>().expect_err(text).to_string();
            let (_, advice) = error.split_once("say ").unwrap_or_else(|| panic!("{error}"));
            assert_eq!(advice.split(' ').next(), Some(meant), "{text}: {error}");
            assert!(meant.parse::<GivenTarget>().is_ok(), "{meant}");
        }
    }

    #[test]
    fn the_guard_looks_at_what_was_found() {
        let mut target: GivenTarget = "echo.example.net:7".parse().unwrap();
        let mut verdict = |addr: &str, allow_public| {
            target.find(&["127.0.0.1:0".parse().unwrap(), addr.parse().unwrap()]);
            target.check_allowed(allow_public).map_err(|error| error.to_string())
        };
        assert_eq!(verdict("10.0.0.1:0", false), Ok(()));
        let refused = verdict("8.8.8.8:0", false).unwrap_err();
        assert!(refused.starts_with("echo.example.net is 8.8.8.8: target 8.8.8.8:7 is public"), "{refused}");
        assert_eq!(verdict("8.8.8.8:0", true), Ok(()));
        for addr in ["224.0.0.1:0", "[ff02::1]:0", "0.0.0.0:0", "[::ffff:127.0.0.1]:0"] {
            assert!(verdict(addr, true).unwrap_err().contains("never loaded"), "{addr}");
        }
    }
}
