//! Connections: one message back and forth, a stream, or one connection after the other.

use std::io::{Error, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::{Pattern, Result, Sample, Window};
use crate::kernel;

const READ_BYTES: usize = 64 << 10;
/// A connection that makes no progress for so long is given up.
const TIMEOUT: Duration = Duration::from_secs(5);
/// `TIME_WAIT` keeps a port for a minute: connections come from this many addresses in turn.
const SOURCES: u32 = 250;

/// `load tcp`
#[derive(Clone, clap::Args)]
pub(crate) struct Tcp {
    /// The server
    #[arg(long, default_value = "127.0.0.1:1234")]
    pub(super) target: SocketAddr,
    /// Connections at a time
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Payload of a message
    #[arg(long, default_value_t = 64)]
    bytes: usize,
    /// What they do
    #[arg(long, value_enum, default_value_t = Mode::PingPong)]
    mode: Mode,
    #[command(flatten)]
    pub(super) window: Window,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Mode {
    /// The next message when the one before has come back
    PingPong,
    /// The server is stopped while a message queues on each connection
    Batches,
    /// Send without waiting for what comes back
    Stream,
    /// Connect, exchange one message, half-close, wait for the server to close, and again
    Connect,
    /// Exchange one message each, then measure the memory that idle connections cost the server
    Idle,
}

struct Connection {
    stream: TcpStream,
    /// Position in the pattern of the next byte to send, and to come back
    sent: u64,
    received: u64,
    /// In a ping-pong: where the message on its way ends
    end: u64,
    progress: Instant,
}

impl Tcp {
    pub(super) fn run(&self) -> Result<Sample> {
        if self.bytes == 0 || self.bytes > READ_BYTES {
            return Err(format!("a message has 1 to {READ_BYTES} bytes").into());
        }
        let mut client = Client { options: self, pattern: Pattern::new(), buffer: vec![0; READ_BYTES] };
        match self.mode {
            Mode::Connect => return client.connect_rate(),
            Mode::Idle => return client.idle(),
            Mode::PingPong | Mode::Batches | Mode::Stream => {}
        }
        let mut connections = client.connections(self.connections)?;
        let result = match self.mode {
            Mode::Batches => {
                let state = &mut (client, &mut connections);
                self.window.measure_batches(
                    state,
                    |(client, connections), _| client.fill(connections),
                    collect,
                )
            }
            Mode::Stream => self.window.measure(|now, sample| {
                connections.iter_mut().try_for_each(|connection| client.stream(connection, now, sample))
            }),
            _ => {
                client.fill(&mut connections)?;
                self.window.measure(|now, sample| {
                    for connection in &mut connections {
                        if client.receive(connection, now, sample)? {
                            client.send(connection)?;
                        }
                    }
                    Ok(())
                })
            }
        };
        // A reset: the table opens some ten thousand connections in each round.
        for connection in &connections {
            kernel::reset_on_close(&connection.stream)?;
        }
        result
    }
}

/// One look at every connection; whether every message has come back.
fn collect(
    (client, connections): &mut (Client<'_>, &mut Vec<Connection>),
    now: Instant,
    sample: &mut Sample,
) -> Result<bool> {
    let mut all = true;
    for connection in connections.iter_mut() {
        all &= connection.received == connection.end || client.receive(connection, now, sample)?;
    }
    Ok(all)
}

struct Client<'a> {
    options: &'a Tcp,
    pattern: Pattern,
    buffer: Vec<u8>,
}

impl Client<'_> {
    fn connections(&self, count: usize) -> Result<Vec<Connection>> {
        (0..count)
            .map(|i| {
                let stream = TcpStream::connect(self.options.target)
                    .map_err(|e| Error::new(e.kind(), format!("connection {i}: {e}")))?;
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                Ok(Connection::new(stream, i as u64 * 1009))
            })
            .collect()
    }

    /// A message on each connection.
    fn fill(&mut self, connections: &mut [Connection]) -> Result<()> {
        connections.iter_mut().try_for_each(|connection| self.send(connection))
    }

    /// Begins the next message.
    fn send(&mut self, connection: &mut Connection) -> Result<()> {
        connection.end += self.options.bytes as u64;
        connection.progress = Instant::now();
        self.push(connection)
    }

    /// Sends what is left of the message.
    fn push(&mut self, connection: &mut Connection) -> Result<()> {
        let left = (connection.end - connection.sent) as usize;
        if left > 0 {
            connection.write(self.pattern.at(connection.sent, left))?;
        }
        Ok(())
    }

    /// Takes what is there; whether the whole message has come back.
    fn receive(&mut self, connection: &mut Connection, now: Instant, sample: &mut Sample) -> Result<bool> {
        self.push(connection)?;
        self.read(connection, now, sample)?;
        let whole = connection.received == connection.end;
        sample.echoes += u64::from(whole);
        Ok(whole)
    }

    /// Sends as much as fits and takes as much as is there; a full buffer is an echo.
    fn stream(&mut self, connection: &mut Connection, now: Instant, sample: &mut Sample) -> Result<()> {
        connection.write(self.pattern.at(connection.sent, READ_BYTES))?;
        connection.end = connection.sent;
        let before = connection.received / READ_BYTES as u64;
        self.read(connection, now, sample)?;
        sample.echoes += connection.received / READ_BYTES as u64 - before;
        Ok(())
    }

    fn read(&mut self, connection: &mut Connection, now: Instant, sample: &mut Sample) -> Result<()> {
        let read = match connection.stream.read(&mut self.buffer) {
            Ok(0) => return Err("the server closed a connection that was in use".into()),
            Ok(read) => read,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                if now.saturating_duration_since(connection.progress) > TIMEOUT {
                    return Err(format!("no answer on a connection for {TIMEOUT:?}").into());
                }
                return Ok(());
            }
            Err(e) => return Err(e.into()),
        };
        connection.progress = now;
        let expected = self.pattern.at(connection.received, read);
        if connection.received + read as u64 > connection.sent || self.buffer[..read] != *expected {
            sample.bad(|| format!("other bytes than were sent, {read} of them"));
        }
        connection.received += read as u64;
        sample.bytes += read as u64;
        Ok(())
    }

    /// Connections that speak once and then are silent: the server's resident memory before and after.
    fn idle(&mut self) -> Result<Sample> {
        let pid = self
            .options
            .window
            .server_pid
            .ok_or("idle connections need --server-pid: its memory is measured")?;
        let mut sample = Sample::default();
        let from = self.options.window.mark(&sample)?;
        let before = resident_bytes(pid)?;
        let mut connections = self.connections(self.options.connections)?;
        self.fill(&mut connections)?;
        for connection in &mut connections {
            while !self.receive(connection, Instant::now(), &mut sample)? {}
        }
        let growth = resident_bytes(pid)?.saturating_sub(before);
        sample.bytes_per_connection = Some(growth as f64 / connections.len() as f64);
        for connection in &connections {
            kernel::reset_on_close(&connection.stream)?;
        }
        self.options.window.since(&from, &sample)
    }

    fn connect_rate(&mut self) -> Result<Sample> {
        let mut opened = 0;
        let mut connections = vec![];
        for _ in 0..self.options.connections {
            connections.push(self.open(&mut opened)?);
        }
        let options = self.options;
        options.window.measure(|now, sample| {
            for connection in &mut connections {
                if connection.received < connection.end {
                    self.read(connection, now, sample)?;
                    if connection.received == connection.end {
                        connection.stream.shutdown(Shutdown::Write)?;
                    }
                } else if connection.closed(now)? {
                    sample.echoes += 1;
                    *connection = self.open(&mut opened)?;
                }
            }
            Ok(())
        })
    }

    /// A new connection with a message on its way.
    fn open(&mut self, opened: &mut u32) -> Result<Connection> {
        let target = self.options.target;
        *opened += 1;
        let stream: TcpStream = match target.ip() {
            IpAddr::V4(_) => {
                let from = Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 1).to_bits() + *opened % SOURCES);
                let socket = kernel::stream_from(from.into())?;
                kernel::connect(&socket, &target.into())?;
                socket.into()
            }
            IpAddr::V6(_) => TcpStream::connect(target)?,
        };
        stream.set_nonblocking(true)?;
        let mut connection = Connection::new(stream, u64::from(*opened));
        self.send(&mut connection)?;
        Ok(connection)
    }
}

impl Connection {
    fn new(stream: TcpStream, start: u64) -> Self {
        Self { stream, sent: start, received: start, end: start, progress: Instant::now() }
    }

    /// Sends what fits.
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match self.stream.write(bytes) {
            Ok(written) => self.sent += written as u64,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }

    /// Whether the server has closed.
    fn closed(&mut self, now: Instant) -> Result<bool> {
        match self.stream.read(&mut [0]) {
            Ok(0) => Ok(true),
            Ok(_) => Err("the server sent more than it was sent".into()),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                if now.saturating_duration_since(self.progress) > TIMEOUT {
                    return Err(format!("the server did not close within {TIMEOUT:?}").into());
                }
                Ok(false)
            }
            Err(e) => Err(e.into()),
        }
    }
}

/// Resident memory of a process: proc(5), `VmRSS` of `status`.
fn resident_bytes(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS in /proc")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes << 10)
}
