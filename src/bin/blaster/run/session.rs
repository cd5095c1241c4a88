//! One run: from the command line to its report.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::Ipv4Net;
use rand::random;
use tubular_echo::kernel::sys;

use crate::console::signals;
use crate::judge::warnings;
use crate::model::payload::Bodies;
use crate::model::quantity;
use crate::model::results::Results;
use crate::model::target::{NoHostAddresses, TargetError, Targets};
use crate::options::{Common, Contradiction, Load, Switch, Tcp, Udp, UdpMode};
use crate::report::compile::RunFacts;
use crate::report::schema::{self, Host, Report};
use crate::show::progress::{self, Watched};
use crate::workers::clock;
use crate::workers::stop::Stop;
use crate::workers::threads::{self, RunStage};
use crate::{tcp, udp};

/// Why a load could not be run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error(transparent)]
    Contradiction(#[from] Contradiction),
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error(transparent)]
    Udp(#[from] udp::UdpError),
    #[error(transparent)]
    Tcp(#[from] tcp::TcpError),
    #[error("hearing signals: {0}")]
    Signals(io::Error),
    #[error("ended by a signal before anything was sent")]
    Stopped,
    #[error("nothing could be sent: {0}")]
    NothingSent(String),
}

/// What runs have in common that follow one another.
pub(crate) struct Session {
    quiet: bool,
}

impl Session {
    /// Checks that `load` is one that may be run, and hears signals: from now on they end runs.
    pub(crate) fn new(load: &Load) -> Result<Self, LoadError> {
        let common = load.common();
        match load {
            Load::Udp(udp) => udp.check()?,
            Load::Tcp(_) => common.check()?,
        }
        for target in &common.targets {
            target.check_allowed(common.allow_public)?;
        }
        signals::listen().map_err(LoadError::Signals)?;
        Ok(Self { quiet: common.outputs.quiet })
    }

    /// Runs `load`, which `about` names to whoever watches. Its report has its warnings; it has not been judged.
    pub(crate) fn run(&self, load: &Load, about: &str) -> Result<Report, LoadError> {
        let common = load.common();
        // below 2^53, what any reader of JSON takes for a number
        let seed = common.seed.unwrap_or_else(|| random::<u64>() >> 11);
        let run_id = random();
        let stop = signals::stop();
        let watched = Watched {
            about,
            duration: common.duration().map(|duration| common.warmup + duration),
            quiet: self.quiet,
            every: common.every,
        };
        let mut started_at = SystemTime::UNIX_EPOCH;
        let (mut has_begun, mut ended_early) = (false, false);
        let mut watch = |moment: RunStage<'_>| match moment {
            RunStage::Preparing => !stop.is_asked(),
            RunStage::Running(lives, are_done) => {
                (has_begun, started_at) = (true, SystemTime::now());
                progress::watch(watched, lives, are_done);
                ended_early = stop.is_asked();
                true
            }
        };
        let done = match load {
            Load::Udp(udp) => run_udp(udp, seed, run_id, stop, &mut watch),
            Load::Tcp(tcp) => run_tcp(tcp, seed, run_id, stop, &mut watch),
        };
        // whatever else it was that its threads came to in the midst of their preparations
        if !has_begun && stop.is_asked() {
            return Err(LoadError::Stopped);
        }
        let (about, results) = done?;
        let facts = RunFacts {
            command_line: schema::command_line(),
            started_at,
            host: host(),
            load: about,
            ended_early,
        };
        let mut report = Report::new(facts, &results);
        if report.sent() == 0 && !report.refusals.is_empty() {
            let reasons: Vec<_> = report.refusals.iter().map(|refusals| refusals.message.as_str()).collect();
            return Err(LoadError::NothingSent(reasons.join(", ")));
        }
        report.warnings = warnings::warnings(&report);
        report.warnings.extend(clock::cpu_waits_unknown());
        Ok(report)
    }
}

fn run_udp(
    udp: &Udp,
    seed: u64,
    run_id: u64,
    stop: &Arc<Stop>,
    watch: &mut threads::Watch<'_>,
) -> Result<(schema::Load, Results), LoadError> {
    let common = &udp.common;
    let in_flight = udp.in_flight.unwrap_or(1);
    let (mode, rate) = match (udp.mode(), udp.rate) {
        (UdpMode::Open, Some(rate)) => (udp::Mode::Open(rate), Some(rate)),
        (UdpMode::Open, None) => return Err(Contradiction::OpenWithoutRate.into()),
        (UdpMode::Closed, _) => (udp::Mode::Closed { in_flight }, None),
        (UdpMode::Flood, _) => (udp::Mode::Flood, None),
    };
    let sizes = udp.sizes();
    let workers = common.threads.min(udp.flows);
    let targets = Targets::new(common.targets.clone(), seed, udp.spray)?.without(no_hosts())?;
    let about = schema::Load {
        protocol: "udp".into(),
        mode: name(udp.mode()),
        rate_per_s: rate.map(quantity::Rate::per_s),
        in_flight: matches!(mode, udp::Mode::Closed { .. }).then_some(in_flight),
        gso: Some(udp.gso),
        gro: Some(udp.gro == Switch::On),
        spray: Some(udp.spray),
        ..about(common, seed, run_id, &sizes, udp.flows, workers)
    };
    let plan = udp::Plan {
        run_id,
        seed,
        targets,
        source: common.source.clone(),
        sizes,
        bodies: Bodies::new(),
        timeout_ns: common.timeout.as_nanos() as u64,
        train: udp.gso,
        scheduled: rate.is_some(),
    };
    let load = udp::Load {
        plan: Arc::new(plan),
        mode,
        flows: udp.flows,
        workers,
        window: udp::window(udp.flows, mode, udp.gso, common.timeout),
        gro: udp.gro == Switch::On,
        warmup: common.warmup,
        duration: common.duration(),
        count: common.count,
        linger: common.linger(),
    };
    Ok((about, udp::run(load, stop, watch)?))
}

fn run_tcp(
    tcp: &Tcp,
    seed: u64,
    run_id: u64,
    stop: &Arc<Stop>,
    watch: &mut threads::Watch<'_>,
) -> Result<(schema::Load, Results), LoadError> {
    let common = &tcp.common;
    let sizes = tcp.sizes();
    let workers = common.threads.min(tcp.connections);
    let about = schema::Load {
        protocol: "tcp".into(),
        mode: name(tcp.mode),
        ..about(common, seed, run_id, &sizes, tcp.connections, workers)
    };
    let load = tcp::Load {
        run_id,
        seed,
        targets: Targets::new(common.targets.clone(), seed, false)?.without(no_hosts())?,
        source: common.source.clone(),
        sizes,
        bodies: Bodies::new(),
        timeout: common.timeout,
        mode: tcp.mode,
        connections: tcp.connections,
        workers,
        warmup: common.warmup,
        duration: common.duration(),
        count: common.count,
        linger: common.linger(),
    };
    Ok((about, tcp::run(load, stop, watch)?))
}

/// What of a load both protocols have.
fn about(
    common: &Common,
    seed: u64,
    run_id: u64,
    sizes: &quantity::Sizes,
    flows: u32,
    threads: u32,
) -> schema::Load {
    schema::Load {
        targets: common.targets.iter().map(ToString::to_string).collect(),
        source: common.source.as_ref().map(ToString::to_string),
        run_ids: vec![format!("{run_id:016x}")],
        seed: Some(seed),
        size: sizes.to_string(),
        flows,
        threads,
        timeout_ns: common.timeout.as_nanos() as u64,
        warmup_ns: common.warmup.as_nanos() as u64,
        duration_ns: common.duration().map(|duration| duration.as_nanos() as u64),
        count: common.count,
        ..schema::Load::default()
    }
}

/// The name of a mode as it is given on the command line.
fn name(mode: impl clap::ValueEnum) -> String {
    mode.to_possible_value().map_or(String::new(), |value| value.get_name().into())
}

/// What is no host's in the networks of this one (getifaddrs(3)). Where the kernel tells of none, it refuses what is
/// sent there.
fn no_hosts() -> NoHostAddresses {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    NoHostAddresses::of(interfaces.filter_map(|interface| {
        let (address, mask) = (interface.address?, interface.netmask?);
        Ipv4Net::with_netmask(address.as_sockaddr_in()?.ip(), mask.as_sockaddr_in()?.ip()).ok()
    }))
}

/// Where this runs, as far as the kernel tells.
fn host() -> Host {
    // only the file tells the model: without it the report has none
    let cpu_info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu_info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    Host {
        name: sys::host_name(),
        kernel: sys::kernel_release(),
        cpu: model.map_or(String::new(), |(_, model)| model.into()),
        processors: sys::processors().map_or(0, |processors| processors.len()),
    }
}
