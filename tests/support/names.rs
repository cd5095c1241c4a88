//! Names of hosts that only the programs of a test know: files below /etc, and a name server on the loopback device of a
//! private network. No other name server is ever asked.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

/// What the name server says of a name.
#[derive(Clone, Debug)]
pub enum Record {
    Addresses(Vec<IpAddr>),
    /// An answer without data, and this code (RFC 1035, 4.1.1): 2 is a failure of the server, 5 a refusal.
    Code(u8),
    /// Nothing at all.
    Silence,
}

/// The names of a private network, which the calling thread is in.
pub struct Names {
    directory: PathBuf,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Names {
    /// `hosts` are the lines of /etc/hosts, `options` those of resolv.conf(5). The server knows no other name than those of
    /// `records`.
    pub fn new(hosts: &str, options: &str, records: &[(&str, Record)]) -> Self {
        let directory = std::env::temp_dir().join(format!(
            "tubular-echo-names-{}-{:?}",
            std::process::id(),
            thread::current().id()
        ));
        fs::create_dir(&directory).expect("a directory");
        for (file, text) in [("hosts", hosts), ("nsswitch.conf", "hosts: files dns\n")] {
            fs::write(directory.join(file), text).expect("a file");
        }
        let asked = Arc::new(Mutex::new(Vec::new()));
        let records = records.iter().map(|(name, record)| (name.to_lowercase(), record.clone()));
        let (records, log) = (records.collect(), Arc::clone(&asked));
        let socket = UdpSocket::bind("127.0.0.1:53").expect("the port of name servers, which needs root");
        // it ends with the program
        thread::spawn(move || serve(&socket, &records, &log));
        let names = Self { directory, asked };
        names.set_options(options);
        names
    }

    /// The options of resolv.conf(5) for programs that start from now on.
    pub fn set_options(&self, options: &str) {
        let text = format!("nameserver 127.0.0.1\noptions {options}\n");
        fs::write(self.directory.join("resolv.conf"), text).expect("a file");
    }

    /// A program that knows these names.
    pub fn command(&self, program: &str, arguments: &str) -> Command {
        let mut command = Command::new("unshare");
        let script =
            "cd \"$0\" && for file in *; do mount --bind $file /etc/$file || exit 99; done; exec \"$@\"";
        command.args(["--mount", "sh", "-c", script]).arg(&self.directory).arg(program);
        command.args(arguments.split_whitespace());
        command
    }

    /// The questions so far, each as a name and a type: `localhost A`.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("the questions").clone()
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Answers questions (RFC 1035).
fn serve(socket: &UdpSocket, records: &BTreeMap<String, Record>, asked: &Mutex<Vec<String>>) {
    const NO_SUCH_NAME: u8 = 3;
    let mut message = [0; 512];
    while let Ok((bytes, peer)) = socket.recv_from(&mut message) {
        let Some((name, kind, question)) = question(&message[..bytes]) else { continue };
        let kind_name = if kind == 1 { "A" } else { "AAAA" };
        asked.lock().expect("the questions").push(format!("{name} {kind_name}"));
        let (code, addresses) = match records.get(&name.to_lowercase()) {
            Some(Record::Silence) => continue,
            Some(Record::Code(code)) => (*code, [].as_slice()),
            Some(Record::Addresses(addresses)) => (0, addresses.as_slice()),
            None => (NO_SUCH_NAME, [].as_slice()),
        };
        let data: Vec<Vec<u8>> = addresses
            .iter()
            .filter(|address| address.is_ipv4() == (kind == 1))
            .map(|address| match address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            })
            .collect();
        // a response with recursion, one question, so many answers
        let mut answer =
            vec![message[0], message[1], 0x81, 0x80 | code, 0, 1, 0, data.len() as u8, 0, 0, 0, 0];
        answer.extend(question);
        for data in data {
            // the name of the question, its type, its class, no time to live
            answer.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 0, 0, data.len() as u8]);
            answer.extend(data);
        }
        let _ = socket.send_to(&answer, peer);
    }
}

/// The name and the type of a question, and its bytes.
fn question(message: &[u8]) -> Option<(String, u8, Vec<u8>)> {
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(message.get(at..at + length)?).into_owned());
        at += length;
    }
    let kind = *message.get(at + 1)?;
    Some((labels.join("."), kind, message.get(12..at + 4)?.to_vec()))
}
