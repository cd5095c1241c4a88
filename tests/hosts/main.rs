//! Unusual hosts: only one address family, addresses and links that appear late, few descriptors, a quota of processor
//! time, another instance that is about to end, hidden files. The server serves all that it can there.

#[path = "../support/mod.rs"]
mod support;

mod addresses;
mod descriptors;
mod families;
mod hidden_files;
mod processors;

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use support::server::Protocol;
use support::tcp::{connect, echo};
use support::udp::UdpClient;
use support::{Server, lines};

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
