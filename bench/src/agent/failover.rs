//! From a target's failing answer at the threshold to the last new flow that is
//! sent to it: connection requests, each from another port, go through the
//! agent's own loaded program all the time.

use std::{
    borrow::Cow,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::programs::{TestRun as _, TestRunOptions, Xdp, loaded_programs};
use aya_obj::programs::XdpAttachType;
use xlb_tests::{interrupt, xlb::Xlb};

use super::{
    Rig, checks,
    config::{FIRST_PORT, Plan, add_pair},
    load, process,
    server::Server,
};
use crate::{
    dataplane::{
        frame::{self, Transport, V4},
        world::{PORT, XDP_DROP, XDP_PASS},
    },
    report::Row,
};

/// Milliseconds.
const FAILOVER: f64 = 5.0;
const THRESHOLD: usize = 2;
/// Checks are frequent, only so that a round is soon over.
const PAIR: &str = "interval = \"200ms\"\ntimeout = \"150ms\"\n\
                    healthy_threshold = 2\nunhealthy_threshold = 2";
const OTHERS: &str = "interval = \"1s\"\ntimeout = \"900ms\"";
/// Without a flow to the target it is certain that there will be none.
const QUIET: Duration = Duration::from_millis(150);
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two connection requests; the agent and the server run too.
const GAP: Duration = Duration::from_micros(20);

pub fn measure(rig: &Rig) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (others, groups) in [
        ("2 targets", 0),
        ("10,002 targets, all checked every second", 10),
    ] {
        let plan = Plan {
            groups,
            health_check: OTHERS,
            ..load::PLAN
        };
        let times = times(rig, &plan)?;
        let case = format!("failing answer to the last new flow, {others}");
        rows.push(Row::limited(case, "ms", &times, FAILOVER));
    }
    Ok(rows)
}

fn times(rig: &Rig, plan: &Plan) -> Result<Vec<f64>> {
    let pair = [FIRST_PORT + plan.ports(), FIRST_PORT + plan.ports() + 1];
    let mut text = plan.text();
    add_pair(&mut text, pair, PAIR);
    let mut server = Server::start(FIRST_PORT, plan.ports() + 2)?;
    let xlb = load::start(rig, &text)?;
    checks::healthy(&xlb, &server, plan.targets() + 2)?;
    let mut path = Path::adopt(rig, &xlb)?;
    let mut times = Vec::new();
    for _ in 0..rig.rounds {
        times.push(path.failover(&server, pair[1])?);
        server.check()?;
    }
    xlb.unload()?;
    Ok(times)
}

/// The agent's data path, as a packet finds it.
struct Path {
    ingress: Xdp,
    interface: u32,
    /// Of the next flow.
    number: u32,
}

impl Path {
    fn adopt(rig: &Rig, xlb: &Xlb) -> Result<Self> {
        let ids = process::programs(xlb.id())?;
        for info in loaded_programs() {
            let info = info?;
            if ids.contains(&info.id()) && info.name_as_str() == Some("xlb_ingress") {
                let (name, hook) = (Cow::Borrowed("xlb_ingress"), XdpAttachType::Interface);
                let ingress = Xdp::from_program_info(info, name, hook)?;
                return Ok(Self {
                    ingress,
                    interface: rig.interface,
                    number: 0,
                });
            }
        }
        bail!("the agent has no program xlb_ingress")
    }

    /// Milliseconds.
    fn failover(&mut self, server: &Server, target: u16) -> Result<f64> {
        self.wait_for(target).context("before it fails")?;
        server.fail(Some(target));
        let deadline = Instant::now() + PATIENCE;
        let (failed, last) = loop {
            ensure!(Instant::now() < deadline, "the target never failed");
            let sent = self.new_flow()? == Some(target);
            let now = process::now()?;
            let Some(failed) = server.failed_at(THRESHOLD - 1) else {
                continue;
            };
            break (failed, if sent { now } else { failed });
        };
        let last = self.last_flow(target, last, deadline)?;
        server.fail(None);
        Ok(last.saturating_sub(failed).as_secs_f64() * 1e3)
    }

    /// When the last flow goes to a target from now on; `last` if none does.
    fn last_flow(
        &mut self,
        target: u16,
        mut last: Duration,
        deadline: Instant,
    ) -> Result<Duration> {
        loop {
            ensure!(
                Instant::now() < deadline,
                "new flows still go to the target"
            );
            let sent = self.new_flow()? == Some(target);
            let now = process::now()?;
            if sent {
                last = now;
            } else if now.saturating_sub(last) > QUIET {
                return Ok(last);
            }
        }
    }

    /// Until a new flow goes to the target.
    fn wait_for(&mut self, target: u16) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.new_flow()? != Some(target) {
            ensure!(Instant::now() < deadline, "no new flow goes to the target");
        }
        Ok(())
    }

    /// Begins a flow; the port of the target that it is sent to. It is dropped,
    /// and its client tries again, if all slots that are tried for it still name
    /// the target that takes none any more.
    fn new_flow(&mut self) -> Result<Option<u16>> {
        interrupt::check()?;
        std::thread::sleep(GAP);
        self.number += 1;
        let [_, a, b, c] = (self.number >> 14).to_be_bytes();
        let client = (
            [10, 32 | a, b, c].into(),
            1_024 | (self.number & 0x3FFF) as u16,
        );
        let frame = frame::build(Transport::Syn, client, (V4.host, PORT))?;
        let mut output = vec![0; frame.len() + 256];
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, queue, egress.
        let context = [0, frame.len() as u32, 0, self.interface, 0, 0];
        let result = self.ingress.test_run(TestRunOptions {
            data_in: Some(&frame),
            data_out: Some(&mut output),
            ctx_in: Some(bytemuck::cast_slice(&context)),
            repeat: 1,
            ..TestRunOptions::default()
        })?;
        output.truncate(result.data_size_out as usize);
        if result.return_value == XDP_DROP {
            return Ok(None);
        }
        ensure!(
            result.return_value == XDP_PASS,
            "a connection request got the action {}",
            result.return_value
        );
        let packet = etherparse::SlicedPacket::from_ethernet(&output)?;
        match packet.transport {
            Some(etherparse::TransportSlice::Tcp(tcp)) => Ok(Some(tcp.destination_port())),
            _ => bail!("no TCP came out"),
        }
    }
}
