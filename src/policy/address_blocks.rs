//! Which addresses are public. The server warns when it serves one, and blaster loads one only with `--allow-public`.
//!
//! The rows are IANA's special-purpose address registries (RFC 6890, RFC 8190; as of November 2026), with multicast and
//! site-local addresses added. The most specific row decides. An address that no row covers is public.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How far the addresses of a block reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// A host on the Internet. If the registry gives no answer, the block counts as public.
    Public,
    /// Only a host on the same machine, link, site or network ("globally reachable: false").
    Local,
    /// No single host: none, or many.
    NoHost,
}

/// A block of addresses.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// The first address.
    pub first: IpAddr,
    /// The length of the prefix.
    pub prefix_len: u8,
    /// How far its addresses reach.
    pub reach: Reach,
    /// The purpose of the block.
    pub name: &'static str,
    /// The document that defines it.
    pub rfc: &'static str,
    /// The bits of `first`, aligned to the left.
    bits: u128,
}

const fn v4(octets: [u8; 4], prefix_len: u8, reach: Reach, name: &'static str, rfc: &'static str) -> Block {
    let [a, b, c, d] = octets;
    let ip = Ipv4Addr::new(a, b, c, d);
    Block { first: IpAddr::V4(ip), prefix_len, reach, name, rfc, bits: (ip.to_bits() as u128) << 96 }
}

const fn v6(
    segments: [u16; 8],
    prefix_len: u8,
    reach: Reach,
    name: &'static str,
    rfc: &'static str,
) -> Block {
    let (mut bits, mut at) = (0, 0);
    while at < segments.len() {
        bits = (bits << 16) | segments[at] as u128;
        at += 1;
    }
    Block { first: IpAddr::V6(Ipv6Addr::from_bits(bits)), prefix_len, reach, name, rfc, bits }
}

/// The IPv4 blocks in ascending order, each before the blocks inside it.
#[rustfmt::skip]
pub const IPV4: [Block; 22] = [
    v4([0, 0, 0, 0], 8, Reach::NoHost, "unspecified", "RFC 791"),
    v4([10, 0, 0, 0], 8, Reach::Local, "private", "RFC 1918"),
    v4([100, 64, 0, 0], 10, Reach::Local, "shared by a provider's customers", "RFC 6598"),
    v4([127, 0, 0, 0], 8, Reach::Local, "loopback", "RFC 1122"),
    v4([169, 254, 0, 0], 16, Reach::Local, "link-local", "RFC 3927"),
    v4([172, 16, 0, 0], 12, Reach::Local, "private", "RFC 1918"),
    v4([192, 0, 0, 0], 24, Reach::Local, "protocol assignments", "RFC 6890"),
    v4([192, 0, 0, 9], 32, Reach::Public, "Port Control Protocol, anycast", "RFC 7723"),
    v4([192, 0, 0, 10], 32, Reach::Public, "TURN, anycast", "RFC 8155"),
    v4([192, 0, 2, 0], 24, Reach::Local, "documentation", "RFC 5737"),
    v4([192, 31, 196, 0], 24, Reach::Public, "AS112", "RFC 7535"),
    v4([192, 52, 193, 0], 24, Reach::Public, "AMT", "RFC 7450"),
    // the block was withdrawn, and the registry gives no answer any more
    v4([192, 88, 99, 0], 24, Reach::Public, "6to4 relays, deprecated", "RFC 7526"),
    v4([192, 88, 99, 2], 32, Reach::Local, "6a44 relays", "RFC 6751"),
    v4([192, 168, 0, 0], 16, Reach::Local, "private", "RFC 1918"),
    v4([192, 175, 48, 0], 24, Reach::Public, "AS112, direct delegation", "RFC 7534"),
    v4([198, 18, 0, 0], 15, Reach::Local, "benchmarking", "RFC 2544"),
    v4([198, 51, 100, 0], 24, Reach::Local, "documentation", "RFC 5737"),
    v4([203, 0, 113, 0], 24, Reach::Local, "documentation", "RFC 5737"),
    v4([224, 0, 0, 0], 4, Reach::NoHost, "multicast", "RFC 5771"),
    v4([240, 0, 0, 0], 4, Reach::Local, "reserved", "RFC 1112"),
    v4([255, 255, 255, 255], 32, Reach::NoHost, "broadcast", "RFC 8190"),
];

/// The IPv6 blocks, in the same order.
#[rustfmt::skip]
pub const IPV6: [Block; 27] = [
    v6([0, 0, 0, 0, 0, 0, 0, 0], 128, Reach::NoHost, "unspecified", "RFC 4291"),
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128, Reach::Local, "loopback", "RFC 4291"),
    v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96, Reach::NoHost, "IPv4-mapped", "RFC 4291"),
    // public whatever IPv4 address is embedded: RFC 6052 forbids addresses that are not public
    v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96, Reach::Public, "NAT64", "RFC 6052"),
    v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, Reach::Local, "NAT64 of a network's own", "RFC 8215"),
    v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64, Reach::Local, "discard-only", "RFC 6666"),
    v6([0x100, 0, 0, 1, 0, 0, 0, 0], 64, Reach::Local, "dummy", "RFC 9780"),
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, Reach::Local, "protocol assignments", "RFC 2928"),
    // the registry gives no answer, because the embedded IPv4 address decides, as in 6to4
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, Reach::Public, "Teredo", "RFC 4380"),
    v6([0x2001, 1, 0, 0, 0, 0, 0, 1], 128, Reach::Public, "Port Control Protocol, anycast", "RFC 7723"),
    v6([0x2001, 1, 0, 0, 0, 0, 0, 2], 128, Reach::Public, "TURN, anycast", "RFC 8155"),
    v6([0x2001, 1, 0, 0, 0, 0, 0, 3], 128, Reach::Public, "DNS-SD registration, anycast", "RFC 9665"),
    v6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48, Reach::Local, "benchmarking", "RFC 5180"),
    v6([0x2001, 3, 0, 0, 0, 0, 0, 0], 32, Reach::Public, "AMT", "RFC 7450"),
    v6([0x2001, 4, 0x112, 0, 0, 0, 0, 0], 48, Reach::Public, "AS112", "RFC 7535"),
    v6([0x2001, 0x10, 0, 0, 0, 0, 0, 0], 28, Reach::Local, "ORCHID, deprecated", "RFC 4843"),
    v6([0x2001, 0x20, 0, 0, 0, 0, 0, 0], 28, Reach::Public, "ORCHIDv2", "RFC 7343"),
    v6([0x2001, 0x30, 0, 0, 0, 0, 0, 0], 28, Reach::Public, "drones' remote identification", "RFC 9374"),
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, Reach::Local, "documentation", "RFC 3849"),
    v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, Reach::Public, "6to4", "RFC 3056"),
    v6([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0], 48, Reach::Public, "AS112, direct delegation", "RFC 7534"),
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, Reach::Local, "documentation", "RFC 9637"),
    v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16, Reach::Local, "segment routing", "RFC 9602"),
    v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, Reach::Local, "unique-local", "RFC 4193"),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, Reach::Local, "link-local", "RFC 4291"),
    // deprecated, but some networks still use it for its original purpose
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, Reach::Local, "site-local, deprecated", "RFC 3879"),
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, Reach::NoHost, "multicast", "RFC 4291"),
];

impl Block {
    const fn mask(prefix_len: u8) -> u128 {
        // no row has a prefix of length 0
        u128::MAX << (128 - prefix_len as u32)
    }

    const fn covers(&self, bits: u128) -> bool {
        bits & Self::mask(self.prefix_len) == self.bits
    }
}

/// The decision for all addresses with the same first byte.
#[derive(Clone, Copy)]
enum ByFirstByte {
    /// All of them have this reach.
    All(Reach),
    /// The rows from the first number up to the second one decide. An address that none of them covers is public.
    Rows(u8, u8),
}

/// Makes the lookup of most addresses a single table access: the server looks up each datagram's addresses.
const V4_BY_FIRST_BYTE: [ByFirstByte; 256] = by_first_byte(&IPV4);
const V6_BY_FIRST_BYTE: [ByFirstByte; 256] = by_first_byte(&IPV6);

const fn by_first_byte(rows: &[Block]) -> [ByFirstByte; 256] {
    let mut table = [ByFirstByte::All(Reach::Public); 256];
    let mut byte = 0;
    while byte < 256 {
        let first = (byte as u128) << 120;
        let last = first | (u128::MAX >> 8);
        let (mut from, mut to, mut decided, mut is_mixed) = (rows.len(), 0, Reach::Public, false);
        let mut at = 0;
        while at < rows.len() {
            let row = &rows[at];
            let whole = row.covers(first) && row.covers(last);
            if whole {
                decided = row.reach;
            }
            if whole || (row.bits >= first && row.bits <= last) {
                if from > at {
                    from = at;
                }
                to = at + 1;
                is_mixed |= !whole && !matches_reach(row.reach, decided);
            }
            at += 1;
        }
        table[byte] =
            if is_mixed { ByFirstByte::Rows(from as u8, to as u8) } else { ByFirstByte::All(decided) };
        byte += 1;
    }
    table
}

const fn matches_reach(a: Reach, b: Reach) -> bool {
    a as u8 == b as u8
}

/// How far `ip` reaches.
pub fn reach(ip: IpAddr) -> Reach {
    let (bits, rows, by_first_byte) = match ip {
        IpAddr::V4(ip) => (u128::from(ip.to_bits()) << 96, &IPV4[..], &V4_BY_FIRST_BYTE),
        IpAddr::V6(ip) => (ip.to_bits(), &IPV6[..], &V6_BY_FIRST_BYTE),
    };
    match by_first_byte[(bits >> 120) as usize] {
        ByFirstByte::All(reach) => reach,
        ByFirstByte::Rows(from, to) => {
            let rows = rows[usize::from(from)..usize::from(to)].iter();
            // if several rows cover an address, the later ones are inside the earlier ones, so the last one decides
            rows.rev().find(|row| row.covers(bits)).map_or(Reach::Public, |row| row.reach)
        }
    }
}

/// Whether an address is reachable on the Internet.
pub fn is_public(ip: IpAddr) -> bool {
    reach(ip) == Reach::Public
}

/// The blocks that decide about the prefix at `first`: the smallest block that contains all of it, and the blocks inside
/// it. `None` instead of the first: no block contains the prefix, so it is public outside the blocks inside it.
pub fn blocks_of(
    first: IpAddr,
    prefix_len: u8,
) -> (Option<&'static Block>, impl Iterator<Item = &'static Block>) {
    let (bits, rows) = match first {
        IpAddr::V4(ip) => (u128::from(ip.to_bits()) << 96, &IPV4[..]),
        IpAddr::V6(ip) => (ip.to_bits(), &IPV6[..]),
    };
    let around = rows.iter().rev().find(|row| row.prefix_len <= prefix_len && row.covers(bits));
    let mask = if prefix_len == 0 { 0 } else { Block::mask(prefix_len) };
    (around, rows.iter().filter(move |row| row.prefix_len > prefix_len && row.bits & mask == bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_rows_are_in_order_and_without_host_bits() {
        for rows in [&IPV4[..], &IPV6[..]] {
            assert!(rows.is_sorted_by_key(|row| (row.bits, row.prefix_len)));
            for row in rows {
                assert!(row.covers(row.bits), "{}/{}", row.first, row.prefix_len);
                assert!(row.rfc.starts_with("RFC "), "{}", row.first);
            }
        }
    }

    /// The table and the rows give the same answer at both ends of each block and next to them.
    #[test]
    fn the_table_by_first_byte_agrees_with_the_rows() {
        for rows in [&IPV4[..], &IPV6[..]] {
            let wide = if rows[0].first.is_ipv4() { 32 } else { 128 };
            let plain = |bits: u128| {
                rows.iter().rev().find(|row| row.covers(bits)).map_or(Reach::Public, |row| row.reach)
            };
            let one = 1_u128 << (128 - wide);
            let edges = rows.iter().flat_map(|row| {
                let last = row.bits | !Block::mask(row.prefix_len);
                [row.bits, row.bits.wrapping_sub(one), last, last.wrapping_add(one)]
            });
            for bits in edges.chain((0..256).flat_map(|byte| [byte << 120, (byte << 120) | (u128::MAX >> 8)]))
            {
                let ip = match wide {
                    32 => Ipv4Addr::from_bits((bits >> 96) as u32).into(),
                    _ => IpAddr::V6(Ipv6Addr::from_bits(bits)),
                };
                let bits = if wide == 32 { bits >> 96 << 96 } else { bits };
                assert_eq!(reach(ip), plain(bits), "{ip}");
            }
        }
    }

    #[test]
    fn a_public_address_is_one_of_the_internet() {
        let special = "127.0.0.1 127.128.9.9 10.1.2.3 172.16.0.1 172.31.255.255 192.168.1.1 169.254.1.1 100.64.0.1 \
                       100.127.255.255 192.0.0.1 192.0.0.8 192.0.0.170 192.0.0.171 192.0.2.1 192.88.99.2 198.51.100.1 \
                       203.0.113.9 198.18.0.1 198.19.255.255 0.0.0.0 224.0.0.1 255.255.255.255 240.0.0.1 \
                       ::1 :: fe80::1 fd00::1 ff02::1 2001:db8::1 ::ffff:1.1.1.1 64:ff9b:1::1 64:ff9b:1:ffff::1 \
                       3fff::1 3fff:fff::1 2001:2::1 2001:10::1 2001:5::1 100::1 100:0:0:1::1 5f00::1";
        for text in special.split_whitespace() {
            assert!(!is_public(ip(text)), "{text}");
        }
        let public = "1.1.1.1 172.15.0.1 172.32.0.1 100.63.0.1 100.128.0.1 192.0.1.1 192.0.0.9 192.0.0.10 192.31.196.1 \
                      192.52.193.1 192.88.99.1 192.175.48.1 198.17.0.1 198.20.0.1 223.255.255.1 2606::1 64:ff9b::1 \
                      64:ff9b::10.0.0.1 2001::1 2001:1::1 2001:1::2 2001:1::3 2001:3::1 2001:4:112::1 2001:20::1 \
                      2001:30::1 2001:200::1 2001:4860::1 2002::1 2620:4f:8000::1 3fff:1000::1 4000::1";
        for text in public.split_whitespace() {
            assert!(is_public(ip(text)), "{text}");
        }
    }

    #[test]
    fn a_prefix_is_decided_by_what_holds_it_and_by_what_is_inside() {
        let of = |text: &str, prefix_len| {
            let (around, inside) = blocks_of(ip(text), prefix_len);
            (around.map(|block| block.name), inside.count())
        };
        assert_eq!(of("192.0.2.128", 25), (Some("documentation"), 0));
        assert_eq!(of("192.0.0.0", 24), (Some("protocol assignments"), 2));
        assert_eq!(of("192.0.0.9", 32), (Some("Port Control Protocol, anycast"), 0));
        assert_eq!(of("1.0.0.0", 8), (None, 0));
        assert_eq!(of("0.0.0.0", 0), (None, IPV4.len()));
        assert_eq!(of("2001:db8::", 32), (Some("documentation"), 0));
        assert_eq!(of("::", 0), (None, IPV6.len()));
    }
}
