//! Metrics: that they are right, that each is described, and that the dashboard
//! and the alert rules use those that there are.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xlb_tests::{
    client,
    prometheus::{Prometheus, Rule},
    wait,
};

use super::{
    admin::{ADMIN, start},
    scenario::{HEALTH, Scenario},
};

/// Long enough for a scrape, an evaluation and the agent's sweep.
const SCRAPED: Duration = Duration::from_secs(20);

fn file(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(path)
}

fn scrape(scenario: &Scenario) -> Result<String> {
    client::get(
        &scenario.topology.balancer,
        &format!("http://{ADMIN}/metrics"),
    )
}

/// The value of a series, by its name and labels as they are written.
fn value(metrics: &str, series: &str) -> Result<f64> {
    let mut lines = metrics.lines();
    let value = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    Ok(value
        .with_context(|| format!("no {series} in\n{metrics}"))?
        .parse()?)
}

#[test]
fn metrics_follow_what_happens() -> Result<()> {
    let mut scenario = start(2)?;
    let before = scrape(&scenario)?;
    scenario.spread(60)?;
    let after = scrape(&scenario)?;
    let status = scenario.xlb.status()?;
    let grown =
        |series: &str| Ok::<_, anyhow::Error>(value(&after, series)? - value(&before, series)?);
    ensure!(
        grown("xlb_listener_new_flows_total{listener=\"web\"}")? == 60.0,
        "{after}"
    );
    let labels = |n: usize| {
        let address = scenario.servers[n].place.address;
        format!("target_group=\"web\",target=\"{address}\"")
    };
    let begun = |n| grown(&format!("xlb_target_new_flows_total{{{}}}", labels(n)));
    ensure!(begun(0)? + begun(1)? == 60.0 && begun(0)? > 0.0, "{after}");
    for (direction, bytes) in [
        ("forward", status.listeners[0].traffic.forward_bytes),
        ("reply", status.listeners[0].traffic.reply_bytes),
    ] {
        let series =
            format!("xlb_listener_bytes_total{{listener=\"web\",direction=\"{direction}\"}}");
        ensure!(
            value(&after, &series)? == bytes as f64,
            "{series}: {bytes}\n{after}"
        );
    }

    let (first, second) = (labels(0), labels(1));
    scenario.servers[1].kill();
    scenario.wait_for_health(1, "unhealthy")?;
    let metrics = scrape(&scenario)?;
    for (series, expected) in [
        (
            format!("xlb_target_health{{{second},health=\"unhealthy\"}}"),
            1.0,
        ),
        (
            format!("xlb_target_health{{{second},health=\"healthy\"}}"),
            0.0,
        ),
        (
            format!("xlb_target_health{{{first},health=\"healthy\"}}"),
            1.0,
        ),
        (
            format!("xlb_target_health_reason{{{second},reason=\"connection_refused\"}}"),
            1.0,
        ),
        (format!("xlb_target_share_ratio{{{first}}}"), 1.0),
        (
            "xlb_target_group_fail_open{target_group=\"web\"}".to_owned(),
            0.0,
        ),
        ("xlb_agent_last_reload_successful".to_owned(), 1.0),
    ] {
        ensure!(value(&metrics, &series)? == expected, "{series}\n{metrics}");
    }
    ensure!(
        !metrics.contains(&format!("xlb_target_health_reason{{{first}")),
        "{metrics}"
    );
    let failures = format!("xlb_target_health_checks_total{{{second},result=\"failure\"}}");
    ensure!(value(&metrics, &failures)? >= 2.0, "{metrics}");
    let checks = "xlb_health_check_latency_seconds_count{target_group=\"web\"}";
    ensure!(value(&metrics, checks)? >= 4.0, "{metrics}");

    // A reload that fails, and one that doesn't.
    let config = fs::read_to_string(scenario.xlb.config())?;
    ensure!(!scenario.xlb.try_reload("nonsense")?.status.success());
    let metrics = scrape(&scenario)?;
    ensure!(value(&metrics, "xlb_agent_last_reload_successful")? == 0.0);
    ensure!(value(&metrics, "xlb_agent_reloads_total{result=\"invalid\"}")? == 1.0);
    let gone = config.replace("\"web\"", "\"other\"");
    ensure!(scenario.xlb.try_reload(&gone)?.status.success());
    let metrics = scrape(&scenario)?;
    ensure!(value(&metrics, "xlb_agent_last_reload_successful")? == 1.0);
    ensure!(value(&metrics, "xlb_agent_reloads_total{result=\"applied\"}")? == 1.0);
    ensure!(
        !metrics.contains("{listener=\"web\""),
        "the listener is gone: {metrics}"
    );
    scenario.xlb.stop()
}

/// Names of metrics in a text, as samples have them.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let words = words.filter(|word| word.starts_with("xlb_") && !word.ends_with('_'));
    words.map(str::to_owned).collect()
}

/// Names as samples have them, of a histogram the family's, and their labels.
type Described = BTreeMap<String, BTreeSet<String>>;

fn exported(metrics: &str) -> Described {
    let mut exported = Described::new();
    let mut last = String::new();
    for line in metrics.lines() {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["#", "TYPE", name, kind] => {
                last = match kind {
                    "counter" => format!("{name}_total"),
                    "info" => format!("{name}_info"),
                    _ => name.to_owned(),
                };
                exported.insert(last.clone(), BTreeSet::new());
            }
            ["#", ..] => {}
            _ => exported
                .entry(last.clone())
                .or_default()
                .extend(labels(line)),
        }
    }
    exported
}

/// The labels of a sample but for the buckets'.
fn labels(sample: &str) -> impl Iterator<Item = String> {
    let inside = sample.split_once('{').map_or("", |(_, rest)| rest);
    let keys = inside
        .split("=\"")
        .map(|part| part.rsplit(['"', ',']).next().unwrap_or(part));
    let keys = keys.filter(|key| !key.is_empty() && !key.contains('}') && *key != "le");
    keys.map(str::to_owned)
}

#[test]
fn every_metric_is_described() -> Result<()> {
    let mut scenario = start(1)?;
    // One that isn't healthy has a reason.
    scenario.servers[0].kill();
    scenario.wait_for_health(0, "unhealthy")?;
    let exported = exported(&scrape(&scenario)?);
    let mut described = Described::new();
    for line in fs::read_to_string(file("docs/metrics.md"))?.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let ["", name, labels, _, ""] = cells[..]
            && let Some(name) = name.strip_prefix("`xlb_")
        {
            let labels = labels.split('`').skip(1).step_by(2);
            let name = format!("xlb_{}", name.trim_end_matches('`'));
            described.insert(name, labels.map(str::to_owned).collect());
        }
    }
    for (name, labels) in &exported {
        let described = described.get(name);
        ensure!(
            described == Some(labels),
            "{name} has {labels:?}, described are {described:?}"
        );
    }
    for name in described.keys() {
        ensure!(
            exported.contains_key(name),
            "{name} is described, and isn't exported"
        );
    }
    Ok(())
}

/// The expressions of a dashboard's panels, for all nodes and groups.
fn expressions(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let expressions = targets.filter_map(|target| target["expr"].as_str());
    let expressions = expressions.map(|it| {
        it.replace("$instance", ".*")
            .replace("$target_group", ".*")
            .replace("$__rate_interval", "30s")
    });
    expressions.collect()
}

/// A real Prometheus reads a real agent, with the rules and by the dashboard's
/// expressions as they are delivered.
#[test]
fn dashboard_and_alerts_use_what_is_exported() -> Result<()> {
    let mut scenario = start(2)?;
    let (balancer, directory) = (&scenario.topology.balancer, scenario.topology.directory());
    let rules = file("packaging/alerts.yaml");
    let prometheus = Prometheus::start(balancer, ADMIN, &rules, directory)?;
    prometheus.wait_for("up == 1", SCRAPED)?;
    scenario.spread(20)?;
    prometheus.wait_for("increase(xlb_target_new_flows_total[30s]) > 0", SCRAPED)?;

    let metrics = scrape(&scenario)?;
    let mut exported: BTreeSet<String> = exported(&metrics).into_keys().collect();
    exported.extend(
        names(&metrics)
            .into_iter()
            .filter(|name| name.ends_with("_bucket")),
    );
    let dashboard = fs::read_to_string(file("packaging/grafana-dashboard.json"))?;
    let dashboard = serde_json::from_str(&dashboard)?;
    let expressions = expressions(&dashboard);
    ensure!(expressions.len() > 25, "{expressions:?}");
    let alerts = prometheus.rules()?;
    ensure!(alerts.len() > 8, "{alerts:?}");
    for expression in expressions
        .iter()
        .chain(alerts.iter().map(|rule| &rule.query))
    {
        let used = names(expression);
        ensure!(used.is_subset(&exported), "{expression} uses {used:?}");
        prometheus.query(expression)?;
    }

    // All is well, so nothing is alarming, and the panels show something.
    let evaluated = || {
        let rules = prometheus.rules()?;
        Ok(rules
            .iter()
            .all(|rule| rule.health == "ok")
            .then_some(rules))
    };
    for rule in wait::until("the rules to be evaluated", SCRAPED, evaluated)? {
        ensure!(rule.state == "inactive", "{rule:?}");
    }
    let empty = expressions.iter().filter(|it| !it.ends_with("> 0"));
    for expression in empty.filter(|it| !it.starts_with("xlb_target_health_reason")) {
        prometheus.wait_for(expression, SCRAPED)?;
    }

    let is_pending = |rules: &[Rule], name: &str| {
        rules
            .iter()
            .any(|rule| rule.name == name && rule.state != "inactive")
    };
    scenario.servers[1].kill();
    wait::until("XlbTargetUnhealthy", SCRAPED, || {
        let rules = prometheus.rules()?;
        ensure!(!is_pending(&rules, "XlbGroupFailsOpen"), "{rules:?}");
        Ok(is_pending(&rules, "XlbTargetUnhealthy").then_some(()))
    })?;
    scenario.servers[0].kill();
    for name in ["XlbGroupFailsOpen", "XlbTargetUnhealthy"] {
        wait::until(name, HEALTH + SCRAPED, || {
            Ok(is_pending(&prometheus.rules()?, name).then_some(()))
        })?;
    }
    ensure!(!scenario.xlb.try_reload("nonsense")?.status.success());
    wait::until("XlbReloadFailed", SCRAPED, || {
        Ok(is_pending(&prometheus.rules()?, "XlbReloadFailed").then_some(()))
    })?;
    // Every panel has something to show now, but for failed reloads of nobody.
    for expression in &expressions {
        if expression.starts_with("xlb_target_health_reason")
            || expression.contains("!=\"success\"")
        {
            prometheus.wait_for(expression, SCRAPED)?;
        }
    }
    let Scenario { xlb, .. } = scenario;
    xlb.stop()?;
    wait::until("XlbAbsent", SCRAPED, || {
        Ok(is_pending(&prometheus.rules()?, "XlbAbsent").then_some(()))
    })
}
