//! The address of a server's metrics: `http://HOST:PORT/metrics`.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use crate::model::given_target::GivenTarget;
use crate::model::target::{Target, TargetError};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MetricsUrlError {
    #[error("{0:?} is not http://HOST:PORT/metrics, which the server's --metrics ADDR:PORT serves")]
    Shape(String),
    #[error(transparent)]
    Address(#[from] TargetError),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MetricsUrl {
    /// One port of one host.
    target: GivenTarget,
    path: String,
}

impl MetricsUrl {
    pub(crate) fn target(&self) -> &GivenTarget {
        &self.target
    }

    /// The addresses of the host; none if it has a name that was not looked up yet.
    pub(crate) fn addrs(&self) -> Vec<SocketAddr> {
        self.target.targets().iter().filter_map(Target::single).collect()
    }

    /// Notes the addresses of its name.
    pub(crate) fn find(&mut self, addresses: &[SocketAddr]) {
        self.target.find(addresses);
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Refuses multicast, broadcast and the like, and without `--allow-public` also public addresses.
    pub(crate) fn check_allowed(&self, allow_public: bool) -> Result<(), TargetError> {
        self.target.check_allowed(allow_public)
    }
}

impl FromStr for MetricsUrl {
    type Err = MetricsUrlError;

    fn from_str(text: &str) -> Result<Self, MetricsUrlError> {
        let shape = || MetricsUrlError::Shape(text.into());
        let rest = text.strip_prefix("http://").ok_or_else(shape)?;
        let (host, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let path = if path.len() > 1 { path } else { "/metrics" };
        if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(shape());
        }
        let target: GivenTarget = host.parse()?;
        if target.has_one_port() { Ok(Self { target, path: path.into() }) } else { Err(shape()) }
    }
}

impl fmt::Display for MetricsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.target, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_an_address_of_metrics() {
        for (text, shown) in [
            ("http://127.0.0.1:9469/metrics", "http://127.0.0.1:9469/metrics"),
            ("http://127.0.0.1:9469", "http://127.0.0.1:9469/metrics"),
            ("http://127.0.0.1:9469/", "http://127.0.0.1:9469/metrics"),
            ("http://localhost:9469", "http://localhost:9469/metrics"),
            ("http://[::1]:9469/elsewhere?a=b", "http://[::1]:9469/elsewhere?a=b"),
        ] {
            let url: MetricsUrl = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(url.to_string(), shown);
        }
        for text in [
            "",
            "127.0.0.1:9469",
            "https://127.0.0.1:9469/metrics",
            "http://localhost/metrics",
            "http://localhost:any/metrics",
            "http://[localhost]:9469/metrics",
            "http://127.0.0.1/metrics",
            "http://127.0.0.0/8:9469/metrics",
            "http://127.0.0.1:any/metrics",
            "http://127.0.0.1:9469/a b",
            "http://127.0.0.1:9469/\r\n",
        ] {
            let error = text.parse::<MetricsUrl>().expect_err(text).to_string();
            assert!(!error.contains('\n'), "{text}: {error}");
        }
    }

    #[test]
    fn only_allowed_ones_are_asked() {
        let allowed = |text: &str, public| text.parse::<MetricsUrl>().unwrap().check_allowed(public).is_ok();
        assert!(allowed("http://10.0.0.1:9469", false));
        assert!(!allowed("http://8.8.8.8:9469", false) && allowed("http://8.8.8.8:9469", true));
        assert!(!allowed("http://224.0.0.1:9469", true));
    }
}
