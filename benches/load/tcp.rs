//! Connections: one message back and forth, a stream, or one connection after the other.

use std::io::{Error, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, TcpStream};
use std::time::{Duration, Instant};

use super::measure::{Requests, Work};
use super::pattern::Pattern;
use super::{Aim, Result, Sample};
use crate::kernel;

const READ_BYTES: usize = 64 << 10;
/// A connection that makes no progress for so long is given up.
const TIMEOUT: Duration = Duration::from_secs(5);
/// `TIME_WAIT` keeps a port for a minute: connections come from this many addresses in turn.
const SOURCES: u32 = 250;

/// `load tcp`
#[derive(Clone, clap::Args)]
pub(crate) struct Tcp {
    /// Connections at a time
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Payload of a message
    #[arg(long, default_value_t = 64)]
    bytes: usize,
    /// What they do
    #[arg(long, value_enum, default_value_t = Mode::PingPong)]
    mode: Mode,
    /// Bytes that a stream sends at most ahead of what has come back; as many as the kernel takes if not given
    #[arg(long)]
    ahead: Option<usize>,
    #[command(flatten)]
    pub(super) aim: Aim,
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
    /// Opens the connections.
    pub(super) fn start(&self) -> Result<Work> {
        if self.bytes == 0 || self.bytes > READ_BYTES {
            return Err(format!("a message has 1 to {READ_BYTES} bytes").into());
        }
        let mut client = Client {
            options: self.clone(),
            connections: vec![],
            opened: 0,
            pattern: Pattern::new(),
            buffer: vec![0; READ_BYTES],
        };
        let server = self.aim.server_pid;
        Ok(match (self.mode, server) {
            (Mode::Idle, Some(pid)) => Work::Once(Box::new(move |sample| client.idle(pid, sample)), server),
            (Mode::Batches, Some(server)) => {
                Work::Batches { requests: Box::new(client.connected()?), server }
            }
            (Mode::Idle | Mode::Batches, None) => return Err("this mode needs --server-pid".into()),
            (Mode::Connect, _) => Work::Loop { requests: Box::new(client), server },
            (Mode::PingPong | Mode::Stream, _) => {
                Work::Loop { requests: Box::new(client.connected()?), server }
            }
        })
    }
}

struct Client {
    options: Tcp,
    connections: Vec<Connection>,
    /// Connections that were ever opened
    opened: u32,
    pattern: Pattern,
    buffer: Vec<u8>,
}

impl Requests for Client {
    fn begin(&mut self) -> Result<()> {
        if self.options.mode == Mode::Connect {
            while self.connections.len() < self.options.connections {
                let connection = self.open()?;
                self.connections.push(connection);
            }
            return Ok(());
        }
        self.each(|client, connection| client.send(connection).map(|()| true)).map(drop)
    }

    fn turn(&mut self, now: Instant, more: bool, sample: &mut Sample) -> Result<bool> {
        match self.options.mode {
            Mode::Stream => self.each(|client, connection| client.stream(connection, now, more, sample)),
            Mode::Connect => self.connect(now, more, sample),
            _ => self.each(|client, connection| {
                let back =
                    connection.received == connection.end || client.receive(connection, now, sample)?;
                if back && more {
                    client.send(connection)?;
                }
                Ok(back && !more)
            }),
        }
    }
}

impl Client {
    fn connected(mut self) -> Result<Self> {
        self.fill()?;
        Ok(self)
    }

    /// Opens all connections.
    fn fill(&mut self) -> Result<()> {
        for i in 0..self.options.connections {
            let stream = TcpStream::connect(self.options.aim.target)
                .map_err(|e| Error::new(e.kind(), format!("connection {i}: {e}")))?;
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            // A reset in the end: the table opens some ten thousand connections in each round.
            kernel::reset_on_close(&stream)?;
            self.connections.push(Connection::new(stream, i as u64 * 1009));
        }
        Ok(())
    }

    /// Does something with every connection; whether all of it was true.
    fn each(&mut self, mut work: impl FnMut(&mut Self, &mut Connection) -> Result<bool>) -> Result<bool> {
        let mut connections = std::mem::take(&mut self.connections);
        let mut all = true;
        let result = connections.iter_mut().try_for_each(|connection| {
            all &= work(self, connection)?;
            Ok(())
        });
        self.connections = connections;
        result.map(|()| all)
    }

    /// Begins the next message.
    fn send(&mut self, connection: &mut Connection) -> Result<()> {
        connection.progress = Instant::now();
        if self.options.mode != Mode::Stream {
            connection.end += self.options.bytes as u64;
            self.push(connection)?;
        }
        Ok(())
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
    fn stream(
        &mut self,
        connection: &mut Connection,
        now: Instant,
        more: bool,
        sample: &mut Sample,
    ) -> Result<bool> {
        let under_way = (connection.sent - connection.received) as usize;
        // Whole buffers only: small segments would be another load.
        if more && self.options.ahead.is_none_or(|ahead| under_way + READ_BYTES <= ahead) {
            connection.write(self.pattern.at(connection.sent, READ_BYTES))?;
        }
        let before = connection.received / READ_BYTES as u64;
        if connection.received < connection.sent {
            self.read(connection, now, sample)?;
        }
        sample.echoes += connection.received / READ_BYTES as u64 - before;
        Ok(connection.received == connection.sent)
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
    fn idle(&mut self, server: u32, sample: &mut Sample) -> Result<()> {
        let before = resident_bytes(server)?;
        self.fill()?;
        self.begin()?;
        while !self.turn(Instant::now(), false, sample)? {}
        let growth = resident_bytes(server)?.saturating_sub(before);
        sample.bytes_per_connection = Some(growth as f64 / self.connections.len() as f64);
        Ok(())
    }

    /// Connections that come and go; whether none is left.
    fn connect(&mut self, now: Instant, more: bool, sample: &mut Sample) -> Result<bool> {
        let mut i = 0;
        while i < self.connections.len() {
            let mut connection = self.connections.swap_remove(i);
            if connection.received < connection.end {
                self.read(&mut connection, now, sample)?;
                if connection.received == connection.end {
                    connection.stream.shutdown(Shutdown::Write)?;
                }
            } else if connection.closed(now)? {
                sample.echoes += 1;
                if !more {
                    continue;
                }
                connection = self.open()?;
            }
            self.connections.push(connection);
            let last = self.connections.len() - 1;
            self.connections.swap(i, last);
            i += 1;
        }
        Ok(self.connections.is_empty())
    }

    /// A new connection with a message on its way.
    fn open(&mut self) -> Result<Connection> {
        let target = self.options.aim.target;
        self.opened += 1;
        let stream: TcpStream = match target.ip() {
            IpAddr::V4(_) => {
                let from = Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 1).to_bits() + self.opened % SOURCES);
                let socket = kernel::stream_from(from.into())?;
                kernel::connect(&socket, &target.into())?;
                socket.into()
            }
            IpAddr::V6(_) => TcpStream::connect(target)?,
        };
        stream.set_nonblocking(true)?;
        let mut connection = Connection::new(stream, u64::from(self.opened));
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
