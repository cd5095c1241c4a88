//! Unusual hosts: only one address family, addresses and links that appear late, few descriptors, a quota of processor
//! time, another instance that is about to end, hidden files. The server serves all that it can there.

mod support;

use std::fs;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::blaster::Report;
use support::launch::Refusal;
use support::netns::{Netns, ip, setting};
use support::server::{Protocol, worker_threads_of};
use support::tcp::{connect, echo, expect_end};
use support::udp::UdpClient;
use support::{Launch, PATIENCE, Server, bounded, lines, metrics, private_network, until};

/// Sends one datagram to each address of the server and expects its echo.
fn all_answer(server: &Server) {
    assert!(!server.addresses().is_empty());
    answer(server.addresses());
}

fn answer(addresses: &[(Protocol, SocketAddr)]) {
    for &(protocol, mut address) in addresses {
        if address.ip().is_unspecified() {
            let loopback = if address.is_ipv4() { "127.0.0.1" } else { "::1" };
            address.set_ip(loopback.parse().unwrap());
        }
        match protocol {
            Protocol::Tcp => echo(&mut connect(address), b"a stream"),
            Protocol::Udp => UdpClient::beside(address).echo(address, &[8], 1),
        }
    }
}

fn warnings(stderr: &[String]) -> Vec<&String> {
    stderr.iter().filter(|line| line.contains("WARN")).collect()
}

// A missing address family ----------------------------------------------------------------------------------

/// The addresses in the delivered files: the unit, its settings, the image, the documents.
fn shipped_addresses() -> Vec<String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files =
        ["dist/tubular-echo.service", "dist/tubular-echo.default", "dist/Containerfile", "docs/fleet.md"];
    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(directory.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let values = text.match_indices("TUBULAR_ECHO_LISTEN=").map(|(at, name)| &text[at + name.len()..]);
        let of_file: Vec<_> = values
            .map(|rest| rest.split(|c: char| c.is_whitespace() || "'\"".contains(c)).next().unwrap())
            .map(|value| value.trim_end_matches(['.', ';']).to_owned())
            .collect();
        assert!(!of_file.is_empty(), "{file} names no addresses");
        found.extend(of_file);
    }
    found.sort();
    found.dedup();
    assert!(found.iter().all(|value| value.contains('[') && value.contains(',')), "both families: {found:?}");
    found
}

/// On a host without the family `absent`, the delivered settings serve the other one with one warning. If only
/// addresses of `absent` are named, the start fails.
fn serves_the_other_family(absent: &str, prepare: fn(Launch) -> Launch) {
    for shipped in shipped_addresses() {
        let server = prepare(Launch::new::<&str>(&[]).env("TUBULAR_ECHO_LISTEN", &shipped)).ready();
        let family = |address: &SocketAddr| address.is_ipv4() == absent.starts_with("127");
        let (absent, present): (Vec<_>, Vec<_>) =
            server.addresses().iter().copied().partition(|(_, address)| family(address));
        assert!(absent.iter().all(|(_, address)| address.ip().is_unspecified()), "{absent:?}");
        assert_eq!(present.len(), 2);
        answer(&present);
        let end = server.stop();
        let warnings = warnings(&end.stderr);
        // 0.0.0.0 and [::] can be bound on a host without any address
        let any = usize::from(shipped.contains("127"));
        assert!((any..=1).contains(&warnings.len()), "{shipped}: {warnings:#?}");
        assert!(warnings.iter().all(|line| line.contains("not serving")), "{shipped}: {warnings:#?}");
    }
    let refusal = prepare(Launch::new(&["--listen", absent])).refused();
    assert_eq!(refusal.code, Some(1));
    let error = refusal.stderr.last().expect("a line");
    assert!(error.starts_with("error:") && error.contains(absent), "{error}");
}

#[test]
#[ignore = "needs root"]
fn what_is_shipped_serves_ipv4_where_ipv6_is_switched_off() {
    private_network(|| {
        setting("ipv6/conf/all/disable_ipv6", "1");
        serves_the_other_family("[::1]:1234", |launch| launch);
    });
}

#[test]
#[ignore = "needs root"]
fn what_is_shipped_serves_ipv4_where_there_is_no_ipv6_loopback() {
    private_network(|| {
        ip("addr del ::1/128 dev lo");
        for shipped in shipped_addresses().iter().filter(|shipped| shipped.contains("127")) {
            let server = Launch::new::<&str>(&[]).env("TUBULAR_ECHO_LISTEN", shipped).ready();
            all_answer(&server);
            assert_eq!(warnings(&server.stop().stderr).len(), 1);
        }
    });
}

#[test]
#[ignore = "needs root"]
fn what_is_shipped_serves_ipv4_where_ipv6_is_filtered() {
    private_network(|| {
        serves_the_other_family("[::1]:1234", |launch| launch.without_family(libc::AF_INET6));
    });
}

#[test]
#[ignore = "needs root"]
fn what_is_shipped_serves_ipv6_where_ipv4_is_filtered() {
    private_network(|| {
        serves_the_other_family("127.0.0.1:1234", |launch| launch.without_family(libc::AF_INET));
    });
}

#[test]
#[ignore = "needs root"]
fn a_named_address_of_a_missing_family_is_an_error() {
    private_network(|| {
        let launch = Launch::new(&["--listen=127.0.0.1:1234", "--listen=[2001:db8::1]:1234"]);
        let refusal = launch.without_family(libc::AF_INET6).refused();
        let error = refusal.stderr.last().expect("a line");
        assert!(error.contains("[2001:db8::1]:1234") && error.contains("the other one"), "{error}");
    });
}

// An address that appears late ------------------------------------------------------------------------------

const LATE: &str = "[2001:db8:1::1]:1234";

/// A log line that says that the server waits for an address.
fn is_waiting(line: &str) -> bool {
    line.contains("is not there yet")
}

fn wait_until_it_waits(server: &Server) {
    assert!(
        server.log.wait_for(PATIENCE, |lines| lines.iter().any(|line| is_waiting(line))),
        "{:?}",
        server.log.all()
    );
}

fn wait_until_ready(server: &mut Server) {
    let ready = |lines: &[String]| lines.iter().any(|line| line.ends_with(" ready"));
    assert!(server.log.wait_for(PATIENCE, ready), "{:?}", server.log.all());
    server.read_addresses();
}

/// A cable with both ends up.
fn cable(near: &str, far: &str, other: &Netns) {
    Netns::cable(near, far, other);
    ip(&format!("link set {near} up"));
    other.run(|| ip(&format!("link set {far} up")));
}

#[test]
#[ignore = "needs root"]
fn an_address_that_comes_late_is_waited_for() {
    private_network(|| {
        let other = Netns::new();
        cable("near0", "far0", &other);
        let mut server =
            Launch::new(&["--listen=127.0.0.1:1234", &format!("--listen={LATE}"), "--workers=2"]).start();
        wait_until_it_waits(&server);
        ip("addr add 2001:db8:1::1/64 dev near0 nodad");
        wait_until_ready(&mut server);
        assert_eq!(server.addresses().len(), 4);
        all_answer(&server);
        let end = server.stop();
        assert_eq!(end.stderr.iter().filter(|line| is_waiting(line)).count(), 1, "told once");
    });
}

/// For a second, the kernel checks whether another host has the address.
#[test]
#[ignore = "needs root"]
fn a_tentative_address_is_waited_for() {
    private_network(|| {
        let other = Netns::new();
        cable("near0", "far0", &other);
        until("the link is up", || {
            fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap().contains("near0")
        });
        ip("addr add 2001:db8:1::1/64 dev near0");
        let server = Launch::new(&["--listen", LATE, "--metrics", "[2001:db8:1::1]:9469"]).ready();
        all_answer(&server);
        let answer = metrics::get("[2001:db8:1::1]:9469".parse().unwrap(), "/healthz");
        assert_eq!(answer.status, 200);
        server.stop();
    });
}

#[test]
#[ignore = "needs root"]
fn metrics_wait_for_their_address_too() {
    private_network(|| {
        let other = Netns::new();
        cable("near0", "far0", &other);
        let mut server = Launch::new(&["--listen=127.0.0.1:1234", "--metrics=[2001:db8:1::1]:9469"]).start();
        let listens = "the datapath's socket is there";
        until(listens, || {
            fs::read_to_string(format!("/proc/{}/net/udp", server.pid())).unwrap().lines().count() > 1
        });
        ip("addr add 2001:db8:1::1/64 dev near0 nodad");
        wait_until_ready(&mut server);
        assert_eq!(metrics::get("[2001:db8:1::1]:9469".parse().unwrap(), "/healthz").status, 200);
        server.stop();
    });
}

#[test]
#[ignore = "needs root"]
fn a_mistyped_address_is_told_within_seconds() {
    private_network(|| {
        let begun = Instant::now();
        let Refusal { code, stderr, ready_count } =
            Launch::new(&["--listen=127.0.0.1:1234", "--listen=192.0.2.1:1234", "--listen=192.0.2.2:1234"])
                .refused();
        let elapsed = begun.elapsed();
        assert_eq!((code, ready_count), (Some(1), 0));
        assert!(elapsed > Duration::from_secs(4) && elapsed < Duration::from_secs(10), "{elapsed:?}");
        assert_eq!(stderr.iter().filter(|line| is_waiting(line)).count(), 1, "{stderr:#?}");
        let error = stderr.last().expect("a line");
        assert!(error.starts_with("error:") && error.contains("192.0.2.1:1234"), "{error}");
    });
}

#[test]
#[ignore = "needs root"]
fn who_waits_for_an_address_hears_signals() {
    private_network(|| {
        for arguments in [["--listen", LATE], ["--metrics", LATE]] {
            let server = Launch::new(&arguments).start();
            let waits = || {
                // the server blocks SIGTERM as soon as it runs
                let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
                let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap().trim();
                u64::from_str_radix(blocked, 16).unwrap() & 1 << (libc::SIGTERM - 1) != 0
            };
            until("it has begun", waits);
            let begun = Instant::now();
            server.signal(libc::SIGTERM);
            let end = server.wait();
            assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
            assert_eq!((end.code, end.ready_count), (Some(0), 0), "{:#?}", end.stderr);
        }
    });
}

#[test]
#[ignore = "needs root"]
fn a_link_that_comes_late_is_known_by_its_name() {
    private_network(|| {
        let other = Netns::new();
        let mut server = Launch::new(&["--listen", "[fe80::1%late0]:1234"]).start();
        wait_until_it_waits(&server);
        // makes the number of the link one that cannot be guessed
        Netns::cable("other0", "other1", &other);
        cable("late0", "far0", &other);
        ip("addr add fe80::1/64 dev late0 nodad");
        wait_until_ready(&mut server);
        assert!(server.addresses().iter().all(|(_, address)| scope_of(*address) == index_of("late0")));
        other.run(|| {
            ip("addr add fe80::2/64 dev far0 nodad");
            let target = SocketAddrV6::new("fe80::1".parse().unwrap(), 1234, 0, index_of("far0")).into();
            echo(&mut connect(target), b"over the right link");
            UdpClient::at(Ipv6Addr::UNSPECIFIED).echo(target, &[8], 1);
        });
        server.stop();

        let refusal = Launch::new(&["--listen", "[fe80::1%no-such-link]:1234"]).refused();
        let error = refusal.stderr.last().expect("a line");
        assert!(error.contains("[fe80::1%no-such-link]:1234") && error.contains("ip link"), "{error}");
    });
}

fn scope_of(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V6(address) => address.scope_id(),
        SocketAddr::V4(_) => 0,
    }
}

/// The number of an interface of the calling thread's namespace, as `ip` shows it.
fn index_of(name: &str) -> u32 {
    let output = Command::new("ip").args(["-oneline", "link", "show", name]).output().expect("run ip");
    let text = String::from_utf8(output.stdout).expect("text");
    text.split(':').next().expect("a number").parse().expect("a number")
}

/// As under `nsenter --net`: the file system with /sys shows the links of another network namespace.
#[test]
#[ignore = "needs root"]
fn blaster_finds_the_link_of_its_own_namespace() {
    private_network(|| {
        let other = Netns::new();
        // /sys knows the name too, normally with another number
        let names = fs::read_dir("/sys/class/net").expect("links").map(|entry| entry.unwrap().file_name());
        let name =
            names.map(|name| name.into_string().unwrap()).find(|name| name != "lo").unwrap_or("eth0".into());
        Netns::cable("wrong0", "wrong1", &other);
        Netns::cable("wrong2", "wrong3", &other);
        cable(&name, "far0", &other);
        ip(&format!("addr add fe80::2/64 dev {name} nodad"));
        let mut server = other.run(|| {
            ip("addr add fe80::77/64 dev far0 nodad");
            Launch::new(&["--listen", "[fe80::77%far0]:1234"]).ready()
        });
        for load in ["udp", "tcp"] {
            let report = Report::of(&format!("{load} [fe80::77%{name}]:1234 --count 100"));
            report.expect("over the right link", &[("ok", 100)]);
        }
        server.read_addresses();
        let end = server.stop();
        assert_eq!(end.counter("udp_datagrams_in"), 100);
        assert!(end.counter("tcp_accepted") > 0);
    });
}

// Few descriptors -------------------------------------------------------------------------------------------

/// `IORING_REGISTER_FILES2`: without this operation, connections are descriptors of the process.
const REGISTER_FILES: u32 = 13;

#[test]
fn the_defaults_serve_with_any_limit_of_open_files_from_256_on() {
    bounded(|| {
        for limit in [256, 1024, 4096, 9199] {
            for workers in ["1", "auto", "3"] {
                for ordinary in [false, true] {
                    let launch =
                        Launch::new(&["--listen=127.0.0.1:0", "--listen=[::1]:0", "--workers", workers]);
                    let launch = launch.limit(libc::RLIMIT_NOFILE, limit);
                    let launch =
                        if ordinary { launch.deny_register(REGISTER_FILES, libc::EINVAL) } else { launch };
                    let server = launch.ready();
                    all_answer(&server);
                    let end = server.stop();
                    let told =
                        warnings(&end.stderr).iter().filter(|line| line.contains("RLIMIT_NOFILE")).count();
                    assert!(told <= 1 && (told == 1 || limit > 1024), "{limit}: {:#?}", end.stderr);
                    assert_eq!(end.counter("tcp_accept_errors"), 0);
                }
            }
        }
    });
}

/// The server serves as many connections at a time as the smallest limit allows; all others wait.
#[test]
fn at_a_limit_of_256_a_crowd_is_served_in_turn() {
    bounded(|| {
        for ordinary in [false, true] {
            let launch = Launch::new(&["--listen=127.0.0.1:0"]).limit(libc::RLIMIT_NOFILE, 256);
            let launch = if ordinary { launch.deny_register(REGISTER_FILES, libc::EINVAL) } else { launch };
            let server = launch.ready();
            let warned = server.log.all().iter().find_map(|line| number(line, "serving up to "));
            let served = warned.expect("a warning with a number");
            assert!(served > 100, "{served}");
            let mut waiting: Vec<_> = (0..2 * served).map(|_| connect(server.tcp())).collect();
            while !waiting.is_empty() {
                let mut leaving: Vec<_> = waiting.drain(..served.min(waiting.len())).collect();
                for stream in &mut leaving {
                    echo(stream, b"its turn");
                }
            }
            let end = server.stop();
            assert_eq!(end.counter("tcp_accepted"), 2 * served as u64);
            assert_eq!(end.counter("tcp_accept_errors"), 0);
        }
    });
}

/// Addresses of 127.0.0.0/8, each with TCP and UDP.
fn many(addresses: usize) -> Vec<String> {
    (0..addresses).map(|number| format!("--listen=127.0.{}.{}:0", number / 250, 1 + number % 250)).collect()
}

#[test]
fn many_addresses_are_served_with_20000_descriptors() {
    bounded(|| {
        for addresses in [8, 130, 256] {
            let server = Launch::new(&many(addresses)).limit(libc::RLIMIT_NOFILE, 20_000).ready();
            assert_eq!(server.addresses().len(), 2 * addresses);
            let resident = resident_kib(&server);
            println!("{addresses} addresses: {resident} KiB at the start");
            assert!(resident < 16_000 + 160 * addresses as u64, "{resident} KiB with {addresses} addresses");
            all_answer(&server);
            let end = server.stop();
            assert_eq!(end.counter("udp_datagrams_out"), addresses as u64);
            assert!(warnings(&end.stderr).is_empty(), "{:?}", warnings(&end.stderr));
        }
    });
}

/// The number that follows these words.
fn number(text: &str, words: &str) -> Option<usize> {
    let rest = &text[text.find(words)? + words.len()..];
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// The arguments with this option set to `value`.
fn with(arguments: &[String], option: &str, value: usize) -> Vec<String> {
    let kept = arguments.iter().filter(|argument| !argument.starts_with(option)).cloned();
    kept.chain([format!("{option}={value}")]).collect()
}

/// If the named numbers do not fit, the error gives advice. The test follows each piece of advice to the letter, and
/// then the server starts.
#[test]
fn advice_on_descriptors_is_advice_that_works() {
    bounded(|| {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let cases = [
            (words("--listen=127.0.0.1:0 --max-connections=300"), 256),
            (words("--listen=127.0.0.1:0 --reply-sockets=300"), 256),
            (words("--listen=127.0.0.1:0 --max-connections=200 --reply-sockets=200"), 256),
            (words("--listen=127.0.0.1:0 --max-connections=3000 --reply-sockets=3000 --workers=2"), 1024),
            (words("--listen=127.0.0.1:0 --workers=100"), 256),
            (many(256), 256),
            ([many(16), words("--workers=10")].concat(), 256),
        ];
        let mut followed = 0;
        for ((arguments, limit), ordinary) in cases.iter().flat_map(|case| [(case, false), (case, true)]) {
            let launch = |arguments: &[String], limit: usize| {
                let launch = Launch::new(arguments).limit(libc::RLIMIT_NOFILE, limit as u64);
                if ordinary { launch.deny_register(REGISTER_FILES, libc::EINVAL) } else { launch }
            };
            let refusal = launch(arguments, *limit).refused();
            assert_eq!((refusal.code, refusal.ready_count), (Some(1), 0));
            let error = refusal.stderr.last().expect("a line").clone();
            println!("{error}");
            let mut starts = |arguments: &[String], limit: usize| {
                let server = launch(arguments, limit).ready();
                all_answer(&server);
                server.stop();
                followed += 1;
            };
            starts(arguments, number(&error, "raise it to ").expect("a number"));
            if let Some(connections) = number(&error, "lower --max-connections to ") {
                let mut arguments = with(arguments, "--max-connections", connections);
                if let Some(reply_sockets) = number(&error, " and --reply-sockets to ") {
                    arguments = with(&arguments, "--reply-sockets", reply_sockets);
                }
                starts(&arguments, *limit);
            }
            if let Some(reply_sockets) = number(&error, "lower --reply-sockets to ") {
                starts(&with(arguments, "--reply-sockets", reply_sockets), *limit);
            }
            if let Some(workers) = number(&error, "lower --workers to ") {
                starts(&with(arguments, "--workers", workers), *limit);
            }
            if let Some(addresses) = number(&error, "name no more than ") {
                let is_address = |argument: &&String| argument.starts_with("--listen");
                let named = arguments.iter().filter(is_address).take(addresses);
                let others = arguments.iter().filter(|argument| !is_address(argument));
                starts(&named.chain(others).cloned().collect::<Vec<_>>(), *limit);
            }
        }
        assert!(followed > 2 * cases.len(), "{followed}");
    });
}

/// Resident memory of a process in KiB (proc(5)).
fn resident_kib(server: &Server) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", server.pid())).expect("its memory");
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).expect("resident memory");
    line.split_whitespace().next().expect("a number").parse().expect("a number")
}

/// Peers can fill the buffers of all addresses. When the peers are gone, the memory goes back to the kernel.
#[test]
#[cfg_attr(ring_poison, ignore = "AddressSanitizer keeps memory of its own")]
fn memory_of_many_addresses_is_bounded_and_given_back() {
    bounded(|| {
        const ADDRESSES: usize = 32;
        let addresses: Vec<_> =
            many(ADDRESSES).iter().map(|name| name.replace("--listen", "--udp")).collect();
        let server = Server::start(&addresses);
        all_answer(&server);
        let before = resident_kib(&server);
        // while the server is stopped, each socket's queue gets more datagrams than the server has buffers
        server.pause();
        for &(_, address) in server.addresses() {
            let client = UdpClient::beside(address);
            (0..60).for_each(|_| client.send(address, &vec![7; 60_000]));
        }
        server.resume();
        let mut highest = 0;
        until("the memory was touched", || {
            highest = highest.max(resident_kib(&server));
            highest > before + 20_000
        });
        until("it was given back", || {
            let now = resident_kib(&server);
            highest = highest.max(now);
            now < before + 4_000
        });
        println!("{before} KiB before, {highest} KiB at most");
        assert!(highest < before + (64 << 10) + 4_000, "{highest} KiB");
        // and later datagrams are echoed correctly
        all_answer(&server);
        for &(_, address) in server.addresses() {
            UdpClient::beside(address).echo(address, &[60_000, 1, 1400, 0, 9000], 3);
        }
        let end = server.stop();
        assert!(end.counter("udp_datagrams_in") > 20 * ADDRESSES as u64);
    });
}

// A quota ---------------------------------------------------------------------------------------------------

/// Number of processors in the affinity mask.
fn processors() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("our status");
    let mask = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed:")).expect("a mask");
    let digits = mask.chars().filter_map(|digit| digit.to_digit(16));
    digits.map(u32::count_ones).sum::<u32>() as usize
}

/// A control group below that of the test. It is removed at the end.
struct Group(PathBuf);

impl Group {
    fn below(parent: &Path, name: &str) -> Self {
        let path = parent.join(name);
        fs::create_dir(&path).unwrap_or_else(|error| panic!("make {}: {error}", path.display()));
        Self(path)
    }

    fn set(&self, file: &str, value: &str) {
        fs::write(self.0.join(file), value).unwrap_or_else(|error| panic!("write {file}: {error}"));
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let left =
            |path: &Path| fs::read_to_string(path.join("cgroup.procs")).is_ok_and(|text| !text.is_empty());
        until("the group is empty", || !left(&self.0));
        let _ = fs::remove_dir(&self.0);
    }
}

/// In a group whose parent may use one and a half processors, the server starts one worker on any machine.
#[test]
#[ignore = "needs root"]
fn a_quota_of_a_control_group_limits_the_workers() {
    bounded(|| {
        let v1 = Path::new("/sys/fs/cgroup/cpu");
        let is_v1 =
            v1.join("cpu.cfs_quota_us").parent().is_some_and(|path| path.join("cgroup.procs").exists());
        let root = if is_v1 { v1 } else { Path::new("/sys/fs/cgroup") };
        let name = format!("tubular-echo-{}", std::process::id());
        let parent = Group::below(root, &name);
        if is_v1 {
            parent.set("cpu.cfs_quota_us", "150000");
        } else {
            fs::write(root.join("cgroup.subtree_control"), "+cpu").expect("the cpu controller");
            parent.set("cgroup.subtree_control", "+cpu");
            parent.set("cpu.max", "150000 100000");
        }
        let group = Group::below(&parent.0, "child");
        let launch = Launch::new(&["--listen=127.0.0.1:0", "--workers=auto"]);
        let server = launch.in_group(&group.0.join("cgroup.procs")).ready();
        assert_eq!(server.worker_threads().len(), 1);
        let told = server.log.all().iter().any(|line| line.contains("the control group allows"));
        assert_eq!(told, processors() > 1);
        all_answer(&server);
        server.stop();
        drop(group);
    });
}

/// The other version of control groups, imitated by files: a machine has only one of the two.
#[test]
#[ignore = "needs root"]
fn a_quota_of_the_second_version_limits_the_workers() {
    bounded(|| {
        let script = "mount -t tmpfs tmpfs /sys/fs/cgroup && mount -t tmpfs tmpfs /proc
            mkdir -p /sys/fs/cgroup/outer/inner /proc/self /proc/sys/net/ipv4
            echo '32768 60999' >/proc/sys/net/ipv4/ip_local_port_range
            echo 0::/outer/inner >/proc/self/cgroup
            echo cpu | tee /sys/fs/cgroup/cgroup.controllers /sys/fs/cgroup/outer/cgroup.controllers \
                >/sys/fs/cgroup/outer/inner/cgroup.controllers
            echo max 100000 >/sys/fs/cgroup/outer/inner/cpu.max
            echo 199999 100000 >/sys/fs/cgroup/outer/cpu.max
            exec \"$0\" --listen=127.0.0.1:0 --workers=auto";
        let (mut server, log) = in_own_mounts(script);
        let ready = |lines: &[String]| lines.iter().any(|line| line.ends_with(" ready"));
        assert!(log.wait_for(PATIENCE, ready), "{:?}", log.all());
        assert_eq!(worker_threads_of(server.id()).len(), 1, "rounded down");
        server.kill().expect("end it");
        server.wait().expect("its end");
    });
}

/// Starts a server, `$0`, from a shell in a mount namespace of its own.
fn in_own_mounts(script: &str) -> (std::process::Child, std::sync::Arc<lines::Lines>) {
    let program = std::env::var("SERVER_UNDER_TEST").unwrap_or(env!("CARGO_BIN_EXE_tubular-echo").into());
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-ec", script, &program])
        .env_remove("NOTIFY_SOCKET")
        .stdout(Stdio::null());
    support::sys::die_with_us(&mut command);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("run unshare");
    let (log, _) = lines::collect(child.stderr.take().expect("its log"));
    (child, log)
}

#[test]
fn one_worker_per_processor_on_demand() {
    bounded(|| {
        let server = Server::start(&["--listen", "127.0.0.1:0", "--workers", "auto"]);
        let allowed = std::thread::available_parallelism().expect("a number").get();
        assert_eq!(server.worker_threads().len(), processors().min(allowed));
        all_answer(&server);
        server.stop();
    });
}

// Two instances at once -------------------------------------------------------------------------------------

#[test]
#[ignore = "needs root"]
fn metrics_are_taken_over_from_an_instance_that_leaves() {
    private_network(|| {
        let arguments = ["--join", "--listen=127.0.0.1:1234", "--metrics=127.0.0.1:9469"];
        let metrics_addr = "127.0.0.1:9469".parse().unwrap();
        let old = Server::start(&arguments);
        echo(&mut connect(old.tcp()), b"the old one");
        let new = Server::start(&arguments);
        assert!(
            new.log
                .all()
                .iter()
                .any(|line| line.contains("WARN") && line.contains("metrics are not served yet"))
        );
        let accepted =
            || metrics::sum(&metrics::scrape(metrics_addr), "tubular_echo_accepted_connections_total", &[]);
        assert!(accepted() > 0.0, "the old one tells");
        old.stop();
        let told =
            |lines: &[String]| lines.iter().any(|line| line.contains("metrics on http://127.0.0.1:9469"));
        assert!(new.log.wait_for(PATIENCE, told), "{:?}", new.log.all());
        assert_eq!(metrics::get(metrics_addr, "/healthz").status, 200);
        assert!(accepted() < 1.0, "the new one tells");
        let mut stream = connect(new.tcp());
        echo(&mut stream, b"the new one");
        stream.shutdown(std::net::Shutdown::Write).expect("a FIN");
        expect_end(&mut stream);
        new.stop();

        // without --join it is an error, and its advice helps
        let old = Server::start(&["--tcp=127.0.0.1:1234", "--metrics=127.0.0.1:9469"]);
        let others = ["--tcp=127.0.0.1:1235", "--metrics=127.0.0.1:9469"];
        let error = Launch::new(&others).refused().stderr.pop().expect("a line");
        assert!(error.contains("127.0.0.1:9469") && error.contains("--join"), "{error}");
        let new = Server::start(&[&others[..], &["--join"]].concat());
        old.stop();
        assert!(new.log.wait_for(PATIENCE, told), "{:?}", new.log.all());
        new.stop();
    });
}

// Files that a sandbox hides --------------------------------------------------------------------------------

/// A client whose source port is the server's port.
fn client_on_the_same_port() -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.2:1234").expect("a port of a private network");
    client.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    client.send_to(b"from the server's own port", "127.0.0.1:1234").expect("sent");
    client
}

#[test]
#[ignore = "needs root"]
fn the_ports_of_clients_are_told_by_a_file_and_its_absence_is_told() {
    private_network(|| {
        setting("ipv4/ip_local_port_range", "1200 1300");
        let server = Server::start(&["--listen=127.0.0.1:1234"]);
        client_on_the_same_port().recv(&mut [0; 64]).expect("answered: it may be a client's");
        server.stop();

        let script = "mount -t tmpfs tmpfs /proc/sys; exec \"$0\" --listen=127.0.0.1:1234";
        let (mut server, log) = in_own_mounts(script);
        let ready = |lines: &[String]| lines.iter().any(|line| line.ends_with(" ready"));
        assert!(log.wait_for(PATIENCE, ready), "{:?}", log.all());
        client_on_the_same_port().recv(&mut [0; 64]).expect_err("not answered: another server's");
        let lines = log.all();
        let warnings = warnings(&lines);
        let told = warnings.iter().filter(|line| line.contains("ip_local_port_range")).count();
        assert_eq!(told, 1, "{lines:#?}");
        server.kill().expect("end it");
        server.wait().expect("its end");
    });
}

#[test]
#[ignore = "needs root"]
fn blaster_says_what_it_can_not_see() {
    private_network(|| {
        let server = Server::start(&["--listen=127.0.0.1:1234"]);
        let script = "mount -t tmpfs tmpfs /proc; exec \"$0\" udp 127.0.0.1:1234 --count 100";
        let blaster = env!("CARGO_BIN_EXE_blaster");
        let output = Command::new("unshare").args(["--mount", "sh", "-ec", script, blaster]).output();
        let output = output.expect("run unshare");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("schedstat") && text.contains("without a warning"), "{text}");
        server.stop();
    });
}
