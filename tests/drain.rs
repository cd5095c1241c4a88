//! The drain after SIGTERM: the server returns all that it has received, in every state, and ends in time. The counts are
//! exact: a duplicate of each listening socket shows what its queue still holds and what the kernel dropped there.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::random::{Random, payload};
use support::server::End;
use support::tcp::{connect, echo};
use support::udp::{UdpClient, datagrams};
use support::{Launch, PATIENCE, Server, private_network, sys, until};
use tubular_echo::kernel::sys::{accept_queue_len, receive_queue_bytes, socket_drops};

/// Payload bytes of one datagram of a train, and of a single one.
const SEGMENT_BYTES: u16 = 64;
const TRAIN_BYTES: usize = 64 * SEGMENT_BYTES as usize;

fn start(workers: usize, more: &[&str]) -> Server {
    let workers = format!("--workers={workers}");
    Server::start(&[&["--listen=127.0.0.1:0", &workers], more].concat())
}

/// Duplicates of the UDP sockets of a server with one address.
fn udp_sockets(server: &Server, workers: usize) -> Vec<OwnedFd> {
    server.copy_sockets(2 * workers).split_off(workers)
}

/// Datagrams that the kernel dropped at these sockets.
fn drops(sockets: &[OwnedFd]) -> u64 {
    sockets.iter().map(|socket| u64::from(socket_drops(socket.as_fd()).expect("SO_MEMINFO"))).sum()
}

fn is_empty(socket: &OwnedFd) -> bool {
    receive_queue_bytes(socket.as_fd()).expect("SO_MEMINFO") == 0
}

/// The messages of one client: single datagrams of all sizes from 0 to 200 bytes, and trains whose last datagram may be
/// short.
fn messages(client: usize, count: usize) -> impl Iterator<Item = Vec<u8>> {
    let mut random = Random::new(client as u64);
    (0..count).map(move |number| {
        let len = match random.between(0, 7) {
            0 => 0,
            1..=4 => random.between(1, SEGMENT_BYTES.into()),
            _ => random.between(SEGMENT_BYTES.into(), TRAIN_BYTES),
        };
        payload(client << 32 | number, len)
    })
}

/// The datagrams of a message. An empty message is one datagram too.
fn cut(message: &[u8]) -> Vec<&[u8]> {
    if message.is_empty() { vec![message] } else { datagrams(message, SEGMENT_BYTES).collect() }
}

/// Receives the client's replies until all of `expected` have arrived, in order.
fn expect_all(client: &UdpClient, from: SocketAddr, expected: &[Vec<u8>]) {
    let mut expected = expected.iter().flat_map(|message| cut(message)).peekable();
    let mut number = 0;
    while expected.peek().is_some() {
        let arrival = client.receive();
        assert_eq!(arrival.from, from);
        let segment_bytes = arrival.segment_bytes.unwrap_or(arrival.payload.len()).max(1);
        let found: Vec<_> = match arrival.payload.as_slice() {
            [] => vec![&[][..]],
            bytes => bytes.chunks(segment_bytes).collect(),
        };
        for datagram in found {
            assert_eq!(
                Some(datagram),
                expected.next(),
                "datagram {number} of {client:?}",
                client = client.socket
            );
            number += 1;
        }
    }
}

/// Stops the server, lets each client send this many messages, and ends the server. Returns the number of replies.
fn queue_and_end(workers: usize, clients: &[UdpClient], each: usize, seed: usize, more: &[&str]) -> u64 {
    let server = start(workers, more);
    let target = server.udp();
    let sockets = udp_sockets(&server, workers);
    server.pause();
    let sent: Vec<Vec<Vec<u8>>> = (0..)
        .zip(clients)
        .map(|(number, client)| {
            let messages: Vec<_> = messages(seed + number, each).collect();
            for message in &messages {
                if message.len() > SEGMENT_BYTES.into() {
                    client.send_train(target, message, SEGMENT_BYTES);
                } else {
                    client.send(target, message);
                }
            }
            messages
        })
        .collect();
    assert_eq!(drops(&sockets), 0, "the queues were too small for this test");
    assert!(sockets.iter().any(|socket| !is_empty(socket)));
    server.signal(libc::SIGTERM);
    server.resume();
    for (client, messages) in clients.iter().zip(&sent) {
        expect_all(client, target, messages);
    }
    let end = ended(server);
    let count = sent.iter().flatten().map(|message| cut(message).len() as u64).sum();
    assert_eq!((end.counter("udp_datagrams_in"), end.counter("udp_datagrams_out")), (count, count));
    assert!(sockets.iter().all(is_empty), "something is left in a queue");
    count
}

/// Waits for the end after a signal that the test has sent already.
fn ended(server: Server) -> End {
    assert!(server.pidfd.ends_within(PATIENCE), "the server did not end");
    let end = server.wait();
    assert_eq!(end.code, Some(0), "{:?}", end.stderr);
    end
}

fn clients(count: usize) -> Vec<UdpClient> {
    let target = "127.0.0.1:1".parse().unwrap();
    (0..count).map(|_| UdpClient::beside(target).receiving_trains()).collect()
}

#[test]
#[ignore = "needs root"]
fn a_million_queued_datagrams_come_back() {
    private_network(|| {
        let clients = clients(4);
        let (mut count, mut rounds, mut seed) = (0, 0, 0);
        while count < 1_000_000 {
            for workers in [1, 2] {
                count += queue_and_end(workers, &clients, 1200, seed, &[]);
                seed += clients.len();
                rounds += 1;
            }
        }
        println!(
            "0 of {count} datagrams lost that were queued at SIGTERM, in {rounds} rounds, 1 and 2 workers"
        );
    });
}

/// There may be no next process: systemd can also stop a service with stored sockets instead of restarting it.
#[test]
#[ignore = "needs root"]
fn sockets_that_outlive_it_are_left_empty() {
    private_network(|| {
        let clients = clients(4);
        for workers in [1, 2] {
            // no more than the server can answer in the 100 ms that it has for this
            queue_and_end(workers, &clients, 50, workers, &["--fd-store"]);
        }
    });
}

/// Keeps datagrams in flight until no reply comes any more. Returns the sent and the received ones.
fn keep_busy(client: &UdpClient, target: SocketAddr, gone: &AtomicBool) -> (u64, u64) {
    const IN_FLIGHT: u64 = 32;
    client.socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a short patience");
    let (mut sent, mut received) = (0_u64, 0);
    loop {
        while sent < received + IN_FLIGHT {
            client.send(target, &sent.to_le_bytes());
            sent += 1;
        }
        match sys::receive(&client.socket) {
            Ok(arrival) => {
                let numbers = arrival.payload.chunks_exact(8);
                for number in numbers {
                    assert_eq!(number, received.to_le_bytes(), "an echo is lost, or overtaken");
                    received += 1;
                }
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                if gone.load(Ordering::Relaxed) {
                    return (sent, received);
                }
            }
        }
    }
}

/// Every datagram either came back or was dropped at the socket filter, which closes the socket after SIGTERM.
fn load_and_end(workers: usize) -> u64 {
    let server = start(workers, &[]);
    let target = server.udp();
    let sockets = udp_sockets(&server, workers);
    let gone = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let gone = Arc::clone(&gone);
            thread::spawn(move || keep_busy(&UdpClient::beside(target), target, &gone))
        })
        .collect();
    until("the server is busy", || sockets.iter().any(|socket| !is_empty(socket)));
    assert!(!server.pidfd.ends_within(Duration::from_millis(500)), "the server ended by itself");
    assert_eq!(drops(&sockets), 0, "dropped before the end");
    let end = server.stop();
    gone.store(true, Ordering::Relaxed);
    let totals = clients.into_iter().map(|client| client.join().expect("a client"));
    let (sent, received) = totals.fold((0, 0), |sum, (sent, received)| (sum.0 + sent, sum.1 + received));
    assert_eq!(end.counter("udp_datagrams_in"), received);
    assert_eq!(end.counter("udp_datagrams_out"), received);
    assert!(sockets.iter().all(is_empty), "something is left in a queue");
    assert_eq!(sent, received + drops(&sockets), "neither answered nor refused at the door");
    received
}

#[test]
#[ignore = "needs root"]
fn under_load_every_datagram_comes_back_or_is_refused_at_the_door() {
    private_network(|| {
        for workers in [1, 2] {
            let received: u64 = (0..5).map(|_| load_and_end(workers)).sum();
            println!("0 of {received} datagrams lost in 5 ends under load, {workers} workers");
        }
    });
}

/// Sends until all buffers on the way are full. Returns how many bytes the connection took.
fn fill(stream: &mut TcpStream, seed: u64) -> usize {
    stream.set_nonblocking(true).expect("a connection that does not block");
    let mut random = Random::new(seed);
    let mut taken = 0;
    loop {
        let piece = random.bytes(1 << 16);
        let mut rest = &piece[..];
        while !rest.is_empty() {
            match stream.write(rest) {
                Ok(count) => {
                    taken += count;
                    rest = &rest[count..];
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                    if sys::poll(&mut [sys::poll_entry(stream, libc::POLLOUT)], Duration::from_millis(30))
                        == 0
                    {
                        stream.set_nonblocking(false).expect("a connection that blocks");
                        return taken;
                    }
                }
            }
        }
    }
}

/// Reads up to the server's FIN, which must not be a reset. Returns how many bytes of the stream came back.
fn read_to_fin(stream: &mut TcpStream, seed: u64) -> usize {
    let mut back = Vec::new();
    stream.read_to_end(&mut back).expect("a FIN, not a reset");
    assert!(back == Random::new(seed).bytes(back.len()), "other bytes came back");
    back.len()
}

/// Connections of every kind, with the bytes that each had sent before SIGTERM.
fn queue_streams_and_end(workers: usize, more: &[&str]) -> usize {
    let server = start(workers, more);
    let target = server.tcp();
    let outlives = more.contains(&"--fd-store");
    let mut streams: Vec<TcpStream> = (0..200).map(|_| connect(target)).collect();
    for stream in &mut streams {
        echo(stream, b"accepted");
    }
    server.pause();
    if !outlives {
        // connections in the accept queue; those of a stored listener belong to the next process
        streams.extend((0..100).map(|_| connect(target)));
    }
    let mut random = Random::new(workers as u64);
    let mut taken = Vec::new();
    for (seed, stream) in (0..).zip(&mut streams) {
        taken.push(match seed % 20 {
            0 => fill(stream, seed),
            1..=5 => 0,
            _ => {
                let bytes = Random::new(seed).bytes(random.between(1, 20_000));
                stream.write_all(&bytes).expect("send");
                bytes.len()
            }
        });
    }
    until("all but the full connections' bytes are acknowledged", || {
        let mut others = streams.iter().enumerate().filter(|(seed, _)| seed % 20 != 0);
        others.all(|(_, stream)| sys::unacknowledged_bytes(stream) == 0)
    });
    let received_by_kernel: Vec<_> =
        streams.iter().zip(taken).map(|(stream, taken)| taken - sys::unacknowledged_bytes(stream)).collect();
    server.signal(libc::SIGTERM);
    server.resume();
    let readers: Vec<_> = (0..)
        .zip(streams)
        .map(|(seed, mut stream)| thread::spawn(move || read_to_fin(&mut stream, seed)))
        .collect();
    let back: Vec<_> = readers.into_iter().map(|reader| reader.join().expect("a reader")).collect();
    let lost: Vec<_> =
        received_by_kernel.iter().zip(&back).filter(|(received, back)| back < received).collect();
    assert!(lost.is_empty(), "connections with less back than the server had received: {lost:?}");
    let end = ended(server);
    assert_eq!(end.counter("tcp_bytes_in"), end.counter("tcp_bytes_out"));
    let greeted = 200 * b"accepted".len();
    assert_eq!(end.counter("tcp_bytes_out") as usize, greeted + back.iter().sum::<usize>());
    received_by_kernel.iter().sum()
}

#[test]
#[ignore = "needs root"]
fn queued_bytes_come_back_before_the_fin() {
    private_network(|| {
        for workers in [1, 2] {
            for more in [&[][..], &["--fd-store"]] {
                let bytes = queue_streams_and_end(workers, more);
                println!("0 of {bytes} bytes lost that were queued at SIGTERM, {workers} workers {more:?}");
            }
        }
    });
}

/// Sends a stream until the server's FIN. Returns how many bytes came back.
fn stream(mut stream: TcpStream, seed: u64) -> usize {
    let mut sending = stream.try_clone().expect("a second handle");
    let sender = thread::spawn(move || {
        let mut random = Random::new(seed);
        // ends when the reader has shut the connection down
        while sending.write_all(&random.bytes(10_000)).is_ok() {}
    });
    let back = read_to_fin(&mut stream, seed);
    stream.shutdown(std::net::Shutdown::Both).expect("send a FIN");
    sender.join().expect("the sender");
    back
}

#[test]
#[ignore = "needs root"]
fn under_load_every_byte_comes_back_before_the_fin() {
    private_network(|| {
        for workers in [1, 2] {
            let server = start(workers, &[]);
            let target = server.tcp();
            let streams: Vec<_> =
                (0..8).map(|seed| thread::spawn(move || stream(connect(target), seed))).collect();
            assert!(!server.pidfd.ends_within(Duration::from_secs(1)), "the server ended by itself");
            let end = server.stop();
            let back: usize = streams.into_iter().map(|stream| stream.join().expect("a stream")).sum();
            assert_eq!(end.counter("tcp_bytes_in"), end.counter("tcp_bytes_out"));
            assert_eq!(end.counter("tcp_bytes_out"), back as u64);
            println!("0 of {back} bytes lost that the server had received, {workers} workers");
        }
    });
}

#[test]
#[ignore = "needs root"]
fn idle_connections_are_ended_at_once() {
    private_network(|| {
        let server = start(2, &[]);
        let mut streams: Vec<_> = (0..50).map(|_| connect(server.tcp())).collect();
        for stream in &mut streams {
            echo(stream, b"before the end");
        }
        let begun = Instant::now();
        server.signal(libc::SIGTERM);
        for stream in &mut streams {
            support::tcp::expect_end(stream);
        }
        let elapsed = begun.elapsed();
        assert!(elapsed < Duration::from_secs(2), "{elapsed:?}");
        assert!(!server.pidfd.ends_within(Duration::from_millis(100)), "it waits for the peers' FIN");
        drop(streams);
        let end = ended(server);
        assert!(begun.elapsed() < Duration::from_secs(5), "the end waited for more than the peers");
        assert_eq!(end.counter("tcp_closed_drained"), 50);
        println!("50 idle connections ended {} ms after SIGTERM", elapsed.as_millis());
    });
}

#[test]
#[ignore = "needs root"]
fn a_peer_that_never_reads_is_left_at_the_deadline() {
    private_network(|| {
        let server = start(1, &["--drain-timeout=1s"]);
        let mut stuck = connect(server.tcp());
        fill(&mut stuck, 1);
        let begun = Instant::now();
        let end = server.stop();
        let elapsed = begun.elapsed();
        assert!((1..3).contains(&elapsed.as_secs()), "{elapsed:?}");
        // the manager hears once how long the end may take
        let messages = |start: &str| end.messages.iter().filter(|line| line.starts_with(start)).count();
        assert_eq!((messages("STOPPING=1"), messages("EXTEND_TIMEOUT_USEC=")), (1, 1), "{:?}", end.messages);
        let limit = end.messages.iter().find_map(|line| line.strip_prefix("EXTEND_TIMEOUT_USEC=")).unwrap();
        assert!(elapsed < Duration::from_micros(limit.parse().unwrap()), "{limit}");
        println!("ended after {} ms, allowed were 1000 ms", elapsed.as_millis());
    });
}

#[test]
fn a_second_signal_ends_it_at_once() {
    support::bounded(|| {
        for (first, second) in [(libc::SIGTERM, libc::SIGTERM), (libc::SIGINT, libc::SIGTERM)] {
            let server = start(2, &["--drain-timeout=1h"]);
            let mut open = connect(server.tcp());
            echo(&mut open, b"still here");
            server.signal(first);
            support::tcp::expect_end(&mut open); // it drains
            assert!(!server.pidfd.ends_within(Duration::from_millis(100)), "it waits for our FIN");
            let begun = Instant::now();
            server.signal(second);
            let end = ended(server);
            assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
            assert!(end.stderr.iter().any(|line| line.contains("second signal")), "{:?}", end.stderr);
        }
    });
}

#[test]
#[ignore = "needs root"]
fn late_connections_are_neither_taken_nor_refused() {
    private_network(|| {
        let server = start(1, &[]);
        let target = server.tcp();
        let mut open = connect(target);
        echo(&mut open, b"still here");
        server.signal(libc::SIGTERM);
        support::tcp::expect_end(&mut open); // it drains
        let late = TcpStream::connect_timeout(&target, Duration::from_millis(300));
        assert_eq!(late.expect_err("the door is closed").kind(), ErrorKind::TimedOut);
        drop(open);
        ended(server);
    });
}

/// One worker has an open connection, the other has none. Both must serve UDP equally long.
#[test]
#[ignore = "needs root"]
fn sockets_that_outlive_it_are_served_until_the_last_connection_is_gone() {
    private_network(|| {
        let server = start(2, &["--fd-store"]);
        let (target, sockets) = (server.udp(), server.copy_sockets(4));
        let mut open = connect(server.tcp());
        echo(&mut open, b"still here");
        server.signal(libc::SIGTERM);
        support::tcp::expect_end(&mut open);
        let clients = clients(32);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(1) {
            for client in &clients {
                client.echo(target, &[64], 1);
            }
        }
        // a new connection waits in the queue for the next process
        let late = connect(server.tcp());
        assert!(!server.pidfd.ends_within(Duration::ZERO));
        drop(open);
        let end = ended(server);
        assert_eq!(
            (end.counter("tcp_accepted"), end.counter("udp_datagrams_in")),
            (1, end.counter("udp_datagrams_out"))
        );
        // new datagrams belong to the next process, and nothing drops them
        for client in &clients {
            client.send(target, b"later");
        }
        assert!(sockets[2..].iter().all(|socket| !is_empty(socket)));
        assert_eq!(drops(&sockets[2..]), 0);
        let waiting = sockets[..2].iter().map(|listener| accept_queue_len(listener.as_fd()).unwrap());
        assert_eq!(waiting.sum::<u32>(), 1);
        drop(late);
    });
}

#[test]
#[ignore = "needs root"]
fn without_a_manager_nothing_is_taken_for_stored() {
    private_network(|| {
        // FDSTORE may be set by a service that runs the tests
        for (option, fd_store) in [(Some("--fd-store"), ""), (Some("--fd-store"), "8"), (None, "8")] {
            let arguments = ["--udp=127.0.0.1:0"].into_iter().chain(option).collect::<Vec<_>>();
            let launch = Launch::new(&arguments).notify_nobody(None).env("FDSTORE", fd_store);
            let server = launch.ready();
            let (target, client) = (server.udp(), &clients(1)[0]);
            let sockets = server.copy_sockets(1);
            client.echo(target, &[64], 1);
            let end = server.stop();
            let warnings: Vec<_> = end.stderr.iter().filter(|line| line.contains("WARN")).collect();
            assert_eq!(warnings.len(), usize::from(option.is_some()), "{warnings:?}");
            assert!(warnings.iter().all(|line| line.contains("NOTIFY_SOCKET")), "{warnings:?}");
            client.send(target, b"at the door");
            assert_eq!(drops(&sockets), 1, "the door is open though nobody takes over");
        }
    });
}
