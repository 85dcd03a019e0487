//! New connections: how many a second, how long each takes, and what both cost
//! the balancer.

use std::time::Duration;

use anyhow::{Result, ensure};
use xlb_tests::{
    client::Load,
    wait,
    wrk::{Connections, Report, wrk},
};

use super::{
    cpu,
    rig::{Case, Rig, Service, WEB},
};

const SERVICE: Service = Service {
    protocol: "tcp",
    port: WEB,
};
/// Connections that wrk has at a time.
const PARALLEL: u32 = 50;
/// For how long connections are counted, and CPU time is, in seconds.
const COUNTED: u32 = 2;
const TIMED: u32 = 1;
/// Clients whose connections' latency is measured, and for how long. As few as
/// leave the CPUs some rest: else it would be the queue that is measured.
const CLIENTS: usize = 2;
const WATCHED: Duration = Duration::from_millis(1_200);

/// Thousands of new connections a second, each with one request.
pub fn rate(case: Case) -> Result<f64> {
    let mut rig = Rig::build(case, SERVICE, false)?;
    let report = load(&rig, Connections::New, COUNTED)?;
    rig.check()?;
    Ok(report.requests_per_second / 1e3)
}

/// Microseconds from a client's SYN to the end of the answer: the median, the
/// 99th and the 99.9th percentile.
pub fn latency(case: Case) -> Result<Vec<f64>> {
    let mut rig = Rig::build(case, SERVICE, false)?;
    let client = &rig.topology.client;
    let none = Duration::ZERO;
    let watch = |_: &Load| wait::pause(WATCHED);
    let ((), attempts) = Load::during(client, rig.address, CLIENTS, none, watch)?;
    let mut times = Vec::new();
    for attempt in attempts {
        attempt.answer.map_err(anyhow::Error::msg)?;
        times.push((attempt.ended - attempt.began).as_secs_f64() * 1e6);
    }
    rig.check()?;
    ensure!(times.len() > 1_000, "only {} connections", times.len());
    times.sort_by(f64::total_cmp);
    Ok([0.5, 0.99, 0.999]
        .map(|share| percentile(&times, share))
        .into())
}

/// Of sorted values: the least that so large a share isn't above.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// Microseconds that the balancer's CPU works for a request, of a new
/// connection or of one that is kept: whatever receives by the balancer's
/// devices (what they send is received by its peers' threads), and the
/// balancer's processes.
pub fn cost(case: Case, connections: Connections) -> Result<f64> {
    cpu::pin(cpu::OTHERS)?;
    let mut rig = Rig::build(case, SERVICE, true)?;
    let topology = &rig.topology;
    for host in [&topology.client, &topology.targets[0].namespace] {
        cpu::receive_by_thread(host, "eth0", cpu::OTHERS)?;
    }
    let mut measured = topology.balancer.processes()?;
    for device in topology.balancer.devices()? {
        let thread = cpu::receive_by_thread(&topology.balancer, &device, cpu::MEASURED)?;
        measured.push(thread);
    }
    let before = cpu::time(&measured)?;
    let report = load(&rig, connections, TIMED)?;
    let time = cpu::time(&measured)? - before;
    rig.check()?;
    Ok(time as f64 / 1e3 / report.requests as f64)
}

fn load(rig: &Rig, connections: Connections, seconds: u32) -> Result<Report> {
    let url = format!("http://{}/", rig.address);
    let report = wrk(&rig.topology.client, &url, connections, PARALLEL, seconds)?;
    ensure!(
        report.errors == 0 && report.requests > 0,
        "{} of {} requests failed",
        report.errors,
        report.requests
    );
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[test]
    fn percentiles() {
        let values: Vec<f64> = (1..=1000).map(f64::from).collect();
        assert_eq!(percentile(&values, 0.5), 500.0);
        assert_eq!(percentile(&values, 0.99), 990.0);
        assert_eq!(percentile(&values, 0.999), 999.0);
        assert_eq!(percentile(&[7.0], 0.999), 7.0);
        assert_eq!(percentile(&[7.0], 0.0), 7.0);
    }
}
