//! What operators ask for while xlb runs: that a target drains, or has another
//! weight. It holds beside the configuration, which a reload doesn't undo.

use std::{collections::BTreeMap, net::IpAddr, num::NonZeroU16};

use serde::{Deserialize, Serialize};

use super::{Now, Registration, Registry};
use crate::{
    address::with_port,
    config::{Config, Ports, socket_address},
    reconcile::TargetKey,
};

/// What an operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// The target gets no new flow, until it is enabled.
    Drain,
    Enable,
    /// From 1 to [`lb_common::limits::MAX_WEIGHT`].
    Weight(u16),
}

/// A target as an operator names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetName {
    address: Option<IpAddr>,
    /// 0: the port that the client used.
    port: u16,
    /// `None`: whichever has it.
    group: Option<String>,
}

/// Why a name is no target's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    #[error("{0}")]
    Text(String),
    #[error("`{0}`: a target has one port, or `*` for the one that the client used")]
    Range(String),
    #[error("no target group has a target {0}: `xlb status` shows all of them")]
    NoTarget(String),
    #[error(
        "there is no target group `{group}` with a target {target}: `xlb status` shows all of them"
    )]
    NotInGroup { target: String, group: String },
    #[error("there is no target group `{0}`: `xlb status` shows all of them")]
    NoGroup(String),
    #[error("{target} is a target of {}: say which by --group", groups.join(", "))]
    Ambiguous { target: String, groups: Vec<String> },
}

/// Everything that operators have asked for and that still holds: a plain value
/// that can be kept and [restored](Registry::restore).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Entry>", into = "Vec<Entry>")]
pub struct OperatorOverrides(BTreeMap<TargetKey, Override>);

/// What holds for one target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Override {
    pub drained: bool,
    pub weight: Option<SetWeight>,
}

/// A weight in place of the configured one, as long as that stays as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetWeight {
    pub set: u16,
    pub configured: u16,
}

/// JSON has no keys but texts.
#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    target: TargetKey,
    #[serde(flatten)]
    holds: Override,
}

impl TargetName {
    /// Reads a target as it stands in the configuration: `10.0.2.21:8080`,
    /// `[2001:db8::1]:80`, `:8081` or `10.0.2.21:*`.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(text: &str, group: Option<&str>) -> Result<Self, FindError> {
        let (address, ports) = socket_address(text).map_err(FindError::Text)?;
        let port = match ports {
            Ports::One(port) => port.get(),
            Ports::ALL => 0,
            Ports::Range { .. } => return Err(FindError::Range(text.to_owned())),
        };
        Ok(Self {
            address,
            port,
            group: group.map(str::to_owned),
        })
    }

    #[must_use]
    pub fn is(&self, key: &TargetKey) -> bool {
        let is_in = |group: &String| *group == key.group;
        (self.address, self.port) == (key.address, key.port)
            && self.group.as_ref().is_none_or(is_in)
    }

    /// The configured target with this name.
    ///
    /// # Errors
    /// If there is none, or in several groups.
    pub fn find(&self, config: &Config) -> Result<TargetKey, FindError> {
        let mut found: Vec<TargetKey> = TargetKey::all(config).filter(|key| self.is(key)).collect();
        match (found.pop(), found.is_empty()) {
            (Some(key), true) => Ok(key),
            (Some(last), false) => {
                found.push(last);
                Err(FindError::Ambiguous {
                    target: self.text(),
                    groups: found.into_iter().map(|key| key.group).collect(),
                })
            }
            (None, _) => Err(self.unknown()),
        }
    }

    /// Says that there is none.
    #[must_use]
    pub fn unknown(&self) -> FindError {
        let target = self.text();
        match self.group.clone() {
            Some(group) => FindError::NotInGroup { target, group },
            None => FindError::NoTarget(target),
        }
    }

    fn text(&self) -> String {
        match NonZeroU16::new(self.port) {
            Some(port) => with_port(self.address, port),
            None => with_port(self.address, Ports::ALL),
        }
    }
}

impl Registry {
    /// Everything that operators have asked for and that still holds.
    #[must_use]
    pub fn overrides(&self) -> &OperatorOverrides {
        &self.overrides
    }

    /// Takes back what was kept. Meant for before the first
    /// [`register`](Self::register).
    #[must_use]
    pub fn with_overrides(mut self, overrides: OperatorOverrides) -> Self {
        self.overrides = overrides;
        self
    }

    /// Does what an operator asks for about a configured target. Asking twice is
    /// as good as once.
    pub fn operate(
        &mut self,
        key: &TargetKey,
        operation: Operation,
        config: &Config,
        now: Now,
    ) -> Registration {
        let holds = self.overrides.0.entry(key.clone()).or_default();
        match operation {
            Operation::Drain => holds.drained = true,
            Operation::Enable => holds.drained = false,
            Operation::Weight(set) => {
                holds.weight = configured_weight(config, key)
                    .filter(|&configured| configured != set)
                    .map(|configured| SetWeight { set, configured });
            }
        }
        self.register(config, now)
    }
}

fn configured_weight(config: &Config, key: &TargetKey) -> Option<u16> {
    let group = config
        .target_groups
        .iter()
        .find(|it| it.name == key.group)?;
    let mut targets = group.targets.iter();
    let target = targets.find(|it| TargetKey::new(group, it) == *key)?;
    Some(target.weight)
}

impl OperatorOverrides {
    #[must_use]
    pub fn is_drained(&self, key: &TargetKey) -> bool {
        self.0.get(key).is_some_and(|holds| holds.drained)
    }

    /// What the configuration says, of a target whose weight an operator has set.
    #[must_use]
    pub fn configured_weight(&self, key: &TargetKey) -> Option<u16> {
        Some(self.0.get(key)?.weight?.configured)
    }

    /// Weights that hold in place of the configured ones.
    #[must_use]
    pub fn weights(&self) -> BTreeMap<TargetKey, u16> {
        let weight = |(key, holds): (&TargetKey, &Override)| Some((key.clone(), holds.weight?.set));
        self.0.iter().filter_map(weight).collect()
    }

    /// The weight that holds for a target with this configured one, and whether
    /// an operator's has ended since the configured one has changed.
    pub(super) fn weight(&mut self, key: &TargetKey, configured: u16) -> (u16, bool) {
        let Some(holds) = self.0.get_mut(key) else {
            return (configured, false);
        };
        match holds.weight {
            Some(weight) if weight.configured == configured => (weight.set, false),
            before => {
                holds.weight = None;
                (configured, before.is_some())
            }
        }
    }

    /// Forgets what holds for others than these, and what says nothing.
    pub(super) fn retain(&mut self, keep: impl Fn(&TargetKey) -> bool) {
        self.0
            .retain(|key, holds| keep(key) && *holds != Override::default());
    }
}

impl From<Vec<Entry>> for OperatorOverrides {
    fn from(entries: Vec<Entry>) -> Self {
        Self(
            entries
                .into_iter()
                .map(|it| (it.target, it.holds))
                .collect(),
        )
    }
}

impl From<OperatorOverrides> for Vec<Entry> {
    fn from(overrides: OperatorOverrides) -> Self {
        let entry = |(target, holds)| Entry { target, holds };
        overrides.0.into_iter().map(entry).collect()
    }
}
