//! The image of dist/Containerfile, built by podman and run by runc or crun: what an engine makes of it. `ci/image`
//! builds the programs and calls this with `--engine`. Everything runs on loopback, in a network namespace of the test,
//! and in a storage of its own.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::Instant;
use std::{env, panic};

use serde_json::Value;
use support::random::payload;
use support::registry::register_pid;
use support::sys::Pidfd;
use support::udp::UdpClient;
use support::unit::succeeded;
use support::walkthrough::{DESTINATIONS, dispatcher, walk_through};
use support::{metrics, private_network, sys, tcp, until};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const IMAGE: &str = "localhost/tubular-echo";
/// Of every test: one server at a time.
const SERVER: &str = "server";
/// The limits of the hosts on which this runs may be lower than those that podman asks for by itself.
const LIMITS: [&str; 4] = ["--ulimit", "nofile=18000:18000", "--ulimit", "nproc=1000:1000"];
const STEERED: &str = "TUBULAR_ECHO_LISTEN=127.0.0.1:1234,[::1]:1234";
const METRICS: &str = "127.0.0.1:9469";
const SIGTERM_PENDING: u64 = 1 << (libc::SIGTERM - 1);

fn main() -> ExitCode {
    if !env::args().any(|argument| argument == "--engine") {
        println!("test image ... ignored, run by ci/image");
        return ExitCode::SUCCESS;
    }
    assert!(sys::is_root(), "the engine's network is the test's only if root calls it");
    let words = env::var("ENGINE").expect("ENGINE is set by ci/image");
    let engine = Engine { words: words.split(' ').map(str::to_owned).collect() };
    let cases: [(&str, Case); 6] = [
        ("the image has the programs, a user, a health check, and no shell", contents),
        ("the default profile refuses io_uring, and the error says so", default_profile),
        ("both protocols over both families, and blaster from the same image", serves),
        ("register-pid from the host", registers),
        ("the health check tells a server that turns from one that does not", health),
        ("stop drains, kill ends, and the container starts again", ends),
    ];
    for (name, case) in cases {
        let begun = Instant::now();
        let of_case = engine.clone();
        let outcome = panic::catch_unwind(|| private_network(move || case(&of_case)));
        let _ = engine.podman(&["rm", "--force", "--all"]).output();
        if outcome.is_err() {
            println!("FAILED  {name}");
            return ExitCode::FAILURE;
        }
        println!("ok  {name} ({:.1} s)", begun.elapsed().as_secs_f32());
    }
    println!("{} passed, 0 failed", cases.len());
    ExitCode::SUCCESS
}

/// podman, in the network of the calling thread.
#[derive(Clone)]
struct Engine {
    /// The program, and the arguments that choose its storage.
    words: Vec<String>,
}

type Case = fn(&Engine);

impl Engine {
    fn podman(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).args(arguments).current_dir(ROOT).stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.podman(arguments).output().expect("run the engine");
        succeeded(&output).unwrap_or_else(|why| panic!("podman {arguments:?}: {why}"))
    }

    /// The exit code and the output of a container that ends.
    fn to_its_end(&self, options: &[&str], arguments: &[&str]) -> (i32, String) {
        let run = [
            &["run", "--rm", "--no-healthcheck", "--network", "host"],
            &LIMITS[..],
            options,
            &[IMAGE],
            arguments,
        ];
        let Output { status, stdout, stderr } = self.podman(&run.concat()).output().expect("run the engine");
        (
            status.code().expect("an exit code"),
            String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned(),
        )
    }

    /// Runs blaster from the image. Every echo must be right.
    #[track_caller]
    fn blaster(&self, load: &[&str]) {
        let judge = ["--count", "1000", "--quiet", "--fail-if", "ok<1000,lost>0,corrupted>0,misdirected>0"];
        let (code, text) = self.to_its_end(
            &["--security-opt", &profile(), "--entrypoint", "/blaster"],
            &[load, &judge].concat(),
        );
        assert_eq!(code, 0, "blaster {load:?}:\n{text}");
    }

    /// Starts the server, and waits until it is ready.
    fn serve(&self, variables: &[&str]) {
        let profile = profile();
        let mut run =
            vec!["run", "--detach", "--name", SERVER, "--network", "host", "--security-opt", &profile];
        run.extend(LIMITS);
        run.extend(variables.iter().flat_map(|variable| ["--env", variable]));
        self.run(&[&run[..], &[IMAGE]].concat());
        self.is_ready(1);
    }

    /// Waits until the server has been ready so often.
    fn is_ready(&self, times: usize) {
        until("the server is ready", || {
            let output = self.podman(&["logs", SERVER]).output().expect("run the engine");
            let log = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            log.lines().filter(|line| line.ends_with(" ready")).count() == times
        });
    }

    fn inspect(&self, kind: &str, name: &str) -> Value {
        let text = self.run(&["inspect", "--type", kind, name]);
        let all: Value = serde_json::from_str(text.trim()).expect("JSON");
        all[0].clone()
    }

    /// The host's number of the server's process.
    fn pid(&self) -> u32 {
        self.inspect("container", SERVER)["State"]["Pid"].as_u64().expect("a number") as u32
    }

    /// Runs the health check once, and tells whether the server is well, and what the engine says of it.
    fn health(&self) -> (bool, String) {
        let output = self.podman(&["healthcheck", "run", SERVER]).output().expect("run the engine");
        let state = &self.inspect("container", SERVER)["State"];
        let health = [&state["Health"], &state["Healthcheck"]]
            .into_iter()
            .find_map(|health| health["Status"].as_str());
        (output.status.success(), health.unwrap_or_default().to_owned())
    }
}

fn profile() -> String {
    format!("seccomp={ROOT}/dist/seccomp.json")
}

/// A line of /proc/PID/status.
fn status(pid: u32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.expect("a line of status").trim().to_owned()
}

fn contents(engine: &Engine) {
    let config = &engine.inspect("image", IMAGE)["Config"];
    assert_eq!(config["User"], "65534:65534");
    assert_eq!(config["StopSignal"], "SIGTERM");
    let (code, text) = engine.to_its_end(&["--entrypoint", "/bin/sh"], &["-c", "true"]);
    assert_eq!(code, 127, "{text}");
    for program in ["/tubular-echo", "/blaster"] {
        let (code, text) = engine.to_its_end(&["--entrypoint", program], &["--version"]);
        assert!(code == 0 && text.ends_with(concat!(env!("CARGO_PKG_VERSION"), "\n")), "{code}: {text}");
    }
}

fn default_profile(engine: &Engine) {
    let (code, text) = engine.to_its_end(&[], &[]);
    let last = text.lines().last().unwrap_or_default();
    assert!(code == 1 && last.starts_with("error: worker 0: setting up an io_uring: "), "{code}: {text}");
    assert!(last.contains("io_uring is blocked") && last.contains("a container's default profile"), "{text}");
    // the cure that it names, and nothing else
    let (code, text) = engine.to_its_end(&["--security-opt", &profile()], &["--drain-timeout=wrong"]);
    assert_eq!(code, 2, "{text}");
    engine.serve(&[]);
}

fn serves(engine: &Engine) {
    engine.serve(&[]);
    let pid = engine.pid();
    let user = status(pid, "Uid");
    assert!(user.split_whitespace().all(|uid| uid == "65534"), "{user}");
    assert_eq!(status(pid, "CapEff").trim_start_matches('0'), "", "no capability");
    assert_eq!(status(pid, "Seccomp"), "2", "filtered");
    engine.blaster(&["udp", "127.0.0.1:1234", "[::1]:1234"]);
    engine.blaster(&["udp", "127.0.0.0/8:1234", "--spray", "--gso", "8", "--flows", "8"]);
    engine.blaster(&["tcp", "127.0.0.1:1234", "[::1]:1234", "--size", "20k"]);
    engine.blaster(&["tcp", "127.0.0.1:1234", "--mode", "connect"]);
}

fn registers(engine: &Engine) {
    engine.serve(&[STEERED, &format!("TUBULAR_ECHO_METRICS={METRICS}")]);
    let dispatcher = dispatcher();
    for (protocol, ip) in DESTINATIONS {
        register_pid(&dispatcher.sockets, engine.pid(), protocol, (ip, 1234).into())
            .unwrap_or_else(|failure| panic!("register-pid {protocol} {ip}: {failure}"));
    }
    walk_through(1, 20);
    assert_eq!(metrics::get(METRICS.parse().unwrap(), "/healthz").status, 200);
    // what is steered does not deceive the health check
    assert_eq!(engine.health(), (true, "healthy".into()));
}

fn health(engine: &Engine) {
    let timeout = "TUBULAR_ECHO_TIMEOUT=300ms";
    let metrics = format!("TUBULAR_ECHO_METRICS={METRICS}");
    for variables in [&[timeout][..], &[timeout, &metrics]] {
        engine.serve(variables);
        assert_eq!(engine.health(), (true, "healthy".into()));
        let process = Pidfd::open(engine.pid()).expect("the server");
        process.signal(libc::SIGSTOP).expect("stop it");
        // the engine's own number of failures in a row
        for _ in 0..2 {
            assert!(!engine.health().0);
        }
        assert_eq!(engine.health(), (false, "unhealthy".into()));
        process.signal(libc::SIGCONT).expect("let it go on");
        assert_eq!(engine.health(), (true, "healthy".into()));
        engine.run(&["rm", "--force", SERVER]);
    }
}

fn ends(engine: &Engine) {
    engine.serve(&[STEERED]);
    // everything that waits in queues when the signal comes, is answered
    let process = Pidfd::open(engine.pid()).expect("the server");
    let target = "127.0.0.1:1234".parse().unwrap();
    let mut connection = tcp::connect(target);
    tcp::echo(&mut connection, b"accepted");
    process.signal(libc::SIGSTOP).expect("stop it");
    let client = UdpClient::beside(target);
    let datagrams: Vec<_> = (0..50).map(|number| payload(number, 100)).collect();
    for datagram in &datagrams {
        client.send(target, datagram);
    }
    let stream = payload(0, 100_000);
    connection.write_all(&stream).expect("room in the queues");
    connection.shutdown(Shutdown::Write).expect("send a FIN");
    let mut stop: Child = engine.podman(&["stop", SERVER]).spawn().expect("run the engine");
    until("the signal waits", || {
        let pending = u64::from_str_radix(&status(engine.pid(), "ShdPnd"), 16).expect("a mask");
        pending & SIGTERM_PENDING != 0
    });
    process.signal(libc::SIGCONT).expect("let it go on");
    for datagram in &datagrams {
        client.expect(target, datagram);
    }
    let mut echo = Vec::new();
    connection.read_to_end(&mut echo).expect("no reset");
    assert!(echo == stream, "{} bytes of {}", echo.len(), stream.len());
    assert!(stop.wait().expect("podman stop").success());
    assert_eq!(engine.inspect("container", SERVER)["State"]["ExitCode"], 0, "it ended by itself");

    engine.run(&["start", SERVER]);
    engine.is_ready(2);
    engine.blaster(&["udp", "127.0.0.1:1234", "[::1]:1234"]);
    let process = Pidfd::open(engine.pid()).expect("the server");
    engine.run(&["kill", SERVER]);
    assert!(process.ends_within(support::PATIENCE));
    until("the engine knows", || engine.inspect("container", SERVER)["State"]["ExitCode"] == 137);
    engine.run(&["start", SERVER]);
    engine.is_ready(3);
    engine.run(&["restart", SERVER]);
    engine.is_ready(4);
    engine.blaster(&["tcp", "127.0.0.1:1234", "[::1]:1234"]);
}
