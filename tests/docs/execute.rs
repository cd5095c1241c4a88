//! Runs the shell blocks of a document in order. They can do no harm: they run beside their own systemd, in their own
//! network, over a file system that forgets all changes (tests/support/systemd-rig).
//!
//! Each block is a script of its own, starts in the repository's directory, and must end with status 0. For documents
//! in docs/, both programs are installed at the beginning; for those at the top, nothing is. No other host can be
//! reached, so cargo is offline.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Output};
use std::time::Instant;
use std::{env, io};

use super::ROOT;
use super::markdown::{Block, Directive, Document};
use super::support::until;

/// The time limit of a block, in seconds.
const BLOCK_DEADLINE_S: &str = "60";

/// Runs a document's blocks in a rig. Returns whether all blocks did what the document says.
pub fn outside(document: &Document) -> bool {
    let shell: Vec<_> = document.blocks.iter().filter(|block| block.is_shell()).collect();
    let reasons = shell.iter().filter_map(|block| match &block.directive {
        Some(Directive::NotRun(reason)) => Some((block.line, reason)),
        _ => None,
    });
    let reasons: Vec<_> = reasons.collect();
    let begun = Instant::now();
    let passed = shell.len() == reasons.len() || {
        let own = env::current_exe().expect("our own name");
        let rig = format!("{ROOT}/tests/support/systemd-rig");
        let status = Command::new(rig).arg(own).arg(&document.path).status();
        status.expect("run tests/support/systemd-rig").success()
    };
    println!(
        "{}  {}: {} of {} shell blocks run ({:.1} s)",
        if passed { "ok" } else { "FAILED" },
        document.path,
        shell.len() - reasons.len(),
        shell.len(),
        begun.elapsed().as_secs_f32()
    );
    for (line, reason) in reasons {
        println!("    line {line} not run: {reason}");
    }
    passed
}

/// Runs a document's blocks; called in the rig.
pub fn inside(path: &str) -> ExitCode {
    let document = Document::read(path);
    let target = env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| format!("{ROOT}/target"));
    prepare(&target, document.path.starts_with("docs/")).expect("prepare the rig");
    let mut background = Vec::new();
    let mut printed = String::new();
    for block in &document.blocks {
        let outcome = match &block.directive {
            Some(Directive::NotRun(_)) => Ok(()),
            Some(Directive::Output) => compare(&block.text, &printed),
            directive if block.is_shell() => match directive {
                Some(Directive::Background) => {
                    background.push(start(block, background.len()));
                    Ok(())
                }
                directive => {
                    let wanted = if let Some(Directive::Status(status)) = directive { *status } else { 0 };
                    let output = run(block);
                    printed = text(&output);
                    let status = output.status.code();
                    (status == Some(wanted))
                        .then_some(())
                        .ok_or_else(|| format!("ended with {status:?} instead of {wanted}\n{printed}"))
                }
            },
            _ => Ok(()),
        };
        if let Err(why) = outcome {
            println!("{path}:{}: {why}", block.line);
            return ExitCode::FAILURE;
        }
    }
    for mut process in background {
        let _ = process.kill();
        let _ = process.wait();
    }
    ExitCode::SUCCESS
}

/// Prepares the rig: the repository is writable, `target` exists, and tubectl is installed (the stand-in, or the
/// program that TUBECTL names). The programs are installed too, for documents that begin with them.
fn prepare(target: &str, installed: bool) -> io::Result<()> {
    for directory in ["/tmp/upper", "/tmp/work"] {
        fs::create_dir(directory)?;
    }
    let layers = format!("lowerdir={ROOT},upperdir=/tmp/upper,workdir=/tmp/work");
    let mount = Command::new("mount").args(["-t", "overlay", "-o", &layers, "overlay", ROOT]).status()?;
    assert!(mount.success(), "an overlay over the repository");
    let own_target = Path::new(ROOT).join("target");
    if !own_target.exists() {
        std::os::unix::fs::symlink(target, own_target)?;
    }
    let tubectl = env::var_os("TUBECTL").unwrap_or("/proc/self/exe".into());
    fs::copy(tubectl, "/usr/local/bin/tubectl")?;
    if installed {
        for program in ["tubular-echo", "blaster"] {
            fs::copy(format!("{ROOT}/target/release/{program}"), format!("/usr/local/bin/{program}"))?;
        }
    }
    Ok(())
}

/// A shell with the environment of a user who has just logged in.
fn shell(block: &Block) -> Command {
    let mut shell = Command::new("timeout");
    shell.args(["--kill-after=5", BLOCK_DEADLINE_S, "bash", "-e", "-o", "pipefail", "-c", &block.text]);
    shell.current_dir(ROOT).env_clear().envs([("LANG", "C.UTF-8"), ("CARGO_NET_OFFLINE", "true")]);
    let kept = ["PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME"];
    shell.envs(kept.iter().filter_map(|name| Some((name, env::var_os(name)?))));
    shell
}

fn run(block: &Block) -> Output {
    // both outputs together, in the order of writing
    let path = "/tmp/printed";
    let file = File::create(path).expect("a file for what is printed");
    let mut shell = shell(block);
    shell.stdin(std::process::Stdio::null()).stderr(file.try_clone().expect("a copy")).stdout(file);
    let status = shell.status().expect("run bash");
    Output { status, stdout: fs::read(path).expect("what was printed"), stderr: Vec::new() }
}

/// Starts a block that keeps running, and waits until it is ready.
fn start(block: &Block, number: usize) -> Child {
    let path = format!("/tmp/background-{number}");
    let file = File::create(&path).expect("a file for what is printed");
    let mut shell = shell(block);
    shell.stderr(file.try_clone().expect("a copy")).stdout(file);
    let process = shell.spawn().expect("run bash");
    until("the block in the background says that it is ready", || {
        fs::read_to_string(&path).is_ok_and(|text| text.contains("ready"))
    });
    process
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether `printed` matches the output in the document, `told`.
fn compare(told: &str, printed: &str) -> Result<(), String> {
    let lines =
        |text: &str| text.trim_end().lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
    if all_match(&lines(told), &lines(printed)) {
        Ok(())
    } else {
        Err(format!("it printed something else:\n{printed}"))
    }
}

/// A line `…` stands for any number of lines.
pub fn all_match(told: &[String], printed: &[String]) -> bool {
    match told.split_first() {
        None => printed.is_empty(),
        Some((line, rest)) if line.trim() == "…" => {
            (0..=printed.len()).any(|skipped| all_match(rest, &printed[skipped..]))
        }
        Some((line, rest)) => {
            printed.first().is_some_and(|first| line_matches(line, first)) && all_match(rest, &printed[1..])
        }
    }
}

/// `…` stands for any text.
fn line_matches(told: &str, printed: &str) -> bool {
    let parts: Vec<_> = told.split('…').collect();
    let (first, last) = (parts[0], parts[parts.len() - 1]);
    if parts.len() == 1 {
        return told == printed;
    }
    let Some(mut rest) = printed.strip_prefix(first) else { return false };
    for part in &parts[1..parts.len() - 1] {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}
