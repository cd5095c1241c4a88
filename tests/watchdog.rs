//! Signs of life for a service manager with a watchdog (`WatchdogSec=`).

mod support;

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};
use std::{process, thread};

use support::tcp::{connect, echo};
use support::{Launch, PATIENCE, Server, bounded, stuck};

/// A server with a watchdog, and the arrival time of each sign of life.
struct Watched {
    server: Server,
    pings: Receiver<Instant>,
}

/// The number of the next notify socket of this test program.
static NEXT: AtomicU32 = AtomicU32::new(0);

impl Watched {
    /// Starts a server; `watchdog` is the time after which the manager would kill it.
    fn start(watchdog: Duration, workers: u32) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tubular-echo-test/watchdog/{}/{number}", process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("an abstract name");
        let socket = UnixDatagram::bind_addr(&address).expect("bind the notify socket");
        let (tell, pings) = mpsc::channel();
        // ends when the test no longer listens, or with the test program
        thread::spawn(move || {
            let mut message = [0; 4096];
            while let Ok(len) = socket.recv(&mut message) {
                let is_ping =
                    String::from_utf8_lossy(&message[..len]).lines().any(|line| line == "WATCHDOG=1");
                if is_ping && tell.send(Instant::now()).is_err() {
                    return;
                }
            }
        });
        let workers = workers.to_string();
        let server = Launch::new(&["--listen", "127.0.0.1:0", "--workers", &workers])
            .notify_nobody(Some(&format!("@{name}")))
            .env("WATCHDOG_USEC", &watchdog.as_micros().to_string())
            .ready();
        Self { server, pings }
    }

    /// Waits for the next sign of life.
    fn ping(&self) -> Instant {
        self.pings.recv_timeout(PATIENCE).expect("a sign of life")
    }

    /// The longest time between two signs of life, from the last one before `disturb` to the first one after it.
    fn longest_gap(&self, disturb: impl FnOnce(&Server)) -> Duration {
        let mut before = self.ping();
        disturb(&self.server);
        let ended = Instant::now();
        let mut longest = Duration::ZERO;
        while before <= ended {
            let now = self.ping();
            longest = longest.max(now - before);
            before = now;
        }
        longest
    }
}

/// A serving server is far from the watchdog's limit, with and without traffic.
#[test]
fn signs_of_life_come_far_more_often_than_they_must() {
    const WATCHDOG: Duration = Duration::from_secs(4);
    const PINGS: usize = 20;
    bounded(|| {
        let idle = Watched::start(WATCHDOG, 4);
        let busy = Watched::start(WATCHDOG, 1);
        let mut connection = connect(busy.server.tcp());
        for watched in [&idle, &busy] {
            let mut before = watched.ping();
            for _ in 0..PINGS {
                echo(&mut connection, b"busy");
                let now = watched.ping();
                assert!(now - before < WATCHDOG / 4, "{:?} between two signs of life", now - before);
                before = now;
            }
        }
        drop(connection);
        idle.server.stop();
        busy.server.stop();
    });
}

/// The server survives a stall of nine tenths of the time, at any point between two checks: of one worker among
/// several, and of the whole process.
#[test]
#[ignore = "needs root"]
fn a_stall_that_ends_in_time_is_no_end() {
    const WATCHDOG: Duration = Duration::from_secs(6);
    const STALL: Duration = Duration::from_millis(5400);
    /// How long after a sign of life the stalls begin, in hundredths of the time.
    const PHASES: [u32; 4] = [0, 2, 4, 7];
    bounded(|| {
        let survive = |phase: u32, stall: fn(&Server)| {
            let watched = Watched::start(WATCHDOG, 2);
            let gap = watched.longest_gap(|server| {
                thread::sleep(WATCHDOG / 100 * phase);
                stall(server);
            });
            assert!(gap < WATCHDOG, "{gap:?} between two signs of life, phase {phase}");
            // a check that comes just after the beginning of the stall still finds a turn from before it
            assert!(gap + WATCHDOG / 10 >= STALL, "the stall did nothing: {gap:?}");
            watched.server.stop();
        };
        let hold_worker = |server: &Server| {
            stuck::hold_for(server.worker_threads()[1], STALL).expect("hold a worker");
        };
        let hold_process = |server: &Server| {
            server.pause();
            thread::sleep(STALL);
            server.resume();
        };
        thread::scope(|scope| {
            for phase in PHASES {
                scope.spawn(move || survive(phase, hold_worker));
                scope.spawn(move || survive(phase, hold_process));
            }
        });
    });
}

/// If a worker stands still for longer, no sign of life comes.
#[test]
#[ignore = "needs root"]
fn a_worker_that_stands_ends_the_signs_of_life() {
    const WATCHDOG: Duration = Duration::from_secs(2);
    bounded(|| {
        let watched = Watched::start(WATCHDOG, 2);
        let gap = watched.longest_gap(|server| {
            stuck::hold_for(server.worker_threads()[0], WATCHDOG * 3 / 2).expect("hold a worker");
        });
        assert!(gap > WATCHDOG, "{gap:?} between two signs of life of a server with a stuck worker");
        watched.server.stop();
    });
}
