//! One target's change of health among as many targets as there may be: from
//! the result of a check until the maps are written, as the agent does it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use lb_user::{
    config::{self, Config},
    dataplane::{Dataplane, XdpHook},
    health::{Health, Outcome, Reason, Thresholds},
    host::{Host, Interface},
    reconcile::{self, Availability, Change, Ids, Inputs, MapState, Tables, TargetKey},
    registry::{Now, Registry},
};
use xlb_tests::interrupt;

use super::{Rig, config::Plan};
use crate::{
    dataplane::{frame::V4, world::DEVICE},
    report::Row,
};

/// Milliseconds.
const APPLIED: f64 = 2.0;

const CASES: [(&str, Plan); 2] = [
    (
        "1,024 groups of 16",
        Plan {
            groups: 1_024,
            targets_per_group: 16,
            shared: true,
            ..Plan::DEFAULT
        },
    ),
    (
        "17 groups of 963",
        Plan {
            groups: 17,
            targets_per_group: 963,
            ..Plan::DEFAULT
        },
    ),
];

pub fn measure(rig: &Rig) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (groups, plan) in CASES {
        let mut world = World::new(&plan)?;
        world.write_all()?;
        let (mut failed, mut healed) = (Vec::new(), Vec::new());
        for round in 0..rig.rounds {
            interrupt::check()?;
            // Another group each time.
            let index = (round * 37 % plan.groups) as usize;
            let failure = Outcome::Failure(Reason::ConnectionRefused);
            failed.push(world.change(index, &failure)?);
            healed.push(world.change(index, &Outcome::Success)?);
        }
        let case = |what| format!("{} targets in {groups}: one {what}", plan.targets());
        rows.push(Row::limited(case("fails"), "ms", &failed, APPLIED));
        rows.push(Row::limited(
            case("is healthy again"),
            "ms",
            &healed,
            APPLIED,
        ));
    }
    Ok(rows)
}

/// What the agent has, but for its checks and its host.
struct World {
    config: Config,
    host: Host,
    attached: BTreeMap<u32, XdpHook>,
    ids: Ids,
    registry: Registry,
    tables: Tables,
    applied: MapState,
    dataplane: Dataplane,
}

impl World {
    fn new(plan: &Plan) -> Result<Self> {
        let text = plan.text();
        let parsed = config::parse(&text, "bench").map_err(|errors| anyhow::anyhow!("{errors}"))?;
        let config = parsed.config;
        let mut ids = Ids::new(config.capacity);
        ids.assign(&config, &BTreeSet::new());
        let mut registry = Registry::default();
        registry.register(&config, Now::read());
        let healthy = Thresholds {
            healthy: 1,
            unhealthy: 1,
        };
        for key in TargetKey::all(&config) {
            registry.observe(&key, &Outcome::Success, healthy, Now::read());
        }
        let interface = Interface {
            index: 2,
            name: DEVICE.to_owned(),
            up: true,
            ethernet: true,
            addresses: vec![V4.host],
            ..Interface::default()
        };
        Ok(Self {
            dataplane: Dataplane::load(&config.capacity)?,
            host: Host {
                interfaces: [(2, interface)].into(),
                number: 1,
                ..Host::default()
            },
            attached: [(2, XdpHook::Native)].into(),
            ids,
            registry,
            tables: Tables::default(),
            applied: MapState::default(),
            config,
        })
    }

    fn write_all(&mut self) -> Result<()> {
        let mut tables = std::mem::take(&mut self.tables);
        let inputs = self.inputs();
        let desired = reconcile::desired(&inputs, &mut tables, |key| health(&self.registry, key));
        self.tables = tables;
        ensure!(desired.problems.is_empty(), "{:?}", desired.problems);
        let changes = reconcile::diff(&self.applied, &desired.state);
        self.apply(&changes)
    }

    fn write_group(&mut self, group: &str) -> Result<()> {
        let mut tables = std::mem::take(&mut self.tables);
        let inputs = self.inputs();
        let desired = reconcile::desired_group(&inputs, group, &mut tables, |key| {
            health(&self.registry, key)
        });
        self.tables = tables;
        let (state, _) = desired.context("a group that no listener uses")?;
        let changes = reconcile::diff_group(&self.applied, &state);
        self.apply(&changes)
    }

    /// Nobody drains or starts slowly, and no operator has set a weight.
    fn inputs(&self) -> Inputs<'_> {
        const NO_SLOW_STARTS: &BTreeMap<TargetKey, u16> = &BTreeMap::new();
        const NO_WEIGHTS: &BTreeMap<TargetKey, u16> = &BTreeMap::new();
        const NO_DRAINING: &BTreeSet<TargetKey> = &BTreeSet::new();
        Inputs {
            config: &self.config,
            host: &self.host,
            attached: &self.attached,
            ids: &self.ids,
            slow_starts: NO_SLOW_STARTS,
            weights: NO_WEIGHTS,
            draining: NO_DRAINING,
            applied: &self.applied,
        }
    }

    fn apply(&mut self, changes: &[Change]) -> Result<()> {
        for run in reconcile::runs(changes) {
            self.dataplane.apply_run(run)?;
            run.iter().for_each(|change| self.applied.apply(change));
        }
        Ok(())
    }

    /// Milliseconds from a result that changes the health of a group's first
    /// target until the maps are written.
    fn change(&mut self, group: usize, outcome: &Outcome) -> Result<f64> {
        let group = self.config.target_groups[group].clone();
        let target = group.targets.first().context("a group without targets")?;
        let key = TargetKey::new(&group, target);
        let thresholds = Thresholds {
            healthy: 1,
            unhealthy: 1,
        };
        let id = self.ids.target(&key).context("a target without an id")?;
        let accepted = self.accepts(id);
        let begin = Instant::now();
        let transition = self
            .registry
            .observe(&key, outcome, thresholds, Now::read());
        transition.context("its health hasn't changed")?;
        self.write_group(&group.name)?;
        let time = begin.elapsed();
        ensure!(self.accepts(id) != accepted, "nothing was changed");
        Ok(time.as_secs_f64() * 1e3)
    }

    fn accepts(&self, id: u32) -> bool {
        use lb_common::target::TargetEntry;
        let entry = self.applied.targets.get(&id);
        entry.is_some_and(|entry| entry.has(TargetEntry::ACCEPTS))
    }
}

fn health(registry: &Registry, key: &TargetKey) -> Availability {
    match registry.get(key).map(|target| target.health.health) {
        Some(Health::Healthy) => Availability::Healthy,
        Some(Health::Unhealthy) => Availability::Unhealthy,
        _ => Availability::Initial,
    }
}
