//! `--dscp`: code points of differentiated services, by name and by number.

use std::fmt;
use std::str::FromStr;

/// A code point (RFC 2474): the upper six bits of an IPv4 TOS or an IPv6 traffic class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Dscp(u8);

/// The largest code point.
const DSCP_MAX: u8 = 63;

/// The names of IANA's registry.
const NAMED: [(&str, u8); 23] = [
    ("CS0", 0),
    ("CS1", 8),
    ("CS2", 16),
    ("CS3", 24),
    ("CS4", 32),
    ("CS5", 40),
    ("CS6", 48),
    ("CS7", 56),
    ("AF11", 10),
    ("AF12", 12),
    ("AF13", 14),
    ("AF21", 18),
    ("AF22", 20),
    ("AF23", 22),
    ("AF31", 26),
    ("AF32", 28),
    ("AF33", 30),
    ("AF41", 34),
    ("AF42", 36),
    ("AF43", 38),
    ("EF", 46),
    ("VOICE-ADMIT", 44),
    ("LE", 1),
];

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no DSCP: say a name (CS0-CS7, AF11-AF43, EF, VOICE-ADMIT, LE) or a number from 0 to 63")]
pub(crate) struct DscpError(String);

impl Dscp {
    /// The code point of a TOS or traffic class; the other two bits are those of ECN.
    pub(crate) fn of_class(class: u8) -> Self {
        Self(class >> 2)
    }

    pub(crate) fn number(self) -> u8 {
        self.0
    }

    /// Its place in the TOS or the traffic class.
    pub(crate) fn class(self) -> u8 {
        self.0 << 2
    }
}

impl FromStr for Dscp {
    type Err = DscpError;

    fn from_str(text: &str) -> Result<Self, DscpError> {
        let named = NAMED.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, number)| *number);
        let number = || match text.strip_prefix("0x") {
            Some(digits) => u8::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        };
        let found = named.or_else(number).filter(|number| *number <= DSCP_MAX);
        found.map(Self).ok_or_else(|| DscpError(text.into()))
    }
}

impl fmt::Display for Dscp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMED.iter().find(|(_, number)| *number == self.0) {
            Some((name, number)) => write!(f, "{name} ({number})"),
            None => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_code_points() {
        for (text, number) in [
            ("EF", 46),
            ("ef", 46),
            ("AF41", 34),
            ("CS3", 24),
            ("cs0", 0),
            ("LE", 1),
            ("voice-admit", 44),
            ("0", 0),
            ("63", 63),
            ("0x2e", 46),
        ] {
            let dscp: Dscp = text.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!((dscp.number(), dscp.class()), (number, number << 2), "{text}");
            assert_eq!(Dscp::of_class(dscp.class() | 3), dscp, "the ECN bits are no part of it");
        }
        for text in ["", "64", "-1", "0x40", "AF44", "AF14x", "CS8", "EF ", "0xzz", "1.5"] {
            assert!(text.parse::<Dscp>().is_err(), "{text}");
        }
    }

    #[test]
    fn each_name_is_unique_and_comes_back() {
        for (name, number) in NAMED {
            let dscp: Dscp = name.parse().unwrap();
            assert_eq!(dscp.to_string(), format!("{name} ({number})"));
        }
        assert_eq!("5".parse::<Dscp>().unwrap().to_string(), "5");
    }
}
