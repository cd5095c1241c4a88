//! The server's part of a run, in words.

use std::collections::BTreeMap;

use crate::model::units::{count, counted, duration};
use crate::report::schema::{LossesByPlace, Report, Server};

/// The lines: its work; the losses by their place; the connections that it closed.
pub(super) fn lines(report: &Report) -> Vec<String> {
    let Some(server) = &report.server else { return Vec::new() };
    let Some(counts) = &server.counts else { return Vec::new() };
    let is_tcp = report.load.protocol == "tcp";
    let mut work = if is_tcp {
        format!("accepted {}", counted(counts.accepted, "connection"))
    } else {
        format!("received {} and answered {}", count(counts.received), count(counts.sent))
    };
    if let Some(cpu_ns) = server.cpu_ns_per_echo {
        work = format!("{work}, {} of its CPU per echo", duration(cpu_ns as u64));
    }
    let mut lines = vec![work];
    lines.extend(losses(report, server));
    if counts.receive_buffer_drops > 0 {
        lines.push(format!(
            "its receive buffers dropped {}",
            counted(counts.receive_buffer_drops, "datagram")
        ));
    }
    if server.losses.is_none() && !counts.not_answered.is_empty() {
        lines.push(format!("it did not answer {}", by_reason(&counts.not_answered)));
    }
    // the others end as they should
    let closed: BTreeMap<_, _> =
        counts.closed.iter().filter(|(reason, _)| !matches!(reason.as_str(), "finished")).collect();
    if !closed.is_empty() {
        let closed: Vec<_> =
            closed.into_iter().map(|(reason, number)| format!("{} {reason}", count(*number))).collect();
        lines.push(format!("it closed connections: {}", closed.join(", ")));
    }
    lines
}

fn by_reason(reasons: &BTreeMap<String, u64>) -> String {
    let sum = reasons.values().fold(0, |sum: u64, number| sum.saturating_add(*number));
    let each: Vec<_> =
        reasons.iter().map(|(reason, number)| format!("{} {reason}", count(*number))).collect();
    format!("{}: {}", count(sum), each.join(", "))
}

/// `102 lost: 60 on the way there, 42 on the way back`. `None`: nothing is missing, or nobody knows where.
fn losses(report: &Report, server: &Server) -> Option<String> {
    let LossesByPlace { on_the_way_there, in_the_server, on_the_way_back } = server.losses?;
    let all = on_the_way_there.saturating_add(in_the_server).saturating_add(on_the_way_back);
    if all == 0 {
        return None;
    }
    let mut places = Vec::new();
    if on_the_way_there > 0 {
        places.push(format!("{} on the way there", count(on_the_way_there)));
    }
    if in_the_server > 0 {
        let reasons =
            server.counts.as_ref().map(|counts| &counts.not_answered).filter(|reasons| !reasons.is_empty());
        let reasons = reasons.map_or(String::new(), |reasons| {
            let each: Vec<_> =
                reasons.iter().map(|(reason, number)| format!("{} {reason}", count(*number))).collect();
            format!(" ({})", each.join(", "))
        });
        places.push(format!("{} not answered by the server{reasons}", count(in_the_server)));
    }
    if on_the_way_back > 0 {
        let own = report.totals.own_drops;
        let own =
            if own > 0 { format!(" (blaster's own sockets dropped {})", count(own)) } else { String::new() };
        places.push(format!("{} on the way back{own}", count(on_the_way_back)));
    }
    let warmup = if report.warmup.sent > 0 { ", with the warmup" } else { "" };
    Some(format!("{} lost{warmup}: {}", count(all), places.join(", ")))
}
