//! The HTTP server for Prometheus and health checks: hyper on one thread.
//!
//! Its memory is bounded: a connection carries one request and lives for 5 seconds at most. One connection too many
//! closes the oldest. This hurts no honest client, because an answer takes less than a millisecond.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
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

use super::health::{self, Health};
use super::{MetricsError, Source, families, process};
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

/// The data that the answers are made of.
struct Site {
    source: Source,
    /// When the process started, seconds since 1970.
    start_s: f64,
    /// Only this thread locks it.
    health: Mutex<Health>,
}

/// A listener with its runtime.
pub(super) struct Server {
    addr: SocketAddr,
    listener: TcpListener,
    runtime: Runtime,
}

impl Server {
    /// Binds the address; called on the thread that will serve. Like the datapath's sockets, it tries for a while to
    /// bind an address that is taken or missing.
    pub(super) fn bind(addr: ListenAddr) -> Result<Self, MetricsError> {
        let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build();
        let runtime = runtime.map_err(|error| MetricsError::Thread { step: "start a runtime", error })?;
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
                    return Err(MetricsError::Listen { addr, errno });
                }
                time::sleep(TRY_INTERVAL).await;
            }
        };
        let (addr, listener) = runtime.block_on(listen)?;
        Ok(Self { addr, listener, runtime })
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves until the process ends.
    pub(super) fn serve(self, source: Source) {
        let site = Arc::new(Site { source, start_s: process::now_s(), health: Mutex::default() });
        self.runtime.block_on(async {
            tokio::spawn(Arc::clone(&site).check_workers());
            accept(&self.listener, &site).await;
        });
    }
}

async fn listen(addr: ListenAddr) -> io::Result<(SocketAddr, TcpListener)> {
    let listener = TcpListener::bind(addr.resolve()?).await?;
    Ok((listener.local_addr()?, listener))
}

async fn accept(listener: &TcpListener, site: &Arc<Site>) {
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
        connections.push_back(tokio::spawn(serve_connection(stream, Arc::clone(site))));
    }
}

/// Serves one connection: one request, one answer, within [`CONNECTION_TIMEOUT`].
async fn serve_connection(stream: TcpStream, site: Arc<Site>) {
    let answer = service_fn(|request: Request<Incoming>| {
        let response = site.answer(request.method(), request.uri().path());
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

impl Site {
    async fn check_workers(self: Arc<Self>) {
        let mut tick = time::interval(health::CHECK_INTERVAL);
        // after a pause of the whole machine, checks without an interval between them would find every worker stuck
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.health().check(self.source.workers.iter().map(|counters| counters.turns.get()));
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().expect("a panic ends the process")
    }

    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        let known = matches!(path, "/metrics" | "/healthz");
        let (status, media, text) = match (method, path) {
            _ if !known => (StatusCode::NOT_FOUND, TEXT, "There are /metrics and /healthz.\n".into()),
            (&Method::GET | &Method::HEAD, "/metrics") => {
                (StatusCode::OK, METRICS_TEXT, families::text(&self.source, self.start_s))
            }
            (&Method::GET | &Method::HEAD, _) => match self.health().judge(&self.source.phase) {
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
}
