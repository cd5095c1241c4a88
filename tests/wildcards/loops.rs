//! Loops of echoes, within a server and between two.

use std::net::SocketAddr;

use crate::support::forge::forge;
use crate::support::netns::setting;
use crate::support::server::End;
use crate::support::steered::Family::{V4, V6};
use crate::support::steered::{LISTENING, PORT, Steered, User};
use crate::support::udp::UdpClient;
use crate::support::{Server, netns, private_network, until};

use crate::{exchange, ping_pong, times_told};

/// Long enough for a loop to go round many times: exchanges on the same way.
fn let_loops_turn(target: SocketAddr) -> u64 {
    const EXCHANGES: usize = 200;
    ping_pong(target, EXCHANGES);
    EXCHANGES as u64
}

/// Sends forged datagrams between two pairs of one server. The server may answer each once, and must not answer that
/// answer.
fn a_loop_between_two_pairs(workers: u32) {
    const COUNT: usize = 50;
    private_network(move || {
        let workers = format!("--workers={workers}");
        let steered = Steered::start(User::Root, &[&workers, "--reply-socket-rate=10000000", OFTEN]);
        let mut forged = 0;
        let mut exchanged = 0;
        for family in [V4, V6] {
            let (from, to) = (family.pairs(14, COUNT), family.pairs(15, COUNT));
            for (from, to) in from.iter().zip(&to) {
                // twice: the first time, neither pair is in use
                for _ in 0..2 {
                    forge(*from, *to, b"round and round");
                    forged += 1;
                }
            }
            exchanged += let_loops_turn(SocketAddr::new(to[0].ip(), PORT));
            // and once with a pair in use
            exchange(from[0]);
            exchanged += 7;
            forge(from[0], to[0], b"round and round");
            forged += 1;
        }
        // on a busy machine they may arrive after later datagrams
        until("each is refused", || last(&steered.server, "udp_refused_own_pair") >= forged);
        let end = steered.stop(&["udp_refused_own_pair"]);
        let (answered, refused) =
            (end.counter("udp_datagrams_out") - exchanged, end.counter("udp_refused_own_pair"));
        println!("{forged} forged datagrams: {answered} answered to ourselves, {refused} refused");
        assert_eq!(refused, forged, "each forged datagram ends in one refusal");
        assert!(answered <= forged - 2, "no more than one answer each, none where the source is known");
    });
}

#[test]
#[ignore = "needs root"]
fn a_loop_between_two_pairs_of_one_worker_ends_at_once() {
    a_loop_between_two_pairs(1);
}

#[test]
#[ignore = "needs root"]
fn a_loop_between_two_pairs_of_two_workers_ends_at_once() {
    a_loop_between_two_pairs(2);
}

#[test]
#[ignore = "needs root"]
fn a_datagram_from_the_server_to_itself_is_never_answered() {
    private_network(|| {
        let steered = Steered::start(User::Root, &["--workers=2", OFTEN]);
        let mut exchanged = 0;
        for (family, bound) in [V4, V6].into_iter().zip(LISTENING) {
            let bound: SocketAddr = bound.parse().unwrap();
            let [one, other] = <[SocketAddr; 2]>::try_from(family.pairs(16, 2)).unwrap();
            let on_port = |pair: SocketAddr| SocketAddr::new(pair.ip(), PORT);
            for (from, to) in [
                (bound, bound),
                (one, one),
                (bound, one),
                (on_port(one), on_port(other)),
                (on_port(one), other),
                (bound, on_port(one)),
            ] {
                forge(from, to, b"who am I?");
            }
            exchanged += let_loops_turn(on_port(one));
        }
        let refusals = ["udp_refused_own_pair", "udp_refused_own_port"];
        // on a busy machine they may arrive after later datagrams
        until("all are refused", || {
            refusals.iter().map(|name| last(&steered.server, name)).sum::<u64>() >= 3 * 4
        });
        let end = steered.stop(&refusals);
        // without this rule the server would refuse its own answer, but only when it comes back
        assert_eq!(end.counter("udp_datagrams_out"), exchanged, "nothing of it is answered, not even once");
        assert_eq!(refusals.map(|name| end.counter(name)), [2 * 4, 2 * 2]);
    });
}

#[test]
#[ignore = "needs root"]
fn a_loop_on_a_port_like_a_clients_ends_at_once() {
    private_network(|| {
        // 40000 is in ip_local_port_range, so a client may have the same number as the server's port
        let server = Server::start(&["--udp=0.0.0.0:40000", "--udp=[::]:40000", "--workers=2", OFTEN]);
        netns::ip("address add fd00::2/128 dev lo nodad");
        for (one, other) in [("127.0.0.5:40000", "127.0.0.6:40000"), ("[::1]:40000", "[fd00::2]:40000")] {
            let [one, other] = [one, other].map(|address| address.parse().unwrap());
            let before = last(&server, "udp_refused_own_pair");
            forge(one, other, b"round and round");
            // on a busy machine it may arrive after later datagrams
            until("the answer is refused", || last(&server, "udp_refused_own_pair") > before);
            let_loops_turn(one);
        }
        let end = server.stop();
        assert_eq!(end.counter("udp_refused_own_pair"), 2);
    });
}

/// One server on all addresses and on two ports that clients may have too. It answers a datagram from one of its pairs
/// to another once, and does not answer that answer.
fn a_loop_between_two_wildcards(workers: u32) {
    const FORGED: u64 = 20;
    private_network(move || {
        netns::ip("address add fd00::2/128 dev lo nodad");
        let (workers, ports) = (format!("--workers={workers}"), [40_000, 40_001]);
        let udp = ports.map(|port| [format!("--udp=0.0.0.0:{port}"), format!("--udp=[::]:{port}")]);
        let server = Server::start(&[&[workers, OFTEN.to_owned()][..], &udp.concat()].concat());
        let mut exchanged = 0;
        for (forged, [one, other]) in (1..).zip([["127.0.0.5", "127.0.0.6"], ["::1", "fd00::2"]]) {
            let pair = |ip: &str, port| SocketAddr::new(ip.parse().unwrap(), port);
            for _ in 0..FORGED {
                forge(pair(one, ports[0]), pair(other, ports[1]), b"round and round");
            }
            // on a busy machine they may arrive after later datagrams
            until("each is refused", || last(&server, "udp_refused_own_pair") >= forged * FORGED);
            exchanged += let_loops_turn(pair(one, ports[0]));
        }
        let end = server.stop();
        let (answered, refused) =
            (end.counter("udp_datagrams_out") - exchanged, end.counter("udp_refused_own_pair"));
        println!("{answered} answered to ourselves, {refused} refused");
        assert_eq!(refused, 2 * FORGED, "each forged datagram ends in one refusal");
        assert!(answered <= 2 * FORGED, "no more than one answer each");
    });
}

#[test]
#[ignore = "needs root"]
fn a_loop_between_two_wildcards_of_one_worker_ends_at_once() {
    a_loop_between_two_wildcards(1);
}

#[test]
#[ignore = "needs root"]
fn a_loop_between_two_wildcards_of_two_workers_ends_at_once() {
    a_loop_between_two_wildcards(2);
}

#[test]
#[ignore = "needs root"]
fn two_servers_on_one_port_do_not_answer_each_other() {
    private_network(|| {
        for addresses in [["127.0.0.1:1234", "127.0.0.2:1234"], ["[::1]:1234", "[fd00::2]:1234"]] {
            if addresses[1].starts_with('[') {
                netns::ip("address add fd00::2/128 dev lo nodad");
            }
            let servers = addresses.map(|address| Server::start(&["--udp", address]));
            let [one, other] = addresses.map(|address| address.parse::<SocketAddr>().unwrap());
            forge(one, other, b"after you");
            forge(other, one, b"no, after you");
            let exchanged = [one, other].map(let_loops_turn);
            for (server, exchanged) in servers.into_iter().zip(exchanged) {
                let end = server.stop();
                assert_eq!(end.counter("udp_datagrams_out"), exchanged);
                assert_eq!(end.counter("udp_refused_own_port"), 1);
            }
        }
        // a wildcard server and another server on its port: the answer of the first ends at the second
        let steered = Steered::start(User::Root, &[]);
        let plain = Server::start(&["--udp", "127.0.0.2:1234"]);
        forge(plain.udp(), "127.128.0.9:1234".parse().unwrap(), b"after you");
        forge(plain.udp(), "127.128.0.9:4321".parse().unwrap(), b"after you");
        forge("127.128.0.9:1234".parse().unwrap(), plain.udp(), b"no, after you");
        let_loops_turn(plain.udp());
        let end = steered.stop(&["udp_refused_own_port"]);
        assert_eq!((end.counter("udp_datagrams_out"), end.counter("udp_refused_own_port")), (0, 2));
        assert_eq!(plain.stop().counter("udp_refused_own_port"), 1);
    });
}

/// The counter's last value in the log of a server that logs often.
fn last(server: &Server, name: &str) -> u64 {
    let counter = |line: &String| {
        let words = line.split_once("counters:")?.1.split_whitespace();
        words.filter_map(|word| word.split_once('=')).find(|(found, _)| *found == name)?.1.parse().ok()
    };
    server.log.all().iter().rev().find_map(counter).unwrap_or(0)
}

const OFTEN: &str = "--stats-interval=20ms";

/// Runs two servers on one port that clients may have too. Returns how many of the datagrams forged between them were
/// answered, after the loop has ended, and the ends of the servers.
fn forged_between(addresses: [&str; 2], forged: u64) -> (u64, [End; 2]) {
    let servers = addresses.map(|address| Server::start(&["--udp", address, OFTEN]));
    let [one, other] = addresses.map(|address| address.parse::<SocketAddr>().unwrap());
    for _ in 0..forged {
        forge(one, other, b"after you");
    }
    let refused = |server: &Server| {
        ["udp_refused_hop_limit", "udp_refused_own_port"].map(|name| last(server, name)).iter().sum::<u64>()
    };
    until("all that was forged has been refused", || servers.iter().map(refused).sum::<u64>() == forged);
    let refused_by_port = servers.iter().any(|server| last(server, "udp_refused_own_port") > 0);
    // a client that happens to have the servers' port is served like any other
    let client = if one.is_ipv4() { "127.0.0.9" } else { "fd00::9" }.parse().unwrap();
    let client = UdpClient::bound_to(SocketAddr::new(client, one.port()));
    let asked = if refused_by_port { 0 } else { 300 };
    client.echo(one, &[64; 300][..asked], 8);
    let ends = servers.map(Server::stop);
    let answered: u64 = ends.iter().map(|end| end.counter("udp_datagrams_out")).sum();
    (answered - asked as u64, ends)
}

#[test]
#[ignore = "needs root"]
fn a_loop_between_two_servers_on_a_port_like_a_clients_dies_out() {
    const FORGED: u64 = 300;
    /// The default hop limit of a datagram. Each reply leaves with one hop less than its request had.
    const HOPS: u64 = 64;
    private_network(|| {
        netns::ip("address add fd00::2/128 dev lo nodad");
        netns::ip("address add fd00::9/128 dev lo nodad");
        setting("ipv4/ip_local_reserved_ports", "");
        for (range, port) in [("32768 60999", 40_000), ("1024 65535", 1234)] {
            setting("ipv4/ip_local_port_range", range);
            for hosts in [["127.0.0.1", "127.0.0.2"], ["[::1]", "[fd00::2]"]] {
                let addresses = hosts.map(|host| format!("{host}:{port}"));
                let addresses = addresses.each_ref().map(String::as_str);
                for forged in [1, FORGED] {
                    let (answered, ends) = forged_between(addresses, forged);
                    println!("{forged} forged between {addresses:?}: {answered} replies");
                    assert_eq!(answered, forged * (HOPS - 1));
                    for end in ends {
                        assert_eq!(times_told(&end, "ip_local_reserved_ports"), 1, "a warning at the start");
                    }
                }
            }
        }
        // a server whose port is reserved knows that no client has it
        setting("ipv4/ip_local_reserved_ports", "1234");
        let (answered, ends) = forged_between(["[::1]:1234", "[fd00::2]:1234"], FORGED);
        assert_eq!(answered, 0);
        assert!(ends.iter().all(|end| times_told(end, "ip_local_reserved_ports") == 0));
    });
}
