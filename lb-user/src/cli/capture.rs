//! `xlb capture`: packets as they come and as they go on.

use std::{
    fs::{self, File},
    io::{self, IsTerminal as _, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::timeout,
};

use super::{Socket, print, runtime};
use crate::{
    api::{self, CaptureEnd, CaptureRequest, CaptureStream, CaptureSummary, MOST_SECONDS},
    capture::Filter,
};

/// Capture packets before and after xlb rewrites them
///
/// tcpdump sees neither what XDP sends nor what it drops. This writes both frames
/// of each packet, as it came and as it goes on, to a pcapng file, with a comment
/// on each: where xlb met it, its verdict and why, its listener, its target.
///
/// The kernel filters. While a capture lasts the programs are replaced by ones
/// that capture, which no connection notices; without one nothing of that is in them.
/// There is one at a time. It ends with the first of its bounds, with Ctrl-C, and
/// when the agent ends.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Filter:
  tcp, udp, icmp
  [src|dst] host ADDRESS|PREFIX
  [src|dst] port PORT
  listener NAME
  target ADDRESS:PORT             as it is configured
  verdict VERDICT                 pass, drop, transmit, redirect, handoff
  dropped                         the same as `verdict drop`
  reason REASON                   as `xlb status` counts them: denied, no_target, not_ours, ...
  all                             also what isn't xlb's, and passed as it came

  Terms stand with `and` between, and all have to hold. A host or a port is looked
  for in the packet as it came and as it goes on, so `host CLIENT` has the answers
  of source NAT too. Without a filter all is captured that xlb does something about.

Examples:
  xlb capture -w web.pcapng listener web and host 203.0.113.7
  xlb capture -w drops.pcapng --seconds 300 dropped
  xlb capture -w - tcp port 443 | wireshark -k -i -")]
pub(super) struct Capture {
    /// Which packets
    #[arg(value_name = "FILTER")]
    filter: Vec<String>,
    /// Where to write them, pcapng (mode 0600); - for standard output
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,
    /// Write over a file that exists
    #[arg(long)]
    force: bool,
    /// End with so many packets
    #[arg(long, value_name = "PACKETS", default_value = "10000")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// End after this time
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=MOST_SECONDS))]
    seconds: u64,
    /// End before the file is larger than this
    #[arg(long, value_name = "MIB", default_value = "256")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    size: u64,
    /// Capture so many bytes of each frame at most
    #[arg(long, value_name = "BYTES", default_value = "16383")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=16_383))]
    snaplen: u32,
    /// Print the summary as JSON, to standard output unless packets go there
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: Socket,
}

/// Time that an agent has to end a capture when it is asked to.
const LAST_PARTS: Duration = Duration::from_secs(5);

pub(super) fn run(command: &Capture) -> anyhow::Result<ExitCode> {
    runtime()?.block_on(capture(command))
}

async fn capture(command: &Capture) -> anyhow::Result<ExitCode> {
    let request = CaptureRequest {
        filter: command.filter.join(" "),
        packets: command.count,
        seconds: command.seconds,
        bytes: command.size << 20,
        snap: command.snaplen,
    };
    if let Err(error) = Filter::parse(&request.filter) {
        return Err(api::ClientError::Invalid(error.to_string()).into());
    }
    let target = Target::of(command)?;
    let path = command.socket.path();
    let mut interrupt = signal(SignalKind::interrupt()).context("could not listen for signals")?;
    let mut stream = api::fetch_capture(&path, &request).await?;
    // Not before: a request that is refused leaves no file.
    let mut out = target.open()?;
    let copied = copy(&mut stream, &mut out, &path, &mut interrupt).await;
    match copied {
        // Wireshark has seen enough.
        Err(error) if is_broken_pipe(&error) => return Ok(ExitCode::SUCCESS),
        copied => copied.with_context(|| target.incomplete())?,
    }
    let summary = stream.summary();
    let summary = summary.context("the agent does not say what became of the capture")?;
    report(command, summary, &target)
}

/// Writes what comes, to the end. At the first Ctrl-C the agent is asked for it.
async fn copy(
    stream: &mut CaptureStream,
    out: &mut Box<dyn Write>,
    socket: &Path,
    interrupt: &mut Signal,
) -> anyhow::Result<()> {
    loop {
        let bytes = tokio::select! {
            bytes = stream.next() => bytes?,
            _ = interrupt.recv() => break,
        };
        match bytes {
            Some(bytes) => out.write_all(&bytes)?,
            None => return Ok(out.flush()?),
        }
        out.flush()?;
    }
    match api::stop_capture(socket).await {
        // It has just ended by itself, and what is left of it comes.
        Ok(()) | Err(api::ClientError::Conflict(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let rest = async {
        while let Some(bytes) = stream.next().await? {
            out.write_all(&bytes)?;
        }
        Ok(out.flush()?)
    };
    match timeout(LAST_PARTS, rest).await {
        Ok(written) => written,
        Err(_) => bail!("the agent doesn't end the capture"),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Where the packets go.
enum Target {
    Output,
    File { path: PathBuf, force: bool },
}

impl Target {
    fn of(command: &Capture) -> anyhow::Result<Self> {
        if command.write.as_os_str() == "-" {
            if io::stdout().is_terminal() {
                let words = "packets don't belong on a terminal: name a file, or a pipe behind `|`";
                return Err(api::ClientError::Invalid(words.to_owned()).into());
            }
            return Ok(Self::Output);
        }
        let (path, force) = (command.write.clone(), command.force);
        if !force && path.is_file() {
            let words = format!("{} exists: --force writes over it", path.display());
            return Err(api::ClientError::Invalid(words).into());
        }
        Ok(Self::File { path, force })
    }

    fn open(&self) -> anyhow::Result<Box<dyn Write>> {
        let Self::File { path, force } = self else {
            return Ok(Box::new(io::stdout().lock()));
        };
        let failed = || format!("could not write to {}", path.display());
        let mut options = File::options();
        options.write(true);
        match fs::metadata(path) {
            // A device, or a pipe with a name.
            Ok(found) if !found.is_file() => {}
            Ok(_) if *force => {
                // Another file, with the right mode.
                fs::remove_file(path).with_context(failed)?;
                options.create_new(true).mode(0o600);
            }
            _ => {
                options.create_new(true).mode(0o600);
            }
        }
        Ok(Box::new(options.open(path).with_context(failed)?))
    }

    fn incomplete(&self) -> String {
        match self {
            Self::Output => "the capture is incomplete".to_owned(),
            Self::File { path, .. } => format!("the capture in {} is incomplete", path.display()),
        }
    }
}

fn report(
    command: &Capture,
    summary: &CaptureSummary,
    target: &Target,
) -> anyhow::Result<ExitCode> {
    let code = match summary.ended {
        CaptureEnd::Gone | CaptureEnd::Failed => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    };
    if command.json {
        let json = serde_json::to_string_pretty(summary)? + "\n";
        match target {
            Target::File { .. } => drop(print(&json)?),
            Target::Output => eprint!("{json}"),
        }
        return Ok(code);
    }
    let CaptureSummary {
        packets,
        lost,
        bytes,
        seconds,
        ended,
    } = summary;
    let why = match ended {
        CaptureEnd::Packets => "that is as many as were asked for (--count)",
        CaptureEnd::Seconds => "its time is over (--seconds)",
        CaptureEnd::Bytes => "its size is reached (--size)",
        CaptureEnd::Stopped => "it was ended",
        CaptureEnd::Gone | CaptureEnd::Failed => "it broke off",
    };
    eprintln!("{packets} packets in {seconds:.1} s, {bytes} bytes: {why}");
    if *lost > 0 {
        eprintln!("{lost} more packets found no room: make the filter narrower, or --snaplen less");
    }
    Ok(code)
}
