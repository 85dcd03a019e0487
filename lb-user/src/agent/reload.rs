//! Another configuration while xlb runs.

use tracing::{error, info, warn};

use super::{Agent, addresses, background::Background, remote};
use crate::{
    api::ReloadError,
    config::{Config, Diagnostics, TargetGroup},
    metrics::Reloaded,
    registry::Now,
};

impl Agent {
    /// Reads the file again and brings everything to what it says. An error
    /// before the maps are written changes nothing. Returns what is odd about
    /// the configuration.
    pub(super) async fn reload(&mut self) -> Result<Diagnostics, ReloadError> {
        let result = self.try_reload().await;
        self.internals.reloaded(outcome(&result));
        match &result {
            Ok(warnings) => {
                for warning in warnings.lines() {
                    warn!("{warning}");
                }
                let (listeners, targets) = (self.config.listeners.len(), self.config.targets());
                info!(listeners, targets, "configuration reloaded");
            }
            Err(ReloadError::Config(error)) => {
                for line in error.lines() {
                    error!("{line}");
                }
                error!("the configuration was not reloaded: nothing has changed");
            }
            Err(error) => error!(%error, "the configuration was not reloaded in full"),
        }
        result
    }

    async fn try_reload(&mut self) -> Result<Diagnostics, ReloadError> {
        let file = self.file.as_ref().ok_or(ReloadError::NoFile)?;
        let parsed = file.reload(&self.config)?;
        if let Err(error) = self.prepare_host(&parsed.config).await {
            // Addresses that were added by then go again.
            let before = self.config.clone();
            self.retire_addresses(&before, Now::read().steady);
            return Err(ReloadError::Host(error));
        }
        self.take_over(parsed.config).map_err(ReloadError::Maps)?;
        Ok(parsed.warnings)
    }

    /// All that can fail.
    async fn prepare_host(&mut self, config: &Config) -> anyhow::Result<()> {
        self.add_addresses(addresses::wanted(config)).await?;
        // One that is under way doesn't know of the new targets.
        self.looking = Background::default();
        self.host = self.netlink.snapshot(remote(config)).await?;
        Ok(())
    }

    fn take_over(&mut self, config: Config) -> anyhow::Result<()> {
        let now = Now::read();
        let before = std::mem::replace(&mut self.config, config);
        for group in &before.target_groups {
            let stays = |it: &TargetGroup| it.name == group.name;
            if !self.config.target_groups.iter().any(stays) {
                self.internals.forget(&group.name);
            }
        }
        self.retire_addresses(&before, now.steady);
        self.register_targets(now);
        let written = self.write_maps();
        self.start_checks();
        written
    }
}

fn outcome(result: &Result<Diagnostics, ReloadError>) -> Reloaded {
    match result {
        Ok(_) => Reloaded::Applied,
        Err(ReloadError::Config(_)) => Reloaded::Invalid,
        Err(_) => Reloaded::Failed,
    }
}
