//! Where and how `xlb run` logs: state changes, never a line per packet or
//! check.

mod journal;

use std::{env, io, os::unix::fs::MetadataExt as _};

use anyhow::Context as _;
use clap::ValueEnum;
use journal::Journal;
use tracing::warn;
use tracing_subscriber::{
    EnvFilter, Layer, filter::LevelFilter, fmt, layer::SubscriberExt as _, registry::LookupSpan,
    util::SubscriberInitExt as _,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// journald for a systemd service, else human
    Auto,
    /// Lines for people, on standard error
    Human,
    /// A JSON object a line, on standard error
    Json,
    /// To the journal, every field being a field there
    Journald,
}

/// Who reads the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    Person,
    /// Events with fields only.
    Program,
}

/// Starts logging, and says for whom. `RUST_LOG` changes how much.
///
/// # Errors
/// If the journal was asked for and can't be reached.
pub(super) fn init(format: Format) -> anyhow::Result<Reader> {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .from_env_lossy();
    let log = tracing_subscriber::registry().with(filter);
    let journal = match format {
        Format::Journald => Some(Ok(Journal::open().context("could not reach the journal")?)),
        Format::Auto => is_journal(env::var("JOURNAL_STREAM").ok().as_deref()).then(Journal::open),
        Format::Human | Format::Json => None,
    };
    Ok(match journal {
        Some(Ok(journal)) => {
            log.with(journal).init();
            Reader::Program
        }
        None if format == Format::Json => {
            log.with(json()).init();
            Reader::Program
        }
        None => {
            log.with(human()).init();
            Reader::Person
        }
        Some(Err(error)) => {
            log.with(human()).init();
            warn!(%error, "could not reach the journal: logging to standard error");
            Reader::Person
        }
    })
}

fn human<S>() -> impl Layer<S>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    use io::IsTerminal as _;
    fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
}

/// Fields beside the message; `target` is one of them, so not the module too.
fn json<S>() -> impl Layer<S>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_writer(io::stderr)
        .with_target(false)
}

/// Whether standard error is the stream that systemd has connected to the
/// journal: a shell that was started in a service passes the variable on, but
/// may have another standard error.
fn is_journal(stream: Option<&str>) -> bool {
    let Some((device, inode)) = stream.and_then(|stream| stream.split_once(':')) else {
        return false;
    };
    let stderr = std::fs::metadata("/dev/stderr");
    stderr
        .is_ok_and(|stderr| device.parse() == Ok(stderr.dev()) && inode.parse() == Ok(stderr.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journals_stream_is_known_by_device_and_inode() {
        let stderr = std::fs::metadata("/dev/stderr").unwrap();
        let (device, inode) = (stderr.dev(), stderr.ino());
        assert!(is_journal(Some(&format!("{device}:{inode}"))));
        assert!(!is_journal(Some(&format!("{device}:{}", inode + 1))));
        for nonsense in [None, Some(""), Some(":"), Some("1"), Some("a:b")] {
            assert!(!is_journal(nonsense), "{nonsense:?}");
        }
    }
}
