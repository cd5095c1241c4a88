//! The descriptor table of a ready server, as `tubectl register-pid` and a unit's `ExecStartPost=` find it.

mod support;

use std::collections::HashSet;
use std::fs;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{OwnedFd, RawFd};
use std::thread;
use std::time::Duration;
use support::launch::Launch;
use support::random::Random;
use support::server::Protocol;
use support::sys::{self, Pidfd};
use support::tcp::{connect, echo, expect_end};
use support::udp::UdpClient;
use support::{Server, bounded, until};
use tubular_echo::kernel::ring::FileTable;

/// `register-pid` gives up after this many closed descriptors in a row.
const CLOSED_IN_A_ROW_MAX: usize = 32;

/// The first descriptor that is not stdin, stdout or stderr.
const FIRST: RawFd = 3;

/// The walk's view of one descriptor.
struct Listening {
    number: RawFd,
    protocol: Protocol,
    address: SocketAddr,
    socket: OwnedFd,
}

/// Walks the process's descriptors from 0, as `register-pid` does, and returns the sockets that it would take: TCP in
/// LISTEN, UDP without a peer. Like register-pid, it stops at any error except ENOTSOCK.
fn walk(process: &Pidfd) -> Vec<Listening> {
    let mut found = Vec::new();
    let mut closed = 0;
    for number in 0.. {
        let copy = match process.copy_descriptor(number) {
            Ok(copy) => copy,
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => {
                closed += 1;
                if closed == CLOSED_IN_A_ROW_MAX {
                    break;
                }
                continue;
            }
            Err(error) => panic!("descriptor {number}: {error}"),
        };
        closed = 0;
        let option = |name| sys::option(&copy, libc::SOL_SOCKET, name);
        let protocol = match option(libc::SO_PROTOCOL) {
            Ok(libc::IPPROTO_TCP) => Protocol::Tcp,
            Ok(libc::IPPROTO_UDP) => Protocol::Udp,
            Ok(_) => continue,
            Err(error) if error.raw_os_error() == Some(libc::ENOTSOCK) => continue,
            Err(error) => panic!("descriptor {number} would abort the walk: {error}"),
        };
        let taken = match protocol {
            Protocol::Tcp => option(libc::SO_ACCEPTCONN).unwrap() == 1,
            Protocol::Udp => !sys::has_peer(&copy),
        };
        if taken {
            let address = sys::local_address(&copy).expect("getsockname");
            found.push(Listening { number, protocol, address, socket: copy });
        }
    }
    found
}

/// Starts a server on both loopback addresses and checks everything that must be true of its sockets.
fn check(workers: usize) {
    let workers_text = workers.to_string();
    let server =
        Server::start(&["--listen", "127.0.0.1:0", "--listen", "[::1]:0", "--workers", &workers_text]);
    let found = walk(&server.pidfd);

    let count = 4 * workers;
    let numbers: Vec<_> = found.iter().map(|listening| listening.number).collect();
    let first_numbers: Vec<_> = (FIRST..FIRST + count as RawFd).collect();
    assert_eq!(numbers, first_numbers, "the listening sockets are the first descriptors, without gaps");

    for (protocol, address) in server.addresses() {
        let same = found.iter().filter(|l| (l.protocol, l.address) == (*protocol, *address)).count();
        assert_eq!(same, workers, "sockets for {protocol:?} {address}");
    }

    let identities: HashSet<_> =
        found.iter().map(|listening| sys::socket_identity(&listening.socket).expect("SO_COOKIE")).collect();
    assert_eq!(identities.len(), found.len(), "a socket is in the table twice");

    for Listening { number, protocol, address, socket } in &found {
        let option = |level, name| sys::option(socket, level, name).expect("getsockopt");
        // without SO_REUSEPORT, register-pid calls a second socket of the same address an error; a server with only one
        // socket lets no other process join
        let shared = i32::from(workers > 1);
        assert_eq!(option(libc::SOL_SOCKET, libc::SO_REUSEPORT), shared, "SO_REUSEPORT on {number}");
        // if two UDP sockets have SO_REUSEADDR, the second one gets all traffic
        let reuse_address = i32::from(*protocol == Protocol::Tcp);
        assert_eq!(option(libc::SOL_SOCKET, libc::SO_REUSEADDR), reuse_address, "SO_REUSEADDR on {number}");
        if address.is_ipv6() {
            assert_eq!(option(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY), 1, "IPV6_V6ONLY on {number}");
        }
        match protocol {
            // accepted connections inherit it
            Protocol::Tcp => assert_eq!(option(libc::IPPROTO_TCP, libc::TCP_NODELAY), 1, "on {number}"),
            // the server asks for 4 MiB; the kernel reports twice the size, and may allow less
            Protocol::Udp => {
                let allowed: i32 =
                    fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap().trim().parse().unwrap();
                let wanted = 2 * allowed.min(4 << 20);
                assert!(option(libc::SOL_SOCKET, libc::SO_RCVBUF) >= wanted, "SO_RCVBUF on {number}");
            }
        }
    }

    no_descriptor_is_a_mere_path(&server);
    server.stop();
}

/// One `O_PATH` descriptor would abort the walk. proc(5) shows the flags in octal.
fn no_descriptor_is_a_mere_path(server: &Server) {
    let directory = format!("/proc/{}/fdinfo", server.pid());
    let mut seen = 0;
    for entry in fs::read_dir(directory).expect("the descriptor table") {
        let path = entry.expect("a descriptor").path();
        let information = fs::read_to_string(&path).expect("what a descriptor is");
        let flags = information.lines().find_map(|line| line.strip_prefix("flags:")).expect("its flags");
        let flags = i32::from_str_radix(flags.trim(), 8).expect("octal flags");
        assert_eq!(flags & libc::O_PATH, 0, "O_PATH on {}", path.display());
        seen += 1;
    }
    assert!(seen > FIRST, "only {seen} descriptors seen");
}

/// Number of the process's descriptors.
fn descriptors_of(server: &Server) -> usize {
    fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("the descriptor table").count()
}

/// Checks connections, and a reply from each address, on a server whose connections are, or are not, descriptors of the
/// process.
fn serve(server: Server, ordinary: bool) {
    const CONNECTIONS: usize = 100;
    let before = descriptors_of(&server);
    let mut random = Random::new(1);
    for round in 0..3 {
        let mut streams: Vec<_> = (0..CONNECTIONS).map(|_| connect(server.tcp())).collect();
        for stream in &mut streams {
            // less than is spliced
            echo(stream, &random.bytes(10_000));
        }
        let more = if ordinary { CONNECTIONS } else { 0 };
        assert_eq!(descriptors_of(&server), before + more, "round {round}");
        for mut stream in streams {
            stream.shutdown(Shutdown::Write).expect("send a FIN");
            expect_end(&mut stream);
        }
        until("all are closed", || descriptors_of(&server) == before);
    }
    let client = UdpClient::at(server.udp().ip());
    client.echo(server.udp(), &[100; 20], 1);
    let end = server.stop();
    assert_eq!(end.counter("tcp_closed_finished"), 3 * CONNECTIONS as u64);
    assert_eq!(end.counter("tcp_open"), 0);
}

const REGISTER_FILES2: u32 = 13;
const OPTIONS: [&str; 2] = ["--listen", "127.0.0.1:0"];

#[test]
fn connections_are_no_descriptors_of_the_process_unless_the_kernel_can_not_do_without() {
    bounded(|| {
        // before Linux 6.13 the kernel closes registered files late, so nothing is registered there
        let late = FileTable::best() == FileTable::Ordinary;
        serve(Server::start(&OPTIONS), late);
        serve(Launch::new(&OPTIONS).deny_register(REGISTER_FILES2, libc::EINVAL).ready(), true);
        // without a socket pair this can't be tried
        serve(Launch::new(&OPTIONS).deny(libc::SYS_socketpair, libc::EPERM).ready(), true);
    });
}

#[test]
fn who_finds_no_descriptor_left_is_accepted_later_and_costs_no_processor() {
    bounded(|| {
        let server = Launch::new(&OPTIONS).deny_register(REGISTER_FILES2, libc::EINVAL).ready();
        // no lower number is free
        let before = sys::set_soft_limit(server.pid(), libc::RLIMIT_NOFILE, 1);
        let mut stream = connect(server.tcp());
        let used_before = sys::cpu_time_of(server.pid());
        thread::sleep(Duration::from_millis(500)); // that nothing happens meanwhile is what is looked at
        let used = sys::cpu_time_of(server.pid()).saturating_sub(used_before);
        assert!(used < Duration::from_millis(100), "{used:?} of 500 ms");
        sys::set_soft_limit(server.pid(), libc::RLIMIT_NOFILE, before);
        echo(&mut stream, b"served after all");
        drop(stream);
        let end = server.stop();
        assert_eq!(end.counter("tcp_accepted"), 1);
        assert!(end.counter("tcp_accept_errors") > 0);
    });
}

#[test]
fn one_worker() {
    bounded(|| check(1));
}

#[test]
fn three_workers() {
    bounded(|| check(3));
}
