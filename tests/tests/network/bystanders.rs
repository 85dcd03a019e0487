//! The host's own traffic on a balanced interface.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use xlb_tests::{
    client,
    process::Process,
    server::{Kind, WebServer},
    topology::{BALANCER, CLIENT, Family, Place},
};

use super::scenario::{Mode, SMALL, Scenario, Setup, files};

fn family(scenario: &Scenario) -> Family {
    match scenario.listener {
        SocketAddr::V4(_) => Family::V4,
        SocketAddr::V6(_) => Family::V6,
    }
}

/// A web server of the balancer's host that is no target.
fn own_server(scenario: &Scenario) -> Result<WebServer> {
    let place = Place {
        namespace: scenario.topology.balancer.clone(),
        address: family(scenario).at(BALANCER, 9090),
    };
    let directory = scenario.topology.directory();
    WebServer::start(Kind::Nginx, "own", &place, Some(files()?), directory)
}

fn unharmed(family: Family, mode: Mode, xdp_mode: &'static str) -> Result<()> {
    let scenario = Setup {
        xdp_mode: Some(xdp_mode),
        ..Setup::in_family(family, mode, 2)
    }
    .start()?;
    let _own = own_server(&scenario)?;
    let own = family.at(BALANCER, 9090);
    let host = family.of(BALANCER);
    let client = &scenario.topology.client;

    // A session as ssh's: a line now and then, from before until after all else.
    let mut socat = scenario.topology.balancer.command("socat");
    let version = if family == Family::V4 { "4" } else { "6" };
    let listen = format!("TCP{version}-LISTEN:2222");
    socat.args(["-d", "-d", &listen, "EXEC:cat"]);
    let mut shell = Process::spawn(&mut socat, &scenario.topology.directory().join("shell.log"))?;
    shell.wait_for_line("listening on", Duration::from_secs(5))?;
    let mut session = client.enter(|| TcpStream::connect((host, 2222)))??;
    session.set_read_timeout(Some(Duration::from_secs(5)))?;
    type_line(&mut session, "first\n")?;

    let spread = client::spread(client, &format!("http://{own}/"), 200)?;
    ensure!(
        spread.of("own") == 200,
        "requests to the host's own server: {spread:?}"
    );
    let copy = scenario.topology.directory().join("own");
    client::download(client, &format!("http://{own}/{SMALL}"), &copy)?;
    ensure!(
        client::sha256(&copy)? == client::sha256(&files()?.join(SMALL))?,
        "a file differs"
    );
    client.run(&format!("ping -q -c 20 -i 0.02 -w 5 {host}"))?;
    // Large enough to be fragmented.
    client.run(&format!("ping -q -c 5 -i 0.02 -w 5 -s 4000 {host}"))?;
    outward(&scenario)?;

    ensure!(
        scenario.get("/")?.starts_with("web"),
        "the balancer itself doesn't work"
    );
    type_line(&mut session, "last\n")
}

/// Connections that the balancer's host itself opens.
fn outward(scenario: &Scenario) -> Result<()> {
    let place = Place {
        namespace: scenario.topology.client.clone(),
        address: family(scenario).at(CLIENT, 8000),
    };
    let directory = scenario.topology.directory();
    let _server = WebServer::start(Kind::Nginx, "outside", &place, None, directory)?;
    let url = format!("http://{}/", place.address);
    let spread = client::spread(&scenario.topology.balancer, &url, 50)?;
    ensure!(
        spread.of("outside") == 50,
        "requests of the host itself: {spread:?}"
    );
    Ok(())
}

fn type_line(session: &mut TcpStream, line: &str) -> Result<()> {
    session.write_all(line.as_bytes())?;
    let mut echo = vec![0; line.len()];
    session
        .read_exact(&mut echo)
        .with_context(|| format!("no echo of {line:?}"))?;
    ensure!(echo == line.as_bytes(), "the echo of {line:?} differs");
    Ok(())
}

#[test]
fn native() -> Result<()> {
    unharmed(Family::V4, Mode::Local, "native")
}

#[test]
fn generic() -> Result<()> {
    unharmed(Family::V4, Mode::Local, "generic")
}

#[test]
fn one_arm() -> Result<()> {
    unharmed(Family::V4, Mode::OneArm, "native")
}

#[test]
fn ipv6() -> Result<()> {
    unharmed(Family::V6, Mode::Local, "native")
}
