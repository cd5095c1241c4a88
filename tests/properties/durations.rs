//! The server's durations and its number of workers.

use std::time::Duration;

use tubular_echo::service::budget::WORKERS_MAX;
use tubular_echo::service::config::Workers;
use tubular_echo::values::duration;

use crate::options::{parse_busy_poll, parse_interval, parse_timeout, parse_workers};

const CENTURY: Duration = Duration::from_hours(24 * 36_525);

/// Takes any text as a duration, an interval, a time to poll and a number of workers.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let parsed = duration::parse(text).map_err(|error| error.to_string());
    let two_lines = parsed.as_ref().err().filter(|refused| refused.contains('\n'));
    assert_eq!(two_lines, None);
    let duration = parsed.ok();
    assert_eq!(parse_interval(text).ok(), duration.filter(|time| time.as_millis() >= 10));
    assert_eq!(parse_timeout(text).ok(), duration.filter(|time| time.is_zero() || time.as_millis() >= 10));
    assert_eq!(parse_busy_poll(text).ok(), duration.filter(|time| time.as_nanos() <= 1_000_000));
    if let Some(duration) = duration {
        assert!(duration <= CENTURY, "{text:?}");
        let shown = humantime::format_duration(duration).to_string();
        assert_eq!(duration::parse(&shown), Ok(duration), "{text:?}, shown as {shown:?}");
    }
    match parse_workers(text) {
        Ok(Workers::Auto) => assert_eq!(text, "auto"),
        Ok(Workers::Fixed(count)) => {
            let digits = text.strip_prefix('+').unwrap_or(text).trim_start_matches('0');
            assert_eq!(digits, count.to_string());
        }
        Err(_) => {
            let digits = text.strip_prefix('+').unwrap_or(text);
            let number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            let value = digits.trim_start_matches('0');
            let too_many = value.parse::<usize>().map_or(true, |value| value > WORKERS_MAX);
            assert!(!number || value.is_empty() || too_many, "{text:?} is a number of workers");
        }
    }
}
