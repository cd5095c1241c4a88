//! A reader of the log, or a service manager, that reads late or never: it does not delay the server, and signals still
//! end the server.

#![allow(clippy::float_cmp, reason = "counts of whole things are exact")]

mod support;

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use support::metrics::{get, scrape, sum};
use support::server::End;
use support::strace::Strace;
use support::sys::{Confinement, Pidfd, confine};
use support::tcp::{connect, echo, expect_end};
use support::udp::UdpClient;
use support::{Launch, PATIENCE, Server, bounded, private_network, stuck, until};

const METRICS: &str = "127.0.0.1:9469";
const ARGUMENTS: [&str; 8] = [
    "--listen",
    "127.0.0.1:7",
    "--metrics",
    METRICS,
    // enough lines to fill any pipe and queue
    "--stats-interval",
    "10ms",
    "--drain-timeout",
    "1h",
];

/// Prepares a private network.
fn launch(more: &[&str]) -> Launch {
    Launch::new(&[&ARGUMENTS[..], more].concat()).env("WATCHDOG_USEC", "400000")
}

fn metrics() -> SocketAddr {
    METRICS.parse().unwrap()
}

fn target() -> SocketAddr {
    "127.0.0.1:7".parse().unwrap()
}

fn health() -> u16 {
    if TcpStream::connect(metrics()).is_ok() { get(metrics(), "/healthz").status } else { 0 }
}

fn counted(family: &str) -> f64 {
    sum(&scrape(metrics()), &format!("tubular_echo_{family}_total"), &[])
}

/// How often the service manager has received this message.
fn heard(server: &Server, message: &str) -> usize {
    let messages = server.notify.as_ref().expect("a service manager").messages.all();
    messages.iter().filter(|line| *line == message).count()
}

fn until_heard_again(server: &Server, message: &str) {
    let before = heard(server, message);
    until(&format!("{message} comes again"), || heard(server, message) > before);
}

/// Checks that the server serves both protocols. Returns an open connection, so that a drain has something to wait for.
fn serves() -> TcpStream {
    UdpClient::beside(target()).echo(target(), &[100; 100], 10);
    let mut open = connect(target());
    echo(&mut open, b"before the end");
    open
}

/// Waits for the end of the server without another signal.
fn ended(server: Server) -> End {
    assert!(server.pidfd.ends_within(PATIENCE), "the server did not end");
    let end = server.wait();
    assert_eq!(end.code, Some(0), "{:?}", end.stderr);
    end
}

/// The number of dropped lines in the log.
fn told(lines: &[String]) -> u64 {
    let lines = lines.iter().filter_map(|line| line.split_once(" lines of the log were dropped"));
    lines.map(|(before, _)| before.rsplit(' ').next().unwrap().parse::<u64>().expect("a number")).sum()
}

#[test]
#[ignore = "needs root"]
fn a_log_that_nobody_reads_holds_nothing_up() {
    private_network(|| {
        let server = launch(&[]).full_log().start();
        until("it is ready", || heard(&server, "READY=1") == 1);
        let mut open = serves();
        until("lines are dropped", || counted("log_lines_dropped") > 0.0);
        assert_eq!(health(), 200);
        until_heard_again(&server, "WATCHDOG=1");
        server.signal(libc::SIGTERM);
        expect_end(&mut open);
        until("the drain is known", || health() == 503);
        until("the end is announced", || heard(&server, "STOPPING=1") == 1);
        drop(open);
        ended(server);
    });
}

#[test]
#[ignore = "needs root"]
fn what_a_reader_of_the_log_has_missed_is_told_when_it_reads_again() {
    private_network(|| {
        let server = launch(&[]).full_log().start();
        until("it is ready", || heard(&server, "READY=1") == 1);
        until("lines are dropped", || counted("log_lines_dropped") > 0.0);
        server.log.read_on();
        // what was queued until now could take longer than the second that the last lines get
        assert!(server.log.wait_for(PATIENCE, |lines| told(lines) > 0), "nobody is told");
        let end = server.stop();
        assert_eq!(told(&end.stderr), end.counter("log_lines_dropped"));
        assert_eq!(end.counter("notifications_dropped"), 0);
    });
}

#[test]
#[ignore = "needs root"]
fn a_second_signal_ends_it_at_once_whatever_nobody_reads() {
    private_network(|| {
        let server = launch(&[]).full_log().full_manager().start();
        until("it serves", || health() == 200);
        let mut open = serves();
        server.signal(libc::SIGTERM);
        expect_end(&mut open);
        assert!(!server.pidfd.ends_within(Duration::from_millis(100)), "it waits for our FIN");
        server.signal(libc::SIGTERM);
        // except for the second that the last lines get
        let end = ended(server);
        assert_eq!(end.ready_count, 0, "nobody could hear it");
        // a connection that the end did not wait for
        drop(open);
    });
}

#[test]
#[ignore = "needs root"]
fn a_manager_that_reads_nothing_holds_nothing_up() {
    private_network(|| {
        let server = launch(&[]).ready();
        let manager = server.notify.as_ref().expect("a service manager");
        until_heard_again(&server, "WATCHDOG=1");
        manager.stand_still();
        until("messages are dropped", || counted("notifications_dropped") > 0.0);
        let warned = |lines: &[String]| lines.iter().any(|line| line.contains("(notifications_dropped)"));
        assert!(server.log.wait_for(PATIENCE, warned), "nobody is told");
        assert_eq!(health(), 200);
        let mut open = serves();
        manager.read_on();
        until_heard_again(&server, "WATCHDOG=1");

        manager.stand_still();
        server.signal(libc::SIGTERM);
        expect_end(&mut open);
        until("the drain is known", || health() == 503);
        assert_eq!(heard(&server, "STOPPING=1"), 0, "it could not be heard");
        manager.read_on();
        until("the end is announced", || heard(&server, "STOPPING=1") == 1);
        drop(open);
        let end = ended(server);
        assert!(end.counter("notifications_dropped") > 0);
        assert_eq!(end.ready_count, 1);
    });
}

#[test]
#[ignore = "needs root"]
fn a_manager_that_reads_late_hears_once_that_it_is_ready() {
    private_network(|| {
        let server = launch(&[]).full_manager().start();
        until("it serves", || health() == 200);
        drop(serves());
        let warned = |lines: &[String]| lines.iter().any(|line| line.contains("does not read READY=1"));
        assert!(server.log.wait_for(PATIENCE, warned), "nobody is told");
        assert_eq!(heard(&server, "READY=1"), 0, "it could not be heard");
        server.notify.as_ref().expect("a service manager").read_on();
        until("it is told", || heard(&server, "READY=1") == 1);
        until_heard_again(&server, "WATCHDOG=1");
        server.stop();
    });
}

/// While the manager is gone, nothing arrives. Then it listens with a new socket of the same name, and the signs of life
/// go on.
#[test]
fn a_manager_that_was_restarted_is_told_on() {
    bounded(|| {
        let name = format!("tubular-echo-test-{}-restarted", std::process::id());
        let path = std::env::temp_dir().join(name);
        let bind = || {
            let _ = fs::remove_file(&path);
            let socket = UnixDatagram::bind(&path).expect("a notify socket");
            socket.set_read_timeout(Some(PATIENCE)).expect("a patience");
            socket
        };
        let hear = |socket: &UnixDatagram, message: &str| {
            let mut text = [0; 4096];
            loop {
                let len =
                    socket.recv(&mut text).unwrap_or_else(|error| panic!("{message} never came: {error}"));
                if String::from_utf8_lossy(&text[..len]).lines().any(|line| line == message) {
                    return;
                }
            }
        };
        let manager = bind();
        let server = Launch::new(&["--listen", "127.0.0.1:0"])
            .env("WATCHDOG_USEC", "400000")
            .notify_nobody(path.to_str())
            .ready();
        hear(&manager, "READY=1");
        hear(&manager, "WATCHDOG=1");
        drop(manager);
        let manager = bind();
        hear(&manager, "WATCHDOG=1");
        server.signal(libc::SIGTERM);
        hear(&manager, "STOPPING=1");
        ended(server);
        fs::remove_file(path).expect("remove the notify socket");
    });
}

/// Sixteen sockets are more than a queue takes at a time (`net.unix.max_dgram_qlen`).
#[test]
#[ignore = "needs root"]
fn a_store_that_takes_its_time_gets_every_socket() {
    private_network(|| {
        let server = launch(&["--fd-store", "--workers", "8"]).full_manager().start();
        until("it starts", || has_thread(&server, "signals"));
        let manager = server.notify.as_ref().expect("a service manager");
        manager.read_on();
        until("it is told", || heard(&server, "READY=1") == 1);
        assert_eq!(manager.stored.lock().unwrap().len(), 16);
        server.stop();
    });
}

#[test]
#[ignore = "needs root"]
fn a_store_that_takes_nothing_is_gone_without() {
    private_network(|| {
        let server = launch(&["--fd-store", "--workers", "8"]).full_manager().start();
        until("it serves", || health() == 200);
        drop(serves());
        server.notify.as_ref().expect("a service manager").read_on();
        until("it is told", || heard(&server, "READY=1") == 1);
        assert_eq!(heard(&server, "FDSTORE=1"), 0);
        let end = server.stop();
        let warned = "16 sockets will not survive a restart: the service manager does not read";
        assert!(end.stderr.iter().any(|line| line.contains(warned)), "{:?}", end.stderr);
    });
}

fn has_thread(server: &Server, name: &str) -> bool {
    let directory = Path::new("/proc").join(server.pid().to_string()).join("task");
    let threads = fs::read_dir(directory).expect("the server's threads").filter_map(Result::ok);
    let names = threads.filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok());
    names.into_iter().any(|found| found.trim() == name)
}

/// The start waits for the store. Nothing is served yet, so there is nothing to drain.
#[test]
#[ignore = "needs root"]
fn a_signal_ends_it_before_it_is_ready() {
    private_network(|| {
        let server = launch(&["--fd-store"]).full_manager().start();
        until("it hears signals", || has_thread(&server, "signals"));
        server.signal(libc::SIGTERM);
        let end = ended(server);
        let told = |words: &str| end.stderr.iter().any(|line| line.contains(words));
        assert!(told("ended by a signal before it was ready") && !told("draining"), "{:?}", end.stderr);
        assert_eq!(end.ready_count, 0);
    });
}

/// The exit status reports the error even if the log can't.
#[test]
fn a_failed_start_ends_whoever_reads_why() {
    bounded(|| {
        let listen = &["--listen", "198.51.100.7:7"][..];
        let metrics = &["--metrics", "198.51.100.7:7", "--listen", "127.0.0.1:0"];
        for arguments in [listen, metrics] {
            let server = Launch::new(arguments).full_log().start();
            assert!(server.pidfd.ends_within(PATIENCE), "the server did not end");
            assert_eq!(server.wait().code, Some(1), "{arguments:?}");

            let server = Launch::new(arguments).full_log().start();
            server.log.read_on();
            assert!(server.pidfd.ends_within(PATIENCE), "the server did not end");
            let end = server.wait();
            let told: Vec<_> = end.stderr.iter().filter(|line| line.starts_with("error: ")).collect();
            assert!(end.code == Some(1) && told.len() == 1, "{:?}", end.stderr);
            assert!(told[0].contains("198.51.100.7:7: Cannot assign requested address"), "{told:?}");
        }
    });
}

#[test]
#[ignore = "needs root"]
fn the_end_of_a_worker_is_the_end_of_the_process_whoever_reads_why() {
    private_network(|| {
        let server = launch(&[]).full_log().full_manager().start();
        until("it serves", || health() == 200);
        let worker = server.worker_threads()[0];
        let failing = ["-e", "trace=io_uring_enter", "-e", "inject=io_uring_enter:error=EBADF"];
        let tracer = Strace::attach(worker, &failing);
        assert!(server.pidfd.ends_within(PATIENCE), "the process outlives its worker");
        drop(tracer);
        assert_eq!(server.wait().code, Some(1));
    });
}

/// `ulimit -f`: the kernel sends SIGXFSZ to a process that writes beyond the limit.
#[test]
#[ignore = "needs root"]
fn a_log_that_may_not_grow_ends_nothing() {
    private_network(|| {
        const BYTES_MAX: u64 = 4096;
        let path = std::env::temp_dir().join(format!("tubular-echo-test-{}-log", std::process::id()));
        let program = std::env::var("SERVER_UNDER_TEST").unwrap_or(env!("CARGO_BIN_EXE_tubular-echo").into());
        let mut command = Command::new(program);
        command.args(ARGUMENTS).env_clear().stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(&path).expect("a log"));
        confine(
            &mut command,
            Confinement { limits: vec![(libc::RLIMIT_FSIZE, BYTES_MAX)], denied: Vec::new() },
        );
        let mut server = command.spawn().expect("start the server");
        until("it serves", || health() == 200);
        until("the log is full", || counted("log_lines_dropped") > 3.0);
        drop(serves());
        let pidfd = Pidfd::open(server.id()).expect("pidfd_open");
        pidfd.signal(libc::SIGTERM).expect("a signal");
        assert!(pidfd.ends_within(PATIENCE), "the server did not end");
        assert_eq!(server.wait().expect("the end").code(), Some(0));
        assert_eq!(fs::metadata(&path).expect("the log").len(), BYTES_MAX);
        fs::remove_file(path).expect("remove the log");
    });
}

#[test]
fn each_signal_that_ends_a_session_drains() {
    bounded(|| {
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            let server = Server::start(&["--listen", "127.0.0.1:0", "--drain-timeout", "1h"]);
            let mut open = connect(server.tcp());
            echo(&mut open, b"before the end");
            server.signal(signal);
            expect_end(&mut open);
            drop(open);
            let end = ended(server);
            assert_eq!(end.counter("tcp_closed_drained"), 1, "signal {signal}");
        }
    });
}

/// A shell passes on the SIGHUP that it gets itself, and systemd sends one right after SIGTERM (`SendSIGHUP=`).
#[test]
fn a_hangup_after_a_signal_is_no_impatience() {
    bounded(|| {
        for first in [libc::SIGTERM, libc::SIGHUP] {
            let server = Server::start(&["--listen", "127.0.0.1:0", "--drain-timeout", "1h"]);
            let mut open = connect(server.tcp());
            echo(&mut open, b"before the end");
            server.signal(first);
            server.signal(libc::SIGHUP);
            expect_end(&mut open);
            server.signal(libc::SIGHUP);
            assert!(!server.pidfd.ends_within(Duration::from_millis(100)), "it waits for our FIN");
            server.signal(libc::SIGTERM);
            let end = ended(server);
            assert!(end.stderr.iter().any(|line| line.contains("a second signal")), "{:?}", end.stderr);
        }
    });
}

/// A blocked main thread does not prevent the end; here a debugger blocks it.
#[test]
#[ignore = "needs root"]
fn a_second_signal_needs_no_main_thread() {
    bounded(|| {
        let server = Server::start(&["--listen", "127.0.0.1:0"]);
        let main = stuck::hold(server.pid()).expect("hold the main thread");
        server.signal(libc::SIGTERM);
        assert!(!server.pidfd.ends_within(Duration::from_millis(100)), "it needs no main thread to drain");
        server.signal(libc::SIGTERM);
        // the debugger has collected its status
        assert!(server.pidfd.ends_within(PATIENCE), "the server did not end");
        main.join().expect("the end of the main thread");
    });
}

/// As with nohup(1).
#[test]
fn a_hangup_that_is_ignored_stays_ignored() {
    bounded(|| {
        let server = Launch::new(&["--listen", "127.0.0.1:0"]).ignoring(libc::SIGHUP).ready();
        server.signal(libc::SIGHUP);
        UdpClient::beside(server.udp()).echo(server.udp(), &[100; 100], 10);
        assert!(!server.pidfd.ends_within(Duration::from_millis(100)), "it heard what it should ignore");
        let end = server.stop();
        assert_eq!(end.stderr.iter().filter(|line| line.contains("draining for")).count(), 1);
    });
}
