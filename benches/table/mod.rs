//! The table: each row runs our server and a peer in turn under the same load, A B A B in slices of a few
//! hundredths of a second, some rounds with fresh processes, and judges the median of the rounds' ratios.
//! Absolute times belong to one machine and one minute; ratios of neighbours do not.

mod plot;
pub(crate) mod report;
mod rows;
mod run;
mod scale;
pub(crate) mod server;

use std::collections::HashSet;
use std::path::PathBuf;

use serde::Serialize;

use crate::kernel;
use crate::load::{Result, Sample};
use crate::spread;
use rows::{Bar, Metric, ROWS, Row, Side};
use run::Cores;
use scale::Place;
use server::Available;

/// Others may use so many cores before a pair counts as disturbed.
const QUIET: f64 = 0.15;
/// Disturbed pairs are repeated until this many times the rounds have been run.
const PATIENCE: usize = 3;

/// How the table is run
#[derive(Clone, clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is an independent switch")]
pub(crate) struct Options {
    /// Only rows whose name contains one of these words, comma-separated
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Rounds, each with fresh processes
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds that each server is measured in a round
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// Seconds until it is the other one's turn
    #[arg(long, default_value_t = 0.05)]
    slice: f64,
    /// One short run of everything: nothing is judged but that every reply was right
    #[arg(long)]
    pub(crate) short: bool,
    /// Measure how servers grow with the number of their workers instead
    #[arg(
        long,
        conflicts_with = "compare",
        value_enum,
        value_name = "WHERE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "apart"
    )]
    scale: Option<scale::Place>,
    /// Print the rows and leave
    #[arg(long)]
    list: bool,
    /// Where the dated report goes
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/results"))]
    results: PathBuf,
    /// Compare these two servers under --load instead: `tubular-echo FLAGS`, a peer, or the path of a program and
    /// its flags
    #[arg(long, num_args = 2, value_names = ["SERVER", "PEER"], requires = "load")]
    compare: Option<Vec<String>>,
    /// The load of --compare, for instance `udp --flows 16 --in-flight 1`
    #[arg(long, requires = "compare")]
    load: Option<String>,
    /// Write no report
    #[arg(long)]
    no_report: bool,
}

/// What became of a row.
#[derive(Serialize)]
struct Outcome {
    row: Row,
    ours: Vec<Sample>,
    peer: Vec<Sample>,
    ratios: Vec<f64>,
    /// Cores that others kept busy during the worst of the pairs that count
    disturbance: f64,
    verdict: Verdict,
}

#[derive(Clone, PartialEq, Serialize)]
enum Verdict {
    Met,
    Missed,
    /// There is no bar, or this run judges none.
    Reported,
    /// Something that the row needs is not here.
    Skipped(String),
    /// Replies were wrong or absent, or a server failed: the figures mean nothing.
    Failed(String),
}

/// Runs the rows; whether none of them missed its bar or failed.
pub(crate) fn run(options: &Options) -> Result<bool> {
    if let Some(place) = options.scale {
        return scale::run(options, place);
    }
    // the table binds this thread to a part of them
    let processors = kernel::cores()?;
    let passed = run_table(options)?;
    if options.short && options.rows.is_empty() && options.compare.is_none() && !options.list {
        println!();
        let one_row = Options { rows: vec!["scale-udp".into()], ..options.clone() };
        let scales = scale::run(options, Place::Apart)? && scale::run(&one_row, Place::Together)?;
        return Ok(scales && spread::short(&processors)? && passed);
    }
    Ok(passed)
}

fn run_table(options: &Options) -> Result<bool> {
    let chosen = choose(options);
    if chosen.is_empty() {
        return Err("no row has such a name; --list prints them".into());
    }
    if options.list {
        for row in chosen {
            println!("{:<24} {}", row.name, row.work);
        }
        return Ok(true);
    }
    kernel::raise_open_files()?;
    let cores = kernel::cores()?;
    if cores.len() < 2 && !options.short {
        return Err("the table needs a core for the server and another for the client".into());
    }
    let cores = Cores { server: cores[0], client: cores[cores.len() - 1] };
    let available = Available::look()?;
    println!("{}", report::heading());
    let mut outcomes = vec![];
    for row in chosen {
        let outcome = run_row(row, options, &cores, &available);
        println!("{}", report::line(&outcome));
        outcomes.push(outcome);
    }
    if !options.short && !options.no_report {
        println!("\nreport: {}", report::write(&options.results, &outcomes)?.display());
    }
    Ok(outcomes.iter().all(|outcome| !matches!(outcome.verdict, Verdict::Missed | Verdict::Failed(_))))
}

/// The rows that were asked for.
fn choose(options: &Options) -> Vec<Row> {
    if let (Some([ours, peer]), Some(load)) = (options.compare.as_deref(), &options.load) {
        // A row is made of constants; this one lives as long as they do.
        return vec![rows::compared(ours.clone().leak(), peer.clone().leak(), load.clone().leak())];
    }
    let named =
        |row: &&Row| options.rows.is_empty() || options.rows.iter().any(|word| row.name.contains(word));
    let mut rows: Vec<Row> = ROWS.iter().filter(named).copied().collect();
    if options.short {
        // Once is enough for what is only checked to be right.
        let mut seen = HashSet::new();
        rows.retain(|row| {
            let new = seen.insert((row.ours.server, row.ours.load));
            row.peer.is_some_and(|peer| seen.insert((peer.server, peer.load))) || new
        });
    }
    rows
}

fn run_row(row: Row, options: &Options, cores: &Cores, available: &Available) -> Outcome {
    let mut outcome = Outcome {
        row,
        ours: vec![],
        peer: vec![],
        ratios: vec![],
        disturbance: 0.0,
        verdict: Verdict::Reported,
    };
    let missing = [Some(row.ours), row.peer].into_iter().flatten().find_map(|side| available.missing(&side));
    if let Some(missing) = missing {
        outcome.verdict = Verdict::Skipped(missing);
        return outcome;
    }
    let sides: Vec<Side> = [Some(row.ours), row.peer].into_iter().flatten().collect();
    let rounds = if options.short { 1 } else { options.rounds };
    let (slices, slice_s) = match row.metric {
        Metric::BytesPerConnection => (1, 0.0),
        _ if options.short => (1, 0.03),
        _ => ((options.seconds / options.slice).ceil() as usize, options.slice),
    };
    let mut pairs: Vec<Pair> = vec![];
    // A disturbed round is run once more; in the end the quietest count.
    while pairs.iter().filter(|pair| quiet(pair)).count() < rounds && pairs.len() < PATIENCE * rounds {
        match run::round(&sides, slices, slice_s, options.short, cores, available) {
            Ok(pair) => pairs.push(pair),
            Err(e) => {
                outcome.verdict = Verdict::Failed(e.to_string());
                return outcome;
            }
        }
        if options.short {
            break;
        }
    }
    pairs.sort_by(|a, b| disturbance(a).total_cmp(&disturbance(b)));
    pairs.truncate(rounds);
    outcome.disturbance = pairs.last().map_or(0.0, disturbance);
    for pair in pairs {
        let mut samples = pair.into_iter();
        outcome.ours.extend(samples.next());
        outcome.peer.extend(samples);
    }
    let value = |sample: &Sample| row.metric.of(sample);
    outcome.ratios = match row.peer {
        Some(_) => outcome.ours.iter().zip(&outcome.peer).map(|(a, b)| value(a) / value(b)).collect(),
        None => outcome.ours.iter().map(value).collect(),
    };
    outcome.verdict = match row.bar {
        _ if options.short => Verdict::Reported,
        Bar::None => Verdict::Reported,
        bar if bar.met(median(&outcome.ratios)) => Verdict::Met,
        _ => Verdict::Missed,
    };
    outcome
}

/// Ours and the peer's, or ours alone.
type Pair = Vec<Sample>;

/// Cores that others kept busy in the worse half of a round.
fn disturbance(pair: &Pair) -> f64 {
    pair.iter().map(|sample| sample.others_cpu_s / sample.seconds).fold(0.0, f64::max)
}

fn quiet(pair: &Pair) -> bool {
    disturbance(pair) < QUIET
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => f64::NAN,
        (n, half) if n % 2 == 0 => f64::midpoint(sorted[half - 1], sorted[half]),
        (_, half) => sorted[half],
    }
}

impl Metric {
    fn of(self, sample: &Sample) -> f64 {
        let cpu = sample.server_cpu_s.unwrap_or(f64::NAN);
        match self {
            Self::CpuNsPerEcho => cpu * 1e9 / sample.echoes as f64,
            Self::CpuMsPerGb => cpu * 1e3 / (sample.bytes as f64 / 1e9),
            Self::EchoesPerSecond => sample.echoes as f64 / sample.seconds,
            Self::BytesPerConnection => sample.bytes_per_connection.unwrap_or(f64::NAN),
        }
    }
}

impl Bar {
    fn met(self, value: f64) -> bool {
        match self {
            Self::None => true,
            Self::AtMost(bar) => value <= bar,
            Self::AtLeast(bar) => value >= bar,
        }
    }
}
