//! What the agent may do once it runs, and that it needs no more.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};
use xlb_tests::{client, directory::bpffs};

use super::scenario::{HEALTH, Mode, Setup};

/// CAP_NET_ADMIN, CAP_NET_RAW, CAP_PERFMON and CAP_BPF (linux/capability.h).
const NEEDED: u64 = 1 << 12 | 1 << 13 | 1 << 38 | 1 << 39;
const SETS: [&str; 5] = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];

/// A set of capabilities of a thread, as /proc has it.
fn set(thread: &str, name: &str) -> Result<u64> {
    let line = thread.lines().find_map(|line| line.strip_prefix(name));
    let hex = line.and_then(|line| line.strip_prefix(':'));
    let hex = hex.with_context(|| format!("no {name} in {thread}"))?;
    Ok(u64::from_str_radix(hex.trim(), 16)?)
}

/// The sets of each thread, in the order of [`SETS`].
fn threads(process: u32) -> Result<Vec<[u64; 5]>> {
    let folder = fs::read_dir(format!("/proc/{process}/task"))?;
    folder
        .map(|entry| {
            let status = fs::read_to_string(entry?.path().join("status"))?;
            let mut sets = [0; 5];
            for (set_, name) in sets.iter_mut().zip(SETS) {
                *set_ = set(&status, name)?;
            }
            Ok(sets)
        })
        .collect()
}

/// Started by root, which has everything.
#[test]
fn root_keeps_only_what_it_needs() -> Result<()> {
    let scenario = Setup::new(Mode::OtherInterface, 2).start()?;
    let own = threads(std::process::id())?[0];
    ensure!(
        own[1] & !NEEDED != 0,
        "this test has nothing to lose: {own:x?}"
    );
    let threads = threads(scenario.xlb.id())?;
    ensure!(threads.len() > 1, "one thread only");
    for [inheritable, permitted, effective, bounding, ambient] in threads {
        ensure!(
            permitted == NEEDED && effective == NEEDED,
            "{permitted:x} {effective:x}"
        );
        ensure!(
            bounding & !NEEDED == 0,
            "{bounding:x} is left in the bounding set"
        );
        ensure!(
            (inheritable | ambient) & !NEEDED == 0,
            "{inheritable:x} {ambient:x}"
        );
    }
    // And it works with them.
    ensure!(scenario.spread(50)?.by_name.len() == 2, "one target only");
    scenario.xlb.stop()
}

/// Started by another user, as the systemd unit does.
#[test]
fn a_user_with_these_capabilities_is_enough() -> Result<()> {
    let setup = Setup::new(Mode::OtherInterface, 2);
    let topology = setup.topology()?;
    let config = setup.config(&topology);
    let directory = topology.directory().to_owned();
    // Its state and its pins go there, and its configuration is read there.
    xlb_tests::command::run(
        Command::new("chown")
            .arg("65534:65534")
            .arg(&directory)
            .arg(bpffs(&directory)),
    )?;
    let capabilities = "+bpf,+net_admin,+perfmon,+net_raw";
    let setpriv = format!(
        "setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs \
         --inh-caps {capabilities} --ambient-caps {capabilities}"
    );
    let setpriv: Vec<&str> = setpriv.split_whitespace().collect();
    let scenario = setup.start_by(&setpriv, topology, &config)?;
    let status = fs::read_to_string(format!("/proc/{}/status", scenario.xlb.id()))?;
    ensure!(status.contains("Uid:\t65534\t65534"), "{status}");
    for sets in threads(scenario.xlb.id())? {
        ensure!(sets[2] == NEEDED, "{sets:x?}");
    }
    ensure!(scenario.spread(50)?.by_name.len() == 2, "one target only");
    // It may capture, too.
    let captured =
        scenario
            .xlb
            .answer(&["capture", "-w", "/dev/null", "--seconds", "1", "--json"])?;
    ensure!(captured.contains("\"seconds\""), "{captured}");
    // A change of health goes all the way to the maps.
    let mut scenario = scenario;
    scenario.servers.remove(0);
    let lost = scenario.topology.targets[0].address;
    scenario.xlb.wait_for_health(lost, "unhealthy", HEALTH)?;
    let spread = scenario.spread(20)?;
    ensure!(spread.by_name.len() == 1, "{spread:?}");
    client::get(
        &scenario.topology.client,
        &format!("http://{}/", scenario.listener),
    )?;
    scenario.xlb.stop()
}
