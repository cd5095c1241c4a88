//! Figures of documents that come from the reports in benches/results, the bars of the bench, and versions of programs.
//!
//! A comment before a table names the reports of its columns, and a comment in each line names the rows of the bench:
//!
//! ```text
//! <!-- figures: 22 Nov = 2026-11-22-efb06b6 2026-11-22-7ff9d56, 28 Nov = 2026-11-28-e0f48b8 -->
//!
//! | work | peer | 22 Nov | 28 Nov | bar |
//! |---|---|---|---|---|
//! | 64 flows × 8, with / without GRO <!-- udp-gro udp-plain --> | recvmmsg | 0.69 / 0.81 | 0.78 / – | 0.75 / 1.0 |
//! ```
//!
//! A cell has a figure for each row: its ratio in the first of the reports that has the row, or `–` if none has. In a
//! column `time`, the figures are the server's own, and `one core carries at most` follows from them. In the running
//! text, a factor (`1.10 ×`) or a rate (`71,000/s`) in a paragraph with a link to a report is a figure of that report.

use std::fs;

use super::ROOT;
use super::markdown::{Document, Table};

#[allow(dead_code, reason = "the bench uses the rest")]
#[path = "../../benches/table/rows.rs"]
mod rows;

/// The rows of a report's table, by the names of its columns.
struct Report {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Report {
    fn read(name: &str) -> Result<Self, String> {
        let path = format!("benches/results/{name}.md");
        let text =
            fs::read_to_string(format!("{ROOT}/{path}")).map_err(|error| format!("{path}: {error}"))?;
        let tables = Document::parse(&path, &text).tables();
        let table = tables.into_iter().next().ok_or_else(|| format!("{path} has no table"))?;
        Ok(Self { columns: table.columns, rows: table.rows.into_iter().map(|(_, cells)| cells).collect() })
    }

    /// A cell of the row with this name. `None`: the row is not there, or was not measured.
    fn cell(&self, row: &str, column: &str) -> Option<&str> {
        let at = |name: &str| self.columns.iter().position(|other| other == name);
        let (names, column) = (at("row")?, at(column)?);
        let cells = self.rows.iter().find(|cells| cells[names] == row)?;
        Some(cells[column].as_str()).filter(|cell| *cell != "–")
    }
}

/// A figure as it is written, and half of its last digit.
fn figure(text: &str) -> Option<(f64, f64)> {
    let digits: String = text.chars().filter(|c| *c != ',').collect();
    let value: f64 = digits.parse().ok()?;
    let decimals = digits.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    let zeros = if decimals > 0 { 0 } else { digits.len() - digits.trim_end_matches('0').len() };
    Some((value, 0.5 * 10_f64.powi(zeros as i32 - decimals as i32)))
}

/// Whether a document's figure is that of a report, which may have more digits.
fn is_rounded(written: &str, measured: &str) -> bool {
    let (Some((written, half)), Some((measured, _))) = (figure(written), figure(measured)) else {
        return false;
    };
    (written - measured).abs() <= half * (1.0 + 1e-9)
}

/// The reports that a comment before a table names for each of its columns.
fn reports(table: &Table) -> Option<Vec<(&str, Vec<&str>)>> {
    let named = table.comment.strip_prefix("figures: ")?;
    named
        .split(", ")
        .map(|part| part.split_once(" = ").map(|(column, names)| (column, names.split(' ').collect())))
        .collect()
}

/// The newest report of the whole table: its name is a date and a commit.
fn newest() -> String {
    let entries = fs::read_dir(format!("{ROOT}/benches/results")).expect("the reports");
    let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    let whole = names.filter_map(|name| name.strip_suffix(".md").map(str::to_owned));
    whole.filter(|name| name.split('-').count() == 4).max().expect("a report")
}

pub fn complaints(documents: &[Document]) -> Vec<String> {
    let newest = newest();
    let mut complaints = Vec::new();
    for document in documents {
        for table in document.tables() {
            let Some(reports) = reports(&table) else {
                if table.comment.starts_with("figures") {
                    complaints.push(format!(
                        "{}:{}: tests/docs/figures.rs explains this comment",
                        document.path, table.line
                    ));
                }
                continue;
            };
            if reports.len() > 1 && !reports.iter().any(|(_, names)| names.contains(&newest.as_str())) {
                complaints.push(format!("{}:{}: the newest report is {newest}", document.path, table.line));
            }
            for (line, what) in of_table(&table, &reports) {
                complaints.push(format!("{}:{line}: {what}", document.path));
            }
        }
        for (line, what) in prose(document) {
            complaints.push(format!("{}:{line}: {what}", document.path));
        }
    }
    complaints
}

/// What is wrong in a table.
fn of_table(table: &Table, reports: &[(&str, Vec<&str>)]) -> Vec<(usize, String)> {
    let mut wrong = Vec::new();
    for (column, names) in reports {
        let read: Result<Vec<_>, _> = names.iter().map(|name| Report::read(name)).collect();
        let (read, at) = match (read, table.columns.iter().position(|other| other == column)) {
            (Ok(read), Some(at)) => (read, at),
            (Err(error), _) => return vec![(table.line, error)],
            (_, None) => return vec![(table.line, format!("there is no column {column}"))],
        };
        for (line, cells) in &table.rows {
            let measured = |row: &str| {
                let cell = if *column == "time" { "ours" } else { "ratio" };
                read.iter().find_map(|report| report.cell(row, cell))
            };
            let found: Vec<_> = rows_of(&cells[0]).into_iter().map(|row| (row, measured(row))).collect();
            if found.is_empty() {
                wrong.push((*line, "no comment names the rows of the bench".to_owned()));
            } else if *column == "time" {
                wrong.extend(time(&cells[at], &found).map(|what| (*line, what)));
                if let Some(carried) = table.columns.iter().position(|other| other == CARRIED) {
                    wrong.extend(carries(&cells[carried], &found).map(|what| (*line, what)));
                }
            } else {
                wrong.extend(ratios(&cells[at], &found).map(|what| (*line, format!("{column}: {what}"))));
            }
        }
    }
    if let Some(at) = table.columns.iter().position(|column| column == "bar") {
        for (line, cells) in &table.rows {
            wrong.extend(bars(&cells[at], &rows_of(&cells[0])).map(|what| (*line, what)));
        }
    }
    wrong
}

/// The rows of the bench that the comment in a cell names.
fn rows_of(cell: &str) -> Vec<&str> {
    let comment = cell.split_once("<!--").and_then(|(_, rest)| rest.split_once("-->"));
    comment.map_or(Vec::new(), |(names, _)| names.split_whitespace().collect())
}

/// The ratios of a cell are those of the rows.
fn ratios(cell: &str, found: &[(&str, Option<&str>)]) -> Option<String> {
    let written: Vec<_> = cell.trim_end_matches('×').trim().split(" / ").collect();
    // one dash stands for all
    let all_missing = cell == "–" && found.iter().all(|(_, measured)| measured.is_none());
    let are_right = written.len() == found.len()
        && written.iter().zip(found).all(|(written, (_, measured))| match measured {
            Some(measured) => is_rounded(written, measured),
            None => *written == "–",
        });
    (!all_missing && !are_right).then(|| format!("{cell:?}, but measured was {found:?}"))
}

/// The bars of a cell are those of the rows. One bar may stand for all.
fn bars(cell: &str, names: &[&str]) -> Option<String> {
    let bars = names.iter().map(|name| {
        let row = rows::ROWS.iter().find(|row| row.name == *name)?;
        let (rows::Bar::AtMost(bar) | rows::Bar::AtLeast(bar)) = row.bar else { return None };
        Some(bar)
    });
    let Some(bars) = bars.collect::<Option<Vec<f64>>>() else {
        return Some(format!("one of the rows {names:?} has no bar, or is not there"));
    };
    let written: Vec<_> = cell.trim_end_matches('×').trim().split(" / ").map(str::parse).collect();
    let are_right = written.len() == bars.len()
        && written.iter().zip(&bars).all(|(bar, other)| bar.as_ref() == Ok(other))
        || written.len() == 1 && bars.iter().all(|bar| written[0].as_ref() == Ok(bar));
    (!are_right).then(|| format!("bar {cell:?}, but the bench has {bars:?}"))
}

/// A figure of a report's own column in nanoseconds, or per gigabyte in milliseconds.
fn own(measured: Option<&str>) -> Option<f64> {
    measured?.split(' ').next()?.parse().ok()
}

/// Two figures with their unit: `3.4 to 4.8 µs`.
fn split(cell: &str) -> (Vec<&str>, &str) {
    let (figures, unit) = cell.split_at(cell.rfind(|c: char| c.is_ascii_digit()).map_or(0, |at| at + 1));
    (figures.split(" to ").collect(), unit.trim())
}

/// The times of a cell are those that the server took, in thousands of what the report counts in.
fn time(cell: &str, found: &[(&str, Option<&str>)]) -> Option<String> {
    let (written, unit) = split(cell);
    let are_right = ["µs", "s per GB"].contains(&unit)
        && written.len() == found.len()
        && written.iter().zip(found).all(|(written, (_, measured))| {
            own(*measured).is_some_and(|measured| is_rounded(written, &format!("{}", measured / 1000.0)))
        });
    (!are_right).then(|| format!("{cell:?}, but measured was {found:?}"))
}

/// The column of a table with a column `time` that follows from it.
const CARRIED: &str = "one core carries at most";

/// What a core carries, smaller figure first, is one second divided by the times: within a twentieth, as rounded.
fn carries(cell: &str, found: &[(&str, Option<&str>)]) -> Option<String> {
    let (written, unit) = split(cell);
    let scale = match unit {
        "/s" => 1e9,
        "million/s" | "GB/s" => 1e3,
        _ => return Some(format!("{cell:?} has no unit")),
    };
    let written: Vec<_> = written.iter().filter_map(|text| figure(text)).map(|(value, _)| value).collect();
    let mut wanted: Vec<_> = found.iter().filter_map(|(_, measured)| Some(scale / own(*measured)?)).collect();
    wanted.sort_by(f64::total_cmp);
    let are_right = written.len() == found.len()
        && written.len() == wanted.len()
        && written.iter().zip(&wanted).all(|(written, wanted)| (written / wanted - 1.0).abs() < 0.05);
    (!are_right).then(|| format!("{cell:?}, but it follows {wanted:?}"))
}

/// The factors and rates in paragraphs with links to reports that no such report has.
fn prose(document: &Document) -> Vec<(usize, String)> {
    let mut wrong = Vec::new();
    for (line, paragraph) in document.paragraphs() {
        let linked: Vec<Report> = paragraph
            .split("](")
            .skip(1)
            .filter_map(|part| part.split(')').next()?.rsplit_once("benches/results/")?.1.strip_suffix(".md"))
            .filter_map(|name| Report::read(name).ok()) // links to missing files are found elsewhere
            .collect();
        if linked.is_empty() {
            continue;
        }
        let ends = paragraph.match_indices(" ×").chain(paragraph.match_indices("/s"));
        let figures = ends.filter_map(|(end, _)| paragraph[..end].rsplit([' ', '(']).next());
        for written in figures.filter(|written| figure(written).is_some()) {
            let cells = linked.iter().flat_map(|report| report.rows.iter().flatten());
            let mut measured = cells.filter_map(|cell| cell.split([' ', '/']).next());
            if !measured.any(|measured| is_rounded(written, measured)) {
                wrong.push((line, format!("no report that is linked here has the figure {written}")));
            }
        }
    }
    wrong
}

/// The versions of a program that a file of the repository declares, by the name that documents give it.
fn declared() -> Vec<(String, String)> {
    let read = |path: &str| fs::read_to_string(format!("{ROOT}/{path}")).expect("a file of the repository");
    let quoted =
        |line: &str, key: &str| Some(line.strip_prefix(key)?.trim_matches([' ', '=', '"']).to_owned());
    let mut declared = Vec::new();
    let manifest = read("Cargo.toml");
    let rust = manifest.lines().find_map(|line| quoted(line, "rust-version"));
    declared.push(("rust".to_owned(), rust.expect("the oldest Rust")));
    let (lock, mut name) = (read("Cargo.lock"), String::new());
    for line in lock.lines() {
        if let Some(found) = quoted(line, "name") {
            name = found;
        } else if let Some(version) = quoted(line, "version")
            && manifest.lines().any(|line| line.starts_with(&format!("{name} = ")))
        {
            declared.push((name.clone(), version));
        }
    }
    declared
}

/// Versions behind the names of crates that we use and of Rust (`tokio-uring 0.5`) that are not those of Cargo.lock and
/// Cargo.toml, and Debian's kernels that are not those of ci/kernels.
pub fn versions(documents: &[Document]) -> Vec<String> {
    let declared = declared();
    let script = fs::read_to_string(format!("{ROOT}/ci/kernels")).expect("ci/kernels");
    let kernels = script.lines().find_map(|line| line.split_once("|| set -- ")).expect("its kernels").1;
    let kernels = kernels.replace(' ', " and ");
    let mut wrong = Vec::new();
    for document in documents.iter().filter(|document| document.path != "CHANGELOG.md") {
        for (line, paragraph) in document.paragraphs() {
            if paragraph.contains("`ci/kernels`")
                && paragraph.contains("Debian's")
                && !paragraph.contains(&kernels)
            {
                wrong.push(format!("{}:{line}: ci/kernels takes {kernels}", document.path));
            }
            // a link counts by its text
            let links = paragraph.split("](").enumerate().map(|(part, text)| match text.split_once(')') {
                Some((_, rest)) if part > 0 => rest,
                _ => text,
            });
            let text = links.collect::<Vec<_>>().concat();
            let words: Vec<&str> = text
                .split(' ')
                .map(|word| word.trim_matches(['`', '[', ']', '(', ')', ',', '.', ':', ';', '*']))
                .collect();
            for pair in words.windows(2) {
                let is_version =
                    pair[1].contains('.') && pair[1].split('.').all(|part| part.parse::<u32>().is_ok());
                let name = pair[0].to_lowercase();
                let known: Vec<_> = declared.iter().filter(|(other, _)| *other == name).collect();
                let is_right = |(_, version): &&(String, String)| {
                    version == pair[1] || version.starts_with(&format!("{}.", pair[1]))
                };
                if is_version && !known.is_empty() && !known.iter().any(is_right) {
                    wrong.push(format!(
                        "{}:{line}: {} {}, but declared is {known:?}",
                        document.path, pair[0], pair[1]
                    ));
                }
            }
        }
    }
    wrong
}
