//! Grafana's model of a dashboard, as far as ours need it.

use serde_json::{Value, json};

/// A dashboard: rows of panels.
pub struct Dashboard {
    /// The name of its file, and its address in Grafana.
    pub uid: &'static str,
    pub title: &'static str,
    pub description: &'static str,
    /// A family that each instance has: the choice of jobs and instances comes from it.
    pub listed_by: &'static str,
    /// A variable of its own: its name and the family that has this label.
    pub by_label: Option<(&'static str, &'static str)>,
    pub rows: Vec<Row>,
}

/// Panels under one heading, three or four in a line.
pub struct Row {
    pub title: &'static str,
    pub panels: Vec<Panel>,
}

/// One picture, or one number.
pub struct Panel {
    pub title: &'static str,
    /// The sentence for its reader.
    pub help: &'static str,
    /// Grafana's name of the unit.
    pub unit: &'static str,
    /// A number instead of lines over time.
    pub is_number: bool,
    pub queries: Vec<Query>,
}

/// A query, and what its lines are called.
#[derive(Clone)]
pub struct Query {
    pub name: &'static str,
    /// `{@}` stands for the chosen instances, `[@]` for the range.
    text: String,
    /// Whether the load of the test makes it rise above 0. If not, it counts faults.
    pub moves: bool,
    /// Lines at 0 are hidden: of many causes few happen.
    pub hides_zeros: bool,
}

/// The sum of what counters grow by each second, by these labels.
pub fn rate(by: &str, counter: &str) -> String {
    let by = if by.is_empty() { String::new() } else { format!(" by ({by}) ") };
    format!("sum{by}(rate({counter}[@]))")
}

/// A query that rises with traffic.
pub fn query(name: &'static str, text: impl Into<String>) -> Query {
    Query { name, text: text.into(), moves: true, hides_zeros: false }
}

/// A query of faults: its lines are hidden while they are 0.
pub fn fault(name: &'static str, text: impl Into<String>) -> Query {
    Query { name, text: text.into(), moves: false, hides_zeros: true }
}

/// A query with a line for each cause that happens.
pub fn causes(name: &'static str, text: impl Into<String>) -> Query {
    Query { name, text: text.into(), moves: true, hides_zeros: true }
}

/// A panel with lines over time.
pub fn graph<const N: usize>(
    title: &'static str,
    help: &'static str,
    unit: &'static str,
    queries: [Query; N],
) -> Panel {
    Panel { title, help, unit, is_number: false, queries: queries.into() }
}

/// A panel with one number.
pub fn number(title: &'static str, help: &'static str, unit: &'static str, query: Query) -> Panel {
    Panel { title, help, unit, is_number: true, queries: vec![query] }
}

impl Query {
    /// The query with every placeholder filled in.
    pub fn filled(&self, chosen: &str, range: &str) -> String {
        self.text.replace("{@", &format!("{{{chosen}")).replace("[@]", &format!("[{range}]"))
    }

    /// The query as Grafana sends it.
    fn of_grafana(&self, chosen: &str) -> String {
        let hidden = if self.hides_zeros { " > 0" } else { "" };
        format!("{}{hidden}", self.filled(chosen, "$__rate_interval"))
    }
}

impl Dashboard {
    /// All its queries.
    pub fn queries(&self) -> impl Iterator<Item = (&Panel, &Query)> {
        let panels = self.rows.iter().flat_map(|row| &row.panels);
        panels.flat_map(|panel| panel.queries.iter().map(move |query| (panel, query)))
    }

    /// The matchers of the chosen instances.
    fn chosen() -> &'static str {
        r#"job=~"$job",instance=~"$instance""#
    }

    /// The file.
    pub fn json(&self) -> String {
        let mut panels = Vec::new();
        let (mut id, mut y) = (0, 0);
        for row in &self.rows {
            id += 1;
            panels.push(json!({
                "id": id, "type": "row", "title": row.title, "collapsed": false, "panels": [],
                "gridPos": { "x": 0, "y": y, "w": 24, "h": 1 },
            }));
            y += 1;
            let is_numbers = row.panels.iter().all(|panel| panel.is_number);
            let (columns, height) = if is_numbers { (row.panels.len(), 4) } else { (3, 8) };
            for (place, panel) in row.panels.iter().enumerate() {
                id += 1;
                let (column, line) = (place % columns, place / columns);
                let width = 24 / columns;
                panels.push(panel.json(
                    id,
                    json!({
                        "x": column * width, "y": y + line * height, "w": width, "h": height,
                    }),
                ));
            }
            y += row.panels.len().div_ceil(columns) * height;
        }
        let dashboard = json!({
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["tubular-echo"],
            "schemaVersion": 39,
            "version": 1,
            "editable": true,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": { "from": "now-1h", "to": "now" },
            "timezone": "browser",
            "templating": { "list": self.variables() },
            "annotations": { "list": [] },
            "links": [],
            "panels": panels,
        });
        format!("{}\n", serde_json::to_string_pretty(&dashboard).expect("JSON"))
    }

    fn variables(&self) -> Vec<Value> {
        let listed = |name: &str, query: String, all: &str| {
            json!({
                "name": name, "label": name, "type": "query", "datasource": source(),
                "definition": query, "query": { "query": query, "refId": name },
                "includeAll": true, "multi": true, "allValue": all, "sort": 1, "refresh": 2, "hide": 0,
                "current": { "selected": true, "text": ["All"], "value": ["$__all"] },
                "options": [], "regex": "", "skipUrlSync": false,
            })
        };
        let family = self.listed_by;
        let mut variables = vec![
            json!({
                "name": "datasource", "label": "data source", "type": "datasource", "query": "prometheus",
                "current": {}, "options": [], "regex": "", "hide": 0, "includeAll": false, "multi": false,
                "refresh": 1, "skipUrlSync": false,
            }),
            listed("job", format!("label_values({family}, job)"), ".+"),
            listed("instance", format!(r#"label_values({family}{{job=~"$job"}}, instance)"#), ".+"),
        ];
        if let Some((label, family)) = self.by_label {
            let query = format!(r#"label_values({family}{{job=~"$job",instance=~"$instance"}}, {label})"#);
            variables.push(listed(label, query, ".*"));
        }
        variables
    }
}

impl Panel {
    fn json(&self, id: usize, place: Value) -> Value {
        let letters = ["A", "B", "C", "D", "E", "F"];
        let targets: Vec<_> = self
            .queries
            .iter()
            .zip(letters)
            .map(|(query, letter)| {
                json!({
                    "refId": letter, "datasource": source(), "expr": query.of_grafana(Dashboard::chosen()),
                    "legendFormat": query.name, "editorMode": "code", "range": !self.is_number,
                    "instant": self.is_number,
                })
            })
            .collect();
        let no_value = if self.queries.iter().all(|query| !query.hides_zeros) { "no data" } else { "none" };
        let (kind, custom, options) = if self.is_number {
            let options = json!({
                "reduceOptions": { "calcs": ["lastNotNull"], "fields": "", "values": false },
                "colorMode": "value", "graphMode": "none", "justifyMode": "auto", "textMode": "auto",
                "orientation": "auto",
            });
            ("stat", json!({}), options)
        } else {
            let options = json!({
                "legend": { "displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": [] },
                "tooltip": { "mode": "multi", "sort": "desc" },
            });
            ("timeseries", json!({ "fillOpacity": 10, "lineWidth": 1, "showPoints": "never" }), options)
        };
        json!({
            "id": id, "type": kind, "title": self.title, "description": self.help, "datasource": source(),
            "gridPos": place, "targets": targets, "options": options,
            "fieldConfig": {
                "defaults": { "unit": self.unit, "min": 0, "noValue": no_value, "custom": custom },
                "overrides": [],
            },
        })
    }
}

fn source() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}
