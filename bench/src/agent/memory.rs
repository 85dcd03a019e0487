//! Memory of the maps and of the agent, and how each grows with flows, targets
//! and listeners.
//!
//! The kernel tells each map's memory beside its descriptor; of a table that
//! isn't allocated in advance that grows with the entries in it, so they are
//! really entered.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{HashMap, Map, MapData, MapInfo};
use lb_common::{
    Be16, Ipv4,
    flow::{self, Endpoints, FlowEntry, FlowEntry4, FlowKey4},
    tcp::State,
};
use xlb_tests::{interrupt, wait, xlb::Xlb};

use super::{
    Rig, checks,
    config::{FIRST_PORT, Plan},
    load, process,
    server::Server,
};
use crate::{
    dataplane::{frame::V4, world::PORT},
    report::Row,
};

const FLOWS: [u32; 5] = [1_000, 10_000, 100_000, 1_000_000, 4_000_000];
const LISTENERS: [u32; 4] = [1, 10, 100, 1_024];
/// Groups, and targets in each.
const TARGETS: [(u32, u32); 4] = [(1, 16), (1, 160), (2, 800), (17, 963)];
/// The agent sweeps every five seconds.
const SWEPT: Duration = Duration::from_secs(6);

pub fn measure(rig: &Rig) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for flows in FLOWS {
        let plan = Plan {
            flows,
            ..Plan::DEFAULT
        };
        rows.extend(of_flows(rig, &plan)?);
    }
    for (groups, targets_per_group) in TARGETS {
        let plan = Plan {
            groups,
            targets_per_group,
            flows: 1_000,
            ..Plan::DEFAULT
        };
        rows.extend(at_rest(rig, &plan, &format!("{} targets", plan.targets()))?);
    }
    for groups in LISTENERS {
        let plan = Plan {
            groups,
            targets_per_group: 15,
            shared: true,
            flows: 1_000,
            ..Plan::DEFAULT
        };
        let what = format!("{groups} listeners, a group of 15 targets each");
        rows.extend(at_rest(rig, &plan, &what)?);
    }
    Ok(rows)
}

fn at_rest(rig: &Rig, plan: &Plan, what: &str) -> Result<[Row; 2]> {
    let (_server, xlb) = start(rig, plan)?;
    let rows = rows(&xlb, what)?;
    xlb.unload()?;
    Ok(rows)
}

fn of_flows(rig: &Rig, plan: &Plan) -> Result<[Row; 2]> {
    let (_server, xlb) = start(rig, plan)?;
    let name = "ESTABLISHED_V4";
    let before = memory_of(&xlb, name)?;
    establish(&xlb, plan.flows)?;
    // The agent has read all of them once.
    wait::pause(SWEPT)?;
    let grown = memory_of(&xlb, name)?.saturating_sub(before);
    let least = u64::from(plan.flows) * 2 * size_of::<(FlowKey4, FlowEntry4)>() as u64;
    ensure!(
        grown >= least,
        "the flows aren't there any more: {grown} bytes"
    );
    let rows = rows(&xlb, &format!("{} flows", plan.flows))?;
    xlb.unload()?;
    Ok(rows)
}

fn start(rig: &Rig, plan: &Plan) -> Result<(Server, Xlb)> {
    interrupt::check()?;
    let server = Server::start(FIRST_PORT, plan.ports())?;
    let xlb = load::start(rig, &plan.text())?;
    checks::healthy(&xlb, &server, plan.targets())?;
    Ok((server, xlb))
}

fn rows(xlb: &Xlb, what: &str) -> Result<[Row; 2]> {
    let maps: u64 = process::maps(xlb.id())?.values().sum();
    let agent = process::resident(xlb.id())?;
    Ok([
        Row::found(format!("maps: {what}"), "MB", &[maps as f64 / 1e6]),
        Row::found(format!("agent: {what}"), "MB", &[agent]),
    ])
}

/// The id and the memory of a map of the agent.
fn find(xlb: &Xlb, name: &str) -> Result<(u32, u64)> {
    for (id, memory) in process::maps(xlb.id())? {
        if MapInfo::from_id(id)?.name_as_str() == Some(name) {
            return Ok((id, memory));
        }
    }
    Err(anyhow::anyhow!("the agent has no map {name}"))
}

fn memory_of(xlb: &Xlb, name: &str) -> Result<u64> {
    Ok(find(xlb, name)?.1)
}

/// Enters flows as the data path would, of the first target.
fn establish(xlb: &Xlb, flows: u32) -> Result<()> {
    let (id, _) = find(xlb, "ESTABLISHED_V4")?;
    let map = Map::from_map_data(MapData::from_id(id)?)?;
    let mut map: HashMap<MapData, FlowKey4, FlowEntry4> = map.try_into()?;
    let std::net::IpAddr::V4(host) = V4.host else {
        anyhow::bail!("the host's address isn't of IPv4");
    };
    let host = Ipv4::from(host);
    let seen = u32::try_from(process::now()?.as_secs())?;
    for number in 0..flows {
        if number % 65_536 == 0 {
            interrupt::check()?;
        }
        let [_, a, b, c] = (number >> 14).to_be_bytes();
        let client = Ipv4::from(std::net::Ipv4Addr::new(10, 32 | a, b, c));
        let client_port = Be16::new(1_024 | (number & 0x3FFF) as u16);
        let ends = |port| Endpoints {
            source: client,
            destination: host,
            source_port: client_port,
            destination_port: Be16::new(port),
        };
        let key = FlowKey4::new(ends(PORT), flow::TCP);
        let entry = FlowEntry4 {
            rewrite: ends(FIRST_PORT),
            target: 0,
            generation: 1,
            last_seen: seen,
            listener: 0,
            state: State::REPLIED | State::CONFIRMED,
            flags: FlowEntry::<Ipv4>::LOCAL,
        };
        let (peer_key, peer) = entry.peer(&key);
        for (key, entry) in [(key, entry), (peer_key, peer)] {
            map.insert(key, entry, 0)
                .with_context(|| format!("flow {number} of {flows}"))?;
        }
    }
    Ok(())
}
