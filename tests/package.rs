//! The Debian package from dist/build-deb, installed in a system of its own (support/rig.rs). `ci/package` builds it and
//! sets `PACKAGE`.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::process::ExitCode;

use support::steer::Dispatcher;
use support::unit::{Unit, run, succeeded, systemctl};
use support::walkthrough::{DESTINATIONS, walk_through};
use support::{metrics, rig, until};

const SERVICE: &str = "tubular-echo";
const UNITS: [&str; 3] = ["tubular-echo.service", "tubular-echo.socket", "tubular-echo-register.service"];
const DEFAULTS: &str = "/etc/default/tubular-echo";
const METRICS: &str = "127.0.0.1:9469";

fn main() -> ExitCode {
    rig::main(
        make_room,
        &[
            ("the package installs, serves, and leaves nothing", life_of_the_package),
            ("an administrator's decisions outlive an upgrade", upgrades),
            ("installed, removed, installed, upgraded and purged", whole_circle),
        ],
    )
}

/// The tests must find the programs of the package, not those of other tests.
fn make_room() {
    for program in ["tubular-echo", "blaster"] {
        fs::remove_file(format!("/usr/local/bin/{program}")).expect("the rig's copy");
    }
    // machine images forbid packages to start services; and man-db would read every page at each step
    for file in ["/usr/sbin/policy-rc.d", "/var/lib/man-db/auto-update"] {
        let _ = fs::remove_file(file);
    }
}

fn life_of_the_package(dispatcher: &Dispatcher) -> String {
    let before = files();
    install();
    let unit = Unit(SERVICE.into());
    assert_eq!((unit.show("ActiveState").as_str(), is_enabled()), ("active", "enabled".into()));
    let brought = files().difference(&before).count();

    for load in ["udp", "tcp"] {
        let arguments = [load, "127.0.0.1:1234", "[::1]:1234", "--count", "1000", "--quiet"];
        let judge = ["--fail-if", "ok<1000,lost>0,corrupted>0,misdirected>0"];
        succeeded(&run("/usr/bin/blaster", &[&arguments[..], &judge].concat())).expect("every echo is right");
    }
    pages_are_found();

    // as the file itself says
    let defaults = fs::read_to_string(DEFAULTS).expect("the defaults");
    let line = format!("#TUBULAR_ECHO_METRICS={METRICS}\n");
    assert!(defaults.contains(&line), "{defaults}");
    fs::write(DEFAULTS, defaults.replace(&line, &line[1..])).expect("write the defaults");
    let drop_in = format!("/etc/systemd/system/{SERVICE}.service.d");
    fs::create_dir(&drop_in).expect("a directory for the drop-in");
    fs::copy("/usr/share/doc/tubular-echo/examples/tubular.conf", format!("{drop_in}/tubular.conf"))
        .expect("the example");
    succeeded(&systemctl(&["daemon-reload"])).expect("the manager reads the units");
    succeeded(&systemctl(&["restart", SERVICE])).expect("the service starts again");
    assert!(DESTINATIONS.iter().all(|(protocol, ip)| dispatcher.sockets.has(*protocol, *ip)));
    walk_through(1, 20);
    let metrics_addr: SocketAddr = METRICS.parse().unwrap();
    for (protocol, family) in [("udp", "sent_datagrams"), ("tcp", "accepted_connections")] {
        for domain in ["ipv4", "ipv6"] {
            let labels =
                [r#"label="echo""#, &format!(r#"domain="{domain}""#), &format!(r#"protocol="{protocol}""#)];
            metrics::until_counted(metrics_addr, &format!("tubular_echo_{family}_total"), &labels, 20.0);
        }
    }
    fs::remove_dir_all(drop_in).expect("remove the drop-in");

    succeeded(&run("dpkg", &["--remove", SERVICE])).expect("removed");
    assert_ne!(unit.show("ActiveState"), "active");
    assert!(fs::exists(DEFAULTS).unwrap(), "settings outlive a removal");
    succeeded(&run("dpkg", &["--purge", SERVICE])).expect("purged");
    let left: Vec<_> = files().difference(&before).cloned().collect();
    assert!(left.is_empty(), "left behind: {left:#?}");
    format!("{brought} files came and went; all echoes right, registered, scraped")
}

fn upgrades(_: &Dispatcher) -> String {
    install();
    let unit = Unit(SERVICE.into());
    let first = unit.main_pid();
    let changed = fs::read_to_string(DEFAULTS).expect("the defaults") + "RUST_LOG=debug\n";
    fs::write(DEFAULTS, &changed).expect("write the defaults");
    install();
    assert_eq!(unit.show("ActiveState"), "active");
    assert_ne!(unit.main_pid(), first, "the new program runs");
    assert_eq!(fs::read_to_string(DEFAULTS).expect("the defaults"), changed);

    succeeded(&systemctl(&["disable", "--now", SERVICE])).expect("disabled");
    install();
    assert_eq!(is_enabled(), "disabled");
    succeeded(&run("dpkg", &["--purge", SERVICE])).expect("purged");
    until("the service is gone", || unit.show("LoadState") == "not-found");
    "settings kept, new program running, disabled stays disabled".into()
}

/// No step leaves a unit masked or lost, and the purge leaves nothing. Runs twice: with the service, and with a socket
/// unit that the administrator has enabled in its place.
fn whole_circle(_: &Dispatcher) -> String {
    let before = files();
    let states = || UNITS.map(is_enabled_unit);
    let service = Unit(SERVICE.into());
    for socket in [false, true] {
        // the state that an earlier version of the package left: its units in another directory and, after a removal,
        // masked
        let older = older_package();
        succeeded(&run("dpkg", &["--install", &older])).expect("installed");
        assert_eq!(states(), ["enabled", "disabled", "disabled"]);
        succeeded(&run("dpkg", &["--remove", SERVICE])).expect("removed");
        assert!(states().iter().all(|state| state == "masked"), "{:?}", states());

        install();
        assert_eq!(states(), ["enabled", "disabled", "disabled"], "after what an earlier version has masked");
        assert_eq!(service.show("ActiveState"), "active");
        if socket {
            succeeded(&systemctl(&["disable", "--now", SERVICE])).expect("disabled");
            succeeded(&systemctl(&["enable", "--now", "tubular-echo.socket"])).expect("enabled");
        }
        let wanted =
            if socket { ["disabled", "enabled", "disabled"] } else { ["enabled", "disabled", "disabled"] };
        succeeded(&run("dpkg", &["--remove", SERVICE])).expect("removed");
        assert!(!fs::exists(format!("/usr/lib/systemd/system/{SERVICE}.service")).unwrap());
        assert!(states().iter().all(|state| state != "masked"), "{:?}", states());
        install();
        assert_eq!(states(), wanted, "removed and installed again");
        for unit in ["tubular-echo.service", "tubular-echo.socket"] {
            succeeded(&systemctl(&["stop", unit])).expect("stopped");
        }
        succeeded(&systemctl(&["start", "tubular-echo.socket"])).expect("its sockets can be had");
        let load = ["udp", "127.0.0.1:1234", "--count", "10", "--quiet", "--fail-if", "ok<10"];
        succeeded(&run("/usr/bin/blaster", &load)).expect("every echo is right");

        // the units move from the other directory to this one; the removal of the old files must not remove the new
        // ones
        succeeded(&run("dpkg", &["--install", "--force-downgrade", &older])).expect("an older one");
        install();
        assert_eq!(states(), wanted, "upgraded");
        for unit in UNITS {
            assert!(fs::exists(format!("/usr/lib/systemd/system/{unit}")).unwrap(), "{unit}");
        }
        succeeded(&run("dpkg", &["--purge", SERVICE])).expect("purged");
        succeeded(&systemctl(&["daemon-reload"])).expect("the manager forgets");
        assert_eq!(states(), ["not-found"; 3], "purged");
        fs::remove_file(&older).expect("remove the older package");
        let left: Vec<_> = files().difference(&before).cloned().collect();
        assert!(left.is_empty(), "left behind: {left:#?}");
    }
    "no unit masked, none lost, nothing left, with the service and with the socket".into()
}

/// The package as it was when its units were in /lib, and were masked at its removal.
fn older_package() -> String {
    let (root, package) = ("/tmp/older-package", "/tmp/older-package.deb");
    let units = UNITS.join(" ");
    let build = format!(
        "set -e; rm -rf {root}; dpkg-deb --raw-extract \"$PACKAGE\" {root}; mkdir -p {root}/lib; \
         mv {root}/usr/lib/systemd {root}/lib/; rmdir --ignore-fail-on-non-empty {root}/usr/lib; \
         sed -i 's/^Version: .*/Version: 0.0.1/' {root}/DEBIAN/control; rm {root}/DEBIAN/md5sums; \
         echo '[ $1 != remove ] || deb-systemd-helper mask {units}' >>{root}/DEBIAN/postrm; \
         dpkg-deb --root-owner-group -Znone --build {root} {package}; rm -r {root}"
    );
    succeeded(&run("sh", &["-c", &build])).expect("an older package");
    package.into()
}

fn install() {
    let package = std::env::var("PACKAGE").expect("PACKAGE names the package; ci/package builds it");
    succeeded(&run("dpkg", &["--install", "--force-confdef", &package])).expect("installed");
}

fn is_enabled() -> String {
    is_enabled_unit(UNITS[0])
}

/// The state of a unit. It is `not-found` also with older versions of systemd, which only print a message.
fn is_enabled_unit(unit: &str) -> String {
    let output = systemctl(&["is-enabled", unit]);
    let state = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if state.is_empty() { "not-found".into() } else { state }
}

fn pages_are_found() {
    for page in
        ["tubular-echo", "tubular-echo-check", "tubular-echo-health", "blaster", "blaster-udp", "blaster-tcp"]
    {
        succeeded(&run("man", &["--where", page])).expect("a manual page");
    }
    for program in ["tubular-echo", "blaster"] {
        let script =
            format!("source /usr/share/bash-completion/completions/{program} && complete -p {program}");
        succeeded(&run("bash", &["-c", &script])).expect("a completion");
        for file in [
            format!("/usr/share/zsh/vendor-completions/_{program}"),
            format!("/usr/share/fish/vendor_completions.d/{program}.fish"),
        ] {
            assert!(fs::exists(&file).unwrap(), "{file}");
        }
    }
}

/// Every file and directory in the places of packages, except the records that dpkg and man-db keep.
fn files() -> BTreeSet<String> {
    let list = run("find", &["/etc", "/usr", "/var/lib", "/var/cache", "-xdev"]);
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    let others = ["/var/lib/dpkg/", "/var/cache/man/", "/var/lib/systemd/catalog/"];
    let ours =
        |path: &&str| !others.iter().any(|other| path.starts_with(other)) || path.contains("tubular-echo");
    list.lines().filter(ours).map(str::to_owned).collect()
}
