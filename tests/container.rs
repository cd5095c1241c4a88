//! The parts of dist/Containerfile, tested without a container engine: the static programs run alone in a directory, as
//! nobody in a user namespace, under dist/seccomp.json. `ci/container` builds them and sets `STATIC_DIRECTORY`.

mod support;

use std::ffi::c_int;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use support::container::{Allowed, Call};
use support::lines::{Lines, collect};
use support::sys::Pidfd;
use support::{PATIENCE, container, metrics, private_network};

const PROFILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/dist/seccomp.json");
const IO_URING: [&str; 3] = ["io_uring_setup", "io_uring_enter", "io_uring_register"];

/// The default address of the image.
fn image_addresses() -> String {
    let text =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/dist/Containerfile")).expect("the recipe");
    let value = text.lines().find_map(|line| line.strip_prefix("ENV TUBULAR_ECHO_LISTEN="));
    value.expect("the addresses").to_owned()
}

fn allowed() -> Vec<Allowed> {
    let text = fs::read_to_string(PROFILE).expect("the profile");
    container::allowed(&serde_json::from_str(&text).expect("JSON"))
}

/// The system calls of the profile by number, except these.
fn calls_but(but: &[&str]) -> Vec<Call> {
    let numbers = container::numbers();
    let kept = allowed().into_iter().filter(|call| !but.contains(&call.name.as_str()));
    kept.filter_map(|call| Some((*numbers.get(&call.name)?, call.first_argument))).collect()
}

/// A directory with the programs and the two random devices that every container has, and nothing else. It is removed
/// at the end.
struct Root(PathBuf);

impl Root {
    fn new(test: &str) -> Option<Self> {
        let Some(programs) = std::env::var_os("STATIC_DIRECTORY") else {
            println!("not asked for: ci/container builds the static programs and names them");
            return None;
        };
        let root = std::env::temp_dir().join(format!("tubular-echo-container-{test}-{}", std::process::id()));
        fs::create_dir(&root).expect("a directory");
        for program in ["tubular-echo", "blaster"] {
            fs::copy(PathBuf::from(&programs).join(program), root.join(program)).expect("a static program");
        }
        fs::create_dir(root.join("dev")).expect("a directory for devices");
        for (device, minor) in [("random", "8"), ("urandom", "9")] {
            let path = root.join("dev").join(device);
            let made = Command::new("mknod").args(["-m", "666"]).arg(path).args(["c", "1", minor]).status();
            assert!(made.expect("run mknod").success());
        }
        Some(Self(root))
    }

    /// Ends the program at any call that the profile does not name. A container would only refuse the call.
    fn command(&self, program: &str, but: &[&str], otherwise: u32) -> Command {
        container::contained(&self.0, program, &calls_but(but), otherwise)
    }

    fn blaster(&self, arguments: &[&str]) {
        let judge = ["--quiet", "--fail-if", "ok<1000,lost>0,corrupted>0,misdirected>0"];
        let mut command = self.command("blaster", &[], libc::SECCOMP_RET_KILL_PROCESS);
        let output = command.args(arguments).args(judge).output().expect("run blaster");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.success(), "blaster {arguments:?}: {}: {said}", output.status);
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A server that ends with its test.
struct Contained {
    child: Child,
    log: Arc<Lines>,
}

impl Contained {
    fn start(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("start the server");
        let (log, _) = collect(child.stderr.take().expect("its log"));
        Self { child, log }
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        println!("---- the server's stderr\n{}\n----", self.log.all().join("\n"));
    }
}

#[test]
#[ignore = "needs root"]
fn both_programs_work_where_nothing_else_is() {
    private_network(|| {
        let Some(root) = Root::new("works") else { return };
        let mut command = root.command("tubular-echo", &[], libc::SECCOMP_RET_KILL_PROCESS);
        command.env("TUBULAR_ECHO_LISTEN", image_addresses()).args([
            "--workers=auto",
            "--pin",
            "--busy-poll=20us",
            "--stats-interval=1s",
            "--metrics=127.0.0.1:9469",
        ]);
        let mut server = Contained::start(command);
        let ready = |lines: &[String]| lines.iter().any(|line| line.ends_with(" ready"));
        assert!(
            server.log.wait_for(PATIENCE, ready),
            "{:?}: {:?}",
            server.child.try_wait(),
            server.log.all()
        );

        let untried = |lines: &[String]| lines.iter().any(|line| line.contains("can't be tried"));
        assert!(!untried(&server.log.all()), "{:?}", server.log.all());

        root.blaster(&["udp", "127.0.0.1:1234", "[::1]:1234", "--count", "1000"]);
        root.blaster(&[
            "udp",
            "127.0.0.0/8:1234",
            "--spray",
            "--gso",
            "8",
            "--flows",
            "8",
            "--count",
            "2000",
        ]);
        root.blaster(&["udp", "127.0.0.1:1234", "--rate", "2k", "--duration", "1s", "--threads", "2"]);
        root.blaster(&["tcp", "127.0.0.1:1234", "[::1]:1234", "--count", "1000", "--size", "20k"]);
        let samples = metrics::scrape("127.0.0.1:9469".parse().unwrap());
        let sent = metrics::sum(&samples, "tubular_echo_sent_datagrams_total", &[r#"domain="ipv4""#]);
        assert!(sent >= 2000.0, "{samples:#?}");
        assert_eq!(metrics::get("127.0.0.1:9469".parse().unwrap(), "/healthz").status, 200);

        let pidfd = Pidfd::open(server.child.id()).expect("the server's process");
        pidfd.signal(libc::SIGTERM).expect("send a signal");
        assert!(pidfd.ends_within(PATIENCE), "the server did not end");
        let status = server.child.wait().expect("how it ended");
        assert!(status.success(), "{status}");
    });
}

/// Docker's own profile refuses the three calls of io_uring.
#[test]
#[ignore = "needs root"]
fn without_io_uring_the_error_names_the_profile() {
    private_network(|| {
        let Some(root) = Root::new("refused") else { return };
        let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
        let output = root.command("tubular-echo", &IO_URING, refused).output().expect("run the server");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && text.contains("seccomp"), "{}: {text}", output.status);
    });
}

/// Modules of /etc/nsswitch.conf belong to another C library.
#[test]
#[ignore = "needs root"]
fn the_static_blaster_says_that_it_looks_up_no_names() {
    private_network(|| {
        let Some(root) = Root::new("names") else { return };
        let url = "http://localhost:9469";
        for arguments in [
            ["udp", "localhost:7", "--count", "1"].as_slice(),
            &["tcp", "127.0.0.1:7", "--count", "1", "--server-metrics", url],
        ] {
            let mut command = root.command("blaster", &[], libc::SECCOMP_RET_KILL_PROCESS);
            let output = command.args(arguments).output().expect("run blaster");
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
            let words = "localhost is not looked up, because this blaster is a static program: `getent ahosts localhost`";
            assert!(text.contains(words), "{arguments:?}: {text}");
        }
    });
}

#[test]
fn the_profile_names_system_calls_that_exist_each_once() {
    let (numbers, mut calls) = (container::numbers(), allowed());
    assert!(IO_URING.iter().all(|name| calls.iter().any(|call| call.name == **name)));
    for Allowed { name, .. } in &calls {
        // some architectures lack old calls
        let known = numbers.contains_key(name) || cfg!(not(target_arch = "x86_64"));
        assert!(known, "{name} is no system call");
    }
    calls.sort();
    let twice = calls.windows(2).find(|pair| {
        pair[0].name == pair[1].name && (pair[0].first_argument.is_none() || pair[0] == pair[1])
    });
    assert_eq!(twice, None);
}

/// The profile refuses sockets that the programs do not use, such as raw packets and the kernel's cryptography.
#[test]
fn the_profile_allows_the_families_of_sockets_that_are_used() {
    const USED: [c_int; 4] = [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX, libc::AF_NETLINK];
    const OTHERS: [c_int; 6] =
        [libc::AF_PACKET, libc::AF_ALG, libc::AF_VSOCK, libc::AF_KEY, libc::AF_BLUETOOTH, libc::AF_XDP];
    /// An errno that socket(2) never returns.
    const REFUSED: c_int = libc::ENOTBLK;
    let errno = |socket: Result<OwnedFd, io::Error>| socket.err().and_then(|error| error.raw_os_error());
    for socket in container::sockets(&USED, &calls_but(&[]), REFUSED) {
        assert_ne!(errno(socket), Some(REFUSED));
    }
    for (family, socket) in OTHERS.iter().zip(container::sockets(&OTHERS, &calls_but(&[]), REFUSED)) {
        assert_eq!(errno(socket), Some(REFUSED), "family {family}");
    }
}
