//! ICMP: echo at listeners' addresses, and errors about datagrams of flows.

use anyhow::{Result, ensure};
use xlb_tests::{
    icmp::{Told, provoke},
    topology::{BALANCER, FREE, Family, Far, Peers, Topology},
};

use super::scenario::{Mode, Setup};

/// An address that the agent adds to the interface, and one that only xlb has,
/// which clients have a route to.
fn echo(family: Family, managed: bool) -> Result<()> {
    let setup = Setup {
        listener: family.at(FREE, 80),
        ..Setup::in_family(family, Mode::Local, 1)
    };
    let topology = setup.topology()?;
    let mut config = setup.config(&topology);
    let (vip, bits) = (family.of(FREE), family.bits());
    if !managed {
        config.settings = "manage_address = false\n".into();
        let gateway = family.of(BALANCER);
        let route = format!("route add {vip}/{bits} via {gateway}");
        topology.client.ip(&route)?;
    }
    let scenario = setup.start_with(topology, &config)?;
    let client = &scenario.topology.client;
    for size in [0, 56, 1400] {
        client.run(&format!("ping -q -c 5 -i 0.02 -w 3 -s {size} {vip}"))?;
    }
    let answered = scenario.drops("echo_answered")?;
    let expected = if managed { 0 } else { 15 };
    ensure!(answered == expected, "xlb answered {answered} times");
    // What it answers for is no other's address.
    let nobody = family.of([10, 0, 2, 101].into());
    ensure!(
        client
            .run(&format!("ping -q -c 2 -i 0.1 -w 1 {nobody}"))
            .is_err(),
        "{nobody} answers"
    );
    ensure!(scenario.get("/")? == "web1\n", "no service beside it");
    Ok(())
}

#[test]
fn echo_of_a_managed_address_v4() -> Result<()> {
    echo(Family::V4, true)
}

#[test]
fn echo_of_a_managed_address_v6() -> Result<()> {
    echo(Family::V6, true)
}

#[test]
fn echo_of_an_address_of_xlbs_own_v4() -> Result<()> {
    echo(Family::V4, false)
}

#[test]
fn echo_of_an_address_of_xlbs_own_v6() -> Result<()> {
    echo(Family::V6, false)
}

/// Sends a datagram to a listener whose targets have no such socket, and
/// expects this error, as from the listener.
fn error(
    family: Family,
    mode: Mode,
    topology: Topology,
    hops: u8,
    expected: [u8; 2],
) -> Result<()> {
    let mut topology = topology;
    topology.speak(family);
    let setup = Setup::in_family(family, mode, 1);
    let mut config = setup.config(&topology);
    // Health checks go to the web server on the TCP port of the same number.
    config.listeners[0].protocol = "udp";
    let scenario = setup.start_with(topology, &config)?;
    let told = provoke(&scenario.topology.client, scenario.listener, hops)?;
    let [icmp_type, code] = expected;
    let from = scenario.listener.ip();
    let expected = Told {
        from,
        icmp_type,
        code,
    };
    ensure!(told == expected, "in {mode:?}: {told:?}, not {expected:?}");
    Ok(())
}

fn port_unreachable(family: Family, mode: Mode) -> Result<()> {
    let expected = match family {
        Family::V4 => [3, 3],
        Family::V6 => [1, 4],
    };
    error(
        family,
        mode,
        mode.topology(1, Peers::TakeXdp)?,
        64,
        expected,
    )
}

macro_rules! in_both_families {
    ($($name:ident: $mode:ident;)+) => {
        $(mod $name {
            use super::{Family, Mode, Result, port_unreachable};

            #[test]
            fn v4() -> Result<()> {
                port_unreachable(Family::V4, Mode::$mode)
            }

            #[test]
            fn v6() -> Result<()> {
                port_unreachable(Family::V6, Mode::$mode)
            }
        })+
    };
}

in_both_families! {
    port_unreachable_local: Local;
    port_unreachable_source_nat: OneArm;
    port_unreachable_preserve_client_ip: Preserve;
    port_unreachable_preserve_client_ip_one_side: PreserveOneSide;
}

/// As of traceroute: a router behind the balancer tells that the datagram has
/// crossed too many. The second hop is the router, after the balancer.
fn time_exceeded(family: Family) -> Result<()> {
    let expected = match family {
        Family::V4 => [11, 0],
        Family::V6 => [3, 0],
    };
    let topology = Topology::switched(1, Peers::TakeXdp, Far::Targets)?;
    error(family, Mode::OneArm, topology, 2, expected)
}

#[test]
fn time_exceeded_v4() -> Result<()> {
    time_exceeded(Family::V4)
}

#[test]
fn time_exceeded_v6() -> Result<()> {
    time_exceeded(Family::V6)
}
