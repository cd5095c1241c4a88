//! What a world is furnished with.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use super::chance::Chance;
use crate::policy::limits::Rates;
use crate::sockets::listening::AtExit;

/// What a path may answer to a train (udp(7)).
const TRAIN_REFUSALS: [i32; 3] = [libc::EMSGSIZE, libc::EINVAL, libc::EIO];

/// A port that clients may have, too; in some worlds it is listened on.
pub(super) const CLIENT_LIKE_PORT: u16 = 4321;

/// A listening socket to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Endpoint {
    pub(super) addr: SocketAddr,
    pub(super) at_exit: AtExit,
}

/// What is to become of a flow's datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// They come back.
    Echoed,
    /// They are not answered, and counted here.
    Refused(&'static str),
}

/// A flow to be: peer, original destination, number of the socket, what is expected, what its path says
/// to trains.
pub(super) type Flow = (SocketAddr, SocketAddr, usize, Expected, Option<i32>);

/// The furniture, and how lively it is.
// many fields: each is drawn by itself
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
pub(super) struct Scene {
    pub(super) udp: Vec<Endpoint>,
    pub(super) tcp: Vec<Endpoint>,
    pub(super) flows: Vec<Flow>,
    /// So many times more something comes in.
    pub(super) news_left: usize,
    /// Something comes in once in so many times that something happens.
    pub(super) calm: usize,
    /// Of so many in a thousand of those times it is nothing: time passes.
    pub(super) pauses: u32,
    /// Connections that stand still for so long are closed; zero for never.
    pub(super) idle_timeout: Duration,
    /// Connections that each source may have.
    pub(super) per_prefix: Option<usize>,
    /// Connections that the worker serves at a time, and that there are at a time.
    pub(super) connections_limit: usize,
    pub(super) connections_max: usize,
    /// Nobody stays until the worker ends.
    pub(super) visits: bool,
    /// Of so many in a thousand of them nothing comes but their end.
    pub(super) silent_peers: u32,
    /// As many workers share the memory for spilled bytes.
    pub(super) workers: usize,
    pub(super) rates: Rates,
    pub(super) reply_sockets: usize,
    pub(super) reply_sockets_per_second: u32,
    pub(super) busy_poll: Duration,
    pub(super) drain_timeout: Duration,
    /// The worker is told to end while there is still work.
    pub(super) drain_early: bool,
    /// When all is quiet time goes on for a while, so that what comes with time comes.
    pub(super) lingers: bool,
    /// Some peers never leave, so that the drain ends at its deadline.
    pub(super) cuts: bool,
    /// Connections are at their busiest when the worker is told to end.
    pub(super) floods: bool,
    /// And send buffers that are full stay full.
    pub(super) stuck: bool,
    /// Datagrams that were not echoed, and those of them that nobody but the worker knows why.
    pub(super) unanswered: u64,
    pub(super) silent: u64,
}

impl Scene {
    pub(super) fn draw(chance: &mut Chance) -> Self {
        let at_exit =
            |chance: &mut Chance| chance.pick(&[AtExit::Close, AtExit::Close, AtExit::Keep, AtExit::Retire]);
        let addresses = ["127.0.0.1:1234", "[::1]:1234", "127.0.0.2:4321"];
        let endpoints = |chance: &mut Chance, count: usize| -> Vec<_> {
            let of = |text: &&str| text.parse().expect("an address");
            addresses[..count]
                .iter()
                .map(|text| Endpoint { addr: of(text), at_exit: at_exit(chance) })
                .collect()
        };
        let (udp_count, tcp_count) = chance.pick(&[(1, 0), (3, 0), (0, 1), (0, 2), (1, 1), (2, 2)]);
        let udp = endpoints(chance, udp_count);
        let tcp = endpoints(chance, tcp_count);
        let flows = if udp.is_empty() { Vec::new() } else { draw_flows(chance, &udp) };
        Self {
            udp,
            tcp,
            flows,
            news_left: chance.between(10, 1000),
            calm: chance.pick(&[1, 3, 10, 50]),
            pauses: chance.pick(&[0, 0, 50, 500]),
            idle_timeout: chance.pick(&[Duration::ZERO, Duration::from_secs(1)]),
            per_prefix: chance.pick(&[None, None, Some(1), Some(4)]),
            connections_limit: chance.pick(&[1, 3, 1000]),
            connections_max: chance.pick(&[1, 10, 60]),
            visits: chance.one_in(4),
            silent_peers: chance.pick(&[0, 0, 700]),
            workers: chance.pick(&[1, 1000, 4096]),
            rates: Rates {
                per_prefix: NonZeroU32::new(chance.pick(&[0, 0, 0, 1000])),
                replies: NonZeroU32::new(chance.pick(&[0, 0, 0, 10_000])),
            },
            reply_sockets: chance.pick(&[0, 1, 3, 100]),
            reply_sockets_per_second: chance.pick(&[200, 100_000]),
            busy_poll: chance.pick(&[Duration::ZERO, Duration::from_micros(20)]),
            drain_timeout: Duration::from_mins(1),
            drain_early: chance.one_in(3),
            lingers: chance.one_in(2),
            cuts: chance.one_in(6),
            floods: chance.one_in(8),
            stuck: chance.one_in(2),
            unanswered: 0,
            silent: 0,
        }
    }

    /// The socket at this address is kept for the next process.
    pub(super) fn outlives(&self, addr: SocketAddr) -> bool {
        self.udp.iter().any(|endpoint| endpoint.addr == addr && endpoint.at_exit == AtExit::Keep)
    }
}

fn draw_flows(chance: &mut Chance, sockets: &[Endpoint]) -> Vec<Flow> {
    let mut flows: Vec<Flow> = Vec::new();
    for number in 0..chance.pick(&[1, 4, 30]) {
        let socket = chance.below(sockets.len());
        let bound = sockets[socket].addr;
        let port = match chance.below(4) {
            0 => 5000 + chance.below(3) as u16,
            1 if chance.one_in(4) => 80,
            _ => bound.port(),
        };
        let (peer, origdst) = if bound.is_ipv4() {
            // so many that now and then two share a place in the table of refusals
            let host = chance.between(1, 20);
            (format!("192.0.2.{host}:{}", 40_000 + number), format!("127.0.0.{}:{port}", 1 + host % 2))
        } else if chance.one_in(3) {
            let peer = chance.pick(&["fe80::7%2", "fe80::7%2", "2001:db8::7"]);
            (format!("[{peer}]:{}", 40_000 + number), format!("[fe80::1%2]:{port}"))
        } else {
            (format!("[2001:db8::7]:{}", 40_000 + number), format!("[2001:db8::{}]:{port}", number % 2))
        };
        let (mut peer, mut origdst): (SocketAddr, SocketAddr) =
            (peer.parse().expect("an address"), origdst.parse().expect("an address"));
        let mut expected = Expected::Echoed;
        if chance.one_in(5) {
            peer.set_port(CLIENT_LIKE_PORT);
        } else if chance.one_in(8) {
            let many = if bound.is_ipv4() { "224.0.0.1" } else { "ff02::1" }.parse().expect("an address");
            let counter = match chance.below(4) {
                0 => {
                    peer.set_port(7 + number as u16);
                    "udp_refused_system_port"
                }
                1 => {
                    peer.set_ip(many);
                    "udp_refused_bad_source"
                }
                2 => {
                    origdst.set_ip(many);
                    "udp_refused_bad_destination"
                }
                // another one of us, or we ourselves, where no client has that port
                _ if bound.port() == CLIENT_LIKE_PORT => continue,
                _ if flows.iter().any(|(other, ..)| other.port() == bound.port()) => continue,
                _ => {
                    peer.set_port(bound.port());
                    "udp_refused_own_port"
                }
            };
            expected = Expected::Refused(counter);
        }
        if flows.iter().any(|&(other, asked, ..)| (other, asked) == (peer, origdst)) {
            continue;
        }
        let refuses = chance.one_in(5).then(|| chance.pick(&TRAIN_REFUSALS));
        flows.push((peer, origdst, socket, expected, refuses));
    }
    flows
}
