//! Prints to standard error or standard output on a thread of its own. A reader that does not read blocks only that
//! thread.
//!
//! ```text
//! any thread ─ offer, print ─► queue ─► thread "printer" ─ write(2), may block ─► terminal, pipe, journal, file
//! ```
//!
//! Why a thread instead of `O_NONBLOCK`: that flag belongs to the open file, and the shell and the other processes of a
//! pipeline or a terminal share that file. Their writes would fail too, even after this process has ended.
//!
//! Why not tracing-appender's lossy writer: it never tells the reader of the log how many lines it dropped, it limits
//! lines instead of bytes, it takes a failed write for a success, and its wait for the last lines has no time limit of
//! the caller's choice.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::panic;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;
use std::{fmt, thread};

use crate::kernel::sys;
use crate::values::counter::Counter;

/// Bytes that may wait in the queue. Lines offered beyond them are dropped.
const WAITING_BYTES_MAX: usize = 256 << 10;
/// Bytes of one write. Small, so that a slow reader still makes visible progress.
const CHUNK_BYTES: usize = 4096;
/// The longest wait before the next write to a file that another process has made non-blocking.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Small, for hosts where memory is limited.
const STACK_BYTES: usize = 256 << 10;

/// Tells the reader that this many lines were dropped, by offering a line.
pub type Note = fn(&Printer, u64);

/// Prints to one file. Clones print to the same one.
#[derive(Clone)]
pub struct Printer(Arc<Shared>);

struct Shared {
    to: Box<dyn AsFd + Send + Sync>,
    note: Note,
    queue: Mutex<Queue>,
    changed: Condvar,
    dropped: Arc<Counter>,
}

#[derive(Debug, Default)]
struct Queue {
    entries: VecDeque<Entry>,
    /// Bytes of all entries, and of the one that is being written.
    bytes: usize,
    /// An entry is being written.
    is_writing: bool,
    /// Bytes written so far.
    written: u64,
    /// Set if no thread could be started: then the caller that adds an entry writes it.
    writer: Option<Writer>,
    /// The first failure since [`Printer::take_error`].
    error: Option<io::Error>,
}

#[derive(Debug)]
enum Entry {
    Text(Vec<u8>),
    /// This many lines were dropped here.
    Gap(u64),
}

/// The state between two writes.
#[derive(Debug, Default)]
struct Writer {
    /// Lines lost since the last note.
    lost: u64,
    /// The last write stopped in the middle of a text.
    is_torn: bool,
}

thread_local! {
    /// Collects the note that this thread is making, so that the note bypasses the queue.
    static NOTE: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

impl Printer {
    /// Starts the thread. `to` is not duplicated: a copy of a standard stream would take a descriptor number among those
    /// of the listening sockets. If no thread can be started, every text is written at once by its caller.
    pub fn start(to: impl AsFd + Send + Sync + 'static, note: Note) -> Self {
        let printer = Self::new(to, note);
        let own = printer.clone();
        let builder = thread::Builder::new().name("printer".into()).stack_size(STACK_BYTES);
        if builder.spawn(move || own.run()).is_err() {
            printer.queue().writer = Some(Writer::default());
        }
        printer
    }

    fn new(to: impl AsFd + Send + Sync + 'static, note: Note) -> Self {
        let queue = Mutex::default();
        let to = Box::new(to);
        Self(Arc::new(Shared { to, note, queue, changed: Condvar::new(), dropped: Arc::default() }))
    }

    /// Prints a line if the queue has room for it. Otherwise the line is dropped and counted.
    pub fn offer(&self, line: &[u8]) {
        let is_note = NOTE.with_borrow_mut(|note| note.as_mut().map(|note| note.extend_from_slice(line)));
        if is_note.is_none() {
            self.add(line, WAITING_BYTES_MAX);
        }
    }

    /// Prints a text, however long the queue is.
    pub fn print(&self, text: &str) {
        self.print_bytes(text.as_bytes());
    }

    /// Prints bytes, however long the queue is.
    pub fn print_bytes(&self, bytes: &[u8]) {
        self.add(bytes, usize::MAX);
    }

    /// Waits until everything is written, for `timeout` at most. Returns whether it is.
    pub fn is_done_within(&self, timeout: Duration) -> bool {
        let (queue, _) = self
            .0
            .changed
            .wait_timeout_while(self.queue(), timeout, |queue| queue.is_busy())
            .expect("a panic ends the process");
        !queue.is_busy()
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.queue().written
    }

    /// The first failure since the last call of this function.
    pub fn take_error(&self) -> Option<io::Error> {
        self.queue().error.take()
    }

    /// Number of lines that were dropped or could not be written.
    pub fn dropped(&self) -> &Arc<Counter> {
        &self.0.dropped
    }

    /// Makes a panic print its message here, and wait at most `patience` for a reader.
    pub fn tell_panics(&self, patience: Duration) {
        let printer = self.clone();
        panic::set_hook(Box::new(move |panic| {
            let thread = thread::current();
            let name = thread.name().unwrap_or("?");
            let backtrace = Backtrace::capture();
            printer.print(&format!("thread {name} {panic}\n"));
            if backtrace.status() == BacktraceStatus::Captured {
                printer.print(&format!("{backtrace}\n"));
            }
            printer.is_done_within(patience);
        }));
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().expect("a panic ends the process")
    }

    fn add(&self, bytes: &[u8], bytes_max: usize) {
        let mut queue = self.queue();
        // an empty queue takes anything
        if queue.bytes == 0 || queue.bytes.saturating_add(bytes.len()) <= bytes_max {
            queue.bytes += bytes.len();
            queue.entries.push_back(Entry::Text(bytes.to_vec()));
        } else {
            // the lock makes this thread the counter's one writer
            self.0.dropped.add(1);
            match queue.entries.back_mut() {
                Some(Entry::Gap(lines)) => *lines += 1,
                _ => queue.entries.push_back(Entry::Gap(1)),
            }
        }
        self.0.changed.notify_all();
        if let Some(mut writer) = queue.writer.take() {
            while let Some(entry) = queue.next() {
                drop(queue);
                self.put(&mut writer, &entry);
                queue = self.queue();
                queue.finish(&entry);
            }
            queue.writer = Some(writer);
        }
    }

    /// The body of the thread.
    fn run(self) {
        let mut writer = Writer::default();
        loop {
            let waiting = self
                .0
                .changed
                .wait_while(self.queue(), |queue| queue.entries.is_empty())
                .map(|mut queue| queue.next());
            let Some(entry) = waiting.expect("a panic ends the process") else { continue };
            self.put(&mut writer, &entry);
            self.queue().finish(&entry);
            self.0.changed.notify_all();
        }
    }

    /// Writes an entry, and before it a note about the lines that were lost.
    fn put(&self, writer: &mut Writer, entry: &Entry) {
        if let Entry::Gap(lines) = entry {
            writer.lost += lines;
        }
        if writer.lost > 0 {
            NOTE.set(Some(Vec::new()));
            (self.0.note)(self, writer.lost);
            let note = NOTE.take().unwrap_or_default();
            if self.write(writer, &note).is_ok() {
                writer.lost = 0;
            }
        }
        let Entry::Text(text) = entry else { return };
        if let Err(error) = self.write(writer, text) {
            let lines = text.split_inclusive(|byte| *byte == b'\n').count() as u64;
            writer.lost += lines;
            let mut queue = self.queue();
            self.0.dropped.add(lines);
            queue.error.get_or_insert(error);
        }
    }

    fn write(&self, writer: &mut Writer, text: &[u8]) -> io::Result<()> {
        if writer.is_torn && !text.is_empty() {
            self.write_all(b"\n")?;
            writer.is_torn = false;
        }
        let before = self.written();
        self.write_all(text).inspect_err(|_| writer.is_torn = self.written() > before)
    }

    fn write_all(&self, mut text: &[u8]) -> io::Result<()> {
        let to = self.0.to.as_fd();
        while !text.is_empty() {
            match sys::write(to, &text[..text.len().min(CHUNK_BYTES)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => {
                    text = &text[bytes..];
                    self.queue().written += bytes as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // another process that shares the file has made it non-blocking
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    sys::wait_writable(to, RETRY_INTERVAL);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Printer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Printer").field(&self.0.to.as_fd()).finish()
    }
}

/// For writers such as tracing, which write each line with one call.
impl Write for Printer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.offer(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Queue {
    fn is_busy(&self) -> bool {
        self.is_writing || !self.entries.is_empty()
    }

    fn next(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front();
        self.is_writing = entry.is_some();
        entry
    }

    fn finish(&mut self, entry: &Entry) {
        self.is_writing = false;
        if let Entry::Text(text) = entry {
            self.bytes -= text.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, Read};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn note(printer: &Printer, lines: u64) {
        printer.offer(format!("{lines} dropped\n").as_bytes());
    }

    fn start() -> (Printer, PipeReader) {
        let (reader, writer) = io::pipe().unwrap();
        (Printer::start(writer, note), reader)
    }

    /// Reads all that the printer prints. Nothing else may write to the pipe.
    fn read_all(printer: &Printer, mut reader: PipeReader) -> String {
        let collector = thread::spawn(move || {
            let mut text = String::new();
            let mut piece = [0; 1 << 12];
            while !text.ends_with("the end\n") {
                let bytes = reader.read(&mut piece).unwrap();
                text.push_str(std::str::from_utf8(&piece[..bytes]).unwrap());
            }
            text
        });
        printer.print("the end\n");
        assert!(printer.is_done_within(PATIENCE));
        collector.join().unwrap()
    }

    /// Each line is printed in its place, or counted in the note that stands in its place.
    #[test]
    fn a_reader_that_stops_blocks_nobody_and_learns_how_many_lines_are_missing() {
        let (printer, reader) = start();
        let lines = 20_000_u64;
        for line in 0..lines {
            printer.offer(format!("line {line:060}\n").as_bytes());
        }
        assert!(!printer.is_done_within(Duration::ZERO), "the pipe took it all");
        let dropped = printer.dropped().get();
        let text = read_all(&printer, reader);
        let (mut next, mut told) = (0, 0);
        for line in text.lines().filter(|line| *line != "the end") {
            if let Some(number) = line.strip_prefix("line ") {
                assert_eq!(number.parse::<u64>().unwrap(), next);
                next += 1;
            } else {
                let missing: u64 = line.strip_suffix(" dropped").unwrap().parse().unwrap();
                (next, told) = (next + missing, told + missing);
            }
        }
        assert!(dropped > 0 && told == dropped && next == lines, "{told} of {dropped} told, {next} lines");
        assert_eq!(printer.dropped().get(), dropped);
    }

    #[test]
    fn a_text_that_must_be_printed_waits_behind_the_queue() {
        let (printer, reader) = start();
        let long = "word ".repeat(1 << 18) + "\n";
        printer.print(&long);
        printer.offer(b"does not fit\n");
        printer.print("must fit\n");
        assert_eq!(read_all(&printer, reader), format!("{long}1 dropped\nmust fit\nthe end\n"));
    }

    #[test]
    fn a_reader_that_has_gone_costs_lines_and_nothing_else() {
        let (printer, reader) = start();
        drop(reader);
        printer.print("two\nlines\n");
        printer.offer(b"one\n");
        assert!(printer.is_done_within(PATIENCE));
        assert_eq!(printer.dropped().get(), 3);
        assert_eq!(printer.take_error().unwrap().kind(), io::ErrorKind::BrokenPipe);
        assert!(printer.take_error().is_none());
    }

    /// Another process that shares the file may have made it non-blocking.
    #[test]
    fn a_file_that_does_not_block_gets_all_the_same() {
        let (reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
        writer.set_nonblocking(true).unwrap();
        let printer = Printer::start(writer, note);
        let text = "word ".repeat(1 << 20) + "\n";
        printer.print(&text);
        let collector = thread::spawn(move || {
            let mut taken = vec![0; (5 << 20) + 1];
            (&reader).read_exact(&mut taken).unwrap();
            taken
        });
        assert!(printer.is_done_within(PATIENCE));
        assert!(collector.join().unwrap() == text.as_bytes());
    }

    #[test]
    fn a_panic_waits_for_no_reader() {
        let (reader, mut writer) = io::pipe().unwrap();
        let filling = vec![b'x'; 1 << 16];
        writer.write_all(&filling).unwrap();
        let printer = Printer::start(writer, note);
        let earlier = panic::take_hook();
        printer.tell_panics(Duration::from_millis(10));
        let outcome =
            thread::Builder::new().name("poor".into()).spawn(|| panic!("of old age")).unwrap().join();
        drop(panic::take_hook());
        panic::set_hook(earlier);
        assert!(outcome.is_err());
        let text = read_all(&printer, reader);
        assert!(text.contains("thread poor panicked at ") && text.contains("of old age\n"), "{text}");
    }

    #[test]
    fn without_a_thread_everything_is_written_at_once() {
        let (reader, writer) = io::pipe().unwrap();
        let printer = Printer::new(writer, note);
        printer.queue().writer = Some(Writer::default());
        printer.offer(b"one\n");
        assert!(!printer.queue().is_busy());
        assert_eq!(read_all(&printer, reader), "one\nthe end\n");
    }
}
