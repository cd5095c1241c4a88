//! `--each-once`: every destination is visited, and those that are silent or wrong are named.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tubular_echo::kernel::sys::Protocol;

use crate::support::netns::{ip, setting};
use crate::support::registry::register_pid;
use crate::support::steer::{Binding, Dispatcher};
use crate::support::{Launch, Server, private_network, side_by_side};
use crate::{BLASTER, blaster, number, parse, signal, stderr};

const PORT: u16 = 1234;

/// The real server. The traffic to these prefixes is steered to it, to one port or with 0 to all.
fn server(prefixes: &[&str], port: u16) -> (Server, Dispatcher) {
    ip("-6 route add local 2001:db8::/64 dev lo");
    // servers that are wrong on purpose are bound to such addresses
    setting("ipv6/ip_nonlocal_bind", "1");
    let protocols = [Protocol::Udp, Protocol::Tcp];
    let addresses = ["127.0.0.1:1234", "[::1]:1234"];
    let mut arguments: Vec<String> =
        addresses.map(|address| [format!("--udp={address}"), format!("--tcp={address}")]).concat();
    // it makes a socket for each new port
    arguments.extend(
        ["--reply-socket-rate=200000", "--reply-socket-idle=1s", "--reply-sockets=16000"].map(String::from),
    );
    let server = Launch::new(&arguments).ready();
    let bind = |prefix: &&str| protocols.map(|protocol| Binding::new(protocol, prefix, port));
    let bindings: Vec<Binding> = prefixes.iter().flat_map(bind).collect();
    let dispatcher = Dispatcher::attach(&bindings).expect("root may");
    for protocol in protocols {
        for address in addresses {
            register_pid(&dispatcher.sockets, server.pid(), protocol, address.parse().unwrap()).unwrap();
        }
    }
    (server, dispatcher)
}

/// All of 127.1.0.0/25 and 2001:db8::/121 but the addresses 64 to 95, 112 and 113.
const RIGHT: [&str; 10] = [
    "127.1.0.0/26",
    "127.1.0.96/28",
    "127.1.0.114/31",
    "127.1.0.116/30",
    "127.1.0.120/29",
    "2001:db8::/122",
    "2001:db8::60/124",
    "2001:db8::72/127",
    "2001:db8::74/126",
    "2001:db8::78/125",
];

/// A UDP server of its own for one address; it lives as long as the test process.
fn udp_at(addr: SocketAddr, serve: impl Fn(&UdpSocket, &mut [u8], SocketAddr) + Send + 'static) {
    let socket = UdpSocket::bind(addr).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        loop {
            let (bytes, peer) = socket.recv_from(&mut buffer).unwrap();
            serve(&socket, &mut buffer[..bytes], peer);
        }
    });
}

/// The same for TCP. `serve` gets the first bytes of each connection, and returns the answer.
fn tcp_at(addr: SocketAddr, serve: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) {
    let listener = TcpListener::bind(addr).unwrap();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut buffer = [0; 2048];
            // a client may end at any point
            let _ =
                connection.read(&mut buffer).and_then(|bytes| connection.write_all(&serve(&buffer[..bytes])));
            thread::spawn(move || io::copy(&mut connection, &mut io::sink()));
        }
    });
}

/// An address of a prefix by its last byte: 127.1.0.x or 2001:db8::x.
fn host(is_ipv4: bool, last: u8) -> IpAddr {
    if is_ipv4 {
        IpAddr::from([127, 1, 0, last])
    } else {
        IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()])
    }
}

/// The report of a run that ends with `status`.
fn report_of(flags: &str, status: i32) -> Value {
    let output = blaster(&format!("{flags} --json - --quiet"));
    assert_eq!(output.status.code(), Some(status), "{flags}: {}", stderr(&output));
    parse(&output)
}

/// Every count of `report` that is not zero. The replies of different destinations may overtake each other.
fn counts(report: &Value) -> Vec<(&str, u64)> {
    crate::counts(report).into_iter().filter(|(name, _)| *name != "reordered").collect()
}

/// Places, faults and the number of destinations in a report's list.
fn faults(places: &Value) -> Vec<(&str, &str, u64)> {
    let of = |fault: &'_ Value| -> u64 { number(&fault["visited"]) };
    let faults = places["faults"].as_array().unwrap().iter();
    faults
        .map(|fault| (fault["place"].as_str().unwrap(), fault["fault"].as_str().unwrap(), of(fault)))
        .collect()
}

/// One address that never answers, one that changes a byte, and a network whose replies come from elsewhere.
fn wrong_udp_servers(is_ipv4: bool) {
    let at = |last| SocketAddr::new(host(is_ipv4, last), PORT);
    udp_at(at(112), |_, _, _| {});
    udp_at(at(113), |socket, bytes, peer| {
        bytes[40] ^= 1;
        socket.send_to(bytes, peer).unwrap();
    });
    for last in 64..96 {
        let elsewhere = UdpSocket::bind((host(is_ipv4, last), 0)).unwrap();
        udp_at(at(last), move |_, bytes, peer| {
            elsewhere.send_to(bytes, peer).unwrap();
        });
    }
}

/// A target with such servers, and the names of what is misdirected, silent and corrupted.
fn wrong_target(is_ipv4: bool) -> (&'static str, [&'static str; 3]) {
    if is_ipv4 {
        ("127.1.0.0/25:1234", ["127.1.0.64/27:1234", "127.1.0.112:1234", "127.1.0.113:1234"])
    } else {
        ("[2001:db8::/121]:1234", ["[2001:db8::40/123]:1234", "[2001:db8::70]:1234", "[2001:db8::71]:1234"])
    }
}

#[test]
#[ignore = "needs root"]
fn silent_misdirected_and_corrupted_destinations_are_named() {
    private_network(|| {
        let (server, _dispatcher) = server(&RIGHT, PORT);
        side_by_side([true, false], |is_ipv4| {
            wrong_udp_servers(is_ipv4);
            let (target, [misdirected, silent, corrupted]) = wrong_target(is_ipv4);
            side_by_side([1, 3], |times| {
                let flags = format!("udp {target} --each-once={times} --rate 2k --timeout 2s");
                let found = report_of(&flags, 0);
                let destinations = &found["destinations"];
                assert_eq!(
                    faults(destinations),
                    [(misdirected, "misdirected", 32), (corrupted, "corrupted", 1), (silent, "silent", 1)],
                    "{flags}"
                );
                let numbers = ["visited", "ok", "misdirected", "corrupted", "silent", "not_visited"]
                    .map(|name| number(&destinations[name]));
                assert_eq!(numbers, [128, 94, 32, 1, 1, 0], "{flags}");
                let wanted = [("sent", 128), ("ok", 94), ("corrupted", 1), ("misdirected", 32), ("lost", 1)];
                assert_eq!(counts(&found), wanted.map(|(name, count)| (name, count * times)), "{flags}");
                assert_eq!(destinations["faults"][2]["sent"], times);
            });
        });
        server.stop();
    });
}

/// The table and the page name them, and conditions set the exit status.
#[test]
#[ignore = "needs root"]
fn the_table_the_page_and_the_exit_status_say_the_same() {
    private_network(|| {
        let (server, _dispatcher) = server(&RIGHT, PORT);
        side_by_side([true, false], |is_ipv4| {
            wrong_udp_servers(is_ipv4);
            let (target, [misdirected, silent, corrupted]) = wrong_target(is_ipv4);
            let flags = format!("udp {target} --each-once --rate 2k --timeout 2s");
            let cases = [("silent>0", 3), ("silent>1,silent>0.8%", 0), ("silent>=0.78%", 3)];
            side_by_side(cases.into_iter().enumerate(), |(case, (conditions, status))| {
                let page = format!("each-once-{}-{is_ipv4}-{case}.html", std::process::id());
                let page = std::env::temp_dir().join(page);
                let output = blaster(&format!("{flags} --fail-if {conditions} --html {}", page.display()));
                assert_eq!(output.status.code(), Some(status), "{conditions}");
                let table = String::from_utf8(output.stdout).unwrap();
                let html = std::fs::read_to_string(&page).unwrap();
                for line in [
                    format!("{misdirected} misdirected (32 visited)"),
                    format!("{silent} silent"),
                    format!("{corrupted} corrupted"),
                ] {
                    assert!(table.contains(&format!("\n  {line}\n")), "{line}: {table}");
                    assert!(html.contains(&line), "{line}: {html}");
                }
                std::fs::remove_file(&page).unwrap();
            });
        });
        server.stop();
    });
}

/// The same for connections: one is never answered, one gets a wrong byte, and behind one port nobody listens.
#[test]
#[ignore = "needs root"]
fn connections_that_are_silent_or_corrupted_are_named() {
    private_network(|| {
        let misdirected = ["127.1.0.64/27", "2001:db8::40/123"];
        let (server, _dispatcher) = server(&[&RIGHT[..], &misdirected].concat(), PORT);
        for is_ipv4 in [true, false] {
            let at = |last| SocketAddr::new(host(is_ipv4, last), PORT);
            tcp_at(at(112), |_| Vec::new());
            tcp_at(at(113), |bytes| [&bytes[..40], &[!bytes[40]], &bytes[41..]].concat());
            let (target, net) =
                if is_ipv4 { ("127.1.0.0/25", "127.1.0.0/25") } else { ("[2001:db8::/121]", "2001:db8::") };
            let found = report_of(
                &format!("tcp {target}:1234-1235 --each-once --rate 500 --timeout 1s --threads 2"),
                0,
            );
            let destinations = &found["destinations"];
            let numbers = ["visited", "ok", "misdirected", "corrupted", "silent", "not_visited"]
                .map(|name| number(&destinations[name]));
            assert_eq!(numbers, [256, 126, 0, 1, 129, 0], "{net}");
            let (silent, corrupted) = if is_ipv4 {
                ("127.1.0.112, all ports", "127.1.0.113:1234")
            } else {
                ("2001:db8::70, all ports", "[2001:db8::71]:1234")
            };
            assert_eq!(
                faults(destinations),
                [
                    (&*format!("{target}:1235"), "silent", 127),
                    (silent, "silent", 2),
                    (corrupted, "corrupted", 1)
                ]
            );
            assert_eq!((number(&found["totals"]["lost"]), number(&found["connections"]["failed"])), (1, 128));
            assert_eq!(number(&destinations["faults"][0]["failed"]), 127);
        }
        server.stop();
    });
}

/// All addresses of a /16, all ports of an address, and a sample of a /64 with all its ports. The server counts each once.
#[test]
#[ignore = "needs root"]
fn a_16_all_ports_and_a_sample_of_a_64() {
    private_network(|| {
        let (server, _dispatcher) = server(&["127.128.0.0/9", "2001:db8::/64"], 0);
        let udp = [
            ("127.200.0.0/16:1234 --source 127.0.0.4 --rate 8k", 65_536, None),
            // on one host, the server must bind each port at each address: flows have an address of their own, and the
            // server makes a socket for each
            ("127.200.0.7:1-65535 --source 127.0.0.5 --rate 5k", 65_535, None),
            (
                "[2001:db8::/64]:any --source ::1 --rate 5k",
                65_536,
                Some("65,536 of about 2^80 destinations, one drawn"),
            ),
        ];
        let mut all = 0;
        for (target, size, sample) in udp {
            let found = report_of(&format!("udp {target} --each-once --timeout 5s --threads 2"), 0);
            assert_eq!(counts(&found), [("sent", size), ("ok", size)], "{target}");
            let destinations = &found["destinations"];
            assert_eq!(
                (number(&destinations["visited"]), number(&destinations["ok"])),
                (size, size),
                "{target}"
            );
            match sample {
                None => assert!(destinations["sample"].is_null(), "{target}"),
                Some(words) => {
                    assert!(destinations["sample"].as_str().unwrap().starts_with(words), "{target}");
                }
            }
            all += size;
        }
        for target in ["127.200.0.0/16:5000", "127.200.0.7:1-65535", "[2001:db8::/64]:any"] {
            let flags = format!("tcp {target} --each-once --sample 1500 --rate 1k --timeout 5s --threads 2");
            let found = report_of(&flags, 0);
            assert_eq!(counts(&found), [("sent", 1_500), ("ok", 1_500)], "{target}");
            assert_eq!(number(&found["destinations"]["ok"]), 1_500, "{target}");
        }
        assert_eq!(server.stop().counter("udp_datagrams_in"), all);
    });
}

/// A server does not answer its own port. The ports that blaster's flows have are visited by other flows.
#[test]
#[ignore = "needs root"]
fn ports_of_the_own_flows_are_visited_by_others() {
    private_network(|| {
        let listen: Vec<String> = (40_000..40_008).map(|port| format!("--udp=127.0.0.1:{port}")).collect();
        // the server answers its own port if clients may have it: at its start they may not
        setting("ipv4/ip_local_port_range", "50000 60000");
        let server = Launch::new(&listen).ready();
        setting("ipv4/ip_local_port_range", "40000 40019");
        let found = report_of(
            "udp 127.0.0.1:40000-40007 --each-once=100 --flows 8 --timeout 5s --rate 5k --source 127.0.0.5",
            0,
        );
        assert_eq!(counts(&found), [("sent", 800), ("ok", 800)]);
        assert_eq!(number(&found["destinations"]["ok"]), 8);
        assert_eq!(server.stop().counter("udp_refused_own_port"), 0);
    });
}

/// How often each source came.
type Sources = Arc<Mutex<BTreeMap<IpAddr, u64>>>;

/// An echo server for both protocols that counts its clients' addresses and answers all but one of them.
fn server_that_knows_its_peers(deaf_to: IpAddr) -> (SocketAddr, Sources) {
    let sources = Sources::default();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let known = Arc::clone(&sources);
    udp_at(addr, move |socket, bytes, peer| {
        *known.lock().unwrap().entry(peer.ip()).or_default() += 1;
        if peer.ip() != deaf_to {
            socket.send_to(bytes, peer).unwrap();
        }
    });
    let known = Arc::clone(&sources);
    thread::spawn(move || {
        loop {
            let (stream, peer) = listener.accept().unwrap();
            *known.lock().unwrap().entry(peer.ip()).or_default() += 1;
            thread::spawn(move || {
                let mut sink = io::sink();
                let to: &mut dyn Write = if peer.ip() == deaf_to { &mut sink } else { &mut &stream };
                io::copy(&mut &stream, to).map(drop)
            });
        }
    });
    (addr, sources)
}

/// With --source, each source is used equally often; one that gets no answer is named.
#[test]
fn the_sources_are_gone_through_too() {
    let deaf_to = IpAddr::from([127, 3, 2, 9]);
    let (addr, sources) = server_that_knows_its_peers(deaf_to);
    for protocol in ["udp", "tcp"] {
        for (times, each) in [(1, 1), (64, 4)] {
            let flags = format!(
                "{protocol} {addr} --each-once={times} --source 127.3.2.0/28 --timeout 1s --rate 500"
            );
            let found = report_of(&flags, 0);
            let came = std::mem::take(&mut *sources.lock().unwrap());
            assert_eq!(
                (came.len(), came.values().all(|times| *times == each)),
                (16, true),
                "{flags}: {came:?}"
            );
            let places = &found["sources"];
            assert_eq!((number(&places["visited"]), number(&places["ok"])), (16, 15), "{flags}: {places}");
            assert_eq!(faults(places), [("127.3.2.9", "silent", 1)], "{flags}");
            assert_eq!(faults(&found["destinations"]), [(&*addr.to_string(), "lossy", 1)], "{flags}");
        }
    }
}

/// What a signal left unvisited is not silent.
#[test]
fn a_signal_leaves_the_rest_unvisited() {
    let server = crate::UdpServer::new("0.0.0.0:0", crate::Conduct::Good);
    let flags = format!(
        "udp 127.1.0.0/16:{} --each-once --rate 500 --timeout 5s --json - --quiet",
        server.addr.port()
    );
    let child = Command::new(BLASTER).args(flags.split_whitespace()).stdout(Stdio::piped()).spawn().unwrap();
    server.wait_for(200);
    signal("INT", child.id());
    let found = parse(&child.wait_with_output().unwrap());
    let destinations = &found["destinations"];
    let visited = number(&destinations["visited"]);
    assert!((200..10_000).contains(&visited), "{destinations}");
    assert_eq!(number(&destinations["not_visited"]), 65_536 - visited);
    assert_eq!(number(&destinations["silent"]), 0, "{destinations}");
}

/// Datagrams that this host does not send are no fault of the destination.
#[test]
#[ignore = "needs root"]
fn what_this_host_refuses_to_send_is_told_apart() {
    private_network(|| {
        let (server, _dispatcher) = server(&["127.1.0.0/24"], PORT);
        ip("route add prohibit 127.1.0.16/28 table local");
        for (protocol, rate) in [("udp", "2k"), ("tcp", "500")] {
            let found = report_of(&format!("{protocol} 127.1.0.0/26:1234 --each-once --rate {rate}"), 0);
            let destinations = &found["destinations"];
            assert_eq!(faults(destinations), [("127.1.0.16/28:1234", "unsendable", 16)], "{protocol}");
            assert_eq!((number(&destinations["ok"]), number(&destinations["silent"])), (48, 0), "{protocol}");
        }
        server.stop();
    });
}

/// A wrong wish is told before anything is sent.
#[test]
fn what_does_not_go_with_it_is_told() {
    for (flags, words) in [
        ("udp 127.0.0.1:7 --each-once --duration 5s", "can only be forever"),
        ("udp 127.0.0.1:7 --each-once --spray", "cannot be used with"),
        ("udp 127.0.0.1:7 --sample 5", "--each-once"),
        ("udp 127.0.0.1:7 --each-once=0", "at least 1"),
        ("udp 127.0.0.1:7 --each-once=20k", "more than 10000 visits"),
        ("udp 127.0.0.1:7 --each-once --sample 1M", "more than blaster remembers: 262144"),
        ("udp 127.0.0.1:7 [::1]:7 --each-once", "one address family"),
        ("udp --each-once 3 127.0.0.1:7", "\"3\""),
        ("tcp 127.0.0.1:7 --rate 5 --mode stream", "has no schedule"),
        ("tcp 127.0.0.1:7 --each-once --mode stream", "cannot be used with"),
    ] {
        let output = blaster(flags);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{flags}: {text}");
        assert!(text.lines().count() == 1 && text.contains(words), "{flags}: {text}");
    }
}

#[test]
fn each_destination_comes_at_the_rate_that_was_asked_for() {
    let server = crate::UdpServer::new("0.0.0.0:0", crate::Conduct::Good);
    let target = format!("127.1.0.0/25:{}", server.addr.port());
    // the wildcard server answers from the wrong address
    let found = report_of(&format!("udp {target} --each-once=5 --rate 1k --timeout 5s"), 1);
    let elapsed = Duration::from_nanos(number(&found["elapsed_ns"]));
    assert!(elapsed >= Duration::from_millis(640), "{elapsed:?}");
    assert_eq!((number(&found["totals"]["sent"]), server.count()), (640, 640));
    assert_eq!(found["load"]["each_once"], 5);
    assert_eq!(faults(&found["destinations"]), [(&*target, "misdirected", 128)]);
}
