//! Reads documents as far as the checks need it: blocks, code spans, links and headings.
//!
//! A shell block (`sh`) is run. A comment in the line before a block changes that:
//!
//! ```text
//! <!-- not run: REASON -->        shell: nobody could, here
//! <!-- in the background -->      shell: goes on until the document ends; the next block waits for its "ready"
//! <!-- status: 1 -->              shell: ends with this status
//! <!-- file: PATH -->             not shell: the lines of a file of the repository; a line of `…` stands for any of them
//! <!-- picture: NAME -->          text: the output of one run, which ci/pictures makes again
//! <!-- output -->                 text: what the shell block before it printed. `…` stands for anything in a line,
//!                                 a line of it for any number of lines
//! ```

use std::fs;

use super::ROOT;
use super::execute::all_match;

/// A document, with its path in the repository.
pub struct Document {
    pub path: String,
    pub blocks: Vec<Block>,
    /// The text outside of blocks, one entry per line; the lines of a block are empty.
    prose: Vec<String>,
}

/// A table. Its cells are without the spaces around them.
pub struct Table {
    /// The line of its header, counted from 1.
    pub line: usize,
    /// The comment in the line before it, if there is one.
    pub comment: String,
    pub columns: Vec<String>,
    /// Each with its line.
    pub rows: Vec<(usize, Vec<String>)>,
}

/// A fenced block.
pub struct Block {
    /// The line where it begins, counted from 1.
    pub line: usize,
    pub language: String,
    pub directive: Option<Directive>,
    pub text: String,
}

#[derive(Clone, PartialEq, Eq)]
pub enum Directive {
    NotRun(String),
    Background,
    Status(i32),
    Output,
    Picture(String),
    File(String),
    Unknown(String),
}

impl Directive {
    fn of(line: &str) -> Option<Self> {
        let words = line.trim().strip_prefix("<!--")?.strip_suffix("-->")?.trim();
        Some(match words.split_once(": ") {
            Some(("not run", reason)) if !reason.is_empty() => Self::NotRun(reason.into()),
            Some(("status", status)) if status.parse::<i32>().is_ok() => {
                Self::Status(status.parse().expect("just done"))
            }
            Some(("file", path)) => Self::File(path.into()),
            Some(("picture", name)) => Self::Picture(name.into()),
            None if words == "in the background" => Self::Background,
            None if words == "output" => Self::Output,
            _ => Self::Unknown(words.into()),
        })
    }
}

/// Whether ci/pictures makes a picture with this name.
fn is_made(name: &str) -> bool {
    let script = fs::read_to_string(format!("{ROOT}/ci/pictures")).expect("ci/pictures");
    let all = script.lines().find_map(|line| line.strip_prefix("for picture in ")?.strip_suffix("; do"));
    all.expect("its pictures").split(' ').any(|made| made == name)
}

/// Whether a text consists of the lines of a file.
fn shows(text: &str, path: &str) -> bool {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let file = fs::read_to_string(format!("{ROOT}/{path}"));
    file.is_ok_and(|file| all_match(&lines(text), &lines(&file)))
}

impl Block {
    pub fn is_shell(&self) -> bool {
        self.language == "sh"
    }
}

impl Document {
    pub fn read(path: &str) -> Self {
        Self::parse(path, &fs::read_to_string(format!("{ROOT}/{path}")).expect("a document"))
    }

    pub fn parse(path: &str, text: &str) -> Self {
        let (mut blocks, mut prose) = (Vec::new(), Vec::new());
        let mut lines = text.lines().enumerate();
        let mut before = "";
        while let Some((number, line)) = lines.next() {
            let Some(language) = line.trim_start().strip_prefix("```") else {
                prose.push(line.to_owned());
                if !line.trim().is_empty() {
                    before = line;
                }
                continue;
            };
            let indent = line.len() - line.trim_start().len();
            let inner = lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != "```");
            let inner: Vec<_> = inner.map(|line| line.get(indent..).unwrap_or("")).collect();
            blocks.push(Block {
                line: number + 1,
                language: language.trim().into(),
                directive: Directive::of(before),
                text: inner.join("\n") + "\n",
            });
            prose.extend((0..inner.len() + 2).map(|_| String::new()));
            before = "";
        }
        Self { path: path.into(), blocks, prose }
    }

    /// Errors in the blocks themselves.
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut printed = false; // a shell block whose output may be told stands before
        for block in &self.blocks {
            let mut complain = |what: &str| complaints.push(format!("{}:{}: {what}", self.path, block.line));
            let directive = block.directive.as_ref();
            match block.language.as_str() {
                "" => complain("a block without a language: `sh` is run, `text` is not"),
                "bash" | "shell" | "console" => {
                    complain("a shell block is called `sh`; what it prints goes into a block `text`");
                }
                _ => {}
            }
            match directive {
                Some(Directive::Unknown(words)) => {
                    complain(&format!("unknown mark {words:?}; tests/docs/markdown.rs lists them"));
                }
                Some(Directive::Picture(name)) if block.is_shell() || !is_made(name) => {
                    complain(&format!("ci/pictures makes no picture {name:?}"));
                }
                Some(Directive::File(path)) if block.is_shell() || !shows(&block.text, path) => {
                    complain(&format!("these are not the lines of {path}"));
                }
                Some(Directive::Output) if !printed => complain("no shell block prints this"),
                Some(Directive::Output) if block.is_shell() => complain("a shell block is no output"),
                Some(Directive::NotRun(_) | Directive::Background | Directive::Status(_))
                    if !block.is_shell() =>
                {
                    complain("only shell blocks are run");
                }
                _ => {}
            }
            if block.is_shell() {
                printed = !matches!(directive, Some(Directive::NotRun(_) | Directive::Background));
            }
        }
        complaints
    }

    pub fn lines(&self) -> usize {
        self.prose.len()
    }

    /// The code spans in the running text, with their lines.
    pub fn spans(&self) -> Vec<(usize, String)> {
        let mut spans = Vec::new();
        for (line, paragraph) in self.paragraphs() {
            for (at, part) in paragraph.split('`').enumerate() {
                if at % 2 == 1 && !part.is_empty() {
                    spans.push((line, part.to_owned()));
                }
            }
        }
        spans
    }

    /// The targets of links, with their lines.
    pub fn links(&self) -> Vec<(usize, String)> {
        let mut links = Vec::new();
        for (line, paragraph) in self.paragraphs() {
            let words: String = paragraph.split('`').step_by(2).collect::<Vec<_>>().join("``");
            for part in words.split("](").skip(1) {
                links.push((line, part.split(')').next().unwrap_or_default().to_owned()));
            }
        }
        links
    }

    /// The anchors of headings, as GitHub makes them.
    pub fn anchors(&self) -> Vec<String> {
        let headings = self.prose.iter().filter(|line| line.starts_with('#'));
        let mut anchors: Vec<String> = Vec::new();
        for heading in headings {
            let words = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
            let base: String = words.chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect();
            let same = |anchor: &&String| **anchor == base || anchor.starts_with(&format!("{base}-"));
            let before = anchors.iter().filter(same).count();
            let is_new = !anchors.contains(&base);
            anchors.push(if is_new { base } else { format!("{base}-{before}") });
        }
        anchors
    }

    /// A list of contents at the top that is not the list of the sections below.
    pub fn wrong_contents(&self) -> Option<String> {
        let top = self.prose.iter().take_while(|line| !line.starts_with("## "));
        let target = |line: &String| {
            Some(line.strip_prefix("* [")?.split_once("](#")?.1.strip_suffix(')')?.to_owned())
        };
        let listed: Vec<_> = top.filter_map(target).collect();
        let headings = self.prose.iter().filter(|line| line.starts_with('#'));
        let sections = headings.zip(self.anchors()).filter(|(heading, _)| heading.starts_with("## "));
        let sections: Vec<_> = sections.map(|(_, anchor)| anchor).collect();
        let differs = listed.iter().zip(&sections).position(|(listed, section)| listed != section);
        let at = differs.unwrap_or(listed.len().min(sections.len()));
        (!listed.is_empty() && listed != sections).then(|| {
            format!("{}: the list at the top differs from the sections at {:?}", self.path, sections.get(at))
        })
    }

    pub fn tables(&self) -> Vec<Table> {
        let cells = |line: &str| -> Vec<String> {
            let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
            inner.split('|').map(|cell| cell.trim().to_owned()).collect()
        };
        let mut tables: Vec<Table> = Vec::new();
        let (mut before, mut open) = ("", false);
        for (number, line) in self.prose.iter().enumerate() {
            if !line.starts_with('|') {
                open = false;
                before = if line.trim().is_empty() { before } else { line.trim() };
                continue;
            }
            match tables.last_mut() {
                Some(_) if open && line.starts_with("|--") => {}
                Some(table) if open => table.rows.push((number + 1, cells(line))),
                _ => {
                    let comment = before.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->"));
                    let comment = comment.unwrap_or_default().to_owned();
                    tables.push(Table { line: number + 1, comment, columns: cells(line), rows: Vec::new() });
                }
            }
            (before, open) = ("", true);
        }
        tables
    }

    /// The paragraphs, each joined into one line, with the number of its first line, counted from 1.
    pub fn paragraphs(&self) -> Vec<(usize, String)> {
        let mut paragraphs: Vec<(usize, String)> = Vec::new();
        let mut open = false;
        for (number, line) in self.prose.iter().enumerate() {
            let goes_on = open && !line.trim_start().starts_with(['|', '#']);
            match paragraphs.last_mut() {
                Some((_, paragraph)) if goes_on => {
                    paragraph.push(' ');
                    paragraph.push_str(line.trim());
                }
                _ => paragraphs.push((number + 1, line.trim().into())),
            }
            open = !line.trim().is_empty();
        }
        paragraphs
    }
}
