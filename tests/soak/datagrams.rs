//! The load of datagrams: blaster's, as other processes.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::faults::{Diary, Fault};
use crate::site::{LISTENING, STEERED, Site};
use crate::support::sys::{Confinement, Pidfd, confine};

/// What each blaster sends.
const LOADS: [(&str, &[&str], &str); 4] = [
    ("singles", &LISTENING, "--rate 300 --flows 16 --size 32-1400"),
    ("trains", &LISTENING, "--rate 1600 --gso 16 --flows 4 --size 200-1200"),
    ("sprayed IPv4", &[STEERED[0]], "--rate 75 --flows 8 --spray --size 32-1400"),
    ("sprayed IPv6", &[STEERED[1]], "--rate 75 --flows 8 --spray --size 32-1400"),
];
/// Longer than any chapter.
const DURATION: &str = "24h";
/// Later than this is damage: no fault lasts so long.
const TIMEOUT: &str = "8s";

/// A running blaster.
pub struct Blaster {
    name: &'static str,
    child: Child,
}

/// The books of several blasters, added up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Books {
    /// Sent, by blaster or by the tests themselves.
    pub sent: u64,
    /// Came back.
    pub echoed: u64,
    /// Did not, for a reason.
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

/// What is wrong with the replies.
#[derive(Default)]
pub struct Verdict {
    /// What nothing excuses.
    pub damage: Vec<String>,
    /// What came back from nobody, and no fault excuses: a full receive buffer may.
    pub missing: Vec<String>,
    /// So many datagrams that is.
    pub missing_datagrams: u64,
}

/// Ends the loads, waits for the last replies, and adds their books to `books`. What is wrong with a reply fails
/// the run, and so does a missing one, unless something in `diary` excuses it, or the server's own account.
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
    const DAMAGE: [&str; 7] =
        ["corrupted", "truncated", "misdirected", "late", "duplicated", "unattributed", "own_drops"];
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
        for name in ["lost", "unreachable", "send_failures", "reordered"] {
            let count = interval[name].as_u64().expect("a count");
            let excuse = if name == "reordered" { Fault::reorders } else { Fault::loses };
            // the order is that of each flow's datagrams, and each of a spray is another flow's
            let has_no_order = name == "reordered" && report["load"]["spray"] == true;
            if count > 0 && !has_no_order && !is_excused(started_at, second, diary, excuse) {
                let end = started_at + Duration::from_secs(second + 1);
                let told = humantime::format_rfc3339_millis(end);
                let what = format!("{load}: {name}: {count} in the second before {told}{}", diary.last(end));
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

/// Whether something excuses what became of a datagram of this second. The report's clock begins a moment after
/// its date.
fn is_excused(started_at: SystemTime, second: u64, diary: &Diary, excuse: fn(Fault) -> bool) -> bool {
    const INEXACT: Duration = Duration::from_millis(100);
    let from = started_at + Duration::from_secs(second);
    diary.excuses(from, from + Duration::from_secs(1) + INEXACT, excuse)
}
