//! What runs the service: containers, Kubernetes, alerts and the dashboard agree with
//! the service and with each other. Whether they are what their programs read is for
//! those programs to say, in `.ci/run`.

use std::{collections::BTreeSet, fs};

use serde_json::Value;

use crate::{
    files::{File, below},
    help,
};

const DASHBOARD: &str = "deploy/grafana/dashboards/hitkeep-auth.json";

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All that starts the binary in a container, or something beside it.
fn container_files() -> Vec<File> {
    let mut files = below("deploy", "");
    for path in ["Dockerfile", "docker-compose.yml"] {
        files.push(File {
            path: path.to_owned(),
            text: read(path),
        });
    }
    files
}

/// What follows `key: ` in lines that begin with it.
fn values<'t>(text: &'t str, key: &str) -> Vec<&'t str> {
    let lines = text
        .lines()
        .map(|line| line.trim().trim_start_matches("- "));
    lines.filter_map(|line| line.strip_prefix(key)).collect()
}

#[test]
fn every_variable_that_is_set_is_one_of_ours() {
    let said: String = help::all().into_iter().map(|help| help.text).collect();
    let mut found = BTreeSet::new();
    for file in container_files() {
        for (at, _) in file.text.match_indices("HITKEEP_AUTH_") {
            let name: String = file.text[at..]
                .chars()
                .take_while(|c| c.is_ascii_uppercase() || *c == '_')
                .collect();
            let known = said.contains(&format!("[env: {name}]"))
                || said.contains(&format!("[env: {name}="))
                // A secret has no option of its own, since other users of the machine see those:
                // the help of its file names it.
                || said.contains(&format!("`{name}`]"));
            assert!(known, "{}: no {name}", file.path);
            found.insert(name);
        }
    }
    assert!(found.contains("HITKEEP_AUTH_DATABASE_URL"));
}

/// A server that does not reach Postgres answers from memory, which a restart would take away:
/// what restarts it asks for liveness, which says nothing of Postgres.
#[test]
fn nothing_restarts_a_server_that_cannot_reach_postgres() {
    let mut asking = BTreeSet::new();
    for File { path, text } in container_files() {
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if line.contains("\"healthcheck\"") {
                assert!(line.contains("\"healthcheck\", \"live\""), "{path}: {line}");
                asking.insert(path.clone());
            }
            if line.trim() == "livenessProbe:" {
                let asked = lines.next().unwrap_or_default();
                assert!(
                    asked.contains("httpGet: { path: /livez,"),
                    "{path}: {asked}"
                );
                asking.insert(path.clone());
            }
        }
    }
    for path in [
        "Dockerfile",
        "docker-compose.yml",
        "deploy/kubernetes/deployment.yaml",
        "deploy/kubernetes/replica.yaml",
        "deploy/kubernetes/sidecar.yaml",
        "deploy/helm/hitkeep-auth/templates/_helpers.tpl",
    ] {
        assert!(asking.contains(path), "{path} asks for nothing");
    }
}

#[test]
fn every_image_is_of_one_version() {
    let mut images = 0;
    for file in container_files() {
        let stages = values(&file.text, "FROM ").into_iter();
        for image in stages.chain(values(&file.text, "image: ")) {
            let image = image.split(' ').next().unwrap();
            let (_, tag) = image.rsplit_once(':').unwrap_or((image, ""));
            // Made of values, of which the tag is the version of the chart.
            if image == "{{" {
                continue;
            }
            let exact = tag.contains(|c: char| c.is_ascii_digit()) || image == "hitkeep-auth:local";
            assert!(exact, "{}: {image} is not of one version", file.path);
            images += 1;
        }
    }
    assert!(images > 10);
}

#[test]
fn kubernetes_runs_this_version() {
    let ours = format!("hitkeep-auth:{}", env!("CARGO_PKG_VERSION"));
    for path in [
        "deployment.yaml",
        "migrate.yaml",
        "replica.yaml",
        "sidecar.yaml",
    ] {
        let text = read(&format!("deploy/kubernetes/{path}"));
        let mut images = values(&text, "image: ");
        // The program beside a sidecar has one of its own.
        images.retain(|image| image.contains("/hitkeep-auth:"));
        assert_eq!(images.len(), 1, "{path}");
        assert!(
            images[0].ends_with(&ours),
            "{path}: {} is not {ours}",
            images[0]
        );
    }
}

#[test]
fn the_chart_is_of_this_version() {
    let text = read("deploy/helm/hitkeep-auth/Chart.yaml");
    for key in ["version: ", "appVersion: "] {
        assert_eq!(values(&text, key), [env!("CARGO_PKG_VERSION")], "{key}");
    }
}

/// Only that is sent to the builder of the image.
#[test]
fn the_dockerfile_copies_what_is_not_ignored() {
    let text = read("Dockerfile");
    let copied: BTreeSet<_> = values(&text, "COPY ")
        .into_iter()
        .filter(|line| !line.starts_with("--from"))
        .flat_map(|line| {
            let words: Vec<_> = line.split(' ').collect();
            words[..words.len() - 1].to_vec()
        })
        .collect();
    let ignored = read(".dockerignore");
    let sent: BTreeSet<_> = ignored
        .lines()
        .filter_map(|line| line.strip_prefix('!'))
        .collect();
    assert_eq!(copied, sent);
}

#[test]
fn the_dashboard_asks_the_source_that_is_set_up() {
    let source = read("deploy/grafana/provisioning/datasources/prometheus.yaml");
    let uids = values(&source, "uid: ");
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let charts: Vec<_> = panels
        .iter()
        .filter(|panel| panel["type"] != "row")
        .collect();
    assert!(charts.len() > 15);
    for panel in charts {
        let title = panel["title"].as_str().unwrap();
        assert_ne!(
            panel["description"],
            Value::Null,
            "{title} explains nothing"
        );
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{title}");
        for target in targets {
            assert_eq!(target["datasource"]["uid"], uids[0], "{title}");
        }
    }
}

/// What docs/metrics.md has: the series on the page of Prometheus, and their labels.
fn documented() -> BTreeSet<String> {
    let text = read("docs/metrics.md");
    let mut names = BTreeSet::new();
    for row in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let [_, name, kind, unit, attributes, ..] = cells[..] else {
            panic!("{row}");
        };
        let of_prometheus = |name: &str| name.trim_matches('`').replace('.', "_");
        let unit = match unit {
            "`s`" => "_seconds",
            "`ms`" => "_milliseconds",
            _ => "",
        };
        let endings: &[_] = match kind {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_count", "_sum"],
            _ => &[""],
        };
        names.extend(
            endings
                .iter()
                .map(|ending| of_prometheus(name) + unit + ending),
        );
        let labels = attributes.split(", ").filter(|label| !label.is_empty());
        names.extend(labels.map(of_prometheus));
    }
    names
}

#[test]
fn alerts_and_the_dashboard_ask_for_what_is_measured() {
    let documented = documented();
    let ours = ["hitkeep_auth_", "db_client_", "http_", "rpc_"];
    for path in [DASHBOARD, "deploy/prometheus/alerts.yml"] {
        let text = read(path);
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let asked: BTreeSet<_> = words
            .filter(|word| ours.iter().any(|start| word.starts_with(start)))
            .collect();
        assert!(asked.len() > 10, "{path}");
        for name in asked {
            assert!(
                documented.contains(name),
                "{path}: docs/metrics.md has no {name}"
            );
        }
    }
}

#[test]
fn every_alert_is_tested() {
    let alerts = read("deploy/prometheus/alerts.yml");
    let alerts: BTreeSet<_> = values(&alerts, "alert: ").into_iter().collect();
    assert!(alerts.len() > 10);
    let tests = read("deploy/prometheus/alerts_test.yml");
    for alert in alerts {
        // Raised: a case without an alert would pass for one that never is.
        let raised = tests.split("eval_time:").any(|case| {
            case.contains(&format!("alertname: {alert}\n")) && case.contains("exp_labels")
        });
        assert!(raised, "no test raises {alert}");
    }
}
