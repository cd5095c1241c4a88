//! The dashboards in dist/grafana and the rules in dist/prometheus: made here, and every query of them is evaluated by a
//! real Prometheus that scrapes real programs under load.
//!
//! ```text
//! server, blaster   panels and rules                 ─► grafana, rules   the files
//! definition        what the programs serve          ─► no query names anything else
//! prometheus        Debian's, beside the programs    ─► every query has data
//! picture           the same data, for docs/metrics.md
//! ```
//!
//! `ci/dashboards` writes the files. The tests fail if they differ.

#![allow(unreachable_pub, reason = "`pub` here means: for this program")]

#[path = "../support/mod.rs"]
mod support;

mod blaster;
mod definition;
mod grafana;
mod picture;
mod process;
mod prometheus;
mod rules;
mod server;

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use definition::Definition;
use prometheus::{Line, Prometheus, promtool};
use rules::Rules;
use support::blaster::Blaster;
use support::metrics::get;
use support::udp::UdpClient;
use support::{PATIENCE, Server, private_network, sys, tcp, until};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The server that serves everything that a dashboard can show.
fn server() -> Server {
    let words = "--listen 127.0.0.1:1234 --listen [::1]:1234 --metrics 127.0.0.1:9469 --label echo \
                 --udp-prefix-rate 5000 --workers 2";
    Server::start(&words.split_whitespace().collect::<Vec<_>>())
}

/// A program with a dashboard and rules.
struct Program {
    dashboard: grafana::Dashboard,
    rules: Rules,
    metrics: &'static str,
}

fn programs() -> [Program; 2] {
    [
        Program {
            dashboard: server::panels::dashboard(),
            rules: server::rules::rules(),
            metrics: "127.0.0.1:9469",
        },
        Program {
            dashboard: blaster::panels::dashboard(),
            rules: blaster::rules::rules(),
            metrics: "127.0.0.1:9470",
        },
    ]
}

/// A blaster that never gets a reply from `silent`, with its metrics at `metrics`.
fn probe(silent: &UdpSocket, metrics: &str) -> Blaster {
    Blaster::start(&format!(
        "udp 127.0.0.1:1234 {} --flows 4 --rate 200 --timeout 100ms --linger 200ms --duration 100s --metrics {metrics}",
        silent.local_addr().unwrap()
    ))
}

/// A port where nobody answers.
fn silent() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").expect("a port of our own")
}

/// Scrapes the server that runs and a blaster, in the order of [`programs`]. Needs a network of its own.
fn scrapes() -> [String; 2] {
    let silent = silent();
    let probe = probe(&silent, programs()[1].metrics);
    let metrics: SocketAddr = programs()[1].metrics.parse().unwrap();
    until("blaster knows an outage", || {
        TcpStream::connect(metrics).is_ok()
            && get(metrics, "/metrics").body.contains("blaster_outage_seconds{")
    });
    let texts = [get(programs()[0].metrics.parse().unwrap(), "/metrics").body, get(metrics, "/metrics").body];
    probe.end();
    probe.finish();
    texts
}

/// What both programs serve.
fn definitions() -> Vec<(Program, Definition)> {
    let server = server();
    let texts = scrapes();
    server.stop();
    let both = programs().into_iter().zip(texts);
    both.map(|(program, text)| {
        let served = Definition::of(&text).with(program.rules.records.iter().map(|record| record.name));
        (program, served)
    })
    .collect()
}

/// The files that this program makes: their paths and texts.
fn files() -> Vec<(String, String)> {
    let of = |program: Program| {
        let Program { dashboard, rules, .. } = program;
        [
            (format!("dist/grafana/{}.json", dashboard.uid), dashboard.json()),
            (rules_path(&rules), rules.yaml()),
        ]
    };
    programs().into_iter().flat_map(of).collect()
}

fn rules_path(rules: &Rules) -> String {
    format!("dist/prometheus/{}.rules.yml", rules.name)
}

#[test]
fn the_files_are_those_that_this_program_makes() {
    let is_written = std::env::var_os("DASHBOARDS_WRITE").is_some();
    for (path, text) in files() {
        let file = format!("{ROOT}/{path}");
        if is_written {
            fs::create_dir_all(std::path::Path::new(&file).parent().unwrap()).expect("its directory");
            fs::write(&file, &text).expect("write it");
        }
        let found = fs::read_to_string(&file).unwrap_or_default();
        assert!(found == text, "{path} is not what tests/dashboards makes: run ci/dashboards");
    }
}

#[test]
#[ignore = "needs root"]
fn no_query_names_anything_that_is_not_served() {
    private_network(|| {
        for (program, served) in definitions() {
            let queries = program.dashboard.queries().map(|(_, query)| query.filled(CHOSEN, "1m"));
            let records = program.rules.records.iter().map(|record| record.query.clone());
            let alerts = program.rules.alerts.iter().map(|alert| alert.query.clone());
            let complaints: Vec<_> =
                queries.chain(records).chain(alerts).flat_map(|query| served.complaints(&query)).collect();
            assert!(complaints.is_empty(), "{complaints:#?}");
        }
    });
}

#[test]
#[ignore = "needs root"]
fn a_query_with_a_wrong_name_is_complained_of() {
    private_network(|| {
        let (_, served) = definitions().swap_remove(0);
        for (wrong, expected) in [
            (
                "rate(tubular_echo_sent_datagram_total[1m])",
                "nothing is named tubular_echo_sent_datagram_total",
            ),
            ("rte(tubular_echo_sent_datagrams_total[1m])", "nothing is named rte"),
            ("sum by (domian) (tubular_echo_open_connections)", "nothing is named domian"),
            (r#"tubular_echo_open_connections{reason="idle"}"#, "has no label reason"),
            (r#"tubular_echo_closed_connections_total{reason=~"idle|tired"}"#, "reason is never tired"),
        ] {
            let complaints = served.complaints(wrong);
            assert!(
                complaints.iter().any(|complaint| complaint.contains(expected)),
                "{wrong}: {complaints:?}"
            );
        }
    });
}

/// A new counter needs a place, and a new reason its group.
#[test]
#[ignore = "needs root"]
fn every_family_has_a_panel_and_every_reason_one_group() {
    private_network(|| {
        let both = definitions();
        for (program, served) in &both {
            let shown: String =
                program.dashboard.queries().map(|(_, query)| query.filled(CHOSEN, "1m") + "\n").collect();
            let is_shown = |family: &str| {
                shown.match_indices(family).any(|(at, _)| {
                    !shown[at + family.len()..].starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
                })
            };
            let missing: Vec<_> = served.families().filter(|family| !is_shown(family)).collect();
            assert!(missing.is_empty(), "no panel of {} shows {missing:?}", program.rules.name);
        }
        let reasons: Vec<_> = server::REASONS.iter().flat_map(|group| group.split('|')).collect();
        let grouped: BTreeSet<_> = reasons.iter().map(ToString::to_string).collect();
        assert_eq!(grouped.len(), reasons.len(), "a reason is in two groups");
        assert_eq!(grouped, both[0].1.values("tubular_echo_dropped_datagrams_total", "reason"));
    });
}

#[test]
#[ignore = "needs Prometheus: ci/setup"]
fn every_alert_fires_and_stays_quiet() {
    for Program { rules, .. } in programs() {
        let path = format!("{ROOT}/{}", rules_path(&rules));
        println!("{}", promtool(&["check", "rules", &path], ""));
        let tests = format!("{}/{}-{}.test.yml", env!("CARGO_TARGET_TMPDIR"), rules.name, std::process::id());
        fs::write(&tests, rules.tests(&path)).expect("promtool's tests");
        println!("{}", promtool(&["test", "rules", &tests], ""));
        fs::remove_file(tests).expect("promtool's tests are removed");
    }
}

#[test]
#[ignore = "needs root, and Prometheus: ci/setup"]
fn promtool_accepts_a_scrape() {
    private_network(|| {
        let server = server();
        for scrape in scrapes() {
            assert_eq!(promtool(&["check", "metrics"], &scrape), "");
        }
        server.stop();
    });
}

/// Every alert is explained: docs/metrics.md has a row for it.
#[test]
fn the_document_has_each_alert_and_no_other() {
    let document = fs::read_to_string(format!("{ROOT}/docs/metrics.md")).unwrap();
    let section = document.split_once("\n## Alerts\n").expect("a heading").1;
    let section = section.split("\n## ").next().unwrap();
    let told: Vec<_> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, rest)| (name.to_owned(), rest.split('|').nth(2).unwrap_or_default().trim().to_owned()))
        .collect();
    let all = programs().into_iter().flat_map(|program| program.rules.alerts);
    let defined: Vec<_> = all.map(|alert| (alert.name.to_owned(), alert.wait.to_owned())).collect();
    let waits = |list: &[(String, String)]| -> Vec<(String, String)> {
        list.iter()
            .map(|(name, wait)| {
                let wait = if wait.is_empty() || wait == "0m" { "at once" } else { wait };
                (name.clone(), wait.to_owned())
            })
            .collect()
    };
    assert_eq!(waits(&told), waits(&defined), "docs/metrics.md against the alerts");
}

/// What makes every panel move, until it is dropped.
struct Load {
    blasters: Vec<Blaster>,
    is_over: Arc<AtomicBool>,
    sender: Option<thread::JoinHandle<()>>,
}

impl Load {
    fn on(server: &Server, seconds: u64) -> Self {
        let of = |protocol, is_ipv4| {
            let all = server.addresses().iter();
            let found = all.filter(|(one, _)| *one == protocol).find(|(_, addr)| addr.is_ipv4() == is_ipv4);
            found.expect("an address").1
        };
        let (udp, tcp) = (support::server::Protocol::Udp, support::server::Protocol::Tcp);
        let (udp4, udp6, tcp4, tcp6) = (of(udp, true), of(udp, false), of(tcp, true), of(tcp, false));
        let blasters = [
            format!("udp {udp4} --rate 2k --flows 16"),
            format!("udp {udp6} --rate 1k --flows 4 --gso 4"),
            format!("tcp {tcp4} --connections 3"),
            format!("tcp {tcp6} --connections 1"),
        ];
        let blasters =
            blasters.iter().map(|line| Blaster::start(&format!("{line} --duration {seconds}s"))).collect();
        let is_over = Arc::new(AtomicBool::new(false));
        let sender = thread::Builder::new()
            .spawn({
                let is_over = Arc::clone(&is_over);
                let network = support::netns::Netns::current();
                move || network.run(|| offend(udp4, tcp4, &is_over))
            })
            .expect("a thread that sends");
        Self { blasters, is_over, sender: Some(sender) }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take() {
            let _ = sender.join();
        }
        // a test that fails kills them
        for blaster in self.blasters.drain(..).take_while(|_| !thread::panicking()) {
            blaster.end();
            blaster.finish();
        }
    }
}

/// Datagrams that are refused by a rule and by a limit; connections that end, some of them by a reset.
fn offend(udp: SocketAddr, tcp: SocketAddr, is_over: &AtomicBool) {
    let own_port = UdpClient::bound_to(format!("127.0.0.2:{}", udp.port()).parse().unwrap());
    let system_port = UdpClient::bound_to("127.0.0.2:53".parse().unwrap());
    let crowd = UdpClient::bound_to("127.9.0.1:0".parse().unwrap());
    let begun = Instant::now();
    let mut round = 0;
    while !is_over.load(Ordering::Relaxed) {
        round += 1;
        own_port.send(udp, b"from another echo server?");
        if round % 2 == 0 {
            system_port.send(udp, b"from a service?");
        }
        // a burst beyond the limit of a prefix, each second
        if round % 20 == 0 {
            for _ in 0..12_000 {
                crowd.send(udp, &[0; 32]);
            }
        }
        let mut stream = tcp::connect(tcp);
        tcp::echo(&mut stream, b"one");
        if round % 10 == 0 {
            sys::reset_on_close(&stream);
        }
        thread::sleep(Duration::from_millis(50));
        assert!(begun.elapsed() < 5 * PATIENCE, "the test has ended long ago");
    }
}

/// The chosen instances in the test, and the range of rates.
const CHOSEN: &str = r#"job=~".+",instance=~".+""#;
const RANGE: &str = "5s";

/// A query of Grafana as it reaches Prometheus.
fn of_test(query: &grafana::Query) -> String {
    query.filled(CHOSEN, RANGE).replace("$label", ".*")
}

/// Whether the result has values, none of them NaN, and one above 0 if it has to move.
fn has_data(lines: &[Line], moves: bool) -> bool {
    let values: Vec<_> = lines.iter().flat_map(|line| line.values.iter().map(|(_, value)| *value)).collect();
    !values.is_empty()
        && values.iter().all(|value| value.is_finite())
        && (!moves || values.iter().any(|value| *value > 0.0))
}

/// The queries of docs/metrics.md that need no metrics of tubular.
fn queries_of_document() -> Vec<String> {
    let document = fs::read_to_string(format!("{ROOT}/docs/metrics.md")).unwrap();
    let section = document.split_once("## Queries\n").expect("a heading").1;
    let text = section.split_once("```text\n").expect("a block").1.split_once("```").unwrap().0;
    let queries =
        text.split("\n\n").map(|query| query.trim().split_once('\n').expect("a comment and a query").1);
    queries.filter(|query| !query.contains("lookups_total")).map(str::to_owned).collect()
}

#[test]
#[ignore = "needs root, and Prometheus: ci/setup"]
fn every_query_has_data_in_a_real_prometheus() {
    private_network(|| {
        let (server, silent, programs) = (server(), silent(), programs());
        let jobs: Vec<_> = programs.iter().map(|program| (program.rules.name, program.metrics)).collect();
        let files: Vec<_> =
            programs.iter().map(|program| format!("{ROOT}/{}", rules_path(&program.rules))).collect();
        let prometheus = Prometheus::start(&jobs, &files);
        let mut load = Load::on(&server, 90);
        load.blasters.push(probe(&silent, programs[1].metrics));

        let panels = programs.iter().flat_map(|program| program.dashboard.queries());
        let panels = panels.map(|(panel, query)| (panel.title, of_test(query), query.moves));
        let records = programs.iter().flat_map(|program| &program.rules.records);
        let records = records.map(|record| (record.name, record.name.to_owned(), true));
        let document = queries_of_document().into_iter().map(|query| ("docs/metrics.md", query, false));
        let mut waiting: Vec<_> = panels.chain(records).chain(document).collect();
        let count = waiting.len();
        let begun = Instant::now();
        while !waiting.is_empty() && begun.elapsed() < PATIENCE {
            waiting.retain(|(_, query, moves)| !has_data(&prometheus.now(query), *moves));
            thread::sleep(Duration::from_millis(200));
        }
        assert!(waiting.is_empty(), "no data: {waiting:#?}");
        println!("{count} queries have data after {:?}", begun.elapsed());

        if let Some(file) = std::env::var_os("DASHBOARDS_PICTURE") {
            draw(&prometheus, &programs[0].dashboard, &file);
        }
        // the rules are evaluated without an error, and the texts of alerts are whole
        let groups = prometheus.api("rules", &[]);
        let all = groups["groups"].as_array().expect("groups").iter();
        let all: Vec<_> = all.flat_map(|group| group["rules"].as_array().expect("rules")).collect();
        let defined = programs.iter().map(|Program { rules, .. }| rules.records.len() + rules.alerts.len());
        assert_eq!(all.len(), defined.sum::<usize>());
        for rule in all {
            assert_eq!(rule["health"], "ok", "{rule}");
            for alert in rule["alerts"].as_array().into_iter().flatten() {
                let text = alert["annotations"]["summary"].as_str().expect("a summary");
                assert!(!text.contains("<error") && !text.contains("<no value"), "{text}");
            }
        }
        drop(load);
        drop(prometheus);
        server.stop();
    });
}

/// Draws the dashboard from three quarters of a minute of load.
fn draw(prometheus: &Prometheus, dashboard: &grafana::Dashboard, file: &std::ffi::OsStr) {
    const SHOWN_S: f64 = 36.0;
    thread::sleep(Duration::from_secs(45));
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    let svg = picture::draw(dashboard, |query| {
        let mut lines = prometheus.last(&of_test(query), now - SHOWN_S, now);
        lines.retain(|line| !query.hides_zeros || line.values.iter().any(|(_, value)| *value > 0.0));
        lines
    });
    fs::write(file, svg).expect("write the picture");
}
