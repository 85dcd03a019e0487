//! Other balancers, to compare with. Their configurations are in
//! `tests/balancers`.

use std::{fs, net::SocketAddr, path::Path};

use anyhow::{Context, Result, ensure};

use crate::{command::run, netns::Namespace, process::Process, server, topology::Place};

const HAPROXY: &str = include_str!("../balancers/haproxy.cfg");
const NGINX: &str = include_str!("../balancers/nginx.conf");
const NFTABLES: &str = include_str!("../balancers/nftables.nft");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Destination NAT by the kernel.
    Nftables,
    /// HAProxy in mode `tcp`.
    Haproxy,
    /// nginx's stream module.
    Nginx,
}

/// A balancer that runs; none of its processes outlives this value, and what
/// is in the kernel goes with the namespace.
#[derive(Debug)]
pub struct Balancer {
    process: Option<Process>,
}

impl Balancer {
    /// Has connections to `listener` go to `target`.
    ///
    /// # Errors
    /// If it isn't installed, or doesn't listen soon.
    pub fn start(
        kind: Kind,
        namespace: &Namespace,
        listener: SocketAddr,
        target: SocketAddr,
        directory: &Path,
    ) -> Result<Self> {
        let fill = |template: &str| fill(template, listener, target, directory);
        let write = |name: &str, text: String| {
            let path = directory.join(name);
            fs::write(&path, text).with_context(|| path.display().to_string())?;
            Ok::<_, anyhow::Error>(path)
        };
        let mut command = match kind {
            Kind::Nftables => {
                let path = write("nftables.nft", fill(NFTABLES))?;
                let mut nft = namespace.command("nft");
                run(nft.arg("--file").arg(path)).context(
                    "nftables can't be set up: it needs Debian's package nftables \
                     (`cargo xtask setup --bench`) and a kernel with NF_TABLES, NFT_NAT and \
                     NF_CONNTRACK",
                )?;
                return Ok(Self { process: None });
            }
            Kind::Haproxy => {
                let path = write("haproxy.cfg", fill(HAPROXY))?;
                let mut haproxy = namespace.command("haproxy");
                // In the foreground.
                haproxy.arg("-db").arg("-f").arg(path);
                haproxy
            }
            Kind::Nginx => {
                let path = write("stream.conf", fill(NGINX))?;
                let mut nginx = namespace.command("nginx");
                nginx.arg("-p").arg(directory).arg("-c").arg(path);
                nginx.arg("-e").arg(directory.join("stream-error.log"));
                nginx
            }
        };
        let mut process = Process::spawn(&mut command, &directory.join("balancer.log"))?;
        let place = Place {
            namespace: namespace.clone(),
            address: listener,
        };
        server::listening(&place, &mut process).with_context(|| {
            format!(
                "{kind:?} doesn't run (`cargo xtask setup --bench` installs it if it is missing)"
            )
        })?;
        Ok(Self {
            process: Some(process),
        })
    }

    /// The first of its processes, which may have children; none if the kernel
    /// does it all.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Fails if it has ended.
    ///
    /// # Errors
    /// See above, with what it has said.
    pub fn check(&mut self) -> Result<()> {
        if let Some(process) = &mut self.process {
            let ended = process.ended()?;
            ensure!(
                ended.is_none(),
                "the balancer has ended: {}",
                process.output().trim()
            );
        }
        Ok(())
    }
}

fn fill(template: &str, listener: SocketAddr, target: SocketAddr, directory: &Path) -> String {
    template
        .replace("@listener@", &listener.to_string())
        .replace("@address@", &listener.ip().to_string())
        .replace("@port@", &listener.port().to_string())
        .replace("@target@", &target.to_string())
        .replace("@directory@", &directory.display().to_string())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{HAPROXY, NFTABLES, NGINX, fill};
    use crate::topology::{BALANCER, Family};

    #[test]
    fn nothing_is_left_to_fill_in() {
        let (listener, target) = (Family::V4.at(BALANCER, 80), Family::V4.at(BALANCER, 81));
        for template in [HAPROXY, NFTABLES, NGINX] {
            let text = fill(template, listener, target, Path::new("/run/x"));
            let settings = text.lines().filter(|line| !line.starts_with('#'));
            let settings: Vec<_> = settings.collect();
            assert!(!settings.join("\n").contains('@'), "{text}");
            assert!(text.contains("10.0.2.15:81"), "{text}");
        }
    }
}
