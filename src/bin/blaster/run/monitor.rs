//! What others see while runs last: the lines of `--jsonl` and `--csv`, and the metrics of `--metrics`.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use tubular_echo::exposition::http::{Answers, BindError, Server};
use tubular_echo::exposition::process;
use tubular_echo::kernel::ring::Errno;
use tubular_echo::sockets::error;
use tubular_echo::sockets::listen_addr::ListenAddr;

use crate::console::streams::offer_line;
use crate::model::counts::Counts;
use crate::model::watchlist::Watchlist;
use crate::options::CommonOptions;
use crate::report::interval_line::{IntervalLine, IntervalOf};
use crate::report::metrics;
use crate::run::lines::{Lines, LinesError};
use crate::workers::live::Live;
use crate::workers::observed::{Observed, Observer};

/// The interval of lines, unless --every sets one.
const LINES_EVERY: Duration = Duration::from_secs(1);
/// Workers are asked for their counts this often at the most: adding them up takes a few microseconds.
const SHORTEST: Duration = Duration::from_millis(10);
/// How often metrics are brought up to date.
const METRICS_EVERY: Duration = Duration::from_secs(1);
/// How long to wait for the counts of a worker that is busy, or stuck in a system call.
const WORKER_PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub(crate) enum MonitorError {
    #[error(transparent)]
    Lines(#[from] LinesError),
    #[error("cannot serve metrics on {addr}: {errno}; {}", cure(*.errno, *.addr))]
    Listen { addr: ListenAddr, errno: Errno },
    #[error("cannot serve metrics: {step}: {error}")]
    Thread { step: &'static str, error: io::Error },
}

/// The cure for an address that can't be bound.
fn cure(errno: Errno, addr: ListenAddr) -> String {
    match errno.0 {
        libc::EADDRINUSE => {
            format!("`ss -ln 'sport = :{}'` shows that it is taken; choose another port", addr.addr().port())
        }
        _ => error::cure(errno, addr.addr(), false),
    }
}

/// The observer of all runs of a call.
pub(crate) struct Monitor {
    every: Duration,
    jsonl: Option<Lines>,
    csv: Option<Lines>,
    metrics: Option<Arc<Site>>,
    observer: Observer,
}

/// The run that a line belongs to.
#[derive(Clone, Debug)]
pub(crate) struct ObservedRun<'a> {
    pub(crate) protocol: &'static str,
    pub(crate) run_id: String,
    pub(crate) name: &'a str,
    pub(crate) warmup: Duration,
}

impl Monitor {
    /// Opens the files and the listener. `None`: nobody asked for them.
    pub(crate) fn open(protocol: &'static str, common: &CommonOptions) -> Result<Option<Self>, MonitorError> {
        let jsonl = common.jsonl.as_ref().map(|path| Lines::open(path, None)).transpose()?;
        let header = IntervalLine::csv_header;
        let csv = common.csv.as_ref().map(|path| Lines::open(path, Some(header()))).transpose()?;
        let metrics = common.metrics.map(|addr| serve(addr, protocol, common.outputs.quiet)).transpose()?;
        let is_asked_for = jsonl.is_some() || csv.is_some() || metrics.is_some();
        let every = common.every.unwrap_or(LINES_EVERY);
        Ok(is_asked_for.then(|| Self { every, jsonl, csv, metrics, observer: Observer::default() }))
    }

    /// The times at whose multiples the counts of the workers are needed.
    pub(crate) fn intervals(&self) -> Vec<Duration> {
        let lines = self.has_lines().then_some(self.every.max(SHORTEST));
        lines.into_iter().chain(self.metrics.as_ref().map(|_| METRICS_EVERY)).collect()
    }

    fn has_lines(&self) -> bool {
        self.jsonl.is_some() || self.csv.is_some()
    }

    /// A run begins now.
    pub(crate) fn begin<'a>(
        &'a mut self,
        run: ObservedRun<'a>,
        watchlist: Arc<Watchlist>,
    ) -> Observation<'a> {
        self.observer.begin(run.protocol);
        let (every_ns, metrics_ns) = (self.every.as_nanos() as u64, METRICS_EVERY.as_nanos() as u64);
        Observation {
            before: self.observer.observed.clone(),
            monitor: self,
            run,
            watchlist,
            begun: Instant::now(),
            line_due_ns: every_ns,
            metrics_due_ns: metrics_ns,
        }
    }

    /// Waits until all lines are written.
    pub(crate) fn finish(self) -> Vec<LinesError> {
        [self.jsonl, self.csv].into_iter().flatten().filter_map(|lines| lines.finish().err()).collect()
    }
}

/// A run that is observed.
pub(crate) struct Observation<'a> {
    monitor: &'a mut Monitor,
    run: ObservedRun<'a>,
    watchlist: Arc<Watchlist>,
    begun: Instant,
    /// As of the last line.
    before: Observed,
    line_due_ns: u64,
    metrics_due_ns: u64,
}

impl Observation<'_> {
    /// Adds a line, and brings the metrics up to date, if they are due. Call this often.
    pub(crate) fn look(&mut self, lives: &[Arc<Live>]) {
        if self.monitor.has_lines() && self.is_due(self.line_due_ns, lives) {
            self.monitor.observer.observe(lives, &self.watchlist);
            self.add_line(false);
            self.line_due_ns = next_multiple(self.now_ns(), self.monitor.every);
        }
        if self.monitor.metrics.is_some() && self.is_due(self.metrics_due_ns, lives) {
            self.monitor.observer.observe(lives, &self.watchlist);
            self.monitor.show_metrics();
            self.metrics_due_ns = next_multiple(self.now_ns(), METRICS_EVERY);
        }
    }

    /// The run is over, and these are all its counts, with the warmup.
    pub(crate) fn end(mut self, counts: Counts, lives: &[Arc<Live>]) {
        let now_ns = self.now_ns();
        self.monitor.observer.observe(lives, &self.watchlist);
        self.monitor.observer.add(counts, now_ns, &self.watchlist);
        if self.monitor.has_lines() {
            self.add_line(true);
        }
        self.monitor.show_metrics();
    }

    fn now_ns(&self) -> u64 {
        self.begun.elapsed().as_nanos() as u64
    }

    /// Whether it is time, and all workers have shown their counts of that time.
    fn is_due(&self, due_ns: u64, lives: &[Arc<Live>]) -> bool {
        let now_ns = self.now_ns();
        now_ns >= due_ns
            && (Observer::is_shown(lives, due_ns) || now_ns - due_ns >= WORKER_PATIENCE.as_nanos() as u64)
    }

    fn add_line(&mut self, is_last: bool) {
        let Self { monitor, run, before, .. } = self;
        let now = &monitor.observer.observed;
        let of = IntervalOf {
            run_id: &run.run_id,
            name: run.name,
            at: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            begin_ns: before.at_ns,
            is_warmup: u128::from(now.at_ns) <= run.warmup.as_nanos(),
            is_last,
        };
        let line = IntervalLine::new(of, before, now);
        if let Some(jsonl) = &mut monitor.jsonl {
            jsonl.add(line.json());
        }
        if let Some(csv) = &mut monitor.csv {
            csv.add(line.csv());
        }
        *before = now.clone();
    }
}

/// The next multiple of `interval` after `now_ns`, so that lines stay punctual after a delay.
fn next_multiple(now_ns: u64, interval: Duration) -> u64 {
    let interval_ns = interval.as_nanos() as u64;
    (now_ns / interval_ns + 1).saturating_mul(interval_ns)
}

impl Monitor {
    fn show_metrics(&self) {
        if let Some(site) = &self.metrics {
            *site.shown() = self.observer.observed.clone();
        }
    }
}

/// The data of the answers.
struct Site {
    shown: Mutex<Observed>,
    /// When the process started, seconds since 1970.
    start_s: f64,
}

impl Site {
    fn shown(&self) -> MutexGuard<'_, Observed> {
        self.shown.lock().expect("a panic ends the process")
    }
}

impl Answers for Site {
    fn metrics(&self) -> String {
        metrics::text(&self.shown(), self.start_s)
    }

    fn health(&self) -> Result<(), String> {
        Ok(())
    }

    fn look(&self) {}
}

/// Serves the metrics on a thread of its own, until the process ends.
fn serve(addr: ListenAddr, protocol: &'static str, quiet: bool) -> Result<Arc<Site>, MonitorError> {
    // until the first run begins
    let shown = Observed { protocol, ..Observed::default() };
    let site = Arc::new(Site { shown: Mutex::new(shown), start_s: process::now_s() });
    let (outcome, inbox) = std::sync::mpsc::channel();
    let answers = Arc::clone(&site);
    let serve = move || {
        let server = match Server::bind(addr) {
            Ok(server) => server,
            Err(error) => return drop(outcome.send(Err(error))),
        };
        let _ = outcome.send(Ok(server.addr()));
        server.serve(answers);
    };
    let failed = |step| move |error| MonitorError::Thread { step, error };
    thread::Builder::new().name("metrics".into()).spawn(serve).map_err(failed("start a thread"))?;
    let bound: Result<SocketAddr, BindError> = inbox.recv().expect("a thread that panics ends the process");
    match bound {
        Ok(_) if quiet => {}
        Ok(addr) => offer_line(&format!("blaster: metrics on http://{addr}/metrics\n")),
        Err(BindError::Listen(errno)) => return Err(MonitorError::Listen { addr, errno }),
        Err(BindError::Runtime(error)) => return Err(failed("start a runtime")(error)),
    }
    Ok(site)
}
