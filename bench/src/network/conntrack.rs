//! `nf_conntrack_max` is of the whole machine: raised for a run where it is too
//! low for a fair one, and put back after it.

use std::fs;

use anyhow::{Context as _, Result};

const SETTING: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
/// More than any measurement opens.
const ENOUGH: u64 = 200_000;

/// What it was, if it was changed.
pub struct Conntrack(Option<String>);

impl Conntrack {
    /// Makes room for the connections of a measurement.
    pub fn raise() -> Result<Self> {
        // Without conntrack in the kernel there is nothing to raise, and
        // nftables will say what is missing.
        let Ok(before) = fs::read_to_string(SETTING) else {
            return Ok(Self(None));
        };
        if before.trim().parse().is_ok_and(|max: u64| max >= ENOUGH) {
            return Ok(Self(None));
        }
        fs::write(SETTING, ENOUGH.to_string()).with_context(|| format!("can't write {SETTING}"))?;
        Ok(Self(Some(before)))
    }
}

impl Drop for Conntrack {
    fn drop(&mut self) {
        if let Some(before) = &self.0
            && let Err(error) = fs::write(SETTING, before)
        {
            eprintln!(
                "{SETTING} was {}, and can't be put back: {error}",
                before.trim()
            );
        }
    }
}
