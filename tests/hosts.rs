//! Hosts that are not like ours. What can be served is served there.

mod support;

use std::fs;

use support::server::Protocol;
use support::tcp::{connect, echo};
use support::udp::UdpClient;
use support::{Server, bounded, until};

/// Asks every address of the server for one echo.
fn all_answer(server: &Server) {
    for &(protocol, address) in server.addresses() {
        match protocol {
            Protocol::Tcp => echo(&mut connect(address), b"a stream"),
            Protocol::Udp => UdpClient::beside(address).echo(address, &[8], 1),
        }
    }
}

// Memory ---------------------------------------------------------------------------------------------------

/// Addresses of 127.0.0.0/8, each with both protocols.
fn many(addresses: usize) -> Vec<String> {
    (0..addresses).map(|number| format!("--listen=127.0.{}.{}:0", number / 250, 1 + number % 250)).collect()
}

/// Resident memory of a process in KiB (proc(5)).
fn resident_kib(server: &Server) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", server.pid())).expect("its memory");
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).expect("resident memory");
    line.split_whitespace().next().expect("a number").parse().expect("a number")
}

/// Peers can touch the buffers of all addresses; when they have gone the memory goes back.
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
        // while it stands still each socket's queue fills with more datagrams than it has buffers
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
        // and what comes then is right
        all_answer(&server);
        for &(_, address) in server.addresses() {
            UdpClient::beside(address).echo(address, &[60_000, 1, 1400, 0, 9000], 3);
        }
        let end = server.stop();
        assert!(end.counter("udp_datagrams_in") > 20 * ADDRESSES as u64);
    });
}
