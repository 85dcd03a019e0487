//! The agent: one task that owns all state and is the only writer of maps.
//! Everything else sends it events.

mod addresses;
mod adopt;
mod attach;
mod background;
mod capture;
mod explain;
mod flows;
mod maps;
mod operate;
mod process;
mod reload;
mod state;
mod status;
mod targets;
mod unload;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;
use sd_notify::NotifyState;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tracing::{error, info};

pub use self::unload::unload;
use self::{
    background::Background,
    capture::Capture,
    process::{Signalled, Signals, raise_file_limit, tell_systemd},
    state::{Saved, StateFile},
};
use crate::{
    api::{AdminListener, Handle, Pulse, Request, Socket},
    config::{Config, File},
    dataplane::{Dataplane, Kernel, Pins, Swept},
    health::{CheckResult, Checker},
    host::{Host, HostChanged, HostError, Interface, Netlink},
    instance::Instance,
    metrics::{Event, Internals},
    reconcile::{self, Balance, Ids, MapState, Problem, Tables, TargetKey},
    registry::{Now, Registry},
};

/// Results that may wait for the agent; when they do, checks become late.
const RESULTS: usize = 1_024;
/// Requests that may wait for the agent.
const REQUESTS: usize = 16;
/// Time between two words about the same shortage.
const SHORTAGE_INTERVAL: Duration = Duration::from_secs(60);
/// Time between steps of the weights that rise: a step rebuilds a table.
const STEP: Duration = Duration::from_secs(1);
/// Time between sweeps of the flow table.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// How the agent ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Traffic goes on as it is, and the next agent takes over.
    Leave,
    /// Everything is taken out of the kernel.
    Unload,
}

/// Balances as `config` says until it is told to end: by SIGTERM, then traffic
/// goes on as it is, and the next agent takes over; or by SIGINT or a request to
/// unload, then it takes everything back. SIGHUP makes it read `file` again,
/// from which `config` comes; without one, it is as SIGINT.
///
/// With `replace`, what an agent before has left is taken back first.
///
/// # Errors
/// If it can't start. Then what was at work before still is, and else nothing.
pub async fn run(
    config: Config,
    file: Option<File>,
    instance: &Instance,
    replace: bool,
) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("could not listen for signals")?;
    raise_file_limit();
    let claim = instance.claim()?;
    if replace {
        // What can be found wrong beforehand ends no traffic.
        let host = Netlink::open()?.snapshot([]).await?;
        reconcile::interfaces(&config, &host).try_for_each(|it| it.map(drop))?;
        unload(instance).await?;
    }
    let is_fresh = Pins::find(&instance.bpffs, instance.name()).is_none();
    let result = run_claimed(config, file, instance, &mut signals).await;
    let (end, result) = match result {
        Ok(end) => (end, Ok(())),
        // What it has left half-done is no use to anybody.
        Err(error) if is_fresh => (End::Unload, Err(error)),
        Err(error) => (End::Leave, Err(error)),
    };
    if end == End::Unload {
        let unloaded = unload(instance).await;
        claim.remove();
        return result.and(unloaded.map(drop));
    }
    result
}

async fn run_claimed(
    config: Config,
    file: Option<File>,
    instance: &Instance,
    signals: &mut Signals,
) -> anyhow::Result<End> {
    let pins = Pins::open(&instance.bpffs, instance.name())?;
    let dataplane = Dataplane::load_pinned(&config.capacity, pins)?;
    let (requests, inbox) = mpsc::channel(REQUESTS);
    let state = StateFile::new(instance.state());
    let mut agent = Agent::new(config, file, dataplane, state, inbox).await?;
    let is_adopted = agent.dataplane.is_adopted();
    let saved = Saved::read(&instance.state());
    match saved {
        saved if is_adopted => agent.adopt(saved)?,
        Some(saved) => agent.inherit(&saved),
        None => {}
    }
    // All that can be found wrong before anything is changed.
    let interfaces = agent.look_at_interfaces().await?;
    let mut servers = agent.listen(&instance.socket(), requests).await?;
    let ran = agent.run(&interfaces, signals).await;
    agent.pulse.set_ready(false);
    let end = match &ran {
        Ok(end) => *end,
        Err(_) if is_adopted => End::Leave,
        Err(_) => End::Unload,
    };
    agent.leave_capture().await;
    let ended = match end {
        End::Leave => {
            agent.leave().await;
            Ok(())
        }
        End::Unload => agent.unload().await,
    };
    // The socket's file is gone once its server is dropped.
    servers.shutdown().await;
    ran.and(ended).map(|()| end)
}

struct Agent {
    config: Config,
    /// Where `config` comes from; `None`: the command line.
    file: Option<File>,
    started: SystemTime,
    dataplane: Dataplane,
    /// What the maps hold.
    applied: MapState,
    /// Whether a write failed, so that the maps may lack more than changes now.
    behind: bool,
    tables: Tables,
    ids: Ids,
    netlink: Netlink,
    host: Host,
    looking: Background<Result<Host, HostError>>,
    /// The host has changed since `looking` began.
    look_again: bool,
    /// Addresses that xlb has added to an interface, and so removes.
    managed: Vec<(u32, IpAddr)>,
    /// When those go that no listener has any more.
    retiring: BTreeMap<IpAddr, Instant>,
    /// Interfaces whose clsact qdisc xlb may have added, and so removes.
    qdiscs: BTreeSet<u32>,
    checker: Checker<TargetKey>,
    registry: Registry,
    /// Of `registry`.
    draining: BTreeSet<TargetKey>,
    /// Of `registry`, as of the last step.
    slow_starts: BTreeMap<TargetKey, u16>,
    /// Those that operators have set, of `registry`.
    weights: BTreeMap<TargetKey, u16>,
    last_step: Instant,
    /// How new flows are spread, by target group.
    balances: BTreeMap<String, Balance>,
    /// What keeps parts of the configuration from working.
    problems: Vec<String>,
    swept: Swept,
    /// Entries that sweeps have removed.
    removed: u64,
    sweep: Background<io::Result<Swept>>,
    capture: Capture,
    last_shortage: Option<Instant>,
    /// What the next agent is told.
    state: StateFile,
    /// The agent before has told what it has done.
    has_history: bool,
    requests: mpsc::Receiver<Request>,
    results: mpsc::Receiver<CheckResult<TargetKey>>,
    host_changes: mpsc::Receiver<HostChanged>,
    internals: Internals,
    pulse: Arc<Pulse>,
}

impl Agent {
    async fn new(
        config: Config,
        file: Option<File>,
        dataplane: Dataplane,
        state: StateFile,
        requests: mpsc::Receiver<Request>,
    ) -> anyhow::Result<Self> {
        let netlink = Netlink::open().context("could not open a netlink socket")?;
        // Before the first snapshot, so that no change is missed between.
        let host_changes = netlink
            .watch()
            .context("could not follow the host's changes")?;
        let (sender, results) = mpsc::channel(RESULTS);
        let checker = Checker::new(sender);
        Ok(Self {
            started: SystemTime::now(),
            applied: MapState::default(),
            behind: false,
            tables: Tables::default(),
            ids: Ids::new(config.capacity),
            netlink,
            host: Host::default(),
            looking: Background::default(),
            look_again: false,
            managed: Vec::new(),
            retiring: BTreeMap::new(),
            qdiscs: BTreeSet::new(),
            internals: Internals::new(checker.meter().clone()),
            pulse: Arc::default(),
            checker,
            registry: Registry::default(),
            draining: BTreeSet::new(),
            slow_starts: BTreeMap::new(),
            weights: BTreeMap::new(),
            last_step: Instant::now(),
            balances: BTreeMap::new(),
            problems: Vec::new(),
            swept: Swept::default(),
            removed: 0,
            sweep: Background::default(),
            capture: Capture::default(),
            last_shortage: None,
            state,
            has_history: false,
            requests,
            results,
            host_changes,
            config,
            file,
            dataplane,
        })
    }

    /// Begins to answer requests, which wait until the agent serves.
    async fn listen(
        &self,
        socket: &Path,
        requests: mpsc::Sender<Request>,
    ) -> anyhow::Result<JoinSet<()>> {
        let handle = Handle {
            requests,
            internals: self.internals.clone(),
            pulse: Arc::clone(&self.pulse),
        };
        let mut servers = JoinSet::new();
        let socket = Socket::bind(socket)?;
        if let Some(admin) = self.config.admin {
            let listener = AdminListener::bind(admin).await?;
            servers.spawn(listener.serve(handle.clone()));
            info!(address = %admin.address(), "admin listener");
        }
        servers.spawn(socket.serve(handle));
        Ok(servers)
    }

    /// Starts, and serves until it is told to end.
    async fn run(
        &mut self,
        interfaces: &[Interface],
        signals: &mut Signals,
    ) -> anyhow::Result<End> {
        let has_file = self.file.is_some();
        tokio::select! {
            started = self.start(interfaces) => started?,
            signal = signals.end(has_file) => {
                info!("stopping before the start was complete");
                // What is half-done is no use, unless another agent had done it.
                return Ok(match signal {
                    Signalled::Stop if self.dataplane.is_adopted() => End::Leave,
                    _ => End::Unload,
                });
            }
        }
        self.pulse.set_ready(true);
        info!("ready");
        tell_systemd(NotifyState::Ready);
        let end = self.serve(signals).await;
        info!("stopping");
        tell_systemd(NotifyState::Stopping);
        Ok(end)
    }

    /// The configured interfaces, if all of them can be attached to. Whoever
    /// takes over takes one that is down, too: its programs may be there still,
    /// and those of the others need an agent.
    async fn look_at_interfaces(&mut self) -> anyhow::Result<Vec<Interface>> {
        self.look_at_host().await?;
        let is_adopted = self.dataplane.is_adopted();
        let interfaces = reconcile::interfaces(&self.config, &self.host)
            .map(|interface| match interface {
                Err(Problem::InterfaceDown { name }) if is_adopted => self
                    .host
                    .interface(&name)
                    .ok_or(Problem::InterfaceDown { name }),
                interface => interface,
            })
            .map(|interface| interface.cloned())
            .collect::<Result<_, Problem>>()?;
        Ok(interfaces)
    }

    /// Attaches, then lets the maps say what to do with packets. Until a target
    /// is healthy its listener's packets are dropped.
    ///
    /// May be dropped anywhere; [`Self::stop`] takes back what was done by then.
    async fn start(&mut self, interfaces: &[Interface]) -> anyhow::Result<()> {
        self.forget_gone();
        self.add_addresses(addresses::wanted(&self.config)).await?;
        for interface in interfaces {
            self.attach(interface).await?;
        }
        self.dataplane.finish_resize()?;
        self.detach_left_over().await?;
        // Attaching a program can change what a device's driver offers.
        self.look_at_host().await?;
        if let Some(lacks) = Kernel::probe(self.host.tells_xdp_features()).lacks() {
            info!("{lacks}");
        }
        let now = Now::read();
        self.register_targets(now);
        self.retire_inherited(now.steady);
        self.start_checks();
        self.write_first_maps()
            .await
            .context("could not write the first configuration to the maps")
    }

    async fn serve(&mut self, signals: &mut Signals) -> End {
        let mut sweeps = interval(SWEEP_INTERVAL);
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut results = Vec::new();
        loop {
            self.pulse.beat();
            let (end, write) = (self.next_end(), self.state.next_write());
            tokio::select! {
                signal = signals.next() => match signal {
                    Signalled::HangUp if self.file.is_some() => drop(self.reload().await),
                    Signalled::Stop => return End::Leave,
                    Signalled::HangUp | Signalled::Unload => return End::Unload,
                },
                () = until(write) => self.save(),
                result = self.state.written() => self.saved(result),
                () = until(end) => self.expire().await,
                _ = self.results.recv_many(&mut results, RESULTS) => self.checked(&mut results),
                Some(HostChanged) = self.host_changes.recv() => self.look(),
                Ok(host) = self.looking.done() => self.host_changed(host).await,
                Some(request) = self.requests.recv() => {
                    if let Some(end) = self.answer(request).await {
                        return end;
                    }
                }
                // A sweep that takes longer than the interval is waited for.
                _ = sweeps.tick(), if !self.sweep.is_busy() => self.sweep(),
                Ok(result) = self.sweep.done() => self.swept(result),
                loaded = self.capture.loading.done() => self.begin_capture(loaded),
                recorded = self.capture.recording.done() => self.end_capture(recorded),
            }
        }
    }

    /// Answers a request; some ask it to end.
    async fn answer(&mut self, request: Request) -> Option<End> {
        self.internals.handled(Event::Request, 1);
        // Whoever asked may have gone.
        match request {
            Request::Status(answer) => drop(answer.send(self.status())),
            Request::Reload(answer) => {
                let reloaded = self.reload().await;
                self.save_before_answer().await;
                drop(answer.send(reloaded));
            }
            Request::Unload(answer) => {
                let _ = answer.send(());
                return Some(End::Unload);
            }
            Request::Explain(request, answer) => drop(answer.send(self.explain(request))),
            Request::Flows(request, answer) => drop(answer.send(self.flows(&request))),
            Request::Capture(request, answer) => self.capture(request, answer),
            Request::StopCapture(answer) => drop(answer.send(self.stop_capture())),
            Request::Operate(request, answer) => {
                let mut report = self.operate(&request);
                self.save_before_answer().await;
                if let (Ok(report), Some(problem)) = (&mut report, self.state.problem()) {
                    report.warning.get_or_insert(problem);
                }
                drop(answer.send(report));
            }
        }
        None
    }

    async fn look_at_host(&mut self) -> anyhow::Result<()> {
        self.host = self.netlink.snapshot(remote(&self.config)).await?;
        Ok(())
    }

    /// Looks at the host aside from the agent's task: a route for each of
    /// thousands of targets takes its time.
    fn look(&mut self) {
        if self.looking.is_busy() {
            // What is being looked at may be older than the change.
            self.look_again = true;
            return;
        }
        self.look_again = false;
        let (netlink, destinations) = (self.netlink.clone(), remote(&self.config));
        let snapshot = async move { netlink.snapshot(destinations).await };
        self.looking.start(tokio::spawn(snapshot));
    }

    async fn host_changed(&mut self, host: Result<Host, HostError>) {
        self.internals.handled(Event::HostChange, 1);
        if self.look_again {
            self.look();
        }
        let host = match host {
            Ok(host) => host,
            Err(error) => {
                let error = format!("{:#}", anyhow::Error::from(error));
                error!(error, "could not look at the host; keeping what was");
                return;
            }
        };
        let own = self.own_address();
        self.host = host;
        if let Err(error) = self.follow_interfaces().await {
            error!(
                error = format!("{error:#}"),
                "an interface is back and can't be used"
            );
        }
        // The checks of other addresses are as they were.
        if self.own_address() != own {
            self.start_checks();
        }
        self.reconcile();
    }
}

/// The targets' addresses that may be elsewhere.
pub(crate) fn remote(config: &Config) -> BTreeSet<IpAddr> {
    let targets = config.target_groups.iter().flat_map(|group| &group.targets);
    targets.filter_map(|target| target.address).collect()
}

/// Waits for a time; for ever if there is none.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
