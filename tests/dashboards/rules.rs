//! Rules of Prometheus, and promtool's tests of them.

use std::fmt::Write;

/// Rules of one program: one file.
pub struct Rules {
    /// The name of the file and of its group.
    pub name: &'static str,
    pub records: Vec<Record>,
    pub alerts: Vec<Alert>,
}

/// A recording rule.
pub struct Record {
    pub name: &'static str,
    pub query: &'static str,
    /// Whether the load of the test makes it rise above 0.
    pub moves: bool,
}

/// An alert, with a case in which it fires and one that is close but quiet.
pub struct Alert {
    pub name: &'static str,
    /// Something is broken now; if not, it can wait until the morning.
    pub is_urgent: bool,
    pub query: String,
    pub wait: &'static str,
    /// What is wrong, with Prometheus's templates.
    pub summary: &'static str,
    /// The heading of docs/troubleshooting.md.
    pub runbook: &'static str,
    pub fires: Case,
    /// The labels of the alert that fires, and its summary.
    pub told: (&'static [(&'static str, &'static str)], &'static str),
    pub quiet: Case,
}

/// Series of promtool, one value a minute, and when to look.
pub struct Case(pub &'static [(&'static str, &'static str)], pub &'static str);

impl Rules {
    /// The file.
    pub fn yaml(&self) -> String {
        let mut text = format!(
            "# Made by ci/dashboards from tests/dashboards: change it there. runbook_url is a path in this repository.\n\
             groups:\n  - name: {}\n    rules:\n",
            self.name
        );
        for record in &self.records {
            writeln!(text, "      - record: {}\n        expr: |-\n          {}", record.name, record.query)
                .unwrap();
        }
        for alert in &self.alerts {
            writeln!(text, "      - alert: {}\n        expr: |-\n          {}", alert.name, alert.query)
                .unwrap();
            if alert.wait != "0m" {
                writeln!(text, "        for: {}", alert.wait).unwrap();
            }
            writeln!(text, "        labels:\n          severity: {}", alert.severity()).unwrap();
            writeln!(
                text,
                "        annotations:\n          summary: {:?}\n          runbook_url: {}",
                alert.summary,
                alert.runbook_url()
            )
            .unwrap();
        }
        text
    }

    /// promtool's tests of the alerts in the file `path`.
    pub fn tests(&self, path: &str) -> String {
        let mut text =
            format!("rule_files: [{path}]\nevaluation_interval: 1m\ntests:\n", path = yaml_string(path));
        for alert in &self.alerts {
            for (Case(series, at), is_firing) in [(&alert.fires, true), (&alert.quiet, false)] {
                writeln!(text, "  - interval: 1m\n    input_series:").unwrap();
                for (series, values) in *series {
                    writeln!(
                        text,
                        "      - series: {}\n        values: {}",
                        yaml_string(series),
                        yaml_string(values)
                    )
                    .unwrap();
                }
                writeln!(
                    text,
                    "    alert_rule_test:\n      - eval_time: {at}\n        alertname: {}\n        exp_alerts:{}",
                    alert.name,
                    if is_firing { "" } else { " []" }
                )
                .unwrap();
                if is_firing {
                    text.push_str(&alert.expected());
                }
            }
        }
        text
    }
}

impl Alert {
    fn severity(&self) -> &'static str {
        if self.is_urgent { "critical" } else { "warning" }
    }

    fn runbook_url(&self) -> String {
        format!("docs/troubleshooting.md#{}", self.runbook)
    }

    fn expected(&self) -> String {
        let (labels, summary) = self.told;
        let mut text = format!("          - exp_labels:\n              severity: {}\n", self.severity());
        for (name, value) in labels {
            writeln!(text, "              {name}: {}", yaml_string(value)).unwrap();
        }
        writeln!(
            text,
            "            exp_annotations:\n              summary: {}\n              runbook_url: {}",
            yaml_string(summary),
            self.runbook_url()
        )
        .unwrap();
        text
    }
}

/// A string in YAML's single quotes.
fn yaml_string(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
