//! Makes each mistake of `promise.txt` on purpose, in a copy of the tree, and checks that the named tests fail. Run as
//! root: `ci/mistakes [WORDS…]`. WORDS choose mistakes by a part of their titles or of their tests' names.

#![allow(unreachable_pub, reason = "`pub` here means: for this program")]

mod list;

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// Longer than any test takes. A test that hangs has noticed the mistake.
const PATIENCE: Duration = Duration::from_mins(5);

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let Some(at) = arguments.iter().position(|argument| argument == "--make") else {
        println!("test mistakes ... ignored, run by ci/mistakes");
        return ExitCode::SUCCESS;
    };
    let words = &arguments[at + 1..];
    let workshop = Workshop::furnish().expect("a copy of the tree");
    let mut sound = BTreeSet::new();
    let (mut seen, mut failures) = (0, Vec::new());
    for mistake in list::all() {
        let is_named = |word: &String| {
            mistake.title.contains(word.as_str())
                || mistake.tests.iter().any(|test| test.contains(word.as_str()))
        };
        if !words.is_empty() && !words.iter().any(is_named) {
            continue;
        }
        println!("{}", mistake.title);
        for test in &mistake.tests {
            let begun = Instant::now();
            let outcome = workshop.is_seen(&mistake, test, &mut sound);
            let seconds = begun.elapsed().as_secs();
            match outcome {
                Ok(()) => {
                    seen += 1;
                    println!("    red     {test} ({seconds} s)");
                }
                Err(why) => {
                    println!("    FAILED  {test} ({seconds} s): {why}");
                    failures.push(format!("{}: {test}: {why}", mistake.title));
                }
            }
            io::stdout().flush().expect("stdout");
        }
    }
    println!("{seen} times a mistake turned its test red, {} times not", failures.len());
    for failure in &failures {
        println!("{failure}");
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A copy of the tree, and its build directory.
struct Workshop {
    tree: PathBuf,
    build: PathBuf,
}

impl Workshop {
    /// Copies all files that git tracks or would track. Unchanged files stay as they are, so that little is built
    /// again.
    fn furnish() -> io::Result<Self> {
        let target = env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| format!("{ROOT}/target"));
        let root = PathBuf::from(target).join("mistakes");
        let this = Self { tree: root.join("tree"), build: root.join("build") };
        let files = Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
            .current_dir(ROOT)
            .output()?;
        assert!(files.status.success(), "git ls-files: {}", String::from_utf8_lossy(&files.stderr));
        for file in String::from_utf8_lossy(&files.stdout).split_terminator('\0') {
            let (from, to) = (Path::new(ROOT).join(file), this.tree.join(file));
            // deleted, but not committed
            let Ok(bytes) = fs::read(&from) else { continue };
            if fs::read(&to).ok().as_ref() != Some(&bytes) {
                fs::create_dir_all(to.parent().expect("a file is in a directory"))?;
                fs::copy(&from, &to)?;
            }
        }
        Ok(this)
    }

    /// Checks that the test passes, and fails with the mistake. `sound` holds the tests that have passed before.
    fn is_seen(
        &self,
        mistake: &list::Mistake,
        test: &str,
        sound: &mut BTreeSet<String>,
    ) -> Result<(), String> {
        if !sound.contains(test) {
            if !self.passes(test)? {
                return Err("red without the mistake, too".into());
            }
            sound.insert(test.to_owned());
        }
        let mut before = Vec::new();
        let passes = self.make(mistake, &mut before).and_then(|()| self.passes(test));
        for (path, text) in before.iter().rev() {
            fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        if passes? { Err("it stays green".into()) } else { Ok(()) }
    }

    /// Makes a mistake in the copy. `before` gets the old contents of the files.
    fn make(&self, mistake: &list::Mistake, before: &mut Vec<(PathBuf, String)>) -> Result<(), String> {
        for change in &mistake.changes {
            let path = self.tree.join(&change.file);
            let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", change.file))?;
            let changed = change.apply(&text)?;
            fs::write(&path, changed).map_err(|error| format!("{}: {error}", change.file))?;
            before.push((path, text));
        }
        Ok(())
    }

    /// Builds and runs one test, which must exist. Returns whether it passes.
    fn passes(&self, test: &str) -> Result<bool, String> {
        let (module, name) = test.rsplit_once("::").expect("module::test");
        let program = test.split("::").next().expect("a module");
        let is_program = ["tests/P.rs", "tests/P/main.rs"]
            .iter()
            .any(|path| self.tree.join(path.replace('P', program)).is_file());
        let is_rig = program == "restart";
        let (target, arguments) = match test.split_once("::") {
            Some((_, case)) if is_rig => (vec!["--test", program], vec!["--rig".to_owned(), case.to_owned()]),
            Some((_, rest)) if is_program => (
                vec!["--test", program],
                vec!["--include-ignored".to_owned(), "--exact".to_owned(), rest.to_owned()],
            ),
            _ => {
                let module = module.strip_suffix("::tests").unwrap_or(module);
                (vec!["--lib"], vec!["--exact".to_owned(), format!("{module}::tests::{name}")])
            }
        };
        let mut build = self.cargo(&target);
        let built = build.arg("--no-run").output().map_err(|error| format!("cargo: {error}"))?;
        if !built.status.success() {
            return Err(format!("it does not compile:\n{}", String::from_utf8_lossy(&built.stderr)));
        }
        let output_path = self.build.join("output");
        let output =
            fs::File::create(&output_path).map_err(|error| format!("{}: {error}", output_path.display()))?;
        let mut run = self.cargo(&target);
        run.arg("--").args(arguments).stdout(output).stderr(Stdio::null());
        let mut run = run.spawn().map_err(|error| format!("cargo: {error}"))?;
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = run.try_wait().map_err(|error| error.to_string())? {
                break status;
            }
            if begun.elapsed() > PATIENCE {
                // the test did not end at its own deadline; the processes that it has started end with it or by
                // themselves
                let _ = run.kill();
                let _ = run.wait();
                return Ok(false);
            }
            thread::sleep(Duration::from_millis(20));
        };
        let said = fs::read_to_string(&output_path).unwrap_or_default();
        let ran = if is_rig {
            said.contains("ok  ") || said.contains("FAILED")
        } else {
            said.contains("running 1 test")
        };
        if ran { Ok(status.success()) } else { Err(format!("it did not run:\n{said}")) }
    }

    fn cargo(&self, target: &[&str]) -> Command {
        let mut command = Command::new("cargo");
        command
            .args(["test", "--locked", "--quiet"])
            .args(target)
            .current_dir(&self.tree)
            .env("CARGO_TARGET_DIR", &self.build);
        for name in ["CARGO_MANIFEST_DIR", "SIMULATION_SEED", "SIMULATION_FIRST_SEED", "SERVER_UNDER_TEST"] {
            command.env_remove(name);
        }
        command
    }
}
