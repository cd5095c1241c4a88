//! The sum of each part of the reports.

use std::collections::BTreeMap;

use crate::model::counts::{Connections, Counts};
use crate::model::latency::{Latency, Percentiles};
use crate::model::results::{Example, keep_example};
use crate::report::names::NamedHost;
use crate::report::schema::{
    FAULTS_MAX, FaultyPlaces, Generator, IcmpErrors, Load, LocalErrors, Places, ReplayLoad, Report, Totals,
};

/// The percentiles of the sum of histograms. `None`: there is no histogram.
pub(super) fn sum<'a>(parts: impl Iterator<Item = &'a Option<Percentiles>>) -> Option<Percentiles> {
    let mut sum = Latency::new();
    for part in parts.flatten() {
        sum.merge(&part.histogram.unpack());
    }
    sum.summary()
}

pub(super) fn counts<'a>(parts: impl Iterator<Item = &'a Counts>) -> Counts {
    let mut sum = Counts::default();
    for part in parts {
        sum += part;
    }
    sum
}

pub(super) fn load(reports: &[&Report]) -> Load {
    let loads = || reports.iter().map(|report| &report.load);
    let first = reports[0].load.clone();
    let mut targets: Vec<String> = Vec::new();
    for target in loads().flat_map(|load| &load.targets) {
        if !targets.contains(target) {
            targets.push(target.clone());
        }
    }
    Load {
        targets,
        names: NamedHost::merged(loads().flat_map(|load| &load.names)),
        run_ids: loads().flat_map(|load| load.run_ids.clone()).collect(),
        seed: first.seed.filter(|seed| loads().all(|load| load.seed == Some(*seed))),
        source: first
            .source
            .clone()
            .filter(|source| loads().all(|load| load.source.as_ref() == Some(source))),
        flows: loads().map(|load| load.flows).fold(0, u32::saturating_add),
        threads: loads().map(|load| load.threads).fold(0, u32::saturating_add),
        rate_per_s: loads().map(|load| load.rate_per_s).sum(),
        replay: replay(loads().filter_map(|load| load.replay.as_ref())),
        warmup_ns: loads().map(|load| load.warmup_ns).min().unwrap_or(0),
        duration_ns: loads().map(|load| load.duration_ns).max().flatten(),
        count: loads().map(|load| load.count).sum(),
        ..first
    }
}

/// One recording, or the parts that several machines replayed.
pub(super) fn replay<'a>(parts: impl Iterator<Item = &'a ReplayLoad>) -> Option<ReplayLoad> {
    parts.cloned().reduce(|sum, part| {
        if sum == part {
            return sum;
        }
        ReplayLoad {
            file: format!("{} {}", sum.file, part.file),
            datagrams: sum.datagrams + part.datagrams,
            period_ns: sum.period_ns.max(part.period_ns),
            together: sum.together.max(part.together),
        }
    })
}

pub(super) fn totals(reports: &[&Report], elapsed_ns: u64) -> Totals {
    let mut totals = Totals::default();
    let mut distances = 0.0;
    for report in reports {
        let part = &report.totals;
        totals.counts += &part.counts;
        totals.own_drops += part.own_drops;
        totals.reorder_distance_max = totals.reorder_distance_max.max(part.reorder_distance_max);
        distances += part.reorder_distance_mean * part.counts.reordered as f64;
    }
    let per_s = |count: u64| if elapsed_ns == 0 { 0.0 } else { count as f64 * 1e9 / elapsed_ns as f64 };
    totals.reorder_distance_mean = distances / totals.counts.reordered.max(1) as f64;
    totals.sent_per_s = per_s(totals.counts.sent);
    totals.ok_per_s = per_s(totals.counts.ok);
    totals
}

pub(super) fn generator(reports: &[&Report]) -> Generator {
    let parts = || reports.iter().map(|report| &report.generator);
    let sent: u64 = reports.iter().map(|report| report.sent()).sum();
    let work_ns: f64 =
        reports.iter().map(|report| report.generator.cpu_ns_per_datagram * report.sent() as f64).sum();
    Generator {
        slip: sum(parts().map(|part| &part.slip)),
        reading_slip: sum(parts().map(|part| &part.reading_slip)),
        unstamped: parts().map(|part| part.unstamped).sum(),
        stamped_by_nic: parts().map(|part| part.stamped_by_nic).sum(),
        clock_steps: parts().map(|part| part.clock_steps).max().unwrap_or(0),
        cpu_ns_per_datagram: work_ns / sent.max(1) as f64,
        cpu_share: parts().flat_map(|part| part.cpu_share.clone()).collect(),
        pacing_share: parts().flat_map(|part| part.pacing_share.clone()).collect(),
        starved_share: parts().flat_map(|part| part.starved_share.clone()).collect(),
        unsent: parts().map(|part| part.unsent).sum(),
        forgotten: parts().map(|part| part.forgotten).sum(),
        receive_buffer_bytes: parts().filter_map(|part| part.receive_buffer_bytes).min(),
    }
}

pub(super) fn icmp_errors(reports: &[&Report]) -> Vec<IcmpErrors> {
    let mut sums: Vec<IcmpErrors> = Vec::new();
    for part in reports.iter().flat_map(|report| &report.icmp_errors) {
        let same = |sum: &&mut IcmpErrors| IcmpErrors { count: part.count, ..(*sum).clone() } == *part;
        match sums.iter_mut().find(same) {
            Some(sum) => sum.count += part.count,
            None => sums.push(part.clone()),
        }
    }
    sums
}

pub(super) fn examples(reports: &[&Report]) -> Vec<Example> {
    let mut kept = Vec::new();
    for example in reports.iter().flat_map(|report| &report.examples) {
        keep_example(example, &mut kept);
    }
    kept
}

pub(super) fn refusals(reports: &[&Report]) -> Vec<LocalErrors> {
    let mut sums: BTreeMap<i32, LocalErrors> = BTreeMap::new();
    for part in reports.iter().flat_map(|report| &report.refusals) {
        sums.entry(part.errno).or_insert_with(|| LocalErrors { count: 0, ..part.clone() }).count +=
            part.count;
    }
    sums.into_values().collect()
}

/// The sum: destinations that several machines visited count for each of them. `None`: a report has none.
pub(super) fn places<'a>(parts: impl Iterator<Item = Option<&'a Places>>) -> Option<Places> {
    let mut sum = Places::default();
    for part in parts {
        let part = part?;
        sum.visited += part.visited;
        sum.not_visited += part.not_visited;
        sum.only_faults |= part.only_faults;
        sum.ok += part.ok;
        sum.misdirected += part.misdirected;
        sum.corrupted += part.corrupted;
        sum.silent += part.silent;
        sum.lossy += part.lossy;
        sum.late += part.late;
        sum.unsendable += part.unsendable;
        sum.more += part.more;
        sum.sample = sum.sample.or_else(|| part.sample.clone());
        for fault in &part.faults {
            let same = |known: &&mut FaultyPlaces| known.place == fault.place && known.fault == fault.fault;
            match sum.faults.iter_mut().find(same) {
                Some(known) => {
                    known.visited += fault.visited;
                    known.tally += &fault.tally;
                }
                None => sum.faults.push(fault.clone()),
            }
        }
    }
    sum.faults.sort_by_key(|fault| u64::MAX - fault.tally.wrong());
    sum.more += sum.faults.iter().skip(FAULTS_MAX).map(|fault| fault.visited).sum::<u64>();
    sum.faults.truncate(FAULTS_MAX);
    Some(sum)
}

pub(super) fn connections(reports: &[&Report]) -> Option<Connections> {
    reports.iter().map(|report| report.connections).try_fold(Connections::default(), |mut sum, part| {
        sum += &part?;
        Some(sum)
    })
}
