//! `cargo xtask test --kernels`: the packet tests on other kernels, which run
//! in software emulation. That shows whether something works, never how fast.

mod archive;
mod guest;
mod images;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{build, command, setup, test::Count};
use archive::Archive;

/// A kernel that boots in emulation.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// Its series, as in `uname -r`.
    pub name: &'static str,
    /// A pattern for `apt-cache search --names-only`.
    package: &'static str,
}

/// The oldest kernel that xlb supports, and one between it and today's.
pub const KERNELS: [Kernel; 2] = [
    Kernel {
        name: "6.1",
        package: r"^linux-image-6\.1\.0-[0-9]+-cloud-amd64$",
    },
    Kernel {
        name: "6.12",
        package: r"^linux-image-6\.12\.[0-9]+\+deb[0-9]+-cloud-amd64$",
    },
];

/// Tests that are for guests, each with why.
pub const GUESTS_ONLY: [(&str, &str); 2] = [
    (
        "packet::devices",
        "it takes modules of the kernel, which a guest loads",
    ),
    (
        "packet::start",
        "it takes the agent, which the network tests start here",
    ),
];

/// Test files that run there. The network tests need programs and processors
/// that an emulated machine hasn't.
const TESTS: [&str; 2] = ["verifier", "packet"];
/// What the data path and the tests need that Debian builds as modules, by
/// path and in the order in which they are inserted.
const MODULES: [&str; 21] = [
    "drivers/net/veth",
    "net/sched/sch_ingress",
    "net/sched/cls_bpf",
    // How `dsr` targets take packets out of others.
    "net/ipv4/tunnel4",
    "net/ipv4/ip_tunnel",
    "net/ipv4/ipip",
    "net/ipv6/sit",
    "net/ipv6/tunnel6",
    "net/ipv6/ip6_tunnel",
    "net/ipv4/udp_tunnel",
    "net/ipv6/ip6_udp_tunnel",
    "net/ipv4/fou",
    "net/ipv6/fou6",
    "drivers/net/geneve",
    // Interfaces with others below.
    "net/llc/llc",
    "net/802/stp",
    "net/802/garp",
    "net/802/mrp",
    "net/8021q/8021q",
    "net/tls/tls",
    "drivers/net/bonding/bonding",
];

/// What `ip` looks the names of protocols up in.
const PROTOCOLS: &[u8] = b"icmp 1\ntcp 6\nudp 17\nipv6-icmp 58\n";

/// What all guests share.
pub struct Rig {
    folder: PathBuf,
    /// The test files' executables, by name.
    tests: Vec<(&'static str, PathBuf)>,
    /// The agent, as released.
    agent: PathBuf,
}

impl Rig {
    /// Fetches an emulator and the kernels, and builds the tests and the agent.
    ///
    /// # Errors
    /// If this machine can't run them or something can't be had.
    pub fn prepare(workspace: &Path) -> Result<Self> {
        if std::env::consts::ARCH != "x86_64" {
            bail!("--kernels boots kernels for x86-64 only, with programs of this machine");
        }
        let folder = workspace.join(".xlb/kernels");
        setup::emulator(workspace, &folder)?;
        for kernel in KERNELS {
            setup::kernel(workspace, &folder, kernel.name, kernel.package)?;
        }
        let built = build::tests(workspace, &TESTS)?;
        // Their debugging information is most of them, and of the memory that
        // a guest would need.
        let mut tests = Vec::new();
        for name in TESTS {
            let (_, path) = built
                .iter()
                .find(|(built, _)| built == name)
                .with_context(|| format!("cargo didn't say where it put the {name} tests"))?;
            let stripped = folder.join(name);
            let mut strip = Command::new("strip");
            strip.arg("--strip-debug").arg("-o").arg(&stripped);
            command::run(strip.arg(path))?;
            tests.push((name, stripped));
        }
        Ok(Self {
            folder,
            tests,
            agent: build::release(workspace)?,
        })
    }

    /// Boots a kernel and runs the tests in it.
    ///
    /// # Errors
    /// If it doesn't boot, or ends before the tests do.
    pub fn run(&self, kernel: &Kernel, filter: Option<&str>) -> Result<Count> {
        let image = images::Image::find(&self.folder.join(kernel.name))?;
        let archive = self.folder.join(format!("{}.cpio", kernel.name));
        fs::write(&archive, self.archive(&image, filter)?)
            .with_context(|| format!("can't write {}", archive.display()))?;
        guest::run(&self.folder.join("emulator"), &image.kernel, &archive)
    }

    /// The file system that a guest starts with.
    fn archive(&self, image: &images::Image, filter: Option<&str>) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        for folder in ["dev", "proc", "run", "sys", "tmp"] {
            archive.folder(folder);
        }
        archive.file("etc/protocols", PROTOCOLS);
        archive.program("init", include_bytes!("kernels/init.sh"));
        let busybox = self.folder.join("emulator/bin/busybox");
        archive.program("bin/busybox", &images::read(&busybox)?);
        let ip = bpf_build::on_path("ip")
            .or_else(|| Some("/usr/sbin/ip".into()).filter(|path: &PathBuf| path.exists()))
            .context("`ip` isn't installed: `cargo xtask setup` installs it")?;
        let mut programs = vec![
            ("bin/ip".to_owned(), ip),
            ("bin/xlb".to_owned(), self.agent.clone()),
        ];
        for (number, (name, path)) in (0..).zip(&self.tests) {
            // The order in which they run.
            programs.push((format!("tests/{number}-{name}"), path.clone()));
        }
        for (name, path) in programs {
            archive.program(&name, &images::read(&path)?);
            for library in images::libraries(&path)? {
                let name = library.to_string_lossy();
                archive.program(name.trim_start_matches('/'), &images::read(&library)?);
            }
        }
        for (number, module) in (0..).zip(MODULES) {
            let (path, contents) = image.module(module)?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            archive.file(&format!("modules/{number:02}-{name}"), &contents);
        }
        archive.file("arguments", filter.unwrap_or_default().as_bytes());
        Ok(archive.finish())
    }
}
