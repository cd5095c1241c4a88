//! The programs write colors only to a terminal that wants them, and plain text elsewhere. blaster's lines fit it.

mod support;

use std::fs::File;
use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;

use support::bounded;
use support::sys::{self, Confinement, Pidfd};

const SERVER: &str = env!("CARGO_BIN_EXE_tubular-echo");
const BLASTER: &str = env!("CARGO_BIN_EXE_blaster");

/// The program's output on a terminal of 80 characters. The program ends by itself, or at the text that says that all is
/// done.
fn shown(
    program: &str,
    arguments: &[&str],
    environment: &[(&str, &str)],
    until: Option<&'static str>,
) -> String {
    shown_on(80, program, arguments, environment, until)
}

/// The same, on a terminal with lines of so many characters; 0: it does not tell.
fn shown_on(
    columns: u16,
    program: &str,
    arguments: &[&str],
    environment: &[(&str, &str)],
    until: Option<&'static str>,
) -> String {
    let (shown, written) = sys::terminal(columns).expect("a terminal");
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

/// The lines of an output, without control sequences.
fn lines(text: &str) -> Vec<String> {
    let mut plain = String::new();
    for (nth, part) in text.split("\x1b[").enumerate() {
        let end = if nth == 0 {
            0
        } else {
            part.find(|char: char| char.is_ascii_alphabetic()).map_or(0, |at| at + 1)
        };
        // a sequence that moves the cursor begins something new
        plain.push_str(if nth > 0 && !part[..end].ends_with('m') { "\n" } else { "" });
        plain.push_str(&part[end..]);
    }
    plain.split(['\r', '\n']).map(String::from).collect()
}

/// The terminal breaks no line in a word, and each text is there, if its lines are put together again.
fn assert_fits(shown: &str, columns: usize, texts: &[&str]) {
    let lines = lines(shown);
    for line in &lines {
        // the progress display fills its lines with spaces, so that several are one here
        let chars: Vec<char> = line.chars().collect();
        let parts: Vec<&[char]> = chars.chunks(columns).collect();
        let is_word = |at: Option<&char>| at.is_some_and(|char| *char != ' ');
        let is_broken = |parts: &[&[char]]| is_word(parts[0].last()) && is_word(parts[1].first());
        assert!(!parts.windows(2).any(is_broken), "{columns}: {line}");
    }
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let all = words(&lines.join(" "));
    for text in texts {
        assert!(all.contains(&words(text)), "{columns}: {text:?} is not in {all}");
    }
}

/// Progress, table, warnings, conditions, messages and the comparison of runs, on a terminal that tells its width, and on
/// one of which only COLUMNS does.
#[test]
fn no_line_of_blaster_is_wider_than_the_terminal() {
    bounded(|| {
        let server = support::Server::start(&["--udp", "127.0.0.1:0"]);
        let served = server.udp().to_string();
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let unserved = silent.local_addr().expect("its address").to_string();
        for (told, columns) in [("", 120), ("", 80), ("", 50), ("80", 80), ("50", 50)] {
            let environment = [("COLUMNS", told)];
            let on = |duration, arguments: &[&str]| {
                let run = ["--rate", "200", "--timeout", "100ms", "--duration", duration];
                let window = if told.is_empty() { columns as u16 } else { 0 };
                // the progress display reads the window alone
                let quiet: &[&str] = if told.is_empty() { &[] } else { &["--every", "1h"] };
                let all = [&["udp"], arguments, &run, quiet].concat();
                shown_on(window, BLASTER, &all, &environment[..usize::from(!told.is_empty())], None)
            };
            let condition = "ok>0,p99>1s,actual_p99>1s,slip_p99>10s,corrupted>0,misdirected>0";
            let text = on("1200ms", &[&served, "--fail-if", condition]);
            assert_fits(
                &text,
                columns,
                &["FAILED --fail-if 'ok>0': 240", "passed --fail-if 'slip_p99>10s':"],
            );
            let heading =
                lines(&text).into_iter().find(|line| line.starts_with("latency  ")).expect("a table");
            let figures =
                if columns < 80 { "latency p50 p99 max" } else { "latency p50 p90 p95 p99 p99.9 p99.99 max" };
            assert_eq!(heading.split_whitespace().collect::<Vec<_>>().join(" "), figures);
            assert_fits(
                &on("200ms", &[&unserved]),
                columns,
                &["lost 40 100 %", "blaster: nothing came back for 40 sent"],
            );
            let steps = shown_on(
                columns as u16,
                BLASTER,
                &["udp", &served, "--steps", "100:200ms,200:200ms", "--timeout", "100ms"],
                &[],
                None,
            );
            assert_fits(&steps, columns, &["run", "100/s", "200/s", "not ok", "p50", "p99"]);
        }
        server.stop();
    });
}
