//! What a reader must know before trusting a report: above all, whether blaster was the bottleneck.

use crate::judge::blame::{self, BUSY, OwnLosses};
use crate::judge::causes;
use crate::model::counts::Class;
use crate::model::dscp::Dscp;
use crate::model::local_limits::{LOCAL_PORTS_USED_UP, RECEIVE_BUFFER_BYTES};
use crate::model::units::{count, counted, duration, rate};
use crate::report::schema::Report;

/// All warnings that `report` needs, each one line. Losses come first; blaster is the bottleneck only where it can
/// explain what is wrong.
pub(crate) fn warnings(report: &Report) -> Vec<String> {
    let mut found = Vec::new();
    if !report.totals.counts.is_balanced() {
        found.push(
            "the outcomes do not add up: this is a defect of blaster, trust none of its numbers".into(),
        );
    }
    found.extend(targets_without_flow(report));
    found.extend(losses(report));
    found.extend(causes::causes(report));
    found.extend(server(report));
    found.extend(own_drops(report));
    found.extend(other_headers(report));
    schedule(report, &mut found);
    if !blame::is_lossy(report) {
        processors(report, &mut found);
    }
    found.extend(forgotten(report));
    receive_times(report, &mut found);
    found.extend(local_errors(report));
    connections(report, &mut found);
    // nothing else ends a run without end
    if report.ended_early && !report.load.is_endless {
        found.push("ended early by a signal: the report covers the time until then".into());
    }
    found
}

/// Targets that nothing was sent to: each flow has one, and they take turns.
fn targets_without_flow(report: &Report) -> Option<String> {
    let load = &report.load;
    let addresses = |target: &String| {
        let host = target.rsplit_once(':').map_or(target.as_str(), |(host, _)| host);
        load.names.iter().find(|named| named.name == host).map_or(1, |named| named.addresses.len() as u64)
    };
    let targets: u64 = load.targets.iter().map(addresses).sum();
    let flows = u64::from(load.flows);
    // of each host of a fleet, only the sum of the flows is known
    let has_turns = load.spray != Some(true) && load.each_once.is_none() && load.run_ids.len() == 1;
    (has_turns && flows < targets).then(|| {
        format!(
            "only the first {} of {} are loaded, since there {} {} (use more {})",
            count(flows),
            counted(targets, "target"),
            if flows == 1 { "is" } else { "are" },
            load.counted_flows(),
            if load.protocol == "tcp" { "--connections" } else { "--flows" }
        )
    })
}

/// What is wrong, and how much of it blaster may have caused.
fn losses(report: &Report) -> Option<String> {
    let counts = &report.totals.counts;
    let bad = counts.not_ok();
    if bad == 0 {
        return None;
    }
    let kinds = counts.classes().filter(|(class, number)| *class != Class::Ok && *number > 0);
    let kinds: Vec<_> = kinds.map(|(class, number)| format!("{} {}", count(number), class.name())).collect();
    let own = OwnLosses::of(report);
    let blame = match own.most {
        0 => String::new(),
        most if most >= bad => format!("; blaster may have caused all of them: {}", own.causes.join(", ")),
        most => {
            format!("; blaster may have caused at most {} of them: {}", count(most), own.causes.join(", "))
        }
    };
    Some(format!(
        "{} of {} had no right reply in time: {}{blame}",
        count(bad),
        counted(counts.sent, report.load.unit()),
        kinds.join(", ")
    ))
}

/// Why the server's counters don't tell where datagrams were lost.
fn server(report: &Report) -> Option<String> {
    let server = report.server.as_ref()?;
    let is_tcp = report.load.protocol == "tcp";
    if let Some(why) = &server.unknown_because {
        return Some(format!("the server's counters don't tell anything of this run: {why}"));
    }
    if server.from_others > 0 {
        let (more, unit) = (count(server.from_others), if is_tcp { "bytes" } else { "datagrams" });
        let blame = if is_tcp { "" } else { ", so nobody knows on which way datagrams were lost" };
        return Some(format!(
            "others loaded the server meanwhile: at least {more} of the {unit} that it received are not blaster's{blame}"
        ));
    }
    (server.losses.is_none() && !is_tcp).then(|| {
        "others answered, too: more replies came than the server of --server-metrics sent, so nobody knows on which way \
         datagrams were lost"
            .into()
    })
}

fn own_drops(report: &Report) -> Option<String> {
    let own_drops = report.totals.own_drops;
    if own_drops == 0 {
        return None;
    }
    // socket(7): the kernel doubles the size that was asked for
    let given = report.generator.receive_buffer_bytes.unwrap_or(0) / 2;
    let raise = if given < RECEIVE_BUFFER_BYTES as u64 {
        format!("raise net.core.rmem_max to {RECEIVE_BUFFER_BYTES}, or ")
    } else {
        String::new()
    };
    let is_most_of_it = own_drops.saturating_mul(2) >= report.totals.counts.not_ok();
    Some(format!(
        "{}its own sockets dropped {}, and these count as lost (receive \
         buffers of {} bytes; {raise}use more --flows or --threads)",
        if is_most_of_it { "blaster was the bottleneck: " } else { "blaster lost some of them: " },
        counted(own_drops, "datagram"),
        count(given),
    ))
}

/// Replies with another DSCP than their requests. Who changed it is not known.
fn other_headers(report: &Report) -> Option<String> {
    let replies = report.replies.as_ref()?;
    let sent = report.load.packets.dscp.filter(|_| replies.other_dscp > 0)?;
    let others: Vec<_> =
        replies.dscp.iter().filter(|came| came.dscp != sent).map(|came| &*came.name).collect();
    Some(format!(
        "{} came with DSCP {}, sent with {}: a router changed it, on one of the two ways, or the server does not send it \
         back (a capture beside the server tells which)",
        counted(replies.other_dscp, "right reply"),
        others.join(", "),
        Dscp::of_class(sent << 2)
    ))
}

fn processors(report: &Report, found: &mut Vec<String>) {
    if let Some(busiest) = blame::busy(report) {
        found.push(format!(
            "blaster may be the bottleneck: one of its threads used {:.0}% of a core; the server may carry more \
             (use more --threads, or other processors than the server's)",
            busiest * 100.0
        ));
    }
    let Some(starved) = blame::starved(report) else { return };
    let starved = format!("{:.0}%", starved * 100.0);
    if !report.has_receive_times() {
        found.push(format!(
            "blaster was the bottleneck: one of its threads waited {starved} of the time for a processor that others used; \
             latency includes that, and late replies may have come in time (give blaster processors of its own)"
        ));
    } else if !report.load.is_scheduled() {
        // late sends of an open loop are its slip
        found.push(format!(
            "blaster may be the bottleneck: one of its threads waited {starved} of the time for a processor that others \
             used; the server may carry more (give blaster processors of its own)"
        ));
    }
}

fn schedule(report: &Report, found: &mut Vec<String>) {
    let generator = &report.generator;
    let elsewhere = if blame::most(&generator.cpu_share) < BUSY / 2.0 {
        ", though it used little of its processors: something else keeps them busy"
    } else {
        ""
    };
    if let Some(why) = others_kept_from_schedule(report) {
        found.push(why);
    } else if generator.unsent > 0 {
        found.push(format!(
            "blaster was the bottleneck: it never {} {} of the schedule, {} is more than it can do here{elsewhere}",
            if report.load.connects() { "made" } else { "sent" },
            counted(generator.unsent, report.load.due_unit()),
            match (report.load.rate_per_s, &report.load.rate_curve) {
                (Some(per_s), None) => format!("{}/s", count(per_s as u64)),
                (_, Some(curve)) => curve.clone(),
                (None, None) => "that".into(),
            },
        ));
    }
    let half_ns = report.latency.from_intended.as_ref().map(|latency| latency.p99_ns / 2);
    if let Some(slip_ns) = half_ns.and_then(|half_ns| blame::slip_that_explains(report, half_ns)) {
        found.push(format!(
            "blaster was the bottleneck: one {} in a hundred {} {} late or more; latency from the \
             intended send time includes that{elsewhere}",
            report.load.due_unit(),
            blame::left(report),
            duration(slip_ns)
        ));
    }
}

/// Why the schedule of a TCP run was not kept, if blaster is not the reason: no connection was left, or all were taken.
fn others_kept_from_schedule(report: &Report) -> Option<String> {
    /// If one in so many waited, latency shows it.
    const WAITED_MIN: u64 = 100;
    let connections = report.connections?;
    let unsent = report.generator.unsent;
    let never = || format!("{} of the schedule", counted(unsent, report.load.due_unit()));
    if report.load.connects() && connections.established == 0 && unsent > 0 {
        return Some(format!("given up, since no connection was established: {} were never made", never()));
    }
    if !report.load.connects() && connections.missed == connections.attempted && unsent > 0 {
        return Some(format!("no connection was left: {} were never sent", never()));
    }
    let waited = blame::waited(report)?;
    if unsent == 0 && waited < report.totals.counts.sent / WAITED_MIN {
        return None;
    }
    let unmade = if unsent > 0 { format!(", and {} were never made", never()) } else { String::new() };
    let slower = match report.load.rate_per_s.filter(|_| !blame::is_rate_kept(report)) {
        Some(wanted_per_s) => format!(
            " The rate was {}/s instead of {}/s.",
            rate(blame::tried_per_s(report)),
            rate(wanted_per_s)
        ),
        None => String::new(),
    };
    Some(format!(
        "{}: {} waited until one had ended{unmade}.{slower} Latency from the intended send time includes that wait \
         (use more --connections, unless the server is to be held to that many)",
        blame::all_taken(report),
        counted(waited, "new connection")
    ))
}

fn forgotten(report: &Report) -> Option<String> {
    let forgotten = report.generator.forgotten;
    (forgotten > 0).then(|| {
        format!(
            "blaster gave up {} before the timeout, to make room for newer ones: a reply after that is \
             unattributed (use more --flows or a shorter --timeout)",
            counted(forgotten, "datagram")
        )
    })
}

/// Receive times that were asked for and did not come.
fn receive_times(report: &Report, found: &mut Vec<String>) {
    let generator = &report.generator;
    if generator.clock_steps > 0 {
        found.push(format!(
            "somebody set this host's clock during the run ({} seen): the latency of datagrams on their way then ends when \
             blaster read their replies",
            counted(generator.clock_steps, "time")
        ));
    }
    if generator.unstamped > 0 && !report.has_receive_times() {
        found.push(format!(
            "the kernel told no receive time for {}: their latency ends when blaster read their replies",
            counted(generator.unstamped, "datagram")
        ));
    }
    let stamped = generator.reading_slip.as_ref().map_or(0, |slip| slip.count);
    if report.load.receive_time.as_deref() == Some("nic") && generator.stamped_by_nic < stamped {
        found.push(format!(
            "the NIC told no receive time for {}, so the kernel's counts: `ethtool -T` shows whether the NIC has a clock, and \
             `hwstamp_ctl -r 1` switches it on",
            counted(stamped - generator.stamped_by_nic, "datagram")
        ));
    }
}

/// What the local kernel refused.
fn local_errors(report: &Report) -> Option<String> {
    let has_failed = report.totals.counts.send_failures > 0;
    has_failed.then(|| format!("this host refused to send: {}", reasons(report)))
}

/// The errors of the kernel and their numbers.
fn reasons(report: &Report) -> String {
    let reasons = report.refusals.iter();
    let reasons = reasons.map(|error| format!("{} × {}", count(error.count), error.message));
    reasons.collect::<Vec<_>>().join(", ")
}

fn connections(report: &Report, found: &mut Vec<String>) {
    let Some(connections) = report.connections else { return };
    if let Some(no_port) = report.refusals.iter().find(|error| error.errno == libc::EADDRNOTAVAIL) {
        found.push(format!(
            "blaster was the bottleneck: it had no local port for {}{LOCAL_PORTS_USED_UP}",
            counted(no_port.count, "connection")
        ));
    }
    if connections.failed + connections.broken > 0 {
        found.push(format!(
            "{} failed and {} broke, of {} attempted",
            counted(connections.failed, "connection"),
            count(connections.broken),
            count(connections.attempted)
        ));
    }
    let left = report.load.count.map_or(0, |wanted| wanted.saturating_sub(report.totals.counts.sent));
    if left > 0 && report.load.duration_ns.is_none() && !report.ended_early {
        found.push(format!("given up: blaster never sent {} of --count", counted(left, "message")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::counts::{Connections, Counts};
    use crate::model::latency::Latency;
    use crate::report::sample::report;

    fn good() -> Report {
        report(Counts { sent: 10, ok: 10, ..Counts::default() })
    }

    #[test]
    fn a_good_run_warns_of_nothing() {
        assert_eq!(warnings(&good()), Vec::<String>::new());
    }

    #[test]
    fn each_defect_has_its_sentence() {
        type Spoil = fn(&mut Report);
        let cases: [(&str, Spoil); 8] = [
            ("do not add up", |report| report.totals.counts.lost += 1),
            ("its own sockets dropped", |report| report.totals.own_drops = 3),
            ("97% of a core", |report| report.generator.cpu_share = vec![0.1, 0.97]),
            ("30% of the time for a processor", |report| report.generator.starved_share = vec![0.0, 0.3]),
            ("never sent", |report| report.generator.unsent = 7),
            ("gave up 1 datagram before the timeout", |report| report.generator.forgotten = 1),
            ("refused to send", |report| report.totals.counts.send_failures = 1),
            ("ended early", |report| report.ended_early = true),
        ];
        for (words, spoil) in cases {
            let mut report = good();
            spoil(&mut report);
            let found = warnings(&report);
            assert!(found.len() == 1 && found[0].contains(words), "{words}: {found:?}");
        }
        for (bytes, can_be_raised) in [(425_984, true), (8 << 20, false)] {
            let mut report = good();
            report.totals.own_drops = 3;
            report.generator.receive_buffer_bytes = Some(bytes);
            assert_eq!(
                warnings(&report)[0].contains("raise net.core.rmem_max to 4194304"),
                can_be_raised,
                "{bytes}"
            );
        }
        let mut slip = Latency::new();
        slip.record(5_000_000);
        let mut report = good();
        report.generator.slip = slip.summary();
        assert!(warnings(&report)[0].contains("late or more"));
    }

    /// What is wrong comes first, and blaster is the bottleneck only where it can explain it.
    #[test]
    fn a_late_blaster_is_no_headline_over_a_dead_or_stalled_server() {
        let all_took = |ms: u64| {
            let mut latency = Latency::new();
            latency.record(ms * 1_000_000);
            latency.summary()
        };
        let mut dead = report(Counts { sent: 1_000, lost: 1_000, ..Counts::default() });
        dead.generator.slip = all_took(3);
        dead.generator.cpu_share = vec![1.0];
        dead.generator.starved_share = vec![0.3];
        assert_eq!(
            warnings(&dead),
            [
                "1,000 of 1,000 datagrams had no right reply in time: 1,000 lost",
                causes::causes(&dead)[0].as_str()
            ],
            "a dead server"
        );
        let mut stalled = report(Counts { sent: 1_000, ok: 1_000, ..Counts::default() });
        stalled.generator.slip = all_took(3);
        stalled.latency.from_actual = all_took(265);
        stalled.latency.from_intended = all_took(268);
        assert_eq!(warnings(&stalled), Vec::<String>::new(), "a stalled server");
        let mut own = stalled.clone();
        own.generator.slip = all_took(200);
        own.latency.from_actual = all_took(5);
        own.latency.from_intended = all_took(205);
        assert!(warnings(&own)[0].starts_with("blaster was the bottleneck: one datagram in a hundred"));
    }

    #[test]
    fn how_much_of_the_losses_may_be_blasters_is_told() {
        let counts = Counts { sent: 1_000, ok: 900, lost: 60, late: 40, ..Counts::default() };
        for (own_drops, blame, drops) in [
            (0, "40 late, 60 lost", None),
            (
                3,
                "60 lost; blaster may have caused at most 3 of them: its own sockets dropped 3",
                Some("blaster lost some of them: its own"),
            ),
            (
                100,
                "60 lost; blaster may have caused all of them: its own sockets dropped 100",
                Some("blaster was the bottleneck: its own"),
            ),
        ] {
            let mut report = report(counts);
            report.totals.own_drops = own_drops;
            let found = warnings(&report);
            assert!(found[0].starts_with("100 of 1,000 datagrams") && found[0].ends_with(blame), "{found:?}");
            assert_eq!(found.len(), 1 + usize::from(drops.is_some()), "{found:?}");
            assert!(drops.is_none_or(|drops| found[1].starts_with(drops)), "{found:?}");
        }
    }

    /// A run of TCP at 1,000/s.
    fn tcp(mode: &str, connections: Connections) -> Report {
        let mut report = report(Counts { sent: 1_000, ok: 1_000, ..Counts::default() });
        report.load.protocol = "tcp".into();
        report.load.mode = mode.into();
        report.load.rate_per_s = Some(1_000.0);
        report.load.flows = 16;
        report.connections = Some(connections);
        report
    }

    #[test]
    fn warnings_of_tcp_speak_of_messages_and_connections() {
        let slow = |mode: &str| {
            let mut report =
                tcp(mode, Connections { attempted: 9, established: 9, ..Connections::default() });
            let mut slip = Latency::new();
            slip.record(5_000_000);
            report.generator.slip = slip.summary();
            report.generator.unsent = 7;
            warnings(&report)
        };
        let (open, connect) = (slow("open"), slow("connect"));
        assert!(
            open[0].contains("it never sent 7 messages of the schedule, 1,000/s is more than"),
            "{open:?}"
        );
        assert!(open[1].contains("one message in a hundred left "), "{open:?}");
        assert!(connect[0].contains("it never made 7 connections of the schedule"), "{connect:?}");
        assert!(connect[1].contains("one connection in a hundred began "), "{connect:?}");
        assert!([open, connect].concat().iter().all(|line| !line.contains("datagram")));
        let mut late = tcp("open", Connections::default());
        late.totals.counts = Counts { sent: 10, ok: 9, late: 1, ..Counts::default() };
        assert!(warnings(&late)[0].contains("1 of 10 messages had no right reply"), "{:?}", warnings(&late));
    }

    #[test]
    fn connections_that_are_taken_or_gone_are_no_bottleneck_of_blasters() {
        let taken =
            Connections { attempted: 1_000, established: 1_000, waited: 400, ..Connections::default() };
        let mut report = tcp("connect", taken);
        assert_eq!(
            warnings(&report),
            [
                "all 16 connections were taken: 400 new connections waited until one had ended. Latency from the \
              intended send time includes that wait (use more --connections, unless the server is to be held to that \
              many)"
            ]
        );
        (report.totals.sent_per_s, report.generator.unsent) = (500.0, 300);
        let found = warnings(&report);
        assert!(
            found[0].contains(
                "had ended, and 300 connections of the schedule were never made. The rate was 500/s instead of 1,000/s."
            ),
            "{found:?}"
        );
        let few = tcp("connect", Connections { waited: 9, ..taken });
        assert_eq!(warnings(&few), Vec::<String>::new(), "nobody sees that in a latency");
        let mut gone =
            tcp("open", Connections { attempted: 16, established: 16, missed: 16, ..Connections::default() });
        gone.generator.unsent = 2;
        assert_eq!(warnings(&gone), ["no connection was left: 2 messages of the schedule were never sent"]);
        let mut dead = tcp("connect", Connections { attempted: 100, ..Connections::default() });
        dead.generator.unsent = 900;
        assert_eq!(
            warnings(&dead),
            [
                "given up, since no connection was established: 900 connections of the schedule were never made"
            ]
        );
    }
}
