//! TCP servers that stop serving: blaster ends by itself, and the run fails.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::mem;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::misbehaving::{TcpConduct, tcp_server};
use crate::support::netns::setting;
use crate::support::sys::Pidfd;
use crate::support::{Server, private_network, side_by_side};
use crate::{BLASTER, counts, number, parse, stderr};

/// Longer than any of these runs takes, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs blaster until it ends by itself.
fn ends(flags: &str) -> Output {
    let mut child = Command::new(BLASTER)
        .args(flags.split_whitespace())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // the reports must not fill the pipe
    let mut stdout = child.stdout.take().unwrap();
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        stdout.read_to_end(&mut text).map(|_| text)
    });
    let ended = Pidfd::open(child.id()).unwrap().ends_within(PATIENCE);
    if !ended {
        child.kill().unwrap();
    }
    let mut output = child.wait_with_output().unwrap();
    output.stdout = reader.join().unwrap().unwrap();
    assert!(ended, "hangs: {flags}");
    output
}

/// Runs a load that must fail with a line that contains `words`.
fn fails(flags: &str, words: &str) -> Value {
    let output = ends(&format!("{flags} --json - --quiet"));
    let text = stderr(&output);
    let found = parse(&output);
    let summary = (&found["connections"], &found["totals"]);
    assert_eq!(output.status.code(), Some(1), "{flags}: {text} {summary:?}");
    assert!(text.lines().count() == 1 && text.contains(words), "{flags}: {text}");
    found
}

const MODES: [&str; 3] = ["ping-pong", "stream", "connect"];
const ENDS: [&str; 2] = ["--duration 700ms", "--count 3000"];

#[test]
fn a_server_that_never_answers_fails_the_run() {
    for conduct in [TcpConduct::Silent, TcpConduct::Deaf] {
        let addr = tcp_server("127.0.0.1:0", conduct);
        side_by_side(MODES.into_iter().flat_map(|mode| ENDS.map(|end| (mode, end))), |(mode, end)| {
            let flags = format!("tcp {addr} --mode {mode} {end} --connections 3 --threads 2 --timeout 200ms");
            let found = fails(&flags, "nothing came back");
            let totals = &found["totals"];
            assert!(number(&totals["sent"]) > 0 && totals["lost"] == totals["sent"], "{flags}: {totals}");
            // blaster ended them
            let connections = &found["connections"];
            assert_eq!(connections["broken"], 0, "{flags}: {connections}");
            assert_eq!(connections["stuck"], connections["established"], "{flags}: {connections}");
        });
    }
}

#[test]
fn a_server_that_dies_in_the_middle_fails_the_run() {
    for conduct in [TcpConduct::Dies(5_000), TcpConduct::Freezes(5_000)] {
        for (mode, end) in MODES.into_iter().flat_map(|mode| ENDS.map(|end| (mode, end))) {
            let addr = tcp_server("127.0.0.1:0", conduct);
            let flags = format!(
                "tcp {addr} --mode {mode} {end} --size 100 --connections 3 --threads 2 --timeout 200ms"
            );
            let found = fails(&flags, "no connection was served to the end");
            assert!(number(&found["totals"]["ok"]) > 0, "{conduct:?}, {flags}: {}", found["totals"]);
        }
    }
}

/// The accept queue is soon full, and then the kernel does not answer connections.
#[test]
fn a_server_that_accepts_nothing_fails_the_run() {
    for end in ["--duration 700ms", "--count 300"] {
        let addr = tcp_server("127.0.0.1:0", TcpConduct::Absent);
        let found = fails(
            &format!("tcp {addr} --mode connect {end} --connections 200 --timeout 300ms"),
            "nothing came back",
        );
        assert!(number(&found["connections"]["failed"]) > 0, "{}", found["connections"]);
    }
}

/// One connection in ten fails. The report shows it, and --fail-if judges it.
#[test]
fn a_server_that_drops_some_connections_is_a_server() {
    let addr = tcp_server("127.0.0.1:0", TcpConduct::Shuns);
    let output =
        ends(&format!("tcp {addr} --mode connect --connections 1 --count 98 --timeout 5s --json - --quiet"));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    for (condition, status) in [("broken>0", 3), ("failed>0,stuck>0,unsent>0", 0)] {
        let flags = format!(
            "tcp {addr} --mode connect --connections 1 --count 98 --timeout 5s --fail-if {condition}"
        );
        assert_eq!(ends(&flags).status.code(), Some(status), "{condition}");
    }
    let found = parse(&output);
    // blaster makes one connection before it begins
    assert_eq!(counts(&found), [("sent", 98), ("ok", 89), ("lost", 9)]);
    assert_eq!(number(&found["connections"]["broken"]), 9, "{}", found["connections"]);
}

/// An echo server that records the source of each connection since the last query.
fn server_that_knows_its_peers() -> (SocketAddr, Arc<Mutex<BTreeSet<IpAddr>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let peers: Arc<Mutex<BTreeSet<IpAddr>>> = Arc::default();
    let known = Arc::clone(&peers);
    thread::spawn(move || {
        loop {
            let (stream, peer) = listener.accept().unwrap();
            known.lock().unwrap().insert(peer.ip());
            thread::spawn(move || io::copy(&mut &stream, &mut &stream));
        }
    });
    (addr, peers)
}

#[test]
fn connections_come_from_the_source_that_was_asked_for() {
    let (addr, peers) = server_that_knows_its_peers();
    let run = |mode: &str, source: &str| {
        let output = ends(&format!(
            "tcp {addr} --mode {mode} --connections 20 --count 60 --seed 7 --timeout 5s --source {source} --json - --quiet"
        ));
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let found = parse(&output);
        assert_eq!(counts(&found), [("sent", 60), ("ok", 60)], "{mode} {source}");
        assert_eq!(found["load"]["source"], source);
        mem::take(&mut *peers.lock().unwrap())
    };
    for mode in MODES {
        let many = run(mode, "127.3.2.0/24");
        let prefix: ipnet::IpNet = "127.3.2.0/24".parse().unwrap();
        assert!(many.len() > 10 && many.iter().all(|source| prefix.contains(source)), "{mode}: {many:?}");
        assert_eq!(run(mode, "127.3.2.0/24"), many, "{mode}: the same seed draws the same");
        assert_eq!(run(mode, "127.0.0.77"), BTreeSet::from(["127.0.0.77".parse().unwrap()]), "{mode}");
    }

    let other_family = ends(&format!("tcp {addr} --count 1 --source ::1"));
    assert_eq!(other_family.status.code(), Some(2), "{}", stderr(&other_family));
    let output = ends(&format!("tcp {addr} --count 1 --source 192.0.2.77"));
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.lines().count() == 1 && text.contains("192.0.2.77") && text.contains("ip route"), "{text}");
}

/// The server is there all the time: this host has no local port left.
#[test]
#[ignore = "needs root"]
fn local_ports_that_are_used_up_are_blaster_s_own_limit() {
    private_network(|| {
        let server = Server::start(&["--tcp", "127.0.0.1:1234"]);
        setting("ipv4/ip_local_port_range", "50000 50020");
        let output = ends("tcp 127.0.0.1:1234 --mode connect --connections 2 --duration 1s --json -");
        let (found, text) = (parse(&output), stderr(&output));
        assert_eq!(output.status.code(), Some(0), "{text}");
        let totals = &found["totals"];
        assert!(number(&totals["ok"]) > 0 && totals["ok"] == totals["sent"], "{totals}");
        let connections = &found["connections"];
        assert!(number(&connections["failed"]) > 0, "{connections}");
        let warnings = found["warnings"].to_string();
        assert!(warnings.contains("blaster was the bottleneck: it had no local port for"), "{warnings}");
        // follow the advice
        setting("ipv4/ip_local_port_range", "50000 60999");
        let output = ends("tcp 127.0.0.1:1234 --mode connect --connections 2 --count 100 --json -");
        assert_eq!((output.status.code(), &parse(&output)["connections"]["failed"]), (Some(0), &0.into()));
        server.stop();
    });
}

/// A latency of the report, in milliseconds.
fn ms(found: &Value, from: &str, figure: &str) -> f64 {
    found["latency"][from][figure].as_f64().unwrap() / 1e6
}

/// Without a schedule, the connections wait with the server, and only a message on each of them sees the stall.
#[test]
fn a_server_that_stands_still_can_not_hide_it() {
    let addr = tcp_server("127.0.0.1:0", TcpConduct::Stalls(Duration::from_secs(1)));
    let output =
        ends(&format!("tcp {addr} --rate 1k --connections 8 --duration 4s --timeout 10s --json - --quiet"));
    let found = parse(&output);
    assert_eq!(counts(&found), [("sent", 4_000), ("ok", 4_000)], "{}", stderr(&output));
    assert_eq!((&found["load"]["mode"], &found["load"]["rate_per_s"]), (&"open".into(), &1_000.0.into()));
    for from in ["from_intended", "from_actual"] {
        let p99_9 = ms(&found, from, "p99_9_ns");
        assert!(p99_9 >= 900.0, "{from}: {p99_9} ms");
    }
    // about a quarter of all messages met the stall
    assert!(ms(&found, "from_intended", "p90_ns") >= 300.0, "{}", found["latency"]);
    // it is the server's: blaster has its own count
    assert!(found["generator"]["slip"]["count"] == 4_000, "{}", found["generator"]);
}

#[test]
fn messages_at_a_rate_on_many_connections_and_threads() {
    let addr = tcp_server("127.0.0.1:0", TcpConduct::Good);
    for flags in ["", "--threads 3 --connections 7", "--connections 1 --size 32-3000", "--size 65000"] {
        let found = parse(&ends(&format!(
            "tcp {addr} --rate 2k --count 1000 --timeout 20s {flags} --json - --quiet"
        )));
        assert_eq!(counts(&found), [("sent", 1_000), ("ok", 1_000)], "{flags}");
        // an echo on time can't come before the message was due
        assert!(number(&found["generator"]["unsent"]) == 0, "{flags}: {}", found["generator"]);
        let seconds = found["totals"]["sent_per_s"].as_f64().unwrap();
        assert!((1_000.0..2_100.0).contains(&seconds), "{flags}: {seconds}");
    }
}

/// A server that does not read fills the socket. Messages wait in order, count as sent, and are lost; blaster goes on.
#[test]
fn messages_wait_on_a_connection_that_takes_no_more() {
    let addr = tcp_server("127.0.0.1:0", TcpConduct::Deaf);
    let found = fails(
        &format!("tcp {addr} --rate 2k --size 60000 --connections 2 --duration 700ms --timeout 300ms"),
        "nothing came back",
    );
    let totals = &found["totals"];
    assert!(number(&totals["sent"]) >= 1_000 && totals["sent"] == totals["lost"], "{totals}");
    assert_eq!(number(&found["connections"]["stuck"]), 2, "{}", found["connections"]);
}

#[test]
fn connections_at_a_rate() {
    let addr = tcp_server("127.0.0.1:0", TcpConduct::Good);
    let output = ends(&format!(
        "tcp {addr} --mode connect --rate 200 --count 300 --threads 2 --timeout 10s --json - --quiet"
    ));
    let found = parse(&output);
    assert_eq!(counts(&found), [("sent", 300), ("ok", 300)], "{}", stderr(&output));
    assert_eq!(number(&found["connections"]["established"]), 300);
    assert_eq!((&found["load"]["mode"], &found["load"]["rate_per_s"]), (&"connect".into(), &200.0.into()));
    assert!(found["generator"]["slip"]["count"] == 300, "{}", found["generator"]);
    // with one connection at a time, the others wait for their turn, and the latency shows that
    let addr = tcp_server("127.0.0.1:0", TcpConduct::Stalls(Duration::ZERO));
    let one = parse(&ends(&format!(
        "tcp {addr} --mode connect --rate 100k --connections 1 --count 300 --timeout 10s --json - --quiet"
    )));
    assert_eq!(counts(&one), [("sent", 300), ("ok", 300)]);
    assert!(ms(&one, "from_intended", "p50_ns") > ms(&one, "from_actual", "p50_ns"), "{}", one["latency"]);
}
