//! Datagrams: some number of flows, each a socket of its own, each with some requests in flight.
//!
//! The sockets are connected: a send is cheaper then, which keeps the server the slower of the two, and the
//! kernel lets nothing pass that comes from elsewhere (it counts as lost). `--unconnected` compares sources here.

use std::io::{Error, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::measure::{Requests, Work};
use super::pattern::Pattern;
use super::{Aim, Result, Sample};
use crate::kernel::{self, Batch, Name, STRIDE_BYTES};

/// Each datagram begins with flow and sequence number.
const HEADER_BYTES: usize = 8;
const BATCH: usize = 64;
/// Beyond this a request counts as lost.
const TIMEOUT: Duration = Duration::from_secs(2);

/// `load udp`
#[derive(Clone, clap::Args)]
pub(crate) struct Udp {
    /// Flows that send singly, each from its own socket
    #[arg(long, default_value_t = 64)]
    flows: usize,
    /// Datagrams that each of them has in flight
    #[arg(long, default_value_t = 8)]
    in_flight: usize,
    /// Flows that send trains
    #[arg(long, default_value_t = 0)]
    train_flows: usize,
    /// Trains that each of them has in flight
    #[arg(long, default_value_t = 1)]
    trains: usize,
    /// Datagrams of a train
    #[arg(long, default_value_t = 32)]
    train: usize,
    /// Payload of a datagram
    #[arg(long, default_value_t = 64)]
    bytes: usize,
    /// `UDP_GRO` on the client's sockets: replies may arrive as trains
    #[arg(long)]
    gro: bool,
    /// Aim flows in turn at this many addresses, counted up from the target's
    #[arg(long, default_value_t = 1)]
    addresses: u16,
    /// Aim flows in turn at this many ports, counted up from the target's
    #[arg(long, default_value_t = 1)]
    ports: u16,
    /// Sockets without a peer: the source of each reply is compared here instead of by the kernel
    #[arg(long)]
    unconnected: bool,
    /// Rest for so long after each look at the flows: a trickle
    #[arg(long, default_value_t = 0)]
    pause_us: u64,
    /// Stop the server while all requests queue up
    #[arg(long)]
    batches: bool,
    #[command(flatten)]
    pub(super) aim: Aim,
}

#[derive(Clone, Copy, PartialEq)]
enum Slot {
    Free,
    Outstanding,
    /// A later one was answered first: lost, or else reordered.
    Skipped,
}

struct Flow {
    socket: UdpSocket,
    index: u32,
    target: Name,
    /// Datagrams of one request
    train: u32,
    /// Datagrams that may be in flight
    window: u32,
    in_flight: u32,
    /// The next sequence number to send
    next: u32,
    /// The sequence number that an orderly server answers next
    expected: u32,
    /// What is below was written off
    floor: u32,
    slots: Vec<Slot>,
    progress: Instant,
}

struct Client {
    options: Udp,
    flows: Vec<Flow>,
    incoming: Batch,
    outgoing: Batch,
    pattern: Pattern,
}

impl Udp {
    /// Opens the flows.
    pub(super) fn start(&self) -> Result<Work> {
        let requests = Box::new(Client::new(self)?);
        Ok(match (self.batches, self.aim.server_pid) {
            (false, server) => Work::Loop { requests, server },
            (true, Some(server)) => Work::Batches { requests, server },
            (true, None) => {
                return Err("full batches need --server-pid: the server is stopped meanwhile".into());
            }
        })
    }
}

impl Client {
    fn new(options: &Udp) -> Result<Self> {
        let message = options.bytes * if options.train_flows > 0 { options.train } else { 1 };
        if options.bytes < HEADER_BYTES || message > 65_507 {
            return Err(format!("a datagram has at least {HEADER_BYTES} bytes, a train at most 65507").into());
        }
        let flow = |i: usize| {
            let (train, requests) = if i < options.train_flows {
                (options.train, options.trains)
            } else {
                (1, options.in_flight)
            };
            Flow::new(options, i, train as u32, requests as u32)
        };
        let flows = (0..options.train_flows + options.flows).map(flow).collect::<Result<Vec<_>>>()?;
        // Only what can arrive in one message needs room: small buffers stay in the cache.
        let stride = if options.gro || message > 2048 { STRIDE_BYTES } else { 2048 };
        Ok(Self {
            options: options.clone(),
            flows,
            incoming: Batch::new(BATCH, stride),
            outgoing: Batch::new(BATCH, stride),
            pattern: Pattern::new(),
        })
    }
}

impl Requests for Client {
    fn begin(&mut self) -> Result<()> {
        let now = Instant::now();
        for flow in &mut self.flows {
            flow.progress = now;
            flow.send(&self.options, &mut self.outgoing, &self.pattern)?;
        }
        Ok(())
    }

    fn turn(&mut self, now: Instant, more: bool, sample: &mut Sample) -> Result<bool> {
        if self.options.pause_us > 0 && more {
            std::thread::sleep(Duration::from_micros(self.options.pause_us));
        }
        let mut rest = true;
        for flow in &mut self.flows {
            if flow.in_flight > 0
                && flow.receive(now, &self.options, &mut self.incoming, &self.pattern, sample)?
                && more
            {
                flow.send(&self.options, &mut self.outgoing, &self.pattern)?;
            }
            rest &= flow.in_flight == 0;
        }
        Ok(rest)
    }
}

impl Flow {
    fn new(options: &Udp, index: usize, train: u32, requests: u32) -> Result<Self> {
        let any: IpAddr = match options.aim.target.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        let socket = UdpSocket::bind((any, 0))
            .map_err(|e| Error::new(e.kind(), format!("socket of flow {index}: {e}; raise `ulimit -n`?")))?;
        kernel::receive_buffer(&socket, kernel::RECEIVE_BUFFER_BYTES)?;
        if options.gro {
            kernel::set_option(&socket, libc::SOL_UDP, libc::UDP_GRO, 1)?;
        }
        let turn = |of: u16| (index % usize::from(of.max(1))) as u16;
        let target = beyond(options.aim.target, turn(options.addresses), turn(options.ports));
        if !options.unconnected {
            socket.connect(target)?;
        }
        let window = train * requests;
        Ok(Self {
            socket,
            index: index as u32,
            target: target.into(),
            train,
            window,
            in_flight: 0,
            next: 0,
            expected: 0,
            floor: 0,
            slots: vec![Slot::Free; (2 * window).next_power_of_two() as usize],
            progress: Instant::now(),
        })
    }

    /// Sends as many whole requests as fit into the window.
    fn send(&mut self, options: &Udp, batch: &mut Batch, pattern: &Pattern) -> Result<()> {
        let bytes = options.bytes;
        while self.in_flight + self.train <= self.window {
            let count = (((self.window - self.in_flight) / self.train) as usize).min(BATCH);
            let segment = (self.train > 1).then_some(bytes);
            let to = if options.unconnected { Some(&self.target) } else { None };
            let mut sequence = self.next;
            for i in 0..count {
                let message = batch.compose(i, bytes * self.train as usize, to, segment);
                for payload in message.chunks_exact_mut(bytes) {
                    payload[..4].copy_from_slice(&self.index.to_ne_bytes());
                    payload[4..8].copy_from_slice(&sequence.to_ne_bytes());
                    payload[8..].copy_from_slice(self.body(pattern, sequence, bytes));
                    sequence = sequence.wrapping_add(1);
                }
            }
            let sent = match batch.send(&self.socket, 0, count) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                result => result?,
            };
            let datagrams = sent as u32 * self.train;
            for sequence in self.next..self.next + datagrams {
                *self.slot(sequence) = Slot::Outstanding;
            }
            self.next += datagrams;
            self.in_flight += datagrams;
        }
        Ok(())
    }

    fn body<'p>(&self, pattern: &'p Pattern, sequence: u32, bytes: usize) -> &'p [u8] {
        pattern.at(u64::from(sequence) * 31 + u64::from(self.index) * 1009, bytes - HEADER_BYTES)
    }

    fn slot(&mut self, sequence: u32) -> &mut Slot {
        let mask = self.slots.len() - 1;
        &mut self.slots[sequence as usize & mask]
    }

    /// Takes what is there; whether anything was, or was given up.
    fn receive(
        &mut self,
        now: Instant,
        options: &Udp,
        batch: &mut Batch,
        pattern: &Pattern,
        sample: &mut Sample,
    ) -> Result<bool> {
        // Replies may come one by one however they were asked for.
        let most = (self.in_flight as usize).clamp(1, BATCH);
        let count = match batch.receive(&self.socket, most, libc::MSG_DONTWAIT) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(self.give_up(now, sample)),
            // The server is gone, or not there yet: what was asked is lost.
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => return Ok(false),
            result => result?,
        };
        self.progress = now;
        for i in 0..count {
            let Some(message) = batch.message(i) else {
                sample.bad(|| format!("flow {}: truncated", self.index));
                continue;
            };
            if message.from != self.target {
                sample.bad(|| format!("flow {}: a reply from another address", self.index));
                continue;
            }
            for payload in batch.payload(i).chunks(message.segment.max(1)) {
                self.verify(payload, options.bytes, pattern, sample);
            }
        }
        Ok(true)
    }

    fn verify(&mut self, payload: &[u8], bytes: usize, pattern: &Pattern, sample: &mut Sample) {
        let int = |at: usize| u32::from_ne_bytes(payload[at..at + 4].try_into().expect("four bytes"));
        if payload.len() != bytes
            || int(0) != self.index
            || payload[8..] != *self.body(pattern, int(4), bytes)
        {
            sample.bad(|| format!("flow {}: corrupted, {} bytes", self.index, payload.len()));
            return;
        }
        let sequence = int(4);
        if sequence < self.floor {
            sample.late += 1;
            return;
        }
        if sequence >= self.next || self.next - sequence > self.slots.len() as u32 {
            sample.bad(|| format!("flow {}: {sequence} was never sent, or long ago", self.index));
            return;
        }
        match *self.slot(sequence) {
            Slot::Free => return sample.bad(|| format!("flow {}: {sequence} twice", self.index)),
            Slot::Skipped => {
                sample.bad(|| format!("flow {}: {sequence} after {}", self.index, self.expected - 1));
                return;
            }
            Slot::Outstanding => {}
        }
        for skipped in self.expected.max(self.floor)..sequence {
            *self.slot(skipped) = Slot::Skipped;
            self.in_flight -= 1;
            sample.lost += 1;
        }
        *self.slot(sequence) = Slot::Free;
        self.expected = sequence + 1;
        self.in_flight -= 1;
        sample.echoes += 1;
        sample.bytes += bytes as u64;
    }

    /// Writes off what was not answered in time; whether there was something.
    fn give_up(&mut self, now: Instant, sample: &mut Sample) -> bool {
        if self.in_flight == 0 || now.saturating_duration_since(self.progress) < TIMEOUT {
            return false;
        }
        sample.lost += u64::from(self.in_flight);
        self.in_flight = 0;
        self.floor = self.next;
        self.expected = self.next;
        self.progress = now;
        true
    }
}

/// So many addresses and ports beyond the target.
fn beyond(target: SocketAddr, addresses: u16, ports: u16) -> SocketAddr {
    let ip: IpAddr = match target.ip() {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() + u32::from(addresses)).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() + u128::from(addresses)).into(),
    };
    SocketAddr::new(ip, target.port() + ports)
}
