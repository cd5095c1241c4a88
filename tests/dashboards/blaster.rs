//! What the dashboard and the rules of a blaster that runs all the time have in common.

pub mod panels;
pub mod rules;

/// A percentile of a histogram by instance and protocol.
fn percentile(quantile: &str, family: &str, matchers: &str, range: &str) -> String {
    let rate = format!("sum by (job, instance, protocol, le) (rate({family}_bucket{matchers}{range}))");
    format!("histogram_quantile({quantile}, {rate})")
}
