//! The families, labels and values that a program serves, and whether a query names only these.

use std::collections::{BTreeMap, BTreeSet};

use super::support::metrics;

/// Labels that Prometheus adds to each sample and each alert.
const OWN_LABELS: [&str; 2] = ["instance", "job"];
/// Labels whose values the operator chooses.
const FREE_LABELS: [&str; 8] =
    ["destination", "instance", "job", "label", "alertname", "target", "version", "worker"];
/// The words of PromQL that our queries use.
const WORDS: [&str; 22] = [
    "sum",
    "max",
    "min",
    "count",
    "by",
    "on",
    "and",
    "or",
    "unless",
    "without",
    "rate",
    "increase",
    "changes",
    "ignoring",
    "group_left",
    "time",
    "bool",
    "histogram_quantile",
    "clamp_min",
    "avg",
    "le",
    "vector",
];

/// What one program serves at `/metrics`.
#[derive(Default)]
pub struct Definition {
    families: BTreeMap<String, BTreeMap<String, BTreeSet<String>>>,
    recorded: BTreeSet<String>,
}

impl Definition {
    /// Reads a scrape.
    pub fn of(scrape: &str) -> Self {
        let mut families: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
        for sample in metrics::read(scrape).keys() {
            let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
            let family = families.entry(name.into()).or_default();
            for (label, value) in labels.trim_end_matches('}').split(',').filter_map(|l| l.split_once('=')) {
                family.entry(label.into()).or_default().insert(value.trim_matches('"').into());
            }
        }
        families.insert("up".into(), BTreeMap::new());
        Self { families, recorded: BTreeSet::new() }
    }

    /// The same, with the results of recording rules.
    #[must_use]
    pub fn with(mut self, recorded: impl IntoIterator<Item = &'static str>) -> Self {
        self.recorded.extend(recorded.into_iter().map(str::to_owned));
        self
    }

    /// The names of all families.
    pub fn families(&self) -> impl Iterator<Item = &str> {
        self.families.keys().map(String::as_str).filter(|name| *name != "up")
    }

    /// The values of a label of a family.
    pub fn values(&self, family: &str, label: &str) -> BTreeSet<String> {
        self.families[family][label].clone()
    }

    /// Every name in a query that does not exist.
    pub fn complaints(&self, query: &str) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut rest = query;
        while let Some(at) = rest.find(|c: char| c.is_ascii_alphabetic()) {
            let before = rest[..at].chars().next_back();
            rest = &rest[at..];
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"_:".contains(c));
            let (name, after) = rest.split_at(end.unwrap_or(rest.len()));
            rest = after;
            if before.is_some_and(|c| c.is_ascii_digit() || "$_".contains(c)) {
                continue; // the unit of a duration, a variable of Grafana
            }
            let is_label = OWN_LABELS.contains(&name)
                || self.families.values().any(|family| family.contains_key(name))
                || name == "label";
            let is_known = self.families.contains_key(name) || self.recorded.contains(name);
            if !is_known && !is_label && !WORDS.contains(&name) {
                complaints.push(format!("nothing is named {name}: {query}"));
            }
            if let Some(matchers) = after.strip_prefix('{') {
                let (matchers, after) = matchers.split_once('}').expect("a closing brace");
                for matcher in matchers.split(',') {
                    complaints.extend(self.wrong(name, matcher.trim()));
                }
                rest = after;
            }
        }
        complaints
    }

    /// Why a matcher can't match.
    fn wrong(&self, family: &str, matcher: &str) -> Vec<String> {
        let (label, values) = matcher.split_once('=').expect("a matcher");
        let (label, values) = (label.trim_end_matches('!'), values.trim_start_matches('~').trim_matches('"'));
        if FREE_LABELS.contains(&label) {
            return Vec::new();
        }
        // what a rule records may have the labels of any family
        let is_recorded = self.recorded.contains(family);
        let families = self.families.iter().filter(|(name, _)| is_recorded || *name == family);
        let served: BTreeSet<_> = families.filter_map(|(_, labels)| labels.get(label)).flatten().collect();
        if served.is_empty() {
            return vec![format!("{family} has no label {label}")];
        }
        let unknown = values.split('|').filter(|value| !served.iter().any(|one| one == value));
        unknown.map(|value| format!("{family}: {label} is never {value}")).collect()
    }
}
