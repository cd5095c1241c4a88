//! Installs and restarts services, and reads their sockets from the kernel.

use std::collections::HashSet;
use std::fs;
use std::net::IpAddr;
use std::os::fd::AsFd;

use tubular_echo::check::walk::{Found, receives, walk};
use tubular_echo::kernel::pidfd::PidFd;
use tubular_echo::kernel::sys::{Protocol, socket_drops};

use crate::support::registry::register_pid;
use crate::support::steer::Dispatcher;
use crate::support::unit::{Unit, succeeded, systemctl};
use crate::support::walkthrough::DESTINATIONS;

/// The name of the service under test.
pub const NAME: &str = "echo";

/// Writes a unit file and makes the manager read it.
pub fn write_unit(file: &str, text: &str) {
    fs::write(format!("/etc/systemd/system/{file}"), text).expect("write a unit");
    succeeded(&systemctl(&["daemon-reload"])).expect("the manager reads the units");
}

/// Installs the service with these lines and this command.
pub fn write_service(lines: &str, command: &str) {
    write_unit(
        &format!("{NAME}.service"),
        &format!(
            "[Service]\nType=notify\nNotifyAccess=main\nLimitCORE=0\nStandardError=journal\n{lines}\n\
             ExecStart={command}\n"
        ),
    );
}

/// Restarts it.
pub fn restart(unit: &Unit) {
    succeeded(&systemctl(&["restart", &unit.0])).expect("the service restarts");
}

/// Its listening sockets.
pub fn sockets(unit: &Unit) -> Vec<Found> {
    let walk = walk(&PidFd::open(unit.main_pid()).expect("the main process"));
    assert!(walk.aborted.is_none(), "{:?}", walk.aborted);
    walk.found.into_iter().filter(|found| receives(&found.socket)).collect()
}

/// How many different UDP sockets it has for IPv4. Each must occur only once.
pub fn udp_v4_sockets(unit: &Unit) -> usize {
    let found = sockets(unit);
    let cookies: HashSet<_> = found.iter().map(|found| found.socket.cookie).collect();
    assert_eq!(cookies.len(), found.len(), "a socket is there twice");
    let is_udp_v4 = |found: &&Found| found.socket.protocol == Protocol::Udp && found.socket.local.is_ipv4();
    found.iter().filter(is_udp_v4).count()
}

/// How many datagrams the kernel has dropped at its UDP sockets so far.
pub fn drops(unit: &Unit) -> u32 {
    let found = sockets(unit);
    let udp = found.iter().filter(|found| found.socket.protocol == Protocol::Udp);
    let duplicates = udp.map(|found| found.duplicate.as_ref().expect("a socket that receives"));
    duplicates.map(|socket| socket_drops(socket.as_fd()).expect("SO_MEMINFO")).sum()
}

/// Registers its four sockets once, from outside. Returns their cookies.
pub fn register(dispatcher: &Dispatcher, unit: &Unit) -> [u64; 4] {
    for (protocol, ip) in DESTINATIONS {
        let registered = register_pid(&dispatcher.sockets, unit.main_pid(), protocol, (ip, 1234).into());
        registered.unwrap_or_else(|failure| panic!("register-pid {protocol} {ip}: {failure}"));
    }
    cookies(dispatcher)
}

/// The cookies of the registered sockets; zero for an empty slot.
pub fn cookies(dispatcher: &Dispatcher) -> [u64; 4] {
    let cookie = |(protocol, ip): (Protocol, IpAddr)| dispatcher.sockets.cookie(protocol, ip).unwrap_or(0);
    DESTINATIONS.map(cookie)
}

/// How many sockets the manager keeps for it.
pub fn stored(unit: &Unit) -> u64 {
    unit.number("NFileDescriptorStore")
}

/// The lines of its journal that contain this text.
pub fn lines_with(unit: &Unit, text: &str) -> Vec<String> {
    unit.journal().into_iter().filter(|line| line.contains(text)).collect()
}

/// Empties the journal.
pub fn clear_journal() {
    succeeded(&crate::support::unit::run("journalctl", &["--rotate"])).expect("a new journal");
    succeeded(&crate::support::unit::run("journalctl", &["--vacuum-time=1us"])).expect("an empty journal");
}
