//! Datagrams that blaster does not send: empty, very large, forged and refused ones.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use crate::datagrams::Books;
use crate::faults::{Diary, Fault};
use crate::site::{CLIENTS, LISTENING, PORT, Site, target};
use crate::support::forge::try_forge;
use crate::support::random::{Random, payload};
use crate::support::sys;
use crate::support::udp::UdpClient;

/// A datagram without an answer by then is lost: no restart takes this long.
const LOST_AFTER: Duration = Duration::from_secs(5);

/// Datagrams that must not be answered, by the counter that counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// `udp_refused_system_port`
    pub system_port: u64,
    /// `udp_refused_own_port`
    pub own_port: u64,
    /// `udp_refused_own_pair`
    pub own_pair: u64,
}

impl Refused {
    /// All of them.
    pub fn total(self) -> u64 {
        self.system_port + self.own_port + self.own_pair
    }
}

/// The sent datagrams.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    /// Datagrams that must be answered.
    pub books: Books,
    /// Datagrams that must not be answered.
    pub refused: Refused,
}

/// A failed exchange, which a fault may excuse.
struct Mishap {
    from: SystemTime,
    what: String,
    damage: bool,
}

/// The thread that sends the datagrams.
pub struct Oddities {
    end: Arc<AtomicBool>,
    thread: JoinHandle<(Sent, Vec<Mishap>)>,
}

impl Oddities {
    /// Starts sending.
    pub fn start(site: &Arc<Site>, seed: u64) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let (site, until) = (Arc::clone(site), Arc::clone(&end));
        let thread = thread::spawn(move || send_until(&site, &until, seed));
        Self { end, thread }
    }

    /// Ends the thread. Returns the errors that nothing in `diary` excuses.
    pub fn finish(self, diary: &Diary, sent: &mut Sent) -> Vec<String> {
        self.end.store(true, Ordering::Relaxed);
        let (own, mishaps) = self.thread.join().expect("a client");
        sent.books.sent += own.books.sent;
        sent.books.echoed += own.books.echoed;
        sent.books.lost += own.books.lost;
        sent.refused.system_port += own.refused.system_port;
        sent.refused.own_port += own.refused.own_port;
        sent.refused.own_pair += own.refused.own_pair;
        let excused = |mishap: &Mishap| {
            !mishap.damage
                && diary.excuses(mishap.from, mishap.from + Duration::from_millis(100), Fault::loses)
        };
        let told = |mishap: Mishap| {
            let at = humantime::format_rfc3339_millis(mishap.from);
            format!("datagram: {}, at {at}{}", mishap.what, diary.last(mishap.from))
        };
        mishaps.into_iter().filter(|mishap| !excused(mishap)).map(told).collect()
    }
}

fn send_until(site: &Site, end: &AtomicBool, seed: u64) -> (Sent, Vec<Mishap>) {
    let mut random = Random::new(seed);
    let (mut sent, mut mishaps) = (Sent::default(), Vec::new());
    while !end.load(Ordering::Relaxed) {
        let kind = random.between(0, 5);
        let target = target(&mut random);
        let client = CLIENTS[usize::from(target.is_ipv6())].parse::<IpAddr>().expect("an address");
        let forged = |source: SocketAddr, to: SocketAddr| {
            u64::from(try_forge(source, to, b"is anybody there?").is_ok())
        };
        match kind {
            0 => {
                let source = SocketAddr::new(client, random.between(1, 1023) as u16);
                sent.refused.system_port += site.clients.run(|| forged(source, target));
            }
            1 => {
                let source = SocketAddr::new(client, PORT);
                sent.refused.own_port += site.clients.run(|| forged(source, target));
            }
            2 => {
                // through the server's own loopback device: the kernel accepts no such source from outside
                let own = LISTENING[random.between(0, 1)].parse().expect("an address");
                sent.refused.own_pair += site.server.run(|| forged(own, own));
            }
            _ => {
                let len = match random.between(0, 3) {
                    0 => 0,
                    1 => 65_507,
                    _ => random.between(0, 1472),
                };
                let from = SystemTime::now();
                let client = SocketAddr::new(client, 0);
                if let Err(mishap) =
                    site.clients.run(|| exchange(client, target, &mut random, len, &mut sent.books))
                {
                    mishaps.push(Mishap { from, ..mishap });
                }
            }
        }
        thread::sleep(Duration::from_millis(random.between(20, 80) as u64));
    }
    (sent, mishaps)
}

/// Sends one datagram and expects it back.
fn exchange(
    client: SocketAddr,
    target: SocketAddr,
    random: &mut Random,
    len: usize,
    books: &mut Books,
) -> Result<(), Mishap> {
    let mishap = |what: String, damage| Mishap { from: SystemTime::UNIX_EPOCH, what, damage };
    let bytes = random.bytes(len);
    let socket = UdpSocket::bind(client).expect("a client's socket");
    socket.set_read_timeout(Some(LOST_AFTER)).expect("set the patience");
    socket.send_to(&bytes, target).map_err(|error| mishap(format!("send to {target}: {error}"), false))?;
    books.sent += 1;
    match sys::receive(&socket) {
        Ok(arrival) => {
            books.echoed += 1;
            let right = arrival.from == target && arrival.payload == bytes;
            if right {
                Ok(())
            } else {
                Err(mishap(format!("another reply from {} than {target}", arrival.from), true))
            }
        }
        Err(error) => {
            books.lost += 1;
            let kind = error.kind();
            let silent = matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut);
            let what = if silent { "no reply".into() } else { error.to_string() };
            Err(mishap(format!("{len} bytes to {target}: {what}"), false))
        }
    }
}

/// Sends datagrams of the largest size until each buffer of each worker has held one. From then on the server needs no
/// more memory for datagrams.
pub fn warm_up(site: &Site, books: &mut Books) {
    const CLIENTS: usize = 64;
    const AT_ONCE: usize = 8;
    const ROUNDS: usize = 12;
    site.server.run(|| {
        for target in LISTENING.map(|address| address.parse::<SocketAddr>().expect("an address")) {
            let clients: Vec<_> = (0..CLIENTS).map(|_| UdpClient::at(target.ip())).collect();
            for (number, clients) in (0..ROUNDS).flat_map(|_| clients.chunks(AT_ONCE)).enumerate() {
                let bytes = payload(number, 65_507);
                for client in clients {
                    client.send(target, &bytes);
                }
                for client in clients {
                    client.expect(target, &bytes);
                }
                books.sent += AT_ONCE as u64;
                books.echoed += AT_ONCE as u64;
            }
        }
    });
}
