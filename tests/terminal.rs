//! The programs write colors only to a terminal that wants them, and plain text elsewhere.

mod support;

use std::fs::File;
use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;

use support::bounded;
use support::sys::{self, Confinement, Pidfd};

const SERVER: &str = env!("CARGO_BIN_EXE_tubular-echo");
const BLASTER: &str = env!("CARGO_BIN_EXE_blaster");

/// The program's output on a terminal. The program ends by itself, or at the text that says that all is done.
fn shown(
    program: &str,
    arguments: &[&str],
    environment: &[(&str, &str)],
    until: Option<&'static str>,
) -> String {
    let (shown, written) = sys::terminal().expect("a terminal");
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("TERM", "xterm").envs(environment.iter().copied());
    command.stdin(Stdio::null()).stdout(written.try_clone().expect("a copy")).stderr(written);
    sys::confine(&mut command, Confinement { limits: Vec::new(), denied: Vec::new() });
    let mut child = command.spawn().expect("start the program");
    drop(command); // and with it our copies of its end
    let pidfd = Pidfd::open(child.id()).expect("pidfd_open");
    let reader = thread::spawn(move || {
        let mut shown = File::from(shown);
        let (mut text, mut part) = (Vec::new(), [0; 4096]);
        let mut is_told = false;
        // EIO: the last process that could write has ended
        while let Ok(read @ 1..) = shown.read(&mut part) {
            text.extend_from_slice(&part[..read]);
            let so_far = String::from_utf8_lossy(&text);
            if !is_told
                && until.is_some_and(|word| so_far.lines().any(|line| line.trim_end().ends_with(word)))
            {
                is_told = true;
                pidfd.signal(libc::SIGTERM).expect("end the program");
            }
        }
        String::from_utf8_lossy(&text).into_owned()
    });
    child.wait().expect("the program ends");
    reader.join().expect("the reader")
}

const PLAIN: [&[(&str, &str)]; 3] = [&[("NO_COLOR", "1")], &[("NO_COLOR", "false")], &[("TERM", "dumb")]];
const COLORED: [&[(&str, &str)]; 2] = [&[], &[("NO_COLOR", "")]];

/// `show` returns output with colors if they are wanted, and only plain text on a terminal that can show nothing else.
fn heeds(show: impl Fn(&[(&str, &str)]) -> String) {
    for (environments, wanted) in [(&PLAIN[..], false), (&COLORED[..], true)] {
        for environment in environments {
            let text = show(environment);
            assert_eq!(has_colors(&text), wanted, "{environment:?}: {text:?}");
            assert!(!environment.contains(&("TERM", "dumb")) || !text.contains('\x1b'), "{text:?}");
        }
    }
}

/// Whether the output contains ESC [ … m. Not every escape sequence is a color: the progress display moves the cursor.
fn has_colors(text: &str) -> bool {
    let sequences = text.split("\x1b[").skip(1);
    let mut ends = sequences.filter_map(|rest| rest.chars().find(|char| !matches!(char, '0'..='9' | ';')));
    ends.any(|end| end == 'm')
}

#[test]
fn the_server_s_log() {
    bounded(|| {
        heeds(|environment| {
            let text = shown(SERVER, &["--listen", "127.0.0.1:0"], environment, Some("ready"));
            assert!(text.contains("final counters"), "{text}");
            text
        });
    });
}

#[test]
fn complaints_about_the_command_line() {
    bounded(|| {
        heeds(|environment| shown(SERVER, &["--listen", "localhost:7"], environment, None));
    });
}

/// blaster's progress, and its table with a condition that fails.
#[test]
fn blaster_s_report() {
    bounded(|| {
        let server = support::Server::start(&["--udp", "127.0.0.1:0"]);
        let target = server.udp().to_string();
        heeds(|environment| {
            let arguments = ["udp", &target, "--rate", "100", "--duration", "1500ms", "--fail-if", "ok>0"];
            let text = shown(BLASTER, &arguments, environment, None);
            assert!(text.contains("150"), "{text}");
            text
        });
        server.stop();
    });
}
