//! docs/promise.md and docs/reliability.md name tests and commands. Each of them must exist, and for each test of the
//! promise there must be a mistake on purpose that makes it fail (tests/mistakes/promise.txt).

#[path = "mistakes/list.rs"]
mod mistakes;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The texts between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// `module::test`, where both are names.
fn as_test(name: &str) -> Option<(&str, &str)> {
    let (module, test) = name.rsplit_once("::")?;
    let is_name =
        |part: &str| part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:".contains(c));
    (!module.is_empty() && is_name(module) && is_name(test)).then_some((module, test))
}

/// The files of a test program, or of a module on any floor.
fn files_of(module: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = module.replace("::", "/");
    let mut folders = vec![root.join("tests")];
    folders_below(&root.join("src"), &mut folders);
    let mut files = Vec::new();
    for folder in folders {
        files.push(folder.join(format!("{path}.rs")));
        let rooms = fs::read_dir(folder.join(&path)).into_iter().flatten();
        files.extend(rooms.map(|entry| entry.expect("a file").path()));
    }
    files.retain(|file| file.extension().is_some_and(|extension| extension == "rs") && file.is_file());
    files
}

/// Collects a folder and all folders below it.
fn folders_below(folder: &Path, folders: &mut Vec<PathBuf>) {
    folders.push(folder.to_path_buf());
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            folders_below(&path, folders);
        }
    }
}

/// Whether a function of this name is a test, or a case of a test program with its own main.
fn is_test(file: &Path, test: &str) -> bool {
    let text = fs::read_to_string(file).expect("a source file");
    let is_program =
        ["restart", "systemd", "package"].iter().any(|program| file.to_string_lossy().contains(program));
    let mut before = Vec::new();
    for line in text.lines() {
        if line.trim_start().trim_start_matches("pub ").starts_with(&format!("fn {test}(")) {
            return is_program || before.iter().rev().take(3).any(|line: &&str| line.trim() == "#[test]");
        }
        before.push(line);
    }
    false
}

/// The tests that a text names. Fails if one does not exist.
fn tests_in(text: &str) -> usize {
    let named: Vec<_> = quoted(text).filter_map(as_test).collect();
    for (module, test) in &named {
        let files = files_of(module);
        assert!(files.iter().any(|file| is_test(file, test)), "no test {module}::{test} in {files:?}");
    }
    named.len()
}

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect(file)
}

#[test]
fn each_sentence_of_the_promise_is_held_by_a_test() {
    let promise = read("docs/promise.md");
    let items: Vec<_> = promise.split("\n* ").skip(1).collect();
    assert!(items.len() > 10, "{} sentences", items.len());
    for item in items {
        // text behind the last item of a list does not belong to it
        let item = item.split("\n\n").next().expect("a sentence");
        assert!(tests_in(item) > 0, "nothing holds: {item}");
    }
}

/// `ci/mistakes` makes the mistakes; this test only checks that they can be made.
#[test]
fn each_test_of_the_promise_has_a_mistake_to_see() {
    let promise = read("docs/promise.md");
    let promised: BTreeSet<_> = quoted(&promise).filter(|name| as_test(name).is_some()).collect();
    let mistakes = mistakes::all();
    let seen: BTreeSet<_> =
        mistakes.iter().flat_map(|mistake| mistake.tests.iter().map(String::as_str)).collect();
    let difference: Vec<_> = promised.symmetric_difference(&seen).collect();
    assert!(
        difference.is_empty(),
        "named by docs/promise.md or by tests/mistakes/promise.txt alone: {difference:?}"
    );
    let figures = read("docs/reliability.md");
    for mistake in mistakes {
        assert!(figures.contains(&mistake.title), "docs/reliability.md has no \"{}\"", mistake.title);
        assert!(!mistake.changes.is_empty(), "\"{}\" changes nothing", mistake.title);
        let mut changed = std::collections::BTreeMap::new();
        for change in &mistake.changes {
            let text = changed.entry(&change.file).or_insert_with(|| read(&change.file));
            let applied = change.apply(text);
            *text = applied.unwrap_or_else(|why| {
                panic!(
                    "\"{}\" can't be made any more; say it anew in tests/mistakes/promise.txt: {why}",
                    mistake.title
                )
            });
        }
    }
}

#[test]
fn each_command_of_the_figures_exists() {
    let text = read("docs/reliability.md");
    assert!(tests_in(&text) > 5);
    let commands: Vec<_> =
        quoted(&text).filter(|words| words.contains("ci/") || words.starts_with("cargo ")).collect();
    assert!(commands.len() > 5, "{commands:?}");
    for command in commands {
        let words: Vec<_> = command.split_whitespace().collect();
        for word in words.iter().filter(|word| word.starts_with("ci/")) {
            assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(word).is_file(), "{command}: no {word}");
        }
        for pair in words.windows(2).filter(|pair| pair[0] == "--test") {
            let file = files_of(pair[1]);
            assert!(!file.is_empty(), "{command}: no test program {}", pair[1]);
        }
    }
}

#[test]
fn each_test_of_a_cure_exists() {
    assert!(tests_in(&read("tests/docs/cures.txt")) > 100);
}
