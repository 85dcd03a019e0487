//! Whose flows a request asks for.

use std::collections::HashMap;

use super::Agent;
use crate::{
    api::{Filter, FlowsError, FlowsReader, FlowsRequest, Names},
    config::prefix,
    reconcile::TargetKey,
    registry::{FindError, TargetName},
};

impl Agent {
    /// All that it takes to answer the request aside from the agent's task.
    pub(super) fn flows(&self, request: &FlowsRequest) -> Result<FlowsReader, FlowsError> {
        let names = self.names();
        let filter = Filter {
            listener: self.listener_asked_for(request)?,
            targets: targets_asked_for(request, &names)?,
            client: match &request.client {
                Some(text) => Some(prefix(text).map_err(FlowsError::Client)?),
                None => None,
            },
            state: request.state,
        };
        Ok(FlowsReader {
            listing: self.dataplane.listing()?,
            filter,
            limit: request.limit,
            count: request.count,
            names,
        })
    }

    pub(super) fn names(&self) -> Names {
        let listeners = self.config.listeners.iter();
        let listener = |name: &String| Some((self.ids.listener(name)?, name.clone()));
        let draining = self.registry.draining().map(|(key, _)| key.clone());
        let target = |key: TargetKey| {
            let id = self.ids.target(&key)?;
            Some(((id, self.ids.generation(id)), key))
        };
        Names {
            listeners: listeners.filter_map(|it| listener(&it.name)).collect(),
            targets: TargetKey::all(&self.config)
                .chain(draining)
                .filter_map(target)
                .collect::<HashMap<_, _>>(),
        }
    }

    fn listener_asked_for(&self, request: &FlowsRequest) -> Result<Option<u32>, FlowsError> {
        let Some(name) = &request.listener else {
            return Ok(None);
        };
        let id = self.ids.listener(name);
        id.map(Some)
            .ok_or_else(|| FlowsError::NoListener(name.clone()))
    }
}

/// Also those that drain, and without a group those of all groups.
fn targets_asked_for(
    request: &FlowsRequest,
    names: &Names,
) -> Result<Option<Vec<(u32, u32)>>, FlowsError> {
    let group = request.target_group.as_deref();
    let name = match &request.target {
        Some(text) => Some(TargetName::parse(text, group)?),
        None if group.is_some() => None,
        None => return Ok(None),
    };
    let is_asked_for = |key: &TargetKey| match &name {
        Some(name) => name.is(key),
        None => Some(key.group.as_str()) == group,
    };
    let targets = names.targets.iter().filter(|(_, key)| is_asked_for(key));
    let ids: Vec<(u32, u32)> = targets.map(|(&id, _)| id).collect();
    match (ids.is_empty(), name) {
        (false, _) => Ok(Some(ids)),
        (true, Some(name)) => Err(name.unknown().into()),
        (true, None) => Err(FindError::NoGroup(group.unwrap_or_default().to_owned()).into()),
    }
}
