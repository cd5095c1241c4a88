//! `blaster mtu` on paths whose MTU is known: through routers, with and without ICMP messages, both ways.

use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};

use crate::misbehaving::{Conduct, UdpServer};
use crate::support::blaster::expect_documented;
use crate::support::capture::Capture;
use crate::support::forge::forge_too_large;
use crate::support::netns::{Netns, ip, setting};
use crate::support::sys::{self, Pidfd};
use crate::support::{Server, private_network, until};
use crate::{BLASTER, blaster, number, stderr};

/// The server, behind the router, and the router's addresses on blaster's side.
const SERVER: [&str; 2] = ["10.2.0.2:7", "[fd02::2]:7"];
const ROUTER: [&str; 2] = ["10.1.0.1", "fd01::1"];

/// Blaster is in the calling thread's namespace, a router behind a cable of 1,500 bytes, and the server behind another one.
struct Network {
    router: Netns,
    server: Netns,
}

fn up(device: &str, addresses: [&str; 2]) {
    setting(&format!("ipv6/conf/{device}/accept_dad"), "0");
    // a neighbor is asked again soon
    setting(&format!("ipv6/neigh/{device}/retrans_time_ms"), "20");
    ip(&format!("address add {} dev {device}", addresses[0]));
    ip(&format!("address add {} dev {device} nodad", addresses[1]));
    ip(&format!("link set {device} up"));
}

impl Network {
    fn new() -> Self {
        let (router, server) = (Netns::new(), Netns::new());
        Netns::cable("near", "inside", &router);
        up("near", ["10.1.0.2/24", "fd01::2/64"]);
        ip("route add default via 10.1.0.1");
        ip("route add default via fd01::1");
        router.run(|| {
            Netns::cable("outside", "far", &server);
            up("inside", ["10.1.0.1/24", "fd01::1/64"]);
            up("outside", ["10.2.0.1/24", "fd02::1/64"]);
            setting("ipv4/ip_forward", "1");
            setting("ipv6/conf/all/forwarding", "1");
            // each datagram may get its message
            setting("ipv4/icmp_ratelimit", "0");
        });
        server.run(|| {
            up("far", ["10.2.0.2/24", "fd02::2/64"]);
            ip("route add default via 10.2.0.1");
            ip("route add default via fd02::1");
        });
        Self { router, server }
    }

    /// The router's next link to the server has this MTU.
    fn there(&self, mtu: u32) {
        self.router.run(|| {
            ip(&format!("route replace 10.2.0.2 dev outside mtu {mtu}"));
            ip(&format!("route replace fd02::2 dev outside mtu {mtu}"));
        });
    }

    /// The router's next link to blaster has this MTU.
    fn back(&self, mtu: u32) {
        self.router.run(|| {
            ip(&format!("route replace 10.1.0.2 dev inside mtu {mtu}"));
            ip(&format!("route replace fd01::2 dev inside mtu {mtu}"));
        });
    }

    /// The router's ICMP messages get lost.
    fn silence(&self) {
        self.router.run(|| {
            ip("rule add iif lo ipproto icmp blackhole");
            ip("-6 rule add iif lo ipproto ipv6-icmp blackhole");
        });
    }

    /// Our server.
    fn serve(&self) -> Server {
        let server = self.server.run(|| Server::start(&["--udp", SERVER[0], "--udp", SERVER[1]]));
        // the kernel may use a new cable only after a while
        for server in SERVER {
            let any = if server.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
            let socket = UdpSocket::bind(any).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
            until("the server answers", || {
                socket.send_to(b"?", server).is_ok() && socket.recv(&mut [0]).is_ok()
            });
        }
        server
    }
}

/// The result for `target`, and the table.
fn find(target: &str, flags: &str, status: i32) -> (Value, String) {
    let output = blaster(&format!("mtu {target} --timeout 60ms {flags} --json -"));
    let table = stderr(&output);
    assert_eq!(output.status.code(), Some(status), "{target} {flags}: {table}");
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    expect_documented(&found);
    (found, table)
}

/// What each of the paths is expected to have: the MTU, its limit, and the way that has it.
fn expect(target: &str, mtu: u32, limit: &str, way: &Value) -> (Value, String) {
    // where nothing comes back, all flows take the same time
    let flows = if limit == "silence" { 1 } else { 2 };
    let (found, table) = find(target, &format!("--flows {flows}"), 0);
    let paths = found["paths"].as_array().expect("paths");
    assert_eq!(paths.len(), flows, "{target}");
    for path in paths {
        let wanted = json!({ "mtu": mtu, "limit": limit, "way": way, "settled": true });
        let is = json!({ "mtu": path["mtu"], "limit": path["limit"], "way": path["way"], "settled": path["settled"] });
        assert_eq!(is, wanted, "{target}: {path:#}");
        let headers = if target.starts_with('[') { 48 } else { 28 };
        assert_eq!(path["datagram_bytes"], mtu - headers, "{target}");
    }
    assert_eq!(found["mtu"], mtu, "{target}");
    (found, table)
}

#[test]
#[ignore = "needs root"]
fn a_router_tells_its_mtu() {
    private_network(|| {
        let network = Network::new();
        let _server = network.serve();
        for (target, router) in SERVER.into_iter().zip(ROUTER) {
            expect(target, 1_500, "interface", &json!("there"));
            for mtu in [1_476, 1_399, 1_280] {
                network.there(mtu);
                let (found, table) = expect(target, mtu, "router", &json!("there"));
                assert_eq!(found["paths"][0]["told"][0]["from"], router);
                let words = format!(
                    "{router}, a router on the way there, says by ICMP that its next link carries 1,"
                );
                assert!(table.contains(&words), "{table}");
                assert_eq!(found["warnings"], json!([]), "a true message");
                assert_eq!(found["paths"][0]["host_mtu"], mtu, "it told the kernel, too");
                assert!(number(&found["paths"][0]["sent"]) < 15, "{found:#}");
            }
            network.there(1_500);
            // what the kernel remembers from before is no limit of the path
            let (found, table) = expect(target, 1_500, "interface", &json!("there"));
            assert_eq!(found["paths"][0]["host_mtu"], 1_280, "the least of what it was told");
            assert!(table.contains("this host      believes that only 1,280 bytes pass"), "{table}");
        }
    });
}

/// Finds a black hole of 1,437 bytes on the way to a server of this family, and the cure that the table names.
fn a_black_hole(family: usize, ip_name: &'static str, cure: Option<&'static str>) {
    private_network(move || {
        let network = Network::new();
        let _server = network.serve();
        network.silence();
        network.there(1_437);
        let target = SERVER[family];
        let (found, table) = expect(target, 1_437, "silence", &json!("there"));
        assert_eq!(found["paths"][0]["host_mtu"], 1_500);
        for words in [
            "limit          a black hole on the way there: larger packets vanish, and no ICMP message says why\n",
            &format!(
                "believes that 1,500 bytes pass: its large packets to {ip_name} get lost until a route says `mtu 1437`"
            ),
        ] {
            assert!(table.contains(words), "{words}: {table}");
        }
        let Some(cure) = cure else { return };
        ip(cure);
        let (found, table) = expect(target, 1_437, "silence", &json!("there"));
        assert_eq!(found["paths"][0]["host_mtu"], 1_437);
        assert!(!table.contains("this host"), "{table}");
    });
}

#[test]
#[ignore = "needs root"]
fn a_black_hole_is_found_on_the_way_there() {
    a_black_hole(0, "10.2.0.2", Some("route change default via 10.1.0.1 mtu 1437"));
}

/// No router fragments, so the size of the fragments that come back tells of the way back.
#[test]
#[ignore = "needs root"]
fn a_black_hole_of_ipv6_is_found_on_the_way_there() {
    a_black_hole(1, "fd02::2", None);
}

#[test]
#[ignore = "needs root"]
fn a_smaller_way_back_is_not_taken_for_the_way_there() {
    private_network(|| {
        let network = Network::new();
        let server = network.serve();
        network.back(1_400);
        // over IPv4 a router fragments the replies of tubular-echo; over IPv6 it tells the server's host, which does
        for (target, largest) in SERVER.into_iter().zip(["1,396", "1,400"]) {
            let (found, table) = expect(target, 1_400, "fragments", &json!("back"));
            let words = "the way back: larger packets arrive, but their replies come in fragments of at most";
            assert!(table.contains(&format!("{words} {largest} bytes")), "{table}");
            assert!(number(&found["paths"][0]["there"]) > 1_400, "{found:#}");
        }
        network.silence();
        network.back(1_390);
        expect(SERVER[0], 1_390, "fragments", &json!("back"));
        server.stop();
        // a server that forbids fragments, as most do
        let _server = network.server.run(|| UdpServer::new(SERVER[0], Conduct::Good));
        let (found, table) = expect(SERVER[0], 1_390, "silence", &Value::Null);
        assert!(table.contains("a black hole: larger packets or their replies vanish"), "{table}");
        assert_eq!(found["paths"][0]["above"]["whole"], 0);
    });
}

/// An echo server that receives datagrams up to a size. Larger ones vanish, or a router tells this MTU about them.
struct Narrow {
    addr: SocketAddr,
    vanished: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Narrow {
    fn start(bind: &str, most: usize, told: Option<u16>) -> Self {
        let socket = UdpSocket::bind(bind).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        // its host is blaster's, which believes the messages
        for (level, name) in
            [(libc::SOL_IP, libc::IP_MTU_DISCOVER), (libc::SOL_IPV6, libc::IPV6_MTU_DISCOVER)]
        {
            if (level == libc::SOL_IP) == bind.starts_with('1') {
                sys::set_option(&socket, level, name, libc::IP_PMTUDISC_PROBE).unwrap();
            }
        }
        let (addr, is_over) = (socket.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let vanished = Arc::new(AtomicU64::new(0));
        let (ended, counted) = (Arc::clone(&is_over), Arc::clone(&vanished));
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while !ended.load(Ordering::Relaxed) {
                let Ok((bytes, peer)) = socket.recv_from(&mut buffer) else { continue };
                match told {
                    _ if bytes <= most => drop(socket.send_to(&buffer[..bytes], peer).unwrap()),
                    Some(told) => forge_too_large(peer, addr, told),
                    None => drop(counted.fetch_add(1, Ordering::Relaxed)),
                }
            }
        });
        Self { addr, vanished, is_over, thread: Some(thread) }
    }
}

impl Drop for Narrow {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Gateways are known that tell no MTU, that of another link, or one without their own headers.
#[test]
#[ignore = "needs root"]
fn a_false_message_of_a_router_is_told() {
    private_network(|| {
        for (told, words) in [
            (0, "bytes is too large, and not what would pass: hosts then guess a small MTU"),
            (40, "tells an MTU of 40, less than IP allows"),
            (1_500, "tells an MTU of 1500 about a packet of"),
            (1_300, "tells an MTU of 1300, but 1400 bytes pass"),
        ] {
            for bind in ["127.0.0.1:0", "[::1]:0"] {
                let headers = if bind.starts_with('[') { 48 } else { 28 };
                let server = Narrow::start(bind, 1_400 - headers, Some(told));
                let (found, table) =
                    expect(&server.addr.to_string(), 1_400, "router-with-another-mtu", &json!("there"));
                let warnings = found["warnings"].to_string();
                assert!(warnings.contains(words), "{bind} {told}: {warnings}");
                assert!(
                    table.contains("a router on the way there, and its ICMP message is wrong"),
                    "{table}"
                );
            }
        }
    });
}

/// Two ways lead to the server, and the ports choose: routers do that with tunnels.
#[test]
#[ignore = "needs root"]
fn flows_find_paths_with_different_mtus() {
    private_network(|| {
        let network = Network::new();
        let _server = network.serve();
        network.router.run(|| {
            Netns::cable("other", "end", &network.server);
            up("other", ["10.3.0.1/24", "fd03::1/64"]);
            network.server.run(|| up("end", ["10.3.0.2/24", "fd03::2/64"]));
            setting("ipv4/fib_multipath_hash_policy", "1");
            ip("route add 10.9.0.9 nexthop dev outside via 10.2.0.2 nexthop dev other via 10.3.0.2");
            ip("link set other mtu 1420");
        });
        network.server.run(|| {
            ip("address add 10.9.0.9/32 dev lo");
            ip("link set end mtu 1420");
            for device in ["all", "far", "end"] {
                setting(&format!("ipv4/conf/{device}/rp_filter"), "0");
            }
        });
        let _server = network.server.run(|| Server::start(&["--udp", "10.9.0.9:7"]));
        let (found, table) = find("10.9.0.9:7", "--flows 20", 0);
        let mtus: Vec<u64> =
            found["paths"].as_array().expect("paths").iter().map(|path| number(&path["mtu"])).collect();
        assert!(mtus.contains(&1_500) && mtus.contains(&1_420), "{mtus:?}");
        assert!(mtus.iter().all(|mtu| [1_420, 1_500].contains(mtu)), "{mtus:?}");
        assert_eq!(found["mtu"], 1_420);
        let words = "flows to 10.9.0.9:7 take paths with different MTUs, from 1420 to 1500: which one depends on the source \
                     port";
        assert!(table.contains(words), "{table}");
    });
}

#[test]
fn a_server_that_cuts_large_datagrams_is_the_limit() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&is_over);
    let server = thread::spawn(move || {
        let mut buffer = [0; 1_024];
        while !ended.load(Ordering::Relaxed) {
            let Ok((bytes, peer)) = socket.recv_from(&mut buffer) else { continue };
            socket.send_to(&buffer[..bytes], peer).unwrap();
        }
    });
    let (_, table) = expect(&addr.to_string(), 1_024 + 28, "damage", &Value::Null);
    is_over.store(true, Ordering::Relaxed);
    server.join().unwrap();
    assert!(
        table.contains("the server, or a middlebox: larger datagrams come back shorter or changed"),
        "{table}"
    );
}

#[test]
fn loopback_carries_the_largest_datagrams() {
    let server = Server::start(&["--udp", "127.0.0.1:0", "--udp", "[::1]:0"]);
    for (_, addr) in server.addresses() {
        let (mtu, limit, way) = if addr.is_ipv4() {
            (65_535, "largest", Value::Null)
        } else {
            (65_536, "interface", json!("there"))
        };
        expect(&addr.to_string(), mtu, limit, &way);
    }
    let port = server.addresses()[0].1.port();
    let (found, table) = find(&format!("localhost:{port}"), "-4 -f 1", 0);
    assert_eq!(found["load"]["names"][0]["addresses"], json!(["127.0.0.1"]));
    assert_eq!(found["paths"][0]["destination"], format!("127.0.0.1:{port}"));
    assert!(table.contains("\nlocalhost is 127.0.0.1\n"), "{table}");
}

#[test]
fn conditions_and_the_exit_status() {
    let server = Server::start(&["--udp", "127.0.0.1:0"]);
    let addr = server.addresses()[0].1.to_string();
    let (found, table) = find(&addr, "--fail-if mtu<1500,mtu<=65534", 0);
    assert_eq!(found["fail_if"][0], json!({ "condition": "mtu<1500", "measured": "65535", "failed": false }));
    assert!(table.contains("passed  --fail-if 'mtu<1500': 65535\n"), "{table}");
    let (_, table) = find(&addr, "--fail-if mtu<66k", 3);
    assert!(table.contains("FAILED  --fail-if 'mtu<66k': 65535\n"), "{table}");
    drop(server);
    let gone = blaster(&format!("mtu {addr} --timeout 50ms -f 1"));
    assert_eq!(gone.status.code(), Some(1));
    let words =
        format!("nothing came back from {addr}: ICMP port unreachable from 127.0.0.1: nobody listens there");
    assert!(stderr(&gone).contains(&words), "{}", stderr(&gone));
    // not measured is bad
    find(&addr, "-f 1 --fail-if mtu<1", 3);
}

/// Why nothing comes back, if it is not the network.
#[test]
#[ignore = "needs root"]
fn what_this_host_refuses_is_told() {
    private_network(|| {
        let flags = "--timeout 50ms -f 1";
        let server = Server::start(&["--udp", "127.0.0.1:0"]);
        let addr = server.addresses()[0].1;
        let why = |target: &str| {
            let output = blaster(&format!("mtu {target} {flags}"));
            assert_eq!(output.status.code(), Some(1), "{target}");
            stderr(&output)
        };
        let missing = why(&format!("{addr} --interface nosuch"));
        assert!(missing.contains("--interface nosuch: No such device"), "{missing}");
        let missing = why(&format!("{addr} --source 192.0.2.1"));
        assert!(missing.contains("--source 192.0.2.1: Cannot assign requested address"), "{missing}");
        let missing = why("192.0.2.9:7");
        assert!(missing.contains("no route to 192.0.2.9:7"), "{missing}");
        let far = Netns::new();
        Netns::cable("near", "far", &far);
        up("near", ["10.7.0.1/24", "fd07::1/64"]);
        ip("rule add to 10.7.0.9 prohibit pref 0");
        let prohibited = why("10.7.0.9:7 --source 10.7.0.1");
        assert!(prohibited.contains("this host refused to send: Permission denied"), "{prohibited}");
        let (asked, other) =
            (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.2:0").unwrap());
        let (addr, from) = (asked.local_addr().unwrap(), other.local_addr().unwrap());
        asked.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let server = thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            let (bytes, peer) = asked.recv_from(&mut buffer).unwrap();
            other.send_to(&buffer[..bytes], peer).unwrap();
            asked
        });
        let stray = why(&addr.to_string());
        drop(server.join().unwrap());
        let words = format!("a reply came from {from}, another source than the one addressed");
        assert!(stray.contains(&words), "{stray}");
    });
}

/// All of them leave in one piece, with the headers that were asked for.
#[test]
#[ignore = "needs root"]
fn no_packet_of_a_search_is_a_fragment() {
    private_network(|| {
        ip("link set lo mtu 9000");
        for (bind, flags, label) in [("127.0.0.1:0", "", 0), ("[::1]:0", "--flow-label 0x12345", 0x12345)] {
            let server = UdpServer::new(bind, Conduct::Good);
            let capture = Capture::start();
            let (found, told) = find(&server.addr.to_string(), &format!("-f 3 --dscp EF --ttl 9 {flags}"), 0);
            assert_eq!(told.contains("flow label 0x12345"), label != 0, "{told}");
            assert_eq!((&found["mtu"], &found["load"]["dscp"]), (&json!(9_000), &json!(46)));
            let packets = capture.packets_to(server.addr.port());
            assert!(packets.len() >= 6, "{packets:?}");
            for packet in packets {
                assert_eq!(packet.flow_label, label, "{packet:?}");
                assert!(packet.dont_fragment && !packet.is_fragment, "{packet:?}");
                assert_eq!((packet.class & !3, packet.ttl), (46 << 2, 9), "{packet:?}");
            }
        }
    });
}

#[test]
fn what_it_refuses() {
    for (arguments, words) in [
        ("192.88.99.1:7", "is public: only addresses that the Internet does not reach"),
        ("-4 [::1]:7", "[::1]:7"),
        ("224.0.0.1:7", "which are never loaded"),
        ("127.0.0.1:7 --flow-label random", "--flow-label random"),
        ("127.0.0.1:7 --source ::1", "--source ::1 can't reach 127.0.0.1:7"),
        (
            "127.0.0.1:7 -f 257",
            "257 paths are more than blaster mtu searches: 256 (use fewer targets or --flows)",
        ),
        (
            "127.0.0.1:7 --fail-if mtu<1500,loss>0",
            "\"loss>0\" is nothing that blaster mtu measures: use mtu, as in 'mtu<1500'",
        ),
        ("127.0.0.1:7 --size 100", "unexpected argument '--size'"),
    ] {
        let output = blaster(&format!("mtu {arguments}"));
        assert_eq!(output.status.code(), Some(2), "{arguments}");
        assert!(stderr(&output).contains(words), "{arguments}: {}", stderr(&output));
    }
}

/// A search in a black hole, until a signal ends it.
#[test]
fn a_signal_ends_it_with_what_is_known() {
    let server = Narrow::start("127.0.0.1:0", 1_372, None);
    let child = Command::new(BLASTER)
        .args(["mtu", &server.addr.to_string(), "--timeout", "60s", "--json", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until("a large datagram vanishes", || server.vanished.load(Ordering::Relaxed) > 0);
    Pidfd::open(child.id()).unwrap().signal(libc::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    expect_documented(&found);
    assert_eq!(found["ended_early"], true);
    let path = &found["paths"][0];
    assert_eq!((&path["limit"], &path["settled"]), (&json!("unknown"), &json!(false)), "{path:#}");
    assert!((68..=1_400).contains(&number(&path["mtu"])), "{path:#}");
}
