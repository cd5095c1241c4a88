//! `blaster mtu`: from its options to its report.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use rand::random;

use crate::console::signals;
use crate::judge::mtu_search::{DATAGRAMS_MAX, ROUNDS_MAX, Search};
use crate::model::packet_options::PacketOptions;
use crate::model::payload::Bodies;
use crate::model::target::Target;
use crate::model::targets::Targets;
use crate::mtu_flows::{self, Flow, Wanted};
use crate::options::MtuOptions;
use crate::report::mtu::{MtuLoad, MtuReport};
use crate::run::lookup;
use crate::run::outputs::Outputs;
use crate::run::session::{self, LoadError};
use crate::show::mtu;
use crate::udp::UdpError;
use crate::workers::socket_options;

/// Checks the options, looks up their names, and listens to signals.
pub(crate) fn prepare(options: &mut MtuOptions) -> Result<(), LoadError> {
    check(options)?;
    options.destination.check_allowed()?;
    signals::listen().map_err(LoadError::Signals)?;
    lookup::look_up_all(&mut options.destination, None, options.report.quiet, "")
        .map_err(session::not_found)?;
    // a name has as many targets as addresses
    check(options)
}

fn check(options: &mut MtuOptions) -> Result<(), LoadError> {
    options.destination.put_on_interface();
    Ok(options.check()?)
}

/// Searches all paths: the first flow to each target, then the others, which need fewer datagrams.
pub(crate) fn find(options: &MtuOptions, outputs: &Outputs) -> Result<MtuReport, LoadError> {
    let seed = session::seed(options.seed);
    let no_hosts = session::no_host_addresses();
    let all: Vec<Target> = options.destination.targets().cloned().collect();
    let first = all.len() as u32;
    let targets = Targets::new(all, seed, false)?.without(no_hosts.clone())?;
    let wanted = Wanted {
        run_id: random(),
        bodies: Bodies::new(),
        // the search sets its own
        packets: PacketOptions { dont_fragment: false, ..options.destination.packets.clone() },
        timeout: options.timeout,
    };
    socket_options::check_flow_label(&wanted.packets).map_err(UdpError::from)?;
    let labels = wanted.packets.flow_label.and_then(|label| label.labels(seed));
    let load = load(options, seed, wanted.run_id);
    let bounds =
        mtu::announcement(options.paths(), options.paths() * u64::from(DATAGRAMS_MAX), longest(options));
    let paint = outputs.paint();
    outputs.print(&format!("{}\n", paint.wrap(&bounds)));
    let open = |number: u32, peer: SocketAddr, search| {
        let source =
            options.destination.source.as_ref().map(|source| source.of_flow(seed, number, peer, &no_hosts));
        let peer = labels.map_or(peer, |labels| labels.put_on(peer, number.into()));
        Flow::open(number, peer, source, search, &wanted.packets)
    };
    let (start, started_at) = (Instant::now(), SystemTime::now());
    let stop = signals::stop();
    let pilots = (0..first).map(|number| {
        let peer = targets.of_flow(number);
        open(number, peer, Search::new(peer.is_ipv4()))
    });
    let mut flows: Vec<Flow> = pilots.collect::<Result<_, _>>()?;
    mtu_flows::drive(&mut flows, &wanted, start, stop);
    if !stop.is_asked() {
        let others = (first..options.paths() as u32).map(|number| {
            let (peer, pilot) = (targets.of_flow(number), &flows[(number % first) as usize]);
            open(number, peer, Search::after(pilot.search(), pilot.peer() == peer))
        });
        let mut others: Vec<Flow> = others.collect::<Result<_, _>>()?;
        mtu_flows::drive(&mut others, &wanted, start, stop);
        flows.extend(others);
    }
    let paths = flows.iter().map(|flow| flow.path(&wanted.packets)).collect();
    let started_at = humantime::format_rfc3339_millis(started_at).to_string();
    let mut report = MtuReport::new(load, session::host(), started_at, paths);
    report.elapsed_ns = start.elapsed().as_nanos() as u64;
    report.ended_early = stop.is_asked();
    report.warnings = mtu::warnings(&report, ignored_icmp());
    report.fail_if =
        options.report.fail_if.as_ref().map_or(Vec::new(), |conditions| conditions.judge_mtu(report.mtu));
    Ok(report)
}

fn load(options: &MtuOptions, seed: u64, run_id: u64) -> MtuLoad {
    MtuLoad {
        targets: options.destination.given.iter().map(ToString::to_string).collect(),
        names: options.destination.names.clone(),
        run_id: format!("{run_id:016x}"),
        seed: seed.to_string(),
        flows: options.flows,
        source: options.destination.source.as_ref().map(ToString::to_string),
        packets: session::packet_load(&options.destination.packets),
        timeout_ns: options.timeout.as_nanos() as u64,
    }
}

/// The longest that all searches take.
fn longest(options: &MtuOptions) -> Duration {
    // the datagrams of a round leave within this time
    const SENDING: Duration = Duration::from_millis(20);
    let one_after_the_other = if options.flows > 1 { 2 } else { 1 };
    (options.timeout + SENDING) * ROUNDS_MAX * one_after_the_other
}

/// How this host treats ICMP messages about large packets: `net.ipv4.ip_no_pmtu_disc`. `None`: it takes them.
fn ignored_icmp() -> Option<u32> {
    let setting = std::fs::read_to_string("/proc/sys/net/ipv4/ip_no_pmtu_disc").ok()?;
    setting.trim().parse().ok().filter(|setting| *setting > 0)
}
