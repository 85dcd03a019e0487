//! iperf3: bulk throughput.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{command::output, netns::Namespace, topology::Place};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Client to server.
    Up,
    /// Server to client.
    Down,
}

/// What the receiving side counted.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    pub bytes: u64,
    pub bits_per_second: f64,
}

/// Runs an iperf3 client against the server at `address`.
///
/// # Errors
/// If it fails, or says so.
pub fn iperf(
    namespace: &Namespace,
    address: std::net::SocketAddr,
    direction: Direction,
    seconds: u32,
) -> Result<Report> {
    let mut command = namespace.command("iperf3");
    command.args(["--json", "--connect-timeout", "3000"]);
    command.args([
        "--client",
        &address.ip().to_string(),
        "--port",
        &address.port().to_string(),
    ]);
    command.args(["--time", &seconds.to_string()]);
    if direction == Direction::Down {
        command.arg("--reverse");
    }
    let json = output(&mut command)?.stdout;
    let json: Value = serde_json::from_slice(&json).context("iperf3 wrote no JSON")?;
    ensure!(json["error"].is_null(), "iperf3: {}", json["error"]);
    let received = &json["end"]["sum_received"];
    Ok(Report {
        bytes: received["bytes"]
            .as_u64()
            .context("iperf3 counted no bytes")?,
        bits_per_second: received["bits_per_second"].as_f64().unwrap_or_default(),
    })
}

/// iperf3's own port.
pub const PORT: u16 = 5201;

/// The place beside a web server's where the same host's iperf3 listens.
#[must_use]
pub fn beside(place: &Place) -> Place {
    let mut beside = place.clone();
    beside.address.set_port(PORT);
    beside
}
