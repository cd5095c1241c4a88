//! In every mode, losses are counted by destination, and the worst are named. One dead destination does not end a run.

use std::net::{TcpListener, UdpSocket};

use serde_json::Value;

use crate::misbehaving::{Conduct, TcpConduct, UdpServer, tcp_server};
use crate::support::netns::ip;
use crate::support::{Server, private_network, side_by_side};
use crate::{blaster, number, parse, stderr};

/// The report of a run that ends with `status`.
fn report_of(flags: &str, status: i32) -> Value {
    let output = blaster(&format!("{flags} --json - --quiet"));
    assert_eq!(output.status.code(), Some(status), "{flags}: {}", stderr(&output));
    parse(&output)
}

/// Place and fault of each line.
fn faults(report: &Value) -> Vec<(&str, &str)> {
    let faults = report["destinations"]["faults"].as_array().unwrap().iter();
    faults.map(|fault| (fault["place"].as_str().unwrap(), fault["fault"].as_str().unwrap())).collect()
}

/// A port that is free at four addresses of this network.
fn free_port(network: &str) -> u16 {
    loop {
        let port = UdpSocket::bind(format!("{network}.1:0")).unwrap().local_addr().unwrap().port();
        let is_free = |last: u8| {
            let addr = format!("{network}.{last}:{port}");
            UdpSocket::bind(&addr).is_ok() && TcpListener::bind(&addr).is_ok()
        };
        if (1..=4).all(is_free) {
            return port;
        }
    }
}

#[test]
fn the_dead_one_of_four_udp_servers_is_named_in_every_mode() {
    let network = "127.5.1";
    let port = free_port(network);
    let servers = [1, 2, 4].map(|last| UdpServer::new(&format!("{network}.{last}:{port}"), Conduct::Good));
    // it takes everything and answers nothing
    let _silent = UdpSocket::bind(format!("{network}.3:{port}")).unwrap();
    let targets: Vec<String> = (1..=4).map(|last| format!("{network}.{last}:{port}")).collect();
    let targets = targets.join(" ");
    let flags = [
        "--flows 8 --in-flight 2 --count 200",
        "--flows 8 --rate 1k --count 200",
        "--flows 4 --mode flood --count 200",
        "--flows 3 --spray --rate 1k --count 400",
        "--flows 3 --threads 2 --spray --rate 1k --count 400 --gso 4",
        "--flows 8 --threads 3 --rate 1k --count 200 --gso 2",
    ];
    side_by_side(flags, |flags| {
        let found = report_of(&format!("udp {targets} {flags} --timeout 300ms --linger 3s"), 0);
        let destinations = &found["destinations"];
        assert_eq!(
            (number(&destinations["visited"]), number(&destinations["ok"])),
            (4, 3),
            "{flags}: {destinations}"
        );
        assert_eq!(faults(&found), [(&*format!("{network}.3:{port}"), "silent")], "{flags}");
        let fault = &destinations["faults"][0];
        assert!(number(&fault["sent"]) > 0 && fault["sent"] == fault["lost"], "{flags}: {fault}");
        assert_eq!(fault["lost"], found["totals"]["lost"], "{flags}: all losses are there");
        assert_eq!(destinations["only_faults"], false, "{flags}");
    });
    // the table names it, and a condition finds it
    let output =
        blaster(&format!("udp {targets} --flows 8 --rate 1k --count 200 --timeout 300ms --fail-if silent>0"));
    assert_eq!(output.status.code(), Some(3));
    let table = String::from_utf8(output.stdout).unwrap();
    let line = format!("\n  {network}.3:{port} silent (50 of 50)\n");
    assert!(table.contains(&line) && table.contains("3 ok, 1 silent"), "{table}");
    drop(servers);
}

/// A single destination is not named: there is nothing to tell apart.
#[test]
fn a_single_destination_is_not_listed() {
    let server = UdpServer::new("127.0.0.1:0", Conduct::Loses);
    let output = blaster(&format!("udp {} --count 100 --timeout 300ms", server.addr));
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(!table.contains("destinations") && table.contains("lost"), "{table}");
}

#[test]
fn one_dead_address_of_four_does_not_end_a_tcp_run() {
    let network = "127.5.2";
    let port = free_port(network);
    for last in [1, 2, 4] {
        tcp_server(&format!("{network}.{last}:{port}"), TcpConduct::Good);
    }
    let targets: Vec<String> = (1..=4).map(|last| format!("{network}.{last}:{port}")).collect();
    let targets = targets.join(" ");
    let dead = format!("{network}.3:{port}");
    for mode in ["ping-pong", "stream", "connect"] {
        // with four threads, one of them has only the dead one; also as the first of all
        for threads in [1, 4] {
            for targets in [&targets, &format!("{dead} {targets}")] {
                let flags = format!(
                    "tcp {targets} --mode {mode} --connections 8 --threads {threads} --duration 400ms"
                );
                let found = report_of(&flags, 0);
                let (totals, connections) = (&found["totals"], &found["connections"]);
                assert!(number(&totals["ok"]) > 0 && totals["ok"] == totals["sent"], "{flags}: {totals}");
                assert!(number(&connections["failed"]) > 0, "{flags}: {connections}");
                assert_eq!(faults(&found), [(&*dead, "silent")], "{flags}");
                assert_eq!(number(&found["destinations"]["ok"]), 3, "{flags}");
                // each of those connections has its reason
                assert_eq!(connections["failed"], found["destinations"]["faults"][0]["failed"], "{flags}");
            }
        }
    }
    // the measurement has them even if the connections failed before a warmup
    let found = report_of(
        &format!("tcp {targets} --connections 4 --warmup 100ms --duration 300ms --fail-if silent>0"),
        3,
    );
    assert_eq!(faults(&found), [(&*dead, "silent")]);
}

/// A run in which nobody can be reached is none, as before.
#[test]
fn four_dead_addresses_end_a_tcp_run_in_one_line() {
    let network = "127.5.3";
    let port = free_port(network);
    let targets: Vec<String> = (1..=4).map(|last| format!("{network}.{last}:{port}")).collect();
    for mode in ["ping-pong", "stream", "connect"] {
        for threads in [1, 4] {
            let flags = format!(
                "tcp {} --mode {mode} --connections 8 --threads {threads} --duration 400ms",
                targets.join(" ")
            );
            let output = blaster(&flags);
            let text = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{flags}: {text}");
            assert!(
                text.lines().count() == 1 && text.contains("does the server listen there?"),
                "{flags}: {text}"
            );
        }
    }
}

/// Addresses that swallow connections cost their timeout once, not once for each connection.
#[test]
#[ignore = "needs root"]
fn addresses_that_swallow_connections_delay_the_start_only_once() {
    private_network(|| {
        let server = Server::start(&["--tcp", "127.0.0.1:1234"]);
        ip("link add swallow type veth peer name beyond");
        ip("link set beyond up");
        ip("link set swallow up");
        ip("route add 10.77.0.0/24 dev swallow");
        ip("neigh add 10.77.0.1 lladdr 02:00:00:00:00:01 dev swallow");
        ip("addr add 10.78.0.1/32 dev swallow");
        let begin = std::time::Instant::now();
        let found =
            report_of("tcp 127.0.0.1:1234 10.77.0.1:1234 --connections 200 --duration 500ms --timeout 1s", 0);
        assert!(begin.elapsed().as_secs() < 20, "{:?}", begin.elapsed());
        assert_eq!(faults(&found), [("10.77.0.1:1234", "silent")]);
        assert_eq!(number(&found["connections"]["timed_out"]), 100, "{}", found["connections"]);
        server.stop();
    });
}

/// With more destinations than a table has places for, those with faults are named all the same.
#[test]
#[ignore = "needs root"]
fn faults_among_millions_of_destinations_are_named() {
    private_network(|| {
        let server = Server::start(&["--udp", "0.0.0.0:1234"]);
        ip("route add prohibit 127.9.0.0/16 table local");
        let found =
            report_of("udp 127.0.0.0/8:1234 --spray --count 20000 --rate 10k --seed 3 --timeout 5s", 0);
        let destinations = &found["destinations"];
        assert_eq!(destinations["only_faults"], true);
        let faults = faults(&found);
        let refused = number(&found["totals"]["send_failures"]);
        assert!(refused > 30 && faults.len() as u64 == refused, "{refused}: {faults:?}");
        let is_prohibited =
            |(place, fault): &(&str, &str)| place.starts_with("127.9.") && *fault == "unsendable";
        assert!(faults.iter().all(is_prohibited), "{faults:?}");
        // nobody knows which of the others are silent; a run whose first destination is refused would not begin
        ip("route del prohibit 127.9.0.0/16 table local");
        let output =
            blaster("udp 127.0.0.0/8:1234 --spray --count 100 --rate 10k --timeout 5s --fail-if silent>0");
        assert_eq!(output.status.code(), Some(3));
        assert!(String::from_utf8_lossy(&output.stdout).contains("not measured"), "{output:?}");
        server.stop();
    });
}

#[test]
fn one_that_accepts_and_never_answers_is_named_too() {
    let network = "127.5.4";
    let port = free_port(network);
    for last in [1, 2, 4] {
        tcp_server(&format!("{network}.{last}:{port}"), TcpConduct::Good);
    }
    tcp_server(&format!("{network}.3:{port}"), TcpConduct::Silent);
    let flags = format!(
        "tcp {network}.1:{port} {network}.2:{port} {network}.3:{port} {network}.4:{port} --connections 4 --duration 500ms --timeout 200ms"
    );
    let found = report_of(&flags, 0);
    assert_eq!(faults(&found), [(&*format!("{network}.3:{port}"), "silent")], "{found}");
}
