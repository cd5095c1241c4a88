//! Names as targets, in a network and with a name server that only the test has.

use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::misbehaving::{Conduct, TcpConduct, UdpServer, tcp_server};
use crate::support::capture::Capture;
use crate::support::names::{Names, Record};
use crate::support::netns::ip;
use crate::support::sys::Pidfd;
use crate::support::{Launch, private_network, until};
use crate::{BLASTER, number, parse, stderr};

/// Names of /etc/hosts, which all tests have.
const HOSTS: &str = "127.0.0.1 localhost\n::1 localhost\n";

fn addresses(list: &[&str]) -> Record {
    Record::Addresses(list.iter().map(|text| text.parse().unwrap()).collect())
}

fn run(names: &Names, arguments: &str) -> Output {
    names.command(BLASTER, arguments).output().expect("run blaster")
}

/// The report of a run in which all is in order, and what it told.
fn report(names: &Names, arguments: &str) -> (Value, String) {
    let output = run(names, &format!("{arguments} --json -"));
    assert_eq!(output.status.code(), Some(0), "{arguments}: {}", stderr(&output));
    (parse(&output), stderr(&output))
}

/// One line on standard error, and nothing was sent.
fn refused(names: &Names, arguments: &str, status: i32, words: &str) {
    let capture = Capture::start();
    let output = run(names, arguments);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(status), "{arguments}: {text}");
    assert!(text.lines().count() == 1 && text.contains(words), "{arguments}: {text}");
    let own: Vec<_> =
        capture.packets().into_iter().filter(|it| it.to_port != 53 && it.from_port != 53).collect();
    assert_eq!(own, [], "{arguments}");
}

#[test]
#[ignore = "needs root"]
fn all_addresses_of_a_name_are_targets() {
    private_network(|| {
        let records = [("echo.example.net", addresses(&["127.0.0.9", "::1", "127.0.0.8", "127.0.0.9"]))];
        let names = Names::new(HOSTS, "timeout:1", &records);
        let local = ["127.0.0.1:7", "127.0.0.8:7", "127.0.0.9:7", "[::1]:7"];
        let _udp = local.map(|addr| UdpServer::new(addr, Conduct::Good));
        for addr in local {
            tcp_server(addr, TcpConduct::Good);
        }
        for (target, name, found) in [
            ("localhost:7", "localhost", vec!["127.0.0.1", "::1"]),
            ("LocalHost:7-7", "LocalHost", vec!["127.0.0.1", "::1"]),
            ("echo.example.net:7", "echo.example.net", vec!["127.0.0.8", "127.0.0.9", "::1"]),
            ("echo.example.net.:7", "echo.example.net.", vec!["127.0.0.8", "127.0.0.9", "::1"]),
            ("-4 echo.example.net:7", "echo.example.net", vec!["127.0.0.8", "127.0.0.9"]),
            ("-6 echo.example.net:7", "echo.example.net", vec!["::1"]),
            ("-4 --each-once echo.example.net:7", "echo.example.net", vec!["127.0.0.8", "127.0.0.9"]),
        ] {
            for protocol in ["udp --timeout 5s", "tcp"] {
                let count = if target.contains("each-once") { "" } else { "--count 60" };
                let (report, told) = report(&names, &format!("{protocol} {target} {count}"));
                assert_eq!(
                    report["load"]["names"],
                    json!([{ "name": name, "addresses": found, "left_out": [] }])
                );
                assert_eq!(
                    number(&report["destinations"]["visited"]),
                    found.len() as u64,
                    "{protocol} {target}"
                );
                assert_eq!(report["totals"]["ok"], report["totals"]["sent"], "{protocol} {target}");
                let list = match found.as_slice() {
                    [one] => (*one).to_string(),
                    [one, other] => format!("{one} and {other}"),
                    all => format!("{}, {} and {}", all[0], all[1], all[2]),
                };
                assert!(told.contains(&format!("blaster: {name} is {list}\n")), "{told}");
            }
        }
        let (both, _) =
            report(&names, "udp localhost:7 127.0.0.8:7 echo.example.net:7 --count 60 --timeout 5s");
        assert_eq!(both["load"]["targets"], json!(["localhost:7", "127.0.0.8:7", "echo.example.net:7"]));
        assert_eq!(both["load"]["names"].as_array().unwrap().len(), 2);
        assert_eq!(number(&both["destinations"]["visited"]), 4);
        for option in ["--spray", "--each-once"] {
            let words = "-4 or -6 takes one family of a name";
            let output = run(&names, &format!("udp localhost:7 {option} -q"));
            assert!(
                stderr(&output).contains(words) && output.status.code() == Some(2),
                "{}",
                stderr(&output)
            );
        }
        let quiet = run(&names, "udp localhost:7 --count 5 --quiet");
        assert_eq!((stderr(&quiet).as_str(), quiet.status.code()), ("", Some(0)));
        let few = run(&names, "udp echo.example.net:7 --count 5 --flows 2");
        let table = String::from_utf8(few.stdout).unwrap();
        assert!(
            table.contains("\nudp echo.example.net:7, ") || table.starts_with("udp echo.example.net:7, "),
            "{table}"
        );
        assert!(table.contains("\necho.example.net is 127.0.0.8, 127.0.0.9 and ::1\n"), "{table}");
        assert!(
            table.contains("only the first 2 of 3 targets are loaded, since there are 2 flows"),
            "{table}"
        );
    });
}

/// The guard looks at the addresses, not at the name.
#[test]
#[ignore = "needs root"]
fn a_name_does_not_get_past_the_guard() {
    private_network(|| {
        ip("route add default dev lo");
        let records = [
            ("public.example", addresses(&["127.0.0.1", "8.8.8.8"])),
            ("public6.example", addresses(&["::1", "2606:4700::1"])),
            ("many.example", addresses(&["127.0.0.1", "224.0.0.1"])),
            ("none.example", addresses(&["0.0.0.0"])),
        ];
        let names = Names::new(HOSTS, "timeout:1", &records);
        for protocol in ["udp", "tcp"] {
            for (target, words) in [
                ("public.example:7", "public.example is 8.8.8.8: target 8.8.8.8:7 is public"),
                ("public6.example:7", "public6.example is 2606:4700::1: target [2606:4700::1]:7 is public"),
                ("127.0.0.1:7 public.example:7", "8.8.8.8:7 is public"),
                (
                    "many.example:7 --allow-public",
                    "many.example is 224.0.0.1: target 224.0.0.1:7 covers multicast",
                ),
                ("none.example:7 --allow-public", "never loaded"),
                (
                    "127.0.0.1:7 --server-metrics http://public.example:9469",
                    "--server-metrics: public.example is 8.8.8.8: target 8.8.8.8:9469 is public",
                ),
            ] {
                let capture = Capture::start();
                let output = run(&names, &format!("{protocol} {target} --count 1 --quiet"));
                let text = stderr(&output);
                assert_eq!(output.status.code(), Some(2), "{target}: {text}");
                assert!(text.lines().count() == 1 && text.contains(words), "{target}: {text}");
                let own = capture.packets().into_iter().find(|it| it.to_port != 53 && it.from_port != 53);
                assert_eq!(own, None, "{target}");
            }
        }
    });
}

/// Addresses that this run can't reach are left out, and told.
#[test]
#[ignore = "needs root"]
fn addresses_that_can_not_be_reached_are_left_out_and_told() {
    private_network(|| {
        let records = [("echo.example.net", addresses(&["127.0.0.1", "192.0.2.1", "2001:db8::1", "::1"]))];
        let hosts = format!("{HOSTS}192.0.2.1 alone.example\n127.0.0.1 link.example\nfe80::1 link.example\n");
        let names = Names::new(&hosts, "timeout:1", &records);
        let _servers = ["127.0.0.1:7", "[::1]:7"].map(|addr| UdpServer::new(addr, Conduct::Good));
        for addr in ["127.0.0.1:7", "[::1]:7"] {
            tcp_server(addr, TcpConduct::Good);
        }
        let without = |address: &str, reason: &str| json!({ "address": address, "reason": reason });
        for (flags, loaded, left_out, words) in [
            (
                "",
                vec!["127.0.0.1", "::1"],
                vec![without("192.0.2.1", "no_route"), without("2001:db8::1", "no_route")],
                "is 127.0.0.1 and ::1; without 192.0.2.1 and 2001:db8::1 (this host has no route there)",
            ),
            (
                "--source 127.0.0.3",
                vec!["127.0.0.1"],
                vec![
                    without("::1", "other_family"),
                    without("2001:db8::1", "other_family"),
                    without("192.0.2.1", "no_route"),
                ],
                "is 127.0.0.1; without ::1 and 2001:db8::1 (of another family than --source); without 192.0.2.1",
            ),
        ] {
            for protocol in ["udp", "tcp"] {
                let (report, told) =
                    report(&names, &format!("{protocol} echo.example.net:7 --count 20 {flags}"));
                let named =
                    json!([{ "name": "echo.example.net", "addresses": loaded, "left_out": left_out }]);
                assert_eq!(report["load"]["names"], named, "{protocol} {flags}");
                assert!(told.contains(words), "{told}");
            }
        }
        // a link-local address without its interface
        let (found, _) = report(&names, "udp link.example:7 --count 20");
        assert_eq!(found["load"]["names"][0]["left_out"], json!([without("fe80::1", "no_route")]));
        // where no address has a route, the error is that of an address
        let output = run(&names, "udp echo.example.net:7 --count 1 --quiet --interface nosuch");
        assert!(stderr(&output).contains("`ip link` shows the interfaces"), "{}", stderr(&output));
        ip("route add prohibit 192.0.2.0/24");
        let output = run(&names, "udp 192.0.2.1:7 --count 1 --quiet");
        let alone = stderr(&output);
        assert_eq!(stderr(&run(&names, "udp alone.example:7 --count 1 --quiet")), alone);
    });
}

/// Calls that end with a line of standard error, before anything is sent: their exit status, and words of the line.
const REFUSALS: [(&str, i32, &str); 19] = [
    (
        "udp nosuch.example:7",
        1,
        "no host is named nosuch.example: `getent ahosts nosuch.example` asks the same",
    ),
    (
        "tcp nosuch.example:7",
        1,
        "no host is named nosuch.example: `getent ahosts nosuch.example` asks the same",
    ),
    ("udp mail.example:7", 1, "mail.example is a name without an address: `getent ahosts mail.example`"),
    ("udp -4 six.example:7", 1, "IPv4 address"),
    ("udp -6 four.example:7", 1, "IPv6 address"),
    (
        "udp failing.example:7",
        1,
        "looking up failing.example: the name servers of /etc/resolv.conf did not answer, or",
    ),
    ("udp refused.example:7", 1, "looking up refused.example: the name servers of /etc/resolv.conf"),
    (
        "udp six.example:7 --source 127.0.0.1",
        1,
        "--source 127.0.0.1 can't reach six.example, which has only addresses of the other family: ::1",
    ),
    ("udp 127.0.0.1:7 --server-metrics http://nosuch.example:9469", 1, "no host is named nosuch.example"),
    // not looked up at all
    ("udp 1.2.3:7", 2, "\"1.2.3\" is neither an IP address, nor a prefix, nor a name"),
    ("udp 0x7f.1:7", 2, "it is no IPv4 address, which has four numbers from 0 to 255"),
    ("udp 127.0.0.1.:7", 2, "is neither an IP address, nor a prefix, nor a name"),
    ("udp bücher.example:7", 2, "say its form that begins with xn-- (`idn2 bücher.example` shows it)"),
    ("udp localhost", 2, "the port is missing: say localhost:1234"),
    (
        "udp localhost/8:7",
        2,
        "a name stands alone, without prefix, interface, brackets or quotes: say localhost:7",
    ),
    ("udp localhost:7 --mode open", 2, "--mode open needs a --rate"),
    ("udp [::1]:7 -4", 2, "-4 is for names, and [::1]:7 is of the other address family"),
    (
        "udp localhost:7 -4 --source ::1",
        2,
        "-4 is for names, and --source ::1 is of the other address family",
    ),
    ("udp localhost:7 -4 -6", 2, "--ipv6"),
];

/// Each failure is one line with its cure, and nothing was sent.
#[test]
#[ignore = "needs root"]
fn names_without_addresses_are_told_apart() {
    private_network(|| {
        let records = [
            ("six.example", addresses(&["::1"])),
            ("four.example", addresses(&["127.0.0.1"])),
            ("mail.example", addresses(&[])),
            ("failing.example", Record::Code(2)),
            ("refused.example", Record::Code(5)),
        ];
        let names = Names::new(HOSTS, "timeout:1 attempts:1", &records);
        for (arguments, status, words) in REFUSALS {
            refused(&names, &format!("{arguments} --count 1"), status, words);
        }
        assert!(names.asked().iter().all(|question| question.contains("example ")), "{:?}", names.asked());
        // what the messages advise
        let found = names.command("getent", "ahosts four.example").output().unwrap();
        assert!(String::from_utf8(found.stdout).unwrap().starts_with("127.0.0.1 "));
    });
}

/// A name server that does not answer: blaster says what it waits for, and a signal ends that at once.
#[test]
#[ignore = "needs root"]
fn a_signal_ends_the_wait_for_a_name_server() {
    private_network(|| {
        let records = [("silent.example", Record::Silence)];
        let names = Names::new(HOSTS, "timeout:1 attempts:2", &records);
        let output = run(&names, "udp silent.example:7 --count 1");
        assert_eq!(output.status.code(), Some(1));
        let told = "blaster: waiting for the addresses of silent.example, from the name servers of /etc/resolv.conf\n\
                    blaster: looking up silent.example: the name servers of /etc/resolv.conf did not answer, or have no \
                    answer for now; try again when they do\n";
        assert_eq!(stderr(&output), told);
        names.set_options("timeout:30 attempts:5");
        for protocol in ["udp", "tcp"] {
            let before = names.asked().len();
            let mut command = names.command(BLASTER, &format!("{protocol} silent.example:7 --count 1"));
            let blaster = command.stderr(Stdio::piped()).spawn().unwrap();
            until("the name server is asked", || names.asked().len() > before);
            let begun = Instant::now();
            Pidfd::open(blaster.id()).unwrap().signal(libc::SIGINT).unwrap();
            let output = blaster.wait_with_output().unwrap();
            assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
            assert_eq!(output.status.code(), Some(4), "{protocol}");
            assert!(stderr(&output).ends_with("blaster: ended by a signal before anything was sent\n"));
        }
    });
}

/// Several runs, and a run without end, keep the addresses of their start.
#[test]
#[ignore = "needs root"]
fn a_name_is_looked_up_once() {
    private_network(|| {
        let records = [("echo.example.net", addresses(&["127.0.0.1", "::1"]))];
        let names = Names::new(HOSTS, "timeout:1", &records);
        let _servers = ["127.0.0.1:7", "[::1]:7"].map(|addr| UdpServer::new(addr, Conduct::Good));
        let questions = ["echo.example.net A", "echo.example.net AAAA"];
        let target = "echo.example.net:7 echo.example.net:7";
        let (steps, told) = {
            let flags = format!("udp {target} --steps 100:50ms,200:50ms,300:50ms --json -");
            let output = run(&names, &flags);
            assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
            (serde_json::from_slice::<Value>(&output.stdout).unwrap(), stderr(&output))
        };
        let mut asked = names.asked();
        asked.sort();
        assert_eq!(asked, questions, "both for one run, and none for the others");
        assert!(
            told.contains("echo.example.net is 127.0.0.1 and ::1; looked up once, for all runs\n"),
            "{told}"
        );
        for run in steps["runs"].as_array().unwrap() {
            assert_eq!(run["report"]["load"]["names"][0]["addresses"], json!(["127.0.0.1", "::1"]));
        }
        let mut command =
            names.command(BLASTER, &format!("udp {target} --rate 1k --duration forever --every 10ms"));
        let mut blaster = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (lines, _) = crate::support::lines::collect(blaster.stderr.take().unwrap());
        let once = "blaster: echo.example.net is 127.0.0.1 and ::1; looked up once, for as long as it runs";
        until("it runs", || lines.all().len() > 5);
        Pidfd::open(blaster.id()).unwrap().signal(libc::SIGINT).unwrap();
        blaster.wait().unwrap();
        assert_eq!(lines.all().first().map(String::as_str), Some(once));
        assert_eq!(names.asked().len(), 4);
    });
}

/// `--server-metrics`: the first address that takes a connection is asked, before the run and after it.
#[test]
#[ignore = "needs root"]
fn the_server_s_metrics_are_found_by_name() {
    private_network(|| {
        let records = [("metrics.example", addresses(&["127.0.0.2", "127.0.0.3", "::1"]))];
        let names = Names::new(HOSTS, "timeout:1", &records);
        let listen = ["--listen", "127.0.0.1:7", "--metrics"];
        let server = Launch::new(&[&listen[..], &["127.0.0.3:9469"]].concat()).ready();
        let other = Launch::new(&["--listen", "127.0.0.4:7", "--metrics", "[::1]:9469"]).ready();
        let url = "http://metrics.example:9469";
        let (report, told) = report(&names, &format!("udp 127.0.0.1:7 --count 100 --server-metrics {url}"));
        assert_eq!(number(&report["server"]["counts"]["received"]), 100, "{}", report["server"]);
        assert_eq!(report["server"]["url"], "http://metrics.example:9469/metrics");
        assert!(told.contains("metrics.example is 127.0.0.2, 127.0.0.3 and ::1\n"), "{told}");
        server.stop();
        other.stop();
        let dead = run(&names, &format!("udp 127.0.0.1:7 --count 1 --server-metrics {url} --quiet"));
        assert_eq!(dead.status.code(), Some(1));
        assert!(stderr(&dead).contains("connecting to 127.0.0.2:9469 for metrics"), "{}", stderr(&dead));
    });
}
