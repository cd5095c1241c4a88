//! Recorded traffic: a text file with the time and the size of each datagram (TCP: message), for `--replay`.
//!
//! ```text
//! # time    size in bytes
//! 0.000000    64
//! 0.001250  1400
//! 2.5ms       64
//! ```
//!
//! A time without a unit is in seconds. Times count from the first line, so that those of a packet capture do as well.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tubular_echo::values::duration;

use crate::model::payload::{HEADER_BYTES, SIZE_MAX_BYTES};

/// The most datagrams, or messages.
const LINES_MAX: usize = 1 << 24;
const NS_PER_S: u64 = 1_000_000_000;

/// Why a recording can't be used; each message is one line with the cure.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordingError {
    #[error("reading {0}: {1}")]
    Read(PathBuf, io::Error),
    #[error("{0}, line {1}: {2}")]
    Line(PathBuf, usize, LineError),
    #[error("{0} has no line of a time and a size in bytes (example: 0.00125 64)")]
    Empty(PathBuf),
    #[error("{0} has more lines than blaster remembers: {LINES_MAX} (split it, and replay each part)")]
    TooLong(PathBuf),
}

/// What is wrong with one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LineError {
    #[error("{0} columns instead of a time and a size in bytes (example: 0.00125 64)")]
    Columns(usize),
    #[error("{0:?} is not a time (examples: 0.00125, which is in seconds, or 1.25ms)")]
    NotATime(String),
    #[error("its time {0} is before that of the line above (sort -n FILE puts times in seconds in order)")]
    Backwards(String),
    #[error("{0:?} is not a size in bytes (example: 64)")]
    NotASize(String),
    #[error(
        "{0} bytes have no room for the header of {HEADER_BYTES} bytes (awk '$2<{HEADER_BYTES}{{$2={HEADER_BYTES}}}1' FILE makes them larger)"
    )]
    TooSmall(u32),
    #[error("{0} bytes are more than one message carries: {SIZE_MAX_BYTES}")]
    TooLarge(u32),
}

/// The times and sizes of datagrams; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recording {
    /// In nanoseconds since the first datagram, in order.
    times_ns: Vec<u64>,
    sizes: Vec<u32>,
    /// The file's name.
    name: String,
}

impl Recording {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Self, RecordingError> {
        let failed = |error| RecordingError::Read(path.into(), error);
        Self::read_lines(path, BufReader::new(File::open(path).map_err(failed)?))
    }

    pub(crate) fn read_lines(path: &Path, mut lines: impl BufRead) -> Result<Self, RecordingError> {
        let (mut times_ns, mut sizes) = (Vec::new(), Vec::new());
        let (mut bytes, mut number) = (Vec::new(), 0);
        let mut first_ns = None;
        while {
            bytes.clear();
            lines.read_until(b'\n', &mut bytes).map_err(|error| RecordingError::Read(path.into(), error))? > 0
        } {
            number += 1;
            let wrong = |error| RecordingError::Line(path.into(), number, error);
            let Some((time, size)) = columns(&String::from_utf8_lossy(&bytes)).map_err(wrong)? else {
                continue;
            };
            let at_ns = time_ns(&time).map_err(wrong)?;
            let since_ns = at_ns.checked_sub(*first_ns.get_or_insert(at_ns));
            let since_ns = since_ns.filter(|ns| times_ns.last().is_none_or(|last| last <= ns));
            times_ns.push(since_ns.ok_or(LineError::Backwards(time)).map_err(wrong)?);
            sizes.push(size_bytes(&size).map_err(wrong)?);
            if times_ns.len() > LINES_MAX {
                return Err(RecordingError::TooLong(path.into()));
            }
        }
        if times_ns.is_empty() {
            return Err(RecordingError::Empty(path.into()));
        }
        Ok(Self { times_ns, sizes, name: path.display().to_string() })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The number of datagrams.
    pub(crate) fn len(&self) -> u64 {
        self.times_ns.len() as u64
    }

    /// The size of datagram `number`; after the last one comes the first again.
    pub(crate) fn size_bytes(&self, number: u64) -> u32 {
        self.sizes[(number % self.len()) as usize]
    }

    pub(crate) fn largest_bytes(&self) -> u32 {
        self.sizes.iter().copied().max().unwrap_or(0)
    }

    pub(crate) fn smallest_bytes(&self) -> u32 {
        self.sizes.iter().copied().min().unwrap_or(0)
    }

    /// The time from the first datagram to its next repetition: the last one is followed by a gap of the mean length.
    /// `None`: all have one time.
    pub(crate) fn period_ns(&self) -> Option<u64> {
        let last_ns = *self.times_ns.last()?;
        let gaps = self.len() - 1;
        (last_ns > 0).then(|| last_ns + last_ns.div_ceil(gaps))
    }

    /// The intended time of datagram `number`, with repetitions. `u64::MAX`: never.
    pub(crate) fn time_ns(&self, number: u64) -> u64 {
        let (lap, place) = (number / self.len(), number % self.len());
        let begin_ns = if lap == 0 { Some(0) } else { self.period_ns().and_then(|ns| ns.checked_mul(lap)) };
        begin_ns.map_or(u64::MAX, |begin_ns| begin_ns.saturating_add(self.times_ns[place as usize]))
    }

    /// How many datagrams are due before `end_ns`, with repetitions.
    pub(crate) fn due_before(&self, end_ns: u64) -> u64 {
        let place = |end_ns: u64| self.times_ns.partition_point(|time_ns| *time_ns < end_ns) as u64;
        match self.period_ns() {
            None => place(end_ns),
            Some(period_ns) => (end_ns / period_ns) * self.len() + place(end_ns % period_ns),
        }
    }

    /// The most datagrams of any `ns` nanoseconds, with repetitions.
    pub(crate) fn most_within(&self, ns: u64) -> u64 {
        let laps = self.period_ns().map_or(0, |period_ns| ns / period_ns);
        let rest_ns = self.period_ns().map_or(ns, |period_ns| ns % period_ns);
        let mut most = 0;
        let mut begin = 0;
        for end in 0..self.len() * 2 {
            let end_ns = self.time_ns(end);
            if end_ns == u64::MAX {
                break;
            }
            while end_ns - self.time_ns(begin) > rest_ns {
                begin += 1;
            }
            most = most.max(end - begin + 1);
        }
        laps * self.len() + most
    }
}

/// The two columns of a line. `None`: it has none, but a comment at most.
fn columns(line: &str) -> Result<Option<(String, String)>, LineError> {
    let content = line.split('#').next().unwrap_or("");
    let columns: Vec<&str> = content
        .split(|char: char| char.is_whitespace() || char == ',')
        .filter(|word| !word.is_empty())
        .collect();
    match columns[..] {
        [] => Ok(None),
        [time, size] => Ok(Some((time.into(), size.into()))),
        _ => Err(LineError::Columns(columns.len())),
    }
}

/// A time: a decimal number of seconds, of which nanoseconds count, or a number with a unit.
fn time_ns(text: &str) -> Result<u64, LineError> {
    let bad = || LineError::NotATime(text.into());
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if !is_number {
        let time = duration::parse(text).map_err(|_| bad())?;
        return u64::try_from(time.as_nanos()).map_err(|_| bad());
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(fraction) || seconds.is_empty() {
        return Err(bad());
    }
    let nanoseconds: u64 =
        format!("{:0<9}", &fraction[..fraction.len().min(9)]).parse().map_err(|_| bad())?;
    let seconds: u64 = seconds.parse().map_err(|_| bad())?;
    seconds.checked_mul(NS_PER_S).and_then(|ns| ns.checked_add(nanoseconds)).ok_or_else(bad)
}

fn size_bytes(text: &str) -> Result<u32, LineError> {
    let bytes = text.parse().map_err(|_| LineError::NotASize(text.into()))?;
    if (bytes as usize) < HEADER_BYTES {
        Err(LineError::TooSmall(bytes))
    } else if bytes > SIZE_MAX_BYTES {
        Err(LineError::TooLarge(bytes))
    } else {
        Ok(bytes)
    }
}

/// The recorded sizes, by flow. The flows of a worker take turns, and the workers do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordedSizes {
    recording: Arc<Recording>,
    flows: u32,
    workers: u32,
}

impl RecordedSizes {
    /// For so many flows of so many workers, at least one each.
    pub(crate) fn new(recording: Arc<Recording>, flows: u32, workers: u32) -> Self {
        Self { recording, flows, workers }
    }

    pub(crate) fn largest_bytes(&self) -> u32 {
        self.recording.largest_bytes()
    }

    /// The size of message `sequence` of `flow`.
    pub(crate) fn of_message(&self, flow: u32, sequence: u64) -> u32 {
        // worker w of n has the flows w, w + n, …, and sends the datagrams w, w + n, …
        let workers = u64::from(self.workers);
        let worker = u64::from(flow) % workers;
        let own_flows = (u64::from(self.flows) - worker).div_ceil(workers);
        let number = sequence.wrapping_mul(own_flows).wrapping_mul(workers).wrapping_add(flow.into());
        self.recording.size_bytes(number)
    }
}

impl fmt::Display for RecordedSizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.recording.smallest_bytes(), self.recording.largest_bytes()) {
            (smallest, largest) if smallest == largest => write!(f, "{smallest}"),
            (smallest, largest) => write!(f, "{smallest}-{largest}"),
        }
    }
}

/// Reads a recording, for the command line.
pub(crate) fn parse(path: &str) -> Result<Arc<Recording>, RecordingError> {
    Recording::read(Path::new(path)).map(Arc::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Recording, String> {
        Recording::read_lines(Path::new("FILE"), text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn times_count_from_the_first_line_in_seconds_or_with_a_unit() {
        let wanted = (vec![0, 1_250_000, 2_500_000], vec![64, 1_400, 64]);
        for text in [
            "0 64\n0.00125 1400\n0.0025 64",
            "# time size\n\n0s 64 # the first\n1.25ms\t1400\r\n2500us 64\n",
            "1733011200.123456789,64\n1733011200.1247067899,1400\n1733011200.125956789,64\n",
        ] {
            let found = read(text).unwrap();
            assert_eq!((found.times_ns, found.sizes), wanted, "{text:?}");
        }
    }

    #[test]
    fn what_is_wrong_names_the_line_and_the_cure() {
        for (text, wanted) in [
            ("", "FILE has no line of a time and a size in bytes (example: 0.00125 64)"),
            ("# nothing\n\n", "FILE has no line of a time and a size in bytes (example: 0.00125 64)"),
            (
                "0 64\n1\n",
                "FILE, line 2: 1 columns instead of a time and a size in bytes (example: 0.00125 64)",
            ),
            (
                "0 64 x\n",
                "FILE, line 1: 3 columns instead of a time and a size in bytes (example: 0.00125 64)",
            ),
            (
                "#\nsoon 64\n",
                "FILE, line 2: \"soon\" is not a time (examples: 0.00125, which is in seconds, or 1.25ms)",
            ),
            (
                "-1 64\n",
                "FILE, line 1: \"-1\" is not a time (examples: 0.00125, which is in seconds, or 1.25ms)",
            ),
            (
                "1.2.3 64\n",
                "FILE, line 1: \"1.2.3\" is not a time (examples: 0.00125, which is in seconds, or 1.25ms)",
            ),
            (
                ". 64\n",
                "FILE, line 1: \".\" is not a time (examples: 0.00125, which is in seconds, or 1.25ms)",
            ),
            (
                "1e-3 64\n",
                "FILE, line 1: \"1e-3\" is not a time (examples: 0.00125, which is in seconds, or 1.25ms)",
            ),
            (
                "99999999999999 64\n",
                "FILE, line 1: \"99999999999999\" is not a time (examples: 0.00125, which is in seconds, or 1.25ms)",
            ),
            (
                "2 64\n1 64\n",
                "FILE, line 2: its time 1 is before that of the line above (sort -n FILE puts times in seconds in order)",
            ),
            (
                "0 64\n2 64\n1 64\n",
                "FILE, line 3: its time 1 is before that of the line above (sort -n FILE puts times in seconds in order)",
            ),
            ("0 64B\n", "FILE, line 1: \"64B\" is not a size in bytes (example: 64)"),
            (
                "0 31\n",
                "FILE, line 1: 31 bytes have no room for the header of 32 bytes (awk '$2<32{$2=32}1' FILE makes them larger)",
            ),
            ("0 70000\n", "FILE, line 1: 70000 bytes are more than one message carries: 65527"),
        ] {
            assert_eq!(read(text).unwrap_err(), wanted, "{text:?}");
        }
        assert!(
            Recording::read(Path::new("/nonexistent")).unwrap_err().to_string().starts_with("reading /none")
        );
    }

    #[test]
    fn repetitions_keep_the_rhythm() {
        let recording = read("5 64\n5.1 65\n5.1 66\n5.3 67\n").unwrap();
        assert_eq!(recording.period_ns(), Some(400_000_000), "a mean gap of 100 ms is behind the last one");
        let times_ms: Vec<u64> = (0..9).map(|number| recording.time_ns(number) / 1_000_000).collect();
        assert_eq!(times_ms, [0, 100, 100, 300, 400, 500, 500, 700, 800]);
        assert_eq!((recording.size_bytes(3), recording.size_bytes(6)), (67, 66));
        for end_ms in 0..1_000 {
            let wanted = (0..20).filter(|number| recording.time_ns(*number) < end_ms * 1_000_000).count();
            assert_eq!(recording.due_before(end_ms * 1_000_000), wanted as u64, "before {end_ms} ms");
        }
    }

    #[test]
    fn flows_that_take_turns_have_the_recorded_sizes_in_order() {
        let lines: Vec<String> = (0..7).map(|number| format!("{number} {}", 64 + number)).collect();
        let recording = Arc::new(read(&lines.join("\n")).unwrap());
        for (flows, workers) in [(1, 1), (5, 1), (5, 2), (4, 2), (7, 3), (3, 3)] {
            let sizes = RecordedSizes::new(Arc::clone(&recording), flows, workers);
            for worker in 0..workers {
                let own_flows: Vec<u32> = (worker..flows).step_by(workers as usize).collect();
                for turn in 0..40 {
                    let (flow, sequence) = (own_flows[turn % own_flows.len()], turn / own_flows.len());
                    let number = u64::from(worker) + turn as u64 * u64::from(workers);
                    let wanted = recording.size_bytes(number);
                    assert_eq!(
                        sizes.of_message(flow, sequence as u64),
                        wanted,
                        "{flows} flows, {workers} workers"
                    );
                }
            }
        }
    }

    #[test]
    fn what_has_one_time_only_is_not_repeated() {
        let recording = read("5 64\n5 65\n").unwrap();
        assert_eq!([0, 1, 2].map(|number| recording.time_ns(number)), [0, 0, u64::MAX]);
        assert_eq!((recording.due_before(0), recording.due_before(u64::MAX)), (0, 2));
    }

    #[test]
    fn the_most_within_a_time_are_found_across_repetitions() {
        let recording = read("0 64\n0.1 64\n0.2 64\n0.9 64\n1.0 64\n").unwrap();
        assert_eq!(recording.period_ns(), Some(1_250_000_000));
        for (ms, wanted) in [(0, 1), (100, 2), (200, 3), (450, 4), (1_250, 5 + 1), (1_350, 5 + 2)] {
            assert_eq!(recording.most_within(ms * 1_000_000), wanted, "{ms} ms");
        }
    }
}
