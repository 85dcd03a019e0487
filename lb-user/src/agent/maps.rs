//! The maps: writing what they should hold, sweeping what is over.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::Instant,
};

use tracing::{error, info, warn};

use super::{Agent, targets::availability};
use crate::{
    dataplane::{Swept, XdpHook},
    metrics::Event,
    reconcile::{self, Balance, Change, Inputs, Problem},
};

impl Agent {
    /// Brings the maps to what they should hold. What can't be written now is
    /// tried again at the next change.
    pub(super) fn reconcile(&mut self) {
        if let Err(error) = self.write_maps() {
            error!(error = format!("{error:#}"), "could not write the maps");
        }
    }

    pub(super) fn write_maps(&mut self) -> anyhow::Result<()> {
        let changes = self.changes();
        self.write(&changes)
    }

    /// As [`reconcile`](Self::reconcile), after changes of health in these
    /// groups only: what that costs doesn't grow with the others.
    pub(super) fn reconcile_groups(&mut self, groups: &BTreeSet<&str>) {
        if self.behind {
            // Something else waits to be written, too.
            return self.reconcile();
        }
        for group in groups {
            let changes = self.group_changes(group);
            if let Err(error) = self.write(&changes) {
                error!(error = format!("{error:#}"), "could not write the maps");
            }
        }
    }

    fn write(&mut self, changes: &[Change]) -> anyhow::Result<()> {
        let start = Instant::now();
        let mut runs = reconcile::runs(changes);
        let written = runs.try_for_each(|run| self.apply(run));
        self.behind = written.is_err();
        self.internals.applied(start.elapsed(), !self.behind);
        written
    }

    /// Thousands of tables take seconds: signals and requests come between.
    pub(super) async fn write_first_maps(&mut self) -> anyhow::Result<()> {
        for run in reconcile::runs(&self.changes()) {
            self.apply(run)?;
            self.refuse_requests();
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Who asks before there is anything to tell is told to ask again.
    fn refuse_requests(&mut self) {
        while self.requests.try_recv().is_ok() {}
    }

    fn apply(&mut self, run: &[Change]) -> anyhow::Result<()> {
        self.dataplane.apply_run(run)?;
        run.iter().for_each(|change| self.applied.apply(change));
        Ok(())
    }

    /// What to change so that the maps hold what they should.
    fn changes(&mut self) -> Vec<Change> {
        let attached = self.hooks();
        self.follow_weights();
        let mut tables = std::mem::take(&mut self.tables);
        let desired = reconcile::desired(&self.inputs(&attached), &mut tables, |key| {
            availability(self.registry.get(key))
        });
        self.tables = tables;
        self.report(&desired.problems);
        self.balance(desired.balances);
        reconcile::diff(&self.applied, &desired.state)
    }

    /// Likewise, as far as a group's part goes.
    fn group_changes(&mut self, group: &str) -> Vec<Change> {
        let attached = self.hooks();
        self.follow_weights();
        let mut tables = std::mem::take(&mut self.tables);
        let inputs = self.inputs(&attached);
        let desired = reconcile::desired_group(&inputs, group, &mut tables, |key| {
            availability(self.registry.get(key))
        });
        self.tables = tables;
        let Some((state, balance)) = desired else {
            return Vec::new();
        };
        log_balance(group, self.balances.get(group), &balance);
        self.balances.insert(group.to_owned(), balance);
        reconcile::diff_group(&self.applied, &state)
    }

    fn follow_weights(&mut self) {
        self.slow_starts = self.registry.slow_starts(&self.config, self.last_step);
        self.weights = self.registry.overrides().weights();
    }

    fn inputs<'a>(&'a self, attached: &'a BTreeMap<u32, XdpHook>) -> Inputs<'a> {
        Inputs {
            config: &self.config,
            host: &self.host,
            attached,
            ids: &self.ids,
            slow_starts: &self.slow_starts,
            weights: &self.weights,
            draining: &self.draining,
            applied: &self.applied,
        }
    }

    fn hooks(&self) -> BTreeMap<u32, XdpHook> {
        let attached = self.dataplane.attached();
        let hooks = attached.iter().map(|(&index, hooks)| (index, hooks.xdp));
        hooks.collect()
    }

    /// Logs each problem when it comes and when it goes.
    fn report(&mut self, problems: &[Problem]) {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        for problem in problems
            .iter()
            .filter(|problem| !self.problems.contains(problem))
        {
            warn!(problem, "this doesn't work");
        }
        for problem in self
            .problems
            .iter()
            .filter(|problem| !problems.contains(problem))
        {
            info!(problem, "this works again");
        }
        self.problems = problems;
    }

    /// Takes note of how flows are spread from now on, and logs where that
    /// begins or ends to be over all targets.
    fn balance(&mut self, balances: BTreeMap<String, Balance>) {
        let before = std::mem::replace(&mut self.balances, balances);
        for (group, now) in &self.balances {
            log_balance(group, before.get(group), now);
        }
    }

    /// Sweeps the flow table on a thread of its own; it may take seconds.
    pub(super) fn sweep(&mut self) {
        match self.dataplane.sweep() {
            Ok(sweep) => {
                let internals = self.internals.clone();
                self.sweep.start(tokio::task::spawn_blocking(move || {
                    let start = Instant::now();
                    let swept = sweep.run();
                    internals.swept(start.elapsed());
                    swept
                }));
            }
            Err(error) => warn!(%error, "could not sweep the flow table"),
        }
    }

    pub(super) fn swept(&mut self, result: io::Result<Swept>) {
        self.internals.handled(Event::Sweep, 1);
        match result {
            Ok(swept) => {
                self.removed += swept.removed;
                self.swept = swept;
            }
            Err(error) => warn!(%error, "could not sweep the flow table"),
        }
    }
}

fn log_balance(target_group: &str, before: Option<&Balance>, now: &Balance) {
    let was_open = before.is_some_and(|before| before.fail_open);
    let (healthy, targets) = (now.healthy, now.targets);
    match (was_open, now.fail_open) {
        (false, true) => warn!(
            target_group,
            healthy, targets, "too few healthy targets: new flows go to all of them"
        ),
        (true, false) => info!(
            target_group,
            healthy, targets, "enough healthy targets: new flows go to them only"
        ),
        _ => {}
    }
}
