//! Servers as other people write them: blaster says what each does. docs/blaster.md has the table; `ci/strangers` runs the
//! real ones where Debian has them.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::thread;

use serde_json::Value;

use crate::misbehaving::{Conduct, UdpServer};
use crate::support::sys::Pidfd;
use crate::{BLASTER, blaster, counts, number, parse, stderr};

/// Starts a UDP server that lives as long as the test process. It gets each datagram and its sender, and says what to send
/// to whom.
fn udp_server(
    mut reply: impl FnMut(&[u8], SocketAddr) -> Vec<(Vec<u8>, SocketAddr)> + Send + 'static,
) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        loop {
            let (len, peer) = socket.recv_from(&mut buffer).unwrap();
            for (reply, to) in reply(&buffer[..len], peer) {
                socket.send_to(&reply, to).unwrap();
            }
        }
    });
    addr
}

/// Starts a TCP server that lives as long as the test process.
fn tcp_server(serve: impl Fn(TcpStream) -> io::Result<()> + Send + Copy + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for connection in listener.incoming() {
            thread::spawn(move || connection.and_then(serve));
        }
    });
    addr
}

/// A run, as a newcomer sees it: the table, the line on standard error, the report.
struct Seen {
    table: String,
    error: String,
    status: Option<i32>,
    report: Value,
}

fn see(flags: &str) -> Seen {
    let path = std::env::temp_dir().join(format!(
        "blaster-{}-{:?}.json",
        std::process::id(),
        thread::current().id()
    ));
    let output = blaster(&format!("{flags} --json {}", path.display()));
    let report = std::fs::read(&path).unwrap_or_default();
    let _ = std::fs::remove_file(&path);
    Seen {
        table: String::from_utf8(output.stdout.clone()).unwrap(),
        error: stderr(&output),
        status: output.status.code(),
        report: if report.is_empty() {
            Value::Null
        } else {
            parse(&std::process::Output { stdout: report, ..output })
        },
    }
}

impl Seen {
    /// The run failed with one line that contains `words`.
    fn fails(&self, words: &str) {
        let Self { table, error, status, .. } = self;
        assert_eq!(*status, Some(1), "{error}{table}");
        assert!(error.lines().count() == 1 && error.contains(words), "{words}: {error}{table}");
    }

    /// The table has a line, or lines that are one after the blanks are taken together, with these words.
    fn shows(&self, words: &str) {
        let table = self.table.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(table.contains(words), "{words}: {}", self.table);
    }
}

/// The UDP server of many tutorials, in Go and others: it greets before it echoes.
#[test]
fn a_server_that_greets_changes_what_it_echoes() {
    let addr = udp_server(|data, peer| vec![([b"hi ", data].concat(), peer)]);
    for load in ["--flows 2", "--flows 2 --rate 1k", "--flows 1 --in-flight 8"] {
        let seen = see(&format!("udp {addr} --count 100 --timeout 5s {load}"));
        seen.fails(
            "no right reply came back for 100 sent: every reply was wrong: 100 corrupted: the server changes",
        );
        seen.shows("64 bytes to 127.0.0.1:");
        seen.shows(", 3 bytes before ours: 68 69 20 \"hi \" (flow 0, number 0)");
        assert_eq!(counts(&seen.report), [("sent", 100), ("corrupted", 100)], "{load}");
    }
    let addr = tcp_server(|mut stream| {
        let mut data = [0; 64];
        loop {
            let len = stream.read(&mut data)?;
            if len == 0 {
                return Ok(());
            }
            stream.write_all(&[b"hi ", &data[..len]].concat())?;
        }
    });
    let seen = see(&format!("tcp {addr} --connections 2 --mode connect --count 20 --timeout 5s"));
    seen.fails("every reply was wrong: 20 corrupted: the server changes what it echoes");
    seen.shows("byte 0 differs: sent 0x00, got 0x68; sent 00 00 00 00 00 00 00 00");
    seen.shows("68 69 20 00 00 00 00 00 00 00 00");
}

/// A server that answers with something of its own, as a protocol that is no echo does.
#[test]
fn a_server_that_says_something_else_is_shown_beside_what_was_sent() {
    let addr = udp_server(|_, peer| vec![(b"ERROR: bad request\n".to_vec(), peer)]);
    let seen = see(&format!("udp {addr} --flows 2 --count 100 --timeout 5s"));
    seen.fails("every reply was wrong: 100 corrupted");
    seen.shows("byte 0 differs: sent 0x00, got 0x45; sent 00 00 00 00");
    seen.shows("got 45 52 52 4f 52 3a 20 62 61 64 20 72 65 71 75 65 … \"ERROR: bad reque\"");
    assert_eq!(counts(&seen.report), [("sent", 100), ("corrupted", 100)]);
    // with several in flight nobody knows which one it answers
    let addr = udp_server({
        let mut kept = VecDeque::new();
        move |_, peer| {
            kept.push_back(peer);
            if kept.len() == 8 { kept.drain(..).map(|peer| (b"no".to_vec(), peer)).collect() } else { vec![] }
        }
    });
    let seen = see(&format!("udp {addr} --flows 1 --in-flight 8 --count 8 --timeout 1s"));
    seen.fails("no right reply came back for 8 sent: 8 replies came that answered nothing of ours");
    seen.shows("unattributed: 2 bytes from 127.0.0.1:");
    seen.shows(": 6e 6f; in flight: 64 bytes to 127.0.0.1:");
    assert_eq!(counts(&seen.report), [("sent", 8), ("lost", 8), ("unattributed", 8)]);
}

/// A server that uses one buffer for two clients.
#[test]
fn a_server_that_mixes_up_its_clients_is_caught() {
    let addr = udp_server({
        let mut waiting: Option<SocketAddr> = None;
        move |data, peer| match waiting.take() {
            Some(other) if other != peer => vec![(data.to_vec(), other), (data.to_vec(), peer)],
            _ => {
                waiting = Some(peer);
                vec![]
            }
        }
    });
    let seen = see(&format!("udp {addr} --flows 2 --count 2 --timeout 1s"));
    seen.shows(
        "1 reply had the bytes of another flow's message: the server mixes up its clients, or its buffers",
    );
    seen.shows("crossed: 64 bytes to 127.0.0.1:");
    seen.shows("with the bytes of flow 1, number 0, byte");
    assert_eq!(counts(&seen.report), [("sent", 2), ("ok", 1), ("corrupted", 1), ("crossed", 1)]);
    assert_eq!(
        blaster(&format!("udp {addr} --flows 2 --count 2 --timeout 1s --fail-if crossed>0")).status.code(),
        Some(3)
    );
}

#[test]
fn a_tcp_server_that_mixes_up_its_clients_is_caught() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut one, _) = listener.accept().unwrap();
        let (mut other, _) = listener.accept().unwrap();
        // both wait for their echoes before either gets the other's
        let mut messages = [[0; 64]; 2];
        while one.read_exact(&mut messages[0]).and_then(|()| other.read_exact(&mut messages[1])).is_ok() {
            one.write_all(&messages[1]).unwrap();
            other.write_all(&messages[0]).unwrap();
        }
    });
    let seen = see(&format!("tcp {addr} --connections 2 --count 10 --timeout 5s"));
    seen.fails("10 replies had the bytes of another flow's message");
    seen.shows("crossed: 64 bytes to 127.0.0.1:");
    seen.shows("with the bytes of flow 1, number 0, byte");
    assert_eq!(counts(&seen.report), [("sent", 10), ("corrupted", 10), ("crossed", 10)]);
}

#[test]
fn with_many_flows_order_is_seen_within_a_flow() {
    let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
    for (flows, is_said) in [(1, false), (2, true)] {
        let seen = see(&format!("udp {} --flows {flows} --count 20 --timeout 5s", server.addr));
        assert_eq!(
            seen.table.contains("reordered                  0   seen within a flow only"),
            is_said,
            "{}",
            seen.table
        );
    }
}

#[test]
fn a_port_that_nobody_listens_on_is_named_in_words() {
    let addr = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let seen = see(&format!("udp {addr} --flows 2 --count 10"));
    seen.fails("nothing came back for 10 sent: ICMP port unreachable: nobody listens there");
    seen.shows(&format!("10 × ICMP port unreachable from 127.0.0.1 about {addr}"));
}

/// Each ICMP error makes room in flight. Without a pause a closed loop would send a hundred thousand a second.
#[test]
fn a_closed_loop_does_not_storm_a_port_that_nobody_listens_on() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    drop(socket);
    for (flows, in_flight) in [(64, 1), (4, 16)] {
        let seen = see(&format!("udp {addr} --flows {flows} --in-flight {in_flight} --duration 1s"));
        let totals = &seen.report["totals"];
        let sent = number(&totals["sent"]);
        // pauses of 1, 2, 4 … 64 and then of 100 ms: 18 rounds in a second
        assert!(
            sent >= flows * in_flight && sent <= flows * in_flight * 20,
            "{flows} × {in_flight}: {totals}"
        );
        assert_eq!(totals["sent"], totals["unreachable"], "{totals}");
    }
}

/// And it goes on at full speed as soon as somebody answers.
#[test]
fn a_closed_loop_goes_on_when_the_server_comes() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    drop(socket);
    let flags = format!("udp {addr} --flows 4 --duration 1h --timeout 5s --every 100ms --json - --quiet");
    let mut child = Command::new(BLASTER)
        .args(flags.split_whitespace())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut progress = BufReader::new(child.stderr.take().unwrap()).lines();
    let is_unanswered = |line: &String| !line.contains("sent 0/s") && line.contains("ok 0/s");
    progress.find(|line| is_unanswered(line.as_ref().unwrap())).expect("it meets the closed port").unwrap();
    let reader = thread::spawn(move || progress.for_each(drop));
    let server = UdpServer::new(&addr.to_string(), Conduct::Good);
    server.wait_for(2_000);
    Pidfd::open(child.id()).unwrap().signal(libc::SIGINT).unwrap();
    let found = parse(&child.wait_with_output().unwrap());
    reader.join().unwrap();
    let totals = &found["totals"];
    assert!(number(&totals["ok"]) >= 1_900 && number(&totals["unreachable"]) > 0, "{totals}");
    assert!(number(&totals["unreachable"]) < 500, "{totals}");
}

#[test]
fn silence_is_told_from_a_closed_port() {
    let addr = udp_server(|_, _| vec![]);
    see(&format!("udp {addr} --flows 2 --count 10 --timeout 100ms"))
        .fails("nothing came back for 10 sent: no reply came and no ICMP error: the server does not answer");
}

#[test]
fn a_tcp_server_that_closes_at_once_is_told() {
    let addr = tcp_server(|_| Ok(()));
    let seen = see(&format!("tcp {addr} --mode connect --connections 2 --count 10 --timeout 5s"));
    seen.fails("nothing came back for 10 sent: the server ");
    let it = &seen.report["connections"];
    assert_eq!(number(&it["closed"]) + number(&it["reset"]), number(&it["broken"]), "{it}");
    assert!(number(&it["broken"]) == 10, "{it}");
    let seen = see(&format!("tcp {addr} --connections 2 --count 10 --timeout 5s"));
    seen.fails("nothing came back for 2 sent: the server ");
}

/// As `ncat --listen` without --keep-open: it stops listening when the first connection has come.
#[test]
fn a_tcp_server_of_one_connection_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        drop(listener);
        io::copy(&mut &stream, &mut &stream).unwrap();
    });
    // blaster's own test connection is the one
    let seen = see(&format!("tcp {addr} --mode connect --connections 2 --count 10 --timeout 5s"));
    seen.fails("nothing could be sent: ");
    seen.fails("connections refused: nobody listens there, or no longer");
}

/// A backlog of 5, and nobody accepts: the kernel establishes six connections and drops the rest.
#[test]
fn a_full_accept_queue_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(5).unwrap()).unwrap();
    let seen = see(&format!("tcp {addr} --connections 16 --mode connect --duration 500ms --timeout 200ms"));
    seen.fails("nothing came back for ");
    seen.fails("the server's accept queue is full (its backlog), or a firewall drops them");
    seen.fails(
        "that did not answer: the server does not accept them (its backlog holds them), or does not echo",
    );
    assert!(number(&seen.report["connections"]["timed_out"]) > 0, "{}", seen.report["connections"]);
    drop(listener);
}
