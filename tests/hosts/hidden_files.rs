//! Files of /proc that a sandbox hides.

use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use crate::support::netns::setting;
use crate::support::{PATIENCE, Server, private_network};

use crate::{in_own_mounts, warnings};

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
