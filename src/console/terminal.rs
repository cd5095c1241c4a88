//! What may be written to a terminal beside text.

use std::env;
use std::ffi::OsStr;

/// Whether a stream that is a terminal, or not, should get colors: not where `NO_COLOR` is set to anything
/// (no-color.org), and not where the terminal says that it can't show them (`TERM=dumb`).
pub fn wants_color(is_terminal: bool) -> bool {
    decide(is_terminal, env::var_os("NO_COLOR").as_deref(), env::var_os("TERM").as_deref())
}

/// Whether the terminal knows nothing but text.
pub fn is_dumb() -> bool {
    env::var_os("TERM").is_some_and(|term| term == "dumb")
}

fn decide(is_terminal: bool, no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    is_terminal && no_color.is_none_or(OsStr::is_empty) && term != Some(OsStr::new("dumb"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colors_are_for_terminals_whose_users_want_them() {
        let of = |is_terminal, no_color: &str, term: &str| {
            decide(is_terminal, Some(no_color.as_ref()), Some(term.as_ref()))
        };
        assert!(decide(true, None, None) && of(true, "", "xterm"));
        assert!(!decide(false, None, None) && !of(false, "", "xterm"));
        assert!(!of(true, "1", "xterm") && !of(true, "false", "xterm") && !of(true, "", "dumb"));
    }
}
