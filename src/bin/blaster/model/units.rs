//! Numbers as people read them: counts, rates, durations, shares.

/// 1234567 as 1,234,567.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (nth, digit) in digits.chars().enumerate() {
        if nth > 0 && (digits.len() - nth).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of things: 1 flow, 2 flows, 2 replies.
pub(crate) fn counted(number: u64, thing: &str) -> String {
    let things = match thing.strip_suffix('y') {
        _ if number == 1 => thing.to_owned(),
        Some(stem) => format!("{stem}ies"),
        None => format!("{thing}s"),
    };
    format!("{} {things}", count(number))
}

/// A rate per second: a whole number, except for small rates.
pub(crate) fn rate(per_s: f64) -> String {
    if per_s < 9.995 && (per_s - per_s.round()).abs() >= 0.005 {
        format!("{per_s:.2}")
    } else {
        count(per_s.round() as u64)
    }
}

/// The same with at most three digits that are not 0: for a glance.
pub(crate) fn rounded(per_s: f64) -> String {
    let beyond = (per_s.max(1.0).log10().floor() as i32 - 2).max(0);
    let step = 10_f64.powi(beyond);
    rate(if beyond > 0 { (per_s / step).round() * step } else { per_s })
}

/// Nanoseconds, with three digits and a unit.
pub(crate) fn duration(ns: u64) -> String {
    let ns = ns as f64;
    let (value, unit) = match ns {
        _ if ns < 1e3 => return format!("{ns:.0} ns"),
        _ if ns < 999.5e3 => (ns / 1e3, "µs"),
        _ if ns < 999.5e6 => (ns / 1e6, "ms"),
        _ if ns < 600e9 => (ns / 1e9, "s"),
        _ if ns < 7_200e9 => (ns / 60e9, "min"),
        _ => (ns / 3_600e9, "h"),
    };
    format!("{} {unit}", three_digits(value))
}

/// A number from 1 on with three digits, or with all before the point.
fn three_digits(value: f64) -> String {
    let places = match value {
        _ if value < 9.995 => 2,
        _ if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.places$}")
}

/// Bytes per second as bits per second, with a unit.
pub(crate) fn bandwidth(bytes_per_s: f64) -> String {
    let bits = bytes_per_s * 8.0;
    match bits {
        _ if bits < 999.5 => format!("{bits:.0} bit/s"),
        _ if bits < 999.5e3 => format!("{} kbit/s", three_digits(bits / 1e3)),
        _ if bits < 999.5e6 => format!("{} Mbit/s", three_digits(bits / 1e6)),
        _ => format!("{} Gbit/s", three_digits(bits / 1e9)),
    }
}

/// A share of `all` in percent: 0 only if `number` is 0, and 100 % only if it is `all`. It has three digits, and a share of
/// more than half has as many places as the rest to 100 % needs for three: 0.500 % and 99.500 %.
pub(crate) fn percent(number: u64, all: u64) -> String {
    let percent = number as f64 * 100.0 / all.max(1) as f64;
    match number {
        0 => "0".into(),
        number if number == all => "100 %".into(),
        _ if percent < 0.0001 => "< 0.0001 %".into(),
        _ if percent > 99.9999 => "> 99.9999 %".into(),
        _ => format!("{} %", percentage(percent)),
    }
}

/// The same without the sign, from the share itself.
pub(crate) fn percentage(percent: f64) -> String {
    let less = percent.min(100.0 - percent);
    if less <= 0.0 {
        return format!("{percent:.0}");
    }
    // what does not fit five places is cut off
    let places = (1..5).find(|places| (less * 10_f64.powi(*places)).round() >= 100.0).unwrap_or(5);
    format!("{percent:.*}", places as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        for (number, wanted) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(number), wanted);
        }
        for (number, wanted) in [(0, "0 flows"), (1, "1 flow"), (2, "2 flows"), (1_000, "1,000 flows")] {
            assert_eq!(counted(number, "flow"), wanted);
        }
        assert_eq!((counted(1, "reply"), counted(2, "reply")), ("1 reply".into(), "2 replies".into()));
        for (per_s, wanted) in [(0.0, "0"), (0.5, "0.50"), (3.0, "3"), (9.99, "9.99"), (1_999.6, "2,000")] {
            assert_eq!(rate(per_s), wanted);
        }
        for (per_s, wanted) in [
            (0.0, "0"),
            (0.5, "0.50"),
            (999.4, "999"),
            (1_234.0, "1,230"),
            (19_998.0, "20,000"),
            (156_221.0, "156,000"),
        ] {
            assert_eq!(rounded(per_s), wanted);
        }
        for (ns, wanted) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1.00 µs"),
            (12_345, "12.3 µs"),
            (123_456, "123 µs"),
            (999_900, "1.00 ms"),
            (1_500_000_000, "1.50 s"),
            (599_000_000_000, "599 s"),
            (3_600_000_000_000, "60.0 min"),
            (86_400_000_000_000, "24.0 h"),
        ] {
            assert_eq!(duration(ns), wanted);
        }
        for (bytes_per_s, wanted) in [
            (0.0, "0 bit/s"),
            (125.0, "1.00 kbit/s"),
            (1_280_000.0, "10.2 Mbit/s"),
            (2e9, "16.0 Gbit/s"),
            (2e10, "160 Gbit/s"),
        ] {
            assert_eq!(bandwidth(bytes_per_s), wanted);
        }
        for (number, all, wanted) in [
            (0, 5, "0"),
            (5, 5, "100 %"),
            (1, 4, "25.0 %"),
            (1, 3, "33.3 %"),
            (1, 100, "1.00 %"),
            (9_996, 100_000, "10.0 %"),
            (5, 1_000, "0.500 %"),
            (995, 1_000, "99.500 %"),
            (57, 1_000_000, "0.00570 %"),
            (999_943, 1_000_000, "99.99430 %"),
            (1, 1_000_000, "0.00010 %"),
            (1, 10_000_000, "< 0.0001 %"),
            (9_999_999, 10_000_000, "> 99.9999 %"),
        ] {
            assert_eq!(percent(number, all), wanted);
        }
    }
}
