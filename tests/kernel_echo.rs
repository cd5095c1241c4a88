//! The server behaves like the kernel's ping replies: on paths with a small MTU that no router reports, and for the
//! traffic class of the request.

mod support;

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use support::lines::Stored;
use support::netns::{Netns, ip, setting};
use support::random::payload;
use support::registry::register_pid;
use support::steer::{Binding, Dispatcher};
use support::steered::{LISTENING, Steered, User};
use support::tcp::echo;
use support::udp::{UdpClient, datagrams};
use support::{Launch, PATIENCE, Server, private_network, sys};
use tubular_echo::kernel::sys::{self as server_sys, Protocol};

/// The address of the server, behind the router.
const SERVER: [&str; 2] = ["192.0.2.1:1234", "[2001:db8::1]:1234"];
/// A prefix that is steered to the server, with all ports.
const PREFIXES: [&str; 2] = ["203.0.113.0/24", "2001:db8:9::/64"];
/// Addresses and ports of that prefix.
const STEERED: [&str; 2] = ["203.0.113.77:4321", "[2001:db8:9::77]:4321"];
/// The addresses of the clients.
const CLIENT: [&str; 2] = ["198.51.100.2", "2001:db8:1::2"];

/// Sizes that fit the way back, and sizes that do not: all around both MTUs, and some that are always fragmented.
fn sizes() -> impl Iterator<Item = usize> {
    (1..=1600).chain([2000, 2552, 3000, 4100, 9000, 65_507])
}

/// Builds the network. The calling thread's namespace is the server's host; the clients' host is returned. Between them
/// is a router with an MTU of 1,280 bytes towards the clients and 1,500 bytes towards the server. Its ICMP messages get
/// lost.
fn behind_a_silent_router() -> (Netns, Netns) {
    let (router, clients) = (Netns::new(), Netns::new());
    let up = |device: &str, addresses: [&str; 2]| {
        // skips the detection of duplicate addresses, which takes time
        setting(&format!("ipv6/conf/{device}/accept_dad"), "0");
        let [v4, v6] = addresses;
        ip(&format!("address add {v4} dev {device}"));
        ip(&format!("address add {v6} dev {device} nodad"));
        ip(&format!("link set {device} up"));
    };
    Netns::cable("near", "inside", &router);
    up("near", ["192.0.2.1/24", "2001:db8::1/64"]);
    ip("route add default via 192.0.2.254");
    ip("route add default via 2001:db8::254");
    router.run(|| {
        Netns::cable("outside", "far", &clients);
        up("inside", ["192.0.2.254/24", "2001:db8::254/64"]);
        up("outside", ["198.51.100.254/24", "2001:db8:1::254/64"]);
        setting("ipv4/ip_forward", "1");
        setting("ipv6/conf/all/forwarding", "1");
        for (prefix, server) in PREFIXES.into_iter().zip(["192.0.2.1", "2001:db8::1"]) {
            ip(&format!("route add {prefix} via {server}"));
        }
        for client in CLIENT {
            ip(&format!("route add {client} dev outside mtu 1280"));
        }
        ip("rule add iif lo ipproto icmp blackhole");
        ip("-6 rule add iif lo ipproto ipv6-icmp blackhole");
    });
    clients.run(|| {
        up("far", ["198.51.100.2/24", "2001:db8:1::2/64"]);
        ip("route add default via 198.51.100.254");
        ip("route add default via 2001:db8:1::254");
    });
    (router, clients)
}

fn parsed(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

fn client(clients: &Netns, number: usize) -> UdpClient {
    clients.run(|| UdpClient::at(CLIENT[number].parse::<IpAddr>().unwrap()))
}

/// Datagrams of every size come back: alone, many at a time, and in trains of datagrams that are too large for the way
/// back.
fn all_sizes_come_back(server: &Server, client: &UdpClient, target: SocketAddr) {
    let target_bytes_max = if target.is_ipv4() { 65_507 } else { 65_527 };
    let sizes: Vec<_> = sizes().chain([target_bytes_max]).collect();
    client.echo(target, &sizes, 1);
    // the server finds them all at once, so that those of one size leave as one train
    for size in [100, 1200, 1252, 1253, 1400, 1452, 1472] {
        server.pause();
        let sent: Vec<_> = (0..20).map(|number| payload(number, size)).collect();
        for datagram in &sent {
            client.send(target, datagram);
        }
        server.resume();
        for datagram in &sent {
            client.expect(target, datagram);
        }
    }
    for segment_bytes in [1232, 1252, 1400, 1450] {
        let train = payload(3, usize::from(segment_bytes) * 20 + 77);
        client.send_train(target, &train, segment_bytes);
        datagrams(&train, segment_bytes).for_each(|datagram| client.expect(target, datagram));
    }
}

/// Steers all ports of the prefixes to the server.
fn steer(server: &Server) -> Dispatcher {
    for (family, prefix) in ["", "-6"].into_iter().zip(PREFIXES) {
        ip(&format!("{family} route add local {prefix} dev lo"));
    }
    let dispatcher = Dispatcher::attach(&PREFIXES.map(|prefix| Binding::new(Protocol::Udp, prefix, 0)));
    let dispatcher = dispatcher.expect("attach to a network namespace, which needs root");
    for address in SERVER.map(parsed) {
        register_pid(&dispatcher.sockets, server.pid(), Protocol::Udp, address)
            .unwrap_or_else(|failure| panic!("register-pid udp {address}: {failure}"));
    }
    dispatcher
}

/// Single datagrams, trains, and replies from other ports than the listening one: nothing is lost behind a router that
/// silently drops packets above the MTU.
#[test]
#[ignore = "needs root"]
fn a_small_mtu_that_no_router_tells_of_loses_nothing() {
    private_network(|| {
        let (_router, clients) = behind_a_silent_router();
        let server = Server::start(&["--listen", SERVER[0], "--listen", SERVER[1]]);
        let _dispatcher = steer(&server);
        for target in [SERVER[0], STEERED[0]] {
            all_sizes_come_back(&server, &client(&clients, 0), parsed(target));
        }
        let end = server.stop();
        assert_eq!(end.counter("udp_datagrams_in"), end.counter("udp_datagrams_out"));
        assert_eq!(end.counter("udp_trains_refused"), 0, "the network cuts what is too large for it");
    });
}

/// IPv6 routers do not fragment: replies that are too large for the way get lost, and all others arrive. Once the
/// server's host knows the MTU of the way, nothing is lost any more.
#[test]
#[ignore = "needs root"]
fn over_ipv6_a_route_with_an_mtu_is_the_cure() {
    private_network(|| {
        let (_router, clients) = behind_a_silent_router();
        let server = Server::start(&["--listen", SERVER[0], "--listen", SERVER[1]]);
        let _dispatcher = steer(&server);
        for target in [SERVER[1], STEERED[1]].map(parsed) {
            let client = client(&clients, 1);
            // alone: a datagram that waits for a neighbour's link address may be overtaken
            client.echo(target, &[100], 1);
            client.send(target, &[0; 1233]);
            client.echo(target, &(0..=1232).collect::<Vec<_>>(), 8);
            client.expect_nothing_for(Duration::from_millis(50));
        }
        ip("-6 route change default via 2001:db8::254 mtu 1280");
        for target in [SERVER[1], STEERED[1]].map(parsed) {
            all_sizes_come_back(&server, &client(&clients, 1), target);
        }
        let end = server.stop();
        assert_eq!(end.counter("udp_datagrams_in"), end.counter("udp_datagrams_out"));
    });
}

/// The same for passed sockets: those of a .socket unit, and stored ones that an earlier process has set.
#[test]
#[ignore = "needs root"]
fn passed_sockets_answer_behind_a_small_mtu() {
    private_network(|| {
        let (_router, clients) = behind_a_silent_router();
        let (unit, stored) = ("echo.socket", "stored-by-an-earlier-process");
        for (name, arguments) in [(unit, &[][..]), (stored, &["--udp", SERVER[0]])] {
            let socket = UdpSocket::bind(SERVER[0]).expect("bind");
            let passed = [Stored { name: name.into(), descriptor: socket.into() }];
            let server = Launch::new(arguments).passing(&passed).ready();
            drop(passed);
            client(&clients, 0).echo(parsed(SERVER[0]), &[1252, 1253, 1400, 1472], 1);
            server.stop();
        }
    });
}

// Traffic classes ------------------------------------------------------------------------------------------

/// A client whose datagrams have this traffic class. It also reads the traffic class of the replies.
fn set_class(client: &UdpClient, target: SocketAddr, class: u8) {
    let [(level, sent), (_, told)] = if target.is_ipv4() {
        [(libc::SOL_IP, libc::IP_TOS), (libc::SOL_IP, libc::IP_RECVTOS)]
    } else {
        [(libc::SOL_IPV6, libc::IPV6_TCLASS), (libc::SOL_IPV6, libc::IPV6_RECVTCLASS)]
    };
    sys::set_option(&client.socket, level, sent, class.into()).expect("a traffic class");
    sys::set_option(&client.socket, level, told, 1).expect("to be told of it");
}

/// Expects these datagrams in this order, each with this traffic class. Returns the number of messages.
fn expect_classes(client: &UdpClient, target: SocketAddr, sent: &[(Vec<u8>, u8)]) -> usize {
    let (mut expected, mut messages) = (sent.iter(), 0);
    while expected.len() > 0 {
        let arrival = client.receive();
        assert_eq!(arrival.from, target);
        messages += 1;
        for datagram in arrival.payload.chunks(arrival.segment_bytes.unwrap_or(arrival.payload.len())) {
            let number = sent.len() - expected.len();
            let (wanted, class) = expected.next().expect("no more than was sent");
            assert!(datagram == wanted, "{target}: datagram {number} has other bytes");
            assert_eq!(arrival.traffic_class, Some(*class), "{target}: the class of datagram {number}");
        }
    }
    messages
}

/// The destinations of both families: the bound port, and another port.
fn targets() -> [SocketAddr; 4] {
    let [v4, v6] = LISTENING;
    [v4, v6, "127.128.7.7:4321", "[2001:db8::7]:4321"].map(parsed)
}

/// Every DSCP comes back. The ECN bits of a reply are 0, whatever the request had.
#[test]
#[ignore = "needs root"]
fn every_dscp_is_that_of_what_was_asked() {
    private_network(|| {
        let steered = Steered::start(User::Root, &[]);
        for target in targets() {
            let client = UdpClient::beside(target);
            for class in 0..=255 {
                set_class(&client, target, class);
                client.send(target, &[class; 100]);
                expect_classes(&client, target, &[(vec![class; 100], class & 0xfc)]);
            }
        }
        steered.stop(&[]);
    });
}

/// The server finds datagrams of one flow all at once, alone and in trains, with changing traffic classes. They keep
/// their order and class, and consecutive ones of one class still leave together.
#[test]
#[ignore = "needs root"]
fn no_train_mixes_classes() {
    const CLASSES: [u8; 6] = [0, 0xb8, 0xb9, 0x28, 0x02, 0xb8];
    private_network(|| {
        let steered = Steered::start(User::Root, &[]);
        for target in targets() {
            for receives_trains in [true, false] {
                let client = UdpClient::beside(target);
                let client = if receives_trains { client.receiving_trains() } else { client };
                set_class(&client, target, 0);
                client.echo(target, &[1], 1); // its reply socket is there
                steered.server.pause();
                let mut sent = Vec::new();
                for (number, class) in CLASSES.into_iter().enumerate() {
                    set_class(&client, target, class);
                    let bytes = payload(number, 500);
                    (0..3).for_each(|_| client.send(target, &bytes));
                    let train = payload(number, 500 * 7);
                    client.send_train(target, &train, 500);
                    let all = [bytes.repeat(3), train].concat();
                    sent.extend(all.chunks(500).map(|datagram| (datagram.to_vec(), class & 0xfc)));
                }
                // and each datagram alone
                for number in 0..20 {
                    let class = [0x28, 0][number % 2];
                    set_class(&client, target, class);
                    client.send(target, &[number as u8; 500]);
                    sent.push((vec![number as u8; 500], class));
                }
                steered.server.resume();
                let messages = expect_classes(&client, target, &sent);
                // 0xb8 and 0xb9 have the same DSCP; the server may need more than one turn for all of them
                let (least, most) = if receives_trains { (25, 30) } else { (sent.len(), sent.len()) };
                assert!((least..=most).contains(&messages), "{target}: {messages} messages");
            }
        }
        steered.stop(&[]);
    });
}

/// Trains that the path refuses leave as single datagrams with the same traffic class.
#[test]
#[ignore = "needs root"]
fn refused_trains_keep_their_class() {
    private_network(|| {
        let (_router, clients) = behind_a_silent_router();
        ip("route change default via 192.0.2.254 mtu 1280");
        let server = Server::start(&["--udp", SERVER[0]]);
        let (client, target) = (client(&clients, 0), parsed(SERVER[0]));
        for class in [0xb8, 0, 0x28] {
            set_class(&client, target, class);
            let train = payload(1, 1400 * 5);
            client.send_train(target, &train, 1400);
            let sent: Vec<_> = train.chunks(1400).map(|datagram| (datagram.to_vec(), class)).collect();
            expect_classes(&client, target, &sent);
        }
        assert!(server.stop().counter("udp_trains_refused") > 0);
    });
}

/// With `--dscp none`, no DSCP is reflected, also on stored sockets that an earlier process has set otherwise.
#[test]
#[ignore = "needs root"]
fn without_reflection_replies_have_no_dscp() {
    private_network(|| {
        let socket = UdpSocket::bind(LISTENING[0]).expect("bind");
        sys::set_option(&socket, libc::SOL_IP, libc::IP_RECVTOS, 1).expect("IP_RECVTOS");
        let passed = [Stored { name: "stored-by-an-earlier-process".into(), descriptor: socket.into() }];
        let listen = LISTENING.map(|address| format!("--udp={address}"));
        let server = Launch::new(&["--dscp=none", &listen[0], &listen[1]]).passing(&passed).ready();
        drop(passed);
        for target in LISTENING.map(parsed) {
            let client = UdpClient::beside(target);
            set_class(&client, target, 0xb8);
            client.send(target, b"expedited");
            expect_classes(&client, target, &[(b"expedited".to_vec(), 0)]);
        }
        server.stop();
    });
}

/// The traffic class of the first segment with payload from this port over the loopback device.
fn class_from(port: u16, packets: &UdpSocket) -> u8 {
    const ETHERNET: usize = 14;
    let mut frame = vec![0; 1 << 16];
    loop {
        let len = packets.recv(&mut frame).expect("a packet");
        let packet = &frame[ETHERNET..len];
        let (class, protocol, segment) = match packet[0] >> 4 {
            4 => (packet[1], packet[9], &packet[usize::from(packet[0] & 15) * 4..]),
            _ => (packet[0] << 4 | packet[1] >> 4, packet[6], &packet[40..]),
        };
        let has_payload = |segment: &[u8]| segment.len() > usize::from(segment[12] >> 4) * 4;
        if i32::from(protocol) == libc::IPPROTO_TCP
            && segment[..2] == port.to_be_bytes()
            && has_payload(segment)
        {
            return class;
        }
    }
}

/// For TCP the kernel can reflect the class of the SYN, without its ECN bits. If it does not, connections have the
/// class of their listener, as a .socket unit's IPTOS= sets it.
#[test]
#[ignore = "needs root"]
fn tcp_reflects_where_the_kernel_is_told_to() {
    private_network(|| {
        let passed = LISTENING.map(|address| {
            let listener = TcpListener::bind(address).expect("listen");
            let (level, option) = class_option(parsed(address));
            sys::set_option(&listener, level, option, 0x20).expect("a class of its own");
            Stored { name: "echo.socket".into(), descriptor: listener.into() }
        });
        let server = Launch::new::<&str>(&[]).passing(&passed).ready();
        drop(passed);
        for (reflect, wanted) in [("0", 0x20), ("1", 0x48)] {
            setting("ipv4/tcp_reflect_tos", reflect);
            for target in LISTENING.map(parsed) {
                let family = if target.is_ipv4() { libc::ETH_P_IP } else { libc::ETH_P_IPV6 };
                let packets = UdpSocket::from(sys::packet_socket(family as u16).expect("a packet socket"));
                packets.set_read_timeout(Some(PATIENCE)).expect("set the patience");
                let socket = server_sys::socket(Protocol::Tcp, target).expect("a socket");
                let (level, option) = class_option(target);
                sys::set_option(&socket, level, option, 0x4a).expect("a class");
                sys::connect(&socket, target).expect("connect");
                echo(&mut TcpStream::from(socket), b"in which class?");
                assert_eq!(class_from(target.port(), &packets), wanted, "{target}");
            }
        }
        server.stop();
    });
}

fn class_option(target: SocketAddr) -> (i32, i32) {
    if target.is_ipv4() { (libc::SOL_IP, libc::IP_TOS) } else { (libc::SOL_IPV6, libc::IPV6_TCLASS) }
}
