//! wrk: HTTP load, as fast as it goes.

use anyhow::{Context, Result};

use crate::{command::run, netns::Namespace};

/// What wrk reports.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    pub requests: u64,
    pub requests_per_second: f64,
    /// Connect, read, write errors, timeouts and answers other than 2xx and 3xx.
    pub errors: u64,
}

/// Whether each request gets a connection of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connections {
    Kept,
    New,
}

/// Runs wrk with one thread.
///
/// # Errors
/// If it fails, or its report isn't understood.
pub fn wrk(
    namespace: &Namespace,
    url: &str,
    connections: Connections,
    parallel: u32,
    seconds: u32,
) -> Result<Report> {
    let mut command = namespace.command("wrk");
    command.args(["--threads", "1", "--timeout", "2s"]);
    command.args(["--connections", &parallel.to_string()]);
    command.args(["--duration", &format!("{seconds}s")]);
    if connections == Connections::New {
        command.args(["--header", "Connection: close"]);
    }
    let report = run(command.arg(url))?;
    parse(&report).with_context(|| format!("wrk's report isn't understood: {report}"))
}

fn parse(report: &str) -> Option<Report> {
    let mut parsed = Report::default();
    let mut seen = false;
    for line in report.lines().map(str::trim) {
        if let Some((count, _)) = line.split_once(" requests in ") {
            parsed.requests = count.parse().ok()?;
            seen = true;
        } else if let Some(rate) = line.strip_prefix("Requests/sec:") {
            parsed.requests_per_second = rate.trim().parse().ok()?;
        } else if let Some(kinds) = line.strip_prefix("Socket errors:") {
            parsed.errors += kinds
                .split(',')
                .map(|kind| kind.split_whitespace().last()?.parse::<u64>().ok())
                .sum::<Option<u64>>()?;
        } else if let Some(count) = line.strip_prefix("Non-2xx or 3xx responses:") {
            parsed.errors += count.trim().parse::<u64>().ok()?;
        }
    }
    seen.then_some(parsed)
}

#[cfg(test)]
mod tests {
    use super::{Report, parse};

    #[test]
    fn reads_a_report() {
        let report = "Running 3s test @ http://10.0.2.15/\n  1 threads and 10 connections\n  \
                      30 requests in 3.00s, 1.2MB read\n  \
                      Socket errors: connect 1, read 2, write 0, timeout 4\n  \
                      Non-2xx or 3xx responses: 8\nRequests/sec:     10.5\nTransfer/sec: 1MB\n";
        let expected = Report {
            requests: 30,
            requests_per_second: 10.5,
            errors: 15,
        };
        assert_eq!(parse(report), Some(expected));
        assert_eq!(parse("unable to connect"), None);
    }
}
