//! How new connections spread over targets.

use anyhow::{Result, ensure};
use xlb_tests::topology::Family;

use super::scenario::{Mode, Setup};

const CONNECTIONS: u32 = 1000;

/// The chance that an even spread is this far off is below one in a million.
const SIGMAS: f64 = 5.0;

/// 1,000 connections, counted by the clients and by the balancer.
fn check(family: Family, mode: Mode, weights: &[u16]) -> Result<()> {
    let setup = Setup {
        weights: weights.to_vec(),
        ..Setup::in_family(family, mode, weights.len())
    };
    let scenario = setup.start()?;
    let spread = scenario.spread(CONNECTIONS)?;
    let status = scenario.xlb.status()?;
    let total: f64 = weights.iter().copied().map(f64::from).sum();
    for (server, &weight) in scenario.servers.iter().zip(weights) {
        let share = f64::from(weight) / total;
        let n = f64::from(CONNECTIONS);
        let (expected, tolerance) = (n * share, SIGMAS * (n * share * (1.0 - share)).sqrt());
        let got = spread.of(&server.name);
        ensure!(
            (f64::from(got) - expected).abs() <= tolerance,
            "{} got {got} of {n} connections, not {expected} ± {tolerance:.0}: {spread:?}",
            server.name
        );
        let counted = status.target(server.place.address)?.traffic.new_flows;
        ensure!(
            counted == u64::from(got),
            "{}: {got} connections, counted {counted}",
            server.name
        );
    }
    Ok(())
}

#[test]
fn equal_weights_local() -> Result<()> {
    check(Family::V4, Mode::Local, &[1, 1, 1, 1])
}

#[test]
fn equal_weights_source_nat() -> Result<()> {
    check(Family::V4, Mode::OneArm, &[1, 1, 1, 1])
}

#[test]
fn weights_local() -> Result<()> {
    check(Family::V4, Mode::Local, &[4, 2, 1, 1])
}

#[test]
fn weights_preserve_client_ip() -> Result<()> {
    check(Family::V4, Mode::Preserve, &[4, 2, 1, 1])
}

#[test]
fn equal_weights_ipv6() -> Result<()> {
    check(Family::V6, Mode::OneArm, &[1, 1, 1, 1])
}
