//! The measuring side of the project, in one program.
//!
//! ```text
//! table   rows of (work, our server, a peer, a bar): interleaved runs, ratios, verdicts, a dated report
//! load    the bare client: closed loop, every reply verified, as fast as its core allows
//! serve   the peers: echo servers as small and as good as they can be written
//! senders blaster beside other programs that send datagrams
//! spread  how load spreads over processors: `steer`, `mice`, `threads`
//! kernel  the system calls beneath all of them; the only room with `unsafe`
//! steering  the tests' dispatcher, for rows about wildcard ports
//! ```
//!
//! `cargo bench --bench echo -- --help` lists the commands; `ci/bench` runs the table.

mod kernel;
mod load;
mod peers;
mod senders;
mod spread;
mod steering;
mod table;

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures echo servers against each other
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true, args_override_self = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    table: table::Options,
    /// Passed by `cargo bench`
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Serve as one of the peers until killed
    Serve {
        /// Which one
        #[arg(value_enum)]
        peer: peers::Peer,
        /// Where; port 0 lets the kernel choose
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// Threads, each with a socket of its own in one `SO_REUSEPORT` group
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
        workers: u16,
        /// End when the process that started it ends
        #[arg(long)]
        end_with_parent: bool,
    },
    /// Measure blaster beside other programs that send datagrams
    Senders(senders::Options),
    /// Measure the worker by the processor (`--steer cpu`) beside the worker by the hash, over a cable with RPS
    Steer(spread::Options),
    /// Measure the times of a thousand light flows beside a heavy one, with 1, 2 and 4 workers
    Mice(spread::Options),
    /// Measure blaster's own threads
    Threads(spread::Options),
    /// Run the bare client against a server and print what came back
    #[command(subcommand)]
    Load(Box<load::Load>),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Some(Command::Serve { peer, listen, workers, end_with_parent }) => {
            serve(peer, listen, workers, end_with_parent).map(|()| true).map_err(Into::into)
        }
        Some(Command::Senders(options)) => senders::command(&options),
        Some(Command::Steer(options)) => spread::command(spread::Part::Steer, &options),
        Some(Command::Mice(options)) => spread::command(spread::Part::Mice, &options),
        Some(Command::Threads(options)) => spread::command(spread::Part::Threads, &options),
        Some(Command::Load(load)) => load::command(&load),
        // `cargo test --benches` passes nothing: then nothing is judged but correctness.
        None => {
            let mut options = arguments.table;
            options.short |= !arguments.bench;
            table::run(&options)
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn serve(peer: peers::Peer, listen: SocketAddr, workers: u16, end_with_parent: bool) -> std::io::Result<()> {
    if end_with_parent {
        kernel::end_with_parent()?;
    }
    kernel::raise_open_files()?;
    peer.serve(listen, workers.into())
}
