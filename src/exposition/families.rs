//! Families of metrics, and Prometheus's text format of them (version 0.0.4).

use prometheus::TextEncoder;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::process;

/// Families in the order of their first metric. The format demands that all metrics of a family stand together.
#[derive(Debug, Default)]
pub struct Families(Vec<MetricFamily>);

/// A histogram: for each upper bound in seconds, the number of durations up to it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Durations {
    /// Upper bounds in ascending order, without infinity; and how many durations were not longer.
    pub up_to: Vec<(f64, u64)>,
    /// The number of all durations.
    pub count: u64,
    /// Their sum in seconds.
    pub sum_s: f64,
}

impl Families {
    /// Adds a counter.
    pub fn counter(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        let mut counter = Counter::default();
        counter.set_value(value);
        let mut metric = Metric::default();
        metric.set_counter(counter);
        self.add(name, help, MetricType::COUNTER, labels, metric);
    }

    /// Adds a value that can go down.
    pub fn gauge(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = Metric::default();
        metric.set_gauge(gauge);
        self.add(name, help, MetricType::GAUGE, labels, metric);
    }

    /// Adds a histogram.
    pub fn histogram(&mut self, name: &str, help: &str, labels: &[(&str, &str)], durations: &Durations) {
        let mut histogram = Histogram::default();
        histogram.set_sample_count(durations.count);
        histogram.set_sample_sum(durations.sum_s);
        let bucket = |&(upper_bound, count): &(f64, u64)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(upper_bound);
            bucket.set_cumulative_count(count);
            bucket
        };
        histogram.set_bucket(durations.up_to.iter().map(bucket).collect());
        let mut metric = Metric::default();
        metric.set_histogram(histogram);
        self.add(name, help, MetricType::HISTOGRAM, labels, metric);
    }

    /// Adds the `process_…` metrics of this process. It started at `start_s` (seconds since 1970); `open_files_max` is its
    /// limit of open files.
    pub fn process(&mut self, start_s: f64, open_files_max: Option<u64>) {
        for metric in process::metrics(start_s, open_files_max) {
            if metric.is_counter {
                self.counter(metric.name, metric.help, &[], metric.value);
            } else {
                self.gauge(metric.name, metric.help, &[], metric.value);
            }
        }
    }

    fn add(&mut self, name: &str, help: &str, kind: MetricType, labels: &[(&str, &str)], mut metric: Metric) {
        metric.set_label(labels.iter().map(|(name, value)| label(name, value)).collect());
        if let Some(family) = self.0.iter_mut().find(|family| family.name() == name) {
            family.mut_metric().push(metric);
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(name.into());
        family.set_help(help.into());
        family.set_field_type(kind);
        family.set_metric(vec![metric]);
        self.0.push(family);
    }

    /// All of them as text.
    pub fn text(&self) -> String {
        TextEncoder::new().encode_to_string(&self.0).expect("every family has a name and a metric")
    }
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.into());
    pair.set_value(value.into());
    pair
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_in_prometheus_text() {
        let mut families = Families::default();
        families.counter("a_total", "A.", &[("x", "1")], 3.0);
        families.gauge("b", "B.", &[], 0.5);
        // of the first family again: it stands with its like
        families.counter("a_total", "A.", &[("x", "2\"")], 4.0);
        let durations = Durations { up_to: vec![(0.25, 1), (0.5, 3)], count: 4, sum_s: 2.25 };
        families.histogram("c_seconds", "C.", &[("x", "1")], &durations);
        let text = families.text();
        let wanted = "# HELP a_total A.\n# TYPE a_total counter\na_total{x=\"1\"} 3\na_total{x=\"2\\\"\"} 4\n\
            # HELP b B.\n# TYPE b gauge\nb 0.5\n\
            # HELP c_seconds C.\n# TYPE c_seconds histogram\nc_seconds_bucket{x=\"1\",le=\"0.25\"} 1\n\
            c_seconds_bucket{x=\"1\",le=\"0.5\"} 3\nc_seconds_bucket{x=\"1\",le=\"+Inf\"} 4\n\
            c_seconds_sum{x=\"1\"} 2.25\nc_seconds_count{x=\"1\"} 4\n";
        assert_eq!(text, wanted);
    }
}
