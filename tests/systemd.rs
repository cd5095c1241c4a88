//! The server under a real systemd. Run as root: `cargo test --test systemd -- --rig` (support/rig.rs).

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use support::netns::setting;
use support::server::worker_threads_of;
use support::steer::Dispatcher;
use support::unit::{Unit, run, succeeded, systemctl};
use support::walkthrough::{DESTINATIONS, walk_through};
use support::{PATIENCE, metrics, rig, stuck, tcp, until};
use tubular_echo::check::walk::walk;
use tubular_echo::kernel::pidfd::PidFd;

/// The four registrations of the walk-through.
const REGISTER: [&str; 4] = [
    "ExecStartPost=+tubectl register-pid $MAINPID echo tcp 127.0.0.1 1234",
    "ExecStartPost=+tubectl register-pid $MAINPID echo udp 127.0.0.1 1234",
    "ExecStartPost=+tubectl register-pid $MAINPID echo tcp ::1 1234",
    "ExecStartPost=+tubectl register-pid $MAINPID echo udp ::1 1234",
];

fn main() -> ExitCode {
    rig::main(
        install,
        &[
            ("50 starts, each registered by its hook", fifty_starts),
            ("active only after READY=1", active_only_after_ready),
            ("a failing start leaves one line", failing_starts),
            ("stop in time", stop_in_time),
            ("a hangup right behind SIGTERM", hangup_behind_the_end),
            ("an idle server stays alive", idle_stays_alive),
            ("a stuck worker is replaced", stuck_worker_is_replaced),
            ("the service of dist/", service_of_dist),
            ("the sockets of dist/", sockets_of_dist),
            ("a host without IPv6, a host without IPv4", hosts_with_one_family),
            ("a start that has to be tried again and again", restarts_without_limit),
            ("the sandbox lets the server read the ports of clients", ports_of_clients),
        ],
    )
}

/// Installs the units.
fn install() {
    rig::install_dist(&[
        "tubular-echo.service",
        "tubular-echo.socket",
        "tubular-echo.service.d/tubular.conf",
    ]);
}

/// The properties of a service as in the README, and more.
fn notified<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["Type=notify", "NotifyAccess=main", "LimitCORE=0"], more].concat()
}

fn registered(dispatcher: &Dispatcher) -> usize {
    DESTINATIONS.iter().filter(|(protocol, ip)| dispatcher.sockets.has(*protocol, *ip)).count()
}

/// Every second start runs as `nobody`, whom the manager believes only because of the message's sender.
fn fifty_starts(dispatcher: &Dispatcher) -> String {
    const STARTS: usize = 50;
    let mut slowest = Duration::ZERO;
    for start in 0..STARTS {
        let user = ["User=root", "User=nobody"][start % 2];
        let workers = ["1", "2"][start / 2 % 2];
        let begun = Instant::now();
        let properties = notified(&[&[user], &REGISTER[..]].concat());
        let unit = Unit::run("start", &properties, &["tubular-echo", "--workers", workers])
            .unwrap_or_else(|error| panic!("start {start} ({user}, {workers} workers): {error}"));
        slowest = slowest.max(begun.elapsed());
        assert_eq!(registered(dispatcher), 4, "sockets registered at start {start}");
        walk_through(start as u64, 1);
        unit.stop();
        until("the sockets are gone with the server", || registered(dispatcher) == 0);
    }
    format!("{STARTS} of {STARTS} registered, slowest start {} ms", slowest.as_millis())
}

/// Without the message the manager would wait, and the hook would never run.
fn active_only_after_ready(dispatcher: &Dispatcher) -> String {
    let properties = notified(&[&["TimeoutStartSec=1s"], &REGISTER[..]].concat());
    let silent = ["env", "--unset=NOTIFY_SOCKET", "tubular-echo"];
    let refused = Unit::run("silent", &properties, &silent).err();
    assert!(refused.is_some(), "a server that does not report became active");
    let unit = Unit("silent".into());
    assert_eq!((unit.show("ActiveState").as_str(), unit.show("Result").as_str()), ("failed", "timeout"));
    assert_eq!(registered(dispatcher), 0);
    unit.forget();
    "without it the start times out".into()
}

fn failing_starts(_: &Dispatcher) -> String {
    let cases: [(&str, &[&str], &[&str], &str); 2] = [
        ("foreign", &[], &["--tcp", "192.0.2.1:1234"], "192.0.2.1:1234"),
        ("blocked", &["SystemCallFilter=~io_uring_setup:EPERM"], &[], "io_uring"),
    ];
    for (name, properties, arguments, word) in cases {
        let properties = notified(&[properties, &REGISTER[..]].concat());
        let command = [&["tubular-echo"], arguments].concat();
        assert!(Unit::run(name, &properties, &command).is_err(), "{name} became active");
        let unit = Unit(name.into());
        assert_eq!(unit.show("ActiveState"), "failed");
        assert_eq!((unit.show("Result").as_str(), unit.number("ExecMainStatus")), ("exit-code", 1));
        let lines = unit.journal();
        let is_ours = |line: &String| line.starts_with("error: ") && line.contains(word);
        // an address is missing, and the log says that the server waits
        let (_, lines): (Vec<_>, Vec<_>) =
            lines.into_iter().partition(|line| line.contains("is not there yet"));
        assert!(lines.len() == 1 && lines.iter().all(is_ours), "{name}: {lines:#?}");
        println!("    {}", lines[0]);
        unit.forget();
    }
    format!("{} of {}", cases.len(), cases.len())
}

/// As in a login scope: the drain takes no longer than without.
fn hangup_behind_the_end(_: &Dispatcher) -> String {
    const DRAIN: Duration = Duration::from_secs(1);
    let properties = notified(&["SendSIGHUP=yes"]);
    let command = ["tubular-echo", "--drain-timeout", "1s"];
    let unit = Unit::run("hangup", &properties, &command).expect("the server starts");
    let mut stream = tcp::connect("127.0.0.1:1234".parse().unwrap());
    tcp::echo(&mut stream, b"still here");
    let elapsed = unit.stop();
    let journal = Unit("hangup".into()).journal();
    let said = |words: &str| journal.iter().any(|line| line.contains(words));
    assert!(
        elapsed >= DRAIN && said("final counters") && !said("a second signal"),
        "{elapsed:?}: {journal:#?}"
    );
    format!("{} ms", elapsed.as_millis())
}

/// A client holds a connection open without using it.
fn stop_in_time(_: &Dispatcher) -> String {
    const TIMEOUT: Duration = Duration::from_secs(10);
    let properties = notified(&["TimeoutStopSec=10s"]);
    let command = ["tubular-echo", "--workers", "2", "--drain-timeout", "2s"];
    let unit = Unit::run("stop", &properties, &command).expect("the server starts");
    let mut stream = tcp::connect("127.0.0.1:1234".parse().unwrap());
    tcp::echo(&mut stream, b"still here");
    let elapsed = {
        let name = unit.0.clone();
        let elapsed = unit.stop();
        let unit = Unit(name);
        // the manager keeps a unit as failed if it had to kill it, and forgets it if it ended well
        assert_ne!(unit.show("ActiveState"), "failed", "killed: {}", unit.show("Result"));
        elapsed
    };
    assert!(elapsed < TIMEOUT, "{elapsed:?}");
    format!("{} ms with an idle connection, of {} ms", elapsed.as_millis(), TIMEOUT.as_millis())
}

fn idle_stays_alive(_: &Dispatcher) -> String {
    let properties = notified(&["WatchdogSec=2s", "Restart=on-failure"]);
    let unit =
        Unit::run("idle", &properties, &["tubular-echo", "--workers", "2"]).expect("the server starts");
    let (pid, started_us) = (unit.main_pid(), unit.number("ActiveEnterTimestampMonotonic"));
    until("the watchdog was fed beyond twice its limit", || {
        unit.number("WatchdogTimestampMonotonic") >= started_us + 4_000_000
    });
    assert_eq!((unit.main_pid(), unit.number("NRestarts")), (pid, 0));
    unit.stop();
    "WatchdogSec=2s, 4 s without traffic, no restart".into()
}

fn stuck_worker_is_replaced(_: &Dispatcher) -> String {
    const WATCHDOG: Duration = Duration::from_secs(4);
    let properties = notified(&["WatchdogSec=4s", "Restart=on-failure", "RestartSec=0"]);
    let unit =
        Unit::run("stuck", &properties, &["tubular-echo", "--workers", "2"]).expect("the server starts");
    let pid = unit.main_pid();
    let workers = worker_threads_of(pid);
    assert_eq!(workers.len(), 2, "threads named worker-N");
    let tracer = stuck::hold(workers[1]).expect("hold a worker, which needs root");
    let elapsed = until("the service runs anew", || {
        ![0, pid].contains(&unit.main_pid()) && unit.show("ActiveState") == "active"
    });
    assert_eq!(unit.number("NRestarts"), 1);
    assert!(elapsed <= 2 * WATCHDOG, "{elapsed:?}");
    tracer.join().expect("the tracer");
    tcp::echo(&mut tcp::connect("127.0.0.1:1234".parse().unwrap()), b"again");
    unit.stop();
    format!("after {:.1} s with WatchdogSec={} s", elapsed.as_secs_f32(), WATCHDOG.as_secs())
}

/// The delivered units: started by name, registered by the drop-in, sandboxed.
fn service_of_dist(dispatcher: &Dispatcher) -> String {
    succeeded(&run("systemd-analyze", &["verify", "--man=no", "tubular-echo.service"]))
        .expect("units without a mistake");
    let unit = Unit::start("tubular-echo").expect("the service starts");
    assert_eq!(registered(dispatcher), 4);
    walk_through(100, 20);

    let pid = unit.main_pid().to_string();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process's status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line of the status");
        line.split_whitespace().next().expect("a value").to_owned()
    };
    assert_ne!(field("Uid:"), "0");
    assert_eq!(field("CapBnd:"), "0000000000000000");
    assert_eq!((field("NoNewPrivs:").as_str(), field("Seccomp:").as_str()), ("1", "2"));
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("the process's limits");
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).expect("a limit");
    assert!(
        core.split_whitespace().take(2).all(|limit| limit == "0"),
        "a dump would hold peers' bytes: {core}"
    );
    let check = run("tubular-echo", &["check", &pid]);
    let check = succeeded(&check).expect("register-pid would refuse nothing");
    assert_eq!(check.matches("tubectl register-pid").count(), 4, "{check}");

    let analysis = succeeded(&run("systemd-analyze", &["security", "--no-pager", "tubular-echo.service"]));
    let analysis = analysis.expect("the manager's opinion");
    let (_, score) = analysis.rsplit_once(": ").expect("an overall level");
    let exposure: f32 = score.split_whitespace().next().unwrap().parse().expect("a number");
    assert!(exposure <= 2.0, "{analysis}");
    restarts_with_the_same_sockets(dispatcher, &unit);
    let untried: Vec<_> = unit.journal().into_iter().filter(|line| line.contains("can't be tried")).collect();
    assert!(untried.is_empty(), "{untried:?}");
    unit.stop();
    starts_where_filtered_calls_kill(dispatcher);
    format!("as DynamicUser, exposure {exposure} of at most 2.0")
}

/// The manager's store, or a .socket unit, holds the sockets. The store returns them in any order, so another socket of
/// each group may be registered.
fn restarts_with_the_same_sockets(dispatcher: &Dispatcher, unit: &Unit) {
    let served = || -> BTreeSet<u64> {
        let process = PidFd::open(unit.main_pid()).expect("the server's process");
        walk(&process).found.iter().map(|found| found.socket.cookie).collect()
    };
    let (pid, before) = (unit.main_pid(), served());
    assert!(before.len() >= 4);
    succeeded(&systemctl(&["restart", &unit.0])).expect("the service starts again");
    assert_ne!(unit.main_pid(), pid);
    assert_eq!(served(), before);
    assert_eq!(registered(dispatcher), 4);
    walk_through(300, 5);
}

/// The first connection starts the service, whose hook registers the passed sockets.
fn sockets_of_dist(dispatcher: &Dispatcher) -> String {
    const SOCKETS: &str = "tubular-echo.socket";
    succeeded(&run("systemd-analyze", &["verify", "--man=no", SOCKETS])).expect("a unit without a mistake");
    succeeded(&systemctl(&["start", SOCKETS])).expect("the sockets are there");
    assert_eq!(registered(dispatcher), 0);
    tcp::echo(&mut tcp::connect("127.0.0.1:1234".parse().unwrap()), b"wake up");
    let unit = Unit("tubular-echo".into());
    until("the hook has registered", || unit.show("ActiveState") == "active");
    assert_eq!(registered(dispatcher), 4);
    walk_through(400, 20);
    restarts_with_the_same_sockets(dispatcher, &unit);
    succeeded(&systemctl(&["stop", SOCKETS, "tubular-echo.service"])).expect("both stop");
    until("the sockets are gone", || registered(dispatcher) == 0);
    "started by a connection, registered, kept over a restart".into()
}

/// The delivered units, with their registration, on a host that lacks one family.
fn hosts_with_one_family(dispatcher: &Dispatcher) -> String {
    const FILTER: &str = "/etc/systemd/system/tubular-echo.service.d/filter.conf";
    let v4_echoes = || tcp::echo(&mut tcp::connect("127.0.0.1:1234".parse().unwrap()), b"IPv4");
    let v6_echoes = || tcp::echo(&mut tcp::connect("[::1]:1234".parse().unwrap()), b"IPv6");
    let serves = |what: &str, echoes: &dyn Fn()| {
        let before = Unit("tubular-echo".into()).journal().len();
        let unit = Unit::start("tubular-echo").unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(registered(dispatcher), 2, "{what}");
        echoes();
        let lines = unit.journal().split_off(before);
        let told = lines.iter().filter(|line| line.contains("not serving")).count();
        assert_eq!(told, 1, "{what}: {lines:#?}");
        unit.stop();
        until("the sockets are gone with the server", || registered(dispatcher) == 0);
    };
    setting("ipv6/conf/all/disable_ipv6", "1");
    serves("IPv6 switched off", &v4_echoes);

    // the same with the .socket unit, which systemd binds
    succeeded(&systemctl(&["start", "tubular-echo.socket"])).expect("the sockets are there");
    v4_echoes();
    let unit = Unit("tubular-echo".into());
    until("the hook has registered", || unit.show("ActiveState") == "active");
    assert!(registered(dispatcher) >= 2);
    assert!(unit.journal().iter().any(|line| line.contains("nothing reaches [::1]:1234")));
    succeeded(&systemctl(&["stop", "tubular-echo.socket", "tubular-echo.service"])).expect("both stop");
    setting("ipv6/conf/all/disable_ipv6", "0");
    succeeded(&run("ip", &["addr", "replace", "::1/128", "dev", "lo"])).expect("the loopback address");

    fs::write(FILTER, "[Service]\nRestrictAddressFamilies=\nRestrictAddressFamilies=AF_INET AF_UNIX\n")
        .expect("a drop-in");
    succeeded(&systemctl(&["daemon-reload"])).expect("the manager reads the units");
    serves("IPv6 filtered", &v4_echoes);
    fs::remove_file(FILTER).expect("remove the drop-in");
    succeeded(&systemctl(&["daemon-reload"])).expect("the manager reads the units");

    succeeded(&run("ip", &["addr", "del", "127.0.0.1/8", "dev", "lo"])).expect("no IPv4");
    serves("no IPv4", &v6_echoes);
    succeeded(&run("ip", &["addr", "add", "127.0.0.1/8", "dev", "lo"])).expect("IPv4 again");
    "both families registered as far as they are there".into()
}

/// A port is taken for longer than the manager's default start limit lasts: five starts in ten seconds.
fn restarts_without_limit(dispatcher: &Dispatcher) -> String {
    let holder = TcpListener::bind("127.0.0.1:1234").expect("the port is free");
    let unit = Unit("tubular-echo".into());
    assert!(Unit::start("tubular-echo").is_err(), "the port is taken");
    until("it was tried again seven times", || unit.number("NRestarts") >= 7);
    drop(holder);
    until("it serves", || unit.show("ActiveState") == "active");
    assert_eq!(registered(dispatcher), 4);
    let restarts = unit.number("NRestarts");
    assert!(unit.show("After").contains("network-online.target"));
    unit.stop();

    // a permanent error is not tried again
    fs::write("/etc/default/tubular-echo", "TUBULAR_ECHO_WORKERS=many\n").expect("settings");
    assert!(Unit::start("tubular-echo").is_err(), "wrong usage");
    let unit = Unit("tubular-echo".into());
    until("it has failed", || unit.show("ActiveState") == "failed");
    assert_eq!(unit.number("ExecMainStatus"), 2);
    fs::remove_file("/etc/default/tubular-echo").expect("remove the settings");
    unit.forget();
    format!("served after {restarts} restarts; wrong usage is told once")
}

/// A client may have the server's own port number if it is in the kernel's range for clients.
fn ports_of_clients(_: &Dispatcher) -> String {
    setting("ipv4/ip_local_port_range", "1200 1300");
    let unit = Unit::start("tubular-echo").expect("the service starts");
    let client = UdpSocket::bind("127.0.0.2:1234").expect("a port");
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    client.send_to(b"a client", "127.0.0.1:1234").expect("sent");
    client.recv(&mut [0; 64]).expect("answered");
    unit.stop();
    setting("ipv4/ip_local_port_range", "32768 60999");
    "a client on the server's port number is answered".into()
}

/// The unit answers filtered system calls with an error, and the server would ignore most of those errors. Here each
/// filtered call kills the process; pinning and metrics make the server use more calls.
fn starts_where_filtered_calls_kill(dispatcher: &Dispatcher) {
    const DROP_IN: &str = "/etc/systemd/system/tubular-echo.service.d/strict.conf";
    const STRICT: &str = "[Service]\nSystemCallErrorNumber=\nExecStart=\nExecStart=tubular-echo --workers auto --pin --metrics 127.0.0.1:9469\n";
    fs::write(DROP_IN, STRICT).expect("a drop-in");
    succeeded(&systemctl(&["daemon-reload"])).expect("the manager reads the units");
    let unit = Unit::start("tubular-echo").expect("the service starts without a filtered call");
    assert_eq!(registered(dispatcher), 4);
    walk_through(200, 5);
    let sent = metrics::sum(
        &metrics::scrape("127.0.0.1:9469".parse().unwrap()),
        "tubular_echo_sent_bytes_total",
        &[r#"label="echo""#],
    );
    assert!(sent > 0.0);
    assert_eq!(unit.number("NRestarts"), 0);
    unit.stop();
    assert_eq!(Unit("tubular-echo".into()).show("Result"), "success");
    fs::remove_file(DROP_IN).expect("remove the drop-in");
    succeeded(&systemctl(&["daemon-reload"])).expect("the manager reads the units");
}
