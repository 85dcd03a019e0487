//! The agent: one task that owns all state and is the only writer of maps.
//! Everything else sends it events.

mod status;

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tracing::{error, info, warn};

use crate::{
    api::{Request, Server},
    config::{Config, Target, TargetGroup},
    dataplane::{AttachError, Dataplane, Swept, TcHook},
    health::{CheckResult, Checker, Health, LocalFault, Outcome, TargetHealth, Thresholds},
    host::{Host, HostChanged, Interface, Netlink},
    reconcile::{self, Availability, Ids, Inputs, MapState, Problem, TargetKey},
};

/// Results that may wait for the agent; when they do, checks become late.
const RESULTS: usize = 1_024;
/// Requests that may wait for the agent.
const REQUESTS: usize = 16;
/// Time between two words about the same shortage.
const SHORTAGE_INTERVAL: Duration = Duration::from_secs(60);
/// Time between sweeps of the flow table.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Balances as `config` says until SIGTERM, SIGINT or SIGHUP, then detaches.
///
/// # Errors
/// If it can't start, and then nothing stays attached.
pub async fn run(config: Config, socket: &Path) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("could not listen for signals")?;
    raise_file_limit();
    let dataplane = Dataplane::load(&config.capacity)?;
    let server = Server::bind(socket)?;
    let (requests, inbox) = mpsc::channel(REQUESTS);
    let mut agent = Agent::new(config, dataplane, inbox).await?;
    let started = agent.start().await;
    let server = tokio::spawn(server.serve(requests));
    if started.is_ok() {
        info!("ready");
        agent.serve(&mut signals).await;
        info!("stopping");
    }
    let stopped = agent.stop().await;
    server.abort();
    // Its socket file is gone once it is dropped.
    let _ = server.await;
    started.and(stopped)
}

struct Agent {
    config: Config,
    started: SystemTime,
    dataplane: Dataplane,
    /// What the maps hold.
    applied: MapState,
    ids: Ids,
    netlink: Netlink,
    host: Host,
    /// Addresses that xlb has added to an interface, and so removes.
    managed: Vec<(u32, Ipv4Addr)>,
    checker: Checker<TargetKey>,
    health: BTreeMap<TargetKey, TargetHealth>,
    /// What keeps parts of the configuration from working.
    problems: Vec<String>,
    swept: Swept,
    last_shortage: Option<Instant>,
    requests: mpsc::Receiver<Request>,
    results: mpsc::Receiver<CheckResult<TargetKey>>,
    host_changes: mpsc::Receiver<HostChanged>,
}

impl Agent {
    async fn new(
        config: Config,
        dataplane: Dataplane,
        requests: mpsc::Receiver<Request>,
    ) -> anyhow::Result<Self> {
        let netlink = Netlink::open().context("could not open a netlink socket")?;
        // Before the first snapshot, so that no change is missed between.
        let host_changes = netlink
            .watch()
            .context("could not follow the host's changes")?;
        let (sender, results) = mpsc::channel(RESULTS);
        let mut ids = Ids::new(config.capacity);
        ids.assign(&config);
        Ok(Self {
            started: SystemTime::now(),
            applied: MapState::default(),
            ids,
            netlink,
            host: Host::default(),
            managed: Vec::new(),
            checker: Checker::new(sender),
            health: BTreeMap::new(),
            problems: Vec::new(),
            swept: Swept::default(),
            last_shortage: None,
            requests,
            results,
            host_changes,
            config,
            dataplane,
        })
    }

    /// Attaches, then lets the maps say what to do with packets. Until a target
    /// is healthy its listener's packets are dropped.
    async fn start(&mut self) -> anyhow::Result<()> {
        self.look_at_host().await?;
        let interfaces: Vec<Interface> = reconcile::interfaces(&self.config, &self.host)
            .map(|interface| interface.cloned())
            .collect::<Result<_, Problem>>()?;
        self.manage_addresses().await?;
        for interface in &interfaces {
            self.attach(interface)?;
        }
        // Attaching a program can change what a device's driver offers.
        self.look_at_host().await?;
        self.register_targets();
        self.write_maps()
            .context("could not write the first configuration to the maps")
    }

    async fn serve(&mut self, signals: &mut Signals) {
        let mut sweeps = interval(SWEEP_INTERVAL);
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (done, mut swept) = mpsc::channel(1);
        loop {
            tokio::select! {
                () = signals.stop() => return,
                Some(result) = self.results.recv() => self.checked(&result),
                Some(HostChanged) = self.host_changes.recv() => self.host_changed().await,
                Some(Request::Status(answer)) = self.requests.recv() => {
                    // Whoever asked may have gone.
                    let _ = answer.send(self.status());
                }
                _ = sweeps.tick() => self.sweep(done.clone()),
                Some(result) = swept.recv() => self.swept(result),
            }
        }
    }

    async fn look_at_host(&mut self) -> anyhow::Result<()> {
        let remote = self
            .config
            .target_groups
            .iter()
            .flat_map(|group| &group.targets)
            .filter_map(|target| match target.address {
                Some(IpAddr::V4(address)) => Some(address),
                _ => None,
            });
        self.host = self.netlink.snapshot(remote).await?;
        Ok(())
    }

    fn attach(&mut self, interface: &Interface) -> Result<(), AttachError> {
        let attached = self.dataplane.attach(
            &interface.name,
            interface.index,
            self.config.xdp_mode,
            self.config.tc_mode,
        )?;
        info!(interface = interface.name, xdp = %attached.xdp, tc = %attached.tc, "attached");
        Ok(())
    }

    /// Attaches to configured interfaces that have come back (a container's, a
    /// driver that was loaded anew), and forgets those that are gone. One that
    /// is down stays attached.
    async fn follow_interfaces(&mut self) -> anyhow::Result<()> {
        let attached = self.dataplane.attached();
        for &index in attached.keys() {
            if !self.host.interfaces.contains_key(&index) {
                warn!(index, "an interface is gone that was attached to");
                self.dataplane.forget(index);
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
        self.manage_addresses().await?;
        for interface in &back {
            self.attach(interface)?;
        }
        self.look_at_host().await
    }

    /// Adds the listeners' addresses that no interface has to the first one.
    async fn manage_addresses(&mut self) -> anyhow::Result<()> {
        let first = self.config.interfaces.first();
        let Some(interface) = first.and_then(|name| self.host.interface(name)) else {
            return Ok(());
        };
        let interface = interface.index;
        if !self.config.manage_address {
            return Ok(());
        }
        for listener in &self.config.listeners {
            if let Some(IpAddr::V4(address)) = listener.address
                && !self.host.owns(address)
                && !self.managed.contains(&(interface, address))
            {
                self.netlink.add_address(interface, address).await?;
                self.managed.push((interface, address));
                info!(%address, "address added");
            }
        }
        Ok(())
    }

    /// Begins the checks of every target that a listener uses.
    fn register_targets(&mut self) {
        let now = SystemTime::now();
        for (index, group) in self.config.target_groups.iter().enumerate() {
            let used = self
                .config
                .listeners
                .iter()
                .any(|l| l.target_group == index);
            for target in &group.targets {
                let key = TargetKey::new(group, target);
                let health = self
                    .health
                    .entry(key.clone())
                    .or_insert_with(|| TargetHealth::new(now));
                if used {
                    health.resume(now);
                } else {
                    health.set_unused(now);
                }
            }
        }
        self.start_checks();
    }

    /// Checks every used target where it is now; what goes on as before isn't
    /// disturbed.
    fn start_checks(&mut self) {
        let own = self.own_address();
        for group in &self.config.target_groups {
            for target in &group.targets {
                let key = TargetKey::new(group, target);
                if self
                    .health
                    .get(&key)
                    .is_none_or(|health| health.health == Health::Unused)
                {
                    continue;
                }
                let Some(address) = check_address(group, target, own) else {
                    continue;
                };
                if let Err(error) = self.checker.start(key, address, &group.health_check) {
                    // Validation has tried the path and the host already.
                    error!(target = %address, %error, "the health check can't be made");
                }
            }
        }
    }

    /// Where ports of this host are checked: where clients find them.
    fn own_address(&self) -> Option<Ipv4Addr> {
        let interface = self.host.interface(self.config.interfaces.first()?)?;
        interface.addresses.first().copied()
    }

    fn checked(&mut self, result: &CheckResult<TargetKey>) {
        if !self.checker.is_current(result) {
            return;
        }
        if let Outcome::Inconclusive(fault) = result.outcome {
            self.shortage(fault, &address_of(&result.key));
        }
        let Some(group) = self
            .config
            .target_groups
            .iter()
            .find(|g| g.name == result.key.group)
        else {
            return;
        };
        let Some(health) = self.health.get_mut(&result.key) else {
            return;
        };
        let thresholds = Thresholds::from(&group.health_check);
        let Some(change) = health.observe(&result.outcome, SystemTime::now(), thresholds) else {
            return;
        };
        // The maps first: who reads the log or the status may rely on it.
        self.reconcile();
        let target = address_of(&result.key);
        let group = &result.key.group;
        let (from, to) = (change.from, change.to);
        match change.reason {
            Some(reason) => warn!(group, target, %from, %to, %reason, "target health changed"),
            None => info!(group, target, %from, %to, "target health changed"),
        }
    }

    /// Logs that this host lacks something for its checks, now and then: it
    /// lacks it for every target at once.
    fn shortage(&mut self, fault: LocalFault, target: &str) {
        if self
            .last_shortage
            .is_none_or(|last| last.elapsed() >= SHORTAGE_INTERVAL)
        {
            self.last_shortage = Some(Instant::now());
            warn!(target, %fault, "health checks can't be made; targets stay as they are");
        }
    }

    async fn host_changed(&mut self) {
        if let Err(error) = self.look_at_host().await {
            error!(
                error = format!("{error:#}"),
                "could not look at the host; keeping what was"
            );
            return;
        }
        if let Err(error) = self.follow_interfaces().await {
            error!(
                error = format!("{error:#}"),
                "an interface is back and can't be used"
            );
        }
        self.start_checks();
        self.reconcile();
    }

    /// Brings the maps to what they should hold. What can't be written now is
    /// tried again at the next change.
    fn reconcile(&mut self) {
        if let Err(error) = self.write_maps() {
            error!(error = format!("{error:#}"), "could not write the maps");
        }
    }

    fn write_maps(&mut self) -> anyhow::Result<()> {
        let attached = self.dataplane.attached();
        let attached = attached
            .iter()
            .map(|(&index, hooks)| (index, hooks.xdp))
            .collect();
        let inputs = Inputs {
            config: &self.config,
            host: &self.host,
            attached: &attached,
            ids: &self.ids,
        };
        let desired = reconcile::desired(&inputs, |key| availability(self.health.get(key)));
        self.report(&desired.problems);
        for change in reconcile::diff(&self.applied, &desired.state) {
            self.dataplane.apply(&change)?;
            self.applied.apply(&change);
        }
        Ok(())
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

    /// Sweeps the flow table on a thread of its own; it may take a second.
    fn sweep(&self, done: mpsc::Sender<io::Result<Swept>>) {
        match self.dataplane.sweep() {
            Ok(sweep) => {
                tokio::task::spawn_blocking(move || {
                    // The agent may have stopped meanwhile.
                    let _ = done.blocking_send(sweep.run());
                });
            }
            Err(error) => warn!(%error, "could not sweep the flow table"),
        }
    }

    fn swept(&mut self, result: io::Result<Swept>) {
        match result {
            Ok(swept) => self.swept = swept,
            Err(error) => warn!(%error, "could not sweep the flow table"),
        }
    }

    /// Takes everything back that it did to the host, as far as it can, and
    /// returns the first failure.
    async fn stop(&mut self) -> anyhow::Result<()> {
        let attached = self.dataplane.attached();
        let mut result = self.dataplane.detach().map_err(anyhow::Error::from);
        for (index, hooks) in attached {
            if hooks.tc == (TcHook::Clsact { qdisc: true }) {
                let removed = self.netlink.remove_clsact(index).await;
                result = result.and(removed.map_err(Into::into));
            }
        }
        for (interface, address) in std::mem::take(&mut self.managed) {
            let removed = self.netlink.remove_address(interface, address).await;
            result = result.and(removed.map_err(Into::into));
        }
        result
    }
}

fn availability(health: Option<&TargetHealth>) -> Availability {
    match health.map(|health| health.health) {
        Some(Health::Healthy) => Availability::Healthy,
        Some(Health::Unhealthy) => Availability::Unhealthy,
        // A draining or unused target gets nothing new either.
        Some(Health::Initial | Health::Draining | Health::Unused) | None => Availability::Initial,
    }
}

fn check_address(
    group: &TargetGroup,
    target: &Target,
    own: Option<Ipv4Addr>,
) -> Option<SocketAddr> {
    let address = target.address.or(own.map(IpAddr::V4))?;
    let port = group.health_check.port.unwrap_or(target.port);
    Some(SocketAddr::new(address, port.get()))
}

/// As the configuration has it.
fn address_of(key: &TargetKey) -> String {
    match key.address {
        Some(address) => SocketAddr::new(address, key.port).to_string(),
        None => format!(":{}", key.port),
    }
}

/// Every check under way has a socket: the usual 1,024 descriptors are too few
/// for thousands of targets that hang.
fn raise_file_limit() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a live rlimit, which the first call fills.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    if !raised {
        warn!(error = %io::Error::last_os_error(), "could not raise the limit of open files");
    }
}

/// The signals that end the agent.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// The terminal has gone.
    hang_up: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits until one of them comes.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}
