//! Rules of Prometheus, and promtool's tests of them.

use std::fmt::Write;

/// Rules of one program: one file.
pub struct Rules {
    /// The name of the file, of its group, and of the job in promtool's tests.
    pub name: &'static str,
    pub records: Vec<Record>,
    pub alerts: Vec<Alert>,
}

/// A recording rule. The load of the test makes it rise above 0.
pub struct Record {
    pub name: &'static str,
    pub query: String,
}

pub fn record(name: &'static str, query: impl Into<String>) -> Record {
    Record { name, query: query.into() }
}

/// An alert, with a case in which it fires and one that is close but quiet.
#[derive(Default)]
pub struct Alert {
    pub name: &'static str,
    /// Something is broken now; if not, it can wait until the morning.
    is_urgent: bool,
    pub query: String,
    pub wait: &'static str,
    /// What is wrong, with Prometheus's templates.
    summary: &'static str,
    /// The heading of docs/troubleshooting.md.
    runbook: &'static str,
    fires: Case,
    /// The labels of the alert that fires, beside its job and its instance, and its value as the summary writes it.
    told: (Labels, &'static str),
    quiet: Case,
}

type Labels = &'static [(&'static str, &'static str)];

/// When to look, and the series until then: one value a minute. Each has the instance `a` of the program's job, unless it
/// names another one.
type Case = (&'static str, &'static [(&'static str, &'static str)]);

/// An alert that somebody is woken for.
pub fn urgent(name: &'static str, query: impl Into<String>) -> Alert {
    Alert { is_urgent: true, ..warning(name, query) }
}

pub fn warning(name: &'static str, query: impl Into<String>) -> Alert {
    Alert { name, query: query.into(), wait: "0m", ..Alert::default() }
}

impl Alert {
    /// It fires once this has lasted.
    pub fn lasts(self, wait: &'static str) -> Self {
        Self { wait, ..self }
    }

    pub fn says(self, summary: &'static str, runbook: &'static str) -> Self {
        Self { summary, runbook, ..self }
    }

    /// It fires in this case, with these labels and this value.
    pub fn fires(self, case: Case, labels: Labels, value: &'static str) -> Self {
        Self { fires: case, told: (labels, value), ..self }
    }

    pub fn stays_quiet(self, case: Case) -> Self {
        Self { quiet: case, ..self }
    }
}

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
            for ((at, all), is_firing) in [(alert.fires, true), (alert.quiet, false)] {
                writeln!(text, "  - interval: 1m\n    input_series:").unwrap();
                for (series, values) in all {
                    writeln!(
                        text,
                        "      - series: {}\n        values: {}",
                        yaml_string(&self.at_a(series)),
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
                    text.push_str(&alert.expected(self.name));
                }
            }
        }
        text
    }

    /// A series of the instance `a`.
    fn at_a(&self, series: &str) -> String {
        let (family, labels) = series.split_once('{').unwrap_or((series, "}"));
        let job = if labels.contains("job=") { String::new() } else { format!("job=\"{}\",", self.name) };
        format!("{family}{{{job}instance=\"a\",{labels}")
    }
}

impl Alert {
    fn severity(&self) -> &'static str {
        if self.is_urgent { "critical" } else { "warning" }
    }

    fn runbook_url(&self) -> String {
        format!("docs/troubleshooting.md#{}", self.runbook)
    }

    fn expected(&self, job: &str) -> String {
        let (labels, _) = self.told;
        let mut text = format!("          - exp_labels:\n              severity: {}\n", self.severity());
        for (name, value) in [("job", job), ("instance", "a")].iter().chain(labels) {
            writeln!(text, "              {name}: {}", yaml_string(value)).unwrap();
        }
        writeln!(
            text,
            "            exp_annotations:\n              summary: {}\n              runbook_url: {}",
            yaml_string(&self.told_summary()),
            self.runbook_url()
        )
        .unwrap();
        text
    }

    /// The summary with its templates filled in.
    fn told_summary(&self) -> String {
        let (labels, value) = self.told;
        let mut parts = self.summary.split("{{ ");
        let mut text = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (template, rest) = part.split_once(" }}").expect("the end of a template");
            let filled = match template.strip_prefix("$labels.") {
                Some("instance") => "a",
                Some(label) => {
                    labels.iter().find(|(name, _)| *name == label).expect("a label that is told").1
                }
                None => value,
            };
            text.extend([filled, rest]);
        }
        text
    }
}

/// A string in YAML's single quotes.
fn yaml_string(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
