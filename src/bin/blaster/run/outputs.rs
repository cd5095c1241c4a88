//! The outputs of a report: the table, and the files of --json, --hdr and --html.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use serde::Serialize;
use tubular_echo::console::terminal;

use crate::console::interruptible;
use crate::console::streams::{err, out, print_error};
use crate::judge::fail_if::Conditions;
use crate::options::OutputOptions;
use crate::report::hdr;
use crate::report::schema::Document;
use crate::report::whole;
use crate::run::destination::Destination;
use crate::show::page;
use crate::show::paint::Paint;

/// Why a report could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutputError {
    #[error("writing the report to {}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("writing the report to standard output: {0}")]
    Table(io::Error),
}

/// A file that was opened before the run, so that a wrong path fails before the run and not after it.
struct OutputFile {
    path: PathBuf,
    to: OpenFile,
}

enum OpenFile {
    Stdout,
    File(Destination),
}

impl OutputFile {
    fn open(path: Option<&PathBuf>) -> Result<Option<Self>, OutputError> {
        let Some(path) = path else { return Ok(None) };
        let to = if path == Path::new("-") {
            OpenFile::Stdout
        } else {
            let to = Destination::new(path, interruptible::open);
            OpenFile::File(to.map_err(|error| OutputError::File { path: path.clone(), error })?)
        };
        Ok(Some(Self { path: path.clone(), to }))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), OutputError> {
        let written = match &mut self.to {
            OpenFile::Stdout => {
                out().print_bytes(bytes);
                interruptible::finish(out())
            }
            OpenFile::File(to) => to.write(bytes, interruptible::write_all),
        };
        written.map_err(|error| OutputError::File { path: self.path.clone(), error })
    }
}

/// All outputs of a call.
pub(crate) struct Outputs {
    json: Option<OutputFile>,
    hdr: Option<OutputFile>,
    html: Option<OutputFile>,
    fail_if: Option<Conditions>,
    quiet: bool,
    /// Standard output gets lines while the run lasts.
    has_lines_on_stdout: bool,
}

impl Outputs {
    /// Opens the files.
    pub(crate) fn open(options: &OutputOptions) -> Result<Self, OutputError> {
        Ok(Self {
            json: OutputFile::open(options.json.as_ref())?,
            hdr: OutputFile::open(options.hdr.as_ref())?,
            html: OutputFile::open(options.html.as_ref())?,
            fail_if: options.fail_if.clone(),
            quiet: options.quiet,
            has_lines_on_stdout: false,
        })
    }

    /// Leaves standard output to lines of intervals, if `has_lines`.
    pub(crate) fn beside_lines_on_stdout(mut self, has_lines: bool) -> Self {
        self.has_lines_on_stdout = has_lines;
        self
    }

    /// For the table, as its terminal is now.
    pub(crate) fn paint(&self) -> Paint {
        let width = if self.is_stdout_taken() {
            terminal::width(io::stderr())
        } else {
            terminal::width(io::stdout())
        };
        Paint { color: terminal::wants_color(self.is_for_terminal()), width }
    }

    /// Applies --fail-if.
    pub(crate) fn judge(&self, document: &mut Document) {
        if let Some(conditions) = &self.fail_if {
            for report in document.runs_mut() {
                report.fail_if = conditions.judge(report);
            }
            match document {
                Document::Run(report) => report.fail_if.extend(conditions.judge_found(None)),
                Document::Series(series) => {
                    let found = series.found.as_ref().and_then(|found| found.answer.rate_per_s());
                    series.fail_if = conditions.judge_found(found.map(|per_s| per_s as f64));
                }
            }
        }
    }

    /// Writes the file of --json, and returns the error.
    pub(crate) fn write_json(&mut self, document: &impl Serialize) -> Option<OutputError> {
        let json = self.json.as_mut()?;
        let mut text = serde_json::to_vec_pretty(document).expect("every field can be written as JSON");
        text.push(b'\n');
        json.write(&text).err()
    }

    /// Writes the files, as many as can be written, and returns the errors.
    pub(crate) fn write(&mut self, document: &Document) -> Vec<OutputError> {
        let mut errors: Vec<OutputError> =
            self.write_json(&*whole::summed_up(document)).into_iter().collect();
        if let Some(hdr) = &mut self.hdr {
            errors.extend(hdr.write(&hdr::log(document)).err());
        }
        if let Some(html) = &mut self.html {
            errors.extend(html.write(page::render(document).as_bytes()).err());
        }
        errors
    }

    /// Prints the table in spite of --quiet: a file could not be written, and the report would be lost.
    pub(crate) fn rescue(&self, text: &str) {
        if self.quiet {
            print_error(text);
        }
    }

    /// Whether standard output gets a file, so that the table goes to standard error.
    fn is_stdout_taken(&self) -> bool {
        self.has_lines_on_stdout
            || [&self.json, &self.hdr, &self.html]
                .into_iter()
                .flatten()
                .any(|file| file.path == Path::new("-"))
    }

    /// Whether the table goes to a terminal.
    pub(crate) fn is_for_terminal(&self) -> bool {
        if self.is_stdout_taken() { io::stderr().is_terminal() } else { io::stdout().is_terminal() }
    }

    /// Prints to standard output; to standard error if standard output gets a file; with --quiet not at all. It does not
    /// wait for the reader.
    pub(crate) fn print(&self, text: &str) {
        match (self.quiet, self.is_stdout_taken()) {
            (true, _) => {}
            (false, true) => print_error(text),
            (false, false) => out().print(text),
        }
    }

    /// Waits until everything is printed, and returns the error.
    pub(crate) fn finish(&self) -> Option<OutputError> {
        if self.quiet {
            return None;
        }
        let printed = interruptible::finish(if self.is_stdout_taken() { err() } else { out() });
        // a reader that has closed the pipe does not want the rest
        printed.err().filter(|error| error.kind() != io::ErrorKind::BrokenPipe).map(OutputError::Table)
    }
}
