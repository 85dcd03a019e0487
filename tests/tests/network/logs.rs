//! What is logged, as JSON and to the journal: state changes with their fields,
//! and nothing while nothing changes.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xlb_tests::{
    command::output,
    process::Process,
    server::{Kind, WebServer},
    topology::{FREE, Topology},
    wait,
    xlb::{self, Xlb, binary},
};

use super::scenario::{HEALTH, Mode, Setup};

/// An agent with one target, at an address that it adds, that logs as JSON.
fn start(topology: &Topology) -> Result<Xlb> {
    let mut setup = Setup::new(Mode::Local, 1);
    setup.listener.set_ip(FREE.into());
    let file = topology.directory().join("xlb.toml");
    fs::write(&file, setup.config(topology).to_string())?;
    let arguments = ["--log", "json", "--config", &file.to_string_lossy()];
    Xlb::run(&topology.balancer, &arguments, topology.directory())
}

fn server(topology: &Topology) -> Result<WebServer> {
    let (place, directory) = (&topology.targets[0], topology.directory());
    WebServer::start(Kind::Nginx, "web1", place, None, directory)
}

/// Every line, which is one event.
fn events(log: &str) -> Result<Vec<Value>> {
    let parse = |line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}"));
    log.lines().map(parse).collect()
}

/// Waits for an event with this message and these fields.
fn wait_for(xlb: &Xlb, message: &str, fields: &[(&str, &str)]) -> Result<()> {
    let is_it = |event: &Value| {
        event["message"] == message && fields.iter().all(|(key, value)| event[key] == *value)
    };
    wait::until(message, HEALTH, || {
        Ok(events(&xlb.log())?.iter().any(is_it).then_some(()))
    })
    .with_context(|| format!("with {fields:?} in {}", xlb.log()))
}

#[test]
fn state_changes_are_events_with_fields() -> Result<()> {
    let topology = Topology::one_host(1)?;
    let mut server = server(&topology)?;
    let xlb = start(&topology)?;
    let address = server.place.address.to_string();
    let target = [("target_group", "web"), ("target", &address)];
    let changed = |more: &[(&'static str, &'static str)]| {
        wait_for(&xlb, "target health changed", &[&target[..], more].concat())
    };
    wait_for(
        &xlb,
        "attached",
        &[("interface", "eth0"), ("xdp", "native"), ("level", "INFO")],
    )?;
    wait_for(&xlb, "address added", &[("address", &FREE.to_string())])?;
    changed(&[("from", "initial"), ("to", "healthy")])?;

    // Some checks of a healthy target, and nothing to say about them.
    let checks = || Ok::<_, anyhow::Error>(xlb.status()?.target(server.place.address)?.checks);
    let (before, lines) = (checks()?.successes, events(&xlb.log())?.len());
    wait::until("three more checks", HEALTH, || {
        Ok((checks()?.successes >= before + 3).then_some(()))
    })?;
    ensure!(events(&xlb.log())?.len() == lines, "{}", xlb.log());

    server.kill();
    let reason = [
        ("to", "unhealthy"),
        ("reason", "connection_refused"),
        ("level", "WARN"),
    ];
    changed(&reason)?;
    let fail_open = "too few healthy targets: new flows go to all of them";
    wait_for(&xlb, fail_open, &[("target_group", "web")])?;
    server.start_again()?;
    changed(&[("from", "unhealthy"), ("to", "healthy")])?;
    let enough = "enough healthy targets: new flows go to them only";
    wait_for(&xlb, enough, &[("target_group", "web")])?;

    let config = fs::read_to_string(xlb.config())?;
    ensure!(!xlb.try_reload("nonsense")?.status.success());
    wait_for(
        &xlb,
        "the configuration was not reloaded: nothing has changed",
        &[],
    )?;
    // The target goes, and another comes.
    let other = config.replace("10.0.2.15:8081", "10.0.2.15:8082");
    ensure!(xlb.try_reload(&other)?.status.success());
    wait_for(&xlb, "configuration reloaded", &[])?;
    changed(&[("to", "draining"), ("level", "INFO")])?;
    xlb.stop()
}

/// What keeps it from starting is an event too.
#[test]
fn failures_at_the_start_are_events() -> Result<()> {
    let topology = Topology::one_host(1)?;
    let run = |arguments: &str| {
        let mut command = xlb::command(&topology.balancer, topology.directory(), "run")?;
        command.args(["--log", "json"]);
        output(command.args(arguments.split(' ')))
    };
    for (arguments, code, said) in [
        (
            "--interface eth0 --listen :80 --target :0",
            2,
            "there is no port 0",
        ),
        ("--interface eth7 --listen :80 --target :8081", 1, "eth7"),
    ] {
        let output = run(arguments)?;
        let log = String::from_utf8(output.stderr)?;
        let events = events(&log)?;
        let told = events
            .iter()
            .any(|event| event["level"] == "ERROR" && event.to_string().contains(said));
        ensure!(
            output.status.code() == Some(code) && told,
            "{}: {log}",
            output.status
        );
    }
    Ok(())
}

/// The entries of a journal's socket, as they were sent one behind the other
/// (systemd's JOURNAL_NATIVE_PROTOCOL): `KEY=value`, or for any bytes the key,
/// a line feed, the length in 64 bits and the value.
fn fields(mut bytes: &[u8]) -> Result<Vec<(String, String)>> {
    let mut fields = Vec::new();
    while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
        let (line, rest) = (String::from_utf8(bytes[..end].to_vec())?, &bytes[end + 1..]);
        if let Some((key, value)) = line.split_once('=') {
            fields.push((key.to_owned(), value.to_owned()));
            bytes = rest;
            continue;
        }
        let (length, rest) = rest.split_first_chunk().context("cut off")?;
        let length = usize::try_from(u64::from_le_bytes(*length))?;
        let value = rest.get(..length).context("cut off")?;
        fields.push((line, String::from_utf8_lossy(value).into_owned()));
        bytes = rest.get(length + 1..).context("cut off")?;
    }
    Ok(fields)
}

/// As a systemd service: the variable names standard error, and what takes the
/// entries is at the journal's socket.
#[test]
fn service_logs_to_the_journal() -> Result<()> {
    const SERVICE: &str = "set -e
        mount -t tmpfs none /run
        mkdir -p /run/systemd/journal
        socat -u UNIX-RECV:/run/systemd/journal/socket CREATE:$1/journal &
        until [ -S /run/systemd/journal/socket ]; do sleep 0.05; done
        export JOURNAL_STREAM=$(stat -L -c %d:%i /dev/stderr)
        exec $2 run --interface eth0 --listen :80 --target :8081 --health-interval 1s \\
            --socket $1/xlb.sock";
    let topology = Topology::one_host(1)?;
    let _server = server(&topology)?;
    let directory = topology.directory();
    let mut command = topology.balancer.command("unshare");
    command.args(["--mount", "sh", "-c", SERVICE, "sh"]);
    command.arg(directory).arg(binary()?);
    let mut service = Process::spawn(&mut command, &directory.join("service.log"))?;
    let entries = || fields(&fs::read(directory.join("journal")).unwrap_or_default());
    let message = r#"target health changed target_group="default" target=":8081" from="initial" to="healthy""#;
    let wanted = [
        ("SYSLOG_IDENTIFIER", "xlb"),
        ("MESSAGE", message),
        ("XLB_TARGET_GROUP", "default"),
        ("XLB_TARGET", ":8081"),
        ("XLB_TO", "healthy"),
    ];
    let found = wait::until("the journal's entries", Duration::from_secs(20), || {
        let entries = entries().unwrap_or_default();
        let has = |(key, value): &(&str, &str)| {
            entries
                .iter()
                .any(|field| field.0 == *key && field.1 == *value)
        };
        Ok(wanted.iter().all(has).then_some(entries))
    });
    let entries = found.with_context(|| format!("{:?}; {}", entries(), service.output()))?;
    let priorities: BTreeMap<_, _> = entries
        .iter()
        .filter(|it| it.0 == "PRIORITY")
        .cloned()
        .collect();
    ensure!(!priorities.is_empty(), "{entries:?}");
    ensure!(
        !service.output().contains("ready"),
        "twice: {}",
        service.output()
    );
    service.terminate(Duration::from_secs(10))
}
