//! `--server-metrics`: where datagrams were lost, by the counts of both ends.
//!
//! ```text
//!    blaster             the way there        the server          the way back        blaster
//!    sent ─────────────────────────────► received ─► sent ─────────────────────────► came back
//! ```
//!
//! Each difference is a loss. It is exact if nobody else loads the server, and nobody else answers.

use crate::model::counts::Counts;
use crate::model::server_counts::{ServerCounts, ServerSample};
use crate::report::schema::{LossesByPlace, Report, Server};

impl Server {
    /// The server's part of a run. `after`: the counters after it, or why they can't be read.
    pub(crate) fn new(
        url: String,
        before: &ServerSample,
        after: Result<ServerSample, String>,
        report: &Report,
    ) -> Self {
        let version = before.version.clone();
        let unknown = |why: String| Self { unknown_because: Some(why), ..Self::default() };
        let server = match after {
            Err(error) => unknown(error),
            Ok(after) => match after.since(before) {
                None => unknown("it restarted during the run, and its counters began again".into()),
                Some(counts) => Self::of(counts, report),
            },
        };
        Self { url, version, ..server }
    }

    fn of(counts: ServerCounts, report: &Report) -> Self {
        let mut all = report.totals.counts;
        all += &report.warmup;
        let is_tcp = report.load.protocol == "tcp";
        let from_others = if is_tcp {
            counts.received_bytes.saturating_sub(all.bytes_sent)
        } else {
            datagrams_of_others(&counts, &all, &report.load.size)
        };
        let echoes = if is_tcp { all.answered() } else { counts.sent };
        Self {
            cpu_ns_per_echo: (echoes > 0).then(|| counts.cpu_ns as f64 / echoes as f64),
            losses: if is_tcp || from_others > 0 { None } else { losses(&counts, &all) },
            from_others,
            counts: Some(counts),
            ..Self::default()
        }
    }
}

/// Datagrams of others, at least. Where the number alone does not show them, their sizes may.
fn datagrams_of_others(counts: &ServerCounts, all: &Counts, size: &str) -> u64 {
    let too_many = counts.received.saturating_sub(all.sent);
    let has_other_sizes =
        size.parse().is_ok_and(|size: u64| counts.received.saturating_mul(size) != counts.received_bytes);
    too_many.max(u64::from(has_other_sizes))
}

/// `None`: more came back than the server sent, so others answer as well.
fn losses(counts: &ServerCounts, all: &Counts) -> Option<LossesByPlace> {
    let came_back = all.answered() + all.duplicated;
    Some(LossesByPlace {
        on_the_way_there: all.sent.checked_sub(counts.received)?,
        in_the_server: counts.received.checked_sub(counts.sent)?,
        on_the_way_back: counts.sent.checked_sub(came_back)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::server_counts::Sockets;
    use crate::report::sample;

    fn sample_of(received: u64, sent: u64, bytes: u64, started_s: u64) -> ServerSample {
        let text = format!(
            "tubular_echo_build_info{{version=\"1\"}} 1\nprocess_start_time_seconds {started_s}\n\
             process_cpu_seconds_total {}\n\
             tubular_echo_received_datagrams_total{{domain=\"ipv4\",protocol=\"udp\"}} {received}\n\
             tubular_echo_sent_datagrams_total{{domain=\"ipv4\",protocol=\"udp\"}} {sent}\n\
             tubular_echo_received_bytes_total{{domain=\"ipv4\",protocol=\"udp\"}} {bytes}\n",
            received as f64 / 1e6,
        );
        ServerSample::read(&text, Sockets { protocol: "udp", ipv4: true, ipv6: false }).unwrap()
    }

    fn judge(counts: Counts, received: u64, sent: u64, bytes: u64) -> Server {
        let before = sample_of(50, 40, 7_000, 1);
        let after = sample_of(50 + received, 40 + sent, 7_000 + bytes, 1);
        Server::new("u".into(), &before, Ok(after), &sample::report(counts))
    }

    #[test]
    fn each_loss_has_its_place() {
        let counts = Counts { sent: 1_000, ok: 886, corrupted: 2, late: 10, lost: 102, ..Counts::default() };
        let server = judge(counts, 940, 930, 940 * 64);
        let wanted = LossesByPlace { on_the_way_there: 60, in_the_server: 10, on_the_way_back: 32 };
        assert_eq!((server.losses, server.from_others), (Some(wanted), 0));
        assert!((server.cpu_ns_per_echo.unwrap() - 940.0 * 1_000.0 / 930.0).abs() < 1.0);
        // copies of replies came back, too
        let doubled = Counts { duplicated: 5, ..counts };
        assert_eq!(judge(doubled, 940, 935, 940 * 64).losses.unwrap().on_the_way_back, 32);
    }

    #[test]
    fn what_others_do_is_noticed() {
        let counts = Counts { sent: 1_000, ok: 900, lost: 100, ..Counts::default() };
        let more = judge(counts, 1_010, 1_010, 1_010 * 64);
        assert_eq!((more.from_others, more.losses), (10, None));
        let hidden = judge(counts, 950, 950, 950 * 64 + 1);
        assert_eq!((hidden.from_others, hidden.losses), (1, None), "other sizes");
        let others_answer = judge(counts, 400, 400, 400 * 64);
        assert_eq!((others_answer.from_others, others_answer.losses), (0, None));
    }

    #[test]
    fn another_process_tells_nothing() {
        let counts = Counts { sent: 10, ok: 10, ..Counts::default() };
        let before = sample_of(50, 40, 7_000, 1);
        for after in [Ok(sample_of(90, 80, 9_000, 9)), Ok(sample_of(10, 10, 640, 1)), Err("why".into())] {
            let server = Server::new("u".into(), &before, after, &sample::report(counts));
            assert!(server.counts.is_none() && server.losses.is_none() && server.unknown_because.is_some());
        }
    }
}
