//! The refusals of `tubular-echo check`. If the process follows the advice, the refusal is gone.

use std::fs::File;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::socket::{
    self, AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, setsockopt, sockopt,
};

use super::support::holder::Holder;
use super::support::netns::Netns;
use super::support::{Server, private_network};

const SERVER: &str = env!("CARGO_BIN_EXE_tubular-echo");
const HERE: &str = "127.0.0.1:1234";

/// The exit code and the output.
fn check(mut command: Command) -> (i32, String) {
    let output = command.output().expect("run tubular-echo check");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().expect("an exit code"), String::from_utf8_lossy(&text).into_owned())
}

fn check_process(pid: u32) -> (i32, String) {
    let mut command = Command::new(SERVER);
    command.args(["check", &pid.to_string()]);
    check(command)
}

fn listener() -> OwnedFd {
    TcpListener::bind(HERE).expect("a port of a private network").into()
}

fn copy(descriptor: &OwnedFd) -> OwnedFd {
    descriptor.try_clone().expect("a copy")
}

/// A socket that is bound after `prepare`.
fn bound(kind: SockType, addr: &str, prepare: impl Fn(&OwnedFd)) -> OwnedFd {
    let addr: SocketAddr = addr.parse().expect("an address");
    let family = if addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let made = socket::socket(family, kind, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    prepare(&made);
    socket::bind(made.as_raw_fd(), &SockaddrStorage::from(addr)).expect("bind");
    made
}

/// A process with the descriptors `wrong` is refused with these words; a process with the descriptors that the message
/// asks for is not.
fn refused_and_cured(words: &str, wrong: Vec<(i32, OwnedFd)>, right: impl FnOnce() -> Vec<(i32, OwnedFd)>) {
    let holder = Holder::with(wrong);
    let (code, text) = check_process(holder.pid());
    assert!(code == 1 && text.contains(words), "exit code {code}, {words:?} in\n{text}");
    drop(holder);
    let holder = Holder::with(right());
    let (code, text) = check_process(holder.pid());
    assert!(code == 0 && !text.contains("refused"), "exit code {code}, after {words:?}:\n{text}");
}

#[test]
#[ignore = "needs root"]
fn descriptors_that_are_refused() {
    private_network(|| {
        let one = listener();
        refused_and_cured(
            "refused: a duplicate of fd 3; close one of the two",
            vec![(3, copy(&one)), (5, copy(&one))],
            || vec![(3, one)],
        );
        let path = || File::options().read(true).custom_flags(libc::O_PATH).open("/").expect("a path");
        let one = listener();
        refused_and_cured(
            "close it or open it without O_PATH",
            vec![(3, copy(&one)), (7, path().into())],
            || vec![(3, one), (7, File::open("/").expect("a directory").into())],
        );
        let one = listener();
        refused_and_cured("open listening sockets before anything else", vec![(35, copy(&one))], || {
            vec![(3, one)]
        });
        let silent = bound(SockType::Stream, HERE, |_| {});
        refused_and_cured("refused: bound, but not in LISTEN", vec![(3, copy(&silent))], || {
            socket::listen(&silent, Backlog::MAXCONN).expect("listen");
            vec![(3, silent)]
        });
        let connected = UdpSocket::bind(HERE).expect("bind");
        connected.connect("127.0.0.1:9").expect("connect");
        refused_and_cured(
            "register-pid takes UDP sockets without a peer",
            vec![(3, connected.into())],
            || vec![(3, UdpSocket::bind(HERE).expect("bind").into())],
        );
        let dual = TcpListener::bind("[::]:1234").expect("bind").into();
        refused_and_cured("set IPV6_V6ONLY before bind, and bind IPv4 on its own", vec![(3, dual)], || {
            let alone = bound(SockType::Stream, "[::]:1234", |socket| {
                setsockopt(socket, sockopt::Ipv6V6Only, &true).expect("IPV6_V6ONLY");
            });
            socket::listen(&alone, Backlog::MAXCONN).expect("listen");
            vec![(3, alone), (4, TcpListener::bind("0.0.0.0:1234").expect("bind").into())]
        });
        let reusing = || {
            bound(SockType::Datagram, HERE, |socket| {
                setsockopt(socket, sockopt::ReuseAddr, &true).expect("SO_REUSEADDR");
            })
        };
        refused_and_cured(
            "set SO_REUSEPORT on both or close one",
            vec![(3, reusing()), (4, reusing())],
            || {
                let sharing = || {
                    bound(SockType::Datagram, HERE, |socket| {
                        setsockopt(socket, sockopt::ReusePort, &true).expect("SO_REUSEPORT");
                    })
                };
                vec![(3, sharing()), (4, sharing())]
            },
        );
        refused_and_cured("refused: no sockets", Vec::new(), || vec![(3, listener())]);
    });
}

#[test]
#[ignore = "needs root"]
fn processes_that_are_refused() {
    private_network(|| {
        let elsewhere = Netns::new();
        let holder = elsewhere.run(|| Holder::with(vec![(3, listener())]));
        let (code, text) = check_process(holder.pid());
        let place = format!("/proc/{}/ns/net", holder.pid());
        assert!(code == 1 && text.contains(&format!("tubectl -netns {place}")), "{text}");
        assert!(std::fs::exists(place).expect("proc"), "the namespace that is named");
        let (code, text) = elsewhere.run(|| check_process(holder.pid()));
        assert!(code == 0, "in the process's network: {text}");

        let holder = Holder::with(vec![(3, listener())]);
        let program = File::open(SERVER).expect("the server");
        let unprivileged = || {
            // executed by descriptor, because `nobody` may not be able to reach the file by its name
            let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
            command.args(["check", &holder.pid().to_string()]).current_dir("/");
            command
        };
        let mut as_nobody = unprivileged();
        as_nobody.uid(65_534).gid(65_534);
        let (code, text) = check(as_nobody);
        assert!(code == 1 && text.contains("run this, and tubectl, as root"), "{text}");
        assert_eq!(check(unprivileged()).0, 0, "as root");
        drop(holder);

        let server = Server::start(&["--listen", HERE]);
        let (code, text) = check_process(server.worker_threads()[0]);
        assert!(
            code == 1 && text.contains("is it the number of a running process, not of a thread?"),
            "{text}"
        );
        let mut itself = Command::new("sh");
        itself.args(["-c", &format!("exec {SERVER} check $$")]);
        let (code, text) = check(itself);
        assert!(code == 1 && text.contains("that is this very command; name the server's process"), "{text}");
        assert_eq!(check_process(server.pid()).0, 0, "the server's process");
        server.stop();
    });
}
