//! What an agent must know of the one before it that the maps don't tell: a file
//! that lives as long as what is pinned, until the machine goes down.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::{Agent, background::Background};
use crate::{
    reconcile::SavedIds,
    registry::{Clock, OperatorOverrides, SavedTarget},
};

/// Time between writes.
const INTERVAL: Duration = Duration::from_secs(1);
/// The same after one that failed.
const RETRY: Duration = Duration::from_secs(5);
/// How long an answer waits for a write.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// The file's content. What isn't there is as new.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Saved {
    pub ids: SavedIds,
    pub targets: Vec<SavedTarget>,
    /// What operators have asked for.
    pub overrides: OperatorOverrides,
    /// Addresses that xlb has added, by interface index.
    pub addresses: Vec<(u32, IpAddr)>,
    /// Those of them that no listener has any more, and when they go
    /// (CLOCK_MONOTONIC).
    pub retiring: Vec<(IpAddr, Duration)>,
    /// Interfaces whose clsact qdisc xlb has added.
    pub qdiscs: Vec<u32>,
}

impl Saved {
    /// `None` if there is no such file, or it makes no sense.
    pub(super) fn read(path: &Path) -> Option<Self> {
        let text = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            text => text,
        };
        text.map_err(anyhow::Error::from)
            .and_then(|text| Ok(serde_json::from_slice(&text)?))
            .inspect_err(|error| {
                warn!(
                    file = %path.display(),
                    error = format!("{error:#}"),
                    "the state of the agent before can't be read: going by the maps alone"
                );
            })
            .ok()
    }
}

/// The file of this agent.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    /// It isn't what it should be.
    is_behind: bool,
    /// Not before.
    next: Instant,
    writing: Background<io::Result<()>>,
    /// Why the last write failed.
    failure: Option<String>,
}

impl StateFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            is_behind: false,
            next: Instant::now(),
            writing: Background::default(),
            failure: None,
        }
    }

    /// Something has changed that belongs into it.
    pub(super) fn touch(&mut self) {
        self.is_behind = true;
    }

    /// When it is to be written.
    pub(super) fn next_write(&self) -> Option<Instant> {
        (self.is_behind && !self.writing.is_busy()).then_some(self.next)
    }

    pub(super) async fn written(&mut self) -> io::Result<()> {
        let result = self.writing.done().await;
        result.unwrap_or_else(|panic| Err(io::Error::other(panic)))
    }

    /// In a sentence for the operator.
    pub(super) fn problem(&self) -> Option<String> {
        self.failure.as_ref().map(|failure| {
            format!(
                "the state can't be written to {} ({failure}), so an agent that starts now would \
                 know only what the maps tell: make room there",
                self.path.display()
            )
        })
    }
}

impl Agent {
    /// Begins to write the state, aside from the agent's task.
    pub(super) fn save(&mut self) {
        let (path, text) = (self.state.path.clone(), self.state_text());
        self.state.is_behind = false;
        self.state.next = Instant::now() + INTERVAL;
        let write = move || text.and_then(|text| write(&path, &text));
        self.state.writing.start(tokio::task::spawn_blocking(write));
    }

    /// Takes note of whether the state is written.
    pub(super) fn saved(&mut self, result: io::Result<()>) {
        match result {
            Ok(()) => {
                if self.state.failure.take().is_some() {
                    info!("the state can be written again");
                }
            }
            Err(error) => {
                self.state.is_behind = true;
                self.state.next = Instant::now() + RETRY;
                let failure = error.to_string();
                if self.state.failure.as_ref() != Some(&failure) {
                    let file = self.state.path.display();
                    error!(%file, error = failure, "could not write the state");
                }
                self.state.failure = Some(failure);
            }
        }
    }

    /// Writes the state before the agent ends.
    pub(super) async fn save_now(&mut self) {
        if self.state.writing.is_busy() {
            // Not two at a time: the older one could come last.
            let result = self.state.written().await;
            self.saved(result);
        }
        let written = self
            .state_text()
            .and_then(|text| write(&self.state.path, &text));
        self.saved(written);
    }

    /// Writes the state before somebody is told that what is in it was done: a
    /// crash mustn't undo that. A disk that hangs keeps nobody waiting for long.
    pub(super) async fn save_before_answer(&mut self) {
        let saved = async {
            if self.state.writing.is_busy() {
                // It is older.
                let result = self.state.written().await;
                self.saved(result);
            }
            self.save();
            let result = self.state.written().await;
            self.saved(result);
        };
        let _ = timeout(ANSWER_TIMEOUT, saved).await;
    }

    pub(super) fn remove_state(&mut self) {
        // One that is being written comes to nothing with its folder.
        self.state.writing = Background::default();
        remove(&self.state.path);
    }

    fn state_text(&self) -> io::Result<Vec<u8>> {
        let clock = Clock::read()?;
        let retiring = self.retiring.iter();
        let saved = Saved {
            ids: self.ids.save(),
            targets: self.registry.save(clock),
            overrides: self.registry.overrides().clone(),
            addresses: self.managed.clone(),
            retiring: retiring
                .map(|(&address, &end)| (address, clock.monotonic(end)))
                .collect(),
            qdiscs: self.qdiscs.iter().copied().collect(),
        };
        Ok(serde_json::to_vec(&saved)?)
    }
}

pub(super) fn remove(path: &Path) {
    let _ = fs::remove_file(unfinished(path));
    let _ = fs::remove_file(path);
}

fn unfinished(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// The whole file or none of it.
fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let unfinished = unfinished(path);
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(&unfinished)?.write_all(text)?;
    fs::rename(&unfinished, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_whole_or_not_there() {
        let folder = std::env::temp_dir().join(format!("xlb-state-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("state.json");
        assert!(Saved::read(&path).is_none());

        let saved = Saved {
            addresses: vec![(3, IpAddr::from([10, 0, 2, 100]))],
            qdiscs: vec![2],
            ..Saved::default()
        };
        write(&path, &serde_json::to_vec(&saved).unwrap()).unwrap();
        assert_eq!(Saved::read(&path).unwrap().addresses, saved.addresses);
        assert!(!unfinished(&path).exists());

        fs::write(&path, &b"{\"qdiscs\": [2"[..]).unwrap();
        assert!(Saved::read(&path).is_none(), "half a file is none");
        // Of another version: it has what it has.
        fs::write(&path, &b"{\"qdiscs\": [7], \"more\": {}}"[..]).unwrap();
        assert_eq!(Saved::read(&path).unwrap().qdiscs, [7]);
        fs::remove_dir_all(&folder).unwrap();
    }
}
