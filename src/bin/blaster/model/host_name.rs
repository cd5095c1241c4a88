//! The name of a host, as it is looked up.

use std::fmt;

/// A name that getaddrinfo(3) looks up. It is no other spelling of an address, as `127.1` or `0x7f000001` are for that
/// function.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HostName(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HostNameError {
    #[error(
        "{0:?} has characters that a name has not: letters and digits of ASCII, `-`, `_` and `.` are allowed"
    )]
    Characters(String),
    #[error("{0:?} has letters beyond ASCII: say its form that begins with xn-- (`idn2 {0}` shows it)")]
    Letters(String),
    #[error(
        "{0:?} ends in a number, so it is no name, and it is no IPv4 address, which has four numbers from 0 to 255"
    )]
    Number(String),
    #[error("{0:?} is no name: between its dots are 1 to 63 characters, and it has at most 253")]
    Length(String),
}

impl HostName {
    pub(crate) fn new(text: &str) -> Result<Self, HostNameError> {
        let is_usual = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_' | '.');
        if !text.chars().all(|char| is_usual(char) || char.is_alphanumeric()) {
            return Err(HostNameError::Characters(text.into()));
        }
        if !text.is_ascii() {
            return Err(HostNameError::Letters(text.into()));
        }
        // a dot at the end means that no search domain is tried
        let labels = text.strip_suffix('.').unwrap_or(text);
        if labels.len() > 253 || labels.split('.').any(|label| !(1..=63).contains(&label.len())) {
            return Err(HostNameError::Length(text.into()));
        }
        let last = labels.rsplit('.').next().unwrap_or_default();
        let hexadecimal = last.strip_prefix("0x").or(last.strip_prefix("0X"));
        let is_number = last.bytes().all(|byte| byte.is_ascii_digit())
            || hexadecimal.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        if is_number { Err(HostNameError::Number(text.into())) } else { Ok(Self(text.into())) }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_addresses() {
        let long = format!("{}.example", "a".repeat(63));
        let longest = "a.".repeat(127);
        for text in [
            "localhost",
            "3com.example",
            "echo.example.net.",
            "_echo.x-y.z9",
            "xn--bcher-kva.example",
            "1e3",
            &long,
            &longest,
        ] {
            assert_eq!(HostName::new(text).unwrap_or_else(|error| panic!("{error}")).as_str(), text);
        }
        for (text, words) in [
            ("1.2.3", "four numbers"),
            ("127.1", "four numbers"),
            ("4294967295", "four numbers"),
            ("0x7f000001", "four numbers"),
            ("a.0x", "four numbers"),
            ("1.2.3.4.", "four numbers"),
            ("bücher.example", "`idn2 bücher.example`"),
            ("a..b", "1 to 63"),
            (".a", "1 to 63"),
            (".", "1 to 63"),
            ("", "1 to 63"),
            (&format!("a{long}"), "1 to 63"),
            (&format!("{}b", "a.".repeat(127)), "at most 253"),
            ("a b", "characters"),
            ("a/b", "characters"),
            ("user@host", "characters"),
        ] {
            let error = HostName::new(text).expect_err(text).to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
