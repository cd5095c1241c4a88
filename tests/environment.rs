//! Options from the environment, as a unit's EnvironmentFile= sets them.

mod support;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use support::server::Protocol;
use support::{Launch, bounded};

#[test]
fn variables_stand_for_options() {
    bounded(|| {
        let server = Launch::new::<&str>(&[])
            .env("TUBULAR_ECHO_LISTEN", "127.0.0.1:0, [::1]:0")
            .env("TUBULAR_ECHO_UDP", "127.0.0.2:0")
            .env("TUBULAR_ECHO_WORKERS", "2")
            .env("TUBULAR_ECHO_PIN", "yes")
            .env("TUBULAR_ECHO_METRICS", "")
            .ready();
        let ips = |protocol| server.addresses().iter().filter(|(p, _)| *p == protocol).count();
        assert_eq!((ips(Protocol::Tcp), ips(Protocol::Udp)), (2, 3));
        assert_eq!(server.worker_threads().len(), 2);
        assert!(!server.log.all().iter().any(|line| line.contains("metrics")), "an empty variable is none");
        server.stop();
    });
}

#[test]
fn the_command_line_comes_first() {
    bounded(|| {
        let server = Launch::new(&["--tcp", "127.0.0.1:0", "--workers", "1"])
            .env("TUBULAR_ECHO_TCP", "127.0.0.2:0")
            .env("TUBULAR_ECHO_WORKERS", "2")
            .ready();
        assert_eq!(server.tcp().ip().to_string(), "127.0.0.1");
        assert_eq!(server.worker_threads().len(), 1);
        server.stop();
    });
}

#[test]
fn a_wrong_value_is_told_with_the_name_of_its_variable() {
    bounded(|| {
        let refused = Launch::new::<&str>(&[]).env("TUBULAR_ECHO_DRAIN_TIMEOUT", "soon").refused();
        assert_eq!(refused.code, Some(2));
        let text = refused.stderr.join("\n");
        assert!(text.contains("--drain-timeout") && text.contains("TUBULAR_ECHO_DRAIN_TIMEOUT"), "{text}");

        let refused =
            Launch::new(&["--drain-timeout=now"]).env("TUBULAR_ECHO_DRAIN_TIMEOUT", "soon").refused();
        let text = refused.stderr.join("\n");
        assert!(text.contains("'now'") && !text.contains("TUBULAR_ECHO"), "{text}");
    });
}

#[test]
fn arguments_that_are_not_utf_8_are_no_reason_to_panic() {
    for program in [env!("CARGO_BIN_EXE_tubular-echo"), env!("CARGO_BIN_EXE_blaster")] {
        let mut command = Command::new(program);
        command.env("TUBULAR_ECHO_DRAIN_TIMEOUT", "soon").arg(OsStr::from_bytes(b"--nonsense=\xff"));
        let output = command.output().expect("run the program");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && text.contains("--nonsense"), "{text}");
        let output = command.arg("--nothing").output().expect("run the program");
        assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    }
    // the program searches the command line for the option with the wrong value
    let mut command = Command::new(env!("CARGO_BIN_EXE_tubular-echo"));
    command
        .env("TUBULAR_ECHO_DRAIN_TIMEOUT", "soon")
        .args(["--label", "x"])
        .arg(OsStr::from_bytes(b"--tcp=\xff"));
    let output = command.output().expect("run the program");
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    let mut command = Command::new(env!("CARGO_BIN_EXE_tubular-echo"));
    command.env("TUBULAR_ECHO_WORKERS", "0").arg("--label").arg(OsStr::from_bytes(b"\xff"));
    let output = command.output().expect("run the program");
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_server_s_variables_are_not_those_of_check() {
    let mut check = Command::new(env!("CARGO_BIN_EXE_tubular-echo"));
    // above PID_MAX_LIMIT (4 Mi), so never the number of a process
    check
        .args(["check", "1073741824"])
        .env("TUBULAR_ECHO_LISTEN", "127.0.0.1:7")
        .env("TUBULAR_ECHO_LABEL", "a");
    let output = check.output().expect("run tubular-echo check");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && text.contains("pidfd_open"), "{text}");
}
