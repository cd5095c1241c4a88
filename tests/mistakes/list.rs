//! The mistakes of `promise.txt`: the change of each, and the tests that must fail.
//!
//! ```text
//! ## the mistake, in words
//! red udp::sizes_from_nothing_to_the_largest, sources::from_every_address_asked
//! in src/echo/udp/socket.rs
//! - the lines that are taken out, which stand there once
//! + the lines that take their place
//! ```
//!
//! Indentation does not count. Several changes, in one file or in several, can make one mistake. A line with a single
//! `#` is a heading.

#![allow(unreachable_pub, reason = "`pub` here means: for the programs that read it")]

use std::fmt::Write;

const LIST: &str = include_str!("promise.txt");

/// Lines that replace other lines.
#[derive(Debug)]
pub struct Change {
    pub file: String,
    out: Vec<String>,
    replacement: Vec<String>,
}

/// A mistake, and the tests that notice it.
#[derive(Debug)]
pub struct Mistake {
    pub title: String,
    pub tests: Vec<String>,
    pub changes: Vec<Change>,
}

/// All mistakes, in the order of the promise.
pub fn all() -> Vec<Mistake> {
    let mut mistakes: Vec<Mistake> = Vec::new();
    let mut file = String::new();
    for line in LIST.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(title) = line.strip_prefix("## ") {
            mistakes.push(Mistake { title: title.to_owned(), tests: Vec::new(), changes: Vec::new() });
            continue;
        }
        // the text before the first one is a comment
        let Some(mistake) = mistakes.last_mut() else { continue };
        let (mark, rest) = line.split_once(' ').unwrap_or((line, ""));
        let changes = &mut mistake.changes;
        match mark {
            "#" => {}
            "red" => mistake.tests.extend(rest.split(',').map(|name| name.trim().to_owned())),
            "in" => rest.clone_into(&mut file),
            "-" => {
                if changes.last().is_none_or(|last| last.file != file || !last.replacement.is_empty()) {
                    changes.push(Change { file: file.clone(), out: Vec::new(), replacement: Vec::new() });
                }
                changes.last_mut().expect("just made").out.push(rest.trim().to_owned());
            }
            "+" => {
                let change = changes.last_mut().expect("something is taken out");
                change.replacement.push(rest.trim().to_owned());
            }
            _ => panic!("{}: {line}?", mistake.title),
        }
    }
    mistakes
}

impl Change {
    /// Returns `text` with the change, if the old lines occur in it exactly once.
    pub fn apply(&self, text: &str) -> Result<String, String> {
        let lines: Vec<_> = text.lines().collect();
        let is_here = |place: &usize| {
            let here = lines[*place..].iter().map(|line| line.trim());
            here.take(self.out.len()).eq(self.out.iter().map(String::as_str))
        };
        let places: Vec<_> = (0..lines.len()).filter(is_here).collect();
        let [place] = places[..] else {
            let out = self.out.join("\n");
            return Err(format!("{} times in {}, not once:\n{out}", places.len(), self.file));
        };
        let mut changed = String::new();
        let replacement = self.replacement.iter().map(String::as_str);
        let (before, after) = (&lines[..place], &lines[place + self.out.len()..]);
        for line in before.iter().copied().chain(replacement).chain(after.iter().copied()) {
            writeln!(changed, "{line}").expect("a string takes everything");
        }
        Ok(changed)
    }
}
