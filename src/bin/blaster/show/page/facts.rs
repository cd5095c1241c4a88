//! The tables of a page: outcomes, latencies, and the facts of the run.

use maud::{Markup, html};

use crate::model::latency::{NamedFigure, Percentiles};
use crate::model::units::{count, duration, percent};
use crate::report::names::NamedHost;
use crate::report::schema::Report;
use crate::show::page::plot::Ink;
use crate::show::page::plots::NOT_OK;
use crate::show::places;
use crate::show::replies;
use crate::show::server;

/// Protocol and targets.
pub(super) fn title(report: &Report) -> String {
    format!("{} {}", report.load.protocol.to_uppercase(), report.load.targets.join(" "))
}

/// The load in one line.
pub(super) fn load(report: &Report) -> String {
    let load = &report.load;
    let mut words = vec![places::mode(load)];
    words.push(load.counted_flows());
    words.push(format!("{} bytes", load.size));
    words.extend(load.gso.filter(|gso| *gso > 1).map(|gso| format!("trains of {gso}")));
    words.extend(places::packets(load));
    words.extend(report.counted_runs());
    words.extend(load.names.iter().map(NamedHost::words));
    words.push(format!("{} from {}", duration(report.elapsed_ns), report.started_at));
    words.join(" · ")
}

/// Each class with its share, as a number and as a bar. The bar of a small share is a dot: its number says how small.
pub(super) fn outcomes(report: &Report) -> Markup {
    let (counts, load) = (&report.totals.counts, &report.load);
    let ink = |class| NOT_OK.iter().find(|(not_ok, _)| *not_ok == class).map_or(Ink::GOOD, |(_, ink)| *ink);
    let beside = counts.beside().chain([("own_drops", report.totals.own_drops)]);
    let width = |number: u64| format!("width:{:.2}%", number as f64 * 100.0 / counts.sent.max(1) as f64);
    html! {
        section.card {
            h2 { "Outcomes" }
            table.outcomes {
                thead { tr { th { "sent" } td.number { (count(counts.sent)) } td.number {} td.bar {} } }
                tbody {
                    @for (class, number) in counts.classes() {
                        tr.zero[number == 0] {
                            th { (class.name()) } td.number { (count(number)) }
                            td.number { @if number > 0 { (percent(number, counts.sent)) } }
                            td.bar { @if number > 0 { span style={ (ink(class).style()) ";" (width(number)) } {} } }
                        }
                    }
                }
                tbody {
                    @for (name, number) in beside {
                        tr.zero[number == 0] {
                            th {
                                (name.replace('_', " "))
                                @if name == "reordered" && load.flows > 1 { " within a flow" }
                            }
                            td.number { (count(number)) } td {} td.bar {}
                        }
                    }
                }
            }
        }
    }
}

/// The destinations and sources, and those with faults.
pub(super) fn places(report: &Report) -> Markup {
    html! {
        @for said in places::said(report) {
            section.card {
                h2 { (said.name) }
                p.about { (count(said.visited)) " visited: " (said.note) }
                ul.faults { @for line in &said.faults { li.bad[said.has_faults] { (line) } } }
            }
        }
    }
}

/// What right replies came with, where that was asked for.
pub(super) fn reply_headers(report: &Report) -> Markup {
    let lines = replies::lines(report);
    html! {
        @if !lines.is_empty() {
            section.card {
                h2 { "Headers of right replies" }
                table.facts { tbody { @for line in &lines {
                    tr { th { (line.name) } td { (count(line.count)) " × " span.bad[line.differs] { (line.note) } } }
                } } }
            }
        }
    }
}

/// The figures of the table.
fn figures() -> impl Iterator<Item = NamedFigure> {
    let further: [NamedFigure; 2] = [("min", |it| it.min_ns), ("mean", |it| it.mean_ns)];
    further.into_iter().chain(Percentiles::NAMED)
}

pub(super) fn latencies(report: &Report) -> Markup {
    let is_scheduled = report.generator.slip.is_some();
    let rows = [
        (if is_scheduled { "from intended" } else { "round trip" }, &report.latency.from_intended),
        ("from actual", if is_scheduled { &report.latency.from_actual } else { &None }),
        ("generator slip", &report.generator.slip),
        ("reading slip", &report.generator.reading_slip),
    ];
    let rows: Vec<(&str, &Percentiles)> =
        rows.into_iter().filter_map(|(name, percentiles)| Some((name, percentiles.as_ref()?))).collect();
    html! {
        section.card {
            h2 { "Latency" }
            @if report.latency.from_intended.is_none() {
                p.nothing { "No right reply came back, so there is no latency." }
            }
            @if !rows.is_empty() { div.scroll { table.latencies {
                thead { tr { th {} @for (name, _) in &rows { th.number { (name) } } } }
                tbody { @for (name, of) in figures() {
                    tr { th { (name) } @for (_, percentiles) in &rows { td.number { (duration(of(percentiles))) } } }
                } }
            } } }
        }
    }
}

/// The first wrong replies of each kind.
pub(super) fn wrong_replies(report: &Report) -> Markup {
    html! {
        @if !report.examples.is_empty() {
            section.card.wide {
                h2 { "Wrong replies" }
                table.facts { tbody { @for example in &report.examples {
                    tr { th { (example.kind) } td { (example.sentence()) } }
                } } }
            }
        }
    }
}

/// The command, the hosts and the local errors.
pub(super) fn details(report: &Report) -> Markup {
    let load = &report.load;
    let generator = &report.generator;
    let shares = |shares: &[f64]| {
        shares.iter().map(|share| format!("{:.0}%", share * 100.0)).collect::<Vec<_>>().join(" ")
    };
    let mut rows: Vec<(&str, String)> = vec![("command", report.command_line.join(" "))];
    for host in &report.hosts {
        rows.push((
            "host",
            format!("{}: Linux {}, {} × {}", host.name, host.kernel, host.processors, host.cpu),
        ));
    }
    rows.push(("threads", load.threads.to_string()));
    rows.extend(load.seed.map(|seed| ("seed", seed.to_string())));
    rows.push(("timeout", duration(load.timeout_ns)));
    if load.warmup_ns > 0 {
        rows.push(("warmup", duration(load.warmup_ns)));
    }
    rows.push((
        "blaster",
        format!(
            "{} of its own CPU per {}, {} of a core, and {} watching the clock",
            duration(generator.cpu_ns_per_datagram as u64),
            load.unit(),
            shares(&generator.cpu_share),
            shares(&generator.pacing_share)
        ),
    ));
    rows.extend(server::lines(report).into_iter().map(|line| ("server", line)));
    if let Some(it) = report.connections {
        rows.push((
            "connections",
            format!(
                "{} attempted, {} established, {} failed, {} broken",
                count(it.attempted),
                count(it.established),
                count(it.failed),
                count(it.broken)
            ),
        ));
    }
    for errors in &report.icmp_errors {
        rows.push((
            "ICMP",
            format!(
                "{} × {} from {} about {}",
                count(errors.count),
                errors.meaning(),
                errors.from,
                errors.about
            ),
        ));
    }
    for refusals in &report.refusals {
        rows.push(("refused", format!("{} × {}", count(refusals.count), refusals.message)));
    }
    html! {
        section.card.wide {
            h2 { "The run" }
            table.facts { tbody { @for (name, fact) in rows { tr { th { (name) } td { (fact) } } } } }
        }
    }
}
