//! The floors of both programs: imports point down only, and never form a circle.
//!
//! The map is the code: `src/lib.rs` and blaster's `main.rs` declare the floors from top to bottom. A module may use
//! modules of its own floor and below. No imports form a circle, so that a reader of a module needs only the modules
//! below it. Tests are exempt: they may use anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

const SRC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");

/// A module's path from the root of its crate.
type Module = Vec<String>;

/// The modules of a program, and the modules that each of them uses.
struct Program {
    /// The floors, from top to bottom.
    floors: Vec<String>,
    imports: BTreeMap<Module, BTreeSet<Module>>,
}

impl Program {
    /// Reads the crate with this root file and with its modules below this folder.
    fn read(root: &Path, folder: &Path, left_out: &[&str]) -> Self {
        let mut files = BTreeMap::new();
        collect(folder, &mut Vec::new(), left_out, &mut files);
        let known: BTreeSet<Module> = files.keys().cloned().collect();
        let imports = files
            .iter()
            .map(|(module, file)| {
                let mut paths = Vec::new();
                read_paths(tokens(file), &mut paths);
                let used = paths.iter().filter_map(|path| resolve(module, path, &known));
                (module.clone(), used.filter(|used| used != module).collect())
            })
            .collect();
        Self { floors: declared_modules(tokens(root)), imports }
    }

    fn arrows(&self) -> impl Iterator<Item = (&Module, &Module)> {
        self.imports.iter().flat_map(|(module, used)| used.iter().map(move |used| (module, used)))
    }

    /// Imports that point to a higher floor.
    fn arrows_up(&self) -> Vec<String> {
        let rank = |module: &Module| self.floors.iter().position(|floor| *floor == module[0]);
        self.arrows()
            .filter(|(module, used)| rank(module) > rank(used))
            .map(|(module, used)| format!("{} → {}", module.join("::"), used.join("::")))
            .collect()
    }

    /// For each module that is in a circle of imports, the circle.
    fn circles(&self) -> BTreeSet<String> {
        self.imports.keys().filter_map(|module| self.way_back(module)).collect()
    }

    /// The shortest way from a module back to itself.
    fn way_back(&self, start: &Module) -> Option<String> {
        let mut ways: Vec<Vec<&Module>> = vec![vec![start]];
        let mut seen = BTreeSet::new();
        while !ways.is_empty() {
            let mut longer = Vec::new();
            for way in &ways {
                for used in &self.imports[*way.last().expect("a way begins somewhere")] {
                    if used == start {
                        let mut circle: Vec<String> = way.iter().map(|module| module.join("::")).collect();
                        let first = (0..circle.len()).min_by_key(|at| circle[*at].clone()).unwrap_or(0);
                        circle.rotate_left(first);
                        return Some(circle.join(" → "));
                    }
                    if seen.insert(used) {
                        longer.push(way.iter().copied().chain([used]).collect());
                    }
                }
            }
            ways = longer;
        }
        None
    }
}

/// Finds the module files below a folder.
fn collect(folder: &Path, module: &mut Module, left_out: &[&str], files: &mut BTreeMap<Module, PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        if left_out.contains(&name.as_str()) {
            continue;
        }
        module.push(name);
        if path.is_dir() {
            collect(&path, module, left_out, files);
        } else {
            files.insert(module.clone(), path);
        }
        module.pop();
    }
}

fn tokens(file: &Path) -> TokenStream {
    fs::read_to_string(file).expect("a source file").parse().expect("the source is Rust")
}

/// The modules that the root of a crate declares, in order.
fn declared_modules(root: TokenStream) -> Vec<String> {
    let tokens: Vec<TokenTree> = root.into_iter().collect();
    tokens.windows(2).filter(|pair| is_word(&pair[0], "mod")).map(|pair| pair[1].to_string()).collect()
}

fn is_word(token: &TokenTree, word: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if ident == word)
}

fn is_sign(token: Option<&TokenTree>, sign: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == sign)
}

/// Collects all paths that begin with `crate`, `super` or `self`, except those in tests. A `pub use` does not count: it
/// re-exports and needs nothing.
fn read_paths(stream: TokenStream, paths: &mut Vec<Vec<String>>) {
    let tokens: Vec<TokenTree> = stream.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        if is_sign(tokens.get(at), '#')
            && matches!(tokens.get(at + 1), Some(TokenTree::Group(group)) if group.stream().to_string() == "cfg (test)")
        {
            at = end_of_item(&tokens, at + 2);
        } else if is_word(&tokens[at], "pub") && tokens.get(at + 1).is_some_and(|next| is_word(next, "use")) {
            at = end_of_item(&tokens, at);
        } else if is_word(&tokens[at], "pub")
            && matches!(tokens.get(at + 1), Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis)
        {
            // a visibility uses nothing
            at += 2;
        } else if is_word(&tokens[at], "use") {
            let end = end_of_item(&tokens, at);
            read_tree(&tokens[at + 1..end - 1], &[], paths);
            at = end;
        } else if ["crate", "super", "self"].iter().any(|word| is_word(&tokens[at], word)) {
            let mut path = vec![tokens[at].to_string()];
            at += 1;
            while is_sign(tokens.get(at), ':') && is_sign(tokens.get(at + 1), ':') {
                let Some(TokenTree::Ident(ident)) = tokens.get(at + 2) else { break };
                path.push(ident.to_string());
                at += 3;
            }
            // a visibility such as `pub(super)` has no path behind the word
            if path.len() > 1 {
                paths.push(path);
            }
        } else {
            if let TokenTree::Group(group) = &tokens[at] {
                read_paths(group.stream(), paths);
            }
            at += 1;
        }
    }
}

/// The end of the item that begins at `at`: behind its semicolon or its braces.
fn end_of_item(tokens: &[TokenTree], mut at: usize) -> usize {
    let is_import = tokens[at..].iter().take(3).any(|token| is_word(token, "use"));
    while at < tokens.len() {
        let braces = matches!(&tokens[at], TokenTree::Group(group) if group.delimiter() == Delimiter::Brace);
        at += 1;
        if is_sign(tokens.get(at - 1), ';') || (braces && !is_import) {
            break;
        }
    }
    at
}

/// Collects the paths of an import: `a::{b, c::d}` contains two.
fn read_tree(tokens: &[TokenTree], prefix: &[String], paths: &mut Vec<Vec<String>>) {
    for branch in tokens.split(|token| is_sign(Some(token), ',')).filter(|branch| !branch.is_empty()) {
        let mut path = prefix.to_vec();
        for token in branch {
            match token {
                TokenTree::Ident(ident) if ident == "as" => break,
                TokenTree::Ident(ident) if ident == "self" && !path.is_empty() => {}
                TokenTree::Ident(ident) => path.push(ident.to_string()),
                TokenTree::Group(group) => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    read_tree(&inner, &path, paths);
                    path.clear();
                }
                _ => {}
            }
        }
        if !path.is_empty() {
            paths.push(path);
        }
    }
}

/// The module that a path leads to; `None` if it leads outside, or to the root.
fn resolve(from: &Module, path: &[String], known: &BTreeSet<Module>) -> Option<Module> {
    let mut target = match path[0].as_str() {
        "crate" => Vec::new(),
        "self" => from.clone(),
        "super" => from[..from.len() - 1].to_vec(),
        _ => return None,
    };
    for name in &path[1..] {
        if name == "super" {
            target.pop();
        } else {
            target.push(name.clone());
        }
    }
    while !target.is_empty() && !known.contains(&target) {
        target.pop();
    }
    (!target.is_empty()).then_some(target)
}

fn server() -> Program {
    Program::read(&Path::new(SRC).join("lib.rs"), Path::new(SRC), &["bin", "lib", "main", "tests"])
}

fn blaster() -> Program {
    let folder = Path::new(SRC).join("bin/blaster");
    Program::read(&folder.join("main.rs"), &folder, &["main", "tests"])
}

fn assert_floors(program: &Program) {
    assert!(program.arrows().count() > 20, "the imports were not found");
    let unknown: Vec<_> =
        program.imports.keys().filter(|module| !program.floors.contains(&module[0])).collect();
    assert!(unknown.is_empty(), "these are on no floor: {unknown:?}");
    let complaints: Vec<String> = program
        .arrows_up()
        .into_iter()
        .map(|arrow| format!("points up: {arrow}"))
        .chain(program.circles().into_iter().map(|circle| format!("a circle: {circle}")))
        .collect();
    assert!(complaints.is_empty(), "{} imports are wrong:\n{}", complaints.len(), complaints.join("\n"));
}

#[test]
fn the_servers_imports_point_down() {
    assert_floors(&server());
}

#[test]
fn blasters_imports_point_down() {
    assert_floors(&blaster());
}

#[test]
fn an_arrow_up_and_a_circle_are_found() {
    let mut program = server();
    let module = |path: &str| path.split("::").map(String::from).collect::<Module>();
    program.imports.get_mut(&module("values::ports")).expect("it is there").insert(module("service::run"));
    assert!(program.arrows_up().contains(&"values::ports → service::run".into()));
    program
        .imports
        .get_mut(&module("values::duration"))
        .expect("it is there")
        .insert(module("values::ports"));
    program
        .imports
        .get_mut(&module("values::ports"))
        .expect("it is there")
        .insert(module("values::duration"));
    assert!(program.circles().contains("values::duration → values::ports"));
}

/// Fields that a type may have without a reason.
const FIELDS_MAX: usize = 12;

/// Types of a source that have more fields than that, and no comment beside them that says why (`// one field for …`).
fn crowded_types(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let begins = |line: &str| line.ends_with('{') && line.split_whitespace().any(|word| word == "struct");
    let is_field = |line: &&&str| !line.starts_with("//") && !line.starts_with("#[") && line.contains(": ");
    let mut crowded = Vec::new();
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| begins(line)) {
        let fields = lines[at + 1..].iter().take_while(|line| **line != "}").filter(is_field).count();
        let beside =
            lines[..at].iter().rev().take_while(|line| line.starts_with("//") || line.starts_with("#["));
        let has_reason = beside.into_iter().any(|line| line.starts_with("// ") && line.contains("field"));
        if fields > FIELDS_MAX && !has_reason {
            crowded.push(format!("{line} has {fields} fields"));
        }
    }
    crowded
}

#[test]
fn no_type_has_many_fields_without_a_reason() {
    let mut files = BTreeMap::new();
    collect(Path::new(SRC), &mut Vec::new(), &[], &mut files);
    let read = |path: &PathBuf| fs::read_to_string(path).expect("a source file");
    let crowded: Vec<String> = files.values().flat_map(|path| crowded_types(&read(path))).collect();
    assert!(crowded.is_empty(), "{}", crowded.join("\n"));

    let many = format!("struct Many {{\n{}}}\n", "    number: u8,\n".repeat(FIELDS_MAX + 1));
    assert_eq!(crowded_types(&many), ["struct Many { has 13 fields"]);
    assert!(crowded_types(&format!("// one field for each number\n{many}")).is_empty());
}
