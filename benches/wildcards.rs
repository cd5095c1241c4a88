//! What it costs to answer from the port that was asked: CPU time of the server per echo, through reply
//! sockets that are there and through ones that have to be made, against answers from the bound port.
//!
//! `cargo bench --bench wildcards`, as root. One server for each kind of load in a network of its own, all
//! ports of a prefix steered to each; the server on core 1, the client on core 0, 64 client sockets with 8
//! datagrams in flight each, never sleeping. The loads take turns; medians of the rounds, ratios within each.

#[path = "../tests/support/mod.rs"]
mod support;

use std::net::{SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use support::steered::{Family, PORT, Steered, User};
use support::{PATIENCE, netns, sys};
use tubular_echo::sys::pin_thread;

const ROUNDS: usize = 5;
const SLICE: Duration = Duration::from_millis(300);
const SOCKETS: usize = 64;
const IN_FLIGHT: usize = 8;
const BYTES: usize = 64;
/// Pairs that fit the cache, and pairs that never do when they are asked in turn.
const FEW: usize = 16;
const MANY: usize = 4_000;

struct Load {
    name: &'static str,
    /// A socket asks the same one always if they are few; else each datagram asks the next.
    targets: Vec<SocketAddr>,
    steered: Steered,
    sockets: Vec<UdpSocket>,
    next: usize,
    ns_per_echo: Vec<f64>,
}

impl Load {
    fn new(name: &'static str, family: Family, count: usize, bound_port: bool) -> Self {
        let mut targets = family.pairs(1, count);
        if bound_port {
            for target in &mut targets {
                target.set_port(PORT);
            }
        }
        netns::Netns::new().run(|| {
            pin_thread(1).expect("a second core");
            let steered = Steered::start(User::Root, &["--reply-socket-rate=10000000"]);
            pin_thread(0).expect("a first core");
            let sockets = (0..SOCKETS).map(|_| {
                let socket = UdpSocket::bind((family.loopback(), 0)).expect("bind a client socket");
                socket.set_nonblocking(true).expect("a socket that never waits");
                socket
            });
            Self { name, targets, steered, sockets: sockets.collect(), next: 0, ns_per_echo: Vec::new() }
        })
    }

    fn target(&self, socket: usize, number: usize) -> SocketAddr {
        let index = if self.targets.len() <= SOCKETS { socket } else { number };
        self.targets[index % self.targets.len()]
    }

    fn send(&mut self, socket: usize) {
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(&(self.next as u64).to_le_bytes());
        let target = self.target(socket, self.next);
        self.sockets[socket].send_to(&bytes, target).unwrap_or_else(|error| panic!("to {target}: {error}"));
        self.next += 1;
    }

    /// Takes the replies of a socket, and asks as often again if `more`; how many came.
    fn receive(&mut self, socket: usize, more: bool) -> usize {
        let mut bytes = [0; BYTES + 1];
        let mut count = 0;
        while let Ok((BYTES, from)) = self.sockets[socket].recv_from(&mut bytes) {
            let number = u64::from_le_bytes(*bytes.first_chunk().expect("eight bytes"));
            assert_eq!(from, self.target(socket, number as usize), "{}: misdirected", self.name);
            count += 1;
        }
        for _ in 0..if more { count } else { 0 } {
            self.send(socket);
        }
        count
    }

    /// One slice: CPU time of the server per echo while everything is in flight; then all of it comes home.
    fn measure(&mut self) {
        (0..SOCKETS * IN_FLIGHT).for_each(|number| self.send(number % SOCKETS));
        let (begun, cpu) = (Instant::now(), sys::cpu_time(self.steered.server.pid()));
        let mut echoes = 0;
        while begun.elapsed() < SLICE {
            echoes += (0..SOCKETS).map(|socket| self.receive(socket, true)).sum::<usize>();
        }
        let cpu = sys::cpu_time(self.steered.server.pid()).saturating_sub(cpu);
        self.ns_per_echo.push(cpu.as_nanos() as f64 / echoes as f64);
        let mut left = SOCKETS * IN_FLIGHT;
        while left > 0 {
            left -= (0..SOCKETS).map(|socket| self.receive(socket, false)).sum::<usize>();
            assert!(begun.elapsed() < PATIENCE, "{}: {left} replies never came", self.name);
        }
    }
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn run() -> bool {
    let mut met = true;
    for family in [Family::V4, Family::V6] {
        let mut loads = [
            Load::new("bound port, 16 addresses", family, FEW, true),
            Load::new("any port, 16 pairs, sockets found", family, FEW, false),
            Load::new("bound port, 4,000 addresses", family, MANY, true),
            Load::new("any port, 4,000 pairs, sockets made", family, MANY, false),
        ];
        for _ in 0..ROUNDS {
            loads.iter_mut().for_each(Load::measure);
        }
        for ([bound, wild], bar) in [([0, 1], 1.0), ([2, 3], 7.0)] {
            let each = |index: usize| loads[index].ns_per_echo.iter().copied();
            let ratio = median(each(wild).zip(each(bound)).map(|(wild, bound)| wild / bound));
            println!("{family:?}  {:36} {:7.0} ns per echo", loads[bound].name, median(each(bound)));
            println!(
                "{family:?}  {:36} {:7.0} ns per echo   × {ratio:.2}, bar {bar}",
                loads[wild].name,
                median(each(wild))
            );
            met &= ratio <= bar;
        }
        for load in loads {
            let (name, expected) = (load.name, load.next as u64);
            let end = load.steered.stop(&[]);
            assert_eq!(end.counter("udp_datagrams_in"), expected, "{name}");
            println!("{family:?}  {name}: {} reply sockets made", end.counter("udp_reply_sockets_made"));
        }
    }
    met
}

fn main() -> ExitCode {
    if run() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
