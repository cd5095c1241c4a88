//! `hosts`: where blaster ran.

use serde::{Deserialize, Serialize};

/// A host that blaster ran on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Host {
    pub(crate) name: String,
    /// The release of the kernel.
    pub(crate) kernel: String,
    /// The model of the processor.
    pub(crate) cpu: String,
    /// The number of processors that blaster could use.
    pub(crate) processors: usize,
}

/// Each of these hosts once.
pub(crate) fn distinct_hosts<'a>(hosts: impl Iterator<Item = &'a Host>) -> Vec<Host> {
    let mut distinct: Vec<Host> = Vec::new();
    for host in hosts {
        if !distinct.contains(host) {
            distinct.push(host.clone());
        }
    }
    distinct
}
