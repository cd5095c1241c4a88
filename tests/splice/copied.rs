//! Where nothing can be spliced, large messages are copied, and the log says so once.

use std::net::{Shutdown, TcpStream};

use crate::exchange::{Sender, begin_splicing, exchange, stop_spliced};
use crate::support::launch::NOBODY;
use crate::support::random::payload;
use crate::support::server::End;
use crate::support::tcp::{connect, expect_end};
use crate::support::{Launch, PATIENCE, Server, bounded, sys};

const OPTIONS: [&str; 2] = ["--tcp=127.0.0.1:0", "--workers=2"];

fn end(mut stream: TcpStream) {
    stream.shutdown(Shutdown::Write).expect("send a FIN");
    expect_end(&mut stream);
}

fn lines<'a>(end: &'a End, text: &str) -> Vec<&'a String> {
    end.stderr.iter().filter(|line| line.contains(text)).collect()
}

/// In the warning about open files.
const SHORT: &str = "(tcp_no_descriptors)";

fn says_that_files_are_short(lines: &[String]) -> bool {
    lines.iter().any(|line| line.contains(" WARN ") && line.contains(SHORT))
}

/// Exchanges large messages over several connections. None is spliced, and the log says why, and what helps.
fn expect_copies(server: Server, errno: i32) {
    for number in 0..10 {
        let stream = connect(server.tcp());
        exchange(&stream, &payload(number, 2 << 20), Sender::ALL[number % 3]);
        end(stream);
    }
    let end = server.stop();
    assert_eq!(end.counter("tcp_bytes_spliced"), 0);
    assert_eq!(end.counter("tcp_bytes_out"), 10 * (2 << 20));
    let told = lines(&end, "large TCP messages are copied: ");
    assert!(told.len() == 1 && told[0].contains(" WARN "), "{:?}", end.stderr);
    assert!(told[0].contains(&format!("(os error {errno})")), "{errno}: {}", told[0]);
    for cure in ["RLIMIT_NOFILE", "fs.pipe-user-pages-soft", "SystemCallFilter="] {
        assert!(told[0].contains(cure), "{}", told[0]);
    }
}

#[test]
fn without_splice_large_messages_are_copied() {
    bounded(|| {
        for errno in [libc::EPERM, libc::ENOSYS] {
            expect_copies(Launch::new(&OPTIONS).deny(libc::SYS_splice, errno).ready(), errno);
        }
    });
}

#[test]
fn without_pipes_large_messages_are_copied() {
    bounded(|| {
        for errno in [libc::EPERM, libc::EMFILE] {
            expect_copies(Launch::new(&OPTIONS).deny(libc::SYS_pipe2, errno).ready(), errno);
        }
    });
}

/// Each pipe counts for its user (`fs.pipe-user-pages-soft`). Beyond that, a new one has room for two pages.
#[test]
#[ignore = "needs root"]
fn beside_too_many_pipes_of_its_user_large_messages_are_copied() {
    const EACH_BYTES: usize = 1 << 20;
    const PAGE_BYTES: usize = 4096;
    bounded(|| {
        let limit = std::fs::read_to_string("/proc/sys/fs/pipe-user-pages-soft").expect("the limit");
        let pages: usize = limit.trim().parse().expect("a number");
        assert!(pages > 0, "this machine has no such limit");
        let each = EACH_BYTES / PAGE_BYTES;
        let pipes = sys::pipes_of_user(NOBODY, pages.div_ceil(each), EACH_BYTES).expect("pipes");
        expect_copies(Launch::new(&OPTIONS).unprivileged().ready(), libc::EPERM);
        drop(pipes);
        let server = Launch::new(&OPTIONS).unprivileged().ready();
        exchange(&connect(server.tcp()), &payload(1, 4 << 20), Sender::Whole);
        let end = stop_spliced(server, "as an ordinary user", 0.1);
        assert!(lines(&end, "are copied").is_empty(), "{:?}", end.stderr);
    });
}

/// No descriptor is left for a connection: it is copied, and others are spliced when there are descriptors again.
#[test]
fn connections_without_a_descriptor_are_copied() {
    const WITHOUT: usize = 5;
    bounded(|| {
        // such connections are no descriptors of the process before
        let server = Launch::new(&OPTIONS).ready();
        let spliced = connect(server.tcp());
        begin_splicing(&server, &spliced);
        // no lower number is free
        let before = sys::set_soft_limit(server.pid(), libc::RLIMIT_NOFILE, 1);
        let copied: Vec<_> = (0..WITHOUT).map(|_| connect(server.tcp())).collect();
        for (number, stream) in copied.iter().enumerate() {
            exchange(stream, &payload(number, 1 << 20), Sender::Whole);
        }
        begin_splicing(&server, &spliced);
        sys::set_soft_limit(server.pid(), libc::RLIMIT_NOFILE, before);
        let later = connect(server.tcp());
        begin_splicing(&server, &later);
        // they stay as they are
        for (number, stream) in copied.iter().enumerate() {
            exchange(stream, &payload(number, 1 << 20), Sender::Whole);
        }
        assert!(server.log.wait_for(PATIENCE, says_that_files_are_short), "nobody is told");
        [spliced, later].into_iter().chain(copied).for_each(end);
        let end = stop_spliced(server, "few descriptors", 0.05);
        assert_eq!(end.counter("tcp_no_descriptors"), WITHOUT as u64);
        assert_eq!(lines(&end, SHORT).len(), 1, "{:?}", end.stderr);
    });
}

/// With so few descriptors from the start, nobody gets more than what the listeners need.
#[test]
fn a_small_limit_of_descriptors_is_no_reason_to_lose_bytes() {
    bounded(|| {
        let server = Launch::new(&OPTIONS).limit(libc::RLIMIT_NOFILE, 64).ready();
        let streams: Vec<_> = (0..8).map(|_| connect(server.tcp())).collect();
        for (number, stream) in streams.iter().enumerate() {
            exchange(stream, &payload(number, 1 << 20), Sender::Whole);
        }
        assert!(server.log.wait_for(PATIENCE, says_that_files_are_short), "nobody is told");
        streams.into_iter().for_each(end);
        let end = server.stop();
        println!(
            "64 descriptors: {} bytes spliced, {} connections without a descriptor",
            end.counter("tcp_bytes_spliced"),
            end.counter("tcp_no_descriptors")
        );
        assert_eq!((end.counter("tcp_bytes_out"), end.counter("tcp_closed_finished")), (8 << 20, 8));
        assert!(end.counter("tcp_no_descriptors") > 0);
    });
}
