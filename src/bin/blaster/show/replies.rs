//! The headers of right replies, in words.

use crate::model::dscp::Dscp;
use crate::model::units::count;
use crate::report::replies::Replies;
use crate::report::schema::Report;

/// So many different TTLs are shown.
const SHOWN: usize = 5;

/// One line: its name, how many replies it stands for, and what they came with.
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) count: u64,
    pub(crate) note: String,
    /// It differs from what was sent.
    pub(crate) differs: bool,
}

/// A line for each DSCP, for ECN bits that came, and for the TTLs. Empty: the run did not ask for them.
pub(crate) fn lines(report: &Report) -> Vec<Line> {
    let Some(replies) = &report.replies else { return Vec::new() };
    let mut lines = dscp(report, replies);
    lines.extend(ecn(replies));
    lines.extend(ttl(replies));
    lines
}

fn dscp(report: &Report, replies: &Replies) -> Vec<Line> {
    let sent = report.load.packets.dscp.unwrap_or(0);
    let line = |came: &crate::report::replies::DscpCount| Line {
        name: "reply DSCP",
        count: came.count,
        note: if came.dscp == sent {
            format!("{}, as sent", came.name)
        } else {
            format!("{}, sent with {}", came.name, Dscp::of_class(sent << 2))
        },
        differs: came.dscp != sent,
    };
    replies.dscp.iter().map(line).collect()
}

fn ecn(replies: &Replies) -> impl Iterator<Item = Line> {
    let came = replies.ecn.iter().filter(|came| came.ecn != 0);
    came.map(|came| Line {
        name: "reply ECN",
        count: came.count,
        note: match came.ecn {
            3 => "congestion experienced (CE), sent without ECN".into(),
            capable => format!("ECT({}), sent without ECN", capable & 1),
        },
        differs: true,
    })
}

fn ttl(replies: &Replies) -> Option<Line> {
    let all = &replies.ttl;
    let mut most: Vec<_> = all.iter().collect();
    most.sort_by_key(|it| std::cmp::Reverse(it.count));
    let mut notes: Vec<String> = match most.as_slice() {
        [] => return None,
        [only] => vec![only.ttl.to_string()],
        several => several.iter().take(SHOWN).map(|it| format!("{} ({})", it.ttl, count(it.count))).collect(),
    };
    if all.len() > SHOWN {
        notes.push(format!("{} others", all.len() - SHOWN));
    }
    let sum = all.iter().map(|it| it.count).fold(0, u64::saturating_add);
    Some(Line { name: "reply TTL", count: sum, note: notes.join(", "), differs: false })
}
