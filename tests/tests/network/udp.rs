//! UDP through the balancer, to socat.

use anyhow::{Result, ensure};
use xlb_tests::{
    client,
    server::{Kind, WebServer, udp_echo},
    topology::Family,
    xlb::Xlb,
};

use super::scenario::{HEALTH, Mode, Setup};

/// Datagrams of all sorts of lengths, the longest that fit into 1500 bytes; the
/// last does so in IPv4 only.
const SIZES: [usize; 6] = [1, 2, 100, 511, 1452, 1472];
/// These come in two to six fragments.
const FRAGMENTED: [usize; 5] = [1473, 4000, 2000, 8000, 4000];

fn echo(family: Family, mode: Mode, sizes: &[usize]) -> Result<()> {
    let setup = Setup::in_family(family, mode, 2);
    let topology = setup.topology()?;
    let mut config = setup.config(&topology);
    config.listeners[0].protocol = "udp";
    // socat can't answer the check: a web server beside it does. Local targets
    // are one host, so that one is enough there.
    config.target_groups[0].health_port = Some(9000);
    let mut running = Vec::new();
    let mut web = Vec::new();
    for (n, place) in topology.targets.iter().enumerate() {
        running.push(udp_echo(place, topology.directory())?);
        let mut beside = place.clone();
        beside.address.set_port(9000);
        if mode != Mode::Local || n == 0 {
            let name = format!("check{n}");
            web.push(WebServer::start(
                Kind::Nginx,
                &name,
                &beside,
                None,
                topology.directory(),
            )?);
        }
    }
    let xlb = Xlb::start(&topology.balancer, &config, topology.directory())?;
    xlb.wait_until_healthy(HEALTH)?;

    for _ in 0..20 {
        client::udp_echo(&topology.client, setup.listener, sizes)?;
    }
    let status = xlb.status()?;
    let flows: Vec<u64> = status
        .targets()
        .map(|(_, target)| target.traffic.new_flows)
        .collect();
    // All 20 flows at one of two targets: a chance of 2 in a million.
    ensure!(
        flows.iter().sum::<u64>() == 20 && flows.iter().all(|&n| n > 0),
        "flows: {flows:?}"
    );
    Ok(())
}

macro_rules! in_both_families {
    ($($name:ident: $mode:ident;)+) => {
        $(mod $name {
            use super::{Family, FRAGMENTED, Mode, Result, SIZES, echo};

            #[test]
            fn v4() -> Result<()> {
                echo(Family::V4, Mode::$mode, &SIZES)
            }

            #[test]
            fn v6() -> Result<()> {
                echo(Family::V6, Mode::$mode, &SIZES[..5])
            }

            #[test]
            fn v4_fragments() -> Result<()> {
                echo(Family::V4, Mode::$mode, &FRAGMENTED)
            }

            #[test]
            fn v6_fragments() -> Result<()> {
                echo(Family::V6, Mode::$mode, &FRAGMENTED)
            }
        })+
    };
}

in_both_families! {
    local: Local;
    source_nat_one_arm: OneArm;
    source_nat_other_interface: OtherInterface;
    preserve_client_ip: Preserve;
    preserve_client_ip_one_side: PreserveOneSide;
}
