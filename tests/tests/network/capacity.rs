//! As many listeners, target groups and targets as there may be.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use xlb_tests::{
    client,
    process::Process,
    topology::{BALANCER, Topology},
    wait,
    xlb::{self, Xlb},
};

const GROUPS: u16 = 1_024;
/// In each group: 16,384 in total.
const TARGETS: u16 = 16;
/// The first listener's port, and the first target's.
const LISTENERS: u16 = 10_000;
const SERVERS: u16 = 20_000;
/// For all targets to be healthy: a second for all first checks, and time for
/// a busy machine to note the results.
const HEALTHY: Duration = Duration::from_secs(30);

/// A listener for each group, and the same targets in all of them.
fn config(table_size: u32) -> String {
    let mut text =
        String::from("interface = \"eth0\"\n\n[capacity]\nlisteners = 1024\ntargets = 16384\n");
    let targets: Vec<String> = (0..TARGETS)
        .map(|target| format!("\":{}\"", SERVERS + target))
        .collect();
    let targets = targets.join(", ");
    for group in 0..GROUPS {
        let port = LISTENERS + group;
        // Writing to a string doesn't fail.
        let _ = write!(
            text,
            "\n[[listener]]\naddress = \"{BALANCER}:{port}\"\ntarget_group = \"g{group}\"\n\
             \n[[target_group]]\nname = \"g{group}\"\ntargets = [{targets}]\n\
             table_size = {table_size}\n\
             \n[target_group.health_check]\nprotocol = \"tcp\"\n"
        );
    }
    text
}

/// A server at each target's port that answers with that port, until the
/// process ends.
fn serve(topology: &Topology) -> Result<()> {
    for port in SERVERS..SERVERS + TARGETS {
        let listener = topology
            .balancer
            .enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))??;
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                // A health check sends nothing and closes.
                if stream.read(&mut [0; 1_024]).is_ok_and(|length| length > 0) {
                    let _ = write!(stream, "HTTP/1.0 200 OK\r\n\r\n{port}");
                }
            }
        });
    }
    Ok(())
}

#[test]
fn all_of_them_are_checked_and_balanced() -> Result<()> {
    let topology = Topology::one_host(1)?;
    serve(&topology)?;
    let directory = topology.directory();
    let file = directory.join("xlb.toml");
    fs::write(&file, config(251))?;
    let xlb = Xlb::run(
        &topology.balancer,
        &["--config", &file.to_string_lossy()],
        directory,
    )?;
    xlb.wait_until_healthy(HEALTHY)?;
    let status = xlb.status()?;
    ensure!(status.listeners.len() == usize::from(GROUPS));
    ensure!(status.targets().count() == usize::from(GROUPS * TARGETS));

    for listener in [0, 1, GROUPS / 2, GROUPS - 1] {
        let url = format!("http://{BALANCER}:{}/", LISTENERS + listener);
        let answers = (0..40).map(|_| client::get(&topology.client, &url));
        let answers = answers.collect::<Result<BTreeSet<String>>>()?;
        ensure!(answers.len() > 8, "{url} was answered by {answers:?} only");
    }

    let asked = Instant::now();
    xlb.stop()?;
    let took = asked.elapsed();
    ensure!(took < Duration::from_secs(3), "it took {took:?} to end");
    Ok(())
}

/// While it writes the tables it answers, and ends when it is asked to.
#[test]
fn a_start_can_be_interrupted() -> Result<()> {
    let topology = Topology::one_host(1)?;
    let directory = topology.directory();
    let file = directory.join("xlb.toml");
    fs::write(&file, config(65_537))?;
    let mut command = xlb::command(&topology.balancer, directory, "run")?;
    command.arg("--config").arg(&file);
    let mut process = Process::spawn(&mut command, &directory.join("xlb.log"))?;
    process.wait_for_line("attached", Duration::from_secs(10))?;

    let mut status = xlb::command(&topology.balancer, directory, "status")?;
    let answer = xlb_tests::command::output(&mut status)?;
    let answer = String::from_utf8_lossy(&answer.stderr).into_owned();
    ensure!(answer.contains("starting"), "status says: {answer}");

    process.terminate(Duration::from_secs(3))?;
    let log = process.output();
    ensure!(!log.contains("ready"), "the start was complete: {log}");
    wait::pause(Duration::from_millis(100))?;
    let links = topology.balancer.run("ip -d -o link show dev eth0")?;
    ensure!(!links.contains("prog/xdp"), "left behind: {links}");
    for left in ["run", "bpf/xlb"] {
        ensure!(!directory.join(left).exists(), "{left} is left behind");
    }
    Ok(())
}
