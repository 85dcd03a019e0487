//! Debian packages, and the programs that the tests start.

use std::{path::Path, process::Command};

use anyhow::{Result, bail};
use bpf_build::on_path;

use super::step;
use crate::command;

/// A program that tests or benchmarks start, and the Debian package it comes
/// from.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Or a file, by its path.
    pub name: &'static str,
    pub package: &'static str,
}

const PROGRAMS: [Program; 16] = [
    Program {
        name: "ip",
        package: "iproute2",
    },
    Program {
        name: "ethtool",
        package: "ethtool",
    },
    Program {
        name: "nginx",
        package: "nginx-light",
    },
    Program {
        name: "curl",
        package: "curl",
    },
    Program {
        name: "wrk",
        package: "wrk",
    },
    Program {
        name: "iperf3",
        package: "iperf3",
    },
    Program {
        name: "python3",
        package: "python3",
    },
    Program {
        name: "socat",
        package: "socat",
    },
    Program {
        name: "tcpdump",
        package: "tcpdump",
    },
    Program {
        name: "ping",
        package: "iputils-ping",
    },
    Program {
        name: "bpftool",
        package: "bpftool",
    },
    Program {
        name: "ps",
        package: "procps",
    },
    Program {
        name: "chromium",
        package: "chromium",
    },
    Program {
        name: "chromedriver",
        package: "chromium-driver",
    },
    Program {
        name: "prometheus",
        package: "prometheus",
    },
    // What the browser writes with.
    Program {
        name: "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
        package: "fonts-dejavu-core",
    },
];

/// The balancers that `cargo xtask bench network` compares with; nothing else
/// needs them.
const BALANCERS: [Program; 3] = [
    Program {
        name: "nft",
        package: "nftables",
    },
    Program {
        name: "haproxy",
        package: "haproxy",
    },
    Program {
        name: "/usr/lib/nginx/modules/ngx_stream_module.so",
        package: "libnginx-mod-stream",
    },
];

/// Packages with a service that would be started at the next boot, and its name.
const SERVICES: [(&str, &str); 4] = [
    ("prometheus", "prometheus"),
    ("nginx-light", "nginx"),
    ("haproxy", "haproxy"),
    ("nftables", "nftables"),
];

/// What a machine is set up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Building and testing, and the benchmarks that need no more.
    Tests,
    /// Other balancers too.
    Balancers,
}

/// Programs that aren't installed. A user's `PATH` may lack the sbin folders.
pub fn missing(purpose: Purpose) -> Vec<Program> {
    let sbin = |name| {
        ["/usr/sbin", "/sbin"]
            .iter()
            .any(|sbin| Path::new(sbin).join(name).exists())
    };
    let here = |program: &Program| {
        let name = program.name;
        Path::new(name).is_absolute() && Path::new(name).exists()
            || on_path(name).is_some()
            || sbin(name)
    };
    let balancers = match purpose {
        Purpose::Tests => &[][..],
        Purpose::Balancers => &BALANCERS,
    };
    let programs = PROGRAMS.iter().chain(balancers).copied();
    programs.filter(|program| !here(program)).collect()
}

/// Installs programs; none of them is left running as a service.
///
/// # Errors
/// If apt-get is missing, isn't allowed or fails.
pub fn install_programs(workspace: &Path, programs: &[Program]) -> Result<()> {
    let packages: Vec<_> = programs.iter().map(|program| program.package).collect();
    install(workspace, &packages)?;
    for (_, service) in SERVICES.iter().filter(|(it, _)| packages.contains(it)) {
        disable(workspace, service)?;
    }
    Ok(())
}

/// Not at the next boot either, whichever init this machine has. Not every
/// service has a script for the older one.
fn disable(workspace: &Path, service: &str) -> Result<()> {
    let script = Path::new("/etc/init.d").join(service);
    for (program, arguments, has) in [
        ("update-rc.d", [service, "disable"], script.exists()),
        ("systemctl", ["disable", service], true),
    ] {
        if has && on_path(program).is_some() {
            step::run(workspace, Command::new(program).args(arguments))?;
        }
    }
    Ok(())
}

/// Whether this machine installs its packages with apt.
pub fn has_apt() -> bool {
    on_path("apt-get").is_some()
}

/// Installs `packages` and says so before. Their services aren't started.
///
/// # Errors
/// If apt-get is missing, isn't allowed or fails, or would remove something.
pub fn install(workspace: &Path, packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if !has_apt() {
        bail!("this machine has no apt-get: install what belongs to these Debian packages: {list}");
    }
    if !command::is_root() {
        bail!("these Debian packages are missing, and installing them needs root: {list}");
    }
    println!("setup: will install these Debian packages: {list}");
    let script = workspace.join("xtask/src/setup/install.sh");
    step::run(workspace, Command::new("sh").arg(script).args(packages))
}
