//! What the maps should hold.

mod interfaces;
mod listeners;
mod local_ports;
pub(super) mod targets;

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{settings::Settings, target::TargetEntry};

use super::{
    Ids, MapState, Problem, Tables, TargetKey,
    group::{Balance, add_group},
};
use crate::{
    config::{Config, Timeouts},
    dataplane::XdpHook,
    host::{Host, Interface},
};

/// What matters of a target's health here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// No result yet.
    Initial,
    Healthy,
    Unhealthy,
    /// An operator has drained it: it takes no new flow, and its flows go on.
    Draining,
    /// The same, and its flows have ended.
    Unused,
}

impl Availability {
    /// Whether an operator has taken the target out: nothing that is decided for
    /// its group counts it.
    #[must_use]
    pub fn is_drained(self) -> bool {
        matches!(self, Self::Draining | Self::Unused)
    }
}

/// What the maps' contents follow from.
#[derive(Debug)]
pub struct Inputs<'a> {
    pub config: &'a Config,
    pub host: &'a Host,
    /// Where the programs are attached, by interface index.
    pub attached: &'a BTreeMap<u32, XdpHook>,
    /// Of everything in `config` and of what drains.
    pub ids: &'a Ids,
    /// Targets that start slowly, and the [parts](crate::slow_start::PARTS) of
    /// their weight that they have.
    pub slow_starts: &'a BTreeMap<TargetKey, u16>,
    /// Weights that operators have set in place of the configured ones.
    pub weights: &'a BTreeMap<TargetKey, u16>,
    /// Targets that take no new flow any more, and whose flows go on.
    pub draining: &'a BTreeSet<TargetKey>,
    /// What the maps hold.
    pub applied: &'a MapState,
}

/// What the maps should hold, and what of the configuration can't be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    pub state: MapState,
    /// Of each target group that a listener uses, by name.
    pub balances: BTreeMap<String, Balance>,
    pub problems: Vec<Problem>,
}

/// Works out the maps' contents. `tables` only saves time: what it holds makes
/// no difference to the result.
#[must_use]
pub fn desired(
    inputs: &Inputs<'_>,
    tables: &mut Tables,
    health: impl Fn(&TargetKey) -> Availability,
) -> Desired {
    let config = inputs.config;
    let mut problems = BTreeMap::new();
    let mut state = MapState {
        settings: settings(config.hash_key, &config.timeouts, inputs.host),
        interfaces: interfaces::entries(inputs),
        macs: interfaces::macs(inputs),
        ..MapState::default()
    };
    let mut balances = BTreeMap::new();
    check_interfaces(inputs, &mut problems);
    let used: BTreeSet<usize> = config.listeners.iter().map(|l| l.target_group).collect();
    for group in used
        .iter()
        .filter_map(|&index| config.target_groups.get(index))
    {
        let balance = add_group(inputs, group, &health, tables, &mut state, &mut problems);
        balances.extend(balance.map(|balance| (group.name.clone(), balance)));
    }
    tables.keep_only(&state.tables);
    add_draining(inputs, &mut state);
    listeners::add(inputs, &mut state, &mut problems);
    interfaces::check_forwarding(inputs, &state, &mut problems);
    local_ports::check(inputs, &state, &mut problems);
    Desired {
        state,
        balances,
        problems: problems.into_values().collect(),
    }
}

/// What the maps should hold of one group's targets and their table. All else
/// stays as it is when only the health of its targets has changed: whether a
/// target can be reached, and so what there is to report, doesn't depend on it.
/// `None` if no listener uses such a group.
#[must_use]
pub fn desired_group(
    inputs: &Inputs<'_>,
    name: &str,
    tables: &mut Tables,
    health: impl Fn(&TargetKey) -> Availability,
) -> Option<(MapState, Balance)> {
    let config = inputs.config;
    let mut groups = config.target_groups.iter();
    let index = groups.position(|group| group.name == name)?;
    let is_used = config.listeners.iter().any(|it| it.target_group == index);
    let group = is_used.then(|| &config.target_groups[index])?;
    let (mut state, mut problems) = (MapState::default(), BTreeMap::new());
    let balance = add_group(inputs, group, &health, tables, &mut state, &mut problems)?;
    Some((state, balance))
}

/// The configured interfaces as the host has them, in their order.
///
/// # Errors
/// For each that isn't there, is down, or has no Ethernet frames.
pub fn interfaces<'a>(
    config: &'a Config,
    host: &'a Host,
) -> impl Iterator<Item = Result<&'a Interface, Problem>> {
    let names = config.interfaces.iter();
    names.map(|name| interface(name, host))
}

/// The interface of this name.
///
/// # Errors
/// If it isn't there, is down, or has no Ethernet frames.
pub fn interface<'a>(name: &str, host: &'a Host) -> Result<&'a Interface, Problem> {
    let name = name.to_owned();
    match host.interface(&name) {
        Some(interface) if !interface.ethernet => Err(Problem::NotEthernet { name }),
        Some(interface) if interface.up => Ok(interface),
        Some(_) => Err(Problem::InterfaceDown { name }),
        None => {
            let names = host.interfaces.values().map(|it| it.name.clone());
            let similar = names.filter(|name| name != "lo").collect();
            Err(Problem::NoInterface { name, similar })
        }
    }
}

/// An interface may go down or away while xlb runs.
fn check_interfaces(inputs: &Inputs<'_>, problems: &mut Problems) {
    for problem in interfaces(inputs.config, inputs.host).filter_map(Result::err) {
        report(problems, problem);
    }
}

/// Problems by their text, so that each is reported once.
pub(super) type Problems = BTreeMap<String, Problem>;

pub(super) fn report(problems: &mut Problems, problem: Problem) {
    problems.insert(problem.to_string(), problem);
}

fn settings(hash_key: u64, timeouts: &Timeouts, host: &Host) -> Settings {
    let seconds = |time: std::time::Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    Settings {
        hash_key,
        half_open_timeout: seconds(timeouts.tcp_half_open),
        established_timeout: seconds(timeouts.tcp_established),
        closing_timeout: seconds(timeouts.tcp_closing),
        udp_timeout: seconds(timeouts.udp),
        route_epoch: if host.policy_rules { 0 } else { host.number },
        paused_until: 0,
    }
}

/// What drains stays as the data path has it, but takes no new flow.
fn add_draining(inputs: &Inputs<'_>, state: &mut MapState) {
    for id in inputs
        .draining
        .iter()
        .filter_map(|key| inputs.ids.target(key))
    {
        if let Some(known) = targets::known(inputs, id) {
            let flags = known.flags & !TargetEntry::ACCEPTS;
            let entry = TargetEntry { flags, ..known };
            // What an operator has drained is there already.
            state.targets.entry(id).or_insert(entry);
        }
    }
}
