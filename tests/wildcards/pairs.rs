//! Ten thousand pairs of address and port: each reply leaves from its own.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::thread;
use std::time::Instant;

use crate::support::private_network;
use crate::support::random::{Random, payload};
use crate::support::steered::Family::{V4, V6};
use crate::support::steered::{PORT, Steered, User};
use crate::support::udp::UdpClient;

use crate::{bytes, nobody_alone};

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
