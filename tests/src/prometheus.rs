//! A Prometheus that scrapes an agent, with rules.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::{command::run, netns::Namespace, process::Process, wait};

const ADDRESS: &str = "127.0.0.1:9090";
const START: Duration = Duration::from_secs(20);

/// A running Prometheus. It scrapes every second.
#[derive(Debug)]
pub struct Prometheus {
    namespace: Namespace,
    _process: Process,
}

/// A rule as Prometheus has read it.
#[derive(Clone, Debug, Deserialize)]
pub struct Rule {
    pub name: String,
    pub query: String,
    /// `inactive`, `pending` or `firing`.
    #[serde(default)]
    pub state: String,
    /// `unknown` before the first evaluation, then `ok` or `err`.
    pub health: String,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

impl Prometheus {
    /// Starts one in a namespace; its files are in `directory`.
    ///
    /// # Errors
    /// If it isn't ready soon.
    pub fn start(
        namespace: &Namespace,
        scraped: &str,
        rules: &Path,
        directory: &Path,
    ) -> Result<Self> {
        let config = directory.join("prometheus.yml");
        let text = serde_json::json!({
            "global": { "scrape_interval": "1s", "evaluation_interval": "1s" },
            "rule_files": [rules],
            "scrape_configs": [{
                "job_name": "xlb",
                "static_configs": [{ "targets": [scraped] }],
            }],
        });
        // JSON is YAML, too.
        fs::write(&config, text.to_string())?;
        let option = |name: &str, path: &Path| format!("--{name}={}", path.display());
        let mut command = namespace.command("prometheus");
        command
            .arg(option("config.file", &config))
            .arg(option("storage.tsdb.path", &directory.join("prometheus")))
            .arg(format!("--web.listen-address={ADDRESS}"));
        let mut process = Process::spawn(&mut command, &directory.join("prometheus.log"))?;
        process.wait_for_line("Server is ready", START)?;
        Ok(Self {
            namespace: namespace.clone(),
            _process: process,
        })
    }

    /// The values of an expression now, each with its labels.
    ///
    /// # Errors
    /// If Prometheus doesn't understand it.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let expression = format!("query={expression}");
        let mut data = self.ask("query", &["-G", "--data-urlencode", &expression])?;
        match data["result"].take() {
            Value::Array(values) => Ok(values),
            other => anyhow::bail!("{expression}: {other}"),
        }
    }

    /// Waits until an expression has values.
    ///
    /// # Errors
    /// If it hasn't within `timeout`.
    pub fn wait_for(&self, expression: &str, timeout: Duration) -> Result<()> {
        wait::until(expression, timeout, || {
            Ok((!self.query(expression)?.is_empty()).then_some(()))
        })
    }

    /// All rules.
    ///
    /// # Errors
    /// If it doesn't tell.
    pub fn rules(&self) -> Result<Vec<Rule>> {
        #[derive(Deserialize)]
        struct Group {
            rules: Vec<Rule>,
        }
        let mut data = self.ask("rules", &[])?;
        let groups: Vec<Group> = serde_json::from_value(data["groups"].take())?;
        Ok(groups.into_iter().flat_map(|group| group.rules).collect())
    }

    fn ask(&self, what: &str, arguments: &[&str]) -> Result<Value> {
        let mut curl = self.namespace.command("curl");
        curl.args(["-sS", "--max-time", "10"]).args(arguments);
        let answer = run(curl.arg(format!("http://{ADDRESS}/api/v1/{what}")))?;
        let mut answer: Value = serde_json::from_str(&answer).context("prometheus's answer")?;
        ensure!(answer["status"] == "success", "{arguments:?}: {answer}");
        Ok(answer["data"].take())
    }
}
