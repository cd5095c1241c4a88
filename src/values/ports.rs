//! Sets of ports, as people and the kernel write them: `5353,8000-8099`.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

const WORD_BITS: usize = u64::BITS as usize;

/// A set of ports.
#[derive(Clone, PartialEq, Eq)]
pub struct Ports(Box<[u64; (1 << 16) / WORD_BITS]>);

impl Default for Ports {
    fn default() -> Self {
        Self(Box::new([0; _]))
    }
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries((0..=u16::MAX).filter(|port| self.contains(*port))).finish()
    }
}

impl Ports {
    /// Whether the set contains `port`.
    #[inline]
    pub fn contains(&self, port: u16) -> bool {
        let port = usize::from(port);
        self.0[port / WORD_BITS] >> (port % WORD_BITS) & 1 != 0
    }

    /// Adds a range of ports.
    pub fn insert(&mut self, ports: RangeInclusive<u16>) {
        for port in ports.map(usize::from) {
            self.0[port / WORD_BITS] |= 1 << (port % WORD_BITS);
        }
    }

    /// Adds all ports of another set.
    pub fn extend(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0.iter()).for_each(|(word, more)| *word |= more);
    }
}

/// The text is not a list of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is neither a port (1-65535) nor a range of them, as in 5353,8000-8099")]
pub struct NoPorts(String);

impl FromStr for Ports {
    type Err = NoPorts;

    /// Reads ports and ranges, separated by commas. An empty text is the empty set.
    fn from_str(text: &str) -> Result<Self, NoPorts> {
        let mut ports = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
                (Ok(first), Ok(last)) if 0 < first && first <= last => ports.insert(first..=last),
                _ => return Err(NoPorts(part.into())),
            }
        }
        Ok(ports)
    }
}

/// The ports that no reply socket may bind, as `--reply-ports-except` gives them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortsExcept {
    /// Include the ports that the system reserves (`net.ipv4.ip_local_reserved_ports`).
    pub reserved: bool,
    /// Ports that are named by number.
    pub ports: Ports,
}

impl PortsExcept {
    /// All excepted ports, if the system reserves `reserved`.
    pub fn with(&self, reserved: &Ports) -> Ports {
        let mut ports = self.ports.clone();
        if self.reserved {
            ports.extend(reserved);
        }
        ports
    }
}

impl FromStr for PortsExcept {
    type Err = NoPorts;

    /// Reads ports and ranges. The word `reserved` stands for the ports that the system reserves, `none` for no port.
    fn from_str(text: &str) -> Result<Self, NoPorts> {
        let words = || text.split(',').map(str::trim);
        let named: Vec<&str> = words().filter(|word| !matches!(*word, "reserved" | "none")).collect();
        Ok(Self { reserved: words().any(|word| word == "reserved"), ports: named.join(",").parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_ranges_are_named_as_the_kernel_names_them() {
        let ports: Ports = "5353, 8000-8002,1,65535\n".parse().unwrap();
        let found: Vec<u16> = (0..=u16::MAX).filter(|port| ports.contains(*port)).collect();
        assert_eq!(found, [1, 5353, 8000, 8001, 8002, 65_535]);
        assert_eq!("\n".parse::<Ports>(), Ok(Ports::default()), "nothing is reserved");
        for wrong in ["0", "65536", "7-5", "5-", "-5", "x", "5 6", "1-2-3"] {
            assert_eq!(wrong.parse::<Ports>(), Err(NoPorts(wrong.into())));
        }
    }

    #[test]
    fn the_systems_ports_are_a_word() {
        let of = |text: &str| {
            let except: PortsExcept = text.parse().unwrap();
            let ports = except.with(&"7".parse().unwrap());
            (ports.contains(7), ports.contains(5353))
        };
        assert_eq!(of("reserved"), (true, false));
        assert_eq!(of("reserved,5353"), (true, true));
        assert_eq!(of("5353"), (false, true));
        assert_eq!(of("none"), (false, false));
        assert!("reserve".parse::<PortsExcept>().is_err());
    }
}
