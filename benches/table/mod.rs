//! The table: each row runs our server and a peer in turn under the same load, A B A B, and judges the median
//! of the pairwise ratios. Absolute times belong to one machine and one minute; ratios of neighbours do not.

mod report;
mod rows;
mod server;

use std::path::PathBuf;

use clap::Parser;
use serde::Serialize;

use crate::kernel;
use crate::load::{Load, Result, Sample};
use rows::{Bar, Metric, ROWS, Row, Side};
use server::{Available, Server};

/// Others may use so many cores before a pair counts as disturbed.
const QUIET: f64 = 0.1;
/// Disturbed pairs are repeated until this many times the rounds have been run.
const PATIENCE: usize = 3;

/// How the table is run
#[derive(Clone, clap::Args)]
pub(crate) struct Options {
    /// Only rows whose name contains one of these words, comma-separated
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Pairs of runs per row
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Measured seconds of each run
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// One short run of everything: nothing is judged but that every reply was right
    #[arg(long)]
    pub(crate) short: bool,
    /// Print the rows and leave
    #[arg(long)]
    list: bool,
    /// Where the dated report goes
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/results"))]
    results: PathBuf,
    /// Compare these two servers under --load instead, for instance `recvmmsg` with `tubular-echo --workers 1`
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
    ROWS.iter().filter(named).copied().collect()
}

/// One core each, so that the server's CPU time is its own.
struct Cores {
    server: usize,
    client: usize,
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
    let mut pairs = vec![];
    let rounds = if options.short { 1 } else { options.rounds };
    // A disturbed pair is run once more; in the end the quietest count.
    while pairs.iter().filter(|pair| quiet(pair)).count() < rounds && pairs.len() < PATIENCE * rounds {
        let pair = run_side(&row.ours, options, cores, available).and_then(|ours| {
            let peer = row.peer.map(|peer| run_side(&peer, options, cores, available)).transpose()?;
            Ok((ours, peer))
        });
        match pair {
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
    for (ours, peer) in pairs {
        outcome.ours.push(ours);
        outcome.peer.extend(peer);
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

/// Two runs, or one where nothing is compared.
type Pair = (Sample, Option<Sample>);

/// Cores that others kept busy in the worse run of a pair.
fn disturbance((ours, peer): &Pair) -> f64 {
    let of = |sample: &Sample| sample.others_cpu_s / sample.seconds;
    of(ours).max(peer.as_ref().map_or(0.0, of))
}

fn quiet(pair: &Pair) -> bool {
    disturbance(pair) < QUIET
}

/// One run: a fresh server, one load, every reply right.
fn run_side(side: &Side, options: &Options, cores: &Cores, available: &Available) -> Result<Sample> {
    let mut load = side.load()?;
    kernel::pin(&[cores.server])?;
    let server = Server::start(side.server, load.family(), available);
    kernel::pin(&[cores.client])?;
    let server = server?;
    let (seconds, warmup) = if options.short { (0.05, 0.0) } else { (options.seconds, 0.2) };
    load.aim(server.address, server.pid(), seconds, warmup);
    if options.short {
        load.compare_sources();
    }
    let sample = load.run().map_err(|e| format!("{}: {e}{}", side.server, server.last_words()))?;
    if sample.bad > 0 {
        let first = sample.first_bad.as_deref().unwrap_or_default();
        return Err(format!("{}: {} bad replies, the first: {first}", side.server, sample.bad).into());
    }
    if sample.echoes == 0 {
        return Err(format!("{}: no replies{}", side.server, server.last_words()).into());
    }
    Ok(sample)
}

impl Side {
    /// The load as its command line says it.
    fn load(&self) -> Result<Load> {
        #[derive(Parser)]
        #[command(no_binary_name = true)]
        struct Line {
            #[command(subcommand)]
            load: Load,
        }
        Ok(Line::try_parse_from(self.load.split_whitespace())?.load)
    }
}

fn median(values: &[f64]) -> f64 {
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
