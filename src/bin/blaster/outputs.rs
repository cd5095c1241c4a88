//! Where reports go: the table, and the files of --json, --hdr and --html.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use crate::hdr;
use crate::options;
use crate::page;
use crate::report::Paint;
use crate::schema::{Document, Judged, Report};
use crate::verdict::Conditions;

/// Why a report could not be written.
#[derive(Debug, thiserror::Error)]
#[error("writing the report to {}: {error}", path.display())]
pub(crate) struct OutputError {
    path: PathBuf,
    error: io::Error,
}

/// A file that was opened before the run, so that a wrong path costs no run.
struct Sink {
    path: PathBuf,
    to: Box<dyn Write>,
}

impl Sink {
    fn open(path: Option<&PathBuf>) -> Result<Option<Self>, OutputError> {
        let Some(path) = path else { return Ok(None) };
        let to: Box<dyn Write> = if path == Path::new("-") {
            Box::new(io::stdout())
        } else {
            Box::new(File::create(path).map_err(|error| OutputError { path: path.clone(), error })?)
        };
        Ok(Some(Self { path: path.clone(), to }))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), OutputError> {
        let written = self.to.write_all(bytes).and_then(|()| self.to.flush());
        written.map_err(|error| OutputError { path: self.path.clone(), error })
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
                report.fail_if = judge(conditions, report);
            }
        }
    }

    /// Writes the files.
    pub(crate) fn write(&mut self, document: &Document) -> Result<(), OutputError> {
        if let Some(json) = &mut self.json {
            let mut text = serde_json::to_vec_pretty(document).expect("every field can be written as JSON");
            text.push(b'\n');
            json.write(&text)?;
        }
        if let Some(hdr) = &mut self.hdr {
            hdr.write(&hdr::log(document))?;
        }
        if let Some(html) = &mut self.html {
            html.write(page::render(document).as_bytes())?;
        }
        Ok(())
    }

    /// Whether the table's place belongs to a file.
    fn is_stdout_taken(&self) -> bool {
        [&self.json, &self.hdr, &self.html].into_iter().flatten().any(|sink| sink.path == Path::new("-"))
    }

    fn is_colored(&self) -> bool {
        let is_terminal =
            if self.is_stdout_taken() { io::stderr().is_terminal() } else { io::stdout().is_terminal() };
        is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
    }

    /// Prints to standard output, or to standard error if a file goes there, or not at all.
    pub(crate) fn print(&self, text: &str) {
        if self.quiet {
            return;
        }
        // a reader that has gone away does not want it
        let _ = if self.is_stdout_taken() {
            io::stderr().write_all(text.as_bytes())
        } else {
            io::stdout().write_all(text.as_bytes())
        };
    }
}

fn judge(conditions: &Conditions, report: &Report) -> Vec<Judged> {
    conditions
        .judge(report)
        .into_iter()
        .map(|(condition, failed)| Judged {
            condition: condition.to_string(),
            measured: condition.measured(report),
            failed,
        })
        .collect()
}
