//! How connections end that splice: by a FIN, a reset, a timeout or the end of the server. Before a FIN, everything comes
//! back. Also urgent data, and peers that don't read.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::exchange::{Sender, begin_splicing, exchange, expect, send_while_stopped, stop_spliced};
use crate::support::netns::setting;
use crate::support::random::{Random, payload};
use crate::support::tcp::{Conversation, connect, converse, expect_end, send_until_full};
use crate::support::{Launch, PATIENCE, Server, bounded, private_network, sys, until};

fn start(more: &[&str]) -> Server {
    Server::start(&[&["--tcp=127.0.0.1:0", "--workers=1"], more].concat())
}

fn spliced_connection(server: &Server) -> TcpStream {
    let stream = connect(server.tcp());
    begin_splicing(server, &stream);
    stream
}

#[test]
fn what_was_sent_before_a_fin_comes_back_before_ours() {
    bounded(|| {
        let server = start(&[]);
        let lengths = [0, 1, 16_383, 16_384, 65_536, 65_537, 100_000, 5 << 20];
        for (seed, len) in lengths.into_iter().enumerate() {
            let bytes = payload(seed, len);
            let mut stream = spliced_connection(&server);
            thread::scope(|scope| {
                scope.spawn(|| {
                    Sender::Whole.send(&stream, &bytes);
                    stream.shutdown(Shutdown::Write).expect("send a FIN");
                });
                expect(&stream, &bytes);
            });
            expect_end(&mut stream);

            // the data and the FIN together
            let bytes = &bytes[..len.min(100_000)];
            let mut stream = spliced_connection(&server);
            send_while_stopped(&server, || {
                Sender::Whole.send(&stream, bytes);
                stream.shutdown(Shutdown::Write).expect("send a FIN");
                until("the FIN is there", || sys::unacknowledged_bytes(&stream) == 0);
            });
            expect(&stream, bytes);
            expect_end(&mut stream);
        }
        let end = stop_spliced(server, "FINs", 0.1);
        assert_eq!((end.counter("tcp_closed_finished"), end.counter("tcp_open")), (16, 0));
    });
}

/// A peer that reads only after its FIN, when the server keeps a part of its bytes.
#[test]
#[ignore = "needs root"]
fn a_reader_that_comes_late_finds_everything() {
    private_network(|| {
        let server = start(&[]);
        for seed in 0..5 {
            let stream = spliced_connection(&server);
            let mut late = [Conversation::over(stream, seed, 64 << 20, 1 << 17)];
            send_until_full(&mut late, Duration::from_millis(200));
            let [conversation] = late;
            let sent = conversation.taken_so_far();
            let mut stream = conversation.stream;
            stream.set_nonblocking(false).expect("a connection that blocks");
            stream.shutdown(Shutdown::Write).expect("send a FIN");
            expect(&stream, &Random::new(seed).bytes(sent));
            expect_end(&mut stream);
        }
        let end = stop_spliced(server, "late readers", 0.2);
        assert!(end.counter("tcp_stalls") >= 5, "the kernel took everything");
        assert_eq!(end.counter("tcp_closed_finished"), 5);
    });
}

/// A splice ends before an urgent byte, and finds nothing while that is in front.
#[test]
fn an_urgent_byte_stays_where_it_was_sent() {
    bounded(|| {
        let server = start(&[]);
        let lengths = [0, 1, 10_000, 16_384, 50_000];
        let mut seed = 0;
        for before in lengths {
            for after in lengths {
                let (before, after) = (payload(seed, before), payload(seed + 1, after));
                seed += 2;
                let mut stream = spliced_connection(&server);
                send_while_stopped(&server, || {
                    Sender::Whole.send(&stream, &before);
                    sys::send_urgent(&stream, b'!').expect("MSG_OOB");
                    Sender::Whole.send(&stream, &after);
                    until("all is there", || sys::unacknowledged_bytes(&stream) == 0);
                });
                expect(&stream, &[&before[..], b"!", &after].concat());
                // and goes on
                exchange(&stream, &payload(seed, 200_000), Sender::Whole);
                stream.shutdown(Shutdown::Write).expect("send a FIN");
                expect_end(&mut stream);
            }
        }
        stop_spliced(server, "urgent bytes", 0.1);
    });
}

/// Urgent bytes all over a stream that never pauses.
#[test]
fn urgent_bytes_in_a_stream_stay_where_they_were_sent() {
    bounded(|| {
        let server = start(&[]);
        let mut stream = spliced_connection(&server);
        let mut random = Random::new(8);
        let pieces: Vec<_> = (0..300)
            .map(|_| {
                let len = random.between(1, 60_000);
                random.bytes(len)
            })
            .collect();
        let all: Vec<u8> = pieces.iter().flat_map(|piece| [piece, &b"!"[..]].concat()).collect();
        thread::scope(|scope| {
            scope.spawn(|| {
                for piece in &pieces {
                    Sender::Whole.send(&stream, piece);
                    // as a write, this may find the buffer full
                    sys::send_urgent(&stream, b'!').expect("MSG_OOB");
                }
            });
            expect(&stream, &all);
        });
        stream.shutdown(Shutdown::Write).expect("send a FIN");
        expect_end(&mut stream);
        stop_spliced(server, "urgent bytes in a stream", 0.2);
    });
}

/// Half of the peers reset their connections with echoes in flight in both directions.
#[test]
fn resets_end_their_connections_and_no_others() {
    const RESETS: u64 = 100;
    bounded(|| {
        let server = start(&[]);
        let mut steady: Vec<_> =
            (0..10).map(|seed| Conversation::open(server.tcp(), seed, 3 << 20, 100_000)).collect();
        for seed in 0..RESETS {
            let stream = spliced_connection(&server);
            let mut short = [Conversation::over(stream, 100 + seed, 4 << 20, 100_000)];
            if seed % 2 == 0 {
                send_until_full(&mut short, Duration::ZERO);
            } else {
                // the server finds the reset behind, or instead of, bytes
                send_while_stopped(&server, || {
                    send_until_full(&mut short, Duration::ZERO);
                    sys::reset_on_close(&short[0].stream);
                    drop(short);
                });
                continue;
            }
            sys::reset_on_close(&short[0].stream);
            drop(short);
            steady[seed as usize % 10].send_piece();
        }
        converse(&mut steady);
        steady.into_iter().for_each(Conversation::close);
        let end = server.stop();
        assert!(end.counter("tcp_bytes_spliced") > RESETS << 19);
        let counters = ["tcp_closed_reset", "tcp_closed_finished", "tcp_open"].map(|name| end.counter(name));
        assert_eq!(counters, [RESETS, 10, 0]);
    });
}

/// The pipe waits for nobody: it serves other connections while some take nothing.
#[test]
#[ignore = "needs root"]
fn peers_that_do_not_read_hold_nobody_up_and_find_everything_later() {
    private_network(|| {
        // small buffers in the kernel, so that a part is in the server
        setting("ipv4/tcp_rmem", "4096 131072 131072");
        setting("ipv4/tcp_wmem", "4096 65536 131072");
        let server = start(&[]);
        let mut silent: Vec<_> =
            (0..50).map(|seed| Conversation::open(server.tcp(), seed, 16 << 20, 1 << 17)).collect();
        for conversation in &mut silent {
            // one after the other, so that the server finds much at a time
            send_while_stopped(&server, || while conversation.send_piece() {});
        }
        send_until_full(&mut silent, Duration::from_millis(300));
        let mut lively: Vec<_> =
            (1000..1010).map(|seed| Conversation::open(server.tcp(), seed, 4 << 20, 1 << 17)).collect();
        converse(&mut lively);
        lively.into_iter().for_each(Conversation::close);
        silent.iter_mut().for_each(Conversation::send_no_more);
        converse(&mut silent);
        silent.into_iter().for_each(Conversation::close);
        let end = stop_spliced(server, "silent peers", 0.2);
        assert!(end.counter("tcp_stalls") >= 50, "the kernel took everything");
        assert_eq!(end.counter("tcp_closed_finished"), 60);
    });
}

#[test]
fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    bounded(|| {
        let server = start(&["--idle-timeout=400ms"]);
        let busy = connect(server.tcp());
        let mut idle = spliced_connection(&server);
        let begun = Instant::now();
        thread::scope(|scope| {
            let closed = scope.spawn(|| {
                expect_end(&mut idle);
                begun.elapsed()
            });
            let mut number = 0;
            while !closed.is_finished() || begun.elapsed() < Duration::from_secs(2) {
                assert!(begun.elapsed() < PATIENCE, "it is not closed");
                exchange(&busy, &payload(number, 300_000), Sender::Whole);
                number += 1;
            }
            let after = closed.join().expect("the end of the idle connection");
            assert!(after >= Duration::from_millis(200), "closed after {after:?}");
        });
        drop(busy);
        let end = stop_spliced(server, "an idle and a busy connection", 0.2);
        assert_eq!(end.counter("tcp_closed_idle"), 1);
    });
}

/// Reads up to the server's FIN. Returns how many bytes of the stream came back.
fn read_to_fin(mut stream: &TcpStream, seed: u64) -> usize {
    let mut back = Vec::new();
    stream.read_to_end(&mut back).expect("a FIN, not a reset");
    assert!(back == Random::new(seed).bytes(back.len()), "other bytes came back");
    back.len()
}

/// At SIGTERM, all queues are full of large messages: what the server's kernel has acknowledged comes back.
#[test]
#[ignore = "needs root"]
fn no_byte_is_lost_that_was_queued_at_the_end() {
    private_network(|| {
        for round in 0..5 {
            let server = start(&[]);
            let mut streams: Vec<_> = (0..20)
                .map(|seed| {
                    let stream = spliced_connection(&server);
                    Conversation::over(stream, seed, 64 << 20, 1 << 17)
                })
                .collect();
            // half of them are full in both directions, the others in one
            let (stalled, fresh) = streams.split_at_mut(10);
            send_until_full(stalled, Duration::from_millis(50));
            server.pause();
            for conversation in fresh {
                for _ in 0..20 * round {
                    conversation.send_piece();
                }
            }
            // what the kernel acknowledges from now on is more than we ask for
            let received: Vec<_> = streams
                .iter()
                .map(|conversation| {
                    let unacknowledged = sys::unacknowledged_bytes(&conversation.stream);
                    conversation.taken_so_far() - unacknowledged
                })
                .collect();
            server.signal(libc::SIGTERM);
            server.resume();
            let warmed_up = streams.len() * (60_000 + (1 << 20));
            let back: Vec<_> = thread::scope(|scope| {
                let readers: Vec<_> = (0..)
                    .zip(&streams)
                    .map(|(seed, conversation)| {
                        conversation.stream.set_nonblocking(false).expect("a connection that blocks");
                        scope.spawn(move || read_to_fin(&conversation.stream, seed))
                    })
                    .collect();
                readers.into_iter().map(|reader| reader.join().expect("a reader")).collect()
            });
            drop(streams);
            assert!(server.pidfd.ends_within(PATIENCE), "the server did not end");
            let end = server.wait();
            assert_eq!(end.code, Some(0), "{:?}", end.stderr);
            let lost: Vec<_> =
                received.iter().zip(&back).filter(|(received, back)| back < received).collect();
            assert!(lost.is_empty(), "less came back than the server had received: {lost:?}");
            let all = back.iter().sum::<usize>() + warmed_up;
            let counters = ["tcp_bytes_in", "tcp_bytes_out"].map(|name| end.counter(name) as usize);
            assert_eq!(counters, [all, all]);
            let spliced = end.counter("tcp_bytes_spliced");
            assert!(spliced as usize >= warmed_up / 4, "{spliced} bytes were spliced");
            println!("0 of {} bytes lost, {spliced} of {all} spliced", received.iter().sum::<usize>());
        }
    });
}

/// Streams that never pause, when SIGTERM comes.
#[test]
#[ignore = "needs root"]
fn under_load_every_byte_comes_back_before_the_fin() {
    private_network(|| {
        let server = start(&[]);
        let target = server.tcp();
        let stream = move |seed: u64| {
            let stream = connect(target);
            let back = thread::scope(|scope| {
                scope.spawn(|| {
                    let mut random = Random::new(seed);
                    // ends when the reader has shut the connection down
                    while (&stream).write_all(&random.bytes(150_000)).is_ok() {}
                });
                let back = read_to_fin(&stream, seed);
                stream.shutdown(Shutdown::Both).expect("send a FIN");
                back
            });
            back as u64
        };
        let streams: Vec<_> = (0..8).map(|seed| thread::spawn(move || stream(seed))).collect();
        assert!(!server.pidfd.ends_within(Duration::from_secs(1)), "the server ended by itself");
        let end = stop_spliced(server, "under load", 0.3);
        let back: u64 = streams.into_iter().map(|stream| stream.join().expect("a stream")).sum();
        assert_eq!(end.counter("tcp_bytes_out"), back);
        println!("0 of {back} bytes lost that the server had received");
    });
}

/// The next process gets the listening sockets, and has a pipe of its own.
#[test]
fn the_next_process_splices_too() {
    bounded(|| {
        let options = ["--tcp=127.0.0.1:0", "--workers=2", "--fd-store"];
        let first = Server::start(&options);
        let address = first.tcp();
        let stored = Arc::clone(&first.notify.as_ref().expect("a service manager").stored);
        let old: Vec<_> = (0..4).map(|_| spliced_connection(&first)).collect();
        drop(old);
        stop_spliced(first, "the first process", 0.01);
        // it waits in the queue of a listening socket that nobody serves
        let waiting = connect(address);
        (&waiting).write_all(b"before the next process").expect("send");
        let second = Launch::new(&options).passing(&stored.lock().unwrap()).ready();
        expect(&waiting, b"before the next process");
        begin_splicing(&second, &waiting);
        (0..4).for_each(|_| drop(spliced_connection(&second)));
        drop(waiting);
        stop_spliced(second, "the next process", 0.01);
    });
}
