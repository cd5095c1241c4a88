//! Reports: written as files, read again, compared and added up.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::{env, fs, process};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use serde_json::Value;

use crate::misbehaving::{Conduct, UdpServer};
use crate::support::bounded;
use crate::{BLASTER, blaster, counts, number, parse, stderr};

/// A directory that is removed with the test.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("blaster-{name}-{}", process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().into()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Decodes a histogram.
fn decode(encoded: &str) -> Histogram<u64> {
    let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, encoded).unwrap();
    Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap()
}

/// Adds up all lines of a histogram log. Returns the sum and the number of lines.
fn read_log(path: impl AsRef<Path>) -> (Histogram<u64>, usize) {
    let log = fs::read(path).unwrap();
    let mut sum: Option<Histogram<u64>> = None;
    let mut lines = 0;
    for entry in IntervalLogIterator::new(&log) {
        let LogEntry::Interval(interval) = entry.unwrap() else { continue };
        let histogram = decode(interval.encoded_histogram());
        lines += 1;
        match &mut sum {
            Some(sum) => sum.add(&histogram).unwrap(),
            None => sum = Some(histogram),
        }
    }
    (sum.expect("a log has lines"), lines)
}

#[test]
fn the_histogram_log_holds_every_right_reply() {
    let scratch = Scratch::new("hdr");
    let server = UdpServer::new("127.0.0.1:0", Conduct::Loses);
    let (hdr, json) = (scratch.file("run.hlog"), scratch.file("run.json"));
    let flags = format!(
        "udp {} --rate 500 --warmup 200ms --duration 2200ms --timeout 5s --linger 1s --hdr {hdr} --json {json} --quiet",
        server.addr
    );
    assert!(blaster(&flags).status.success());
    let report: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let (sum, lines) = read_log(&hdr);
    assert_eq!((sum.len(), lines), (number(&report["totals"]["ok"]), 3), "{}", report["totals"]);
    let latency = &report["latency"]["from_intended"];
    for (quantile, name) in [(0.5, "p50_ns"), (0.99, "p99_ns"), (1.0, "max_ns")] {
        assert_eq!(sum.value_at_quantile(quantile), number(&latency[name]), "{name}");
    }
    assert_eq!(decode(latency["histogram"].as_str().unwrap()), sum);
    // and once more from the JSON
    let again = scratch.file("again.hlog");
    assert!(blaster(&format!("report {json} --hdr {again} --quiet")).status.success());
    assert_eq!(fs::read(hdr).unwrap(), fs::read(again).unwrap());
}

#[test]
fn a_fleet_adds_up() {
    let scratch = Scratch::new("fleet");
    let server = UdpServer::new("127.0.0.1:0", Conduct::Loses);
    let files = [scratch.file("a.json"), scratch.file("b.json")];
    let children: Vec<_> = files
        .iter()
        .zip([500, 800])
        .map(|(file, rate)| {
            let flags = format!(
                "udp {} --rate {rate} --duration 3s --timeout 5s --linger 1s --json {file} --quiet",
                server.addr
            );
            Command::new(BLASTER).args(flags.split_whitespace()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    }
    let parts =
        files.clone().map(|file| -> Value { serde_json::from_slice(&fs::read(file).unwrap()).unwrap() });
    let [a, b] = &files;
    let merged = parse(&blaster(&format!("report --merge {a} {b} --json - --quiet")));
    assert_eq!(counts(&merged), [("sent", 3_900), ("ok", 3_510), ("lost", 390)], "{}", merged["warnings"]);
    assert_eq!(
        (number(&merged["load"]["flows"]), merged["load"]["rate_per_s"].as_f64()),
        (128, Some(1_300.0))
    );
    let histogram =
        |report: &Value| decode(report["latency"]["from_intended"]["histogram"].as_str().unwrap());
    let mut sum = histogram(&parts[0]);
    sum.add(histogram(&parts[1])).unwrap();
    assert_eq!(histogram(&merged), sum);
    assert_eq!(number(&merged["latency"]["from_intended"]["p99_ns"]), sum.value_at_quantile(0.99));

    // conditions are judged on the sum, and blaster can show the sum like any report
    let output = blaster(&format!("report --merge {a} {b} --fail-if lost>389"));
    assert_eq!(output.status.code(), Some(3));
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("2 runs on 1 host") && table.contains("3,900"), "{table}");

    let output = blaster(&format!("report {a} {b}"));
    let table = String::from_utf8(output.stdout).unwrap();
    let begins: Vec<&str> = table.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(begins[..3], ["run", a, b], "{table}");

    let html = scratch.file("both.html");
    assert!(blaster(&format!("report {a} {b} --html {html} --quiet")).status.success());
    let page = fs::read_to_string(html).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"));
    // two of both runs by rate, two by run, and four of each run alone
    assert_eq!(
        (page.matches("<svg class=\"area\"").count(), page.matches("<details").count()),
        (2 + 2 + 2 * 4, 2)
    );

    let refused = stderr(&blaster(&format!("report --merge {a} {a}")));
    assert!(refused.lines().count() == 1 && refused.contains("would count twice"), "{refused}");
}

/// If some files can't be written, the figures of a run are not lost, and all other files are written.
#[test]
fn a_report_that_can_not_be_written_loses_no_figures() {
    let scratch = Scratch::new("full");
    let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
    let html = scratch.file("run.html");
    let load = format!("udp {} --count 20 --timeout 5s", server.addr);
    for quiet in ["", "--quiet"] {
        let output = blaster(&format!("{load} --json /dev/full --hdr /dev/full --html {html} {quiet}"));
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert_eq!(text.matches("writing the report to /dev/full: No space left").count(), 2, "{text}");
        let shown = format!("{text}{}", String::from_utf8(output.stdout).unwrap());
        assert!(shown.contains("  ok                        20        100 %"), "{shown}");
        assert!(fs::read_to_string(&html).unwrap().ends_with("</html>"));
        fs::remove_file(&html).unwrap();
    }
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = Command::new(BLASTER).args(load.split_whitespace()).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("standard output: No space left"), "{}", stderr(&output));
}

#[test]
fn readers_that_have_gone_away_are_no_trouble() {
    let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
    for (flags, status) in [("", 0), ("--json - --quiet", 1), ("--json /no/such/directory/x", 1)] {
        let flags = format!("udp {} --count 20 --timeout 5s {flags}", server.addr);
        let mut command = Command::new(BLASTER);
        command.args(flags.split_whitespace()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        (child.stdout, child.stderr) = (None, None);
        assert_eq!(child.wait().unwrap().code(), Some(status), "{flags}");
    }
}

/// A run that does not start leaves the report of the last run as it was.
#[test]
fn a_run_that_fails_leaves_an_older_report_alone() {
    let scratch = Scratch::new("older");
    let json = scratch.file("run.json");
    let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
    assert!(
        blaster(&format!("udp {} --count 20 --timeout 5s --json {json} --quiet", server.addr))
            .status
            .success()
    );
    let before = fs::read(&json).unwrap();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = blaster(&format!("tcp {nobody} --count 1 --json {json}"));
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert_eq!(fs::read(&json).unwrap(), before);
    // and a shorter report replaces a longer one completely
    fs::write(&json, " ".repeat(1 << 20)).unwrap();
    assert!(
        blaster(&format!("udp {} --count 20 --timeout 5s --json {json} --quiet", server.addr))
            .status
            .success()
    );
    assert!(blaster(&format!("report {json}")).status.success());
}

/// Numbers above 2^53 lose their last digits in most readers of JSON.
#[test]
fn seeds_stay_what_they_are_in_any_reader() {
    let scratch = Scratch::new("seed");
    let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
    let run = |flags: &str| {
        parse(&blaster(&format!("udp {} --count 1 --timeout 5s {flags} --json - --quiet", server.addr)))
    };
    for _ in 0..5 {
        assert!(number(&run("")["load"]["seed"]) < 1 << 53);
    }
    let json = scratch.file("seed.json");
    for seed in [42, 1 << 53, u64::MAX] {
        let found = run(&format!("--seed {seed}"));
        let exact = if seed < 1 << 53 { Value::from(seed) } else { Value::from(seed.to_string()) };
        assert_eq!(found["load"]["seed"], exact);
        // the read value is the written one, also for reports of a blaster that wrote any seed as a number
        let mut older = found.clone();
        older["load"]["seed"] = seed.into();
        for report in [&found, &older] {
            fs::write(&json, report.to_string()).unwrap();
            let again = parse(&blaster(&format!("report {json} --json - --quiet")));
            assert_eq!(again["load"]["seed"], exact);
        }
    }
}

#[test]
fn what_is_no_report_is_said_in_one_line() {
    let scratch = Scratch::new("no-report");
    let file = |name: &str, text: &str| {
        let path = scratch.file(name);
        fs::write(&path, text).unwrap();
        path
    };
    let table = [
        (scratch.file("missing"), "No such file"),
        (file("empty", ""), "not a report"),
        (file("other", r#"{"schema": "invoice", "version": 2}"#), "invoice"),
        (file("old", r#"{"schema": "blaster-report", "version": 1}"#), "version 1"),
        (file("bare", r#"{"schema": "blaster-report", "version": 2}"#), "missing field"),
    ];
    for (path, words) in table {
        let output = blaster(&format!("report {path}"));
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.lines().count() == 1 && text.contains(&path) && text.contains(words), "{text}");
    }
}

/// File names are bytes, in any encoding or none.
#[test]
fn a_file_s_name_need_not_be_utf_8() {
    let scratch = Scratch::new("bytes");
    let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
    let name =
        |extension: &str| scratch.0.join(OsStr::from_bytes(&[b"run\xff.", extension.as_bytes()].concat()));
    let (json, html, hdr) = (name("json"), name("html"), name("hlog"));
    let files = |command: &mut Command| {
        command.arg("--quiet").arg("--json").arg(&json).arg("--html").arg(&html).arg("--hdr").arg(&hdr);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(html.exists() && hdr.exists());
        let report: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
        let line = report["command_line"].as_array().unwrap();
        assert!(line.iter().any(|word| word.as_str().unwrap().ends_with("run\u{fffd}.json")), "{line:?}");
    };
    files(Command::new(BLASTER).args(["udp", &server.addr.to_string(), "--count", "10"]));
    let copy = scratch.0.join(OsStr::from_bytes(b"copy\xff.json"));
    fs::copy(&json, &copy).unwrap();
    files(Command::new(BLASTER).arg("report").arg(copy));
}

/// Runs `script` with the variable DISK: a directory whose disk is full after the files that `before` makes. Needs
/// root.
fn on_a_full_disk(before: &str, script: &str) -> Output {
    let prepare = format!(
        "set -eu; mount -t tmpfs -o size=64k tmpfs /mnt; export DISK=/mnt; {before}; \
         dd if=/dev/zero of=/mnt/rest bs=4k >/dev/null 2>&1 || true; {script}"
    );
    Command::new("unshare").args(["--mount", "sh", "-c", &prepare]).env("BLASTER", BLASTER).output().unwrap()
}

/// If there is no room for a report, the old file survives, and the run is not lost either.
#[test]
#[ignore = "needs root"]
fn a_full_disk_costs_neither_the_older_report_nor_the_run() {
    bounded(|| {
        let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
        let target = server.addr;
        // more than a page of the disk, also as JSON
        let judged = vec!["ok<1"; 100].join(",");
        for option in ["--json", "--html", "--hdr"] {
            // a plain file, one with a second name, one behind a link
            for prepare in
                ["true", "ln $DISK/run $DISK/second", "mv $DISK/run $DISK/file; ln -s file $DISK/run"]
            {
                // a second name belongs to the same contents, which are overwritten in place: a log fits there
                if option == "--hdr" && prepare.starts_with("ln") {
                    continue;
                }
                let before = format!("seq 300 >$DISK/run; {prepare}");
                let run = format!(
                    "status=0; $BLASTER udp {target} --count 10 --quiet --fail-if '{judged}' {option} $DISK/run || status=$?; \
                     seq 300 | cmp - $DISK/run && echo whole; ls -A $DISK; exit $status"
                );
                let output = on_a_full_disk(&before, &run);
                let (out, err) = (String::from_utf8_lossy(&output.stdout), stderr(&output));
                assert_eq!(output.status.code(), Some(1), "{option}, {prepare}: {err}");
                assert!(
                    err.contains("No space left on device") && err.contains("ok                        10"),
                    "{err}"
                );
                assert!(out.starts_with("whole\n"), "{option}, {prepare}: {out}");
                assert!(!out.contains("blaster-"), "left behind: {out}");
            }
            // a new file appears completely or not at all, and /dev/full is no file
            let new = format!("$BLASTER udp {target} --count 10 --quiet {option} $DISK/new || ls -A $DISK");
            let output = on_a_full_disk("true", &new);
            assert_eq!(output.stdout, b"rest\n", "{}", stderr(&output));
            let output = blaster(&format!("udp {target} --count 10 --quiet {option} /dev/full"));
            let err = stderr(&output);
            assert!(output.status.code() == Some(1) && err.contains("No space left on device"), "{err}");
        }
    });
}

/// Permissions, owner, links, other names, devices and pipes stay as they are.
#[test]
#[ignore = "needs root"]
fn what_a_report_is_written_to_stays_what_it_is() {
    bounded(|| {
        let scratch = Scratch::new("destination");
        let server = UdpServer::new("127.0.0.1:0", Conduct::Good);
        let run = |path: &Path| {
            let mut command = Command::new(BLASTER);
            command.args(["udp", &server.addr.to_string(), "--count", "10", "--quiet", "--json"]).arg(path);
            let output = command.current_dir(&scratch.0).output().unwrap();
            assert!(output.status.success(), "{}", stderr(&output));
            output
        };
        let is_report = |path: &Path| serde_json::from_slice::<Value>(&fs::read(path).unwrap()).is_ok();
        let file = scratch.0.join("file");
        fs::write(&file, "older").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        chown(&file, Some(1234), Some(5678)).unwrap();
        run(&file);
        let now = fs::metadata(&file).unwrap();
        assert_eq!((now.mode() & 0o7777, now.uid(), now.gid()), (0o640, 1234, 5678));
        assert!(is_report(&file));

        // by its plain name and through links, one of which points to no file yet
        for (name, target) in [("link", "file"), ("second", "link"), ("dangling", "new")] {
            symlink(target, scratch.0.join(name)).unwrap();
            fs::write(&file, "older").unwrap();
            run(Path::new(name));
            assert!(scratch.0.join(name).is_symlink() && is_report(&scratch.0.join(name)), "{name}");
            assert_eq!(is_report(&file), target != "new", "{name}");
        }

        let other = scratch.0.join("other");
        fs::hard_link(&file, &other).unwrap();
        fs::write(&file, "longer than any report, ".repeat(1_000)).unwrap();
        run(&file);
        assert!(fs::metadata(&file).unwrap().nlink() == 2 && is_report(&other));

        // the longest possible name
        let long = "x".repeat(255);
        run(Path::new(&long));
        assert!(is_report(&scratch.0.join(&long)));
        fs::remove_file(scratch.0.join(&long)).unwrap();

        run(Path::new("/dev/null"));
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
        let output = run(Path::new("/dev/stdout"));
        assert!(serde_json::from_slice::<Value>(&output.stdout).is_ok());
        // output that a shell has redirected continues, whatever comes before and after the report
        let log = scratch.0.join("log");
        let script =
            format!("echo before; $BLASTER udp {} --count 10 --json /dev/stdout; echo after", server.addr);
        let mut command = Command::new("sh");
        command.args(["-c", &script]).env("BLASTER", BLASTER).stdout(fs::File::create(&log).unwrap());
        assert!(command.status().unwrap().success());
        let text = fs::read_to_string(&log).unwrap();
        assert!(text.starts_with("before\n") && text.ends_with("after\n"), "{text}");
        let (from, to) = (text.find("{\n").unwrap(), text.rfind("}\n").unwrap());
        assert!(serde_json::from_str::<Value>(&text[from..=to]).is_ok(), "{text}");
        assert!(text.contains("  ok                        10"), "{text}");

        let fifo = scratch.0.join("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let reader = {
            let fifo = fifo.clone();
            std::thread::spawn(move || fs::read(fifo).unwrap())
        };
        run(&fifo);
        assert!(serde_json::from_slice::<Value>(&reader.join().unwrap()).is_ok());
        assert!(fs::metadata(&fifo).unwrap().file_type().is_fifo());

        let mut left: Vec<_> =
            fs::read_dir(&scratch.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["dangling", "fifo", "file", "link", "log", "new", "other", "second"]);
    });
}

/// If a report can't be written, the error comes before anything is sent.
#[test]
fn a_wrong_path_costs_no_run() {
    let scratch = Scratch::new("wrong");
    symlink("itself", scratch.0.join("itself")).unwrap();
    for path in ["missing/run.json", "itself", "."] {
        let output = blaster(&format!("udp 127.0.0.1:9 --json {}", scratch.file(path)));
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{path}: {text}");
        assert!(text.starts_with("blaster: writing the report to") && text.lines().count() == 1, "{text}");
    }
}
