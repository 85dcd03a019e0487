//! `xlb flows`: the flows of a running agent, listed or counted.

use std::{
    io::{self, BufWriter, Write as _},
    process::ExitCode,
};

use clap::ValueEnum;

use super::{Socket, runtime, written};
use crate::{
    api::{self, FlowCount, FlowRecord, FlowsRequest},
    dataplane::FlowState,
};

/// List or count flows
///
/// A flow is shown once: its client, the listener's address that it uses, its
/// target, its state and for how many seconds the client has been silent (when a
/// flow began isn't kept). Several filters have to hold together. The list is
/// read while traffic goes on, so flows that begin or end meanwhile may be
/// missing.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  xlb flows --count
  xlb flows --target 10.0.2.21:8080 --state established --count
  xlb flows --client 203.0.113.0/24 --limit 20
  xlb flows --json | jq -r .client")]
pub(super) struct Flows {
    /// Only those of this listener
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Only those of this target, as it is configured
    #[arg(long)]
    target: Option<String>,
    /// Only those of this target group
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// Only those of clients with this address or in this prefix
    #[arg(long, value_name = "PREFIX")]
    client: Option<String>,
    /// Only those in this state
    #[arg(long)]
    state: Option<State>,
    /// At most so many
    #[arg(long, value_name = "COUNT")]
    limit: Option<u64>,
    /// Count them, in all and by state, instead of listing them
    #[arg(long)]
    count: bool,
    /// Print a JSON document a flow and line, or one with the counts
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: Socket,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum State {
    /// The client has yet to answer the target
    HalfOpen,
    Established,
    /// A FIN or RST was seen
    Closing,
    /// It was idle for too long or has lost its target, and waits to be removed
    Ended,
}

impl From<State> for FlowState {
    fn from(state: State) -> Self {
        match state {
            State::HalfOpen => Self::HalfOpen,
            State::Established => Self::Established,
            State::Closing => Self::Closing,
            State::Ended => Self::Ended,
        }
    }
}

pub(super) fn run(command: &Flows) -> anyhow::Result<ExitCode> {
    runtime()?.block_on(show(command))
}

async fn show(command: &Flows) -> anyhow::Result<ExitCode> {
    let request = FlowsRequest {
        listener: command.listener.clone(),
        target: command.target.clone(),
        target_group: command.group.clone(),
        client: command.client.clone(),
        state: command.state.map(Into::into),
        limit: command.limit,
        count: command.count,
    };
    let mut lines = api::fetch_flows(&command.socket.path(), &request).await?;
    let mut out = BufWriter::new(io::stdout().lock());
    if !command.json && !command.count {
        // Buffered: only the first chunk's end can fail.
        out.write_all(heading().as_bytes())?;
    }
    while let Some(lines) = lines.next().await? {
        let result = match (command.json, command.count) {
            (true, _) => out.write_all(lines.as_bytes()),
            (false, true) => out.write_all(counts(&serde_json::from_str(&lines)?).as_bytes()),
            (false, false) => rows(&lines, &mut out)?,
        };
        if result.is_err() {
            return written(result);
        }
    }
    written(out.flush())
}

fn heading() -> String {
    row([
        "PROTOCOL", "CLIENT", "ADDRESS", "LISTENER", "TARGET", "GROUP", "STATE", "IDLE",
    ])
}

/// Columns stay aligned while their contents are of the usual length.
fn row(columns: [&str; 8]) -> String {
    let [
        protocol,
        client,
        address,
        listener,
        target,
        group,
        state,
        idle,
    ] = columns;
    format!(
        "{protocol:<8}  {client:<21}  {address:<21}  {listener:<12}  {target:<21}  {group:<12}  \
         {state:<11}  {idle:>5}\n"
    )
}

fn rows(lines: &str, out: &mut impl io::Write) -> serde_json::Result<io::Result<()>> {
    const GONE: &str = "-";
    for line in lines.lines() {
        let flow: FlowRecord = serde_json::from_str(line)?;
        let text = row([
            &flow.protocol,
            &flow.client.to_string(),
            &flow.destination.to_string(),
            flow.listener.as_deref().unwrap_or(GONE),
            &flow
                .target
                .unwrap_or_else(|| flow.target_address.to_string()),
            flow.target_group.as_deref().unwrap_or(GONE),
            flow.state.as_str(),
            &format!("{}s", flow.idle),
        ]);
        if let Err(error) = out.write_all(text.as_bytes()) {
            return Ok(Err(error));
        }
    }
    Ok(Ok(()))
}

fn counts(counted: &FlowCount) -> String {
    let mut text = format!("{} flows\n", counted.flows);
    for state in FlowState::ALL {
        let count = counted.by_state.get(&state).unwrap_or(&0);
        text += &format!("{:>10} {}\n", count, state.as_str());
    }
    text
}
