//! A quota of processor time.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::server::worker_threads_of;
use crate::support::{Launch, PATIENCE, Server, bounded, until};

use crate::{all_answer, in_own_mounts};

/// Number of processors in the affinity mask.
fn processors() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("our status");
    let mask = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed:")).expect("a mask");
    let digits = mask.chars().filter_map(|digit| digit.to_digit(16));
    digits.map(u32::count_ones).sum::<u32>() as usize
}

/// A control group below that of the test. It is removed at the end.
struct Group(PathBuf);

impl Group {
    fn below(parent: &Path, name: &str) -> Self {
        let path = parent.join(name);
        fs::create_dir(&path).unwrap_or_else(|error| panic!("make {}: {error}", path.display()));
        Self(path)
    }

    fn set(&self, file: &str, value: &str) {
        fs::write(self.0.join(file), value).unwrap_or_else(|error| panic!("write {file}: {error}"));
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let left =
            |path: &Path| fs::read_to_string(path.join("cgroup.procs")).is_ok_and(|text| !text.is_empty());
        until("the group is empty", || !left(&self.0));
        let _ = fs::remove_dir(&self.0);
    }
}

/// In a group whose parent may use one and a half processors, the server starts one worker on any machine.
#[test]
#[ignore = "needs root"]
fn a_quota_of_a_control_group_limits_the_workers() {
    bounded(|| {
        let v1 = Path::new("/sys/fs/cgroup/cpu");
        let is_v1 =
            v1.join("cpu.cfs_quota_us").parent().is_some_and(|path| path.join("cgroup.procs").exists());
        let root = if is_v1 { v1 } else { Path::new("/sys/fs/cgroup") };
        let name = format!("tubular-echo-{}", std::process::id());
        let parent = Group::below(root, &name);
        if is_v1 {
            parent.set("cpu.cfs_quota_us", "150000");
        } else {
            fs::write(root.join("cgroup.subtree_control"), "+cpu").expect("the cpu controller");
            parent.set("cgroup.subtree_control", "+cpu");
            parent.set("cpu.max", "150000 100000");
        }
        let group = Group::below(&parent.0, "child");
        let launch = Launch::new(&["--listen=127.0.0.1:0", "--workers=auto"]);
        let server = launch.in_group(&group.0.join("cgroup.procs")).ready();
        assert_eq!(server.worker_threads().len(), 1);
        let told = server.log.all().iter().any(|line| line.contains("the control group allows"));
        assert_eq!(told, processors() > 1);
        all_answer(&server);
        server.stop();
        drop(group);
    });
}

/// The other version of control groups, imitated by files: a machine has only one of the two.
#[test]
#[ignore = "needs root"]
fn a_quota_of_the_second_version_limits_the_workers() {
    bounded(|| {
        let script = "mount -t tmpfs tmpfs /sys/fs/cgroup && mount -t tmpfs tmpfs /proc
            mkdir -p /sys/fs/cgroup/outer/inner /proc/self /proc/sys/net/ipv4
            echo '32768 60999' >/proc/sys/net/ipv4/ip_local_port_range
            echo 0::/outer/inner >/proc/self/cgroup
            echo cpu | tee /sys/fs/cgroup/cgroup.controllers /sys/fs/cgroup/outer/cgroup.controllers \
                >/sys/fs/cgroup/outer/inner/cgroup.controllers
            echo max 100000 >/sys/fs/cgroup/outer/inner/cpu.max
            echo 199999 100000 >/sys/fs/cgroup/outer/cpu.max
            exec \"$0\" --listen=127.0.0.1:0 --workers=auto";
        let (mut server, log) = in_own_mounts(script);
        let ready = |lines: &[String]| lines.iter().any(|line| line.ends_with(" ready"));
        assert!(log.wait_for(PATIENCE, ready), "{:?}", log.all());
        assert_eq!(worker_threads_of(server.id()).len(), 1, "rounded down");
        server.kill().expect("end it");
        server.wait().expect("its end");
    });
}

#[test]
fn one_worker_per_processor_on_demand() {
    bounded(|| {
        let server = Server::start(&["--listen", "127.0.0.1:0", "--workers", "auto"]);
        let allowed = std::thread::available_parallelism().expect("a number").get();
        assert_eq!(server.worker_threads().len(), processors().min(allowed));
        all_answer(&server);
        server.stop();
    });
}
