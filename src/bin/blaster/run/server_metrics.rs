//! `--server-metrics`: reads the server's counters over HTTP, before a run and after it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::{runtime, time};

use crate::model::metrics_url::MetricsUrl;
use crate::model::server_counts::{ServerSample, Sockets};
use crate::report::schema::{Report, Server};
use crate::workers::stop::Stop;

/// The time for one answer, from the connect on.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The metrics of our server take a few thousand bytes for each address.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// The server reads the drops of its sockets once a second.
const DROPS_ARE_READ_EVERY: Duration = Duration::from_millis(1_200);

#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerMetricsError {
    #[error("starting an HTTP client: {0}")]
    Runtime(io::Error),
    #[error("connecting to {addr} for metrics: {error}; start the server with --metrics {addr}")]
    Connect { addr: SocketAddr, error: io::Error },
    #[error("no answer from {url} within 5s; a firewall may drop it, or the server stands still")]
    TimedOut { url: String },
    #[error("{url} does not answer by HTTP: {why}; is it the address of the server's --metrics?")]
    Http { url: String, why: String },
    #[error("{url} answers {status}; tubular-echo serves its metrics at /metrics")]
    Status { url: String, status: StatusCode },
    #[error(
        "{url} does not serve the metrics of tubular-echo (it has no tubular_echo_build_info): name the address of the \
         server's --metrics"
    )]
    NotOurs { url: String },
}

/// The server of a run, whose counters were read before it.
pub(super) struct WatchedServer<'a> {
    url: &'a MetricsUrl,
    /// The address that answered: a name may stand for several servers.
    addr: SocketAddr,
    sockets: Sockets<'a>,
    before: ServerSample,
}

impl<'a> WatchedServer<'a> {
    /// Reads the counters before the run.
    pub(super) fn begin(url: &'a MetricsUrl, sockets: Sockets<'a>) -> Result<Self, ServerMetricsError> {
        let (addr, before) = read(url, &url.addrs(), sockets)?;
        Ok(Self { url, addr, sockets, before })
    }

    /// Reads them after the run. `listened`: how long blaster has waited for missing replies.
    pub(super) fn end(self, report: &Report, listened: Duration, stop: &Stop) -> Server {
        let is_lossy = report.totals.counts.lost + report.warmup.lost > 0;
        let wait = DROPS_ARE_READ_EVERY.saturating_sub(listened);
        if is_lossy && !stop.is_urgent() && report.load.protocol == "udp" {
            std::thread::sleep(wait);
        }
        let after = read(self.url, &[self.addr], self.sockets);
        let after = after.map(|(_, sample)| sample).map_err(|error| error.to_string());
        Server::new(self.url.to_string(), &self.before, after, report)
    }
}

/// Reads the counters from the first of these addresses that takes a connection.
fn read(
    url: &MetricsUrl,
    addrs: &[SocketAddr],
    sockets: Sockets<'_>,
) -> Result<(SocketAddr, ServerSample), ServerMetricsError> {
    let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = runtime.map_err(ServerMetricsError::Runtime)?;
    let answer = runtime.block_on(async { time::timeout(TIMEOUT, get(url, addrs)).await });
    let (addr, text) = answer.map_err(|_| ServerMetricsError::TimedOut { url: url.to_string() })??;
    let sample = ServerSample::read(&text, sockets);
    Ok((addr, sample.map_err(|_| ServerMetricsError::NotOurs { url: url.to_string() })?))
}

async fn connect(
    url: &MetricsUrl,
    addrs: &[SocketAddr],
) -> Result<(SocketAddr, TcpStream), ServerMetricsError> {
    let timed_out = || ServerMetricsError::TimedOut { url: url.to_string() };
    let mut failure = None;
    for addr in addrs {
        // an address that does not answer leaves time for the others
        match time::timeout(TIMEOUT / addrs.len() as u32, TcpStream::connect(addr)).await {
            Ok(Ok(stream)) => return Ok((*addr, stream)),
            Ok(Err(error)) => failure = failure.or(Some(ServerMetricsError::Connect { addr: *addr, error })),
            Err(_) => {}
        }
    }
    Err(failure.unwrap_or_else(timed_out))
}

async fn get(url: &MetricsUrl, addrs: &[SocketAddr]) -> Result<(SocketAddr, String), ServerMetricsError> {
    let http = |why: String| ServerMetricsError::Http { url: url.to_string(), why };
    let (addr, stream) = connect(url, addrs).await?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| http(error.to_string()))?;
    // it ends with the runtime at the latest
    tokio::spawn(connection);
    let request = Request::get(url.path()).header(HOST, url.target().to_string()).header(CONNECTION, "close");
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| http(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(|error| http(error.to_string()))?;
    if response.status() != StatusCode::OK {
        return Err(ServerMetricsError::Status { url: url.to_string(), status: response.status() });
    }
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| http(error.to_string()))?.to_bytes();
    Ok((addr, String::from_utf8_lossy(&body).into_owned()))
}
