//! `--flow-label`: the flow labels of IPv6 (RFC 6437).

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use rand::RngExt;

use crate::model::draw;

/// The largest label: it has 20 bits.
const LABEL_MAX: u32 = 0xf_ffff;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no flow label: say random, or a number from 0 to {LABEL_MAX:#x} (0: none)")]
pub(crate) struct FlowLabelError(String);

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlowLabel {
    /// Each flow or connection has a label of its own.
    Random,
    /// All have this label; 0: none.
    Fixed(u32),
}

/// The labels of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlowLabels {
    first: u32,
    /// Has no factor in common with the number of all labels, so that they come again only after all of them.
    step: u32,
}

impl FlowLabel {
    /// The labels of a run; `None` if they are to be left to the kernel, or if there are to be none.
    pub(crate) fn labels(self, seed: u64) -> Option<FlowLabels> {
        match self {
            Self::Fixed(0) => None,
            Self::Fixed(label) => Some(FlowLabels { first: label, step: 0 }),
            Self::Random => {
                let mut rng = draw::rng(seed, u32::MAX, u64::MAX - 2);
                let first = rng.random_range(1..=LABEL_MAX);
                let step = loop {
                    let drawn = rng.random_range(1..LABEL_MAX);
                    // the factors of 2^20 - 1
                    if [3, 5, 11, 31, 41].iter().all(|factor| drawn % factor != 0) {
                        break drawn;
                    }
                };
                Some(FlowLabels { first, step })
            }
        }
    }
}

impl FlowLabels {
    /// The label of flow or connection `nth`, never 0.
    fn of(self, nth: u64) -> u32 {
        let steps = nth % u64::from(LABEL_MAX) * u64::from(self.step);
        ((u64::from(self.first) - 1 + steps) % u64::from(LABEL_MAX)) as u32 + 1
    }

    /// The label of flow or connection `nth` in the address that it sends to.
    pub(crate) fn put_on(self, addr: SocketAddr, nth: u64) -> SocketAddr {
        with_flow_info(addr, self.of(nth).to_be())
    }
}

/// The same address with this `sin6_flowinfo`, which is in the order of the network. An address of IPv4 has none.
pub(crate) fn with_flow_info(addr: SocketAddr, flow_info: u32) -> SocketAddr {
    match addr {
        SocketAddr::V6(mut addr) => {
            addr.set_flowinfo(flow_info);
            addr.into()
        }
        SocketAddr::V4(_) => addr,
    }
}

/// Decimal, or hexadecimal as tcpdump(8) and `ip -6 rule` show it.
impl FromStr for FlowLabel {
    type Err = FlowLabelError;

    fn from_str(text: &str) -> Result<Self, FlowLabelError> {
        if text == "random" {
            return Ok(Self::Random);
        }
        let number = match text.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16),
            None => text.parse(),
        };
        let label = number.ok().filter(|label| *label <= LABEL_MAX);
        label.map(Self::Fixed).ok_or_else(|| FlowLabelError(text.into()))
    }
}

impl fmt::Display for FlowLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Random => f.write_str("random"),
            Self::Fixed(label) => write!(f, "{label:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn labels_are_random_or_a_number() {
        for (text, shown) in [("random", "random"), ("0", "0x0"), ("7", "0x7"), ("0xfffff", "0xfffff")] {
            assert_eq!(text.parse::<FlowLabel>().unwrap().to_string(), shown);
        }
        for text in ["", "Random", "-1", "0x", "0x100000", "1048576", "7.0"] {
            assert!(text.parse::<FlowLabel>().is_err(), "{text}");
        }
    }

    #[test]
    fn each_of_a_million_flows_has_its_own() {
        for seed in 0..3 {
            let labels = FlowLabel::Random.labels(seed).unwrap();
            let all: BTreeSet<u32> = (0..u64::from(LABEL_MAX)).map(|nth| labels.of(nth)).collect();
            assert_eq!((all.len() as u32, all.first(), all.last()), (LABEL_MAX, Some(&1), Some(&LABEL_MAX)));
            assert_eq!(labels.of(u64::from(LABEL_MAX)), labels.of(0));
        }
        let of = |seed| (0..9).map(|nth| FlowLabel::Random.labels(seed).unwrap().of(nth)).collect::<Vec<_>>();
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
        let fixed = FlowLabel::Fixed(0x12345).labels(7).unwrap();
        assert!((0..99).all(|nth| fixed.of(nth) == 0x12345));
        assert!(FlowLabel::Fixed(0).labels(7).is_none());
    }

    #[test]
    fn a_label_is_in_the_address_of_ipv6_alone() {
        let labels = FlowLabel::Fixed(0x12345).labels(0).unwrap();
        let v6: SocketAddr = "[fe80::1%3]:7".parse().unwrap();
        let labelled = labels.put_on(v6, 0);
        assert_ne!(labelled, v6);
        assert_eq!(with_flow_info(labelled, 0), v6);
        let SocketAddr::V6(labelled) = labelled else { unreachable!() };
        assert_eq!((labelled.flowinfo().to_ne_bytes(), labelled.scope_id()), ([0, 1, 0x23, 0x45], 3));
        let v4 = "127.0.0.1:7".parse().unwrap();
        assert_eq!(labels.put_on(v4, 0), v4);
    }
}
