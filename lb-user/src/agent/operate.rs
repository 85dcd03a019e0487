//! What operators ask for about targets.

use lb_common::limits::MAX_WEIGHT;
use tracing::info;

use super::Agent;
use crate::{
    api::{OperateError, TargetReport, TargetRequest},
    reconcile::TargetKey,
    registry::{Now, Operation, TargetName},
};

impl Agent {
    /// Drains a target, enables it, or sets its weight, and says what has become
    /// of it. What is wrong with the request changes nothing.
    pub(super) fn operate(
        &mut self,
        request: &TargetRequest,
    ) -> Result<TargetReport, OperateError> {
        let name = TargetName::parse(&request.target, request.target_group.as_deref())?;
        let key = name.find(&self.config)?;
        if let Operation::Weight(weight) = request.operation
            && !(1..=MAX_WEIGHT).contains(&weight)
        {
            return Err(OperateError::Weight);
        }
        log(&key, request.operation);
        let registration =
            self.registry
                .operate(&key, request.operation, &self.config, Now::read());
        self.registered(&registration);
        let written = self.write_maps();
        self.start_checks();
        written.map_err(OperateError::Maps)?;
        self.report_target(&name, key)
    }

    fn report_target(
        &self,
        name: &TargetName,
        key: TargetKey,
    ) -> Result<TargetReport, OperateError> {
        let Some(target) = self.registry.get(&key) else {
            return Err(name.unknown().into());
        };
        let target = self.target_status(&key, target);
        let group = key.group;
        let is_empty = self.balances.get(&group).is_some_and(|it| it.is_empty());
        let warning = is_empty.then(|| {
            format!("no target of the group `{group}` takes new flows now: they are dropped")
        });
        Ok(TargetReport {
            target_group: group,
            target,
            warning,
        })
    }
}

fn log(key: &TargetKey, operation: Operation) {
    let (target_group, target) = (&key.group, key.to_string());
    match operation {
        Operation::Drain => info!(target_group, target, "an operator drains the target"),
        Operation::Enable => info!(target_group, target, "an operator enables the target"),
        Operation::Weight(weight) => {
            info!(
                target_group,
                target, weight, "an operator sets the target's weight"
            );
        }
    }
}
