//! The options of `blaster mtu`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::contradiction::Contradiction;
use super::destination::DestinationOptions;
use super::outputs::OutputOptions;
use crate::judge::fail_if::Conditions;
use crate::model::quantity;

/// The most paths that are searched.
const PATHS_MAX: u64 = 256;

/// `blaster mtu`.
// one field for each option
#[derive(Clone, Debug, Args)]
#[command(mut_arg("dont_fragment", |argument| argument.hide(true)))]
pub(crate) struct MtuOptions {
    #[command(flatten)]
    pub(crate) destination: DestinationOptions,

    /// Flows to each target; each is a socket with its own port. Routers with several paths choose by address and port,
    /// so several flows may find several paths
    #[arg(long, short, value_name = "N", default_value = "8", value_parser = quantity::positive, help_heading = "Search")]
    pub(crate) flows: u32,

    /// The longest wait for a reply. Once replies have come, eight times the median round trip is enough, and at least 100ms
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = quantity::duration, help_heading = "Search")]
    pub(crate) timeout: Duration,

    /// The seed of random choices; the same seed makes the same choices [default: random]
    #[arg(long, value_name = "N", help_heading = "Search")]
    pub(crate) seed: Option<u64>,

    #[command(flatten)]
    pub(crate) report: MtuOutputOptions,
}

/// The outputs of `blaster mtu`.
#[derive(Clone, Debug, Args)]
pub(crate) struct MtuOutputOptions {
    /// Write the result as JSON to FILE; with - to standard output, and the table to standard error
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub(crate) json: Option<PathBuf>,

    /// Exit with status 3 when a condition on the smallest path MTU holds: 'mtu<1500'
    #[arg(long, value_name = "CONDITIONS", help_heading = "Report")]
    pub(crate) fail_if: Option<Conditions>,

    /// Show no table, only errors; the file and the exit status stay
    #[arg(long, short, help_heading = "Report")]
    pub(crate) quiet: bool,
}

impl MtuOptions {
    /// Checks that the options go together.
    pub(crate) fn check(&self) -> Result<(), Contradiction> {
        self.destination.check()?;
        if let Some(other) = self.report.fail_if.as_ref().and_then(Conditions::not_of_mtu) {
            return Err(Contradiction::NotOfMtu(other));
        }
        if self.paths() > PATHS_MAX {
            return Err(Contradiction::TooManyPaths { paths: self.paths(), most: PATHS_MAX });
        }
        Ok(())
    }

    /// How many paths are searched.
    pub(crate) fn paths(&self) -> u64 {
        self.destination.targets().count() as u64 * u64::from(self.flows)
    }

    /// The outputs that this command has.
    pub(crate) fn outputs(&self) -> OutputOptions {
        let MtuOutputOptions { json, quiet, .. } = self.report.clone();
        OutputOptions { json, html: None, hdr: None, fail_if: None, quiet }
    }
}
