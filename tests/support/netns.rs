//! Private network namespaces. A thread lives in one, together with the sockets that it opens and the processes that it
//! starts. The kernel removes the namespace when the last of them is gone.

use super::sys;
use std::fs::File;
use std::process::{self, Command};

/// A network namespace, kept alive by this handle.
pub struct Netns(File);

impl Netns {
    /// Moves the calling thread into a new namespace with the loopback device up.
    pub fn unshare() -> Self {
        sys::unshare_network().expect("unshare(CLONE_NEWNET), which needs root");
        sys::raise_loopback().expect("raise the loopback device");
        Self::current()
    }

    /// A second namespace; the calling thread stays where it is.
    pub fn new() -> Self {
        let home = Self::current();
        let new = Self::unshare();
        home.join();
        new
    }

    /// The calling thread's namespace.
    pub fn current() -> Self {
        Self(File::open("/proc/thread-self/ns/net").expect("the thread's network namespace"))
    }

    /// Runs an action in this namespace. Sockets that it opens stay there.
    pub fn run<T>(&self, action: impl FnOnce() -> T) -> T {
        /// Returns to the own namespace even if the action panics.
        struct Return(Netns);
        impl Drop for Return {
            fn drop(&mut self) {
                self.0.join();
            }
        }
        let _home = Return(Self::current());
        self.join();
        action()
    }

    /// Connects two namespaces by a cable: the device `near` here, and its other end `far` in the other one.
    pub fn cable(near: &str, far: &str, other: &Self) {
        let other = format!("/proc/{}/fd/{}", process::id(), std::os::fd::AsRawFd::as_raw_fd(&other.0));
        ip(&format!("link add {near} type veth peer name {far} netns {other}"));
    }

    /// The same with several queues in each direction.
    pub fn cable_with_queues(near: &str, far: &str, other: &Self, queues: usize) {
        let other = format!("/proc/{}/fd/{}", process::id(), std::os::fd::AsRawFd::as_raw_fd(&other.0));
        let queues = format!("numtxqueues {queues} numrxqueues {queues}");
        ip(&format!("link add {near} {queues} type veth peer name {far} netns {other} {queues}"));
    }

    fn join(&self) {
        sys::join_network(&self.0).expect("setns, which needs root");
    }
}

/// Runs `ip` with these arguments in the calling thread's namespace.
pub fn ip(arguments: &str) {
    run("ip", arguments);
}

/// Runs `tc` with these arguments in the calling thread's namespace.
pub fn tc(arguments: &str) {
    run("tc", arguments);
}

fn run(program: &str, arguments: &str) {
    let output = Command::new(program).args(arguments.split_whitespace()).output();
    let output = output.unwrap_or_else(|error| {
        panic!("run {program} (Debian package iproute2; ci/setup installs it): {error}")
    });
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Switches what a device does for TCP on or off: it cuts large segments, and puts small ones together.
pub fn set_offloads(device: &str, are_on: bool) {
    // linux/ethtool.h
    const TSO: u32 = 0x1f;
    const GSO: u32 = 0x24;
    const GRO: u32 = 0x2c;
    for command in [TSO, GSO, GRO] {
        sys::set_offload(device, command, are_on)
            .unwrap_or_else(|error| panic!("ethtool's {command:#x} of {device}: {error}"));
    }
}

/// Makes these processors, and no other, receive what comes on a device of the calling thread's namespace (RPS). The kernel
/// spreads flows over them by a hash, as a NIC does over its queues.
pub fn receive_on(device: &str, processors: &[usize]) {
    let mask = processors.iter().fold(0_u64, |mask, processor| mask | 1 << processor);
    // /sys shows the devices of the namespace in which it was mounted
    let script = format!(
        "mount -t sysfs sysfs /sys && for queue in /sys/class/net/{device}/queues/rx-*; do \
         echo {mask:x} >$queue/rps_cpus || exit; done"
    );
    let output = Command::new("unshare").args(["--mount", "sh", "-c", &script]).output();
    let output = output.unwrap_or_else(|error| panic!("run unshare (Debian package util-linux): {error}"));
    assert!(output.status.success(), "rps_cpus of {device}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Writes a setting below /proc/sys/net. It belongs to the namespace of the thread that opens the file.
pub fn setting(name: &str, value: &str) {
    let path = format!("/proc/sys/net/{name}");
    std::fs::write(&path, value).unwrap_or_else(|error| panic!("write {value} to {path}: {error}"));
}
