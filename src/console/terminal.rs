//! What the output may contain: colors and other control sequences, and how long lines may be.

use std::env;
use std::ffi::OsStr;
use std::os::fd::AsFd;

use rustix::termios;

/// Whether to write colors. Only a terminal gets colors, and only if `NO_COLOR` is unset or empty (no-color.org) and
/// `TERM` is not `dumb`.
pub fn wants_color(is_terminal: bool) -> bool {
    decide(is_terminal, env::var_os("NO_COLOR").as_deref(), env::var_os("TERM").as_deref())
}

/// Whether the terminal can show plain text only.
pub fn is_dumb() -> bool {
    env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// Characters in a line: as wide as the window, or else as `COLUMNS` says. `None`: there is no terminal, and lines may be
/// as long as they get.
pub fn width(output: impl AsFd) -> Option<usize> {
    let window = termios::tcgetwinsize(output).ok()?.ws_col;
    let columns = || env::var("COLUMNS").ok()?.parse().ok();
    Some(usize::from(window)).filter(|columns| *columns > 0).or_else(columns).filter(|columns| *columns > 0)
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
