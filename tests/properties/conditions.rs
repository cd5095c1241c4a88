//! blaster's `--fail-if`.

use crate::judge::fail_if::Conditions;
use crate::model::quantity::{self, Rate};

/// Takes any text as conditions. Each condition is read alone: a known name, a comparison and a number of its kind.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let all = text.split(',').all(|one| is_condition(one.trim()));
    assert_eq!(text.parse::<Conditions>().is_ok(), all, "{text:?}");
}

fn is_condition(text: &str) -> bool {
    let Some((name, value)) = text.split_once(['<', '>']) else { return false };
    let value = value.strip_prefix('=').unwrap_or(value).trim();
    let name = name.trim();
    let prefixes = ["actual_", "slip_", "reading_"];
    match prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name) {
        "p50" | "p90" | "p95" | "p99" | "p99.9" | "p99.99" | "max" => {
            quantity::duration_or_zero(value).is_ok()
        }
        _ if name == "rate" => value.parse::<Rate>().is_ok(),
        _ if name == "mtu" => quantity::count(value).is_ok(),
        "sent" | "ok" | "corrupted" | "truncated" | "misdirected" | "late" | "lost" | "loss"
        | "unreachable" | "duplicated" | "reordered" | "crossed" | "unattributed" | "send_failures"
        | "own_drops"
            if !prefixes.iter().any(|prefix| name.starts_with(prefix)) =>
        {
            match value.strip_suffix('%') {
                Some(share) => share.trim().parse().is_ok_and(|share: f64| (0.0..=f64::MAX).contains(&share)),
                None => quantity::count(value).is_ok(),
            }
        }
        _ => false,
    }
}
