//! Signals: a run ends early, with a full report.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::misbehaving::{Conduct, UdpServer};
use crate::support::sys::{Pidfd, go_ahead_of_others};
use crate::{BLASTER, number, parse, signal, stderr};

#[test]
fn a_signal_ends_it_early_with_a_full_report() {
    let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
    let child = Command::new(BLASTER)
        .args(
            format!("udp {} --rate 2k --duration 1h --timeout 5s --json - --quiet", server.addr)
                .split_whitespace(),
        )
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    server.wait_for(500);
    signal("INT", child.id());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    let found = parse(&output);
    assert_eq!(found["ended_early"], true);
    let totals = &found["totals"];
    assert!(number(&totals["sent"]) >= 500 && totals["sent"] == totals["ok"], "{totals}");
}

/// Opening many sockets takes a while, and blaster must react to signals during it.
#[test]
fn a_signal_ends_it_while_it_opens_sockets() {
    let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
    let flags = format!("udp {} --flows 15000 --duration 1h --rate 1 --json - --quiet", server.addr);
    let child = Command::new(BLASTER)
        .args(flags.split_whitespace())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pidfd = Pidfd::open(child.id()).unwrap();
    go_ahead_of_others(); // blaster would have opened all before a busy machine lets this thread look
    let opened = || std::fs::read_dir(format!("/proc/{}/fd", child.id())).map_or(0, Iterator::count);
    while opened() < 200 {
        std::thread::yield_now();
    }
    pidfd.signal(libc::SIGTERM).unwrap();
    let mut most = 0;
    while !pidfd.ends_within(Duration::from_millis(1)) {
        most = most.max(opened());
    }
    let output = child.wait_with_output().unwrap();
    assert!(most < 15_000, "it went on to open {most}");
    assert_eq!(stderr(&output), "blaster: ended by a signal before anything was sent\n");
    assert_eq!(output.status.code(), Some(4));
}
