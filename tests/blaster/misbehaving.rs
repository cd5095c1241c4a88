//! Echo servers with deliberate faults, one known fault each.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tubular_echo::kernel::sys::{self, IntOption};

/// How often a server checks whether it must end, and whether a delayed reply is due.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// The behavior of a UDP server, for each datagram or for each tenth.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Conduct {
    /// Echoes each datagram.
    Good,
    /// Sends no reply to each tenth.
    Loses,
    /// Sends two replies to each tenth.
    Doubles,
    /// Answers each tenth after the next one.
    Swaps,
    /// Flips a bit in each tenth, each time in another byte.
    Flips,
    /// Omits the last byte of each tenth.
    Cuts,
    /// Answers each tenth from another address (and another port).
    Strays,
    /// Answers each tenth after this time.
    Delays(Duration),
    /// Sends a datagram of its own beside each tenth.
    Babbles,
    /// Answers this many per second, a tenth of them at once, and no more.
    Carries(f64),
    /// Answers by chance: a coin is thrown for each span of this length, and decides whether it answers all or a half.
    Tosses(Duration),
    /// Pauses once for this long, after 1,000 datagrams.
    Stalls(Duration),
}

/// How many datagrams a server has received; tests wait for it.
#[derive(Default)]
struct Received {
    count: Mutex<u64>,
    changed: Condvar,
}

/// A UDP server on a thread.
pub(crate) struct UdpServer {
    pub(crate) addr: SocketAddr,
    received: Arc<Received>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpServer {
    pub(crate) fn new(bind: &str, conduct: Conduct) -> Self {
        let socket = UdpSocket::bind(bind).unwrap();
        let addr = socket.local_addr().unwrap();
        // on a busy machine the server may not run for a while, and must lose nothing then
        let enlarge = |option| sys::set_option(socket.as_fd(), option, 4 << 20);
        enlarge(IntOption::RECEIVE_BUFFER_FORCE).or_else(|_| enlarge(IntOption::RECEIVE_BUFFER)).unwrap();
        let (received, is_over) = (Arc::new(Received::default()), Arc::new(AtomicBool::new(false)));
        let thread = {
            let (received, is_over) = (Arc::clone(&received), Arc::clone(&is_over));
            thread::spawn(move || serve_udp(&socket, conduct, &received, &is_over))
        };
        Self { addr, received, is_over, thread: Some(thread) }
    }

    /// Number of received datagrams so far.
    pub(crate) fn count(&self) -> u64 {
        *self.received.count.lock().unwrap()
    }

    /// Waits until this many datagrams have arrived.
    pub(crate) fn wait_for(&self, datagrams: u64) {
        let received = &self.received;
        let count = received.count.lock().unwrap();
        let patience = Duration::from_secs(20);
        let (count, _) =
            received.changed.wait_timeout_while(count, patience, |count| *count < datagrams).unwrap();
        assert!(*count >= datagrams, "only {count} datagrams came");
    }
}

impl Drop for UdpServer {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// The next datagram's length and sender; `None` if none comes within the socket's timeout.
fn receive_in_time(socket: &UdpSocket, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
    match socket.recv_from(buffer) {
        Ok(datagram) => Some(datagram),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => None,
        Err(error) => panic!("{error}"),
    }
}

/// The coin of the present span: the same coins in each test, the parity of a multiple of an odd number.
fn is_heads(elapsed: Duration, span: Duration) -> bool {
    let nth = (elapsed.as_nanos() / span.as_nanos()) as u64;
    nth.wrapping_mul(0x9E37_79B9_7F4A_7C15).count_ones().is_multiple_of(2)
}

fn serve_udp(socket: &UdpSocket, conduct: Conduct, received: &Received, is_over: &AtomicBool) {
    let elsewhere = UdpSocket::bind("127.0.0.2:0").unwrap();
    socket.set_read_timeout(Some(LOOK_EVERY)).unwrap();
    let mut buffer = vec![0; 65_536];
    let mut delayed: VecDeque<(Instant, Vec<u8>, SocketAddr)> = VecDeque::new();
    let mut kept: Option<(Vec<u8>, SocketAddr)> = None;
    let (mut left, mut filled_at) = (0.0, Instant::now());
    while !is_over.load(Ordering::Relaxed) {
        while delayed.front().is_some_and(|(due, ..)| *due <= Instant::now()) {
            let (_, datagram, peer) = delayed.pop_front().unwrap();
            socket.send_to(&datagram, peer).unwrap();
        }
        let Some((len, peer)) = receive_in_time(socket, &mut buffer) else { continue };
        let nth = {
            let mut count = received.count.lock().unwrap();
            *count += 1;
            *count
        };
        received.changed.notify_all();
        let datagram = &mut buffer[..len];
        let echo = |datagram: &[u8]| assert_eq!(socket.send_to(datagram, peer).unwrap(), datagram.len());
        match conduct {
            Conduct::Stalls(pause) if nth == 1_000 => {
                thread::sleep(pause);
                echo(datagram);
            }
            Conduct::Good | Conduct::Stalls(_) => echo(datagram),
            Conduct::Carries(per_s) => {
                let now = Instant::now();
                left = f64::min(left + (now - filled_at).as_secs_f64() * per_s, per_s / 10.0);
                filled_at = now;
                if left >= 1.0 {
                    left -= 1.0;
                    echo(datagram);
                }
            }
            Conduct::Tosses(span) if is_heads(filled_at.elapsed(), span) || nth.is_multiple_of(2) => {
                echo(datagram);
            }
            Conduct::Tosses(_) => {}
            Conduct::Swaps if nth % 10 == 9 => kept = Some((datagram.to_vec(), peer)),
            Conduct::Swaps => {
                echo(datagram);
                if let Some((datagram, peer)) = kept.take() {
                    socket.send_to(&datagram, peer).unwrap();
                }
            }
            _ if nth % 10 != 0 => echo(datagram),
            Conduct::Loses => {}
            Conduct::Doubles => {
                echo(datagram);
                echo(datagram);
            }
            Conduct::Flips => {
                datagram[nth as usize / 10 % len] ^= 0x04;
                echo(datagram);
            }
            Conduct::Cuts => echo(&datagram[..len - 1]),
            Conduct::Strays => {
                elsewhere.send_to(datagram, peer).unwrap();
            }
            Conduct::Delays(pause) => {
                delayed.push_back((Instant::now() + pause, datagram.to_vec(), peer));
            }
            Conduct::Babbles => {
                echo(datagram);
                echo(b"and another thing that nobody has asked for");
            }
        }
    }
}

/// The behavior of a TCP server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TcpConduct {
    /// Echoes all bytes.
    Good,
    /// Flips a bit in each tenth message of this size.
    Flips(usize),
    /// Closes the connection in the middle of the tenth message of this size.
    HangsUp(usize),
    /// Closes each tenth connection at once.
    Shuns,
    /// Echoes a message of this size, adds bytes of its own, and waits for the end.
    Babbles(usize),
    /// Reads all bytes and never answers.
    Silent,
    /// Accepts and never reads.
    Deaf,
    /// Listens and never accepts.
    Absent,
    /// Stands still once for this long, all connections at once, after 1,000 messages of 64 bytes.
    Stalls(Duration),
    /// Echoes this many bytes over all connections, then closes all of them and stops listening.
    Dies(usize),
    /// Echoes this many bytes over all connections, then does nothing more, but still accepts.
    Freezes(usize),
}

/// Starts a TCP server that lives as long as the test process.
pub(crate) fn tcp_server(bind: &str, conduct: TcpConduct) -> SocketAddr {
    let listener = TcpListener::bind(bind).unwrap();
    let addr = listener.local_addr().unwrap();
    let echoed = Arc::new(AtomicUsize::new(0));
    thread::spawn(move || {
        if matches!(conduct, TcpConduct::Absent) {
            thread::park();
        }
        for connection in listener.incoming() {
            let echoed = Arc::clone(&echoed);
            if matches!(conduct, TcpConduct::Shuns) && echoed.fetch_add(1, Ordering::Relaxed) % 10 == 9 {
                continue;
            }
            if matches!(conduct, TcpConduct::Dies(most) if echoed.load(Ordering::Relaxed) >= most) {
                break;
            }
            // a client may end at any point; that is no error of the server
            thread::spawn(move || connection.and_then(|connection| serve_tcp(connection, conduct, &echoed)));
        }
    });
    addr
}

/// The time at which a stall of all connections ends.
static STALL_END: Mutex<Option<Instant>> = Mutex::new(None);

/// Echoes, and stands still with all other connections after 64,000 bytes.
fn stall(mut connection: TcpStream, pause: Duration, echoed: &AtomicUsize) -> io::Result<()> {
    let mut buffer = vec![0; 65_536];
    loop {
        let len = connection.read(&mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        let until = (echoed.fetch_add(len, Ordering::Relaxed) + len >= 64_000)
            .then(|| *STALL_END.lock().unwrap().get_or_insert_with(|| Instant::now() + pause));
        thread::sleep(until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now())));
        connection.write_all(&buffer[..len])?;
    }
}

fn serve_tcp(mut connection: TcpStream, conduct: TcpConduct, echoed: &AtomicUsize) -> io::Result<()> {
    connection.set_nodelay(true)?;
    match conduct {
        TcpConduct::Good | TcpConduct::Shuns => {
            let mut buffer = vec![0; 65_536];
            loop {
                match connection.read(&mut buffer)? {
                    0 => return Ok(()),
                    len => connection.write_all(&buffer[..len])?,
                }
            }
        }
        TcpConduct::Stalls(pause) => stall(connection, pause, echoed),
        TcpConduct::Babbles(bytes) => {
            let mut message = vec![0; bytes];
            connection.read_exact(&mut message)?;
            message.extend(b"and more");
            connection.write_all(&message)?;
            io::copy(&mut connection, &mut io::sink()).map(drop)
        }
        TcpConduct::Silent | TcpConduct::Deaf | TcpConduct::Absent => {
            if matches!(conduct, TcpConduct::Silent) {
                io::copy(&mut connection, &mut io::sink())?;
            }
            // holds the connection until the process ends
            loop {
                thread::park();
            }
        }
        TcpConduct::Dies(most) | TcpConduct::Freezes(most) => {
            let mut buffer = vec![0; 65_536];
            // the threads with nothing to read must notice it too
            connection.set_read_timeout(Some(LOOK_EVERY))?;
            while echoed.load(Ordering::Relaxed) < most {
                match connection.read(&mut buffer) {
                    Ok(0) => return Ok(()),
                    Ok(len) => {
                        connection.write_all(&buffer[..len])?;
                        echoed.fetch_add(len, Ordering::Relaxed);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            if matches!(conduct, TcpConduct::Freezes(_)) {
                loop {
                    thread::park();
                }
            }
            // the accepting thread waits for a connection
            TcpStream::connect(connection.local_addr()?).map(drop)
        }
        TcpConduct::Flips(bytes) | TcpConduct::HangsUp(bytes) => {
            let mut message = vec![0; bytes];
            for nth in 1_usize.. {
                connection.read_exact(&mut message)?;
                match conduct {
                    TcpConduct::Flips(_) if nth.is_multiple_of(10) => message[nth / 10 % bytes] ^= 0x40,
                    TcpConduct::HangsUp(_) if nth == 10 => {
                        return connection.write_all(&message[..bytes / 2]);
                    }
                    _ => {}
                }
                connection.write_all(&message)?;
            }
            Ok(())
        }
    }
}
