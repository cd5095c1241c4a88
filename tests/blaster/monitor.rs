//! What others see while a run lasts: --jsonl, --csv.

use std::fs;
use std::io::Read;
use std::net::UdpSocket;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::misbehaving::{Conduct, TcpConduct, UdpServer, tcp_server};
use crate::reports::Scratch;
use crate::support::blaster::{counts_beside_sent, expect_documented};
use crate::support::until;
use crate::{BLASTER, blaster, number, parse, stderr};

/// A run that has no end of its own: it ends with the test, also if that fails.
struct Endless(Child);

impl Endless {
    fn start(flags: &str) -> Self {
        let mut command = Command::new(BLASTER);
        Self(command.args(flags.split_whitespace()).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Waits for the end that a signal has asked for.
    fn finish(mut self) -> Output {
        let mut stdout = Vec::new();
        self.0.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
        Output { status: self.0.wait().unwrap(), stdout, stderr: Vec::new() }
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        // it has ended, or the test has failed
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The lines of a file of --jsonl, each as the schema promises.
fn lines(text: &str) -> Vec<Value> {
    let read = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let lines: Vec<Value> = text.lines().map(read).collect();
    lines.iter().for_each(expect_documented);
    lines
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The lines of all intervals together are the report.
fn expect_sums(lines: &[Value], report: &Value) {
    for name in ["sent", "bytes_sent", "bytes_received"].into_iter().chain(counts_beside_sent()) {
        if name == "own_drops" {
            continue;
        }
        let sum: u64 = lines.iter().map(|line| number(&line[name])).sum();
        assert_eq!(
            sum,
            number(&report["totals"][name]) + number(&report["warmup"][name]),
            "{name}: {lines:#?}"
        );
    }
}

#[test]
fn the_lines_of_all_intervals_are_the_report() {
    let scratch = Scratch::new("lines");
    let udp = UdpServer::new("127.0.0.1:0", Conduct::Loses);
    let echo = tcp_server("127.0.0.1:0", TcpConduct::Good);
    for (nth, load) in [
        format!("udp {} --rate 500 --warmup 400ms", udp.addr),
        format!("udp {} --flows 3 --threads 2 --timeout 50ms --linger 5s", udp.addr),
        format!("tcp {echo} --connections 3"),
    ]
    .into_iter()
    .enumerate()
    {
        let (jsonl, csv) = (scratch.file(&format!("{nth}.jsonl")), scratch.file(&format!("{nth}.csv")));
        let flags =
            format!("{load} --duration 1s --every 200ms --jsonl {jsonl} --csv {csv} --json - --quiet");
        let report = parse(&blaster(&flags));
        let found = lines(&read(&jsonl));
        expect_sums(&found, &report);
        // the length of a run, and the wait for the last replies
        assert!(found.len() >= 5, "{found:#?}");
        assert!(found.windows(2).all(|pair| pair[0]["end_ns"] == pair[1]["begin_ns"]), "{found:#?}");
        let lasts: Vec<bool> = found.iter().map(|line| line["is_last"].as_bool().unwrap()).collect();
        assert_eq!(lasts.iter().position(|last| *last), Some(found.len() - 1), "{found:#?}");
        assert_eq!(found[0]["is_warmup"], nth == 0);
        assert_eq!(found[0]["run_id"], report["load"]["run_ids"][0]);
        // the first line that is surely after the warmup
        let line = &found[3];
        assert!(line["latency_p99_ns"].is_u64() && line["slip_p99_ns"].is_u64() == (nth == 0), "{found:#?}");
        let csv = read(&csv);
        let (header, rows) = csv.split_once('\n').unwrap();
        let columns: Vec<&str> = header.split(',').collect();
        let cell = |row: &str, name| {
            let nth = columns.iter().position(|column| *column == name).unwrap();
            row.split(',').nth(nth).unwrap().to_owned()
        };
        let of_csv: Vec<String> = rows.lines().map(|row| cell(row, "sent")).collect();
        let of_json: Vec<String> = found.iter().map(|line| line["sent"].to_string()).collect();
        assert_eq!(of_csv, of_json);
    }
}

/// A line that has an outcome later than --linger is the only one that the sums may miss; what is lost is told in time.
#[test]
fn a_lost_datagram_is_lost_while_the_run_lasts() {
    let scratch = Scratch::new("lost");
    let server = UdpServer::new("127.0.0.1:0", Conduct::Loses);
    let jsonl = scratch.file("run.jsonl");
    let flags = "--rate 500 --duration 2s --timeout 100ms --linger 200ms --every 100ms --quiet";
    blaster(&format!("udp {} {flags} --jsonl {jsonl}", server.addr));
    let found = lines(&read(&jsonl));
    let lost: u64 =
        found.iter().filter(|line| line["is_last"] == false).map(|line| number(&line["lost"])).sum();
    assert!(lost >= 60, "{lost} of 100 lost: {found:#?}");
    assert!(found.iter().all(|line| number(&line["waiting"]) <= 150), "{found:#?}");
}

#[test]
fn lines_are_added_and_each_run_has_its_number() {
    let scratch = Scratch::new("added");
    let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
    let (jsonl, csv) = (scratch.file("run.jsonl"), scratch.file("run.csv"));
    for _ in 0..2 {
        let flags = format!("udp {} --count 5 --jsonl {jsonl} --csv {csv} --quiet", server.addr);
        assert!(blaster(&flags).status.success());
    }
    let found = lines(&read(&jsonl));
    assert!(found.len() == 2 && found[0]["run_id"] != found[1]["run_id"], "{found:#?}");
    let csv = read(&csv);
    assert_eq!(csv.lines().filter(|line| line.starts_with("schema,")).count(), 1, "{csv}");
    assert_eq!(csv.lines().count(), 3, "{csv}");
    // steps are runs with names
    let flags = format!("udp {} --steps 100:200ms,200:200ms --jsonl - --every 100ms", server.addr);
    let output = blaster(&flags);
    let found = lines(std::str::from_utf8(&output.stdout).unwrap());
    assert_eq!(found.iter().filter(|line| line["is_last"] == true).count(), 2, "{found:#?}");
    assert!(found.last().unwrap()["name"].as_str().unwrap().starts_with("step 2 of 2"), "{found:#?}");
    assert!(stderr(&output).contains("200/s"), "the table is on standard error: {}", stderr(&output));
}

#[test]
fn a_full_disk_does_not_stop_the_run() {
    let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
    let flags = format!("udp {} --rate 100 --duration 1s --every 100ms --json - --quiet", server.addr);
    let output = blaster(&format!("{flags} --jsonl /dev/full"));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(number(&parse(&output)["totals"]["ok"]), 100);
    let told = stderr(&output);
    assert!(told.contains("could not be written to /dev/full: No space left on device"), "{told}");
    assert!(
        told.lines().count() == 2 && told.contains("lines of intervals not written to /dev/full"),
        "{told}"
    );
    // a directory is told before anything is sent
    let output = blaster(&format!("{flags} --csv /tmp"));
    assert!(stderr(&output).contains("opening /tmp for a line of each interval: Is a directory"));
}

#[test]
fn a_closed_pipe_does_not_stop_the_run() {
    let scratch = Scratch::new("pipe");
    let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
    let json = scratch.file("run.json");
    let shell = format!(
        "{BLASTER} udp {} --rate 100 --duration 1s --every 100ms --jsonl - --json {json} --quiet | head -1",
        server.addr
    );
    let output = Command::new("sh").args(["-c", &shell]).output().unwrap();
    assert_eq!(lines(std::str::from_utf8(&output.stdout).unwrap()).len(), 1);
    let report: Value = serde_json::from_str(&read(&json)).unwrap();
    assert_eq!(number(&report["totals"]["ok"]), 100);
}

/// A probe: round after round, until a signal. What is wrong at the end is not what was wrong at some time.
#[test]
fn a_probe_tells_what_is_wrong_now_and_since_when() {
    let scratch = Scratch::new("probe");
    let servers = [1, 2].map(|_| UdpServer::new("127.0.0.1:0", Conduct::Good));
    let echo = tcp_server("127.0.0.1:0", TcpConduct::Good);
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    // TCP: nobody listens there
    let silent_addr = silent.local_addr().unwrap();
    for (nth, load) in [
        format!("udp {} {} {silent_addr}", servers[0].addr, servers[1].addr),
        format!("tcp {echo} {silent_addr}"),
    ]
    .into_iter()
    .enumerate()
    {
        let jsonl = scratch.file(&format!("{nth}.jsonl"));
        let flags =
            "--each-once --duration forever --rate 100 --timeout 100ms --every 100ms --json - --quiet";
        let child = Endless::start(&format!("{load} {flags} --jsonl {jsonl}"));
        until("it is silent for a second, over several rounds", || {
            read(&jsonl).lines().last().is_some_and(|line| {
                let line: Value = serde_json::from_str(line).unwrap_or_default();
                line["longest_outage_ns"].as_u64() > Some(1_000_000_000) && line["rounds"].as_u64() > Some(9)
            })
        });
        crate::signal("INT", child.0.id());
        let report = parse(&child.finish());
        let outages = &report["outages"];
        assert_eq!((&outages["right"], &outages["more"]), (&(2 - nth).into(), &0.into()), "{outages}");
        let longest = &outages["longest"][0];
        assert_eq!(longest["destination"], silent_addr.to_string());
        assert_eq!(longest["fault"], "silent");
        assert!(number(&longest["lasts_ns"]) >= 1_000_000_000, "{outages}");
        expect_sums(&lines(&read(&jsonl)), &report);
    }
}

/// Memory is bounded, whatever is sent: each datagram is remembered for a while, and each second as a part of a longer time.
/// The same for a day stands in the tests of the timeline and of the outcomes.
#[test]
fn a_run_without_end_takes_bounded_memory() {
    let server = UdpServer::new("127.0.0.1:0", Conduct::Loses);
    // each of the 4,096 places of a flow is used again and again
    let flags = "--flows 64 --rate 20k --timeout 20ms --linger 40ms --duration forever --quiet";
    let child =
        Endless::start(&format!("udp {} {flags} --jsonl /dev/null --every 20ms --json -", server.addr));
    let resident_kib = || {
        let status = read(&format!("/proc/{}/status", child.0.id()));
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0").to_owned();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    server.wait_for(20_000);
    let before = resident_kib();
    server.wait_for(100_000);
    let after = resident_kib();
    crate::signal("INT", child.0.id());
    let report = parse(&child.finish());
    assert!(number(&report["totals"]["sent"]) >= 100_000);
    assert!(after < before + 16_384, "from {before} to {after} KiB");
    assert_eq!((&report["generator"]["unsent"], &report["load"]["is_endless"]), (&0.into(), &true.into()));
}

/// As logrotate(8) does it: `create`, `nocreate` and `copytruncate`.
#[test]
fn a_file_that_is_moved_away_is_made_again() {
    let scratch = Scratch::new("moved");
    let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
    let (jsonl, csv) = (scratch.file("run.jsonl"), scratch.file("run.csv"));
    let flags = format!(
        "udp {} --rate 200 --duration 1h --every 20ms --jsonl {jsonl} --csv {csv} --json - --quiet",
        server.addr
    );
    let child = Endless::start(&flags);
    let has_lines = |path: &str| read(path).lines().count() >= 3;
    let mut old = Vec::new();
    for rotation in ["nocreate", "create", "copytruncate"] {
        until("there are lines", || has_lines(&jsonl) && has_lines(&csv));
        for path in [&jsonl, &csv] {
            let moved = format!("{path}.{rotation}");
            if rotation == "copytruncate" {
                fs::copy(path, &moved).unwrap();
                fs::File::options().write(true).open(path).unwrap().set_len(0).unwrap();
            } else {
                fs::rename(path, &moved).unwrap();
            }
            if rotation == "create" {
                fs::write(path, "").unwrap();
            }
            old.push(moved);
        }
    }
    until("there are lines", || has_lines(&jsonl) && has_lines(&csv));
    crate::signal("INT", child.0.id());
    let report = parse(&child.finish());
    let of = |extension: &str| {
        let moved = old.iter().filter(|path| path.contains(extension)).map(|path| read(path));
        moved.collect::<Vec<_>>()
    };
    let files = of(".jsonl").into_iter().chain([read(&jsonl)]);
    let all: Vec<Value> = files.flat_map(|text| lines(&text)).collect();
    // lines between a copy and the truncation are lost: so says logrotate(8)
    let sent: u64 = all.iter().map(|line| number(&line["sent"])).sum();
    let lost = number(&report["totals"]["sent"]).abs_diff(sent);
    assert!(lost <= 40, "{sent} of {}", report["totals"]);
    for text in of(".csv").into_iter().chain([read(&csv)]) {
        assert!(text.starts_with("schema,"), "a file of its own: {text}");
    }
}
