//! What of this host keeps xlb from working, or from working well, found before
//! it is started. Nothing is changed.
//!
//! What the agent finds itself, when it starts or while it runs, is asked of
//! the same functions: loading the programs ([`crate::dataplane`]) and what of
//! a configuration can't be done ([`crate::reconcile`]).

mod config;
mod ethtool;
mod interface;
mod kernel;
mod link;
mod process;
mod queues;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, net::IpAddr};

use serde::Serialize;

use crate::{
    config::{Capacity, Config},
    host::{Host, HostError, Netlink},
};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Ok,
    /// Good to know.
    Note,
    /// xlb works, but slower or not for all packets.
    Warning,
    /// xlb doesn't start, or balances nothing.
    Error,
}

/// What one check has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// Which check: a word that stays the same.
    pub check: &'static str,
    /// The interface that it is about, if it is about one.
    pub interface: Option<String>,
    pub message: String,
    /// What to do; `None` if there is nothing, or the message says it.
    pub advice: Option<String>,
}

impl Finding {
    fn new(severity: Severity, check: &'static str, message: impl Into<String>) -> Self {
        Self {
            severity,
            check,
            interface: None,
            message: message.into(),
            advice: None,
        }
    }

    fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Ok, check, message)
    }

    fn note(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Note, check, message)
    }

    fn warning(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, check, message)
    }

    fn error(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, check, message)
    }

    fn about(mut self, interface: &str) -> Self {
        self.interface = Some(interface.to_owned());
        self
    }

    fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

/// Looks at this host: at what a configuration needs, if there is one, and at
/// `interfaces`.
///
/// # Errors
/// If the kernel doesn't answer about the host's network.
pub async fn examine(
    config: Option<&Config>,
    interfaces: &[String],
) -> Result<Vec<Finding>, HostError> {
    let capacity = config.map_or_else(Capacity::default, |config| config.capacity);
    let host = Netlink::open()?.snapshot(destinations(config)).await?;
    let mut findings = process::check(config);
    findings.extend(kernel::check(&host, &capacity));
    for name in interfaces {
        findings.extend(interface::check(name, &host, config));
    }
    findings.extend(
        config
            .iter()
            .flat_map(|config| config::check(config, &host)),
    );
    // An interface that is missing is missed by its configuration too.
    let mut said = BTreeSet::new();
    findings.retain(|finding| said.insert(finding.message.clone()));
    Ok(findings)
}

/// The worst of all findings.
#[must_use]
pub fn worst(findings: &[Finding]) -> Severity {
    let severities = findings.iter().map(|finding| finding.severity);
    severities.max().unwrap_or(Severity::Ok)
}

fn destinations(config: Option<&Config>) -> BTreeSet<IpAddr> {
    config.map(crate::agent::remote).unwrap_or_default()
}

/// The name of an interface.
fn named(host: &Host, index: u32) -> Option<&str> {
    let interface = host.interfaces.get(&index);
    interface.map(|interface| interface.name.as_str())
}
