//! All ports of a prefix are steered to one socket. Every reply leaves from the address and port that the client
//! contacted; a datagram that can't be answered is dropped and counted.

mod support;

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use support::forge::forge;
use support::netns::setting;
use support::random::{Random, payload};
use support::server::End;
use support::steered::Family::{self, V4, V6};
use support::steered::{FREE_PORTS, LISTENING, PORT, Steered, User};
use support::udp::UdpClient;
use support::{PATIENCE, Server, netns, private_network, sys, until};
use tubular_echo::kernel::sys::{self as server_sys, IntOption, Protocol};

/// `nobody` has one account of locked memory, so tests that use it take turns.
fn nobody_alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

// Ten thousand pairs ---------------------------------------------------------------------------------

/// The unanswered datagrams of one client, flow by flow and in order.
#[derive(Default)]
struct Unanswered {
    flows: HashMap<SocketAddr, VecDeque<usize>>,
    count: usize,
}

impl Unanswered {
    fn send(&mut self, client: &UdpClient, to: SocketAddr, number: usize) {
        client.send(to, &bytes(number));
        self.flows.entry(to).or_default().push_back(number);
        self.count += 1;
    }

    /// Takes one reply, which must be the next one of its flow.
    fn receive(&mut self, client: &UdpClient) {
        let arrival = client.receive();
        let next = self.flows.get_mut(&arrival.from).and_then(VecDeque::pop_front);
        let number = next.unwrap_or_else(|| panic!("misdirected: nothing was asked of {}", arrival.from));
        assert!(arrival.payload == bytes(number), "reordered or damaged: {} from {}", number, arrival.from);
        self.count -= 1;
    }
}

fn bytes(number: usize) -> Vec<u8> {
    payload(number, 8 + number % 57)
}

/// A client in a closed loop. It contacts every pair twice in a row, in its own order.
fn ask_all(pairs: &[SocketAddr], seed: u64) -> usize {
    const IN_FLIGHT: usize = 16;
    let client = UdpClient::beside(pairs[0]);
    let mut order: Vec<_> = pairs.to_vec();
    let mut random = Random::new(seed);
    for left in (1..order.len()).rev() {
        order.swap(left, random.between(0, left));
    }
    let mut unanswered = Unanswered::default();
    for (number, pair) in order.iter().flat_map(|pair| [pair, pair]).enumerate() {
        if unanswered.count == IN_FLIGHT {
            unanswered.receive(&client);
        }
        unanswered.send(&client, *pair, number);
    }
    while unanswered.count > 0 {
        unanswered.receive(&client);
    }
    2 * pairs.len()
}

/// Two clients contact every pair, so that with two workers both often need a socket of the same pair.
fn ten_thousand_pairs(user: User, workers: u32) {
    private_network(move || {
        let _turn = (user == User::Nobody).then(nobody_alone);
        let workers = format!("--workers={workers}");
        let steered = Steered::start(user, &[&workers, "--reply-socket-rate=10000000"]);
        let mut total = 0;
        for family in [V4, V6] {
            let pairs = family.pairs(6, 10_000);
            let begun = Instant::now();
            let asked: usize = thread::scope(|scope| {
                let clients = [1, 2].map(|seed| {
                    scope.spawn({
                        let pairs = &pairs;
                        move || ask_all(pairs, seed)
                    })
                });
                clients.map(|client| client.join().expect("a client")).iter().sum()
            });
            println!("{family:?}: {asked} datagrams to 10,000 pairs in {:?}", begun.elapsed());
            total += asked;
        }
        let end = steered.stop(&[]);
        let made = end.counter("udp_reply_sockets_made");
        println!("{made} reply sockets made, at most 1,000 at a time");
        assert_eq!(end.counter("udp_datagrams_in"), total as u64);
        assert!(made >= 20_000, "each pair needed one: {made}");
    });
}

#[test]
#[ignore = "needs root"]
fn ten_thousand_pairs_one_worker() {
    ten_thousand_pairs(User::Root, 1);
}

#[test]
#[ignore = "needs root"]
fn ten_thousand_pairs_two_workers() {
    ten_thousand_pairs(User::Root, 2);
}

#[test]
#[ignore = "needs root"]
fn ten_thousand_pairs_one_worker_unprivileged() {
    ten_thousand_pairs(User::Nobody, 1);
}

#[test]
#[ignore = "needs root"]
fn ten_thousand_pairs_two_workers_unprivileged() {
    ten_thousand_pairs(User::Nobody, 2);
}

// Trains ---------------------------------------------------------------------------------------------

/// Expects these datagrams of each flow in order. Flows may mix, and the kernel may group datagrams.
fn expect_flows(client: &UdpClient, mut flows: HashMap<SocketAddr, VecDeque<Vec<u8>>>) {
    while !flows.is_empty() {
        let arrival = client.receive();
        let size = arrival.segment_bytes.unwrap_or(arrival.payload.len()).max(1);
        let mut received: Vec<_> = arrival.payload.chunks(size).collect();
        if received.is_empty() {
            received.push(&[]);
        }
        let expected = flows.get_mut(&arrival.from);
        let expected = expected.unwrap_or_else(|| panic!("nothing more was asked of {}", arrival.from));
        for datagram in received {
            let wanted = expected.pop_front().expect("no more than was sent");
            assert!(datagram == wanted, "{} bytes, not {}", datagram.len(), wanted.len());
        }
        if expected.is_empty() {
            flows.remove(&arrival.from);
        }
    }
}

#[test]
#[ignore = "needs root"]
fn trains_and_singles_keep_boundaries_and_sources() {
    private_network(|| {
        let steered = Steered::start(User::Root, &[]);
        for family in [V4, V6] {
            // one of them is the bound port, so that the same turn sends replies by both kinds of sockets
            let mut pairs = family.pairs(7, 7);
            pairs.push(SocketAddr::new(pairs[0].ip(), PORT));
            for receives_trains in [false, true] {
                let mut client = UdpClient::beside(pairs[0]);
                if receives_trains {
                    client = client.receiving_trains();
                }
                // the first round opens the reply sockets, the second one finds them open
                for round in 0..2 {
                    let mut random = Random::new(round);
                    let mut flows: HashMap<SocketAddr, VecDeque<Vec<u8>>> = HashMap::new();
                    steered.server.pause();
                    for number in 0..200 {
                        let pair = pairs[random.between(0, pairs.len() - 1)];
                        let segment_bytes = random.between(1, 1400);
                        let sent = flows.entry(pair).or_default();
                        if number % 2 == 0 {
                            let full = segment_bytes * random.between(2, 30);
                            let train = payload(number, full + random.between(0, segment_bytes - 1));
                            client.send_train(pair, &train, segment_bytes as u16);
                            sent.extend(train.chunks(segment_bytes).map(<[u8]>::to_vec));
                        } else {
                            // consecutive datagrams of one size, and now and then an empty one
                            for copy in 0..random.between(1, 9) {
                                let bytes =
                                    payload(number + copy, segment_bytes * usize::from(number % 7 > 0));
                                client.send(pair, &bytes);
                                sent.push_back(bytes);
                            }
                        }
                    }
                    steered.server.resume();
                    expect_flows(&client, flows);
                }
            }
        }
        let end = steered.stop(&[]);
        let (trains_in, trains_out) = (end.counter("udp_trains_in"), end.counter("udp_trains_out"));
        println!("{trains_in} trains came, {trains_out} left; the others left singly");
        assert_eq!(trains_in, 2 * 2 * 2 * 100);
        assert!(trains_out > trains_in, "neighbours of one size leave together");
        assert_eq!(end.counter("udp_reply_sockets_made"), 2 * 7);
    });
}

// Datagrams that can't be answered --------------------------------------------------------------------

/// One exchange from a new client socket.
fn exchange(target: SocketAddr) {
    let client = UdpClient::beside(target);
    client.echo(target, &[0, 1, 1200, 9000, 64, 64, 64], 2);
}

const SYSTEM_PORTS: [u16; 4] = [1, 7, 443, 1023];

#[test]
#[ignore = "needs root"]
fn system_ports_without_the_capability_are_dropped_and_counted() {
    private_network(|| {
        let _turn = nobody_alone();
        let steered = Steered::start(User::Nobody, &[]);
        for family in [V4, V6] {
            let ip = family.ip(&mut Random::new(8));
            let client = UdpClient::beside(SocketAddr::new(ip, 1024));
            for port in SYSTEM_PORTS {
                client.send(SocketAddr::new(ip, port), b"who may answer from here?");
            }
            client.echo(SocketAddr::new(ip, 1024), &[64; 10], 1);
        }
        until_told(&steered.server, "CAP_NET_BIND_SERVICE");
        let end = steered.stop(&["udp_reply_port_privileged"]);
        assert_eq!(end.counter("udp_reply_port_privileged"), 2 * SYSTEM_PORTS.len() as u64);
        assert_eq!(times_told(&end, "CAP_NET_BIND_SERVICE"), 1);
    });
}

#[test]
#[ignore = "needs root"]
fn system_ports_with_the_capability_are_answered() {
    private_network(|| {
        let steered = Steered::start(User::Root, &[]);
        for family in [V4, V6] {
            let ip = family.ip(&mut Random::new(9));
            for port in SYSTEM_PORTS {
                exchange(SocketAddr::new(ip, port));
            }
        }
        steered.stop(&[]);
    });
}

#[test]
#[ignore = "needs root"]
fn a_port_that_somebody_holds_is_dropped_and_counted() {
    private_network(|| {
        let steered = Steered::start(User::Root, &[]);
        for (family, [taken, free]) in
            [V4, V6].map(|family| (family, <[SocketAddr; 2]>::try_from(family.pairs(10, 2)).unwrap()))
        {
            let holder = bind(taken).expect("the port is free");
            holder.set_nonblocking(true).unwrap();
            let client = UdpClient::beside(taken);
            for _ in 0..5 {
                client.send(taken, b"anybody there?");
            }
            client.echo(free, &[64; 10], 1);
            assert!(holder.recv(&mut [0; 64]).is_err(), "{family:?}: it is steered past the holder");
            drop(holder);
            // another test of this program may be between fork and exec, with copies of all descriptors
            until("the port is free", || !sys::is_bound(taken).expect("the kernel's list of sockets"));
            client.echo(taken, &[64; 10], 1);
        }
        until_told(&steered.server, "udp_reply_port_taken");
        let end = steered.stop(&["udp_reply_port_taken"]);
        assert_eq!(end.counter("udp_reply_port_taken"), 2 * 5);
        assert_eq!(times_told(&end, "udp_reply_port_taken"), 1);
    });
}

/// A socket bound to exactly this pair. For IPv6 addresses of a local route it needs `IPV6_FREEBIND`.
fn bind(pair: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = server_sys::socket(Protocol::Udp, pair)?;
    if pair.is_ipv6() {
        server_sys::set_option(socket.as_fd(), IntOption::FREEBIND_V6, 1)?;
    }
    server_sys::bind(socket.as_fd(), pair)?;
    Ok(socket.into())
}

fn until_told(server: &Server, text: &str) {
    let told = server.log.wait_for(PATIENCE, |lines| lines.iter().any(|line| is_news(line, text)));
    assert!(told, "waited in vain for {text} in the log");
}

fn times_told(end: &End, text: &str) -> usize {
    end.stderr.iter().filter(|line| is_news(line, text)).count()
}

fn is_news(line: &str, text: &str) -> bool {
    line.contains(text) && !line.contains("counters:")
}

#[test]
#[ignore = "needs root"]
fn a_pair_where_we_listen_ourselves_is_answered_and_not_joined() {
    private_network(|| {
        for workers in ["--workers=1", "--workers=2"] {
            let (other, everywhere) = ("127.128.0.5:5678", "0.0.0.0:5679");
            let udp = [other, everywhere].map(|address| format!("--udp={address}"));
            let steered = Steered::start(User::Root, &[workers, &udp[0], &udp[1]]);
            for target in [other, "127.128.0.6:5678", "127.128.0.6:5679"] {
                exchange(target.parse().unwrap());
            }
            // without the steering, the listening sockets get all traffic, and reply sockets none
            steered.dispatcher.detach().expect("end the steering");
            (0..20).for_each(|_| exchange(other.parse().unwrap()));
            let end = steered.server.stop();
            assert_eq!(end.counter("udp_datagrams_in"), end.counter("udp_datagrams_out"));
            assert_eq!(end.counter("udp_reply_port_taken"), 0);
        }
    });
}

// Strangers that choose their addresses ---------------------------------------------------------------

/// An address of the steered IPv6 prefix that collides with `victim` under any key, if a hash folds the address before
/// it mixes in the key. The server's hash once did that.
fn alike(victim: IpAddr) -> IpAddr {
    const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |value: u64| {
        let product = value.wrapping_mul(MIX);
        product ^ product >> 32
    };
    let fold = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => u64::from(u32::from(ip)),
        IpAddr::V6(ip) => mix((u128::from(ip) >> 64) as u64) ^ u128::from(ip) as u64,
    };
    let high: u64 = 0x2001_0db8 << 32;
    Ipv6Addr::from(u128::from(high) << 64 | u128::from(mix(high) ^ fold(victim))).into()
}

#[test]
#[ignore = "needs root"]
fn a_stranger_silences_no_client_by_the_address_that_it_asks() {
    private_network(|| {
        let steered = Steered::start(User::Root, &["--workers=2"]);
        let known: IpAddr = "2001:db8::61eb:4018:1eeb:4019".parse().unwrap();
        assert_eq!(alike([127, 0, 0, 1].into()), known);
        for family in [V4, V6] {
            let target = SocketAddr::new(family.ip(&mut Random::new(19)), PORT);
            let client = UdpClient::beside(target);
            client.echo(target, &[64; 10], 1);
            let address = client.socket.local_addr().expect("getsockname");
            // its reply leaves from a pair that looks like the client's, and that is one of the server's own pairs from
            // then on
            let pair = SocketAddr::new(alike(address.ip()), address.port());
            exchange(pair);
            client.echo(target, &[64; 50], 1);
        }
        steered.stop(&[]);
    });
}

// A sprayer ------------------------------------------------------------------------------------------

/// Ping-pong on the bound port. Returns the sorted round-trip times. Any loss fails the test.
fn ping_pong(target: SocketAddr, count: usize) -> Vec<Duration> {
    let client = UdpClient::beside(target);
    let mut times: Vec<_> = (0..count)
        .map(|number| {
            let bytes = bytes(number);
            let begun = Instant::now();
            client.send(target, &bytes);
            client.expect(target, &bytes);
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    times
}

/// Sprays random addresses with one of these ports until it is told to stop. Returns the number of datagrams. Now and
/// then it waits for a reply, so that its queued datagrams always fit the socket's buffer.
fn spray(family: Family, ports: RangeInclusive<u16>, stop: &AtomicBool) -> u64 {
    const PER_SECOND: f64 = 40_000.0;
    const QUEUED_MAX: u64 = 200;
    let mut random = Random::new(11);
    let (client, bound) = (UdpClient::at(family.loopback()), SocketAddr::new(family.ip(&mut random), PORT));
    server_sys::drop_incoming(client.socket.as_fd()).expect("SO_ATTACH_FILTER");
    let begun = Instant::now();
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        if (sent as f64) > begun.elapsed().as_secs_f64() * PER_SECOND {
            thread::sleep(Duration::from_micros(100));
            continue;
        }
        client.send(family.pair(&mut random, ports.clone()), b"spray");
        sent += 1;
        if sent % QUEUED_MAX == 0 {
            ping_pong(bound, 1);
        }
    }
    sent
}

#[test]
#[ignore = "needs root"]
fn a_spray_of_random_ports_makes_sockets_at_their_rate_and_loses_nothing_on_the_bound_port() {
    const PINGS: usize = 5_000;
    const RATE: f64 = 1_000.0;
    private_network(|| {
        let begun = Instant::now();
        let steered = Steered::start(User::Root, &["--reply-socket-rate=1000"]);
        for family in [V4, V6] {
            let target = SocketAddr::new(family.ip(&mut Random::new(12)), PORT);
            let print = |when: &str, times: &[Duration]| {
                println!("{family:?}, {when}: p50 {:?}, p99 {:?}", times[PINGS / 2], times[PINGS * 99 / 100]);
            };
            print("no spray", &ping_pong(target, PINGS));
            // the first load uses the bound port, which shows the cost of a spray that opens no sockets
            for ports in [PORT..=PORT, FREE_PORTS] {
                let stop = AtomicBool::new(false);
                let (sprayed, times) = thread::scope(|scope| {
                    let sprayer = scope.spawn(|| spray(family, ports.clone(), &stop));
                    let times = ping_pong(target, PINGS);
                    stop.store(true, Ordering::Relaxed);
                    (sprayer.join().expect("the sprayer"), times)
                });
                print(&format!("{sprayed} datagrams sprayed to {ports:?}"), &times);
            }
        }
        let end = steered.stop(&["udp_reply_sockets_limited"]);
        let (made, limited) =
            (end.counter("udp_reply_sockets_made"), end.counter("udp_reply_sockets_limited"));
        // the server may open the sockets of 100 ms at once
        let most = RATE * (begun.elapsed().as_secs_f64() + 0.1);
        println!("{made} reply sockets made, at most {most:.0}, {limited} datagrams dropped");
        assert!(limited > 0, "the spray was too slow to meet the limit");
        assert!(made as f64 <= most, "{made} sockets made, {most:.0} allowed");
    });
}

/// In each turn, datagrams to the bound port are answered first, and those that need a new socket wait until it is
/// open. The server finds all of them at once, with the bound port last. A turn may end among them: the kernel delivers
/// 32 at a time.
#[test]
#[ignore = "needs root"]
fn a_flow_on_the_bound_port_does_not_wait_for_new_sockets() {
    const NEW: usize = 30;
    const ROUNDS: usize = 5;
    private_network(|| {
        let steered = Steered::start(User::Root, &["--workers=1"]);
        for (family, seed) in [(V4, 20), (V6, 21)] {
            let client = UdpClient::at(family.loopback());
            let mut answered_before = 0;
            for round in 0..ROUNDS {
                let mut pairs = family.pairs(seed + 10 * round as u64, NEW);
                let bound = SocketAddr::new(pairs[0].ip(), PORT);
                pairs.push(bound);
                steered.server.pause();
                pairs.iter().enumerate().for_each(|(number, pair)| client.send(*pair, &bytes(number)));
                steered.server.resume();
                let order: Vec<_> = pairs
                    .iter()
                    .map(|_| {
                        let arrival = client.receive();
                        let number = pairs.iter().position(|pair| *pair == arrival.from);
                        let number = number.unwrap_or_else(|| panic!("nobody asked {}", arrival.from));
                        assert_eq!(arrival.payload, bytes(number));
                        number
                    })
                    .collect();
                answered_before += order.iter().position(|number| *number == NEW).expect("the bound port's");
            }
            println!("{family:?}: of {} new ports {answered_before} were answered before", ROUNDS * NEW);
            assert!(answered_before < ROUNDS * NEW / 2, "{family:?}: {answered_before} were answered before");
        }
        let end = steered.stop(&[]);
        assert_eq!(end.counter("udp_reply_sockets_made"), (2 * ROUNDS * NEW) as u64);
    });
}

// Without the binding --------------------------------------------------------------------------------

#[test]
#[ignore = "needs root"]
fn without_the_binding_nothing_is_echoed_and_the_ports_are_free_soon() {
    const IDLE_TIMEOUT: Duration = Duration::from_millis(400);
    private_network(|| {
        for workers in ["--workers=1", "--workers=2"] {
            let steered = Steered::start(
                User::Root,
                &[workers, "--reply-socket-idle=400ms", "--reply-socket-rate=100000"],
            );
            let pairs: Vec<_> = [V4, V6].into_iter().flat_map(|family| family.pairs(13, 50)).collect();
            let clients = [V4, V6].map(|family| UdpClient::at(family.loopback()));
            let client = |pair: &SocketAddr| &clients[usize::from(pair.is_ipv6())];
            for pair in &pairs {
                client(pair).echo(*pair, &[64; 2], 1);
            }
            steered.dispatcher.detach().expect("end the steering");
            let removed = Instant::now();
            assert!(bind(pairs[99]).is_err(), "a reply socket is bound to it");
            for pair in &pairs {
                client(pair).send(*pair, b"not steered");
            }
            let mut taken = pairs.clone();
            until("all ports are free", || {
                taken.retain(|pair| bind(*pair).is_err());
                taken.is_empty()
            });
            println!(
                "all ports free {:?} after the binding, idle timeout {IDLE_TIMEOUT:?}",
                removed.elapsed()
            );
            // the test checks every 10 ms, and may wait for a processor
            assert!(removed.elapsed() < IDLE_TIMEOUT + Duration::from_millis(300));
            for pair in &pairs {
                client(pair).send(*pair, b"not steered");
            }
            for client in &clients {
                client.expect_nothing_for(Duration::from_millis(20));
            }
            let end = steered.server.stop();
            assert_eq!(end.counter("udp_datagrams_in"), 2 * pairs.len() as u64);
            assert_eq!(end.counter("udp_datagrams_out"), 2 * pairs.len() as u64);
        }
    });
}

/// After a pause the server finds all queued datagrams at once. It must not open sockets faster than before.
#[test]
#[ignore = "needs root"]
fn new_ports_that_were_asked_during_a_pause_are_all_answered() {
    const PORTS: usize = 400;
    private_network(|| {
        let steered = Steered::start(User::Root, &[]);
        for family in [V4, V6] {
            let pairs = family.pairs(18, PORTS);
            let client = UdpClient::beside(pairs[0]);
            steered.server.pause();
            pairs.iter().zip(0..).for_each(|(pair, number)| client.send(*pair, &payload(number, 64)));
            steered.server.resume();
            pairs.iter().zip(0..).for_each(|(pair, number)| client.expect(*pair, &payload(number, 64)));
        }
        let end = steered.stop(&[]);
        assert_eq!(end.counter("udp_reply_sockets_made"), 2 * PORTS as u64);
    });
}

#[test]
#[ignore = "needs root"]
fn a_socket_for_a_peer_that_is_sent_no_trains_goes_when_it_is_idle() {
    private_network(|| {
        let steered = Steered::start(User::Root, &["--reply-socket-idle=200ms"]);
        // the kernel refuses trains of datagrams of 1,400 on this way
        netns::ip("route replace local 127.0.0.77 dev lo mtu 1280");
        let client = UdpClient::at([127, 0, 0, 77]);
        for pair in V4.pairs(17, 2) {
            // the kernel refuses the first pair's train; the second one's is not tried, because no socket is left for
            // it
            let train = payload(0, 1400 * 5);
            client.send_train(pair, &train, 1400);
            train.chunks(1400).for_each(|datagram| client.expect(pair, datagram));
            assert!(bind(pair).is_err(), "a reply socket is bound to it");
            until("the port is free", || bind(pair).is_ok());
        }
        let end = steered.stop(&[]);
        assert_eq!(end.counter("udp_trains_refused"), 1);
        assert_eq!(end.counter("udp_reply_sockets_made"), 2);
    });
}

// Loops ----------------------------------------------------------------------------------------------

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
