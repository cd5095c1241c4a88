//! A real Prometheus beside a test, and promtool.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::support::metrics::ask;
use super::support::{sys, until};

/// Where it listens, in the network of the test.
const ADDRESS: &str = "127.0.0.1:9090";

/// A program of Debian's package `prometheus`: from PATH, or as ci/setup unpacked it.
pub fn program(name: &str) -> PathBuf {
    let unpacked = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("prometheus").join(name);
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).map(|path| path.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| {
        assert!(unpacked.is_file(), "there is no {name}: ci/setup unpacks it to {}", unpacked.display());
        unpacked
    })
}

/// Runs promtool, and expects that it does not complain. Returns what it says.
pub fn promtool(arguments: &[&str], input: &str) -> String {
    let mut command = Command::new(program("promtool"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("run promtool");
    child.stdin.take().expect("its input").write_all(input.as_bytes()).expect("write to promtool");
    let output = child.wait_with_output().expect("what promtool says");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    said
}

/// A Prometheus that scrapes twice a second. It ends with the test.
pub struct Prometheus {
    process: Child,
    directory: PathBuf,
    address: SocketAddr,
}

/// One line of a result: its labels, and its values by time.
pub struct Line {
    pub labels: Value,
    pub values: Vec<(f64, f64)>,
}

impl Prometheus {
    /// Starts it with targets by the name of their job, and files of rules.
    pub fn start(jobs: &[(&str, &str)], rules: &[String]) -> Self {
        let directory =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("prometheus-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).expect("a directory for Prometheus");
        let jobs = jobs.iter().map(|(job, target)| {
            format!("  - job_name: {job}\n    static_configs: [{{ targets: [\"{target}\"] }}]\n")
        });
        let config = format!(
            "global: {{ scrape_interval: 500ms, scrape_timeout: 400ms, evaluation_interval: 500ms }}\n\
             rule_files: {rules:?}\nscrape_configs:\n{}",
            jobs.collect::<String>()
        );
        let path = directory.join("prometheus.yml");
        fs::write(&path, config).expect("its configuration");
        let log = fs::File::create(directory.join("log")).expect("its log");
        let mut command = Command::new(program("prometheus"));
        command
            .arg(format!("--config.file={}", path.display()))
            .arg(format!("--storage.tsdb.path={}", directory.join("data").display()))
            .arg(format!("--web.listen-address={ADDRESS}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        sys::die_with_us(&mut command);
        let address: SocketAddr = ADDRESS.parse().unwrap();
        let started = Self { process: command.spawn().expect("start Prometheus"), directory, address };
        until("Prometheus is ready", || {
            TcpStream::connect(address).is_ok() && ask(address, "GET /-/ready HTTP/1.0\r\n\r\n").status == 200
        });
        started
    }

    /// Asks its interface; the arguments are encoded.
    pub fn api(&self, path: &str, arguments: &[(&str, &str)]) -> Value {
        let arguments: Vec<_> =
            arguments.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        let request = format!("GET /api/v1/{path}?{} HTTP/1.0\r\n\r\n", arguments.join("&"));
        let answer = ask(self.address, &request);
        assert_eq!(answer.status, 200, "{request}{}", answer.body);
        serde_json::from_str::<Value>(&answer.body).expect("JSON")["data"].clone()
    }

    /// Evaluates a query now.
    pub fn now(&self, query: &str) -> Vec<Line> {
        lines(&self.api("query", &[("query", query)]), "value")
    }

    /// Evaluates a query over the last seconds.
    pub fn last(&self, query: &str, from: f64, to: f64) -> Vec<Line> {
        let (from, to) = (from.to_string(), to.to_string());
        let arguments = [("query", query), ("start", &from), ("end", &to), ("step", "0.5")];
        lines(&self.api("query_range", &arguments), "values")
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn lines(data: &Value, values: &str) -> Vec<Line> {
    let result = data["result"].as_array().expect("series");
    let lines = result.iter().map(|series| {
        let points = match &series[values] {
            one if values == "value" => vec![one.clone()],
            many => many.as_array().expect("points").clone(),
        };
        let number = |value: &Value| value.as_str().expect("a value").parse().expect("a number");
        let values =
            points.iter().map(|point| (point[0].as_f64().expect("a time"), number(&point[1]))).collect();
        Line { labels: series["metric"].clone(), values }
    });
    lines.collect()
}

fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}
