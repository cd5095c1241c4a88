//! Schedules other than a constant rate, as a receiver sees them: ramps, bursts, random gaps, recordings. The receiver knows
//! when its kernel received each datagram, and each datagram says when it was meant to be sent.

use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{side_by_side, sys};
use crate::{BLASTER, blaster, number, parse, punctual_report, signal, stderr};

const MS: u64 = 1_000_000;

/// A datagram as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    /// When it was meant to be sent, in nanoseconds since the run's start.
    intended_ns: u64,
    /// When the kernel received it, in nanoseconds since 1970.
    received_ns: i64,
    bytes: usize,
}

/// An echo server that notes when each datagram came.
struct Watcher {
    target: String,
    is_over: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    thread: Option<JoinHandle<Vec<Seen>>>,
}

impl Watcher {
    fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let target = socket.local_addr().unwrap().to_string();
        sys::set_option(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1).unwrap();
        let larger = |option| sys::set_option(&socket, libc::SOL_SOCKET, option, 4 << 20);
        larger(libc::SO_RCVBUFFORCE).or_else(|_| larger(libc::SO_RCVBUF)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicU64::new(0));
        let (asked, counted) = (Arc::clone(&is_over), Arc::clone(&count));
        let watch = move || {
            let mut seen = Vec::new();
            while !asked.load(Ordering::Relaxed) {
                let Ok(arrival) = sys::receive(&socket) else { continue };
                socket.send_to(&arrival.payload, arrival.from).unwrap();
                let intended = arrival.payload[24..32].try_into().unwrap();
                seen.push(Seen {
                    intended_ns: u64::from_be_bytes(intended),
                    received_ns: arrival.received_ns.unwrap(),
                    bytes: arrival.payload.len(),
                });
                counted.fetch_add(1, Ordering::Relaxed);
            }
            seen
        };
        Self { target, is_over, count, thread: Some(thread::spawn(watch)) }
    }

    /// Waits until so many datagrams have come.
    fn wait_for(&self, datagrams: u64) {
        let begun = Instant::now();
        while self.count.load(Ordering::Relaxed) < datagrams {
            assert!(begun.elapsed() < Duration::from_secs(30), "{datagrams} datagrams did not come");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// What came, in the order in which it came.
    fn end(mut self) -> Vec<Seen> {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

/// The report of a run, and what came of it.
fn run(flags: &str) -> (Value, Vec<Seen>) {
    let watcher = Watcher::new();
    let report = punctual_report(&format!("udp {} --timeout 5s {flags}", watcher.target));
    let seen = watcher.end();
    assert_eq!(report["totals"]["ok"], report["totals"]["sent"], "{flags}: {}", report["totals"]);
    let sent = number(&report["totals"]["sent"]) + number(&report["warmup"]["sent"]);
    assert_eq!(sent, seen.len() as u64, "{flags}");
    assert_eq!(report["generator"]["unsent"], 0, "{flags}");
    (report, seen)
}

/// How late each datagram came, in nanoseconds, compared with the most punctual one; in order.
fn delays(seen: &[Seen]) -> Vec<i64> {
    let mut delays: Vec<i64> = seen.iter().map(|seen| seen.received_ns - seen.intended_ns as i64).collect();
    delays.sort_unstable();
    let first = delays[0];
    delays.iter().map(|delay| delay - first).collect()
}

/// Most datagrams must have come punctually. A busy machine delays some.
fn assert_punctual(seen: &[Seen], what: &str) {
    let delays = delays(seen);
    let median_ns = delays[delays.len() / 2];
    assert!(median_ns < 2 * MS as i64, "{what}: half of them came {median_ns} ns late or more");
}

fn intended_ms(seen: &[Seen]) -> Vec<u64> {
    let mut times: Vec<u64> = seen.iter().map(|seen| seen.intended_ns / MS).collect();
    times.sort_unstable();
    times
}

fn of_intervals<'a>(report: &'a Value, name: &str) -> Vec<&'a Value> {
    report["intervals"].as_array().unwrap().iter().map(|interval| &interval[name]).collect()
}

#[test]
fn a_ramp_has_the_rates_that_it_should() {
    let (report, seen) = run("--rate 500..4500:4s,500:1s --threads 2");
    assert_eq!(of_intervals(&report, "sent"), [1_000, 2_000, 3_000, 4_000, 500]);
    assert_eq!(
        (&report["load"]["rate_curve"], &report["load"]["rate_per_s"]),
        (&"500..4500:4s,500:1s".into(), &2_100.0.into())
    );
    assert_eq!(report["elapsed_ns"], 5_000_000_000_u64);
    assert_punctual(&seen, "a ramp");
    let begin_ns = seen.iter().map(|seen| seen.received_ns).min().unwrap();
    for (second, wanted) in (0..).zip([1_000, 2_000, 3_000, 4_000, 500]) {
        let came = seen.iter().filter(|seen| (seen.received_ns - begin_ns) / 1_000_000_000 == second).count();
        assert!(came.abs_diff(wanted) <= wanted / 20 + 25, "second {second}: {came} instead of {wanted}");
    }
}

#[test]
fn a_burst_comes_at_once_and_then_nothing() {
    for flags in [
        "--burst 50/100ms",
        "--burst 50 --rate 500",
        "--burst 50/100ms --threads 3",
        "--burst 50/100ms --gso 10 --gro off",
    ] {
        let (report, seen) = run(&format!("{flags} --duration 1s"));
        assert_eq!(seen.len(), 500, "{flags}");
        let wanted: Vec<u64> = (0..10).flat_map(|burst| [burst * 100; 50]).collect();
        assert_eq!(intended_ms(&seen), wanted, "{flags}");
        assert_punctual(&seen, flags);
        assert_eq!(
            (&report["load"]["burst"]["datagrams"], &report["load"]["rate_per_s"]),
            (&50.into(), &500.0.into())
        );
        // most bursts take a few milliseconds, and are followed by silence
        let mut times: Vec<i64> = seen.iter().map(|seen| seen.received_ns).collect();
        times.sort_unstable();
        let lasting = |burst: &[i64]| burst[burst.len() - 1] - burst[0];
        let short = times.chunks(50).filter(|burst| lasting(burst) < 10 * MS as i64).count();
        let silences = times.windows(2).filter(|pair| pair[1] - pair[0] > 80 * MS as i64).count();
        assert!(short >= 7 && silences >= 6, "{flags}: {short} short bursts of 10, {silences} silences of 9");
    }
}

#[test]
fn random_gaps_are_exponential_on_the_wire() {
    let (report, seen) = run("--rate 250 --gaps poisson --seed 7 --count 1000");
    assert_eq!(report["load"]["gaps"], "poisson");
    assert_punctual(&seen, "random gaps");
    let mut gaps: Vec<f64> =
        seen.windows(2).map(|pair| (pair[1].received_ns - pair[0].received_ns) as f64 / 4e6).collect();
    gaps.sort_by(f64::total_cmp);
    let number = gaps.len() as f64;
    let mean = gaps.iter().sum::<f64>() / number;
    assert!((mean - 1.0).abs() < 4.0 / number.sqrt(), "the mean is {mean}");
    // Kolmogorov and Smirnov: a distance of 0.085 has a probability of one in a million, that of even gaps is 0.63;
    // a busy machine holds some datagrams up
    let apart = gaps.iter().enumerate().map(|(nth, gap)| (1.0 - (-gap).exp() - nth as f64 / number).abs());
    let distance = apart.fold(0.0, f64::max);
    assert!(distance < 0.15, "{distance}");
}

#[test]
fn the_same_seed_has_the_same_gaps_with_any_number_of_threads() {
    let times = |flags: &str| {
        let (_, mut seen) = run(&format!("--rate 2k --gaps poisson --count 300 {flags}"));
        seen.sort_unstable();
        seen.iter().map(|seen| seen.intended_ns).collect::<Vec<_>>()
    };
    let one = times("--seed 1");
    assert_eq!(one, times("--seed 1 --threads 3 --flows 6"));
    assert_ne!(one, times("--seed 2"));
}

/// A file with these lines.
pub(crate) struct TextFile(std::path::PathBuf);

impl TextFile {
    pub(crate) fn new(name: &str, lines: &str) -> Self {
        let path = std::env::temp_dir().join(format!("blaster-{name}-{}.txt", std::process::id()));
        std::fs::write(&path, lines).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for TextFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_recording_is_sent_as_recorded() {
    let file = TextFile::new("recording", "# time size\n7.0 64\n7.0 1400\n7.1,100\n7.15 32\n7.3 64\n");
    let path = file.path();
    let once: Vec<(u64, usize)> = vec![(0, 64), (0, 1_400), (100, 100), (150, 32), (300, 64)];
    let shifted =
        |laps: u64| (0..laps).flat_map(|lap| once.iter().map(move |(ms, bytes)| (ms + lap * 375, *bytes)));
    for (flags, laps) in [
        ("", 1),
        ("--threads 2", 1),
        ("--duration 1500ms", 4),
        ("--count 15", 3),
        ("--duration 1125ms --threads 2 --flows 3", 3),
        ("--duration 750ms --flows 1", 2),
        ("--count 10 --spray", 2),
    ] {
        let (report, seen) = run(&format!("--replay {path} {flags}"));
        let mut found: Vec<(u64, usize)> =
            seen.iter().map(|seen| (seen.intended_ns / MS, seen.bytes)).collect();
        let mut wanted: Vec<(u64, usize)> = shifted(laps).collect();
        found.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(found, wanted, "{flags}");
        assert_punctual(&seen, flags);
        let replay = &report["load"]["replay"];
        assert_eq!((&replay["datagrams"], &replay["period_ns"]), (&5.into(), &375_000_000.into()), "{flags}");
        assert_eq!((&replay["together"], &report["load"]["size"]), (&2.into(), &"32-1400".into()), "{flags}");
        assert_eq!(
            (&replay["file"], &report["elapsed_ns"]),
            (&path.into(), &(laps * 375_000_000).into()),
            "{flags}"
        );
    }
    let (report, _) = run(&format!("--replay {path}"));
    assert!((report["load"]["rate_per_s"].as_f64().unwrap() - 5.0 / 0.375).abs() < 1e-9);
}

#[test]
fn a_recording_of_one_time_is_sent_once() {
    let file = TextFile::new("together", "1 64\n1 65\n1 66\n");
    let (report, seen) = run(&format!("--replay {} --duration 300ms", file.path()));
    assert_eq!(intended_ms(&seen), [0; 3]);
    assert_eq!((&report["load"]["rate_per_s"], number(&report["totals"]["sent"])), (&Value::Null, 3));
}

/// A late blaster catches up, whatever the schedule: nothing is left out, and the delay is slip.
#[test]
fn a_pause_leaves_nothing_out() {
    let lines: Vec<String> = (0..1_000).map(|number| format!("{}ms 64", number * 2)).collect();
    let file = TextFile::new("pause", &lines.join("\n"));
    let replay = format!("--replay {}", file.path());
    let schedules = [
        "--rate 500 --duration 2s",
        "--burst 50/100ms --duration 2s",
        "--rate 200..800:2s",
        "--rate 500 --gaps poisson --seed 3 --duration 2s",
        &replay,
    ];
    side_by_side(schedules, |flags| {
        let watcher = Watcher::new();
        let flags = format!("udp {} --timeout 5s {flags} --json - --quiet", watcher.target);
        let child =
            Command::new(BLASTER).args(flags.split_whitespace()).stdout(Stdio::piped()).spawn().unwrap();
        watcher.wait_for(200);
        signal("STOP", child.id());
        thread::sleep(Duration::from_millis(600)); // the pause itself
        signal("CONT", child.id());
        let report = parse(&child.wait_with_output().unwrap());
        let seen = watcher.end();
        let sent = number(&report["totals"]["sent"]);
        assert!(seen.len() as u64 == sent && sent.abs_diff(1_000) < 4 * 32, "{flags}: {sent}");
        assert_eq!(report["generator"]["unsent"], 0, "{flags}");
        assert!(
            number(&report["generator"]["slip"]["max_ns"]) > 400 * MS,
            "{flags}: {}",
            report["generator"]["slip"]
        );
        assert!(flags.contains("poisson") || sent == 1_000, "{flags}: {sent}");
    });
}

#[test]
fn schedules_go_with_the_other_options() {
    for (flags, sent) in [
        ("--rate 1k..3k:500ms --count 300", Some(300)),
        ("--rate 0:100ms,1k:200ms --warmup 100ms", Some(200)),
        ("--rate 0..2k:500ms --gso 5 --flows 3", Some(500)),
        ("--rate 2k --gaps poisson --gso 4 --count 400 --spray", Some(400)),
        ("--rate 1k..2k:400ms --gaps poisson --burst 10 --count 300", Some(300)),
        ("--rate 1k --burst 20 --warmup 200ms --duration 400ms", Some(400)),
        ("--rate 1k --burst 20 --mode open --duration 400ms --threads 2", Some(400)),
        ("--burst 20/20ms --flows 1 --duration 400ms", Some(400)),
        ("--each-once --rate 0..1k:100ms", Some(1)),
        ("--each-once=40 --burst 10/10ms", Some(40)),
        ("--each-once=40 --rate 1k --gaps poisson", Some(40)),
        ("--each-once=40 --rate 1k --gaps even", Some(40)),
        ("--rate 1k --gaps poisson --duration 300ms --threads 4", None),
    ] {
        let (report, _) = run(flags);
        if let Some(sent) = sent {
            assert_eq!(number(&report["totals"]["sent"]), sent, "{flags}");
        }
        assert_eq!(report["load"]["mode"], "open", "{flags}");
        assert!(report["generator"]["slip"].is_object(), "{flags}");
    }
    // several runs, each by its own rate
    let watcher = Watcher::new();
    for flags in ["--steps 500:300ms,1k:300ms --burst 10", "--steps 500:300ms,1k:300ms --gaps poisson"] {
        let output = blaster(&format!("udp {} {flags} --json - --quiet", watcher.target));
        let series: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output)));
        for (run, rate) in series["runs"].as_array().unwrap().iter().zip([500.0, 1_000.0]) {
            let load = &run["report"]["load"];
            assert_eq!(load["rate_per_s"], rate, "{flags}");
            assert_eq!(load["burst"].is_object(), flags.contains("burst"), "{flags}: {load}");
        }
    }
    watcher.end();
}

/// A search must not take a burst, or chance, for a rate that blaster did not keep.
#[test]
fn a_search_goes_with_bursts_and_random_gaps() {
    let watcher = Watcher::new();
    for flags in ["--burst 10", "--gaps poisson"] {
        let before = watcher.count.load(Ordering::Relaxed);
        let search = "--find-max --rate 200 --duration 300ms --p99 1s --timeout 2s --precision 80% --repeat 1 --fail-if found<400";
        let child = Command::new(BLASTER)
            .args(format!("udp {} {search} {flags} --json - --quiet", watcher.target).split_whitespace())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // no limit is wanted here: the runs at 200/s, 400/s and 800/s have ended
        watcher.wait_for(before + 650);
        signal("INT", child.id());
        let output = child.wait_with_output().unwrap();
        let series: Value = serde_json::from_slice(&output.stdout).unwrap();
        let met = series["runs"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|run| run["verdict"]["outcome"] == "met")
            .count();
        assert!(met >= 2, "{flags}: {met} of {}", series["runs"].as_array().unwrap().len());
    }
    watcher.end();
}

#[test]
fn what_the_schedule_was_is_told_everywhere() {
    let watcher = Watcher::new();
    let file = TextFile::new("told", "0 64\n0.01 64\n");
    let html = std::env::temp_dir().join(format!("blaster-schedule-{}.html", std::process::id()));
    for (flags, words) in [
        ("--rate 1k..2k:100ms".to_owned(), "open loop at 1k..2k:100ms".to_owned()),
        (
            "--rate 1k --gaps poisson --count 50".to_owned(),
            "open loop at 1,000/s with exponential gaps".to_owned(),
        ),
        ("--rate 1k --burst 10 --count 50".to_owned(), "open loop at 1,000/s in bursts of 10".to_owned()),
        (
            "--burst 10/10ms --count 50".to_owned(),
            "open loop at 1,000/s in bursts of 10 every 10.0 ms".to_owned(),
        ),
        (format!("--replay {}", file.path()), format!("open loop replaying {} at 100/s", file.path())),
        (
            "--each-once --burst 10/10ms".to_owned(),
            "each destination once at 1,000/s in bursts of 10 every 10.0 ms".to_owned(),
        ),
    ] {
        let output = blaster(&format!("udp {} {flags} --html {}", watcher.target, html.display()));
        let table = String::from_utf8(output.stdout.clone()).unwrap().replace('\n', " ");
        assert!(table.contains(&words), "{flags}: {table}");
        assert!(std::fs::read_to_string(&html).unwrap().contains(&words), "{flags}");
    }
    std::fs::remove_file(html).unwrap();
    watcher.end();
}

/// Machines of a fleet have one kind of schedule; each may have its own part of a recording.
#[test]
fn schedules_of_a_fleet() {
    let watcher = Watcher::new();
    let folder = std::env::temp_dir().join(format!("blaster-fleet-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (one, other) =
        (TextFile::new("part1", "0 64\n0.1 64\n0.2 64\n"), TextFile::new("part2", "0 64\n0.15 64\n"));
    let merged = |loads: [&str; 2]| {
        let json = [folder.join("1.json"), folder.join("2.json")];
        let start = |(flags, json): (&str, &std::path::PathBuf)| {
            let flags = format!("udp {} {flags} --quiet --json {}", watcher.target, json.display());
            Command::new(BLASTER).args(flags.split_whitespace()).spawn().unwrap()
        };
        let children: Vec<_> = loads.into_iter().zip(&json).map(start).collect();
        for mut child in children {
            assert!(child.wait().unwrap().success());
        }
        blaster(&format!("report --merge {} {} --json -", json[0].display(), json[1].display()))
    };
    let ramp = "--rate 500..1500:400ms";
    let found = parse(&merged([ramp, ramp]));
    assert_eq!(
        (&found["load"]["rate_curve"], &found["load"]["rate_per_s"]),
        (&"500..1500:400ms".into(), &2_000.0.into())
    );
    let output = merged([ramp, ramp]);
    assert!(stderr(&output).contains("at 500..1500:400ms each"), "{}", stderr(&output));
    let replays = [
        format!("--replay {} --duration 400ms", one.path()),
        format!("--replay {} --duration 400ms", other.path()),
    ];
    let found = parse(&merged([&replays[0], &replays[1]]));
    assert_eq!(found["load"]["replay"]["datagrams"], 5);
    for (here, there, what) in [
        (ramp, "--rate 1k --duration 400ms", "rate 500..1500:400ms and constant"),
        ("--rate 1k --gaps poisson --duration 400ms", "--rate 1k --duration 400ms", "gaps poisson and even"),
        ("--rate 1k --burst 10 --duration 400ms", "--burst 10/10ms --duration 400ms", "burst"),
        (&replays[0], "--rate 5 --duration 400ms", "replay true and false"),
    ] {
        let output = merged([here, there]);
        assert!(!output.status.success() && stderr(&output).contains(what), "{what}: {}", stderr(&output));
    }
    std::fs::remove_dir_all(folder).unwrap();
    watcher.end();
}
