//! Attaching to interfaces, and leaving the host as it was.

use tracing::{info, warn};

use super::{Agent, addresses};
use crate::{
    dataplane::{PROGRAM_PREFIX, TcHook},
    host::{Filter, Interface},
    reconcile,
};

impl Agent {
    /// Attaches to an interface, and clears away what an agent that was killed
    /// has left there: its clsact filters, which would rewrite packets by a map
    /// that nobody writes any more.
    pub(super) async fn attach(&mut self, interface: &Interface) -> anyhow::Result<()> {
        let index = interface.index;
        let clsact = self.netlink.clsact(index).await?;
        let (stale, others): (Vec<Filter>, Vec<Filter>) =
            clsact.iter().flatten().cloned().partition(is_ours);
        // A qdisc with nothing but stale filters is a dead agent's too.
        let adopted = !stale.is_empty() && others.is_empty();
        if clsact.is_none() || adopted {
            // First, so that it is known if this ends here.
            self.qdiscs.insert(index);
        }
        let attached = self.dataplane.attach(
            &interface.name,
            index,
            self.config.xdp_mode,
            self.config.tc_mode,
        )?;
        info!(interface = interface.name, xdp = %attached.xdp, tc = %attached.tc, "attached");
        // Not before: until XDP is attached the filters may be those of another
        // agent, alive.
        for filter in stale {
            warn!(
                interface = interface.name,
                filter = filter.program,
                "removed a stale filter"
            );
            self.netlink.remove_filter(filter).await?;
        }
        if attached.tc == TcHook::Tcx && self.qdiscs.remove(&index) {
            self.netlink.remove_empty_clsact(index).await?;
        }
        Ok(())
    }

    /// Attaches to configured interfaces that have come back (a container's, a
    /// driver that was loaded anew), and forgets those that are gone. One that
    /// is down stays attached.
    pub(super) async fn follow_interfaces(&mut self) -> anyhow::Result<()> {
        let attached = self.dataplane.attached();
        for &index in attached.keys() {
            if !self.host.interfaces.contains_key(&index) {
                warn!(index, "an interface is gone that was attached to");
                self.dataplane.forget(index);
                self.qdiscs.remove(&index);
                self.managed.retain(|&(interface, _)| interface != index);
            }
        }
        let back: Vec<Interface> = reconcile::interfaces(&self.config, &self.host)
            .filter_map(Result::ok)
            .filter(|interface| !attached.contains_key(&interface.index))
            .cloned()
            .collect();
        if back.is_empty() {
            return Ok(());
        }
        self.add_addresses(addresses::wanted(&self.config)).await?;
        for interface in &back {
            self.attach(interface).await?;
        }
        // Attaching a program can change what a device's driver offers.
        self.look();
        Ok(())
    }

    /// Takes everything back that it did to the host, as far as it can, and
    /// returns the first failure.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        let mut result = self.dataplane.detach().map_err(anyhow::Error::from);
        for index in std::mem::take(&mut self.qdiscs) {
            let removed = self.netlink.remove_empty_clsact(index).await;
            result = result.and(removed.map_err(Into::into));
        }
        for (interface, address) in std::mem::take(&mut self.managed) {
            let removed = self.netlink.remove_address(interface, address).await;
            result = result.and(removed.map_err(Into::into));
        }
        result
    }
}

fn is_ours(filter: &Filter) -> bool {
    let program = filter.program.as_deref();
    program.is_some_and(|name| name.starts_with(PROGRAM_PREFIX))
}
