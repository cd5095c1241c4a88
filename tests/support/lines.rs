//! Text that arrives while the test runs, and the wish to wait for some of it.

use super::sys;
use std::io::{BufRead, BufReader, Read};
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

/// Lines in the order of their arrival; one thread adds, others look and wait.
#[derive(Default)]
pub struct Lines {
    arrived: Mutex<Vec<String>>,
    changed: Condvar,
}

impl Lines {
    /// All that arrived so far.
    pub fn all(&self) -> Vec<String> {
        self.arrived.lock().unwrap().clone()
    }

    /// Waits until the lines satisfy the condition; false when they do not within `patience`.
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

    fn add(&self, line: String) {
        self.arrived.lock().unwrap().push(line);
        self.changed.notify_all();
    }
}

/// Collects what a process writes until it closes its end. Joining the thread gives all of it.
pub fn collect(source: impl Read + Send + 'static) -> (Arc<Lines>, JoinHandle<()>) {
    let lines = Arc::new(Lines::default());
    let adding = Arc::clone(&lines);
    let reader = thread::spawn(move || {
        for line in BufReader::new(source).split(b'\n') {
            let Ok(line) = line else { break };
            adding.add(String::from_utf8_lossy(&line).into_owned());
        }
    });
    (lines, reader)
}

/// A descriptor that the service had kept for the next process, and under what name (`FDSTORE=1`, sd_notify(3)).
pub struct Stored {
    /// What `FDNAME=` said.
    pub name: String,
    /// The descriptor.
    pub descriptor: OwnedFd,
}

/// Where a service manager would listen: the socket that `NOTIFY_SOCKET` names.
pub struct NotifySocket {
    /// The value for `NOTIFY_SOCKET`.
    pub name: String,
    /// Every assignment received (`READY=1`, `STATUS=…`), one line each.
    pub messages: Arc<Lines>,
    /// What a manager with a store would pass to the next process.
    pub stored: Arc<Mutex<Vec<Stored>>>,
    socket: UnixDatagram,
    reader: Option<JoinHandle<()>>,
    directory: Option<PathBuf>,
}

/// Numbers the sockets of one test program.
static NEXT: AtomicU32 = AtomicU32::new(0);

impl NotifySocket {
    /// A socket in the file system, where any user may write to it, as systemd's own.
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
            while let Ok((len @ 1.., descriptors)) = sys::receive_descriptors(&receiving, &mut message) {
                let text = String::from_utf8_lossy(&message[..len]);
                let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or("");
                let keep = |descriptor| Stored { name: name.to_owned(), descriptor };
                keeping.lock().unwrap().extend(descriptors.into_iter().map(keep));
                text.lines().for_each(|line| adding.add(line.to_owned()));
            }
        });
        Self { name, messages, stored, socket, reader: Some(reader), directory }
    }

    /// Stops listening; what was sent before is all received then, because a datagram socket that
    /// is shut down still hands out its queue.
    pub fn close(&mut self) {
        if let Some(reader) = self.reader.take() {
            self.socket.shutdown(net::Shutdown::Both).expect("shut the notify socket down");
            reader.join().expect("the notify socket's reader");
        }
    }

    /// How often the service was declared ready.
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
