//! One run: from its options to its report.

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ipnet::Ipv4Net;
use rand::random;
use tubular_echo::kernel::sys;

use crate::console::signals;
use crate::console::streams::message;
use crate::judge::{causes, warnings};
use crate::model::dscp::Dscp;
use crate::model::local_limits::LOCAL_PORTS_USED_UP;
use crate::model::no_hosts::NoHostAddresses;
use crate::model::packet_options::PacketOptions;
use crate::model::payload::Bodies;
use crate::model::plan::{Extent, Traffic};
use crate::model::quantity::Sizes;
use crate::model::recording::Recording;
use crate::model::results::Results;
use crate::model::server_counts::Sockets;
use crate::model::source::Source;
use crate::model::target::{Target, TargetError};
use crate::model::targets::Targets;
use crate::model::timetable::Timetable;
use crate::model::visits::{Visits, Wish};
use crate::model::watchlist::Watchlist;
use crate::options::{
    CommonOptions, Contradiction, LoadOptions, RateOptions, Switch, TcpOptions, UdpMode, UdpOptions,
};
use crate::report::compile::{RunFacts, Scope};
use crate::report::schema::{
    self, BurstLoad, FAULTS_MAX, Host, Load, Outage, Outages, PacketLoad, ReplayLoad, Report,
};
use crate::run::lookup::{self, LookupError};
use crate::run::monitor::{Monitor, MonitorError, ObservedRun};
use crate::run::server_metrics::{ServerMetricsError, WatchedServer};
use crate::show::progress::{self, Watched};
use crate::tcp::{self, TcpError};
use crate::udp::{self, UdpError};
use crate::workers::clock;
use crate::workers::observed::{NamedOutage, OutagesNow};
use crate::workers::stop::Stop;
use crate::workers::threads::{RunStage, Watch};

/// Why a load could not be run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error(transparent)]
    Contradiction(#[from] Contradiction),
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error(transparent)]
    Udp(#[from] UdpError),
    #[error(transparent)]
    Tcp(#[from] TcpError),
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error("--server-metrics: {0}")]
    MetricsTarget(TargetError),
    #[error(transparent)]
    ServerMetrics(#[from] ServerMetricsError),
    #[error(transparent)]
    Monitor(#[from] MonitorError),
    #[error("handling signals: {0}")]
    Signals(io::Error),
    #[error("ended by a signal before anything was sent")]
    Stopped,
    #[error("the search can't go on{LOCAL_PORTS_USED_UP}")]
    LocalPorts,
    #[error("nothing could be sent: {0}")]
    NothingSent(String),
}

/// What the runs of one call have in common.
pub(crate) struct Session {
    quiet: bool,
    /// Whether a run had a right reply.
    has_reached_server: Cell<bool>,
    /// What others see while runs last, if somebody asked for it.
    monitor: RefCell<Option<Monitor>>,
}

/// The numbers that identify a run and its random choices.
#[derive(Clone, Copy)]
struct Identity {
    run_id: u64,
    seed: u64,
}

impl Session {
    /// Checks `load`, looks up its names, and listens to signals: from now on they end runs.
    pub(crate) fn new(load: &mut LoadOptions) -> Result<Self, LoadError> {
        check(load)?;
        signals::listen().map_err(LoadError::Signals)?;
        if lookup::look_up(load).map_err(not_found)? {
            check(load)?;
        }
        let common = load.common();
        let monitor = Monitor::open(protocol(load), common).map_err(|error| {
            // the signal ended the wait for a reader of a FIFO
            if signals::stop().is_asked() { LoadError::Stopped } else { error.into() }
        })?;
        let quiet = common.outputs.quiet;
        Ok(Self { quiet, has_reached_server: Cell::new(false), monitor: RefCell::new(monitor) })
    }

    /// Waits until all lines of intervals are written. Prints the errors, and returns whether there was none.
    pub(crate) fn finish_lines(&self) -> bool {
        let errors = self.monitor.take().map_or(Vec::new(), Monitor::finish);
        for error in &errors {
            message(&error.to_string());
        }
        errors.is_empty()
    }

    /// Runs `load`; `name` is its name on the screen. The report has its warnings; `--fail-if` is not applied yet.
    pub(crate) fn run(&self, load: &LoadOptions, name: &str) -> Result<Report, LoadError> {
        let common = load.common();
        let identity = Identity { run_id: random(), seed: seed(common.seed) };
        let stop = signals::stop();
        let watched = Watched {
            name,
            duration: load.duration().map(|duration| common.warmup + duration),
            quiet: self.quiet,
            // files get the lines
            every: common.every.filter(|_| common.jsonl.is_none() && common.csv.is_none()),
        };
        let mut monitor = self.monitor.borrow_mut();
        let wanted = Wanted {
            intervals: monitor.as_ref().map(Monitor::intervals).or(common.is_endless().then(Vec::new)),
            made: OnceCell::new(),
        };
        let mut observation = None;
        let mut lives_at_end = Vec::new();
        let observed = ObservedRun {
            protocol: protocol(load),
            run_id: format!("{:016x}", identity.run_id),
            name,
            warmup: common.warmup,
        };
        let mut begin = monitor.as_mut().map(|monitor| |watchlist| monitor.begin(observed, watchlist));
        let mut started_at = SystemTime::UNIX_EPOCH;
        let (mut has_begun, mut ended_early) = (false, false);
        let mut watch = |stage: RunStage<'_>| match stage {
            RunStage::Preparing => !stop.is_asked(),
            RunStage::Running(lives, are_done) => {
                (has_begun, started_at) = (true, SystemTime::now());
                observation =
                    begin.take().zip(wanted.made.get()).map(|(begin, made)| begin(Arc::clone(made)));
                lives_at_end = lives.to_vec();
                progress::watch(watched, lives, are_done, &mut || {
                    if let Some(observation) = &mut observation {
                        observation.look(lives);
                    }
                });
                ended_early = stop.is_asked();
                true
            }
        };
        let follows_others = self.has_reached_server.get();
        let server = watch_server(load)?;
        let done = match load {
            LoadOptions::Udp(udp) => run_udp(udp, identity, stop, &wanted, &mut watch),
            LoadOptions::Tcp(tcp) => run_tcp(tcp, identity, follows_others, stop, &wanted, &mut watch),
        };
        // the signal comes first, whatever error the interrupted preparation had
        if !has_begun && stop.is_asked() {
            return Err(LoadError::Stopped);
        }
        let (load, scope, results) = done?;
        if let Some(observation) = observation {
            let mut counts = results.outcomes.total().counts;
            counts += &results.outcomes.warmup().counts;
            observation.end(counts, &lives_at_end);
        }
        let command_line = schema::command_line();
        let facts = RunFacts { command_line, started_at, host: host(), load, scope, ended_early };
        let mut report = Report::new(facts, &results);
        if common.is_endless() {
            report.outages = wanted.made.get().map(|watchlist| outages(watchlist, &report));
        }
        report.server = server.map(|server| server.end(&report, common.linger(), stop));
        self.has_reached_server.set(follows_others || report.right() > 0);
        finish(report, follows_others)
    }
}

/// Checks the options, and the addresses that are known.
fn check(load: &mut LoadOptions) -> Result<(), LoadError> {
    load.common_mut().destination.put_on_interface();
    load.check()?;
    let common = load.common();
    common.destination.check_allowed()?;
    let allow_public = common.destination.allow_public;
    let allowed = common.server_metrics.as_ref().map(|url| url.check_allowed(allow_public));
    allowed.transpose().map(drop).map_err(LoadError::MetricsTarget)
}

pub(super) fn not_found(error: LookupError) -> LoadError {
    match error {
        LookupError::Stopped => LoadError::Stopped,
        LookupError::Target(error) => error.into(),
        error => error.into(),
    }
}

/// The destinations that had no right reply to their last message.
fn outages(watchlist: &Watchlist, report: &Report) -> Outages {
    let end_ns = report.load.warmup_ns + report.elapsed_ns;
    let now = OutagesNow::of(watchlist, end_ns, FAULTS_MAX);
    let all: u64 = now.counts.by_fault.iter().sum();
    let outage = |outage: &NamedOutage| Outage {
        destination: outage.destination.to_string(),
        fault: outage.fault,
        lasts_ns: outage.lasts_ns,
    };
    Outages {
        right: now.counts.right,
        longest: now.longest.iter().map(outage).collect(),
        more: all.saturating_sub(now.longest.len() as u64),
    }
}

fn protocol(load: &LoadOptions) -> &'static str {
    match load {
        LoadOptions::Udp(_) => "udp",
        LoadOptions::Tcp(_) => "tcp",
    }
}

/// The observation that is wanted, and the list that the workers of the run get for it.
struct Wanted {
    /// `None`: nobody observes.
    intervals: Option<Vec<Duration>>,
    made: OnceCell<Arc<Watchlist>>,
}

impl Wanted {
    /// The list for a run of `traffic` on so many flows or connections.
    fn watchlist(&self, traffic: &Traffic, extent: &Extent) -> Option<Arc<Watchlist>> {
        let intervals = self.intervals.as_deref()?;
        let (targets, patience) = (&traffic.targets, extent.linger.max(traffic.timeout()));
        let many = |destinations| Watchlist::new(intervals, patience, destinations, traffic.visits.is_some());
        let watchlist = match (&traffic.visits, targets.spray()) {
            (Some(visits), _) => many(visits.destinations().to_vec()),
            (None, true) => {
                many((0..targets.places().unwrap_or(0)).map(|place| targets.at_place(place)).collect())
            }
            (None, false) => {
                let flows = (0..extent.flows).map(|flow| targets.of_flow(flow));
                Watchlist::of_flows(intervals, patience, flows)
            }
        };
        Some(Arc::clone(self.made.get_or_init(|| Arc::new(watchlist))))
    }
}

/// Reads the server's counters before a run, if that was asked for.
fn watch_server(load: &LoadOptions) -> Result<Option<WatchedServer<'_>>, LoadError> {
    let common = load.common();
    let Some(url) = &common.server_metrics else { return Ok(None) };
    let sockets = Sockets {
        protocol: protocol(load),
        ipv4: common.destination.targets().any(Target::is_ipv4),
        ipv6: !common.destination.targets().all(Target::is_ipv4),
    };
    Ok(Some(WatchedServer::begin(url, sockets)?))
}

/// Adds the warnings. A run that sent nothing is an error if the kernel says why, unless it follows others.
fn finish(mut report: Report, follows_others: bool) -> Result<Report, LoadError> {
    if report.sent() == 0 && !report.refusals.is_empty() && !follows_others {
        let reasons = match report.connections {
            Some(_) => causes::causes(&report),
            None => report.refusals.iter().map(|refusals| refusals.message.clone()).collect(),
        };
        return Err(LoadError::NothingSent(reasons.join(", ")));
    }
    report.warnings = warnings::warnings(&report);
    report.warnings.extend(clock::cpu_waits_unknown());
    Ok(report)
}

fn run_udp(
    udp: &UdpOptions,
    identity: Identity,
    stop: &Arc<Stop>,
    wanted: &Wanted,
    watch: &mut Watch<'_>,
) -> Result<(Load, Scope, Results), LoadError> {
    use udp::plan::{Mode, Plan};
    let common = &udp.common;
    let timetable = udp.rates.timetable(common, identity.seed);
    let mode = match (udp.mode(), timetable) {
        (UdpMode::Open, Some(timetable)) => Mode::Open(timetable),
        (UdpMode::Open, None) => return Err(Contradiction::OpenWithoutRate.into()),
        (UdpMode::Closed, _) => Mode::Closed { in_flight: udp.in_flight.unwrap_or(1) },
        (UdpMode::Flood, _) => Mode::Flood,
    };
    let (timetable, in_flight) = match &mode {
        Mode::Open(timetable) => (Some(timetable), None),
        Mode::Closed { in_flight } => (None, Some(*in_flight)),
        Mode::Flood => (None, None),
    };
    let mut traffic = traffic(common, identity, udp.sizes(), Some(udp))?;
    let extent = extent(common, &udp.rates, udp.flows(traffic.counted_sources()), &traffic);
    traffic.watchlist = wanted.watchlist(&traffic, &extent);
    let load = Load {
        protocol: "udp".into(),
        mode: name(udp.mode()),
        in_flight,
        gso: Some(udp.gso),
        gro: Some(udp.gro == Switch::On),
        spray: Some(udp.spray),
        receive_time: Some(name(udp.receive_time())),
        ..load_header(common, &udp.rates, timetable, identity, &udp.sizes(), &extent)
    };
    let scope = scope(common, &traffic);
    let (gro, receive_time) = (udp.gro == Switch::On, udp.receive_time());
    let plan = Plan { traffic, extent, mode, train: udp.gso, gro, receive_time };
    Ok((load, scope, udp::run(plan, stop, watch)?))
}

fn replay_load(recording: &Recording) -> ReplayLoad {
    ReplayLoad {
        file: recording.name().into(),
        datagrams: recording.len(),
        period_ns: recording.period_ns(),
        together: recording.most_within(0),
    }
}

fn run_tcp(
    tcp: &TcpOptions,
    identity: Identity,
    follows_others: bool,
    stop: &Arc<Stop>,
    wanted: &Wanted,
    watch: &mut Watch<'_>,
) -> Result<(Load, Scope, Results), LoadError> {
    let common = &tcp.common;
    let mut traffic = traffic(common, identity, tcp.sizes(), None)?;
    let visits = traffic.visits.as_ref().map(Visits::total);
    let extent = extent(common, &tcp.rates, tcp.connections(visits), &traffic);
    let timetable = tcp.rates.timetable(common, identity.seed);
    traffic.watchlist = wanted.watchlist(&traffic, &extent);
    let load = Load {
        protocol: "tcp".into(),
        mode: name(tcp.mode()),
        ..load_header(common, &tcp.rates, timetable.as_ref(), identity, &tcp.sizes(), &extent)
    };
    let scope = scope(common, &traffic);
    let plan = tcp::plan::Plan { traffic, extent, mode: tcp.mode(), timetable, follows_others };
    Ok((load, scope, tcp::run(plan, stop, watch)?))
}

fn traffic(
    common: &CommonOptions,
    identity: Identity,
    sizes: Sizes,
    udp: Option<&UdpOptions>,
) -> Result<Traffic, TargetError> {
    let no_hosts = no_host_addresses();
    let spray = udp.is_some_and(|udp| udp.spray);
    let all: Vec<Target> = common.destination.targets().cloned().collect();
    let mut targets = Targets::new(all.clone(), identity.seed, spray)?.without(no_hosts.clone())?;
    if udp.is_some() && common.each_once.is_some() {
        targets = targets.of_one_family()?;
    }
    let wish = common.each_once.map(|times| Wish {
        times,
        is_endless: common.is_endless(),
        sample: common.sample,
        // each source is a flow of UDP, and a thread needs two flows
        sources: udp.and_then(|udp| udp.flows).map(|_| udp.map_or(0, |udp| udp.flows(1))),
        seed: identity.seed,
    });
    let visits = wish
        .map(|wish| Visits::new(&all, common.destination.source.as_ref(), &no_hosts, wish))
        .transpose()?;
    Ok(Traffic {
        run_id: identity.run_id,
        seed: identity.seed,
        targets,
        source: common.destination.source.clone(),
        visits,
        watchlist: None,
        packets: common.destination.packets.clone(),
        labels: common.destination.packets.flow_label.and_then(|label| label.labels(identity.seed)),
        sizes,
        bodies: Bodies::new(),
        timeout_ns: common.timeout.as_nanos() as u64,
    })
}

/// What the report needs to know of the destinations and sources.
fn scope(common: &CommonOptions, traffic: &Traffic) -> Scope {
    Scope {
        nets: common.destination.targets().map(Target::net).collect(),
        source: common.destination.source.as_ref().map(Source::net),
        planned: traffic.visits.as_ref().map(|visits| visits.destinations().len() as u64),
        sample: traffic.visits.as_ref().and_then(|visits| Some(visits.sample()?.words(visits))),
    }
}

/// How many visits end the run. `None`: there are none, or they have no end.
fn visits(traffic: &Traffic) -> Option<u64> {
    traffic.visits.as_ref().map(Visits::total).filter(|total| *total < u64::MAX)
}

fn extent(common: &CommonOptions, rates: &RateOptions, flows: u32, traffic: &Traffic) -> Extent {
    Extent {
        flows,
        workers: common.threads.min(flows),
        warmup: common.warmup,
        duration: rates.duration(common),
        count: rates.count(common).or(visits(traffic)),
        linger: common.linger(),
    }
}

/// The fields of a report's load that both protocols have.
fn load_header(
    common: &CommonOptions,
    rates: &RateOptions,
    timetable: Option<&Timetable>,
    identity: Identity,
    sizes: &Sizes,
    extent: &Extent,
) -> Load {
    let RateOptions { rate, schedule, .. } = rates;
    Load {
        rate_per_s: timetable.and_then(|timetable| timetable.mean_per_s(common.warmup, extent.duration)),
        rate_curve: rate.as_ref().filter(|curve| curve.constant().is_none()).map(ToString::to_string),
        gaps: schedule.gaps.filter(|_| timetable.is_some()).map(name),
        burst: schedule.burst.map(|burst| BurstLoad {
            datagrams: burst.datagrams,
            every_ns: burst.every.map(|every| every.as_nanos() as u64),
        }),
        replay: schedule.replay.as_deref().map(replay_load),
        targets: common.destination.given.iter().map(ToString::to_string).collect(),
        names: common.destination.names.clone(),
        source: common.destination.source.as_ref().map(ToString::to_string),
        run_ids: vec![format!("{:016x}", identity.run_id)],
        seed: Some(identity.seed),
        size: sizes.to_string(),
        flows: extent.flows,
        threads: extent.workers,
        timeout_ns: common.timeout.as_nanos() as u64,
        warmup_ns: extent.warmup.as_nanos() as u64,
        duration_ns: extent.duration.map(|duration| duration.as_nanos() as u64),
        count: common.count,
        each_once: common.each_once,
        is_endless: common.is_endless(),
        packets: packet_load(&common.destination.packets),
        dont_fragment: common.destination.packets.dont_fragment,
        ..Load::default()
    }
}

/// The part of a report's load that is about packets.
pub(super) fn packet_load(packets: &PacketOptions) -> PacketLoad {
    PacketLoad {
        dscp: packets.dscp.map(Dscp::number),
        ttl: packets.ttl,
        flow_label: packets.flow_label.as_ref().map(ToString::to_string),
        interface: packets.interface.map(|name| name.0.to_string()),
        mark: packets.mark,
    }
}

/// The name of a mode on the command line.
fn name(mode: impl clap::ValueEnum) -> String {
    mode.to_possible_value().map_or(String::new(), |value| value.get_name().into())
}

/// The seed of a run. One that is drawn is below 2^53, so that every reader of JSON reads it exactly.
pub(super) fn seed(wanted: Option<u64>) -> u64 {
    wanted.unwrap_or_else(|| random::<u64>() >> 11)
}

/// The addresses in this host's networks that no host has (getifaddrs(3)). If the interfaces can't be listed, the kernel
/// still refuses datagrams to them.
pub(super) fn no_host_addresses() -> NoHostAddresses {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    NoHostAddresses::of(interfaces.filter_map(|interface| {
        let (address, mask) = (interface.address?, interface.netmask?);
        Ipv4Net::with_netmask(address.as_sockaddr_in()?.ip(), mask.as_sockaddr_in()?.ip()).ok()
    }))
}

/// This host, as far as the kernel describes it.
pub(super) fn host() -> Host {
    // the report has no model if this file has none
    let cpu_info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu_info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    Host {
        name: sys::host_name(),
        kernel: sys::kernel_release(),
        cpu: model.map_or(String::new(), |(_, model)| model.into()),
        processors: sys::processors().map_or(0, |processors| processors.len()),
    }
}
