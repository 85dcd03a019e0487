//! Bulk throughput. Offloads of checksums, and with them segmentation, are off
//! on every veth, so that everybody sends frames of 1,500 bytes as over a wire.

use anyhow::Result;
use xlb_tests::{
    iperf::{self, Direction, iperf},
    server,
};

use super::rig::{Case, Rig, Service};

const SECONDS: u32 = 1;

/// Gigabits a second of one connection, from the client to the target.
pub fn measure(case: Case) -> Result<f64> {
    let service = Service {
        protocol: "tcp",
        port: iperf::PORT,
    };
    let mut rig = Rig::build(case, service, false)?;
    let place = iperf::beside(&rig.topology.targets[0]);
    let _server = server::iperf(&place, rig.topology.directory())?;
    let report = iperf(&rig.topology.client, rig.address, Direction::Up, SECONDS)?;
    rig.check()?;
    Ok(report.bits_per_second / 1e9)
}
