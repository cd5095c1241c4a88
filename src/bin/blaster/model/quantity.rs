//! Numbers as people write them on the command line: `200k`, `1.5M`, `0.01%`, `64-1400`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rand::RngExt;
use tubular_echo::values::duration::{self, DurationError};

use crate::model::draw;
use crate::model::payload::{HEADER_BYTES, SIZE_MAX_BYTES};
use crate::model::recording::RecordedSizes;

/// Why a number can't be read; each message is one line with a right example.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum QuantityError {
    #[error("{0:?} is not a number (examples: 500, 200k, 1.5M)")]
    NotANumber(String),
    #[error("{0} is out of range: {1}")]
    OutOfRange(String, &'static str),
    #[error("a size of {0} bytes has no room for the header of {HEADER_BYTES} bytes")]
    SizeTooSmall(u64),
    #[error("a size of {0} bytes is more than one message carries ({1})")]
    SizeTooLarge(u64, u32),
    #[error("the size range {0}-{1} is empty")]
    EmptyRange(u32, u32),
    #[error("{0:?} is not a duration (examples: 500ms, 10s, 1h 30m)")]
    NotADuration(String),
    #[error(transparent)]
    NoUnit(DurationError),
    #[error("{0:?} is not RATE:TIME (example: 100k:10s)")]
    NotAStep(String),
    #[error("{0:?} is not a percentage (example: 0.1%)")]
    NotAPercentage(String),
}

/// Reads a decimal number with an optional suffix k, M or G (powers of 1000), and returns it in thousandths.
fn thousandths(text: &str) -> Result<u64, QuantityError> {
    let bad = || QuantityError::NotANumber(text.into());
    let (digits, scale) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1_000_u64),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 1_000_000),
        Some(b'g' | b'G') => (&text[..text.len() - 1], 1_000_000_000),
        _ => (text, 1),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_');
    if !(plain(whole) && plain(fraction)) || whole.len() + fraction.len() == 0 {
        return Err(bad());
    }
    let (whole, fraction) = (whole.replace('_', ""), fraction.replace('_', ""));
    // at most 12 places behind the point: a thousandth of a billionth
    if whole.len() > 18 || fraction.len() > 12 {
        return Err(bad());
    }
    let number: u128 = format!("{whole}{fraction}").parse().map_err(|_| bad())?;
    let unit = 10_u128.pow(fraction.len() as u32);
    let too_large = || QuantityError::OutOfRange(text.into(), "too large");
    let scaled = number.checked_mul(u128::from(scale) * 1_000).ok_or_else(too_large)?;
    if scaled % unit != 0 {
        return Err(QuantityError::OutOfRange(text.into(), "thousandths are the finest"));
    }
    u64::try_from(scaled / unit).map_err(|_| too_large())
}

/// A whole number: `500`, `200k`, `1.5M`.
pub(crate) fn count(text: &str) -> Result<u64, QuantityError> {
    match thousandths(text)? {
        value if value % 1_000 == 0 => Ok(value / 1_000),
        _ => Err(QuantityError::OutOfRange(text.into(), "a whole number is wanted")),
    }
}

/// A whole number of at least 1 that fits 32 bits.
pub(crate) fn positive(text: &str) -> Result<u32, QuantityError> {
    match count(text)? {
        0 => Err(QuantityError::OutOfRange(text.into(), "at least 1 is wanted")),
        value => u32::try_from(value).map_err(|_| QuantityError::OutOfRange(text.into(), "too large")),
    }
}

/// How often runs are repeated: more than this often, no reader needs to be surer.
pub(crate) fn repetitions(text: &str) -> Result<u32, QuantityError> {
    match positive(text)? {
        101.. => Err(QuantityError::OutOfRange(text.into(), "at most 100 is wanted")),
        value => Ok(value),
    }
}

/// A duration above zero and up to ten years.
pub(crate) fn duration(text: &str) -> Result<Duration, QuantityError> {
    match duration_or_zero(text)? {
        Duration::ZERO => Err(QuantityError::OutOfRange(text.into(), "more than zero is wanted")),
        duration => Ok(duration),
    }
}

/// How long to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    For(Duration),
    /// Until a signal comes.
    Forever,
}

impl FromStr for Length {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        if text == "forever" { Ok(Self::Forever) } else { duration(text).map(Self::For) }
    }
}

impl Length {
    /// `None`: it has no end.
    pub(crate) fn time(self) -> Option<Duration> {
        match self {
            Self::For(duration) => Some(duration),
            Self::Forever => None,
        }
    }
}

/// As [`duration()`], but zero (`0s`) is allowed.
pub(crate) fn duration_or_zero(text: &str) -> Result<Duration, QuantityError> {
    /// Ten years.
    const LONGEST_S: u64 = 10 * 366 * 86_400;
    match duration::parse(text) {
        Ok(duration) if duration.as_secs() > LONGEST_S => {
            Err(QuantityError::OutOfRange(text.into(), "ten years is the most"))
        }
        Ok(duration) => Ok(duration),
        Err(error @ DurationError::NoUnit(_)) => Err(QuantityError::NoUnit(error)),
        Err(_) => Err(QuantityError::NotADuration(text.into())),
    }
}

/// Datagrams per second, exact to a thousandth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Datagrams in 1000 seconds; never 0.
    pub(crate) per_1000_s: u64,
}

impl FromStr for Rate {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        match thousandths(text.strip_suffix("/s").unwrap_or(text))? {
            0 => Err(QuantityError::OutOfRange(text.into(), "more than zero is wanted")),
            value if value > 1_000_000_000_000 => {
                Err(QuantityError::OutOfRange(text.into(), "1G per second is the most"))
            }
            value => Ok(Self { per_1000_s: value }),
        }
    }
}

impl Rate {
    /// A whole number of datagrams per second, at least 1.
    pub(crate) fn whole(per_s: u64) -> Self {
        Self { per_1000_s: per_s.max(1).saturating_mul(1_000) }
    }

    /// Datagrams per second.
    pub(crate) fn per_s(self) -> f64 {
        self.per_1000_s as f64 / 1_000.0
    }
}

/// A rate for a while: `100k:10s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) rate: Rate,
    pub(crate) duration: Duration,
}

impl FromStr for Step {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (rate, time) = text.split_once(':').ok_or_else(|| QuantityError::NotAStep(text.into()))?;
        Ok(Self { rate: rate.trim().parse()?, duration: duration(time.trim())? })
    }
}

/// A percentage: `0.1%`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Percent(pub(crate) f64);

impl FromStr for Percent {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let number = text.strip_suffix('%').and_then(|number| number.trim().parse().ok());
        number
            .filter(|percent| (0.0..=100.0).contains(percent))
            .map(Self)
            .ok_or_else(|| QuantityError::NotAPercentage(text.into()))
    }
}

/// A percentage above zero.
pub(crate) fn percent_above_zero(text: &str) -> Result<Percent, QuantityError> {
    match text.parse()? {
        Percent(percent) if percent <= 0.0 => {
            Err(QuantityError::OutOfRange(text.into(), "more than zero is wanted"))
        }
        percent => Ok(percent),
    }
}

/// The sizes of messages, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sizes {
    /// `64`.
    Fixed(u32),
    /// `64-1400`: all sizes of the range are equally likely.
    Range(u32, u32),
    /// `64,512,1400`: all sizes of the list are equally likely.
    List(Vec<u32>),
    /// As recorded, with --replay.
    Recorded(RecordedSizes),
}

impl Sizes {
    /// The largest size that can be drawn.
    pub(crate) fn max_bytes(&self) -> u32 {
        match self {
            Self::Fixed(size) | Self::Range(_, size) => *size,
            Self::List(sizes) => sizes.iter().copied().max().unwrap_or(0),
            Self::Recorded(sizes) => sizes.largest_bytes(),
        }
    }

    /// The size, if there is only one.
    pub(crate) fn fixed(&self) -> Option<u32> {
        match self {
            Self::Fixed(size) => Some(*size),
            Self::Range(..) | Self::List(_) | Self::Recorded(_) => None,
        }
    }

    /// The size of message `sequence` of `flow`: always the same for the same arguments.
    pub(crate) fn of_message(&self, seed: u64, flow: u32, sequence: u64) -> u32 {
        match self {
            Self::Fixed(size) => *size,
            // `!seed`: other random numbers than those of the destination
            Self::Range(low, high) => draw::rng(!seed, flow, sequence).random_range(*low..=*high),
            Self::List(sizes) => sizes[draw::rng(!seed, flow, sequence).random_range(0..sizes.len())],
            Self::Recorded(sizes) => sizes.of_message(flow, sequence),
        }
    }
}

fn size(text: &str) -> Result<u32, QuantityError> {
    let bytes = count(text.trim())?;
    if bytes < HEADER_BYTES as u64 {
        return Err(QuantityError::SizeTooSmall(bytes));
    }
    match u32::try_from(bytes) {
        Ok(bytes) => Ok(bytes),
        Err(_) => Err(QuantityError::SizeTooLarge(bytes, SIZE_MAX_BYTES)),
    }
}

impl FromStr for Sizes {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let sizes = if text.contains(',') {
            Self::List(text.split(',').map(size).collect::<Result<_, _>>()?)
        } else if let Some((low, high)) = text.split_once('-') {
            let (low, high) = (size(low)?, size(high)?);
            if low > high {
                return Err(QuantityError::EmptyRange(low, high));
            }
            Self::Range(low, high)
        } else {
            Self::Fixed(size(text)?)
        };
        if sizes.max_bytes() > SIZE_MAX_BYTES {
            return Err(QuantityError::SizeTooLarge(sizes.max_bytes().into(), SIZE_MAX_BYTES));
        }
        Ok(sizes)
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Range(low, high) => write!(f, "{low}-{high}"),
            Self::List(sizes) => {
                for (nth, size) in sizes.iter().enumerate() {
                    write!(f, "{}{size}", if nth == 0 { "" } else { "," })?;
                }
                Ok(())
            }
            Self::Recorded(sizes) => sizes.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        let table = [
            ("0", Some(0)),
            ("500", Some(500)),
            ("200k", Some(200_000)),
            ("1.5M", Some(1_500_000)),
            ("1_000", Some(1_000)),
            ("2G", Some(2_000_000_000)),
            ("0.5", None),
            ("", None),
            ("k", None),
            (".", None),
            ("-1", None),
            ("+1", None),
            ("1e3", None),
            ("1 k", None),
            ("99999999999999999999", None),
            ("1.0001", None),
            ("999999999999999999.999999999999G", None),
        ];
        for (text, wanted) in table {
            assert_eq!(count(text).ok(), wanted, "{text:?}");
        }
    }

    #[test]
    fn rates_keep_their_thousandths() {
        for (text, wanted) in [
            ("0.5", Some(500)),
            ("50k", Some(50_000_000)),
            ("1000/s", Some(1_000_000)),
            ("0", None),
            ("2G", None),
        ] {
            assert_eq!(text.parse::<Rate>().ok().map(|rate| rate.per_1000_s), wanted, "{text:?}");
        }
    }

    #[test]
    fn durations() {
        let table = [
            ("10", None),
            ("0.5s", Some(500)),
            ("500ms", Some(500)),
            ("1m 30s", Some(90_000)),
            ("0", None),
            ("0s", None),
            ("soon", None),
            ("-1s", None),
            ("5k", None),
            ("99999999999h", None),
        ];
        for (text, wanted) in table {
            assert_eq!(duration(text).ok().map(|found| found.as_millis()), wanted, "{text:?}");
        }
    }

    #[test]
    fn steps_and_percentages() {
        let step = Step { rate: Rate::whole(100_000), duration: Duration::from_secs(10) };
        assert_eq!("100k:10s".parse(), Ok(step));
        assert_eq!(" 100k : 10s ".trim().parse(), Ok(step));
        for text in ["", "100k", "100k:", ":10s", "100k:10s:1", "0:1s", "1k:0s", "fast:1s"] {
            text.parse::<Step>().expect_err(text);
        }
        for (text, wanted) in [
            ("0.1%", Some(0.1)),
            ("5 %", Some(5.0)),
            ("0%", Some(0.0)),
            ("100%", Some(100.0)),
            ("0.1", None),
            ("-1%", None),
            ("101%", None),
            ("nan%", None),
            ("%", None),
        ] {
            assert_eq!(text.parse::<Percent>().ok().map(|percent| percent.0), wanted, "{text:?}");
        }
        percent_above_zero("0%").expect_err("a bracket of no width");
    }

    #[test]
    fn sizes() {
        let table = [
            ("64", Some(Sizes::Fixed(64))),
            ("32", Some(Sizes::Fixed(32))),
            ("64-1400", Some(Sizes::Range(64, 1400))),
            ("64,512, 1400", Some(Sizes::List(vec![64, 512, 1400]))),
            ("31", None),
            ("0", None),
            ("1400-64", None),
            ("64,", None),
            ("65528", None),
            ("64-70k", None),
        ];
        for (text, wanted) in table {
            assert_eq!(text.parse::<Sizes>().ok(), wanted, "{text:?}");
        }
        assert_eq!("16".parse::<Sizes>(), Err(QuantityError::SizeTooSmall(16)));
        for text in ["64", "64-1400", "64,512,1400"] {
            assert_eq!(text.parse::<Sizes>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn every_size_of_a_range_is_drawn() {
        let (range, list) = (Sizes::Range(40, 43), Sizes::List(vec![50, 60]));
        let mut seen = std::collections::BTreeSet::new();
        for sequence in 0..200 {
            seen.extend([range.of_message(1, 0, sequence), list.of_message(1, 0, sequence)]);
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [40, 41, 42, 43, 50, 60]);
    }
}
