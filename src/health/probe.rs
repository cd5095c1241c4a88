//! One question to one address, over a connected socket.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::health::HealthError;
use crate::kernel::sys::{self, Protocol};

/// Datagrams sent within the time limit, in case one gets lost.
const DATAGRAMS: u32 = 4;
/// The first line of an HTTP answer is shorter.
const LINE_BYTES_MAX: usize = 256;

/// Bytes that nobody knows before.
fn question() -> Vec<u8> {
    sys::secret_words::<4>().iter().flat_map(|word| word.to_be_bytes()).collect()
}

fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Sends some bytes and a FIN over a connection, and expects the same.
pub fn echo_of_stream(addr: SocketAddr, timeout: Duration) -> Result<(), HealthError> {
    let protocol = Protocol::Tcp;
    let failed = |step| {
        move |source: io::Error| {
            if is_late(&source) {
                HealthError::Silent { protocol, addr, timeout }
            } else {
                HealthError::Refused { protocol, addr, step, source }
            }
        }
    };
    let question = question();
    let mut stream = connected(addr, timeout).map_err(failed("connect"))?;
    stream.write_all(&question).map_err(failed("send"))?;
    stream.shutdown(Shutdown::Write).map_err(failed("finish"))?;
    let mut answer = Vec::new();
    // one byte more than the echo shows that more came
    let mut echo = stream.take(question.len() as u64 + 1);
    echo.read_to_end(&mut answer).map_err(failed("receive"))?;
    if answer == question { Ok(()) } else { Err(HealthError::Wrong { protocol, addr }) }
}

/// A connection with the time limit.
fn connected(addr: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&addr, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    Ok(stream)
}

/// Sends a datagram, several times if need be, and expects the same.
pub fn echo_of_datagram(addr: SocketAddr, timeout: Duration) -> Result<(), HealthError> {
    let protocol = Protocol::Udp;
    let failed = |step| move |source| HealthError::Refused { protocol, addr, step, source };
    let any = if addr.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let socket = UdpSocket::bind((any, 0)).map_err(failed("bind"))?;
    socket.connect(addr).map_err(failed("connect"))?;
    socket.set_read_timeout(Some(timeout / DATAGRAMS)).map_err(failed("setsockopt"))?;
    let question = question();
    let begun = Instant::now();
    while begun.elapsed() < timeout {
        socket.send(&question).map_err(failed("send"))?;
        let mut answer = [0; 64];
        match socket.recv(&mut answer) {
            Ok(bytes) if answer[..bytes] == question[..] => return Ok(()),
            Ok(_) => return Err(HealthError::Wrong { protocol, addr }),
            Err(error) if is_late(&error) => {}
            Err(error) => return Err(failed("receive")(error)),
        }
    }
    Err(HealthError::Silent { protocol, addr, timeout })
}

/// Asks the server itself, over HTTP.
pub fn status_of(addr: SocketAddr, timeout: Duration) -> Result<(), HealthError> {
    let protocol = Protocol::Tcp;
    let failed = |step| {
        move |source: io::Error| {
            if is_late(&source) {
                HealthError::Unhealthy { addr, status: "no answer in time".into() }
            } else {
                HealthError::Refused { protocol, addr, step, source }
            }
        }
    };
    let mut stream = connected(addr, timeout).map_err(failed("connect"))?;
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(failed("send"))?;
    let mut answer = [0; LINE_BYTES_MAX];
    let mut filled = 0;
    while filled < answer.len() && !answer[..filled].contains(&b'\n') {
        match stream.read(&mut answer[filled..]).map_err(failed("receive"))? {
            0 => break,
            bytes => filled += bytes,
        }
    }
    let line = answer[..filled].split(|&byte| byte == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line).trim_end().to_owned();
    match line.strip_prefix("HTTP/1.1 ") {
        Some(status) if status.starts_with("200") => Ok(()),
        Some(status) => Err(HealthError::Unhealthy { addr, status: status.into() }),
        None => Err(HealthError::NotHttp(addr)),
    }
}
