//! The advice in each message helps: a test provokes the message, follows its advice, and checks that it is gone. The test
//! takes numbers, commands and addresses from the message itself. `tests/docs/cures.txt` lists the messages with their
//! tests, and those that need no action.

mod check;
mod command_lines;
#[path = "../support/mod.rs"]
mod support;
mod warnings;

mod start;

use std::process::{Command, Output};

use support::Launch;

/// The error line of a server that does not start.
fn refused(launch: Launch, words: &str) -> String {
    let refusal = launch.refused();
    let text = refusal.stderr.join("\n");
    assert!(matches!(refusal.code, Some(1 | 2)), "{:?}: {text}", refusal.code);
    let line = refusal.stderr.iter().find(|line| line.contains(words));
    line.unwrap_or_else(|| panic!("{words:?} is not told: {text}")).clone()
}

/// Starts a server that must not print these words.
fn cured(launch: Launch, words: &str) {
    let end = launch.ready().stop();
    let told = end.stderr.iter().find(|line| line.contains(words));
    assert!(told.is_none(), "told again: {told:?}");
}

/// A server's warning with these words at its start.
fn warned(launch: Launch, words: &str) -> String {
    let end = launch.ready().stop();
    let told = end.stderr.iter().find(|line| line.contains("WARN") && line.contains(words));
    told.unwrap_or_else(|| panic!("{words:?} is not told: {}", end.stderr.join("\n"))).clone()
}

/// Runs blaster to its end. `flags` are separated by spaces; the text behind `=` may contain spaces.
fn blaster(flags: &str) -> Output {
    let words = flags.split(' ').map(|word| word.replace('\u{a0}', " "));
    Command::new(env!("CARGO_BIN_EXE_blaster")).args(words).output().expect("run blaster")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The first number that follows these words.
fn number_behind(text: &str, words: &str) -> u64 {
    let (_, rest) = text.split_once(words).unwrap_or_else(|| panic!("{words:?} in {text}"));
    let digits: String = rest
        .chars()
        .skip_while(|char| !char.is_ascii_digit())
        .take_while(|char| char.is_ascii_digit() || *char == ',')
        .filter(char::is_ascii_digit)
        .collect();
    digits.parse().unwrap_or_else(|_| panic!("a number behind {words:?} in {text}"))
}

/// The text in backticks, a command.
fn command_in<'a>(text: &'a str, beginning: &str) -> &'a str {
    let mut commands = text.split('`').skip(1).step_by(2);
    commands.find(|command| command.starts_with(beginning)).unwrap_or_else(|| panic!("{beginning} in {text}"))
}

/// Runs a command of a message in a shell.
fn shell(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().expect("run a shell");
    assert!(output.status.success(), "{command}: {}", stderr(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
