//! Datagrams of any content and in any number from strangers: the server goes on, serves its other peers, and takes no
//! more memory.

mod support;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};

use support::forge::send_packet;
use support::random::{Random, payload};
use support::server::End;
use support::steered::Family::{V4, V6};
use support::steered::{FREE_PORTS, PORT, Steered, User};
use support::tcp::{connect, echo};
use support::udp::UdpClient;
use support::{Server, private_network, until};

/// Every received datagram was answered, or a counter says why not.
fn accounted(end: &End) {
    let why_not = |name: &str| {
        name.starts_with("udp_refused_")
            || name.starts_with("udp_reply_port_")
            || (name.starts_with("udp_send_") && name != "udp_send_waits")
            || ["udp_reply_sockets_limited", "udp_reply_socket_errors"].contains(&name)
    };
    let not_answered: u64 =
        end.counters.iter().filter(|(name, _)| why_not(name)).map(|(_, count)| count).sum();
    assert_eq!(end.counter("udp_datagrams_in"), end.counter("udp_datagrams_out") + not_answered);
}

/// A mostly valid IPv4 packet to `to`, with any source, options, flags and lengths.
fn odd_packet(random: &mut Random, to: SocketAddr) -> Vec<u8> {
    let SocketAddr::V4(to) = to else { panic!("{to} is no IPv4 address") };
    let body = random.between(0, 300);
    let options = random.between(0, 10) * 4 * usize::from(random.between(0, 2) == 0);
    // RFC 791: version and words, service, length, identification, flags and offset, time to live, protocol,
    // checksum, source, destination
    let mut packet = vec![0x45 + (options / 4) as u8, random.next() as u8, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
    if random.between(0, 9) == 0 {
        packet[6] = random.next() as u8;
    }
    packet.extend([127, random.next() as u8, random.next() as u8, random.between(1, 254) as u8]);
    packet.extend(to.ip().octets());
    let kinds = [0, 1, 7, 68, 130, 131, 137, 148];
    while packet.len() < 20 + options {
        packet.push(kinds[random.between(0, kinds.len() - 1)]);
    }
    // RFC 768: source, destination, length, checksum, of which zero is none
    packet.extend((random.next() as u16).to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    let length = match random.between(0, 7) {
        0 => random.between(0, 8),
        1 => random.between(0, 65_535),
        _ => 8 + body,
    };
    packet.extend((length as u16).to_be_bytes());
    let checksum = if random.between(0, 9) == 0 { random.next() as u16 } else { 0 };
    packet.extend(checksum.to_be_bytes());
    packet.extend(random.bytes(body));
    packet
}

#[test]
#[ignore = "needs root"]
fn whatever_a_datagram_consists_of_the_server_and_its_connections_go_on() {
    private_network(|| {
        let server = Server::start(&["--listen=127.0.0.1:1234", "--listen=[::1]:1234"]);
        let targets: Vec<SocketAddr> = ["127.0.0.1:1234", "[::1]:1234"].map(|it| it.parse().unwrap()).into();
        let mut streams: Vec<_> = targets.iter().map(|&target| connect(target)).collect();
        let peers: Vec<_> = targets.iter().map(|&target| (UdpClient::beside(target), target)).collect();
        let mut random = Random::new(31);
        let mut odd = 0;
        for round in 0..100 {
            for _ in 0..30 {
                send_packet(Ipv4Addr::LOCALHOST, &odd_packet(&mut random, targets[0]));
                odd += 1;
            }
            // each size, each byte, trains of each shape, and trains that are invalid; the sender vanishes at once
            for &target in &targets {
                let stranger = UdpClient::beside(target);
                let size = random.between(0, if round % 10 == 0 { 65_507 } else { 1500 });
                stranger.send(target, &random.bytes(size));
                stranger.send(target, &[]);
                stranger.send(target, &[round as u8; 1]);
                let segment_bytes = random.between(1, 1400);
                let bytes = random.between(1, 40 * segment_bytes);
                let train = random.bytes(bytes);
                stranger.send_train(target, &train, segment_bytes as u16);
            }
            for stream in &mut streams {
                echo(stream, &payload(round, 100));
            }
            for (client, target) in &peers {
                client.echo(*target, &[round, 0, 100], 1);
            }
        }
        drop(streams);
        let end = server.stop();
        let (received, refused) = (end.counter("udp_datagrams_in"), end.counter("udp_refused_system_port"));
        println!("{odd} odd packets, {received} datagrams, {refused} from system ports");
        assert!(refused > 0, "the odd packets were no datagrams");
        assert_eq!((end.counter("tcp_accepted"), end.counter("tcp_closed_finished")), (2, 2));
        accounted(&end);
    });
}

/// AddressSanitizer (ci/asan) needs memory of its own.
const UNDER_SANITIZER: u64 = if cfg!(ring_poison) { 16 } else { 1 };

/// Private memory that a process uses, in KiB (proc(5)).
fn resident_kib(server: &Server) -> u64 {
    let text =
        fs::read_to_string(format!("/proc/{}/smaps_rollup", server.pid())).expect("the process's memory");
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).expect("resident memory");
    line.split_whitespace().next().expect("a number").parse().expect("a number")
}

/// Number of sockets in this network.
fn sockets() -> usize {
    let count = |file: &str| fs::read_to_string(file).expect("the network's sockets").lines().count() - 1;
    count("/proc/thread-self/net/udp") + count("/proc/thread-self/net/udp6")
}

/// As many sources, ports and addresses as the time allows take no more memory than the server has at the start:
/// receive buffers, tables and reply sockets have a fixed size.
#[test]
#[ignore = "needs root"]
fn datagrams_of_ever_new_sources_to_ever_new_ports_take_no_more_memory() {
    const DATAGRAMS: usize = 20_000;
    const EACH: usize = 100;
    const REPLY_SOCKETS: usize = 50;
    /// The memory that a few words for each datagram would take.
    const GROWN_KIB_MAX: u64 = 1024 * UNDER_SANITIZER;
    private_network(|| {
        let sockets_before = sockets();
        let options = [
            "--reply-sockets=50",
            "--reply-socket-rate=10000000",
            "--udp-prefix-rate=1000000",
            "--workers=1",
        ];
        let steered = Steered::start(User::Root, &options);
        let mut random = Random::new(32);
        let mut ask = |family: support::steered::Family, count: usize, bytes: usize| {
            let bound = SocketAddr::new(family.ip(&mut random), PORT);
            let last = UdpClient::at(family.loopback());
            for _ in 0..count / EACH {
                let client = match family {
                    V4 => UdpClient::at([127, 1, random.next() as u8, random.between(1, 254) as u8]),
                    V6 => UdpClient::at(family.loopback()),
                };
                for number in 0..EACH {
                    client.send(family.pair(&mut random, FREE_PORTS), &payload(number, bytes));
                }
                // so that no datagram finds the receive buffer full
                last.echo(bound, &[8], 1);
            }
        };
        // by now each buffer is filled once, and each table exists
        for family in [V4, V6] {
            ask(family, 400, 20_000);
            ask(family, 5_000, 8);
        }
        for family in [V4, V6] {
            let client = UdpClient::at(family.loopback());
            client.echo(SocketAddr::new(family.loopback(), PORT), &[65_507; 200], 1);
        }
        let before = resident_kib(&steered.server);
        for family in [V4, V6] {
            ask(family, DATAGRAMS, 8);
        }
        let grown = resident_kib(&steered.server).saturating_sub(before);
        println!("{before} KiB, {grown} more after {} datagrams", 2 * DATAGRAMS);
        assert!(grown <= GROWN_KIB_MAX, "{grown} KiB more");
        // the kernel may put off the end of a closed socket for a moment
        until("there are no more sockets than one for each address and those for replies", || {
            sockets() - sockets_before <= REPLY_SOCKETS + 2
        });
        let end = steered.server.stop();
        assert!(end.counter("udp_reply_sockets_made") > DATAGRAMS as u64, "no new ports were asked");
        accounted(&end);
    });
}
