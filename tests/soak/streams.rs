//! The load of connections: exchanges, streams, half-closes, resets, peers that read late or send a byte now and then.
//! Every echoed byte is compared, whatever happens to the server.

use std::io::{Error, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use crate::faults::{Diary, Fault};
use crate::site::{Site, target};
use crate::support::PATIENCE;
use crate::support::netns::Netns;
use crate::support::random::Random;
use crate::support::sys;

/// Connections at a time.
const THREADS: u64 = 4;
/// The most bytes that a connection with a late reader sends. If the server was paused in the meantime, it may find all
/// of them at once and must spill all of them.
const READ_LATE_BYTES_MAX: usize = 1 << 20;
/// Connections at a time for the warm-up. They send in turns, so that the server spills about 50 KiB for each. Even
/// with two workers this is more for each worker than all of `THREADS` can send at once.
const WARMING: usize = 256;

/// The sum of a chapter's connections.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Connections that were opened.
    pub connected: u64,
    /// Bytes that their sockets took.
    pub bytes_sent: u64,
    /// Bytes that came back.
    pub bytes_received: u64,
    /// Connections that a fault ended early.
    pub cut: u64,
}

/// A connection that ended wrongly, which a fault may excuse.
struct Mishap {
    from: SystemTime,
    to: SystemTime,
    what: String,
    /// Wrong bytes came back, which no fault excuses.
    damage: bool,
    /// The first bytes came back correctly, then a FIN.
    ended: bool,
}

/// The clients of a chapter.
pub struct Streams {
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<(Tally, Vec<Mishap>)>>,
}

impl Streams {
    /// Starts the clients on their host.
    pub fn start(site: &Arc<Site>, seed: u64) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let client = |number: u64| {
            let (site, end) = (Arc::clone(site), Arc::clone(&end));
            thread::spawn(move || site.clients.run(|| converse_until(&end, seed.wrapping_mul(31) + number)))
        };
        let threads = (0..THREADS).map(client).collect();
        Self { end, threads }
    }

    /// Ends the clients. Returns the errors that nothing in `diary` excuses.
    pub fn finish(self, diary: &Diary, tally: &mut Tally) -> Vec<String> {
        self.end.store(true, Ordering::Relaxed);
        let mut damage = Vec::new();
        for thread in self.threads {
            let (own, mishaps) = thread.join().expect("a client");
            tally.connected += own.connected;
            tally.bytes_sent += own.bytes_sent;
            tally.bytes_received += own.bytes_received;
            for Mishap { from, to, what, damage: damaged, ended } in mishaps {
                let allows = if ended { Fault::ends_connections } else { Fault::breaks_connections };
                if damaged || !diary.excuses(from, to, allows) {
                    damage.push(format!("connection: {what}, at {}", humantime::format_rfc3339_millis(from)));
                } else {
                    tally.cut += 1;
                }
            }
        }
        damage
    }
}

fn converse_until(end: &AtomicBool, seed: u64) -> (Tally, Vec<Mishap>) {
    let mut random = Random::new(seed);
    let (mut tally, mut mishaps) = (Tally::default(), Vec::new());
    while !end.load(Ordering::Relaxed) {
        let from = SystemTime::now();
        let target = target(&mut random);
        if let Err(Ending { what, damage, ended }) = converse(target, &mut random, &mut tally) {
            let what = format!("{what}, {target}");
            mishaps.push(Mishap { from, to: SystemTime::now(), what, damage, ended });
        }
        thread::sleep(Duration::from_millis(random.between(50, 250) as u64));
    }
    (tally, mishaps)
}

/// Why a conversation ended too early.
struct Ending {
    what: String,
    damage: bool,
    ended: bool,
}

impl Ending {
    fn broken(step: &'static str) -> impl Fn(Error) -> Self {
        move |error| Self { what: format!("{step}: {error}"), damage: false, ended: false }
    }
}

/// One connection of a random kind.
fn converse(target: SocketAddr, random: &mut Random, tally: &mut Tally) -> Result<(), Ending> {
    let stream = TcpStream::connect_timeout(&target, PATIENCE).map_err(Ending::broken("connect"))?;
    tally.connected += 1;
    stream.set_read_timeout(Some(PATIENCE)).expect("set the patience");
    stream.set_write_timeout(Some(PATIENCE)).expect("set the patience");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    let seed = random.next();
    let mut talk =
        Talk { stream, outgoing: Random::new(seed), incoming: Random::new(seed), unread: 0, tally };
    match random.between(0, 7) {
        0..=2 => {
            for _ in 0..random.between(1, 5) {
                talk.send(random.between(1, 2000))?;
                talk.receive_all()?;
            }
            talk.finish()
        }
        3 => {
            talk.send(random.between(1, 32_768))?;
            talk.finish()
        }
        4 => {
            // a stream with at least as much data in flight as the buffers of both sides hold
            for _ in 0..random.between(4, 40) {
                talk.send(16_384)?;
                if talk.unread > 32_768 {
                    talk.receive(16_384)?;
                }
            }
            talk.finish()
        }
        5 => talk.read_late(random),
        6 => {
            for _ in 0..random.between(2, 20) {
                talk.send(1)?;
                thread::sleep(Duration::from_millis(20));
            }
            talk.finish()
        }
        _ => {
            let count = random.between(0, 3);
            for _ in 0..count {
                talk.send(random.between(1, 4000))?;
            }
            sys::reset_on_close(&talk.stream);
            Ok(())
        }
    }
}

struct Talk<'a> {
    stream: TcpStream,
    outgoing: Random,
    incoming: Random,
    unread: usize,
    tally: &'a mut Tally,
}

impl Talk<'_> {
    fn send(&mut self, len: usize) -> Result<(), Ending> {
        let bytes = self.outgoing.bytes(len);
        self.stream.write_all(&bytes).map_err(Ending::broken("send"))?;
        self.tally.bytes_sent += len as u64;
        self.unread += len;
        Ok(())
    }

    fn receive_all(&mut self) -> Result<(), Ending> {
        self.receive(self.unread)
    }

    /// Receives this many bytes and compares them.
    fn receive(&mut self, mut len: usize) -> Result<(), Ending> {
        let mut piece = [0; 8192];
        while len > 0 {
            let most = len.min(piece.len());
            let got = self.stream.read(&mut piece[..most]).map_err(Ending::broken("receive"))?;
            if got == 0 {
                let what = format!("ended with {} bytes to come", self.unread);
                return Err(Ending { what, damage: false, ended: true });
            }
            self.tally.bytes_received += got as u64;
            if piece[..got] != self.incoming.bytes(got) {
                return Err(Ending { what: "other bytes came back".into(), damage: true, ended: false });
            }
            self.unread -= got;
            len -= got;
        }
        Ok(())
    }

    /// Sends a FIN, receives the rest, and expects the server's FIN.
    fn finish(mut self) -> Result<(), Ending> {
        self.stream.shutdown(Shutdown::Write).map_err(Ending::broken("send a FIN"))?;
        self.receive_all()?;
        match self.stream.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(Ending { what: "bytes too many".into(), damage: true, ended: false }),
            Err(error) => Err(Ending::broken("wait for the FIN")(error)),
        }
    }

    /// Sends until the socket takes no more, or until it has sent much, and reads only after a while.
    fn read_late(mut self, random: &mut Random) -> Result<(), Ending> {
        self.stream.set_write_timeout(Some(Duration::from_millis(200))).expect("set the patience");
        let mut left = Vec::new();
        while self.unread + left.len() < READ_LATE_BYTES_MAX {
            if left.is_empty() {
                left = self.outgoing.bytes(16_384);
            }
            match self.stream.write(&left) {
                Ok(taken) => {
                    drop(left.drain(..taken));
                    self.tally.bytes_sent += taken as u64;
                    self.unread += taken;
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                Err(error) => return Err(Ending::broken("send much")(error)),
            }
        }
        thread::sleep(Duration::from_millis(random.between(100, 2000) as u64));
        self.finish()
    }
}

/// Opens many connections at once that do not read, until the server has spilled as much as it will for each of them.
pub fn warm_up(network: &Netns, target: SocketAddr, tally: &mut Tally) {
    const AT_REST: Duration = Duration::from_millis(100);
    let bytes = Random::new(7).bytes(READ_LATE_BYTES_MAX);
    network.run(|| {
        let connect = |_| {
            let stream = TcpStream::connect_timeout(&target, PATIENCE).expect("connect");
            stream.set_nonblocking(true).expect("a connection that does not block");
            (stream, 0)
        };
        let mut peers: Vec<_> = (0..WARMING).map(connect).collect();
        loop {
            for (stream, taken) in &mut peers {
                while let Ok(more @ 1..) = stream.write(&bytes[*taken..]) {
                    *taken += more;
                }
            }
            let filling = peers.iter().filter(|(_, taken)| *taken < bytes.len());
            let mut entries: Vec<_> =
                filling.map(|(stream, _)| sys::poll_entry(stream, libc::POLLOUT)).collect();
            if sys::poll(&mut entries, AT_REST) == 0 {
                break;
            }
        }
        for (mut stream, taken) in peers {
            stream.set_nonblocking(false).expect("a connection that blocks");
            stream.set_read_timeout(Some(PATIENCE)).expect("set the patience");
            stream.shutdown(Shutdown::Write).expect("send a FIN");
            let mut back = Vec::new();
            stream.read_to_end(&mut back).expect("what was set aside");
            assert!(back == bytes[..taken], "other bytes came back");
            tally.connected += 1;
            tally.bytes_sent += taken as u64;
            tally.bytes_received += taken as u64;
        }
    });
}
