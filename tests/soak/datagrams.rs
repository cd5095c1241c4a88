//! The load of datagrams, by blaster in other processes.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::faults::{Diary, Fault};
use crate::site::{LISTENING, STEERED, Site};
use crate::support::sys::{Confinement, Pidfd, confine};

/// The loads, one for each blaster.
const LOADS: [(&str, &[&str], &str); 4] = [
    ("singles", &LISTENING, "--rate 300 --flows 16 --size 32-1400"),
    ("trains", &LISTENING, "--rate 1600 --gso 16 --flows 4 --size 200-1200"),
    ("sprayed IPv4", &[STEERED[0]], "--rate 75 --flows 8 --spray --size 32-1400"),
    ("sprayed IPv6", &[STEERED[1]], "--rate 75 --flows 8 --spray --size 32-1400"),
];
/// Longer than any chapter.
const DURATION: &str = "24h";
/// A later reply is an error: no fault lasts this long.
const TIMEOUT: &str = "8s";

/// A running blaster.
pub struct Blaster {
    name: &'static str,
    child: Child,
}

/// The counts of several blasters, added up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Books {
    /// Datagrams sent, by blaster or by the tests themselves.
    pub sent: u64,
    /// Datagrams that came back.
    pub echoed: u64,
    /// Datagrams that did not come back, for an accepted reason.
    pub lost: u64,
}

/// Starts the loads of a chapter.
pub fn start(site: &Site, program: &str, seed: u64) -> Vec<Blaster> {
    LOADS
        .iter()
        .map(|(name, targets, flags)| {
            let mut command = Command::new(program);
            let any = targets.iter().map(|target| match target.parse::<ipnet::IpNet>() {
                Ok(ipnet::IpNet::V4(prefix)) => format!("{prefix}:any"),
                Ok(ipnet::IpNet::V6(prefix)) => format!("[{prefix}]:any"),
                Err(_) => (*target).to_owned(),
            });
            command.arg("udp").args(any).args(flags.split_whitespace());
            command.args(["--duration", DURATION, "--timeout", TIMEOUT, "--linger", TIMEOUT]);
            command.args(["--quiet", "--json=-", "--seed", &seed.to_string()]);
            command.stdout(Stdio::piped());
            confine(&mut command, Confinement { limits: Vec::new(), denied: Vec::new() });
            let child =
                site.clients.run(|| command.spawn()).unwrap_or_else(|error| panic!("{program}: {error}"));
            Blaster { name, child }
        })
        .collect()
}

/// Errors in the replies.
#[derive(Default)]
pub struct Verdict {
    /// Errors that no fault excuses.
    pub damage: Vec<String>,
    /// Missing replies that no fault excuses. A full receive buffer may excuse them.
    pub missing: Vec<String>,
    /// The number of those missing replies.
    pub missing_datagrams: u64,
}

/// Ends the loads, waits for the last replies, and adds their counts to `books`. A wrong or missing reply fails the
/// run, unless a fault in `diary` or the server's own counters excuse it.
pub fn finish(blasters: Vec<Blaster>, diary: &Diary, books: &mut Books) -> Verdict {
    for blaster in &blasters {
        Pidfd::open(blaster.child.id()).expect("blaster").signal(libc::SIGINT).expect("end blaster");
    }
    let mut verdict = Verdict::default();
    for Blaster { name, child } in blasters {
        let output = child.wait_with_output().expect("blaster's report");
        let Ok(report) = serde_json::from_slice::<Value>(&output.stdout) else {
            verdict.damage.push(format!("{name}: no report, {}", output.status));
            continue;
        };
        judge(name, &report, diary, &mut verdict);
        let total = |name: &str| report["totals"][name].as_u64().expect("a count");
        books.sent += total("sent");
        books.echoed += total("ok");
        books.lost += total("lost") + total("unreachable");
    }
    verdict
}

fn judge(load: &str, report: &Value, diary: &Diary, verdict: &mut Verdict) {
    const DAMAGE: [&str; 8] = [
        "corrupted",
        "truncated",
        "misdirected",
        "late",
        "duplicated",
        "crossed",
        "unattributed",
        "own_drops",
    ];
    for name in DAMAGE {
        match report["totals"][name].as_u64() {
            Some(0) => {}
            count => verdict.damage.push(format!("{load}: {name}: {count:?}")),
        }
    }
    let started_at = report["started_at"].as_str().expect("when it began");
    let started_at = humantime::parse_rfc3339(started_at).expect("a time of RFC 3339");
    for interval in report["intervals"].as_array().expect("intervals") {
        let second = interval["second"].as_u64().expect("a second");
        let seconds = second..second + interval["seconds"].as_u64().expect("a length");
        for name in ["lost", "unreachable", "send_failures", "reordered"] {
            let count = interval[name].as_u64().expect("a count");
            let excuse = if name == "reordered" { Fault::reorders } else { Fault::loses };
            // the order counts within a flow, and each datagram of a spray is a flow of its own
            let has_no_order = name == "reordered" && report["load"]["spray"] == true;
            let is_excused = || seconds.clone().any(|second| is_excused(started_at, second, diary, excuse));
            if count > 0 && !has_no_order && !is_excused() {
                let end = started_at + Duration::from_secs(seconds.end);
                let told = humantime::format_rfc3339_millis(end);
                let what = format!(
                    "{load}: {name}: {count} in the {} s before {told}{}",
                    seconds.end - second,
                    diary.last(end)
                );
                if name == "lost" {
                    verdict.missing.push(what);
                    verdict.missing_datagrams += count;
                } else {
                    verdict.damage.push(what);
                }
            }
        }
    }
}

/// Whether a fault excuses the outcome of a datagram of this second. The report's clock begins a moment after its date.
fn is_excused(started_at: SystemTime, second: u64, diary: &Diary, excuse: fn(Fault) -> bool) -> bool {
    const INEXACT: Duration = Duration::from_millis(100);
    let from = started_at + Duration::from_secs(second);
    diary.excuses(from, from + Duration::from_secs(1) + INEXACT, excuse)
}
