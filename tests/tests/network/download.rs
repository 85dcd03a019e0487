//! 100 MB, byte for byte, in every way that packets can go.

use anyhow::{Result, ensure};
use xlb_tests::topology::{Family, Peers};

use super::scenario::{LARGE, Mode, Setup};

/// Downloads, and checks that the way was the one that the test is about.
fn download(setup: &Setup) -> Result<()> {
    let scenario = setup.start()?;
    scenario.check_client_address(setup.mode)?;
    let status = scenario.xlb.status()?;
    for interface in &status.interfaces {
        let right = setup.xdp_mode.is_none_or(|mode| mode == interface.xdp)
            && setup.tc_mode.is_none_or(|mode| mode == interface.tc);
        ensure!(right, "not attached as asked for: {interface:?}");
    }
    let before = status.listeners[0].traffic;
    scenario.download(LARGE)?;
    let after = scenario.xlb.status()?.listeners[0].traffic;
    let bytes = after.reply_bytes - before.reply_bytes;
    ensure!(bytes > 100 << 20, "replies were counted as {bytes} bytes");
    ensure!(
        after.forward_packets > before.forward_packets,
        "no forward packets were counted"
    );
    ensure!(
        after.new_flows == before.new_flows + 1,
        "one connection was counted otherwise"
    );
    Ok(())
}

fn in_mode(mode: Mode, xdp_mode: &'static str) -> Result<()> {
    download(&Setup {
        xdp_mode: Some(xdp_mode),
        ..Setup::new(mode, 2)
    })
}

macro_rules! in_both_xdp_modes {
    ($($name:ident: $mode:ident;)+) => {
        $(mod $name {
            use super::{Mode, Result, in_mode};

            #[test]
            fn native() -> Result<()> {
                in_mode(Mode::$mode, "native")
            }

            #[test]
            fn generic() -> Result<()> {
                in_mode(Mode::$mode, "generic")
            }
        })+
    };
}

in_both_xdp_modes! {
    local: Local;
    source_nat_one_arm: OneArm;
    source_nat_other_interface: OtherInterface;
    preserve_client_ip: Preserve;
    preserve_client_ip_one_side: PreserveOneSide;
}

fn over_ipv6(mode: Mode, xdp_mode: &'static str) -> Result<()> {
    download(&Setup {
        xdp_mode: Some(xdp_mode),
        ..Setup::in_family(Family::V6, mode, 2)
    })
}

#[test]
fn ipv6_local() -> Result<()> {
    over_ipv6(Mode::Local, "native")
}

#[test]
fn ipv6_source_nat_one_arm() -> Result<()> {
    over_ipv6(Mode::OneArm, "native")
}

#[test]
fn ipv6_source_nat_one_arm_generic() -> Result<()> {
    over_ipv6(Mode::OneArm, "generic")
}

#[test]
fn ipv6_source_nat_other_interface() -> Result<()> {
    over_ipv6(Mode::OtherInterface, "native")
}

#[test]
fn ipv6_preserve_client_ip() -> Result<()> {
    over_ipv6(Mode::Preserve, "native")
}

#[test]
fn ipv6_preserve_client_ip_one_side() -> Result<()> {
    over_ipv6(Mode::PreserveOneSide, "native")
}

#[test]
fn local_with_clsact() -> Result<()> {
    download(&Setup {
        tc_mode: Some("clsact"),
        ..Setup::new(Mode::Local, 2)
    })
}

#[test]
fn preserve_client_ip_one_side_with_clsact() -> Result<()> {
    download(&Setup {
        tc_mode: Some("clsact"),
        ..Setup::new(Mode::PreserveOneSide, 2)
    })
}

/// What veth peers without a program don't take from XDP must go otherwise.
#[test]
fn source_nat_one_arm_to_plain_veth() -> Result<()> {
    download(&Setup {
        peers: Peers::Plain,
        ..Setup::new(Mode::OneArm, 2)
    })
}

#[test]
fn preserve_client_ip_to_plain_veth() -> Result<()> {
    download(&Setup {
        peers: Peers::Plain,
        ..Setup::new(Mode::Preserve, 2)
    })
}

fn tagged(mode: Mode, xdp_mode: &'static str) -> Result<()> {
    download(&Setup {
        tagged: true,
        xdp_mode: Some(xdp_mode),
        ..Setup::new(mode, 2)
    })
}

#[test]
fn tagged_client_local_native() -> Result<()> {
    tagged(Mode::Local, "native")
}

#[test]
fn tagged_client_local_generic() -> Result<()> {
    tagged(Mode::Local, "generic")
}

/// The tag comes off on the way to the targets' network.
#[test]
fn tagged_client_preserve_client_ip_one_side() -> Result<()> {
    tagged(Mode::PreserveOneSide, "native")
}
