//! The journal: an entry an event, which names each of the event's fields.
//!
//! `tracing-journald` sends the same fields, but a message without them:
//! `journalctl -u xlb` would say that a target's health has changed, and not
//! which one's.

use std::{
    fmt::Debug,
    io,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer,
    fmt::{
        FormatFields as _,
        format::{DefaultFields, Writer},
    },
    layer::Context,
};

const SOCKET: &str = "/run/systemd/journal/socket";
/// Bytes of a value in an entry that is too large for a datagram.
const EXCERPT: usize = 8 * 1024;

/// Sends events to the journal (systemd's JOURNAL_NATIVE_PROTOCOL).
pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Journal {
    /// # Errors
    /// If no journal is there.
    pub(super) fn open() -> io::Result<Self> {
        Self::at(Path::new(SOCKET))
    }

    fn at(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        // Only to see that somebody is there. Entries are sent to the path:
        // that may be another socket after the journal's next start.
        UnixDatagram::unbound()?.connect(path)?;
        Ok(Self {
            socket,
            path: path.to_owned(),
        })
    }

    /// What can't be sent is lost: there is no other place to tell of it.
    fn send(&self, fields: &[(String, String)]) {
        let sent = self.socket.send_to(&entry(fields, usize::MAX), &self.path);
        if sent.is_err_and(|error| error.raw_os_error() == Some(libc::EMSGSIZE)) {
            let _ = self.socket.send_to(&entry(fields, EXCERPT), &self.path);
        }
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let metadata = event.metadata();
        let mut message = String::new();
        // A string takes whatever is written.
        let _ = DefaultFields::new().format_fields(Writer::new(&mut message), event);
        let mut fields = Fields(vec![
            ("MESSAGE".into(), message),
            ("PRIORITY".into(), priority(*metadata.level()).into()),
            ("SYSLOG_IDENTIFIER".into(), "xlb".into()),
            (
                "CODE_FILE".into(),
                metadata.file().unwrap_or_default().into(),
            ),
            (
                "CODE_LINE".into(),
                metadata.line().unwrap_or_default().to_string(),
            ),
        ]);
        event.record(&mut fields);
        self.send(&fields.0);
    }
}

/// Of syslog (RFC 5424, section 6.2.1). INFO is a notice there, for it is what
/// is worth a line without a `RUST_LOG` that asks for more.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "5",
        Level::DEBUG => "6",
        Level::TRACE => "7",
    }
}

/// Names and values, as the journal has them.
struct Fields(Vec<(String, String)>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() != "message" {
            let name = format!(
                "XLB_{}",
                field.name().to_ascii_uppercase().replace('.', "_")
            );
            self.0.push((name, value.to_owned()));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

/// Every value with its length (64 bits, little-endian), so that it may have
/// lines; of each at most so many bytes.
fn entry(fields: &[(String, String)], most: usize) -> Vec<u8> {
    let mut entry = Vec::new();
    for (name, value) in fields {
        let value = &value[..value.floor_char_boundary(most)];
        entry.extend_from_slice(name.as_bytes());
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
        entry.extend_from_slice(value.as_bytes());
        entry.push(b'\n');
    }
    entry
}

#[cfg(test)]
mod tests {
    use tracing::{info, warn};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// What the journal gets of what is logged.
    fn received(log: impl FnOnce()) -> Vec<(String, String)> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let socket = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::at(&path).unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(journal), log);
        let mut bytes = vec![0; 1 << 20];
        let length = socket.recv(&mut bytes).unwrap();
        parse(&bytes[..length])
    }

    fn parse(mut entry: &[u8]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        while !entry.is_empty() {
            let end = entry.iter().position(|&byte| byte == b'\n').unwrap();
            let (name, rest) = (&entry[..end], &entry[end + 1..]);
            let (length, rest) = rest.split_at(8);
            let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            fields.push((text(name), text(&rest[..length])));
            assert_eq!(rest[length], b'\n');
            entry = &rest[length + 1..];
        }
        fields
    }

    fn value<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
        let found = fields.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }

    #[test]
    fn an_entry_has_each_field_in_its_message_and_by_itself() {
        let fields = received(|| {
            warn!(target_group = "web", flows = 7, to = %"a\nb", "target health changed");
        });
        let message = value(&fields, "MESSAGE").unwrap();
        assert!(message.starts_with("target health changed target_group=\"web\" flows=7 to="));
        for (name, expected) in [
            ("PRIORITY", "4"),
            ("SYSLOG_IDENTIFIER", "xlb"),
            ("XLB_TARGET_GROUP", "web"),
            ("XLB_FLOWS", "7"),
            ("XLB_TO", "a\nb"),
        ] {
            assert_eq!(value(&fields, name), Some(expected), "{name}");
        }
        assert!(value(&fields, "CODE_FILE").unwrap().ends_with("journal.rs"));
        assert_eq!(value(&fields, "XLB_MESSAGE"), None);
    }

    #[test]
    fn of_what_is_too_large_there_is_an_excerpt() {
        let long = "ä".repeat(1 << 20);
        let fields = received(|| info!(error = long, short = "s", "failed"));
        assert!(value(&fields, "MESSAGE").unwrap().starts_with("failed "));
        let error = value(&fields, "XLB_ERROR").unwrap();
        assert!(long.starts_with(error) && error.len() == EXCERPT);
        assert_eq!(value(&fields, "XLB_SHORT"), Some("s"));
    }

    #[test]
    fn without_a_journal_there_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Journal::at(&directory.path().join("socket")).is_err());
    }
}
