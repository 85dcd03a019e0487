//! A scenario whose agent is started again, for tests of what is the same then.

use std::{
    fs::{self},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use xlb_tests::xlb::{Config, TargetStatus, Xlb};

use super::scenario::{Mode, Scenario, Setup};

/// A scenario whose agent is started again.
pub struct Run {
    pub scenario: Option<Scenario>,
    pub config: Config,
}

impl Run {
    pub fn start(mode: Mode, targets: usize, settings: &str) -> Result<Self> {
        let setup = Setup::new(mode, targets);
        let topology = setup.topology()?;
        let mut config = setup.config(&topology);
        config.target_groups[0].settings = settings.into();
        let scenario = setup.start_with(topology, &config)?;
        Ok(Self {
            scenario: Some(scenario),
            config,
        })
    }

    pub fn scenario(&self) -> Result<&Scenario> {
        self.scenario.as_ref().context("no scenario")
    }

    /// Ends the agent, does something, and starts another with the present
    /// configuration.
    pub fn restart(&mut self, between: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let scenario = self.scenario.take().context("no scenario")?;
        let folder = scenario.xlb.folder();
        scenario.xlb.stop()?;
        between(&folder)?;
        let topology = &scenario.topology;
        let xlb = Xlb::start(&topology.balancer, &self.config, topology.directory())?;
        self.scenario = Some(Scenario { xlb, ..scenario });
        Ok(())
    }

    pub fn target(&self, n: usize) -> Result<TargetStatus> {
        let scenario = self.scenario()?;
        let address = scenario.servers[n].place.address;
        Ok(scenario.xlb.status()?.target(address)?.clone())
    }

    /// What an agent says that starts now and can't.
    pub fn refused(&self) -> Result<String> {
        let topology = &self.scenario()?.topology;
        let error = Xlb::start(&topology.balancer, &self.config, topology.directory()).err();
        let error = format!("{:#}", error.context("it started")?);
        ensure!(!error.contains("panicked"), "{error}");
        Ok(error)
    }
}

/// What is in a folder.
pub fn names(folder: &Path) -> Result<Vec<String>> {
    let name = |entry: std::io::Result<fs::DirEntry>| {
        Ok(entry?.file_name().to_string_lossy().into_owned())
    };
    fs::read_dir(folder)?.map(name).collect()
}

pub fn nothing(_: &Path) -> Result<()> {
    Ok(())
}
