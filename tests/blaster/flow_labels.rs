//! `--flow-label`: the flow labels of IPv6 on the wire.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, UdpSocket};

use serde_json::Value;

use crate::misbehaving::{Conduct, TcpConduct, UdpServer, tcp_server};
use crate::support::capture::Capture;
use crate::support::netns::{ip, setting};
use crate::support::{private_network, sys};
use crate::{blaster, number, report, stderr};

/// The labels of each flow to `port`, by its source, and the report of the run.
fn labels(flags: &str, port: u16) -> (BTreeMap<(IpAddr, u16), BTreeSet<u32>>, Value) {
    let capture = Capture::start();
    let report = report(flags);
    assert_eq!(report["totals"]["sent"], report["totals"]["ok"], "{flags}");
    let mut labels: BTreeMap<_, BTreeSet<u32>> = BTreeMap::new();
    for packet in capture.packets_to(port) {
        labels.entry((packet.from, packet.from_port)).or_default().insert(packet.flow_label);
    }
    (labels, report)
}

/// The one label of each flow, in order.
fn one_each(labels: &BTreeMap<(IpAddr, u16), BTreeSet<u32>>) -> Vec<u32> {
    assert!(labels.values().all(|labels| labels.len() == 1), "a flow keeps its label: {labels:?}");
    let mut all: Vec<u32> = labels.values().flatten().copied().collect();
    all.sort_unstable();
    all
}

#[test]
#[ignore = "needs root"]
fn each_flow_has_the_label_that_was_asked_for() {
    private_network(|| {
        let udp_server = UdpServer::new("[::1]:0", Conduct::Good);
        let (udp, tcp) = (udp_server.addr, tcp_server("[::1]:0", TcpConduct::Good));
        for (load, addr, flows) in [
            ("udp --flows 30 --count 300 --timeout 5s", udp, 30),
            ("udp --flows 30 --count 300 --timeout 5s --threads 2 --gso 4", udp, 30),
            ("udp --flows 30 --rate 3k --count 300 --timeout 5s", udp, 30),
            ("tcp --connections 30 --count 300 --threads 2", tcp, 30),
            ("tcp --mode connect --connections 3 --count 60 --threads 2", tcp, 60),
            ("tcp --each-once=60 --connections 3", tcp, 60),
        ] {
            let run = |flags: &str| labels(&format!("{load} {addr} {flags}"), addr.port());
            setting("ipv6/auto_flowlabels", "0");
            let (random, found) = run("--flow-label random --seed 7");
            let drawn: BTreeSet<u32> = one_each(&random).into_iter().collect();
            // in the mode `connect`, a first connection of each thread tries whether the server is there
            let tries = if load.contains("--mode connect") { 2 } else { 0 };
            assert_eq!((random.len(), drawn.len()), (flows + tries, flows + tries), "{load}: {random:?}");
            assert!(!drawn.contains(&0), "{load}");
            assert_eq!(found["load"]["flow_label"], "random");
            assert!(one_each(&run("--flow-label 0x12345").0).iter().all(|label| *label == 0x12345), "{load}");
            if load.contains(" --mode") || load.contains("once") || load.contains("rate") {
                continue;
            }
            // a run without the option leaves them to the kernel
            assert!(one_each(&run("").0).iter().all(|label| *label == 0), "{load}");
            let again: BTreeSet<u32> = one_each(&run("--flow-label random --seed 7").0).into_iter().collect();
            assert!(again == drawn, "{load}: the same seed makes the same choices");
            // the kernel acknowledges the end of a connection by a socket of its own, which has its own label
            if load.starts_with("tcp") {
                continue;
            }
            setting("ipv6/auto_flowlabels", "1");
            assert!(one_each(&run("").0).iter().all(|label| *label != 0), "{load}: the kernel's own");
            assert!(one_each(&run("--flow-label 0").0).iter().all(|label| *label == 0), "{load}");
        }
    });
}

/// Labels beside the other options: sprayed and visited ports, IPv4 among the targets, and a sample of a /64 of sources.
#[test]
#[ignore = "needs root"]
fn labels_go_with_sources_of_a_64_and_with_draws() {
    private_network(|| {
        setting("ipv6/auto_flowlabels", "0");
        setting("ipv6/ip_nonlocal_bind", "1");
        ip("-6 address add fd00:9::1/128 dev lo nodad");
        ip("-6 route add local fd00:5::/64 dev lo");
        let servers = ["[fd00:9::1]:7", "127.0.0.1:7"].map(|addr| UdpServer::new(addr, Conduct::Good));
        let source = "--source fd00:5::/64 --flow-label random --timeout 5s";
        for flags in ["--flows 20 --count 100", "--flows 20 --count 100 --spray", "--flows 20 --each-once=40"]
        {
            let (found, _) = labels(&format!("udp {} {flags} {source}", servers[0].addr), 7);
            let drawn = one_each(&found);
            let sources: BTreeSet<IpAddr> = found.keys().map(|(from, _)| *from).collect();
            let distinct: BTreeSet<u32> = drawn.iter().copied().collect();
            assert_eq!((sources.len(), distinct.len()), (20, 20), "{flags}: {found:?}");
            assert!(sources.iter().all(|from| from.to_string().starts_with("fd00:5:")), "{sources:?}");
        }
        let (mixed, _) =
            labels("udp [fd00:9::1]:7 127.0.0.1:7 --count 100 --timeout 5s --flow-label random", 7);
        let by_family = |is_ipv4| mixed.iter().filter(move |((from, _), _)| from.is_ipv4() == is_ipv4);
        assert!(by_family(false).count() == 32 && by_family(true).count() == 32, "{mixed:?}");
        assert!(by_family(true).all(|(_, labels)| labels.contains(&0)));
    });
}

/// The kernel tells an ICMP error with the label of the datagram. It belongs to the destination all the same.
#[test]
fn icmp_errors_have_their_destination_with_labels_too() {
    let nobody = UdpSocket::bind("[::1]:0").unwrap().local_addr().unwrap();
    let flags = format!("udp {nobody} --count 10 --flows 2 --flow-label random --quiet --json -");
    let output = blaster(&flags);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(number(&report["totals"]["unreachable"]), 10, "{}", report["totals"]);
    let errors = report["icmp_errors"].as_array().unwrap();
    assert_eq!(
        (errors.len(), errors[0]["about"].as_str()),
        (1, Some(nobody.to_string().as_str())),
        "{errors:?}"
    );
}

#[test]
#[ignore = "needs root"]
fn labels_that_can_not_be_had_are_refused_with_a_cure() {
    private_network(|| {
        let servers = ["[::1]:0", "127.0.0.1:0"].map(|bind| UdpServer::new(bind, Conduct::Good));
        let [udp, v4] = [servers[0].addr, servers[1].addr];
        let tcp = tcp_server("[::1]:0", TcpConduct::Good);
        let refused = |flags: &str, status: i32, words: &str| {
            let output = blaster(&format!("{flags} --count 5"));
            let text = stderr(&output);
            assert_eq!(output.status.code(), Some(status), "{flags}: {text}");
            assert!(text.lines().count() == 1 && text.contains(words), "{flags}: {text}");
        };
        let words = "is no flow label: say random, or a number from 0 to 0xfffff (0: none)";
        refused(&format!("udp {udp} --flow-label 0x100000"), 2, words);
        let words = "--flow-label random is for IPv6, and no target has an IPv6 address; leave it out";
        refused(&format!("udp {v4} --flow-label random"), 2, words);
        assert_eq!(blaster(&format!("udp {v4} --count 5")).status.code(), Some(0));
        assert_eq!(blaster(&format!("udp {udp} --count 5 --flow-label 7 --quiet")).status.code(), Some(0));
        let holder = UdpSocket::bind("[::1]:0").unwrap();
        hold_exclusively(&holder, udp);
        for load in [format!("udp {udp}"), format!("tcp {tcp}"), format!("tcp {tcp} --mode connect")] {
            let words =
                "another program holds a label for itself alone (`cat /proc/net/ip6_flowlabel` shows it)";
            refused(&format!("{load} --flow-label random"), 1, words);
            // the kernel gives up a label only seconds after its holder has ended, so the other cure is tried
            assert_eq!(blaster(&format!("{load} --count 5 --quiet")).status.code(), Some(0), "{load}");
        }
    });
}

/// Has the socket hold a label for `peer` that no other socket may use (`struct in6_flowlabel_req`).
fn hold_exclusively(socket: &UdpSocket, peer: SocketAddr) {
    const EXCLUSIVE: u8 = 1;
    const CREATE: u16 = 1;
    let IpAddr::V6(ip) = peer.ip() else { unreachable!("labels are of IPv6") };
    let mut request = ip.octets().to_vec();
    request.extend(0x54321_u32.to_be_bytes());
    request.extend([0, EXCLUSIVE]);
    request.extend(CREATE.to_ne_bytes());
    request.resize(32, 0);
    sys::set_option_bytes(socket, libc::SOL_IPV6, libc::IPV6_FLOWLABEL_MGR, &request).expect("a label");
}
