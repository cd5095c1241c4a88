//! The documents are true: their links and names exist, docs/troubleshooting.md explains every message of the programs,
//! and every shell block works.
//!
//! `cargo test --test docs` reads them; `cargo test --test docs -- --rig [DOCUMENT]...`, as root, also runs their
//! shell blocks (execute.rs), each document beside a systemd and in a network of its own. Names of documents choose
//! among them. markdown.rs explains how blocks are marked.
//!
//! The tools scrut and byexample do similar things. But they want a prompt before each command, so that a reader can't
//! paste it; they accept blocks that are not run without a reason; and they offer no network of their own.

#![allow(unreachable_pub, reason = "`pub` here means: for this program")]

#[path = "../support/mod.rs"]
mod support;

mod execute;
mod figures;
mod markdown;
mod messages;
mod names;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::{env, fs};

use markdown::Document;
use support::tubectl;

/// The root of the repository.
const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// The most lines that README.md may have.
const README_LINES_MAX: usize = 180;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    if let Some(done) = tubectl::called(&arguments) {
        return done;
    }
    if env::var("container").as_deref() == Ok("systemd-rig") {
        return execute::inside(&arguments[1]);
    }
    let chosen: Vec<_> = arguments[1..].iter().filter(|argument| !argument.starts_with("--")).collect();
    let is_chosen = |path: &str| chosen.is_empty() || chosen.iter().any(|part| path.contains(*part));
    let documents: Vec<_> = documents().into_iter().filter(|document| is_chosen(&document.path)).collect();

    let mut complaints: Vec<String> = documents.iter().flat_map(Document::complaints).collect();
    complaints.extend(too_long(&documents));
    complaints.extend(documents.iter().filter_map(Document::wrong_contents));
    complaints.extend(names::complaints(&documents));
    complaints.extend(names::runbooks());
    complaints.extend(names::short_help());
    complaints.extend(figures::complaints(&documents));
    complaints.extend(figures::versions(&documents));
    complaints.extend(messages::complaints());
    for complaint in &complaints {
        println!("{complaint}");
    }
    println!("{} documents read: {} complaints", documents.len(), complaints.len());
    let mut failed = !complaints.is_empty();
    if arguments.iter().any(|argument| argument == "--rig") {
        for document in &documents {
            failed |= !execute::outside(document);
        }
    } else {
        println!("test shell_blocks ... ignored, run by ci/docs");
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// README.md must stay short: details belong in docs/.
fn too_long(documents: &[Document]) -> Option<String> {
    let readme = documents.iter().find(|document| document.path == "README.md")?;
    let lines = readme.lines();
    (lines > README_LINES_MAX).then(|| format!("README.md has {lines} lines of {README_LINES_MAX}"))
}

/// All documents for readers: README and the like at the top, and docs/.
fn documents() -> Vec<Document> {
    let list = |directory: &str| {
        let entries = fs::read_dir(format!("{ROOT}/{directory}")).expect("a directory of the repository");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        let is_document = |name: &OsString| Path::new(name).extension().is_some_and(|kind| kind == "md");
        let names = names.filter(is_document);
        names.map(|name| format!("{directory}{}", name.to_string_lossy())).collect::<Vec<_>>()
    };
    let mut paths = [list(""), list("docs/")].concat();
    paths.sort();
    paths.iter().map(|path| Document::read(path)).collect()
}
