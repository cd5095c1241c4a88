//! How many instructions the pure parts of the hot paths take, counted by valgrind: the same on a busy machine
//! as on a quiet one, so a regression shows that no clock could tell from noise.
//!
//! Each case is run twice, with so many calls and with twice as many; the difference divided by the calls is
//! what one call costs, without the start of the program. `ci/instructions` compares it with the figures in
//! `benches/instructions.json`, `ci/instructions --bless` writes them anew.

#![allow(dead_code)] // of the modules below only the hot paths are called

#[path = "../../src/echo/udp/group.rs"]
mod group;
#[path = "../../src/bin/blaster/model"]
mod model {
    pub(crate) mod counts;
    pub(crate) mod draw;
    pub(crate) mod host_name;
    pub(crate) mod no_hosts;
    pub(crate) mod pacer;
    pub(crate) mod payload;
    pub(crate) mod quantity;
    pub(crate) mod rate_curve;
    pub(crate) mod recording;
    pub(crate) mod tallies;
    pub(crate) mod target;
    pub(crate) mod targets;
    pub(crate) mod timetable;
}
// where those modules look for the library's
use tubular_echo::{kernel, policy};

mod cases;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Parser;
use serde::{Deserialize, Serialize};

use self::cases::CASES;

/// Counts the instructions of the pure parts of the hot paths
#[derive(Parser)]
struct Options {
    /// Take the figures of this run for right
    #[arg(long)]
    bless: bool,
    /// Count only what has this in its name
    #[arg(long, default_value = "")]
    only: String,
    /// Run one case, for valgrind
    #[arg(long, hide = true, num_args = 2, value_names = ["CASE", "CALLS"])]
    run: Option<Vec<String>>,
}

/// The committed figures.
#[derive(Serialize, Deserialize, Default)]
struct Blessed {
    /// The compiler that they hold for: another one makes other instructions.
    compiler: String,
    /// Instructions of one call, by case.
    instructions: BTreeMap<String, f64>,
}

/// How many calls the shorter run makes.
const CALLS: u32 = 2000;
/// So much more than the committed figure is a regression, and so much less is news: a share, and whole
/// instructions, since of a few one more is a large share.
const TOLERANCE: (f64, f64) = (0.04, 2.0);

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(run) = options.run {
        let (_, case) = CASES.iter().find(|(name, _)| *name == run[0]).expect("the name of a case");
        case(run[1].parse().expect("a number of calls"));
        return ExitCode::SUCCESS;
    }
    match measure(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints the table. False if something takes more instructions than it may.
fn measure(options: &Options) -> Result<bool, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions.json");
    let mut blessed: Blessed = match fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?,
        Err(_) => Blessed::default(),
    };
    let compiler = compiler()?;
    let comparable = blessed.compiler == compiler;
    let (mut regressed, mut improved) = (false, false);
    println!("{:<28} {:>10} {:>10} {:>8}", "instructions of one call", "blessed", "now", "");
    for (name, _) in CASES.iter().filter(|(name, _)| name.contains(&options.only)) {
        let now = (count(name, CALLS * 2)? - count(name, CALLS)?) as f64 / f64::from(CALLS);
        let Some(before) = blessed.instructions.insert((*name).into(), (now * 10.0).round() / 10.0) else {
            println!("{name:<28} {:>10} {now:>10.1}      new", "");
            regressed |= !options.bless;
            continue;
        };
        let may_differ = (before * TOLERANCE.0).max(TOLERANCE.1);
        let verdict = match now - before {
            more if more > may_differ => "  MORE",
            less if less < -may_differ => "  less",
            _ => "",
        };
        regressed |= verdict == "  MORE";
        improved |= verdict == "  less";
        println!("{name:<28} {before:>10.1} {now:>10.1} {:>+7.1}%{verdict}", (now / before - 1.0) * 100.0);
    }
    if options.bless {
        blessed.compiler = compiler;
        let text = serde_json::to_string_pretty(&blessed).map_err(|error| error.to_string())?;
        fs::write(&path, text + "\n").map_err(|error| format!("{}: {error}", path.display()))?;
        return Ok(true);
    }
    if !comparable {
        println!(
            "Blessed with {:?}, this is {compiler:?}: not judged. `ci/instructions --bless`",
            blessed.compiler
        );
    } else if regressed || improved {
        println!(
            "If that is how it should be: `ci/instructions --bless`, and commit benches/instructions.json"
        );
    }
    Ok(!comparable || !regressed)
}

/// The instructions of a whole run of this program with one case.
fn count(case: &str, calls: u32) -> Result<i64, String> {
    let this = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe"));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(this)
        .args(["--run", case, &calls.to_string()])
        .output()
        .map_err(|error| format!("valgrind: {error}; apt-get install valgrind"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    said.lines()
        .find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok())
        .filter(|_| output.status.success())
        .ok_or_else(|| format!("{case} failed under valgrind:\n{said}"))
}

fn compiler() -> Result<String, String> {
    let output =
        Command::new("rustc").arg("--version").output().map_err(|error| format!("rustc: {error}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
