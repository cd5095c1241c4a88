//! `tubular-echo check` predicts the outcome of `tubectl register-pid`: both look at the same processes, and they must
//! agree.

mod support;

use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use support::holder::Holder;
use support::registry::{Failure, Registered, register_pid};
use support::steer::{Binding, Dispatcher};
use support::{netns, private_network, sys};
use tubular_echo::check::walk::Refusal;
use tubular_echo::kernel::sys::Protocol;

const HERE: &str = "127.0.0.1:1234";

fn here() -> SocketAddr {
    HERE.parse().unwrap()
}

fn listener() -> TcpListener {
    TcpListener::bind(HERE).expect("a port of a private network")
}

/// Registers the TCP socket of the process with a dispatcher of this network.
fn register(holder: &Holder) -> Result<Registered, Failure> {
    let bindings = [Binding::new(Protocol::Tcp, "127.0.0.128/25", 0)];
    let dispatcher = Dispatcher::attach(&bindings).expect("attach to a network namespace, which needs root");
    let outcome = register_pid(&dispatcher.sockets, holder.pid(), Protocol::Tcp, here());
    assert_eq!(dispatcher.sockets.has(Protocol::Tcp, here().ip()), outcome.is_ok() || is_duplicate(&outcome));
    outcome
}

fn is_duplicate(outcome: &Result<Registered, Failure>) -> bool {
    matches!(outcome, Err(Failure::Refused(Refusal::Duplicate { .. })))
}

/// The output of `tubular-echo check`, and its exit code.
fn check(arguments: &[&str]) -> (String, i32) {
    let output = Command::new(env!("CARGO_BIN_EXE_tubular-echo")).arg("check").args(arguments).output();
    said(output.expect("run tubular-echo check"))
}

fn said(output: std::process::Output) -> (String, i32) {
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (text, output.status.code().expect("an exit code"))
}

#[track_caller]
fn check_refuses(holder: &Holder, why: &str) {
    let (text, code) = check(&[&holder.pid().to_string()]);
    assert!(code == 1 && text.contains(why), "exit code {code}, and no {why:?} in\n{text}");
}

#[test]
#[ignore = "needs root"]
fn a_listener_registers_and_the_lines_say_how() {
    private_network(|| {
        let holder = Holder::with(vec![(3, listener().into())]);
        let registered = register(&holder).expect("registered");
        // descriptors 0 to 3 are open, then 32 are closed
        assert_eq!((registered.fd, registered.calls), (3, 4 + 32));

        let pid = holder.pid().to_string();
        let (text, code) = check(&[&pid, "--label", "foo", "--prefix", "192.0.2.0/24", "--bind-port", "0"]);
        assert_eq!(code, 0, "{text}");
        assert!(text.contains("  tubectl bind foo tcp 192.0.2.0/24 0\n"), "{text}");
        assert!(text.contains(&format!("  tubectl register-pid {pid} foo tcp 127.0.0.1 1234\n")), "{text}");
    });
}

#[test]
#[ignore = "needs root"]
fn the_walk_ends_after_32_closed_descriptors() {
    private_network(|| {
        let listener = listener();
        let copy = || OwnedFd::from(listener.try_clone().unwrap());

        let reached = Holder::with(vec![(2 + 32, copy())]);
        assert_eq!(register(&reached).expect("31 closed descriptors do not end it").fd, 34);
        assert_eq!(check(&[&reached.pid().to_string()]).1, 0);

        let missed = Holder::with(vec![(2 + 33, copy())]);
        let outcome = register(&missed);
        assert!(matches!(outcome, Err(Failure::Refused(Refusal::NoSocket))), "{outcome:?}");
        check_refuses(&missed, "refused: out of reach, the walk ended before fd 35");
    });
}

#[test]
#[ignore = "needs root"]
fn one_path_only_descriptor_ends_every_registration() {
    private_network(|| {
        let path = File::options().read(true).custom_flags(libc::O_PATH).open("/").unwrap();
        let holder = Holder::with(vec![(3, listener().into()), (7, path.into())]);
        let outcome = register(&holder);
        assert!(matches!(outcome, Err(Failure::Aborted(7, _))), "{outcome:?}");
        check_refuses(&holder, "refused, every socket: the walk ends at fd 7: it is open with O_PATH");
    });
}

#[test]
#[ignore = "needs root"]
fn a_duplicated_listener_is_refused() {
    private_network(|| {
        let listener = listener();
        let duplicate = listener.try_clone().unwrap();
        let holder = Holder::with(vec![(3, listener.into()), (5, duplicate.into())]);
        let outcome = register(&holder);
        assert!(is_duplicate(&outcome), "{outcome:?}");
        check_refuses(&holder, "refused: a duplicate of fd 3");
    });
}

#[test]
#[ignore = "needs root"]
fn of_a_reuseport_group_the_first_registers() {
    private_network(|| {
        let first = listener();
        sys::set_option(&first, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1).unwrap();
        let duplicate = first.try_clone().unwrap();
        let holder = Holder::with(vec![(4, duplicate.into()), (9, first.into())]);
        assert_eq!(register(&holder).expect("a group registers").fd, 4);
        let (text, code) = check(&[&holder.pid().to_string()]);
        assert!(code == 0 && text.contains("registers with fd 4, whose"), "{text}");
    });
}

#[test]
#[ignore = "needs root"]
fn dual_stack_connected_and_silent_sockets_are_refused() {
    private_network(|| {
        let dual = Holder::with(vec![(3, TcpListener::bind("[::]:1234").unwrap().into())]);
        check_refuses(&dual, "refused: dual stack");
        let dispatcher = Dispatcher::attach(&[Binding::new(Protocol::Tcp, "2001:db8::/64", 0)]).unwrap();
        let outcome =
            register_pid(&dispatcher.sockets, dual.pid(), Protocol::Tcp, "[::]:1234".parse().unwrap());
        assert!(matches!(outcome, Err(Failure::Refused(Refusal::DualStack { fd: 3 }))), "{outcome:?}");
        drop((dual, dispatcher));

        let connected = UdpSocket::bind(HERE).unwrap();
        connected.connect("127.0.0.1:9").unwrap();
        let connected = Holder::with(vec![(3, connected.into())]);
        check_refuses(&connected, "refused: connected to 127.0.0.1:9");

        let nothing = Holder::with(Vec::new());
        let outcome = register(&nothing);
        assert!(matches!(outcome, Err(Failure::Refused(Refusal::NoSocket))), "{outcome:?}");
        check_refuses(&nothing, "refused: no sockets");
    });
}

#[test]
#[ignore = "needs root"]
fn accepted_connections_are_passed_over() {
    private_network(|| {
        let listener = listener();
        let _client = TcpStream::connect(here()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let holder = Holder::with(vec![(3, listener.into()), (4, accepted.into())]);
        assert_eq!(register(&holder).expect("registered").fd, 3);
        let (text, code) = check(&[&holder.pid().to_string()]);
        assert!(code == 0 && text.contains("1 connections and unbound sockets"), "{text}");
    });
}

#[test]
#[ignore = "needs root"]
fn another_network_namespace_is_refused() {
    private_network(|| {
        let holder = netns::Netns::new().run(|| Holder::with(vec![(3, listener().into())]));
        let outcome = register(&holder);
        assert!(matches!(outcome, Err(Failure::OtherNamespace)), "{outcome:?}");
        check_refuses(&holder, "refused: the process runs in another network namespace");
        let path = format!("tubectl -netns /proc/{}/ns/net register-pid", holder.pid());
        check_refuses(&holder, &path);
    });
}

#[test]
#[ignore = "needs root"]
fn who_may_not_look_is_told_why() {
    private_network(|| {
        let holder = Holder::with(vec![(3, listener().into())]);
        let program = File::open(env!("CARGO_BIN_EXE_tubular-echo")).unwrap();
        // executed by descriptor, because `nobody` may not be able to reach the file by its name
        let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
        command.uid(65_534).gid(65_534).current_dir("/").args(["check", &holder.pid().to_string()]);
        let (text, code) = said(command.output().unwrap());
        assert!(code == 1 && text.contains("pidfd_getfd is not permitted"), "exit code {code}\n{text}");
    });
}

#[test]
fn wrong_usage_and_missing_processes_are_told_apart() {
    assert_eq!(check(&[]).1, 2);
    assert_eq!(check(&["0"]).1, 2);
    assert_eq!(check(&["self"]).1, 2);
    // above PID_MAX_LIMIT (4 Mi), so never the number of a process
    let (text, code) = check(&["1073741824"]);
    assert!(
        code == 1 && text.contains("pidfd_open") && text.lines().count() == 1,
        "exit code {code}\n{text}"
    );
}
