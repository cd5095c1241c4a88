//! Where reports go: the table, and the files of --json, --hdr and --html.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use tubular_echo::console::terminal;

use crate::console::interruptible;
use crate::console::streams::{err, out, say};
use crate::judge::fail_if::Conditions;
use crate::options;
use crate::report::hdr;
use crate::report::schema::Document;
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

/// A file that was opened before the run, so that a wrong path costs no run.
struct Sink {
    path: PathBuf,
    to: Target,
}

enum Target {
    Stdout,
    File(Destination),
}

impl Sink {
    fn open(path: Option<&PathBuf>) -> Result<Option<Self>, OutputError> {
        let Some(path) = path else { return Ok(None) };
        let to = if path == Path::new("-") {
            Target::Stdout
        } else {
            let to = Destination::new(path, interruptible::open);
            Target::File(to.map_err(|error| OutputError::File { path: path.clone(), error })?)
        };
        Ok(Some(Self { path: path.clone(), to }))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), OutputError> {
        let written = match &mut self.to {
            Target::Stdout => {
                out().print_bytes(bytes);
                interruptible::finish(out())
            }
            Target::File(to) => to.write(bytes, interruptible::write_all),
        };
        written.map_err(|error| OutputError::File { path: self.path.clone(), error })
    }
}

/// Everything that was asked for.
pub(crate) struct Outputs {
    json: Option<Sink>,
    hdr: Option<Sink>,
    html: Option<Sink>,
    fail_if: Option<Conditions>,
    quiet: bool,
    paint: Paint,
}

impl Outputs {
    /// Opens the files.
    pub(crate) fn open(options: &options::Outputs) -> Result<Self, OutputError> {
        let mut outputs = Self {
            json: Sink::open(options.json.as_ref())?,
            hdr: Sink::open(options.hdr.as_ref())?,
            html: Sink::open(options.html.as_ref())?,
            fail_if: options.fail_if.clone(),
            quiet: options.quiet,
            paint: Paint { color: false },
        };
        outputs.paint.color = outputs.is_colored();
        Ok(outputs)
    }

    /// How to color what is printed.
    pub(crate) fn paint(&self) -> &Paint {
        &self.paint
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
                    let found = series.found.map(|found| found.answer.met.map_or(0, |met| met.rate_per_s));
                    series.fail_if = conditions.judge_found(found.map(|per_s| per_s as f64));
                }
            }
        }
    }

    /// Writes the files, each that can be written. Returns what went wrong.
    pub(crate) fn write(&mut self, document: &Document) -> Vec<OutputError> {
        let mut errors = Vec::new();
        if let Some(json) = &mut self.json {
            let mut text = serde_json::to_vec_pretty(document).expect("every field can be written as JSON");
            text.push(b'\n');
            errors.extend(json.write(&text).err());
        }
        if let Some(hdr) = &mut self.hdr {
            errors.extend(hdr.write(&hdr::log(document)).err());
        }
        if let Some(html) = &mut self.html {
            errors.extend(html.write(page::render(document).as_bytes()).err());
        }
        errors
    }

    /// Prints after all what --quiet kept back, where it would be lost otherwise.
    pub(crate) fn rescue(&self, text: &str) {
        if self.quiet {
            say(text);
        }
    }

    /// Whether the table's place belongs to a file.
    fn is_stdout_taken(&self) -> bool {
        [&self.json, &self.hdr, &self.html].into_iter().flatten().any(|sink| sink.path == Path::new("-"))
    }

    /// Whether the table's place is a terminal.
    pub(crate) fn is_for_terminal(&self) -> bool {
        if self.is_stdout_taken() { io::stderr().is_terminal() } else { io::stdout().is_terminal() }
    }

    fn is_colored(&self) -> bool {
        terminal::wants_color(self.is_for_terminal())
    }

    /// Prints to standard output, or to standard error if a file goes there, or not at all. Waits for nobody.
    pub(crate) fn print(&self, text: &str) {
        match (self.quiet, self.is_stdout_taken()) {
            (true, _) => {}
            (false, true) => say(text),
            (false, false) => out().print(text),
        }
    }

    /// Waits until everything is printed; what went wrong.
    pub(crate) fn finish(&self) -> Option<OutputError> {
        if self.quiet {
            return None;
        }
        let printed = interruptible::finish(if self.is_stdout_taken() { err() } else { out() });
        // a reader that has gone away does not want it
        printed.err().filter(|error| error.kind() != io::ErrorKind::BrokenPipe).map(OutputError::Table)
    }
}
