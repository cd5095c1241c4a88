//! Trains: datagrams of one flow that enter and leave the kernel as one message. In every case each datagram is echoed by
//! itself, in order and with its own boundaries.

mod support;

use std::net::{IpAddr, SocketAddr};
use support::netns::{Netns, ip};
use support::random::{Random, payload};
use support::sys;
use support::udp::{UdpClient, datagrams};
use support::{Server, bounded, private_network};

fn on_loopback() -> Server {
    Server::start(&["--udp", "127.0.0.1:0", "--udp", "[::1]:0"])
}

/// A train: size of a datagram, number of full ones, bytes of a shorter last one.
const SHAPES: [(u16, usize, usize); 9] = [
    (1, 64, 0),
    (2, 63, 1),
    (100, 10, 37),
    (512, 1, 511),
    (1200, 50, 0),
    (1200, 50, 1),
    (1400, 40, 1399),
    (1472, 44, 700),
    (9000, 7, 2000),
];

/// Sends the train and expects every datagram of it alone.
fn echo_singly(client: &UdpClient, target: SocketAddr, bytes: &[u8], segment_bytes: u16) {
    client.send_train(target, bytes, segment_bytes);
    datagrams(bytes, segment_bytes).for_each(|datagram| client.expect(target, datagram));
}

/// Sends the train and expects its datagrams, however the kernel groups them.
fn echo_together(client: &UdpClient, target: SocketAddr, bytes: &[u8], segment_bytes: u16) {
    client.send_train(target, bytes, segment_bytes);
    let mut expected = datagrams(bytes, segment_bytes);
    let mut answered = 0;
    while answered < bytes.len() {
        let arrival = client.receive();
        assert_eq!(arrival.from, target);
        answered += arrival.payload.len();
        let size = arrival.segment_bytes.unwrap_or(arrival.payload.len());
        for datagram in arrival.payload.chunks(size) {
            assert!(expected.next() == Some(datagram), "a datagram of {} bytes", datagram.len());
        }
    }
}

#[test]
fn boundaries_are_kept_for_peers_that_receive_singly() {
    bounded(|| {
        let server = on_loopback();
        for &(_, target) in server.addresses() {
            let client = UdpClient::beside(target);
            for (number, (segment_bytes, full, tail)) in SHAPES.into_iter().enumerate() {
                let train = payload(number, usize::from(segment_bytes) * full + tail);
                echo_singly(&client, target, &train, segment_bytes);
            }
        }
        let end = server.stop();
        let sent: usize = SHAPES.iter().map(|&(_, full, tail)| full + usize::from(tail > 0)).sum();
        assert_eq!(end.counter("udp_datagrams_in"), 2 * sent as u64);
        assert_eq!(end.counter("udp_datagrams_out"), 2 * sent as u64);
        assert_eq!(end.counter("udp_trains_in"), 2 * SHAPES.len() as u64);
    });
}

#[test]
fn boundaries_are_kept_for_peers_that_receive_trains() {
    bounded(|| {
        let server = on_loopback();
        for &(_, target) in server.addresses() {
            let client = UdpClient::beside(target).receiving_trains();
            for (number, (segment_bytes, full, tail)) in SHAPES.into_iter().enumerate() {
                let train = payload(number, usize::from(segment_bytes) * full + tail);
                echo_together(&client, target, &train, segment_bytes);
            }
        }
        server.stop();
    });
}

#[test]
fn the_longest_train_that_the_kernel_sends() {
    bounded(|| {
        let server = on_loopback();
        for &(_, target) in server.addresses() {
            let client = UdpClient::beside(target);
            // newer kernels send 128 datagrams at once, older ones 64
            let long = payload(1, 128 * 100);
            let sent = sys::send_train(&client.socket, target, &long, 100);
            let train = if sent.is_ok() { &long[..] } else { &long[..64 * 100] };
            if sent.is_err() {
                client.send_train(target, train, 100);
            }
            datagrams(train, 100).for_each(|datagram| client.expect(target, datagram));
            // and as many bytes as a message may have
            echo_singly(&client, target, &payload(2, 65_507), 1472);
        }
        server.stop();
    });
}

#[test]
#[ignore = "needs root"]
fn trains_and_single_datagrams_keep_their_order() {
    bounded(|| {
        let server = on_loopback();
        for &(_, target) in server.addresses() {
            for receives_trains in [false, true] {
                let mut client = UdpClient::beside(target);
                if receives_trains {
                    client = client.receiving_trains();
                }
                let mut random = Random::new(3);
                let mut sent = Vec::new();
                server.pause();
                for number in 0..200 {
                    let segment_bytes = random.between(1, 1400);
                    let len = match number % 4 {
                        // consecutive datagrams of one size, which may be merged, and a shorter last one
                        0 => segment_bytes,
                        1 => segment_bytes * random.between(2, 30) + random.between(0, segment_bytes - 1),
                        2 => 0,
                        _ => random.between(1, 300),
                    };
                    let bytes = payload(number, len);
                    if len > segment_bytes {
                        client.send_train(target, &bytes, segment_bytes as u16);
                        sent.extend(bytes.chunks(segment_bytes).map(<[u8]>::to_vec));
                    } else {
                        let copies = random.between(1, 5);
                        for _ in 0..copies {
                            client.send(target, &bytes);
                            sent.push(bytes.clone());
                        }
                    }
                }
                server.resume();
                expect_in_order(&client, target, &sent);
            }
        }
        server.stop();
    });
}

/// Expects these datagrams in this order, each alone or together with the next ones.
fn expect_in_order(client: &UdpClient, target: SocketAddr, sent: &[Vec<u8>]) {
    let mut expected = sent.iter();
    while expected.len() > 0 {
        let arrival = client.receive();
        assert_eq!(arrival.from, target);
        let size = arrival.segment_bytes.unwrap_or(arrival.payload.len()).max(1);
        let mut received: Vec<_> = arrival.payload.chunks(size).collect();
        if received.is_empty() {
            received.push(&[]);
        }
        for datagram in received {
            let number = sent.len() - expected.len();
            let wanted = expected.next().expect("no more than was sent");
            assert!(datagram == wanted, "datagram {number}: {} bytes, not {}", datagram.len(), wanted.len());
        }
    }
}

#[test]
#[ignore = "needs root"]
fn many_flows_of_trains_at_once() {
    bounded(|| {
        let server = on_loopback();
        let clients: Vec<_> = server
            .addresses()
            .iter()
            .flat_map(|&(_, target)| (0..16).map(move |_| (UdpClient::beside(target), target)))
            .collect();
        server.pause();
        let bytes = |number| payload(number, 300 * 20 + number);
        for round in 0..3 {
            for (number, (client, target)) in clients.iter().enumerate() {
                client.send_train(*target, &bytes(number + round), 300);
            }
        }
        server.resume();
        for round in 0..3 {
            for (number, (client, target)) in clients.iter().enumerate() {
                let train = bytes(number + round);
                datagrams(&train, 300).for_each(|datagram| client.expect(*target, datagram));
            }
        }
        server.stop();
    });
}

#[test]
#[ignore = "needs root"]
fn a_peer_behind_a_small_mtu_loses_nothing() {
    private_network(|| {
        let far = Netns::new();
        Netns::cable("near", "far", &far);
        ip("addr add 192.0.2.1/24 dev near");
        ip("addr add 2001:db8::1/64 dev near nodad");
        ip("link set near up");
        far.run(|| {
            for host in [2, 3] {
                ip(&format!("addr add 192.0.2.{host}/24 dev far"));
                ip(&format!("addr add 2001:db8::{host}/64 dev far nodad"));
            }
            ip("link set far up");
        });
        // datagrams from host 2 may have 1,472 bytes, those to it only 1,252: the kernel refuses a train of datagrams
        // of 1,400
        ip("route add 192.0.2.2/32 dev near mtu 1280");
        ip("-6 route add 2001:db8::2/128 dev near mtu 1280");

        let server = Server::start(&["--udp", "192.0.2.1:7", "--udp", "[2001:db8::1]:7"]);
        let addresses =
            [("192.0.2.1:7", "192.0.2.2", "192.0.2.3"), ("[2001:db8::1]:7", "2001:db8::2", "2001:db8::3")];
        for (target, small, large) in addresses {
            let target = target.parse().unwrap();
            let client = |ip: &str| far.run(|| UdpClient::at(ip.parse::<IpAddr>().unwrap()));
            let (small, large) = (client(small), client(large));
            for round in 0..10 {
                let train = payload(round, 1400 * 10 + 77);
                // both trains are in flight together: the refusal must affect only one peer
                small.send_train(target, &train, 1400);
                large.send_train(target, &train, 1400);
                datagrams(&train, 1400).for_each(|datagram| small.expect(target, datagram));
                datagrams(&train, 1400).for_each(|datagram| large.expect(target, datagram));
                // trains that fit go on as before
                echo_singly(&small, target, &payload(round, 1000 * 10 + 77), 1000);
            }
        }
        let end = server.stop();
        assert_eq!(end.counter("udp_datagrams_in"), end.counter("udp_datagrams_out"));
        // otherwise the trains came as single datagrams, and nothing was refused
        assert!(end.counter("udp_trains_in") >= 40, "{} trains came", end.counter("udp_trains_in"));
    });
}
