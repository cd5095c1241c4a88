//! The load tester against servers with known faults, and against the real server.

mod destinations;
mod draws;
mod each_once;
mod flow_labels;
mod misbehaving;
mod monitor;
mod names;
mod other_servers;
mod packets;
mod path_mtu;
mod receive_times;
mod reports;
mod schedules;
mod server_metrics;
mod signals;
mod stalls;
mod steps;
#[path = "../support/mod.rs"]
mod support;
mod tcp;
mod tcp_rates;
mod tcp_replies;
mod terminal;
mod unread;

use std::net::UdpSocket;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use misbehaving::{Conduct, TcpConduct, UdpServer, tcp_server};
use serde_json::Value;
use support::blaster::{CLASSES, counts_beside_sent, expect_documented};
use support::side_by_side;
use support::sys::{Confinement, Denied, confine, is_root};

const BLASTER: &str = env!("CARGO_BIN_EXE_blaster");

/// Runs blaster to its end. `flags` are separated by spaces.
fn blaster(flags: &str) -> Output {
    Command::new(BLASTER).args(flags.split_whitespace()).output().unwrap()
}

/// The report of a run that other processes do not hold up, if root makes it: one that must keep its times.
fn punctual_report(flags: &str) -> Value {
    let words = format!("{flags} --json - --quiet");
    let mut command = if is_root() {
        let mut command = Command::new("chrt");
        command.args(["--rr", "1", BLASTER]);
        command
    } else {
        Command::new(BLASTER)
    };
    parse(&command.args(words.split_whitespace()).output().unwrap())
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The JSON of a run. Its counts must balance, in total and in each second.
fn parse(output: &Output) -> Value {
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(output)));
    expect_documented(&report);
    assert_balanced(&report["totals"]);
    let intervals = report["intervals"].as_array().unwrap();
    for interval in intervals {
        assert_balanced(interval);
    }
    for name in ["sent", "ok", "lost", "duplicated", "reordered", "unattributed"] {
        let sum: u64 = intervals.iter().map(|interval| number(&interval[name])).sum();
        assert_eq!(sum, number(&report["totals"][name]), "{name} by seconds");
    }
    report
}

fn report(flags: &str) -> Value {
    parse(&blaster(&format!("{flags} --json - --quiet")))
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no count"))
}

fn assert_balanced(counts: &Value) {
    let sum: u64 = CLASSES.iter().map(|class| number(&counts[*class])).sum();
    assert_eq!(sum, number(&counts["sent"]), "{counts}");
}

/// Every count of `report` that is not zero, except bytes.
fn counts(report: &Value) -> Vec<(&str, u64)> {
    let names = ["sent"].into_iter().chain(counts_beside_sent());
    names.map(|name| (name, number(&report["totals"][name]))).filter(|(_, count)| *count > 0).collect()
}

/// Sends 1,000 datagrams to a server with this behavior. Few are in flight at a time and the timeout is long, so that a
/// reply is late or lost only on purpose, however busy the machine is.
fn thousand(conduct: Conduct, flags: &str) -> Value {
    let server = UdpServer::new("127.0.0.1:0", conduct);
    report(&format!("udp {} --count 1000 --timeout 3s {flags}", server.addr))
}

#[test]
fn a_good_server_shows_nothing_but_ok() {
    for flags in ["--flows 7 --in-flight 3", "--flows 7 --rate 5k", "--flows 3 --threads 3 --rate 5k"] {
        assert_eq!(counts(&thousand(Conduct::Good, flags)), [("sent", 1_000), ("ok", 1_000)], "{flags}");
    }
}

#[test]
fn each_tenth_lost() {
    side_by_side(["--flows 100 --linger 3s", "--flows 7 --rate 5k --linger 3s"], |flags| {
        let found = thousand(Conduct::Loses, flags);
        assert_eq!(counts(&found), [("sent", 1_000), ("ok", 900), ("lost", 100)], "{flags}");
    });
}

#[test]
fn each_tenth_doubled() {
    let found = thousand(Conduct::Doubles, "--flows 7");
    assert_eq!(counts(&found), [("sent", 1_000), ("ok", 1_000), ("duplicated", 100)]);
}

#[test]
fn each_tenth_swapped_with_the_next() {
    let found = thousand(Conduct::Swaps, "--flows 1 --in-flight 8");
    assert_eq!(counts(&found), [("sent", 1_000), ("ok", 1_000), ("reordered", 100)]);
    assert_eq!(found["totals"]["reorder_distance_max"], 1);
}

#[test]
fn each_tenth_with_a_flipped_bit() {
    // over all 64 bytes, including the sequence number
    let found = thousand(Conduct::Flips, "--flows 7 --in-flight 3");
    assert_eq!(counts(&found), [("sent", 1_000), ("ok", 900), ("corrupted", 100)]);
}

#[test]
fn each_tenth_cut_short() {
    let found = thousand(Conduct::Cuts, "--flows 7 --in-flight 3 --size 32-1400");
    assert_eq!(counts(&found), [("sent", 1_000), ("ok", 900), ("truncated", 100)]);
}

#[test]
fn each_tenth_from_another_address() {
    let found = thousand(Conduct::Strays, "--flows 7 --in-flight 3");
    assert_eq!(counts(&found), [("sent", 1_000), ("ok", 900), ("misdirected", 100)]);
}

#[test]
fn each_tenth_late() {
    let delay = Duration::from_millis(3_500);
    let found = thousand(Conduct::Delays(delay), "--flows 1000 --linger 20s");
    assert_eq!(counts(&found), [("sent", 1_000), ("ok", 900), ("late", 100)]);
    assert!(number(&found["latency"]["from_actual"]["max_ns"]) >= 3_500_000_000);
}

#[test]
fn uninvited_datagrams_are_unattributed() {
    let found = thousand(Conduct::Babbles, "--flows 7");
    assert_eq!(counts(&found), [("sent", 1_000), ("ok", 1_000), ("unattributed", 100)]);
}

#[test]
fn trains_arrive_as_single_datagrams_and_are_told_apart() {
    let server = UdpServer::new("[::1]:0", Conduct::Flips);
    let flags = "--flows 4 --gso 16 --size 200 --count 1000 --threads 2 --timeout 5s";
    let found = report(&format!("udp {} {flags}", server.addr));
    assert_eq!(counts(&found), [("sent", 1_000), ("ok", 900), ("corrupted", 100)]);
}

#[test]
fn a_wildcard_server_answers_a_prefix_from_the_wrong_address() {
    let server = UdpServer::new("0.0.0.0:0", Conduct::Good);
    let port = server.addr.port();
    let found = report(&format!("udp 127.0.0.8/30:{port} --spray --flows 4 --count 500 --timeout 5s"));
    assert_eq!(counts(&found), [("sent", 500), ("misdirected", 500)]);
}

#[test]
fn nobody_there_is_unreachable_by_icmp() {
    let addr = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for mode in ["--rate 1k", "--in-flight 2"] {
        let flags = format!("udp {addr} --flows 3 --count 100 --json - --quiet {mode}");
        let output = blaster(&flags);
        assert_eq!(output.status.code(), Some(1), "nothing at all came back: {flags}");
        let found = parse(&output);
        assert_eq!(counts(&found), [("sent", 100), ("unreachable", 100)], "{flags}");
        let errors = &found["icmp_errors"][0];
        assert_eq!(
            (&errors["from"], &errors["icmp_type"], &errors["icmp_code"]),
            (&"127.0.0.1".into(), &3.into(), &3.into())
        );
        assert_eq!(number(&errors["count"]), 100);
    }
}

/// A count shows that something is wrong; an example shows what it is.
#[test]
fn wrong_replies_are_shown_by_example() {
    for (conduct, kind, line) in [
        (
            Conduct::Flips,
            "corrupted",
            "64 bytes to 127.0.0.1:PORT, 64 from 127.0.0.1:PORT, byte 1 differs: sent 0x00, got 0x04 (flow 0, number 9)",
        ),
        (Conduct::Cuts, "truncated", "64 bytes to 127.0.0.1:PORT, 63 from 127.0.0.1:PORT (flow 0, number 9)"),
        (Conduct::Strays, "misdirected", "64 bytes to 127.0.0.1:PORT, 64 from 127.0.0.2:"),
        (Conduct::Babbles, "unattributed", "43 bytes from 127.0.0.1:PORT"),
    ] {
        let server = UdpServer::new("127.0.0.1:0", conduct);
        let output = blaster(&format!("udp {} --flows 1 --count 100 --timeout 5s", server.addr));
        let table = String::from_utf8(output.stdout).unwrap();
        let line = format!("{kind}: {}", line.replace("PORT", &server.addr.port().to_string()));
        let begins = format!("{kind}: ");
        let shown: Vec<_> = table.lines().filter(|line| line.starts_with(&begins)).collect();
        assert!(shown.len() == 3 && shown[0].starts_with(&line), "{line}: {table}");
    }
}

#[test]
fn datagrams_come_from_the_source_that_was_asked_for() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let addr = server.local_addr().unwrap();
    let run = |source: &str| {
        let flags = format!(
            "udp {addr} --flows 20 --count 40 --timeout 5s --seed 7 --json - --quiet --source {source}"
        );
        let child =
            Command::new(BLASTER).args(flags.split_whitespace()).stdout(Stdio::piped()).spawn().unwrap();
        let mut sources = std::collections::BTreeSet::new();
        let mut buffer = [0; 2048];
        for _ in 0..40 {
            let (len, peer) = server.recv_from(&mut buffer).unwrap();
            sources.insert(peer.ip().to_string());
            server.send_to(&buffer[..len], peer).unwrap();
        }
        let found = parse(&child.wait_with_output().unwrap());
        assert_eq!(counts(&found), [("sent", 40), ("ok", 40)]);
        assert_eq!(found["load"]["source"], source);
        sources
    };
    let many = run("127.3.2.0/24");
    assert!(many.len() > 10 && many.iter().all(|source| source.starts_with("127.3.2.")), "{many:?}");
    assert_eq!(run("127.3.2.0/24"), many, "the same seed draws the same");
    assert_eq!(run("127.0.0.77").into_iter().collect::<Vec<_>>(), ["127.0.0.77"]);

    let output = blaster(&format!("udp {addr} --count 1 --source 192.0.2.77"));
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.lines().count() == 1 && text.contains("192.0.2.77") && text.contains("ip route"), "{text}");
}

/// Each ICMP error makes the kernel refuse one send of the same socket, once. This is not a refusal of the datagram,
/// which leaves at the next try.
#[test]
fn an_icmp_error_that_a_send_returns_is_no_failed_send() {
    let addr = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for mode in ["--mode flood", "--rate 1M", "--in-flight 64"] {
        let output = blaster(&format!("udp {addr} --flows 1 --count 2000 --json - --quiet {mode}"));
        assert_eq!(counts(&parse(&output)), [("sent", 2_000), ("unreachable", 2_000)], "{mode}");
    }
}

fn signal(name: &str, pid: u32) {
    assert!(Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap().success());
}

#[test]
fn the_report_says_what_was_run_and_where() {
    let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
    let found = report(&format!(
        "udp {} --rate 500 --warmup 200ms --duration 1500ms --seed 42 --timeout 5s",
        server.addr
    ));
    assert_eq!((&found["schema"], &found["version"]), (&"blaster-report".into(), &2.into()));
    assert_eq!(counts(&found), [("sent", 750), ("ok", 750)]);
    assert_eq!(number(&found["warmup"]["ok"]), 100);
    assert_eq!(found["intervals"].as_array().unwrap().len(), 2);
    assert_eq!(number(&found["intervals"][0]["sent"]), 500);
    assert_eq!(found["load"]["seed"], 42);
    assert_eq!(found["command_line"][1], "udp");
    assert_eq!(
        found["hosts"][0]["kernel"],
        std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim()
    );
    for percentile in ["p50_ns", "p90_ns", "p95_ns", "p99_ns", "p99_9_ns", "p99_99_ns", "max_ns"] {
        for from in ["from_intended", "from_actual"] {
            assert!(number(&found["latency"][from][percentile]) > 0, "{from} {percentile}");
        }
    }
    assert!(found["generator"]["cpu_ns_per_datagram"].as_f64().unwrap() > 0.0);
}

/// A rate is the number of sent datagrams divided by the time that they cover. A single datagram covers time too.
#[test]
fn few_datagrams_have_an_honest_rate() {
    let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
    for (flags, wanted) in [
        ("--rate 10 --count 1", 10.0),
        ("--rate 10 --count 2 --threads 2", 10.0),
        ("--rate 10 --duration 200ms", 10.0),
        ("--rate 10 --duration 200ms --warmup 100ms", 10.0),
        ("--rate 4 --duration 600ms", 5.0),
        ("--rate 20 --gso 2 --count 2", 20.0),
    ] {
        let found = report(&format!("udp {} --timeout 5s {flags}", server.addr));
        let per_s = found["totals"]["sent_per_s"].as_f64().unwrap();
        // a busy machine may end it later
        assert!(per_s <= wanted * 1.001 && per_s > wanted / 2.0, "{flags}: {per_s}/s");
    }
}

/// A closed loop with --count makes exactly this many round trips, the last one included.
#[test]
fn a_counted_loop_takes_as_long_as_its_round_trips() {
    let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
    let tcp = tcp_server("127.0.0.1:0", TcpConduct::Good);
    for (load, count) in [("udp", 1), ("udp", 3), ("tcp", 1), ("tcp", 3)] {
        let addr = if load == "udp" { server.addr } else { tcp };
        let one = if load == "udp" { "--flows" } else { "--connections" };
        let found = report(&format!("{load} {addr} {one} 1 --count {count} --timeout 5s"));
        let mean_ns = number(&found["latency"]["from_actual"]["mean_ns"]);
        let elapsed_ns = number(&found["elapsed_ns"]);
        assert!(
            elapsed_ns >= count * mean_ns * 999 / 1_000,
            "{load} {count}: {elapsed_ns} ns for {mean_ns} ns each"
        );
        if load == "tcp" {
            // without the time until blaster notices the end
            assert!(
                elapsed_ns < count * mean_ns + 9_000_000,
                "{load} {count}: {elapsed_ns} ns for {mean_ns} ns each"
            );
        }
    }
}

#[test]
#[ignore = "needs root"]
fn a_train_that_the_mtu_does_not_carry_has_a_cure() {
    let command =
        format!("ip link set lo mtu 1500 up; exec {BLASTER} udp 127.0.0.1:7 --gso 4 --size 1500 --count 400");
    let output = Command::new("unshare").args(["-n", "sh", "-c", &command]).output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let names_it = ["MTU", "--size", "--gso"].iter().all(|word| text.contains(word));
    assert!(text.lines().count() == 1 && names_it, "{text}");
}

#[test]
fn exit_status_of_conditions() {
    let table = [
        ("loss>9%", 3),
        ("loss>10%", 0),
        ("loss>=10%", 3),
        ("lost>0,misdirected>0", 3),
        ("misdirected>0,corrupted>0,duplicated>0", 0),
        ("p50>10s", 0),
        ("p50>1ns", 3),
        ("actual_max<1ns", 0),
        ("rate<1", 0),
        // a closed loop has no schedule to miss, and a count that was not measured has not passed
        ("slip_p99>1h", 3),
    ];
    side_by_side(table, |(conditions, status)| {
        let server = UdpServer::new("127.0.0.1:0", Conduct::Loses);
        let flags = format!("udp {} --flows 10 --count 10 --timeout 1s --linger 1s", server.addr);
        let output = blaster(&format!("{flags} --fail-if {conditions}"));
        assert_eq!(output.status.code(), Some(status), "{conditions}: {}", stderr(&output));
        let table = String::from_utf8(output.stdout).unwrap();
        assert_eq!(table.contains("FAILED"), status == 3, "{conditions}: {table}");
    });
}

#[test]
fn bad_command_lines_get_one_clear_line() {
    let table = [
        ("udp", "<TARGET>"),
        ("udp localhost", "say localhost:1234"),
        ("udp ::1:7", "brackets"),
        ("udp 127.0.0.1", "say 127.0.0.1:1234"),
        ("udp 127.0.0.1:0", "not a port"),
        ("udp 192.0.2.1/24:7", "192.0.2.0/24"),
        ("udp 127.0.0.1:7 --size 31", "header of 32 bytes"),
        ("udp 127.0.0.1:7 --rate fast", "not a number"),
        ("udp 127.0.0.1:7 --duration soon", "not a duration"),
        ("udp 127.0.0.1:7 --mode open", "--rate"),
        ("udp 127.0.0.1:7 --rate 1k --in-flight 2", "closed loop"),
        ("udp 127.0.0.1:7 --gso 64 --size 1400", "65507"),
        ("udp 127.0.0.1:7 --fail-if p98>1ms", "not a measure"),
        ("udp 127.0.0.1:7 --steps 1k", "RATE:TIME"),
        ("udp 127.0.0.1:7 --steps 1k:1s --rate 1k", "--rate"),
        ("udp 127.0.0.1:7 --find-max --loss 1", "not a percentage"),
        ("udp 127.0.0.1:7 --loss 1%", "--find-max"),
        ("udp 127.0.0.1:7 --fail-if lost", "NAME>VALUE"),
        ("udp 127.0.0.1:7 --no-such-flag", "--no-such-flag"),
        ("tcp 127.0.0.1:7 --mode flood", "ping-pong"),
        ("quic 127.0.0.1:7", "quic"),
    ];
    for (flags, words) in table {
        let output = blaster(flags);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {text}");
        assert!(text.starts_with("blaster: ") && text.lines().count() == 1, "{flags:?}: {text}");
        assert!(text.contains(words), "{flags:?}: {text}");
    }
}

#[test]
fn good_manners() {
    for target in ["8.8.8.8:53", "[2606:4700:4700::1111]:53", "96.0.0.0/3:7"] {
        for protocol in ["udp", "tcp"] {
            let output = blaster(&format!("{protocol} {target} --count 1"));
            assert_eq!(output.status.code(), Some(2), "{target}");
            assert!(stderr(&output).contains("--allow-public"), "{target}: {}", stderr(&output));
        }
    }
    for target in ["224.0.0.1:7", "255.255.255.255:7", "0.0.0.0:7", "[ff02::1%1]:7", "224.0.0.0/3:7"] {
        let output = blaster(&format!("udp {target} --count 1 --allow-public"));
        assert_eq!(output.status.code(), Some(2), "{target}");
        assert!(stderr(&output).contains("never loaded"), "{target}: {}", stderr(&output));
    }
}

#[test]
fn what_can_not_be_done_is_said_in_one_line() {
    let refused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let table = [
        (format!("{BLASTER} tcp {refused} --count 1"), "does the server listen"),
        (
            format!("{BLASTER} udp 127.0.0.1:7 --count 1 --json /no/such/directory/report"),
            "/no/such/directory",
        ),
        (format!("ulimit -n 100; {BLASTER} udp 127.0.0.1:7 --flows 64 --count 1"), "ulimit -n"),
        (format!("ulimit -n 100; {BLASTER} tcp 127.0.0.1:7 --connections 64 --count 1"), "ulimit -n"),
    ];
    for (command, words) in table {
        let output = Command::new("sh").args(["-c", &command]).output().unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{command}: {text}");
        assert!(text.lines().count() == 1 && text.contains(words), "{command}: {text}");
    }
}

#[test]
fn a_blocked_io_uring_is_said_in_one_line() {
    let addr = tcp_server("127.0.0.1:0", TcpConduct::Good);
    for protocol in ["udp", "tcp"] {
        for errno in [libc::EPERM, libc::ENOSYS] {
            let mut command = Command::new(BLASTER);
            command.args([protocol, &addr.to_string(), "--count", "1", "--threads", "2"]);
            let denied =
                Denied { call: libc::SYS_io_uring_setup, first_argument: None, second_argument: None, errno };
            confine(&mut command, Confinement { limits: Vec::new(), denied: vec![denied] });
            let output = command.output().unwrap();
            let text = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{protocol}: {text}");
            let names_it = text.contains("io_uring_disabled") && text.contains("seccomp");
            assert!(text.lines().count() == 1 && names_it, "{protocol}: {text}");
        }
    }
}

#[test]
#[ignore = "needs root"]
fn no_route_is_said_in_one_line() {
    for protocol in ["udp", "tcp"] {
        let command = format!("ip link set lo up; exec {BLASTER} {protocol} 192.0.2.1:7 --count 1");
        let output = Command::new("unshare").args(["-n", "sh", "-c", &command]).output().unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.lines().count() == 1 && text.contains("192.0.2.1:7: Network is unreachable"), "{text}");
    }
}

/// The parts of an example: kind, received bytes, number of the message, first byte that differs.
fn which(example: &Value) -> (&str, u64, u64, Option<u64>) {
    let answers = &example["answers"];
    let byte = |name: &str| answers[name].as_u64();
    assert_eq!(byte("sent_byte").map(|sent| sent ^ 0x40), byte("came_byte"), "{example}");
    (
        example["kind"].as_str().unwrap(),
        number(&example["came_bytes"]),
        number(&answers["sequence"]),
        answers["differs_at"].as_u64(),
    )
}
