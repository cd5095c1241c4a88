//! The tables of a page: outcomes, latencies, and the facts of the run.

use maud::{Markup, html};

use crate::model::counts::Class;
use crate::model::latency::Percentiles;
use crate::model::units::{count, duration, percent};
use crate::report::schema::Report;
use crate::show::page::plot::Ink;
use crate::show::places;
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
    words.extend(report.counted_runs());
    words.push(format!("{:.1} s from {}", report.elapsed_ns as f64 / 1e9, report.started_at));
    words.join(" · ")
}

/// Each class with its share, and a bar that shows small shares too.
pub(super) fn outcomes(report: &Report) -> Markup {
    let (counts, load) = (&report.totals.counts, &report.load);
    let ink = |class| if class == Class::Ok { Ink::GOOD } else { Ink::BAD };
    let beside = counts.beside().chain([("own_drops", report.totals.own_drops)]);
    // a logarithmic bar: one in a million is visible beside the million
    let length = |number: u64| {
        let decades = (counts.sent.max(10) as f64).log10();
        if number == 0 { 0.0 } else { (number as f64).log10().max(0.0).mul_add(0.97 / decades, 0.03) * 100.0 }
    };
    html! {
        section.card {
            h2 { "Outcomes" }
            table.outcomes {
                thead { tr { th { "sent" } td.number { (count(counts.sent)) } td.number {} td.bar { "logarithmic" } } }
                tbody {
                    @for (class, number) in counts.classes() {
                        tr.zero[number == 0] {
                            th { (class.name()) } td.number { (count(number)) }
                            td.number { @if number > 0 { (percent(number, counts.sent)) } }
                            td.bar { span style={ "--ink:" (ink(class).name()) ";width:" (format!("{:.1}%", length(number))) } {} }
                        }
                    }
                }
                tbody {
                    @for (name, number) in beside {
                        tr.zero[number == 0] { th { (name.replace('_', " ")) @if name == "reordered" && load.flows > 1 { " within a flow" } } td.number { (count(number)) } td {} td.bar { span style={ "--ink:" (Ink::PLAIN.name()) ";width:" (format!("{:.1}%", length(number))) } {} } }
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

/// The name of a figure, and the figure.
type Row = (&'static str, fn(&Percentiles) -> u64);
const FIGURES: [Row; 8] = [
    ("min", |it| it.min_ns),
    ("mean", |it| it.mean_ns),
    ("p50", |it| it.p50_ns),
    ("p90", |it| it.p90_ns),
    ("p99", |it| it.p99_ns),
    ("p99.9", |it| it.p99_9_ns),
    ("p99.99", |it| it.p99_99_ns),
    ("max", |it| it.max_ns),
];

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
            table {
                thead { tr { th {} @for (name, _) in &rows { th.number { (name) } } } }
                tbody { @for (name, of) in FIGURES {
                    tr { th { (name) } @for (_, percentiles) in &rows { td.number { (duration(of(percentiles))) } } }
                } }
            }
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
            if load.protocol == "tcp" { "message" } else { "datagram" },
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
