//! Several rates in a row, and the search for the highest rate.

use std::fs;
use std::net::UdpSocket;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::misbehaving::{Conduct, UdpServer};
use crate::support::blaster::expect_documented;
use crate::support::private_network;
use crate::support::sys::Pidfd;
use crate::{BLASTER, assert_balanced, blaster, counts, number, stderr};

fn series(flags: &str) -> Value {
    parse(&blaster(&format!("{flags} --json - --quiet")))
}

fn parse(output: &Output) -> Value {
    let series: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(output)));
    expect_documented(&series);
    assert_eq!((&series["schema"], &series["version"]), (&"blaster-series".into(), &2.into()));
    for run in series["runs"].as_array().unwrap() {
        assert_balanced(&run["report"]["totals"]);
    }
    series
}

#[test]
fn each_step_is_a_run_of_its_own() {
    let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
    let found = series(&format!("udp {} --steps 300:1s,600:500ms,1k:1s --timeout 5s", server.addr));
    let runs: Vec<_> = found["runs"].as_array().unwrap().iter().collect();
    let of = |run: &Value| {
        (run["name"].as_str().unwrap().to_string(), run["report"]["load"]["rate_per_s"].as_f64())
    };
    assert_eq!(
        runs.iter().map(|run| of(run)).collect::<Vec<_>>(),
        [("300/s".into(), Some(300.0)), ("600/s".into(), Some(600.0)), ("1,000/s".into(), Some(1_000.0))]
    );
    for (run, sent) in runs.iter().zip([300, 300, 1_000]) {
        assert_eq!(counts(&run["report"]), [("sent", sent), ("ok", sent)]);
    }
    assert!(found["found"].is_null());

    let output =
        blaster(&format!("udp {} --steps 300:200ms,400:200ms --fail-if sent>70 --timeout 5s", server.addr));
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(3), "the second step fails it: {table}");
    assert!(table.contains("passed  300/s") && table.contains("FAILED  400/s"), "{table}");
}

/// The sockets of a run are closed before the next one opens its own, and its memory is given back.
#[test]
#[ignore = "needs root"]
fn a_run_leaves_no_sockets_behind() {
    private_network(|| {
        const FLOWS: usize = 16;
        let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
        let sockets =
            || fs::read_to_string("/proc/thread-self/net/udp").expect("sockets").lines().skip(1).count();
        let others = sockets();
        let steps = ["500:100ms"; 6].join(",");
        let line = format!("udp {} --flows {FLOWS} --linger 200ms --steps {steps} --quiet", server.addr);
        let child =
            Command::new(BLASTER).args(line.split_whitespace()).stdout(Stdio::null()).spawn().unwrap();
        let pidfd = Pidfd::open(child.id()).unwrap();
        let mut most = 0;
        while !pidfd.ends_within(Duration::from_millis(1)) {
            most = most.max(sockets());
        }
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        // its own for each flow, one that only looks for the local address, and those that the kernel is just closing
        assert!(
            most > others && most <= others + 2 * FLOWS,
            "{most} sockets, {others} of them not blaster's"
        );
    });
}

#[test]
fn what_a_search_finds_decides_the_exit_status() {
    let server = UdpServer::new("127.0.0.1:0", Conduct::Carries(500.0));
    let load = format!(
        "udp {} --find-max --rate 2k --duration 100ms --repeat 1 --precision 100% --timeout 100ms --linger 1ms",
        server.addr
    );
    for (condition, status, word) in [("found<1G", 3, "FAILED"), ("found>1G", 0, "passed")] {
        let output = blaster(&format!("{load} --fail-if {condition}"));
        let table = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(status), "{table}");
        assert_eq!(table.matches(word).count(), 1, "once for the search, not for each run: {table}");
    }
    // without a search there is no result
    let output = blaster(&format!("udp {} --count 5 --fail-if found>1G", server.addr));
    assert_eq!(output.status.code(), Some(3));
}

/// However busy the machine is, the result is never more than the server's limit, and blaster never takes its own limit
/// for the server's.
#[test]
fn the_search_finds_what_a_server_carries() {
    let server = UdpServer::new("127.0.0.1:0", Conduct::Carries(2_000.0));
    let found = series(&format!(
        "udp {} --find-max --rate 500 --duration 500ms --loss 1% --repeat 3 --precision 20% --timeout 1s --linger 300ms",
        server.addr
    ));
    let answer = &found["found"];
    // 500 ms of its rate, the answers that it gives at once, and the allowed loss
    let most = 2_000.0 * (0.5 + 0.1) / 0.5 * 1.05;
    let met = answer["met"]["rate_per_s"].as_f64().unwrap_or(0.0);
    assert!(met <= most, "{answer}");
    let verdicts: Vec<_> =
        found["runs"].as_array().unwrap().iter().map(|run| &run["verdict"]["outcome"]).collect();
    if answer["limit"] == "server" {
        assert!(met >= 500.0, "{answer} {verdicts:?}");
        assert!(number(&answer["not_met"]["runs"]["missed"]) >= 2, "{answer}");
        assert!(answer["confidence"].as_f64().unwrap() <= 0.75, "three runs of a kind are no more: {answer}");
    } else {
        assert_eq!(answer["limit"], "generator", "there is a limit: {answer}");
        assert!(verdicts.iter().any(|verdict| **verdict == "generator"), "{answer} {verdicts:?}");
    }
    assert!(found["runs"].as_array().unwrap().iter().all(|run| {
        let rate = run["report"]["load"]["rate_per_s"].as_f64().unwrap();
        run["verdict"]["outcome"] != "met" || rate <= most
    }));
}

/// A coin decides each run, whatever its rate.
#[test]
fn a_search_in_noise_ends_in_its_bound_and_confirms_nothing() {
    let server = UdpServer::new("127.0.0.1:0", Conduct::Tosses(Duration::from_millis(60)));
    let load = format!(
        "udp {} --find-max --rate 2k --duration 50ms --loss 10% --timeout 20ms --linger 20ms --precision 10%",
        server.addr
    );
    for (bounds, runs_max, time_max) in [
        ("--search-runs 12", 12, Duration::from_millis(12 * (70 + 250))),
        ("--search-time 1s", 46, Duration::from_secs(1)),
    ] {
        let output = blaster(&format!("{load} {bounds}"));
        let table = String::from_utf8(output.stdout).unwrap();
        let first = table.lines().next().unwrap();
        assert!(first.contains(&format!("at most {runs_max} runs of 50.0 ms")), "{first}");
        let found = parse(&blaster(&format!("{load} {bounds} --json - --quiet")));
        let result = &found["found"];
        let runs = found["runs"].as_array().unwrap();
        assert!(runs.len() <= runs_max && number(&result["took"]["runs"]) as usize == runs.len(), "{result}");
        assert_eq!(result["bound"]["time_ns"], time_max.as_nanos() as u64);
        // a run that has begun ends, however long a busy machine takes for it
        assert!(result["took"]["time_ns"].as_u64().unwrap() < 20 * time_max.as_nanos() as u64, "{result}");
        for answer in [&table, &result.to_string()] {
            assert!(!answer.contains("0 of 0 runs"), "{answer}");
        }
        let is_told = table.contains("Not confirmed is the highest rate");
        assert_eq!(is_told, output.status.code() == Some(5), "{table}");
    }
    // too few runs to confirm both ends
    let output = blaster(&format!("{load} --search-runs 9"));
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.code() == Some(5) && table.contains("9 runs in "), "{table}");
    let output = blaster(&format!("{load} --search-runs 3 --fail-if found<1"));
    assert_eq!(output.status.code(), Some(3), "what is not confirmed is no answer: {}", stderr(&output));
}

#[test]
fn a_search_for_a_dead_server_ends_soon() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = silent.local_addr().unwrap();
    let flags = format!("udp {addr} --find-max --duration 100ms --timeout 50ms --linger 50ms --json -");
    let output = blaster(&flags);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("nothing came back, even at 100/s."), "{}", stderr(&output));
    let found = parse(&output);
    assert_eq!(
        (found["runs"].as_array().unwrap().len(), &found["found"]["ended_by"]),
        (4, &"no-answer".into())
    );
}

#[test]
fn a_search_that_a_signal_ends_tells_what_is_known() {
    let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
    let page = std::env::temp_dir().join(format!("blaster-search-{}.html", std::process::id()));
    let flags =
        format!("udp {} --find-max --rate 500 --duration 200ms --timeout 5s --json - --html", server.addr);
    let mut command = Command::new(BLASTER);
    command.args(flags.split_whitespace()).arg(&page).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    // two runs, and a part of the third
    server.wait_for(100 + 200 + 50);
    Pidfd::open(child.id()).and_then(|blaster| blaster.signal(libc::SIGINT)).unwrap();
    let output = child.wait_with_output().unwrap();
    let table = stderr(&output);
    assert_eq!(output.status.code(), Some(4), "{table}");
    assert!(table.contains("a signal ended the search after "), "{table}");
    let found = parse(&output);
    let runs = found["runs"].as_array().unwrap();
    assert_eq!((&found["found"]["ended_by"], &found["found"]["settled"]), (&"signal".into(), &false.into()));
    assert!(number(&found["found"]["met"]["rate_per_s"]) >= 500, "{}", found["found"]);
    let is_judged = |run: &Value| !run["verdict"].is_null();
    let cut = runs.iter().filter(|run| !is_judged(run)).count();
    assert!(runs.len() >= 2 && cut <= 1, "{table}");
    let html = std::fs::read_to_string(&page).unwrap();
    std::fs::remove_file(&page).unwrap();
    assert!(html.contains("a signal ended the search after "));
}
