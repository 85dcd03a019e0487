//! Configuration by flags: `xlb run --interface eth0 --listen :80 --target …`.
//!
//! The flags are written down as the TOML that they stand for, a line a flag,
//! and go the same way as a file: one validation for both. A message about a
//! line is then a message about its flag.

use std::fmt;

use super::{Diagnostics, Parsed, parse};

/// Flags as they were given.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    pub interfaces: Vec<String>,
    /// `:80`, `10.0.0.1:80`, `:53/udp`.
    pub listens: Vec<String>,
    pub targets: Vec<String>,
    /// `http`, `https` or `tcp`.
    pub health_protocol: Option<String>,
    pub health_port: Option<u16>,
    pub health_path: Option<String>,
    pub health_interval: Option<String>,
    pub health_timeout: Option<String>,
    pub healthy_threshold: Option<u32>,
    pub unhealthy_threshold: Option<u32>,
    pub health_body: Option<String>,
}

/// What is wrong with which flag.
#[derive(Clone, Debug)]
pub struct FlagsError(Vec<String>);

impl fmt::Display for FlagsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl std::error::Error for FlagsError {}

/// The configuration that the flags stand for.
///
/// # Errors
/// With everything that is wrong with them.
pub fn from_flags(flags: &Flags) -> Result<Parsed, FlagsError> {
    let written = Written::of(flags);
    parse(&written.text, "flags").map_err(|diagnostics| written.explain(&diagnostics))
}

/// TOML, and which flag each of its lines comes from.
#[derive(Default)]
struct Written {
    text: String,
    flags: Vec<String>,
}

impl Written {
    fn of(flags: &Flags) -> Self {
        let mut written = Self::default();
        written.line("interface = [", "--interface");
        for name in &flags.interfaces {
            written.line(
                &format!("{},", quoted(name)),
                &format!("--interface {name}"),
            );
        }
        written.line("]", "--interface");
        for listen in &flags.listens {
            let flag = format!("--listen {listen}");
            let (address, protocol) = listen.rsplit_once('/').unwrap_or((listen, "tcp"));
            written.line("[[listener]]", &flag);
            written.line(&format!("address = {}", quoted(address)), &flag);
            written.line(&format!("protocol = {}", quoted(protocol)), &flag);
            written.line("target_group = \"default\"", &flag);
        }
        written.line("[[target_group]]", "--target");
        written.line("name = \"default\"", "--target");
        written.line("targets = [", "--target");
        for target in &flags.targets {
            written.line(
                &format!("{},", quoted(target)),
                &format!("--target {target}"),
            );
        }
        written.line("]", "--target");
        written.health(flags);
        written
    }

    fn health(&mut self, flags: &Flags) {
        self.line("[target_group.health_check]", "--health-interval");
        let texts = [
            ("protocol", "--health-protocol", &flags.health_protocol),
            ("path", "--health-path", &flags.health_path),
            ("interval", "--health-interval", &flags.health_interval),
            ("timeout", "--health-timeout", &flags.health_timeout),
            ("body", "--health-body", &flags.health_body),
        ];
        for (key, flag, value) in texts {
            if let Some(value) = value {
                self.line(
                    &format!("{key} = {}", quoted(value)),
                    &format!("{flag} {value}"),
                );
            }
        }
        let numbers = [
            ("port", "--health-port", flags.health_port.map(u32::from)),
            (
                "healthy_threshold",
                "--healthy-threshold",
                flags.healthy_threshold,
            ),
            (
                "unhealthy_threshold",
                "--unhealthy-threshold",
                flags.unhealthy_threshold,
            ),
        ];
        for (key, flag, value) in numbers {
            if let Some(value) = value {
                self.line(&format!("{key} = {value}"), &format!("{flag} {value}"));
            }
        }
    }

    fn line(&mut self, toml: &str, flag: &str) {
        self.text.push_str(toml);
        self.text.push('\n');
        self.flags.push(flag.to_owned());
    }

    fn explain(&self, diagnostics: &Diagnostics) -> FlagsError {
        let explained = diagnostics.iter().map(|located| {
            let flag = self
                .flags
                .get(located.line - 1)
                .map_or("flags", String::as_str);
            let mut line = format!("error: {flag}: {}", located.diagnostic.message);
            if let Some(help) = &located.diagnostic.help {
                line += &format!("\n    help: {help}");
            }
            line
        });
        FlagsError(explained.collect())
    }
}

/// A TOML basic string on one line, whatever is in it: the line names the flag.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control.is_control() => {
                quoted.push_str(&format!("\\u{:04X}", u32::from(control)));
            }
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}
