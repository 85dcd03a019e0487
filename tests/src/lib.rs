//! The rig that the network tests and the demo run in: network namespaces over
//! veth, real servers and clients in them, and the agent under test.
//!
//! Everything here is taken back when its value is dropped, on a panic too:
//! processes are killed by their own id, namespaces deleted with their devices.
//! What a killed run left behind is swept when the next one starts
//! ([`netns::sweep`]).
//!
//! It knows nothing of the agent's or the kernel programs' code, only of the
//! binary's command line.

pub mod balancer;
pub mod browser;
pub mod client;
pub mod clock;
pub mod command;
pub mod cpu;
pub mod directory;
pub mod icmp;
pub mod interrupt;
pub mod iperf;
pub mod netns;
pub mod pcapng;
pub mod process;
pub mod programs;
pub mod prometheus;
pub mod server;
pub mod steady;
pub mod syn_flood;
pub mod topology;
pub mod tunnel;
pub mod wait;
pub mod wrk;
pub mod xlb;

/// Fails with one sentence unless this process is root.
///
/// # Errors
/// If it isn't.
pub fn require_root() -> anyhow::Result<()> {
    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "network namespaces need root: run this as root (for example with sudo)"
    );
    Ok(())
}
