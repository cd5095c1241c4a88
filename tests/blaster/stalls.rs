//! Stalls, of the server and of blaster itself: neither can hide.

use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::misbehaving::{Conduct, TcpConduct, UdpServer, tcp_server};
use crate::{BLASTER, counts, number, parse, report, signal};

/// Coordinated omission: a stall of the server must show in the percentiles of all datagrams that were due during it,
/// not only of the one that met it.
#[test]
fn a_stalled_server_can_not_hide_it() {
    let server = UdpServer::new("127.0.0.1:0", Conduct::Stalls(Duration::from_millis(200)));
    let found = report(&format!("udp {} --rate 1000 --duration 5s --timeout 5s", server.addr));
    assert_eq!(counts(&found), [("sent", 5_000), ("ok", 5_000)]);
    let latency = &found["latency"]["from_intended"];
    assert!(number(&latency["max_ns"]) >= 199_000_000, "{latency}");
    assert!(number(&latency["p99_ns"]) >= 140_000_000, "{latency}");
}

/// The same if blaster itself is stopped: the intended send times do not move, and blaster reports the stall.
#[test]
fn a_stalled_blaster_can_not_hide_it_either() {
    let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
    let child = Command::new(BLASTER)
        .args(
            format!("udp {} --rate 1000 --duration 5s --timeout 5s --json - --quiet", server.addr)
                .split_whitespace(),
        )
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    server.wait_for(1_000);
    signal("STOP", child.id());
    std::thread::sleep(Duration::from_millis(200)); // the stall itself
    signal("CONT", child.id());
    let found = parse(&child.wait_with_output().unwrap());
    assert_eq!(counts(&found), [("sent", 5_000), ("ok", 5_000)]);
    assert!(number(&found["latency"]["from_intended"]["p99_ns"]) >= 140_000_000, "{}", found["latency"]);
    assert!(number(&found["generator"]["slip"]["max_ns"]) >= 199_000_000, "{}", found["generator"]);
    assert!(found["warnings"][0].as_str().unwrap().contains("blaster was the bottleneck"), "{found}");
}

/// A blaster that left some datagrams late is no headline over a server that did not answer at all, or that stalled for
/// longer.
#[test]
fn a_late_blaster_does_not_excuse_the_server() {
    let late = |flags: &str, has_begun: &dyn Fn()| {
        let mut command = Command::new(BLASTER);
        command.args(flags.split_whitespace()).args(["--json=-", "--quiet"]).stdout(Stdio::piped());
        let child = command.spawn().unwrap();
        has_begun();
        signal("STOP", child.id());
        std::thread::sleep(Duration::from_millis(80)); // the delay itself
        signal("CONT", child.id());
        let found = parse(&child.wait_with_output().unwrap());
        assert!(number(&found["generator"]["slip"]["p99_ns"]) >= 1_000_000, "{}", found["generator"]["slip"]);
        let told: Vec<_> = found["warnings"].as_array().unwrap().clone();
        told.iter().map(|told| told.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let flags = format!("udp {} --rate 1000 --duration 2s --timeout 100ms", silent.local_addr().unwrap());
    let told = late(&flags, &|| assert!(silent.recv_from(&mut [0; 100]).is_ok()));
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[0], "2,000 of 2,000 datagrams had no right reply in time: 2,000 lost");
    assert!(told[1].starts_with("no reply came and no ICMP error"), "{told:?}");

    let server = UdpServer::new("127.0.0.1:0", Conduct::Stalls(Duration::from_secs(1)));
    let flags = format!("udp {} --rate 1000 --duration 5s --timeout 5s", server.addr);
    let told = late(&flags, &|| server.wait_for(100));
    assert!(told.iter().all(|told| !told.contains("one datagram in a hundred left")), "{told:?}");
}

/// If other programs use its processor, a closed loop has no late sends that would show it.
#[test]
fn a_blaster_without_a_processor_says_so() {
    let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
    let tcp = tcp_server("127.0.0.1:0", TcpConduct::Good);
    let mut hog =
        Command::new("taskset").args(["-c", "0", "sh", "-c", "while :; do :; done"]).spawn().unwrap();
    let outputs = [format!("udp {}", server.addr), format!("tcp {tcp}")].map(|load| {
        let flags = format!("{load} --duration 2s --timeout 5s --json - --quiet");
        let mut command = Command::new("nice");
        command.args(["-n", "19", "taskset", "-c", "0", BLASTER]).args(flags.split_whitespace());
        command.output().unwrap()
    });
    hog.kill().unwrap();
    hog.wait().unwrap();
    for output in outputs {
        let found = parse(&output);
        let warnings = found["warnings"].to_string();
        assert!(warnings.contains("for a processor that others used"), "{warnings} {}", found["generator"]);
    }
}

/// Drops of its sockets during the warmup do not count, because the warmup does not count.
#[test]
fn drops_of_the_warmup_are_left_out() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let addr = server.local_addr().unwrap();
    let flags = "--flows 1 --rate 50 --warmup 3s --duration 200ms --linger 1ms --json - --quiet";
    let child = Command::new(BLASTER)
        .args(format!("udp {addr} {flags}").split_whitespace())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (len, peer) = server.recv_from(&mut [0; 2048]).unwrap();
    signal("STOP", child.id());
    let table = || std::fs::read_to_string("/proc/net/udp").unwrap();
    let drops = || -> u64 {
        let port = format!(":{:04X} ", peer.port());
        let table = table();
        let line = table.lines().find(|line| line.contains(&port)).expect("its socket is open");
        line.split_whitespace().last().unwrap().parse().unwrap()
    };
    // more replies than its receive buffer holds
    while drops() == 0 {
        for _ in 0..1_000 {
            server.send_to(&[0; 1_400], peer).unwrap();
        }
    }
    signal("CONT", child.id());
    let found = parse(&child.wait_with_output().unwrap());
    assert!(len >= 32 && number(&found["warmup"]["unattributed"]) > 0, "{}", found["warmup"]);
    assert_eq!(found["totals"]["own_drops"], 0, "{}", found["warnings"]);
}
