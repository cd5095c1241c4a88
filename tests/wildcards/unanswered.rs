//! Datagrams that can't be answered.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::support::random::Random;
use crate::support::steered::Family::{V4, V6};
use crate::support::steered::{PORT, Steered, User};
use crate::support::udp::UdpClient;
use crate::support::{PATIENCE, Server, private_network, sys, until};

use crate::{bind, exchange, is_news, nobody_alone, times_told};

const SYSTEM_PORTS: [u16; 4] = [1, 7, 443, 1023];

#[test]
#[ignore = "needs root"]
fn system_ports_without_the_capability_are_dropped_and_counted() {
    private_network(|| {
        let _turn = nobody_alone();
        let steered = Steered::start(User::Nobody, &[]);
        for family in [V4, V6] {
            let ip = family.ip(&mut Random::new(8));
            let client = UdpClient::beside(SocketAddr::new(ip, 1024));
            for port in SYSTEM_PORTS {
                client.send(SocketAddr::new(ip, port), b"who may answer from here?");
            }
            client.echo(SocketAddr::new(ip, 1024), &[64; 10], 1);
        }
        until_told(&steered.server, "CAP_NET_BIND_SERVICE");
        let end = steered.stop(&["udp_reply_port_privileged"]);
        assert_eq!(end.counter("udp_reply_port_privileged"), 2 * SYSTEM_PORTS.len() as u64);
        assert_eq!(times_told(&end, "CAP_NET_BIND_SERVICE"), 1);
    });
}

#[test]
#[ignore = "needs root"]
fn system_ports_with_the_capability_are_answered() {
    private_network(|| {
        let steered = Steered::start(User::Root, &[]);
        for family in [V4, V6] {
            let ip = family.ip(&mut Random::new(9));
            for port in SYSTEM_PORTS {
                exchange(SocketAddr::new(ip, port));
            }
        }
        steered.stop(&[]);
    });
}

#[test]
#[ignore = "needs root"]
fn a_port_that_somebody_holds_is_dropped_and_counted() {
    private_network(|| {
        let steered = Steered::start(User::Root, &[]);
        for (family, [taken, free]) in
            [V4, V6].map(|family| (family, <[SocketAddr; 2]>::try_from(family.pairs(10, 2)).unwrap()))
        {
            let holder = bind(taken).expect("the port is free");
            holder.set_nonblocking(true).unwrap();
            let client = UdpClient::beside(taken);
            for _ in 0..5 {
                client.send(taken, b"anybody there?");
            }
            client.echo(free, &[64; 10], 1);
            assert!(holder.recv(&mut [0; 64]).is_err(), "{family:?}: it is steered past the holder");
            drop(holder);
            // another test of this program may be between fork and exec, with copies of all descriptors
            until("the port is free", || !sys::is_bound(taken).expect("the kernel's list of sockets"));
            client.echo(taken, &[64; 10], 1);
        }
        until_told(&steered.server, "udp_reply_port_taken");
        let end = steered.stop(&["udp_reply_port_taken"]);
        assert_eq!(end.counter("udp_reply_port_taken"), 2 * 5);
        assert_eq!(times_told(&end, "udp_reply_port_taken"), 1);
    });
}

fn until_told(server: &Server, text: &str) {
    let told = server.log.wait_for(PATIENCE, |lines| lines.iter().any(|line| is_news(line, text)));
    assert!(told, "waited in vain for {text} in the log");
}

#[test]
#[ignore = "needs root"]
fn a_pair_where_we_listen_ourselves_is_answered_and_not_joined() {
    private_network(|| {
        for workers in ["--workers=1", "--workers=2"] {
            let (other, everywhere) = ("127.128.0.5:5678", "0.0.0.0:5679");
            let udp = [other, everywhere].map(|address| format!("--udp={address}"));
            let steered = Steered::start(User::Root, &[workers, &udp[0], &udp[1]]);
            for target in [other, "127.128.0.6:5678", "127.128.0.6:5679"] {
                exchange(target.parse().unwrap());
            }
            // without the steering, the listening sockets get all traffic, and reply sockets none
            steered.dispatcher.detach().expect("end the steering");
            (0..20).for_each(|_| exchange(other.parse().unwrap()));
            let end = steered.server.stop();
            assert_eq!(end.counter("udp_datagrams_in"), end.counter("udp_datagrams_out"));
            assert_eq!(end.counter("udp_reply_port_taken"), 0);
        }
    });
}

/// An address of the steered IPv6 prefix that collides with `victim` under any key, if a hash folds the address before
/// it mixes in the key. The server's hash once did that.
fn alike(victim: IpAddr) -> IpAddr {
    const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |value: u64| {
        let product = value.wrapping_mul(MIX);
        product ^ product >> 32
    };
    let fold = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => u64::from(u32::from(ip)),
        IpAddr::V6(ip) => mix((u128::from(ip) >> 64) as u64) ^ u128::from(ip) as u64,
    };
    let high: u64 = 0x2001_0db8 << 32;
    Ipv6Addr::from(u128::from(high) << 64 | u128::from(mix(high) ^ fold(victim))).into()
}

#[test]
#[ignore = "needs root"]
fn a_stranger_silences_no_client_by_the_address_that_it_asks() {
    private_network(|| {
        let steered = Steered::start(User::Root, &["--workers=2"]);
        let known: IpAddr = "2001:db8::61eb:4018:1eeb:4019".parse().unwrap();
        assert_eq!(alike([127, 0, 0, 1].into()), known);
        for family in [V4, V6] {
            let target = SocketAddr::new(family.ip(&mut Random::new(19)), PORT);
            let client = UdpClient::beside(target);
            client.echo(target, &[64; 10], 1);
            let address = client.socket.local_addr().expect("getsockname");
            // its reply leaves from a pair that looks like the client's, and that is one of the server's own pairs from
            // then on
            let pair = SocketAddr::new(alike(address.ip()), address.port());
            exchange(pair);
            client.echo(target, &[64; 50], 1);
        }
        steered.stop(&[]);
    });
}

#[test]
#[ignore = "needs root"]
fn without_the_binding_nothing_is_echoed_and_the_ports_are_free_soon() {
    const IDLE_TIMEOUT: Duration = Duration::from_millis(400);
    private_network(|| {
        for workers in ["--workers=1", "--workers=2"] {
            let steered = Steered::start(
                User::Root,
                &[workers, "--reply-socket-idle=400ms", "--reply-socket-rate=100000"],
            );
            let pairs: Vec<_> = [V4, V6].into_iter().flat_map(|family| family.pairs(13, 50)).collect();
            let clients = [V4, V6].map(|family| UdpClient::at(family.loopback()));
            let client = |pair: &SocketAddr| &clients[usize::from(pair.is_ipv6())];
            for pair in &pairs {
                client(pair).echo(*pair, &[64; 2], 1);
            }
            steered.dispatcher.detach().expect("end the steering");
            let removed = Instant::now();
            assert!(bind(pairs[99]).is_err(), "a reply socket is bound to it");
            for pair in &pairs {
                client(pair).send(*pair, b"not steered");
            }
            let mut taken = pairs.clone();
            until("all ports are free", || {
                taken.retain(|pair| bind(*pair).is_err());
                taken.is_empty()
            });
            println!(
                "all ports free {:?} after the binding, idle timeout {IDLE_TIMEOUT:?}",
                removed.elapsed()
            );
            // the test checks every 10 ms, and may wait for a processor
            assert!(removed.elapsed() < IDLE_TIMEOUT + Duration::from_millis(300));
            for pair in &pairs {
                client(pair).send(*pair, b"not steered");
            }
            for client in &clients {
                client.expect_nothing_for(Duration::from_millis(20));
            }
            let end = steered.server.stop();
            assert_eq!(end.counter("udp_datagrams_in"), 2 * pairs.len() as u64);
            assert_eq!(end.counter("udp_datagrams_out"), 2 * pairs.len() as u64);
        }
    });
}
