//! `cargo xtask demo`: the main job, on this machine, in namespaces of its own.
//!
//! Whatever it shows it also checks; what isn't so is an error. All that it
//! makes is held by values whose drop takes it back, after Ctrl-C too.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use xlb_tests::{
    client::{self, Attempt, Load, Spread},
    interrupt, netns,
    server::{HEALTH_BODY, HEALTH_PATH, Kind, WebServer},
    topology::{BALANCER, CLIENT, Family, Topology},
    wait,
    xlb::Xlb,
};

mod screen;

use screen::{Mark, Screen};

const REQUESTS: u32 = 1000;
const VIP: SocketAddr = Family::V4.at(BALANCER, 80);
/// Fast checks, so that the demo is short; the defaults are those of ELB.
const FLAGS: [&[&str]; 3] = [
    &[
        "--interface",
        "eth0",
        "--listen",
        ":80",
        "--target",
        ":8081",
        "--target",
        ":8082",
    ],
    &[
        "--health-interval",
        "1s",
        "--health-timeout",
        "500ms",
        "--health-body",
        HEALTH_BODY,
    ],
    &["--healthy-threshold", "2", "--unhealthy-threshold", "2"],
];
/// Two checks a second apart, and some time for a busy machine.
const HEALTH: Duration = Duration::from_secs(8);
/// Clients that request all the time while a server goes and returns.
const CLIENTS: usize = 4;
const PAUSE: Duration = Duration::from_millis(20);

/// Runs the demo with the binary that was built before.
///
/// # Errors
/// If anything that it shows isn't so, or on Ctrl-C.
pub fn run() -> Result<()> {
    interrupt::install()?;
    let screen = Screen::start();
    let outcome = show(&screen);
    // What `show` made is gone by now, if all went well or not.
    let left = netns::of_process(std::process::id())?;
    ensure!(left.is_empty(), "namespaces are left behind: {left:?}");
    let (directory, processes) = outcome.or_else(plain)?;
    ensure!(
        !directory.exists(),
        "{} is left behind",
        directory.display()
    );
    for id in processes {
        let exists = Path::new("/proc").join(id.to_string()).exists();
        ensure!(!exists, "process {id} is left behind");
    }
    screen.line(
        "gone",
        "namespaces, links, programs and processes: nothing is left behind",
    );
    Ok(())
}

/// On Ctrl-C whatever was waited for fails, with logs that say nothing about it.
fn plain<T>(error: anyhow::Error) -> Result<T> {
    interrupt::check().and(Err(error))
}

/// Gives what must be gone afterwards: a directory and processes.
fn show(screen: &Screen) -> Result<(PathBuf, Vec<u32>)> {
    screen.text(&format!(
        "\n  client {CLIENT} ─── {VIP} xlb ─┬─ :8081 nginx web1\n{:40}└─ :8082 nginx web2\n",
        ""
    ));
    let topology = Topology::one_host(2)?;
    screen.line(
        "network",
        "a client and a balancer, two namespaces joined by a veth pair",
    );
    let mut servers = start_servers(&topology)?;
    screen.line(
        "servers",
        &format!("both answer {HEALTH_PATH} with \"{HEALTH_BODY}\""),
    );

    screen.line("xlb run", &shown(FLAGS[0]));
    FLAGS[1..]
        .iter()
        .for_each(|words| screen.more(&shown(words)));
    let xlb = Xlb::run(&topology.balancer, &FLAGS.concat(), topology.directory())?;
    xlb.wait_until_healthy(HEALTH)?;
    screen.line("ready", "both targets are healthy");

    let mut processes: Vec<u32> = servers.iter().filter_map(WebServer::id).collect();
    processes.push(xlb.id());
    show_spread(screen, &topology)?;
    show_outage(screen, &topology, &mut servers, &xlb)?;
    show_spread(screen, &topology)?;
    show_status(screen, &xlb)?;
    processes.extend(servers.iter().filter_map(WebServer::id));

    xlb.unload()?;
    let link = topology.balancer.ip("-d link show dev eth0")?;
    ensure!(
        !link.contains("xdp"),
        "xlb has left its program attached: {link}"
    );
    screen.line("xlb unload", "xlb ended and detached its programs");
    Ok((topology.directory().to_owned(), processes))
}

/// Starts two web servers, and checks from beside them that they are what they
/// are said to be.
fn start_servers(topology: &Topology) -> Result<Vec<WebServer>> {
    let mut servers = Vec::new();
    for (n, place) in (1..).zip(&topology.targets) {
        let name = format!("web{n}");
        let server = WebServer::start(Kind::Nginx, &name, place, None, topology.directory())?;
        let url = |path| format!("http://{}{path}", place.address);
        let own = client::get(&topology.balancer, &url("/"))?;
        ensure!(
            own.trim() == name,
            "{} should be {name}, and says {own}",
            place.address
        );
        let health = client::get(&topology.balancer, &url(HEALTH_PATH))?;
        ensure!(
            health.trim() == HEALTH_BODY,
            "{} says at {HEALTH_PATH}: {health}",
            place.address
        );
        servers.push(server);
    }
    Ok(servers)
}

/// Sends requests by curl, and shows who answered.
fn show_spread(screen: &Screen, topology: &Topology) -> Result<()> {
    let url = format!("http://{VIP}/");
    let spread = client::spread(&topology.client, &url, REQUESTS)?;
    let Spread { failed, .. } = spread;
    screen.line(
        "spread",
        &format!("{REQUESTS} requests to {url} by curl, {failed} failed"),
    );
    for (name, port) in [("web1", 8081), ("web2", 8082)] {
        screen.bar(&format!(":{port}"), spread.of(name), REQUESTS);
    }
    ensure!(failed == 0, "{failed} requests failed");
    // Half of them, and five standard deviations (16).
    let even = (REQUESTS / 2 - 79)..=(REQUESTS / 2 + 79);
    for name in ["web1", "web2"] {
        ensure!(
            even.contains(&spread.of(name)),
            "the spread isn't even: {spread:?}"
        );
    }
    Ok(())
}

/// When what happened while clients went on requesting.
struct Outage {
    killed: Instant,
    noticed: Instant,
    started: Instant,
    returned: Instant,
}

/// Kills a server and starts it again, under load.
fn show_outage(
    screen: &Screen,
    topology: &Topology,
    servers: &mut [WebServer],
    xlb: &Xlb,
) -> Result<()> {
    screen.line(
        "load",
        &format!("{CLIENTS} clients make new connections all the time from here"),
    );
    let began = Instant::now();
    let (outage, attempts) = Load::during(&topology.client, VIP, CLIENTS, PAUSE, |load| {
        wait::pause(Duration::from_secs(1))?;
        let (killed, noticed) = kill(screen, servers, xlb, load)?;
        show_status(screen, xlb)?;
        let (started, returned) = start_again(screen, servers, xlb)?;
        wait::pause(Duration::from_secs(1))?;
        Ok(Outage {
            killed,
            noticed,
            started,
            returned,
        })
    })?;
    screen.timeline(began, &attempts, &outage.marks());
    check(&attempts, &outage)
}

fn kill(
    screen: &Screen,
    servers: &mut [WebServer],
    xlb: &Xlb,
    load: &Load,
) -> Result<(Instant, Instant)> {
    let id = servers[0].id().context("the server on :8081 doesn't run")?;
    let killed = Instant::now();
    servers[0].kill();
    screen.line(
        "killed (A)",
        &format!("the server on :8081 (process {id}, SIGKILL)"),
    );
    let address = servers[0].place.address;
    let dead = client::get(&servers[0].place.namespace, &format!("http://{address}/")).is_err();
    ensure!(dead, "the server on {address} still answers");

    xlb.wait_for_health(address, "unhealthy", HEALTH)?;
    let noticed = Instant::now();
    let text = format!(
        ":8081 is unhealthy, {} after the kill",
        seconds(noticed - killed)
    );
    screen.line("noticed (B)", &text);
    wait::pause(Duration::from_secs(1))?;
    show_failures(screen, &load.attempts(), killed, noticed)?;
    Ok((killed, noticed))
}

/// Shows when the last request failed, and who answered from then on.
fn show_failures(
    screen: &Screen,
    attempts: &[Attempt],
    killed: Instant,
    noticed: Instant,
) -> Result<()> {
    let failed = attempts.iter().filter(|attempt| attempt.answer.is_err());
    let last = failed.clone().map(|attempt| attempt.began).max();
    screen.more(&last.map_or("no request failed".to_owned(), |last| {
        let after = seconds(last.saturating_duration_since(killed));
        format!(
            "the last request that failed began {after} after the kill ({} failed)",
            failed.count()
        )
    }));
    let mut since = attempts.iter().filter(|attempt| attempt.began > noticed);
    let count = since.clone().count();
    let others = since.find(|attempt| attempt.answer.as_deref() != Ok("web2"));
    ensure!(
        others.is_none(),
        "a request didn't go to :8082: {:?}",
        others.map(|attempt| &attempt.answer)
    );
    ensure!(count > 0, "no request was made since");
    screen.more(&format!(
        "all {count} requests since (B) were answered by :8082"
    ));
    Ok(())
}

fn start_again(
    screen: &Screen,
    servers: &mut [WebServer],
    xlb: &Xlb,
) -> Result<(Instant, Instant)> {
    let started = Instant::now();
    servers[0].start_again()?;
    screen.line("started (C)", "the server on :8081 runs again");
    xlb.wait_for_health(servers[0].place.address, "healthy", HEALTH)?;
    let returned = Instant::now();
    let text = format!(
        ":8081 is healthy, {} after its start",
        seconds(returned - started)
    );
    screen.line("returned (D)", &text);
    Ok((started, returned))
}

impl Outage {
    fn marks(&self) -> [Mark; 4] {
        [
            ('A', self.killed),
            ('B', self.noticed),
            ('C', self.started),
            ('D', self.returned),
        ]
    }
}

/// Whether the load saw what was said.
fn check(attempts: &[Attempt], outage: &Outage) -> Result<()> {
    let mut after_return = 0;
    for Attempt {
        began,
        ended,
        answer,
    } in attempts
    {
        let in_doubt = *ended >= outage.killed && *began < outage.noticed;
        match answer {
            Ok(name) if name == "web1" => {
                let dead = outage.noticed..outage.started;
                ensure!(!dead.contains(began), "the killed server has answered");
                after_return += u32::from(*began >= outage.returned);
            }
            Ok(_) => {}
            Err(error) => ensure!(
                in_doubt,
                "a request failed that shouldn't have ({} after the kill): {error}",
                seconds(began.saturating_duration_since(outage.killed))
            ),
        }
    }
    ensure!(after_return > 0, "the server that returned got no request");
    Ok(())
}

fn show_status(screen: &Screen, xlb: &Xlb) -> Result<()> {
    screen.line("status", "xlb status");
    screen.text(&format!("\n{}\n", xlb.status_text()?.trim_end()));
    Ok(())
}

/// Arguments as one types them.
fn shown(words: &[&str]) -> String {
    let quoted = words.iter().map(|word| match word.contains(' ') {
        true => format!("\"{word}\""),
        false => (*word).to_owned(),
    });
    quoted.collect::<Vec<_>>().join(" ")
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use anyhow::anyhow;

    use super::*;

    #[test]
    fn an_interrupt_is_all_there_is_to_say() {
        let text = |error: Result<()>| format!("{:#}", error.unwrap_err());
        let failed = || plain::<()>(anyhow!("waited in vain").context("its log: …"));
        assert_eq!(text(failed()), "its log: …: waited in vain");

        interrupt::install().unwrap();
        let own = std::process::id().to_string();
        let kill = Command::new("kill").args(["-INT", &own]).status();
        assert!(kill.unwrap().success());
        while interrupt::check().is_ok() {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(text(failed()), "interrupted");
    }
}
