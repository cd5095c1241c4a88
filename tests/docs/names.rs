//! Checks that the files, flags, counters and links in the documents exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use tubular_echo::policy::counters::Snapshot;

use super::ROOT;
use super::markdown::{Directive, Document};

/// The folders that contain the files of the repository.
const PLACES: [&str; 7] = ["ci/", "dist/", "docs/", "src/", "tests/", "benches/", "target/"];

pub fn complaints(documents: &[Document]) -> Vec<String> {
    let flags = flags();
    let mut complaints = Vec::new();
    for document in documents {
        let mut complain = |line: usize, what: String| {
            complaints.push(format!("{}:{line}: {what}", document.path));
        };
        for (line, link) in document.links() {
            if let Some(what) = broken(document, &link) {
                complain(line, what);
            }
        }
        for (line, span) in document.spans() {
            for what in wrong(&span, &flags) {
                complain(line, what);
            }
        }
        for block in &document.blocks {
            // the other blocks run, and the programs themselves report wrong options
            let not_run = matches!(block.directive, Some(Directive::NotRun(_)));
            if block.is_shell() && not_run {
                let syntax = Command::new("bash").args(["-n", "-c", &block.text]).output().expect("run bash");
                if !syntax.status.success() {
                    complain(block.line, String::from_utf8_lossy(&syntax.stderr).into_owned());
                }
            }
            if not_run || ["ini", "yaml"].contains(&block.language.as_str()) {
                for command in block.text.replace("\\\n", " ").lines() {
                    for what in wrong_flags(command, &flags) {
                        complain(block.line, what);
                    }
                }
            }
        }
    }
    complaints
}

/// The links of the alerts to their sections (dist/prometheus) that lead nowhere.
pub fn runbooks() -> Vec<String> {
    let entries = fs::read_dir(format!("{ROOT}/dist/prometheus")).expect("the rules of Prometheus");
    let texts = entries.map(|entry| fs::read_to_string(entry.expect("an entry").path()).expect("rules"));
    let top = Document::read("README.md");
    let links: Vec<_> = texts
        .flat_map(|text| {
            let links = text.lines().filter_map(|line| line.trim().strip_prefix("runbook_url: "));
            links.map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    assert!(!links.is_empty(), "no alert has a link");
    links
        .iter()
        .filter_map(|link| broken(&top, link))
        .map(|what| format!("dist/prometheus: {what}"))
        .collect()
}

/// Why a link leads nowhere. Of links to other sites only the form is checked: the tests reach no other host.
fn broken(document: &Document, link: &str) -> Option<String> {
    if let Some(site) = link.strip_prefix("https://") {
        let host = site.split('/').next().unwrap_or_default();
        let is_name = host.contains('.')
            && host.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c));
        let is_whole = is_name && !site.contains(char::is_whitespace);
        return (!is_whole).then(|| format!("{link} is no address of a site"));
    }
    if link.contains("://") {
        return Some(format!("{link}: links to other sites begin with https://"));
    }
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let directory = Path::new(&document.path).parent().expect("a file has one");
    let target = if path.is_empty() { Path::new(&document.path).into() } else { directory.join(path) };
    let target = target.display().to_string();
    if !Path::new(ROOT).join(&target).exists() {
        return Some(format!("the link leads to {target}, which is not there"));
    }
    let is_known = anchor.is_empty() || Document::read(&target).anchors().iter().any(|other| other == anchor);
    (!is_known).then(|| format!("{target} has no heading #{anchor}"))
}

/// A name in a code span that does not exist.
fn wrong(span: &str, flags: &BTreeSet<String>) -> Vec<String> {
    let first = span.split([' ', ':']).next().unwrap_or_default();
    let is_path = PLACES.iter().any(|place| first.starts_with(place));
    if is_path && !first.contains(['*', '…']) && !first.starts_with("target/") {
        let path = Path::new(ROOT).join(first);
        if !path.exists() {
            return vec![format!("there is no {first}")];
        }
        let text = fs::read_to_string(path).unwrap_or_default();
        let unknown = words_like_flags(span).filter(|flag| !text.contains(flag.as_str()));
        return unknown.map(|flag| format!("{first} knows no {flag}")).collect();
    }
    let is_counter = ["udp_", "tcp_"].iter().any(|start| span.starts_with(start))
        && span.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    if is_counter && !Snapshot::default().entries().any(|(name, _)| name == span) {
        return vec![format!("there is no counter {span}")];
    }
    if span.starts_with("--") {
        let unknown = words_like_flags(span).filter(|flag| !flags.contains(flag));
        return unknown.map(|flag| format!("neither program knows {flag}")).collect();
    }
    wrong_flags(span, flags)
}

/// Flags that follow the name of one of our programs, but that the program lacks.
fn wrong_flags(command: &str, flags: &BTreeSet<String>) -> Vec<String> {
    let is_ours = |word: &str| {
        let name = word.rsplit(['/', '=']).next().unwrap_or_default();
        name == "tubular-echo" || name == "blaster"
    };
    let words: Vec<_> = command.split_whitespace().collect();
    let Some(at) = words.iter().position(|word| is_ours(word.trim_matches(['"', '\'']))) else {
        return Vec::new();
    };
    let arguments = words[at + 1..].join(" ");
    let unknown = words_like_flags(&arguments).filter(|flag| !flags.contains(flag));
    unknown.map(|flag| format!("neither program knows {flag}")).collect()
}

/// Every word that begins with two dashes, without the value behind `=`.
fn words_like_flags(text: &str) -> impl Iterator<Item = String> + '_ {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    words.filter(|word| word.starts_with("--") && word.len() > 2).map(str::to_owned)
}

/// The programs with their commands.
fn commands() -> [(&'static str, &'static [&'static str]); 7] {
    let server = env!("CARGO_BIN_EXE_tubular-echo");
    let blaster = env!("CARGO_BIN_EXE_blaster");
    [
        (server, &[]),
        (server, &["check"]),
        (server, &["health"]),
        (blaster, &[]),
        (blaster, &["udp"]),
        (blaster, &["tcp"]),
        (blaster, &["report"]),
    ]
}

fn help(program: &str, words: &[&str], flag: &str) -> String {
    let help = Command::new(program).args(words).arg(flag).output().expect("ask for help");
    assert!(help.status.success(), "{program} {words:?} {flag}: {help:?}");
    String::from_utf8_lossy(&help.stdout).into_owned()
}

/// The flags of both programs, from their own help.
fn flags() -> BTreeSet<String> {
    let helps = commands().map(|(program, words)| help(program, words, "--help"));
    helps.iter().flat_map(|help| words_like_flags(help)).collect()
}

/// What `-h` shows fits a screen, and names all options.
pub fn short_help() -> Vec<String> {
    /// A terminal of that height on a small display.
    const LINES_MAX: usize = 60;
    let mut complaints = Vec::new();
    for (program, words) in commands() {
        let (short, long) = (help(program, words, "-h"), help(program, words, "--help"));
        let lines = short.lines().count();
        if lines > LINES_MAX {
            complaints.push(format!("{program} {words:?} -h has {lines} lines of {LINES_MAX}"));
        }
        let named: BTreeSet<_> = words_like_flags(&short).collect();
        // the manual comes after the options
        let options = long.lines().take_while(|line| !["TARGETS", "Examples:"].contains(line));
        let options = options.filter(|line| line.trim_start().starts_with('-'));
        for option in options.filter_map(|line| words_like_flags(line).next()) {
            if !named.contains(&option) {
                complaints.push(format!("{program} {words:?} -h does not name {option}"));
            }
        }
    }
    complaints
}
