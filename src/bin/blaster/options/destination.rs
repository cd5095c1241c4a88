//! Where packets go to and come from, of all commands that send.

use clap::Args;

use tubular_echo::kernel::addr::Domain;

use super::contradiction::Contradiction;
use crate::model::given_target::GivenTarget;
use crate::model::packet_options::PacketOptions;
use crate::model::source::Source;
use crate::model::target::{Target, TargetError};
use crate::report::names::NamedHost;

/// The options of the destination and of the way to it.
// one field for each option
#[derive(Clone, Debug, Args)]
pub(crate) struct DestinationOptions {
    /// The destination: ADDR:PORT, NAME:PORT, PREFIX:PORT, PREFIX:LOW-HIGH or PREFIX:any. A name stands for all its
    /// addresses
    #[arg(id = "targets", required = true, value_name = "TARGET")]
    pub(crate) given: Vec<GivenTarget>,

    /// The names among the targets, when they have been looked up.
    #[arg(skip)]
    pub(crate) names: Vec<NamedHost>,

    /// Take only the IPv4 addresses of names
    #[arg(long, short = '4', help_heading = "Destination")]
    pub(crate) ipv4: bool,

    /// Take only the IPv6 addresses of names
    #[arg(long, short = '6', help_heading = "Destination", conflicts_with = "ipv4")]
    pub(crate) ipv6: bool,

    /// Send from this local address. With a prefix, each flow or connection draws an address of it: a server or a
    /// firewall sees many clients. All addresses must belong to this host [default: by the routing table]
    #[arg(long, value_name = "ADDR[/LENGTH]", help_heading = "Destination")]
    pub(crate) source: Option<Source>,

    /// Send to public addresses too. Do this only to hosts that are yours
    #[arg(long, help_heading = "Destination")]
    pub(crate) allow_public: bool,

    #[command(flatten)]
    pub(crate) packets: PacketOptions,
}

impl DestinationOptions {
    /// All targets but names that were not looked up yet.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &Target> {
        self.given.iter().flat_map(GivenTarget::targets)
    }

    /// The only family that names are looked up for.
    pub(crate) fn family(&self) -> Option<Domain> {
        match (self.ipv4, self.ipv6) {
            (true, _) => Some(Domain::Ipv4),
            (_, true) => Some(Domain::Ipv6),
            _ => None,
        }
    }

    /// Refuses multicast, broadcast and the like, and without `--allow-public` also public addresses.
    pub(crate) fn check_allowed(&self) -> Result<(), TargetError> {
        self.given.iter().try_for_each(|target| target.check_allowed(self.allow_public))
    }

    /// Gives link-local targets the interface of `--interface`. If no interface has that name, the first socket tells.
    pub(crate) fn put_on_interface(&mut self) {
        if let Some(index) = self.packets.interface.and_then(|name| name.0.index().ok()) {
            for target in &mut self.given {
                target.put_on_interface(index);
            }
        }
    }

    /// Checks that the options go together, as far as names have been looked up.
    pub(super) fn check(&self) -> Result<(), Contradiction> {
        self.check_families()?;
        let is_ipv4 = |target: &GivenTarget| {
            !target.targets().is_empty() && target.targets().iter().all(Target::is_ipv4)
        };
        if let Some(label) = self.packets.flow_label.filter(|_| self.given.iter().all(is_ipv4)) {
            return Err(Contradiction::FlowLabelWithoutIpv6(label.to_string()));
        }
        let needs_interface = |target: &&Target| self.packets.interface.is_none() && target.lacks_interface();
        match self.targets().find(needs_interface) {
            Some(target) => Err(Contradiction::LinkLocalWithoutInterface(target.to_string())),
            None => Ok(()),
        }
    }

    /// Checks that `--source`, `-4` or `-6`, and the targets are of one family.
    fn check_families(&self) -> Result<(), Contradiction> {
        if let Some(source) = &self.source
            && let Some(other) = self.targets().find(|target| target.is_ipv4() != source.is_ipv4())
        {
            return Err(Contradiction::SourceOfOtherFamily(source.to_string(), other.to_string()));
        }
        let Some(family) = self.family() else { return Ok(()) };
        let is_other = |is_ipv4| is_ipv4 != (family == Domain::Ipv4);
        let source = self.source.as_ref().filter(|source| is_other(source.is_ipv4()));
        let target = self.targets().find(|target| is_other(target.is_ipv4()));
        let other = source.map(|source| format!("--source {source}")).or(target.map(ToString::to_string));
        let option = if family == Domain::Ipv4 { "-4" } else { "-6" };
        other.map_or(Ok(()), |other| Err(Contradiction::AddressOfOtherFamily(option, other)))
    }
}
