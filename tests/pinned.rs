//! Memory behind spliced bytes. A byte that waits in a send queue may keep a whole page from being freed, and the queue is
//! charged for the byte alone: peers that send small segments and don't read must not make the server keep many pages.
//! Nothing else runs in this program, because the test looks at the memory of the whole machine.

mod support;

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use support::netns::{Netns, ip, setting};
use support::random::payload;
use support::relay::Relay;
use support::server::parse_counters;
use support::tcp::{connect, echo};
use support::{Server, private_network, sys, until};

const CONNECTIONS: usize = 16;
/// What a peer sends at a time.
const PIECE_BYTES: usize = 30_000;

/// Bytes that wait in send queues.
#[derive(Debug)]
struct Waiting {
    bytes: i64,
    /// Those of them that were spliced.
    spliced: i64,
    /// What the machine has more of when they are gone.
    memory: i64,
}

/// Sends large messages in segments for this MTU, so many times, and reads nothing. Each segment is put into a page of its
/// own part by the receiving kernel, as a network card would do.
fn send_and_do_not_read(mtu: u32, times: usize) -> Waiting {
    let clients = Netns::new();
    let _cable = Relay::lay("near", "far", &clients);
    let up = |device: &str, address: &str| {
        ip(&format!("address add {address}/24 dev {device}"));
        ip(&format!("link set {device} mtu {mtu} up"));
    };
    up("near", "192.0.2.1");
    clients.run(|| {
        up("far", "192.0.2.2");
        setting("ipv4/tcp_rmem", "4096 262144 262144");
    });
    // room for all of it: no receive queue is squeezed, and all waits in the send queues
    setting("ipv4/tcp_rmem", "4096 8388608 8388608");
    setting("ipv4/tcp_wmem", "4096 8388608 8388608");
    let server = Server::start(&["--tcp=192.0.2.1:0", "--workers=1", "--stats-interval=10ms"]);
    let mut streams: Vec<TcpStream> =
        (0..CONNECTIONS).map(|_| clients.run(|| connect(server.tcp()))).collect();
    for (number, stream) in streams.iter_mut().enumerate() {
        echo(stream, &payload(number, 100_000));
    }
    let mut all = (CONNECTIONS * 100_000) as u64;
    until("all is counted", || counter(&server, "tcp_bytes_out") == all);
    let (bytes_before, spliced_before) = (all, counter(&server, "tcp_bytes_spliced"));
    for _ in 0..times {
        // the server finds much at a time
        server.pause();
        for stream in &mut streams {
            stream.write_all(&vec![7; PIECE_BYTES]).expect("send");
        }
        until("all is there", || streams.iter().all(|stream| sys::unacknowledged_bytes(stream) == 0));
        server.resume();
        all += (CONNECTIONS * PIECE_BYTES) as u64;
        until("all is in the send queues", || counter(&server, "tcp_bytes_out") == all);
    }
    let spliced = (counter(&server, "tcp_bytes_spliced") - spliced_before) as i64;
    let full = nameless_bytes();
    streams.iter().for_each(sys::reset_on_close);
    drop(streams);
    until("all are closed", || counter(&server, "tcp_open") == 0);
    let memory = full - nameless_bytes();
    server.stop();
    Waiting { bytes: (all - bytes_before) as i64, spliced, memory }
}

/// A counter in the last line of the server's log.
fn counter(server: &Server, name: &str) -> u64 {
    let lines = server.log.all();
    let last = lines.iter().rev().find_map(|line| line.split_once("counters: "));
    last.map_or(0, |(_, counters)| parse_counters(counters)[name])
}

/// Memory that the kernel has given to nobody that it names; the pages of network buffers are among it (proc(5),
/// /proc/meminfo). The least of several looks, because other processes come and go.
fn nameless_bytes() -> i64 {
    const NAMED: [&str; 9] = [
        "MemFree",
        "Buffers",
        "Cached",
        "SwapCached",
        "AnonPages",
        "Slab",
        "KernelStack",
        "PageTables",
        "Percpu",
    ];
    let look = || {
        let text = fs::read_to_string("/proc/meminfo").expect("the machine's memory");
        let kib = |name: &str| -> i64 {
            let mut lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let number = lines.next().and_then(|rest| rest.split_whitespace().next());
            number.map_or(0, |number| number.parse().expect("a number"))
        };
        (kib("MemTotal") - NAMED.iter().map(|name| kib(name)).sum::<i64>()) << 10
    };
    let looks = (0..10).map(|_| {
        thread::sleep(Duration::from_millis(20));
        look()
    });
    looks.min().expect("looks")
}

/// A pipe refers to 16 pages. Pieces stay in them only if there are so many bytes in them that four times the bytes are all
/// their pages.
#[test]
#[ignore = "needs root"]
fn small_segments_keep_no_pages() {
    /// What else the kernel takes and gives back meanwhile.
    const OTHERS_BYTES: i64 = 64 << 20;
    private_network(|| {
        // 16 segments of 248, 500 and 900 bytes are too few bytes for their pages
        for mtu in [300, 552, 952] {
            let waiting = send_and_do_not_read(mtu, 10);
            println!("MTU {mtu}: {waiting:?}");
            assert_eq!(waiting.spliced, 0, "MTU {mtu}");
        }
    });
    private_network(|| {
        // the smallest segments that stay in their pages; again, if something else took memory meanwhile
        let is_bounded = (0..5).any(|_| {
            let waiting = send_and_do_not_read(1104, 50);
            println!("MTU 1104: {waiting:?}");
            assert!(waiting.spliced > waiting.bytes / 2, "{waiting:?}");
            waiting.memory <= 4 * waiting.bytes + OTHERS_BYTES
        });
        assert!(is_bounded, "more pages wait than four times their bytes");
    });
}
