//! The metrics and the health check, and that neither honest nor hostile HTTP clients disturb the echo.

#![allow(clippy::float_cmp, reason = "counts of whole things are exact")]

mod support;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::metrics::{Samples, address_of, ask, get, scrape, sum, until_counted};
use support::server::Protocol;
use support::udp::UdpClient;
use support::{Launch, PATIENCE, Server, bounded, private_network, stuck, tcp, until};
use tubular_echo::check::walk::walk;
use tubular_echo::kernel::pidfd::PidFd;

const EVERYWHERE: [&str; 6] = ["--listen", "127.0.0.1:0", "--listen", "[::1]:0", "--metrics", "127.0.0.1:0"];

fn server(more: &[&str]) -> Server {
    Server::start(&[&EVERYWHERE[..], more].concat())
}

fn of(server: &Server, wanted: Protocol, like: &str) -> SocketAddr {
    let ip: IpAddr = like.parse().unwrap();
    let found = server.addresses().iter().find(|(protocol, addr)| *protocol == wanted && addr.ip() == ip);
    found.expect("an address of the server").1
}

#[test]
fn counts_are_true_and_never_fall_under_load() {
    const EACH: usize = 2_000;
    bounded(|| {
        let server = server(&["--workers", "2", "--label", "test"]);
        let metrics = address_of(&server);
        let clients = ["127.0.0.1", "::1"].map(|ip| {
            let (udp, tcp) = (of(&server, Protocol::Udp, ip), of(&server, Protocol::Tcp, ip));
            thread::spawn(move || {
                let client = UdpClient::beside(udp);
                for _ in 0..EACH / 10 {
                    client.echo(udp, &[20; 10], 7);
                }
                tcp::echo(&mut tcp::connect(tcp), &[1; 5_000]);
            })
        });
        let mut before = Samples::new();
        let mut scrapes = 0;
        while clients.iter().any(|client| !client.is_finished()) || scrapes < 5 {
            let now = scrape(metrics);
            for (sample, was) in before.iter().filter(|(sample, _)| sample.contains("_total")) {
                assert!(now[sample] >= *was, "{sample} fell from {was} to {}", now[sample]);
            }
            before = now;
            scrapes += 1;
        }
        for client in clients {
            client.join().expect("every echo is right");
        }
        until("the connections are closed", || {
            sum(&scrape(metrics), "tubular_echo_open_connections", &[]) == 0.0
        });
        until_counted(metrics, "tubular_echo_sent_datagrams_total", &[], 2.0 * EACH as f64);
        let now = scrape(metrics);
        for domain in [r#"domain="ipv4""#, r#"domain="ipv6""#] {
            let udp = [r#"label="test""#, domain, r#"protocol="udp""#];
            let tcp = [r#"label="test""#, domain, r#"protocol="tcp""#];
            let total =
                |name: &str, labels: &[&str]| sum(&now, &format!("tubular_echo_{name}_total"), labels);
            assert_eq!(total("received_datagrams", &udp), EACH as f64);
            assert_eq!(total("sent_datagrams", &udp), EACH as f64);
            assert_eq!(total("sent_bytes", &udp), (EACH * 20) as f64);
            assert_eq!(total("dropped_datagrams", &udp), 0.0);
            assert_eq!(total("accepted_connections", &tcp), 1.0);
            assert_eq!(total("received_bytes", &tcp), 5_000.0);
            assert_eq!(total("closed_connections", &[&tcp[..], &[r#"reason="finished""#]].concat()), 1.0);
        }
        let end = server.stop();
        assert_eq!(end.counter("udp_datagrams_in"), 2 * EACH as u64);
        println!("{scrapes} scrapes under load");
    });
}

#[test]
fn the_process_tells_what_every_process_tells() {
    bounded(|| {
        let server = server(&["--workers", "3"]);
        let now = scrape(address_of(&server));
        assert_eq!(
            now[concat!(r#"tubular_echo_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""}"#)],
            1.0
        );
        assert_eq!(now.keys().filter(|key| key.starts_with("tubular_echo_worker_turns_total")).count(), 3);
        let running_s =
            std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64() - now["process_start_time_seconds"];
        assert!((0.0..60.0).contains(&running_s), "{running_s}");
        // the threads main, signals, log, metrics, workers
        assert_eq!(now["process_threads"], 7.0);
        assert!(now["process_open_fds"] >= 3.0 + 4.0 * 3.0 && now["process_open_fds"] < 64.0, "{now:?}");
        assert!(now["process_max_fds"] >= now["process_open_fds"]);
        assert!(now["process_resident_memory_bytes"] > 1e6);
        assert!(now["process_virtual_memory_bytes"] > now["process_resident_memory_bytes"]);
        assert!(now["process_cpu_seconds_total"] > 0.0);
        server.stop();
    });
}

/// Cells of the tables in docs/metrics.md whose first cell is a name in backticks, by their heading.
fn table(document: &str, heading: &str) -> Vec<Vec<String>> {
    let (_, section) = document.split_once(&format!("\n## {heading}\n")).expect("a heading");
    let section = section.split("\n## ").next().expect("a section");
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect())
        .collect()
}

/// The names or values of one label in the samples of a family, in order and once each.
fn once<'a>(
    samples: &'a Samples,
    family: &str,
    part: impl Fn(&'a str, &'a str) -> Option<&'a str>,
) -> String {
    let of_family = samples.keys().filter_map(|sample| {
        let (name, rest) = sample.split_once('{').unwrap_or((sample, ""));
        (name == family).then_some(rest.trim_end_matches('}'))
    });
    let labels = of_family.flat_map(|labels| labels.split(',').filter_map(|label| label.split_once('=')));
    labels
        .filter_map(|(name, value)| part(name, value))
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect::<Vec<_>>()
        .join(", ")
}

fn document(name: &str) -> String {
    std::fs::read_to_string(format!("{}/docs/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The families of a text, each with its type and its labels but `label`.
fn families<'a>(text: &'a str, samples: &Samples) -> Vec<(&'a str, String)> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let told = types.map(|(family, kind)| {
        let sample = if kind == "histogram" { format!("{family}_count") } else { family.to_owned() };
        let labels = once(samples, &sample, |name, _| (name != "label").then_some(name));
        (family, format!("{family}: {kind} by {labels}"))
    });
    told.collect()
}

/// The same of the table below a heading of a document.
fn told_families(document: &str, heading: &str) -> BTreeSet<String> {
    let rows = table(document, heading);
    assert!(rows.iter().all(|row| row.len() == 4 && row[3].len() > 9), "{rows:?}");
    rows.iter().map(|row| format!("{}: {} by {}", row[0], row[1], row[2])).collect()
}

#[test]
fn the_document_tells_every_family_with_its_type_its_labels_and_its_reasons() {
    bounded(|| {
        let document = document("metrics.md");
        let server = server(&["--label", "test"]);
        let text = get(address_of(&server), "/metrics").body;
        let samples = support::metrics::read(&text);
        let served: BTreeSet<_> = families(&text, &samples)
            .into_iter()
            .map(|(family, told)| {
                let labelled = samples
                    .keys()
                    .any(|sample| sample.starts_with(family) && sample.contains("label=\"test\""));
                assert_eq!(labelled, told.contains("domain"), "{family}");
                told
            })
            .collect();
        assert_eq!(told_families(&document, "The families"), served, "docs/metrics.md against /metrics");

        let reasons = |family| {
            once(&samples, family, |name, value| (name == "reason").then(|| value.trim_matches('"')))
        };
        let mut served: Vec<_> =
            ["tubular_echo_closed_connections_total", "tubular_echo_dropped_datagrams_total"]
                .iter()
                .flat_map(|family| reasons(family).split(", ").map(str::to_owned).collect::<Vec<_>>())
                .collect();
        let mut told: Vec<_> = table(&document, "Reasons").iter().map(|row| row[0].clone()).collect();
        served.sort();
        told.sort();
        assert_eq!(told, served, "the reasons of docs/metrics.md against /metrics");

        // and the metrics that the queries and alerts use
        let words = document.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let ours = words.filter(|word| word.starts_with("tubular_echo_") || word.starts_with("process_"));
        for name in ours {
            assert!(text.contains(&format!("# TYPE {name} ")), "docs/metrics.md names {name}");
        }
        server.stop();
    });
}

/// A blaster with this load for an hour, and the address of its metrics.
fn watched_blaster(load: &str) -> (Ended, SocketAddr) {
    let mut blaster = Command::new(env!("CARGO_BIN_EXE_blaster"))
        .args(load.split_whitespace())
        .args(["--duration", "1h", "--metrics", "127.0.0.1:0"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start blaster");
    let stderr = blaster.stderr.take().expect("a pipe");
    let blaster = Ended(blaster);
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stderr));
    let url = lines.find_map(|line| Some(line.ok()?.split_once("metrics on http://")?.1.to_owned()));
    let url = url.expect("a line on standard error");
    (blaster, url.strip_suffix("/metrics").expect("a path").parse().expect("an address"))
}

/// A program that ends with the test.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn blasters_document_tells_every_family_and_its_metrics_are_true() {
    bounded(|| {
        let server = server(&[]);
        let there = of(&server, Protocol::Udp, "127.0.0.1");
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let nobody = silent.local_addr().unwrap();
        let (_blaster, metrics) = watched_blaster(&format!(
            "udp {there} {nobody} --flows 2 --rate 200 --timeout 100ms --linger 200ms"
        ));
        let lost = ["outcome=\"lost\""];
        until("datagrams are given up", || sum(&scrape(metrics), "blaster_outcomes_total", &lost) > 100.0);
        let text = get(metrics, "/metrics").body;
        let now = support::metrics::read(&text);
        let served: BTreeSet<_> = families(&text, &now).into_iter().map(|(_, told)| told).collect();
        assert_eq!(
            told_families(&document("blaster.md"), "Metrics of a run"),
            served,
            "docs/blaster.md against /metrics"
        );
        let (sent, ok) = (
            sum(&now, "blaster_sent_messages_total", &[]),
            sum(&now, "blaster_outcomes_total", &["outcome=\"ok\""]),
        );
        let decided = sum(&now, "blaster_outcomes_total", &[]);
        assert_eq!(sent, decided + sum(&now, "blaster_waiting_messages", &[]), "{text}");
        assert!(ok > 100.0 && ok <= sent / 2.0 + 1.0, "{ok} of {sent}");
        assert_eq!(sum(&now, "blaster_destinations", &["fault=\"silent\""]), 1.0);
        assert_eq!(sum(&now, "blaster_destinations", &["fault=\"none\""]), 1.0);
        let outage = sum(&now, "blaster_outage_seconds", &[&format!("destination=\"{nobody}\"")]);
        assert!(outage >= 1.0 && outage == sum(&now, "blaster_longest_outage_seconds", &[]), "{text}");
        let counted = sum(&now, "blaster_latency_seconds_count", &[]);
        assert!(counted >= ok && sum(&now, "blaster_latency_seconds_sum", &[]) < counted * 0.1, "{text}");
        assert_eq!(sum(&now, "blaster_latency_seconds_bucket", &["le=\"+Inf\""]), counted);
        assert_eq!(get(metrics, "/healthz").body, "ok\n");
        let words = document("blaster.md");
        let words = words.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for name in words.filter(|word| word.starts_with("blaster_")) {
            let parts = ["_bucket", "_sum", "_count"];
            let family = parts.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name);
            assert!(text.contains(&format!("# TYPE {family} ")), "docs/blaster.md names {name}");
        }
        server.stop();
    });
}

#[test]
fn what_is_not_there_is_told() {
    bounded(|| {
        let server = server(&[]);
        let metrics = address_of(&server);
        assert_eq!(get(metrics, "/").status, 404);
        let refused = ask(metrics, "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        assert!(refused.status == 405 && refused.head.contains("allow: get, head"), "{}", refused.head);
        let head = ask(metrics, "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!((head.status, head.body.as_str()), (200, ""));
        assert_eq!(ask(metrics, "GET /healthz HTTP/1.0\r\n\r\n").body, "ok\n");
        server.stop();
    });
}

#[test]
fn healthy_until_the_end_begins() {
    bounded(|| {
        let server = server(&["--drain-timeout", "20s"]);
        let metrics = address_of(&server);
        assert_eq!(get(metrics, "/healthz").status, 200);
        let mut stays = tcp::connect(of(&server, Protocol::Tcp, "127.0.0.1"));
        tcp::echo(&mut stays, b"here");
        server.signal(libc::SIGTERM);
        // the server sends a FIN and waits for the client's
        until("it is unhealthy", || get(metrics, "/healthz").status == 503);
        let answer = get(metrics, "/healthz");
        assert!(answer.body.starts_with("draining"), "{}", answer.body);
        assert_eq!(sum(&scrape(metrics), "tubular_echo_open_connections", &[]), 1.0);
        drop(stays);
        assert!(server.pidfd.ends_within(PATIENCE));
        assert_eq!(server.wait().code, Some(0));
    });
}

#[test]
#[ignore = "needs root"]
fn a_stuck_worker_is_unhealthy() {
    bounded(|| {
        let server = server(&["--workers", "2"]);
        let metrics = address_of(&server);
        let begun = Instant::now();
        until("idle workers were watched for longer than it takes to find one stuck", || {
            assert_eq!(get(metrics, "/healthz").status, 200);
            begun.elapsed() > Duration::from_secs(4)
        });
        let tracer = stuck::hold(server.worker_threads()[1]).expect("hold a worker");
        until("the worker is found stuck", || get(metrics, "/healthz").status == 503);
        let answer = get(metrics, "/healthz");
        assert!(answer.body.starts_with("worker 1 has not turned"), "{}", answer.body);
        drop(server);
        tracer.join().expect("the tracer");
    });
}

#[test]
fn a_taken_address_is_told_before_anything_is_served() {
    bounded(|| {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = taken.local_addr().unwrap().to_string();
        let refusal = Launch::new(&["--listen", "127.0.0.1:0", "--metrics", &addr]).refused();
        assert_eq!((refusal.code, refusal.ready_count, refusal.stderr.len()), (Some(1), 0, 1));
        let line = &refusal.stderr[0];
        assert!(line.starts_with(&format!("error: cannot serve metrics on {addr}: ")), "{line}");
        assert!(line.contains("choose another port"), "{line}");
    });
}

/// Silent connections, unfinished requests, floods: a scrape is still answered at once, the echo goes on, and no
/// connection stays.
#[test]
fn nobody_can_keep_the_scraper_away() {
    const HOSTILE: usize = 300;
    bounded(|| {
        let server = server(&[]);
        let metrics = address_of(&server);
        let (udp, fds_before) = (of(&server, Protocol::Udp, "127.0.0.1"), descriptors_of_metrics(&server));
        let mut hostile: Vec<TcpStream> = (0..HOSTILE)
            .map(|number| {
                let mut stream = tcp::connect(metrics);
                let _ = stream
                    .write_all([&b""[..], b"GET /metrics HTTP/1.1\r\nX: ", b"\xff\x00\r\n\r\n"][number % 3]);
                stream
            })
            .collect();
        let begun = Instant::now();
        scrape(metrics);
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        assert_eq!(get(metrics, "/healthz").status, 200);
        UdpClient::beside(udp).echo(udp, &[100; 10], 1);
        // 32 connections at a time, and the descriptors of the listener and the runtime
        assert!(descriptors_of_metrics(&server) <= 32 + fds_before, "connections are bounded");

        let endless = TcpStream::connect(metrics).unwrap();
        let finished = Arc::new(AtomicBool::new(false));
        let writer = thread::spawn({
            let finished = Arc::clone(&finished);
            let mut stream = endless.try_clone().unwrap();
            move || {
                let mut sent = stream.write(b"GET /metrics HTTP/1.1\r\n").unwrap_or(0);
                while stream.write_all(&[b'a'; 1024]).is_ok() {
                    sent += 1024;
                }
                finished.store(true, Ordering::Relaxed);
                sent
            }
        });
        until("an endless request is cut off", || finished.load(Ordering::Relaxed));
        println!("an endless request was cut off after {} KiB", writer.join().unwrap() >> 10);

        for stream in &mut hostile {
            // closed or reset: only the end matters
            let _ = stream.read_to_end(&mut Vec::new());
        }
        until("their descriptors are closed", || descriptors_of_metrics(&server) == fds_before);
        server.stop();
    });
}

/// The open descriptors of the metrics thread, which has its own descriptor table.
fn descriptors_of_metrics(server: &Server) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).expect("the server's threads");
    let metrics = tasks
        .map(|task| task.unwrap().path())
        .find(|task| std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "metrics"));
    std::fs::read_dir(metrics.expect("a thread named metrics").join("fd")).expect("its descriptors").count()
}

#[test]
#[ignore = "needs root"]
fn register_pid_never_meets_the_metrics() {
    private_network(|| {
        let plain = ["--listen", "127.0.0.1:1234", "--listen", "[::1]:1234"];
        let walked = |server: &Server| {
            let walk = walk(&PidFd::open(server.pid()).expect("the server's process"));
            assert!(walk.aborted.is_none());
            (walk.calls, walk.found.iter().map(|found| found.socket.local).collect::<Vec<_>>())
        };
        let without = Server::start(&plain);
        let expected = walked(&without);
        assert_eq!(expected.1.len(), 4);
        without.stop();

        let server = Server::start(&[&plain[..], &["--metrics", "127.0.0.1:9469"]].concat());
        let _connections: Vec<_> = (0..20).map(|_| tcp::connect("127.0.0.1:9469".parse().unwrap())).collect();
        scrape(address_of(&server));
        assert_eq!(walked(&server), expected);
        let check = Command::new(env!("CARGO_BIN_EXE_tubular-echo"))
            .args(["check", &server.pid().to_string()])
            .output()
            .expect("run tubular-echo check");
        let text = String::from_utf8_lossy(&check.stdout);
        assert!(check.status.success() && !text.contains("9469"), "{text}");
        server.stop();
    });
}
