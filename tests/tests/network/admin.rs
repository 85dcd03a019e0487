//! The admin listener and its web page.

use std::{env, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use xlb_tests::{
    browser::Browser,
    command::{output, run},
    netns::Namespace,
    topology::{BALANCER, Topology},
    wait,
    xlb::{self, Xlb, binary},
};

use super::scenario::{HEALTH, Mode, Scenario, Setup};

pub const ADMIN: &str = "127.0.0.1:9800";

/// A scenario whose agent has an admin listener.
pub fn start(targets: usize) -> Result<Scenario> {
    let setup = Setup::new(Mode::Local, targets);
    let topology = setup.topology()?;
    let mut config = setup.config(&topology);
    config.settings = format!("admin = {ADMIN:?}");
    setup.start_with(topology, &config)
}

/// What curl gets, with the status code in the last line.
fn ask(namespace: &Namespace, arguments: &[&str]) -> Result<(String, u16)> {
    let mut curl = namespace.command("curl");
    curl.args(["-sS", "--max-time", "5", "-w", "\n%{http_code}"]);
    let answer = run(curl.args(arguments))?;
    let (body, code) = answer.rsplit_once('\n').context("no answer")?;
    Ok((body.to_owned(), code.parse()?))
}

fn url(path: &str) -> String {
    format!("http://{ADMIN}{path}")
}

#[test]
fn admin_listener_shows_and_changes_nothing() -> Result<()> {
    let scenario = start(2)?;
    let balancer = &scenario.topology.balancer;
    for (arguments, code, text) in [
        (vec![url("/live")], 200, "ok"),
        (vec![url("/ready")], 200, "ok"),
        (vec![url("/metrics")], 200, "# EOF"),
        (vec![url("/")], 200, "<title>xlb</title>"),
        (vec![url("/status")], 404, "/api/status"),
        (
            vec!["-X".into(), "POST".into(), url("/api/reload")],
            403,
            "xlb's commands",
        ),
        (
            vec!["-X".into(), "DELETE".into(), url("/api/status")],
            403,
            "xlb's commands",
        ),
        (vec![url("/api/reload")], 405, "use POST"),
        (
            vec!["-H".into(), "Host: evil.example".into(), url("/api/status")],
            421,
            "localhost",
        ),
        (
            vec!["-H".into(), "Host: localhost:1".into(), url("/api/status")],
            200,
            "web",
        ),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (body, got) = ask(balancer, &arguments)?;
        ensure!(
            got == code && body.contains(text),
            "{arguments:?}: {got}: {body}"
        );
    }
    let (head, _) = ask(balancer, &["-I", &url("/metrics")])?;
    ensure!(head.contains("application/openmetrics-text"), "{head}");
    let (head, _) = ask(balancer, &["-I", &url("/")])?;
    ensure!(
        head.contains("default-src 'none'") && !head.contains("unsafe"),
        "{head}"
    );

    // The socket and the listener answer alike, but for what moves.
    let (status, _) = ask(balancer, &[&url("/api/status")])?;
    let by_socket = scenario.xlb.answer(&["status", "--json"])?;
    let shape = |json: &str| -> Result<Vec<String>> { Ok(keys(&serde_json::from_str(json)?)) };
    ensure!(
        shape(&status)? == shape(&by_socket)?,
        "{status}\n{by_socket}"
    );
    let remote = format!("http://{BALANCER}:9800/live");
    ensure!(
        ask(&scenario.topology.client, &[&remote]).is_err(),
        "others reach it"
    );
    scenario.xlb.stop()
}

/// The paths of all values.
fn keys(value: &serde_json::Value) -> Vec<String> {
    use serde_json::Value::{Array, Object};
    let below = |key: &str, value| {
        let keys = keys(value).into_iter();
        keys.map(|path| format!("{key}.{path}")).collect::<Vec<_>>()
    };
    match value {
        Object(map) => map
            .iter()
            .flat_map(|(key, value)| below(key, value))
            .collect(),
        Array(list) => list.iter().flat_map(|value| below("[]", value)).collect(),
        _ => vec![String::new()],
    }
}

#[test]
fn nobody_else_gets_in_unless_told() -> Result<()> {
    let topology = Topology::one_host(1)?;
    let (balancer, directory) = (&topology.balancer, topology.directory());
    let remote = format!("{BALANCER}:9800");
    let arguments = [
        "--interface",
        "eth0",
        "--listen",
        ":80",
        "--target",
        ":8081",
    ];

    // Nothing listens unless it is asked for.
    let xlb = Xlb::run(balancer, &arguments, directory)?;
    ensure!(!listens(balancer)?, "a TCP port is open");
    xlb.stop()?;

    let mut refused = balancer.command(binary()?);
    refused
        .arg("run")
        .args(arguments)
        .args(["--admin", &remote]);
    let refused = output(&mut refused)?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(
        refused.status.code() == Some(2) && said.contains("other machines"),
        "{}: {said}",
        refused.status
    );

    let told = ["--admin", &remote, "--admin-allow-remote"];
    let told = [&arguments[..], &told].concat();
    let xlb = Xlb::run(balancer, &told, directory)?;
    let url = format!("http://{remote}/live");
    let (_, code) = ask(&topology.client, &[&url])?;
    ensure!(code == 200, "{code}");
    let (_, code) = ask(&topology.client, &["-H", "Host: lb.example", &url])?;
    ensure!(code == 200, "{code}");

    // Another one at the same address doesn't start, and leaves this one alone.
    let mut second = xlb::command(balancer, directory, "run")?;
    let socket = directory.join("second.sock");
    second.args(["--instance", "second"]).args(&told);
    second.arg("--socket").arg(&socket);
    let second = output(&mut second)?;
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    ensure!(
        second.status.code() == Some(1) && said.contains(&format!("could not listen on {remote}")),
        "{}: {said}",
        second.status
    );
    ensure!(!socket.exists(), "its socket is left");
    xlb.stop()?;
    ensure!(!listens(balancer)?, "the port is open still");
    Ok(())
}

/// Whether a TCP port is listened on.
fn listens(namespace: &Namespace) -> Result<bool> {
    const LISTEN: &str = " 0A ";
    let tables = namespace.run("cat /proc/net/tcp /proc/net/tcp6")?;
    Ok(tables.contains(LISTEN))
}

/// An element's text, by the target it belongs to.
fn row(target: &str) -> String {
    format!("document.querySelector('[data-target=\"{target}\"]').innerText")
}

#[test]
fn page_shows_a_target_turning_unhealthy() -> Result<()> {
    let mut scenario = start(3)?;
    let second = scenario.servers[1].place.address.to_string();
    let browser = Browser::start(&scenario.topology.balancer, scenario.topology.directory())?;
    browser.look((1200, 900), false)?;
    browser.open(&url("/"))?;
    let healthy = format!("{}.includes('healthy')", row(&second));
    browser.wait_until("document.querySelector('[data-target]') !== null", HEALTH)?;
    browser.wait_until(&healthy, HEALTH)?;
    browser.wait_until("document.body.innerText.includes('3 of 3 healthy')", HEALTH)?;

    // A page that stays open, with traffic that it shows.
    scenario.spread(50)?;
    browser.wait_until(
        "document.getElementById('sums').innerText.includes('50 in all')",
        HEALTH,
    )?;
    browser.wait_until(
        "document.querySelector('#listeners path.line').getAttribute('d').length > 0",
        HEALTH,
    )?;
    scenario.servers[1].kill();
    scenario.wait_for_health(1, "unhealthy")?;
    let unhealthy = format!(
        "/unhealthy[^]*connection was refused/.test({})",
        row(&second)
    );
    browser.wait_until(&unhealthy, HEALTH)?;
    browser.wait_until("document.body.innerText.includes('2 of 3 healthy')", HEALTH)?;
    browser.wait_until("document.title === 'xlb: 1 unhealthy'", HEALTH)?;

    fits(&browser)?;
    let outside = "performance.getEntriesByType('resource')
        .filter(it => !it.name.startsWith(location.origin)).length";
    ensure!(
        browser.evaluate::<u32>(outside)? == 0,
        "it loads something from elsewhere"
    );
    let complaints = browser.complaints()?;
    ensure!(complaints.is_empty(), "{complaints:?}");

    // The agent is gone: the page says so, and shows no stale state as present.
    let Scenario { xlb, .. } = scenario;
    xlb.stop()?;
    browser.wait_until("document.body.innerText.includes('no answer for')", HEALTH)?;
    browser.wait_until(
        "document.getElementById('main').className === 'lost'",
        HEALTH,
    )
}

/// Nothing is cut off or sticks out, at the widths of desktops and phones, in
/// light and dark.
fn fits(browser: &Browser) -> Result<()> {
    for (name, width) in [("desktop", 1200), ("phone", 390), ("small-phone", 320)] {
        let mut papers = Vec::new();
        for dark in [false, true] {
            browser.look((width, 900), dark)?;
            let wide: u32 = browser.evaluate("document.documentElement.scrollWidth")?;
            ensure!(wide <= width, "{wide} pixels at a width of {width}");
            papers.push(
                browser.evaluate::<String>("getComputedStyle(document.body).backgroundColor")?,
            );
            picture(
                browser,
                &format!("{name}-{}", if dark { "dark" } else { "light" }),
            )?;
        }
        ensure!(papers[0] != papers[1], "dark is as light: {papers:?}");
    }
    Ok(())
}

/// Keeps a picture, if anybody wants to look at it: in `$XLB_SCREENSHOTS`.
fn picture(browser: &Browser, name: &str) -> Result<()> {
    let Some(directory) = env::var_os("XLB_SCREENSHOTS") else {
        return Ok(());
    };
    let height: u32 = browser.evaluate("document.documentElement.scrollHeight")?;
    let width: u32 = browser.evaluate("innerWidth")?;
    browser.look((width, height), name.ends_with("dark"))?;
    wait::pause(Duration::from_millis(300))?;
    browser.screenshot(&Path::new(&directory).join(name).with_extension("png"))
}
