//! The headers of right replies, in the report.

use serde::{Deserialize, Serialize};

use crate::model::dscp::Dscp;
use crate::model::reply_headers::ReplyHeaders;

/// The headers that right replies came with. A server need not send the DSCP of a request back, so that another one is no
/// fault by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Replies {
    /// Right replies with another DSCP than the requests were sent with.
    pub(crate) other_dscp: u64,
    /// Right replies with ECN bits; the requests had none.
    pub(crate) other_ecn: u64,
    pub(crate) dscp: Vec<DscpCount>,
    pub(crate) ecn: Vec<EcnCount>,
    pub(crate) ttl: Vec<TtlCount>,
}

/// Replies with one DSCP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct DscpCount {
    /// From 0 to 63.
    pub(crate) dscp: u8,
    /// With its name: `EF (46)`.
    pub(crate) name: String,
    pub(crate) count: u64,
}

/// Replies with one value of the ECN bits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct EcnCount {
    /// 0: not capable, 1 and 2: capable, 3: congestion experienced (RFC 3168).
    pub(crate) ecn: u8,
    pub(crate) count: u64,
}

/// Replies with one TTL (IPv6: hop limit).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct TtlCount {
    pub(crate) ttl: u8,
    pub(crate) count: u64,
}

impl Replies {
    /// The headers of replies to requests with the DSCP `sent`.
    pub(crate) fn new(sent: u8, headers: &ReplyHeaders) -> Self {
        let mut replies = Self::default();
        for (class, count) in headers.classes() {
            let (dscp, ecn) = (Dscp::of_class(class), class & 3);
            replies.add(&Self {
                other_dscp: if dscp.number() == sent { 0 } else { count },
                other_ecn: if ecn == 0 { 0 } else { count },
                dscp: vec![DscpCount { dscp: dscp.number(), name: dscp.to_string(), count }],
                ecn: vec![EcnCount { ecn, count }],
                ttl: Vec::new(),
            });
        }
        replies.ttl = headers.ttls().map(|(ttl, count)| TtlCount { ttl, count }).collect();
        replies
    }

    /// The sum of these parts. `None`: there is none.
    pub(crate) fn sum<'a>(parts: impl Iterator<Item = &'a Self>) -> Option<Self> {
        parts.fold(None, |sum, part| {
            let mut sum = sum.unwrap_or_default();
            sum.add(part);
            Some(sum)
        })
    }

    fn add(&mut self, other: &Self) {
        self.other_dscp += other.other_dscp;
        self.other_ecn += other.other_ecn;
        for part in &other.dscp {
            match self.dscp.iter_mut().find(|sum| sum.dscp == part.dscp) {
                Some(sum) => sum.count += part.count,
                None => self.dscp.push(part.clone()),
            }
        }
        for part in &other.ecn {
            match self.ecn.iter_mut().find(|sum| sum.ecn == part.ecn) {
                Some(sum) => sum.count += part.count,
                None => self.ecn.push(part.clone()),
            }
        }
        for part in &other.ttl {
            match self.ttl.iter_mut().find(|sum| sum.ttl == part.ttl) {
                Some(sum) => sum.count += part.count,
                None => self.ttl.push(part.clone()),
            }
        }
        self.dscp.sort_by_key(|it| it.dscp);
        self.ecn.sort_by_key(|it| it.ecn);
        self.ttl.sort_by_key(|it| it.ttl);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::counts::Counts;
    use crate::model::reply_headers::ReceivedHeaders;
    use crate::report::sample::{facts, results};
    use crate::report::schema::Report;

    fn report(sent: Option<u8>, came: &[(u8, u8)]) -> Report {
        let mut results = results(Counts { sent: 9, ok: 9, ..Counts::default() });
        for (class, ttl) in came {
            let headers = ReceivedHeaders { traffic_class: Some(*class), ttl: Some(*ttl) };
            results.reply_headers.note(headers);
        }
        let mut facts = facts();
        facts.load.packets.dscp = sent;
        Report::new(facts, &results)
    }

    #[test]
    fn other_values_than_those_sent_are_counted() {
        let one = report(Some(46), &[(0xb8, 64), (0xb8, 63), (0, 63), (0xbb, 64)]);
        let replies = one.replies.clone().unwrap();
        assert_eq!((replies.other_dscp, replies.other_ecn), (1, 1));
        let values: Vec<_> = replies.dscp.iter().map(|it| (it.name.as_str(), it.count)).collect();
        assert_eq!(values, [("CS0 (0)", 1), ("EF (46)", 3)]);
        assert_eq!(replies.ttl, [TtlCount { ttl: 63, count: 2 }, TtlCount { ttl: 64, count: 2 }]);
        // the same twice is twice as much
        let twice = Replies::sum([&one, &one].into_iter().filter_map(|it| it.replies.as_ref())).unwrap();
        assert_eq!((twice.other_dscp, twice.other_ecn), (2, 2));
        assert_eq!(twice.dscp.iter().map(|it| it.count).sum::<u64>(), 8);
        assert_eq!(twice.ttl.iter().map(|it| it.count).sum::<u64>(), 8);
    }

    #[test]
    fn nothing_is_told_that_was_not_asked_for() {
        assert_eq!(report(None, &[]).replies, None);
        assert_eq!(Replies::sum(std::iter::empty()), None);
    }
}
