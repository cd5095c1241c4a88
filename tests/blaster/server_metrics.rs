//! `--server-metrics`: the counts of both ends tell where datagrams were lost.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::metrics::{address_of, until_counted};
use crate::support::netns::{Netns, ip};
use crate::support::relay::{Mischief, Relay, Rule};
use crate::support::{Launch, Server, bounded, private_network, until};
use crate::{BLASTER, blaster, counts, number, parse, stderr};

fn server(options: &[&str]) -> Server {
    Launch::new(&[&["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"], options].concat()).ready()
}

/// A load of this server's UDP socket, with its metrics.
fn load(server: &Server, flags: &str) -> String {
    format!("udp {} --server-metrics http://{}/metrics {flags}", server.udp(), address_of(server))
}

/// Runs a load; its report, and its table.
fn run(load: &str) -> (Value, String) {
    let file = std::env::temp_dir().join(format!(
        "blaster-{}-{:?}.json",
        std::process::id(),
        std::thread::current().id()
    ));
    let output = blaster(&format!("{load} --json {}", file.display()));
    let text = std::fs::read(&file).unwrap_or_else(|error| panic!("{error}: {}", stderr(&output)));
    std::fs::remove_file(&file).unwrap();
    (serde_json::from_slice(&text).unwrap(), String::from_utf8(output.stdout).unwrap())
}

fn begin(load: &str) -> Child {
    let mut command = Command::new(BLASTER);
    command.args(load.split_whitespace()).args(["--json=-", "--quiet"]).stdout(Stdio::piped());
    command.spawn().unwrap()
}

fn losses(found: &Value) -> [u64; 3] {
    let losses = &found["server"]["losses"];
    ["on_the_way_there", "in_the_server", "on_the_way_back"].map(|place| number(&losses[place]))
}

fn warnings(found: &Value) -> String {
    found["warnings"].to_string()
}

#[test]
fn a_good_run_lost_nothing_anywhere() {
    bounded(|| {
        let server = server(&[]);
        for flags in
            ["--rate 5k --count 1000 --warmup 100ms", "--gso 8 --count 1000", "--size 32-1400 --count 1000"]
        {
            let (found, table) = run(&load(&server, &format!("{flags} --timeout 5s")));
            let sent = number(&found["totals"]["sent"]) + number(&found["warmup"]["sent"]);
            let counted = &found["server"]["counts"];
            assert_eq!(
                (number(&counted["received"]), number(&counted["sent"])),
                (sent, sent),
                "{}",
                found["server"]
            );
            assert_eq!(losses(&found), [0; 3]);
            let told = warnings(&found);
            assert!(found["server"]["from_others"] == 0 && !told.contains("others loaded"), "{told}");
            assert!(found["server"]["cpu_ns_per_echo"].as_f64().unwrap() > 100.0, "{}", found["server"]);
            assert!(table.contains("of its CPU per echo") && !table.contains(" lost: "), "{table}");
        }
        server.stop();
    });
}

/// A cable that loses frames of one direction in exact counts. The metrics have a cable of their own.
#[test]
#[ignore = "needs root"]
fn losses_there_and_back_are_told_apart_exactly() {
    private_network(|| {
        let clients = Netns::new();
        let relay = Relay::lay("near", "far", &clients);
        Netns::cable("mnear", "mfar", &clients);
        for command in [
            "address add 192.0.2.1/24 dev near",
            "link set near up",
            "address add 198.51.100.1/24 dev mnear",
            "link set mnear up",
        ] {
            ip(command);
        }
        clients.run(|| {
            for command in [
                "address add 192.0.2.2/24 dev far",
                "link set far up",
                "address add 198.51.100.2/24 dev mfar",
                "link set mfar up",
            ] {
                ip(command);
            }
        });
        let server = Launch::new(&["--listen", "192.0.2.1:1234", "--metrics", "198.51.100.1:9469"]).ready();
        let lose = |first, every| vec![Rule { mischief: Mischief::Lose, first, every }];
        for (there, back) in
            [(vec![], vec![]), (lose(3, 10), vec![]), (vec![], lose(3, 10)), (lose(3, 10), lose(5, 7))]
        {
            relay.rule(&back, &there);
            let (found, table) = clients.run(|| {
                run("udp 192.0.2.1:1234 --server-metrics http://198.51.100.1:9469/metrics --flows 4 --rate 1k --count 1000 \
                     --timeout 1s")
            });
            let [lost_back, lost_there] = relay.done();
            assert_eq!(losses(&found), [lost_there, 0, lost_back], "{}", found["server"]);
            assert_eq!(number(&found["totals"]["lost"]), lost_there + lost_back);
            assert_eq!((lost_there > 0, lost_back > 0), (!there.is_empty(), !back.is_empty()));
            if lost_there > 0 && lost_back > 0 {
                let line = format!(
                    "{} lost: {lost_there} on the way there, {lost_back} on the way back",
                    lost_there + lost_back
                );
                assert!(table.contains(&line), "{line}: {table}");
            }
        }
        server.stop();
    });
}

#[test]
fn what_the_server_refuses_has_its_reason() {
    bounded(|| {
        let server = server(&["--udp-prefix-rate", "100"]);
        let (found, table) =
            run(&load(&server, "--rate 1k --duration 1s --timeout 300ms --fail-if not_answered>0"));
        let [there, refused, back] = losses(&found);
        assert_eq!((there, back, refused), (0, 0, number(&found["totals"]["lost"])), "{}", found["server"]);
        assert!(refused > 500);
        assert_eq!(number(&found["server"]["counts"]["not_answered"]["prefix_rate"]), refused);
        let line = format!("{refused} lost: {refused} not answered by the server ({refused} prefix_rate)");
        assert!(table.contains(&line) && table.contains("FAILED"), "{line}: {table}");
        server.stop();
    });
}

/// A stopped server whose receive buffer overflows.
#[test]
fn drops_of_the_servers_receive_buffers_are_on_the_way_there() {
    bounded(|| {
        let server = server(&[]);
        let metrics = address_of(&server);
        let flags = "--rate 30k --size 1200 --duration 1s --timeout 20s --linger 3s --flows 8";
        let child = begin(&load(&server, flags));
        until_counted(metrics, "tubular_echo_received_datagrams_total", &["udp", "ipv4"], 1.0);
        server.pause();
        let port = format!(":{:04X} ", server.udp().port());
        until("the kernel has dropped datagrams", || {
            let table = std::fs::read_to_string("/proc/net/udp").unwrap();
            let line = table.lines().find(|line| line.contains(&port)).expect("the socket");
            line.split_whitespace().last().unwrap().parse::<u64>().unwrap() > 0
        });
        server.resume();
        let found = parse(&child.wait_with_output().unwrap());
        let [there, refused, back] = losses(&found);
        let dropped = number(&found["server"]["counts"]["receive_buffer_drops"]);
        assert!(there > 0 && (there, refused) == (dropped, 0), "{}", found["server"]);
        assert_eq!(there + back, number(&found["totals"]["lost"]));
        server.stop();
    });
}

/// Others hide behind what is lost: their number, or else their sizes, give them away.
#[test]
fn a_load_of_others_is_told() {
    bounded(|| {
        for (bytes, options) in [(64, [].as_slice()), (100, &["--udp-prefix-rate", "100"])] {
            let server = server(options);
            let (udp, metrics) = (server.udp(), address_of(&server));
            let child = begin(&load(&server, "--rate 1k --count 1000 --timeout 300ms"));
            until_counted(metrics, "tubular_echo_received_datagrams_total", &["udp", "ipv4"], 1.0);
            let other = UdpSocket::bind("127.0.0.1:0").unwrap();
            for _ in 0..10 {
                other.send_to(&vec![7; bytes], udp).unwrap();
            }
            let found = parse(&child.wait_with_output().unwrap());
            assert_eq!(number(&found["server"]["from_others"]), 10, "{}", found["server"]);
            assert!(found["server"]["losses"].is_null());
            let told = warnings(&found);
            assert!(
                told.contains("others loaded the server meanwhile: at least 10 of the datagrams"),
                "{told}"
            );
            server.stop();
        }
    });
}

#[test]
#[ignore = "needs root"]
fn a_server_that_restarts_in_the_run_is_told() {
    private_network(|| {
        let start = || Launch::new(&["--listen", "127.0.0.1:1234", "--metrics", "127.0.0.1:9469"]).ready();
        let metrics: SocketAddr = "127.0.0.1:9469".parse().unwrap();
        let first = start();
        let child = begin(
            "udp 127.0.0.1:1234 --server-metrics http://127.0.0.1:9469/metrics --rate 1k --duration 3s --timeout 300ms",
        );
        until_counted(metrics, "tubular_echo_received_datagrams_total", &["udp", "ipv4"], 100.0);
        first.stop();
        let second = start();
        let found = parse(&child.wait_with_output().unwrap());
        assert!(
            found["server"]["counts"].is_null() && found["server"]["losses"].is_null(),
            "{}",
            found["server"]
        );
        assert!(warnings(&found).contains("it restarted during the run"), "{}", warnings(&found));
        second.stop();

        // and one that is gone at the end
        let third = start();
        let child = begin(
            "udp 127.0.0.1:1234 --server-metrics http://127.0.0.1:9469/metrics --rate 1k --duration 2s --timeout 300ms",
        );
        until_counted(metrics, "tubular_echo_received_datagrams_total", &["udp", "ipv4"], 100.0);
        third.stop();
        let found = parse(&child.wait_with_output().unwrap());
        assert!(
            warnings(&found).contains("connecting to 127.0.0.1:9469 for metrics"),
            "{}",
            warnings(&found)
        );
    });
}

#[test]
fn connections_are_counted_at_both_ends() {
    bounded(|| {
        let server = server(&[]);
        let load = format!(
            "tcp {} --server-metrics http://{}/metrics --connections 7 --count 1000 --timeout 5s",
            server.tcp(),
            address_of(&server)
        );
        let (found, table) = run(&load);
        assert_eq!(counts(&found), [("sent", 1_000), ("ok", 1_000)]);
        let counted = &found["server"]["counts"];
        assert_eq!(
            (number(&counted["accepted"]), number(&counted["received"])),
            (7, 0),
            "{}",
            found["server"]
        );
        assert_eq!(counted["received_bytes"], found["totals"]["bytes_sent"]);
        assert_eq!(number(&found["server"]["from_others"]), 0);
        assert!(
            table.contains("server accepted 7 connections, ") && table.contains(" of its CPU per echo"),
            "{table}"
        );
        server.stop();
    });
}

/// Answers each connection with these bytes, and then ends or stays.
fn other_server(answer: &'static [u8], stays: bool) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1_000]);
            let _ = stream.write_all(answer);
            if stays {
                held.push(stream);
            }
        }
    });
    addr
}

#[test]
fn a_server_that_is_not_ours_is_told_in_one_line() {
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let cases = [
        (format!("http://{nobody}/metrics"), 1, "start the server with --metrics"),
        (
            format!("http://{}", other_server(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nup 1\n", false)),
            1,
            "does not serve the metrics of tubular-echo",
        ),
        (
            format!("http://{}", other_server(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", false)),
            1,
            "answers 404 Not Found",
        ),
        (format!("http://{}", other_server(b"SSH-2.0-OpenSSH_9.2\r\n", false)), 1, "does not answer by HTTP"),
        (format!("http://{}", other_server(b"", true)), 1, "no answer from"),
        ("http://8.8.8.8:9469/metrics".into(), 2, "is public"),
        ("http://localhost/metrics".into(), 2, "say localhost:1234"),
        ("https://127.0.0.1:9469/metrics".into(), 2, "is not http://HOST:PORT/metrics"),
    ];
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    for (url, status, words) in cases {
        let begun = Instant::now();
        let output =
            blaster(&format!("udp {} --count 1 --server-metrics {url}", silent.local_addr().unwrap()));
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(status), "{url}: {text}");
        assert!(text.lines().count() == 1 && text.contains(words), "{url}: {text}");
        assert!(begun.elapsed() < Duration::from_secs(30), "{url}");
    }
    silent.set_nonblocking(true).unwrap();
    assert!(silent.recv(&mut [0; 100]).is_err(), "nothing is sent before the metrics are read");
}
