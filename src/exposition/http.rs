//! The HTTP server for Prometheus and health checks: hyper on one thread.
//!
//! Its memory is bounded: a connection carries one request and lives for 5 seconds at most. One connection too many
//! closes the oldest. This hurts no honest client, because an answer takes less than a millisecond.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{self, Runtime};
use tokio::task::JoinHandle;
use tokio::time::{self, MissedTickBehavior};

use crate::kernel::ring::Errno;
use crate::sockets::bind;
use crate::sockets::listen_addr::ListenAddr;

/// Connections at a time. One more closes the oldest.
const CONNECTIONS_MAX: usize = 32;
/// Time from accept to the last byte sent.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest request, with its headers.
const REQUEST_BYTES_MAX: usize = 16 << 10;
/// How often an address that is taken or missing is tried again.
const TRY_INTERVAL: Duration = Duration::from_millis(50);
/// Pause after a failed accept: descriptors or memory are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const METRICS_TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// The interval of [`Answers::look`].
pub const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The makers of the answers. The thread that serves calls them.
pub trait Answers: Send + Sync + 'static {
    /// The text of `/metrics`.
    fn metrics(&self) -> String;
    /// The answer of `/healthz`; the error is its text.
    fn health(&self) -> Result<(), String>;
    /// Called once every [`LOOK_INTERVAL`].
    fn look(&self);
}

/// Why the address can't be listened on.
#[derive(Debug)]
pub enum BindError {
    /// The kernel's answer.
    Listen(Errno),
    /// No runtime could be started.
    Runtime(io::Error),
}

/// A listener with its runtime.
pub struct Server {
    addr: SocketAddr,
    listener: TcpListener,
    runtime: Runtime,
}

impl Server {
    /// Binds the address; called on the thread that will serve. Like the datapath's sockets, it tries for a while to
    /// bind an address that is taken or missing.
    pub fn bind(addr: ListenAddr) -> Result<Self, BindError> {
        let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build();
        let runtime = runtime.map_err(BindError::Runtime)?;
        let begun = Instant::now();
        let listen = async {
            loop {
                let error = match listen(addr).await {
                    Err(error) => error,
                    Ok(listening) => return Ok(listening),
                };
                let errno = Errno(error.raw_os_error().unwrap_or(libc::EINVAL));
                let patience = bind::patience(errno);
                if patience.is_none_or(|patience| begun.elapsed() >= patience) {
                    return Err(BindError::Listen(errno));
                }
                time::sleep(TRY_INTERVAL).await;
            }
        };
        let (addr, listener) = runtime.block_on(listen)?;
        Ok(Self { addr, listener, runtime })
    }

    /// The address, with the port that the kernel chose.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves until the process ends.
    pub fn serve(self, answers: Arc<dyn Answers>) {
        self.runtime.block_on(async {
            tokio::spawn(look(Arc::clone(&answers)));
            accept(&self.listener, &answers).await;
        });
    }
}

async fn listen(addr: ListenAddr) -> io::Result<(SocketAddr, TcpListener)> {
    let listener = TcpListener::bind(addr.resolve()?).await?;
    Ok((listener.local_addr()?, listener))
}

async fn look(answers: Arc<dyn Answers>) {
    let mut tick = time::interval(LOOK_INTERVAL);
    // after a pause of the whole machine, looks without an interval between them would find everything stuck
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        answers.look();
    }
}

async fn accept(listener: &TcpListener, answers: &Arc<dyn Answers>) {
    let mut connections: VecDeque<JoinHandle<()>> = VecDeque::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        connections.retain(|connection| !connection.is_finished());
        if connections.len() >= CONNECTIONS_MAX
            && let Some(oldest) = connections.pop_front()
        {
            oldest.abort();
        }
        connections.push_back(tokio::spawn(serve_connection(stream, Arc::clone(answers))));
    }
}

/// Serves one connection: one request, one answer, within [`CONNECTION_TIMEOUT`].
async fn serve_connection(stream: TcpStream, answers: Arc<dyn Answers>) {
    let answer = service_fn(|request: Request<Incoming>| {
        let response = respond(&*answers, request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .header_read_timeout(None)
        .max_buf_size(REQUEST_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), answer);
    // a client that breaks off or is too slow gets no answer; that needs no log line
    let _ = time::timeout(CONNECTION_TIMEOUT, connection).await;
}

fn respond(answers: &dyn Answers, method: &Method, path: &str) -> Response<Full<Bytes>> {
    let known = matches!(path, "/metrics" | "/healthz");
    let (status, media, text) = match (method, path) {
        _ if !known => (StatusCode::NOT_FOUND, TEXT, "There are /metrics and /healthz.\n".into()),
        (&Method::GET | &Method::HEAD, "/metrics") => (StatusCode::OK, METRICS_TEXT, answers.metrics()),
        (&Method::GET | &Method::HEAD, _) => match answers.health() {
            Ok(()) => (StatusCode::OK, TEXT, "ok\n".into()),
            Err(unwell) => (StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{unwell}\n")),
        },
        _ => (StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET and HEAD only.\n".into()),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, media);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}
