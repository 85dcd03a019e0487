//! The host's own traffic on a balanced interface.

use std::{
    io::{Read, Write},
    net::{SocketAddrV4, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use xlb_tests::{
    client,
    process::Process,
    server::{Kind, WebServer},
    topology::{BALANCER, Place},
};

use super::scenario::{Mode, SMALL, Scenario, Setup, files};

/// A web server of the balancer's host that is no target.
fn own_server(scenario: &Scenario) -> Result<WebServer> {
    let place = Place {
        namespace: scenario.topology.balancer.clone(),
        address: SocketAddrV4::new(BALANCER, 9090),
    };
    let directory = scenario.topology.directory();
    WebServer::start(Kind::Nginx, "own", &place, Some(files()?), directory)
}

fn unharmed(mode: Mode, xdp_mode: &'static str) -> Result<()> {
    let scenario = Setup {
        xdp_mode: Some(xdp_mode),
        ..Setup::new(mode, 2)
    }
    .start()?;
    let _own = own_server(&scenario)?;
    let own = SocketAddrV4::new(BALANCER, 9090);
    let client = &scenario.topology.client;

    // A session as ssh's: a line now and then, from before until after all else.
    let mut socat = scenario.topology.balancer.command("socat");
    socat.args(["-d", "-d", "TCP4-LISTEN:2222", "EXEC:cat"]);
    let mut shell = Process::spawn(&mut socat, &scenario.topology.directory().join("shell.log"))?;
    shell.wait_for_line("listening on", Duration::from_secs(5))?;
    let mut session = client.enter(|| TcpStream::connect((BALANCER, 2222)))??;
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
    client.run(&format!("ping -q -c 20 -i 0.02 -w 5 {BALANCER}"))?;
    // Large enough to be fragmented.
    client.run(&format!("ping -q -c 5 -i 0.02 -w 5 -s 4000 {BALANCER}"))?;
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
        address: SocketAddrV4::new(xlb_tests::topology::CLIENT, 8000),
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
    unharmed(Mode::Local, "native")
}

#[test]
fn generic() -> Result<()> {
    unharmed(Mode::Local, "generic")
}

#[test]
fn one_arm() -> Result<()> {
    unharmed(Mode::OneArm, "native")
}
