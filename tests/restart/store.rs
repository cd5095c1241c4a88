//! With the manager's store (`--fd-store`): the sockets survive, with their queues and registrations.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use tubular_echo::kernel::sys;

use crate::load::Load;
use crate::service::{
    NAME, clear_journal, cookies, drops, lines_with, register, restart, sockets, stored, udp_v4_sockets,
    write_service,
};
use crate::support::metrics::scrape;
use crate::support::steer::Dispatcher;
use crate::support::sys::Pidfd;
use crate::support::tcp::{connect, echo, expect_end};
use crate::support::udp::UdpClient;
use crate::support::unit::{Unit, run, succeeded};
use crate::support::{rig, until};

/// The longest time that an unoptimised process on a busy machine may make a datagram wait.
const GAP_MAX: Duration = Duration::from_millis(300);

const STORE: &str = "FileDescriptorStoreMax=64\nRestart=on-failure";

fn install(workers: usize, more: &str) {
    write_service(STORE, &format!("tubular-echo --fd-store --workers {workers} {more}"));
}

fn start(workers: usize) -> Unit {
    install(workers, "");
    Unit::start(NAME).expect("the service starts")
}

pub fn restarts(dispatcher: &Dispatcher) -> String {
    const RESTARTS: usize = 3;
    let mut figures = Vec::new();
    for workers in [1, 2] {
        let unit = start(workers);
        let registered = register(dispatcher, &unit);
        assert_eq!(stored(&unit), 4 * workers as u64);
        let load = Load::start(20_000);
        for _ in 0..RESTARTS {
            let pid = unit.main_pid();
            restart(&unit);
            assert_ne!(unit.main_pid(), pid);
            load.run_on();
        }
        let report = load.finish();
        assert_eq!(drops(&unit), 0, "dropped at the sockets");
        assert_eq!((report.lost, report.reordered), (0, 0), "of {} datagrams", report.sent);
        assert_eq!(report.exchanges.reset, 0);
        assert_eq!(cookies(dispatcher), registered, "the registrations");
        assert_eq!(stored(&unit), 4 * workers as u64);
        assert!(report.slowest <= GAP_MAX, "a silence of {:?}", report.slowest);
        unit.stop();
        figures.push(format!(
            "{workers} workers, {RESTARTS} restarts: 0 of {} lost, 0 drops, longest silence {} ms; TCP: {} \
             echoed, 0 refused, 0 reset, {} ended by FIN",
            report.sent,
            report.slowest.as_millis(),
            report.exchanges.echoed,
            report.exchanges.ended
        ));
    }
    figures.join("; ")
}

/// A killed process loses the datagrams that it had received and not answered, and no others.
pub fn kills(dispatcher: &Dispatcher) -> String {
    const KILLS: u64 = 3;
    let unit = start(1);
    let registered = register(dispatcher, &unit);
    let load = Load::start(20_000);
    for kill in 1..=KILLS {
        let pid = unit.main_pid();
        Pidfd::open(pid).expect("the main process").signal(libc::SIGKILL).expect("kill it");
        until("the service runs anew", || {
            unit.number("NRestarts") == kill && unit.show("ActiveState") == "active"
        });
        load.run_on();
    }
    let report = load.finish();
    assert_eq!(drops(&unit), 0, "dropped at the sockets");
    assert_eq!(cookies(dispatcher), registered, "the registrations");
    // two UDP sockets with 128 buffers each; the datagrams come alone
    assert!(report.lost <= KILLS * 2 * 128, "{} lost", report.lost);
    unit.stop();
    assert!(report.exchanges.reset <= KILLS, "{} connections reset", report.exchanges.reset);
    format!(
        "{KILLS} kills: {} of {} datagrams and {} of {} connections lost in hand, 0 drops, longest silence {} ms",
        report.lost,
        report.sent,
        report.exchanges.reset,
        report.exchanges.echoed,
        report.slowest.as_millis()
    )
}

pub fn worker_counts(dispatcher: &Dispatcher) -> String {
    let unit = start(1);
    let registered = register(dispatcher, &unit);
    let load = Load::start(5000);
    let mut counts = vec!["sockets by workers: 1: 1".to_owned()];
    for (workers, expected) in [(2, 2), (1, 2), (3, 3), (2, 3)] {
        install(workers, "");
        restart(&unit);
        load.run_on();
        assert_eq!(udp_v4_sockets(&unit), expected, "with {workers} workers");
        assert_eq!(stored(&unit), 4 * expected as u64);
        counts.push(format!("{workers}: {expected}"));
    }
    let report = load.finish();
    assert_eq!((report.lost, drops(&unit)), (0, 0), "of {} datagrams", report.sent);
    assert_eq!(cookies(dispatcher), registered, "the registrations");
    unit.stop();
    // one more socket in a group moves flows away from queues that are not empty
    format!("{}; 0 of {} lost, {} reordered", counts.join(", "), report.sent, report.reordered)
}

/// The manager passes stored sockets in another order than that in which they were opened. Each worker still gets what its
/// processor receives, also when a restart has added a socket, and when a restart without the option came between.
pub fn steered_by_processor(dispatcher: &Dispatcher) -> String {
    let metrics: SocketAddr = "127.0.0.1:9469".parse().unwrap();
    let turns = || {
        let samples = scrape(metrics);
        [0, 1].map(|worker| samples[&format!("tubular_echo_worker_turns_total{{worker=\"{worker}\"}}")])
    };
    let processors: [usize; 2] = *sys::processors().unwrap().first_chunk().expect("two processors");
    let share_of_worker = |worker: usize, processor| {
        let before = turns();
        let flows = move || {
            sys::pin_thread(processor).expect("sched_setaffinity");
            for _ in 0..64 {
                let target: SocketAddr = "127.0.0.1:1234".parse().unwrap();
                UdpClient::beside(target).echo(target, &[64], 1);
            }
        };
        std::thread::spawn(flows).join().expect("every datagram comes back");
        let made: Vec<f64> = turns().into_iter().zip(before).map(|(after, before)| after - before).collect();
        made[worker] / made.iter().sum::<f64>()
    };
    let install = |workers, how| install(workers, &format!("--steer {how} --metrics {metrics}"));
    install(1, "cpu");
    let unit = Unit::start(NAME).expect("the service starts");
    let registered = register(dispatcher, &unit);
    for how in ["cpu", "cpu", "hash", "cpu", "cpu"] {
        install(2, how);
        restart(&unit);
        for (worker, processor) in processors.into_iter().enumerate() {
            let share = share_of_worker(worker, processor);
            let is_steered = share > 0.8;
            assert_eq!(is_steered, how == "cpu", "{share} of the turns for processor {processor}, {how}");
        }
    }
    assert_eq!(cookies(dispatcher), registered, "the registrations");
    unit.stop();
    "5 restarts: each worker got what its processor received, but for one restart without the option".into()
}

/// The server can serve another user's socket, but can bind no other socket beside it.
pub fn another_user(_: &Dispatcher) -> String {
    clear_journal();
    let unit = start(1);
    write_service(&format!("{STORE}\nUser=nobody"), "tubular-echo --fd-store --workers 2");
    restart(&unit);
    let lines = lines_with(&unit, "1 of 2 workers serve");
    assert_eq!(lines.len(), 4, "one for each address and protocol: {lines:?}");
    let target: SocketAddr = "127.0.0.1:1234".parse().unwrap();
    UdpClient::beside(target).echo(target, &[64; 100], 1);
    assert_eq!((udp_v4_sockets(&unit), stored(&unit)), (1, 4));
    unit.stop();
    lines[0].clone()
}

/// The server still answers the queue of the socket. Then the address is free for others, and the socket is gone from
/// the store.
pub fn address_given_up(_: &Dispatcher) -> String {
    const QUEUED: usize = 5000;
    clear_journal();
    let (kept, given_up) = ("--listen 127.0.0.1:1234", "127.0.0.2:1234");
    let slow = format!("{STORE}\nRestartSec=1s");
    write_service(&slow, &format!("tubular-echo --fd-store {kept} --listen {given_up}"));
    let unit = Unit::start(NAME).expect("the service starts");
    assert_eq!(stored(&unit), 4);
    write_service(&slow, &format!("tubular-echo --fd-store {kept}"));
    // after a kill, its sockets have no process for a second
    let pidfd = Pidfd::open(unit.main_pid()).expect("the main process");
    pidfd.signal(libc::SIGKILL).expect("kill it");
    assert!(pidfd.ends_within(Duration::from_secs(5)));
    let given_up: SocketAddr = given_up.parse().unwrap();
    let client = UdpClient::beside(given_up);
    for number in 0..QUEUED {
        client.send(given_up, &number.to_le_bytes()[..number % 9]);
    }
    let mut waiting = connect(given_up);
    for number in 0..QUEUED {
        client.expect(given_up, &number.to_le_bytes()[..number % 9]);
    }
    echo(&mut waiting, b"served on, for this connection was there");
    let serves_it = || sockets(&unit).iter().any(|found| found.socket.local == given_up);
    until("the sockets are closed", || !serves_it());
    assert_eq!(stored(&unit), 2);
    UdpSocket::bind(given_up).expect("the address is free");
    let lines = lines_with(&unit, "no longer served");
    assert_eq!(lines.len(), 2, "{lines:?}");
    drop(waiting);
    unit.stop();
    format!("{QUEUED} of {QUEUED} answered that were queued, then closed: {}", lines[0])
}

/// Sockets that the store has no room for end with the process, and are drained.
pub fn too_small(_: &Dispatcher) -> String {
    clear_journal();
    write_service("FileDescriptorStoreMax=3\nEnvironment=FDSTORE=3", "tubular-echo --workers 2");
    let unit = Unit::start(NAME).expect("the service starts");
    assert_eq!(stored(&unit), 3);
    let lines = lines_with(&unit, "FileDescriptorStoreMax=");
    assert_eq!(lines.len(), 1, "{lines:?}");
    unit.stop();
    lines[0].clone()
}

/// The manager empties the store of a service that it stops.
pub fn stop_and_start(dispatcher: &Dispatcher) -> String {
    let unit = start(1);
    register(dispatcher, &unit);
    unit.stop();
    assert_eq!(cookies(dispatcher), [0; 4], "the registrations end with the sockets");
    let unit = start(1);
    assert_eq!(stored(&unit), 4);
    unit.stop();
    "the sockets and their registrations are gone".into()
}

/// The stop timeout and the watchdog are shorter than the drain, but do not cut it short.
pub fn drain_extends_the_stop(_: &Dispatcher) -> String {
    write_service(
        &format!("{STORE}\nTimeoutStopSec=1s\nWatchdogSec=1s"),
        "tubular-echo --workers 2 --drain-timeout 3s",
    );
    let unit = Unit::start(NAME).expect("the service starts");
    let mut open = connect("127.0.0.1:1234".parse().unwrap());
    echo(&mut open, b"still here");
    let begun = Instant::now();
    let elapsed = unit.stop();
    expect_end(&mut open);
    let unit = Unit(NAME.into());
    assert_eq!(unit.show("Result"), "success", "after {elapsed:?}");
    assert!((3..5).contains(&begun.elapsed().as_secs()), "{elapsed:?}");
    format!("{} ms with TimeoutStopSec=1s and WatchdogSec=1s", elapsed.as_millis())
}

/// The delivered unit with its sandbox: its own user, its small buffers, and `auto` workers.
pub fn service_of_dist(dispatcher: &Dispatcher) -> String {
    rig::install_dist(&["tubular-echo.service"]);
    succeeded(&run("systemd-analyze", &["verify", "--man=no", "tubular-echo.service"]))
        .expect("units without a mistake");
    let unit = Unit::start("tubular-echo").expect("the service starts");
    let registered = register(dispatcher, &unit);
    let sockets = sockets(&unit).len() as u64;
    assert_eq!(stored(&unit), sockets);
    // 256 datagrams fit the buffers of a user without privileges
    let load = Load::start(500);
    for _ in 0..2 {
        restart(&unit);
        load.run_on();
    }
    let report = load.finish();
    assert_eq!((report.lost, drops(&unit)), (0, 0), "of {} datagrams", report.sent);
    assert_eq!((cookies(dispatcher), stored(&unit)), (registered, sockets));
    assert_eq!(unit.number("NRestarts"), 0);
    unit.stop();
    format!("{sockets} sockets stored as DynamicUser, 2 restarts: 0 of {} lost", report.sent)
}
