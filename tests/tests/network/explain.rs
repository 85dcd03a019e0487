//! What `xlb explain` says, and what real packets then do.

use std::{
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xlb_tests::{
    client::request_kept,
    wait,
    xlb::{Status, Traffic},
};

use super::scenario::{Mode, Scenario, Setup};

fn explain(scenario: &Scenario, client: SocketAddr) -> Result<Value> {
    let (client, listener) = (client.to_string(), scenario.listener.to_string());
    let json = scenario
        .xlb
        .answer(&["explain", "tcp", &client, &listener, "--json"])?;
    Ok(serde_json::from_str(&json)?)
}

/// What packets of listeners move. Health checks are passed, and counted as such,
/// all the while.
fn counters(status: &Status) -> Vec<Traffic> {
    let targets = status.targets().map(|(_, it)| it.traffic);
    let listeners = status.listeners.iter().map(|it| it.traffic);
    targets.chain(listeners).collect()
}

/// Another port of the client's each time: the real connection goes to the
/// target that was foreseen, by the source port that was.
#[test]
fn a_real_connection_goes_where_it_was_foreseen() -> Result<()> {
    let scenario = Setup::new(Mode::OneArm, 3).start()?;
    let mut connections = Vec::new();
    for _ in 0..8 {
        // A port that the kernel finds free, and leaves alone for a while.
        let probe = scenario.connect()?;
        let client = SocketAddr::new(probe.local_addr()?.ip(), probe.local_addr()?.port() ^ 1);
        drop(probe);
        // Until it has said goodbye.
        wait::pause(Duration::from_millis(300))?;
        let before = counters(&scenario.xlb.status()?);
        let explained = explain(&scenario, client)?;
        ensure!(
            counters(&scenario.xlb.status()?) == before,
            "explaining moved a counter"
        );
        ensure!(
            explained["new_flow"] == true && explained["flags"] == "syn",
            "{explained}"
        );
        ensure!(explained["listener"]["name"] == "web", "{explained}");
        ensure!(explained["target"]["health"] == "healthy", "{explained}");
        ensure!(
            explained["selection"]["target"] == explained["target"]["target"],
            "{explained}"
        );

        let Some(stream) = connect_from(&scenario, client)? else {
            continue;
        };
        let known = explain(&scenario, client)?;
        ensure!(
            known["new_flow"] == false && known["flags"] == "ack",
            "{known}"
        );
        ensure!(known["flow"]["state"] == "established", "{known}");
        for (field, of) in [("target", "flow"), ("source", "flow"), ("source", "leaves")] {
            ensure!(
                known[of][field] == explained[of][field] && !known[of][field].is_null(),
                "{of}.{field}: foreseen {explained}, then {known}"
            );
        }
        connections.push(stream);
    }
    ensure!(connections.len() >= 4, "too few to say anything");
    let first = connections.first().context("no connection")?.local_addr()?;
    let listener = scenario.listener.to_string();
    let text = scenario
        .xlb
        .answer(&["explain", "tcp", &first.to_string(), &listener])?;
    for words in [
        "listener        web",
        "known, established",
        "of web, healthy",
        "sent by eth0",
    ] {
        ensure!(text.contains(words), "nothing of {words:?} in {text}");
    }
    Ok(())
}

/// `None` if the port is taken.
fn connect_from(scenario: &Scenario, client: SocketAddr) -> Result<Option<TcpStream>> {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket,
    };
    let connected = scenario
        .topology
        .client
        .enter(|| -> nix::Result<TcpStream> {
            let fd = socket(
                AddressFamily::Inet,
                SockType::Stream,
                SockFlag::SOCK_CLOEXEC,
                None,
            )?;
            bind(
                std::os::fd::AsRawFd::as_raw_fd(&fd),
                &SockaddrStorage::from(client),
            )?;
            connect(
                std::os::fd::AsRawFd::as_raw_fd(&fd),
                &SockaddrStorage::from(scenario.listener),
            )?;
            Ok(TcpStream::from(fd))
        })?;
    let Ok(mut stream) = connected else {
        return Ok(None);
    };
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    request_kept(&mut stream)?;
    // The client's acknowledgement may yet be under way.
    wait::pause(Duration::from_millis(50))?;
    Ok(Some(stream))
}

#[test]
fn what_goes_nowhere_is_said_with_its_reason() -> Result<()> {
    let scenario = Setup::new(Mode::Local, 1).start()?;
    let (xlb, listener) = (&scenario.xlb, scenario.listener.to_string());
    let says = |words: &[&str], expected: &str| -> Result<()> {
        let text = xlb.answer(words)?;
        ensure!(text.contains(expected), "nothing of {expected:?} in {text}");
        Ok(())
    };
    let client = "203.0.113.7:51234";
    says(
        &["explain", "tcp", client, &listener],
        "to this host's own stack",
    )?;
    says(
        &["explain", "udp", client, &listener],
        "passed to this host as it came: not_ours",
    )?;
    let target = scenario.servers[0].place.address.to_string();
    xlb.answer(&["drain", &target])?;
    says(&["explain", "tcp", client, &listener], "dropped: no_target")?;
    for (words, sentence) in [
        (["tcp", client, "[::1]:80"], "different address families"),
        (["sctp", client, &listener], "invalid value 'sctp'"),
        (["tcp", "203.0.113.7", &listener], "invalid socket address"),
    ] {
        let output = xlb.ask(&[&["explain"], &words[..]].concat())?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(2) && said.contains(sentence),
            "{words:?}: {}: {said}",
            output.status
        );
    }
    let output = xlb.ask(&["explain", "tcp", client, &listener, "--interface", "eth9"])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(2) && said.contains("isn't attached"),
        "{said}"
    );
    Ok(())
}
