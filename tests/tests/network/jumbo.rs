//! Frames of 9,000 bytes, which come to XDP in several buffers.

use anyhow::{Result, ensure};
use xlb_tests::topology::Family;

use super::scenario::{LARGE, Mode, SMALL, Setup};

fn download(family: Family, mode: Mode) -> Result<()> {
    let setup = Setup {
        xdp_mode: Some("native"),
        ..Setup::in_family(family, mode, 2)
    };
    let topology = setup.topology()?;
    topology.set_mtu(9000)?;
    let config = setup.config(&topology);
    let scenario = setup.start_with(topology, &config)?;
    scenario.download(LARGE)?;
    let traffic = scenario.xlb.status()?.listeners[0].traffic;
    let mean = traffic.reply_bytes / traffic.reply_packets;
    ensure!(mean > 4000, "packets had {mean} bytes on average");
    scenario.upload(SMALL)
}

#[test]
fn source_nat_one_arm_v4() -> Result<()> {
    download(Family::V4, Mode::OneArm)
}

#[test]
fn source_nat_other_interface_v6() -> Result<()> {
    download(Family::V6, Mode::OtherInterface)
}

#[test]
fn preserve_client_ip_v4() -> Result<()> {
    download(Family::V4, Mode::Preserve)
}

#[test]
fn local_v6() -> Result<()> {
    download(Family::V6, Mode::Local)
}
