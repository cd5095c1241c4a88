//! A test program that runs itself inside tests/support/systemd-rig if root calls it with `--rig`. There it may install
//! units and programs; the host stays unchanged.
//!
//! If it is called by the name `tubectl`, the program acts as the tests' stand-in for tubectl. So units name tubectl
//! exactly as in production.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;
use std::{env, fs, panic};

use super::steer::Dispatcher;
use super::tubectl;
use super::unit::{run, succeeded, systemctl};
use super::walkthrough::dispatcher;

/// A test case. It uses the dispatcher of this network and returns its figures. It panics if it fails.
pub type Case = fn(&Dispatcher) -> String;

/// Runs `install` and then the cases, in order, until one fails.
pub fn main(install: fn(), cases: &[(&str, Case)]) -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    if let Some(done) = tubectl::called(&arguments) {
        return done;
    }
    if !arguments.iter().any(|argument| argument == "--rig") {
        println!("test under_systemd ... ignored, run by ci/service-manager");
        return ExitCode::SUCCESS;
    }
    if env::var("container").as_deref() != Ok("systemd-rig") {
        let rig = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/systemd-rig");
        let error =
            Command::new(rig).arg(env::current_exe().expect("our own name")).args(&arguments[1..]).exec();
        panic!("run {rig}: {error}");
    }
    let server = env::var("SERVER_UNDER_TEST").unwrap_or(env!("CARGO_BIN_EXE_tubular-echo").into());
    copy(&server, "/usr/local/bin/tubular-echo");
    copy(env!("CARGO_BIN_EXE_blaster"), "/usr/local/bin/blaster");
    copy("/proc/self/exe", "/usr/local/bin/tubectl");
    install();
    let dispatcher = dispatcher();
    tubectl::adopt(&dispatcher).expect("pin the dispatcher");
    // Arguments choose cases by a part of their names.
    let chosen: Vec<_> = arguments[1..].iter().filter(|argument| !argument.starts_with("--")).collect();
    let is_chosen = |name: &str| chosen.is_empty() || chosen.iter().any(|part| name.contains(*part));
    for (name, case) in cases.iter().filter(|(name, _)| is_chosen(name)) {
        let begun = Instant::now();
        let Ok(figures) = panic::catch_unwind(|| case(&dispatcher)) else {
            println!("FAILED  {name}; the end of the journal:");
            println!("{}", succeeded(&run("journalctl", &["--no-pager", "--lines=40"])).unwrap_or_default());
            return ExitCode::FAILURE;
        };
        println!("ok  {name}: {figures} ({:.1} s)", begun.elapsed().as_secs_f32());
    }
    ExitCode::SUCCESS
}

fn copy(from: &str, to: &str) {
    fs::copy(from, to).unwrap_or_else(|error| panic!("copy {from} to {to}: {error}"));
}

/// Installs files of dist/ as their comments say.
pub fn install_dist(files: &[&str]) {
    for file in files {
        let to = format!("/etc/systemd/system/{file}");
        fs::create_dir_all(Path::new(&to).parent().expect("a directory")).expect("a directory for drop-ins");
        copy(&format!("{}/dist/{file}", env!("CARGO_MANIFEST_DIR")), &to);
    }
    succeeded(&systemctl(&["daemon-reload"])).expect("the manager reads the units");
}
