//! Path MTUs in words.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use crate::model::units::{self, count, counted};
use crate::report::mtu::{Limit, MtuLoad, MtuReport, PathMtu, ToldMtu, Tries, Way};
use crate::show::paint::Paint;
use crate::show::places;
use crate::show::text;

/// The least MTU of a link that carries IPv6 (RFC 8200), and the least packet that every link of IPv4 carries (RFC 791).
const LEAST_V6: u32 = 1280;
const LEAST_V4: u32 = 68;
/// Ports in a line.
const PORTS_SHOWN: usize = 8;

/// What a search is about to do.
pub(crate) fn announcement(paths: u64, datagrams: u64, longest: Duration) -> String {
    format!(
        "search for the MTU of {}: at most {}, {} in all",
        counted(paths, "path"),
        counted(datagrams, "datagram"),
        units::duration(longest.as_nanos() as u64)
    )
}

/// The whole report; it ends with a newline.
pub(crate) fn render(report: &MtuReport, paint: &Paint) -> String {
    let mut out = String::from("\n");
    let _ = writeln!(out, "{}", paint.head(&paint.wrap(&heading(&report.load))));
    for name in &report.load.names {
        let _ = writeln!(out, "{}", paint.wrap(&name.words()));
    }
    for group in groups(&report.paths) {
        out.push('\n');
        one_group(&group, paint, &mut out);
    }
    let sent: u64 = report.paths.iter().map(|path| u64::from(path.sent)).sum();
    let took = format!("{} in {}", counted(sent, "datagram"), units::duration(report.elapsed_ns));
    let _ = writeln!(out, "\n{}", paint.wrap(&took));
    text::ending(&report.warnings, &report.fail_if, paint, &mut out);
    out
}

fn heading(load: &MtuLoad) -> String {
    let mut words = vec![format!("mtu {}", load.targets.join(" ")), counted(load.flows.into(), "flow")];
    if load.targets.len() > 1 {
        words[1].push_str(" each");
    }
    words.extend(load.source.as_ref().map(|source| format!("from {source}")));
    words.extend(places::headers(&load.packets));
    words.push(format!("seed {}", load.seed));
    words.join(", ")
}

/// Paths to one destination with one answer, in the order of their first ones.
fn groups(paths: &[PathMtu]) -> Vec<Vec<&PathMtu>> {
    let mut groups: Vec<Vec<&PathMtu>> = Vec::new();
    for path in paths {
        let is_like = |group: &&mut Vec<&PathMtu>| {
            let first = group[0];
            (&first.destination, first.mtu, first.limit, first.settled)
                == (&path.destination, path.mtu, path.limit, path.settled)
        };
        match groups.iter_mut().find(is_like) {
            Some(group) => group.push(path),
            None => groups.push(vec![path]),
        }
    }
    groups
}

fn one_group(group: &[&PathMtu], paint: &Paint, out: &mut String) {
    let mut line = |name: &str, text: &str| {
        let line = paint.wrap(&format!("{name:<17}{text}"));
        let _ = writeln!(
            out,
            "{}{}",
            if name.starts_with(' ') { name.into() } else { paint.head(name) },
            &line[name.len()..]
        );
    };
    let first = group[0];
    let flows = format!("{} to {}", counted(group.len() as u64, "flow"), first.destination);
    let Some((mtu, bytes)) = first.mtu.zip(first.datagram_bytes) else {
        line("path MTU", &format!("unknown: {flows} got nothing back"));
        line("  reason", &reason(first));
        return;
    };
    let is_open = matches!(first.limit, Limit::Unknown | Limit::Interface);
    let least = if is_open { "at least " } else { "" };
    let (mtu, bytes) = (count(mtu.into()), count(bytes.into()));
    let text = format!("{least}{mtu} bytes, datagrams of {bytes} bytes: {flows}{}", ports(group));
    line("path MTU", &text);
    line("  limit", &limit(group));
    line("  tries", &tries(group));
    if let Some(back) = back(group) {
        line("  way back", &back);
    }
    if let Some(host) = host(first) {
        line("  this host", &host);
    }
}

/// The source ports of a group, if routers may have chosen the path by them.
fn ports(group: &[&PathMtu]) -> String {
    let all: BTreeSet<u16> = group
        .iter()
        .filter_map(|path| path.source.parse::<SocketAddr>().ok())
        .map(|addr| addr.port())
        .collect();
    let shown: Vec<String> = all.iter().take(PORTS_SHOWN).map(ToString::to_string).collect();
    let more = if all.len() > shown.len() { ", …" } else { "" };
    let ports = if all.len() == 1 { "port" } else { "ports" };
    format!(" from {ports} {}{more}", shown.join(", "))
}

/// All ICMP messages of a group that are about its limit, or all if none is.
fn told<'a>(group: &[&'a PathMtu]) -> Vec<&'a ToldMtu> {
    let mut all: Vec<&ToldMtu> = Vec::new();
    for told in group.iter().flat_map(|path| &path.told) {
        if !all.iter().any(|known| (&known.from, known.mtu) == (&told.from, told.mtu)) {
            all.push(told);
        }
    }
    all
}

fn limit(group: &[&PathMtu]) -> String {
    let first = group[0];
    let mtu = first.mtu.unwrap_or(0);
    let all = told(group);
    match first.limit {
        Limit::Interface => "this host's interface; the path behind it may carry more".into(),
        Limit::Router => {
            let from = all.iter().find(|told| told.mtu == mtu).map_or("a router", |told| &told.from);
            format!(
                "{from}, a router on the way there, says by ICMP that its next link carries {}",
                count(mtu.into())
            )
        }
        Limit::RouterWithAnotherMtu => {
            let said = all.first().map_or(String::new(), |told| {
                let mtu = if told.mtu == 0 { "no MTU".into() } else { format!("an MTU of {}", told.mtu) };
                format!(": {} tells {mtu}", told.from)
            });
            format!("a router on the way there, and its ICMP message is wrong{said}")
        }
        Limit::Silence if first.way == Some(Way::There) => {
            "a black hole on the way there: larger packets vanish, and no ICMP message says why".into()
        }
        Limit::Silence => {
            "a black hole: larger packets or their replies vanish, and no ICMP message says why".into()
        }
        Limit::Fragments => {
            let largest = group.iter().filter_map(|path| path.fragment_bytes).max();
            let largest =
                largest.map_or(String::new(), |bytes| format!(" of at most {} bytes", count(bytes.into())));
            format!("the way back: larger packets arrive, but their replies come in fragments{largest}")
        }
        Limit::Damage => "the server, or a middlebox: larger datagrams come back shorter or changed".into(),
        Limit::Largest => "no UDP datagram is larger".into(),
        Limit::Unknown => first.above.map_or("not known yet".into(), |above| {
            format!("not known yet: {} bytes do not pass", count(above.packet.into()))
        }),
        Limit::NoAnswer => "nothing came back".into(),
    }
}

/// Adds up the tries of a group.
fn sum(all: impl Iterator<Item = Option<Tries>>) -> Option<Tries> {
    all.flatten().reduce(|one, other| Tries {
        packet: one.packet,
        sent: one.sent + other.sent,
        whole: one.whole + other.whole,
        in_fragments: one.in_fragments + other.in_fragments,
        damaged: one.damaged + other.damaged,
        told: one.told + other.told,
        refused: one.refused || other.refused,
    })
}

fn tries(group: &[&PathMtu]) -> String {
    let of = |tries: Tries| {
        let mut words = if tries.sent == 0 && tries.refused {
            "not sent by this host".into()
        } else {
            format!("{} of {} came back whole", tries.whole, tries.sent)
        };
        for (number, what) in [
            (tries.in_fragments, "in fragments"),
            (tries.damaged, "damaged"),
            (tries.told, "too large by ICMP"),
        ] {
            if number > 0 {
                let _ = write!(words, ", {number} {what}");
            }
        }
        format!("{}: {words}", count(tries.packet.into()))
    };
    let at = sum(group.iter().map(|path| path.at_mtu)).map(of);
    let above = sum(group.iter().map(|path| path.above)).map(of);
    let chance =
        if group[0].settled || group[0].limit != Limit::Silence { "" } else { "; chance may explain that" };
    format!("{}{chance}", [at, above].into_iter().flatten().collect::<Vec<_>>().join("; "))
}

/// What is known of the way back beside the path MTU.
fn back(group: &[&PathMtu]) -> Option<String> {
    let first = group[0];
    let (mtu, back) = (first.mtu?, group.iter().filter_map(|path| path.back).max()?);
    (back > mtu).then(|| {
        let bytes = count(back.into());
        format!("carries more: {bytes} bytes came back of the reply to a datagram that may be fragmented")
    })
}

/// What this host believes, if that is something else, and what to do about it.
fn host(path: &PathMtu) -> Option<String> {
    let (mtu, believed) = (path.mtu?, path.host_mtu?);
    let address: SocketAddr = path.destination.parse().ok()?;
    let (ip, route) = (address.ip(), if address.is_ipv4() { "ip route" } else { "ip -6 route" });
    let is_bound_by_path = !matches!(path.limit, Limit::Interface | Limit::Largest | Limit::Unknown);
    if believed > mtu && is_bound_by_path && !matches!(path.limit, Limit::Fragments | Limit::Damage) {
        let or_replies = if path.way.is_some() { "" } else { ", or the replies," };
        return Some(format!(
            "believes that {} bytes pass: its large packets to {ip}{or_replies} get lost until a route says `mtu {mtu}` \
             (`{route} get {ip}`)",
            count(believed.into())
        ));
    }
    (believed < mtu).then(|| {
        format!(
            "believes that only {} bytes pass, by a route's mtu or an earlier ICMP message (`{route} get {ip}`)",
            count(believed.into())
        )
    })
}

fn reason(path: &PathMtu) -> String {
    let silence = "no reply came and no ICMP error: the server does not answer, or a firewall drops the datagrams or the replies";
    path.error.clone().unwrap_or_else(|| silence.into())
}

/// Why a path has no answer.
pub(crate) fn unanswered(path: &PathMtu) -> String {
    format!("nothing came back from {}: {}", path.destination, reason(path))
}

/// What a reader must know. `ignored_icmp`: the setting that hides ICMP messages from us.
pub(crate) fn warnings(report: &MtuReport, ignored_icmp: Option<u32>) -> Vec<String> {
    let mut warnings = Vec::new();
    let paths = || report.paths.iter();
    let is_ipv4 = |path: &PathMtu| path.destination.parse::<SocketAddr>().is_ok_and(|addr| addr.is_ipv4());
    if let Some(setting) = ignored_icmp.filter(|_| paths().any(is_ipv4)) {
        warnings.push(format!(
            "net.ipv4.ip_no_pmtu_disc is {setting} on this host: the kernel hides ICMP messages about large packets, or \
             the MTU in them"
        ));
    }
    let mut seen = BTreeSet::new();
    for path in paths() {
        for told in path.told.iter().filter(|told| seen.insert((&told.from, told.mtu, &path.destination))) {
            warnings.extend(wrong(path, told, if is_ipv4(path) { LEAST_V4 } else { LEAST_V6 }));
        }
    }
    if let Some(path) = paths().find(|path| !is_ipv4(path) && path.mtu.is_some_and(|mtu| mtu < LEAST_V6)) {
        warnings.push(format!(
            "less than {LEAST_V6} bytes pass to {}: a link with that MTU must not carry IPv6 (RFC 8200)",
            path.destination
        ));
    }
    for destination in paths().map(|path| &path.destination).collect::<BTreeSet<_>>() {
        let own = || paths().filter(|path| path.destination == *destination);
        let mtus: BTreeSet<u32> = own().filter_map(|path| path.mtu).collect();
        if let (Some(least), Some(most)) = (mtus.first(), mtus.last())
            && least < most
            && own().all(|path| path.settled)
        {
            warnings.push(format!(
                "flows to {destination} take paths with different MTUs, from {least} to {most}: which one depends on the \
                 source port"
            ));
        }
        let unanswered = own().filter(|path| path.mtu.is_none()).count();
        if unanswered > 0 && !mtus.is_empty() {
            warnings.push(format!(
                "{} of {} to {destination} got nothing back, though others did",
                unanswered,
                counted(own().count() as u64, "flow")
            ));
        }
    }
    warnings
}

/// Why an ICMP message about a large packet is wrong. `None`: it is not.
fn wrong(path: &PathMtu, told: &ToldMtu, least: u32) -> Option<String> {
    let mtu = path.mtu?;
    let ToldMtu { from, mtu: said, about, .. } = told;
    let cause = if *said == 0 {
        format!(
            "says that a packet of {about} bytes is too large, and not what would pass: hosts then guess a small MTU"
        )
    } else if *said < least {
        format!("tells an MTU of {said}, less than IP allows: hosts that believe it send small packets only")
    } else if said >= about {
        format!(
            "tells an MTU of {said} about a packet of {about} bytes, which is no help: hosts that believe it go on sending \
             packets that are too large"
        )
    } else if *said < mtu {
        format!(
            "tells an MTU of {said}, but {mtu} bytes pass: hosts that believe it send smaller packets than they could"
        )
    } else {
        return None;
    };
    Some(format!("the ICMP message of {from} is wrong: it {cause}"))
}
