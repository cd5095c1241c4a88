//! The options of a report.

use std::path::PathBuf;

use clap::Args;

use crate::judge::fail_if::Conditions;

/// `blaster report`.
#[derive(Debug, Args)]
pub(crate) struct ReportOptions {
    /// Reports of --json
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,

    /// Add them up: they come from machines that loaded the same targets at the same time. Counts, rates and histograms
    /// are added; percentiles are those of all replies together
    #[arg(long)]
    pub(crate) merge: bool,

    #[command(flatten)]
    pub(crate) outputs: OutputOptions,
}

/// The outputs of a report.
#[derive(Clone, Debug, Args)]
pub(crate) struct OutputOptions {
    /// Write the report as JSON to FILE; with - to standard output, and the table to standard error
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub(crate) json: Option<PathBuf>,

    /// Write the report as an HTML page with plots to FILE; the page loads nothing else
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub(crate) html: Option<PathBuf>,

    /// Write the latency of each second to FILE, in nanoseconds, as a log for HdrHistogram's tools
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub(crate) hdr: Option<PathBuf>,

    /// Exit with status 3 when one of these conditions holds: 'loss>0.01%,p99>1ms,misdirected>0'
    #[arg(long, value_name = "CONDITIONS", help_heading = "Report")]
    pub(crate) fail_if: Option<Conditions>,

    /// Show no progress and no table, only errors; files and the exit status stay
    #[arg(long, short, help_heading = "Report")]
    pub(crate) quiet: bool,
}
