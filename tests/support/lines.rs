//! Text that arrives while the test runs; tests wait for parts of it.

use super::sys;
use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fs, net, process};

/// Lines in the order of their arrival. One thread adds lines; others read them and wait for them.
#[derive(Default)]
pub struct Lines {
    arrived: Mutex<Vec<String>>,
    changed: Condvar,
    reading: Gate,
}

/// A reader that the test can stop and start.
#[derive(Default)]
struct Gate {
    state: Mutex<(IsHeld, IsStanding)>,
    changed: Condvar,
}

type IsHeld = bool;
type IsStanding = bool;

impl Gate {
    fn set(&self, is_held: bool) {
        self.state.lock().unwrap().0 = is_held;
        self.changed.notify_all();
    }

    /// Called by the reader: returns when it may read.
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        while state.0 {
            state.1 = true;
            self.changed.notify_all();
            state = self.changed.wait(state).unwrap();
        }
        state.1 = false;
    }

    fn is_standing(&self) -> bool {
        self.state.lock().unwrap().1
    }
}

impl Lines {
    /// All text that has arrived so far.
    pub fn all(&self) -> Vec<String> {
        self.arrived.lock().unwrap().clone()
    }

    /// Waits until the lines satisfy the condition; false if they do not within `patience`.
    pub fn wait_for(&self, patience: Duration, condition: impl Fn(&[String]) -> bool) -> bool {
        let end = Instant::now() + patience;
        let mut arrived = self.arrived.lock().unwrap();
        while !condition(&arrived) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            arrived = self.changed.wait_timeout(arrived, left).unwrap().0;
        }
        true
    }

    /// Stops the reader until [`Self::read_on`]. It may still read one more piece.
    pub fn stand_still(&self) {
        self.reading.set(true);
    }

    /// Starts the reader again.
    pub fn read_on(&self) {
        self.reading.set(false);
    }

    fn add(&self, line: String) {
        self.arrived.lock().unwrap().push(line);
        self.changed.notify_all();
    }
}

/// Collects the output of a process until the process closes its end. Joining the thread returns all of it.
pub fn collect(source: impl Read + Send + 'static) -> (Arc<Lines>, JoinHandle<()>) {
    collect_into(source, Arc::default())
}

/// Like the function above, with a reader that is stopped from the beginning.
pub fn collect_later(source: impl Read + Send + 'static) -> (Arc<Lines>, JoinHandle<()>) {
    let lines = Arc::new(Lines::default());
    lines.stand_still();
    collect_into(source, lines)
}

fn collect_into(source: impl Read + Send + 'static, lines: Arc<Lines>) -> (Arc<Lines>, JoinHandle<()>) {
    let adding = Arc::clone(&lines);
    let reader = thread::spawn(move || {
        let gated = Gated { source, lines: Arc::clone(&adding) };
        for line in BufReader::with_capacity(1 << 10, gated).split(b'\n') {
            let Ok(line) = line else { break };
            adding.add(String::from_utf8_lossy(&line).into_owned());
        }
    });
    (lines, reader)
}

struct Gated<S> {
    source: S,
    lines: Arc<Lines>,
}

impl<S: Read> Read for Gated<S> {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        self.lines.reading.pass();
        self.source.read(piece)
    }
}

/// A full pipe of the smallest possible size.
pub fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = io::pipe().expect("a pipe");
    let bytes = sys::make_pipe_small(&writer);
    let filling = [vec![b'x'; bytes - 1], vec![b'\n']].concat();
    writer.write_all(&filling).expect("fill the pipe");
    (reader, writer)
}

/// A descriptor that the service has stored for the next process, with its name (`FDSTORE=1`, sd_notify(3)).
pub struct Stored {
    /// The value of `FDNAME=`.
    pub name: String,
    /// The descriptor.
    pub descriptor: OwnedFd,
}

/// The socket that `NOTIFY_SOCKET` names, in place of a service manager's.
pub struct NotifySocket {
    /// The value for `NOTIFY_SOCKET`.
    pub name: String,
    /// Every assignment received (`READY=1`, `STATUS=…`), one line each.
    pub messages: Arc<Lines>,
    /// The descriptors that a manager with a store would pass to the next process.
    pub stored: Arc<Mutex<Vec<Stored>>>,
    socket: UnixDatagram,
    reader: Option<JoinHandle<()>>,
    directory: Option<PathBuf>,
}

/// The number of the next socket of this test program.
static NEXT: AtomicU32 = AtomicU32::new(0);

impl NotifySocket {
    /// A socket in the file system that any user may write to, like systemd's.
    pub fn in_directory() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("tubular-echo-test-{}-{number}", process::id()));
        let path = directory.join("notify");
        fs::create_dir(&directory).expect("a directory for the notify socket");
        let socket = UnixDatagram::bind(&path).expect("bind the notify socket");
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).expect("open the directory");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("open the notify socket");
        Self::listen(path.to_str().expect("a path in UTF-8").to_owned(), socket, Some(directory))
    }

    /// A socket whose name begins with `@` and has no file.
    pub fn in_abstract_namespace() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tubular-echo-test/{}/{number}", process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("an abstract name");
        let socket = UnixDatagram::bind_addr(&address).expect("bind the abstract notify socket");
        Self::listen(format!("@{name}"), socket, None)
    }

    fn listen(name: String, socket: UnixDatagram, directory: Option<PathBuf>) -> Self {
        let messages = Arc::new(Lines::default());
        let stored = Arc::new(Mutex::new(Vec::new()));
        let (adding, keeping) = (Arc::clone(&messages), Arc::clone(&stored));
        let receiving = socket.try_clone().expect("a second handle on the notify socket");
        let reader = thread::spawn(move || {
            let mut message = [0; 4096];
            loop {
                adding.reading.pass();
                let Ok((len @ 1.., descriptors)) = sys::receive_descriptors(&receiving, &mut message) else {
                    break;
                };
                let text = String::from_utf8_lossy(&message[..len]);
                let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or("");
                let keep = |descriptor| Stored { name: name.to_owned(), descriptor };
                keeping.lock().unwrap().extend(descriptors.into_iter().map(keep));
                text.lines().for_each(|line| adding.add(line.to_owned()));
            }
        });
        Self { name, messages, stored, socket, reader: Some(reader), directory }
    }

    /// Stops the manager's reader until [`Self::read_on`], and fills its queue.
    pub fn stand_still(&self) {
        const FILLING: &[u8] = b"FILLING=1\n";
        let address = self.socket.local_addr().expect("the socket's name");
        let sender = UnixDatagram::unbound().expect("a socket");
        sender.set_nonblocking(true).expect("a socket that does not block");
        sender.connect_addr(&address).expect("connect to the notify socket");
        self.messages.stand_still();
        // one message wakes the reader, so that it notices that it is stopped
        while sender.send(FILLING).is_ok() || !self.messages.reading.is_standing() {
            thread::yield_now();
        }
        while sender.send(FILLING).is_ok() {}
    }

    /// Starts the manager's reader again.
    pub fn read_on(&self) {
        self.messages.read_on();
    }

    /// Stops listening. All earlier messages have been received then, because a datagram socket that is shut down still
    /// delivers its queue.
    pub fn close(&mut self) {
        if let Some(reader) = self.reader.take() {
            self.read_on();
            self.socket.shutdown(net::Shutdown::Both).expect("shut the notify socket down");
            reader.join().expect("the notify socket's reader");
        }
    }

    /// Number of `READY=1` messages.
    pub fn ready_count(&self) -> usize {
        self.messages.all().iter().filter(|line| *line == "READY=1").count()
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        self.close();
        if let Some(directory) = &self.directory {
            let _ = fs::remove_dir_all(directory);
        }
    }
}
