//! Durations as people write them: `500ms`, `1h 30m`.

use std::time::Duration;

/// 100 years: longer than anybody waits, and short enough to be added to any clock.
const LONGEST: Duration = Duration::from_hours(24 * 36_525);
const YEAR_S: u64 = 31_557_600; // humantime's longest unit

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DurationError {
    /// The text is not a row of numbers with units.
    #[error(transparent)]
    Syntax(#[from] humantime::DurationError),
    /// The text is a number: nobody knows whether seconds or milliseconds are meant.
    #[error("{0} has no unit: say {0}s or {0}ms")]
    NoUnit(String),
    /// The duration is longer than 100 years.
    #[error("must be at most 100 years")]
    TooLong,
}

/// Reads a duration of at most 100 years.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    if let Some(number) = without_unit(text) {
        return Err(DurationError::NoUnit(number));
    }
    if number_sum(text).is_none_or(|sum| sum > u64::MAX / YEAR_S - 1) {
        return Err(DurationError::TooLong);
    }
    match humantime::parse_duration(text)? {
        duration if duration <= LONGEST => Ok(duration),
        _ => Err(DurationError::TooLong),
    }
}

/// The text without spaces, if it is a number. humantime takes a bare zero, and no other number, for a duration.
fn without_unit(text: &str) -> Option<String> {
    let number: String = text.split_whitespace().collect();
    let is_number = number.starts_with(|first: char| first.is_ascii_digit())
        && number.chars().all(|char| char.is_ascii_digit() || char == '.');
    is_number.then_some(number)
}

/// The sum of all numbers in `text`, whatever their units; `None` if it exceeds 64 bits. The caller limits it because
/// humantime 2.4 panics when it adds nanoseconds to a number of seconds near the end of 64 bits.
fn number_sum(text: &str) -> Option<u64> {
    let digits: String = text.chars().filter(|char| !char.is_whitespace()).collect();
    let numbers = digits.split(|char: char| !char.is_ascii_digit()).filter(|number| !number.is_empty());
    numbers.map(|number| number.parse::<u64>().ok()).try_fold(0_u64, |sum, number| sum.checked_add(number?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_duration() {
        for (text, ms) in [("500ms", 500), ("1h 30m", 5_400_000), ("0s", 0), ("1 0s", 10_000)] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text:?}");
        }
        assert!(parse("100years").is_ok());
        for text in ["", "soon", "-1s", "1.s", "1h 30"] {
            assert!(matches!(parse(text), Err(DurationError::Syntax(_))), "{text:?}");
        }
    }

    #[test]
    fn a_number_alone_is_no_duration() {
        for (text, number) in [("0", "0"), ("5", "5"), ("100", "100"), ("0.5", "0.5"), (" 1 0 ", "10")] {
            let error = parse(text).expect_err(text);
            assert_eq!(error, DurationError::NoUnit(number.into()));
            assert_eq!(error.to_string(), format!("{number} has no unit: say {number}s or {number}ms"));
            for cure in [format!("{number}s"), format!("{number}ms")] {
                parse(&cure).expect(&cure);
            }
        }
    }

    #[test]
    fn however_long() {
        for text in [
            "101years",
            "18446744073709551615s 1000000000ns",
            "18446744073709551615.5s 0.5s",
            "1844674407370955161 5.5s0.5s",
            "584542046090years 19766415.5s 0.5s",
            "99999999999999999999999s",
        ] {
            assert_eq!(parse(text), Err(DurationError::TooLong), "{text:?}");
        }
    }
}
