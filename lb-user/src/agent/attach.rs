//! Attaching to interfaces.

use tracing::{info, warn};

use super::{Agent, addresses, unload::clear_filters};
use crate::{
    dataplane::{AttachOptions, PROGRAM_PREFIX, TcHook},
    host::{Filter, Interface},
    reconcile,
};

impl Agent {
    /// Attaches to an interface, or takes over there. Clears away what an agent
    /// has left that can't be taken over: clsact filters that would rewrite
    /// packets by maps that nobody writes any more.
    pub(super) async fn attach(&mut self, interface: &Interface) -> anyhow::Result<()> {
        let index = interface.index;
        let clsact = self.netlink.clsact(index).await?;
        let (ours, others): (Vec<Filter>, Vec<Filter>) =
            clsact.iter().flatten().cloned().partition(is_ours);
        let is_held = self.dataplane.holds(index);
        // A qdisc with nothing but filters of a dead agent is its too.
        let is_left = !ours.is_empty() && others.is_empty();
        if clsact.is_none() || is_left && !(is_held && self.has_history) {
            // First, so that it is known if this ends here.
            self.qdiscs.insert(index);
        }
        // Where XDP isn't the instance's, the filters aren't either.
        let (kept, mut stale) = match is_held {
            true => one_each_way(ours),
            false => (Vec::new(), ours),
        };
        let attached = self.dataplane.attach(&AttachOptions {
            interface: &interface.name,
            index,
            xdp: self.config.xdp_mode,
            tc: self.config.tc_mode,
            filters: &kept,
        })?;
        info!(interface = interface.name, xdp = %attached.xdp, tc = %attached.tc, "attached");
        if attached.tc == TcHook::Tcx {
            stale.extend(kept);
        }
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
        self.state.touch();
        Ok(())
    }

    /// Leaves interfaces that an agent before was attached to, and that the
    /// configuration doesn't have any more.
    pub(super) async fn detach_left_over(&mut self) -> anyhow::Result<()> {
        let left_over = self.dataplane.left_over()?;
        self.dataplane.detach_left_over()?;
        for index in left_over {
            let qdisc_is_ours = self.qdiscs.remove(&index);
            clear_filters(&self.netlink, index, qdisc_is_ours).await?;
            info!(index, "left an interface that isn't configured any more");
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
}

/// The first filter of each direction, and the others.
fn one_each_way(filters: Vec<Filter>) -> (Vec<Filter>, Vec<Filter>) {
    let (mut first, mut others) = (Vec::<Filter>::new(), Vec::new());
    for filter in filters {
        let is_known = first.iter().any(|it| it.is_egress() == filter.is_egress());
        if is_known { &mut others } else { &mut first }.push(filter);
    }
    (first, others)
}

pub(super) fn is_ours(filter: &Filter) -> bool {
    let program = filter.program.as_deref();
    program.is_some_and(|name| name.starts_with(PROGRAM_PREFIX))
}
