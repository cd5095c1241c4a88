//! Few descriptors, and many addresses that need them.

use std::fs;

use crate::support::tcp::{connect, echo};
use crate::support::udp::UdpClient;
use crate::support::{Launch, Server, bounded, until};

use crate::{all_answer, warnings};

/// `IORING_REGISTER_FILES2`: without this operation, connections are descriptors of the process.
const REGISTER_FILES: u32 = 13;

#[test]
fn the_defaults_serve_with_any_limit_of_open_files_from_256_on() {
    bounded(|| {
        for limit in [256, 1024, 4096, 9199] {
            for workers in ["1", "auto", "3"] {
                for ordinary in [false, true] {
                    let launch =
                        Launch::new(&["--listen=127.0.0.1:0", "--listen=[::1]:0", "--workers", workers]);
                    let launch = launch.limit(libc::RLIMIT_NOFILE, limit);
                    let launch =
                        if ordinary { launch.deny_register(REGISTER_FILES, libc::EINVAL) } else { launch };
                    let server = launch.ready();
                    all_answer(&server);
                    let end = server.stop();
                    let told =
                        warnings(&end.stderr).iter().filter(|line| line.contains("RLIMIT_NOFILE")).count();
                    assert!(told <= 1 && (told == 1 || limit > 1024), "{limit}: {:#?}", end.stderr);
                    assert_eq!(end.counter("tcp_accept_errors"), 0);
                }
            }
        }
    });
}

/// The server serves as many connections at a time as the smallest limit allows; all others wait.
#[test]
fn at_a_limit_of_256_a_crowd_is_served_in_turn() {
    bounded(|| {
        for ordinary in [false, true] {
            let launch = Launch::new(&["--listen=127.0.0.1:0"]).limit(libc::RLIMIT_NOFILE, 256);
            let launch = if ordinary { launch.deny_register(REGISTER_FILES, libc::EINVAL) } else { launch };
            let server = launch.ready();
            let warned = server.log.all().iter().find_map(|line| number(line, "serving up to "));
            let served = warned.expect("a warning with a number");
            assert!(served > 100, "{served}");
            let mut waiting: Vec<_> = (0..2 * served).map(|_| connect(server.tcp())).collect();
            while !waiting.is_empty() {
                let mut leaving: Vec<_> = waiting.drain(..served.min(waiting.len())).collect();
                for stream in &mut leaving {
                    echo(stream, b"its turn");
                }
            }
            let end = server.stop();
            assert_eq!(end.counter("tcp_accepted"), 2 * served as u64);
            assert_eq!(end.counter("tcp_accept_errors"), 0);
        }
    });
}

/// Addresses of 127.0.0.0/8, each with TCP and UDP.
fn many(addresses: usize) -> Vec<String> {
    (0..addresses).map(|number| format!("--listen=127.0.{}.{}:0", number / 250, 1 + number % 250)).collect()
}

#[test]
fn many_addresses_are_served_with_20000_descriptors() {
    bounded(|| {
        for addresses in [8, 130, 256] {
            let server = Launch::new(&many(addresses)).limit(libc::RLIMIT_NOFILE, 20_000).ready();
            assert_eq!(server.addresses().len(), 2 * addresses);
            let resident = resident_kib(&server);
            println!("{addresses} addresses: {resident} KiB at the start");
            assert!(resident < 16_000 + 160 * addresses as u64, "{resident} KiB with {addresses} addresses");
            all_answer(&server);
            let end = server.stop();
            assert_eq!(end.counter("udp_datagrams_out"), addresses as u64);
            assert!(warnings(&end.stderr).is_empty(), "{:?}", warnings(&end.stderr));
        }
    });
}

/// The number that follows these words.
fn number(text: &str, words: &str) -> Option<usize> {
    let rest = &text[text.find(words)? + words.len()..];
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// The arguments with this option set to `value`.
fn with(arguments: &[String], option: &str, value: usize) -> Vec<String> {
    let kept = arguments.iter().filter(|argument| !argument.starts_with(option)).cloned();
    kept.chain([format!("{option}={value}")]).collect()
}

/// If the named numbers do not fit, the error gives advice. The test follows each piece of advice to the letter, and
/// then the server starts.
#[test]
fn advice_on_descriptors_is_advice_that_works() {
    bounded(|| {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let cases = [
            (words("--listen=127.0.0.1:0 --max-connections=300"), 256),
            (words("--listen=127.0.0.1:0 --reply-sockets=300"), 256),
            (words("--listen=127.0.0.1:0 --max-connections=200 --reply-sockets=200"), 256),
            (words("--listen=127.0.0.1:0 --max-connections=3000 --reply-sockets=3000 --workers=2"), 1024),
            (words("--listen=127.0.0.1:0 --workers=100"), 256),
            (many(256), 256),
            ([many(16), words("--workers=10")].concat(), 256),
        ];
        let mut followed = 0;
        for ((arguments, limit), ordinary) in cases.iter().flat_map(|case| [(case, false), (case, true)]) {
            let launch = |arguments: &[String], limit: usize| {
                let launch = Launch::new(arguments).limit(libc::RLIMIT_NOFILE, limit as u64);
                if ordinary { launch.deny_register(REGISTER_FILES, libc::EINVAL) } else { launch }
            };
            let refusal = launch(arguments, *limit).refused();
            assert_eq!((refusal.code, refusal.ready_count), (Some(1), 0));
            let error = refusal.stderr.last().expect("a line").clone();
            println!("{error}");
            let mut starts = |arguments: &[String], limit: usize| {
                let server = launch(arguments, limit).ready();
                all_answer(&server);
                server.stop();
                followed += 1;
            };
            starts(arguments, number(&error, "raise it to ").expect("a number"));
            if let Some(connections) = number(&error, "lower --max-connections to ") {
                let mut arguments = with(arguments, "--max-connections", connections);
                if let Some(reply_sockets) = number(&error, " and --reply-sockets to ") {
                    arguments = with(&arguments, "--reply-sockets", reply_sockets);
                }
                starts(&arguments, *limit);
            }
            if let Some(reply_sockets) = number(&error, "lower --reply-sockets to ") {
                starts(&with(arguments, "--reply-sockets", reply_sockets), *limit);
            }
            if let Some(workers) = number(&error, "lower --workers to ") {
                starts(&with(arguments, "--workers", workers), *limit);
            }
            if let Some(addresses) = number(&error, "name no more than ") {
                let is_address = |argument: &&String| argument.starts_with("--listen");
                let named = arguments.iter().filter(is_address).take(addresses);
                let others = arguments.iter().filter(|argument| !is_address(argument));
                starts(&named.chain(others).cloned().collect::<Vec<_>>(), *limit);
            }
        }
        assert!(followed > 2 * cases.len(), "{followed}");
    });
}

/// Resident memory of a process in KiB (proc(5)).
fn resident_kib(server: &Server) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", server.pid())).expect("its memory");
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).expect("resident memory");
    line.split_whitespace().next().expect("a number").parse().expect("a number")
}

/// Peers can fill the buffers of all addresses. When the peers are gone, the memory goes back to the kernel.
#[test]
#[cfg_attr(ring_poison, ignore = "AddressSanitizer keeps memory of its own")]
fn memory_of_many_addresses_is_bounded_and_given_back() {
    bounded(|| {
        const ADDRESSES: usize = 32;
        let addresses: Vec<_> =
            many(ADDRESSES).iter().map(|name| name.replace("--listen", "--udp")).collect();
        let server = Server::start(&addresses);
        all_answer(&server);
        let before = resident_kib(&server);
        // while the server is stopped, each socket's queue gets more datagrams than the server has buffers
        server.pause();
        for &(_, address) in server.addresses() {
            let client = UdpClient::beside(address);
            (0..60).for_each(|_| client.send(address, &vec![7; 60_000]));
        }
        server.resume();
        let mut highest = 0;
        until("the memory was touched", || {
            highest = highest.max(resident_kib(&server));
            highest > before + 20_000
        });
        until("it was given back", || {
            let now = resident_kib(&server);
            highest = highest.max(now);
            now < before + 4_000
        });
        println!("{before} KiB before, {highest} KiB at most");
        assert!(highest < before + (64 << 10) + 4_000, "{highest} KiB");
        // and later datagrams are echoed correctly
        all_answer(&server);
        for &(_, address) in server.addresses() {
            UdpClient::beside(address).echo(address, &[60_000, 1, 1400, 0, 9000], 3);
        }
        let end = server.stop();
        assert!(end.counter("udp_datagrams_in") > 20 * ADDRESSES as u64);
    });
}
