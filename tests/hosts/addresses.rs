//! Addresses and links that are not there yet, and one that another instance still has.

use std::fs;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::blaster::Report;
use crate::support::launch::Refusal;
use crate::support::netns::{Netns, ip};
use crate::support::tcp::{connect, echo, expect_end};
use crate::support::udp::UdpClient;
use crate::support::{Launch, PATIENCE, Server, metrics, private_network, until};

use crate::all_answer;

const LATE: &str = "[2001:db8:1::1]:1234";

/// A log line that says that the server waits for an address.
fn is_waiting(line: &str) -> bool {
    line.contains("is not there yet")
}

fn wait_until_it_waits(server: &Server) {
    assert!(
        server.log.wait_for(PATIENCE, |lines| lines.iter().any(|line| is_waiting(line))),
        "{:?}",
        server.log.all()
    );
}

fn wait_until_ready(server: &mut Server) {
    let ready = |lines: &[String]| lines.iter().any(|line| line.ends_with(" ready"));
    assert!(server.log.wait_for(PATIENCE, ready), "{:?}", server.log.all());
    server.read_addresses();
}

/// A cable with both ends up.
fn cable(near: &str, far: &str, other: &Netns) {
    Netns::cable(near, far, other);
    ip(&format!("link set {near} up"));
    other.run(|| ip(&format!("link set {far} up")));
}

#[test]
#[ignore = "needs root"]
fn an_address_that_comes_late_is_waited_for() {
    private_network(|| {
        let other = Netns::new();
        cable("near0", "far0", &other);
        let mut server =
            Launch::new(&["--listen=127.0.0.1:1234", &format!("--listen={LATE}"), "--workers=2"]).start();
        wait_until_it_waits(&server);
        ip("addr add 2001:db8:1::1/64 dev near0 nodad");
        wait_until_ready(&mut server);
        assert_eq!(server.addresses().len(), 4);
        all_answer(&server);
        let end = server.stop();
        assert_eq!(end.stderr.iter().filter(|line| is_waiting(line)).count(), 1, "told once");
    });
}

/// For a second, the kernel checks whether another host has the address.
#[test]
#[ignore = "needs root"]
fn a_tentative_address_is_waited_for() {
    private_network(|| {
        let other = Netns::new();
        cable("near0", "far0", &other);
        until("the link is up", || {
            fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap().contains("near0")
        });
        ip("addr add 2001:db8:1::1/64 dev near0");
        let server = Launch::new(&["--listen", LATE, "--metrics", "[2001:db8:1::1]:9469"]).ready();
        all_answer(&server);
        let answer = metrics::get("[2001:db8:1::1]:9469".parse().unwrap(), "/healthz");
        assert_eq!(answer.status, 200);
        server.stop();
    });
}

#[test]
#[ignore = "needs root"]
fn metrics_wait_for_their_address_too() {
    private_network(|| {
        let other = Netns::new();
        cable("near0", "far0", &other);
        let mut server = Launch::new(&["--listen=127.0.0.1:1234", "--metrics=[2001:db8:1::1]:9469"]).start();
        let listens = "the datapath's socket is there";
        until(listens, || {
            fs::read_to_string(format!("/proc/{}/net/udp", server.pid())).unwrap().lines().count() > 1
        });
        ip("addr add 2001:db8:1::1/64 dev near0 nodad");
        wait_until_ready(&mut server);
        assert_eq!(metrics::get("[2001:db8:1::1]:9469".parse().unwrap(), "/healthz").status, 200);
        server.stop();
    });
}

#[test]
#[ignore = "needs root"]
fn a_mistyped_address_is_told_within_seconds() {
    private_network(|| {
        let begun = Instant::now();
        let Refusal { code, stderr, ready_count } =
            Launch::new(&["--listen=127.0.0.1:1234", "--listen=192.0.2.1:1234", "--listen=192.0.2.2:1234"])
                .refused();
        let elapsed = begun.elapsed();
        assert_eq!((code, ready_count), (Some(1), 0));
        assert!(elapsed > Duration::from_secs(4) && elapsed < Duration::from_secs(10), "{elapsed:?}");
        assert_eq!(stderr.iter().filter(|line| is_waiting(line)).count(), 1, "{stderr:#?}");
        let error = stderr.last().expect("a line");
        assert!(error.starts_with("error:") && error.contains("192.0.2.1:1234"), "{error}");
    });
}

#[test]
#[ignore = "needs root"]
fn who_waits_for_an_address_hears_signals() {
    private_network(|| {
        for arguments in [["--listen", LATE], ["--metrics", LATE]] {
            let server = Launch::new(&arguments).start();
            let waits = || {
                // the server blocks SIGTERM as soon as it runs
                let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
                let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap().trim();
                u64::from_str_radix(blocked, 16).unwrap() & 1 << (libc::SIGTERM - 1) != 0
            };
            until("it has begun", waits);
            let begun = Instant::now();
            server.signal(libc::SIGTERM);
            let end = server.wait();
            assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
            assert_eq!((end.code, end.ready_count), (Some(0), 0), "{:#?}", end.stderr);
        }
    });
}

#[test]
#[ignore = "needs root"]
fn a_link_that_comes_late_is_known_by_its_name() {
    private_network(|| {
        let other = Netns::new();
        let mut server = Launch::new(&["--listen", "[fe80::1%late0]:1234"]).start();
        wait_until_it_waits(&server);
        // makes the number of the link one that cannot be guessed
        Netns::cable("other0", "other1", &other);
        cable("late0", "far0", &other);
        ip("addr add fe80::1/64 dev late0 nodad");
        wait_until_ready(&mut server);
        assert!(server.addresses().iter().all(|(_, address)| scope_of(*address) == index_of("late0")));
        other.run(|| {
            ip("addr add fe80::2/64 dev far0 nodad");
            let target = SocketAddrV6::new("fe80::1".parse().unwrap(), 1234, 0, index_of("far0")).into();
            echo(&mut connect(target), b"over the right link");
            UdpClient::at(Ipv6Addr::UNSPECIFIED).echo(target, &[8], 1);
        });
        server.stop();

        let refusal = Launch::new(&["--listen", "[fe80::1%no-such-link]:1234"]).refused();
        let error = refusal.stderr.last().expect("a line");
        assert!(error.contains("[fe80::1%no-such-link]:1234") && error.contains("ip link"), "{error}");
    });
}

fn scope_of(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V6(address) => address.scope_id(),
        SocketAddr::V4(_) => 0,
    }
}

/// The number of an interface of the calling thread's namespace, as `ip` shows it.
fn index_of(name: &str) -> u32 {
    let output = Command::new("ip").args(["-oneline", "link", "show", name]).output().expect("run ip");
    let text = String::from_utf8(output.stdout).expect("text");
    text.split(':').next().expect("a number").parse().expect("a number")
}

/// As under `nsenter --net`: the file system with /sys shows the links of another network namespace.
#[test]
#[ignore = "needs root"]
fn blaster_finds_the_link_of_its_own_namespace() {
    private_network(|| {
        let other = Netns::new();
        // /sys knows the name too, normally with another number
        let names = fs::read_dir("/sys/class/net").expect("links").map(|entry| entry.unwrap().file_name());
        let name =
            names.map(|name| name.into_string().unwrap()).find(|name| name != "lo").unwrap_or("eth0".into());
        Netns::cable("wrong0", "wrong1", &other);
        Netns::cable("wrong2", "wrong3", &other);
        cable(&name, "far0", &other);
        ip(&format!("addr add fe80::2/64 dev {name} nodad"));
        let mut server = other.run(|| {
            ip("addr add fe80::77/64 dev far0 nodad");
            Launch::new(&["--listen", "[fe80::77%far0]:1234"]).ready()
        });
        for load in ["udp", "tcp"] {
            let report = Report::of(&format!("{load} [fe80::77%{name}]:1234 --count 100"));
            report.expect("over the right link", &[("ok", 100)]);
        }
        server.read_addresses();
        let end = server.stop();
        assert_eq!(end.counter("udp_datagrams_in"), 100);
        assert!(end.counter("tcp_accepted") > 0);
    });
}

#[test]
#[ignore = "needs root"]
fn metrics_are_taken_over_from_an_instance_that_leaves() {
    private_network(|| {
        let arguments = ["--join", "--listen=127.0.0.1:1234", "--metrics=127.0.0.1:9469"];
        let metrics_addr = "127.0.0.1:9469".parse().unwrap();
        let old = Server::start(&arguments);
        echo(&mut connect(old.tcp()), b"the old one");
        let new = Server::start(&arguments);
        assert!(
            new.log
                .all()
                .iter()
                .any(|line| line.contains("WARN") && line.contains("metrics are not served yet"))
        );
        let accepted =
            || metrics::sum(&metrics::scrape(metrics_addr), "tubular_echo_accepted_connections_total", &[]);
        assert!(accepted() > 0.0, "the old one tells");
        old.stop();
        let told =
            |lines: &[String]| lines.iter().any(|line| line.contains("metrics on http://127.0.0.1:9469"));
        assert!(new.log.wait_for(PATIENCE, told), "{:?}", new.log.all());
        assert_eq!(metrics::get(metrics_addr, "/healthz").status, 200);
        assert!(accepted() < 1.0, "the new one tells");
        let mut stream = connect(new.tcp());
        echo(&mut stream, b"the new one");
        stream.shutdown(std::net::Shutdown::Write).expect("a FIN");
        expect_end(&mut stream);
        new.stop();

        // without --join it is an error, and its advice helps
        let old = Server::start(&["--tcp=127.0.0.1:1234", "--metrics=127.0.0.1:9469"]);
        let others = ["--tcp=127.0.0.1:1235", "--metrics=127.0.0.1:9469"];
        let error = Launch::new(&others).refused().stderr.pop().expect("a line");
        assert!(error.contains("127.0.0.1:9469") && error.contains("--join"), "{error}");
        let new = Server::start(&[&others[..], &["--join"]].concat());
        old.stop();
        assert!(new.log.wait_for(PATIENCE, told), "{:?}", new.log.all());
        new.stop();
    });
}
