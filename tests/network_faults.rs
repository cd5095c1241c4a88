//! Network faults: links and addresses that vanish and return, a path with a small MTU, and a cable that loses,
//! duplicates, reorders and corrupts in exact counts. The server goes on without a restart, and its counters and its
//! clients' results show exactly what happened.

mod support;

use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use support::blaster::Report;
use support::netns::{Netns, ip, receive_on, setting, tc};
use support::random::payload;
use support::relay::{Mischief, Relay, Rule};
use support::server::parse_counters;
use support::tcp::{Conversation, connect, converse, echo};
use support::udp::UdpClient;
use support::{PATIENCE, Server, private_network, until};

/// The addresses of the server: the first pair stays, the second can vanish.
const STAYING: [&str; 2] = ["192.0.2.1:7000", "[2001:db8::1]:7000"];
const GOING: [&str; 2] = ["203.0.113.1:7000", "[2001:db8:9::1]:7000"];
/// Number of datagrams in the server's sockets while the network changes.
const QUEUED: usize = 50;

/// A namespace for the clients. `lay` connects it to this one by a cable between `near` and `far`.
fn two_hosts(lay: impl FnOnce(&Netns)) -> Netns {
    let clients = Netns::new();
    lay(&clients);
    // skips the detection of duplicate addresses, which takes time, and keeps the addresses when the link goes down
    let up = |device: &str, addresses: &[&str]| {
        setting(&format!("ipv6/conf/{device}/accept_dad"), "0");
        setting(&format!("ipv6/conf/{device}/keep_addr_on_down"), "1");
        for address in addresses {
            add(address, device);
        }
        ip(&format!("link set {device} up"));
        for address in addresses {
            wait_for_route(address);
        }
    };
    up("near", &["192.0.2.1/24", "2001:db8::1/64", "203.0.113.1/32", "2001:db8:9::1/128"]);
    clients.run(|| {
        up("far", &["192.0.2.2/24", "2001:db8::2/64"]);
        ip("route add 203.0.113.0/24 via 192.0.2.1");
        ip("route add 2001:db8:9::/64 via 2001:db8::1");
    });
    clients
}

fn add(address: &str, device: &str) {
    let nodad = if address.contains(':') { "nodad" } else { "" };
    ip(&format!("address add {address} dev {device} {nodad}"));
}

/// Waits until the kernel receives for this address. For IPv6, a worker of the kernel adds the route, some time after
/// `ip address add` has ended (`addrconf_dad_work` of Linux).
fn wait_for_route(address: &str) {
    let (address, _) = address.split_once('/').expect("an address and the length of its prefix");
    let Ok(address) = address.parse::<Ipv6Addr>() else { return };
    let prefix = format!("{:032x} 80 ", u128::from(address));
    // a /128 has a second route at once, by which the kernel sends but does not receive (linux/ipv6_route.h, RTF_LOCAL)
    let is_local = |line: &str| {
        let flags = line.split_whitespace().nth(8).and_then(|flags| u32::from_str_radix(flags, 16).ok());
        line.starts_with(&prefix) && flags.expect("the flags of a route") & 0x8000_0000 != 0
    };
    until("the address has its route", || {
        fs::read_to_string("/proc/thread-self/net/ipv6_route").expect("routes").lines().any(is_local)
    });
}

/// A cable that keeps the order: one processor receives on each side. Without that, the kernel gives what comes to the
/// processor on which its sender ran, and when the scheduler moves the sender, the next datagram may overtake the last one.
fn veth(clients: &Netns) {
    Netns::cable("near", "far", clients);
    receive_on("near", &[0]);
    clients.run(|| receive_on("far", &[0]));
}

fn start() -> Server {
    let listen = [STAYING, GOING].as_flattened().iter().map(|at| format!("--listen={at}"));
    Server::start(&listen.chain(["--stats-interval=10ms".to_owned()]).collect::<Vec<_>>())
}

fn parsed(addresses: [&str; 2]) -> [SocketAddr; 2] {
    addresses.map(|address| address.parse().unwrap())
}

/// A client on the clients' host.
fn client(clients: &Netns, target: SocketAddr) -> UdpClient {
    let own: IpAddr = if target.is_ipv4() { "192.0.2.2" } else { "2001:db8::2" }.parse().unwrap();
    clients.run(|| UdpClient::at(own))
}

/// Queues `QUEUED` datagrams of each of these clients at the stopped server, which finds them after `happens`.
fn queue_while(server: &Server, asking: &[(UdpClient, SocketAddr)], happens: impl FnOnce()) {
    server.pause();
    for (client, target) in asking {
        (0..QUEUED).for_each(|number| client.send(*target, &payload(number, 100)));
    }
    happens();
    server.resume();
}

fn expect_queued(client: &UdpClient, target: SocketAddr) {
    (0..QUEUED).for_each(|number| client.expect(target, &payload(number, 100)));
}

/// Waits until a counter of the running server has reached this value.
fn wait_for(server: &Server, name: &str, count: u64) {
    let text = format!(" {name}={count} ");
    let told = server.log.wait_for(PATIENCE, |lines| lines.last().is_some_and(|line| line.contains(&text)));
    assert!(told, "{name} has not become {count}");
}

#[test]
#[ignore = "needs root"]
fn a_link_goes_down_and_up() {
    /// Number of datagrams that each failure loses, and that each check of the recovered network sends, both families
    /// together.
    const GONE: u64 = 2 * QUEUED as u64;
    const ANSWERED: u64 = 2 * 20;
    private_network(|| {
        let clients = two_hosts(veth);
        let server = start();
        let asking = parsed(STAYING).map(|target| (client(&clients, target), target));
        // one at a time: a datagram that waits for a neighbour's link address may be overtaken
        let works = || asking.iter().for_each(|(client, target)| client.echo(*target, &[100; 20], 1));
        let silent = || {
            for (client, _) in &asking {
                client.expect_nothing_for(Duration::from_millis(50));
            }
        };
        works();
        let streams = parsed(STAYING).map(|target| clients.run(|| connect(target)));

        // the server's own device is down, so its kernel refuses the replies
        queue_while(&server, &asking, || ip("link set near down"));
        wait_for(&server, "udp_send_unreachable", GONE);
        ip("link set near up");
        silent();
        works();

        // the clients' device is down, so the replies leave and get lost
        queue_while(&server, &asking, || clients.run(|| ip("link set far down")));
        wait_for(&server, "udp_datagrams_in", 2 * GONE + 2 * ANSWERED);
        clients.run(|| ip("link set far up"));
        silent();
        works();

        for mut stream in streams {
            echo(&mut stream, b"a connection sees nothing but a delay");
        }
        let end = server.stop();
        assert_eq!(end.counter("udp_datagrams_in"), 2 * GONE + 3 * ANSWERED);
        assert_eq!(end.counter("udp_send_unreachable"), GONE);
        assert_eq!(end.counter("udp_datagrams_out"), GONE + 3 * ANSWERED);
    });
}

#[test]
#[ignore = "needs root"]
fn an_address_is_removed_while_it_is_served() {
    private_network(|| {
        let clients = two_hosts(veth);
        let server = start();
        let asking = parsed(GOING).map(|target| (client(&clients, target), target));
        // one at a time: a datagram that waits for a neighbour's link address may be overtaken
        let works = || asking.iter().for_each(|(client, target)| client.echo(*target, &[100; 20], 1));
        works();
        let mut streams = parsed(GOING).map(|target| clients.run(|| connect(target)));

        queue_while(&server, &asking, || {
            ip("address del 203.0.113.1/32 dev near");
            ip("address del 2001:db8:9::1/128 dev near");
        });
        // an IPv6 reply may leave from a removed address (IPV6_FREEBIND); for an IPv4 reply the kernel finds no route
        wait_for(&server, "udp_send_unreachable", QUEUED as u64);
        let [(v4, _), (v6, v6_target)] = &asking;
        expect_queued(v6, *v6_target);
        v4.expect_nothing_for(Duration::from_millis(50));
        add("203.0.113.1/32", "near");
        add("2001:db8:9::1/128", "near");
        wait_for_route("2001:db8:9::1/128");
        works();
        for stream in &mut streams {
            echo(stream, b"a connection sees nothing but a delay");
        }

        let end = server.stop();
        let queued = QUEUED as u64;
        assert_eq!(end.counter("udp_datagrams_in"), 2 * queued + 2 * 2 * 20);
        assert_eq!(end.counter("udp_datagrams_out"), end.counter("udp_datagrams_in") - queued);
    });
}

/// The smallest MTU that IPv6 allows, on both sides. The sender's kernel fragments larger datagrams and the receiver's
/// kernel reassembles them, alone and many at a time.
#[test]
#[ignore = "needs root"]
fn the_smallest_mtu_of_ipv6() {
    private_network(|| {
        let clients = two_hosts(veth);
        ip("link set near mtu 1280");
        clients.run(|| ip("link set far mtu 1280"));
        let server = start();
        for target in STAYING {
            // fragmented datagrams take longer, so the first ones are sent one by one; trains must fit the MTU, or the
            // clients' own kernel refuses them
            for flags in ["--size 32-9000 --in-flight 1", "--size 1200 --gso 8 --in-flight 2"] {
                let load = format!("udp {target} --flows 16 --count 400 --timeout 10s {flags}");
                let report = clients.run(|| Report::of(&load));
                report.expect(&load, &[("ok", 400)]);
            }
        }
        for target in parsed(STAYING) {
            let mut talk = clients.run(|| [Conversation::open(target, 1, 1 << 20, 1 << 15)]);
            converse(&mut talk);
            talk.into_iter().for_each(Conversation::close);
        }
        let end = server.stop();
        assert_eq!(end.counter("udp_datagrams_in"), 1600);
        assert_eq!(end.counter("udp_datagrams_out"), 1600);
    });
}

/// How often replies have waited for room in a send buffer, by the running server's last log line.
fn send_waits(server: &Server) -> u64 {
    let lines = server.log.all();
    let counters = lines.iter().rev().find_map(|line| line.split_once("counters: "));
    counters.map_or(0, |(_, counters)| parse_counters(counters)["udp_send_waits"])
}

/// The way back is slower than the way there, so that the server's send buffers fill again and again: both families,
/// datagrams of all sizes, and trains, on a path that takes them or not.
fn full_send_buffers(refused: bool) {
    private_network(move || {
        let clients = two_hosts(veth);
        // the queue holds more than a send buffer, so that it drops nothing
        tc("qdisc add dev near root tbf rate 50mbit burst 64k limit 64m");
        if refused {
            // single datagrams of any size leave as fragments, but trains must fit the MTU
            ip("route add 192.0.2.2/32 dev near mtu 1280");
            ip("-6 route add 2001:db8::2/128 dev near mtu 1280");
        }
        let server = start();
        for target in STAYING {
            // only datagrams of the turn in which the buffer first fills may be overtaken, by others of that turn:
            // there are 128 receive buffers
            let before = send_waits(&server);
            for flags in ["--size 100-1400", "--size 100-1400", "--size 1400 --gso 8"] {
                let late_max = if send_waits(&server) == before { 128 } else { 0 };
                let load =
                    format!("udp {target} --flows 1 --count 20000 --rate 20k --gro off --timeout 2s {flags}");
                let report = clients.run(|| Report::of(&load));
                let (came, late) = (report.total("ok"), report.total("reordered"));
                println!("{load}: {came} came back, {late} late");
                assert!(late <= late_max && came > 1_000, "{load}: {came} came back, {late} late");
            }
        }
        let end = server.stop();
        assert!(end.counter("udp_send_waits") > 0, "no send buffer was full");
        assert_eq!(end.counter("udp_trains_refused") > 0, refused);
        assert_eq!(end.counter("udp_datagrams_in"), end.counter("udp_datagrams_out"));
    });
}

#[test]
#[ignore = "needs root"]
fn a_full_send_buffer_keeps_the_order() {
    full_send_buffers(false);
}

#[test]
#[ignore = "needs root"]
fn a_full_send_buffer_keeps_the_order_of_refused_trains() {
    full_send_buffers(true);
}

/// Each tenth frame. For replies the first one comes half a round later, so that the fault hits other datagrams.
const REQUESTS: u64 = 4;
const REPLIES: u64 = 7;

fn each_tenth(mischief: Option<Mischief>, first: u64) -> Vec<Rule> {
    mischief.map(|mischief| Rule { mischief, first, every: 10 }).into_iter().collect()
}

/// Number of datagrams that arrived with a wrong checksum in the calling thread's namespace.
fn wrong_checksums() -> u64 {
    let v4 = fs::read_to_string("/proc/thread-self/net/snmp").expect("the network's counters");
    let names = v4.lines().find(|line| line.starts_with("Udp: ")).expect("names");
    let values = v4.lines().rfind(|line| line.starts_with("Udp: ")).expect("values");
    let place = names.split(' ').position(|name| name == "InCsumErrors").expect("a counter");
    let v4: u64 = values.split(' ').nth(place).expect("a value").parse().expect("a number");
    let v6 = fs::read_to_string("/proc/thread-self/net/snmp6").expect("the network's counters");
    let line = v6.lines().find(|line| line.starts_with("Udp6InCsumErrors")).expect("a counter");
    v4 + line.split_whitespace().nth(1).expect("a value").parse::<u64>().expect("a number")
}

/// Sends 1,000 datagrams of one flow over a cable with this fault in each tenth request and each tenth reply. Returns
/// blaster's counts, the number of datagrams at the server, and the number of wrong checksums on each side.
fn thousand(
    requests: Option<Mischief>,
    replies: Option<Mischief>,
    outcomes: &'static [(&'static str, u64)],
    received: u64,
    checksums: [u64; 2],
) {
    private_network(move || {
        let mut cable = None;
        let clients = two_hosts(|clients| cable = Some(Relay::lay("near", "far", clients)));
        let cable = cable.expect("it was laid");
        for target in parsed(STAYING) {
            let server = Server::start(&[format!("--udp={target}")]);
            // both sides must know each other's link address: datagrams that wait for it in the kernel may be overtaken
            cable.rule(&[], &[]);
            client(&clients, target).echo(target, &[100], 1);
            cable.rule(&each_tenth(replies, REPLIES), &each_tenth(requests, REQUESTS));
            let before = [wrong_checksums(), clients.run(wrong_checksums)];
            let load = format!(
                "udp {target} --flows 1 --count 1000 --rate 4k --size 64-1200 --gro off --timeout 8s --linger 700ms"
            );
            let report = clients.run(|| Report::of(&load));
            // a poll finds some of the wrong checksums, and those do not count as drops of the socket
            let own_drops = report.total("own_drops");
            assert!(own_drops <= checksums[1], "{target}: {own_drops} of {checksums:?}");
            report.expect(&load, &[outcomes, &[("own_drops", own_drops)]].concat());
            let after = [wrong_checksums(), clients.run(wrong_checksums)];
            assert_eq!([after[0] - before[0], after[1] - before[1]], checksums, "{target}");
            let end = server.stop();
            assert_eq!(end.counter("udp_datagrams_in"), 1 + received, "{target}");
            assert_eq!(end.counter("udp_datagrams_out"), 1 + received, "{target}");
            let [replies_hit, requests_hit] = cable.done();
            println!(
                "{target}: {requests_hit} requests hit ({requests:?}), {replies_hit} replies ({replies:?})"
            );
        }
    });
}

#[test]
#[ignore = "needs root"]
fn each_tenth_is_lost() {
    let lose = Some(Mischief::Lose);
    thousand(lose, lose, &[("ok", 810), ("lost", 190)], 900, [0, 0]);
}

#[test]
#[ignore = "needs root"]
fn each_tenth_comes_twice() {
    // 100 requests are answered twice, and of 1,100 replies 110 arrive twice
    let double = Some(Mischief::Double);
    thousand(double, double, &[("ok", 1000), ("duplicated", 210)], 1100, [0, 0]);
}

#[test]
#[ignore = "needs root"]
fn each_tenth_request_is_overtaken() {
    thousand(Some(Mischief::Swap), None, &[("ok", 1000), ("reordered", 100)], 1000, [0, 0]);
}

#[test]
#[ignore = "needs root"]
fn each_tenth_reply_is_overtaken() {
    thousand(None, Some(Mischief::Swap), &[("ok", 1000), ("reordered", 100)], 1000, [0, 0]);
}

#[test]
#[ignore = "needs root"]
fn each_tenth_has_a_wrong_checksum() {
    let flip = Some(Mischief::Flip);
    thousand(flip, flip, &[("ok", 810), ("lost", 190)], 900, [100, 90]);
}

#[test]
#[ignore = "needs root"]
fn each_tenth_is_corrupted_behind_the_checksums_back() {
    let shuffle = Some(Mischief::Shuffle);
    thousand(shuffle, shuffle, &[("ok", 800), ("corrupted", 200)], 1000, [0, 0]);
}

/// All faults at once: every byte of every stream comes back.
#[test]
#[ignore = "needs root"]
fn streams_over_a_bad_cable() {
    private_network(|| {
        let mut cable = None;
        let clients = two_hosts(|clients| cable = Some(Relay::lay("near", "far", clients)));
        let cable = cable.expect("it was laid");
        let server = start();
        let mischief = [Mischief::Lose, Mischief::Double, Mischief::Swap, Mischief::Flip];
        let rules = |shift: u64| {
            let rule =
                |(number, mischief): (u64, _)| Rule { mischief, first: 20 + shift + 9 * number, every: 50 };
            (0..).zip(mischief).map(rule).collect::<Vec<_>>()
        };
        cable.rule(&rules(0), &rules(5));
        let mut talks: Vec<_> = (0..4)
            .map(|seed| {
                clients.run(|| Conversation::open(parsed(STAYING)[seed as usize % 2], seed, 100_000, 1 << 14))
            })
            .collect();
        converse(&mut talks);
        talks.into_iter().for_each(Conversation::close);
        let [leaving, coming] = cable.done();
        assert!(leaving > 10 && coming > 10, "mischief was done to {leaving} and {coming} segments");
        let end = server.stop();
        assert_eq!((end.counter("tcp_bytes_in"), end.counter("tcp_bytes_out")), (400_000, 400_000));
        println!(
            "4 streams of 100,000 bytes, mischief done to {coming} segments to the server and {leaving} from it"
        );
    });
}
