//! What is compared with what, and how good it has to be. Loads and servers are command lines: each can be
//! repeated by hand with the `load` and `serve` commands.

use std::fmt;

use serde::Serialize;

/// A row of the table.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) work: &'static str,
    pub(super) ours: Side,
    /// None: the figure itself is judged, not a ratio.
    pub(super) peer: Option<Side>,
    pub(super) metric: Metric,
    pub(super) bar: Bar,
    /// Why the bar can be out of reach, and what shows it.
    pub(super) limit: &'static str,
}

/// A server under a load.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Side {
    /// `tubular-echo FLAGS`, or the name of a peer
    pub(super) server: &'static str,
    /// Arguments of the client
    pub(super) load: &'static str,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) enum Metric {
    CpuNsPerEcho,
    CpuMsPerGb,
    EchoesPerSecond,
    BytesPerConnection,
}

#[derive(Clone, Copy, Serialize)]
pub(super) enum Bar {
    /// Reported, not judged.
    None,
    AtMost(f64),
    AtLeast(f64),
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => write!(f, "–"),
            Self::AtMost(bar) => write!(f, "≤ {bar}"),
            Self::AtLeast(bar) => write!(f, "≥ {bar}"),
        }
    }
}

/// What a ring can spare a server of small messages.
const SYSTEM_CALLS: &str =
    "two system calls a message are all that the ring saves; the rest is the kernel's TCP";

/// What two workers on one core have to bear.
const HALVES: &str = "each worker gets half of what comes at a time, so turns bring less and cost the same";

const OURS: &str = "tubular-echo --workers 1";
const TWO: &str = "tubular-echo --workers 2";
const POLLING: &str = "tubular-echo --workers 1 --busy-poll 20us";
const EPOLL: &str = "epoll";
const SPLICE: &str = "epoll-splice";

const STEERED: &str = "steered tubular-echo --workers 1";
const WILDCARD: &str = "wildcard tubular-echo --workers 1";
/// More pairs are asked for in turn than it keeps sockets for: each reply makes one.
const MISSES: &str = "wildcard tubular-echo --workers 1 --reply-sockets 16 --reply-socket-rate 1000000";

pub(super) const FLOWS: &str = "udp --flows 64 --in-flight 8";
const FLOWS_GRO: &str = "udp --flows 64 --in-flight 8 --gro";
const FLOWS_V6: &str = "udp --target [::1]:0 --flows 64 --in-flight 8";
const MIXED: &str = "udp --train-flows 16 --train 32 --flows 48 --in-flight 8";
const MIXED_GRO: &str = "udp --train-flows 16 --train 32 --flows 48 --in-flight 8 --gro";
const FULL: &str = "udp --flows 64 --in-flight 32 --batches";
const FULL_GRO: &str = "udp --flows 64 --in-flight 32 --batches --gro";
const FEW: &str = "udp --flows 16 --in-flight 1";
const MORE: &str = "udp --flows 1000 --in-flight 1";
const MANY: &str = "udp --flows 10000 --in-flight 1";
const THREE: &str = "udp --flows 64 --in-flight 3";
pub(super) const TRAINS: &str = "udp --flows 0 --train-flows 16 --trains 4 --train 32 --gro";
const LARGE: &str = "udp --flows 0 --train-flows 16 --trains 4 --train 50 --bytes 1200 --gro";
const ONE: &str = "udp --flows 1 --in-flight 1";
const TRICKLE: &str = "udp --flows 1 --in-flight 1 --pause-us 10000";
const PAIRS: &str = "udp --flows 64 --in-flight 8 --addresses 16 --ports 16";
const PAIRS_FIXED: &str = "udp --flows 64 --in-flight 8 --addresses 16";
const SCATTERED: &str = "udp --flows 64 --in-flight 1 --addresses 64 --ports 64";
const SCATTERED_FIXED: &str = "udp --flows 64 --in-flight 1 --addresses 64";
const TCP_100: &str = "tcp --connections 100";
const TCP_1000: &str = "tcp --connections 1000";
const TCP_FULL: &str = "tcp --connections 1000 --mode batches";
const TCP_10000: &str = "tcp --connections 10000";
const TCP_4K: &str = "tcp --connections 64 --bytes 4096";
const TCP_4K_1000: &str = "tcp --connections 1000 --bytes 4096";
pub(super) const TCP_16K: &str = "tcp --connections 64 --bytes 16384";
const TCP_16K_1000: &str = "tcp --connections 1000 --bytes 16384";
const TCP_64K: &str = "tcp --connections 64 --bytes 65536";
const TCP_64K_1000: &str = "tcp --connections 1000 --bytes 65536";
pub(super) const STREAM: &str = "tcp --connections 4 --mode stream";
/// Without a bound so many streams would hold all memory that the kernel has for TCP.
const STREAM_1000: &str = "tcp --connections 1000 --mode stream --ahead 262144";
pub(super) const CONNECT: &str = "tcp --connections 64 --mode connect";
const IDLE: &str = "tcp --connections 10000 --mode idle";

/// CPU per echo of our server over a peer's, under the same load.
const fn cpu(
    name: &'static str,
    work: &'static str,
    load: &'static str,
    peer: &'static str,
    bar: Bar,
) -> Row {
    let (ours, peer) = (Side { server: OURS, load }, Some(Side { server: peer, load }));
    Row { name, work, ours, peer, metric: Metric::CpuNsPerEcho, bar, limit: "" }
}

/// A row of the command line's.
pub(super) const fn compared(ours: &'static str, peer: &'static str, load: &'static str) -> Row {
    with(ours, cpu("compared", load, load, peer, Bar::None))
}

/// The same, with what may keep it from its bar.
const fn limited(limit: &'static str, row: Row) -> Row {
    Row { limit, ..row }
}

/// A peer in our place: what can be reached at all.
const fn floor(
    name: &'static str,
    work: &'static str,
    load: &'static str,
    best: &'static str,
    peer: &'static str,
) -> Row {
    with(best, cpu(name, work, load, peer, Bar::None))
}

/// The same with another figure.
const fn by(metric: Metric, row: Row) -> Row {
    Row { metric, ..row }
}

/// The same with other flags of our server.
const fn with(server: &'static str, row: Row) -> Row {
    Row { ours: Side { server, load: row.ours.load }, ..row }
}

/// The same with another load on our side: growth is our server against itself.
const fn under(load: &'static str, row: Row) -> Row {
    Row { ours: Side { server: row.ours.server, load }, ..row }
}

use Bar::{AtLeast, AtMost, None as Report};
use Metric::{BytesPerConnection, CpuMsPerGb, EchoesPerSecond};

pub(super) const ROWS: &[Row] = &[
    limited(
        "the kernel's path of datagrams that come singly; the same tricks without a ring reach floor-gro",
        cpu("udp-gro", "64 flows × 8, client with UDP_GRO", FLOWS_GRO, "recvmmsg", AtMost(0.75)),
    ),
    cpu("udp-plain", "64 flows × 8", FLOWS, "recvmmsg", AtMost(1.0)),
    cpu("udp-plain-v6", "64 flows × 8, IPv6", FLOWS_V6, "recvmmsg", AtMost(0.95)),
    cpu("udp-mixed", "16 flows of trains, 48 × 8", MIXED, "recvmmsg", AtMost(0.58)),
    cpu("udp-mixed-gro", "the same, client with UDP_GRO", MIXED_GRO, "recvmmsg", AtMost(0.38)),
    cpu("udp-full", "full batches of 2,048", FULL, "recvmmsg", AtMost(0.70)),
    cpu("udp-full-gro", "the same, client with UDP_GRO", FULL_GRO, "recvmmsg", AtMost(0.52)),
    cpu("udp-16x1", "16 flows × 1", FEW, "recvmmsg", AtMost(1.10)),
    cpu("udp-1000x1", "1,000 flows × 1", MORE, "recvmmsg", AtMost(1.10)),
    cpu("udp-10000x1", "10,000 flows × 1", MANY, "recvmmsg", AtMost(1.10)),
    cpu("udp-16x1-go", "16 flows × 1", FEW, "go", AtMost(0.72)),
    cpu("udp-64x3-go", "64 flows × 3", THREE, "go", AtMost(0.60)),
    cpu("udp-trains", "16 flows × 4 trains of 32", TRAINS, "recvmmsg", AtMost(0.05)),
    cpu("udp-trains-same", "16 flows × 4 trains of 32", TRAINS, "gro", AtMost(1.05)),
    by(
        EchoesPerSecond,
        limited(
            "client and kernel take the rest of the time: a server that never sleeps reaches floor-pingpong",
            with(
                POLLING,
                cpu("udp-pingpong-poll", "1 flow × 1, busy-poll, rate", ONE, "recvmsg", AtLeast(4.0)),
            ),
        ),
    ),
    by(
        EchoesPerSecond,
        with(
            POLLING,
            cpu(
                "udp-pingpong-spin",
                "the same against a peer that never sleeps",
                ONE,
                "recvmsg-spin",
                Report,
            ),
        ),
    ),
    with(POLLING, cpu("udp-trickle-poll", "100/s, busy-poll against none", TRICKLE, OURS, AtMost(1.05))),
    limited(
        "0.99 to 1.06, the same again and again: most replies are trains, where a cmsg less saves little",
        with(
            WILDCARD,
            under(
                PAIRS,
                cpu(
                    "wildcard-cached",
                    "16 pairs, replies from cached sockets",
                    PAIRS_FIXED,
                    STEERED,
                    AtMost(1.0),
                ),
            ),
        ),
    ),
    with(
        MISSES,
        under(
            SCATTERED,
            cpu("wildcard-missed", "64 pairs, a socket per reply", SCATTERED_FIXED, STEERED, AtMost(7.0)),
        ),
    ),
    limited(SYSTEM_CALLS, cpu("tcp-full", "1,000 connections, full batches", TCP_FULL, EPOLL, AtMost(0.85))),
    cpu("tcp-1000", "1,000 connections, ping-pong", TCP_1000, EPOLL, AtMost(0.95)),
    cpu("tcp-4k", "64 connections, ping-pong 4 KiB", TCP_4K, EPOLL, AtMost(0.98)),
    cpu("tcp-4k-1000", "1,000 connections, ping-pong 4 KiB", TCP_4K_1000, EPOLL, AtMost(0.98)),
    cpu("tcp-16k", "64 connections, ping-pong 16 KiB", TCP_16K, EPOLL, AtMost(0.82)),
    cpu("tcp-16k-1000", "1,000 connections, ping-pong 16 KiB", TCP_16K_1000, EPOLL, AtMost(0.85)),
    cpu("tcp-64k", "64 connections, ping-pong 64 KiB", TCP_64K, EPOLL, AtMost(0.55)),
    cpu("tcp-64k-1000", "1,000 connections, ping-pong 64 KiB", TCP_64K_1000, EPOLL, AtMost(0.55)),
    by(CpuMsPerGb, cpu("tcp-stream", "4 connections, streaming", STREAM, EPOLL, AtMost(0.5))),
    by(CpuMsPerGb, cpu("tcp-stream-1000", "1,000 connections, streaming", STREAM_1000, EPOLL, AtMost(0.6))),
    cpu("tcp-connect", "connect, one echo, close", CONNECT, EPOLL, AtMost(0.92)),
    limited(SYSTEM_CALLS, cpu("tcp-10000", "10,000 connections, ping-pong", TCP_10000, EPOLL, AtMost(0.88))),
    under(MANY, cpu("growth-udp", "10,000 flows × 1 against 16 × 1", FEW, OURS, AtMost(1.2))),
    under(TCP_10000, cpu("growth-tcp", "10,000 connections against 100", TCP_100, OURS, AtMost(1.6))),
    Row {
        peer: None,
        ..by(BytesPerConnection, cpu("tcp-idle-memory", "an idle connection", IDLE, "", AtMost(512.0)))
    },
    limited(
        HALVES,
        with(TWO, cpu("workers-udp", "2 workers against 1, 64 flows × 8", FLOWS, OURS, AtMost(1.10))),
    ),
    limited(
        HALVES,
        with(TWO, cpu("workers-tcp", "2 workers against 1, 1,000 connections", TCP_1000, OURS, AtMost(1.10))),
    ),
    floor("floor-16k", "tcp-16k without a ring", TCP_16K, SPLICE, EPOLL),
    floor("floor-64k", "tcp-64k without a ring", TCP_64K, SPLICE, EPOLL),
    by(CpuMsPerGb, floor("floor-stream", "tcp-stream without a ring", STREAM, SPLICE, EPOLL)),
    floor("floor-gro", "udp-gro without a ring", FLOWS_GRO, "coalesce", "recvmmsg"),
    by(
        EchoesPerSecond,
        floor("floor-pingpong", "udp-pingpong without sleeping", ONE, "recvmsg-spin", "recvmsg"),
    ),
    cpu("same-tricks-gro", "64 flows × 8, client with UDP_GRO", FLOWS_GRO, "coalesce", Report),
    cpu("same-tricks-plain", "64 flows × 8", FLOWS, "coalesce", Report),
    cpu("same-tricks-mixed", "16 flows of trains, 48 × 8", MIXED, "coalesce", Report),
    cpu("same-tricks-full", "full batches of 2,048", FULL, "coalesce", Report),
    cpu("same-tricks-16x1", "16 flows × 1", FEW, "coalesce", Report),
    cpu("same-tricks-trains", "16 flows × 4 trains of 32", TRAINS, "coalesce", Report),
    cpu("same-tricks-large", "16 flows × 4 trains of 50, 1200 B", LARGE, "coalesce", Report),
    cpu("same-tricks-4k", "64 connections, ping-pong 4 KiB", TCP_4K, SPLICE, AtMost(1.02)),
    cpu("same-tricks-4k-1000", "1,000 connections, ping-pong 4 KiB", TCP_4K_1000, SPLICE, AtMost(1.02)),
    cpu("same-tricks-16k", "64 connections, ping-pong 16 KiB", TCP_16K, SPLICE, AtMost(1.02)),
    cpu("same-tricks-16k-1000", "1,000 connections, ping-pong 16 KiB", TCP_16K_1000, SPLICE, AtMost(1.02)),
    cpu("same-tricks-64k", "64 connections, ping-pong 64 KiB", TCP_64K, SPLICE, AtMost(1.02)),
    cpu("same-tricks-64k-1000", "1,000 connections, ping-pong 64 KiB", TCP_64K_1000, SPLICE, AtMost(1.02)),
    by(CpuMsPerGb, cpu("same-tricks-stream", "4 connections, streaming", STREAM, SPLICE, AtMost(1.02))),
    by(
        CpuMsPerGb,
        cpu("same-tricks-stream-1000", "1,000 connections, streaming", STREAM_1000, SPLICE, AtMost(1.02)),
    ),
    cpu("udp-plain-go-netip", "64 flows × 3, Go without allocation", THREE, "go-netip", Report),
    cpu("udp-plain-recvmsg", "64 flows × 8", FLOWS, "recvmsg", Report),
    cpu("udp-plain-tokio", "64 flows × 8", FLOWS, "tokio-udp", Report),
    cpu("udp-plain-tokio-uring", "64 flows × 8", FLOWS, "tokio-uring-udp", Report),
    cpu("tcp-1000-tokio", "1,000 connections, ping-pong", TCP_1000, "tokio-tcp", Report),
    cpu("tcp-1000-tokio-uring", "1,000 connections, ping-pong", TCP_1000, "tokio-uring-tcp", Report),
    cpu("tcp-1000-haproxy", "1,000 connections, ping-pong", TCP_1000, "haproxy", Report),
    cpu("tcp-16k-haproxy", "64 connections, ping-pong 16 KiB", TCP_16K, "haproxy", Report),
    cpu("tcp-64k-haproxy", "64 connections, ping-pong 64 KiB", TCP_64K, "haproxy", Report),
    by(CpuMsPerGb, cpu("tcp-stream-haproxy", "4 connections, streaming", STREAM, "haproxy", Report)),
];
