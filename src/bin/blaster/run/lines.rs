//! Files that grow while a run lasts: `--jsonl` and `--csv`. Lines are added to what the file has, so that nothing is lost,
//! and each is written at once.
//!
//! A thread of its own writes, so that no disk and no reader stops the run. A line that can't be written is lost, and the
//! next one is tried: a disk may get room, and a FIFO a reader. Before each line the thread looks whether the file is still
//! the one of that name: logrotate(8) may have moved it away. Then it makes a new one; no signal is needed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::console::interruptible;
use crate::console::streams::{message, out};
use crate::model::units::counted;

/// So many lines wait for a slow disk or reader.
const WAITING_MAX: usize = 1_024;

#[derive(Debug, thiserror::Error)]
pub(crate) enum LinesError {
    #[error("opening {} for a line of each interval: {error}", path.display())]
    Open { path: PathBuf, error: io::Error },
    #[error("{} of intervals not written to {}: {error}", counted(*.lost, "line"), path.display())]
    Lost { path: PathBuf, lost: u64, error: io::Error },
}

/// A file that gets lines, or standard output.
pub(crate) struct Lines(To);

enum To {
    Stdout { header: Option<String> },
    File { path: PathBuf, lines: SyncSender<String>, told: Arc<Told>, done: Receiver<()> },
}

/// What the thread tells.
#[derive(Debug, Default)]
struct Told {
    written: AtomicU64,
    lost: AtomicU64,
    /// The first one.
    error: Mutex<Option<io::Error>>,
}

impl Lines {
    /// Opens the file, or creates it; `-` is standard output. A new file begins with `header`.
    pub(crate) fn open(path: &Path, header: Option<String>) -> Result<Self, LinesError> {
        if path == Path::new("-") {
            return Ok(Self(To::Stdout { header }));
        }
        let failed = |error| LinesError::Open { path: path.to_owned(), error };
        let file = interruptible::open(&appending(), path).map_err(failed)?;
        let mut writer = Writer { path: path.to_owned(), file, header, has_header: false, is_torn: false };
        let told = Arc::new(Told::default());
        let (lines, inbox) = mpsc::sync_channel::<String>(WAITING_MAX);
        let (ended, done) = mpsc::channel();
        let tell = Arc::clone(&told);
        let write = move || {
            // it sends nothing, but disconnects at the end
            let _ended = ended;
            for line in inbox {
                let written = writer.add(&line);
                tell.note(&writer.path, written);
            }
        };
        thread::Builder::new().name("lines".into()).spawn(write).map_err(failed)?;
        Ok(Self(To::File { path: path.to_owned(), lines, told, done }))
    }

    /// Adds a line. It does not wait: what a slow reader does not take is lost.
    pub(crate) fn add(&mut self, line: String) {
        match &mut self.0 {
            To::Stdout { header } => {
                if let Some(header) = header.take() {
                    out().offer(header.as_bytes());
                }
                out().offer(line.as_bytes());
            }
            To::File { path, lines, told, .. } => {
                if lines.try_send(line).is_err() {
                    told.note(path, Err(io::ErrorKind::TimedOut.into()));
                }
            }
        }
    }

    /// Waits until all lines are written, unless a signal ends the wait.
    pub(crate) fn finish(self) -> Result<(), LinesError> {
        let To::File { path, lines, told, done } = self.0 else { return Ok(()) };
        drop(lines);
        let progress = || told.written.load(Ordering::Relaxed) + told.lost.load(Ordering::Relaxed);
        let is_done = interruptible::wait(progress, |timeout| {
            done.recv_timeout(timeout) != Err(RecvTimeoutError::Timeout)
        });
        let error = told.error.lock().expect("a panic ends the process").take();
        let lost = told.lost.load(Ordering::Relaxed);
        match error {
            Some(error) => Err(LinesError::Lost { path, lost, error }),
            None if !is_done => {
                let error =
                    io::Error::new(io::ErrorKind::TimedOut, "given up after a signal: nobody reads it");
                Err(LinesError::Lost { path, lost: lost.max(1), error })
            }
            None => Ok(()),
        }
    }
}

impl Told {
    /// Notes whether a line was written. The first failure is printed.
    fn note(&self, path: &Path, written: io::Result<()>) {
        let Err(error) = written else {
            self.written.fetch_add(1, Ordering::Relaxed);
            return;
        };
        self.lost.fetch_add(1, Ordering::Relaxed);
        let mut first = self.error.lock().expect("a panic ends the process");
        if first.is_none() {
            message(&format!(
                "a line of an interval could not be written to {}: {error}; the run goes on, and later lines are tried again",
                path.display()
            ));
            *first = Some(error);
        }
    }
}

fn appending() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    options
}

/// The end of the thread that writes.
struct Writer {
    path: PathBuf,
    file: File,
    header: Option<String>,
    /// A device or a FIFO has got it.
    has_header: bool,
    /// The last line was not written to its end.
    is_torn: bool,
}

impl Writer {
    fn add(&mut self, line: &str) -> io::Result<()> {
        let is_new = match self.follow()? {
            Some(bytes) => bytes == 0,
            None => !self.has_header,
        };
        let mut text = String::new();
        if self.is_torn && !is_new {
            text.push('\n');
        }
        text.extend(self.header.as_deref().filter(|_| is_new));
        text.push_str(line);
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.is_torn |= rest.len() < text.len();
                    return Err(error);
                }
            }
        }
        (self.is_torn, self.has_header) = (false, true);
        Ok(())
    }

    /// Opens the file again, if another one has its name, or none. Returns its size. `None`: it is a device or a FIFO.
    fn follow(&mut self) -> io::Result<Option<u64>> {
        let ours = self.file.metadata()?;
        if !ours.is_file() {
            return Ok(None);
        }
        let is_ours = |named: fs::Metadata| (named.dev(), named.ino()) == (ours.dev(), ours.ino());
        if !fs::metadata(&self.path).is_ok_and(is_ours) {
            // not one that blocks: it was a file
            self.file = appending().open(&self.path)?;
            self.is_torn = false;
            return Ok(Some(self.file.metadata()?.len()));
        }
        Ok(Some(ours.len()))
    }
}
