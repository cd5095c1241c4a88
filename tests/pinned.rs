//! Memory behind spliced bytes: a byte that waits in a send queue may keep a whole page, and peers that don't read must not
//! make the server keep many. Nothing else runs in this program, since the test looks at the memory of the whole machine.

mod support;

use std::fs;
use std::io::Write;
use std::net::TcpStream;

use support::netns::{Netns, ip, setting};
use support::random::payload;
use support::relay::{Mischief, Relay, Rule};
use support::server::parse_counters;
use support::tcp::{connect, echo};
use support::{PATIENCE, Server, private_network, sys, until};

/// Memory that the kernel has given to nobody in particular, in bytes: pages of network buffers are among it (proc(5),
/// /proc/meminfo).
fn nameless_bytes() -> i64 {
    const NAMED: [&str; 9] = [
        "MemFree", "Buffers", "Cached", "SwapCached", "AnonPages", "Slab", "KernelStack", "PageTables", "Percpu",
    ];
    let text = fs::read_to_string("/proc/meminfo").expect("the machine's memory");
    let kib = |name: &str| -> i64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|rest| rest.split_whitespace().next()).map_or(0, |number| number.parse().expect("a number"))
    };
    (kib("MemTotal") - NAMED.iter().map(|name| kib(name)).sum::<i64>()) << 10
}

/// A counter in the last line of the server's log.
fn counter(server: &Server, name: &str) -> u64 {
    let lines = server.log.all();
    let last = lines.iter().rev().find_map(|line| line.split_once("counters: "));
    last.map_or(0, |(_, counters)| parse_counters(counters)[name])
}

const CONNECTIONS: usize = 16;
/// What each connection's peer sends, and does not take back.
const WAITING_BYTES: usize = 3 << 20;
/// What a peer sends at a time.
const PIECE_BYTES: usize = 60_000;

/// Sends large messages in segments of about 1,000 bytes, which the peers do not read. Returns the bytes that wait, those
/// of them that were spliced, and the memory that they take.
fn pinned(mischief: Option<Mischief>, mtu: u32) -> [i64; 3] {
    let clients = Netns::new();
    let relay = Relay::lay("near", "far", &clients);
    let up = |device: &str, address: &str| {
        ip(&format!("address add {address}/24 dev {device}"));
        ip(&format!("link set {device} mtu {mtu} up"));
    };
    up("near", "192.0.2.1");
    clients.run(|| {
        up("far", "192.0.2.2");
        setting("ipv4/tcp_rmem", "4096 16384 16384");
    });
    setting("ipv4/tcp_rmem", "4096 1048576 1048576");
    // all of it waits in the kernel
    setting("ipv4/tcp_wmem", "4096 8388608 8388608");
    let server = Server::start(&["--tcp=192.0.2.1:0", "--workers=1", "--stats-interval=10ms"]);
    let mut streams: Vec<TcpStream> =
        (0..CONNECTIONS).map(|_| clients.run(|| connect(server.tcp()))).collect();
    for (number, stream) in streams.iter_mut().enumerate() {
        echo(stream, &payload(number, 100_000));
    }
    until("it has told", || counter(&server, "tcp_bytes_out") == (CONNECTIONS * 100_000) as u64);
    let spliced_before = counter(&server, "tcp_bytes_spliced");
    relay.rule(&[], mischief.map(|mischief| Rule { mischief, first: 0, every: 1 }).as_slice());
    let mut all = CONNECTIONS * 100_000;
    for _ in 0..WAITING_BYTES / PIECE_BYTES {
        server.pause();
        for stream in &mut streams {
            stream.write_all(&[7; PIECE_BYTES]).expect("send");
        }
        until("all is there", || streams.iter().all(|stream| sys::unacknowledged_bytes(stream) == 0));
        server.resume();
        all += CONNECTIONS * PIECE_BYTES;
        until("all is received", || counter(&server, "tcp_bytes_in") == all as u64);
    }
    until("it has told", || counter(&server, "tcp_bytes_out") == all as u64);
    let spliced = counter(&server, "tcp_bytes_spliced") - spliced_before;
    let lowest = || (0..10).map(|_| { std::thread::sleep(std::time::Duration::from_millis(30)); nameless_bytes() }).min().unwrap();
    let full = lowest();
    streams.iter().for_each(sys::reset_on_close);
    drop(streams);
    until("all are closed", || counter(&server, "tcp_open") == 0);
    let empty = lowest();
    server.stop();
    [(all - CONNECTIONS * 100_000) as i64, spliced as i64, full - empty]
}

#[test]
#[ignore = "needs root"]
fn by_hand() {
    for (mischief, mtu) in [(None, 1104), (Some(Mischief::Dilute(20)), 1104)] {
        private_network(move || {
            for _ in 0..3 {
                let [waiting, spliced, memory] = pinned(mischief, mtu);
                println!("{mischief:?} {mtu}: {waiting} wait, {spliced} spliced, memory {memory}: {:.2}", memory as f64 / waiting as f64);
            }
        });
    }
}
