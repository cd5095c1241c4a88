//! blaster as a process: its command line, its processor, and its report.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde::Serialize;
use serde_json::Value;

use crate::kernel;
use crate::load::Result;

const BLASTER: &str = env!("CARGO_BIN_EXE_blaster");

/// A running blaster.
pub(super) struct Client {
    line: String,
    child: Option<Child>,
    report: PathBuf,
}

/// What one or several of them have seen together. Of several percentiles, the largest counts.
#[derive(Clone, Copy, Default, Serialize)]
pub(super) struct Seen {
    pub(super) sent: f64,
    pub(super) ok: f64,
    /// Right replies per second
    pub(super) ok_per_s: f64,
    pub(super) p50_ns: f64,
    pub(super) p90_ns: f64,
    pub(super) p99_ns: f64,
}

impl Client {
    /// Starts it on these processors, in the calling thread's network. `is_first`: it gets its processor as soon as it wants
    /// it, so that its own waiting is no part of what it measures.
    pub(super) fn start(line: &str, cores: &[usize], is_first: bool) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let report = std::env::temp_dir().join(format!("spread-{}-{number}.json", std::process::id()));
        let mut command = if is_first { Command::new("chrt") } else { Command::new(BLASTER) };
        if is_first {
            command.args(["--fifo", "1", BLASTER]);
        }
        command.args(line.split_whitespace()).arg("--quiet").arg("--json").arg(&report);
        kernel::pin(cores)?;
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let child = child.map_err(|e| format!("{line}: {e}"))?;
        Ok(Self { line: line.into(), child: Some(child), report })
    }

    /// Waits for its end.
    fn end(&mut self) -> Result<()> {
        let Some(child) = self.child.take() else { return Ok(()) };
        let output = child.wait_with_output()?;
        // blaster also fails when nothing came back, as from a sink
        if self.report.exists() {
            return Ok(());
        }
        Err(format!("{}: {}", self.line, String::from_utf8_lossy(&output.stderr)).into())
    }

    /// What they have seen when all have ended.
    pub(super) fn all(mut clients: Vec<Self>) -> Result<Seen> {
        let mut all = Seen::default();
        for client in &mut clients {
            client.end()?;
            all.add(&Seen::of(&serde_json::from_str(&fs::read_to_string(&client.report)?)?)?);
        }
        Ok(all)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_file(&self.report);
    }
}

impl Seen {
    fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.ok += other.ok;
        self.ok_per_s += other.ok_per_s;
        self.p50_ns = self.p50_ns.max(other.p50_ns);
        self.p90_ns = self.p90_ns.max(other.p90_ns);
        self.p99_ns = self.p99_ns.max(other.p99_ns);
    }

    fn of(report: &Value) -> Result<Self> {
        let number = |path: &str| {
            report.pointer(path).and_then(Value::as_f64).ok_or_else(|| format!("blaster reports no {path}"))
        };
        let wrong = number("/totals/corrupted")? + number("/totals/misdirected")?;
        if wrong > 0.0 {
            return Err(format!("{wrong} wrong replies").into());
        }
        let latency = |name: &str| number(&format!("/latency/from_intended/{name}")).unwrap_or(f64::NAN);
        Ok(Self {
            sent: number("/totals/sent")?,
            ok: number("/totals/ok")?,
            ok_per_s: number("/totals/ok_per_s")?,
            p50_ns: latency("p50_ns"),
            p90_ns: latency("p90_ns"),
            p99_ns: latency("p99_ns"),
        })
    }
}
