//! `--steer cpu`: the worker of the processor on which the kernel receives gets the datagram or the connection. Over the
//! loopback device, the kernel receives on the sender's processor.

mod support;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::iter;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::lines::Stored;
use support::netns::{Netns, ip, receive_on};
use support::random::Random;
use support::server::Protocol::{Tcp, Udp};
use support::steered::{Family, Steered, User};
use support::udp::UdpClient;
use support::{Launch, Server, bounded, metrics, private_network, tcp};
use tubular_echo::kernel::sys::{self, IntOption};

const LISTEN: [&str; 6] = ["--listen", "127.0.0.1:0", "--listen", "[::1]:0", "--metrics", "127.0.0.1:0"];

/// The processors of the first two workers.
fn processors() -> [usize; 2] {
    *sys::processors().expect("sched_getaffinity").first_chunk().expect("these tests need two processors")
}

/// Does something on one processor.
fn on<T: Send>(processor: usize, action: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let pinned = || {
            sys::pin_thread(processor).expect("sched_setaffinity");
            action()
        };
        scope.spawn(pinned).join().unwrap_or_else(|failure| std::panic::resume_unwind(failure))
    })
}

/// A field of each worker thread's status (proc(5)), in the order of the workers.
fn workers(server: &Server, field: &str) -> Vec<String> {
    let mut workers: Vec<(String, String)> = Vec::new();
    for thread in server.worker_threads() {
        let text =
            fs::read_to_string(format!("/proc/{}/task/{thread}/status", server.pid())).expect("a status");
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.expect("a field").trim().to_owned()
        };
        workers.push((value("Name"), value(field)));
    }
    workers.sort();
    workers.into_iter().map(|(_, value)| value).collect()
}

/// The turns of each worker.
fn turns(server: &Server) -> Vec<f64> {
    let samples = metrics::scrape(metrics::address_of(server));
    let of_worker =
        |worker: usize| samples[&format!("tubular_echo_worker_turns_total{{worker=\"{worker}\"}}")];
    (0..server.worker_threads().len()).map(of_worker).collect()
}

/// The workers that an action keeps busy. It wakes a worker at least once for each flow and each connection. All workers
/// also turn now and then without traffic.
fn busy(server: &Server, action: impl FnOnce()) -> Vec<usize> {
    let before = turns(server);
    action();
    let made: Vec<f64> =
        turns(server).into_iter().zip(before).map(|(after, before)| after - before).collect();
    let all: f64 = made.iter().sum();
    (0..made.len()).filter(|&worker| made[worker] > all / 5.0).collect()
}

/// Sixteen flows of single datagrams and trains, from one processor.
fn datagrams(processor: usize, target: SocketAddr) {
    on(processor, || {
        for _ in 0..16 {
            let client = UdpClient::beside(target);
            client.echo(target, &[0, 1, 64, 1200], 2);
            let train = [7; 10 * 100];
            client.send_train(target, &train, 100);
            for datagram in train.chunks(100) {
                client.expect(target, datagram);
            }
        }
    });
}

/// Sixteen connections from one processor.
fn connections(processor: usize, target: SocketAddr) {
    on(processor, || {
        for _ in 0..16 {
            tcp::echo(&mut tcp::connect(target), b"whose is this?");
        }
    });
}

/// Each worker gets everything that comes on its processor, and nothing else.
fn assert_steered(server: &Server, targets: &[(support::server::Protocol, SocketAddr)]) {
    for (worker, processor) in processors().into_iter().enumerate() {
        for &(protocol, target) in targets {
            let load = if protocol == Tcp { connections } else { datagrams };
            let served_by = busy(server, || load(processor, target));
            assert_eq!(served_by, [worker], "{protocol:?} {target} from processor {processor}");
        }
    }
}

/// Both workers get something from one processor.
fn assert_by_hash(server: &Server, targets: &[(support::server::Protocol, SocketAddr)]) {
    for &(protocol, target) in targets {
        let load = || {
            // with 64 connections or flows one of two workers is left out once in billions of times
            for _ in 0..4 {
                (if protocol == Tcp { connections } else { datagrams })(processors()[0], target);
            }
        };
        assert_eq!(busy(server, load), [0, 1], "{protocol:?} {target}");
    }
}

#[test]
fn a_worker_gets_what_its_processor_receives() {
    bounded(|| {
        let server = Server::start(&[&LISTEN[..], &["--workers", "2", "--steer", "cpu"]].concat());
        assert_eq!(workers(&server, "Cpus_allowed_list"), processors().map(|number| number.to_string()));
        assert_steered(&server, server.addresses());
        server.stop();
    });
}

#[test]
fn without_it_the_hash_chooses() {
    bounded(|| {
        let server = Server::start(&[&LISTEN[..], &["--workers", "2", "--pin"]].concat());
        assert_by_hash(&server, server.addresses());
        server.stop();
    });
}

/// Two datagrams of a flow, sent one after the other: the first one from the first processor, on which nothing else runs then
/// until a reply has come or `patience` is over; the second one from the other processor. The order of their replies.
fn order_of_replies(target: SocketAddr, patience: Duration) -> [u8; 2] {
    let client = UdpClient::beside(target);
    let (sent, answered) = (AtomicBool::new(false), AtomicBool::new(false));
    let [first, second] = processors();
    thread::scope(|scope| {
        scope.spawn(|| {
            on(first, || {
                support::sys::run_first().expect("SCHED_FIFO, which needs root");
                client.send(target, &[1]);
                let begun = Instant::now();
                sent.store(true, Ordering::Release);
                while !answered.load(Ordering::Acquire) && begun.elapsed() < patience {
                    std::hint::spin_loop();
                }
            });
        });
        on(second, || {
            while !sent.load(Ordering::Acquire) {
                std::hint::spin_loop();
            }
            client.send(target, &[2]);
            let earlier = client.receive();
            answered.store(true, Ordering::Release);
            [earlier, client.receive()].map(|arrival| arrival.payload[0])
        })
    })
}

/// Behind a dispatcher only one socket of the group is registered, and all ports lead to it. The reply sockets belong to
/// other groups.
#[test]
#[ignore = "needs root"]
fn behind_a_dispatcher_the_processor_chooses_too() {
    private_network(|| {
        let options = ["--workers", "2", "--steer", "cpu", "--metrics", "127.0.0.1:0"];
        let steered = Steered::start(User::Root, &options);
        let bound = [(Udp, "127.0.0.1:1234".parse().unwrap()), (Udp, "[::1]:1234".parse().unwrap())];
        for family in [Family::V4, Family::V6] {
            let mut random = Random::new(22);
            let mut pairs = Vec::new();
            for _ in 0..20 {
                pairs.push((Udp, family.pair(&mut random, 20_000..=30_000)));
            }
            assert_steered(&steered.server, &pairs);
            assert_steered(&steered.server, &bound);
        }
        assert!(steered.stop(&[]).counter("udp_reply_sockets_made") > 0);
    });
}

/// The worker of the first processor can't run, so that of the second one answers before it.
#[test]
#[ignore = "needs root"]
fn a_flow_that_changes_its_processor_may_be_answered_in_another_order() {
    private_network(|| {
        let server = Server::start(&["--listen", "127.0.0.1:0", "--workers", "2", "--steer", "cpu"]);
        assert_eq!(order_of_replies(server.udp(), Duration::from_millis(900)), [2, 1]);
        server.stop();
    });
}

#[test]
#[ignore = "needs root"]
fn by_the_hash_a_flow_keeps_its_order_on_all_processors() {
    private_network(|| {
        let server = Server::start(&["--listen", "127.0.0.1:0", "--workers", "2", "--pin"]);
        for _ in 0..8 {
            assert_eq!(order_of_replies(server.udp(), Duration::from_millis(20)), [1, 2]);
        }
        server.stop();
    });
}

/// Datagrams of one flow, 64 of them in flight. Each comes back once.
fn one_flow(target: SocketAddr, count: u32) {
    let client = UdpClient::at([10, 9, 0, 1]);
    let mut outstanding = HashSet::new();
    for number in 0..count + 64 {
        if number < count {
            client.send(target, &number.to_be_bytes());
            outstanding.insert(number.to_be_bytes().to_vec());
        }
        if number >= 64 {
            let arrival = client.receive();
            assert_eq!(arrival.from, target);
            assert!(outstanding.remove(&arrival.payload), "{:?} is no reply, or came twice", arrival.payload);
        }
    }
    assert!(outstanding.is_empty());
}

/// As when `ethtool -X` or irqbalance moves queues: the kernel receives one flow on the one processor, then on the other.
#[test]
#[ignore = "needs root"]
fn while_a_flow_changes_its_processor_nothing_is_lost() {
    private_network(|| {
        let clients = Netns::new();
        Netns::cable_with_queues("near", "far", &clients, 2);
        ip("address add 10.9.0.2/24 dev near");
        ip("link set near up");
        clients.run(|| {
            ip("address add 10.9.0.1/24 dev far");
            ip("link set far up");
        });
        let listen = ["--listen", "10.9.0.2:0", "--metrics", "127.0.0.1:0", "--workers", "2"];
        let server = Server::start(&[&listen[..], &["--steer", "cpu"]].concat());
        let target = server.udp();
        let (before, mut changes) = (turns(&server), 0);
        thread::scope(|scope| {
            let load = scope.spawn(|| clients.run(|| one_flow(target, 20_000)));
            while !load.is_finished() {
                receive_on("near", &[processors()[changes % 2]]);
                changes += 1;
            }
        });
        let made: Vec<f64> =
            iter::zip(turns(&server), before).map(|(after, before)| after - before).collect();
        assert!(changes > 4 && made.iter().all(|&turns| turns > 20.0), "{changes} changes, turns: {made:?}");
        assert_eq!(server.stop().counter("udp_datagrams_in"), 20_000);
    });
}

/// Two sockets of each protocol at one address, in the order in which they were opened. The program of an earlier process
/// is attached, which lets the first ones receive everything from the first processor.
fn opened_by_another_process() -> (Vec<OwnedFd>, SocketAddr) {
    // a port that is free for UDP may be taken for TCP
    let (sockets, addr) = (0..100).find_map(|_| open_group().ok()).expect("a port that is free for both");
    let first_processor = [processors()[0]];
    for first in [0, 2] {
        sys::receive_by_processor(sockets[first].as_fd(), &first_processor)
            .expect("SO_ATTACH_REUSEPORT_CBPF");
    }
    (sockets, addr)
}

fn open_group() -> io::Result<(Vec<OwnedFd>, SocketAddr)> {
    let mut addr: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let mut sockets = Vec::new();
    for protocol in [sys::Protocol::Tcp, sys::Protocol::Tcp, sys::Protocol::Udp, sys::Protocol::Udp] {
        let socket = sys::socket(protocol, addr)?;
        sys::set_option(socket.as_fd(), IntOption::REUSE_PORT, 1)?;
        sys::bind(socket.as_fd(), addr)?;
        if protocol == sys::Protocol::Tcp {
            sys::listen(socket.as_fd(), 100)?;
        }
        addr = sys::local_addr(socket.as_fd())?;
        sockets.push(socket);
    }
    Ok((sockets, addr))
}

/// Starts a server with these sockets. `order` says which socket is passed when, and by which name.
fn with_passed(
    order: [usize; 4],
    name: impl Fn(usize, SocketAddr) -> String,
    options: &[&str],
) -> (Server, SocketAddr) {
    let (sockets, addr) = opened_by_another_process();
    let passed = order.map(|place| Stored {
        name: name(place, addr),
        descriptor: sockets[place].try_clone().expect("a duplicate"),
    });
    let listen = addr.to_string();
    let mut arguments = vec!["--workers", "2", "--metrics", "127.0.0.1:0"];
    if passed[0].name.starts_with("stored-") {
        arguments.extend(["--listen", &listen]);
    }
    arguments.extend(options);
    (Launch::new(&arguments).passing(&passed).ready(), addr)
}

fn stored_name(place: usize, addr: SocketAddr) -> String {
    let protocol = if place < 2 { "tcp" } else { "udp" };
    format!("stored-{protocol}-{}#{}", addr.to_string().replace(':', "_"), place % 2)
}

/// systemd passes the sockets of its store in another order than that in which they were stored.
#[test]
fn stored_sockets_are_told_apart_by_their_names() {
    bounded(|| {
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 2, 0, 3]] {
            let (server, addr) = with_passed(order, stored_name, &["--steer", "cpu"]);
            assert_steered(&server, &[(Udp, addr), (Tcp, addr)]);
            server.stop();
        }
    });
}

#[test]
fn a_units_sockets_have_the_order_of_the_unit() {
    bounded(|| {
        let name = |_, _| "echo.socket".to_owned();
        let (server, addr) = with_passed([0, 1, 2, 3], name, &["--steer", "cpu"]);
        assert_steered(&server, &[(Udp, addr), (Tcp, addr)]);
        server.stop();
    });
}

/// A server without the option undoes what an earlier one has set.
#[test]
fn the_hash_chooses_again_after_a_restart_without_the_option() {
    bounded(|| {
        let (server, addr) = with_passed([0, 1, 2, 3], stored_name, &[]);
        assert_by_hash(&server, &[(Udp, addr), (Tcp, addr)]);
        server.stop();
    });
}

/// Versions before this option have stored no numbers.
#[test]
fn sockets_whose_order_nobody_knows_are_left_to_the_hash() {
    bounded(|| {
        let name =
            |place: usize, addr| stored_name(place, addr).split('#').next().unwrap_or_default().to_owned();
        let (server, addr) = with_passed([0, 1, 2, 3], name, &["--steer", "cpu"]);
        assert_by_hash(&server, &[(Udp, addr), (Tcp, addr)]);
        let warned = |protocol: &str| {
            format!("--steer cpu has no effect on {protocol} {addr}: the order of its stored")
        };
        let log = server.stop().stderr.join("\n");
        assert!(log.contains(&warned("udp")) && log.contains(&warned("tcp")), "{log}");
    });
}

#[test]
fn more_workers_than_processors_are_left_to_the_hash() {
    bounded(|| {
        let count = sys::processors().expect("sched_getaffinity").len();
        let start = |workers: &str| {
            Server::start(&["--listen", "127.0.0.1:0", "--steer", "cpu", "--workers", workers])
        };
        let server = start(&(count + 1).to_string());
        let addr = server.udp();
        UdpClient::beside(addr).echo(addr, &[64; 100], 4);
        let log = server.stop().stderr.join("\n");
        let cure = format!(
            "{} workers share {count} processors; lower --workers to {count}, or say auto",
            count + 1
        );
        assert!(log.contains(&cure), "{log}");
        for workers in [count.to_string(), "auto".into()] {
            let log = start(&workers).stop().stderr.join("\n");
            assert!(!log.contains("has no effect"), "{log}");
        }
    });
}

/// A filter that refuses the option costs a warning, not the start.
#[test]
fn what_the_kernel_refuses_costs_a_warning() {
    bounded(|| {
        for (options, words) in [
            (&["--steer", "cpu"][..], "serving without SO_ATTACH_REUSEPORT_CBPF"),
            (&[], "serving without SO_DETACH_REUSEPORT_BPF"),
        ] {
            let (sockets, addr) = opened_by_another_process();
            let passed = [0, 1].map(|place: usize| Stored {
                name: "echo.socket".into(),
                descriptor: sockets[place].try_clone().expect("a duplicate"),
            });
            let launch = Launch::new(&[&["--workers", "2"], options].concat()).passing(&passed);
            let denied = launch.deny_second(libc::SYS_setsockopt, libc::SOL_SOCKET as u32, libc::EPERM);
            let server = denied.ready();
            connections(processors()[0], addr);
            let log = server.stop().stderr.join("\n");
            assert!(log.contains(words), "{log}");
        }
    });
}
