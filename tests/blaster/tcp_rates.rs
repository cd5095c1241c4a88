//! TCP by schedules: ramps, bursts, random gaps, recordings; several rates in a row, and the search for the highest rate, of
//! messages and of new connections.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Output;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::misbehaving::{TcpConduct, tcp_server};
use crate::schedules::TextFile;
use crate::support::blaster::expect_documented;
use crate::support::netns::setting;
use crate::support::private_network;
use crate::support::sys::go_ahead_of_others;
use crate::{assert_balanced, blaster, counts, number, punctual_report, report, stderr};

const MS: u64 = 1_000_000;
const MODES: [&str; 2] = ["open", "connect"];

/// A message as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    /// When it was meant to be sent (or its connection to be made), in nanoseconds since the run's start.
    intended_ns: u64,
    bytes: usize,
    came_at: Instant,
    /// The number of its connection.
    connection: u32,
}

/// An echo server that notes each message; `size_of` knows the size of the message that was due at a time.
struct Watcher {
    addr: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Watcher {
    fn new(size_of: fn(u64) -> usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&seen);
        thread::spawn(move || {
            go_ahead_of_others(); // it notes when messages come
            for (connection, stream) in (0..).zip(listener.incoming()) {
                let (stream, noted) = (stream.unwrap(), Arc::clone(&noted));
                thread::spawn(move || serve(stream, connection, size_of, &noted));
            }
        });
        Self { addr, seen }
    }

    /// What came since the last call, in the order in which it was due.
    fn take(&self) -> Vec<Seen> {
        let mut seen = std::mem::take(&mut *self.seen.lock().unwrap());
        seen.sort_unstable();
        seen
    }
}

/// A client may end at any point; that is no error of the server.
fn serve(
    mut stream: TcpStream,
    connection: u32,
    size_of: fn(u64) -> usize,
    noted: &Mutex<Vec<Seen>>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let mut message = vec![0; 32];
        stream.read_exact(&mut message)?;
        let came_at = Instant::now();
        let intended_ns = u64::from_be_bytes(message[24..32].try_into().unwrap());
        let bytes = size_of(intended_ns);
        message.resize(bytes, 0);
        stream.read_exact(&mut message[32..])?;
        noted.lock().unwrap().push(Seen { intended_ns, bytes, came_at, connection });
        stream.write_all(&message)?;
    }
}

/// The report of a run against `watcher`, and what came of it.
fn run(watcher: &Watcher, flags: &str) -> (Value, Vec<Seen>) {
    let report = punctual_report(&format!("tcp {} --timeout 5s {flags}", watcher.addr));
    let seen = watcher.take();
    assert_eq!(report["totals"]["ok"], report["totals"]["sent"], "{flags}: {}", report["totals"]);
    assert_eq!(number(&report["totals"]["sent"]), seen.len() as u64, "{flags}");
    assert_eq!(report["generator"]["unsent"], 0, "{flags}");
    assert!(report["generator"]["slip"].is_object(), "{flags}: {}", report["generator"]);
    (report, seen)
}

/// Most messages must have come punctually. A busy machine delays some.
fn assert_punctual(seen: &[Seen], what: &str) {
    let (first_at, first_ns) = (seen[0].came_at, seen[0].intended_ns);
    let delay = |seen: &Seen| {
        let passed = seen.came_at.saturating_duration_since(first_at).as_nanos() as i64;
        passed - (seen.intended_ns - first_ns) as i64
    };
    let mut delays: Vec<i64> = seen.iter().map(delay).collect();
    delays.sort_unstable();
    let median_ns = delays[delays.len() / 2] - delays[0];
    assert!(median_ns < 10 * MS as i64, "{what}: half of them came {median_ns} ns late or more");
}

#[test]
fn a_ramp_of_messages_or_connections_has_the_rates_that_it_should() {
    let watcher = Watcher::new(|_| 64);
    for mode in MODES {
        let flags = format!("--mode {mode} --rate 100..900:400ms,100:100ms --threads 2 --connections 64");
        let (found, seen) = run(&watcher, &flags);
        // the sum of the rate until then
        for (until_ms, wanted) in [(100, 20), (200, 60), (300, 120), (400, 200), (500, 210)] {
            let due = seen.iter().filter(|seen| seen.intended_ns < until_ms * MS).count();
            assert_eq!(due, wanted, "{mode}: in the first {until_ms} ms");
        }
        assert_punctual(&seen, mode);
        let load = &found["load"];
        assert_eq!(
            (&load["mode"], &load["rate_curve"], &load["rate_per_s"]),
            (&mode.into(), &"100..900:400ms,100:100ms".into(), &420.0.into())
        );
        assert!(number(&found["elapsed_ns"]) >= 500 * MS, "{mode}");
        let mut connections: Vec<u32> = seen.iter().map(|seen| seen.connection).collect();
        connections.sort_unstable();
        connections.dedup();
        assert_eq!(connections.len(), if mode == "open" { 64 } else { 210 }, "{mode}");
    }
}

#[test]
fn a_burst_of_messages_or_connections_comes_at_once() {
    let watcher = Watcher::new(|_| 64);
    for mode in MODES {
        for (flags, every_ms) in [("--burst 20/100ms", 100), ("--burst 20 --rate 400 --threads 2", 50)] {
            let flags = format!("{flags} --mode {mode} --duration 300ms --connections 20");
            let (found, seen) = run(&watcher, &flags);
            let times: Vec<u64> = seen.iter().map(|seen| seen.intended_ns / MS).collect();
            let wanted: Vec<u64> = (0..300 / every_ms).flat_map(|burst| [burst * every_ms; 20]).collect();
            assert_eq!(times, wanted, "{flags}");
            assert_punctual(&seen, &flags);
            assert_eq!(found["load"]["burst"]["datagrams"], 20, "{flags}");
        }
    }
}

#[test]
fn random_gaps_of_tcp_are_those_of_its_seed_with_any_number_of_threads() {
    let watcher = Watcher::new(|_| 64);
    let times = |flags: &str| {
        let (found, seen) = run(&watcher, &format!("--rate 2k --gaps poisson --count 200 {flags}"));
        assert_eq!(found["load"]["gaps"], "poisson", "{flags}");
        seen.iter().map(|seen| seen.intended_ns).collect::<Vec<_>>()
    };
    let one = times("--seed 1");
    let mut gaps: Vec<u64> = one.windows(2).map(|pair| pair[1] - pair[0]).collect();
    gaps.sort_unstable();
    // the quartiles of an exponential distribution with this mean: 144 µs and 693 µs
    assert!(gaps[50] < 230_000 && gaps[149] > 500_000, "{gaps:?}");
    assert_eq!(one, times("--seed 1 --threads 3 --mode connect --connections 64"));
    assert_ne!(one, times("--seed 2"));
}

#[test]
fn a_recording_of_messages_or_connections_is_sent_as_recorded() {
    fn size_of(intended_ns: u64) -> usize {
        match intended_ns / MS % 120 {
            0 => 64,
            30 => 20_000,
            60 => 32,
            _ => 1_400,
        }
    }
    let file = TextFile::new("messages", "# time size\n7.0 64\n7.03 20000\n7.06,32\n7.09 1400\n");
    let watcher = Watcher::new(size_of);
    let once = [(0, 64), (30, 20_000), (60, 32), (90, 1_400)];
    for mode in MODES {
        for flags in ["", "--threads 2", "--threads 2 --connections 3"] {
            let flags = format!("--replay {} --mode {mode} {flags}", file.path());
            let (found, seen) = run(&watcher, &flags);
            let came: Vec<_> = seen.iter().map(|seen| (seen.intended_ns / MS, seen.bytes)).collect();
            assert_eq!(came, once, "{flags}");
            let load = &found["load"];
            assert_eq!((&load["replay"]["datagrams"], &load["size"]), (&4.into(), &"32-20000".into()));
            assert_eq!(number(&found["totals"]["bytes_sent"]), 64 + 20_000 + 32 + 1_400, "{flags}");
        }
    }
    let again = report(&format!("tcp {} --replay {} --count 8", watcher.addr, file.path()));
    assert_eq!(counts(&again), [("sent", 8), ("ok", 8)]);
    assert_eq!(
        again["elapsed_ns"].as_u64().unwrap() / MS,
        240,
        "a gap of the mean length is between two repetitions"
    );
}

#[test]
fn schedules_of_tcp_are_told_in_words() {
    let addr = tcp_server("127.0.0.1:0", TcpConduct::Good);
    for (flags, words) in [
        ("--rate 1k..2k:20ms", "open loop at 1k..2k:20ms, 16 connections"),
        ("--burst 10/10ms --count 20", "open loop at 1,000/s in bursts of 10 every 10.0 ms"),
        (
            "--mode connect --rate 1k --gaps poisson --count 9",
            "new connections at 1,000/s with exponential gaps",
        ),
        ("--mode connect --count 9", "tcp 127.0.0.1:PORT, connect, 16 connections"),
        ("--each-once --burst 1/1ms", "each destination once at 1,000/s in bursts of 1 every 1.00 ms"),
    ] {
        let output = blaster(&format!("tcp {addr} {flags}"));
        let table = String::from_utf8(output.stdout).unwrap();
        let words = words.replace("PORT", &addr.port().to_string());
        assert!(table.contains(&words), "{flags}: {table}");
    }
}

/// All of `--connections` are with the server, and the rate can't be kept: it is neither blaster that is slow, nor are
/// connections lost.
#[test]
fn a_rate_that_all_connections_together_can_not_keep_is_told() {
    let addr = slow_server(Duration::from_millis(20));
    let found = report(&format!("tcp {addr} --mode connect --rate 500 --connections 2 --duration 400ms"));
    let connections = &found["connections"];
    assert!(number(&connections["waited"]) > 20, "{connections}");
    let warnings = found["warnings"].to_string();
    assert!(warnings.contains("The rate was ") && warnings.contains("/s instead of 500/s."), "{warnings}");
    assert!(
        warnings.contains("all 2 connections were taken: ") && !warnings.contains("than it can do here"),
        "{warnings}"
    );
    let cured = report(&format!("tcp {addr} --mode connect --rate 20 --connections 20 --duration 400ms"));
    assert!(!cured["warnings"].to_string().contains("were taken"), "{}", cured["warnings"]);
}

/// A server that holds each connection for so long.
fn slow_server(hold: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || {
                thread::sleep(hold);
                stream.and_then(|stream| io::copy(&mut &stream, &mut &stream))
            });
        }
    });
    addr
}

fn series(output: &Output) -> Value {
    let series: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(output)));
    expect_documented(&series);
    for run in series["runs"].as_array().unwrap() {
        assert_balanced(&run["report"]["totals"]);
    }
    series
}

fn runs(series: &Value) -> &Vec<Value> {
    series["runs"].as_array().unwrap()
}

#[test]
fn each_step_of_tcp_is_a_run_of_its_own() {
    let addr = tcp_server("127.0.0.1:0", TcpConduct::Good);
    for mode in MODES {
        let flags =
            format!("tcp {addr} --mode {mode} --steps 200:200ms,400:100ms --timeout 5s --json - --quiet");
        let found = series(&blaster(&flags));
        for ((run, rate), name) in runs(&found).iter().zip([200.0, 400.0]).zip(["200/s", "400/s"]) {
            let report = &run["report"];
            assert_eq!((&run["name"], &report["load"]["rate_per_s"]), (&name.into(), &rate.into()));
            assert_eq!(counts(report), [("sent", 40), ("ok", 40)], "{mode}");
            let established = if mode == "open" { 16 } else { 40 };
            assert_eq!(
                report["connections"]["established"], established,
                "{mode}: none is left of another step"
            );
        }
    }
}

/// A server that serves one message, or one new connection, in each of these times.
fn limited_server(each: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let free_at = Arc::new(Mutex::new(Instant::now()));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let free_at = Arc::clone(&free_at);
            thread::spawn(move || serve_in_turn(stream?, each, &free_at));
        }
    });
    addr
}

/// Echoes messages of 64 bytes; all connections take turns.
fn serve_in_turn(mut stream: TcpStream, each: Duration, free_at: &Mutex<Instant>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut message = [0; 64];
    loop {
        stream.read_exact(&mut message)?;
        let at = {
            let mut free_at = free_at.lock().unwrap();
            *free_at = free_at.max(Instant::now()) + each;
            *free_at
        };
        thread::sleep(at.saturating_duration_since(Instant::now()));
        stream.write_all(&message)?;
    }
}

/// However busy the machine is, the result is never more than the server's limit, and blaster never takes its own limit for
/// the server's.
#[test]
fn a_search_finds_what_a_tcp_server_carries() {
    for (mode, unit) in MODES.into_iter().zip(["message", "connection"]) {
        // 500 per second
        let addr = limited_server(Duration::from_millis(2));
        let found = series(&blaster(&format!(
            "tcp {addr} --mode {mode} --find-max --rate 400 --duration 200ms --p99 60ms --repeat 2 --precision 30% \
             --connections 100 --timeout 1s --linger 500ms --search-runs 4 --json - --quiet"
        )));
        let answer = &found["found"];
        assert_eq!(answer["unit"], unit);
        // in 200 ms, 60 ms more than it serves may wait
        let most = 500.0 * (0.2 + 0.06) / 0.2 * 1.05;
        for run in runs(&found) {
            let rate = run["report"]["load"]["rate_per_s"].as_f64().unwrap();
            let verdict = &run["verdict"]["outcome"];
            assert!(verdict != "met" || rate <= most, "{mode}: {rate}/s {}", run["verdict"]);
        }
        assert!(runs(&found).iter().any(|run| run["verdict"]["outcome"] != "met"), "{mode}: {answer}");
        assert!(answer["met"]["rate_per_s"].as_f64().unwrap_or(0.0) <= most, "{mode}: {answer}");
    }
}

/// A server that refuses connections beyond a rate is at its limit there, though no message is lost.
#[test]
fn refused_connections_are_misses_of_a_search() {
    // the first 150 connections are served; then nobody listens until the end
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let served = Arc::new(AtomicU32::new(0));
    thread::spawn(move || {
        while served.fetch_add(1, Ordering::Relaxed) < 150 {
            let (stream, _) = listener.accept().unwrap();
            thread::spawn(move || io::copy(&mut &stream, &mut &stream));
        }
    });
    let output = blaster(&format!(
        "tcp {addr} --mode connect --find-max --rate 1k --duration 200ms --timeout 1s --search-runs 5 --json -"
    ));
    let found = series(&output);
    let verdicts: Vec<&Value> = runs(&found).iter().map(|run| &run["verdict"]).collect();
    for verdict in &verdicts {
        assert_eq!(verdict["outcome"], "missed", "{verdicts:?}");
        assert!(verdict["why"].as_str().unwrap().contains("not established"), "{verdicts:?}");
    }
    assert!(number(&runs(&found)[0]["report"]["totals"]["ok"]) > 0, "{verdicts:?}");
    // the last runs had no connection at all: that is an answer of the search, not an error of the run
    let last = &runs(&found)[4]["report"];
    assert!(verdicts.len() == 5 && last["totals"]["sent"] == 0, "{verdicts:?}");
    let warnings = last["warnings"].to_string();
    assert!(warnings.contains("given up, since no connection was established: "), "{warnings}");
    let table = stderr(&output);
    assert!(
        table.contains("search for the highest rate of new connections with loss at most 0.1%"),
        "{table}"
    );
    assert_eq!(output.status.code(), Some(5), "{table}");
}

/// A run of a search whose connections all end badly says nothing about the exit status.
#[test]
fn connections_that_break_are_misses_of_a_search() {
    let addr = tcp_server("127.0.0.1:0", TcpConduct::HangsUp(64));
    let output = blaster(&format!(
        "tcp {addr} --find-max --rate 500 --connections 4 --duration 200ms --timeout 1s --search-runs 4 --json - --quiet"
    ));
    let found = series(&output);
    let verdicts: Vec<&Value> = runs(&found).iter().map(|run| &run["verdict"]).collect();
    // on each of four connections, nine messages come back
    assert_eq!(verdicts[0]["outcome"], "missed", "{verdicts:?}");
    let warnings = runs(&found)[0]["report"]["warnings"].to_string();
    assert!(
        warnings.contains("no connection was left: ") && !warnings.contains("it never sent"),
        "{warnings}"
    );
    assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
}

/// A closed connection keeps its local port for a minute: further runs would say nothing of the server.
#[test]
#[ignore = "needs root"]
fn a_search_ends_when_local_ports_are_used_up() {
    private_network(|| {
        setting("ipv4/ip_local_port_range", "50000 50099");
        setting("ipv4/tcp_tw_reuse", "0");
        let addr = tcp_server("127.0.0.1:0", TcpConduct::Good);
        let flags =
            format!("tcp {addr} --mode connect --find-max --rate 150 --duration 200ms --timeout 1s --json -");
        let output = blaster(&flags);
        let (found, table) = (series(&output), stderr(&output));
        assert_eq!(output.status.code(), Some(1), "{table}");
        assert!(table.contains("the search can't go on; local ports are used up: "), "{table}");
        // 30 connections, then 60, then not even 120
        assert!((1..=4).contains(&runs(&found).len()), "{table}");
        assert_eq!(found["found"]["ended_by"], "failure", "{table}");
        // follow the advice
        let output = blaster(&format!("{flags} --source 127.9.0.0/16 --search-runs 4"));
        assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
    });
}
