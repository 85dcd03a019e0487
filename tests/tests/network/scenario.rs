//! A topology with servers and a running agent, and what all tests ask of it.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use xlb_tests::{
    client::{self, Download, Spread},
    command::run_words,
    server,
    server::{Kind, WebServer},
    topology::{BALANCER, CLIENT, Family, Peers, Place, Topology},
    xlb::{Config, Listener, TargetGroup, Xlb},
};

/// How packets get to the targets and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Targets are ports of the balancer.
    Local,
    /// Source NAT; everyone on one network, the balancer has one interface.
    OneArm,
    /// Source NAT; targets behind other interfaces.
    OtherInterface,
    /// The client's address is preserved; the balancer is the gateway, with
    /// programs on all its interfaces.
    Preserve,
    /// The same, but with programs on the client's side only: the kernel
    /// forwards the replies.
    PreserveOneSide,
}

impl Mode {
    pub fn topology(self, targets: u8, peers: Peers) -> Result<Topology> {
        match self {
            Self::Local => Topology::one_host(targets.into()),
            Self::OneArm => Topology::one_arm(targets, peers),
            Self::OtherInterface | Self::Preserve | Self::PreserveOneSide => {
                Topology::routed(targets, peers)
            }
        }
    }

    fn preserves(self) -> bool {
        matches!(self, Self::Preserve | Self::PreserveOneSide)
    }

    /// Whether a target sees the client's own address.
    pub fn shows_client(self) -> bool {
        self == Self::Local || self.preserves()
    }

    /// Interfaces that programs are attached to.
    pub fn interfaces(self, targets: usize) -> Vec<String> {
        let others = match self {
            Self::Local | Self::OneArm | Self::PreserveOneSide => 0,
            Self::OtherInterface | Self::Preserve => targets,
        };
        (0..=others).map(|n| format!("eth{n}")).collect()
    }
}

/// Where the listener is, unless a test wants it elsewhere.
pub const VIP: SocketAddr = Family::V4.at(BALANCER, 80);
/// Long enough for any change of health: checks are a second apart, and two
/// results decide.
pub const HEALTH: Duration = Duration::from_secs(8);

#[derive(Debug)]
pub struct Scenario {
    // Dropped in this order: the agent first, the namespaces last.
    pub xlb: Xlb,
    pub servers: Vec<WebServer>,
    pub topology: Topology,
    /// The first one's address.
    pub listener: SocketAddr,
}

/// What a scenario begins with; [`Setup::new`] has the defaults.
#[derive(Clone, Debug)]
pub struct Setup {
    pub mode: Mode,
    pub weights: Vec<u16>,
    pub peers: Peers,
    pub xdp_mode: Option<&'static str>,
    pub tc_mode: Option<&'static str>,
    /// The targets'; the listener's too, but for `dsr`.
    pub family: Family,
    pub listener: SocketAddr,
    /// Frames between client and balancer bear a VLAN tag.
    pub tagged: bool,
}

impl Setup {
    /// So many targets of equal weight, defaults of the agent.
    pub fn new(mode: Mode, targets: usize) -> Self {
        Self {
            mode,
            weights: vec![1; targets],
            peers: Peers::TakeXdp,
            xdp_mode: None,
            tc_mode: None,
            family: Family::V4,
            listener: VIP,
            tagged: false,
        }
    }

    /// The same in one family.
    pub fn in_family(family: Family, mode: Mode, targets: usize) -> Self {
        Self {
            family,
            listener: family.at(BALANCER, 80),
            ..Self::new(mode, targets)
        }
    }

    pub fn topology(&self) -> Result<Topology> {
        let mut topology = self
            .mode
            .topology(self.weights.len().try_into()?, self.peers)?;
        topology.speak(self.family);
        if self.tagged {
            topology.tag_client()?;
        }
        Ok(topology)
    }

    /// A configuration with one TCP listener for the topology's targets.
    pub fn config(&self, topology: &Topology) -> Config {
        let addresses = topology.targets.iter().map(|place| place.address);
        Config {
            interfaces: self.mode.interfaces(topology.targets.len()),
            xdp_mode: self.xdp_mode,
            tc_mode: self.tc_mode,
            settings: String::new(),
            tables: String::new(),
            listeners: vec![Listener {
                name: "web".into(),
                address: self.listener,
                ports: None,
                protocol: "tcp",
                target_group: "web".into(),
                settings: String::new(),
            }],
            target_groups: vec![TargetGroup {
                name: "web".into(),
                targets: addresses.zip(self.weights.iter().copied()).collect(),
                preserve_client_ip: self.mode.preserves(),
                health_port: None,
                settings: String::new(),
            }],
        }
    }

    /// Starts nginx at every target, named `web1` and so on, and the agent,
    /// and waits until all targets are healthy.
    pub fn start(&self) -> Result<Scenario> {
        let topology = self.topology()?;
        let config = self.config(&topology);
        self.start_with(topology, &config)
    }

    /// The same with another configuration.
    pub fn start_with(&self, topology: Topology, config: &Config) -> Result<Scenario> {
        self.start_by(&[], topology, config)
    }

    /// The same with the agent started by another command.
    pub fn start_by(
        &self,
        starter: &[&str],
        topology: Topology,
        config: &Config,
    ) -> Result<Scenario> {
        let servers = start_servers(&topology.targets, topology.directory())?;
        let xlb = Xlb::start_by(starter, &topology.balancer, config, topology.directory())?;
        xlb.wait_until_healthy(HEALTH)?;
        Ok(Scenario {
            xlb,
            servers,
            topology,
            listener: config.listeners[0].address,
        })
    }
}

fn start_servers(places: &[Place], directory: &Path) -> Result<Vec<WebServer>> {
    (1..)
        .zip(places)
        .map(|(n, place)| {
            WebServer::start(
                Kind::Nginx,
                &format!("web{n}"),
                place,
                Some(files()?),
                directory,
            )
        })
        .collect()
}

impl Scenario {
    /// Waits until the agent sees this health at the nth server's target.
    pub fn wait_for_health(&self, n: usize, health: &str) -> Result<()> {
        self.xlb
            .wait_for_health(self.servers[n].place.address, health, HEALTH)
    }

    /// Lets the nth server's health check succeed or fail while it serves all
    /// else, and waits until the agent sees it.
    pub fn set_health(&self, n: usize, healthy: bool) -> Result<()> {
        self.servers[n].set_health(healthy)?;
        self.wait_for_health(n, if healthy { "healthy" } else { "unhealthy" })
    }

    /// The URL of a path at the first listener.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.listener)
    }

    /// A connection to the first listener, whose answers are read for two
    /// seconds at most.
    pub fn connect(&self) -> Result<TcpStream> {
        let client = &self.topology.client;
        let timeout = Duration::from_secs(2);
        let connected = client.enter(|| TcpStream::connect_timeout(&self.listener, timeout))?;
        let stream = connected.context("no connection")?;
        stream.set_read_timeout(Some(timeout))?;
        Ok(stream)
    }

    /// GETs a page through the balancer.
    pub fn get(&self, path: &str) -> Result<String> {
        client::get(&self.topology.client, &self.url(path))
    }

    /// Downloads one of [`files`] through the first listener and compares it.
    pub fn download(&self, file: &str) -> Result<()> {
        let copy = self.topology.directory().join("download");
        let url = self.url(&format!("/{file}"));
        client::download(&self.topology.client, &url, &copy)?;
        same(&copy, file)
    }

    /// Uploads one of [`files`] through the first listener and compares what
    /// has come to the only server that may have it.
    pub fn upload(&self, file: &str) -> Result<()> {
        let url = self.url("/upload/copy");
        client::upload(&self.topology.client, &files()?.join(file), &url)?;
        let directory = self.topology.directory();
        let copies = self.servers.iter();
        let copies = copies.map(|server| format!("web-{}/upload/copy", server.name));
        let mut copies = copies.map(|copy| directory.join(copy));
        let copy = copies.find(|copy| copy.exists());
        same(&copy.context("no server has the upload")?, file)
    }

    /// Requests on so many connections, none of which fails.
    pub fn spread(&self, count: u32) -> Result<Spread> {
        let spread = client::spread(&self.topology.client, &self.url("/"), count)?;
        ensure!(spread.failed == 0, "requests failed: {spread:?}");
        Ok(spread)
    }

    /// Begins the download of a path from a certain server, by beginning some
    /// until one comes from there.
    pub fn download_from(&self, server: &str, path: &str) -> Result<Download> {
        let url = self.url(&format!("/{path}"));
        for n in 0..50 {
            let copy = self.topology.directory().join(format!("{path}-{n}"));
            let download = Download::start(&self.topology.client, &url, &copy)?;
            if download.server == server {
                return Ok(download);
            }
        }
        anyhow::bail!("of 50 connections none was to {server}")
    }

    /// How often a drop reason was counted.
    pub fn drops(&self, reason: &str) -> Result<u64> {
        Ok(*self.xlb.status()?.drops.get(reason).unwrap_or(&0))
    }

    /// Checks which address the targets see.
    pub fn check_client_address(&self, mode: Mode) -> Result<()> {
        let seen = self.get("/client")?;
        let is_client = Family::BOTH.map(|family| family.of(CLIENT).to_string());
        let is_client = is_client.iter().any(|client| client == seen.trim());
        ensure!(
            is_client == mode.shows_client(),
            "in {mode:?} a target saw {}",
            seen.trim()
        );
        Ok(())
    }
}

/// Files of 100 MB, 20 MB and 1 MB.
pub const LARGE: &str = "large";
pub const MEDIUM: &str = "medium";
pub const SMALL: &str = "small";

/// The directory with these files, made once per machine start and
/// shared by all tests: they are only read.
pub fn files() -> Result<&'static Path> {
    static FILES: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    FILES
        .get_or_init(|| make_files().map_err(|error| format!("{error:#}")))
        .as_deref()
        .map_err(|error| anyhow::anyhow!("no files to serve: {error}"))
}

fn make_files() -> Result<PathBuf> {
    // Below the build directory: it stays, as the build does.
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("files");
    fs::create_dir_all(&directory)?;
    for (name, length) in [(LARGE, 100 << 20), (MEDIUM, 20 << 20), (SMALL, 1 << 20)] {
        let path = directory.join(name);
        if fs::metadata(&path).is_ok_and(|file| file.len() == length) {
            continue;
        }
        // Another process may be doing the same.
        let unfinished = directory.join(format!("{name}.{}", std::process::id()));
        server::random_file(&unfinished, length)?;
        fs::rename(&unfinished, &path)?;
    }
    Ok(directory)
}

/// Fails unless `copy` is one of [`files`], byte for byte.
pub fn same(copy: &Path, file: &str) -> Result<()> {
    let original = files()?.join(file);
    run_words(&["cmp", &original.to_string_lossy(), &copy.to_string_lossy()]).map(drop)
}
