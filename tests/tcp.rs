//! TCP streams are echoed exactly, however they are cut into segments and however they end.

mod support;

use std::env;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::ops::Range;
use std::thread;
use std::time::Duration;
use support::forge::forge_urgent_behind_a_gap;
use support::netns::{ip, setting};
use support::random::Random;
use support::server::parse_counters;
use support::tcp::{Conversation, connect, converse, echo, expect_end, send_until_full};
use support::{Launch, Server, bounded, private_network, sys, until};

fn on_loopback() -> Server {
    Server::start(&["--tcp", "127.0.0.1:0", "--tcp", "[::1]:0"])
}

fn on_one_address(options: &[&str]) -> Server {
    Server::start(&[&["--tcp", "127.0.0.1:0"], options].concat())
}

/// Stops the server. It must have no open connection left, and must have accepted this many.
fn stop_without_connections(server: Server, accepted: u64) {
    let end = server.stop();
    assert_eq!(end.counter("tcp_accepted"), accepted);
    assert_eq!(end.counter("tcp_open"), 0);
}

#[test]
fn streams_of_many_lengths() {
    bounded(|| {
        let server = on_loopback();
        let lengths = [0, 1, 2, 1000, 65_535, 65_536, 65_537, 1 << 20, 20 << 20];
        for &(_, target) in server.addresses() {
            for (seed, len) in lengths.into_iter().enumerate() {
                let mut conversation = [Conversation::open(target, seed as u64, len, 1 << 17)];
                converse(&mut conversation);
                let [conversation] = conversation;
                conversation.close();
            }
        }
        stop_without_connections(server, 2 * lengths.len() as u64);
    });
}

#[test]
fn a_thousand_connections_at_once() {
    bounded(|| {
        let server = on_loopback();
        let mut random = Random::new(1000);
        let mut conversations: Vec<_> = (0..1000)
            .map(|seed| {
                let (_, target) = server.addresses()[seed % 2];
                Conversation::open(target, seed as u64, random.between(1, 60_000), random.between(1, 5000))
            })
            .collect();
        converse(&mut conversations);
        conversations.into_iter().for_each(Conversation::close);
        stop_without_connections(server, 1000);
    });
}

#[test]
fn connections_that_come_and_go() {
    bounded(|| {
        let server = on_loopback();
        for number in 0..1000_u32 {
            let (_, target) = server.addresses()[number as usize % 2];
            let mut stream = connect(target);
            echo(&mut stream, &number.to_be_bytes());
            if number % 3 == 0 {
                sys::reset_on_close(&stream);
            }
        }
        let end = server.stop();
        assert_eq!(end.counter("tcp_accepted"), 1000);
    });
}

/// The server receives some streams once for each send, and others by multishot. All share the same buffers, and each
/// must get its own bytes back. Returns the log line about whole buffers.
fn streams_beside_connections_that_come_and_go(server: Server) -> Vec<String> {
    const STREAMS: u64 = 4;
    const COMERS: u64 = 8;
    const ROUNDS: usize = 25;
    let target = server.tcp();
    let streams: Vec<_> = (0..STREAMS)
        .map(|seed| {
            thread::spawn(move || converse(&mut [Conversation::open(target, seed, 1 << 20, 100_000)]))
        })
        .collect();
    let comers: Vec<_> = (0..COMERS)
        .map(|seed| {
            thread::spawn(move || {
                let mut random = Random::new(100 + seed);
                for _ in 0..ROUNDS {
                    let bytes = random.between(1, 5000);
                    echo(&mut connect(target), &random.bytes(bytes));
                }
            })
        })
        .collect();
    for client in streams.into_iter().chain(comers) {
        client.join().expect("a client that gets its own bytes back");
    }
    let end = server.stop();
    assert_eq!(end.counter("tcp_accepted"), STREAMS + COMERS * ROUNDS as u64);
    end.stderr.into_iter().filter(|line| line.contains("whole buffers")).collect()
}

#[test]
fn bytes_of_one_connection_are_no_other_s() {
    bounded(|| {
        let said = streams_beside_connections_that_come_and_go(on_one_address(&["--workers", "1"]));
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's version");
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|word| word.parse().unwrap_or(0));
        let version: [u32; 3] = std::array::from_fn(|_| numbers.next().unwrap_or(0));
        // SECURITY.md names the kernels that report parts out of order; this test can't know what a distribution has
        // repaired
        let [least, most] = match version {
            _ if env::var_os("OUT_OF_ORDER").is_some() => [1, 1], // ci/guest --out-of-order
            [..=5, ..] | [6, ..=11, _] => [1, 1],
            [6, 12, ..=28] | [6, 13, _] | [6, 14, ..=6] => [0, 1],
            _ => [0, 0],
        };
        assert!((least..=most).contains(&said.len()), "Linux {release}: {said:?}");
    });
}

#[test]
fn bytes_of_one_connection_are_no_other_s_where_the_order_can_not_be_tried() {
    bounded(|| {
        let launch = Launch::new(&["--tcp", "127.0.0.1:0", "--workers", "2"]);
        let server = launch.deny(libc::SYS_socketpair, libc::EPERM).ready();
        let said = streams_beside_connections_that_come_and_go(server);
        assert_eq!(said.len(), 1, "once for all workers: {said:?}");
    });
}

/// Sends all bytes and a FIN while a thread reads until the server's FIN. Everything must come back.
fn half_close(mut stream: TcpStream, len: usize) {
    let mut writing = stream.try_clone().expect("a second handle");
    let writer = thread::spawn(move || {
        writing.write_all(&Random::new(5).bytes(len)).expect("send");
        writing.shutdown(Shutdown::Write).expect("send a FIN");
    });
    let mut back = Vec::new();
    stream.read_to_end(&mut back).expect("everything and the end");
    assert_eq!(back.len(), len);
    assert!(back == Random::new(5).bytes(len), "other bytes came back");
    writer.join().expect("the writer");
}

#[test]
fn what_was_sent_before_a_fin_comes_back_before_ours() {
    bounded(|| {
        let server = on_loopback();
        for &(_, target) in server.addresses() {
            for len in [0, 1, 2, 5000, 100_000, 5 << 20] {
                half_close(connect(target), len);
            }
        }
        stop_without_connections(server, 12);
    });
}

#[test]
fn data_and_fin_that_arrive_together() {
    bounded(|| {
        let server = on_loopback();
        server.pause();
        let mut streams: Vec<_> = (0..100)
            .map(|number| {
                let mut stream = connect(server.addresses()[number % 2].1);
                stream.write_all(&Random::new(number as u64).bytes(number * 100)).expect("send");
                stream.shutdown(Shutdown::Write).expect("send a FIN");
                stream
            })
            .collect();
        server.resume();
        for (number, stream) in streams.iter_mut().enumerate() {
            let mut back = Vec::new();
            stream.read_to_end(&mut back).expect("everything and the end");
            assert!(back == Random::new(number as u64).bytes(number * 100), "connection {number}");
        }
        stop_without_connections(server, 100);
    });
}

#[test]
fn a_reader_that_comes_late_finds_everything() {
    bounded(|| {
        let server = on_one_address(&[]);
        // fills every buffer on the way, so that the server holds a remainder, then sends the FIN
        let mut late = [Conversation::over(narrow(server.tcp()), 9, 64 << 20, 1 << 16)];
        send_until_full(&mut late, Duration::from_millis(200));
        converse_after_fin(late);
        stop_without_connections(server, 1);
    });
}

/// Sends a FIN after the bytes sent so far, then reads all of them back.
fn converse_after_fin([conversation]: [Conversation; 1]) {
    let sent = conversation.taken_so_far();
    let mut stream = conversation.stream;
    stream.set_nonblocking(false).expect("a connection that blocks");
    stream.shutdown(Shutdown::Write).expect("send a FIN");
    let mut back = Vec::new();
    stream.read_to_end(&mut back).expect("everything and the end");
    assert_eq!(back.len(), sent);
    assert!(back == Random::new(9).bytes(sent), "other bytes came back");
}

#[test]
fn a_reset_ends_one_connection_and_no_other() {
    bounded(|| {
        let server = on_one_address(&[]);
        let mut steady: Vec<_> =
            (0..20).map(|seed| Conversation::open(server.tcp(), seed, 2 << 20, 20_000)).collect();
        for seed in 100..300 {
            let mut short = [Conversation::open(server.tcp(), seed, 1 << 20, 20_000)];
            // with echoes in flight in both directions
            send_until_full(&mut short, Duration::ZERO);
            sys::reset_on_close(&short[0].stream);
            drop(short);
            steady[seed as usize % 20].send_piece();
        }
        converse(&mut steady);
        steady.into_iter().for_each(Conversation::close);
        echo(&mut connect(server.tcp()), b"one more");
        let end = server.stop();
        assert_eq!(end.counter("tcp_accepted"), 221);
        assert_eq!(end.counter("tcp_open"), 0);
    });
}

/// A connection whose kernel buffers do not grow, but hold one or two segments of the loopback device. With less, TCP
/// would fall back to its slow timers.
fn narrow(target: SocketAddr) -> TcpStream {
    let stream = connect(target);
    for name in [libc::SO_SNDBUF, libc::SO_RCVBUF] {
        sys::set_option(&stream, libc::SOL_SOCKET, name, 1 << 16).expect("a fixed buffer");
    }
    stream
}

#[test]
#[ignore = "needs root"]
fn peers_that_never_read_beside_peers_that_do() {
    private_network(|| {
        // small buffers in the kernel, so that the rest is in the server
        setting("ipv4/tcp_rmem", "4096 65536 131072");
        setting("ipv4/tcp_wmem", "4096 16384 65536");
        let server = on_one_address(&[]);
        let mut silent: Vec<_> =
            (0..500).map(|seed| Conversation::open(server.tcp(), seed, 16 << 20, 1 << 14)).collect();
        send_until_full(&mut silent, Duration::from_millis(300));

        let mut lively: Vec<_> =
            (1000..1050).map(|seed| Conversation::open(server.tcp(), seed, 1 << 20, 1 << 15)).collect();
        converse(&mut lively);
        lively.into_iter().for_each(Conversation::close);

        // peers that read at last find every byte in its place
        let mut awake = silent.split_off(490);
        awake.iter_mut().for_each(Conversation::send_no_more);
        converse(&mut awake);
        awake.into_iter().for_each(Conversation::close);
        drop(silent);
        echo(&mut connect(server.tcp()), b"still there");
        let end = server.stop();
        assert_eq!(end.counter("tcp_accepted"), 551);
        assert_eq!(end.counter("tcp_closed_stalled"), 0);
        // otherwise the kernel took everything, and the test showed nothing
        assert!(end.counter("tcp_stalls") >= 500, "{} stalls", end.counter("tcp_stalls"));
    });
}

#[test]
#[ignore = "needs root"]
fn peers_that_never_read_beyond_the_memory_for_them() {
    /// The connections that stopped reading first.
    const FIRST: usize = 100;
    private_network(|| {
        // with packets of 1,500 bytes, TCP works with buffers so small that thousands of connections fit
        ip("link set lo mtu 1500");
        setting("ipv4/tcp_rmem", "4096 16384 16384");
        setting("ipv4/tcp_wmem", "4096 16384 16384");
        let server = on_one_address(&["--stats-interval", "20ms"]);
        let mut silent = Vec::new();
        let mut closed = fill(&mut silent, 0..FIRST, server.tcp());
        assert!(closed.is_empty(), "{closed:?} were closed before there was need");
        let stalls = |lines: &[String]| {
            let last = lines.iter().rev().find_map(|line| line.split_once("counters: "));
            last.is_some_and(|(_, counters)| parse_counters(counters)["tcp_stalls"] >= FIRST as u64)
        };
        assert!(server.log.wait_for(support::PATIENCE, stalls), "not all of the first are waited for");
        closed.extend(fill(&mut silent, FIRST..3000, server.tcp()));
        let mut lively = [Conversation::open(server.tcp(), 1, 1 << 20, 1 << 15)];
        converse(&mut lively);
        drop((silent, lively));
        let end = server.stop();
        assert!(!closed.is_empty(), "the memory was enough for everybody");
        assert!(end.counter("tcp_closed_stalled") >= closed.len() as u64);
        let of_the_first = closed.iter().filter(|&&number| number < FIRST).count();
        println!("{} closed, {of_the_first} of the first {FIRST}", closed.len());
        assert_eq!(of_the_first, closed.len().min(FIRST), "who has not read for the longest time has to go");
    });
}

/// Opens more connections, and then sends as many bytes on all of them as each takes. Returns the numbers of the
/// connections that the server closed.
fn fill(silent: &mut Vec<(usize, TcpStream)>, numbers: Range<usize>, target: SocketAddr) -> Vec<usize> {
    silent.extend(numbers.map(|number| (number, connect(target))));
    for (_, stream) in &*silent {
        stream.set_nonblocking(true).expect("a connection that does not block");
    }
    let mut closed = Vec::new();
    loop {
        silent.retain_mut(|(number, stream)| {
            let stays = takes_no_more(stream);
            closed.extend((!stays).then_some(*number));
            stays
        });
        let mut entries: Vec<_> =
            silent.iter().map(|(_, stream)| sys::poll_entry(stream, libc::POLLOUT)).collect();
        if sys::poll(&mut entries, Duration::from_millis(300)) == 0 {
            return closed;
        }
    }
}

/// Sends until the socket takes no more; false if the server has closed the connection.
fn takes_no_more(stream: &mut TcpStream) -> bool {
    loop {
        match stream.write(&[0; 1 << 14]) {
            Ok(taken) => assert!(taken > 0),
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}

#[test]
fn at_the_limit_connections_wait_and_none_is_destroyed() {
    bounded(|| {
        const LIMIT: usize = 10;
        let server = on_one_address(&["--max-connections", "10"]);
        let mut served: Vec<_> = (0..LIMIT).map(|_| connect(server.tcp())).collect();
        for stream in &mut served {
            echo(stream, b"served");
        }

        // these connections stay in the backlog
        let mut waiting: Vec<_> = (0..3 * LIMIT).map(|_| connect(server.tcp())).collect();
        for (number, stream) in waiting.iter_mut().enumerate() {
            stream.write_all(&number.to_be_bytes()).expect("send");
        }
        for stream in &mut waiting {
            stream.set_read_timeout(Some(Duration::from_millis(10))).expect("a short patience");
            let error = stream.read(&mut [0; 8]).expect_err("not its turn yet");
            assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
            stream.set_read_timeout(Some(support::PATIENCE)).expect("set the patience");
        }
        for stream in &mut served {
            echo(stream, b"served all the time");
        }

        // each connection that ends lets the next one in, in order
        for (number, mut stream) in waiting.into_iter().enumerate() {
            drop(served.remove(0));
            let mut back = [0; 8];
            stream
                .read_exact(&mut back)
                .unwrap_or_else(|error| panic!("waiting connection {number}: {error}"));
            assert_eq!(back, number.to_be_bytes());
            served.push(stream);
        }
        drop(served);
        let end = server.stop();
        assert_eq!(end.counter("tcp_accepted"), 4 * LIMIT as u64);
    });
}

#[test]
fn at_the_limit_again_and_again() {
    bounded(|| {
        let server = on_one_address(&["--max-connections", "5"]);
        let target = server.tcp();
        let clients: Vec<_> = (0..20)
            .map(|client: u64| {
                thread::spawn(move || {
                    for round in 0..50 {
                        let mut stream = connect(target);
                        echo(&mut stream, &Random::new(client * 50 + round).bytes(1000));
                        stream.shutdown(Shutdown::Write).expect("send a FIN");
                        expect_end(&mut stream);
                    }
                })
            })
            .collect();
        for client in clients {
            client.join().expect("a client");
        }
        stop_without_connections(server, 1000);
    });
}

/// Threads that the kernel has made for blocking operations of a process.
fn blocked_threads(pid: u32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the server's threads");
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("iou-wrk")).count()
}

#[test]
#[ignore = "needs root"]
fn urgent_data_that_never_comes_is_waited_for_by_nobody() {
    const VICTIMS: usize = 200;
    private_network(|| {
        let server = Server::start(&["--tcp", "[::1]:0"]);
        // the server receives differently from a peer that has sent much at a time
        let mut victims: Vec<_> = (0..VICTIMS).map(|_| connect(server.tcp())).collect();
        for (number, stream) in victims.iter_mut().enumerate() {
            echo(stream, &Random::new(number as u64).bytes(200_000));
        }
        victims.iter().for_each(forge_urgent_behind_a_gap);
        for round in 0..5_u64 {
            let open = |seed: u64| Conversation::open(server.tcp(), 1000 * round + seed, 300_000, 1 << 17);
            let mut conversations: Vec<_> = (0..50).map(open).collect();
            converse(&mut conversations);
            conversations.into_iter().for_each(Conversation::close);
        }
        assert_eq!(blocked_threads(server.pid()), 0);
        drop(victims);
        let end = server.stop();
        assert_eq!(end.counter("tcp_accepted"), VICTIMS as u64 + 250);
    });
}

#[test]
#[ignore = "needs root"]
fn a_peer_that_has_finished_and_does_not_read_costs_no_processor() {
    const BYTES: usize = 220_000;
    private_network(|| {
        // too little for the whole echo, so the server queues the rest and the FIN
        setting("ipv4/tcp_wmem", "4096 16384 65536");
        setting("ipv4/tcp_rmem", "4096 131072 131072");
        let server = on_one_address(&[]);
        let mut conversation = [Conversation::open(server.tcp(), 7, BYTES, 1 << 17)];
        send_until_full(&mut conversation, Duration::from_millis(100));
        let [conversation] = conversation;
        assert_eq!(conversation.taken_so_far(), BYTES, "all of it is on its way");
        conversation.stream.shutdown(Shutdown::Write).expect("send a FIN");
        until("the FIN is there", || sys::unacknowledged_bytes(&conversation.stream) == 0);
        let before = sys::cpu_time_of(server.pid());
        thread::sleep(Duration::from_millis(500)); // that nothing happens meanwhile is what is looked at
        let used = sys::cpu_time_of(server.pid()).saturating_sub(before);
        assert!(used < Duration::from_millis(100), "{used:?} of 500 ms");
        assert_eq!(blocked_threads(server.pid()), 0);

        let mut conversation = [conversation];
        converse(&mut conversation);
        let [Conversation { mut stream, .. }] = conversation;
        stream.set_nonblocking(false).expect("a connection that blocks");
        expect_end(&mut stream);
        stop_without_connections(server, 1);
    });
}

#[test]
fn an_urgent_byte_stays_where_it_was_sent() {
    bounded(|| {
        let server = on_one_address(&[]);
        let mut stream = connect(server.tcp());
        stream.write_all(b"before").expect("send");
        sys::send_urgent(&stream, b'!').expect("MSG_OOB");
        stream.write_all(b"after").expect("send");
        let mut back = [0; 12];
        stream.read_exact(&mut back).expect("all that was sent");
        assert_eq!(&back, b"before!after");
        stream.shutdown(Shutdown::Write).expect("send a FIN");
        expect_end(&mut stream);
        stop_without_connections(server, 1);
    });
}
