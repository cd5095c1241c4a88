//! With .socket units: the manager opens the sockets and passes them.

use std::fs;
use std::os::fd::AsFd;

use tubular_echo::kernel::sys::{IntOption, Protocol, option};

use crate::load::Load;
use crate::service::{
    NAME, clear_journal, cookies, drops, lines_with, restart, sockets, stored, udp_v4_sockets, write_service,
    write_unit,
};
use crate::support::rig;
use crate::support::steer::Dispatcher;
use crate::support::unit::{Unit, run, succeeded, systemctl};
use crate::support::until;
use crate::support::walkthrough::walk_through;

const ADDRESSES: [&str; 2] = ["127.0.0.1:1234", "[::1]:1234"];

/// A .socket unit that lists both protocols of both addresses this many times.
fn write_sockets(times: usize, lines: &str) {
    let each = |address| format!("ListenStream={address}\nListenDatagram={address}\n").repeat(times);
    let listen = ADDRESSES.map(each).concat();
    write_unit(
        &format!("{NAME}.socket"),
        &format!("[Socket]\n{listen}BindIPv6Only=ipv6-only\nReusePort=yes\n{lines}\n"),
    );
}

fn start_sockets() {
    succeeded(&systemctl(&["start", &format!("{NAME}.socket")])).expect("the sockets");
}

/// Stops the service, then its sockets, which would start the service again.
fn stop(unit: Unit) {
    let socket = format!("{}.socket", unit.0);
    succeeded(&systemctl(&["stop", &socket, &unit.0])).expect("the service stops");
    fs::remove_file(format!("/etc/systemd/system/{socket}")).expect("the unit");
}

/// The units set every option that could disturb the server: non-blocking off, other buffers, more control messages,
/// another user. A second unit registers the sockets, and needs no server.
pub fn one_for_each_worker(dispatcher: &Dispatcher) -> String {
    clear_journal();
    write_sockets(
        2,
        "ReceiveBuffer=8M\nNonBlocking=yes\nPassPacketInfo=yes\nPassCredentials=yes\nTimestamping=ns",
    );
    write_unit(
        "register.service",
        &format!("[Service]\nType=oneshot\nSockets={NAME}.socket\nExecStart=tubectl register echo\n"),
    );
    write_service("User=nobody\nNonBlocking=yes", "tubular-echo --workers 2 --fd-store");
    start_sockets();
    succeeded(&systemctl(&["start", "register"])).expect("registered without a server");
    let registered = cookies(dispatcher);
    assert!(registered.iter().all(|cookie| *cookie != 0));
    let unit = Unit::start(NAME).expect("the service starts");
    assert_eq!(udp_v4_sockets(&unit), 2);
    assert_eq!(stored(&unit), 0, "what a .socket unit passed is never stored");
    for found in sockets(&unit).iter().filter(|found| found.socket.protocol == Protocol::Udp) {
        let socket = found.duplicate.as_ref().expect("a socket that receives").as_fd();
        let value = |which| option(socket, which).expect("getsockopt");
        assert_eq!(value(IntOption::RECEIVE_BUFFER), 16 << 20, "the unit's buffer, doubled");
        assert_eq!(value(IntOption::REUSE_ADDR), 0);
    }
    let load = Load::start(20_000);
    for _ in 0..2 {
        restart(&unit);
        load.run_on();
    }
    let report = load.finish();
    assert_eq!((report.lost, drops(&unit)), (0, 0), "of {} datagrams", report.sent);
    assert_eq!(cookies(dispatcher), registered);
    stop(unit);
    assert_eq!(cookies(dispatcher), [0; 4]);
    let ends = lines_with(&Unit(NAME.into()), "final counters");
    assert_eq!(ends.len(), 3);
    for end in &ends {
        assert!(end.contains("udp_receive_errors=0 ") && end.contains("udp_truncated=0 "), "{end}");
    }
    format!(
        "2 restarts at 20000/s: 0 of {} lost, longest silence {} ms, same registrations",
        report.sent,
        report.slowest.as_millis()
    )
}

pub fn fewer_than_workers(dispatcher: &Dispatcher) -> String {
    clear_journal();
    write_sockets(1, "");
    write_service("", "tubular-echo --workers 2");
    start_sockets();
    succeeded(&systemctl(&["start", "register"])).expect("registered without a server");
    // the first datagram starts the server, and waits for it
    walk_through(1, 5);
    let unit = Unit(NAME.into());
    assert_eq!(udp_v4_sockets(&unit), 1, "none is added");
    let lines = lines_with(&unit, "1 of 2 workers serve");
    assert_eq!(lines.len(), 4, "one for each address and protocol: {lines:?}");
    assert!(cookies(dispatcher).iter().all(|cookie| *cookie != 0));
    stop(unit);
    lines[0].clone()
}

/// Another program stores the sockets that a .socket unit passed. The server closes the duplicates, and register-pid
/// accepts the rest.
pub fn passed_twice(dispatcher: &Dispatcher) -> String {
    write_sockets(1, "");
    write_service(
        "NotifyAccess=all\nFileDescriptorStoreMax=8\nExecStartPost=+tubectl store $MAINPID 3 4",
        "tubular-echo",
    );
    start_sockets();
    let unit = Unit::start(NAME).expect("the service starts");
    assert_eq!((stored(&unit), sockets(&unit).len()), (2, 4));
    restart(&unit);
    assert_eq!(udp_v4_sockets(&unit), 1);
    assert_eq!(sockets(&unit).len(), 4, "copies are closed");
    crate::service::register(dispatcher, &unit);
    walk_through(2, 5);
    stop(unit);
    "6 passed, 4 kept, all registered".into()
}

/// Each wrong socket is refused by name, with one line.
pub fn refused(_: &Dispatcher) -> String {
    let cases = [
        ("ListenDatagram=/run/echo.sock", "neither TCP nor UDP"),
        ("ListenStream=/run/echo.sock", "neither TCP nor UDP"),
        ("ListenSequentialPacket=/run/echo.sock", "neither TCP nor UDP"),
        ("ListenFIFO=/run/echo.fifo", "non-socket"),
        ("ListenNetlink=kobject-uevent 1", "neither TCP nor UDP"),
        ("ListenDatagram=[::]:1234\nBindIPv6Only=both", "BindIPv6Only=ipv6-only"),
        ("ListenStream=[::]:1234\nBindIPv6Only=both", "BindIPv6Only=ipv6-only"),
    ];
    write_service("", "tubular-echo");
    for (listen, why) in cases {
        clear_journal();
        write_unit(&format!("{NAME}.socket"), &format!("[Socket]\n{listen}\nFileDescriptorName=wrong\n"));
        start_sockets();
        assert!(Unit::start(NAME).is_err(), "{listen} was accepted");
        let unit = Unit(NAME.into());
        let lines = unit.journal();
        let is_right = |line: &String| line.contains("descriptor 3 (wrong)") && line.contains(why);
        assert!(lines.len() == 1 && lines.iter().all(is_right), "{listen}: {lines:#?}");
        stop(unit);
        Unit(NAME.into()).forget();
    }
    format!("{0} of {0}, each with one line", cases.len())
}

/// The delivered sockets, their registration and the service. All survive a stop and a start.
pub fn of_dist(dispatcher: &Dispatcher) -> String {
    let units = ["tubular-echo.service", "tubular-echo.socket", "tubular-echo-register.service"];
    rig::install_dist(&units);
    succeeded(&run("systemd-analyze", &[&["verify", "--man=no"], &units[..]].concat()))
        .expect("units without a mistake");
    succeeded(&systemctl(&["enable", "tubular-echo-register"])).expect("enabled with the sockets");
    succeeded(&systemctl(&["start", "tubular-echo.socket"])).expect("the sockets");
    until("registered without a server", || !cookies(dispatcher).contains(&0));
    let registered = cookies(dispatcher);
    walk_through(3, 5);
    let unit = Unit("tubular-echo".into());
    assert_eq!((udp_v4_sockets(&unit), stored(&unit)), (1, 0));
    let load = Load::start(5000);
    restart(&unit);
    load.run_on();
    succeeded(&systemctl(&["stop", &unit.0])).expect("the service stops");
    load.run_on(); // what arrives starts it again
    let report = load.finish();
    assert_eq!((report.lost, drops(&unit)), (0, 0), "of {} datagrams", report.sent);
    assert_eq!(cookies(dispatcher), registered);
    stop(unit);
    assert_eq!(cookies(dispatcher), [0; 4]);
    format!("registered without a server; a restart, a stop and a start: 0 of {} lost", report.sent)
}
