//! blaster's targets: drawn addresses are inside the target, and none of them is forbidden.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::model::target::Target;

/// Takes any text as a target.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(target) = text.parse::<Target>() else { return };
    let shown = target.to_string();
    assert_eq!(shown.parse().as_ref(), Ok(&target), "{text:?}, shown as {shown:?}");

    let (ip, prefix_len, ports) = read(&shown);
    assert_eq!(target.is_ipv4(), ip.is_ipv4());
    let well_mannered = target.check_allowed(false).is_ok();
    let with_public = target.check_allowed(true).is_ok();
    assert!(with_public || !well_mannered, "a permission forbids nothing");
    let mut rng = SmallRng::seed_from_u64(data.len() as u64);
    for _ in 0..4 {
        let drawn = target.draw(&mut rng);
        assert!(ports.0 <= drawn.port() && drawn.port() <= ports.1, "{drawn} of {shown}");
        assert_eq!(
            bits(drawn.ip()).unbounded_shr(128 - prefix_len),
            bits(ip).unbounded_shr(128 - prefix_len)
        );
        assert!(!with_public || !is_never_loaded(drawn.ip()), "{drawn} of {shown}");
        assert!(!well_mannered || is_nobodys(drawn.ip()), "{drawn} of {shown}");
        if prefix_len == 128 {
            assert_eq!(with_public, !is_never_loaded(drawn.ip()), "{shown}");
            assert_eq!(well_mannered, is_nobodys(drawn.ip()) && !is_never_loaded(drawn.ip()), "{shown}");
        }
    }
}

/// The bits of an address from the top down.
fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()) << 96,
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// Reads the printed form of a target: address, bits of the prefix (128 for a single address), ports.
fn read(shown: &str) -> (IpAddr, u32, (u16, u16)) {
    let (address, ports) = shown.rsplit_once(':').unwrap();
    let address = address.trim_matches(['[', ']']);
    let (address, len) = match address.split_once('/') {
        Some((address, len)) => (address, len.parse().unwrap()),
        None => (address, 128),
    };
    let ip = address.split('%').next().unwrap().parse().unwrap();
    let ports = match ports.split_once('-') {
        _ if ports == "any" => (1024, 65_535),
        Some((low, high)) => (low.parse().unwrap(), high.parse().unwrap()),
        None => (ports.parse().unwrap(), ports.parse().unwrap()),
    };
    (ip, len, ports)
}

fn is_never_loaded(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_multicast() || ip.is_broadcast() || ip.octets()[0] == 0,
        IpAddr::V6(ip) => ip.is_multicast() || ip.is_unspecified() || ip.to_ipv4_mapped().is_some(),
    }
}

/// Whether no host on the Internet has the address.
fn is_nobodys(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_nobodys_v4(ip),
        IpAddr::V6(ip) => is_nobodys_v6(ip),
    }
}

fn is_nobodys_v4(ip: Ipv4Addr) -> bool {
    let [first, second, third, fourth] = ip.octets();
    let benchmarking = first == 198 && second & 0xfe == 18;
    let shared = first == 100 && second & 0xc0 == 64;
    let assigned = [first, second, third] == [192, 0, 0] && !matches!(fourth, 9 | 10);
    let of_networks = ip.is_loopback() || ip.is_link_local() || ip.is_private() || shared || assigned;
    of_networks || ip.is_documentation() || benchmarking || first >= 240 || ip.octets() == [192, 88, 99, 2]
}

fn is_nobodys_v6(ip: Ipv6Addr) -> bool {
    let groups = ip.segments();
    let documentation = groups[..2] == [0x2001, 0xdb8] || groups[0] == 0x3fff && groups[1] < 0x1000;
    // 2001::/23, except the parts assigned to protocols of the Internet
    let anycast = groups[1..7] == [1, 0, 0, 0, 0, 0] && matches!(groups[7], 1..=3);
    let as112 = groups[1..3] == [4, 0x112];
    let assigned = anycast || as112 || matches!(groups[1], 0 | 3 | 0x20..=0x3f);
    let protocols = groups[0] == 0x2001 && groups[1] < 0x200 && !assigned;
    let discarded = groups[..3] == [0x100, 0, 0] && groups[3] <= 1;
    let translated = groups[..3] == [0x64, 0xff9b, 1];
    let of_networks = ip.is_unicast_link_local() || ip.is_unique_local() || groups[0] & 0xffc0 == 0xfec0;
    let of_routers = discarded || translated || groups[0] == 0x5f00;
    ip.is_loopback() || of_networks || of_routers || documentation || protocols
}
