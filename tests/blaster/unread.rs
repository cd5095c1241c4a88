//! A reader of blaster's output that reads late or never: signals still end blaster, and the report of the run is not
//! lost.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::misbehaving::{Conduct, UdpServer};
use crate::reports::Scratch;
use crate::support::sys::{self, Confinement, Pidfd, confine};
use crate::support::{PATIENCE, lines, until};
use crate::{BLASTER, number, stderr};

/// A running blaster. If its test ends first, it is killed.
struct Blaster {
    child: Child,
    pidfd: Pidfd,
}

fn command(flags: &str) -> Command {
    let mut command = Command::new(std::env::var("BLASTER_UNDER_TEST").unwrap_or(BLASTER.into()));
    command.args(flags.split_whitespace()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Blaster {
    fn start(mut command: Command) -> Self {
        confine(&mut command, Confinement { limits: Vec::new(), denied: Vec::new() });
        let child = command.spawn().unwrap();
        let pidfd = Pidfd::open(child.id()).unwrap();
        Self { child, pidfd }
    }

    fn signal(&self, signal: i32) {
        self.pidfd.signal(signal).unwrap();
    }

    /// Whether it handles its signals itself by now.
    fn listens(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:\t")).unwrap();
        u64::from_str_radix(blocked, 16).unwrap() & 1 << (libc::SIGTERM - 1) != 0
    }

    /// Waits for the end. Nothing may delay it.
    fn end(self) -> Output {
        assert!(self.pidfd.ends_within(PATIENCE), "it goes on");
        self.child.wait_with_output().unwrap()
    }
}

/// A full FIFO that has no reader. The file keeps both ends open.
fn full_fifo(scratch: &Scratch) -> (String, File) {
    let path = scratch.file("fifo");
    make_fifo(&path);
    let mut both = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let bytes = sys::make_pipe_small(&both);
    io::Write::write_all(&mut both, &vec![b' '; bytes]).unwrap();
    (path, both)
}

fn make_fifo(path: &str) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// A report that was written completely.
fn whole(path: &str) -> Option<Value> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

const ENDS: [i32; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

#[test]
fn a_fifo_that_nobody_opens_makes_it_deaf_to_nothing() {
    let scratch = Scratch::new("unopened");
    let fifo = scratch.file("fifo");
    make_fifo(&fifo);
    let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
    for flag in ["--json", "--hdr", "--html"] {
        for signal in ENDS {
            let blaster =
                Blaster::start(command(&format!("udp {} --duration 1h {flag} {fifo}", server.addr)));
            until("it listens", || blaster.listens());
            blaster.signal(signal);
            let output = blaster.end();
            assert_eq!(output.status.code(), Some(4), "{flag}, signal {signal}");
            assert_eq!(stderr(&output), "blaster: ended by a signal before anything was sent\n");
        }
    }
}

/// The first signal ends the run, and its report waits for its readers. After the second signal it waits no longer.
#[test]
fn a_full_pipe_makes_it_deaf_to_nothing() {
    let scratch = Scratch::new("full-pipe");
    let (fifo, _both) = full_fifo(&scratch);
    let good = scratch.file("good.json");
    let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
    let load = format!("udp {} --rate 2k --duration 1h --timeout 5s", server.addr);
    let mut sent = 0;
    for (flags, is_stdout_full) in [
        (format!("--quiet --json {fifo} --hdr {good}"), false),
        (format!("--quiet --hdr {fifo} --json {good}"), false),
        (format!("--quiet --html {fifo} --json {good}"), false),
        (format!("--json {good}"), true),
        (format!("--quiet --hdr - --json {good}"), true),
    ] {
        let mut command = command(&format!("{load} {flags}"));
        let (_reader, writer) = lines::full_pipe();
        if is_stdout_full {
            command.stdout(writer);
        }
        let blaster = Blaster::start(command);
        sent += 200;
        server.wait_for(sent);
        blaster.signal(libc::SIGINT);
        let wrote_before = |blaster: &Blaster| {
            // all other work is done before it waits for a reader
            until("the report waits for its reader", || is_waiting(blaster, "pipe_write"));
            fs::metadata(&good).map_or(0, |good| good.len())
        };
        assert!(wrote_before(&blaster) > 0 || flags.contains("--json /"), "{flags}");
        blaster.signal(libc::SIGTERM);
        let output = blaster.end();
        assert_eq!(output.status.code(), Some(1), "{flags}: {}", stderr(&output));
        assert!(stderr(&output).contains("given up after a signal: nobody reads it"), "{}", stderr(&output));
        assert!(fs::metadata(&good).unwrap().len() > 0, "{flags}: the other file is lost");
        if flags.contains(&format!("--json {good}")) {
            let report = whole(&good).expect("the other report");
            assert!(number(&report["totals"]["sent"]) >= 200 && report["ended_early"] == true, "{report}");
        }
        fs::remove_file(&good).unwrap();
        sent = server.count();
    }
}

/// Whether one of its threads waits in this function of the kernel.
fn is_waiting(blaster: &Blaster, function: &str) -> bool {
    let tasks = fs::read_dir(format!("/proc/{}/task", blaster.child.id())).unwrap().filter_map(Result::ok);
    let waits = |task: fs::DirEntry| fs::read_to_string(task.path().join("wchan")).unwrap_or_default();
    tasks.into_iter().any(|task| waits(task).contains(function))
}

/// Without a signal, a slow reader may take all the time it needs.
#[test]
fn a_reader_may_come_late() {
    let scratch = Scratch::new("late");
    let (fifo, mut both) = full_fifo(&scratch);
    let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
    let flags = format!("udp {} --count 200 --timeout 5s --quiet --json {fifo}", server.addr);
    let blaster = Blaster::start(command(&flags));
    until("the report waits for its reader", || is_waiting(&blaster, "pipe_write"));
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        // the test holds a descriptor of the other end, so that the reader never sees the end of the file
        while serde_json::from_slice::<Value>(&text).is_err() {
            let mut piece = [0; 1000];
            let bytes = both.read(&mut piece).unwrap();
            text.extend_from_slice(&piece[..bytes]);
        }
        serde_json::from_slice::<Value>(&text).unwrap()
    });
    assert_eq!(blaster.end().status.code(), Some(0));
    assert_eq!(number(&reader.join().unwrap()["totals"]["ok"]), 200);
}

/// As after the loss of a shell's terminal, or at the end of a login.
#[test]
fn each_signal_that_ends_a_session_brings_the_report() {
    let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
    let flags = format!("udp {} --rate 2k --duration 1h --timeout 5s --quiet --json -", server.addr);
    for signal in ENDS {
        let blaster = Blaster::start(command(&flags));
        server.wait_for(server.count() + 200);
        blaster.signal(signal);
        let output = blaster.end();
        assert_eq!(output.status.code(), Some(4), "signal {signal}: {}", stderr(&output));
        let report = crate::parse(&output);
        assert_eq!(report["ended_early"], true);
        assert!(number(&report["totals"]["ok"]) >= 100, "{report}");
    }
}

/// A status of its own, which --help lists. A condition that holds weighs more, and so does a report that nobody reads.
#[test]
fn a_signal_has_an_exit_status_of_its_own() {
    let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
    let load = format!("udp {} --timeout 5s --quiet", server.addr);
    for (flags, status) in [
        ("--rate 2k --duration 1h", 4),
        ("--rate 2k --duration 1h --fail-if sent>0", 3),
        ("--rate 2k --duration 1h --json /dev/full", 1),
        ("--steps 2k:1h,3k:1h", 4),
        ("--find-max --duration 100ms --rate 1k --precision 1% --repeat 100", 4),
    ] {
        let blaster = Blaster::start(command(&format!("{load} {flags}")));
        server.wait_for(server.count() + 500);
        blaster.signal(libc::SIGINT);
        let output = blaster.end();
        assert_eq!(output.status.code(), Some(status), "{flags}: {}", stderr(&output));
    }
    let help = command("--help").output().unwrap();
    assert!(String::from_utf8(help.stdout).unwrap().contains("\n  4  a signal ended it early"));
}

/// As with nohup(1).
#[test]
fn a_hangup_that_is_ignored_stays_ignored() {
    let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
    let flags = format!("udp {} --rate 2k --count 1000 --timeout 5s --quiet --json -", server.addr);
    let mut command = command(&flags);
    sys::ignore_signal(&mut command, libc::SIGHUP);
    let blaster = Blaster::start(command);
    server.wait_for(100);
    blaster.signal(libc::SIGHUP);
    let report = crate::parse(&blaster.end());
    assert_eq!((number(&report["totals"]["ok"]), &report["ended_early"]), (1000, &Value::Bool(false)));
}

/// Lines of --every, and the display on a terminal, are not worth a wait: the run ends by itself, and its report is
/// written.
#[test]
fn who_does_not_look_on_holds_up_nothing() {
    let scratch = Scratch::new("looking-on");
    let json = scratch.file("run.json");
    let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
    let load = format!("udp {} --rate 500 --duration 1s --timeout 5s --json {json}", server.addr);
    let (_reader, writer) = lines::full_pipe();
    let (_master, slave) = full_terminal();
    for (flags, stderr) in [("--every 10ms", OwnedFd::from(writer)), ("", slave)] {
        let mut command = command(&format!("{load} {flags}"));
        command.stdout(Stdio::null()).stderr(stderr);
        let output = Blaster::start(command).end();
        assert_eq!(output.status.code(), Some(0), "{flags}");
        let report = whole(&json).expect("a report");
        assert!(number(&report["totals"]["ok"]) >= 400, "{report}");
        fs::remove_file(&json).unwrap();
    }
}

/// A terminal that takes no output, as after Ctrl-S.
fn full_terminal() -> (OwnedFd, OwnedFd) {
    let (master, slave) = sys::terminal(80).unwrap();
    let mut slave = File::from(slave);
    let has_room =
        |slave: &File| sys::poll(&mut [sys::poll_entry(slave, libc::POLLOUT)], Duration::ZERO) == 1;
    while has_room(&slave) {
        io::Write::write_all(&mut slave, b"x").unwrap();
    }
    (master, slave.into())
}

/// The report is in its file before the table is read, and a second signal ends the wait for the terminal.
#[test]
fn a_terminal_that_stands_still_makes_it_deaf_to_nothing() {
    let scratch = Scratch::new("terminal");
    let json = scratch.file("run.json");
    let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
    let mut command =
        command(&format!("udp {} --rate 500 --duration 1h --timeout 5s --json {json}", server.addr));
    let (_master, slave) = full_terminal();
    command.stdout(slave.try_clone().unwrap()).stderr(slave);
    let blaster = Blaster::start(command);
    server.wait_for(100);
    blaster.signal(libc::SIGINT);
    until("the report is there", || whole(&json).is_some());
    blaster.signal(libc::SIGINT);
    assert_eq!(blaster.end().status.code(), Some(1));
}

/// Another process that shares a pipe or terminal may make it non-blocking for all that write to it.
#[test]
fn a_pipe_that_does_not_block_gets_the_whole_report() {
    let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
    let flags = format!("udp {} --count 200 --timeout 5s --quiet --json -", server.addr);
    let mut command = command(&flags);
    let (mut reader, writer) = lines::full_pipe();
    sys::make_nonblocking(&writer);
    command.stdout(writer);
    let mut blaster = Blaster::start(command);
    until("it has tried", || is_waiting(&blaster, "poll") || blaster.pidfd.ends_within(Duration::ZERO));
    let mut text = Vec::new();
    reader.read_to_end(&mut text).unwrap();
    // the bytes that had filled the pipe
    let stdout = text.split_off(text.iter().position(|byte| *byte == b'\n').unwrap());
    let output = Output { status: blaster.child.wait().unwrap(), stdout, stderr: Vec::new() };
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(number(&crate::parse(&output)["totals"]["ok"]), 200);
}

/// `ulimit -f`: the kernel sends SIGXFSZ to a process that writes beyond the limit.
#[test]
fn a_file_that_may_not_grow_costs_no_figures() {
    let scratch = Scratch::new("limit");
    let json = scratch.file("run.json");
    let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
    let mut command = command(&format!("udp {} --count 20 --timeout 5s --json {json}", server.addr));
    confine(&mut command, Confinement { limits: vec![(libc::RLIMIT_FSIZE, 1000)], denied: Vec::new() });
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stderr(&output).contains("File too large"), "{}", stderr(&output));
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("  ok                        20        100 %"), "{shown}");
}
