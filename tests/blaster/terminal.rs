//! What the screen and a log show while a run lasts.

use std::process::Command;

use crate::misbehaving::{Conduct, TcpConduct, UdpServer, tcp_server};
use crate::{BLASTER, blaster, parse, stderr};

/// The output of a terminal while blaster runs; `redirect` is the target of standard error.
fn on_a_terminal(server: &UdpServer, flags: &str, redirect: &str) -> String {
    let command = format!(
        "stty cols 120 rows 30; {BLASTER} udp {} --rate 500 --duration 2500ms --timeout 5s {flags} >/dev/null {redirect}",
        server.addr
    );
    let output =
        Command::new("script").args(["-qec", &command, "/dev/null"]).env("TERM", "xterm").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_terminal_shows_rate_loss_latency_and_slip() {
    let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
    let shown = on_a_terminal(&server, "", "");
    for words in ["rate", "/s", "not ok", "latency p99", "slip p99", "█", &server.addr.to_string()] {
        assert!(shown.contains(words), "{words:?}: {shown}");
    }
    assert_eq!(on_a_terminal(&server, "--quiet", ""), "");
    assert_eq!(on_a_terminal(&server, "", "2>/dev/null"), "");
}

/// A log file is no terminal, but its reader still wants the progress of a long run.
#[test]
fn a_log_gets_a_line_now_and_then() {
    let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
    let tcp = tcp_server("127.0.0.1:0", TcpConduct::Good);
    for load in [format!("udp {} --rate 500", server.addr), format!("tcp {tcp} --connections 1")] {
        let output = blaster(&format!("{load} --duration 1s --timeout 5s --every 250ms --json - --quiet"));
        let text = stderr(&output);
        assert!((1..=4).contains(&text.lines().count()), "{text}");
        let is_right = |line: &str| ["sent ", "ok ", "p50 ", "p99 "].iter().all(|word| line.contains(word));
        assert!(text.lines().all(is_right), "{text}");
        parse(&output);
    }
}
