//! The kernel's receive times: latency ends there, and not when blaster reads the replies.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::misbehaving::{Conduct, UdpServer};
use crate::support::side_by_side;
use crate::{BLASTER, blaster, counts, number, parse, report, signal};

/// A run in which blaster stands still for a second, with about ten replies on their way. They come within a tenth of
/// that.
fn run_with_a_pause(receive_time: &str) -> Value {
    let server = UdpServer::new("127.0.0.1:0", Conduct::Delays(Duration::from_millis(100)));
    let flags = format!(
        "udp {} --rate 1000 --duration 3s --timeout 600ms --linger 5s --receive-time {receive_time} --json - --quiet",
        server.addr
    );
    let child = Command::new(BLASTER).args(flags.split_whitespace()).stdout(Stdio::piped()).spawn().unwrap();
    server.wait_for(1_000);
    signal("STOP", child.id());
    std::thread::sleep(Duration::from_secs(1)); // the pause itself
    signal("CONT", child.id());
    parse(&child.wait_with_output().unwrap())
}

#[test]
fn late_reading_is_no_latency() {
    let found = run_with_a_pause("kernel");
    assert_eq!((&found["totals"]["sent"], &found["totals"]["ok"]), (&3_000.into(), &3_000.into()));
    let (latency, reading) = (&found["latency"]["from_actual"], &found["generator"]["reading_slip"]);
    assert!(number(&latency["max_ns"]) < 600_000_000, "{latency}");
    assert!(number(&reading["max_ns"]) >= 800_000_000, "{reading}");
    assert!(number(&found["generator"]["slip"]["max_ns"]) >= 900_000_000, "{}", found["generator"]);
    assert_eq!(found["load"]["receive_time"], "kernel");

    // the same by blaster's own reading: it takes its own pause for the server's
    let found = run_with_a_pause("own");
    let late = number(&found["totals"]["late"]);
    assert!(late > 0 && number(&found["totals"]["ok"]) + late == 3_000, "{}", found["totals"]);
    assert!(number(&found["latency"]["from_actual"]["max_ns"]) >= 800_000_000, "{}", found["latency"]);
    assert!(found["generator"]["reading_slip"].is_null() && found["generator"]["unstamped"] == 0);
}

#[test]
fn each_right_reply_has_its_receive_time_in_trains_too() {
    let flags =
        ["--rate 5k", "--gso 16 --rate 5k", "--gso 16 --gro off", "--in-flight 4", "--spray --rate 1k"];
    side_by_side(["127.0.0.1:0", "[::1]:0"], |bind| {
        let server = UdpServer::new(bind, Conduct::Loses);
        side_by_side(flags, |flags| {
            // a closed loop waits for each loss
            let flags = format!("--receive-time kernel {flags} --flows 4 --count 800 --timeout 100ms");
            let found = report(&format!("udp {} {flags}", server.addr));
            let generator = &found["generator"];
            let right = number(&found["totals"]["ok"]) + number(&found["totals"]["late"]);
            let stamped = number(&generator["reading_slip"]["count"]);
            assert_eq!(stamped + number(&generator["unstamped"]), right, "{bind} {flags}: {generator}");
            // the kernel may need a moment to begin with it
            assert!(stamped > 0, "{bind} {flags}: {generator}");
            assert_eq!(generator["clock_steps"], 0, "nobody sets it");
        });
    });
}

#[test]
fn reading_slip_is_a_row_and_a_condition() {
    let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
    let load = format!("udp {} --receive-time kernel --rate 2k --count 1000 --timeout 5s", server.addr);
    let html = std::env::temp_dir().join(format!("blaster-reading-{}.html", std::process::id()));
    for (condition, status) in [("reading_p99>1h", 0), ("reading_max>0s", 3), ("reading_p50<1h", 3)] {
        let output = blaster(&format!("{load} --fail-if {condition} --html {}", html.display()));
        let table = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(status), "{condition}: {table}");
        assert!(table.lines().any(|line| line.starts_with("  reading slip ")), "{table}");
    }
    assert!(std::fs::read_to_string(&html).unwrap().contains("reading slip"));
    std::fs::remove_file(html).unwrap();
    // what was not measured fails
    let output = blaster(&format!("{load} --receive-time own --fail-if reading_p99>1h").replacen(
        "--receive-time kernel",
        "",
        1,
    ));
    assert_eq!(output.status.code(), Some(3));
}

/// The loopback device has no clock.
#[test]
fn a_nic_without_a_clock_is_told() {
    let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
    let found = report(&format!("udp {} --receive-time nic --count 1000 --timeout 5s", server.addr));
    assert_eq!(counts(&found), [("sent", 1_000), ("ok", 1_000)]);
    let warnings = found["warnings"].to_string();
    assert!(
        warnings.contains("the NIC told no receive time for") && warnings.contains("ethtool -T"),
        "{warnings}"
    );
    assert!(number(&found["generator"]["reading_slip"]["count"]) > 0, "the kernel's counts: {found}");
}
