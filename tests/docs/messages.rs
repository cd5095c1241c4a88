//! Checks that docs/troubleshooting.md explains every message of the programs, and every counter.
//!
//! A message is a quoted text of three words or more in the source. Texts that only developers see (tests, assertions)
//! do not count, and neither do help and blaster's report. The changing parts of a message stand in braces; the check
//! looks for the words between them.

use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use tubular_echo::policy::counters::Snapshot;

use super::ROOT;

const DOCUMENT: &str = "docs/troubleshooting.md";

/// The list of all messages, each with a test that follows its advice, or with the reason why there is none.
const CURES: &str = "tests/docs/cures.txt";

/// Words before parentheses whose text no user sees.
const FOR_DEVELOPERS: [&str; 8] =
    ["expect", "unreachable", "assert", "assert_eq", "assert_ne", "debug_assert", "debug_assert_eq", "panic"];

/// Files whose texts are not messages, by the beginnings of their paths.
const NO_MESSAGES: [&str; 13] = [
    "src/console/help",                   // the end of -h
    "src/bin/blaster/show",               // reports, and the screen while a run lasts
    "src/bin/blaster/judge/objective",    // the reasons in the report of a search
    "src/bin/blaster/model/summary",      // destinations in reports
    "src/bin/blaster/model/units",        // numbers in reports
    "src/bin/blaster/model/icmp",         // what ICMP errors say, in the words of the RFCs
    "src/bin/blaster/model/visits",       // the sample in a report
    "src/service/metrics/families",       // what Prometheus shows as help
    "src/exposition/process",             // the same
    "src/bin/blaster/report/metrics",     // the same
    "src/bin/blaster/report/json_schema", // a test that stands beside what it tests
    "src/policy/address_blocks",          // names of blocks of addresses
    "src/simulation",                     // a test that stands beside what it tests
];

pub fn complaints() -> Vec<String> {
    let document = plain(&fs::read_to_string(format!("{ROOT}/{DOCUMENT}")).unwrap_or_default());
    let mut complaints: Vec<String> = Snapshot::default()
        .entries()
        .filter(|(name, _)| !document.contains(name))
        .map(|(name, _)| format!("src/policy/counters.rs: {DOCUMENT} does not tell what {name} counts"))
        .collect();
    let cures = fs::read_to_string(format!("{ROOT}/{CURES}")).expect(CURES);
    let mut cures: Vec<Cure> = cures.lines().filter_map(Cure::read).collect();
    let mut sources = Vec::new();
    collect(Path::new(ROOT).join("src").as_path(), &mut sources);
    sources.sort();
    for source in sources {
        let path = source.strip_prefix(ROOT).expect("below it").display().to_string();
        if path.ends_with("tests.rs") || NO_MESSAGES.iter().any(|beginning| path.starts_with(beginning)) {
            continue;
        }
        let text = fs::read_to_string(&source).expect("a source file");
        let tokens: TokenStream = text.parse().expect("the source is Rust");
        let mut texts = Vec::new();
        walk(tokens, &mut texts);
        for fragments in texts.iter().map(|text| fragments(text)).filter(|fragments| !fragments.is_empty()) {
            for words in fragments.iter().filter(|words| !document.contains(*words)) {
                complaints.push(format!("{path}: {DOCUMENT} does not tell what to do about: {words}"));
            }
            let message = fragments.join(" … ");
            let mut known = cures.iter_mut().filter(|cure| message.contains(&cure.words)).peekable();
            if known.peek().is_none() {
                complaints.push(format!("{path}: {CURES} has no test, and no reason, for: {message}"));
            }
            known.for_each(|cure| cure.is_used = true);
        }
    }
    let unused = cures.iter().filter(|cure| !cure.is_used);
    complaints.extend(unused.map(|cure| format!("{CURES}: nobody says: {}", cure.words)));
    complaints
}

/// A line of [`CURES`]: words of a message, and behind an arrow a test in backticks, or `nothing:` with a reason.
/// tests/promise.rs checks that the tests exist.
struct Cure {
    words: String,
    is_used: bool,
}

impl Cure {
    /// `None` for an empty line or a comment.
    fn read(line: &str) -> Option<Self> {
        if line.trim().is_empty() || line.starts_with('#') {
            return None;
        }
        let (words, cure) = line.split_once(" => ").unwrap_or_else(|| panic!("{CURES}: no arrow: {line}"));
        let is_reason = cure.strip_prefix("nothing: ").is_some_and(|reason| reason.split(' ').count() > 2);
        assert!(is_reason || (cure.starts_with('`') && cure.contains("::")), "{CURES}: {line}");
        Some(Self { words: plain(words), is_used: false })
    }
}

fn collect(directory: &Path, sources: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory of the source") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(path);
        }
    }
}

/// Collects the quoted texts that may be messages.
fn walk(tokens: TokenStream, texts: &mut Vec<String>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut is_for_tests = false; // until the next braces, or a semicolon
    for (at, token) in tokens.iter().enumerate() {
        // the word before it, as in `expect(…)`, `assert!(…)`, `#[…]`, `#![…]`
        let word =
            tokens[..at].iter().map(ToString::to_string).rfind(|token| token != "!").unwrap_or_default();
        match token {
            TokenTree::Group(group) if group.delimiter() == Delimiter::Bracket && word == "#" => {
                let attribute = group.stream().to_string();
                is_for_tests |= attribute.starts_with("cfg") && attribute.contains("test");
                if attribute.starts_with("error") {
                    walk(group.stream(), texts);
                }
            }
            TokenTree::Group(group) if is_for_tests && group.delimiter() == Delimiter::Brace => {
                is_for_tests = false;
            }
            TokenTree::Group(group) if !FOR_DEVELOPERS.contains(&word.as_str()) => {
                walk(group.stream(), texts);
            }
            TokenTree::Punct(mark) if mark.as_char() == ';' => is_for_tests = false,
            TokenTree::Literal(literal) if !is_help(&tokens[..at]) => {
                texts.extend(unquote(&literal.to_string()));
            }
            _ => {}
        }
    }
}

/// Whether the text belongs to a constant whose name says that it is help or a list of words.
fn is_help(before: &[TokenTree]) -> bool {
    let statement = before.rsplit(|token| matches!(token, TokenTree::Punct(mark) if mark.as_char() == ';'));
    statement
        .take(1)
        .flatten()
        .any(|token| matches!(token, TokenTree::Ident(word) if is_list(&word.to_string())))
}

fn is_list(name: &str) -> bool {
    name.contains("HELP") || name.contains("NAMES")
}

/// The text of a string literal; `None` for other literals.
fn unquote(literal: &str) -> Option<String> {
    let inner = literal.strip_prefix('"')?.strip_suffix('"')?;
    let mut text = String::new();
    let mut rest = inner.chars().peekable();
    while let Some(c) = rest.next() {
        match (c, rest.peek().copied()) {
            ('\\', Some('\n')) => while rest.next_if(|c| c.is_whitespace()).is_some() {},
            ('\\', Some('n')) => {
                rest.next();
                text.push('\n');
            }
            ('\\', Some(escaped)) => {
                rest.next();
                text.push(escaped);
            }
            _ => text.push(c),
        }
    }
    Some(text)
}

/// The constant parts of a message, if it has three words or more.
fn fragments(text: &str) -> Vec<String> {
    if text.contains('\n') {
        return Vec::new(); // a message is one line
    }
    let text = text.replace("{{", "\u{1}").replace("}}", "\u{2}");
    let mut parts = Vec::new();
    let mut rest = text.as_str();
    while let Some((before, behind)) = rest.split_once('{') {
        parts.push(before);
        rest = behind.split_once('}').map_or("", |(_, behind)| behind);
    }
    parts.push(rest);
    // assignments do not count as words: a header of HTTP, an option of a program
    let words = parts.iter().flat_map(|part| part.split_whitespace()).filter(|word| !word.contains('='));
    if words.count() < 3 {
        return Vec::new();
    }
    let parts = parts.iter().map(|part| plain(&part.replace('\u{1}', "{").replace('\u{2}', "}")));
    let parts = parts.map(|part| part.trim_matches([' ', ',', ';', ':', '(', ')', '.', '"', '/']).to_owned());
    parts.filter(|part| part.split(' ').count() >= 2).collect()
}

/// The words with single spaces between them, without backticks.
fn plain(text: &str) -> String {
    text.replace('`', "").split_whitespace().collect::<Vec<_>>().join(" ")
}
