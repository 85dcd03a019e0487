//! Taking everything out of the kernel again.

use std::collections::BTreeSet;

use tracing::info;

use super::{
    Agent,
    attach::is_ours,
    state::{self, Saved},
};
use crate::{
    dataplane::{PinError, Pins},
    host::Netlink,
    instance::Instance,
};

/// Removes all that an instance has in the kernel and on interfaces, and its
/// state. No agent of it may be alive. False if there is nothing.
///
/// # Errors
/// If something can't be removed; all else is.
pub async fn unload(instance: &Instance) -> anyhow::Result<bool> {
    let file = instance.state();
    let saved = Saved::read(&file);
    let Some(pins) = Pins::find(&instance.bpffs, instance.name()) else {
        if let Some(saved) = &saved {
            // The BPF filesystem is gone, with what was pinned there.
            clear_host(saved, BTreeSet::new()).await?;
        }
        state::remove(&file);
        return Ok(saved.is_some());
    };
    let interfaces: BTreeSet<u32> = pins.interfaces()?.into_iter().collect();
    if !interfaces.is_empty() && !pins.is_of_this_network()? {
        return Err(PinError::OtherNetwork {
            folder: pins.folder().to_owned(),
        }
        .into());
    }
    let mut result = pins.remove().map_err(anyhow::Error::from);
    result = result.and(clear_host(&saved.unwrap_or_default(), interfaces).await);
    state::remove(&file);
    result.map(|()| true)
}

/// Removes the filters, qdiscs and addresses that xlb has added.
async fn clear_host(saved: &Saved, mut interfaces: BTreeSet<u32>) -> anyhow::Result<()> {
    let netlink = Netlink::open()?;
    let mut result = Ok(());
    interfaces.extend(&saved.qdiscs);
    for index in interfaces {
        let cleared = clear_filters(&netlink, index, saved.qdiscs.contains(&index));
        result = result.and(cleared.await);
    }
    for &(interface, address) in &saved.addresses {
        let removed = netlink.remove_address(interface, address).await;
        result = result.and(removed.map_err(Into::into));
    }
    result
}

/// Removes xlb's filters from an interface's clsact qdisc, and the qdisc too if
/// xlb has added it, or if there was nothing else in it.
pub(super) async fn clear_filters(
    netlink: &Netlink,
    index: u32,
    qdisc_is_ours: bool,
) -> anyhow::Result<()> {
    let filters = netlink.clsact(index).await?.unwrap_or_default();
    let (ours, others): (Vec<_>, Vec<_>) = filters.into_iter().partition(is_ours);
    let had_ours_only = !ours.is_empty() && others.is_empty();
    for filter in ours {
        netlink.remove_filter(filter).await?;
    }
    if qdisc_is_ours || had_ours_only {
        netlink.remove_empty_clsact(index).await?;
    }
    Ok(())
}

impl Agent {
    /// Ends with traffic going on as it is: the next agent takes over.
    pub(super) async fn leave(&mut self) {
        self.save_now().await;
        info!("traffic goes on as it is; `xlb unload` would end that");
    }

    /// Takes everything back that it did to the host, as far as it can, and
    /// returns the first failure.
    pub(super) async fn unload(&mut self) -> anyhow::Result<()> {
        let mut result = self.dataplane.detach().map_err(anyhow::Error::from);
        result = result.and(self.detach_left_over().await);
        result = result.and(self.dataplane.unpin().map_err(Into::into));
        for index in std::mem::take(&mut self.qdiscs) {
            let removed = self.netlink.remove_empty_clsact(index).await;
            result = result.and(removed.map_err(Into::into));
        }
        for (interface, address) in std::mem::take(&mut self.managed) {
            let removed = self.netlink.remove_address(interface, address).await;
            result = result.and(removed.map_err(Into::into));
        }
        self.remove_state();
        result
    }
}
