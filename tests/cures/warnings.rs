//! Warnings of the server, at its start and while it serves.

use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use super::support::netns::{ip, setting};
use super::support::{Launch, PATIENCE, Server, private_network};
use super::{command_in, cured, number_behind, shell, warned};

#[test]
#[ignore = "needs root"]
fn at_the_start() {
    private_network(|| {
        let launch = || Launch::new(&["--listen", "127.0.0.1:1234"]);
        setting("core/somaxconn", "128");
        let text = warned(launch(), "TCP accept queues hold 128 connections");
        let wanted = number_behind(&text, "instead of");
        assert!(text.contains("raise net.core.somaxconn and restart"), "{text}");
        setting("core/somaxconn", &wanted.to_string());
        cured(launch(), "accept queues");

        // net.core.rmem_max belongs to the whole machine, so a seccomp filter imitates it here
        let text = warned(launch_without(libc::SOL_SOCKET as u32), "UDP receive buffers are");
        assert_eq!(number_behind(&text, "net.core.rmem_max to"), 4 << 20);
        assert!(text.contains("or grant CAP_NET_ADMIN, and restart"), "{text}");
        cured(launch(), "receive buffers");

        let launch = || Launch::new(&["--listen", "127.0.0.1:1234", "--fd-store"]);
        warned(launch().notify_nobody(None), "--fd-store has no effect: NOTIFY_SOCKET is not set");
        cured(Launch::new(&["--listen", "127.0.0.1:1234"]).notify_nobody(None), "--fd-store");
        let text = warned(launch().env("FDSTORE", "1"), "sockets will not survive a restart");
        let kept = number_behind(&text, "the service manager keeps only");
        let all = number_behind(&text, "WARN") + kept;
        cured(launch().env("FDSTORE", &all.to_string()), "survive a restart");

        let launch = || Launch::new(&["--listen", "127.0.0.1:40000"]);
        let words = "is one that clients have, too";
        assert!(warned(launch(), words).contains("choose another one, or reserve it on every host"));
        setting("ipv4/ip_local_reserved_ports", "40000");
        cured(launch(), words);
        setting("ipv4/ip_local_reserved_ports", "");
        cured(Launch::new(&["--listen", "127.0.0.1:1234"]), words);

        setting("ipv6/conf/lo/disable_ipv6", "1");
        warned(Launch::new::<&str>(&[]), "not serving [::1]:1234");
        setting("ipv6/conf/lo/disable_ipv6", "0");
        cured(Launch::new::<&str>(&[]), "not serving");

        for (denied, words) in [
            (launch_without(libc::IPPROTO_TCP as u32), "serving without TCP_NODELAY"),
            (launch_without(libc::SOL_UDP as u32), "serving without UDP_GRO"),
            (launch_without(libc::SOL_SOCKET as u32), "serving without SO_REUSEADDR"),
        ] {
            warned(denied, words);
        }
        cured(Launch::new::<&str>(&[]), "serving without");
    });
}

/// A filter that refuses all socket options of one level.
fn launch_without(level: u32) -> Launch {
    Launch::new(&["--listen", "127.0.0.1:0"]).deny_second(libc::SYS_setsockopt, level, libc::EPERM)
}

/// Sends `count` datagrams one by one from `local` to `target`. Returns how many came back.
fn answered(local: &str, target: &str, count: usize) -> usize {
    let socket = UdpSocket::bind(local).expect("bind");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let target: SocketAddr = target.parse().expect("an address");
    let exchange = |_: &usize| {
        socket.send_to(b"a datagram", target).expect("send");
        socket.recv_from(&mut [0; 100]).is_ok()
    };
    (0..count).filter(exchange).count()
}

/// The warning that `provoke` causes with the first arguments, and not with the second ones.
fn trouble(words: &str, wrong: &[&str], right: &[&str], provoke: impl Fn()) -> String {
    let server = Launch::new(wrong).ready();
    provoke();
    let is_told = |lines: &[String]| lines.iter().any(|line| line.contains(words));
    assert!(server.log.wait_for(PATIENCE, is_told), "{words:?} is not told: {:?}", server.log.all());
    let end = server.stop();
    let text = end.stderr.into_iter().find(|line| line.contains(words)).expect("it was told");
    let server = Launch::new(right).ready();
    provoke();
    quiet(server, words);
    text
}

/// Ends a server that must not print these words. The server checks for losses each second, and has had that time.
fn quiet(server: Server, words: &str) {
    let name = words.split(['(', ')']).nth(1).expect("the counter in parentheses").to_owned();
    assert_eq!(server.stop().counter(&name), 0, "{words}");
}

#[test]
#[ignore = "needs root"]
fn what_is_not_answered() {
    private_network(|| {
        ip("route add local 192.88.99.0/24 dev lo");
        let limited = |option: &str, value: &str| -> Vec<String> {
            ["--listen", "127.0.0.1:1234", option, value].map(str::to_owned).into()
        };
        let case = |words: &str, option: &str, wrong: &str, right: &str, provoke: &dyn Fn()| {
            let [wrong, right] = [limited(option, wrong), limited(option, right)];
            let refs =
                |words: &[String]| words.iter().map(String::as_str).map(str::to_owned).collect::<Vec<_>>();
            let (wrong, right) = (refs(&wrong), refs(&right));
            let wrong: Vec<&str> = wrong.iter().map(String::as_str).collect();
            let right: Vec<&str> = right.iter().map(String::as_str).collect();
            let text = trouble(words, &wrong, &right, provoke);
            assert!(text.contains(option), "{text}");
        };
        let many = || {
            answered("127.0.0.1:0", "127.0.0.1:1234", 5);
        };
        case("(udp_refused_prefix_rate)", "--udp-prefix-rate", "1", "0", &many);
        case("(udp_refused_reply_rate)", "--udp-reply-rate", "1", "0", &many);
        let two_connections = || {
            let all = [0; 2].map(|_| std::net::TcpStream::connect("127.0.0.1:1234").expect("connect"));
            for mut stream in all {
                use std::io::{Read, Write};
                let _ = stream.write_all(b"x");
                let _ = stream.read(&mut [0]);
            }
        };
        // both connections are open at a time: the second is closed at once
        case("(tcp_closed_prefix_limit)", "--max-connections-per-prefix", "1", "0", &two_connections);

        let everywhere = ["--udp", "0.0.0.0:1234"];
        let text = trouble("(udp_exposed)", &everywhere, &["--udp", "0.0.0.0:1234", "--public"], || {
            assert_eq!(answered("127.0.0.1:0", "192.88.99.1:1234", 1), 1);
        });
        assert!(text.contains("--public limits"), "{text}");

        // the only cure is to send from another port
        for (words, bad, good) in [
            ("(udp_refused_system_port)", "127.0.0.1:53", "127.0.0.1:5300"),
            ("(udp_refused_own_port)", "127.0.0.2:1234", "127.0.0.2:1235"),
        ] {
            let server = Launch::new(&["--udp", "127.0.0.1:1234"]).ready();
            assert_eq!(answered(bad, "127.0.0.1:1234", 1), 0, "{bad}");
            let is_told = |lines: &[String]| lines.iter().any(|line| line.contains(words));
            assert!(server.log.wait_for(PATIENCE, is_told), "{words}");
            assert_eq!(answered(good, "127.0.0.1:1234", 1), 1, "{good}");
            server.stop();
        }
        let reflector = |public: &[&str]| {
            let server = Launch::new(&[&["--udp", "127.0.0.1:1234"], public].concat()).ready();
            let answers = answered("127.0.0.1:1900", "127.0.0.1:1234", 1);
            (answers, server.stop().counter("udp_refused_reflector_port"))
        };
        assert_eq!((reflector(&["--public"]), reflector(&[])), ((0, 1), (1, 0)));
    });
}

/// A reply without a route, or without a source address, gets one.
#[test]
#[ignore = "needs root"]
fn what_can_not_be_sent() {
    private_network(|| {
        // requests arrive by loopback, but replies have no route: the source is local only while the request is sent
        ip("address add 192.0.2.1/32 dev lo");
        let server = Launch::new(&["--udp", "127.0.0.1:1234"]).ready();
        let socket = UdpSocket::bind("192.0.2.1:0").expect("bind");
        server.pause();
        socket.send_to(b"a datagram", "127.0.0.1:1234").expect("send");
        ip("address del 192.0.2.1/32 dev lo");
        server.resume();
        let words = "there was no route for a reply, it was dropped (udp_send_unreachable)";
        let is_told = |lines: &[String]| lines.iter().any(|line| line.contains(words));
        assert!(server.log.wait_for(PATIENCE, is_told), "{:?}", server.log.all());
        let told = server.log.all().into_iter().find(|line| line.contains(words)).expect("it was told");
        let ask =
            command_in(&told, "ip route get").replace("CLIENT", "192.0.2.1").replace("ADDRESS", "127.0.0.1");
        assert!(
            !Command::new("sh").args(["-c", &ask]).status().expect("run a shell").success(),
            "{ask} shows why"
        );
        ip("address add 192.0.2.1/32 dev lo");
        shell(&ask);
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.send_to(b"a datagram", "127.0.0.1:1234").expect("send");
        socket.recv_from(&mut [0; 100]).expect("with a route it is answered");
        let end = server.stop();
        assert_eq!(end.counter("udp_send_unreachable"), 1);

        // an IPv4 address that is local only while the request is sent
        ip("route add local 198.51.100.0/24 dev lo");
        let server = Launch::new(&["--udp", "0.0.0.0:1234"]).ready();
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        server.pause();
        socket.send_to(b"a datagram", "198.51.100.7:1234").expect("send");
        ip("route del local 198.51.100.0/24 dev lo");
        server.resume();
        let is_told = |lines: &[String]| lines.iter().any(|line| line.contains("(udp_send_unreachable)"));
        assert!(server.log.wait_for(PATIENCE, is_told), "{:?}", server.log.all());
        let told =
            server.log.all().into_iter().find(|line| line.contains("unreachable)")).expect("it was told");
        shell(&command_in(&told, "ip route add local").replace("PREFIX", "198.51.100.0/24"));
        socket.send_to(b"a datagram", "198.51.100.7:1234").expect("send");
        socket.recv_from(&mut [0; 100]).expect("with the route it is answered");
        assert_eq!(server.stop().counter("udp_send_unreachable"), 1);
    });
}
