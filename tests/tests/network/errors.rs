//! What a user reads when something is wrong.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use xlb_tests::{
    netns::Namespace,
    process::Process,
    topology::Topology,
    xlb::{self, Xlb, binary},
};

use super::scenario::{HEALTH, Mode, Setup};

/// Flags of a complete set-up but for the interface.
const FLAGS: [&str; 4] = ["--listen", ":80", "--target", ":8081"];

/// Runs the agent, which must fail soon, without a panic, and say all of
/// `words` (in any case) in a few lines.
fn fails(topology: &Topology, arguments: &[&str], words: &[&str]) -> Result<()> {
    let directory = topology.directory();
    let (subcommand, arguments) = arguments.split_first().context("no subcommand")?;
    let mut command = xlb::command(&topology.balancer, directory, subcommand)?;
    command.args(arguments);
    let mut process = Process::spawn(&mut command, &directory.join("fails.log"))?;
    let status = process.wait(Duration::from_secs(10))?;
    says(&process.output(), words)?;
    ensure!(
        status.code().is_some_and(|code| code != 0),
        "exit status {status}"
    );
    for left in ["run", "bpf/xlb"] {
        ensure!(!directory.join(left).exists(), "{left} is left behind");
    }
    unattached(&topology.balancer)
}

fn says(output: &str, words: &[&str]) -> Result<()> {
    let lower = output.to_lowercase();
    for word in words {
        ensure!(
            lower.contains(&word.to_lowercase()),
            "nothing of “{word}” in: {output}"
        );
    }
    ensure!(!lower.contains("panicked"), "a panic: {output}");
    ensure!(output.lines().count() <= 8, "too long to be read: {output}");
    Ok(())
}

fn unattached(namespace: &Namespace) -> Result<()> {
    let links = namespace.run("ip -d -o link show dev eth0")?;
    ensure!(
        !links.contains("prog/xdp"),
        "a program is left behind: {links}"
    );
    Ok(())
}

#[test]
fn no_such_interface() -> Result<()> {
    let topology = Topology::one_host(1)?;
    let arguments = [&["run", "--interface", "eth7"][..], &FLAGS].concat();
    fails(&topology, &arguments, &["eth7"])
}

#[test]
fn interface_down() -> Result<()> {
    let topology = Topology::one_host(1)?;
    topology
        .balancer
        .ip("link add name eth9 type veth peer name eth10")?;
    let arguments = [&["run", "--interface", "eth9"][..], &FLAGS].concat();
    fails(&topology, &arguments, &["eth9", "down"])
}

#[test]
fn no_native_xdp() -> Result<()> {
    let topology = Topology::one_host(1)?;
    let arguments = ["run", "--interface", "lo", "--xdp-mode", "native"];
    let arguments = [&arguments[..], &FLAGS].concat();
    let words = ["driver of lo", "no native XDP", "generic"];
    fails(&topology, &arguments, &words)
}

/// Nothing is made or removed at a path that is wrong.
#[test]
fn socket_where_something_else_is() -> Result<()> {
    let topology = Topology::one_host(1)?;
    let directory = topology.directory();
    let run = |interface: &str, socket: &Path, words: &[&str]| {
        let mut command = xlb::command(&topology.balancer, directory, "run")?;
        command.args(["--interface", interface]).args(FLAGS);
        command.arg("--socket").arg(socket);
        let mut process = Process::spawn(&mut command, &directory.join("socket.log"))?;
        let status = process.wait(Duration::from_secs(10))?;
        ensure!(status.code() == Some(1), "exit status {status}");
        says(&process.output(), words)?;
        unattached(&topology.balancer)
    };
    let file = directory.join("precious");
    fs::write(&file, "precious")?;
    run("eth0", &file, &["precious", "no socket", "--socket"])?;
    ensure!(fs::read_to_string(&file)? == "precious", "it was touched");

    // The interface is looked at first.
    let folder = directory.join("new");
    run("eth7", &folder.join("xlb.sock"), &["eth7"])?;
    ensure!(!folder.exists(), "{} was made", folder.display());
    Ok(())
}

#[test]
fn bad_configuration() -> Result<()> {
    let topology = Topology::one_host(1)?;
    let file = topology.directory().join("bad.toml");
    let path = file.to_string_lossy();
    fs::write(
        &file,
        "interface = \"eth0\"\n\n[[listener]]\nname = \"web\"\naddress = \"10.0.2.15:80\"\n\
         protocol = \"tcp\"\ntarget_group = \"wbe\"\n\n[[target_group]]\nname = \"web\"\n\
         targts = [\":8081\"]\ntargets = [\":8081\"]\n",
    )?;
    // The group's name is at 7:16, the unknown key begins at 11:1.
    fails(
        &topology,
        &["run", "--config", &path],
        &["bad.toml", "11:1", "targts", "targets"],
    )?;
    fails(
        &topology,
        &["check", &path],
        &["bad.toml:11:1", "targts", "targets"],
    )?;

    let text = fs::read_to_string(&file)?.replace("targts = [\":8081\"]\n", "");
    fs::write(&file, &text)?;
    fails(&topology, &["check", &path], &["bad.toml:7:", "wbe"])?;

    fs::write(
        &file,
        text.replace("wbe", "web").replace("15:80\"", "15:port\""),
    )?;
    fails(
        &topology,
        &["check", &path],
        &["bad.toml:5:", "10.0.2.15:port"],
    )?;

    fs::write(&file, "interface = \"eth0\n")?;
    fails(&topology, &["check", &path], &["bad.toml:1:"])?;
    fails(
        &topology,
        &["check", "/nowhere/xlb.toml"],
        &["/nowhere/xlb.toml"],
    )
}

#[test]
fn good_configuration_checks() -> Result<()> {
    let topology = Topology::one_host(2)?;
    let file = topology.directory().join("good.toml");
    fs::write(
        &file,
        Setup::new(Mode::Local, 2).config(&topology).to_string(),
    )?;
    let mut check = topology.balancer.command(binary()?);
    xlb_tests::command::run(check.arg("check").arg(&file)).map(drop)
}

#[test]
fn not_root() -> Result<()> {
    let topology = Topology::one_host(1)?;
    // A copy that everyone may run: the build directory may be private.
    let directory = topology.directory();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
    let copy = directory.join("xlb");
    fs::copy(binary()?, &copy).context("no copy of the binary")?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;

    let mut command = topology.balancer.command("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&copy);
    command.args(["run", "--interface", "eth0"]).args(FLAGS);
    command.arg("--run-dir").arg(directory.join("run"));
    let mut process = Process::spawn(&mut command, &directory.join("nobody.log"))?;
    let status = process.wait(Duration::from_secs(10))?;
    ensure!(
        status.code().is_some_and(|code| code != 0),
        "exit status {status}"
    );
    says(&process.output(), &["root"])
}

#[test]
fn two_agents_on_one_interface() -> Result<()> {
    let scenario = Setup::new(Mode::Local, 2).start()?;
    let second = tempfile::tempdir()?;
    let config = Setup::new(Mode::Local, 2).config(&scenario.topology);
    let error = Xlb::start(&scenario.topology.balancer, &config, second.path())
        .err()
        .context("a second agent runs on the same interface")?;
    let error = format!("{error:#}");
    ensure!(
        error.contains("eth0") && !error.contains("panicked"),
        "unclear: {error}"
    );

    scenario.xlb.wait_until_healthy(HEALTH)?;
    ensure!(
        scenario.get("/")?.starts_with("web"),
        "the first agent doesn't work any more"
    );
    Ok(())
}

#[test]
fn status_without_agent() -> Result<()> {
    let topology = Topology::one_host(1)?;
    let socket = topology.directory().join("none.sock");
    let socket = socket.to_string_lossy();
    fails(&topology, &["status", "--socket", &socket], &["none.sock"])
}
