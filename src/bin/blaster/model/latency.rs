//! Latency as histograms of nanoseconds, exact to three digits. Percentiles are never averaged.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2DeflateSerializer};
use serde::{Deserialize, Serialize};

/// The longest duration: an hour. A longer one counts as an hour.
const LONGEST_NS: u64 = 3_600_000_000_000;

/// A histogram of durations in nanoseconds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Latency {
    histogram: Histogram<u64>,
}

impl Latency {
    /// An empty histogram. All have the same bounds, so they can be added.
    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("the bounds are valid");
        Self { histogram }
    }

    pub(crate) fn record(&mut self, ns: u64) {
        self.histogram.saturating_record(ns);
    }

    /// How many durations were this long or longer.
    pub(crate) fn count_from(&self, ns: u64) -> u64 {
        self.histogram.count_between(ns, LONGEST_NS)
    }

    pub(crate) fn merge(&mut self, other: &Latency) {
        self.histogram.add(&other.histogram).expect("all have the same bounds");
    }

    pub(crate) fn reset(&mut self) {
        self.histogram.reset();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.histogram.is_empty()
    }

    /// The duration that the share `quantile` (0 to 1) of all did not exceed, in nanoseconds.
    pub(crate) fn at(&self, quantile: f64) -> u64 {
        self.histogram.value_at_quantile(quantile)
    }

    /// The histogram of the library, for its formats.
    pub(crate) fn histogram(&self) -> &Histogram<u64> {
        &self.histogram
    }

    /// `None`: nothing was recorded.
    pub(crate) fn summary(&self) -> Option<Percentiles> {
        if self.is_empty() {
            return None;
        }
        Some(Percentiles {
            count: self.histogram.len(),
            min_ns: self.histogram.min(),
            mean_ns: self.histogram.mean() as u64,
            p50_ns: self.at(0.5),
            p90_ns: self.at(0.9),
            p95_ns: self.at(0.95),
            p99_ns: self.at(0.99),
            p99_9_ns: self.at(0.999),
            p99_99_ns: self.at(0.9999),
            max_ns: self.histogram.max(),
            histogram: PackedHistogram::new(self),
        })
    }
}

/// The percentiles of a histogram, and the histogram itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(from = "WrittenPercentiles")]
pub(crate) struct Percentiles {
    /// The number of durations.
    pub(crate) count: u64,
    pub(crate) min_ns: u64,
    pub(crate) mean_ns: u64,
    /// Half of the durations were at most this long.
    pub(crate) p50_ns: u64,
    /// Nine of ten.
    pub(crate) p90_ns: u64,
    /// 19 of 20.
    pub(crate) p95_ns: u64,
    /// 99 of 100.
    pub(crate) p99_ns: u64,
    /// 999 of 1,000.
    pub(crate) p99_9_ns: u64,
    /// 9,999 of 10,000.
    pub(crate) p99_99_ns: u64,
    pub(crate) max_ns: u64,
    /// All durations, so that histograms of several runs can be added.
    pub(crate) histogram: PackedHistogram,
}

/// A percentile or another figure, and its name.
pub(crate) type NamedFigure = (&'static str, fn(&Percentiles) -> u64);

impl Percentiles {
    /// The percentiles and the maximum by their names, as in the table and in `--fail-if`.
    pub(crate) const NAMED: [NamedFigure; 7] = [
        ("p50", |it| it.p50_ns),
        ("p90", |it| it.p90_ns),
        ("p95", |it| it.p95_ns),
        ("p99", |it| it.p99_ns),
        ("p99.9", |it| it.p99_9_ns),
        ("p99.99", |it| it.p99_99_ns),
        ("max", |it| it.max_ns),
    ];
}

/// Percentiles in a file. Earlier versions of blaster wrote no p95; the histogram has it.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct WrittenPercentiles {
    count: u64,
    min_ns: u64,
    mean_ns: u64,
    p50_ns: u64,
    p90_ns: u64,
    p95_ns: Option<u64>,
    p99_ns: u64,
    p99_9_ns: u64,
    p99_99_ns: u64,
    max_ns: u64,
    histogram: PackedHistogram,
}

impl From<WrittenPercentiles> for Percentiles {
    fn from(written: WrittenPercentiles) -> Self {
        Self {
            count: written.count,
            min_ns: written.min_ns,
            mean_ns: written.mean_ns,
            p50_ns: written.p50_ns,
            p90_ns: written.p90_ns,
            p95_ns: written.p95_ns.unwrap_or_else(|| written.histogram.unpack().at(0.95)),
            p99_ns: written.p99_ns,
            p99_9_ns: written.p99_9_ns,
            p99_99_ns: written.p99_99_ns,
            max_ns: written.max_ns,
            histogram: written.histogram,
        }
    }
}

/// Why a text is no histogram.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HistogramError {
    #[error("a histogram is not base64: {0}")]
    Base64(#[from] base64::DecodeError),
    #[error("a histogram is not in HdrHistogram's V2 encoding: {0}")]
    Encoding(String),
    #[error("a histogram holds durations of more than an hour")]
    TooLong,
}

/// A histogram as text: HdrHistogram's V2 encoding, deflated, in base64. It takes a few hundred to a few thousand bytes; a
/// histogram in memory takes 270 kB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(with = "String"))]
#[serde(try_from = "String", into = "String")]
pub(crate) struct PackedHistogram(String);

impl PackedHistogram {
    pub(crate) fn new(latency: &Latency) -> Self {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new()
            .serialize(&latency.histogram, &mut bytes)
            .expect("every count fits the encoding, and memory takes what is written");
        Self(STANDARD.encode(bytes))
    }

    pub(crate) fn unpack(&self) -> Latency {
        unpack(&self.0).expect("what is packed here, or was read in, can be unpacked")
    }
}

impl From<Histogram<u64>> for Latency {
    /// For what was a [`Latency`] before: of the same bounds.
    fn from(histogram: Histogram<u64>) -> Self {
        Self { histogram }
    }
}

fn unpack(text: &str) -> Result<Latency, HistogramError> {
    let bytes = STANDARD.decode(text)?;
    let histogram: Histogram<u64> = Deserializer::new()
        .deserialize(&mut bytes.as_slice())
        .map_err(|error| HistogramError::Encoding(error.to_string()))?;
    let mut latency = Latency::new();
    latency.histogram.add(&histogram).map_err(|_| HistogramError::TooLong)?;
    Ok(latency)
}

impl TryFrom<String> for PackedHistogram {
    type Error = HistogramError;

    fn try_from(text: String) -> Result<Self, HistogramError> {
        unpack(&text)?;
        Ok(Self(text))
    }
}

impl From<PackedHistogram> for String {
    fn from(packed: PackedHistogram) -> Self {
        packed.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_a_known_row() {
        let mut latency = Latency::new();
        assert_eq!(latency.summary(), None);
        for ns in 1..=10_000 {
            latency.record(ns * 1_000);
        }
        let found = latency.summary().unwrap();
        for (wanted, found) in [
            (5_000_000, found.p50_ns),
            (9_000_000, found.p90_ns),
            (9_500_000, found.p95_ns),
            (9_900_000, found.p99_ns),
            (9_990_000, found.p99_9_ns),
            (9_999_000, found.p99_99_ns),
            (10_000_000, found.max_ns),
        ] {
            assert!(found.abs_diff(wanted) <= wanted / 1_000, "{found} is not {wanted}");
        }
        assert_eq!(found.count, 10_000);
    }

    #[test]
    fn halves_add_up_to_the_whole() {
        let (mut whole, mut one, mut two) = (Latency::new(), Latency::new(), Latency::new());
        for ns in (1..100_000).step_by(7) {
            whole.record(ns);
            if ns % 2 == 0 { one.record(ns) } else { two.record(ns) }
        }
        one.merge(&two);
        assert_eq!(one.summary(), whole.summary());
    }

    #[test]
    fn longer_than_an_hour_counts_as_an_hour() {
        let mut latency = Latency::new();
        latency.record(u64::MAX);
        assert!(latency.summary().unwrap().max_ns >= LONGEST_NS);
    }

    #[test]
    fn packed_and_unpacked_it_is_the_same() {
        let mut latency = Latency::new();
        assert_eq!(PackedHistogram::new(&latency).unpack(), latency);
        for ns in [0, 1, 2_047, 2_048, 999_999, 1_000_000, u64::MAX] {
            latency.record(ns);
        }
        let json = serde_json::to_string(&latency.summary().unwrap()).unwrap();
        let read: Percentiles = serde_json::from_str(&json).unwrap();
        assert_eq!(read.histogram.unpack(), latency);
        assert_eq!(read.histogram.unpack().summary(), latency.summary());
    }

    #[test]
    fn a_file_without_p95_has_it_in_the_histogram() {
        let mut latency = Latency::new();
        (1..=1_000).for_each(|ms| latency.record(ms * 1_000_000));
        let written = latency.summary().unwrap();
        let mut json = serde_json::to_value(&written).unwrap();
        json.as_object_mut().unwrap().remove("p95_ns");
        assert_eq!(serde_json::from_value::<Percentiles>(json).unwrap(), written);
    }

    #[test]
    fn what_is_no_histogram_is_refused() {
        let mut days: Histogram<u64> = Histogram::new(3).unwrap();
        days.record(LONGEST_NS * 48).unwrap();
        let mut encoded = Vec::new();
        V2DeflateSerializer::new().serialize(&days, &mut encoded).unwrap();
        for text in ["", "HISTF", "not base64", "aGVsbG8=", &STANDARD.encode(encoded)] {
            PackedHistogram::try_from(text.to_string()).expect_err(text);
        }
    }
}
