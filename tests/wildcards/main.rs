//! All ports of a prefix are steered to one socket. Every reply leaves from the address and port that the client
//! contacted; a datagram that can't be answered is dropped and counted.

#[path = "../support/mod.rs"]
mod support;

mod loops;
mod new_sockets;
mod pairs;
mod unanswered;

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tubular_echo::kernel::sys::{self as server_sys, IntOption, Protocol};

use support::random::payload;
use support::server::End;
use support::udp::UdpClient;

/// `nobody` has one account of locked memory, so tests that use it take turns.
fn nobody_alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bytes(number: usize) -> Vec<u8> {
    payload(number, 8 + number % 57)
}

/// One exchange from a new client socket.
fn exchange(target: SocketAddr) {
    let client = UdpClient::beside(target);
    client.echo(target, &[0, 1, 1200, 9000, 64, 64, 64], 2);
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

fn times_told(end: &End, text: &str) -> usize {
    end.stderr.iter().filter(|line| is_news(line, text)).count()
}

fn is_news(line: &str, text: &str) -> bool {
    line.contains(text) && !line.contains("counters:")
}

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
