//! `tubular-echo health`: it tells a server that answers from one that does not, whatever is steered past it.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;

use support::launch::NOBODY;
use support::netns::setting;
use support::registry::register_pid;
use support::server::Protocol as Served;
use support::steer::{Binding, Dispatcher};
use support::{Launch, Server, bounded, metrics, private_network};
use tubular_echo::kernel::sys::Protocol;

/// The exit code and the output of the command, run by a user without privileges.
fn health(arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tubular-echo"));
    command.arg("health").args(arguments).env_clear().envs(variables.iter().copied()).current_dir("/");
    if support::sys::is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.output().expect("run tubular-echo health");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().expect("an exit code"), String::from_utf8_lossy(&text).into_owned())
}

#[track_caller]
fn is_well(arguments: &[&str], variables: &[(&str, &str)], asked: &[&str]) {
    let (code, text) = health(arguments, variables);
    let answered: Vec<_> = text.lines().filter_map(|line| line.split_once(": answered in ")).collect();
    let answered: Vec<_> = answered.iter().map(|(address, _)| *address).collect();
    assert!(code == 0 && answered == asked, "exit code {code}, {asked:?}:\n{text}");
}

/// Says so in one line for each of `times` addresses.
#[track_caller]
fn is_ill(arguments: &[&str], words: &str, times: usize) {
    let (code, text) = health(arguments, &[]);
    let errors = text.lines().filter(|line| line.starts_with("error: health: ") && line.contains(words));
    assert!(code == 1 && errors.count() == times, "exit code {code}, {times} times {words:?}:\n{text}");
}

#[test]
fn every_address_is_asked_over_both_protocols() {
    bounded(|| {
        let server =
            Launch::new(&["--listen", "127.0.0.1:0", "--listen", "[::1]:0", "--udp", "127.0.0.2:0"]).ready();
        let addresses = server.addresses();
        let of = |protocol: Served, ip: &str| {
            let found = addresses.iter().find(|(p, addr)| *p == protocol && addr.ip().to_string() == ip);
            found.expect("an address").1.to_string()
        };
        let (v4, v6, udp) =
            (of(Served::Tcp, "127.0.0.1"), of(Served::Tcp, "::1"), of(Served::Udp, "127.0.0.2"));
        let asked = [
            format!("tcp {v4}"),
            format!("udp {v4}"),
            format!("tcp {v6}"),
            format!("udp {v6}"),
            format!("udp {udp}"),
        ];
        let asked: Vec<_> = asked.iter().map(String::as_str).collect();
        is_well(&["--listen", &v4, "--listen", &v6, "--udp", &udp], &[], &asked);
        let both = format!("{v4},{v6}");
        let variables =
            [("TUBULAR_ECHO_LISTEN", both.as_str()), ("TUBULAR_ECHO_UDP", &udp), ("TUBULAR_ECHO_TCP", "")];
        is_well(&[], &variables, &asked);
        server.stop();
    });
}

#[test]
fn all_addresses_are_asked_by_loopback() {
    bounded(|| {
        let server = Server::start(&["--listen", "0.0.0.0:0"]);
        let bound = server.tcp().to_string();
        let asked = [format!("tcp {bound}"), format!("udp {bound}")];
        is_well(&["--listen", &bound], &[], &asked.each_ref().map(String::as_str));
        // bound to all addresses is not bound to this one
        is_ill(
            &["--listen", &bound.replace("0.0.0.0", "127.0.0.1")],
            "no socket of this network namespace",
            2,
        );
        server.stop();
    });
}

#[test]
#[ignore = "needs root"]
fn the_defaults_are_the_server_s_also_without_ipv6() {
    private_network(|| {
        is_ill(&[], "no socket of this network namespace is bound there; start the server", 4);
        let server = Server::start::<&str>(&[]);
        is_well(&[], &[], &["tcp 127.0.0.1:1234", "udp 127.0.0.1:1234", "tcp [::1]:1234", "udp [::1]:1234"]);
        server.stop();
        setting("ipv6/conf/all/disable_ipv6", "1");
        is_ill(&["--listen", "[::1]:1234"], "none of the address families", 1);
        for listen in ["127.0.0.1:1234,[::1]:1234", "0.0.0.0:1234,[::]:1234"] {
            let server = Launch::new::<&str>(&[]).env("TUBULAR_ECHO_LISTEN", listen).ready();
            let asked = listen.split(',').next().unwrap();
            let asked = [format!("tcp {asked}"), format!("udp {asked}")];
            is_well(&[], &[("TUBULAR_ECHO_LISTEN", listen)], &asked.each_ref().map(String::as_str));
            server.stop();
        }
    });
}

#[test]
fn a_server_that_does_not_turn_is_ill_until_it_does() {
    bounded(|| {
        let server = Server::start(&["--listen", "127.0.0.1:0"]);
        let bound = server.tcp().to_string();
        server.pause();
        is_ill(
            &["--listen", &bound, "--timeout", "200ms"],
            "no echo within 200ms; the server's log says why",
            2,
        );
        server.resume();
        assert_eq!(health(&["--listen", &bound], &[]).0, 0);
        server.stop();
    });
}

#[test]
fn the_metrics_address_answers_for_the_server() {
    bounded(|| {
        let server = Server::start(&["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]);
        let metrics = metrics::address_of(&server).to_string();
        let asked = format!("http://{metrics}/healthz");
        is_well(&["--metrics", &metrics], &[], &[&asked]);
        is_well(
            &[],
            &[("TUBULAR_ECHO_METRICS", &metrics), ("TUBULAR_ECHO_LISTEN", "127.0.0.9:9")],
            &[&asked],
        );
        // an echo of the question is no answer
        let echo = server.tcp().to_string();
        is_ill(&["--metrics", &echo], "the answer is not HTTP; name the address of --metrics", 1);
        server.pause();
        is_ill(
            &["--metrics", &metrics, "--timeout", "100ms"],
            "no answer in time; the server's log says which",
            1,
        );
        server.resume();
        assert_eq!(health(&["--metrics", &metrics], &[]).0, 0);
        server.stop();
        is_ill(&["--metrics", &metrics], "connect: Connection refused", 1);
    });
}

#[test]
fn a_server_that_says_503_is_ill() {
    bounded(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let answering = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = [0; 512];
            let bytes = stream.read(&mut question).unwrap();
            stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").unwrap();
            String::from_utf8_lossy(&question[..bytes]).into_owned()
        });
        is_ill(&["--metrics", &addr], "503 Service Unavailable; the server's log says which worker", 1);
        let asked = answering.join().unwrap();
        assert!(asked.starts_with("GET /healthz HTTP/1.1\r\n") && asked.contains("\r\nHost: "), "{asked}");
    });
}

#[test]
fn another_answer_than_the_echo_is_told() {
    bounded(|| {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = tcp.local_addr().unwrap();
        let udp = UdpSocket::bind(addr).expect("the same port, which is seldom taken");
        let answering = thread::spawn(move || {
            let (mut stream, _) = tcp.accept().unwrap();
            let mut question = Vec::new();
            stream.read_to_end(&mut question).unwrap();
            // the echo, and a byte more
            stream.write_all(&[question, vec![0]].concat()).unwrap();
            let mut datagram = [0; 64];
            let (bytes, client) = udp.recv_from(&mut datagram).unwrap();
            udp.send_to(&datagram[..bytes - 1], client).unwrap();
        });
        is_ill(&["--listen", &addr.to_string()], "another answer than the echo came; find the program", 2);
        answering.join().unwrap();
    });
}

#[test]
fn options_that_can_t_be_asked_are_refused() {
    bounded(|| {
        is_ill(&["--listen", "127.0.0.1:0"], "port 0 anew at each start; name the port", 1);
        is_ill(&["--udp", "[fe80::1%nowhere]:7"], "No such device", 1);
        let (code, text) = health(&["--timeout", "1ms"], &[]);
        assert!(code == 2 && text.contains("must be at least 10ms"), "{code}: {text}");
        let (code, text) = health(&[], &[("TUBULAR_ECHO_LISTEN", "1234")]);
        assert!(code == 2 && text.contains("TUBULAR_ECHO_LISTEN in the environment"), "{code}: {text}");
    });
}

/// The answers to the command would be steered to the server if the command's sockets were not connected.
#[test]
#[ignore = "needs root"]
fn everything_on_loopback_is_steered_to_the_server() {
    private_network(|| {
        let all = [Protocol::Tcp, Protocol::Udp].map(|protocol| Binding::new(protocol, "127.0.0.0/8", 0));
        let dispatcher = Dispatcher::attach(&all).expect("attach");
        let server = Server::start(&["--listen", "127.0.0.1:1234"]);
        let listen = ["--listen", "127.0.0.1:1234", "--timeout", "300ms"];
        // nobody is registered yet: what is steered is dropped
        is_ill(
            &listen,
            "connection refused, although a socket is bound there; if tubular steers this address",
            2,
        );
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            register_pid(&dispatcher.sockets, server.pid(), protocol, "127.0.0.1:1234".parse().unwrap())
                .expect("registered");
        }
        is_well(&listen, &[], &["tcp 127.0.0.1:1234", "udp 127.0.0.1:1234"]);
        server.stop();
    });
}

/// The echo of another server, to which the address is steered, says nothing of a server that is not there.
#[test]
#[ignore = "needs root"]
fn the_echo_of_another_server_is_not_taken_for_this_one_s() {
    private_network(|| {
        let all = [Protocol::Tcp, Protocol::Udp].map(|protocol| Binding::new(protocol, "127.0.0.1/32", 0));
        let dispatcher = Dispatcher::attach(&all).expect("attach");
        let other = Server::start(&["--listen", "127.0.0.2:4321", "--reply-socket-idle", "50ms"]);
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            register_pid(&dispatcher.sockets, other.pid(), protocol, "127.0.0.2:4321".parse().unwrap())
                .expect("registered");
        }
        is_ill(&["--listen", "127.0.0.1:1234"], "no socket of this network namespace is bound there", 2);
        let client = UdpSocket::bind("127.0.0.3:0").unwrap();
        let here: SocketAddr = "127.0.0.1:1234".parse().unwrap();
        client.send_to(b"steered", here).unwrap();
        assert_eq!(client.recv(&mut [0; 16]).unwrap(), 7, "an echo comes from where no server is");
        let here = Server::start(&["--listen", "127.0.0.1:1234", "--metrics", "127.0.0.4:9469"]);
        is_well(&["--metrics", "127.0.0.4:9469"], &[], &["http://127.0.0.4:9469/healthz"]);
        here.stop();
        other.stop();
    });
}
