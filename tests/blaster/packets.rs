//! The options of headers and ways: what they put on the wire, and what the report says of the replies' headers.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};

use crate::misbehaving::{Conduct, TcpConduct, UdpServer, tcp_server};
use crate::support::capture::Capture;
use crate::support::netns::{Netns, ip, setting};
use crate::support::{Server, private_network, sys};
use crate::{BLASTER, blaster, number, parse, stderr};

/// An echo server whose test sees each datagram before it is answered.
struct Echo {
    addr: SocketAddr,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// `before` gets the socket, the number of the datagram and its sender.
    fn start(bind: &str, mut before: impl FnMut(&UdpSocket, u64, SocketAddr) + Send + 'static) -> Self {
        let socket = UdpSocket::bind(bind).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let (addr, is_over) = (socket.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let ended = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            let (mut buffer, mut nth) = (vec![0; 65_536], 0);
            while !ended.load(Ordering::Relaxed) {
                let Ok((bytes, peer)) = socket.recv_from(&mut buffer) else { continue };
                before(&socket, nth, peer);
                socket.send_to(&buffer[..bytes], peer).unwrap();
                nth += 1;
            }
        });
        Self { addr, is_over, thread: Some(thread) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// The report of a run that ends with `status`.
fn report_of(flags: &str, status: i32) -> Value {
    let output = blaster(&format!("{flags} --json - --quiet"));
    assert_eq!(output.status.code(), Some(status), "{flags}: {}", stderr(&output));
    parse(&output)
}

#[test]
#[ignore = "needs root"]
fn every_packet_has_the_headers_that_were_asked_for() {
    private_network(|| {
        for ip in ["127.0.0.1", "[::1]"] {
            let udp = UdpServer::new(&format!("{ip}:0"), Conduct::Good);
            let tcp = tcp_server(&format!("{ip}:0"), TcpConduct::Good);
            for (load, addr) in [
                ("udp", udp.addr),
                ("udp --gso 4", udp.addr),
                ("tcp", tcp),
                ("tcp --mode connect", tcp),
                ("tcp --each-once=3", tcp),
            ] {
                let count = if load.contains("each-once") { "" } else { "--count 40" };
                for (flags, class, ttl) in [("", 0, 64), ("--dscp AF41 --ttl 9 --dont-fragment", 34 << 2, 9)]
                {
                    let capture = Capture::start();
                    let (protocol, mode) = load.split_once(' ').unwrap_or((load, ""));
                    let report = report_of(&format!("{protocol} {addr} {mode} {count} {flags}"), 0);
                    assert_eq!(report["totals"]["sent"], report["totals"]["ok"], "{load} {flags}");
                    let packets = capture.packets_to(addr.port());
                    assert!(packets.len() >= 3, "{load} {flags}: {packets:?}");
                    // after a connection's FIN, its socket is gone, and the kernel acknowledges with its own TTL; two
                    // processors may capture the two packets in another order
                    let fins = packets.iter().filter(|packet| packet.is_fin).map(|packet| packet.from_port);
                    let mut last_acknowledgements: HashMap<u16, u32> = fins.map(|port| (port, 2)).collect();
                    for packet in packets {
                        let found = (packet.class & !3, packet.ttl);
                        let left = last_acknowledgements.get_mut(&packet.from_port).filter(|left| **left > 0);
                        if let Some(left) = left
                            && !packet.is_fin
                            && packet.bytes < 100
                            && found != (class, ttl)
                        {
                            *left -= 1;
                            continue;
                        }
                        assert_eq!(found, (class, ttl), "{load} {flags}: {packet:?}");
                        assert!(packet.dont_fragment || flags.is_empty(), "{load} {flags}: {packet:?}");
                    }
                }
            }
        }
    });
}

/// Without it, a host cuts what is larger than a device's MTU.
#[test]
#[ignore = "needs root"]
fn what_must_not_be_fragmented_is_refused() {
    private_network(|| {
        ip("link set lo mtu 1400");
        for ip in ["127.0.0.1", "[::1]"] {
            let server = UdpServer::new(&format!("{ip}:0"), Conduct::Good);
            let whole = if ip.starts_with('[') { 1400 - 48 } else { 1400 - 28 };
            let run = |size: usize, flags: &str, status| {
                let flags = format!("udp {} --size {size} --count 10 --flows 1 {flags}", server.addr);
                let output = blaster(&format!("{flags} --json - --quiet"));
                assert_eq!(output.status.code(), Some(status), "{flags}: {}", stderr(&output));
                output
            };
            let capture = Capture::start();
            run(whole + 1, "", 0);
            assert!(capture.packets().iter().any(|packet| packet.is_fragment), "{ip}: cut by this host");
            let capture = Capture::start();
            run(whole, "--dont-fragment", 0);
            let refused = stderr(&run(whole + 1, "--dont-fragment", 1));
            assert!(refused.contains("use a smaller --size"), "{refused}");
            let own = |packet: &crate::support::capture::Packet| packet.to_port == server.addr.port();
            assert!(capture.packets().iter().filter(|it| own(it)).all(|packet| !packet.is_fragment), "{ip}");
        }
    });
}

/// What comes back is counted by value, and nobody is accused.
#[test]
fn replies_are_counted_by_dscp_ecn_and_ttl() {
    for ip in ["127.0.0.1", "[::1]"] {
        let is_v4 = ip.starts_with('1');
        let (level, class, hops) = if is_v4 {
            (libc::SOL_IP, libc::IP_TOS, libc::IP_TTL)
        } else {
            (libc::SOL_IPV6, libc::IPV6_TCLASS, libc::IPV6_UNICAST_HOPS)
        };
        let server = Echo::start(&format!("{ip}:0"), move |socket, nth, _| {
            let (reply_class, reply_ttl) =
                [(0xb8, 64), (0x28, 64), (0xbb, 61), (0xb8, 64)][(nth % 4) as usize];
            sys::set_option(socket, level, class, reply_class).unwrap();
            sys::set_option(socket, level, hops, reply_ttl).unwrap();
        });
        let flags = format!("udp {} --count 100 --dscp EF", server.addr);
        let report = report_of(&flags, 0);
        let replies = &report["replies"];
        assert_eq!((number(&replies["other_dscp"]), number(&replies["other_ecn"])), (25, 25), "{replies}");
        assert_eq!(
            replies["dscp"],
            json!([
                { "dscp": 10, "name": "AF11 (10)", "count": 25 },
                { "dscp": 46, "name": "EF (46)", "count": 75 }
            ])
        );
        assert_eq!(replies["ecn"], json!([{ "ecn": 0, "count": 75 }, { "ecn": 3, "count": 25 }]));
        assert_eq!(replies["ttl"], json!([{ "ttl": 61, "count": 25 }, { "ttl": 64, "count": 75 }]));
        assert_eq!(report["load"]["dscp"], 46);
        let warnings = report["warnings"].to_string();
        let words = "25 right replies came with DSCP AF11 (10), sent with EF (46): a router changed it, on one of the two \
                     ways, or the server does not send it back";
        assert!(warnings.contains(words), "{warnings}");
        let failing = "other_dscp>24,other_dscp>=26%,other_ecn>25,ttl_min<62,ttl_max>64";
        let output = blaster(&format!("{flags} --fail-if {failing}"));
        assert_eq!(output.status.code(), Some(3));
        let table = String::from_utf8(output.stdout).unwrap();
        for line in [
            "\nreply DSCP                  25   AF11 (10), sent with EF (46)\n",
            "\nreply DSCP                  75   EF (46), as sent\n",
            "\nreply ECN                   25   congestion experienced (CE), sent without ECN\n",
            "\nreply TTL                  100   64 (75), 61 (25)\n",
            "FAILED  --fail-if 'other_dscp>24': 25\n",
            "passed  --fail-if 'other_dscp>=26%': 25.0%\n",
            "passed  --fail-if 'other_ecn>25': 25\n",
            "FAILED  --fail-if 'ttl_min<62': 61\n",
            "passed  --fail-if 'ttl_max>64': 64\n",
        ] {
            assert!(table.contains(line), "{line}{table}");
        }
    }
}

/// Our server sends the DSCP back; the TTL of its replies is its own.
#[test]
fn the_real_server_sends_the_dscp_back() {
    let server = Server::start(&["--udp", "127.0.0.1:0", "--udp", "[::1]:0"]);
    for (_, addr) in server.addresses() {
        let report = report_of(&format!("udp {addr} --count 100 --dscp CS3 --ttl 5"), 0);
        let replies = &report["replies"];
        assert_eq!(replies["dscp"], json!([{ "dscp": 24, "name": "CS3 (24)", "count": 100 }]), "{addr}");
        assert_eq!((number(&replies["other_dscp"]), number(&replies["other_ecn"])), (0, 0), "{addr}");
        assert!(!report["warnings"].to_string().contains("DSCP"), "{addr}");
        // nobody asked
        assert_eq!(report_of(&format!("udp {addr} --count 100"), 0)["replies"], Value::Null);
    }
}

/// Two ways lead to a server. The route of the first is the better one; `--interface` and `--mark` choose the second.
#[test]
#[ignore = "needs root"]
fn an_interface_and_a_mark_choose_the_way() {
    private_network(|| {
        let far = Netns::new();
        for nth in [1, 2] {
            Netns::cable(&format!("near{nth}"), &format!("far{nth}"), &far);
            for (end, last) in [("near", 1), ("far", 2)] {
                let set_up = || {
                    setting("ipv4/conf/all/rp_filter", "0");
                    setting(&format!("ipv4/conf/{end}{nth}/rp_filter"), "0");
                    ip(&format!("address add 10.9.{nth}.{last}/24 dev {end}{nth}"));
                    ip(&format!("-6 address add fd00:{nth}::{last}/64 dev {end}{nth} nodad"));
                    ip(&format!("link set {end}{nth} up"));
                };
                if end == "far" { far.run(set_up) } else { set_up() }
            }
            ip(&format!("route add 10.9.9.9 via 10.9.{nth}.2 metric {nth}"));
            ip(&format!("-6 route add fd00:9::9 via fd00:{nth}::2 metric {nth}"));
        }
        ip("rule add fwmark 0x7 table 7");
        ip("-6 rule add fwmark 0x7 table 7");
        ip("route add 10.9.9.9 via 10.9.2.2 table 7");
        ip("-6 route add fd00:9::9 via fd00:2::2 table 7");
        let (seen, peers) = std::sync::mpsc::channel();
        let servers = far.run(|| {
            ip("address add 10.9.9.9/32 dev lo");
            ip("-6 address add fd00:9::9/128 dev lo nodad");
            ["10.9.9.9:7", "[fd00:9::9]:7"].map(|addr| {
                let seen = seen.clone();
                let tcp = far.run(|| tcp_server(addr, TcpConduct::Good));
                assert_eq!(tcp, addr.parse().unwrap());
                Echo::start(addr, move |_, _, peer| seen.send(peer.ip().to_string()).unwrap())
            })
        });
        for (server, by) in servers.iter().zip(["10.9.", "fd00:"]) {
            for (flags, way) in [("", 1), ("--interface near2", 2), ("--mark 7", 2), ("--interface near1", 1)]
            {
                report_of(&format!("udp {} --count 20 --flows 2 {flags}", server.addr), 0);
                let wanted = format!("{by}{way}");
                for peer in peers.try_iter() {
                    assert!(peer.starts_with(&wanted), "udp {} {flags}: from {peer}", server.addr);
                }
                let capture = Capture::start();
                report_of(&format!("tcp {} --count 20 --connections 2 {flags}", server.addr), 0);
                let packets = capture.packets_to(7);
                assert!(packets.len() >= 20, "{packets:?}");
                for packet in packets {
                    let from = packet.from.to_string();
                    assert!(from.starts_with(&wanted), "tcp {} {flags}: from {from}", server.addr);
                }
            }
        }
    });
}

/// What the kernel refuses has a cure, and the cure helps.
#[test]
#[ignore = "needs root"]
fn refused_options_name_their_cure() {
    private_network(|| {
        let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
        let tcp = tcp_server("127.0.0.1:0", TcpConduct::Good);
        for target in [
            format!("udp {}", server.addr),
            format!("tcp {tcp}"),
            format!("tcp {tcp} --mode connect"),
            format!("tcp {tcp} --each-once=5"),
        ] {
            let count = if target.contains("each-once") { "" } else { "--count 5" };
            let missing = blaster(&format!("{target} {count} --interface nosuch"));
            assert_eq!(missing.status.code(), Some(1), "{target}");
            let words =
                "blaster: --interface nosuch: No such device (os error 19); `ip link` shows the interfaces\n";
            assert_eq!(stderr(&missing), words, "{target}");
            report_of(&format!("{target} {count} --interface lo"), 0);
            let as_nobody = |flags: &str| {
                let mut command = Command::new(BLASTER);
                command.args(format!("{target} {count} {flags}").split_whitespace()).uid(65_534).gid(65_534);
                command.output().expect("blaster as nobody")
            };
            let refused = as_nobody("--mark 7");
            assert_eq!(refused.status.code(), Some(1), "{target}");
            let words = "blaster: --mark 0x7: Operation not permitted (os error 1); that needs CAP_NET_ADMIN: run blaster as \
                         root, or `setcap cap_net_admin+ep` its file\n";
            assert_eq!(stderr(&refused), words, "{target}");
            report_of(&format!("{target} {count} --mark 7"), 0);
            // Linux 5.7 and newer
            assert_eq!(as_nobody("--interface lo").status.code(), Some(0), "{target}");
        }
        for (flags, words) in [
            (
                "--dscp AF44",
                "is no DSCP: say a name (CS0-CS7, AF11-AF43, EF, VOICE-ADMIT, LE) or a number from 0 to 63",
            ),
            ("--interface a/b", "is no name of an interface, which `ip link` shows"),
            ("--mark blue", "is no mark: say a number, as in 7 or 0x7"),
            ("--ttl 0", "0 is not in 1..=255"),
        ] {
            let output = blaster(&format!("udp {} {flags}", server.addr));
            assert_eq!(output.status.code(), Some(2), "{flags}");
            assert!(stderr(&output).contains(words), "{flags}: {}", stderr(&output));
        }
    });
}
