//! Errors that stop the start of the server or of blaster.

use std::net::{TcpListener, UdpSocket};

use super::support::netns::{ip, setting};
use super::support::{Launch, Server, bounded, private_network, until};
use super::{blaster, command_in, cured, number_behind, refused, shell, stderr};

#[test]
#[ignore = "needs root"]
fn a_port_that_somebody_has() {
    private_network(|| {
        for address in ["127.0.0.1:7", "[::1]:7"] {
            let holder = UdpSocket::bind(address).expect("bind");
            let text = refused(Launch::new(&["--udp", address]), "cannot bind udp");
            // the command shows the process that has the port
            let shown = shell(command_in(&text, "ss -lnp"));
            assert!(shown.contains(&format!("pid={},", std::process::id())), "{shown}");
            cured(Launch::new(&["--udp", &address.replace(":7", ":8").replace("[:8", "[:")]), "cannot bind");
            drop(holder);
            cured(Launch::new(&["--udp", address]), "cannot bind");
            let first = Launch::new(&["--listen", address, "--join"]).ready();
            let text = refused(Launch::new(&["--listen", address]), "with --join");
            assert!(text.contains("share it on purpose with --join"), "{text}");
            cured(Launch::new(&["--listen", address, "--join"]), "cannot bind");
            first.stop();
        }
        let both = ["--udp", "0.0.0.0:7", "--udp", "127.0.0.1:7"];
        refused(Launch::new(&both), "0.0.0.0:7 covers 127.0.0.1:7: name only one of them");
        cured(Launch::new(&both[..2]), "covers");
        cured(Launch::new(&both[2..]), "covers");
        let _holder = TcpListener::bind("127.0.0.1:9").expect("bind");
        refused(Launch::new(&["--metrics", "127.0.0.1:9"]), "cannot serve metrics on 127.0.0.1:9");
        cured(Launch::new(&["--metrics", "127.0.0.1:8"]), "cannot serve");
    });
}

#[test]
#[ignore = "needs root"]
fn an_address_that_is_not_here() {
    private_network(|| {
        let text = refused(Launch::new(&["--listen", "198.51.100.7:7"]), "it is no address of this host");
        let command = command_in(&text, "ip route add local").replace("PREFIX", "198.51.100.0/24");
        shell(&command);
        cured(Launch::new(&["--listen", "198.51.100.7:7"]), "no address");
        let text = refused(Launch::new(&["--listen", "[2001:db8::7]:7"]), "it is no address of this host");
        let command = command_in(&text, "ip address add").replace("ADDR", "2001:db8::7");
        shell(&command);
        until("the address is no longer tentative", || shell("ip -6 address show tentative").is_empty());
        cured(Launch::new(&["--listen", "[2001:db8::7]:7"]), "no address");
        // this network has only the loopback interface
        ip("address add fe80::1/64 dev lo nodad");
        let text = refused(Launch::new(&["--listen", "[fe80::1]:7"]), "needs its interface");
        assert!(text.contains("[fe80::1%eth0]:1234"), "{text}");
        cured(Launch::new(&["--listen", "[fe80::1%lo]:7"]), "link-local");
    });
}

#[test]
#[ignore = "needs root"]
fn what_a_user_may_not() {
    private_network(|| {
        let launch = || Launch::new(&["--listen", "127.0.0.1:7"]).unprivileged();
        setting("ipv4/ip_unprivileged_port_start", "1024");
        let text = refused(launch(), "CAP_NET_BIND_SERVICE");
        assert!(text.contains("ports below net.ipv4.ip_unprivileged_port_start"), "{text}");
        setting("ipv4/ip_unprivileged_port_start", "7");
        cured(launch(), "CAP_NET_BIND_SERVICE");
        // the user's other sockets, with --join
        let holder = Launch::new(&["--listen", "127.0.0.1:8", "--join"]).ready();
        refused(Launch::new(&["--listen", "127.0.0.1:8", "--join"]).unprivileged(), "cannot bind");
        holder.stop();
        cured(Launch::new(&["--listen", "127.0.0.1:8", "--join"]).unprivileged(), "cannot bind");
    });
}

#[test]
fn what_a_filter_forbids() {
    bounded(|| {
        let launch = || Launch::new(&["--listen", "127.0.0.1:0"]);
        for call in [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register] {
            let text = refused(launch().deny(call, libc::EPERM), "io_uring");
            assert!(text.contains("seccomp filter") && text.contains("SystemCallFilter="), "{text}");
        }
        refused(launch().deny(libc::SYS_eventfd2, libc::EPERM), "cannot make an eventfd");
        refused(
            launch().deny(libc::SYS_rt_sigprocmask, libc::EPERM),
            "block the signals that end the server",
        );
        refused(
            launch().deny(libc::SYS_socket, libc::EPERM),
            "or a filter forbids it: see SystemCallFilter=",
        );
        refused(launch().deny(libc::SYS_socket, libc::EAFNOSUPPORT), "this host has no such address family");
        refused(launch().deny(libc::SYS_getsockname, libc::EIO), "see bind(2), ip(7) and ipv6(7)");
        // without the filter the errors are gone
        cured(launch(), "cannot");
    });
}

#[test]
fn service_managers_that_are_none() {
    bounded(|| {
        let launch = || Launch::new(&["--listen", "127.0.0.1:0"]).notify_nobody(None);
        let text = refused(
            Launch::new(&["--listen", "127.0.0.1:0"]).notify_nobody(Some("/nonexistent/notify")),
            "cannot notify the service manager",
        );
        assert!(text.contains("or unset NOTIFY_SOCKET"), "{text}");
        cured(launch(), "NOTIFY_SOCKET");
        let text = refused(launch().env("LISTEN_FDS", "x").env("LISTEN_PID", "x"), "cannot read LISTEN_FDS");
        assert!(text.contains("unset them"), "{text}");
        cured(launch(), "LISTEN_FDS");
    });
}

#[test]
#[ignore = "needs root"]
fn too_much_of_it() {
    bounded(|| {
        let launch = |workers: &str, sockets: &str| {
            Launch::new(&["--listen", "127.0.0.1:0", "--workers", workers, "--reply-sockets", sockets])
        };
        let text = refused(launch("4096", "30000"), "reply sockets each are more than");
        let workers = number_behind(&text, "lower --workers to");
        let sockets = number_behind(&text, "lower --reply-sockets to");
        let most = number_behind(&text, "are more than");
        assert!(workers * 30_000 <= most && 4096 * sockets <= most, "{text}");
        // a test has too little memory for this many workers
        cured(launch("2", &sockets.to_string()), "reply sockets");
        // the limit allows this user no more threads than the first process has
        let launch = || Launch::new(&["--listen", "127.0.0.1:0", "--workers", "8"]).unprivileged();
        let text = refused(launch().limit(libc::RLIMIT_NPROC, 1), "cannot start a thread");
        assert!(text.contains("`ulimit -u`"), "{text}");
        cured(launch(), "thread");
        for (limit, flag) in [(libc::RLIMIT_AS, "-v"), (libc::RLIMIT_DATA, "-d")] {
            let launch = || Launch::new(&["--listen", "127.0.0.1:0"]);
            let text = refused(launch().limit(limit, 20 << 20), "is limited: lift");
            let command = command_in(&text, "ulimit");
            assert_eq!(command, format!("ulimit {flag} unlimited"));
            cured(launch().limit(limit, libc::RLIM_INFINITY), "is limited");
        }
    });
}

/// The same errors in blaster.
#[test]
#[ignore = "needs root"]
fn a_link_local_target_of_blaster() {
    private_network(|| {
        ip("address add fe80::1/64 dev lo nodad");
        let _server = Launch::new(&["--listen", "[fe80::1%lo]:1234"]).ready();
        for command in ["udp --count 10", "tcp --count 10", "mtu --flows 1"] {
            let run = |target: &str| blaster(&format!("{command} {target} --quiet"));
            let output = run("[fe80::1]:1234");
            let text = stderr(&output);
            let words = "a link-local address needs its interface: say it as in [fe80::1%eth0]:1234, or --interface eth0";
            assert!(output.status.code() == Some(2) && text.contains(words), "{command}: {text}");
            for cured in ["[fe80::1%lo]:1234", "[fe80::1]:1234 --interface lo"] {
                let output = run(cured);
                assert!(output.status.success(), "{command} {cured}: {}", stderr(&output));
            }
        }
    });
}

#[test]
#[ignore = "needs root"]
fn blaster_that_can_not_run() {
    private_network(|| {
        let server = Launch::new(&["--listen", "0.0.0.0:1234", "--workers", "2"]).ready();
        let told = |flags: &str, words: &str| {
            let output = blaster(flags);
            let text = stderr(&output);
            assert!(output.status.code() == Some(1) && text.contains(words), "{flags}: {text}");
            text
        };
        let runs = |flags: &str| {
            let output = blaster(&format!("{flags} --quiet"));
            assert!(output.status.success(), "{flags}: {}", stderr(&output));
        };
        // ten local ports
        setting("ipv4/ip_local_port_range", "40000 40009");
        let text = told("udp 127.0.0.1:1234 --flows 11 --count 11", "no local port is free");
        assert!(!text.contains("ip route get"), "{text}");
        runs("udp 127.0.0.1:1234 --flows 10 --count 10");
        runs("udp 127.0.0.1:1234 --flows 11 --count 11 --source 127.1.0.0/16");
        let text = told("tcp 127.0.0.1:1234 --connections 11 --count 11", "local ports are used up");
        assert!(text.contains("net.ipv4.ip_local_port_range"), "{text}");
        runs("tcp 127.0.0.0/16:1234 --connections 11 --count 11"); // "load a prefix"
        runs("tcp 127.0.0.1:1234 --connections 11 --count 11 --source 127.1.0.0/16");
        setting("ipv4/ip_local_port_range", "32768 60999");
        runs("udp 127.0.0.1:1234 --flows 11 --count 11");
        runs("tcp 127.0.0.1:1234 --connections 11 --count 11");

        let text = told("udp 192.0.2.1:1234 --count 1", "no route to 192.0.2.1:1234");
        let command = command_in(&text, "ip route get");
        assert_eq!(command, "ip route get 192.0.2.1");
        ip("route add local 192.0.2.0/24 dev lo");
        shell(command);
        runs("udp 192.0.2.1:1234 --count 1");

        let text =
            told("udp 127.0.0.1:1234 --source 198.51.100.0/24 --count 1", "is that an address of this host");
        shell(&command_in(&text, "ip route add local").replace("PREFIX", "198.51.100.0/24"));
        runs("udp 127.0.0.1:1234 --source 198.51.100.0/24 --count 1");

        told(
            "udp 127.0.0.1:9 --count 1 --timeout 100ms --quiet",
            "nothing came back for 1 sent: ICMP port unreachable: nobody listens there",
        );
        told(
            "tcp 127.0.0.1:9 --count 1",
            "connecting to 127.0.0.1:9: Connection refused (os error 111); does the server listen there?",
        );
        let late = Launch::new(&["--listen", "127.0.0.1:9"]).ready();
        runs("udp 127.0.0.1:9 --count 1");
        runs("tcp 127.0.0.1:9 --count 1");
        late.stop();

        ip("link set lo mtu 1500");
        let text = told("udp 127.0.0.1:1234 --gso 8 --size 1500 --count 8", "use a smaller --size");
        let headers = number_behind(&text, "IP and UDP headers");
        runs(&format!("udp 127.0.0.1:1234 --gso 8 --size {} --count 8", 1500 - headers));
        server.stop();
    });
}

#[test]
fn reports_that_can_not_be_added() {
    bounded(|| {
        let server = Server::start(&["--udp", "127.0.0.1:0"]);
        let directory = std::env::temp_dir().join(format!("cures-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let file = |name: &str| directory.join(name).to_str().expect("a path").to_owned();
        let [one, other, unlike, foreign] = ["one", "other", "unlike", "foreign"].map(file);
        for (file, size) in [(&one, 64), (&other, 64), (&unlike, 100)] {
            let output =
                blaster(&format!("udp {} --count 10 --size {size} --json {file} --quiet", server.udp()));
            assert!(output.status.success(), "{}", stderr(&output));
        }
        std::fs::write(&foreign, "{}").expect("a file");
        let told = |files: &str, words: &str| {
            let output = blaster(&format!("report --merge {files}"));
            let text = stderr(&output);
            assert!(output.status.code() == Some(1) && text.contains(words), "{files}: {text}");
            text
        };
        for (files, words) in [
            (format!("{one} {unlike}"), "have different loads"),
            (format!("{one} {other}"), "the rates of runs that did not run together don't add up"),
        ] {
            assert!(told(&files, words).contains("without --merge they are shown side by side"));
            assert!(blaster(&format!("report {files} --quiet")).status.success());
        }
        told(&format!("{one} {one}"), "it would count twice");
        assert!(blaster(&format!("report --merge {one} --quiet")).status.success());
        told(&foreign, "not a report that `blaster --json` wrote");
        std::fs::remove_dir_all(directory).expect("remove the directory");
        server.stop();
    });
}
