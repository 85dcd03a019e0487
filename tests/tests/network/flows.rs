//! Listing and counting flows.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{HashMap, Map, MapData, loaded_maps};
use lb_common::{
    Be16,
    flow::{self, Endpoints, FlowEntry, FlowEntry4, FlowKey4},
    tcp::State,
};
use serde::Deserialize;
use xlb_tests::{client::request_kept, wait, xlb::Xlb};

use super::scenario::{Mode, Scenario, Setup};

#[derive(Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Flow {
    protocol: String,
    client: SocketAddr,
    destination: SocketAddr,
    listener: Option<String>,
    target_group: Option<String>,
    target: Option<String>,
    source: SocketAddr,
    target_address: SocketAddr,
    state: String,
    idle: u32,
}

#[derive(Deserialize)]
struct Count {
    flows: u64,
    by_state: BTreeMap<String, u64>,
}

fn flows(xlb: &Xlb, filters: &[&str]) -> Result<Vec<Flow>> {
    let lines = xlb.answer(&[&["flows", "--json"], filters].concat())?;
    let lines = lines.lines().map(serde_json::from_str);
    Ok(lines.collect::<Result<_, _>>()?)
}

fn count(xlb: &Xlb, filters: &[&str]) -> Result<Count> {
    let line = xlb.answer(&[&["flows", "--count", "--json"], filters].concat())?;
    Ok(serde_json::from_str(&line)?)
}

/// A connection with an answer on it, so that it is established.
fn connection(scenario: &Scenario) -> Result<TcpStream> {
    let mut stream = scenario.connect()?;
    request_kept(&mut stream)?;
    // The client's acknowledgement may yet be under way.
    wait::pause(Duration::from_millis(50))?;
    Ok(stream)
}

#[test]
fn each_flow_is_listed_once_with_all_that_is_known() -> Result<()> {
    let scenario = Setup::new(Mode::OneArm, 2).start()?;
    let xlb = &scenario.xlb;
    ensure!(flows(xlb, &[])?.is_empty());
    let connections: Vec<TcpStream> = (0..10)
        .map(|_| connection(&scenario))
        .collect::<Result<_>>()?;
    let listed = flows(xlb, &[])?;
    let clients = |flows: &[Flow]| flows.iter().map(|it| it.client).collect::<BTreeSet<_>>();
    let expected = connections.iter().map(TcpStream::local_addr);
    let expected: BTreeSet<SocketAddr> = expected.collect::<Result<_, _>>()?;
    ensure!(
        listed.len() == 10 && clients(&listed) == expected,
        "{listed:?}"
    );
    let targets: BTreeSet<String> = scenario
        .servers
        .iter()
        .map(|server| server.place.address.to_string())
        .collect();
    for flow in &listed {
        let target = flow.target.as_ref().context("no target")?;
        ensure!(
            flow.protocol == "tcp"
                && flow.destination == scenario.listener
                && flow.listener.as_deref() == Some("web")
                && flow.target_group.as_deref() == Some("web")
                && targets.contains(target)
                && flow.target_address.to_string() == *target
                && flow.source.ip() == scenario.listener.ip()
                && flow.state == "established"
                && flow.idle < 10,
            "{flow:?}"
        );
    }

    let first = scenario.servers[0].place.address.to_string();
    let of_first: Vec<Flow> = listed
        .iter()
        .filter(|it| it.target.as_ref() == Some(&first))
        .cloned()
        .collect();
    let client = listed[0].client.ip().to_string();
    let elsewhere = "203.0.113.0/24";
    let cases: [(&[&str], usize); 12] = [
        (&["--listener", "web"], 10),
        (&["--target", &first], of_first.len()),
        (&["--group", "web"], 10),
        (&["--target", &first, "--group", "web"], of_first.len()),
        (&["--client", &client], 10),
        (&["--client", "10.0.0.0/8"], 10),
        (&["--client", elsewhere], 0),
        (&["--state", "established"], 10),
        (&["--state", "half-open"], 0),
        (&["--limit", "3"], 3),
        (&["--limit", "0"], 0),
        (&["--state", "established", "--client", elsewhere], 0),
    ];
    for (filters, expected) in cases {
        let listed = flows(xlb, filters)?;
        let counted = count(xlb, filters)?.flows;
        ensure!(
            listed.len() == expected && counted == expected as u64,
            "{filters:?}: {counted}, {listed:?}"
        );
        let text = xlb.answer(&[&["flows"], filters].concat())?;
        ensure!(text.lines().count() == expected + 1, "{filters:?}: {text}");
    }
    ensure!(
        clients(&flows(xlb, &["--target", &first])?) == clients(&of_first),
        "others than those of {first}"
    );
    for (filters, sentence) in [
        (["--listener", "x"], "no listener `x`"),
        (["--target", "10.9.9.9:80"], "no target group has a target"),
        (["--group", "x"], "no target group `x`"),
        (["--client", "10.0.0.1/8"], "write it as `10.0.0.0/8`"),
    ] {
        let output = xlb.ask(&[&["flows"], &filters[..]].concat())?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(2) && said.contains(sentence) && output.stdout.is_empty(),
            "{filters:?}: {}: {said}",
            output.status
        );
    }

    drop(connections);
    wait::until("the connections' end", Duration::from_secs(5), || {
        let closing = count(xlb, &[])?.by_state.get("closing").copied();
        Ok((closing == Some(10)).then_some(()))
    })
}

/// So many that no test makes them by packets.
const MANY: u32 = 1_000_000;

/// An agent with room for so many flows besides one that is there already.
fn start(flows: u32) -> Result<(Scenario, TcpStream)> {
    let setup = Setup::new(Mode::Local, 1);
    let topology = setup.topology()?;
    let mut config = setup.config(&topology);
    config.settings = format!("capacity.flows = {}\n", capacity(flows));
    let scenario = setup.start_with(topology, &config)?;
    let stream = connection(&scenario)?;
    let mut map = established(flows)?;
    let model = map
        .iter()
        .filter_map(Result::ok)
        .find(|(key, entry)| key.protocol() == flow::TCP && entry.flags & FlowEntry4::REPLY == 0)
        .context("the connection isn't established")?;
    ensure!(model.1.state().has(State::CONFIRMED));
    enter(&mut map, model, flows)?;
    Ok((scenario, stream))
}

fn capacity(flows: u32) -> u32 {
    flows + 1_234
}

/// The flow map of that agent, which is known by its size.
fn established(flows: u32) -> Result<HashMap<MapData, FlowKey4, FlowEntry4>> {
    let entries = 2 * capacity(flows);
    for info in loaded_maps() {
        let info = info?;
        if info.name_as_str() == Some("ESTABLISHED_V4") && info.max_entries() == entries {
            let map = Map::from_map_data(MapData::from_id(info.id())?)?;
            return Ok(map.try_into()?);
        }
    }
    bail!("no flow map of {entries} entries")
}

/// Enters flows like `model` of other clients, 198.18.0.0/15.
fn enter(
    map: &mut HashMap<MapData, FlowKey4, FlowEntry4>,
    (mut key, entry): (FlowKey4, FlowEntry4),
    flows: u32,
) -> Result<()> {
    for number in 0..flows {
        let client = Ipv4Addr::from(0xC612_0000 + (number & 0x1_FFFF));
        key.endpoints = Endpoints {
            source: client.into(),
            source_port: Be16::new(1_024 + (number >> 17) as u16),
            ..key.endpoints
        };
        let entry = FlowEntry {
            rewrite: Endpoints {
                source: key.endpoints.source,
                source_port: key.endpoints.source_port,
                ..entry.rewrite
            },
            ..entry
        };
        let (peer_key, peer) = entry.peer(&key);
        map.insert(key, entry, 0)?;
        map.insert(peer_key, peer, 0)?;
    }
    Ok(())
}

/// Requests on a connection until it is over, and the longest time that one
/// took.
fn requests(stream: &mut TcpStream, over: &AtomicBool) -> Result<(u32, Duration)> {
    let (mut count, mut longest) = (0, Duration::ZERO);
    while !over.load(Ordering::Relaxed) {
        let began = Instant::now();
        request_kept(stream)?;
        longest = longest.max(began.elapsed());
        count += 1;
        wait::pause(Duration::from_millis(2))?;
    }
    Ok((count, longest))
}

/// Clients of a listing, each met once; `None` if one was met twice.
fn clients(mut command: Command) -> Result<Option<BTreeSet<SocketAddr>>> {
    let mut listing = command.stdout(Stdio::piped()).spawn()?;
    let mut clients = BTreeSet::new();
    let mut once = true;
    for line in BufReader::new(listing.stdout.take().context("no output")?).lines() {
        let flow: Flow = serde_json::from_str(&line?)?;
        once &= clients.insert(flow.client);
    }
    ensure!(listing.wait()?.success(), "the listing failed");
    Ok(once.then_some(clients))
}

#[test]
fn a_million_are_listed_and_counted_while_traffic_goes_on() -> Result<()> {
    let (scenario, mut stream) = start(MANY)?;
    let xlb = &scenario.xlb;
    let over = AtomicBool::new(false);
    let all = u64::from(MANY) + 1;
    let (traffic, done) = thread::scope(|scope| {
        let traffic = scope.spawn(|| requests(&mut stream, &over));
        let done = (|| {
            let began = Instant::now();
            let counted = count(xlb, &[])?;
            let counting = began.elapsed();
            ensure!(counted.flows == all, "{} are counted", counted.flows);
            ensure!(counted.by_state["established"] == all);
            let filters = ["--client", "198.18.0.0/16"];
            let half = count(xlb, &filters)?.flows;
            let expected = (0..MANY).filter(|number| number & 0x1_0000 == 0).count();
            ensure!(half == expected as u64, "{half} of one prefix");
            let mut command = xlb.command("flows")?;
            command.arg("--json");
            let clients = clients(command)?.context("a flow was listed twice")?;
            ensure!(clients.len() as u64 == all, "{} were listed", clients.len());
            // It had enough of them.
            ensure!(flows(xlb, &["--limit", "5"])?.len() == 5);
            Ok(counting)
        })();
        over.store(true, Ordering::Relaxed);
        (traffic.join(), done)
    });
    let counting = done?;
    let (requests, longest) = traffic.map_err(|_| anyhow::anyhow!("the client panicked"))??;
    println!("counted in {counting:?}; {requests} requests, the longest {longest:?}");
    // Even on a busy machine: traffic waited for nothing.
    ensure!(
        requests > 100 && longest < Duration::from_secs(1),
        "{requests} requests, one of which took {longest:?}"
    );
    Ok(())
}

/// Somebody who asks and doesn't read keeps the agent from nothing.
#[test]
fn an_agent_ends_while_somebody_stares_at_a_listing() -> Result<()> {
    let (scenario, _stream) = start(MANY / 10)?;
    let mut command = scenario.xlb.command("flows")?;
    let mut listing = command.arg("--json").stdout(Stdio::piped()).spawn()?;
    wait::pause(Duration::from_millis(500))?;
    ensure!(
        listing.try_wait()?.is_none(),
        "all of it went into the pipe"
    );
    ensure!(scenario.get("/")?.starts_with("web"));
    let Scenario { xlb, .. } = scenario;
    xlb.stop()?;
    listing.kill()?;
    listing.wait()?;
    Ok(())
}
