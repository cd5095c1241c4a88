//! The tests' stand-in for tubectl: loading, bindings and both kinds of registration, with tubectl's arguments and
//! messages. It supports one label for each network namespace.

use std::cmp::Reverse;
use std::error::Error;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::{env, fmt, fs};

use sendfd::SendWithFd;
use tubular_echo::kernel::sys::{self, Protocol};

use super::registry::{Registered, register_passed, register_pid};
use super::steer::{Binding, Dispatcher, SocketMap};
use super::sys::Pidfd;

/// Acts as tubectl if this program was called by that name.
pub fn called(arguments: &[String]) -> Option<ExitCode> {
    let (name, words) = arguments.split_first()?;
    if !name.ends_with("tubectl") {
        return None;
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Some(match run(&words) {
        Ok(done) => {
            println!("{}", done.trim_end_matches('\n'));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    })
}

/// Makes registrations in this network namespace use `dispatcher`.
pub fn adopt(dispatcher: &Dispatcher) -> Result<(), Box<dyn Error>> {
    let State { directory, .. } = State::here()?;
    fs::create_dir(&directory)?;
    Ok(dispatcher.pin(&directory)?)
}

fn run(words: &[&str]) -> Result<String, Box<dyn Error>> {
    let state = State::here()?;
    let path = state.directory.display();
    let opened = format!("opened dispatcher at {path}\n");
    match *words {
        ["load"] => {
            adopt(&Dispatcher::attach(&[])?)?;
            state.write(&[])?;
            Ok(format!("created dispatcher in {path}\nloaded dispatcher into /proc/self/ns/net"))
        }
        ["unload"] => {
            fs::remove_dir_all(&state.directory)?;
            fs::remove_file(&state.bindings)?;
            Ok("unloaded dispatcher from /proc/self/ns/net".into())
        }
        ["bind", label, protocol, prefix, port] => {
            let bound = Bound::parse([label, protocol, prefix, port])?;
            let mut all = state.read()?;
            if let Some(other) = all.iter().find(|other| other.label != bound.label) {
                return Err(format!("the stand-in knows one label, and that is {}", other.label).into());
            }
            all.push(bound.clone());
            state.write(&all)?;
            Ok(format!("{opened}bound {bound}"))
        }
        ["unbind", label, protocol, prefix, port] => {
            let bound = Bound::parse([label, protocol, prefix, port])?;
            let mut all = state.read()?;
            let at = all.iter().position(|other| *other == bound).ok_or("no such binding")?;
            all.remove(at);
            state.write(&all)?;
            Ok(format!("{opened}Removed {bound}"))
        }
        ["status"] => Ok(opened + &state.status()?),
        ["register-pid", pid, label, protocol, ip, port] => {
            let pid = pid.parse().map_err(|error| format!("invalid pid {pid:?}: {error}"))?;
            let ip = ip.parse().map_err(|error| format!("invalid IP {ip:?}: {error}"))?;
            let port = port.parse().map_err(|error| format!("invalid port {port:?}: {error}"))?;
            let registered =
                register_pid(&state.sockets()?, pid, parse_protocol(protocol)?, SocketAddr::new(ip, port))
                    .map_err(|failure| format!("register-pid: pid {pid}: {failure}"))?;
            Ok(line(&registered, label))
        }
        ["register", label] => {
            // like tubectl, this ignores LISTEN_PID and LISTEN_FDNAMES
            let count = env::var("LISTEN_FDS").ok().and_then(|count| count.parse::<i32>().ok());
            let count = count.filter(|count| *count > 0).ok_or("no sockets passed")?;
            let passed = sys::take_passed(&(3..3 + count).collect::<Vec<_>>());
            let registered = register_passed(&state.sockets()?, &passed)
                .map_err(|failure| format!("register fd: {failure}"))?;
            let lines: Vec<_> = registered.iter().map(|registered| line(registered, label)).collect();
            Ok(lines.join("\n"))
        }
        // not a command of tubectl: makes the manager's store keep sockets of a process, which nobody should do
        ["store", pid, ref numbers @ ..] => store(pid, numbers),
        _ => Err(format!("the stand-in has no such command, or not with these arguments: {words:?}").into()),
    }
}

/// The stored state for the network namespace of the calling thread.
struct State {
    /// The dispatcher, pinned in the BPF file system.
    directory: PathBuf,
    /// The bindings, one per line.
    bindings: PathBuf,
}

impl State {
    fn here() -> Result<Self, Box<dyn Error>> {
        let namespace = fs::metadata("/proc/thread-self/ns/net")?.ino();
        Ok(Self {
            directory: format!("/sys/fs/bpf/{namespace}_dispatcher").into(),
            bindings: format!("/run/{namespace}_bindings").into(),
        })
    }

    fn sockets(&self) -> Result<SocketMap, Box<dyn Error>> {
        SocketMap::open(&self.directory)
            .map_err(|error| format!("{}: {error}", self.directory.display()).into())
    }

    fn read(&self) -> Result<Vec<Bound>, Box<dyn Error>> {
        let text = fs::read_to_string(&self.bindings)?;
        let fields = |line: &str| {
            let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
            <[String; 4]>::try_from(words).expect("written below")
        };
        text.lines().map(|line| Bound::parse(fields(line).each_ref().map(String::as_str))).collect()
    }

    /// Steers all bindings, the most specific first.
    fn write(&self, all: &[Bound]) -> Result<(), Box<dyn Error>> {
        let mut all = all.to_vec();
        all.sort_by_key(|Bound { binding, .. }| {
            let Binding { protocol, prefix, port } = *binding;
            let family = prefix.addr().is_ipv6();
            (protocol == Protocol::Udp, family, Reverse(prefix.prefix_len()), prefix, port == 0, port)
        });
        let mut text = String::new();
        for Bound { label, binding: Binding { protocol, prefix, port } } in &all {
            writeln!(text, "{label} {protocol} {prefix} {port}")?;
        }
        fs::write(&self.bindings, text)?;
        let bindings: Vec<_> = all.iter().map(|bound| bound.binding).collect();
        Ok(Dispatcher::open(&self.directory)?.update(&bindings)?)
    }

    /// Prints no numbers of lookups, because this dispatcher does not count them.
    fn status(&self) -> Result<String, Box<dyn Error>> {
        let all = self.read()?;
        let mut bindings = vec![["protocol", "prefix", "port", "label"].map(str::to_owned)];
        bindings.extend(all.iter().map(|Bound { label, binding: Binding { protocol, prefix, port } }| {
            [protocol.to_string(), prefix.to_string(), port.to_string(), label.clone()]
        }));
        let titles = ["label", "domain", "protocol", "socket", "lookups", "misses", "errors"];
        let mut destinations = vec![titles.map(str::to_owned)];
        let sockets = self.sockets()?;
        for (domain, like) in [("ipv4", "0.0.0.0"), ("ipv6", "::")] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let like: IpAddr = like.parse()?;
                let of_it = |bound: &&Bound| {
                    bound.binding.protocol == protocol
                        && bound.binding.prefix.addr().is_ipv4() == like.is_ipv4()
                };
                let Some(bound) = all.iter().find(of_it) else { continue };
                let cookie = sockets.cookie(protocol, like).unwrap_or(0);
                let words = [&bound.label, domain, &protocol.to_string(), &format!("sk:{cookie:x}")];
                let zeros = ["0", "0", "0"].map(str::to_owned);
                let row: Vec<String> = words.map(ToString::to_string).into_iter().chain(zeros).collect();
                destinations.push(row.try_into().expect("seven words"));
            }
        }
        Ok(format!("Bindings:\n{}\nDestinations:\n{}", table(&bindings), table(&destinations)))
    }
}

/// Aligns columns to the right, each as wide as its longest word and a space.
fn table<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let mut text = String::new();
    for row in rows {
        for (column, word) in row.iter().enumerate() {
            let width = rows.iter().map(|row| row[column].len()).max().unwrap_or(0) + 1;
            let _ = write!(text, "{word:>width$}");
        }
        text.push('\n');
    }
    text
}

/// A binding and its label.
#[derive(Clone, PartialEq, Eq)]
struct Bound {
    label: String,
    binding: Binding,
}

impl Bound {
    fn parse([label, protocol, prefix, port]: [&str; 4]) -> Result<Self, Box<dyn Error>> {
        let protocol = parse_protocol(protocol)?;
        let prefix = ipnet::IpNet::from_str(prefix).map_err(|error| format!("prefix {prefix:?}: {error}"))?;
        let port = port.parse().map_err(|error| format!("invalid port {port:?}: {error}"))?;
        Ok(Self { label: label.into(), binding: Binding { protocol, prefix: prefix.trunc(), port } })
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { label, binding: Binding { protocol, prefix, port } } = self;
        write!(f, "{label}#{protocol}:[{prefix}]:{port}")
    }
}

fn parse_protocol(word: &str) -> Result<Protocol, String> {
    match word {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        other => Err(format!("unknown protocol: {other:?}")),
    }
}

fn store(pid: &str, numbers: &[&str]) -> Result<String, Box<dyn Error>> {
    let process = Pidfd::open(pid.parse()?)?;
    let manager = UnixDatagram::unbound()?;
    manager.connect(env::var("NOTIFY_SOCKET")?)?;
    for number in numbers {
        let socket = process.copy_descriptor(number.parse()?)?;
        manager.send_with_fd(b"FDSTORE=1\nFDNAME=stored-by-mistake\nFDPOLL=0", &[socket.as_raw_fd()])?;
    }
    Ok(format!("stored {}", numbers.len()))
}

fn line(registered: &Registered, label: &str) -> String {
    let Registered { cookie, protocol, address, .. } = registered;
    let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
    format!("registered socket sk:{cookie:x}: updated destination {family}:{protocol}:{label}")
}
