//! If the server can't do what its options ask for, it prints one line with the reason and ends.

mod support;

use std::net::{IpAddr, TcpListener, UdpSocket};
use std::sync::{Mutex, MutexGuard, PoisonError};
use support::launch::Refusal;
use support::lines::Stored;
use support::netns::{ip, setting};
use support::sys::set_option;
use support::tcp::{connect, echo};
use support::udp::UdpClient;
use support::{Launch, bounded, private_network};

/// `IORING_REGISTER_FILES2`, which makes the table of registered files.
const REGISTER_FILES: u32 = 13;
/// `IORING_REGISTER_PBUF_RING`, the operation of `io_uring_register(2)` that came with buffer rings.
const REGISTER_BUFFER_RING: u32 = 22;

/// `IORING_REGISTER_RESTRICTIONS`, which limits the operations of a ring.
const REGISTER_RESTRICTIONS: u32 = 11;

/// `nobody` has one account of locked memory, so tests that use it take turns.
fn nobody_alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Expects this exit code, no readiness, no panic, and exactly one line that begins with `error:` and contains all of
/// these texts.
fn expect_refusal(launch: Launch, code: i32, named: &[&str]) {
    let Refusal { code: seen, stderr, ready_count } = launch.refused();
    let text = stderr.join("\n");
    assert_eq!(seen, Some(code), "the exit code; stderr:\n{text}");
    assert_eq!(ready_count, 0, "READY=1; stderr:\n{text}");
    for word in ["panicked", "backtrace", "RUST_BACKTRACE"] {
        assert!(!text.contains(word), "{word}; stderr:\n{text}");
    }
    let errors: Vec<_> = stderr.iter().filter(|line| line.starts_with("error:")).collect();
    assert_eq!(errors.len(), 1, "lines that begin `error:`; stderr:\n{text}");
    for word in named {
        assert!(errors[0].contains(word), "{word} is not named; stderr:\n{text}");
    }
}

#[test]
fn misused_arguments() {
    bounded(|| {
        expect_refusal(Launch::new(&["--no-such-flag"]), 2, &["--no-such-flag"]);
        for option in ["--listen", "--tcp", "--udp"] {
            for address in ["nonsense", "127.0.0.1", "127.0.0.1:65536", "::1:7", "[::1]", "256.0.0.1:7"] {
                expect_refusal(Launch::new(&[option, address]), 2, &[option, address]);
            }
        }
        let numbers =
            [("--workers", "0"), ("--workers", "many"), ("--workers", "-1"), ("--max-connections", "some")];
        let durations = [("--stats-interval", "soon"), ("--drain-timeout", "5 bananas")];
        for (option, value) in numbers.into_iter().chain(durations) {
            expect_refusal(Launch::new(&[&format!("{option}={value}")]), 2, &[option, value]);
        }
    });
}

#[test]
fn a_port_that_somebody_holds() {
    bounded(|| {
        for ip in ["127.0.0.1:0", "[::1]:0"] {
            let udp = UdpSocket::bind(ip).expect("bind");
            let tcp = TcpListener::bind(ip).expect("bind");
            for (option, address) in [("--udp", udp.local_addr()), ("--tcp", tcp.local_addr())] {
                let address = address.expect("getsockname").to_string();
                expect_refusal(Launch::new(&[option, &address]), 1, &[&address, "ss -lnp"]);
                expect_refusal(Launch::new(&[option, &address, "--join"]), 1, &[&address, "ss -lnp"]);
            }
        }
    });
}

#[test]
fn a_port_that_another_program_would_share() {
    bounded(|| {
        // with SO_REUSEPORT on both, each would silently get half of the traffic
        let other = UdpSocket::bind("127.0.0.1:0").expect("bind");
        set_option(&other, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1).expect("SO_REUSEPORT");
        let address = other.local_addr().expect("getsockname").to_string();
        expect_refusal(Launch::new(&["--udp", &address]), 1, &[&address, "ss -lnp"]);
    });
}

#[test]
#[ignore = "needs root"]
fn an_address_that_another_one_covers() {
    private_network(|| {
        for (all, one) in [("0.0.0.0", "127.0.0.1"), ("[::]", "[::1]")] {
            let (all, one) = (format!("{all}:7"), format!("{one}:7"));
            for (option, workers) in [("--listen", "1"), ("--tcp", "2"), ("--udp", "1")] {
                for (first, second) in [(&all, &one), (&one, &all)] {
                    let launch = Launch::new(&[option, first, option, second, "--workers", workers]);
                    let Refusal { code, stderr, .. } = launch.refused();
                    assert_eq!((code, stderr.len()), (Some(1), 1), "{stderr:?}");
                    let cure = format!("{all} covers {one}: name only one of them");
                    assert!(stderr[0].contains(&cure) && !stderr[0].contains("--join"), "{stderr:?}");
                }
            }
            // with shared ports both are served, as wanted
            Launch::new(&["--listen", &all, "--listen", &one, "--join"]).ready().stop();
        }
    });
}

#[test]
fn an_address_of_another_host() {
    bounded(|| {
        for option in ["--udp", "--tcp", "--listen"] {
            for address in ["198.51.100.7:7007", "[2001:db8::7]:7007"] {
                expect_refusal(Launch::new(&[option, address]), 1, &[address]);
            }
        }
    });
}

/// Multicast and broadcast addresses: most of them could be bound, but no reply could leave from them.
#[test]
#[ignore = "needs root"]
fn an_address_of_many_hosts() {
    private_network(|| {
        ip("link add near type veth peer name far");
        ip("address add 192.0.2.1/24 broadcast 192.0.2.255 dev near");
        ip("link set near up");
        let multicast = ["224.0.0.1", "239.1.2.3", "[ff02::1]", "[ff0e::1]", "[ff02::1%1]"];
        let broadcast = ["255.255.255.255", "127.255.255.255", "192.0.2.255"];
        let kinds = multicast.map(|host| (host, "multicast")).into_iter();
        for (host, kind) in kinds.chain(broadcast.map(|host| (host, "broadcast"))) {
            for option in ["--listen", "--udp", "--tcp", "--metrics"] {
                let address = format!("{host}:1234");
                expect_refusal(Launch::new(&[option, &address]), 1, &[&address, kind, "ip address"]);
            }
        }
        // follow the cure
        for address in ["192.0.2.1:1234", "0.0.0.0:1235"] {
            Launch::new(&["--listen", address]).ready().stop();
        }
    });
}

/// A .socket unit may have bound such an address.
#[test]
#[ignore = "needs root"]
fn a_passed_address_of_many_hosts() {
    private_network(|| {
        for address in ["224.0.0.1:1234", "127.255.255.255:1234"] {
            let socket = UdpSocket::bind(address).expect("bind");
            let passed = [Stored { name: "echo.socket".into(), descriptor: socket.into() }];
            expect_refusal(Launch::new::<&str>(&[]).passing(&passed), 1, &[address, "ip address"]);
        }
    });
}

/// Datagrams to such addresses count under their own rule, even if the kernel could send a reply from there.
#[test]
#[ignore = "needs root"]
fn a_datagram_to_many_hosts_is_counted_as_that() {
    private_network(|| {
        ip("link add near type veth peer name far");
        ip("address add 192.0.2.1/24 broadcast 192.0.2.255 dev near");
        ip("link set near up");
        ip("link set far up");
        ip("route add 224.0.0.0/4 dev near");
        let server = Launch::new(&["--udp", "0.0.0.0:1234"]).ready();
        let client = UdpClient::at("192.0.2.1".parse::<IpAddr>().unwrap());
        set_option(&client.socket, libc::SOL_SOCKET, libc::SO_BROADCAST, 1).expect("SO_BROADCAST");
        let hosts = ["192.0.2.255", "127.255.255.255", "255.255.255.255", "224.0.0.1"];
        for host in hosts {
            let target = format!("{host}:1234").parse().unwrap();
            (0..10).for_each(|_| client.send(target, b"anybody?"));
            client.send_train(target, &[0; 500], 100);
        }
        client.echo("192.0.2.1:1234".parse().unwrap(), &[100; 10], 1);
        let end = server.stop();
        assert_eq!(end.counter("udp_refused_bad_destination"), hosts.len() as u64 * 15);
        assert_eq!(end.counter("udp_datagrams_out"), 10);
    });
}

#[test]
#[ignore = "needs root"]
fn a_privileged_port() {
    private_network(|| {
        let _turn = nobody_alone();
        setting("ipv4/ip_unprivileged_port_start", "1024");
        for address in ["127.0.0.1:7", "[::1]:7"] {
            let launch = Launch::new(&["--listen", address]).unprivileged();
            expect_refusal(launch, 1, &[address, "CAP_NET_BIND_SERVICE"]);
        }
    });
}

#[test]
fn io_uring_blocked() {
    bounded(|| {
        for errno in [libc::EPERM, libc::ENOSYS] {
            let launch = Launch::new(&["--listen", "127.0.0.1:0"]).deny(libc::SYS_io_uring_setup, errno);
            expect_refusal(launch, 1, &["io_uring", "seccomp", "kernel.io_uring_disabled"]);
        }
    });
}

#[test]
fn io_uring_blocked_for_all_but_its_creation() {
    bounded(|| {
        for call in [libc::SYS_io_uring_enter, libc::SYS_io_uring_register] {
            let launch = Launch::new(&["--listen", "127.0.0.1:0"]).deny(call, libc::EPERM);
            expect_refusal(launch, 1, &["io_uring", "seccomp"]);
        }
    });
}

#[test]
fn a_registration_without_memory() {
    bounded(|| {
        for operation in [REGISTER_FILES, REGISTER_BUFFER_RING] {
            let launch = Launch::new(&["--listen", "127.0.0.1:0"]).deny_register(operation, libc::ENOMEM);
            expect_refusal(launch, 1, &["io_uring", "RLIMIT_MEMLOCK", "LimitMEMLOCK"]);
        }
    });
}

#[test]
fn a_kernel_too_old() {
    bounded(|| {
        // the kernel knows none of the flags and sizes of a ring that the server asks for
        let no_ring = Launch::new(&["--listen", "127.0.0.1:0"]).deny(libc::SYS_io_uring_setup, libc::EINVAL);
        expect_refusal(no_ring, 1, &["kernel", "6.1"]);
        let no_buffers = Launch::new(&["--listen", "127.0.0.1:0"]);
        let no_buffers = no_buffers.deny_register(REGISTER_BUFFER_RING, libc::EINVAL);
        expect_refusal(no_buffers, 1, &["kernel", "6.1"]);
    });
}

#[test]
fn a_kernel_that_can_not_restrict_a_ring_is_served_all_the_same() {
    bounded(|| {
        let launch = Launch::new(&["--listen", "127.0.0.1:0"]);
        let server = launch.deny_register(REGISTER_RESTRICTIONS, libc::EINVAL).ready();
        UdpClient::beside(server.udp()).echo(server.udp(), &[100; 10], 2);
        echo(&mut connect(server.tcp()), b"unrestricted");
        server.stop();
    });
}

/// Serves with this system call denied. Returns the warnings.
fn serves(launch: Launch) -> Vec<String> {
    let server = launch.ready();
    for _ in 0..10 {
        UdpClient::beside(server.udp()).echo(server.udp(), &[100; 10], 2);
        echo(&mut connect(server.tcp()), b"all the same");
    }
    let end = server.stop();
    end.stderr.into_iter().filter(|line| line.contains("WARN")).collect()
}

/// A seccomp filter, or another kernel, may refuse options that only help.
#[test]
fn what_is_not_needed_to_serve_costs_a_warning_at_the_most() {
    const SETSOCKOPT: libc::c_long = libc::SYS_setsockopt;
    bounded(|| {
        let launch = |more: &[&str]| Launch::new(&[&["--listen", "127.0.0.1:0"], more].concat());
        let two = &["--workers", "2"][..];
        let pinned = &["--workers", "2", "--pin"][..];
        let metrics = &["--metrics", "127.0.0.1:0"][..];
        for (launch, warning) in [
            (launch(two).deny(libc::SYS_prlimit64, libc::EPERM), "the limit of open files"),
            (launch(two).deny(libc::SYS_sched_getaffinity, libc::EPERM), ""),
            (launch(two).deny(libc::SYS_sched_getaffinity, libc::EINVAL), ""),
            (launch(&["--workers", "auto"]).deny(libc::SYS_sched_getaffinity, libc::EPERM), ""),
            (launch(pinned).deny(libc::SYS_sched_setaffinity, libc::EPERM), "--pin has no effect"),
            (launch(metrics).deny(libc::SYS_close_range, libc::ENOSYS), "close_range"),
            (launch(two).deny(libc::SYS_socketpair, libc::EPERM), "allow socketpair"),
            (launch(two).deny_second(SETSOCKOPT, libc::IPPROTO_TCP as u32, libc::EPERM), "TCP_NODELAY"),
            (launch(two).deny_second(SETSOCKOPT, libc::SOL_UDP as u32, libc::ENOPROTOOPT), "UDP_GRO"),
            (launch(&[]).deny_second(SETSOCKOPT, libc::SOL_SOCKET as u32, libc::EPERM), "SO_REUSEADDR"),
        ] {
            let warnings = serves(launch);
            let told = warnings.iter().filter(|line| line.contains(warning)).count();
            assert_eq!(told, usize::from(!warning.is_empty()), "{warning}: {warnings:?}");
        }
    });
}

#[test]
fn too_few_descriptors() {
    bounded(|| {
        let named = ["RLIMIT_NOFILE"];
        // not enough for the sockets and the ring
        let launch = Launch::new(&["--listen", "127.0.0.1:0"]).limit(libc::RLIMIT_NOFILE, 5);
        expect_refusal(launch, 1, &named);
        let launch = Launch::new(&["--listen", "127.0.0.1:0"]).limit(libc::RLIMIT_NOFILE, 16);
        expect_refusal(launch, 1, &named);
        // more sockets than descriptors
        let launch = Launch::new(&["--listen", "127.0.0.1:0", "--workers", "40"]);
        expect_refusal(launch.limit(libc::RLIMIT_NOFILE, 64), 1, &named);
        // more connections than files
        let launch = Launch::new(&["--listen", "127.0.0.1:0", "--max-connections", "100000"]);
        expect_refusal(launch.limit(libc::RLIMIT_NOFILE, 8_000), 1, &named);
    });
}

#[test]
#[ignore = "needs root"]
fn too_little_locked_memory() {
    bounded(|| {
        let _turn = nobody_alone();
        let launch = |bytes| {
            let launch = Launch::new(&["--listen", "127.0.0.1:0", "--listen", "[::1]:0", "--workers", "2"]);
            launch.unprivileged().limit(libc::RLIMIT_MEMLOCK, bytes)
        };
        // the step at which memory runs out differs, but the error gives the same advice
        for bytes in [0, 32 << 10, 64 << 10, 128 << 10] {
            expect_refusal(launch(bytes), 1, &["RLIMIT_MEMLOCK", "LimitMEMLOCK"]);
        }
    });
}

#[test]
fn too_little_of_the_address_space() {
    bounded(|| {
        let launch = |limit, bytes| Launch::new(&["--listen", "127.0.0.1:0"]).limit(limit, bytes);
        // at a buffer ring, at the memory for streams, or at another worker's
        for mib in [20, 40, 60, 80] {
            expect_refusal(
                launch(libc::RLIMIT_AS, mib << 20),
                1,
                &["`ulimit -v unlimited`", "LimitAS=infinity"],
            );
        }
        for mib in [4, 16, 40] {
            expect_refusal(
                launch(libc::RLIMIT_DATA, mib << 20),
                1,
                &["`ulimit -d unlimited`", "LimitDATA=infinity"],
            );
        }
        for limit in [libc::RLIMIT_AS, libc::RLIMIT_DATA] {
            launch(limit, libc::RLIM_INFINITY).ready().stop();
        }
    });
}

#[test]
#[ignore = "needs root"]
fn without_privileges_it_serves() {
    bounded(|| {
        let _turn = nobody_alone();
        // 8 MiB of locked memory is the default of Debian and systemd
        let launch = Launch::new(&["--listen", "127.0.0.1:0", "--listen", "[::1]:0", "--workers", "2"]);
        let server = launch.unprivileged().limit(libc::RLIMIT_MEMLOCK, 8 << 20).ready();
        for &(_, address) in server.addresses() {
            UdpClient::beside(address).echo(address, &[100; 10], 2);
            echo(&mut connect(address), b"no privilege needed");
        }
        server.stop();
    });
}
