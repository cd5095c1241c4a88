//! blaster's numbers such as `200k`, `1.5M`, `64-1400`, compared with a reader that goes digit by digit.

use std::time::Duration;

use crate::model::payload::HEADER_BYTES;
use crate::model::quantity::{self, Rate, Sizes};

/// The longest message.
const SIZE_MAX: u64 = 65_527;

/// Takes any text as each kind of number.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let found = thousandths(text);
    let count = found.filter(|value| value % 1000 == 0).map(|value| value / 1000);
    assert_eq!(quantity::count(text).ok(), count, "count {text:?}");
    let positive = count.filter(|count| *count > 0).and_then(|count| u32::try_from(count).ok());
    assert_eq!(quantity::positive(text).ok(), positive, "positive {text:?}");

    let rate = thousandths(text.strip_suffix("/s").unwrap_or(text))
        .filter(|rate| (1..=1_000_000_000_000).contains(rate));
    assert_eq!(text.parse::<Rate>().ok().map(|rate| rate.per_1000_s), rate, "rate {text:?}");

    let sizes = text.parse::<Sizes>().ok();
    assert_eq!(sizes, self::sizes(text), "sizes {text:?}");
    if let Some(sizes) = sizes {
        assert_eq!(sizes.to_string().parse().as_ref(), Ok(&sizes), "shown and read again");
        let drawn = sizes.of_message(data.len() as u64, 0, 0);
        let among = match &sizes {
            Sizes::Fixed(size) => drawn == *size,
            Sizes::Range(low, high) => (*low..=*high).contains(&drawn),
            Sizes::List(sizes) => sizes.contains(&drawn),
            Sizes::Recorded(_) => unreachable!("no text says so"),
        };
        assert!(among && drawn <= sizes.max_bytes() && u64::from(drawn) <= SIZE_MAX);
        assert!(drawn as usize >= HEADER_BYTES);
    }

    // humantime reads words; a number without a unit is no duration
    let duration = quantity::duration(text);
    if found.is_some() && !text.ends_with(|last: char| last.is_ascii_alphabetic()) {
        assert!(duration.is_err() && quantity::duration_or_zero(text).is_err(), "duration {text:?}");
    }
    if let Ok(duration) = duration {
        assert!(!duration.is_zero() && duration.as_secs() <= TEN_YEARS.as_secs());
        let shown = humantime::format_duration(duration).to_string();
        assert_eq!(quantity::duration(&shown), Ok(duration), "{text:?}, shown as {shown:?}");
        assert_eq!(quantity::duration_or_zero(text), Ok(duration));
    }
}

const TEN_YEARS: Duration = Duration::from_hours(24 * 366 * 10);

/// A decimal number of at most 18 digits before the point and 12 behind it, in exact thousandths. Each digit is added
/// at its own place, so no intermediate value is larger than the result.
fn thousandths(text: &str) -> Option<u64> {
    let (digits, exponent) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 3),
        Some((at, 'm' | 'M')) => (&text[..at], 6),
        Some((at, 'g' | 'G')) => (&text[..at], 9),
        _ => (text, 0),
    };
    let point = digits.find('.').unwrap_or(digits.len());
    let (whole, fraction) = (&digits[..point], digits.get(point + 1..).unwrap_or_default());
    if !whole.chars().chain(fraction.chars()).all(|char| matches!(char, '0'..='9' | '_')) {
        return None;
    }
    let values = |part: &str| part.chars().filter_map(|char| char.to_digit(10)).collect::<Vec<_>>();
    let (whole, fraction) = (values(whole), values(fraction));
    if whole.len() > 18 || fraction.len() > 12 || whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut sum = 0_u64;
    // the first digit stands for 10^(digits before the point - 1) units, a unit is 10^3 thousandths
    let highest = whole.len() as i32 - 1 + exponent + 3;
    for (nth, digit) in whole.iter().chain(&fraction).enumerate() {
        let place = highest - nth as i32;
        if *digit > 0 {
            let unit = 10_u64.checked_pow(u32::try_from(place).ok()?)?;
            sum = sum.checked_add(unit.checked_mul(u64::from(*digit))?)?;
        }
    }
    Some(sum)
}

fn sizes(text: &str) -> Option<Sizes> {
    let size = |text: &str| {
        let thousandths = thousandths(text.trim())?;
        let bytes = Some(thousandths / 1000).filter(|_| thousandths % 1000 == 0)?;
        (HEADER_BYTES as u64..=SIZE_MAX).contains(&bytes).then_some(bytes as u32)
    };
    if text.contains(',') {
        return text.split(',').map(size).collect::<Option<_>>().map(Sizes::List);
    }
    match text.find('-') {
        Some(at) => match (size(&text[..at])?, size(&text[at + 1..])?) {
            (low, high) if low <= high => Some(Sizes::Range(low, high)),
            _ => None,
        },
        None => size(text).map(Sizes::Fixed),
    }
}
