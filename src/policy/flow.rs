//! The flow of a datagram, and hashes of addresses under a secret key.

use std::net::SocketAddr;

use crate::kernel::sys;

/// A UDP flow: its replies go to `peer` and leave from `origdst`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The sender of the datagram, with its scope.
    pub peer: SocketAddr,
    /// The address and port that the datagram was sent to.
    pub origdst: SocketAddr,
}

impl Flow {
    /// A hash under `key` that spreads flows evenly over its low bits. An attacker who knew the key could keep the datagrams
    /// of a flow from forming trains, and do no other harm.
    pub fn hash(&self, key: &HashKey) -> u32 {
        let HashKey([first, second, third, fourth, fifth]) = *key;
        let (peer, origdst) = (Address::from(self.peer), Address::from(self.origdst));
        let from = multiply(peer.high ^ first, peer.low ^ second);
        let to = multiply(origdst.high ^ third, origdst.low ^ fourth);
        let rest = peer.port_and_family << 32 | origdst.port_and_family;
        stir(multiply(from ^ to ^ first, rest ^ fifth) ^ second) as u32
    }
}

/// An address and port in three words, without the scope: two of them are the same exactly when these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// The first half of an IPv6 address; of IPv4 nothing.
    pub high: u64,
    /// The second half, or the IPv4 address.
    pub low: u64,
    /// The port, and above it the family.
    pub port_and_family: u64,
}

impl From<SocketAddr> for Address {
    fn from(addr: SocketAddr) -> Self {
        const V6: u64 = 1 << 16;
        match addr {
            SocketAddr::V4(addr) => {
                Self { high: 0, low: addr.ip().to_bits().into(), port_and_family: addr.port().into() }
            }
            SocketAddr::V6(addr) => {
                let bits = addr.ip().to_bits();
                let port_and_family = u64::from(addr.port()) | V6;
                Self { high: (bits >> 64) as u64, low: bits as u64, port_and_family }
            }
        }
    }
}

/// The secret key that addresses are hashed under, drawn at the start, so that nobody outside can know or choose which
/// addresses collide. Each part of an address is mixed with a part of the key before it is mixed with another part.
///
/// Collisions are still possible, so each table has to handle them. Where a wrong match would matter, the addresses
/// themselves are compared.
#[derive(Clone, Copy, Debug)]
pub struct HashKey([u64; 5]);

impl HashKey {
    /// A new key; in a simulation one that its seed determines, so that the seed gives the same run again.
    pub fn draw() -> Self {
        Self(sys::secret_words())
    }

    /// The hash of an address and port.
    pub fn of(&self, addr: &Address) -> u64 {
        let Self([first, second, third, fourth, fifth]) = *self;
        let ip = multiply(addr.high ^ first, addr.low ^ second);
        stir(multiply(ip ^ third, addr.port_and_family ^ fourth) ^ fifth)
    }

    /// The hash of a word.
    pub fn of_word(&self, word: u64) -> u64 {
        let Self([first, second, third, ..]) = *self;
        stir(multiply(word ^ first, second) ^ third)
    }
}

/// Spreads neighbours: ports often are, and the products of neighbours with the same number are neighbours, too.
fn stir(value: u64) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15; // 2^64 / golden ratio
    multiply(value, ODD)
}

/// The two halves of the product, combined by XOR.
fn multiply(one: u64, other: u64) -> u64 {
    let product = u128::from(one) * u128::from(other);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::IpAddr;

    use super::*;

    impl HashKey {
        /// A key that is the same each time.
        pub(crate) fn numbered(number: u64) -> Self {
            let mut state = number;
            Self([(); 5].map(|()| {
                state = stir(state.wrapping_add(0x0123_4567_89ab_cdef));
                state
            }))
        }

        /// A key under which all IPv4 addresses have the same hash.
        pub(crate) fn blind() -> Self {
            Self([0; 5])
        }
    }

    #[test]
    fn flows_spread_over_a_small_table() {
        let key = HashKey::numbered(1);
        for dst in ["127.0.0.1:1234", "[::1]:1234"] {
            let origdst: SocketAddr = dst.parse().unwrap();
            let mut used = std::collections::HashSet::new();
            for port in 0..256 {
                let peer = SocketAddr::new(origdst.ip(), 40_000 + port);
                used.insert(Flow { peer, origdst }.hash(&key) % 256);
            }
            // 256 balls in 256 bins fill 162 of them when thrown at random, and fewer than 120 hardly ever
            assert!(used.len() > 120, "{} bins for {dst}", used.len());
        }
    }

    #[test]
    fn an_address_is_three_words() {
        let words = |addr: &str| Address::from(addr.parse::<SocketAddr>().unwrap());
        let v4 = Address { high: 0, low: 0xc000_024d, port_and_family: 1234 };
        assert_eq!(words("192.0.2.77:1234"), v4);
        let v6 =
            Address { high: 0x2001_0db8_0001_0002, low: 0x0003_0004_0005_0006, port_and_family: 0x104d2 };
        assert_eq!(words("[2001:db8:1:2:3:4:5:6]:1234"), v6);
    }

    /// IPv6 addresses and ports that differ from this one in a bit.
    fn neighbours(addr: SocketAddr) -> impl Iterator<Item = SocketAddr> {
        let IpAddr::V6(ip) = addr.ip() else { panic!("{addr} is not IPv6") };
        let ips = (0..128)
            .map(move |bit| SocketAddr::new((ip.to_bits() ^ 1 << bit).to_be_bytes().into(), addr.port()));
        ips.chain((0..16).map(move |bit| SocketAddr::new(addr.ip(), addr.port() ^ 1 << bit)))
    }

    #[test]
    fn each_bit_of_an_address_counts_under_each_key() {
        let addr: SocketAddr = "[2001:db8:1:2:3:4:5:6]:1234".parse().unwrap();
        let other: SocketAddr = "[2001:db8::9]:40000".parse().unwrap();
        for key in (0..20).map(HashKey::numbered) {
            let hash = |peer, origdst| Flow { peer, origdst }.hash(&key);
            for near in neighbours(addr) {
                assert_ne!(hash(near, other), hash(addr, other), "{near} as the peer");
                assert_ne!(hash(other, near), hash(other, addr), "{near} as the destination");
                assert_ne!(key.of(&near.into()), key.of(&addr.into()), "{near}");
            }
            for bit in 0..64 {
                assert_ne!(key.of_word(addr.port().into()), key.of_word(u64::from(addr.port()) ^ 1 << bit));
            }
        }
    }

    /// Other values are as good if they spread as well: `ci/bench` and the tests above tell. A slip of the pen is seen
    /// here.
    #[test]
    fn hashes_are_what_they_were_measured_with() {
        let (peer, origdst) = ("[2001:db8::9]:40000".parse().unwrap(), "[2001:db8::7]:1234".parse().unwrap());
        let key = HashKey::numbered(1);
        let hashes = (Flow { peer, origdst }.hash(&key), key.of(&peer.into()), key.of_word(7));
        assert_eq!(hashes, (0x5e35_db87, 0x0c8b_fa5a_e5bb_9180, 0x8f4a_1e8b_4d70_ae38));
    }

    const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

    fn mix(value: u64) -> u64 {
        let product = value.wrapping_mul(MIX);
        product ^ product >> 32
    }

    /// IPv6 addresses that a hash can't tell from `victim` that folds them before it mixes its key in.
    pub(crate) fn alike(victim: IpAddr, count: u64) -> impl Iterator<Item = IpAddr> {
        let folded = match victim {
            IpAddr::V4(ip) => u64::from(u32::from(ip)),
            IpAddr::V6(ip) => mix((u128::from(ip) >> 64) as u64) ^ u128::from(ip) as u64,
        };
        let high = 0x2001_0db8_u64 << 32;
        (high..high + count)
            .map(move |high| (u128::from(high) << 64 | u128::from(mix(high) ^ folded)).to_be_bytes().into())
    }

    /// The IPv6 network of 64 bits that is like this IPv4 address.
    pub(crate) fn network_alike(victim: std::net::Ipv4Addr) -> std::net::Ipv6Addr {
        let folded = u64::from(victim.to_bits());
        // the multiplier's inverse, by Newton's method: each step doubles the bits that are right
        let inverse = (0..6)
            .fold(1_u64, |inverse, _| inverse.wrapping_mul(2_u64.wrapping_sub(MIX.wrapping_mul(inverse))));
        let high = (folded ^ folded >> 32).wrapping_mul(inverse);
        assert_eq!(mix(high), folded);
        (u128::from(high) << 64).into()
    }

    pub(crate) const VICTIMS: [&str; 3] = ["127.0.0.1", "192.0.2.77", "2001:db8:1::9"];

    #[test]
    fn addresses_alike_once_folded_are_told_apart() {
        let key = HashKey::draw();
        for victim in VICTIMS.map(|victim| victim.parse::<IpAddr>().unwrap()) {
            let pair = |ip| Address::from(SocketAddr::new(ip, 5000));
            let hashes: std::collections::HashSet<_> =
                alike(victim, 1000).chain([victim]).map(|ip| key.of(&pair(ip))).collect();
            assert_eq!(hashes.len(), 1001, "{victim}");
        }
        let mapped =
            ["[::192.0.2.77]:5000", "192.0.2.77:5000"].map(|addr| addr.parse::<SocketAddr>().unwrap());
        assert_ne!(key.of(&mapped[0].into()), key.of(&mapped[1].into()), "the family counts");
    }

    #[test]
    fn a_place_is_nobodys_to_choose() {
        for victim in VICTIMS.map(|victim| victim.parse::<IpAddr>().unwrap()) {
            let key = HashKey::numbered(2);
            let origdst = "127.0.0.1:1234".parse().unwrap();
            let place = |ip| Flow { peer: SocketAddr::new(ip, 5000), origdst }.hash(&key) % 256;
            let met = alike(victim, 256).filter(|ip| place(*ip) == place(victim)).count();
            assert!(met < 20, "{met} of 256 flows in the victim's place, where chance puts one");
        }
    }
}
