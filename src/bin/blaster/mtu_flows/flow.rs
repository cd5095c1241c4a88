//! One flow: its socket, the datagrams of its search, and what came back.
//!
//! A round sends its datagrams a millisecond apart, waits for the replies, and asks the search for the next round. A reply
//! counts whenever it comes.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use tubular_echo::kernel::addr::Domain;
use tubular_echo::kernel::cmsg::QueuedError;
use tubular_echo::kernel::sys::{self, IntOption, Protocol, Received};

use crate::judge::mtu_search::{Event, Probe, Search, headers};
use crate::model::flow_label;
use crate::model::icmp;
use crate::model::packet_options::PacketOptions;
use crate::model::payload::{self, Bodies, Content, Header};
use crate::model::source::SourceNotLocal;
use crate::report::mtu::PathMtu;
use crate::udp::UdpError;
use crate::udp::socket;
use crate::workers::{route, socket_options};

/// The time from one datagram of a flow to the next.
const GAP_NS: u64 = 1_000_000;
/// Once replies have come, the wait for others is this many of the median round trip, and at least this long. The first
/// ones may have waited for the address of a router.
const ROUND_TRIPS: u64 = 8;
const WAIT_NS_MIN: u64 = 100_000_000;
/// A send can fail with the ICMP error of an earlier datagram; then it is tried again.
const SENDS_MAX: u32 = 4;
/// What an ICMP error quotes of a datagram identifies it.
const QUOTED_BYTES: usize = 64;

/// What all flows have in common.
pub(crate) struct Wanted {
    pub(crate) run_id: u64,
    pub(crate) bodies: Bodies,
    pub(crate) packets: PacketOptions,
    pub(crate) timeout: Duration,
}

/// A datagram that was sent.
#[derive(Clone, Copy, Debug)]
struct Sent {
    probe: Probe,
    at_ns: u64,
    is_answered: bool,
}

pub(crate) struct Flow {
    number: u32,
    /// With the flow label of `--flow-label`.
    peer: SocketAddr,
    local: SocketAddr,
    socket: UdpSocket,
    search: Search,
    sent: Vec<Sent>,
    /// The first datagram of this round.
    round_begin: usize,
    outbox: VecDeque<Probe>,
    next_send_ns: u64,
    round_trips: RoundTrips,
    /// An error that does not tell of a size, the last one.
    error: Option<String>,
    is_over: bool,
}

/// All round trips, from the shortest.
#[derive(Clone, Debug, Default)]
struct RoundTrips(Vec<u64>);

impl RoundTrips {
    fn note(&mut self, ns: u64) {
        self.0.insert(self.0.partition_point(|other| *other < ns), ns);
    }

    fn median_ns(&self) -> Option<u64> {
        self.0.get(self.0.len() / 2).copied()
    }

    fn shortest_ns(&self) -> Option<u64> {
        self.0.first().copied()
    }
}

/// The options that differ between the families.
struct Names {
    discover: IntOption,
    errors: IntOption,
    fragment_size: IntOption,
    mtu: IntOption,
}

fn names(peer: SocketAddr) -> Names {
    match Domain::of(peer) {
        Domain::Ipv4 => Names {
            discover: IntOption::MTU_DISCOVER_V4,
            errors: IntOption::RECEIVE_ERRORS_V4,
            fragment_size: IntOption::RECEIVE_FRAGMENT_SIZE_V4,
            mtu: IntOption::MTU_V4,
        },
        Domain::Ipv6 => Names {
            discover: IntOption::MTU_DISCOVER_V6,
            errors: IntOption::RECEIVE_ERRORS_V6,
            fragment_size: IntOption::RECEIVE_FRAGMENT_SIZE_V6,
            mtu: IntOption::MTU_V6,
        },
    }
}

impl Flow {
    /// Opens the socket of flow `number`, from `source` or by the routing table.
    pub(crate) fn open(
        number: u32,
        peer: SocketAddr,
        source: Option<SocketAddr>,
        search: Search,
        packets: &PacketOptions,
    ) -> Result<Self, UdpError> {
        let local = source.map_or_else(|| socket::local_addr(peer, packets), Ok)?;
        let mut opened = open_socket(peer, local, packets)?;
        // a server does not answer a datagram that comes from its own port; the first socket keeps it meanwhile
        if opened.1.port() == peer.port() {
            let other = open_socket(peer, local, packets)?;
            opened = other;
        }
        Ok(Self {
            number,
            peer,
            local: opened.1,
            socket: opened.0,
            search,
            sent: Vec::new(),
            round_begin: 0,
            outbox: VecDeque::new(),
            next_send_ns: 0,
            round_trips: RoundTrips::default(),
            error: None,
            is_over: false,
        })
    }

    pub(crate) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Without a flow label, as addresses of replies are.
    pub(crate) fn peer(&self) -> SocketAddr {
        flow_label::with_flow_info(self.peer, 0)
    }

    pub(crate) fn search(&self) -> &Search {
        &self.search
    }

    /// Reads what has come.
    pub(crate) fn read(&mut self, wanted: &Wanted, now_ns: u64, buffer: &mut [u8]) {
        self.read_errors();
        self.receive(wanted, now_ns, buffer);
    }

    /// Reads what has come, and sends what is due.
    pub(crate) fn step(&mut self, wanted: &Wanted, now_ns: u64, buffer: &mut [u8]) {
        if self.is_over {
            return;
        }
        self.read(wanted, now_ns, buffer);
        if self.outbox.is_empty() && self.is_round_over(wanted, now_ns) {
            self.round_begin = self.sent.len();
            self.outbox = self.search.next().into();
            self.is_over = self.outbox.is_empty();
        }
        if now_ns >= self.next_send_ns
            && let Some(probe) = self.outbox.pop_front()
        {
            self.next_send_ns = now_ns + GAP_NS;
            self.send(probe, wanted, now_ns);
        }
    }

    /// When the next step is due, if nothing comes before. `None`: the search is over.
    pub(crate) fn due_ns(&self, wanted: &Wanted, now_ns: u64) -> Option<u64> {
        if self.is_over {
            None
        } else if !self.outbox.is_empty() {
            Some(self.next_send_ns)
        } else if self.is_round_over(wanted, now_ns) {
            Some(now_ns)
        } else {
            Some(self.round_end_ns(wanted))
        }
    }

    fn is_round_over(&self, wanted: &Wanted, now_ns: u64) -> bool {
        let round = &self.sent[self.round_begin..];
        round.iter().all(|sent| sent.is_answered) || now_ns >= self.round_end_ns(wanted)
    }

    fn round_end_ns(&self, wanted: &Wanted) -> u64 {
        let timeout_ns = wanted.timeout.as_nanos() as u64;
        let enough_ns =
            self.round_trips.median_ns().map(|ns| ns.saturating_mul(ROUND_TRIPS).max(WAIT_NS_MIN));
        let last_ns = self.sent.last().map_or(0, |sent| sent.at_ns);
        last_ns + enough_ns.map_or(timeout_ns, |enough_ns| enough_ns.min(timeout_ns))
    }

    fn header(&self, wanted: &Wanted, number: usize, at_ns: u64) -> Header {
        Header { run_id: wanted.run_id, flow: self.number, sequence: number as u64, intended_ns: at_ns }
    }

    fn payload_bytes(&self, probe: Probe) -> usize {
        (probe.packet - headers(self.peer.is_ipv4())) as usize
    }

    fn send(&mut self, probe: Probe, wanted: &Wanted, now_ns: u64) {
        let mut datagram = vec![0; self.payload_bytes(probe)];
        wanted.bodies.write(&self.header(wanted, self.sent.len(), now_ns), &mut datagram);
        let error = match self.try_to_send(probe, &datagram) {
            Ok(()) => {
                self.search.note_sent(probe);
                self.sent.push(Sent { probe, at_ns: now_ns, is_answered: false });
                return;
            }
            Err(error) => error,
        };
        match error {
            SendError::TooLarge { mtu } => self.search.note(probe, Event::Refused { mtu }),
            SendError::Other(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.outbox.push_front(probe);
            }
            SendError::Other(error) => {
                self.error = Some(format!("this host refused to send: {error}"));
                self.search.note_sent(probe);
                self.sent.push(Sent { probe, at_ns: now_ns, is_answered: false });
            }
        }
    }

    fn try_to_send(&mut self, probe: Probe, datagram: &[u8]) -> Result<(), SendError> {
        if probe.may_fragment {
            self.allow_fragments();
        }
        let (mut outcome, mut mtu) = (Ok(()), None);
        for _ in 0..SENDS_MAX {
            outcome = self.socket.send_to(datagram, self.peer).map(drop);
            let Err(error) = &outcome else { break };
            mtu = self.read_errors();
            if error.raw_os_error() == Some(libc::EMSGSIZE) && mtu.is_some() {
                break;
            }
        }
        if probe.may_fragment {
            self.forbid_fragments();
        }
        outcome.map_err(|error| match error.raw_os_error() {
            Some(libc::EMSGSIZE) => SendError::TooLarge { mtu },
            _ => SendError::Other(error),
        })
    }

    /// Until the next send is done, routers may fragment what is sent (IPv4), or this host does (IPv6), to the size that
    /// passes. If the kernel refuses that, the datagram leaves whole, and is lost as others of its size.
    fn allow_fragments(&self) {
        let (socket, names) = (self.socket.as_fd(), names(self.peer));
        let _ = sys::set_option(socket, names.discover, IntOption::MTU_DISCOVER_NEVER);
        if let Some(mtu) = self.search.mtu().filter(|_| self.peer.is_ipv6()) {
            let _ = sys::set_option(socket, names.mtu, mtu as i32);
        }
    }

    /// Back to what the socket was opened with: that has worked before.
    fn forbid_fragments(&self) {
        let (socket, names) = (self.socket.as_fd(), names(self.peer));
        let _ = sys::set_option(socket, names.discover, IntOption::MTU_DISCOVER_PROBE);
        if self.peer.is_ipv6() {
            let _ = sys::set_option(socket, names.mtu, 0);
        }
    }

    /// Reads ICMP errors. Returns the largest packet that this host sends, if it has refused a larger one.
    fn read_errors(&mut self) -> Option<u32> {
        let mut refused = None;
        let mut quoted = [0; QUOTED_BYTES];
        while let Ok(Some(error)) = sys::next_error(self.socket.as_fd(), &mut quoted) {
            match error.error {
                QueuedError::Local(local) if local.errno == libc::EMSGSIZE => refused = Some(local.mtu),
                QueuedError::Local(_) => {}
                QueuedError::Network(report, mtu) if report.errno == libc::EMSGSIZE => {
                    self.note_too_large(&quoted[..error.quoted_bytes], report.offender, mtu);
                }
                QueuedError::Network(report, _) => {
                    let meaning = icmp::meaning(self.peer.is_ipv4(), report.icmp_type, report.icmp_code);
                    let from = report.offender.map_or(String::new(), |from| format!(" from {from}"));
                    let cause = icmp::cause(&meaning).map_or(String::new(), |cause| format!(": {cause}"));
                    self.error = Some(format!("ICMP {meaning}{from}{cause}"));
                }
            }
        }
        refused
    }

    /// Notes an ICMP error about a packet that was too large. Old routers quote nothing of the payload: then it is about
    /// the largest one of this round that is not answered.
    fn note_too_large(&mut self, quoted: &[u8], from: Option<IpAddr>, mtu: u32) {
        let by_quote = payload::sequence(quoted).map(|sequence| sequence as usize);
        let largest = || {
            let round = self.sent.iter().enumerate().skip(self.round_begin);
            let open = round.filter(|(_, sent)| !sent.is_answered);
            open.max_by_key(|(_, sent)| sent.probe.packet).map(|(at, _)| at)
        };
        let at = by_quote.filter(|at| *at < self.sent.len()).or_else(largest);
        if let Some(sent) = at.map(|at| &mut self.sent[at]) {
            sent.is_answered = true;
            self.search.note(sent.probe, Event::Told { from, mtu });
        }
    }

    fn receive(&mut self, wanted: &Wanted, now_ns: u64, buffer: &mut [u8]) {
        loop {
            match sys::receive_datagram(self.socket.as_fd(), buffer) {
                Ok(Some(received)) => self.judge(wanted, now_ns, received, &buffer[..received.bytes]),
                Ok(None) => return,
                // that of a datagram, which stands in the error queue as well, and is gone from here
                Err(_) => {
                    self.read_errors();
                }
            }
        }
    }

    fn judge(&mut self, wanted: &Wanted, now_ns: u64, received: Received, reply: &[u8]) {
        let at = payload::sequence(reply).and_then(|sequence| usize::try_from(sequence).ok());
        let Some((at, Sent { probe, at_ns, .. })) = at.and_then(|at| Some((at, *self.sent.get(at)?))) else {
            return;
        };
        let header = self.header(wanted, at, at_ns);
        let event = match wanted.bodies.judge(&header, self.payload_bytes(probe), reply) {
            Content::Foreign => return,
            _ if received.from != self.peer() => {
                self.error = Some(format!(
                    "a reply came from {}, another source than the one addressed",
                    received.from
                ));
                return;
            }
            Content::Intact => received.receipt.fragment_bytes.map_or(Event::Whole, Event::InFragments),
            Content::Truncated | Content::Corrupted | Content::Resembling => Event::Damaged,
        };
        self.round_trips.note(now_ns.saturating_sub(at_ns));
        // a copy of a reply is no second one
        if !std::mem::replace(&mut self.sent[at].is_answered, true) {
            self.search.note(probe, event);
        }
    }

    /// What is known of the path.
    pub(crate) fn path(&self, packets: &PacketOptions) -> PathMtu {
        let finding = self.search.finding();
        let believed = route::connected(self.peer, packets).ok().and_then(|socket| {
            let mtu = sys::option(socket.as_fd(), names(self.peer).mtu).ok()?;
            u32::try_from(mtu).ok()
        });
        PathMtu {
            destination: self.peer.to_string(),
            source: self.local.to_string(),
            mtu: finding.mtu,
            datagram_bytes: finding.mtu.map(|mtu| mtu - headers(self.peer.is_ipv4())),
            settled: finding.settled,
            limit: finding.limit,
            way: finding.way,
            there: finding.there,
            back: finding.back,
            fragment_bytes: self.search.fragment_bytes(),
            at_mtu: finding.at_mtu,
            above: finding.above,
            told: self.search.told().to_vec(),
            error: self.error.clone(),
            host_mtu: believed,
            sent: self.search.sent(),
            round_trip_ns: self.round_trips.shortest_ns(),
        }
    }
}

/// Why a datagram was not sent.
enum SendError {
    TooLarge { mtu: Option<u32> },
    Other(io::Error),
}

/// A socket for packets that nobody may fragment, whatever this host believes of the path, and its address.
fn open_socket(
    peer: SocketAddr,
    local: SocketAddr,
    packets: &PacketOptions,
) -> Result<(UdpSocket, SocketAddr), UdpError> {
    let failed = |step| move |error: io::Error| UdpError::Socket { step, error };
    let socket = sys::socket(Protocol::Udp, peer).map_err(failed("opening a socket"))?;
    let (fd, names) = (socket.as_fd(), names(peer));
    socket_options::set(fd, peer, packets)?;
    sys::set_option(fd, names.discover, IntOption::MTU_DISCOVER_PROBE)
        .map_err(failed("asking for packets that nobody fragments"))?;
    sys::set_option(fd, names.fragment_size, 1).map_err(failed("asking for the sizes of fragments"))?;
    sys::set_option(fd, names.errors, 1).map_err(failed("asking for ICMP errors"))?;
    socket::enlarge(fd).map_err(failed("reading SO_RCVBUF"))?;
    sys::bind(fd, local).map_err(|error| match error {
        error if socket::is_out_of_ports(&error) => UdpError::NoPort { peer, error },
        error => SourceNotLocal { local: local.ip(), error }.into(),
    })?;
    sys::set_nonblocking(fd, true).map_err(failed("opening a socket"))?;
    let bound = sys::local_addr(fd).map_err(failed("reading a socket's address"))?;
    Ok((socket.into(), bound))
}
