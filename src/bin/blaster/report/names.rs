//! The names among the targets, in the report.

use serde::{Deserialize, Serialize};

/// A name among the targets, and its addresses when it was looked up, which was once, before anything was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct NamedHost {
    pub(crate) name: String,
    /// Those that are targets.
    pub(crate) addresses: Vec<String>,
    /// Its other addresses, to which nothing was sent.
    pub(crate) left_out: Vec<LeftOutAddress>,
}

/// An address of a name that is no target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct LeftOutAddress {
    pub(crate) address: String,
    pub(crate) reason: LeftOutReason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub(crate) enum LeftOutReason {
    /// It is not of the family of `--source`.
    OtherFamily,
    /// This host has no route to it.
    NoRoute,
}

impl NamedHost {
    /// `localhost is 127.0.0.1 and ::1`.
    pub(crate) fn words(&self) -> String {
        let mut words = vec![format!("{} is {}", self.name, list(self.addresses.iter().map(String::as_str)))];
        for (reason, why) in [
            (LeftOutReason::OtherFamily, "of another family than --source"),
            (LeftOutReason::NoRoute, "this host has no route there"),
        ] {
            let left_out = self.left_out.iter().filter(|left_out| left_out.reason == reason);
            let addresses: Vec<&str> = left_out.map(|left_out| left_out.address.as_str()).collect();
            if !addresses.is_empty() {
                words.push(format!("without {} ({why})", list(addresses.into_iter())));
            }
        }
        words.join("; ")
    }

    /// Each name once, with all its addresses: several machines may have got different ones.
    pub(crate) fn merged<'a>(parts: impl Iterator<Item = &'a Self>) -> Vec<Self> {
        let mut merged: Vec<Self> = Vec::new();
        for part in parts {
            match merged.iter_mut().find(|known| known.name == part.name) {
                Some(known) => known.add(part),
                None => merged.push(part.clone()),
            }
        }
        merged
    }

    fn add(&mut self, other: &Self) {
        for address in &other.addresses {
            if !self.addresses.contains(address) {
                self.addresses.push(address.clone());
            }
        }
        for left_out in &other.left_out {
            if !self.left_out.contains(left_out) {
                self.left_out.push(left_out.clone());
            }
        }
        // one machine at least sent there
        self.left_out.retain(|left_out| !self.addresses.contains(&left_out.address));
    }
}

/// `a, b and c`.
fn list<'a>(items: impl DoubleEndedIterator<Item = &'a str>) -> String {
    let mut items = items;
    let Some(last) = items.next_back() else { return "nothing".into() };
    let before: Vec<&str> = items.collect();
    if before.is_empty() { last.into() } else { format!("{} and {last}", before.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(addresses: &[&str], left_out: &[(&str, LeftOutReason)]) -> NamedHost {
        NamedHost {
            name: "a.example".into(),
            addresses: addresses.iter().map(ToString::to_string).collect(),
            left_out: left_out
                .iter()
                .map(|(address, reason)| LeftOutAddress { address: address.to_string(), reason: *reason })
                .collect(),
        }
    }

    #[test]
    fn all_addresses_are_told() {
        use LeftOutReason::{NoRoute, OtherFamily};
        for (addresses, left_out, words) in [
            (vec!["::1"], vec![], "a.example is ::1"),
            (vec!["1.2.3.4", "::1"], vec![], "a.example is 1.2.3.4 and ::1"),
            (
                vec!["1.2.3.4", "1.2.3.5", "::1"],
                vec![("::2", OtherFamily), ("::3", NoRoute), ("::4", OtherFamily)],
                "a.example is 1.2.3.4, 1.2.3.5 and ::1; without ::2 and ::4 (of another family than --source); without \
                 ::3 (this host has no route there)",
            ),
        ] {
            assert_eq!(host(&addresses, &left_out).words(), words);
        }
    }

    #[test]
    fn machines_that_got_different_addresses_are_told_together() {
        use LeftOutReason::NoRoute;
        let parts =
            [host(&["1.2.3.4"], &[("::1", NoRoute), ("::2", NoRoute)]), host(&["1.2.3.5", "::1"], &[])];
        let merged = NamedHost::merged(parts.iter());
        assert_eq!(merged, [host(&["1.2.3.4", "1.2.3.5", "::1"], &[("::2", NoRoute)])]);
    }
}
