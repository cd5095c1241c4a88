//! The options of `blaster mtu`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tubular_echo::kernel::addr::Domain;

use super::common::{check_families, check_flow_label};
use super::contradiction::Contradiction;
use super::outputs::OutputOptions;
use crate::judge::fail_if::Conditions;
use crate::model::given_target::GivenTarget;
use crate::model::packet_options::PacketOptions;
use crate::model::quantity;
use crate::model::source::Source;
use crate::model::target::Target;
use crate::report::names::NamedHost;

/// The most paths that are searched.
const PATHS_MAX: u64 = 256;

/// `blaster mtu`.
// one field for each option
#[derive(Clone, Debug, Args)]
#[command(mut_arg("dont_fragment", |argument| argument.hide(true)))]
pub(crate) struct MtuOptions {
    /// The echo server: ADDR:PORT, NAME:PORT, PREFIX:PORT, PREFIX:LOW-HIGH or PREFIX:any. A name stands for all its addresses
    #[arg(required = true, value_name = "TARGET")]
    pub(crate) targets: Vec<GivenTarget>,

    /// The names among the targets, when they have been looked up.
    #[arg(skip)]
    pub(crate) names: Vec<NamedHost>,

    /// Take only the IPv4 addresses of names
    #[arg(long, short = '4', help_heading = "Search")]
    pub(crate) ipv4: bool,

    /// Take only the IPv6 addresses of names
    #[arg(long, short = '6', help_heading = "Search", conflicts_with = "ipv4")]
    pub(crate) ipv6: bool,

    /// Flows to each target; each is a socket with its own port. Routers with several paths choose by address and port,
    /// so several flows may find several paths
    #[arg(long, short, value_name = "N", default_value = "8", value_parser = quantity::positive, help_heading = "Search")]
    pub(crate) flows: u32,

    /// The longest wait for a reply. Once replies have come, eight times the median round trip is enough, and at least 100ms
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = quantity::duration, help_heading = "Search")]
    pub(crate) timeout: Duration,

    /// Send from this local address. With a prefix, each flow draws an address of it. All addresses must belong to this
    /// host [default: by the routing table]
    #[arg(long, value_name = "ADDR[/LENGTH]", help_heading = "Search")]
    pub(crate) source: Option<Source>,

    /// The seed of random choices; the same seed makes the same choices [default: random]
    #[arg(long, value_name = "N", help_heading = "Search")]
    pub(crate) seed: Option<u64>,

    /// Send to public addresses too. Do this only to hosts that are yours
    #[arg(long, help_heading = "Search")]
    pub(crate) allow_public: bool,

    #[command(flatten)]
    pub(crate) packets: PacketOptions,

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
        check_families(self.source.as_ref(), self.family(), &self.destinations().collect::<Vec<_>>())?;
        check_flow_label(&self.packets, &self.targets)?;
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
        self.destinations().count() as u64 * u64::from(self.flows)
    }

    /// All targets but names that were not looked up yet.
    pub(crate) fn destinations(&self) -> impl Iterator<Item = &Target> {
        self.targets.iter().flat_map(GivenTarget::targets)
    }

    /// The only family that names are looked up for.
    pub(crate) fn family(&self) -> Option<Domain> {
        match (self.ipv4, self.ipv6) {
            (true, _) => Some(Domain::Ipv4),
            (_, true) => Some(Domain::Ipv6),
            _ => None,
        }
    }

    /// The outputs that this command has.
    pub(crate) fn outputs(&self) -> OutputOptions {
        let MtuOutputOptions { json, quiet, .. } = self.report.clone();
        OutputOptions { json, html: None, hdr: None, fail_if: None, quiet }
    }
}
