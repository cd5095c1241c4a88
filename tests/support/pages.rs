//! Makes the manual pages and completions from the definitions that parse the command line. This file is part of both
//! programs' unit tests, so that the delivered programs do not contain it. ci/pages makes these tests write the files.

use std::fs;
use std::path::Path;

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

/// Names the directory to write to. If it is unset, the pages are only checked.
const DIRECTORY: &str = "PAGES_DIRECTORY";

/// A file of the manual or of completions.
struct Page {
    /// Like `man/blaster-udp.1` or `completions/blaster.bash`.
    file: String,
    text: String,
}

/// Makes all pages of a program. Fails the test if one lacks an option that `--help` shows.
pub(crate) fn make(mut program: Command) {
    let name = program.get_name().to_owned();
    let mut pages = Vec::new();
    // completions first, because the manual pages change the names of the subcommands
    for (shell, extension) in [(Shell::Bash, "bash"), (Shell::Zsh, "zsh"), (Shell::Fish, "fish")] {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut program.clone(), &name, &mut text);
        let page = Page { file: format!("completions/{name}.{extension}"), text: utf8(text) };
        for option in options(&mut program.clone()) {
            let option = if shell == Shell::Fish { option.trim_start_matches('-') } else { &option };
            assert!(page.text.contains(option), "no {option} in {}", page.file);
        }
        pages.push(page);
    }
    program = program.disable_help_subcommand(true);
    program.build();
    add_manual(&mut pages, program, &name);

    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    for Page { file, text } in pages {
        let path = Path::new(&directory).join(file);
        fs::create_dir_all(path.parent().expect("a directory of its own")).expect("make a directory");
        fs::write(&path, text).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
    }
}

/// Makes one page for the command and one for each of its subcommands.
fn add_manual(pages: &mut Vec<Page>, mut command: Command, name: &str) {
    let mut text = Vec::new();
    let man = Man::new(command.clone()).title(name.to_uppercase()).manual("User Commands");
    man.render(&mut text).expect("write to memory");
    let text = laid_out(&utf8(text));
    let plain = text.replace("\\-", "-");
    for option in options(&mut command) {
        assert!(plain.contains(&option), "no {option} in the manual page of {name}");
    }
    pages.push(Page { file: format!("man/{name}.1"), text });
    for inner in command.get_subcommands() {
        let name = format!("{name}-{}", inner.get_name());
        add_manual(pages, inner.clone().display_name(name.clone()), &name);
    }
}

/// Switches off filling for the text behind the options, which has its own columns.
fn laid_out(page: &str) -> String {
    page.replace(".SH EXTRA\n", ".SH NOTES\n.nf\n").replace(".SH VERSION\n", ".fi\n.SH VERSION\n")
}

/// Every option that `--help` shows, with its two dashes.
fn options(command: &mut Command) -> Vec<String> {
    let help = command.render_long_help().to_string();
    let words = help.lines().filter_map(|line| line.trim_start().split_once("--"));
    let begins = |(before, _): &(&str, &str)| before.is_empty() || before.ends_with(", ");
    let options: Vec<String> = words
        .filter(begins)
        .map(|(_, rest)| {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(rest.len());
            format!("--{}", &rest[..end])
        })
        .collect();
    assert!(options.contains(&"--help".to_owned()), "{help}");
    options
}

fn utf8(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("text")
}
