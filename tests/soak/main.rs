//! The soak test: all kinds of load and faults at once, for hours. Run as root: `ci/soak MINUTES [SEED]`.
//!
//! An unprivileged server runs behind a dispatcher, and its clients in another network namespace. The clients send
//! datagrams of all kinds and open connections that behave well or badly. Meanwhile come random pauses, restarts, kills,
//! and links and addresses that vanish and return, all from a printed seed.
//!
//! No data may be damaged, misdirected, duplicated or reordered. Data may be lost only where a fault explains it. Memory
//! and descriptors may not grow. The counts of both sides must agree.

#![allow(unreachable_pub, reason = "`pub` here means: for this program")]

#[path = "../support/mod.rs"]
mod support;

mod chapter;
mod datagrams;
mod faults;
mod house;
mod oddities;
mod site;
mod streams;

use std::env;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use chapter::{Outcome, Plot};
use datagrams::Books;
use faults::{Diary, Fault};
use site::Site;
use streams::Tally;
use support::random::Random;
use support::sys;

/// The sum of all chapters.
#[derive(Default)]
struct Sum {
    chapters: usize,
    exact: usize,
    books: Books,
    refused: u64,
    dropped: u64,
    streams: Tally,
    lives: usize,
    killed: usize,
    stalls: u64,
    judged: Vec<chapter::Life>,
}

impl Sum {
    fn add(&mut self, outcome: &Outcome) {
        self.chapters += 1;
        self.exact += usize::from(outcome.exact);
        self.books.sent += outcome.books.sent;
        self.books.echoed += outcome.books.echoed;
        self.books.lost += outcome.books.lost;
        self.refused += outcome.refused;
        self.dropped += outcome.dropped;
        self.streams.connected += outcome.streams.connected;
        self.streams.bytes_sent += outcome.streams.bytes_sent;
        self.streams.bytes_received += outcome.streams.bytes_received;
        self.streams.cut += outcome.streams.cut;
        self.lives += outcome.lives;
        self.killed += outcome.killed;
        self.stalls += outcome.counters.get("tcp_stalls").copied().unwrap_or(0);
        self.judged.extend(outcome.life);
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let number = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        Some(arguments.get(at + 1)?.parse::<u64>().unwrap_or_else(|error| panic!("{name}: {error}")))
    };
    let Some(minutes) = number("--minutes") else {
        println!("test soak ... ignored, run by ci/soak");
        return ExitCode::SUCCESS;
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock after 1970");
    let seed = number("--seed").unwrap_or(now.as_secs());
    println!("soak: {minutes} min, seed {seed}");
    sys::raise_file_limit();
    let site = Arc::new(Site::build());
    let diary = Diary::default();
    let (begun, end) = (Instant::now(), Duration::from_mins(minutes));
    let mut random = Random::new(seed);
    let mut sum = Sum::default();
    let mut damaged = false;
    while begun.elapsed() < end {
        let number = sum.chapters;
        let plot = Plot::ALL[number % Plot::ALL.len()];
        let length = length(number, end, &mut random);
        let seed = random.next();
        let outcome = chapter::play(&site, &blaster(), plot, length, seed, &diary);
        println!(
            "{:5} s  {plot:?}, {} s: {} datagrams, {} lost, {} connections, {} lives{}",
            begun.elapsed().as_secs(),
            length.as_secs(),
            outcome.books.sent,
            outcome.books.lost,
            outcome.streams.connected,
            outcome.lives,
            outcome.life.map(|life| format!(", {:+.2} % of memory", life.growth())).unwrap_or_default()
        );
        sum.add(&outcome);
        for damage in &outcome.damage {
            println!("DAMAGE  {damage}");
            damaged = true;
        }
    }
    summarise(&sum, &diary, begun.elapsed(), seed);
    if damaged {
        println!("FAILED       see the lines that begin with DAMAGE: what is said above is not true then");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// The length of a chapter. The first one takes a quarter of the time, so that one process lives long.
fn length(number: usize, end: Duration, random: &mut Random) -> Duration {
    const SHORTEST: Duration = Duration::from_secs(10);
    let any = Duration::from_millis(random.between(20_000, 90_000) as u64);
    if number == 0 { end / 4 } else { any.min(end / 6) }.max(SHORTEST)
}

/// The load tester that was built beside the server under test.
fn blaster() -> String {
    match env::var("SERVER_UNDER_TEST") {
        Ok(server) => format!("{}/blaster", server.rsplit_once('/').expect("a path").0),
        Err(_) => env!("CARGO_BIN_EXE_blaster").into(),
    }
}

fn summarise(sum: &Sum, diary: &Diary, elapsed: Duration, seed: u64) {
    let Sum { chapters, exact, books, refused, dropped, streams, lives, killed, stalls, judged } = sum;
    println!(
        "\nsoak, seed {seed}, {:.1} min: {chapters} chapters, {lives} lives of the server",
        elapsed.as_secs_f64() / 60.0
    );
    let happened = Fault::ALL.map(|fault| format!("{} {fault}", diary.count(fault)));
    println!("faults       {}", happened.join(", "));
    println!(
        "datagrams    {} sent, {} echoed, {} lost, all beside a fault that may lose or at full receive buffers, \
         which dropped {dropped} by the server's count; {refused} unwelcome refused",
        books.sent, books.echoed, books.lost
    );
    println!(
        "connections  {}, {:.1} MB echoed, {} cut short, all beside a fault that may; {stalls} times a peer did not read",
        streams.connected,
        streams.bytes_received as f64 / 1e6,
        streams.cut
    );
    println!("books        balanced in {} lives; equal on both sides in {exact} chapters", lives - killed);
    let longest = judged.iter().map(|life| life.length).max().unwrap_or_default();
    let most = judged.iter().map(chapter::Life::growth).fold(f64::NEG_INFINITY, f64::max);
    println!(
        "memory       {most:+.2} % at most in {} lives, the longest {} s; descriptors equal",
        judged.len(),
        longest.as_secs()
    );
    println!(
        "processor    {:.0} % of a core, all clients included",
        sys::cpu_time().as_secs_f64() / elapsed.as_secs_f64() * 100.0
    );
}
